"""Clients that want a certificate for a name, and mail that flows."""

import contextlib
import itertools
import re
import smtplib
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Collection, Iterator

from cryptography import x509

from tests.lab import (
    PrivatePostfix,
)
from tests.lab.machine import LOOPBACK
from tests.lab.postfix import SERVICES, STRANGER
from tests.lab.scene import NAME

# How a new connection comes to the server: to which service, and from which address.
ROADS = [(service, LOOPBACK) for service in SERVICES]


SCREENED = [*ROADS, ("smtp", STRANGER)]


class Asking(ssl.SSLContext):
    """What a client demands who asks for the server *name*, if any."""

    name: str | None = None
    kind = ""  # of key, if it knows only one

    def wrap_socket(self, sock, *args, server_hostname=None, **kwargs):
        return super().wrap_socket(sock, *args, server_hostname=self.name, **kwargs)


def asking(name: str | None, *, kind: str = "", trusted: bytes = b"") -> Asking:
    """Return a client's demands; without *trusted* issuers it takes any certificate.

    With *kind*, it knows only one kind of key.
    """
    context = Asking(ssl.PROTOCOL_TLS_CLIENT)
    context.name, context.kind = name, kind
    if trusted:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=trusted.decode())
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if kind:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"a{kind.upper()}:!aNULL")
    return context


@contextlib.contextmanager
def session(
    postfix: PrivatePostfix, service: str, demands: Asking, client: str = LOOPBACK
) -> Iterator[smtplib.SMTP]:
    """Yield an SMTP session with TLS, from the address *client*."""
    port = postfix.ports[service]
    source = None if client == LOOPBACK else (client, 0)
    with contextlib.ExitStack() as stack:
        if service == "submissions":
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(
                LOOPBACK, port, "client.example.org", timeout=60, context=demands
            )
        else:
            smtp = smtplib.SMTP(
                LOOPBACK, port, "client.example.org", 60, source_address=source
            )
        stack.enter_context(smtp)
        if service != "submissions":
            smtp.starttls(context=demands)
        yield smtp


def leaf(
    postfix: PrivatePostfix,
    name: str | None = None,
    *,
    service: str = "smtp",
    client: str = LOOPBACK,
    kind: str = "",
) -> x509.Certificate:
    """Return the certificate that is shown to who asks for *name*, or for none."""
    with session(postfix, service, asking(name, kind=kind), client) as smtp:
        der = smtp.sock.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der)


def everywhere(
    postfix: PrivatePostfix,
    name: str | None = None,
    *,
    kind: str = "",
    roads: Collection[tuple[str, str]] = ROADS,
) -> x509.Certificate:
    """Return the certificate that is shown on all *roads*, which must be the same."""
    (shown,) = {
        leaf(postfix, name, service=service, client=client, kind=kind)
        for service, client in roads
    }
    return shown


def negotiate(
    postfix: PrivatePostfix, service: str, *args: str, client: str = LOOPBACK
) -> str:
    """Return protocol and cipher of a handshake of OpenSSL's, empty if it fails.

    It comes from the address *client*.
    """
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"{LOOPBACK}:{postfix.ports[service]}",
        "-bind",
        f"{client}:0",
    ]
    if service != "submissions":
        command += ["-starttls", "smtp"]
    done = subprocess.run(
        [*command, *args],
        check=False,
        input="QUIT\r\n",
        capture_output=True,
        text=True,
        timeout=30,
    )
    found = re.search(r"^New, .*Cipher is (\S+)$", done.stdout, re.MULTILINE)
    if not found or found[1] == "(NONE)":
        return ""
    protocol = re.search(r"^\s+Protocol\s+: (\S+)$", done.stdout, re.MULTILINE)
    return f"{protocol[1] if protocol else 'TLSv1.3'} {found[1]}"


class Mail(threading.Thread):
    """Delivers two messages a second to services in turn while the ``with`` lasts.

    The certificate must stand up to each of *demands*.
    """

    def __init__(self, postfix: PrivatePostfix, demands: Collection[Asking]) -> None:
        super().__init__()
        self.demands = demands
        self.delivered: Counter[tuple[str, str | None]] = Counter()
        self.failed: list[str] = []
        self._postfix = postfix
        self._tried: Counter[tuple[str, str | None, str]] = Counter()
        self._end = threading.Event()

    def __enter__(self) -> "Mail":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        while not self._end.wait(0.5):
            ways = itertools.product(SERVICES, list(self.demands))
            if way := min(ways, key=self._tries, default=None):
                self._deliver(*way)

    def _tries(self, way: tuple[str, Asking]) -> int:
        service, demands = way
        return self._tried[service, demands.name, demands.kind]

    def deliver(self) -> None:
        """Deliver a message on each way."""
        for service, demands in itertools.product(SERVICES, list(self.demands)):
            self._deliver(service, demands)

    def _deliver(self, service: str, demands: Asking) -> None:
        self._tried[service, demands.name, demands.kind] += 1
        try:
            with session(self._postfix, service, demands) as smtp:
                smtp.sendmail(
                    "sender@example.org", f"root@{NAME}", "Subject: test\n\nText.\n"
                )
            self.delivered[service, demands.name] += 1
        except (OSError, smtplib.SMTPException) as error:
            self.failed.append(f"{service}, {demands.name}: {error!r}")
