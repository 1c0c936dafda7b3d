"""A file that is written under another name, and renamed when it is done.

Who else may write in the directory can hinder that, but not have another file changed:
all that a new file gets, it gets by its descriptor.  Raises `OSError`.
"""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# Postfix reads a main.cf or texthash table that is younger than this again and again
# until it has aged, lest it sees half of an edit (measured with 3.7: up to 2.4 s for a
# file that is 0 s old, 0.9 s at 1 s, nothing at 2 s).  A renamed file is never half an
# edit.
COOL = 3.0

# What a killed run left is found by its name, and removed, by the next one.
NEW = ".certbot-new"

# In bytes: a table with policies of a million domains is smaller.
LARGEST = 256 * 1024 * 1024


def too_long(most: int) -> OSError:
    """Return the error that a file has more than *most* bytes."""
    return OSError(errno.EFBIG, f"it is longer than {most:,} bytes")


def staging_name(path: Path) -> Path:
    """Return the usual name under which a new *path* is written, to be renamed."""
    return path.with_name(f".{path.name}{NEW}")


def free_name(usual: Path) -> Path:
    """Return the *usual* name, or another if what has it cannot be removed.

    A directory stays: it is not ours.
    """
    with contextlib.suppress(OSError):
        usual.unlink()
    if not os.path.lexists(usual):
        return usual
    return usual.with_name(f"{usual.name}.{secrets.token_hex(4)}")


@dataclass(frozen=True, slots=True)
class NewFile:
    """A *file* that is written under its *name*, a path, and renamed when it is done.

    *directory* is open.
    """

    directory: int
    name: str
    file: BinaryIO

    def write(self, content: bytes) -> None:
        """Write *content*, unless it is too long to be read again."""
        if len(content) > LARGEST:
            raise too_long(LARGEST)
        self.file.write(content)

    def age(self, old: float) -> None:
        """Set its time back, but to one later than that of the *old* file."""
        self.file.flush()
        cool = time.time() - COOL
        stamp = cool if cool > old else max(time.time(), old + 1)
        os.utime(self.file.fileno(), (stamp, stamp))

    def resemble(self, old: BinaryIO, owner: os.stat_result | None = None) -> None:
        """Take owner, mode, times and extended attributes of *old*."""
        self.file.flush()
        there, here, status = old.fileno(), self.file.fileno(), os.fstat(old.fileno())
        owner = owner or status
        with contextlib.suppress(OSError):  # the file system has none
            for name in os.listxattr(there):
                with contextlib.suppress(OSError):  # it may keep this one for itself
                    os.setxattr(here, name, os.getxattr(there, name))
        os.fchown(here, owner.st_uid, owner.st_gid)
        os.fchmod(here, status.st_mode & 0o7777)
        os.utime(here, ns=(status.st_atime_ns, status.st_mtime_ns))

    def put(self, path: Path) -> None:
        """Rename it to *path*, in its directory."""
        self.file.flush()
        os.fsync(self.file.fileno())
        known = os.fstat(self.file.fileno())
        rename(self.name, path.name, known, self.directory)
        with contextlib.suppress(OSError):
            os.fsync(self.directory)

    def remove(self) -> None:
        """Remove it, if it was not renamed."""
        with contextlib.suppress(OSError):
            if _is_at(self.name, os.fstat(self.file.fileno()), self.directory):
                os.unlink(self.name, dir_fd=self.directory)


@contextlib.contextmanager
def new_file(path: Path, mode: int = 0o600) -> Iterator[NewFile]:
    """Yield a file with *mode* that may become *path*; it is removed if it does not."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name = free_name(staging_name(path))
        # O_EXCL: no file of others is written; the mode holds from the first byte.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600), "wb") as file:
            new = NewFile(directory, name.name, file)
            try:
                os.fchmod(file.fileno(), mode)
                yield new
            finally:
                new.remove()
    finally:
        os.close(directory)


def copy(old: BinaryIO, path: Path, place: Path) -> None:
    """Make *place*, in the directory of *path*, a file that resembles *old*."""
    with new_file(path) as new:
        shutil.copyfileobj(old, new.file)
        new.resemble(old)
        new.put(place)


def rename(
    old: str | Path,
    new: str | Path,
    known: os.stat_result,
    directory: int | None = None,
) -> None:
    """Rename the file that is *known*, and no other that has its name meanwhile.

    Names are relative to *directory*, if it is given.  Raises `OSError`.
    """
    if not _is_at(old, known, directory):
        raise OSError(errno.ESTALE, "somebody else has changed it while it was written")
    try:
        os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        # Over NFS, a rename that was done is reported as failed if the answer was lost.
        if not _is_at(new, known, directory):
            raise


def _is_at(name: str | Path, known: os.stat_result, directory: int | None) -> bool:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(status, known)


def sync(directory: Path) -> None:
    """Let what was renamed in *directory* outlive a crash, before what follows.

    Not every file system can; what is renamed is in place in any case.
    """
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
