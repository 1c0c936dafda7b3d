"""A time until which something must have been done, whatever hangs.

What is late goes on in a thread that ends with the process.  Raises `LateError`.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

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
        threading.Thread(target=_run, args=(work, future), daemon=True).start()
        try:
            return future.result(self.left * part)
        except FutureTimeoutError:  # the built-in since 3.11
            if future.done():  # and *work* may have raised one
                raise
            raise LateError(
                f"could not {what} within {self.seconds:g} seconds",
                hint="give it more time with --timeout",
            ) from None


def _run(work: Callable[[], T], future: "Future[T]") -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # raised by who waits
        future.set_exception(error)
