"""Which certificate a service really shows: a fresh TLS handshake, and nothing less.

It trusts nobody and sends no mail.  Raises `ProofError`, or `UnansweredError`.
STARTTLS is that of RFC 3207, implicit TLS that of RFC 8314, section 3; the server name
is sent as RFC 6066, section 3, says.
"""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from certbot_postfix.errors import (
    AcceptedError,
    CertificateError,
    OtherCertificateError,
    ProgramError,
    ProofError,
    RefusedError,
    UnansweredError,
)
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.system.hostnames import a_labels, is_host
from certbot_postfix.system.programs import run
from certbot_postfix.tls import hello
from certbot_postfix.tls.certificates import Certificate
from certbot_postfix.tls.dialogue import LITERAL, Dialogue, ReplyError
from certbot_postfix.tls.endpoints import Endpoint

# Seconds, at least for one attempt.  smtpd looks up the client's name
# before it greets; a new process loads keys and tables first, and where tlsmgr starts
# anew at that moment, too, it sleeps for a second before it goes on.
LEAST = 3.0

# Seconds until a connection is there: the address is this machine's own, where the
# kernel answers, however busy the service is.  A firewall may drop what is sent to it.
CONNECT = 3.0

# Seconds for a further handshake when no time is left.
SHORT = 0.5

# The replies of who does not know EHLO, and so has no STARTTLS: RFC 5321, 4.1.4.
_NO_EHLO = ("500", "502")

_NO_STARTTLS = "STARTTLS is not offered"

# Which types of key the cipher suites of TLS 1.2 tell apart, and what openssl(1) calls
# the signatures of each; those of EdDSA have the name of the key.
BY_CIPHER = ("RSA", "ECDSA")
_SIGNATURES = {
    "RSA": "RSA-PSS+SHA256:RSA-PSS+SHA384:RSA-PSS+SHA512:RSA+SHA256",
    "ECDSA": "ECDSA+SHA256:ECDSA+SHA384:ECDSA+SHA512",
}


