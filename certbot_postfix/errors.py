"""What can go wrong, in words for a mail administrator.

Every error is one of certbot's plugin errors, so that no layer has to translate.
A message names object, cause and consequence; what to do stands apart, in the hint.
"""

import logging
import re
import reprlib
import signal
from collections.abc import Iterable
from typing import TextIO

from certbot import errors

# How many characters of a text from a stranger are in a message.
SHOWN = 60

# Halves of characters, such as JSON can have, that stand for no byte: PEP 383.
_NO_BYTE = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")

# Containers from a stranger may be as large as a list.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = SHOWN
_PLAIN = (str, bytes, bool, int, float, type(None))


def printable(text: str) -> str:
    """Return *text* with escapes for all that a terminal may obey or cannot show.

    Those are bytes of another encoding, control characters of C0 and C1, and those that
    change the direction of text; lines and tabs stay.
    """
    text = _NO_BYTE.sub(lambda found: ascii(found[0])[1:-1], text)
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def short(text: str, most: int = SHOWN) -> str:
    """Return *text* from a stranger for a message: *most* characters of it."""
    return text if len(text) <= most else f"{text[:most]}..."


def shortened(words: Iterable[str], most: int) -> list[str]:
    """Return *words*, or the first of them and how many more there are."""
    every = list(words)
    # One more would take the place of one.
    if len(every) <= most + 1:
        return every
    return [*every[:most], f"{len(every) - most:,} more"]


def enumerated(words: Iterable[str], *, most: int = 5) -> str:
    """Return *words* as an enumeration, only so many of them one by one."""
    some = shortened(words, most)
    return " and ".join(filter(None, [", ".join(some[:-1]), *some[-1:]]))


def shown(text: str, stream: TextIO) -> str:
    """Return *text* as it is written to *stream*: `printable`, in its encoding."""
    encoding = stream.encoding or "ascii"
    return printable(text).encode(encoding, "backslashreplace").decode(encoding)


def excerpt(value: object) -> str:
    """Return *value* for a message, on one line and not too long."""
    if isinstance(value, str | bytes):  # which may have any length
        value = value[: SHOWN + 1]
    text = ascii(value) if isinstance(value, _PLAIN) else _SHORT.repr(value)
    text = text.encode("ascii", "backslashreplace").decode()
    return short(text)


def named_logger(name: str) -> logging.Logger:
    """Return the logger of a module, whose messages are `printable`."""
    found = logging.getLogger(name)
    found.addFilter(_harmless)
    return found


def _harmless(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), ()
    if record.exc_info:
        # A formatter takes this, where it is set.
        record.exc_text = printable(
            logging.Formatter().formatException(record.exc_info)
        )
    return True


class Foreign(Exception):  # noqa: N818 - it may be no error
    """What a log has of an exception that is not of the family, as `printable`."""

    def __init__(self, original: BaseException, depth: int = 8) -> None:
        super().__init__(printable(f"{type(original).__name__}: {original}"))
        self.__traceback__ = original.__traceback__
        cause, context = original.__cause__, original.__context__
        self.__cause__ = Foreign(cause, depth - 1) if cause and depth else None
        self.__context__ = Foreign(context, depth - 1) if context and depth else None
        self.__suppress_context__ = original.__suppress_context__


def _harmless_link(name: str) -> property:
    """Return the attribute *name* of exceptions, with `Foreign` in place of others."""
    plain = BaseException.__dict__[name]

    def get(error: BaseException) -> BaseException | None:
        linked: BaseException | None = plain.__get__(error)
        foreign = linked is not None and not isinstance(linked, Error)
        return Foreign(linked) if linked and foreign else linked

    return property(get, plain.__set__)


class Error(errors.PluginError):
    """The root of the family.

    certbot logs what caused it, too, by a formatter of its own.
    """

    __cause__ = _harmless_link("__cause__")
    __context__ = _harmless_link("__context__")

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = printable(message)
        self.hint = printable(hint)

    def __str__(self) -> str:
        return printable(
            f"{self.message}\nHint: {self.hint}" if self.hint else self.message
        )

    # certbot shows the repr of what prepare() raises.
    __repr__ = __str__


class MisconfiguredError(Error, errors.MisconfigurationError):
    """Postfix itself cannot read its configuration."""


class MissingError(Error, errors.NoInstallationError):
    """There is no Postfix here that can be configured."""


class ProgramError(Error):
    """A program failed, or did not end in time."""


class UnusableProgramError(ProgramError):
    """A program is not there, or cannot be executed."""


class CertificateError(Error):
    """A key, certificate or chain must not be put into service."""


class ProofError(Error):
    """A service does not present the certificate that it should.

    *reason* is why, without the name of the service.
    """

    def __init__(self, message: str, *, hint: str = "", reason: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class NetworkError(Error):
    """A server or a resolver did not answer, or not as it must."""


class UnreachableError(NetworkError):
    """This machine has no route to a server, such as over IPv6."""


class BusyError(Error):
    """Another process does the same work at this moment."""


class SignalError(Error):
    """The process was told to end; what it did is undone first."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


class UnansweredError(ProofError):
    """A service does not even greet, as if it were dead."""


class RefusedError(ProofError):
    """A service that is alive does not let a client of this machine in."""


class OtherCertificateError(ProofError):
    """A service presents another certificate than it should."""


class AcceptedError(ProofError):
    """A service accepts what it should refuse."""
