"""``tlsa show`` says which records should exist, which server has them, and what next.

Each name server is a real one, that fails in a way of its own.
"""

import json
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from certbot_postfix.formats.tlsa import Record
from tests.lab import Authority, Certbot, base_directory
from tests.lab.dane import DOMAIN, HOST, OWNER, Host, published, record
from tests.lab.network import NAMES, Network
from tests.lab.zone import FORGER, PRIMARY, SECONDARY, NameServer, Zone

pytestmark = pytest.mark.postfix

NS1, NS2 = f"ns1.{DOMAIN} ({PRIMARY})", f"ns2.{DOMAIN} ({SECONDARY})"


@pytest.fixture(scope="module")
def zone() -> Iterator[Zone]:
    """A signed zone with two servers, in a network with a resolver that validates."""
    with base_directory() as base, ExitStack() as stack:
        network = Network(base, Authority())
        stack.callback(network.close)
        yield Zone(network, DOMAIN)


@pytest.fixture
def host(zone: Zone, base: Path) -> Iterator[Host]:
    """A host that serves a certificate; all name servers are well, without records."""
    zone.publish()
    host = Host(zone, Certbot(base), base)
    try:
        host.key = record(host.lineage(HOST))
        host.stand(HOST)
        yield host
    finally:
        host.postfix.close()


@pytest.fixture(scope="module")
def forger(zone: Zone) -> NameServer:
    """A server that signs the zone with a key of its own."""
    return NameServer(zone.network, DOMAIN, FORGER, signs=True)


def test_a_host_without_dane_reads_which_record_to_begin_with(host):
    done = host.command("tlsa", "show")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{OWNER}: none",
        f"  {host.key}",
        "    in service, not published",
        "  Next: to begin with DANE, publish this record if the host is an MX.",
    ]
    assert not host.remembered.exists()


def test_what_is_printed_for_a_zone_file_can_be_published(host):
    lines = host.command("tlsa", "show", "--bind").stdout.splitlines()

    host.zone.publish(*lines)

    shown = host.show()
    assert (shown["state"], shown["dnssec"]) == ("steady", "secure")
    assert shown["records"] == [
        {
            "record": str(host.key),
            "whose": "in service",
            "servers": [NS1, NS2],
            "missing": [],
            "since": None,
            "ttl": 3600,
            "remark": "",
        }
    ]
    assert shown["next"] == "nothing to do"


def test_what_is_remembered_is_private_and_has_no_key(host):
    host.zone.publish(*published(host.key))
    host.show()

    assert stat.S_IMODE(host.remembered.stat().st_mode) == 0o600
    assert "PRIVATE" not in host.remembered.read_text()
    assert json.loads(host.remembered.read_text())["endpoints"].keys() == {OWNER}


def test_what_is_remembered_goes_with_the_certificate(host):
    host.zone.publish(*published(host.key))
    host.show()

    done = host.command("forget", HOST)

    assert done.stderr.endswith(f"removed {host.certbot.bundle(HOST)}\n")
    assert not host.remembered.exists()


def test_a_renewed_key_has_to_be_published_at_every_server(host):
    host.zone.publish(*published(host.key))
    new = record(host.renew(HOST))
    assert host.show(status=3)["state"] == "held"

    host.zone.publish(*published(host.key, new), late=True)

    shown = host.show(status=3)
    assert shown["state"] == "held"
    assert shown["next"].endswith(f"; not announced by {NS2}")
    assert [(each["whose"], each["missing"]) for each in shown["records"]] == [
        ("in service", []),
        ("renewed", [NS2]),
    ]
    assert reported(host, "tlsa-servers").endswith(f": {NS2} lacks {new}")


def test_a_renewed_key_that_every_server_has_waits_for_two_ttls(host):
    host.zone.publish(*published(host.key), ttl=1)
    new = record(host.renew(HOST))
    host.show(status=3)
    host.zone.publish(*published(host.key, new), ttl=1)

    shown = host.show("--tlsa-min-ttl", "0", status=3)

    assert shown["state"] == "ageing"
    assert shown["until"] > shown["records"][1]["since"]


def test_records_of_other_keys_are_a_mismatch(host):
    other = record(host.issue(HOST))
    host.zone.publish(*published(other))

    shown = host.show(status=3)

    assert shown["state"] == "mismatch"
    assert [each["whose"] for each in shown["records"]] == [
        "in service",
        "not of this server",
    ]


