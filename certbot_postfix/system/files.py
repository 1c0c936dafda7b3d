"""Reading and atomic replacement of files, the only way in which this package does it.

A file is read only if it is a regular one, and never waited for: it may belong to
others, who can put a FIFO or a device in its place.  What is written appears whole: a
reader sees the old file or the new one.  Failures are `errors.Error` and leave the old
file as it was.

Plain ``os`` and ``pathlib`` are right here, although certbot has wrappers for Windows:
Postfix runs on Unix only.
"""

import contextlib
import errno
import glob
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from certbot_postfix.errors import Error
from certbot_postfix.system.new_file import (
    LARGEST,
    copy,
    free_name,
    new_file,
    rename,
    staging_name,
    sync,
    too_long,
)

# What a killed run left is found by its name, and removed, by the next one.
OLD = ".certbot-old"

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
            hint=_hint(error.errno or 0).format(path),
        ) from error


def _hint(number: int) -> str:
    if number == errno.EACCES and os.geteuid() != 0:
        return "run this command as root, for example with sudo"
    return _HINTS.get(number, "")


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
            raise too_long(most)
        yield file


def read(path: Path, *, most: int = LARGEST) -> bytes:
    """Return the content of *path*, a regular file of so many bytes at *most*."""
    with explained("read", path), opened(path, most=most) as file:
        # A file of the kernel may have more than its size says, and be without end.
        content = file.read(os.fstat(file.fileno()).st_size + _MORE) or b""
        if len(content) > most:
            raise too_long(most)
        return content


def _refuse_special(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


def is_special(path: Path) -> bool:
    """Whether *path* is there, but no regular file: a program may wait for it."""
    return path.exists() and not path.is_file()


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
    paths = [*directory.glob(f".*{suffix}"), *directory.glob(f".*{suffix}.*")]
    remove(*filter(_is_regular, paths))


def _others(usual: Path) -> list[Path]:
    """Return the files that have another name because the *usual* one was taken."""
    paths = usual.parent.glob(f"{glob.escape(usual.name)}.*")
    return sorted(filter(_is_regular, paths))


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def replace(path: Path, content: bytes, *, mode: int, cool: bool = False) -> None:
    """Make *path* a file with *content* and *mode*, owned by the caller.

    With *cool*, its modification time is such that Postfix reads it without waiting.
    """
    with explained("write", path), new_file(path, mode) as new:
        new.write(content)
        if cool:
            new.age(path.stat().st_mtime if path.exists() else 0)
        new.put(path)


def rewrite(path: Path, content: bytes) -> None:
    """Give *path* a new *content*; owner, mode and extended attributes stay.

    The modification time is set back just as far as Postfix needs to read the file
    without waiting, but it always becomes later than it was.
    """
    with explained("write", path), opened(path) as old, new_file(path) as new:
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
        with new_file(path) as new:
            new.file.write(content)
            new.resemble(old, owner)
            new.put(path)


def back_up(path: Path) -> None:
    """Keep the file that *path* is now; a hard link takes no space on a full disk.

    Where the file system has none, it is a copy.
    """
    with explained("keep a copy of", path):
        remove(*_others(backup_name(path)))
        place = free_name(backup_name(path))
        try:
            os.link(path, place)
        except FileNotFoundError:
            raise
        except OSError:
            # Not on every file system, and not more often than it can count: link(2).
            if not (place.exists() and path.samefile(place)):
                with opened(path) as old:
                    copy(old, path, place)
        sync(path.parent)


def restore_backup(path: Path) -> None:
    """Make *path* the file again that `back_up` kept."""
    with explained("restore", path):
        old = backup_of(path) or backup_name(path)
        rename(old, path, old.lstat())
        # rename(2) does nothing when both names are links to one file.
        old.unlink(missing_ok=True)
        sync(path.parent)


def discard_backup(path: Path) -> None:
    """Remove the file that `back_up` kept of *path*, if there is one."""
    old = backup_name(path)
    remove(*filter(_is_regular, [old]), *_others(old))


def put(new: Path, path: Path) -> None:
    """Make *new*, which nobody else can change, the file *path*."""
    with explained("write", path), opened(new) as file:
        os.fsync(file.fileno())
        try:
            rename(new, path, os.fstat(file.fileno()))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copy(file, path, path)
        sync(path.parent)


def hide(path: Path) -> None:
    """Let only its owner read *path*, if that is a regular file."""
    if _is_regular(path):
        with explained("make private", path):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                os.fchmod(fd, 0o600)
            finally:
                os.close(fd)


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Make the directory *path*, for the caller alone, if it is not there.

    Or with another *mode*, whatever the umask is.
    """
    with explained("create", path):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)
            _open_to(path, mode)
            sync(path.parent)


def _open_to(directory: Path, mode: int) -> None:
    """Give *directory* this *mode*, unless somebody has put a link in its place."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def remove(*paths: Path) -> None:
    """Remove those of *paths* that exist."""
    for path in paths:
        # A read-only file system refuses to remove even what is not there.
        if os.path.lexists(path):
            with explained("remove", path):
                path.unlink(missing_ok=True)
