"""systemd, where it has started Postfix: what it starts, it must start again.

A master process that a certbot run from certbot.service starts would end with that
service: systemd.kill(5), KillMode=control-group.  Raises `ProgramError`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from certbot_postfix.programs import run


@dataclass(frozen=True, slots=True)
class Manager:
    """The systemd service in whose control group the master *process* was found."""

    unit: str
    process: int

    @classmethod
    def of(cls, process: int) -> "Manager | None":
        """Return who manages *process*, or None; see cgroups(7), /proc/PID/cgroup."""
        try:
            groups = Path(f"/proc/{process}/cgroup").read_text()
        except OSError:
            return None
        found = re.search(r"/([^/\n]+\.service)$", groups, re.MULTILINE)
        return cls(found[1], process) if found else None

    def in_charge(self) -> bool:
        """Whether the process is, or was, the service's own main process.

        Any other may share a control group: a login, a test, a container's first.
        """
        shown = run(
            ["systemctl", "show", "--property=ExecMainPID", "--value", self.unit],
            check=False,
        )
        return shown.stdout.strip() == str(self.process)

    def restart(self) -> None:
        """Let systemd stop the service, if it runs, and start it."""
        run(["systemctl", "restart", self.unit])
