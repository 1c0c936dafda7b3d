"""Which certificate a service really shows: a fresh TLS handshake, and nothing less.

It trusts nobody and sends no mail.  Raises `ProofError`, or `UnansweredError`.
STARTTLS is that of RFC 3207, implicit TLS that of RFC 8314, section 3; the server name
is sent as RFC 6066, section 3, says.
"""

import contextlib
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from certbot_postfix.certificates import Certificate
from certbot_postfix.configuration import Endpoint
from certbot_postfix.errors import CertificateError, ProofError, UnansweredError

# Seconds: at most and at least for one attempt, and between two.  smtpd looks up the
# client's name before it greets; a new process loads keys and tables first.
ATTEMPT = 10.0
LEAST = 1.0
PAUSE = 0.1

# Side by side; a small server allows few smtpd processes.
PARALLEL = 8

# For which type of key to ask where one of the other was shown.
_OTHER = {"RSA": "ECDSA", "ECDSA": "RSA"}


@dataclass(frozen=True, slots=True)
class Question:
    """One handshake to be made: where, and with which server name, if any.

    With *key_type*, RSA or ECDSA, a server with keys of both is asked for that one.
    """

    endpoint: Endpoint
    server_name: str | None
    key_type: str = ""

    def __str__(self) -> str:
        return f"{self.endpoint}" + (
            f" asked for {self.server_name}" if self.server_name else ""
        )


def leaf(question: Question, *, timeout: float) -> Certificate:
    """Return the leaf certificate that the service shows within *timeout* seconds."""
    endpoint = question.endpoint
    greeted = False
    try:
        connection = socket.create_connection((endpoint.host, endpoint.port), timeout)
        # smtplib's file keeps the connection open until it is closed as well.
        with (
            contextlib.closing(connection),
            contextlib.closing(_Client(connection, timeout)) as smtp,
        ):
            if not endpoint.implicit:
                smtp.getreply()  # whatever it says, it is alive
                greeted = True
                smtp.ask_for_tls()
            wrapped = _context(question).wrap_socket(
                connection, server_hostname=question.server_name
            )
            with contextlib.closing(wrapped):
                der = wrapped.getpeercert(binary_form=True)
                smtp.part(wrapped, greeted=greeted)
        return Certificate.from_der(der or b"")
    except (OSError, smtplib.SMTPException, CertificateError) as error:
        told = f"{question} shows no certificate: {error}"
        # An alert in a handshake, too, is a sign of life.
        if greeted or (isinstance(error, ssl.SSLError) and "EOF" not in str(error)):
            raise ProofError(told) from error
        raise UnansweredError(told) from error


def prove(
    expected: Collection[Certificate] | None,
    questions: Collection[Question],
    *,
    timeout: float,
) -> None:
    """Return as soon as every one of *questions* is answered by one of *expected*.

    With None, any certificate will do.  A process that serves a client from before the
    change may answer for a while, so ask again, for at most *timeout* seconds; then
    raise `ProofError` for all that failed, `UnansweredError` if one did not even greet.
    """
    deadline = time.monotonic() + timeout
    stopped = threading.Event()

    def ask(question: Question) -> ProofError | None:
        while True:
            left = max(deadline - time.monotonic(), LEAST)
            failure = _answer(expected, question, min(left, ATTEMPT))
            late = time.monotonic() + PAUSE >= deadline
            if not failure or late or stopped.wait(PAUSE):
                return failure

    with ThreadPoolExecutor(PARALLEL) as pool:
        try:
            failures = [failure for failure in pool.map(ask, questions) if failure]
        finally:
            stopped.set()  # Ctrl-C need not wait for the deadline
    if failures:
        raise _summary(failures, expected)


def showing(questions: Collection[Question], *, timeout: float) -> frozenset[str]:
    """Return the names of the services that show a certificate now, whichever."""

    def ask(question: Question) -> str:
        failure = _answer(None, question, timeout)
        return "" if failure else question.endpoint.service

    with ThreadPoolExecutor(PARALLEL) as pool:
        return frozenset(filter(None, pool.map(ask, questions)))


def _answer(
    expected: Collection[Certificate] | None, question: Question, timeout: float
) -> ProofError | None:
    """Ask once; return what is wrong with the answer."""
    try:
        seen = leaf(question, timeout=timeout)
        if expected is None:
            return None
        wanted = {certificate.key_type for certificate in expected}
        other = _OTHER.get(seen.key_type, "")
        if wanted == {other}:
            seen = leaf(replace(question, key_type=other), timeout=timeout)
    except ProofError as error:
        return error
    if seen in expected:
        return None
    return ProofError(f"{question} shows the certificate for {seen}")


def _summary(
    failures: Collection[ProofError], expected: Collection[Certificate] | None
) -> ProofError:
    told = "; ".join(failure.message for failure in failures)
    if expected is not None:
        told += f"; it should be the one for {' or '.join(map(str, expected))}"
    hint = 'look for "disabling TLS support" or "fatal" in the mail log'
    dead = any(isinstance(failure, UnansweredError) for failure in failures)
    return (UnansweredError if dead else ProofError)(told, hint=hint)


def _context(question: Question) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # What is shown is compared, not trusted: an old key or protocol is seen as well.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    ciphers = "DEFAULT"
    if question.key_type:
        # In TLS 1.2 the cipher suite says which type of key signs.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        ciphers = f"a{question.key_type}"
    context.set_ciphers(f"{ciphers}:!aNULL:@SECLEVEL=0")
    return context


class _Client(smtplib.SMTP):
    """smtplib's client on a connection that its caller makes and closes."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        # An address literal (RFC 5321, 4.1.3), or smtplib would ask the DNS.
        super().__init__(local_hostname="[127.0.0.1]", timeout=timeout)
        self.sock = connection

    def ask_for_tls(self) -> None:
        self.ehlo()
        code, answer = self.docmd("STARTTLS")
        if code != 220:
            raise smtplib.SMTPException(f"{code} {answer.decode(errors='replace')}")

    def part(self, connection: ssl.SSLSocket, *, greeted: bool) -> None:
        """Leave politely, so that the mail log tells of no lost connection."""
        self.sock = connection
        self.file = None  # as smtplib.SMTP.starttls() does
        with contextlib.suppress(OSError, smtplib.SMTPException):
            if not greeted:
                self.getreply()
            self.docmd("QUIT")
