"""Who listens on a port: lets a reload be refused that the master would not survive.

`postfix reload` exits 0, and then the master process dies if it cannot bind to an
address that master.cf names anew: all mail stops.  Linux only, from proc(5), files
net/tcp, net/tcp6, PID/fd, PID/task/TID/children and PID/stat; elsewhere nothing is
found out.  Of another user's processes, root alone learns what they have open.
"""

import ipaddress
import os
import socket
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket; *inode* names it among the files of its process."""

    address: Address
    port: int
    inode: str

    def blocks(self, host: str, port: int) -> bool:
        """Whether nobody else can listen at *host* and *port* beside it."""
        if port != self.port:
            return False
        try:
            wanted = ipaddress.ip_address(host or "0.0.0.0")  # noqa: S104 - any
        except ValueError:
            return False  # a name: leave it to Postfix
        same_family = wanted.version == self.address.version
        either_any = wanted.is_unspecified or self.address.is_unspecified
        return same_family and (either_any or wanted == self.address)


def is_local(host: str) -> bool:
    """Whether this machine has the address *host*, which an IPv6 one may not be."""
    if ":" not in host:
        return True
    try:
        with socket.socket(socket.AF_INET6) as attempt:
            attempt.bind((host, 0))
    except OSError:
        return False
    return True


def listening(table: str) -> Iterator[Listener]:
    """Read the text of /proc/net/tcp or tcp6."""
    for line in table.splitlines()[1:]:
        # sl, local_address, rem_address, st, …, the tenth is the inode
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN:
            address, _, port = fields[1].partition(":")
            yield Listener(_address(address), int(port, 16), fields[9])


def foreign(wanted: Iterable[tuple[str, int]], process: int) -> list[tuple[str, int]]:
    """Return those of the *wanted* addresses that another process has taken."""
    with suppress(OSError):
        own = set(open_files(process))
        taken = _listeners()
        ours = {listener for listener in taken if f"socket:[{listener.inode}]" in own}
        if ours:  # else it is dead, and a child has the sockets yet
            return [
                (host, port)
                for host, port in wanted
                if not any(listener.blocks(host, port) for listener in ours)
                and any(listener.blocks(host, port) for listener in taken)
            ]
    return []


def holders(wanted: Collection[tuple[str, int]]) -> list[int]:
    """Return the processes that listen at one of the addresses *wanted*."""
    sockets = {
        f"socket:[{listener.inode}]"
        for listener in _listeners()
        if any(listener.blocks(host, port) for host, port in wanted)
    }
    if not sockets:
        return []
    processes = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    return [
        process for process in processes if not sockets.isdisjoint(open_files(process))
    ]


def _listeners() -> list[Listener]:
    return [
        listener
        for name in ("tcp", "tcp6")
        if (table := Path("/proc/net", name)).exists()
        for listener in listening(table.read_text())
    ]


def environment(process: int, name: str) -> str:
    """Return what *name* meant when *process* was started, empty if unknown."""
    with suppress(OSError):
        for entry in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
            key, _, value = entry.partition(b"=")
            if key == name.encode():
                return os.fsdecode(value)
    return ""


def open_files(process: int) -> list[str]:
    """Return what *process* has open, as the kernel names it; nothing if it is gone."""
    targets = []
    with suppress(OSError):
        for file in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                targets.append(str(file.readlink()))
    return targets


def started(process: int, programs: Collection[str]) -> list[float]:
    """Return when those children of *process* that run *programs* were started.

    In seconds since 1970.
    """
    now = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return [
        now + ticks / os.sysconf("SC_CLK_TCK")
        for _, ticks in _children(process, programs)
    ]


def children(process: int, program: str) -> set[int]:
    """Return those children of *process* that run *program*."""
    return {child for child, _ in _children(process, (program,))}


def _children(process: int, programs: Collection[str]) -> Iterator[tuple[int, int]]:
    """Yield children and their start times, in ticks since the machine was booted."""
    with suppress(OSError):
        listed = Path(f"/proc/{process}/task/{process}/children").read_text()
        for child in listed.split():
            with suppress(OSError):  # it has ended
                status = Path(f"/proc/{child}/stat").read_text(errors="replace")
                name, _, rest = status.rpartition(")")
                if name.partition("(")[2] in programs:
                    yield int(child), int(rest.split()[19])  # the 22nd field, starttime


def _address(digits: str) -> Address:
    # Words of 32 bits, each in the byte order of the machine, here little-endian.
    words = [digits[at : at + 8] for at in range(0, len(digits), 8)]
    return ipaddress.ip_address(b"".join(bytes.fromhex(word)[::-1] for word in words))
