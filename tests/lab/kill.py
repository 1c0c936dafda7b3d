"""SIGKILL at a chosen operation: before each change that a program makes to a file, and
before and right after it starts another program.

strace does it, at the door to the kernel: no library and no interpreter gets at a file
without passing there, so no operation is missed, and no part of the program is changed.
A call at whose entry the process is killed is not carried out; so the point before one
call is the point after the call before it, and there is one between the creation of a
file and its first byte.  What the program has started lives on, as it does when a real
one is killed.  strace(1), "Syscall Tampering".
"""

import json
import os
import re
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.lab.machine import LabError, wait_until

_STARTS = ("vfork", "fork", "clone", "clone3")

# The calls that change a file or a directory.
_CHANGES = (
    *("openat", "creat", "mkdir", "mkdirat", "mknod", "mknodat"),
    *("write", "writev", "pwrite64", "pwritev", "sendfile", "copy_file_range"),
    *("splice", "truncate", "ftruncate", "fallocate", "fsync", "fdatasync"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "rmdir", "utimensat", "utimes"),
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat"),
    *("setxattr", "lsetxattr", "fsetxattr", "removexattr", "fremovexattr"),
)

# Its first path: that of a descriptor, which may be of the directory of the name that
# follows, or a name.
_CALL = re.compile(
    r"(\w+)\((?:AT_FDCWD<[^>]*>, )?(?:\d+<([^>]*)>(?:, \"([^\"/]+)\")?|\"([^\"]*)\")?"
)
_WRITING = re.compile("O_(WRONLY|RDWR|CREAT|TRUNC)")

# Parts of paths that are different in every run: temporary names and times.
_CHANCE = re.compile(r"(?<=/)(?:certbot-postfix-\w{8}|\d{10}\.\d+)(?=/|$)")

# Where the bundle, main.cf or a checkpoint gets the name that counts.
_COMMITS = re.compile(r"\.certbot-new$|/IN_PROGRESS$|/postfix/[\w.]+\.pem$")

# What makes a program of Python's trace itself; see there.
_INNER = Path(__file__).with_name("inner")


class Inner(NamedTuple):
    """A program of Python's that another one starts: its command has these *words*.

    *together*: who has started it waits for it, and is killed with it.
    """

    words: str
    together: bool


class Point(NamedTuple):
    """A call that a program makes on this *path*: the *number*-th one at *place*.

    That is the directory by whose descriptor it is made, or the path.
    """

    call: str
    path: str
    place: str
    number: int
    whole: bool  # whether *number* counts the calls on any path

    @property
    def renames(self) -> bool:
        """Whether it is one at which a file gets another name."""
        return self.call.startswith(("rename", "link"))

    def __str__(self) -> str:
        if self.call in _STARTS:
            return f"start {self.number} of a program"
        if self.call == "close":
            return f"start {self.number} of a program, just done"
        return f"{self.call} {self.number} of {self.path}"


def points(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    watched: Collection[Path],
    status: int = 0,
    inner: Inner | None = None,
) -> list[Point]:
    """Run a program undisturbed; return the points at which it can be killed.

    They are where it, or the *inner* one, changes what is below one of *watched*, or
    starts a program.  It must exit with *status*.
    """
    traced = ",".join(f"?{call}" for call in (*_CHANGES, *_STARTS, "close"))
    inner = inner and inner._replace(together=False)
    run = _strace(argv, env, "-e", f"trace={traced}", inner=inner)
    if run.done.returncode != status:
        raise LabError(f"{argv} failed undisturbed: {run.done.stderr}")
    return list(_points(run.lines, [f"{directory}/" for directory in watched]))


def _points(lines: list[str], watched: list[str]) -> Iterator[Point]:
    seen = Counter[tuple[str, str]]()
    for line in lines:
        call, path, place = _parsed(line)
        seen.update({(call, place), (call, "")})
        if not _is_point(call, path, line, watched):
            continue
        # Counting the calls on one path only, the number does not depend on what the
        # interpreter and its libraries do; a name made by chance cannot be waited for,
        # nor what a symbolic link is called, which is its second path.
        whole = (
            not path.startswith("/")
            or call.startswith("symlink")
            or _CHANCE.search(_tail(place, watched)) is not None
        )
        yield Point(call, path, place, seen[call, "" if whole else place], whole)


