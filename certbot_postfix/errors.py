"""What can go wrong, in words for a mail administrator.

Every error is one of certbot's plugin errors, so that no layer has to translate.
A message names object, cause and consequence; what to do stands apart, in the hint.
"""

import signal

from certbot import errors


def printable(text: str) -> str:
    """Return *text*, in which bytes of another encoding are written as escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Error(errors.PluginError):
    """The root of the family."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = printable(message)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nWhat to do: {self.hint}" if self.hint else self.message

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
