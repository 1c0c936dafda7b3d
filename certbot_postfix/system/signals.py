"""What becomes of work when this process is told to end: it is undone, to the end."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from certbot_postfix.errors import SignalError, named_logger

logger = named_logger(__name__)

_NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let the first signal to end raise `SignalError`, so that work is undone.

    Further ones are ignored until that is done.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        for other in _NUMBERS:
            signal.signal(other, _nothing)
        raise SignalError(number)

    with _handled_by(stop):
        yield


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Let a `SignalError` end the process: certbot would renew the next lineage."""
    try:
        yield
    except SignalError as error:
        logger.error("%s", error)  # noqa: TRY400 - it is known why
        raise SystemExit(128 + error.number) from error


@contextlib.contextmanager
def uninterruptible() -> Iterator[None]:
    """Ignore signals to end: what brings mail back is not to stop half way."""
    with _handled_by(_nothing):
        yield


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Do nothing, but here alone: programs would inherit SIG_IGN."""


@contextlib.contextmanager
def _handled_by(handler: _Handler) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    try:
        for number in _NUMBERS:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
