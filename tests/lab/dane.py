"""A host in a signed zone: Postfix, certbot and the product, all in one network."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certbot_postfix.formats.tlsa import Record
from tests.lab.acme import Pebble
from tests.lab.certbot import NEWEST, Certbot
from tests.lab.network import RESOLVER, Inside, Network
from tests.lab.pki import Issued
from tests.lab.primaries import KEYS
from tests.lab.scene import Done, Scene, options, told
from tests.lab.zone import PRIMARY, Zone

DOMAIN = "dane.test"
HOST = f"mx.{DOMAIN}"
OWNER = f"_25._tcp.{HOST}"
ADDRESS = "127.0.0.20"

# The TTL of the records, in seconds, and what makes it count as it is.
TTL = 2
MIN = ("--tlsa-min-ttl", "0")
QUICK = ("--postfix-tlsa-min-ttl", "0")

# The domains of which the host is the MX, by the level at which mail is sent to them.
LEVELS = {"dane": DOMAIN, "dane-only": f"only.{DOMAIN}"}


class PebbleInside(Pebble):
    """An ACME server in *network*."""

    def __init__(self, base: Path, network: Network, **how: int) -> None:
        super().__init__(base, **how)
        self._network = network

    def argv(self, *command: str) -> list[str]:
        return self._network.argv(*command)

    def accepts(self, port: int) -> bool:
        return f":{port} " in self._network.run("ss", "-Hlnt").stdout


class Host(Scene):
    """A host of the zone, on which the product runs."""

    def __init__(self, zone: Zone, certbot: Certbot, base: Path) -> None:
        self.zone = zone
        postfix = Inside(zone.network, base / "postfix", hostname=HOST, address=ADDRESS)
        super().__init__(postfix, certbot, zone.network.authority)

    def run(self, argv: list[str], **environment: str) -> subprocess.CompletedProcess:
        env = {**self.certbot.environment, **environment}
        return self.zone.network.run(*argv, env=env)

    def show(
        self, *options: str, status: int = 0, owner: str = OWNER
    ) -> dict[str, Any]:
        """Return what ``tlsa show``, which ends with *status*, says of *owner*."""
        done = self.command("tlsa", "show", "--json", *options)
        assert (done.returncode, done.stderr) == (status, ""), done.stderr
        endpoints = json.loads(done.stdout)["endpoints"]
        return next(each for each in endpoints if each["owner"] == owner)

    def certbot_in_network(self, *args: str) -> Done:
        """Run certbot in the network; whether it fails is a result."""
        return self.run(self.certbot.argv(*args))

    def publish(self, *records: Record, **how: Any) -> None:
        """Publish the address of the host, its domains, and these TLSA *records*."""
        mail = (f"{domain}. MX 10 mx" for domain in LEVELS.values())
        self.zone.publish(*mail, f"mx A {ADDRESS}", *published(*records), **how)

    def cached(self, what: str = "IN TLSA") -> bool:
        """Whether the resolver has TLSA records of the host, those with *what*."""
        ask = f"dns.ask('{RESOLVER}', '{OWNER}', 'TLSA', 5)"
        script = f"from certbot_postfix.system import dns; print({ask}.answer)"
        return what in self.zone.network.must(sys.executable, "-c", script).stdout

    @property
    def remembered(self) -> Path:
        return self.certbot.bundle(HOST).with_suffix(".tlsa.json")

    def newest(self, lineage: str = HOST) -> Record:
        """Return the record of the key for which certbot has a certificate."""
        return record(Issued(self.live(lineage).fullchain.read_bytes(), b"", b""))

    def obtain(self, *args: str) -> None:
        """Have certbot obtain and install a certificate, whose options it saves."""
        run = ("run", "-a", "standalone", *options(self.postfix), "-d", HOST, *QUICK)
        done = self.certbot_in_network(*run, *args)
        assert done.returncode == 0, told(done)

    @property
    def directories(self) -> tuple[str, ...]:
        """The options for those of certbot that a command has certbot use."""
        certbot = self.certbot
        work = ("--work-dir", str(certbot.work_dir))
        return (*work, "--logs-dir", str(certbot.logs_dir))

    @property
    def publisher(self) -> str:
        """What publishes records by dynamic updates."""
        path = self.postfix.base.with_name("rfc2136.ini")
        path.touch(mode=0o600)
        path.write_text(
            f"dns_rfc2136_server = {PRIMARY}\ndns_rfc2136_name = ours.\n"
            f"dns_rfc2136_secret = {KEYS['ours']}\n"
            "dns_rfc2136_algorithm = HMAC-SHA256\n"
        )
        return f"rfc2136:{path}"


@contextmanager
def with_ca(
    zone: Zone, base: Path, *, executable: Path = NEWEST, **how: int
) -> Iterator[Host]:
    """Yield a host without certificate and records, and its CA; its Postfix runs."""
    with PebbleInside(base, zone.network, **how) as pebble:
        certbot = Certbot(base, pebble=pebble, executable=executable)
        host = Host(zone, certbot, base)
        host.pebble = pebble
        with closing(host.postfix):
            host.publish(ttl=TTL)
            host.postfix.start()
            yield host


def record(issued: Issued) -> Record:
    public = x509.load_pem_x509_certificate(issued.cert_pem).public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Record.of_key(spki)


def published(*records: Record | str, name: str = OWNER) -> list[str]:
    return [f"{name}. TLSA {each}" for each in records]


def finger(host: Host, *args: str) -> str:
    """Return what posttls-finger(1) says, which asks the resolver of the network."""
    env = {"MAIL_CONFIG": str(host.postfix.config_dir), "PATH": "/usr/sbin:/usr/bin"}
    done = host.zone.network.run("posttls-finger", "-c", *args, env=env)
    return done.stdout + done.stderr


def served(host: Host) -> Record:
    """Return the record of the key that Postfix serves."""
    text = finger(host, "-C", "-l", "encrypt", f"[{HOST}]:25")
    start = text.index("-----BEGIN CERTIFICATE")
    return record(Issued(text[start:].encode(), b"", b""))


def verified(host: Host) -> bool:
    """Whether a sender that does DANE verifies the host, through the warm cache."""
    text = finger(host, "-l", "dane", "-L", "summary", HOST)
    return "Verified TLS connection" in text
