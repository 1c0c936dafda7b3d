"""Mail goes to who may have it, verified, or it waits: real servers, real DNS."""

import json
import os
import shutil
import signal
import subprocess
import time
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.lab import (
    COMMAND,
    Authority,
    Certbot,
    base_directory,
    install_lineage,
    pki,
)
from tests.lab.machine import wait_until
from tests.lab.network import POLICIES, Inside, Network, Sender, marks
from tests.test_lists import NOW as LIST_NOW
from tests.test_lists import signers, written

__all__ = ["signers"]  # a fixture

RIGHT, WRONG, STRIPPED = "127.0.0.20", "127.0.0.30", "127.0.0.50"
NAME = "sender.test"

pytestmark = pytest.mark.postfix


class World:
    """A sender, the right server, an impostor, and who has asked for what."""

    def __init__(
        self,
        base: Path,
        authority: Authority,
        stack: ExitStack,
        *,
        validates: bool = True,
    ) -> None:
        self.authority = authority
        self.network = Network(base, authority, validates=validates)
        stack.callback(self.network.close)
        self.right = self._server(base / "right", RIGHT, "mx.right.test", stack)
        self.wrong = self._server(base / "wrong", WRONG, "mx.wrong.test", stack)
        self.sender = Sender(self.network, base / "sender")
        stack.callback(self.sender.close)
        self.certbot = Certbot(base)
        install_lineage(
            self.certbot.config_dir,
            NAME,
            authority.issue(NAME),
            postfix_config_dir=str(self.sender.config_dir),
        )
        self.list = base / "list.json"
        self.domains = base / "domains"
        self.domains.touch()
        self.daemon: subprocess.Popen[bytes] | None = None
        self.listed: dict[str, dict[str, object]] = {}
        self.sent: list[str] = []
        self.write_list()

    def _server(
        self, base: Path, address: str, hostname: str, stack: ExitStack
    ) -> Inside:
        found = Inside(self.network, base, hostname=hostname, address=address)
        stack.callback(found.close)
        found.certify(hostname)
        found.start()
        return found

    # What is published, and asked for

    def write_list(self, **policies: object) -> None:
        """Let the list have these *policies*, by domain with _ for a dot."""
        for name, policy in policies.items():
            self.listed[name.replace("_", ".")] = policy
        now = time.time()
        self.list.write_text(
            json.dumps(
                {
                    "version": "0.1",
                    "timestamp": now,
                    "expires": now + 1e6,
                    "policies": self.listed,
                }
            )
        )

    def install(self, *options: str) -> str:
        """Deploy certificate and policies, by certbot in the network."""
        self.sender.settle()
        argv = self.certbot.argv(
            "install",
            *("-i", "postfix", "--cert-name", NAME),
            *("--postfix-config-dir", str(self.sender.config_dir), *options),
        )
        return self.succeed(argv)

    def renew(self) -> str:
        """Run certbot renew in the network, when nothing is due."""
        self.sender.settle()
        return self.succeed(self.certbot.argv("renew"))

    def refresh(self) -> None:
        """Run certbot-postfix policy refresh."""
        self.policy("refresh")

    def policy(self, *words: str) -> str:
        self.sender.settle()
        where = ["--postfix-config-dir", str(self.sender.config_dir)]
        where += ["--config-dir", str(self.certbot.config_dir)]
        return self.succeed([str(COMMAND), *where, "policy", *words])

    def succeed(self, argv: list[str]) -> str:
        done = self.network.run(*argv, env=self.certbot.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    # Mail

    def send(self, recipient: str) -> str:
        self.sent.append(self.sender.send(recipient))
        return self.sent[-1]

    def arrives(self, mark: str) -> None:
        """Wait until the message is at the right server."""
        wait_until(lambda: mark in marks(self.right.arrived()), f"{mark} arrives")

    def account(self) -> None:
        """Every message is at the right server, once, and none at the impostor."""
        assert marks(self.right.arrived()) == sorted(self.sent)
        assert self.wrong.arrived() == []
        assert self.sender.queued() == 0

    def flush(self) -> None:
        """Try again what waits; a session or a policy that is known does not count."""
        self.sender.reload()
        self.sender.flush()


@pytest.fixture
def world(authority: Authority) -> Iterator[World]:
    with base_directory() as base, ExitStack() as stack:
        yield World(base, authority, stack)


@pytest.fixture
def enforced(world: World) -> World:
    """A world in which the policy of enforce.insecure is followed."""
    world.network.publish(
        "enforce.insecure", "@ MX 10 mx.enforce.insecure.", f"mx A {RIGHT}"
    )
    world.right.certify("mx.enforce.insecure")
    world.write_list(
        enforce_insecure={"mode": "enforce", "mxs": ["mx.enforce.insecure"]}
    )
    world.install("--postfix-policy-list", str(world.list))
    world.sender.start()
    return world


RECIPIENT = "you@enforce.insecure"


def test_mail_to_a_domain_with_a_policy_goes_to_its_server_verified(enforced):
    mark = enforced.send(RECIPIENT)

    enforced.arrives(mark)
    enforced.sender.await_log(
        f"Verified TLS connection established to mx.enforce.insecure[{RIGHT}]:25"
    )
    enforced.account()


def test_duplicates_in_a_list_cost_no_other_domain_its_protection(enforced):
    """12 of 59 real lists of 2018 had equal ones."""
    policy = json.dumps(enforced.listed["enforce.insecure"])
    differing = [json.dumps({"mode": "enforce", "mxs": [mx]}) for mx in ("a.b", "c.d")]
    twice = f'"enforce.insecure": {policy}, ' + "".join(
        f'"differ.insecure": {each}, ' for each in differing
    )
    enforced.write_list(more_insecure={"mode": "enforce", "mxs": ["mx.more.insecure"]})
    text = enforced.list.read_text().replace('"policies": {', f'"policies": {{{twice}')
    enforced.list.write_text(text)
    enforced.install()
    shown = enforced.policy("show")
    assert "more.insecure: enforce" in shown
    assert "differ.insecure" not in shown
    of_another_name(enforced)

    mark = enforced.send(RECIPIENT)

    assert "Server certificate not verified" in enforced.sender.deferred(RECIPIENT)
    certified(enforced)
    enforced.flush()
    enforced.arrives(mark)
    enforced.account()


# What stands between, and how it is mended


def stripped(world: World) -> None:
    world.network.serve("strip", RIGHT, address=STRIPPED, port=25)
    world.network.publish(
        "enforce.insecure", "@ MX 10 mx.enforce.insecure.", f"mx A {STRIPPED}"
    )


def at_the_right_address(world: World) -> None:
    world.network.publish(
        "enforce.insecure", "@ MX 10 mx.enforce.insecure.", f"mx A {RIGHT}"
    )


def of_another_name(world: World) -> None:
    world.right.certify("mx.other.insecure")


def self_signed(world: World) -> None:
    world.right.install(pki.self_signed("mx.enforce.insecure").bundle_pem)


def expired(world: World) -> None:
    now = datetime.now(timezone.utc)
    world.right.certify(
        "mx.enforce.insecure",
        not_before=now - timedelta(days=9),
        not_after=now - timedelta(days=1),
    )


def certified(world: World) -> None:
    world.right.certify("mx.enforce.insecure")


def forged(world: World) -> None:
    world.wrong.certify("mx.wrong.insecure")
    world.network.publish("wrong.insecure", f"mx A {WRONG}")
    world.network.publish(
        "enforce.insecure", "@ MX 10 mx.wrong.insecure.", f"mx A {RIGHT}"
    )


@pytest.mark.parametrize(
    ("attack", "mend", "reason"),
    [
        pytest.param(
            stripped, at_the_right_address, "TLS is required, but was not offered"
        ),
        pytest.param(of_another_name, certified, "Server certificate not verified"),
        pytest.param(self_signed, certified, "Server certificate not verified"),
        pytest.param(expired, certified, "Server certificate not verified"),
        pytest.param(forged, at_the_right_address, "Server certificate not verified"),
    ],
)
def test_mail_waits_while_somebody_is_between_and_arrives_when_that_is_mended(
    enforced, attack, mend, reason
):
    attack(enforced)
    mark = enforced.send(RECIPIENT)

    assert reason in enforced.sender.deferred(RECIPIENT)
    assert enforced.right.arrived() == enforced.wrong.arrived() == []

    mend(enforced)
    enforced.flush()
    enforced.arrives(mark)
    enforced.account()


def test_without_a_policy_the_same_mail_goes_in_clear_text(enforced):
    """What the others show is due to the policy."""
    stripped(enforced)
    enforced.install("--postfix-policy-list", "")

    enforced.arrives(enforced.send(RECIPIENT))

    assert "TLS connection established to mx.enforce" not in enforced.sender.log()


# DANE


def tlsa(bundle: bytes) -> str:
    """Return the record that pins the key of the certificate in *bundle*."""
    # Debian 12's cryptography has nothing that reads several.
    first = bundle[bundle.index(b"-----BEGIN CERTIFICATE-----") :]
    leaf = x509.load_pem_x509_certificate(first)
    key = leaf.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return f"_25._tcp.mx TLSA 3 1 1 {sha256(key).hexdigest()}"


def publish_dane(world: World, *records: str) -> None:
    world.network.publish(
        "dane.test", "@ MX 10 mx.dane.test.", f"mx A {RIGHT}", *records
    )


def test_mail_waits_while_the_key_is_not_the_one_that_dnssec_pins(world):
    issued, other = (world.authority.issue("mx.dane.test") for _ in range(2))
    world.right.install(issued.bundle_pem)
    publish_dane(world, tlsa(other.cert_pem))
    world.sender.set(smtp_tls_security_level="dane", smtp_dns_support_level="dnssec")
    world.sender.start()
    mark = world.send("you@dane.test")

    assert "not verified" in world.sender.deferred("you@dane.test")
    assert world.right.arrived() == []

    publish_dane(world, tlsa(issued.cert_pem))
    world.flush()
    world.arrives(mark)
    world.sender.await_log("Verified TLS connection established to mx.dane.test")
    world.account()


def test_the_level_dane_is_set_where_the_resolver_validates(world):
    issued = world.authority.issue("mx.dane.test")
    world.right.install(issued.bundle_pem)
    publish_dane(world, tlsa(issued.cert_pem))

    told = world.install("--postfix-client-level", "dane")

    assert "+smtp_tls_security_level = dane" in told
    assert "+smtp_dns_support_level = dnssec" in told
    world.sender.start()
    world.arrives(world.send("you@dane.test"))
    world.sender.await_log("Verified TLS connection established to mx.dane.test")
    assert "--- " not in world.install("--postfix-client-level", "dane")


def refused(world: World) -> str:
    """Ask for the level dane, which is refused; return why."""
    world.sender.settle()
    before = world.sender.main_cf.read_bytes()
    argv = world.certbot.argv(
        "install",
        *("-i", "postfix", "--cert-name", NAME, "--postfix-client-level", "dane"),
        *("--postfix-config-dir", str(world.sender.config_dir)),
    )
    done = world.network.run(*argv, env=world.certbot.environment)
    assert done.returncode == 1
    assert world.sender.main_cf.read_bytes() == before
    return done.stderr


@pytest.mark.parametrize(
    ("parameter", "value", "told"),
    [
        ("smtp_host_lookup", "native", "smtp_host_lookup = native has no dns"),
        ("ignore_mx_lookup_error", "yes", "ignore_mx_lookup_error = yes: the level"),
        ("disable_dns_lookups", "yes", "disable_dns_lookups = yes: the level dane"),
        (
            "smtp_dns_resolver_options",
            "res_defnames",
            "smtp_dns_resolver_options = res_defnames: the level dane",
        ),
    ],
)
def test_the_level_dane_is_refused_where_postfix_asks_dns_otherwise(
    world, parameter, value, told
):
    world.sender.set(**{parameter: value})

    assert told in refused(world)


def test_the_level_dane_is_refused_where_the_chroot_has_another_resolver(world):
    world.sender.postconf("-F", "smtp/unix/chroot=y")
    resolv = world.sender.base / "queue/etc/resolv.conf"
    resolv.parent.mkdir(parents=True)
    resolv.write_text("nameserver 127.0.0.99\n")

    assert f"the resolver 127.0.0.99 in {resolv} does not answer" in refused(world)


def test_the_level_dane_is_refused_where_the_resolver_does_not_validate(authority):
    with base_directory() as base, ExitStack() as stack:
        world = World(base, authority, stack, validates=False)

        assert "the resolver 127.0.0.1 in /etc/resolv.conf does not validate" in (
            refused(world)
        )


def test_a_resolver_that_is_elsewhere_is_warned_of(world):
    """One whose address is not loopback, though it is on this machine."""
    world.network.must("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    config = world.network.base / "unbound.conf"
    other = world.network.base / "elsewhere.conf"
    text = config.read_text().replace("interface: 127.0.0.1", "interface: 192.0.2.1")
    text = text.replace("127.0.0.0/8 allow", "0.0.0.0/0 allow")
    other.write_text(text.replace("unbound.pid", "elsewhere.pid"))
    world.network.start("unbound", "-d", "-c", str(other))
    world.network.must("ss", "-Hltn")
    (world.network.base / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    world.network.await_port("192.0.2.1", 53)

    told = world.install("--postfix-client-level", "dane")

    assert (
        "lists the remote resolver 192.0.2.1: its DNSSEC answers could be forged"
        in told
    )


# MTA-STS


@pytest.fixture
def sts(world: World) -> World:
    """A world in which MTA-STS is looked up for the domains in a file."""
    world.network.serve_policies("sts.insecure", "dane.test")
    publish_sts(world)
    world.right.certify("mx.sts.insecure")
    world.domains.write_text("sts.insecure\n")
    return world


def publish_sts(world: World, *records: str, version: str = "1") -> None:
    world.network.publish(
        "sts.insecure",
        "@ MX 10 mx.sts.insecure.",
        f"mx A {RIGHT}",
        f"mta-sts A {POLICIES}",
        f'_mta-sts TXT "v=STSv1; id={version};"',
        *records,
    )


def with_domains(world: World) -> tuple[str, str]:
    return "--postfix-mta-sts-domains", str(world.domains)


def test_a_policy_of_mta_sts_is_enforced(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    sts.install(*with_domains(sts))
    sts.sender.start()
    sts.arrives(sts.send("you@sts.insecure"))
    sts.right.certify("mx.other.insecure")

    mark = sts.send("you@sts.insecure")

    reason = sts.sender.deferred("you@sts.insecure")
    assert "Server certificate not verified" in reason
    sts.right.certify("mx.sts.insecure")
    sts.flush()
    sts.arrives(mark)
    sts.account()


def test_a_policy_that_is_tested_keeps_no_mail(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure", mode="testing")
    sts.install(*with_domains(sts))
    sts.sender.start()
    sts.right.certify("mx.other.insecure")

    sts.arrives(sts.send("you@sts.insecure"))

    assert "sts.insecure: testing until " in sts.policy("show")


def later(world: World) -> None:
    """Let the domains be due again."""
    kept = world.certbot.config_dir / "postfix/policies"
    (cache,) = kept.glob("*/mta-sts.json")
    found = json.loads(cache.read_text())
    for one in found["domains"].values():
        one["next"] = 0
    cache.write_text(json.dumps(found))


def test_certbot_renew_follows_a_policy_that_changes_and_its_end(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    sts.install(*with_domains(sts))
    assert (
        "match=mx.sts.insecure "
        in sts.sender.config_dir.joinpath("certbot_tls_policy").read_text()
    )

    sts.network.policy("sts.insecure", "*.sts.insecure")
    publish_sts(sts, version="2")
    later(sts)
    sts.renew()
    assert ".sts.insecure (MTA-STS)" in sts.policy("show")

    sts.network.policy("sts.insecure", mode="none")
    publish_sts(sts, version="3")
    later(sts)
    sts.renew()
    assert sts.policy("show") == "there are no policies\n"


def test_what_a_domain_said_stays_while_it_cannot_be_asked(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    sts.install(*with_domains(sts))
    (sts.network.policies / "sts.insecure").unlink()
    publish_sts(sts, version="2")
    later(sts)

    sts.renew()

    assert "the server answers with the status 404" in sts.policy("show", "--failing")
    assert "sts.insecure: enforce" in sts.policy("show")


def test_a_record_that_vanished_does_not_end_a_policy(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    sts.install(*with_domains(sts))
    sts.network.publish("sts.insecure", "@ MX 10 mx.sts.insecure.", f"mx A {RIGHT}")
    later(sts)

    sts.renew()

    assert "sts.insecure: enforce" in sts.policy("show")


@pytest.mark.parametrize("level", ["may", "dane"])
def test_a_domain_with_dane_is_left_to_that_where_the_client_prefers_it(sts, level):
    sts.domains.write_text("dane.test\n")
    publish_dane(
        sts,
        tlsa(sts.authority.issue("mx.dane.test").cert_pem),
        f"mta-sts A {POLICIES}",
        '_mta-sts TXT "v=STSv1; id=1;"',
    )
    sts.network.policy("dane.test", "mx.dane.test")
    sts.sender.set(smtp_tls_security_level=level, smtp_dns_support_level="dnssec")

    sts.install(*with_domains(sts))

    by_dane = ", DANE (MTA-STS)" in sts.policy("show")
    assert by_dane == (level == "dane")


def test_a_policy_is_followed_though_it_cannot_be_known_whether_there_is_dane(sts):
    sts.domains.write_text("dane.test\n")
    sts.network.publish("lame.test", "@ NS ns.lame.test.", "ns A 127.0.0.98")
    published = (f"mta-sts A {POLICIES}", '_mta-sts TXT "v=STSv1; id=1;"')
    sts.network.publish("dane.test", "@ MX 10 mx.lame.test.", *published)
    sts.network.policy("dane.test", "mx.lame.test")
    sts.sender.set(smtp_tls_security_level="dane", smtp_dns_support_level="dnssec")

    told = sts.install(*with_domains(sts))

    assert "MTA-STS: 1 of 1 domains could not be looked up" in " ".join(told.split())
    assert "A of mx.lame.test" in sts.policy("show", "--failing")
    assert "dane.test: enforce" in sts.policy("show")


@pytest.mark.parametrize("host", ["mx.sts.insecure", "mx.dane.test"])
def test_dane_without_dnssec_from_the_domain_on_is_none(sts, host):
    """The record, or only the way to it, could be forged."""
    record = tlsa(sts.authority.issue(host).cert_pem)
    publish_dane(sts, record)
    sts.network.publish(
        "sts.insecure",
        f"@ MX 10 {host}.",
        f"mx A {RIGHT}",
        f"mta-sts A {POLICIES}",
        '_mta-sts TXT "v=STSv1; id=1;"',
        record,
    )
    sts.network.policy("sts.insecure", host)
    sts.sender.set(smtp_tls_security_level="dane", smtp_dns_support_level="dnssec")

    sts.install(*with_domains(sts))

    assert "sts.insecure: enforce" in sts.policy("show")


def test_a_domain_is_left_to_dane_from_the_run_on_that_sets_the_level(sts):
    sts.domains.write_text("dane.test\n")
    issued = sts.authority.issue("mx.dane.test")
    published = (f"mta-sts A {POLICIES}", '_mta-sts TXT "v=STSv1; id=1;"')
    publish_dane(sts, tlsa(issued.cert_pem), *published)
    sts.network.policy("dane.test", "mx.dane.test")
    sts.install(*with_domains(sts))
    assert ", mx.dane.test (MTA-STS)" in sts.policy("show")

    sts.install("--postfix-client-level", "dane")
    assert ", DANE (MTA-STS)" in sts.policy("show")

    sts.sender.set(smtp_tls_security_level="may")
    sts.refresh()
    assert ", mx.dane.test (MTA-STS)" in sts.policy("show")


def test_a_domain_is_left_to_dane_from_the_renewal_on_that_finds_it_in_main_cf(sts):
    sts.domains.write_text("dane.test\n")
    published = (f"mta-sts A {POLICIES}", '_mta-sts TXT "v=STSv1; id=1;"')
    publish_dane(sts, tlsa(sts.authority.issue("mx.dane.test").cert_pem), *published)
    sts.network.policy("dane.test", "mx.dane.test")
    sts.install(*with_domains(sts))
    assert ", mx.dane.test (MTA-STS)" in sts.policy("show")

    sts.sender.set(smtp_tls_security_level="dane", smtp_dns_support_level="dnssec")
    sts.renew()
    assert ", DANE (MTA-STS)" in sts.policy("show")

    sts.sender.set(smtp_tls_security_level="may")
    sts.renew()
    assert ", mx.dane.test (MTA-STS)" in sts.policy("show")


def stripped_dane(world: World, *records: str) -> None:
    """Let somebody be between who strips STARTTLS, and DNS have these *records*."""
    world.network.publish(
        "dane.test",
        *("@ MX 10 mx.dane.test.", f"mx A {STRIPPED}", f"mta-sts A {POLICIES}"),
        *('_mta-sts TXT "v=STSv1; id=1;"', *records),
    )


@pytest.fixture
def by_dane(sts: World) -> World:
    """A world in which a domain with a policy is left to DANE."""
    sts.domains.write_text("dane.test\n")
    sts.network.serve("strip", RIGHT, address=STRIPPED, port=25)
    sts.right.certify("mx.dane.test")
    record = tlsa((sts.right.base / "bundle.pem").read_bytes())
    published = (f"mta-sts A {POLICIES}", '_mta-sts TXT "v=STSv1; id=1;"')
    publish_dane(sts, record, *published)
    sts.network.policy("dane.test", "mx.dane.test")
    sts.sender.set(smtp_tls_security_level="dane", smtp_dns_support_level="dnssec")
    sts.install(*with_domains(sts))
    sts.sender.start()
    return sts


def test_mail_waits_when_dane_goes_away_between_two_looks(by_dane):
    by_dane.arrives(by_dane.send("you@dane.test"))
    stripped_dane(by_dane)
    by_dane.sender.reload()  # a process of smtp(8) remembers records

    mark = by_dane.send("you@dane.test")

    assert "TLS" in by_dane.sender.deferred("you@dane.test")
    assert mark not in marks(by_dane.right.arrived())
    publish_dane(by_dane, f"mta-sts A {POLICIES}", '_mta-sts TXT "v=STSv1; id=1;"')
    by_dane.policy("refresh", "dane.test")
    assert ", mx.dane.test (MTA-STS)" in by_dane.policy("show")
    by_dane.flush()
    by_dane.arrives(mark)
    by_dane.account()


def test_mta_sts_does_not_override_tlsa_records_that_cannot_be_looked_up(by_dane):
    """RFC 7672, 2.1.1; RFC 8461, 2.  The server has a valid certificate."""
    by_dane.network.publish("lame.test", "@ NS ns.lame.test.", "ns A 127.0.0.98")
    publish_dane(
        by_dane,
        "_25._tcp.mx NS ns.lame.test.",
        *(f"mta-sts A {POLICIES}", '_mta-sts TXT "v=STSv1; id=1;"'),
    )
    by_dane.policy("refresh", "dane.test")

    mark = by_dane.send("you@dane.test")

    assert "TLSA lookup error" in by_dane.sender.deferred("you@dane.test")
    assert ", DANE (MTA-STS)" in by_dane.policy("show")
    by_dane.right.certify("mx.dane.test")
    record = tlsa((by_dane.right.base / "bundle.pem").read_bytes())
    publish_dane(by_dane, record)
    wait_until(  # a resolver remembers that it got no answer
        lambda: "MX mx.dane.test, usable TLSA" in by_dane.policy("query", "dane.test"),
        "the record can be looked up",
    )
    by_dane.flush()
    by_dane.arrives(mark)
    by_dane.account()


# A list at an address


def test_a_list_is_fetched_and_must_be_signed(world, signers):
    published = world.network.policies / "list.json"
    url = f"https://mta-sts.lists.insecure/{published.name}"
    world.network.serve_policies("lists.insecure")
    world.network.publish("lists.insecure", f"mta-sts A {POLICIES}")
    published.write_bytes(written("one.insecure"))
    signers[0].sign(published)
    keyring = ("--postfix-policy-keyring", str(signers[0].keyring))
    world.install("--postfix-policy-list", url, *keyring)
    assert f"one.insecure: enforce until {LIST_ENDS}, mx.org ({url})" in world.policy(
        "show"
    )

    published.write_bytes(written("two.insecure"))
    let_lists_be_due(world)
    told = world.renew()

    assert f"the list {url} is not signed by a key in {signers[0].keyring}" in told
    assert "one.insecure: enforce" in world.policy("show")
    where = ["--postfix-config-dir", str(world.sender.config_dir)]
    where += ["--config-dir", str(world.certbot.config_dir), "status", "--json"]
    status = world.network.run(str(COMMAND), *where, env=world.certbot.environment)
    codes = {each["code"] for each in json.loads(status.stdout)["findings"]}
    assert "policy-source-fails" in codes

    signers[0].sign(published)
    assert "is not signed" not in world.renew()

    assert "two.insecure: enforce" in world.policy("show")
    assert "one.insecure" not in world.policy("show")
    status = world.network.run(str(COMMAND), *where, env=world.certbot.environment)
    assert "policy-source-fails" not in status.stdout


def let_lists_be_due(world: World) -> None:
    for path in world.certbot.config_dir.glob("postfix/policies/*/*.seen"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "checked": 0}))


LIST_ENDS = f"{LIST_NOW + timedelta(days=30):%Y-%m-%d %H:%M} UTC"


# Who wins


def test_the_list_overrides_mta_sts_and_the_administrator_all(sts, tmp_path):
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    sts.write_list(sts_insecure={"mode": "enforce", "mxs": ["mx.list.insecure"]})

    sts.install(*with_domains(sts), "--postfix-policy-list", str(sts.list))
    assert "match" not in sts.policy("show")
    assert "mx.list.insecure" in sts.policy("test", "sts.insecure")

    own = sts.sender.config_dir / "own"
    own.write_text("sts.insecure may\n")
    value = sts.sender.postconf("-h", "smtp_tls_policy_maps").strip()
    sts.sender.set(smtp_tls_policy_maps=f"texthash:{own}, {value}")
    told = sts.install()
    assert f"texthash:{own} has an entry for sts.insecure: left unchanged" in told
    assert ": may, " in sts.policy("test", "sts.insecure")


@pytest.mark.skipif(not shutil.which("posttls-finger"), reason="not installed")
def test_the_servers_of_a_domain_are_asked(enforced):
    told = enforced.policy("test", "enforce.insecure", "--connect")
    assert (
        f"Verified TLS connection established to mx.enforce.insecure[{RIGHT}]" in told
    )
    assert "mail to enforce.insecure is sent as demanded" in told

    of_another_name(enforced)
    where = ["--postfix-config-dir", str(enforced.sender.config_dir)]
    argv = [str(COMMAND), *where, "policy", "test", "enforce.insecure", "--connect"]
    done = enforced.network.run(*argv, env=enforced.certbot.environment)
    assert done.returncode == 3
    assert "mail to enforce.insecure is not sent as demanded" in done.stdout


@pytest.mark.skipif(not shutil.which("posttls-finger"), reason="not installed")
def test_servers_whose_tlsa_records_do_not_fit_are_not_as_demanded(by_dane):
    def tested() -> tuple[int, str]:
        where = ["--postfix-config-dir", str(by_dane.sender.config_dir)]
        argv = [str(COMMAND), *where, "policy", "test", "dane.test", "--connect"]
        done = by_dane.network.run(*argv, env=by_dane.certbot.environment)
        return done.returncode, done.stdout

    status, said = tested()
    assert (status, "mail to dane.test is sent as demanded" in said) == (0, True)

    by_dane.right.certify("mx.dane.test")  # with another key
    status, said = tested()
    assert (status, "mail to dane.test is not sent as demanded" in said) == (3, True)

    by_dane.sender.set(smtp_tls_policy_maps="")  # the level dane
    status, said = tested()
    assert (status, "mail to dane.test is not sent as demanded" in said) == (3, True)


@pytest.mark.skipif(not shutil.which("posttls-finger"), reason="not installed")
def test_servers_are_asked_with_the_parameters_of_the_client(enforced):
    enforced.right.set(smtpd_tls_protocols="<=TLSv1.2")
    enforced.right.reload()
    enforced.sender.set(smtp_tls_mandatory_protocols=">=TLSv1.3")
    where = ["--postfix-config-dir", str(enforced.sender.config_dir)]
    argv = [str(COMMAND), *where, "policy", "test", "enforce.insecure", "--connect"]

    done = enforced.network.run(*argv, env=enforced.certbot.environment)

    said = "mail to enforce.insecure is not sent as demanded"
    assert (done.returncode, said in done.stdout) == (3, True)
    mark = enforced.send(RECIPIENT)
    assert "Cannot start TLS" in enforced.sender.deferred(RECIPIENT)
    enforced.sender.set(smtp_tls_mandatory_protocols=">=TLSv1.2")
    enforced.flush()
    enforced.arrives(mark)


# A resolver daemon

DAEMON = "socketmap:inet:127.0.0.1:8461:postfix"


def start_daemon(world: World) -> subprocess.Popen[bytes]:
    """Start a daemon that resolves MTA-STS, and is fit."""
    return world.network.serve_policies_to_postfix("sts", port=8461)


def end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(10)


@pytest.fixture
def resolved(sts: World) -> World:
    """A world in which a daemon was found, and wired in."""
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    sts.daemon = start_daemon(sts)
    sts.install()
    return sts


def test_a_daemon_that_runs_is_wired_in_as_the_last_table_and_answers(resolved):
    assert f"{DAEMON} has for sts.insecure: secure" in resolved.policy(
        "test", "sts.insecure"
    )

    resolved.write_list(other_insecure={"mode": "enforce", "mxs": ["mx.insecure"]})
    resolved.install("--postfix-policy-list", str(resolved.list))

    value = resolved.sender.postconf("-h", "smtp_tls_policy_maps").strip()
    ours = resolved.sender.config_dir / "certbot_tls_policy"
    assert value == f"texthash:{ours}, {DAEMON}"
    assert "--- " not in resolved.install()


def test_while_a_daemon_is_dead_all_mail_waits_and_status_tells(resolved):
    resolved.sender.start()
    end(resolved.daemon)
    publish_plain(resolved)
    mark = resolved.send("you@plain.insecure")

    resolved.sender.deferred("you@plain.insecure")
    where = ["--postfix-config-dir", str(resolved.sender.config_dir), "status"]
    status = resolved.network.run(
        str(COMMAND), *where, env=resolved.certbot.environment
    )
    words = " ".join(status.stdout.split())
    waits = "until it can, all outbound mail is deferred"
    assert f"{DAEMON} cannot be queried; {waits}" in words

    start_daemon(resolved)
    resolved.flush()
    resolved.arrives(mark)
    resolved.account()


def publish_plain(world: World) -> None:
    world.network.publish(
        "plain.insecure", "@ MX 10 mx.plain.insecure.", f"mx A {RIGHT}"
    )


def test_a_daemon_that_is_not_there_is_not_named(world):
    assert "smtp_tls_policy_maps" not in world.install()


def test_a_daemon_that_was_named_and_does_not_answer_is_refused(world):
    argv = world.certbot.argv(
        "install",
        *("-i", "postfix", "--cert-name", NAME, "--postfix-policy-service", DAEMON),
        *("--postfix-config-dir", str(world.sender.config_dir)),
    )
    before = world.sender.main_cf.read_bytes()

    done = world.network.run(*argv, env=world.certbot.environment)

    assert done.returncode == 1
    assert f"{DAEMON} is not added" in done.stderr
    assert "does not answer" in done.stderr
    assert world.sender.main_cf.read_bytes() == before


@pytest.mark.parametrize("level", ["none", "certificate"])
def test_who_wants_no_daemon_gets_none(sts, level):
    start_daemon(sts)
    options = {
        "none": ("--postfix-policy-service", "none"),
        "certificate": ("--postfix-tls-profile", "certificate"),
    }

    assert "smtp_tls_policy_maps" not in sts.install(*options[level])


# Domains that are not in ASCII

BUECHER, U_BUECHER = "xn--bcher-kva.insecure", "b\u00fccher.insecure"


@pytest.fixture
def abroad(world: World) -> World:
    """A world whose policy for a domain in Unicode is followed; no server has TLS."""
    world.network.serve("strip", RIGHT, address=STRIPPED, port=25)
    world.network.publish(BUECHER, f"@ MX 10 mx.{BUECHER}.", f"mx A {STRIPPED}")
    world.listed[BUECHER] = {"mode": "enforce", "mxs": [f"mx.{BUECHER}"]}
    world.write_list()
    return world


@pytest.mark.parametrize("kind", ["hash", "lmdb", "texthash"])
def test_mail_to_a_domain_in_unicode_does_not_leave_in_clear(abroad, kind):
    abroad.sender.set(default_database_type=kind)
    abroad.install("--postfix-policy-list", str(abroad.list))
    table = abroad.sender.config_dir / "certbot_tls_policy"
    abroad.sender.set(smtp_tls_policy_maps=f"{kind}:{table}")
    abroad.install()
    assert maps_of(abroad) == f"{kind}:{table}"
    abroad.sender.start()

    for domain in (U_BUECHER, U_BUECHER.upper(), BUECHER, BUECHER.upper()):
        abroad.send(f"you@{domain}")

    wait_until(lambda: len(abroad.sender.waiting()) == 4, "all wait")
    reasons = abroad.sender.waiting().values()
    assert all("TLS is required, but was not offered" in each for each in reasons)
    assert abroad.right.arrived() == []


def maps_of(world: World) -> str:
    return world.sender.postconf("-h", "smtp_tls_policy_maps").strip()


def test_policy_test_asks_for_the_form_of_a_domain_that_postfix_asks_for(abroad):
    own = abroad.sender.config_dir / "own"
    own.write_text(f"{BUECHER} may\n{U_BUECHER} encrypt\n")
    abroad.sender.set(smtp_tls_policy_maps=f"texthash:{own}")

    assert f"has for {BUECHER}: may" in abroad.policy("test", BUECHER)
    assert f"has for {U_BUECHER}: encrypt" in abroad.policy("test", U_BUECHER)
    assert ": encrypt" in abroad.policy("test", U_BUECHER.upper())


@pytest.mark.parametrize(
    "spelling",
    [
        unicodedata.normalize("NFD", U_BUECHER),
        U_BUECHER.replace("b", "\N{FULLWIDTH LATIN SMALL LETTER B}"),
    ],
    ids=["NFD", "full-width"],
)
def test_policy_test_warns_of_a_spelling_for_which_mail_leaves_in_clear(
    abroad, spelling
):
    abroad.install("--postfix-policy-list", str(abroad.list))
    where = ["--postfix-config-dir", str(abroad.sender.config_dir)]
    where += ["--config-dir", str(abroad.certbot.config_dir)]

    done = abroad.network.run(
        *(str(COMMAND), *where, "policy", "test", spelling),
        env=abroad.certbot.environment,
    )

    assert done.returncode == 3
    assert done.stdout.startswith("main.cf has: may")
    said = f"the policy for {BUECHER} does not apply to this spelling"
    assert said in " ".join(done.stderr.split())
    abroad.sender.start()
    abroad.arrives(abroad.send(f"you@{spelling}"))


def test_a_key_that_would_be_that_of_another_domain_is_left_out_and_told(world):
    domain = "xn--strae-oqa.insecure"
    world.listed[domain] = {"mode": "enforce", "mxs": ["mx.insecure"]}
    world.write_list()

    told = world.install("--postfix-policy-list", str(world.list))

    assert f"an address in UTF-8 at {domain} has no policy" in " ".join(told.split())
    assert "main.cf has" in world.policy("test", "strasse.insecure")
    assert f"has for {domain}: secure" in world.policy("test", domain)
