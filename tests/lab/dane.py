"""A host in a signed zone: Postfix, certbot and the product, all in one network."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certbot_postfix.formats.tlsa import Record
from tests.lab.acme import Pebble
from tests.lab.certbot import Certbot
from tests.lab.network import Inside, Network
from tests.lab.pki import Issued
from tests.lab.scene import Done, Scene
from tests.lab.zone import Zone

DOMAIN = "dane.test"
HOST = f"mx.{DOMAIN}"
OWNER = f"_25._tcp.{HOST}"
ADDRESS = "127.0.0.20"


class PebbleInside(Pebble):
    """An ACME server in *network*."""

    def __init__(self, base: Path, network: Network) -> None:
        super().__init__(base)
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
        """Publish the address of the host, and these TLSA *records*."""
        self.zone.publish(f"mx A {ADDRESS}", *published(*records), **how)

    @property
    def remembered(self) -> Path:
        return self.certbot.bundle(HOST).with_suffix(".tlsa.json")


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


@contextmanager
def sampled(host: Host) -> Iterator[list[bool]]:
    """Have a sender try again and again; yield whether it verified the host."""
    samples, ended = [], threading.Event()

    def sample() -> None:
        while not ended.is_set():
            samples.append(verified(host))
            ended.wait(0.5)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
