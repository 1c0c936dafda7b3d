"""The processes of a running instance, as master.pid and proc(5) have them."""

import math
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from certbot_postfix.errors import MisconfiguredError
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.services import bound
from certbot_postfix.system import files, listeners

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
        status = Path("/proc", str(process), "stat").read_text(errors="replace")
    except OSError:  # not Linux
        return True
    # proc(5): number, (program), state, ...; Z and X are dead
    name, _, state = status.partition("(")[2].rpartition(")")
    return name == "master" and state.split()[0] not in "ZX"


def elsewhere(configuration: Configuration) -> Path | None:
    """Return the directory with which the Postfix was started that is met here.

    That is the one that runs on the same queue, or else who listens on the same
    addresses.  Returns None if it is this instance, or if that is not known.
    """
    candidates = list(filter(None, [master(configuration)]))
    if not candidates:
        with suppress(MisconfiguredError):  # nobody can listen there
            candidates = listeners.holders(bound(configuration))
    for process in candidates:
        # master(8) hands it down to all its processes.
        if directory := listeners.environment(process, "MAIL_CONFIG"):
            same = _same(Path(directory), configuration.directory)
            return None if same else Path(directory)
    return None


def refuse_taken_ports(configuration: Configuration, process: int) -> None:
    """Raise `MisconfiguredError` if another than *process* has a port of master.cf."""
    for host, port in listeners.foreign(bound(configuration), process):
        raise MisconfiguredError(
            f"port {port}{f' of {host}' if host else ''} in"
            f" {configuration.directory}/master.cf is in use by another program: a"
            " reload would stop Postfix, so it is not reloaded",
            hint="stop the other program, or remove the service from master.cf",
        )


def queue_managers(configuration: Configuration) -> set[int]:
    """Return the processes of qmgr(8), none if that is not known.

    One lives as long as its generation: the master process starts another after a
    reload when it has read all of its configuration, and has survived that.
    """
    process = master(configuration)
    return set() if process is None else listeners.children(process, "qmgr")


# Those that read certificates and keys when they start.
_OF_TLS = frozenset({"smtpd", "tlsproxy"})

# And who lives as long as its generation.
DAEMONS = _OF_TLS | {"qmgr"}


def outdated(
    configuration: Configuration,
    paths: Iterable[Path],
    programs: Collection[str] = _OF_TLS,
) -> bool:
    """Whether a process of *programs* is older than one of the files *paths*.

    It may have read what was there before.
    """
    process = master(configuration)
    if process is None:
        return False
    started = listeners.started(process, programs)
    changed = [path.stat().st_ctime for path in paths if path.exists()]
    # A tick of the clock, to which the kernel rounds down.
    return min(started, default=math.inf) < max(changed, default=0) + 0.01


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # it was moved away, or is not for us to see
        return one == other


def _in_file(configuration: Configuration) -> int:
    path = Path(configuration.value("queue_directory"), "pid", "master.pid")
    with files.opened(path) as file:
        return int(file.read(_LONGEST))
