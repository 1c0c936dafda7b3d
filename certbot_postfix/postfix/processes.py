"""The processes of a running instance, as its master.pid and proc(5) have them."""

import os
from contextlib import suppress
from pathlib import Path

from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.system import files

# Bytes of a number of a process, and more.
_LONGEST = 64


def master(configuration: Configuration) -> int | None:
    """Return the process that master.pid names, None if that is not known."""
    try:
        return _in_file(configuration)
    except (OSError, ValueError):
        return None


def running(configuration: Configuration) -> bool | None:
    """Whether the master process runs, None if this user cannot know.

    postfix(1) would say so to root alone.
    """
    try:
        process = _in_file(configuration)
        with suppress(PermissionError):  # it exists, and is another user's
            os.kill(process, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except (OSError, ValueError):
        return None
    try:
        status = Path("/proc", str(process), "stat").read_text()
    except OSError:  # not Linux
        return True
    # proc(5): number, (program), state, ...; Z and X are dead
    name, _, state = status.partition("(")[2].rpartition(")")
    return name == "master" and state.split()[0] not in "ZX"


def _in_file(configuration: Configuration) -> int:
    path = Path(configuration.value("queue_directory"), "pid", "master.pid")
    with files.opened(path) as file:
        return int(file.read(_LONGEST))
