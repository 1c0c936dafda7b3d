"""``tlsa publish`` and ``withdraw``: a host adds and removes its own TLSA records.

The zone is signed, its primary takes updates, and its secondary gets to know.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certbot_postfix.formats.tlsa import Record
from certbot_postfix.tls.certificates import Certificate
from tests.lab import Authority, Certbot, base_directory, renew_lineage
from tests.lab.dane import DOMAIN, HOST, OWNER, Host, published, record
from tests.lab.machine import wait_until
from tests.lab.network import Network
from tests.lab.primaries import KEYS
from tests.lab.scene import Done
from tests.lab.terminal import converse
from tests.lab.zone import PRIMARY, SECONDARY, Zone

pytestmark = pytest.mark.postfix

NS1, NS2 = f"ns1.{DOMAIN} ({PRIMARY})", f"ns2.{DOMAIN} ({SECONDARY})"
TTL = 1
VERIFIED = "certbot-postfix: verified: every name server has them\n"


@pytest.fixture(scope="module")
def zone() -> Iterator[Zone]:
    with base_directory() as base, ExitStack() as stack:
        network = Network(base, Authority())
        stack.callback(network.close)
        yield Zone(network, DOMAIN, updates=True)


@pytest.fixture(scope="module")
def standing(zone: Zone) -> Iterator[Host]:
    """A host that serves a certificate."""
    with base_directory() as base:
        host = Host(zone, Certbot(base), base)
        try:
            host.key = record(host.lineage(HOST))
            host.stand(HOST)
            host.credentials = base / "rfc2136.ini"
            yield host
        finally:
            host.postfix.close()


@pytest.fixture
def host(standing: Host) -> Host:
    """A host that has no records, and has had none."""
    standing.zone.publish()
    standing.remembered.unlink(missing_ok=True)
    return standing


def publisher(host: Host, key: str = "ours", name: str = "") -> tuple[str, str]:
    """Return the option for updates that this *key* signs, under that *name*."""
    host.credentials.write_text(
        f"dns_rfc2136_server = {PRIMARY}\ndns_rfc2136_name = {name or key}.\n"
        f"dns_rfc2136_secret = {KEYS[key]}\ndns_rfc2136_algorithm = HMAC-SHA256\n"
    )
    host.credentials.chmod(0o600)
    return "--publisher", f"rfc2136:{host.credentials}"


def update(host: Host, verb: str, *options: str) -> Done:
    """Run ``tlsa publish`` or ``withdraw`` with updates."""
    return host.command("tlsa", verb, *publisher(host), *options)


def everywhere(host: Host) -> set[str]:
    """Return the records of the host that both servers have."""
    return host.zone.primary.records(OWNER) & host.zone.secondary.records(OWNER)


def line(of: Record, name: str = OWNER, ttl: int = 3600) -> str:
    return f"{name}. {ttl} IN TLSA {of}"


def test_a_host_begins_with_dane_and_every_server_has_its_record(host):
    done = update(host, "publish")

    assert (done.returncode, done.stderr) == (0, VERIFIED)
    assert done.stdout == f"+ {line(host.key)}\n"
    assert host.show()["records"][0]["servers"] == [NS1, NS2]
    again = update(host, "publish")
    assert (again.returncode, again.stdout) == (0, "")
    assert again.stderr == (
        "certbot-postfix: every name server has the records of this host\n"
    )


def test_without_a_publisher_the_records_are_printed_as_a_zone_file_has_them(host):
    done = host.command("tlsa", "publish")

    assert (done.returncode, done.stdout) == (3, f"{line(host.key)}\n")
    assert done.stderr == (
        "certbot-postfix: publish these records, in addition to the existing ones:\n"
    )


def test_the_record_is_published_where_an_alias_leads(host):
    target = f"tlsa.{DOMAIN}"
    other = record(host.issue(HOST))
    host.zone.publish(f"{OWNER}. CNAME {target}.", *published(other, name=target))

    done = update(host, "publish")

    assert done.stdout == f"+ {line(host.key, target)}\n"
    assert host.zone.secondary.records(target) == {str(host.key), str(other)}


def test_the_records_of_a_wildcard_are_not_hidden_by_a_new_one(host):
    other = record(host.issue(HOST))
    host.zone.publish(*published(other, name=f"*.{HOST}"))

    done = update(host, "publish")

    first, second, *_ = done.stdout.splitlines()  # the wildcard has all ports
    assert (first, second) == (f"+ {line(other)}", f"+ {line(host.key)}")
    assert everywhere(host) == {str(host.key), str(other)}


def test_the_name_of_an_internationalised_host_is_that_of_its_a_labels(host):
    options = ("--tlsa-name", f"bücher.{DOMAIN}")

    done = update(host, "publish", *options)

    owner = f"_25._tcp.xn--bcher-kva.{DOMAIN}"
    assert (done.returncode, done.stderr) == (0, VERIFIED)
    assert f"+ {line(host.key, owner)}" in done.stdout.splitlines()
    assert host.zone.secondary.records(owner) == {str(host.key)}


@pytest.mark.parametrize(
    ("key", "name", "reason"),
    [
        ("ours", "nobody", "it does not know the key nobody., or does not allow it"),
        ("other", "", "it does not know the key other., or does not allow it"),
        ("other", "ours", "it answers BADSIG: its key ours. has another secret"),
    ],
)
def test_an_update_that_is_refused_is_a_failure_that_names_both_causes(
    host, key, name, reason
):
    done = host.command("tlsa", "publish", *publisher(host, key, name))

    assert done.returncode == 1
    assert f"the RFC 2136 server {PRIMARY} could not add {line(host.key)}: " in (
        done.stderr
    )
    assert reason in done.stderr
    assert f"to update TLSA records of {OWNER}" in done.stderr
    assert everywhere(host) == set()


def test_a_publisher_is_not_believed(host, base):
    program = base / "publish"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)

    publish = ("tlsa", "publish", "--publisher", f"command:{program}")

    done = host.command(*publish, "--verify-timeout", "0")
    said = "certbot-postfix: not verified; check with certbot-postfix tlsa show\n"
    assert (done.returncode, done.stderr) == (3, said)

    done = host.command(*publish, "--verify-timeout", "0.1")
    assert done.returncode == 3
    assert done.stderr.startswith(
        f"certbot-postfix: these name servers still lack the new records: {NS1} and"
        f" {NS2}\n"
    )


def test_a_server_that_does_not_answer_is_named(host):
    host.zone.publish(*published(record(host.issue(HOST))))
    host.zone.secondary.stop()
    try:
        done = update(host, "publish", "--verify-timeout", "0.1")
    finally:
        host.zone.secondary.go_on()

    assert done.returncode == 3
    assert f"still lack the new records: {NS2} does not answer\n" in done.stderr


def test_nothing_is_published_in_a_zone_that_is_not_signed_and_it_is_said(host):
    name = "mx.example.insecure"
    host.zone.network.publish(name, "@ A 127.0.0.20")
    host.publish(host.key)

    done = update(host, "publish", "--tlsa-name", name)

    assert (done.returncode, done.stdout) == (3, "")
    assert f"_25._tcp.{name}: DANE needs DNSSEC: sign the zone" in done.stderr


@pytest.mark.parametrize("answer", ["n", "y"])
def test_on_a_terminal_it_is_asked_before_a_record_is_published(host, answer):
    argv = host.argv("tlsa", "publish", *publisher(host))

    said, status = converse(
        host.zone.network.argv(*argv), host.certbot.environment, answer
    )

    assert said.startswith(f"+ {line(host.key)}\nPublish these records? ")
    published = {str(host.key)} if answer == "y" else set()
    assert (status, everywhere(host)) == (0 if published else 1, published)


@pytest.fixture
def renewed(zone: Zone, base: Path) -> Iterator[Host]:
    """A host with a certificate and a renewed one, which it does not serve yet."""
    host = Host(zone, Certbot(base), base)
    host.credentials = base / "rfc2136.ini"
    try:
        host.key = record(host.lineage(HOST))
        host.stand(HOST)
        host.new = record(host.renew(HOST))
        yield host
    finally:
        host.postfix.close()


def test_what_somebody_else_changes_while_the_question_waits_is_kept_and_noticed(
    renewed,
):
    host, theirs = renewed, record(renewed.issue(HOST))
    host.publish(host.key)
    argv = host.argv("tlsa", "publish", *publisher(host))

    said, status = converse(
        host.zone.network.argv(*argv),
        host.certbot.environment,
        "y",
        meanwhile=lambda: host.publish(theirs),
    )

    assert said.startswith(f"+ {line(host.new)}\nPublish these records? ")
    assert (status, everywhere(host)) == (3, {str(theirs), str(host.new)})
    assert f"and these are missing: {line(host.key)}\n" in said


def test_a_key_is_added_waits_and_its_predecessor_goes_but_nobody_elses(renewed):
    host, new = renewed, renewed.new
    other = record(host.issue(HOST))  # of another host with that name
    host.zone.publish(*published(host.key, other), ttl=1)
    at_once = ("--tlsa-min-ttl", "0")
    host.show(*at_once, status=3)
    all_three = {str(host.key), str(new), str(other)}

    done = update(host, "publish", *at_once)
    assert (done.returncode, done.stderr) == (0, VERIFIED)
    assert done.stdout == f"+ {line(new, ttl=1)}\n"  # as those beside it
    assert everywhere(host) == all_three

    done = update(host, "withdraw", *at_once)
    assert done.stderr == (
        "certbot-postfix: there is no record of a former key to remove\n"
    )

    def deployed() -> bool:
        host.command("deploy", "--cert-name", HOST, *at_once)
        chain = Certificate.all_from_pem(host.certbot.bundle(HOST).read_bytes())
        return Record.of_key(chain[0].spki) == new

    bundle = host.certbot.bundle(HOST)
    before = bundle.read_bytes()
    wait_until(deployed, "the new key is served")
    after = bundle.read_bytes()
    # The lab's clock is that of the machine: with the usual minimum, the wait is long.
    done = update(host, "withdraw")
    assert (done.returncode, done.stdout) == (3, "")
    assert f"not removed: {line(host.key, ttl=1)} (kept until " in done.stderr
    assert everywhere(host) == all_three

    time.sleep(2)  # two TTLs
    # While the question waits, the key goes back into service.
    argv = host.argv("tlsa", "withdraw", *publisher(host), *at_once)
    said, status = converse(
        host.zone.network.argv(*argv),
        host.certbot.environment,
        "y",
        meanwhile=lambda: bundle.write_bytes(before),
    )
    assert (status, everywhere(host)) == (3, all_three), said
    assert f"not removed: {line(host.key, ttl=1)}: it is needed again" in said

    bundle.write_bytes(after)
    update(host, "withdraw", *at_once)
    time.sleep(2)
    done = host.command("tlsa", "withdraw", *at_once)
    assert done.stdout == f"; remove: {line(host.key, ttl=1)}\n"
    assert (done.returncode, done.stderr) == (
        3,
        "certbot-postfix: remove these records:\n",
    )
    done = update(host, "withdraw", *at_once)

    assert done.stdout == f"- {line(host.key, ttl=1)}\n"
    assert done.stderr == "certbot-postfix: verified: no name server has them\n"
    assert done.returncode == 0
    assert everywhere(host) == {str(new), str(other)}


@pytest.fixture
def two(zone: Zone, base: Path) -> Iterator[list[Host]]:
    """Two hosts that have one name, each with a key of its own."""
    with ExitStack() as stack:
        hosts: list[Host] = []
        for name in ("first", "second"):
            place = base / name
            place.mkdir()
            host = Host(zone, Certbot(place), place)
            stack.enter_context(closing(host.postfix))
            host.key = record(host.lineage(HOST))
            host.stand(HOST)
            host.credentials = place / "rfc2136.ini"
            hosts.append(host)
        zone.publish(*published(hosts[0].key), ttl=TTL)
        yield hosts


def whose(host: Host, status: int) -> dict[str, str]:
    """Return whose each record is, as *host* says."""
    shown = host.show("--tlsa-min-ttl", "0", status=status)
    return {each["record"]: each["whose"] for each in shown["records"]}


def test_two_hosts_of_one_name_change_keys_and_leave_each_other_s_records(two):
    first, second = two
    for host in two:
        update(host, "publish", "--tlsa-min-ttl", "0")
        path = host.certbot.bundle(HOST).with_suffix(".next.key")
        host.command("tlsa", "stage", *publisher(host), "--tlsa-min-ttl", "0")
        host.private = load_pem_private_key(path.read_bytes(), None)
        host.issued = host.zone.network.authority.issue(HOST, key=host.private)
        host.next = record(host.issued)
    every = {str(key) for host in two for key in (host.key, host.next)}
    wait_until(lambda: everywhere(first) == every, "both servers have all of them")
    assert whose(first, 3) == {
        str(first.key): "in service",
        str(first.next): "next key",
        str(second.key): "not of this server",
        str(second.next): "not of this server",
    }

    second.command("tlsa", "abandon", *publisher(second), "--tlsa-min-ttl", "0")

    every.remove(str(second.next))
    wait_until(lambda: everywhere(first) == every, "only that one is withdrawn")
    time.sleep(2 * TTL)
    renew_lineage(first.certbot.config_dir, HOST, first.issued)
    done = first.command("tlsa", "switch", "--tlsa-min-ttl", "0")
    assert f"the next key of {HOST} is in service" in done.stderr
    update(first, "withdraw", "--tlsa-min-ttl", "0")  # which sees that it is so
    time.sleep(2 * TTL)
    for host in (second, first):
        update(host, "withdraw", "--tlsa-min-ttl", "0")
    assert everywhere(first) == {str(first.next), str(second.key)}
    assert whose(second, 0)[str(first.next)] == "not of this server"
