"""Mail arrives verified, at ``dane`` and ``dane-only``, while keys change.

A Postfix sends through a resolver with a warm cache.  Nobody but certbot, the product
and, where that is said, a reader of what it prints does anything.
"""

import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from certbot_postfix.formats.tlsa import Record
from certbot_postfix.tls import certificates
from certbot_postfix.tls.certificates import Certificate
from tests.lab.certbot import NEWEST, OLDEST
from tests.lab.dane import (
    HOST,
    MIN,
    OWNER,
    TTL,
    Host,
    served,
    verified,
    with_ca,
)
from tests.lab.machine import wait_until
from tests.lab.sampler import Sampler, sampled
from tests.lab.scene import told
from tests.lab.zone import Zone

pytestmark = pytest.mark.postfix

AUTO = ("--postfix-tlsa-roll", "auto", "--postfix-tlsa-roll-every", "0d")

# What a sender takes that knows RSA only.
ONLY_RSA = {
    "smtp_tls_mandatory_protocols": "TLSv1.2",
    "smtp_tls_mandatory_exclude_ciphers": "aECDSA",
}

# Seconds from one renewal to the next: a record that the one finds is known to caches
# when the next comes.
PACE = 2 * TTL + 1


@pytest.fixture
def tell(record_property) -> Callable[[str, Sampler], None]:
    """Have the end of the run say what was counted."""
    return lambda title, sampler: record_property("load", [title, *sampler.lines()])


@pytest.fixture
def host(zone: Zone, base: Path) -> Iterator[Host]:
    """A host that has no certificate yet, and its CA."""
    with with_ca(zone, base) as host:
        yield host


def begin(host: Host, *args: str) -> Record:
    """Obtain a certificate with options, publish its record; return that when known."""
    host.obtain(*args)
    key = host.newest()
    host.publish(key, ttl=TTL)
    wait_until(lambda: verified(host), "the first record is known")
    return key


def turns(most: int, pace: float = PACE) -> Iterator[int]:
    """Yield numbers below *most*, each *pace* seconds after the last."""
    began = time.monotonic()
    for number in range(most):
        pause(began + number * pace - time.monotonic())
        yield number


def pause(seconds: float) -> None:
    """Let DNS forget something, or a clock go on."""
    due = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= due, "it is time")


def at_both(zone: Zone) -> bool:
    """Whether the secondary has what the primary has."""
    return zone.primary.version() == zone.secondary.version()


def renew(host: Host, *args: str) -> str:
    """Run ``certbot renew``; return what it printed."""
    done = host.certbot_in_network("renew", *args)
    assert done.returncode == 0, told(done)
    return done.stdout


def advance(host: Host) -> None:
    """Run what ``certbot renew`` runs when it has ended."""
    rolling = ("--tlsa-roll", "auto", "--tlsa-roll-every", "0d")
    options = (*MIN, *rolling, "--publisher", host.publisher, *host.directories)
    done = host.command("tlsa", "advance", *options)
    assert done.returncode == 0, told(done)


@pytest.mark.parametrize(
    ("executable", "count"),
    [
        pytest.param(NEWEST, 10, id="newest"),
        pytest.param(NEWEST, 100, marks=pytest.mark.soak, id="newest-100"),
        pytest.param(OLDEST, 10, marks=pytest.mark.soak, id="oldest"),
    ],
)
def test_keys_change_by_themselves_and_all_mail_is_verified(
    zone, base, executable, count, tell
):
    with with_ca(zone, base, executable=executable) as host:
        publisher = ("--postfix-tlsa-publisher", host.publisher)
        keys = [begin(host, "--reuse-key", *AUTO, *publisher)]
        host.show(*MIN)

        with sampled(host) as sampler:
            for number in range(2 * count):
                # It is put into service, the next one is published, and that is seen.
                for _ in range(3):
                    # Without certbot's, a step takes a third of the processor's time.
                    renew(host) if number % 5 == 0 else advance(host)
                    wait_until(lambda: at_both(zone), "both servers have the zone")
                if (key := served(host)) != keys[-1]:
                    keys.append(key)
                if len(keys) > count:
                    break
                pause(2 * TTL)

        tell(f"{count} keys that change by themselves (RFC 2136)", sampler)
        assert len(set(keys)) == count + 1
        assert sampler.all_verified(10 * count), sampler
        assert len(zone.primary.records(OWNER)) < 4


def read(host: Host, text: str, **how: int) -> None:
    """Change the records of the zone as *text* says, as a reader of it would."""
    records = before = host.zone.primary.records(OWNER)
    for remove, rdata in re.findall(
        rf"(; remove: )?{OWNER}\. \d+ IN TLSA ((?:\S+ ?){{4}})", text
    ):
        changed = {rdata.strip().lower()}
        records = records - changed if remove else records | changed
    if records != before:
        host.publish(*map(Record.from_text, records), **how)


