"""Atomic replacement of files, the only way in which this package writes live ones.

A reader sees the old file or the new one, whole.  Failures are `errors.Error` and leave
the old file as it was.  Plain ``os`` and ``pathlib`` are right here, although certbot
has wrappers for Windows: Postfix runs on Unix only.
"""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from certbot_postfix.errors import Error

# Postfix reads a main.cf or texthash table that is younger than this again and again
# until it has aged, lest it sees half of an edit (measured with 3.7: up to 2.4 s for a
# file that is 0 s old, 0.9 s at 1 s, nothing at 2 s).  A renamed file is never half an
# edit.
COOL = 3.0

# Fixed names: what a killed run left is found, and removed, by the next one.
NEW = ".certbot-new"
OLD = ".certbot-old"


# chattr(1): root gets EPERM of what is immutable; rename(2): EBUSY of a mount point,
# such as a file that a container has mounted.
_HINTS = {
    errno.EPERM: "see lsattr {0}: chattr -i makes what is immutable writable again",
    errno.EBUSY: "findmnt {0}: mount its directory, since a mount cannot be replaced",
    errno.EROFS: "findmnt -T {0}: the file system is mounted read-only",
}


@contextlib.contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` into an `Error` that says what could not be done to *path*."""
    try:
        yield
    except OSError as error:
        raise Error(
            f"could not {action} {path}: {error.strerror or error}",
            hint=_HINTS.get(error.errno or 0, "").format(path),
        ) from error


def read(path: Path) -> bytes:
    """Return the content of *path*."""
    with explained("read", path):
        return path.read_bytes()


def temporary(path: Path) -> Path:
    """Return the name under which a new *path* is written, before it is renamed."""
    return path.with_name(f".{path.name}{NEW}")


def previous(path: Path) -> Path:
    """Return the name under which an old *path* is kept until a new one is proven."""
    return path.with_name(f".{path.name}{OLD}")


def leftovers(path: Path) -> list[Path]:
    """Return what a killed run may have left of *path*."""
    return [each for each in (temporary(path), previous(path)) if each.exists()]


def remove_all(directory: Path, suffix: str) -> None:
    """Remove what killed runs left in *directory* with our *suffix*."""
    remove(*directory.glob(f".*{suffix}"))


def replace(path: Path, content: bytes, *, mode: int, cool: bool = False) -> None:
    """Make *path* a file with *content* and *mode*, owned by the caller.

    With *cool*, its modification time is such that Postfix reads it without waiting.
    """
    with explained("write", path), _new(path, content, mode) as new:
        if cool:
            _age(new, path.stat().st_mtime if path.exists() else 0)
        new.replace(path)


def rewrite(path: Path, content: bytes) -> None:
    """Give *path* a new *content*; owner, mode and extended attributes stay.

    The modification time is set back just as far as Postfix needs to read the file
    without waiting, but it always becomes later than it was.
    """
    with explained("write", path), _new(path, content, 0o600) as new:
        old = path.stat()
        shutil.copystat(path, new)
        os.chown(new, old.st_uid, old.st_gid)
        new.chmod(old.st_mode & 0o7777)
        _age(new, old.st_mtime)
        new.replace(path)


def restore(path: Path, saved: Path) -> None:
    """Make *path* again what it was when it was copied to *saved*.

    Content, mode and times come from the copy, the owner (which certbot's copy does not
    carry) from *path* as it is now.  A file that is still the same is left alone, so
    that this succeeds on a full disk if nothing had changed.
    """
    with explained("restore", path):
        content, old = saved.read_bytes(), saved.stat()
        there = path.exists()
        owner = path.stat() if there else old
        if there and owner.st_mode == old.st_mode and path.read_bytes() == content:
            return
        with _new(path, content, 0o600) as new:
            shutil.copystat(saved, new)
            os.chown(new, owner.st_uid, owner.st_gid)
            new.chmod(old.st_mode & 0o7777)
            new.replace(path)


def keep(path: Path) -> None:
    """Keep the file that *path* is now; a hard link takes no space on a full disk."""
    with explained("keep a copy of", path):
        previous(path).unlink(missing_ok=True)
        os.link(path, previous(path))


def bring_back(path: Path) -> None:
    """Make *path* the file again that `keep` kept."""
    with explained("restore", path):
        # rename(2) does nothing when both names are links to one file.
        previous(path).replace(path)
        previous(path).unlink(missing_ok=True)


def remove(*paths: Path) -> None:
    """Remove those of *paths* that exist."""
    for path in paths:
        # A read-only file system refuses to remove even what is not there.
        if os.path.lexists(path):
            with explained("remove", path):
                path.unlink(missing_ok=True)


def _age(new: Path, old: float) -> None:
    """Set the time of *new* back, but to one later than that of the *old* file."""
    cool = time.time() - COOL
    stamp = cool if cool > old else max(time.time(), old + 1)
    os.utime(new, (stamp, stamp))


@contextlib.contextmanager
def _new(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    new = temporary(path)
    try:
        new.unlink(missing_ok=True)
        # O_EXCL: no file of others is written; the mode holds from the first byte.
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(content)
            file.flush()
            os.fsync(fd)
        yield new
    finally:
        new.unlink(missing_ok=True)
