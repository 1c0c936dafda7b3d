"""TXT records, and texts in other records: RFC 1035, 3.3 and 5.1.

Pure.
"""

from typing import Any

# Octets of a character string.
_LONGEST = 255


def quoted(text: str) -> str:
    """Return printable ASCII *text* as a zone file has it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def joined(data: str) -> str:
    """Return the text in the *data* of a TXT record, as one string: RFC 8461, 3.1."""
    import dns.rdata  # noqa: PLC0415 - certbot loads us on every run

    rdata: Any = dns.rdata.from_text("IN", "TXT", data)
    return b"".join(rdata.strings).decode("ascii", "replace")


def strings(text: str) -> str:
    """Return the data of a TXT record with *text*, in as many strings as it takes."""
    pieces = [text[at : at + _LONGEST] for at in range(0, len(text), _LONGEST)]
    return " ".join(map(quoted, pieces or [""]))