def roll(host: Host, name: str) -> Record:
    """Change the key of a lineage by commands; return the record of the new one."""
    former = str(host.newest(name))

    def tlsa(verb: str, *args: str) -> bool:
        return host.command("tlsa", verb, *MIN, *args).returncode == 0

    def withdrawn() -> bool:
        tlsa("withdraw", *publisher)
        return former not in host.zone.primary.records(OWNER)

    of, publisher = ("--cert-name", name), ("--publisher", host.publisher)
    assert tlsa("stage", *of, *publisher)
    wait_until(lambda: tlsa("switch", *of, *host.directories), "the next key is served")
    wait_until(withdrawn, "the record of the former key is withdrawn")
    return host.newest(name)


@pytest.mark.soak
def test_an_rsa_key_and_an_ecdsa_key_change_one_after_the_other(host, tell):
    host.obtain("--reuse-key")
    host.obtain("--reuse-key", "--key-type", "rsa", "--cert-name", "rsa")
    old = {host.newest(), host.newest("rsa")}
    host.publish(*old, ttl=TTL)
    wait_until(lambda: verified(host), "the first records are known")

    with sampled(host) as sampler, sampled(host, "rsa", **ONLY_RSA) as with_rsa:
        new = {roll(host, HOST), roll(host, "rsa")}

    tell("an ECDSA and an RSA key, of which senders take either", sampler)
    tell("the same, of which senders take RSA only", with_rsa)
    assert not new & old
    assert host.zone.secondary.records(OWNER) == set(map(str, new))
    assert sampler.all_verified(10), sampler
    assert with_rsa.all_verified(10), with_rsa


@pytest.mark.soak
def test_a_ca_that_is_down_when_a_key_is_due_costs_no_mail(host, tell):
    publisher = ("--postfix-tlsa-publisher", host.publisher)
    old = begin(host, "--reuse-key", *AUTO, *publisher)
    host.show(*MIN)

    with sampled(host) as sampler:
        renew(host)
        host.pebble.stop()
        output = ""
        for _ in turns(9):
            output += told(host.certbot_in_network("renew"))
            if "obtained no certificate" in output:
                break
        assert f"certbot obtained no certificate of {HOST} for the key" in output
        assert (served(host), host.newest()) == (old, old)
        host.pebble.go_on()
        for _ in turns(9):
            renew(host)
            if served(host) != old:
                break

    tell("a CA that is down in a switch", sampler)
    assert served(host) != old
    assert sampler.all_verified(50), sampler


# Seconds that stand for an hour.
HOUR = 1


@pytest.mark.soak
@pytest.mark.parametrize(
    "kept", [True, False], ids=["kept and rolled", "new each time"]
)
def test_certificates_of_six_days_are_renewed_for_a_month_without_loss(
    zone, base, tell, kept
):
    """An hour is a second: one for caches, twelve between renewals, 160 of validity."""
    with with_ca(zone, base, period=160 * HOUR) as host:
        keys = [begin(host, *(("--reuse-key", *AUTO) if kept else ()))]
        host.publish(keys[0], ttl=HOUR)
        host.show(*MIN)
        served_so_far = set()

        with sampled(host) as sampler:
            for _ in turns(60, 12 * HOUR):
                done = host.certbot_in_network("renew")
                assert done.returncode == 0, told(done)
                read(host, done.stdout + done.stderr, ttl=HOUR)
                served_so_far.add(in_service := leaf(host))
                assert in_service.not_after > datetime.now(timezone.utc)
                if (key := served(host)) != keys[-1]:
                    keys.append(key)

        tell(
            f"six-day certificates, {'kept' if kept else 'new'} keys, for a month:"
            f" {len(served_so_far)} certificates, {len(keys)} keys",
            sampler,
        )
        assert len(served_so_far) >= 8
        assert len(set(keys)) >= 8
        assert sampler.all_verified(1000), sampler


def leaf(host: Host) -> Certificate:
    """Return the certificate in service."""
    found = certificates.leaf(host.certbot.bundle(HOST).read_bytes())
    assert found
    return found


@pytest.mark.soak
def test_a_record_that_is_replaced_after_the_renewal_loses_mail(host, tell):
    """As most tools do; for comparison, the same number of keys is rolled."""
    renewals = 10
    begin(host)
    with sampled(host) as naive:
        for _ in turns(renewals):
            renew(host, "--force-renewal", "--postfix-tlsa-ignore")
            host.publish(served(host), ttl=TTL)

    tell(f"{renewals} renewals, after which the record is replaced", naive)
    assert naive.counts["dane", "deferred"] >= renewals
    assert naive.counts["dane-only", "deferred"] >= renewals
