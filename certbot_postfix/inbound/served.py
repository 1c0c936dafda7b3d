"""Files that Postfix reads, and the leaf certificates in them.

A file may belong to the administrator, and may be anything: one that cannot be read is
a warning, and stops no renewal.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from certbot_postfix.errors import CertificateError, Error, named_logger
from certbot_postfix.system import files
from certbot_postfix.tls.certificates import Certificate

logger = named_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServedFile:
    """A file that Postfix reads, and the leaf certificate in it.

    *chain* is all that it had when it was read, the leaf first; () if it was not.
    """

    path: Path
    leaf: Certificate
    chain: tuple[Certificate, ...] = field(default=(), compare=False, repr=False)


def read(paths: Iterable[Path]) -> tuple[ServedFile, ...]:
    """Return those *paths* that exist and have a certificate."""
    chains = ((path, tuple(certificates_in(path))) for path in paths)
    return tuple(ServedFile(path, chain[0], chain) for path, chain in chains if chain)


def leaf_in(path: Path) -> Certificate | None:
    """Return the leaf certificate in *path*, if there is one."""
    return next(iter(certificates_in(path)), None)


def certificates_in(path: Path) -> list[Certificate]:
    """Return the certificates in *path*, none if there are none."""
    try:
        return Certificate.all_from_pem(content(path))
    except CertificateError:
        return []


def private_keys(path: Path) -> int:
    """Return how many private keys there are in *path*; two if it cannot be read."""
    try:
        return files.read(path).count(b"PRIVATE KEY-----") // 2
    except Error:
        return 2


def content(path: Path) -> bytes:
    """Return what is in *path*, nothing if that cannot be read, which is a warning."""
    try:
        # Path.exists() raises OSError, of a name that is too long, for example.
        return files.read(path) if os.path.exists(path) else b""  # noqa: PTH110
    except Error as error:
        warn_once(f"{error.message}; any certificate in it is ignored")
        return b""


@lru_cache
def warn_once(message: str) -> None:
    """Log a warning, once in a run: the same file is read for several use cases."""
    logger.warning("%s", message)
