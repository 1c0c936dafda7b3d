"""What a terminal shows while sources are asked, which may take minutes.

One line, which is written anew each second, and goes when the work is done.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from certbot_postfix.errors import short, shown

# Seconds between two lines.
_PAUSE = 1.0

# The width of a terminal at least; more would not be one line.
_WIDTH = 79


class Progress:
    """The progress of work, on *stream* if that is a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream and stream.isatty() else None
        self._done = self._of = 0

    def count(self, done: int, of: int) -> None:
        """Take note that so many *of* all are *done*."""
        self._done, self._of = done, of

    @contextmanager
    def of(self, work: str) -> Iterator[None]:
        """Show the progress of *work* while this lasts."""
        self._done = self._of = 0
        if not self._stream:
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(
            target=self._show, args=(self._stream, work, ended), daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _show(self, stream: TextIO, work: str, ended: threading.Event) -> None:
        began, clear = time.monotonic(), ""
        while not ended.wait(_PAUSE):
            how_far = f"{time.monotonic() - began:.0f} s"
            if self._of:
                how_far = f"{self._done:,} of {self._of:,}, {how_far}"
            line = f"{short(work, _WIDTH // 2)}: {how_far}"
            stream.write("\r" + shown(f"{line[:_WIDTH]:{_WIDTH}}", stream))
            stream.flush()
            clear = f"\r{'':{_WIDTH}}\r"
        stream.write(clear)
        stream.flush()
