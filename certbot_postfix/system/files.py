"""Reading and atomic replacement of files, the only way in which this package does it.

A file is read only if it is a regular one, and never waited for: it may belong to
others, who can put a FIFO or a device in its place.  What is written appears whole: a
reader sees the old file or the new one.  Who else may write in the directory can hinder
that, but not have another file changed: all that a new file gets, it gets by its
descriptor.  Failures are `errors.Error` and leave the old file as it was.

Plain ``os`` and ``pathlib`` are right here, although certbot has wrappers for Windows:
Postfix runs on Unix only.
"""

import contextlib
import errno
import glob
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from certbot_postfix.errors import Error

# Postfix reads a main.cf or texthash table that is younger than this again and again
# until it has aged, lest it sees half of an edit (measured with 3.7: up to 2.4 s for a
# file that is 0 s old, 0.9 s at 1 s, nothing at 2 s).  A renamed file is never half an
# edit.
COOL = 3.0

# What a killed run left is found by its name, and removed, by the next one.
NEW = ".certbot-new"
OLD = ".certbot-old"

# In bytes: a table with policies of a million domains is smaller.
LARGEST = 256 * 1024 * 1024

_MORE = 64 * 1024

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


@contextlib.contextmanager
def opened(path: Path, *, most: int | None = None) -> Iterator[BinaryIO]:
    """Yield *path*, opened for reading; raise `OSError` unless it is a regular file.

    With *most*, it must not have more bytes.
    """
    _refuse_special(path.stat())  # to open a device may do something
    # Without O_NONBLOCK, a FIFO that was put there meanwhile waits for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        _refuse_special(os.fstat(fd))
        if most is not None and os.fstat(fd).st_size > most:
            raise _too_long(most)
        yield file


def read(path: Path, *, most: int = LARGEST) -> bytes:
    """Return the content of *path*, a regular file of so many bytes at *most*."""
    with explained("read", path), opened(path, most=most) as file:
        # A file of the kernel may have more than its size says, and be without end.
        found = file.read(os.fstat(file.fileno()).st_size + _MORE) or b""
        if len(found) > most:
            raise _too_long(most)
        return found


def _too_long(most: int) -> OSError:
    return OSError(errno.EFBIG, f"it is longer than {most:,} bytes")


def _refuse_special(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


def is_special(path: Path) -> bool:
    """Whether *path* is there, but no regular file: a program may wait for it."""
    return path.exists() and not path.is_file()


def staging_name(path: Path) -> Path:
    """Return the usual name under which a new *path* is written, to be renamed."""
    return path.with_name(f".{path.name}{NEW}")


def backup_name(path: Path) -> Path:
    """Return the usual name under which an old *path* is kept until one is verified."""
    return path.with_name(f".{path.name}{OLD}")


def backup_of(path: Path) -> Path | None:
    """Return the old file that is kept of *path*, if one is."""
    usual = backup_name(path)
    if _is_regular(usual):
        return usual
    # The usual name was taken, if something else has it.
    return max(_others(usual), default=None) if os.path.lexists(usual) else None


def unfinished(path: Path) -> list[Path]:
    """Return what a killed run may have left of a new *path*."""
    return [*filter(_is_regular, [staging_name(path)]), *_others(staging_name(path))]


def leftovers(path: Path) -> list[Path]:
    """Return what a killed run may have left of *path*, new and old."""
    old = backup_name(path)
    return [*unfinished(path), *filter(_is_regular, [old]), *_others(old)]


def remove_all(directory: Path, suffix: str) -> None:
    """Remove what killed runs left in *directory* with our *suffix*."""
    found = [*directory.glob(f".*{suffix}"), *directory.glob(f".*{suffix}.*")]
    remove(*filter(_is_regular, found))


def _others(usual: Path) -> list[Path]:
    """Return the files that have another name because the *usual* one was taken."""
    found = usual.parent.glob(f"{glob.escape(usual.name)}.*")
    return sorted(filter(_is_regular, found))


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _free(usual: Path) -> Path:
    """Return the *usual* name, or another if what has it cannot be removed.

    A directory stays: it is not ours.
    """
    with contextlib.suppress(OSError):
        usual.unlink()
    if not os.path.lexists(usual):
        return usual
    return usual.with_name(f"{usual.name}.{secrets.token_hex(4)}")


def replace(path: Path, content: bytes, *, mode: int, cool: bool = False) -> None:
    """Make *path* a file with *content* and *mode*, owned by the caller.

    With *cool*, its modification time is such that Postfix reads it without waiting.
    """
    with explained("write", path), _new(path, mode) as new:
        new.write(content)
        if cool:
            new.age(path.stat().st_mtime if path.exists() else 0)
        new.put(path)


def rewrite(path: Path, content: bytes) -> None:
    """Give *path* a new *content*; owner, mode and extended attributes stay.

    The modification time is set back just as far as Postfix needs to read the file
    without waiting, but it always becomes later than it was.
    """
    with explained("write", path), opened(path) as old, _new(path) as new:
        new.write(content)
        new.resemble(old)
        new.age(os.fstat(old.fileno()).st_mtime)
        new.put(path)


def restore(path: Path, saved: Path) -> None:
    """Make *path* again what it was when it was copied to *saved*.

    Content, mode and times come from the copy, the owner (which certbot's copy does not
    carry) from *path* as it is now.  A file that is still the same is left alone, so
    that this succeeds on a full disk if nothing had changed.
    """
    with explained("restore", path), opened(saved) as old:
        content = old.read()
        owner, now = os.fstat(old.fileno()), None
        with contextlib.suppress(OSError), opened(path) as there:
            same_mode = os.fstat(there.fileno()).st_mode == owner.st_mode
            owner, now = os.fstat(there.fileno()), there.read()
            if same_mode and now == content:
                return
        with _new(path) as new:
            new.file.write(content)
            new.resemble(old, owner)
            new.put(path)


def back_up(path: Path) -> None:
    """Keep the file that *path* is now; a hard link takes no space on a full disk.

    Where the file system has none, it is a copy.
    """
    with explained("keep a copy of", path):
        remove(*_others(backup_name(path)))
        place = _free(backup_name(path))
        try:
            os.link(path, place)
        except FileNotFoundError:
            raise
        except OSError:
            # Not on every file system, and not more often than it can count: link(2).
            if not (place.exists() and path.samefile(place)):
                with opened(path) as old:
                    _copy(old, path, place)
        _sync(path.parent)


def restore_backup(path: Path) -> None:
    """Make *path* the file again that `back_up` kept."""
    with explained("restore", path):
        old = backup_of(path) or backup_name(path)
        _rename(old, path, old.lstat())
        # rename(2) does nothing when both names are links to one file.
        old.unlink(missing_ok=True)
        _sync(path.parent)


def discard_backup(path: Path) -> None:
    """Remove the file that `back_up` kept of *path*, if there is one."""
    old = backup_name(path)
    remove(*filter(_is_regular, [old]), *_others(old))


def put(new: Path, path: Path) -> None:
    """Make *new*, which nobody else can change, the file *path*."""
    with explained("write", path), opened(new) as file:
        os.fsync(file.fileno())
        try:
            _rename(new, path, os.fstat(file.fileno()))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(file, path, path)
        _sync(path.parent)


def hide(path: Path) -> None:
    """Let only its owner read *path*, if that is a regular file."""
    if _is_regular(path):
        with explained("make private", path):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                os.fchmod(fd, 0o600)
            finally:
                os.close(fd)


def make_directory(path: Path) -> None:
    """Make the directory *path*, for the caller alone, if it is not there."""
    with explained("create", path):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)
            _sync(path.parent)


