"""Clients that come to all services again and again, and what became of each of them.

They do what strict and lenient clients of the world do, with and without a server name,
and know which certificates there are and which is the newest that was deployed.  So a
connection that does not end as it should is a fault of the server; each is counted, by
service, with its reason.  What Postfix has to say is counted from its mail log.
"""

import enum
import errno
import itertools
import json
import random
import re
import smtplib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.lab.machine import LOOPBACK, LabError, wait_until
from tests.lab.pki import Issued
from tests.lab.postfix import SERVICES, STRANGER, PrivatePostfix

# Longer than any wait that is not a fault, with a machine that has much else to do.
_PATIENCE = 60

_MESSAGE = b"Subject: load\r\n\r\nThis is one of many.\r\n"


class Fault(enum.Enum):
    """How a connection can go wrong, in the order of its stages."""

    UNANSWERED = "not answered"
    NO_TLS = "TLS not offered or answered 454"
    HANDSHAKE = "failed handshake"
    WRONG = "wrong certificate"
    STALE = "older certificate than the one deployed"
    ANONYMOUS = "no certificate at all"
    BROKEN = "broken off after the handshake"
    DEFERRED = "message deferred"
    REJECTED = "message rejected"


# What the mail log says if something is wrong; the first that a line has is counted.
# "TLS library problem" follows the warnings above it, and stands alone for a handshake
# that went wrong for a client.
COMPLAINTS = {
    "keys that do not match": "key (values )?mismatch|key .* does not match",
    "TLS switched off": (
        "disabling TLS support|No server certs available|aborting TLS handshake"
        "|TLS won't be enabled|Wrapper-mode request dropped"
    ),
    "anonymous ciphers": r"TLS connection established .* with cipher (ADH|AECDH)-",
    "names without an entry": "not matched, using default chain",
    "TLS library problems": "TLS library problem",
    "handshakes that a client left": "SSL_accept error .*: lost connection",
    "failed handshakes": "SSL_accept error|TLS handshake failed",
    "deferred messages": "status=(deferred|bounced)",
    "other warnings": r"]: (warning|error|fatal|panic): ",
}


def complaint(line: str) -> str | None:
    """Return under which of `COMPLAINTS` a line of the mail log counts, if any."""
    for name, pattern in COMPLAINTS.items():
        if re.search(pattern, line):
            return name
    return None


@dataclass(frozen=True)
class Certified:
    """A lineage that is deployed, with the *hosts* it covers and the *kind* of its key.

    One that is *default* is served to clients that send no server name, too.
    """

    name: str
    hosts: tuple[str, ...]
    kind: str = "ecdsa"
    default: bool = False


@dataclass
class Counts:
    """What became of all connections."""

    handshakes: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    faults: Counter[tuple[Fault, str, str]] = field(default_factory=Counter)
    complaints: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    seconds: float = 0
    longest: float = 0

    def total(self, *faults: Fault) -> int:
        """Return how many connections ended with one of *faults*, or with any."""
        return sum(
            number
            for (fault, _, _), number in self.faults.items()
            if not faults or fault in faults
        )

    def add(self, other: "Counts") -> None:
        """Add what *other* clients counted."""
        self.handshakes += other.handshakes
        self.messages += other.messages
        self.faults += other.faults
        self.longest = max(self.longest, other.longest)

    def lines(self) -> Iterator[str]:
        """Tell it all, what is zero too."""
        total = self.handshakes.total()
        services = ", ".join(
            f"{name} {number}" for name, number in sorted(self.handshakes.items())
        )
        yield f"{total} handshakes in {self.seconds:.0f} s ({services})"
        yield (
            f"{self.messages} messages delivered;"
            f" nobody waited longer than {self.longest:.1f} s for the handshake"
        )
        yield "clients: " + ", ".join(
            f"{fault.value} {self.total(fault)}" for fault in Fault
        )
        yield "mail log: " + ", ".join(
            f"{name} {self.complaints[name]}" for name in COMPLAINTS
        )
        for (fault, service, reason), number in self.faults.most_common():
            yield f"  {number} x {service}: {fault.value}: {reason}"
        for name, line in self.examples.items():
            yield f"  {name}, the first: {line}"


