"""A time until which something must have been done, whatever hangs.

What is late goes on in a thread that ends with the process.  Raises `LateError`.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import SimpleQueue
from typing import Any, TypeVar

from certbot_postfix.errors import ProgramError

T = TypeVar("T")


class LateError(ProgramError):
    """The time was over."""


class Deadline:
    """A time until which everything must have been done, *seconds* from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """How many seconds are left, none if it has passed."""
        return max(0.0, self._end - time.monotonic())

    def within(self, work: Callable[[], T], what: str, part: float = 1.0) -> T:
        """Return what *work* returns; raise `LateError` if that takes too long.

        It may take a *part* of the time that is left.
        """
        future: Future[T] = Future()
        try:
            worker = _idle.pop()
        except IndexError:
            worker = _Worker()
        worker.tasks.put((work, future))
        try:
            return future.result(self.left * part)
        except FutureTimeoutError:  # the built-in since 3.11
            if future.done():  # and *work* may have raised one
                raise
            raise LateError(
                f"could not {what} within {self.seconds:g} seconds",
                hint="give it more time with --timeout",
            ) from None


class _Worker:
    """A thread for one task after the other: to start one for each takes longer.

    Unlike those of `concurrent.futures`, it keeps no process from ending.
    """

    def __init__(self) -> None:
        self.tasks: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self._do(*self.tasks.get())
            _idle.append(self)

    def _do(self, work: Callable[[], Any], future: "Future[Any]") -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised by who waits
            future.set_exception(error)


# Those that have nothing to do.  A process that is forked has no thread of them.
_idle: list[_Worker] = []
os.register_at_fork(after_in_child=_idle.clear)
