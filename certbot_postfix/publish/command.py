"""Publishes records by a program of the administrator's.

It finds in its environment ACTION (add or remove), NAME, TTL, TYPE and RDATA, and says
by exit status 0 that the change was made or not needed.  Raises `errors.Error`.
"""

import stat
from collections.abc import Set as AbstractSet
from pathlib import Path

from zope.interface import implementer

from certbot_postfix.errors import Error
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.interfaces import IRecordPublisher
from certbot_postfix.system import files, programs, strangers
from certbot_postfix.system.directories import is_guarded

# Seconds: an API over HTTPS may be slow.
_SECONDS = 60.0


def publisher(text: str) -> "Command":
    """Return what publishes by the program *text*."""
    if not text:
        raise Error("no program is given", hint="use command:PATH")
    command = Command(Path(text).absolute())  # not one of that name on PATH
    command.check()
    return command


@implementer(IRecordPublisher)
class Command:
    """A program, which runs once for each change."""

    def __init__(self, path: Path, seconds: float = _SECONDS) -> None:
        self._path, self._seconds = path, seconds
        self.label = f"the program {path}"

    def add(self, record: ResourceRecord) -> None:
        """Have the program add *record*."""
        self._run("add", record)

    def remove(
        self,
        record: ResourceRecord,
        observed: AbstractSet[str],  # noqa: ARG002 - it removes one record only
    ) -> None:
        """Have the program remove *record*."""
        self._run("remove", record)

    def check(self) -> None:
        """Raise `Error` if others than root could have written the program."""
        with files.explained("use", self._path):
            status = self._path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Error(f"{self._path} is not a file")
        if status.st_mode & 0o022 or not is_guarded(self._path):
            raise Error(
                f"{self._path} can be modified by users other than root, so it is not"
                " run",
                hint="only root may own it and its directories, and write to them",
            )

    def _run(self, action: str, record: ResourceRecord) -> None:
        self.check()
        done = programs.run(
            [str(self._path)],
            check=False,
            timeout=self._seconds,
            environment={
                "ACTION": action,
                "NAME": record.name,
                "TTL": str(record.ttl),
                "TYPE": record.type,
                "RDATA": record.rdata,
            },
        )
        if done.returncode:
            text = strangers.line(done.stderr.strip() or done.stdout.strip())
            raise Error(f"exit status {done.returncode}{text and f': {text}'}")
