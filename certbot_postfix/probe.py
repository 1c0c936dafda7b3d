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
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Question:
    """One handshake to be made: where, and with which server name, if any.

    A server with keys of several types is asked for the one of *key_type*.
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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what is shown is compared, not trusted
    ciphers = "DEFAULT"
    if question.key_type in ("RSA", "ECDSA"):
        # In TLS 1.2 the cipher suite says which type of key signs.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        ciphers = f"a{question.key_type}"
    context.set_ciphers(f"{ciphers}:!aNULL:@SECLEVEL=0")  # an old key is seen as well
    endpoint, name = question.endpoint, question.server_name
    try:
        connection = socket.create_connection((endpoint.host, endpoint.port), timeout)
        with contextlib.closing(connection), _Client(timeout) as smtp:
            smtp.sock = connection
            if not endpoint.implicit:
                smtp.ask_for_tls()
            smtp.sock = wrapped = context.wrap_socket(connection, server_hostname=name)
            der = wrapped.getpeercert(binary_form=True)
            if endpoint.implicit:
                smtp.getreply()
        return Certificate.from_der(der or b"")
    except (OSError, smtplib.SMTPException, CertificateError) as error:
        raise UnansweredError(f"{question} shows no certificate: {error}") from error


def prove(
    expected: Collection[Certificate], questions: Iterable[Question], *, timeout: float
) -> None:
    """Return as soon as every one of *questions* is answered by one of *expected*.

    A process that serves a client from before the change may answer for a while, so ask
    again, for at most *timeout* seconds; then raise `ProofError` for all that failed.
    """
    deadline = time.monotonic() + timeout
    stopped = threading.Event()
    ders = {certificate.der for certificate in expected}

    def ask(question: Question) -> ProofError | None:
        while True:
            left = max(deadline - time.monotonic(), LEAST)
            try:
                seen = leaf(question, timeout=min(left, ATTEMPT))
            except ProofError as error:
                failure = error
            else:
                if seen.der in ders:
                    return None
                failure = ProofError(f"{question} shows the certificate for {seen}")
            if time.monotonic() + PAUSE >= deadline or stopped.wait(PAUSE):
                return failure

    with ThreadPoolExecutor(PARALLEL) as pool:
        try:
            failures = [failure for failure in pool.map(ask, questions) if failure]
        finally:
            stopped.set()  # Ctrl-C need not wait for the deadline
    if failures:
        seen = "; ".join(failure.message for failure in failures)
        wanted = " or ".join(map(str, expected))
        unanswered = any(isinstance(failure, UnansweredError) for failure in failures)
        raise (UnansweredError if unanswered else ProofError)(
            f"{seen}; it should be the one for {wanted}",
            hint='look for "disabling TLS support" in the mail log',
        )


class _Client(smtplib.SMTP):
    """smtplib's client, whose caller makes the connection and the handshake."""

    def __init__(self, timeout: float) -> None:
        # An address literal (RFC 5321, 4.1.3), or smtplib would ask the DNS.
        super().__init__(local_hostname="[127.0.0.1]", timeout=timeout)

    def ask_for_tls(self) -> None:
        self.getreply()
        self.ehlo()
        code, answer = self.docmd("STARTTLS")
        if code != 220:
            said = answer.decode(errors="replace")
            raise smtplib.SMTPException(f"{code} {said}")
        self.file = None  # what is read next comes through TLS
