"""Certificates and private keys in PEM, RFC 7468, before anything of them is read.

Pure; raises `CertificateError`.
"""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from certbot_postfix.errors import CertificateError

_BLOCK = re.compile(
    rb"-----BEGIN (CERTIFICATE|(?:[A-Z0-9]+ )*PRIVATE KEY)-----(.+?)-----END \1-----",
    re.DOTALL,
)
_PARAMETERS = re.compile(
    rb"-----BEGIN EC PARAMETERS-----.+?-----END EC PARAMETERS-----\s*", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Block:
    """A certificate or a private key in PEM, of which nothing is read yet."""

    label: str
    pem: bytes = field(repr=False)

    @property
    def public(self) -> bool:
        """Whether it is a certificate."""
        return self.label == "CERTIFICATE"

    def der(self) -> bytes:
        """Return what is encoded; raise `CertificateError` if it is not in base64."""
        inside = self.pem.split(b"-----")[2]
        try:
            return base64.b64decode(b"".join(inside.split()), validate=True)
        except ValueError as error:
            raise CertificateError(f"not a PEM certificate: {error}") from error


def blocks(text: bytes) -> Iterator[Block]:
    """Yield the certificates and private keys in *text*, in order."""
    for match in _BLOCK.finditer(text):
        yield Block(match[1].decode(), match[0])


def without_parameters(key: bytes) -> bytes:
    """Return *key* without the parameters that `openssl ecparam -genkey` writes.

    For Postfix, they are no part of a chain.
    """
    return _PARAMETERS.sub(b"", key)


def joined(key: bytes, fullchain: bytes) -> bytes:
    """Return the text of a bundle: the private key, then the chain."""
    return without_parameters(key).rstrip() + b"\n" + fullchain.strip() + b"\n"