class Load:
    """*clients* that connect to *postfix* as long as the ``with`` lasts.

    Each pauses for *pause* seconds, more or less, before it comes again.

    The lineages and their current certificates are given by `issued`, before a
    certificate can be served, and `deployed`, once it must be.  `counts` is there after
    the ``with``.
    """

    def __init__(
        self,
        postfix: PrivatePostfix,
        root_pem: bytes,
        lineages: Sequence[Certified],
        *,
        clients: int = 8,
        pause: float = 0,
    ) -> None:
        self.postfix = postfix
        self.lineages = lineages
        self.pause = pause
        self.counts = Counts()
        self._root = root_pem.decode()
        self._leaves: dict[bytes, tuple[str, int]] = {}
        self._number = itertools.count(1)
        self._oldest: dict[str, int] = {}
        self._end = threading.Event()
        self._clients = [_Client(self, number) for number in range(clients)]
        self._began = 0.0
        self._log_start = 0

    def issued(self, name: str, issued: Issued) -> None:
        """From now on the lineage *name* may be served as *issued*."""
        der = ssl.PEM_cert_to_DER_cert(issued.cert_pem.decode())
        self._leaves[der] = (name, next(self._number))

    def deployed(self, name: str) -> None:
        """From now on the lineage *name* must be served as it was last issued."""
        newest = max(
            number for lineage, number in self._leaves.values() if lineage == name
        )
        # A new mapping, so that a client can keep the one of its beginning.
        self._oldest = {**self._oldest, name: newest}

    def __enter__(self) -> "Load":
        self._began = time.monotonic()
        self._log_start = self.postfix.maillog.stat().st_size
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for client in self._clients:
            client.join()
        self.counts.seconds = time.monotonic() - self._began
        for client in self._clients:
            self.counts.add(client.counts)
        self._wait_for_the_queue()
        self._read_log()
        for client in self._clients:
            if client.error:
                raise LabError(f"a client died of {client.error!r}") from client.error

    def _wait_for_the_queue(self) -> None:
        """Wait until what was accepted is delivered, or deferred."""

        def done() -> bool:
            listed = self.postfix.command("postqueue", "-j").stdout.splitlines()
            return all(json.loads(line)["queue_name"] == "deferred" for line in listed)

        wait_until(done, "every message had its turn", seconds=_PATIENCE)

    def _read_log(self) -> None:
        self.postfix.flush_log()
        with self.postfix.maillog.open(errors="replace") as log:
            log.seek(self._log_start)
            for line in log:
                if name := complaint(line):
                    self.counts.complaints[name] += 1
                    self.counts.examples.setdefault(name, line.strip())

    @property
    def faults(self) -> set[Fault]:
        """What went wrong so far."""
        return {
            fault
            for client in self._clients
            for fault, _, _ in list(client.counts.faults)
        }

    # For the clients

    @property
    def ended(self) -> bool:
        """Whether no client should connect any more."""
        return self._end.is_set()

    def wait(self, seconds: float) -> None:
        """Return after *seconds*, or when no client should connect any more."""
        self._end.wait(seconds)

    @property
    def oldest(self) -> dict[str, int]:
        """The oldest certificate of each lineage that may be served now."""
        return self._oldest

    @property
    def root(self) -> str:
        """The one certificate that is trusted."""
        return self._root

    def recognise(self, der: bytes) -> tuple[str, int] | None:
        """Return the lineage of a leaf, and its number."""
        return self._leaves.get(der)


