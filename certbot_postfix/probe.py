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
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from certbot_postfix.certificates import Certificate
from certbot_postfix.configuration import Endpoint
from certbot_postfix.errors import (
    CertificateError,
    ProgramError,
    ProofError,
    UnansweredError,
)
from certbot_postfix.programs import run

# Seconds: at most and at least for one attempt, and between two.  smtpd looks up the
# client's name before it greets; a new process loads keys and tables first, and where
# tlsmgr starts anew at that moment, too, it sleeps for a second before it goes on.
ATTEMPT = 10.0
LEAST = 3.0
PAUSE = 0.1

# Side by side; a small server allows few smtpd processes.
PARALLEL = 8

# The client's name is an address literal (RFC 5321, 4.1.3): smtplib would ask the DNS.
LITERAL = "[127.0.0.1]"

# Which types of key the cipher suites of TLS 1.2 tell apart, and what openssl(1) calls
# the signatures of each; those of EdDSA have the name of the key.
_BY_CIPHER = ("RSA", "ECDSA")
_SIGNATURES = {
    "RSA": "RSA-PSS+SHA256:RSA-PSS+SHA384:RSA-PSS+SHA512:RSA+SHA256",
    "ECDSA": "ECDSA+SHA256:ECDSA+SHA384:ECDSA+SHA512",
}

# How many failures an error tells one by one.
MENTIONED = 10


@dataclass(frozen=True, slots=True)
class Question:
    """One handshake to be made: where, and with which server name, if any.

    It should be answered by one of *expected*; if there is none, any will do.  With
    *key_type*, a server with keys of several types is asked for that one.
    """

    endpoint: Endpoint
    server_name: str | None
    expected: tuple[Certificate, ...] = ()
    key_type: str = ""

    def __str__(self) -> str:
        return f"{self.endpoint}" + (
            f" asked for {self.server_name}" if self.server_name else ""
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What a service has shown: its leaf certificate, and by which protocol."""

    leaf: Certificate
    protocol: str


def look(question: Question, *, timeout: float) -> Seen:
    """Return what the service shows within *timeout* seconds."""
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
                protocol = wrapped.version() or ""
                smtp.part(wrapped, greeted=greeted)
        return Seen(Certificate.from_der(der or b""), protocol)
    except (OSError, smtplib.SMTPException, CertificateError) as error:
        told = f"{question} shows no certificate: {error}"
        # An alert in a handshake, too, is a sign of life.
        if greeted or (isinstance(error, ssl.SSLError) and "EOF" not in str(error)):
            raise ProofError(told) from error
        raise UnansweredError(told) from error


def prove(questions: Collection[Question], *, timeout: float) -> None:
    """Return as soon as every one of *questions* is answered as expected.

    A process that serves a client from before the change may answer for a while, so
    ask again, for at most *timeout* seconds; then raise `ProofError` for all that
    failed, `UnansweredError` if one did not even greet.
    """
    deadline = time.monotonic() + timeout
    stopped = threading.Event()

    def ask(question: Question) -> ProofError | None:
        while True:
            left = max(deadline - time.monotonic(), LEAST)
            failure = _answer(question, min(left, ATTEMPT))
            late = time.monotonic() + PAUSE >= deadline
            if not failure or late or stopped.wait(PAUSE):
                return failure

    with ThreadPoolExecutor(PARALLEL) as pool:
        try:
            failures = [failure for failure in pool.map(ask, questions) if failure]
        finally:
            stopped.set()  # Ctrl-C need not wait for the deadline
    if failures:
        raise _summary(failures)


def showing(questions: Collection[Question], *, timeout: float) -> frozenset[str]:
    """Return the names of the services that answer as expected now."""

    def ask(question: Question) -> str:
        failure = _answer(question, timeout)
        return "" if failure else question.endpoint.service

    with ThreadPoolExecutor(PARALLEL) as pool:
        return frozenset(filter(None, pool.map(ask, questions)))


def _answer(question: Question, timeout: float) -> ProofError | None:
    """Ask once; return what is wrong with the answer."""
    expected = question.expected
    try:
        seen = look(question, timeout=timeout).leaf
        wanted = {certificate.key_type for certificate in expected}
        if len(wanted) == 1 and seen.key_type not in wanted:
            seen = _of_type(question, wanted.pop(), timeout) or seen
    except ProofError as error:
        return error
    if not expected or seen in expected:
        return None
    wished = " or ".join(map(str, expected))
    return ProofError(
        f"{question} shows the certificate for {seen} instead of {wished}"
    )


def _of_type(question: Question, key_type: str, timeout: float) -> Certificate | None:
    """Return the leaf that a server with several shows to who wants *key_type*."""
    if key_type in _BY_CIPHER:
        with contextlib.suppress(ProofError):  # it may speak nothing but TLS 1.3
            return look(replace(question, key_type=key_type), timeout=timeout).leaf
    endpoint = question.endpoint
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    # Python's ssl cannot choose the signature algorithms before 3.15.
    command = ["openssl", "s_client", "-connect", f"{host}:{endpoint.port}"]
    if question.server_name:
        command += ["-servername", question.server_name]
    else:
        command += ["-noservername"]
    if not endpoint.implicit:
        command += ["-starttls", "smtp", "-name", LITERAL]
    command += ["-sigalgs", _SIGNATURES.get(key_type, key_type.lower())]
    try:
        shown = run(command, check=False, timeout=timeout).stdout
        found = Certificate.all_from_pem(shown.encode(errors="replace"))
    except (ProgramError, CertificateError):
        return None
    return found[0] if found else None


def _summary(failures: Sequence[ProofError]) -> ProofError:
    told = "; ".join(failure.message for failure in failures[:MENTIONED])
    if len(failures) > MENTIONED:
        told += f"; and {len(failures) - MENTIONED} more of the kind"
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
        super().__init__(local_hostname=LITERAL, timeout=timeout)
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
