"""What Postfix has logged since a moment: the line that says why a service is dead.

It is read where postconf(5), maillog_file, says that it is, where syslog usually puts
it, or from the journal.  Raises nothing: what cannot be read is not quoted.
"""

import contextlib
import os
import re
import stat
import time
from pathlib import Path

from certbot_postfix.errors import ProgramError
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.system.programs import run

# Debian and SUSE, Fedora and RHEL, others.
_USUAL = (Path("/var/log/mail.log"), Path("/var/log/maillog"), Path("/var/log/mail"))

# Bytes that are read of what is new, of which the first lines say most.
_LIMIT = 1 << 20

# Letters of a line that is quoted.
_QUOTED = 300

# What a process says before it ends, or goes on without TLS.
_GRAVE = re.compile(
    r"\]: (fatal|panic): |disabling TLS support|Wrapper-mode request dropped"
)

# What the master process says of whatever ends: the reason stands before it.
_EFFECT = re.compile(r"exit status|bad command startup")


class MailLog:
    """The mail log of the Postfix with *configuration*, from now on."""

    def __init__(self, configuration: Configuration) -> None:
        self._paths = places(configuration)
        self._name = configuration.value("syslog_name") or "postfix"
        self._sizes = {path: size for path in self._paths if (size := _size(path))}
        self._since = time.time()

    def cause(self) -> str:
        """Return the line that most probably says why a service does not answer.

        Without tlsmgr, no process that offers TLS starts: what it says comes first.
        """
        ours = re.compile(rf"\s({re.escape(self._name)}(/[\w.-]+)*/[\w-]+\[\d+\]: .*)")
        lines = [match[1] for line in self._lines() if (match := ours.search(line))]
        by_tlsmgr = [
            line
            for line in lines
            if "tlsmgr" in line
            and re.search(r"\]: (fatal|panic|error|warning): ", line)
        ]
        grave = [line for line in by_tlsmgr or lines if _GRAVE.search(line)]
        reasons = [line for line in by_tlsmgr if not _EFFECT.search(line)]
        line = next(iter(grave or reasons or by_tlsmgr), "")
        return "".join(
            character if character.isprintable() else " "
            for character in line[:_QUOTED]
        )

    def _lines(self) -> list[str]:
        for path in self._paths:
            with contextlib.suppress(OSError):
                # One that is there may be of former times, before there was a journal.
                if lines := _new(path, self._sizes.get(path, 0)):
                    return lines
        return self._journal()

    def _journal(self) -> list[str]:
        names = ("tlsmgr", "master", "smtpd")
        identifiers = [f"--identifier={self._name}/{name}" for name in names]
        command = ["journalctl", "--quiet", "--no-pager", "--lines=1000"]
        command += [f"--since=@{self._since:.0f}", *identifiers]
        try:
            return run(command, timeout=5).stdout.splitlines()
        except ProgramError:
            return []


def places(configuration: Configuration) -> tuple[Path, ...]:
    """Return where the mail log may be, if it is a file."""
    named = configuration.value("maillog_file")
    return (Path(named),) if named else _USUAL


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _new(path: Path, size: int) -> list[str]:
    """Return the lines of *path* after the first *size* bytes, if it is a file."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError
        file.seek(size if size <= status.st_size else 0)  # it was rotated
        return file.read(_LIMIT).decode(errors="replace").splitlines()
