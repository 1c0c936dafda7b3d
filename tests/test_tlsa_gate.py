"""A renewed key that DNS has not announced is not served: real servers and senders."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from certbot_postfix.formats.tlsa import Record
from tests.lab import Certbot, pki
from tests.lab.dane import (
    ADDRESS,
    DOMAIN,
    HOST,
    MIN,
    OWNER,
    QUICK,
    TTL,
    Host,
    published,
    record,
    served,
    verified,
    with_ca,
)
from tests.lab.machine import wait_until
from tests.lab.sampler import sampled
from tests.lab.scene import options, private, told
from tests.lab.zone import Zone

pytestmark = pytest.mark.postfix


@pytest.fixture
def bare(zone: Zone, base: Path) -> Iterator[Host]:
    """A host without a certificate and without TLSA records, whose Postfix runs."""
    with with_ca(zone, base) as host:
        yield host


@pytest.fixture
def host(zone: Zone, base: Path) -> Iterator[Host]:
    """A host that serves a certificate, whose key is announced."""
    host = Host(zone, Certbot(base), base)
    with closing(host.postfix):
        host.key = record(host.lineage(HOST))
        host.stand(HOST)
        host.postfix.start()
        host.publish(host.key, ttl=TTL)
        yield host


def install(host: Host, *args: str) -> subprocess.CompletedProcess:
    return host.certbot_in_network(
        *("install", "--cert-name", HOST, *options(host.postfix), *QUICK, *args)
    )


def test_a_renewal_waits_until_its_record_is_known_and_no_sender_notices(bare):
    host = bare
    host.obtain()
    old = served(host)
    host.publish(old, ttl=TTL)
    wait_until(lambda: verified(host), "the first record is known")

    with sampled(host) as sampler:
        done = host.certbot_in_network("renew", "--force-renewal", *QUICK)
        new = host.newest()
        assert (done.returncode, served(host)) == (0, old), told(done)
        assert f"the renewal of {HOST} is held: {OWNER} does not announce" in told(done)
        assert f"{OWNER}. {TTL} IN TLSA {new}" in told(done)

        host.publish(old, new, ttl=TTL)
        done = host.certbot_in_network("renew", *QUICK)
        assert (done.returncode, served(host)) == (0, old), told(done)
        assert f"is held: {OWNER} announces its key, but caches" in told(done)

        deadline = datetime.fromisoformat(host.show(*MIN, status=3)["until"])
        wait_until(lambda: datetime.now(timezone.utc) > deadline, "two TTLs are over")
        done = host.certbot_in_network("renew", *QUICK)
        assert (done.returncode, served(host)) == (0, new), told(done)

    assert sampler.all_verified(5), sampler
    assert json.loads(host.remembered.read_text())["held"] is None


def test_a_renewal_that_is_held_is_abandoned_for_the_key_in_service(bare):
    host = bare
    host.obtain()
    old, certificate = served(host), host.live(HOST).fullchain.read_bytes()
    host.publish(old, ttl=TTL)
    wait_until(lambda: verified(host), "the first record is known")
    host.certbot_in_network("renew", "--force-renewal", *QUICK)
    assert (host.newest() == old, served(host)) == (False, old)

    bundle = host.certbot.bundle(HOST)
    done = host.command("tlsa", "abandon", *MIN, *host.directories)

    assert (done.returncode, host.newest()) == (0, old), told(done)
    assert host.live(HOST).fullchain.read_bytes() in bundle.read_bytes()
    assert certificate not in bundle.read_bytes()
    assert (served(host), verified(host)) == (old, True)


def test_without_the_gate_a_sender_refuses_the_renewed_key(host):
    wait_until(lambda: verified(host), "its record is known")
    host.renew(HOST)

    done = host.command("deploy", "--cert-name", HOST, "--tlsa-ignore")

    assert done.returncode == 0, told(done)
    assert (served(host), verified(host)) == (host.newest(), False)


def test_the_deploy_hook_holds_a_renewal(host):
    host.renew(HOST)

    done = host.command("deploy", "--cert-name", HOST)

    assert (done.returncode, served(host)) == (3, host.key)
    assert done.stderr.startswith(
        f"certbot-postfix: warning: the renewal of {HOST} is held: {OWNER} does not"
    )


def test_an_installation_that_senders_would_refuse_is_refused(host):
    host.renew(HOST)

    done = install(host)

    assert (done.returncode, served(host)) == (1, host.key)
    assert f"lineage {HOST} is not deployed: {OWNER} does not announce" in told(done)
    assert "--postfix-tlsa-ignore deploys it nevertheless" in told(done)
    done = install(host, "--postfix-tlsa-ignore")
    assert (done.returncode, served(host)) == (0, host.newest()), told(done)


def test_a_bundle_that_main_cf_names_no_more_is_not_installed_unannounced(host, base):
    theirs = host.issue(HOST)
    pem = private(base / "theirs.pem", theirs)
    host.postfix.set(smtpd_tls_chain_files=str(pem))
    host.postfix.reload()
    host.publish(record(theirs), ttl=TTL)

    done = install(host)

    assert (done.returncode, served(host)) == (1, record(theirs)), told(done)
    assert f"lineage {HOST} is not deployed: {OWNER} " in told(done)


def test_a_certificate_for_other_names_takes_no_announced_key_out_of_service(
    host, base
):
    theirs = pki.self_signed(HOST)
    pem = private(base / "theirs.pem", theirs)
    host.postfix.set(smtpd_tls_chain_files=str(pem))
    host.postfix.reload()
    host.publish(record(theirs), ttl=TTL)
    host.lineage("other", f"other.{DOMAIN}")

    done = host.certbot_in_network(
        *("install", "--cert-name", "other", *options(host.postfix), *QUICK)
    )

    assert (done.returncode, served(host)) == (1, record(theirs)), told(done)
    assert f"lineage other is not deployed: {OWNER} " in told(done)


def test_a_renewal_that_is_held_is_a_failure_of_all_from_half_of_the_time_on(host):
    host.renew(HOST)
    assert host.command("deploy", "--cert-name", HOST).returncode == 3
    memory = json.loads(host.remembered.read_text())
    held = datetime.fromisoformat(memory["held"])
    left = datetime.fromisoformat(memory["expiry"]) - held
    memory["held"] = (held - left - timedelta(hours=1)).isoformat()
    host.remembered.write_text(json.dumps(memory))

    done = host.command("deploy", "--cert-name", HOST)

    assert (done.returncode, served(host)) == (1, host.key)
    assert f"error: the renewal of {HOST} is held: " in done.stderr
    done = host.certbot_in_network("renew", *QUICK)
    assert (done.returncode, served(host)) == (1, host.key), told(done)
    assert f"the renewal of {HOST} is held: {OWNER} does not announce" in told(done)
    shown = json.loads(host.command("status", "--json").stdout)
    kinds = {each["code"]: each["severity"] for each in shown["findings"]}
    assert kinds["renewal-held"] == "critical"


def test_a_clock_that_was_set_back_puts_off_nothing(host):
    past, future = Record.of_key(b"another key"), "2040-01-01T00:00:00+00:00"
    host.renew(HOST)
    assert host.command("deploy", "--cert-name", HOST).returncode == 3
    memory = json.loads(host.remembered.read_text())
    memory["held"] = memory["keys"][str(host.key)]["since"] = future
    memory["keys"][str(past)] = {"since": None, "retired": future}
    rrset = {"records": [str(past), str(host.key)], "ttl": TTL, "until": future}
    memory["endpoints"][OWNER].append(rrset)
    host.remembered.write_text(json.dumps(memory))

    assert host.command("deploy", "--cert-name", HOST).returncode == 3

    assert "2040" not in host.remembered.read_text()
    assert str(past) in host.remembered.read_text()


def test_a_renewal_that_is_held_changes_no_table_that_names_the_bundle_by_hand(
    host, base
):
    table = base / "own"
    table.write_text(f"{HOST} {host.certbot.bundle(HOST)}\n")
    host.postfix.set(tls_server_sni_maps=f"texthash:{table}")
    host.postfix.reload()
    host.renew(HOST)

    done = host.command("deploy", "--cert-name", HOST)

    assert (done.returncode, served(host)) == (3, host.key), told(done)


def test_forget_leaves_no_key_to_postfix_that_is_held(host):
    host.renew(HOST)
    before = host.postfix.main_cf.read_bytes()

    done = host.command("forget", HOST)

    assert (done.returncode, served(host)) == (1, host.key), told(done)
    assert f"{HOST} cannot be removed: Postfix would read its renewed key" in told(done)
    assert host.postfix.main_cf.read_bytes() == before


def test_a_bundle_that_is_lost_is_no_reason_to_wait(host):
    host.renew(HOST)
    assert host.command("deploy", "--cert-name", HOST).returncode == 3
    host.certbot.bundle(HOST).unlink()

    done = host.command("deploy", "--cert-name", HOST)

    assert (done.returncode, served(host)) == (0, host.newest()), told(done)
    assert json.loads(host.remembered.read_text())["held"] is None


def test_what_is_known_of_a_host_is_kept_when_only_others_are_looked_at(host):
    alias = f"_25._tcp.alias.{DOMAIN}"
    records = published(host.key) + published(host.key, name=alias)
    host.zone.publish(f"mx A {ADDRESS}", *records, ttl=TTL)
    host.show(*MIN, "--tlsa-name", f"alias.{DOMAIN}", owner=alias)
    known = json.loads(host.remembered.read_text())["endpoints"][alias]

    host.show(*MIN)

    assert json.loads(host.remembered.read_text())["endpoints"][alias] == known


def test_a_record_of_no_key_in_service_is_an_error_at_once(host):
    host.publish(record(host.issue(HOST)), ttl=TTL)
    host.renew(HOST)
    wait_until(lambda: not verified(host), "the first record is forgotten")

    done = host.command("deploy", "--cert-name", HOST, *MIN)

    assert (done.returncode, served(host)) == (1, host.key)
    assert f"{OWNER} announces neither its key nor one that is in service" in told(done)


def test_certbot_renew_reports_records_that_match_nothing(host):
    host.show(*MIN)
    host.publish(record(host.issue(HOST)), ttl=TTL)
    wait_until(lambda: not verified(host), "the first record is forgotten")

    done = host.certbot_in_network("renew")

    assert f"the TLSA records (DANE) of {OWNER} do not match the certificate" in told(
        done
    )
    assert f"publish {OWNER}. 3600 IN TLSA {host.key}" in told(done)


def test_certbot_renew_reports_them_also_when_the_old_records_are_forgotten(host):
    host.show(*MIN)
    host.publish(record(host.issue(HOST)), ttl=TTL)
    host.show(*MIN, status=3)
    known = json.loads(host.remembered.read_text())
    known["endpoints"][OWNER] = [
        rrset for rrset in known["endpoints"][OWNER] if not rrset["until"]
    ]  # as hours later
    host.remembered.write_text(json.dumps(known))
    wait_until(lambda: not host.cached(str(host.key)), "the resolver forgets, too")

    done = told(host.certbot_in_network("renew", *QUICK))

    assert str(host.key) not in host.remembered.read_text().partition("endpoints")[2]
    assert f"the TLSA records (DANE) of {OWNER} do not match the certificate" in done


def test_certbot_renew_reports_of_each_certificate_what_it_is_served_for(host):
    """That is its names, at the ports that Postfix serves."""
    shop, port = f"shop.{DOMAIN}", f"_587._tcp.{HOST}"
    second, other = record(host.lineage(shop)), record(host.issue(HOST))
    host.stand(HOST, by_name=[shop])
    with host.postfix.master_cf.open("a") as file:
        file.write(f"{ADDRESS}:587 inet n - n - - smtpd\n")
    host.postfix.settle()
    records = [*published(host.key), *published(second, name=f"_25._tcp.{shop}")]
    for number in (465, 587):
        records += published(other, name=f"_{number}._tcp.{HOST}")
    host.zone.publish(*records, ttl=TTL)
    host.show(*MIN, status=3)

    done = told(host.certbot_in_network("renew", *QUICK))

    bundle = host.certbot.bundle(HOST)
    assert done.count("do not match") == 1
    assert f"records (DANE) of {port} do not match the certificate in {bundle}" in done


@contextmanager
def without_dns(host: Host) -> Iterator[None]:
    """Let no resolver answer."""
    resolv = host.zone.network.base / "resolv.conf"
    before = resolv.read_text()
    resolv.write_text("nameserver 127.0.0.99\n")
    try:
        yield
    finally:
        resolv.write_text(before)


def test_without_dns_a_renewal_is_held_where_dane_was_in_use(host):
    host.show(*MIN)
    host.renew(HOST)

    with without_dns(host):
        done = host.command("deploy", "--cert-name", HOST)

    assert (done.returncode, served(host)) == (3, host.key), told(done)
    assert f"it is not known whether {OWNER} announces its key (127.0.0.99" in told(
        done
    )


def test_without_dns_a_renewal_is_deployed_where_dane_was_not_in_use(host):
    host.renew(HOST)

    with without_dns(host):
        done = host.command("deploy", "--cert-name", HOST)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert served(host) == host.newest()


def questions(host: Host) -> int:
    """Return how many questions about TLSA records the resolver got."""
    logs = host.zone.network.base.glob("unbound-*.log")
    return sum(path.read_text().count("TLSA IN") for path in logs)


def test_a_host_without_records_notices_nothing(host):
    host.publish(ttl=TTL)
    wait_until(lambda: not host.cached(), "the record is forgotten")
    host.renew(HOST)

    done = host.command("deploy", "--cert-name", HOST)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert served(host) == host.newest()
    before = questions(host)
    assert host.certbot_in_network("renew").returncode == 0
    assert questions(host) == before
