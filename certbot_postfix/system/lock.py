"""One at a time: the lock of certbot's installers, on Postfix's configuration.

certbot runs deploy hooks while its installer holds that lock, and does nothing until
they end: a hook may work under it.  From whom it is can be known on Linux only, by
proc(5); elsewhere a hook waits in vain.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from certbot import errors, util

from certbot_postfix.errors import BusyError, Error, named_logger
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.system.directories import real
from certbot_postfix.system.listeners import open_files

logger = named_logger(__name__)

# certbot's name for the file that it locks.
_NAME = ".certbot.lock"

# How many words of another command a message has.
_WORDS = 6

# Seconds to wait for another one that works on the same files, and between attempts.
PATIENCE = 120
PAUSE = 0.2

# Until when this process waits for a directory: certbot prepares the installer anew
# for each lineage, and a lock that is stuck is not to be waited for each time.
_deadlines: dict[Path, Deadline] = {}


def take(directory: Path, *, wait: float = 0) -> bool:
    """Lock *directory* until this process ends, or be under the lock of an ancestor.

    Wait for any other process for *wait* seconds, in all calls for that directory; then
    raise `Error`.  Returns whether the lock is an ancestor's.
    """
    deadline, holder = _deadlines.setdefault(directory, Deadline(wait)), ""
    _refuse_special(directory / _NAME)
    while True:
        try:
            util.lock_dir_until_exit(str(directory))
        except errors.LockError as error:
            if wait and held_by_ancestor(directory):
                return True
            holder = holder or _report(directory, error)
            if not deadline.left:
                raise Error(
                    f"could not lock {directory}: {holder}",
                    hint="wait until it has ended, and run the same command again",
                ) from error
            time.sleep(PAUSE)
        except OSError as error:
            if error.errno == errno.EROFS:
                return False  # nobody can change anything; a bundle is elsewhere
            raise Error(
                f"could not lock {directory}: {error.strerror}",
                hint="see that it exists, and is Postfix's configuration directory",
            ) from error
        else:
            return False


@contextlib.contextmanager
def alone(directory: Path, *, wait: float) -> Iterator[None]:
    """Keep other processes that call this out of *directory*, which is ours.

    Wait for one that is in it for *wait* seconds; then raise `BusyError`.
    """
    deadline = Deadline(wait)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while not _locked(fd):
            if not deadline.left:
                raise BusyError(
                    f"another process works in {directory}",
                    hint="wait until it has ended, and run the same command again",
                )
            time.sleep(PAUSE)
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # flock(2): over NFS, nothing is locked that is not open for writing.
        logger.debug("there are no locks: %s", error)
    return True


def _refuse_special(path: Path) -> None:
    """Raise `Error` if *path* is there and no file: certbot would wait for a FIFO."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise Error(
            f"could not lock {path.parent}: {path} is not a regular file",
            hint=f"remove {path}",
        )


def _report(directory: Path, error: errors.LockError) -> str:
    """Say in the log why *directory* cannot be locked, and return it."""
    holder = _holder(directory) or str(error)
    logger.info("%s is locked: %s", directory, holder)
    return holder


def _holder(directory: Path) -> str:
    """Return which process has the lock, "" if that cannot be known."""
    lock = str(real(directory) / _NAME)
    for process in Path("/proc").glob("[0-9]*"):
        number = int(process.name)
        if number != os.getpid() and lock in open_files(number):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                command = b" ".join(words[:_WORDS]).decode(errors="replace")
                return f"process {number} has the lock ({command.strip()})"
    return ""


def held_by_ancestor(directory: Path) -> bool:
    """Whether an ancestor of this process, which waits, has locked *directory*."""
    lock, process = str(real(directory) / _NAME), os.getppid()
    while process > 1:
        if lock in open_files(process):
            return True
        process = _parent(process)
    return False


def _parent(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text(errors="replace")
    except OSError:
        return 0
    match = re.search(r"^PPid:\s*(\d+)$", status, re.MULTILINE)
    return int(match[1]) if match else 0
