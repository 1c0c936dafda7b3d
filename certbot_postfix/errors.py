"""What can go wrong, in words for a mail administrator.

Every error is one of certbot's plugin errors, so that no layer has to translate.
A message names object, cause and consequence; what to do stands apart, in the hint.
"""

import logging
import re
import signal
from typing import TextIO

from certbot import errors

# Halves of characters, such as JSON can have, that stand for no byte: PEP 383.
_NO_BYTE = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")


def printable(text: str) -> str:
    """Return *text* with escapes for all that a terminal may obey or cannot show.

    Those are bytes of another encoding, control characters of C0 and C1, and those that
    change the direction of text; lines and tabs stay.
    """
    text = _NO_BYTE.sub(lambda found: ascii(found[0])[1:-1], text)
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        each
        if each.isprintable() or each in "\n\t"
        else each.encode("unicode_escape").decode()
        for each in text
    )


def shown(text: str, stream: TextIO) -> str:
    """Return *text* as it is written to *stream*: `printable`, in its encoding."""
    encoding = stream.encoding or "ascii"
    return printable(text).encode(encoding, "backslashreplace").decode(encoding)


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


class Error(errors.PluginError):
    """The root of the family."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = printable(message)
        self.hint = printable(hint)

    def __str__(self) -> str:
        return printable(
            f"{self.message}\nWhat to do: {self.hint}" if self.hint else self.message
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
