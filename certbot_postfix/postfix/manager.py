"""systemd, where it has started Postfix: what it starts, it must start again.

A master process that a certbot run from certbot.service starts would end with that
service: systemd.kill(5), KillMode=control-group.  Raises `ProgramError`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from certbot_postfix.errors import ProgramError
from certbot_postfix.system.programs import run

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Manager:
    """The systemd service in whose control group a master process was found."""

    unit: str

    @classmethod
    def of(cls, process: int, proc: Path = PROC) -> "Manager | None":
        """Return who manages *process*, or None; see cgroups(7), /proc/PID/cgroup."""
        try:
            groups = (proc / f"{process}/cgroup").read_text(errors="replace")
        except OSError:
            return None
        match = re.search(r"/([^/\n]+\.service)$", groups, re.MULTILINE)
        return cls(match[1]) if match else None

    def in_charge(self) -> bool:
        """Whether it is the service of Postfix.

        Other services, such as a login or a container, may have started one, too.
        systemd does not know the main process of Debian's postfix@-.service.
        """
        wanted = ["systemctl", "show", "--property=ExecStart", "--value", self.unit]
        try:
            shown = run(wanted)
        except ProgramError:
            return False  # a container sees the group, but has no systemd to ask
        program = re.search(r"path=(\S+)", shown.stdout)
        return program is not None and Path(program[1]).name in _PROGRAMS

    def restart(self) -> None:
        """Let systemd stop the service, if it runs, and start it."""
        run(["systemctl", "restart", self.unit])


_PROGRAMS = frozenset({"postfix", "postmulti", "master"})
