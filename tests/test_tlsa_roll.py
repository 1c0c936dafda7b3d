"""A key changes without an outage: real name servers, certbot, CA and senders."""

import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certbot_postfix.formats.tlsa import Record
from certbot_postfix.tls.certificates import public_half
from tests.lab import Authority, Certbot, base_directory
from tests.lab.dane import DOMAIN, HOST, OWNER, Host, record
from tests.lab.network import Network
from tests.lab.scene import told
from tests.lab.zone import Zone

pytestmark = pytest.mark.postfix

# The TTL of the records, in seconds, and what makes it count as it is.
TTL = 2
MIN = ("--tlsa-min-ttl", "0")


@pytest.fixture(scope="module")
def zone() -> Iterator[Zone]:
    """A signed zone, and a resolver that keeps records for as long as they may."""
    with base_directory() as base, ExitStack() as stack:
        network = Network(base, Authority(), cache=3600)
        stack.callback(network.close)
        yield Zone(network, DOMAIN)


@pytest.fixture
def host(zone: Zone, base: Path) -> Iterator[Host]:
    """A host that serves a certificate, whose key is announced; no CA is there."""
    host = Host(zone, Certbot(base), base)
    with closing(host.postfix):
        host.key = record(host.lineage(HOST))
        host.stand(HOST)
        host.publish(host.key, ttl=TTL)
        yield host


def next_key(host: Host) -> Path:
    return host.certbot.bundle(HOST).with_suffix(".next.pem")


def staged(host: Host) -> Record:
    return Record.of_key(public_half(next_key(host).read_bytes()))


def line(of: Record) -> str:
    return f"{OWNER}. {TTL} IN TLSA {of}\n"


def setting(host: Host, text: str) -> None:
    """Add *text* to what certbot has for renewals."""
    with (host.certbot.config_dir / "renewal" / f"{HOST}.conf").open("a") as file:
        file.write(f"{text}\n")


def test_a_staged_key_waits_in_dns_until_it_is_abandoned(host):
    setting(host, "reuse_key = True")
    bundle = host.certbot.bundle(HOST).read_bytes()

    done = host.command("tlsa", "stage", *MIN)

    assert (done.returncode, done.stdout) == (0, line(staged(host))), told(done)
    assert stat.S_IMODE(next_key(host).stat().st_mode) == 0o600
    assert "PRIVATE" not in told(done)
    assert host.show(*MIN, status=3)["state"] == "staged"
    again = host.command("tlsa", "stage", *MIN)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    host.publish(host.key, staged(host), ttl=TTL)
    shown = host.show(*MIN, status=3)
    assert shown["state"] == "ageing"
    assert [each["whose"] for each in shown["records"]] == ["in service", "next key"]
    assert "tlsa switch puts the next key into service" in shown["next"]

    withdraw = line(staged(host))
    done = host.command("tlsa", "abandon", *MIN)

    assert (done.returncode, done.stdout) == (0, withdraw), told(done)
    assert not next_key(host).exists()
    assert host.certbot.bundle(HOST).read_bytes() == bundle
    done = host.command("tlsa", "abandon", *MIN)
    assert (done.returncode, f"no key is staged for {HOST}" in done.stderr) == (1, True)


def test_the_record_of_another_server_is_never_withdrawn(host):
    theirs = record(host.issue(HOST))
    host.publish(host.key, theirs, ttl=TTL)
    host.command("tlsa", "stage", *MIN)

    done = host.command("tlsa", "abandon", *MIN)

    assert (done.returncode, done.stdout) == (0, ""), told(done)


def test_a_key_that_no_renewal_will_have_is_staged_with_a_warning(host):
    done = host.command("tlsa", "stage", *MIN)

    assert done.returncode == 3
    assert f"certbot makes a new key for each renewal of {HOST}" in done.stderr
    assert "--reuse-key" in done.stderr


def test_a_staged_key_goes_with_the_certificate(host):
    host.command("tlsa", "stage", *MIN)
    assert next_key(host).exists()

    host.command("forget", HOST)

    assert not next_key(host).exists()


def test_a_host_without_dane_reads_both_records_to_begin_with(host):
    host.zone.publish("mx A 127.0.0.20", ttl=TTL)
    setting(host, "reuse_key = True")

    done = host.command("tlsa", "stage", *MIN)

    records = [f"{OWNER}. 3600 IN TLSA {each}" for each in (host.key, staged(host))]
    assert (done.returncode, done.stdout.splitlines()) == (0, records), told(done)
    assert not host.remembered.exists()


def test_the_next_key_is_of_the_kind_that_certbot_has_for_the_certificate(host):
    host.certbot.bundle(HOST).unlink()
    host.lineage("rsa", HOST, kind="rsa")
    host.stand("rsa")
    conf = host.certbot.config_dir / "renewal" / "rsa.conf"
    settings = "reuse_key = True\nkey_type = rsa\nrsa_key_size = 3072\n"
    conf.write_text(conf.read_text() + settings)

    done = host.command("tlsa", "stage", *MIN)

    path = host.certbot.bundle("rsa").with_suffix(".next.pem")
    key = load_pem_private_key(path.read_bytes(), None)
    assert (done.returncode, key.key_size) == (0, 3072), told(done)
