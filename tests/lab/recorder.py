"""What the plugin starts and reads in a run of certbot, as Python itself reports it.

An audit hook (PEP 578) in a sitecustomize module writes it down: nothing is patched.
What certbot and its libraries do for their own sake is not the plugin's.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import certbot_postfix

# Processes, and the Python itself, are no files for this.
_HOOK = """\
import json, os, sys

LOG, OURS, ADAPTERS = {log!r}, {ours!r}, {ours!r} + "system/"
THEIRS = "/site-packages/certbot/", "/dist-packages/certbot/", "importlib._bootstrap"
NONE = ("/proc/", sys.prefix, sys.base_prefix, *{ignored!r})
fd = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def place():
    '''Which code of ours it is, unless certbot's or that of an import is nearer.'''
    frame = sys._getframe()
    while frame:
        name = frame.f_code.co_filename
        if name.startswith(OURS) and not name.startswith(ADAPTERS):
            return f"{{name[len(OURS):]}}:{{frame.f_code.co_name}}"
        if any(part in name for part in THEIRS):
            return ""
        frame = frame.f_back
    return ""

def hook(event, args):
    if event == "subprocess.Popen":
        if where := place():
            write("program", list(map(os.fsdecode, args[1])), where, [])
    elif event == "open" and not isinstance(args[0], int):
        path = os.path.abspath(os.fsdecode(args[0]))
        if args[2] & os.O_ACCMODE != os.O_RDONLY or path.startswith(NONE):
            return
        if os.path.isfile(path) and (where := place()):
            status = os.stat(path)
            state = [status.st_ino, status.st_mtime_ns, status.st_size]
            write("file", [path], where, state)

def write(*fields):
    os.write(fd, json.dumps(fields).encode() + b"\\n")

sys.addaudithook(hook)
"""


@dataclass(frozen=True, slots=True)
class Event:
    """A program that was started, or a file that was read, by the code at *place*.

    The *state* of a file is another when it has changed.
    """

    kind: str
    text: str
    place: str
    state: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind:8}{self.text}  ({self.place})"


@dataclass(frozen=True, slots=True)
class Flow:
    """What happened in one run, in order."""

    events: tuple[Event, ...]

    @property
    def programs(self) -> int:
        """How many programs were started; one that is polled is one."""
        programs = (event.text for event in self.events if event.kind == "program")
        return sum(1 for _ in groupby(programs))

    @property
    def reads(self) -> int:
        """How many times a file was read."""
        return sum(event.kind == "file" for event in self.events)

    @property
    def repeated(self) -> int:
        """How many times a file was read that had been, and was the same still."""
        files = {(event.text, event.state) for event in self.events if event.state}
        return self.reads - len(files)

    def __str__(self) -> str:
        """Return a line for each event, and how often a file had been read before."""
        known = Counter[tuple[str, tuple[int, ...]]]()
        lines = []
        for event in self.events:
            before = known[event.text, event.state] if event.state else 0
            lines.append(f"{event}{' AGAIN' * bool(before)}")
            known[event.text, event.state] += 1
        return "\n".join(lines)


class Recorder:
    """Records in files below *directory*; certbot must have its `environment`.

    Directories have short *names*; files below *ignored* ones are none.
    """

    def __init__(
        self, directory: Path, names: Mapping[Path, str], ignored: Iterable[Path] = ()
    ) -> None:
        self.directory = directory
        self.log = directory / "events"
        self.names = names
        (package,) = certbot_postfix.__path__
        text = _HOOK.format(
            log=str(self.log), ours=f"{package}/", ignored=tuple(map(str, ignored))
        )
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        """What a Python needs to be recorded."""
        return {"PYTHONPATH": str(self.directory)}

    def take(self) -> Flow:
        """Return what was recorded since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return Flow(tuple(map(self._event, lines)))

    def _event(self, line: str) -> Event:
        kind, words, place, state = json.loads(line)
        text = " ".join(words)
        for path, name in self.names.items():
            text = text.replace(str(path), name)
        return Event(kind, text, place, tuple(state))