def remove(*paths: Path) -> None:
    """Remove those of *paths* that exist."""
    for path in paths:
        # A read-only file system refuses to remove even what is not there.
        if os.path.lexists(path):
            with explained("remove", path):
                path.unlink(missing_ok=True)


def is_ours(directory: Path) -> bool:
    """Whether *directory* is one that only the caller can enter."""
    try:
        status = directory.lstat()
    except OSError:
        return False
    private = status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return stat.S_ISDIR(status.st_mode) and private


def own(directory: Path) -> bool:
    """Let only the caller enter *directory*, if it is his; return whether it is."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(directory, flags)
    except OSError:
        return False
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            return False
        if os.fstat(fd).st_mode & 0o077:
            os.fchmod(fd, 0o700)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def is_guarded(directory: Path) -> bool:
    """Whether others can neither rename what is in *directory*, nor *directory*."""
    try:
        real = directory.resolve()
        found = [each.lstat() for each in (real, *real.parents)]
    except OSError:
        return False
    return all(
        status.st_uid in (0, os.geteuid())
        and (not status.st_mode & 0o022 or status.st_mode & stat.S_ISVTX)
        for status in found
    )


@dataclass(frozen=True, slots=True)
class _New:
    """A *file* that is written under its *name*, a path, and renamed when it is done.

    *directory* is open.
    """

    directory: int
    name: str
    file: BinaryIO

    def write(self, content: bytes) -> None:
        """Write *content*, unless it is too long to be read again."""
        if len(content) > LARGEST:
            raise _too_long(LARGEST)
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
        _rename(self.name, path.name, known, self.directory)
        with contextlib.suppress(OSError):
            os.fsync(self.directory)

    def remove(self) -> None:
        """Remove it, if it was not renamed."""
        with contextlib.suppress(OSError):
            if _is_at(self.name, os.fstat(self.file.fileno()), self.directory):
                os.unlink(self.name, dir_fd=self.directory)


@contextlib.contextmanager
def _new(path: Path, mode: int = 0o600) -> Iterator[_New]:
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name = _free(staging_name(path))
        # O_EXCL: no file of others is written; the mode holds from the first byte.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600), "wb") as file:
            new = _New(directory, name.name, file)
            try:
                os.fchmod(file.fileno(), mode)
                yield new
            finally:
                new.remove()
    finally:
        os.close(directory)


def _copy(old: BinaryIO, path: Path, place: Path) -> None:
    """Make *place*, in the directory of *path*, a file that resembles *old*."""
    with _new(path) as new:
        shutil.copyfileobj(old, new.file)
        new.resemble(old)
        new.put(place)


def _rename(
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
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, known)


def _sync(directory: Path) -> None:
    """Let what was renamed in *directory* outlive a crash, before what follows.

    Not every file system can; what is renamed is in place in any case.
    """
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
