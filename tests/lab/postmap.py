"""postmap(1), disturbed: a script stands in front of the real one.

It takes the place of a program of that name in a directory that is looked into first.
"""

import functools
import re
import shlex
import subprocess
import textwrap
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

# The calls with which postmap makes a database.
_WRITING = (
    *("openat", "write", "pwrite64", "writev", "pwritev", "ftruncate"),
    *("fsync", "fdatasync", "rename", "unlink"),
)

_REAL = "/usr/sbin/postmap"

# Of the calls that it makes, those that open a file only to read are no change.
_READING = re.compile(r"openat\(.*O_RDONLY")


# What a database is called, after the name of its table.
SUFFIXES = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb"}


@functools.cache
def usual_type() -> str:
    """Return the type of database that this Postfix is built for."""
    command = ["postconf", "-d", "-h", "default_database_type"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def needs(form: object) -> None:
    """Skip a test for which this Postfix lacks the type *form*, or warns of it."""
    berkeley_db = ("hash", "btree")
    if form in berkeley_db and usual_type() not in berkeley_db:
        pytest.skip("hash and btree are deprecated in this Postfix, or not there")


class Call(NamedTuple):
    """The *number*-th time that postmap makes a call with this *name*."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name} {self.number}"


class Postmap:
    """The program in *directory*, which is made; without a script it does nothing."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self._script = directory / "postmap"
        self._trace = directory / "trace"
        self.leave_alone()

    @property
    def path(self) -> str:
        """A ``PATH`` on which this one is found."""
        return f"{self.directory}:/usr/sbin:/usr/bin:/sbin:/bin"

    def disturb(self, script: str, *, questions: bool = False) -> None:
        """Have *script* run instead, which may start the real one as ``"$@"``.

        Unless *questions* are disturbed too, those (-q) are answered as ever.
        """
        spared = "" if questions else 'case " $* " in *" -q "*) exec "$@" ;; esac\n'
        self._script.write_text(
            f'#!/bin/sh\nset -- {_REAL} "$@"\n{spared}{textwrap.dedent(script)}\n'
        )
        self._script.chmod(0o755)

    def leave_alone(self) -> None:
        """Have the real one run."""
        self.disturb('exec "$@"')

    def watch(self) -> None:
        """Have the next run noted, for `calls`."""
        traced = ",".join(f"?{name}" for name in _WRITING)
        trace = shlex.quote(str(self._trace))
        self.disturb(f'exec strace -qq -o {trace} -e trace={traced} "$@"')

    def calls(self) -> list[Call]:
        """Return what the run changed files with that was noted last."""
        counted, found = Counter[str](), []
        for line in self._trace.read_text().splitlines():
            name = line.partition("(")[0]
            counted[name] += 1
            if not _READING.match(line):
                found.append(Call(name, counted[name]))
        return found

    def kill_at(self, call: Call, *, with_parent: bool = False) -> None:
        """Have the next run killed before it makes *call*.

        With *with_parent*, who has started it is killed as well, as by a power cut.
        """
        tamper = f"inject={call.name}:signal=KILL:when={call.number}"
        strace = f'strace -qq -o /dev/null -e trace={call.name} -e {tamper} "$@"'
        if with_parent:
            self.disturb(f"{strace}\nkill -9 $PPID")
        else:
            self.disturb(f"exec {strace}")