def _is_point(call: str, path: str, line: str, watched: list[str]) -> bool:
    if call == "close":
        # A parent closes what was its child's standard input once that runs.
        return path == "/dev/null"
    if call in _STARTS:
        return "CLONE_THREAD" not in line
    changes = call != "openat" or _WRITING.search(line)
    inside = any(each in f"{line}/" or path.startswith(each) for each in watched)
    return bool(changes and inside and " = -1 " not in line)


def _tail(path: str, watched: list[str]) -> str:
    """Return *path* without the watched directory, whose name may be random as well."""
    for directory in watched:
        if path.startswith(directory):
            return "/" + path.removeprefix(directory)
    return path


def commits(found: list[Point]) -> list[int]:
    """Return the places of those points at which something is committed."""
    return [
        place
        for place, point in enumerate(found)
        if point.renames and _COMMITS.search(point.path)
    ]


def chosen(found: list[Point], count: int) -> list[Point]:
    """Return *count* points: most of them at commits, and all evenly spread."""
    near = {place + after for place in commits(found) for after in (0, 1)}
    far = [place for place in range(len(found)) if place not in near]
    near = sorted(near & {*range(len(found))})
    picked = evenly(near, (count + 1) // 2)
    picked += evenly(far, count - len(picked))
    return [found[place] for place in sorted(picked)]


def evenly(places: list[int], count: int) -> list[int]:
    """Return *count* of the *places*, or all if they are fewer."""
    if count >= len(places):
        return places
    return [places[(2 * at + 1) * len(places) // (2 * count)] for at in range(count)]


def kill_at(
    point: Point,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    may_end: bool,
    inner: Inner | None = None,
) -> None:
    """Run a program and kill it, or the *inner* one, at *point*.

    With *may_end*, it may also end well before it comes so far: when Postfix runs, how
    many programs are started depends on how soon a service answers.
    """
    limit = () if point.whole else ("-P", point.place)
    tamper = f"inject={point.call}:signal=KILL:when={point.number}"
    options = (*limit, "-e", f"trace={point.call}", "-e", tamper)
    run = _strace(argv, env, *options, inner=inner)
    if may_end and not run.killed and run.done.returncode == 0:
        return
    if not run.killed:
        raise LabError(f"{argv} was not killed at {point}: {run.done.stderr}")
    call, path, _ = _parsed(run.lines[-1])
    if (call, _CHANCE.sub("", path)) != (point.call, _CHANCE.sub("", point.path)):
        raise LabError(f"{argv} was killed at {run.lines[-1]} instead of {point}")


def _parsed(line: str) -> tuple[str, str, str]:
    """Return the call, its path, and the place by which strace finds it."""
    match = _CALL.match(line)
    assert match is not None
    call, opened, name, path = match.groups(default="")
    place = opened or path
    relative = name and call.endswith(("at", "at2"))
    return call, f"{opened}/{name}" if relative else place, place


class _Run(NamedTuple):
    """What became of a program, the calls of the one that was traced, and its end."""

    done: "subprocess.CompletedProcess[str]"
    lines: list[str]
    killed: bool


def _strace(
    argv: Sequence[str],
    env: Mapping[str, str],
    *options: str,
    inner: Inner | None = None,
) -> _Run:
    """Run a program under strace, or have it run the *inner* one so.

    It is traced without ``-f``, which would count, and kill, its children too.
    """
    with tempfile.TemporaryDirectory() as directory:
        trace, stopped = Path(directory, "trace"), Path(directory, "stopped")
        trace.touch()
        # Whole paths are shown whatever -s says; contents, among them keys, are not.
        command = ["strace", "-o", str(trace), "-y", "-s", "0", *options]
        if inner:
            about = {
                "words": inner.words,
                "strace": command,
                "stopped": str(stopped) if inner.together else "",
            }
            env = {**env, "PYTHONPATH": str(_INNER), "INNER": json.dumps(about)}
            command = []
        process = subprocess.Popen(
            [*command, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            start_new_session=True,
        )
        with process:
            if inner and inner.together:
                wait_until(
                    lambda: process.poll() is not None or "+++" in trace.read_text(),
                    "the inner program has ended",
                )
                for number in stopped.read_text().split() if stopped.exists() else ():
                    os.kill(int(number), signal.SIGKILL)
            said = process.communicate(timeout=120)
        text = trace.read_text()
    done = subprocess.CompletedProcess(argv, process.returncode, *said)
    lines = [line for line in text.splitlines() if _CALL.match(line)]
    return _Run(done, lines, "+++ killed by SIGKILL" in text)
