"""A host in a signed zone: Postfix, certbot and the product, all in one network."""

import json
import subprocess
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
