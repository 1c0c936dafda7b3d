"""A terminal on which a program runs and asks, and somebody answers."""

import os
import pty
import select
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence


def converse(
    argv: Sequence[str],
    environment: Mapping[str, str],
    *answers: str,
    question: str = "(Y)es/(N)o: ",
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[str, int]:
    """Run *argv* at a terminal, and give *answers*, one for each *question*.

    *meanwhile* happens while the first one waits.  Returns what was shown, and the exit
    status.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        argv,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=dict(environment),
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    try:
        for number, answer in enumerate(answers):
            shown += _read(ours, until=question.encode())
            if not number:
                meanwhile()
            os.write(ours, answer.encode() + b"\n")
        shown += _read(ours)
        status = process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return shown.decode().replace("\r\n", "\n"), status


def _read(terminal: int, until: bytes | None = None) -> bytes:
    """Return what appears on *terminal*, up to *until* or the end of all programs."""
    shown, deadline = b"", time.monotonic() + 60
    while until is None or until not in shown:
        ready, _, _ = select.select([terminal], [], [], deadline - time.monotonic())
        assert ready, shown
        try:
            new = os.read(terminal, 4096)
        except OSError:  # EIO: nobody holds the other side any more
            new = b""
        if not new:
            assert until is None, shown
            return shown
        shown += new
    return shown
