"""Three instances of Postfix serve one lineage: the gate and a change of its key wait
for the TLSA records of each.

The instances are in the network of a signed zone, where the first one is in the place
that is compiled into Postfix.  The third one reads the bundle of the first.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import datetime, timedelta, timezone
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

    def deploy(self) -> None:
        """Have all serve a lineage, whose renewals certbot deploys at the second.

        The third reads the bundle of the first.
        """
        issued = self._authority.issue(NAME)
        pki.install_lineage(
            self.certbot.config_dir,
            NAME,
            issued,
            postfix_config_dir=str(self.instances[1].config_dir),
            postfix_tlsa_min_ttl="0",
            reuse_key="True",
        )
        first = self.certbot.bundle(NAME)
        for number, instance in enumerate(self.instances):
            own = quote(str(instance.config_dir), safe="") if number == 1 else ""
            bundle = private(first.parent / own / first.name, issued)
            instance.postconf("-#", "smtpd_tls_cert_file", "smtpd_tls_key_file")
            instance.set(smtpd_tls_chain_files=str(bundle))
            instance.start()

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
    def held(self) -> str | None:
        """Since when the bundle is held that two instances read."""
        path = self.certbot.bundle(NAME).with_suffix(".tlsa.json")
        return json.loads(path.read_text())["held"]

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


@pytest.fixture(scope="module")
def hosts(zone: Zone) -> Iterator[Hosts]:
    """The instances, all of which serve one key; certbot deploys at the second."""
    with base_directory() as base, closing(Hosts(zone, base)) as hosts:
        hosts.deploy()
        hosts.publish(set(), set(), set())
        yield hosts


def wait() -> None:
    """Return when no cache has records from before."""
    over = datetime.now(timezone.utc) + timedelta(seconds=2 * TTL)
    wait_until(lambda: datetime.now(timezone.utc) > over, "two TTLs are over")


def test_each_instance_serves_a_renewed_key_when_its_own_host_announces_it(hosts):
    (old,) = set(hosts.served)
    hosts.publish({old}, set(), set())
    new = hosts.renew()

    done = hosts.renewal()

    assert "is held" in succeeded(done)
    assert hosts.served == [old, new, old]
    since = hosts.held
    hosts.publish({old, new}, set(), set())
    assert "until" in succeeded(hosts.renewal())
    assert (hosts.held, bool(since)) == (since, True)
    wait()
    succeeded(hosts.renewal())
    assert hosts.served == [new] * 3


def test_a_key_is_switched_to_when_the_hosts_of_all_instances_announce_it(hosts):
    (old,) = set(hosts.served)
    hosts.publish(*[{old}] * 3)
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
    hosts.command("tlsa", "advance", *MIN)  # which looks at all of them
    wait()
    assert hosts.renew(staged) == new  # as certbot would
    succeeded(hosts.command("tlsa", "switch", *MIN))
    assert hosts.served == [new] * 3

    # Further instances used the bundle of the first before they had their own.
    hosts.instances[1].set(smtpd_tls_chain_files=str(hosts.certbot.bundle(NAME)))
    hosts.command("tlsa", "advance", *MIN)  # which sees that no one needs the old key
    wait()
    lines = [
        hosts.command("tlsa", "advance", *MIN).stdout.splitlines() for _ in range(2)
    ]
    removed = [f"; remove: {owner}. {TTL} IN TLSA {old}" for owner in OWNERS]
    assert [sorted(each) for each in lines] == [removed, []]


def test_records_that_match_nothing_are_reported_of_each_host_of_a_bundle(hosts):
    (served,), other = (
        set(hosts.served),
        record(hosts.zone.network.authority.issue(NAME)),
    )
    hosts.publish({served}, set(), {served})
    hosts.command("tlsa", "advance", *MIN)  # which looks at all of them
    hosts.publish({other}, set(), {other})
    hosts.renewal()
    wait()  # until no cache has a record of the key that is served

    done = hosts.renewal()

    for owner in (OWNERS[0], OWNERS[2]):
        assert f"TLSA records (DANE) of {owner} do not match" in done.stderr
