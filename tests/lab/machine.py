"""What the lab takes from the machine: directories, ports, time.

Raises `LabError`, the lab's only exception.
"""

import random
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOOPBACK = "127.0.0.1"

# Below the ports that Linux hands out by itself, so that no client takes one of ours.
_RANGE = range(20000, 32000)


class LabError(Exception):
    """The lab itself failed, not what is tested in it."""


def has_ipv6() -> bool:
    """Whether this machine has the loopback address of IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as attempt:
            attempt.bind(("::1", 0))
    except OSError:
        return False
    return True


@contextmanager
def base_directory(prefix: str = "certbot-postfix-") -> Iterator[Path]:
    """Yield a new directory that every user may enter; remove it at the end.

    Postfix's daemons give up root and must still reach their queue, which they cannot
    below the private directories of pytest.
    """
    path = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    try:
        path.chmod(0o755)
        yield path
    finally:
        shutil.rmtree(path)


class Ports:
    """*count* loopback ports that no other process of the lab takes until `release`.

    They are *among* those of a range.

    Two Postfix instances may listen on one port at once (SO_REUSEPORT), each getting
    some of the clients.  So a port is claimed with an abstract socket of its name,
    which exists once on the machine and vanishes with the process that holds it.
    """

    def __init__(self, count: int, among: range = _RANGE) -> None:
        self._claims: list[socket.socket] = []
        self.numbers: list[int] = []
        for port in random.sample(among, len(among)):
            if len(self.numbers) == count:
                return
            self._claim(port)
        raise LabError("no free ports on loopback")

    def _claim(self, port: int) -> None:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0certbot-postfix-lab-{port}")
            with socket.socket() as probe:
                probe.bind((LOOPBACK, port))
        except OSError:
            claim.close()
        else:
            self._claims.append(claim)
            self.numbers.append(port)

    def release(self) -> None:
        """Let others have the ports; the numbers stay readable."""
        while self._claims:
            self._claims.pop().close()


# So long that a busy machine can start certbot twice meanwhile.
PATIENCE = 60


def wait_until(
    condition: Callable[[], bool], what: str, *, seconds: float = PATIENCE
) -> None:
    """Return as soon as *condition* holds; raise `LabError` if it does not in time."""
    began = last = time.monotonic()
    while not condition():
        now = time.monotonic()
        if now > began + seconds:
            raise LabError(f"waited {seconds:g} seconds in vain until {what}")
        # One that starts a program is not to keep the processor from what it waits for.
        # Nor is one that takes long to come true asked more often than it matters.
        time.sleep(max(0.01, now - last, min(0.5, (now - began) / 20)))
        last = time.monotonic()


def accepts(port: int) -> bool:
    """Tell whether something listens on *port*."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=5):
            return True
    except OSError:
        return False
