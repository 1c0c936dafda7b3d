"""Where a directory is, whose it is, and who else can change what is in it."""

import contextlib
import os
import stat
from pathlib import Path


def real(path: Path) -> Path:
    """Return *path* behind all symbolic links; a loop of them is left as it is.

    `Path.resolve` raises RuntimeError for a loop before Python 3.13.
    """
    return Path(os.path.realpath(path))


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
    with contextlib.suppress(OSError):
        fd = os.open(directory, flags)
        try:
            if os.fstat(fd).st_uid != os.geteuid():
                return False
            if os.fstat(fd).st_mode & 0o077:
                os.fchmod(fd, 0o700)
            return True
        finally:
            os.close(fd)
    return False


def is_guarded(directory: Path) -> bool:
    """Whether others can neither rename what is in *directory*, nor *directory*."""
    try:
        behind = real(directory)
        statuses = [path.lstat() for path in (behind, *behind.parents)]
    except OSError:
        return False
    return all(
        status.st_uid in (0, os.geteuid())
        and (not status.st_mode & 0o022 or status.st_mode & stat.S_ISVTX)
        for status in statuses
    )
