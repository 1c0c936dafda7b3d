"""Where senders report failures of TLS to: the TXT record of ``_smtp._tls``, RFC 8460.

Pure; raises `errors.Error`.
"""

import re
from collections.abc import Iterable, Sequence

from certbot_postfix.errors import Error, excerpt

VERSION = "TLSRPTv1"

# Section 3: an URI without the characters that end it; mailto and https are known.
_URI = re.compile(r"(?:mailto:[^@]+@[^@]+|https://[^/@]+(?:/.*)?)", re.IGNORECASE)
_PLAIN = re.compile(r"""[!-~]{1,1000}""")
_FIELD = re.compile(r"rua[ \t]*=[ \t]*(.+)")


def uri(text: str) -> str:
    """Return the address *text* for reports, mailto: before one of mail.

    Raises `Error` if senders would not understand it.
    """
    address = text if ":" in text else f"mailto:{text}"
    plain = _PLAIN.fullmatch(address) and not set('!,;"\\') & set(address)
    if not plain or not _URI.fullmatch(address):
        raise Error(
            f"{excerpt(text)} is not an address for reports: mailto:... or https://...,"
            " without ! , ; and quotes"
        )
    return address


def record(addresses: Sequence[str]) -> str:
    """Return the text of the record that asks for reports to *addresses*."""
    return f"v={VERSION}; rua={','.join(addresses)}"


def relevant(records: Iterable[str]) -> list[str]:
    """Return which of the TXT *records* count: section 3, there must be one."""
    return [
        record for record in records if re.match(rf"v={VERSION}[ \t]*(?:;|$)", record)
    ]


def addresses(text: str) -> list[str]:
    """Return where the record *text* wants reports; nothing if it is not valid."""
    if not (text.isascii() and text.isprintable()):
        return []
    fields = [field.strip(" \t") for field in text.split(";")][1:]
    values = [match[1] for field in fields if (match := _FIELD.fullmatch(field))]
    every = [part.strip(" \t") for part in values[0].split(",")] if values else []
    return every if all(map(_URI.fullmatch, every)) else []