@dataclass(frozen=True, slots=True)
class Question:
    """One handshake to be made: where, and with which server name, if any.

    It should be answered by one of *expected*; if there is none, any will do.  With
    *key_type*, a server with keys of several types is asked for that one, with TLS 1.2.
    Without *tls*, any sign of life will do.  All of an *offer* is to be refused.
    """

    endpoint: Endpoint
    server_name: str | None
    expected: tuple[Certificate, ...] = ()
    key_type: str = ""
    tls: bool = True
    offer: hello.Offer | None = None

    def __str__(self) -> str:
        return f"{self.endpoint}" + (
            f" via SNI {self.server_name}" if self.server_name else ""
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What a service has shown: its leaf certificate, and by which protocol."""

    leaf: Certificate
    protocol: str


def look(question: Question, *, timeout: float) -> Seen:
    """Return what the service presents; all of it may last *timeout* seconds."""
    name = question.server_name and a_labels(question.server_name.lower())
    if name and not is_host(name):  # ssl would raise ValueError for most of these
        raise ProofError(f"{question}: no client can request that name")
    with _dialogue(question, timeout) as dialogue:
        if not question.endpoint.implicit:
            dialogue.begin()
            dialogue.start_tls()
        dialogue.connection.settimeout(dialogue.left())
        with _context(question).wrap_socket(
            dialogue.connection, server_hostname=name
        ) as wrapped:
            der = wrapped.getpeercert(binary_form=True)
            protocol = wrapped.version() or ""
            dialogue.end(wrapped)
        return Seen(Certificate.from_der(der or b""), protocol)


def greet(question: Question, *, timeout: float) -> None:
    """Return if the service lets a client in, whether it has TLS or not."""
    with _dialogue(question, timeout) as dialogue:
        dialogue.begin()
        dialogue.end(dialogue.connection)


def without_tls(question: Question, *, timeout: float) -> str:
    """Return why a client that insists on TLS sends no mail there, "" if it does."""
    try:
        with _dialogue(question, timeout) as dialogue:
            if not question.endpoint.implicit:
                dialogue.begin()
                if not dialogue.offers_tls:
                    dialogue.end(dialogue.connection)
                    return _NO_STARTTLS
            return _handshake_fails(question, dialogue)
    except RefusedError as error:
        if error.reason.startswith(_NO_EHLO):
            return error.reason
        raise


def _handshake_fails(question: Question, dialogue: Dialogue) -> str:
    context = _context(question)
    context.set_ciphers("ALL:@SECLEVEL=0")  # as Postfix, it takes anonymous ones, too
    try:
        if not question.endpoint.implicit:
            dialogue.start_tls()
        dialogue.connection.settimeout(dialogue.left())
        with context.wrap_socket(dialogue.connection) as wrapped:
            dialogue.end(wrapped)
    except (ReplyError, ssl.SSLError) as error:
        return str(error)
    return ""


def distrust(question: Question, ca_file: Path | None, *, timeout: float) -> str:
    """Return why a sender that verifies servers sends no mail there, "" if it does.

    RFC 8461, 4.2: by the CAs in *ca_file*, or those of the system, for the server name
    of *question*, which it sends (7.1), with TLS 1.2 at least (7.2).
    """
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with _dialogue(question, timeout) as dialogue:
        dialogue.begin()
        if not dialogue.offers_tls:
            dialogue.end(dialogue.connection)
            return _NO_STARTTLS
        dialogue.start_tls()
        dialogue.connection.settimeout(dialogue.left())
        try:
            with context.wrap_socket(
                dialogue.connection, server_hostname=question.server_name
            ) as wrapped:
                dialogue.end(wrapped)
        except ssl.SSLCertVerificationError as error:
            return f"its certificate is not valid: {error.verify_message}"
    return ""


def _accepted(question: Question, offer: hello.Offer, timeout: float) -> str:
    """Return what the service accepts of *offer*, empty if it refuses all of it."""
    with _dialogue(question, timeout) as dialogue:
        if not question.endpoint.implicit:
            dialogue.begin()
            dialogue.start_tls()
        dialogue.connection.settimeout(dialogue.left())
        dialogue.connection.sendall(offer.hello())
        return hello.accepted(offer, dialogue.receive)


@contextlib.contextmanager
def _dialogue(question: Question, timeout: float) -> Iterator[Dialogue]:
    endpoint, greeted = question.endpoint, False
    source = (endpoint.source, 0) if endpoint.source else None
    deadline = Deadline(timeout)
    where, patience = (endpoint.host, endpoint.port), min(timeout, CONNECT)
    try:
        with socket.create_connection(where, patience, source) as connection:
            dialogue = Dialogue(connection, deadline)
            try:
                yield dialogue
            finally:
                greeted = dialogue.greeted
    except (OSError, ReplyError, CertificateError, ValueError) as error:
        # An alert in a handshake, too, is a sign of life.  ValueError: ssl's, of a name
        # that is none.
        alert = isinstance(error, ssl.SSLError) and "EOF" not in str(error)
        greeted |= alert or isinstance(error, CertificateError | ValueError)
        raise _failure(question, error, greeted=greeted) from error


def _failure(question: Question, error: Exception, *, greeted: bool) -> ProofError:
    reason = str((isinstance(error, OSError) and error.strerror) or error)
    if isinstance(error, TimeoutError):
        reason = "timed out"  # ssl has words of its own
    refused = isinstance(error, ReplyError) and error.refused
    kind = ProofError if greeted else UnansweredError
    kind = RefusedError if refused else kind
    return kind(f"{question}: {reason}", reason=reason)


def attempt(question: Question, *, timeout: float) -> ProofError | None:
    """Return why there is no certificate, or where none is asked for no greeting."""
    try:
        if question.tls or question.endpoint.implicit:
            look(question, timeout=timeout)
        else:
            greet(question, timeout=timeout)
    except ProofError as error:
        return error
    return None


def ask(question: Question, *, timeout: float) -> ProofError | None:
    """Ask once; return what is wrong with the answer, if anything."""
    if timeout <= 0:
        return UnansweredError(f"{question}: timed out", reason="timed out")
    if not question.tls:
        error = attempt(question, timeout=timeout)
        return error if isinstance(error, UnansweredError) else None
    expected, deadline = question.expected, Deadline(timeout)
    try:
        if question.offer:
            taken = _accepted(question, question.offer, timeout)
            return (
                AcceptedError(f"{question}: {taken}", reason=taken) if taken else None
            )
        seen = look(question, timeout=timeout).leaf
        wanted = {certificate.key_type for certificate in expected}
        if len(wanted) == 1 and seen.key_type not in wanted:
            seen = _of_type(question, wanted.pop(), deadline) or seen
    except ProofError as error:
        return error
    if not expected or seen in expected:
        return None
    reason = f"{seen} instead of {' or '.join(map(str, expected))}"
    return OtherCertificateError(f"{question}: {reason}", reason=reason)


def _of_type(
    question: Question, key_type: str, deadline: Deadline
) -> Certificate | None:
    """Return the leaf that a server with several presents for *key_type*."""
    if key_type in BY_CIPHER:
        with contextlib.suppress(ProofError):  # it may speak nothing but TLS 1.3
            timeout = max(deadline.left, SHORT)
            return look(replace(question, key_type=key_type), timeout=timeout).leaf
    endpoint = question.endpoint
    # Python's ssl cannot choose the signature algorithms before 3.15.
    command = ["openssl", "s_client", "-connect", replace(endpoint, source="").address]
    if endpoint.source:
        command += ["-bind", f"{endpoint.source}:0"]
    if question.server_name:
        command += ["-servername", a_labels(question.server_name)]
    else:
        command += ["-noservername"]
    if not endpoint.implicit:
        command += ["-starttls", "smtp", "-name", LITERAL]
    command += ["-sigalgs", _SIGNATURES.get(key_type, key_type.lower())]
    try:
        timeout = max(deadline.left, SHORT)
        shown = run(command, check=False, timeout=timeout).stdout
        certificates = Certificate.all_from_pem(shown.encode(errors="replace"))
    except (ProgramError, CertificateError):
        return None
    return certificates[0] if certificates else None


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
