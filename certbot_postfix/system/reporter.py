"""What a user reads while a command works: its steps on a terminal, and its results.

A step is a line that appears when it begins; its end is added to it.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from certbot_postfix.errors import shown

# Seconds between two signs of life.
PAUSE = 2.0

# Seconds after which a step that is usually short is worth a line.
SLOW = 1.0


class Reporter:
    """Results go to *say*; the steps are lines on the *terminal*, if there is one.

    A step that takes long shows a sign of life every *pause* seconds.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        terminal: TextIO | None = None,
        pause: float = PAUSE,
    ) -> None:
        self.say = say
        self.terminal = terminal
        self._pause = pause

    @classmethod
    def on(cls, stream: TextIO, say: Callable[[str], None]) -> "Reporter":
        """Return one whose terminal is *stream*, if that is one."""
        return cls(say, stream if stream.isatty() else None)

    def result(self, sentence: str, block: Sequence[str]) -> None:
        """Say *sentence*; on a terminal, the *block* of lines in its place."""
        self.say("\n".join(block) if self.terminal else sentence)

    def details(self, *lines: str) -> None:
        """Say *lines* on a terminal only."""
        if self.terminal:
            self.say("\n".join(lines))

    @contextmanager
    def step(self, work: str, *, after: float = 0) -> Iterator[None]:
        """Show on the terminal that *work* is done meanwhile, and how it ended.

        One that takes less than *after* seconds is not shown.
        """
        if not self.terminal:
            yield
            return
        line = _Line(self.terminal, work)
        with line.kept_alive(after, self._pause):
            yield


class _Line(logging.Handler):
    """The line of a step, which ends where a message of the log begins."""

    def __init__(self, terminal: TextIO, work: str) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal
        self._work = work
        self._lock = threading.Lock()
        self._open = self._begun = False

    @contextmanager
    def kept_alive(self, after: float, pause: float) -> Iterator[None]:
        """Show the line once *after* seconds are over, and signs of life from then."""
        ended = threading.Event()
        if not after:
            self._show()
        ticks = threading.Thread(
            target=self._tick, args=(ended, after, pause), daemon=True
        )
        ticks.start()
        package = logging.getLogger("certbot_postfix")
        package.handlers.insert(0, self)  # before those that write messages
        end = "failed"
        try:
            yield
            end = "done"
        finally:
            ended.set()
            ticks.join()
            package.removeHandler(self)
            if self._begun:
                self._show(end)

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        """End the line, so that the message begins one."""
        with self._lock:
            if self._open:
                self._write("\n")
            self._open = False

    def _tick(self, ended: threading.Event, after: float, pause: float) -> None:
        if after and not ended.wait(after):
            self._show()
        while not ended.wait(pause):
            self._show(".")

    def _show(self, more: str = "") -> None:
        with self._lock:
            begin = "" if self._open else f"{self._work} ..."
            words = {"": "", ".": "."}.get(more, f" {more}\n")
            self._begun, self._open = True, not words.endswith("\n")
            self._write(begin + words)

    def _write(self, text: str) -> None:
        self._terminal.write(shown(text, self._terminal))
        self._terminal.flush()
