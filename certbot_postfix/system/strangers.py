"""Calls code that others have installed: whatever it raises is a sentence.

It may do anything, raise `SystemExit`, and have errors whose text cannot be had.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from certbot_postfix.errors import SignalError, excerpt, named_logger
from certbot_postfix.system.deadline import Deadline, LateError

T = TypeVar("T")

logger = named_logger(__name__)

# How long a message may be.
_LONGEST = 1000


@contextmanager
def noted(
    failures: list[BaseException], log: logging.Logger = logger
) -> Iterator[None]:
    """Add to *failures* whatever a stranger's code raises, `SystemExit` as well.

    Who ends this process is to end it.
    """
    try:
        yield
    except (KeyboardInterrupt, SignalError):
        raise
    except BaseException as error:
        log.debug("code that others have installed fails", exc_info=True)
        failures.append(error)


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return what *work* returns, in another thread, or raise `TimeoutError`.

    The thread then goes on until the process ends.
    """
    try:
        return Deadline(seconds).within(work, "")
    except LateError:
        raise TimeoutError(f"it did not return within {seconds:g} seconds") from None


def reason(error: BaseException) -> str:
    """Return what *error* says, which may fail, too."""
    text = ""
    with noted([]):
        text = line(str(error))
    if isinstance(error, SystemExit):
        return f"it called sys.exit({text})"
    return text or type(error).__name__


def line(text: str) -> str:
    """Return *text* on one line that fits into a message, in plain characters."""
    plain = " ".join(text[: 2 * _LONGEST].split())
    plain = plain if plain.isprintable() else excerpt(plain)
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}..."
