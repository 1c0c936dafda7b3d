"""The next key of a lineage: DNS announces it before certbot gets it.

It lies beside the bundles, and is read by nobody but us.  Raises `Error`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certbot import crypto_util, errors

from certbot_postfix.dane import places
from certbot_postfix.dane.history import Chain
from certbot_postfix.errors import Error, excerpt
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.system import files
from certbot_postfix.tls.certificates import public_half
from certbot_postfix.tls.pem import blocks

# A private key of 16384 bits has less.
_LARGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Kind:
    """A *type* of key in certbot's words, rsa or ecdsa, with its size or its curve."""

    type: str
    bits: int = 2048
    curve: str = "secp256r1"

    def make(self) -> bytes:
        """Return a new private key of this kind, in PEM, as certbot makes it."""
        about: dict[str, Any] = {"bits": self.bits, "key_type": self.type}
        if self.type == "ecdsa":
            about["elliptic_curve"] = self.curve
        try:
            return crypto_util.make_key(**about)
        except errors.Error as error:
            raise Error(
                f"no key of the type {excerpt(self.type)} can be made: {error}"
            ) from error


@dataclass(frozen=True, slots=True)
class NextKey:
    """The staged key in *path*: *pem* has the private key, *spki* the public one."""

    path: Path
    pem: bytes = field(repr=False)
    spki: bytes = field(repr=False)

    @property
    def record(self) -> Record:
        """The record that announces it."""
        return Record.of_key(self.spki)


def load(root: Path, name: str) -> NextKey | None:
    """Return the next key of the lineage *name*, None if none is staged."""
    path = places.next_key(root, name)
    if not path.exists():
        return None
    pem = files.read(path, most=_LARGEST)
    spki = public_half(pem)
    if not spki or any(block.public for block in blocks(pem)):
        raise Error(
            f"{path} is not a private key",
            hint=f"certbot-postfix tlsa abandon --cert-name {name} removes it",
        )
    return NextKey(path, pem, spki)


def stage(root: Path, name: str, kind: Kind) -> NextKey:
    """Return the next key of the lineage *name*; make one if none is staged."""
    if known := load(root, name):
        return known
    path, pem = places.next_key(root, name), kind.make()
    files.make_directory(root)
    files.replace(path, pem, mode=0o600)
    return NextKey(path, pem, public_half(pem))


def chain(served: Chain, key: NextKey | None) -> Chain:
    """Return the chain that will be *served* with *key*; the same if there is none."""
    if key is None or key.spki == served[0].spki:
        return served
    return (served[0].with_key(key.spki), *served[1:])


def abandon(root: Path, name: str) -> None:
    """Remove the next key of the lineage *name*, if one is staged."""
    files.remove(places.next_key(root, name))