@dataclass(frozen=True)
class _Visit:
    """One connection: whereto, as whom, and with which demands."""

    service: str
    stranger: bool
    name: str | None
    demand: str  # a key of _Client.contexts
    expected: frozenset[str]  # the lineages that it may get
    delivers: bool

    @property
    def label(self) -> str:
        return f"{self.service} to strangers" if self.stranger else self.service


class _FaultError(Exception):
    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(fault, reason)
        self.fault = fault
        self.reason = reason


@contextmanager
def _stage(fault: Fault) -> Iterator[None]:
    """Whatever goes wrong in the block is *fault*, but for a certificate refused."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise _FaultError(Fault.WRONG, error.verify_message) from error
    except OSError as error:  # those of ssl and smtplib are, too
        raise _FaultError(fault, _reason(error)) from error


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason
    if error.errno in errno.errorcode and not isinstance(error, ssl.SSLError):
        return errno.errorcode[error.errno]
    return f"{type(error).__name__}: {error}"


def _answered(answer: tuple[int, bytes], wanted: int, fault: Fault) -> None:
    """Raise *fault* unless an *answer* of SMTP has the *wanted* code."""
    code, words = answer
    if code != wanted:
        raise _FaultError(fault, f"{code} {words.decode(errors='replace')}")


def _accepted(answer: tuple[int, bytes]) -> None:
    """Raise what keeps a message from being delivered, unless all is well."""
    temporary = 400 <= answer[0] < 500
    _answered(answer, 250, Fault.DEFERRED if temporary else Fault.REJECTED)


def _bytes(words: bytes | str) -> bytes:
    return words if isinstance(words, bytes) else words.encode()


class _Client(threading.Thread):
    """Connects again and again until the load ends."""

    def __init__(self, load: Load, number: int) -> None:
        super().__init__(name=f"client {number}")
        self.counts = Counts()
        self.error: BaseException | None = None
        self._load = load
        self._random = random.Random(number)
        self._contexts = _contexts(load.root)

    def run(self) -> None:
        try:
            while not self._load.ended:
                self._connect(self._choose())
                # Each at another time, as far as reloads are concerned.
                self._load.wait(self._load.pause * self._random.uniform(0.5, 1.5))
        except BaseException as error:
            self.error = error

    def _choose(self) -> _Visit:
        """Return any of the connections that must succeed."""
        lineages = self._load.lineages
        choice = self._random.choice
        hosts = sorted({host for lineage in lineages for host in lineage.hosts})
        host = choice([None, *hosts])
        meant = [
            lineage
            for lineage in lineages
            if (lineage.default if host is None else host in lineage.hosts)
        ]
        kinds = {lineage.kind for lineage in meant}
        demand = choice(["verified", "opportunistic", *sorted(kinds)])
        service = choice(SERVICES)
        stranger = (
            service == "smtp"
            and self._load.postfix.postscreen
            and choice([True, False])
        )
        return _Visit(
            service=service,
            stranger=stranger,
            name=host and host.replace("*", f"host{self._random.randrange(1000)}"),
            demand=demand,
            expected=frozenset(
                one.name for one in meant if demand not in kinds or one.kind == demand
            ),
            delivers=not stranger and self._random.random() < 0.25,
        )

    def _connect(self, visit: _Visit) -> None:
        try:
            self._go_through(visit)
        except _FaultError as error:
            self.counts.faults[error.fault, visit.label, error.reason] += 1

    def _go_through(self, visit: _Visit) -> None:
        oldest, began = self._load.oldest, time.monotonic()
        with _stage(Fault.UNANSWERED):
            # Only a stranger chooses an address: the kernel finds more ports that way.
            connection = socket.create_connection(
                (LOOPBACK, self._load.postfix.ports[visit.service]),
                timeout=_PATIENCE,
                source_address=(STRANGER, 0) if visit.stranger else None,
            )
        smtp = smtplib.SMTP(local_hostname="client.example.org")
        smtp.sock = connection
        try:
            if visit.service != "submissions":
                self._ask_for_tls(smtp)
            session = self._shake_hands(smtp.sock, visit)
            smtp.sock, smtp.file = session, None
            self.counts.handshakes[visit.label] += 1
            waited = time.monotonic() - began
            self.counts.longest = max(self.counts.longest, waited)
            self._judge(session, visit, oldest)
            self._converse(smtp, visit)
        finally:
            smtp.close()

    def _ask_for_tls(self, smtp: smtplib.SMTP) -> None:
        with _stage(Fault.UNANSWERED):
            _answered(smtp.getreply(), 220, Fault.UNANSWERED)
            _answered(smtp.ehlo(), 250, Fault.UNANSWERED)
        if not smtp.has_extn("starttls"):
            raise _FaultError(Fault.NO_TLS, "STARTTLS is not announced")
        with _stage(Fault.NO_TLS):
            _answered(smtp.docmd("STARTTLS"), 220, Fault.NO_TLS)

    def _shake_hands(self, connection: socket.socket, visit: _Visit) -> ssl.SSLSocket:
        context = self._contexts[visit.demand, visit.name is not None]
        with _stage(Fault.HANDSHAKE):
            return context.wrap_socket(connection, server_hostname=visit.name)

    def _judge(
        self, session: ssl.SSLSocket, visit: _Visit, oldest: dict[str, int]
    ) -> None:
        """Compare the certificate with the lineages; a bad one ends the visit."""
        der, cipher = session.getpeercert(binary_form=True), session.cipher()
        if der is None:
            raise _FaultError(Fault.ANONYMOUS, cipher[0] if cipher else "no cipher")
        known = self._load.recognise(der)
        if known is None:
            raise _FaultError(Fault.WRONG, "one of no lineage")
        name, number = known
        if name not in visit.expected:
            wanted = " or ".join(sorted(visit.expected))
            raise _FaultError(Fault.WRONG, f"{name}, not {wanted}, for {visit.name}")
        if number < oldest.get(name, 0):
            raise _FaultError(Fault.STALE, name)

    def _converse(self, smtp: smtplib.SMTP, visit: _Visit) -> None:
        """Do what comes after a handshake: greet again, deliver perhaps, and leave."""
        with _stage(Fault.BROKEN):
            if visit.service == "submissions":
                _answered(smtp.getreply(), 220, Fault.BROKEN)
            _answered(smtp.ehlo(), 250, Fault.BROKEN)
            if visit.delivers:
                self._deliver(smtp)
            _answered(smtp.docmd("QUIT"), 221, Fault.BROKEN)

    def _deliver(self, smtp: smtplib.SMTP) -> None:
        recipient = f"root@{self._load.postfix.hostname}"
        _accepted(smtp.mail("sender@example.org"))
        _accepted(smtp.rcpt(recipient))
        try:
            _accepted(smtp.data(_MESSAGE))
        except smtplib.SMTPDataError as error:
            _accepted((error.smtp_code, _bytes(error.smtp_error)))
        self.counts.messages += 1


def _contexts(root: str) -> dict[tuple[str, bool], ssl.SSLContext]:
    """Return what clients demand, each with and without a server name."""
    return {
        (demand, named): _context(demand, root, named=named)
        for demand in ("verified", "opportunistic", "rsa", "ecdsa")
        for named in (True, False)
    }


def _context(demand: str, root: str, *, named: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=root)
    # Python checks the name that it sends, only.  Who sends none compares the leaf with
    # those of the default, as everybody does here.
    context.check_hostname = named
    if demand == "opportunistic":
        # What Postfix's client takes at level "may": any certificate, and even none.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("aNULL:-aNULL:HIGH:@STRENGTH:@SECLEVEL=0")
    elif demand != "verified":
        # TLS 1.3 has no ciphers for one type of key.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers({"rsa": "aRSA", "ecdsa": "aECDSA"}[demand])
    return context
