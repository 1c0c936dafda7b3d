"""Three instances of Postfix serve one lineage: the gate and a change of its key wait
for the TLSA records of each.

The instances are in the network of a signed zone, where the first one is in the place
that is compiled into Postfix.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certbot_postfix.formats.tlsa import Record
from certbot_postfix.tls.certificates import public_half
from tests.lab import Authority, Certbot, Issued, base_directory, pki
from tests.lab.dane import DOMAIN, finger, published, record
from tests.lab.instances import FIRST, obstacle
from tests.lab.machine import wait_until
from tests.lab.network import Inside, Network
from tests.lab.scene import Done, private, succeeded
from tests.lab.zone import Zone

pytestmark = pytest.mark.postfix

TTL = 1
MIN = ("--tlsa-min-ttl", "0")

NAMES = tuple(f"mx{number}.{DOMAIN}" for number in (1, 2, 3))
OWNERS = tuple(f"_25._tcp.{name}" for name in NAMES)

# The lineage is for a name without records: with DANE, names do not matter.
NAME = f"mail.{DOMAIN}"


class Hosts:
    """The instances, certbot, and the zone."""

    def __init__(self, zone: Zone, base: Path) -> None:
        self.zone, self.network = zone, zone.network
        self.certbot = Certbot(base)
        self.instances = [
            Inside(
                self.network, base / name, hostname=name, address=f"127.0.0.2{place}"
            )
            for place, name in enumerate(NAMES)
        ]
        first, *further = self.instances
        for instance in further:
            instance.set(multi_instance_name=f"postfix-{instance.base.name}")
        listed = ", ".join(str(each.config_dir) for each in further)
        first.set(multi_instance_directories=listed)
        self.network.must("mount", "--bind", str(first.config_dir), str(FIRST))
        self._authority = zone.network.authority

    def close(self) -> None:
        for instance in self.instances:
            instance.close()
        self.network.must("umount", str(FIRST))

    def deploy(self, at: int) -> Record:
        """Have all serve a lineage, whose renewals certbot deploys *at* one of them."""
        issued = self._authority.issue(NAME)
        where = FIRST if at == 0 else self.instances[at].config_dir
        pki.install_lineage(
            self.certbot.config_dir,
            NAME,
            issued,
            postfix_config_dir=str(where),
            postfix_tlsa_min_ttl="0",
            reuse_key="True",
        )
        bundle = self.certbot.bundle(NAME)
        bundle.parent.mkdir(mode=0o700)
        for number, instance in enumerate(self.instances):
            if number:
                own = bundle.parent / quote(str(instance.config_dir), safe="")
                own.mkdir(mode=0o700)
                bundle = own / f"{NAME}.pem"
            instance.postconf("-#", "smtpd_tls_cert_file", "smtpd_tls_key_file")
            instance.set(smtpd_tls_chain_files=str(private(bundle, issued)))
            bundle = self.certbot.bundle(NAME)
            instance.start()
        return record(issued)

    def renew(self, key: bytes = b"") -> Record:
        """Have certbot renew for a new key, or that one; return its record."""
        private_key = load_pem_private_key(key, None) if key else None
        issued = self._authority.issue(NAME, key=private_key)
        pki.renew_lineage(self.certbot.config_dir, NAME, issued)
        return record(issued)

    def publish(self, *records: set[Record]) -> None:
        """Publish the TLSA records of each host."""
        lines = [
            f"{name.split('.')[0]} A {each.address}"
            for name, each in zip(NAMES, self.instances, strict=True)
        ]
        for owner, some in zip(OWNERS, records, strict=True):
            lines += published(*some, name=owner)
        self.zone.publish(*lines, ttl=TTL)

    def command(self, *args: str) -> Done:
        argv = [str(self.certbot.executable.with_name("certbot-postfix"))]
        argv += ["--config-dir", str(self.certbot.config_dir), *args]
        return self.network.run(*argv, env=self.certbot.environment)

    def renewal(self) -> Done:
        return self.network.run(
            *self.certbot.argv("renew"), env=self.certbot.environment
        )

    @property
    def served(self) -> list[Record]:
        """The record of the key that each instance serves."""
        found = []
        for name in NAMES:
            text = finger(self, "-C", "-l", "encrypt", f"[{name}]:25")
            start = text.index("-----BEGIN CERTIFICATE")
            found.append(record(Issued(text[start:].encode(), b"", b"")))
        return found

    @property
    def postfix(self) -> Inside:
        return self.instances[0]


@pytest.fixture(scope="module")
def zone() -> Iterator[Zone]:
    if reason := obstacle():
        pytest.skip(reason)
    with base_directory() as base, ExitStack() as stack:
        network = Network(base, Authority())
        stack.callback(network.close)
        yield Zone(network, DOMAIN)


@pytest.fixture
def hosts(zone: Zone, base: Path) -> Iterator[Hosts]:
    hosts = Hosts(zone, base)
    try:
        yield hosts
    finally:
        hosts.close()


def test_each_instance_serves_a_renewed_key_when_its_own_host_announces_it(hosts):
    old = hosts.deploy(at=1)
    hosts.publish({old}, set(), set())
    new = hosts.renew()

    done = hosts.renewal()

    assert "is held" in succeeded(done)
    assert hosts.served == [old, new, new]
    hosts.publish({old, new}, set(), set())
    wait_until(
        lambda: succeeded(hosts.renewal()) and hosts.served == [new] * 3,
        "all serve the renewed key",
    )


def test_a_key_is_switched_to_when_the_hosts_of_all_instances_announce_it(hosts):
    old = hosts.deploy(at=0)
    hosts.publish({old}, {old}, {old})
    done = hosts.command("tlsa", "stage", *MIN)
    staged = hosts.certbot.bundle(NAME).with_suffix(".next.key").read_bytes()
    new = Record.of_key(public_half(staged))
    printed = [f"{owner}. {TTL} IN TLSA {new}" for owner in OWNERS]
    assert (done.returncode, done.stdout.splitlines()) == (0, printed)
    hosts.publish({old, new}, {old, new}, {old})

    refused = hosts.command("tlsa", "switch", *MIN, "--now")

    assert refused.returncode == 1
    assert f"{OWNERS[2]} does not announce its key" in refused.stderr
    assert hosts.served == [old] * 3
    hosts.publish(*[{old, new}] * 3)
    assert hosts.renew(staged) == new  # as certbot would
    switch = ("tlsa", "switch", *MIN, "--verify-timeout", "20")
    wait_until(lambda: hosts.command(*switch).returncode == 0, "two TTLs are over")
    assert hosts.served == [new] * 3