def test_both_keys_of_a_host_must_be_announced(host):
    rsa = record(host.lineage("rsa", HOST, kind="rsa"))
    host.stand(HOST, "rsa")
    host.zone.publish(*published(host.key))
    done = host.command("tlsa", "show")
    assert done.returncode == 3
    assert f"{OWNER}, certificate {HOST}: steady" in done.stdout
    assert f"{OWNER}, certificate rsa: mismatch" in done.stdout

    lines = host.command("tlsa", "show", "--bind").stdout.splitlines()
    assert [line.partition(" TLSA ")[2] for line in lines] == [str(host.key), str(rsa)]
    host.zone.publish(*lines)

    text = host.command("tlsa", "show").stdout
    assert f"{OWNER}, certificate {HOST}: steady" in text
    assert f"{OWNER}, certificate rsa: ageing" in text  # caches lack its record


def test_records_in_a_zone_that_is_not_signed_are_none(host):
    name = "mx.example.insecure"
    other = record(host.issue(name))
    host.zone.network.publish(name, f"_25._tcp TLSA {other}")

    shown = host.show("--tlsa-name", name, owner=f"_25._tcp.{name}")

    assert (shown["state"], shown["dnssec"]) == ("none", "insecure")
    assert shown["next"].startswith("DANE needs DNSSEC: sign the zone, since senders ")
    assert reported(host, "tlsa-unsigned").startswith("senders ignore the TLSA records")
    host.zone.network.publish(name, f"_25._tcp A {PRIMARY}")
    host.show("--tlsa-name", name, owner=f"_25._tcp.{name}")
    assert not reported(host, "tlsa-unsigned")


def test_without_a_resolver_that_validates_it_is_not_known_whether_to_sign(host):
    shown = host.show("--dane-resolver", PRIMARY)

    assert (shown["state"], shown["dnssec"]) == ("none", "insecure")
    assert "no resolver of this machine validates" in shown["next"]
    assert "sign the zone" not in shown["next"]


def test_a_host_name_of_one_label_has_no_records(host):
    done = host.command("tlsa", "show", "--bind", "--tlsa-name", "snakeoil")

    assert done.stdout == f"{OWNER}. 3600 IN TLSA {host.key}\n"


def test_an_alias_is_followed_to_where_the_records_are(host):
    target = f"tlsa.{DOMAIN}"
    host.zone.publish(f"{OWNER}. CNAME {target}.", *published(host.key, name=target))

    shown = host.show()

    assert (shown["state"], shown["target"]) == ("steady", target)
    lines = host.command("tlsa", "show", "--bind").stdout.splitlines()
    assert lines == [f"{target}. 3600 IN TLSA {host.key}"]


def test_records_that_are_too_many_for_udp_are_read_over_tcp(host):
    others = [Record.of_key(bytes([number])) for number in range(40)]
    host.zone.publish(*published(host.key, *others))

    shown = host.show()

    assert shown["records"][0]["servers"] == [NS1, NS2]
    assert len(shown["records"]) == 41


def test_the_records_of_a_wildcard_count(host):
    host.zone.publish(*published(host.key, name=f"*.{HOST}"))

    assert host.show()["state"] == "steady"


def serve_submissions(host: Host) -> None:
    service = "465 inet n - n - - smtpd -o smtpd_tls_wrappermode=yes"
    host.postfix.postconf("-M", f"465/inet={service}")
    host.postfix.settle()


def test_submission_counts_where_it_has_records_and_a_wildcard_has_none(host):
    host.lineage("wild", f"*.{DOMAIN}", HOST)
    host.stand("wild")
    serve_submissions(host)
    other, at = record(host.issue(HOST)), f"_465._tcp.{HOST}"
    host.zone.publish(*published(other, name=at))

    done = host.command("tlsa", "show", "--json")

    endpoints = json.loads(done.stdout)["endpoints"]
    states = {each["owner"]: each["state"] for each in endpoints}
    assert (done.returncode, states) == (3, {OWNER: "none", at: "mismatch"})


def test_records_at_a_port_of_another_program_are_its_own_and_hold_nothing(host):
    theirs, at = record(host.issue(HOST)), f"_465._tcp.{HOST}"
    host.zone.publish(*published(host.key), *published(theirs, name=at), ttl=1)

    shown = host.show(owner=at)

    assert (shown["state"], shown["next"]) == (
        "foreign",
        "nothing to do: the records are not of this server",
    )
    assert [each["whose"] for each in shown["records"]][-1] == "not of this server"
    assert str(theirs) not in host.command("tlsa", "show", "--bind").stdout
    staged = host.command("tlsa", "stage").stdout.splitlines()
    assert [line.partition(" ")[0] for line in staged] == [f"{OWNER}."]
    renewed = record(host.renew(HOST))
    host.zone.publish(*published(host.key, renewed), *published(theirs, name=at), ttl=1)
    host.show("--tlsa-min-ttl", "0", status=3)
    assert host.show("--tlsa-min-ttl", "0", owner=at, status=3)["state"] == "foreign"
    serve_submissions(host)
    assert host.show(owner=at, status=3)["state"] == "mismatch"


