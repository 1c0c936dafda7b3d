"""Has a program of Python's run under strace that another one starts.

Python imports this when it starts, if PYTHONPATH leads here; see `tests.lab.kill`.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

_MARK = "INNER"


def _parents() -> Iterator[int]:
    """Yield the processes that have started this one, and were started for it."""
    process = os.getppid()
    while f"{_MARK}=".encode() in Path(f"/proc/{process}/environ").read_bytes():
        yield process
        # The name of the program, which may be anything, ends with the last bracket.
        *_, status = Path(f"/proc/{process}/stat").read_text().rpartition(")")
        process = int(status.split()[1])


def _trace(words: str, strace: list[str], stopped: str) -> None:
    if words not in " ".join(sys.orig_argv):
        return
    if stopped:
        parents = [*_parents()]
        for process in parents:
            os.kill(process, signal.SIGSTOP)
        Path(stopped).write_text(" ".join(map(str, parents)))
    del os.environ[_MARK]
    os.execvp(strace[0], [*strace, sys.executable, *sys.orig_argv[1:]])


if _MARK in os.environ:
    _trace(**json.loads(os.environ[_MARK]))