def test_a_zone_of_which_the_resolver_finds_no_server_is_unknown(host):
    host.zone.network.publish("lame.test", f"@ NS ns1.{DOMAIN}.")

    owner = "_25._tcp.mx.lame.test"
    shown = host.show("--tlsa-name", "mx.lame.test", owner=owner, status=3)

    assert (shown["state"], shown["dnssec"]) == ("unknown", "unknown")
    assert shown["next"] == "not known: the resolver answers SERVFAIL"


def reported(host: Host, code: str) -> str:
    """Return the message of the finding *code* of ``status``, "" if it has none."""
    findings = json.loads(host.command("status", "--json").stdout)["findings"]
    return next((each["message"] for each in findings if each["code"] == code), "")


def held(host: Host, fault: str) -> None:
    """Expect that a renewed key is held, and the second server named with *fault*."""
    shown = host.show(status=3)
    assert shown["state"] == "held"
    assert shown["next"].partition("; ")[2] == f"not announced by {fault}"


@pytest.fixture
def renewed(host: Host) -> Host:
    """As `host`, whose new key is announced."""
    host.zone.publish(*published(host.key))
    host.show()
    host.records = published(host.key, record(host.renew(HOST)))
    host.zone.publish(*host.records)
    return host


def test_a_server_that_hangs_is_named(renewed):
    renewed.zone.secondary.stop()
    try:
        held(renewed, f"{NS2} does not answer")
        assert reported(renewed, "tlsa-servers").endswith(f": {NS2} does not answer")
    finally:
        renewed.zone.secondary.go_on()


def test_a_server_that_does_not_have_the_zone_is_named(renewed):
    renewed.zone.publish(*renewed.records, second=NAMES)

    fault = "does not have the zone: its answer is not authoritative"
    held(renewed, f"ns2.{DOMAIN} ({NAMES}) {fault}")


def test_a_server_that_signs_with_another_key_is_named(renewed, forger):
    forger.write("".join(f"{each}\n" for each in renewed.records), 3600)
    forger.control("zone-reload", f"{DOMAIN}.")
    renewed.zone.publish(*renewed.records, second=FORGER)

    shown = renewed.show(status=3)

    assert shown["state"] == "held"
    assert f"ns2.{DOMAIN} ({FORGER}) has a wrong signature" in shown["next"]


def test_a_server_that_fails_is_named(renewed, forger):
    forger.control("-f", "zone-purge", f"{DOMAIN}.", "+expire")
    renewed.zone.publish(*renewed.records, second=FORGER)

    held(renewed, f"ns2.{DOMAIN} ({FORGER}) answers SERVFAIL")


def test_a_server_without_an_address_is_named(renewed):
    renewed.zone.publish(*renewed.records, second="")

    held(renewed, f"ns2.{DOMAIN} has no address")


def test_a_resolver_that_fails_is_named(renewed):
    resolv = renewed.zone.network.base / "resolv.conf"
    before = resolv.read_text()
    resolv.write_text("nameserver 127.0.0.99\n")
    try:
        shown = renewed.show(status=3)
    finally:
        resolv.write_text(before)

    assert shown["state"] == "unknown"
    assert shown["next"].startswith("not known: 127.0.0.99 does not answer")


def test_without_a_resolver_that_validates_nothing_is_secure(renewed):
    resolv = renewed.zone.network.base / "resolv.conf"
    before = resolv.read_text()
    resolv.write_text(f"nameserver {PRIMARY}\n")
    try:
        shown = renewed.show(status=3)
    finally:
        resolv.write_text(before)

    assert (shown["dnssec"], shown["state"]) == ("unknown", "unknown")
    why = (
        "there are signed TLSA records, but no resolver of this machine validates them"
    )
    assert shown["next"] == f"not known: {why}"
    assert reported(renewed, "tlsa-unknown").endswith(f"cannot be verified: {why}")
    renewed.show(status=3)
    assert not reported(renewed, "tlsa-unknown")


def test_a_resolver_that_is_named_is_believed(renewed):
    resolv = renewed.zone.network.base / "resolv.conf"
    before = resolv.read_text()
    resolv.write_text(f"nameserver {PRIMARY}\n")
    try:
        shown = renewed.show("--dane-resolver", "127.0.0.1", status=3)
    finally:
        resolv.write_text(before)

    assert shown["state"] == "ageing"
