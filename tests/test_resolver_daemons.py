"""A resolver daemon is asked by Postfix only where that loses no mail: real servers.

postfix-tlspol is a stand-in that answers as its source says, and the real one, too,
where the environment variable TLSPOL names its program.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from certbot_postfix.errors import Error
from certbot_postfix.outbound import dnssec, fitness, resolver_daemon
from certbot_postfix.outbound.fitness import Daemon, unfit
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.status.findings import Code
from tests.lab import COMMAND
from tests.lab.network import RESOLVER
from tests.test_nexthops import client
from tests.test_outbound_mail import (
    BUECHER,
    DAEMON,
    NAME,
    POLICIES,
    RIGHT,
    U_BUECHER,
    World,
    publish_dane,
    start_daemon,
    sts,
    tlsa,
    world,
)
from tests.test_rules import configured

__all__ = ["sts", "world"]  # fixtures

TLSPOL = "socketmap:inet:127.0.0.1:8642:QUERY"


def table(world: World) -> str:
    """Return the table of postfix-tlspol for this Postfix: other versions defer."""
    release = world.sender.postconf("-dh", "mail_version").strip()
    return resolver_daemon.known(configured(release=release))[1]


pytestmark = pytest.mark.postfix


def start_stand_in(world: World) -> None:
    world.network.serve_policies_to_postfix("tlspol", port=8642)


def start_real(world: World) -> None:
    program = os.environ.get("TLSPOL")
    if not program:
        pytest.skip("TLSPOL names no program of postfix-tlspol")
    config = world.network.base / "tlspol.yaml"
    config.write_text(
        f"server:\n  address: {RESOLVER}:8642\n"
        f"  cache-file: {world.network.base}/tlspol.db\n"
        f"dns:\n  address: {RESOLVER}:53\n"
    )
    world.network.start(program, "-config", str(config))
    world.network.await_port(RESOLVER, 8642)


def start_debians(world: World) -> None:
    """Start Debian's postfix-mta-sts-resolver as it is delivered, without a disk."""
    if not shutil.which("mta-sts-daemon"):
        pytest.skip("postfix-mta-sts-resolver is not installed")
    config = world.network.base / "mta-sts-daemon.yml"
    config.write_text("cache:\n  type: internal\n")
    world.network.start("mta-sts-daemon", "-c", str(config))
    world.network.await_port("127.0.0.1", 8461)


def certbot(
    world: World, *options: str, profile: str = "opportunistic"
) -> "subprocess.CompletedProcess[str]":
    argv = world.certbot.argv(
        "install",
        *("-i", "postfix", "--cert-name", NAME, "--postfix-tls-profile", profile),
        *("--postfix-config-dir", str(world.sender.config_dir), *options),
    )
    return world.network.run(*argv, env=world.certbot.environment)


def findings(world: World) -> dict[str, str]:
    where = ["--postfix-config-dir", str(world.sender.config_dir)]
    where += ["--config-dir", str(world.certbot.config_dir)]
    argv = [str(COMMAND), *where, "status", "--json"]
    done = world.network.run(*argv, env=world.certbot.environment)
    return {
        each["code"]: each["message"] for each in json.loads(done.stdout)["findings"]
    }


def policy_test(world: World, domain: str, *options: str) -> tuple[int, str]:
    return policy(world, "test", domain, *options)


def policy(world: World, *words: str) -> tuple[int, str]:
    world.sender.settle()
    where = ["--postfix-config-dir", str(world.sender.config_dir)]
    where += ["--config-dir", str(world.certbot.config_dir)]
    argv = [str(COMMAND), *where, "policy", *words]
    done = world.network.run(*argv, env=world.certbot.environment)
    return done.returncode, done.stdout + done.stderr


def maps(world: World) -> str:
    return world.sender.postconf("-h", "smtp_tls_policy_maps").strip()


# postfix-tlspol, which demands DANE


@pytest.mark.parametrize("start", [start_stand_in, start_real])
def test_with_a_daemon_that_demands_dane_comes_dnssec_and_mail_arrives(world, start):
    world.right.certify("mx.dane.test")
    publish_dane(world, tlsa((world.right.base / "bundle.pem").read_bytes()))
    start(world)

    world.install()

    assert maps(world) == table(world)
    assert world.sender.postconf("-h", "smtp_dns_support_level").strip() == "dnssec"
    world.sender.start()
    world.arrives(world.send("you@dane.test"))
    status, told = policy_test(world, "dane.test")
    assert (status, f"{table(world)} has for dane.test: dane-only" in told) == (0, True)
    assert not [code for code in findings(world) if code.startswith("policy-daemon")]


STRICT = "secure match=mx.sts.insecure:.more.insecure servername=hostname"
REPORT = (
    " policy_type=sts policy_domain=sts.insecure mx_host_pattern=mx.sts.insecure"
    " mx_host_pattern=*.more.insecure { policy_string = version: STSv1 }"
    " { policy_string = mode: enforce } { policy_string = mx: mx.sts.insecure }"
    " { policy_string = mx: *.more.insecure } { policy_string = max_age: 86400 }"
)
ANSWERS = {
    "QUERY sts.insecure": f"OK {STRICT}",
    "query STS.Insecure.": f"OK {STRICT}",
    "QUERYwithTLSRPT sts.insecure": f"OK {STRICT}{REPORT}",
    "QUERY dane.test": "OK dane-only",
    "QUERYwithTLSRPT dane.test": "OK dane-only ",
    "QUERY partly.test": "OK dane",
    "QUERY implicit.test": "OK dane-only",
    "QUERY plain.insecure": "NOTFOUND ",
    "QUERY .sts.insecure": "NOTFOUND ",
    "QUERY b\u00fccher.insecure": "NOTFOUND ",
    "QUERY 192.0.2.1": "NOTFOUND ",
    "QUERY": "NOTFOUND ",
    "REFUSE sts.insecure": "PERM ",
}
ASK = """
import json, socket, sys
for query in sys.argv[3:]:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as there:
        text = query.encode()
        there.sendall(b"%d:%s," % (len(text), text))
        answer = b""
        while not answer.endswith(b","):
            answer += there.recv(4096)
    print(json.dumps(answer[answer.index(b":") + 1 : -1].decode()))
"""


@pytest.mark.parametrize("start", [start_stand_in, start_real])
def test_the_stand_in_answers_as_postfix_tlspol(sts, start):
    sts.network.policy("sts.insecure", "mx.sts.insecure", "*.more.insecure")
    record = tlsa(sts.authority.issue("mx.dane.test").cert_pem)
    publish_dane(sts, record)
    sts.network.publish("implicit.test", f"@ A {RIGHT}", record.replace(".mx", ""))
    sts.network.publish(
        "partly.test",
        *("@ MX 10 mx.partly.test.", "@ MX 20 mx2.partly.test."),
        *(f"mx A {RIGHT}", f"mx2 A {RIGHT}", record),
    )
    start(sts)

    done = sts.network.run(sys.executable, "-c", ASK, RESOLVER, "8642", *ANSWERS)

    answers = map(json.loads, done.stdout.splitlines())
    assert dict(zip(ANSWERS, answers, strict=True)) == ANSWERS, done.stderr


def test_it_is_left_out_where_the_chroot_has_no_resolver_that_validates(world):
    world.sender.postconf("-F", "smtp/unix/chroot=y")
    resolv = world.sender.base / "queue/etc/resolv.conf"
    resolv.parent.mkdir(parents=True)
    resolv.write_text("nameserver 127.0.0.99\n")
    start_stand_in(world)

    told = world.install()

    assert maps(world) == ""
    assert (
        f"{table(world)} is not added to smtp_tls_policy_maps: it demands DANE, but"
        in (" ".join(told.split()))
    )


def test_one_that_is_there_without_dnssec_is_told_by_all_that_look(world):
    publish_dane(world, tlsa(world.authority.issue("mx.dane.test").cert_pem))
    start_stand_in(world)
    world.sender.set(smtp_tls_policy_maps=TLSPOL)
    why = "demands DANE, but smtp_dns_support_level is not dnssec"

    assert why in findings(world)["policy-daemon-dnssec"]
    status, told = policy_test(world, "dane.test", "--connect")
    assert (status, why in told) == (3, True)
    assert "mail to dane.test is not sent as demanded" in told
    assert why in " ".join(world.install().split())


# The client must be able to verify servers


def test_with_a_daemon_come_authorities_and_mail_arrives(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    start_daemon(sts)

    sts.install()

    assert maps(sts) == DAEMON
    assert sts.sender.postconf("-h", "smtp_tls_CAfile").strip()
    sts.sender.start()
    sts.arrives(sts.send("you@sts.insecure"))


def test_a_daemon_is_left_out_where_the_client_trusts_nobody(sts, tmp_path):
    empty = tmp_path / "authorities.pem"
    empty.touch()
    sts.sender.set(smtp_tls_CAfile=str(empty))
    start_daemon(sts)

    told = " ".join(sts.install().split())

    assert maps(sts) == ""
    why = f"demands verified servers, but smtp_tls_CAfile = {empty} holds no root"
    assert f"{DAEMON} is not added to smtp_tls_policy_maps: it {why}" in told
    sts.sender.set(smtp_tls_policy_maps=DAEMON)
    assert why in findings(sts)["policy-daemon-cas"]


# Domains in UTF-8


def test_debians_daemon_which_fails_for_a_domain_in_utf8_is_left_out(sts):
    query = ["dpkg-query", "-W", "-f", "${Version}", "postfix-mta-sts-resolver"]
    version = subprocess.run(query, capture_output=True, check=False, text=True).stdout
    if version and not version.startswith("1.1."):
        pytest.skip(f"version {version} answers for such a domain")
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    start_debians(sts)
    why = "does not answer for a domain in UTF-8, and mail to every such domain is"

    told = " ".join(sts.install().split())
    assert maps(sts) == ""
    assert f"{DAEMON} is not added to smtp_tls_policy_maps: it {why}" in told
    sts.network.publish(BUECHER, f"@ MX 10 mx.{BUECHER}.", f"mx A {RIGHT}")
    sts.sender.start()
    sts.arrives(sts.send(f"you@{U_BUECHER}"))

    done = certbot(sts, "--postfix-policy-service", DAEMON)
    assert (done.returncode, why in done.stderr) == (1, True)

    sts.sender.set(smtp_tls_policy_maps=DAEMON)
    sts.sender.reload()
    sts.send(f"you@{U_BUECHER}")
    sts.sender.deferred(f"you@{U_BUECHER}")
    assert why in findings(sts)["policy-daemon-idn"]
    status, told = policy_test(sts, "sts.insecure")
    assert (status, why in told) == (3, True)


# A daemon beside DANE


@pytest.mark.parametrize("option", [(), ("--postfix-client-level", "dane")])
def test_beside_the_level_dane_a_daemon_without_dane_is_left_out(sts, option):
    if not option:
        sts.sender.set(smtp_tls_security_level="dane", smtp_dns_support_level="dnssec")
    start_daemon(sts)

    told = " ".join(sts.install(*option).split())

    assert maps(sts) == ""
    assert f"{DAEMON} is not added to smtp_tls_policy_maps: it does not look up" in told
    done = certbot(sts, "--postfix-policy-service", DAEMON)
    assert (done.returncode, "does not look up TLSA records" in done.stderr) == (
        1,
        True,
    )


def test_a_daemon_without_dane_lets_no_mail_pass_where_dane_fails(sts):
    """RFC 8461, section 2.  The server has what MTA-STS demands."""
    sts.right.certify("mx.dane.test")
    published = (f"mta-sts A {POLICIES}", '_mta-sts TXT "v=STSv1; id=1;"')
    publish_dane(sts, tlsa(sts.authority.issue("mx.dane.test").cert_pem), *published)
    sts.network.policy("dane.test", "mx.dane.test")
    start_daemon(sts)
    sts.install("--postfix-client-level", "dane")
    sts.sender.start()

    mark = sts.send("you@dane.test")

    assert "not verified" in sts.sender.deferred("you@dane.test")
    publish_dane(sts, tlsa((sts.right.base / "bundle.pem").read_bytes()), *published)
    sts.flush()
    sts.arrives(mark)
    sts.account()


def test_the_level_dane_is_refused_beside_a_daemon_without_dane(sts):
    start_daemon(sts)
    sts.install()
    before = sts.sender.main_cf.read_bytes()

    done = certbot(sts, "--postfix-client-level", "dane")

    assert done.returncode == 1
    assert (
        f"{DAEMON} in smtp_tls_policy_maps does not look up TLSA records" in done.stderr
    )
    assert sts.sender.main_cf.read_bytes() == before
    sts.sender.set(smtp_tls_security_level="dane", smtp_dns_support_level="dnssec")
    assert "does not look up TLSA records" in findings(sts)["policy-daemon-dane"]


def test_postfix_tlspol_is_fit_beside_the_level_dane(world):
    start_stand_in(world)

    world.install("--postfix-client-level", "dane")

    assert maps(world) == table(world)


# The decision itself


@pytest.mark.parametrize(
    ("daemon", "kinds"),
    [
        pytest.param(Daemon(DAEMON), [], id="one that resolves MTA-STS is fit"),
        pytest.param(Daemon(TLSPOL, level="dane"), [], id="so is one with DANE"),
        pytest.param(Daemon(DAEMON, fault="x"), ["dead"], id="dead"),
        pytest.param(Daemon(DAEMON, fault="x", fault_utf8="y"), ["dead"], id="no more"),
        pytest.param(
            Daemon(DAEMON, fault_utf8="x", distrust="y"), ["idn", "cas"], id="each"
        ),
        pytest.param(Daemon(DAEMON, hindrance="x"), [], id="MTA-STS needs no DNSSEC"),
        pytest.param(Daemon(TLSPOL, hindrance="x"), ["dnssec"], id="DANE needs DNSSEC"),
        pytest.param(
            Daemon(DAEMON, level="dane"), ["dane"], id="it would override DANE"
        ),
        pytest.param(Daemon(f"{TLSPOL}withTLSRPT"), [], id="attributes that are known"),
        pytest.param(
            Daemon(f"{TLSPOL}withTLSRPT", old=True), ["tlsrpt"], id="and that are not"
        ),
        pytest.param(
            Daemon(TLSPOL, level="secure"), ["level"], id="it would weaken secure"
        ),
        pytest.param(Daemon("tcp:h:1", level="dane"), [], id="who knows what it does"),
    ],
)
def test_a_daemon_is_fit_or_there_is_a_reason(daemon, kinds):
    assert [reason.kind for reason in unfit(daemon)] == kinds
    codes = {f"policy-daemon-{kind}" for kind in kinds if kind != "dead"}
    assert codes <= {code.value for code in Code}


@pytest.mark.parametrize(
    ("release", "name"), [("3.9.1", "QUERY"), ("3.10.1", "QUERYwithTLSRPT")]
)
def test_a_daemon_gets_the_query_whose_answer_its_postfix_understands(release, name):
    assert resolver_daemon.known(configured(release=release))[1].endswith(
        f":8642:{name}"
    )


@pytest.mark.parametrize(
    "wanted", ["sts", "socketmap:inet:h:1:a b", "hash:$x", "a:b,c:d"]
)
def test_what_is_no_table_is_not_named(wanted):
    with pytest.raises(Error, match="is not a table that can be named"):
        fitness.choose(Postfix(Path("/nowhere")), configured(), wanted)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("smtp_dns_support_level", "enabled"),
        ("disable_dns_lookups", "yes"),
        ("ignore_mx_lookup_error", "yes"),
        ("smtp_host_lookup", "native"),
        ("smtp_dns_resolver_options", "res_defnames"),
        ("smtp_dns_resolver_options", "res_dnsrch"),
    ],
)
@pytest.mark.parametrize("service", [True, False], ids=["master.cf", "main.cf"])
def test_dane_is_hindered_by_a_client_that_asks_dns_otherwise(name, value, service):
    there = client("smtp", **({name: value} if service else {}))
    explicit = {"smtp_dns_support_level": "dnssec", "smtp_host_lookup": "dns"}
    found = configured(
        {**explicit, **({} if service else {name: value})}, services=(there,)
    )

    assert dnssec.hindrance(found).startswith(name)


# DANE counts only where the client does it


@pytest.mark.parametrize(
    ("parameters", "override"),
    [
        pytest.param({"smtp_dns_support_level": "enabled"}, "", id="no DNSSEC"),
        pytest.param({}, "smtp_dns_support_level=enabled", id="overridden"),
        pytest.param({}, "smtp_tls_security_level=may", id="another level there"),
        pytest.param({}, "chroot", id="no resolver in the chroot"),
    ],
)
def test_a_policy_of_mta_sts_stays_where_the_client_does_no_dane(
    sts, parameters, override
):
    sts.domains.write_text("dane.test\n")
    published = (f"mta-sts A {POLICIES}", '_mta-sts TXT "v=STSv1; id=1;"')
    publish_dane(sts, tlsa(sts.authority.issue("mx.dane.test").cert_pem), *published)
    sts.network.policy("dane.test", "mx.dane.test")
    level = {"smtp_tls_security_level": "dane", "smtp_dns_support_level": "dnssec"}
    sts.sender.set(**{**level, **parameters})
    if override == "chroot":
        sts.sender.postconf("-F", "smtp/unix/chroot=y")
        resolv = sts.sender.base / "queue/etc/resolv.conf"
        resolv.parent.mkdir(parents=True)
        resolv.write_text("nameserver 127.0.0.99\n")
    elif override:
        sts.sender.postconf("-P", f"smtp/unix/{override}")

    sts.install("--postfix-mta-sts-domains", str(sts.domains))

    assert "dane.test: enforce" in sts.policy("show")
    if not override:
        found = findings(sts)
        assert "smtp_dns_support_level is not dnssec" in found["dane-without-effect"]


def test_mail_to_a_domain_with_dane_does_not_leave_in_clear_where_that_is_off(sts):
    sts.domains.write_text("dane.test\n")
    published = (f"mta-sts A {POLICIES}", '_mta-sts TXT "v=STSv1; id=1;"')
    record = tlsa(sts.authority.issue("mx.dane.test").cert_pem)
    publish_dane(sts, record, *published)
    sts.network.policy("dane.test", "mx.dane.test")
    sts.sender.set(smtp_tls_security_level="dane")
    sts.install("--postfix-mta-sts-domains", str(sts.domains))
    sts.network.serve("strip", RIGHT, address="127.0.0.51", port=25)
    sts.network.publish(
        "dane.test", "@ MX 10 mx.dane.test.", "mx A 127.0.0.51", record, *published
    )
    sts.sender.start()

    sts.send("you@dane.test")

    assert "TLS is required" in sts.sender.deferred("you@dane.test")
    assert sts.right.arrived() == []


@pytest.mark.parametrize("partial", [True, False])
def test_a_domain_is_left_to_dane_only_if_all_its_servers_have_it(sts, partial):
    sts.domains.write_text("dane.test\n")
    record = tlsa(sts.authority.issue("mx.dane.test").cert_pem)
    servers = ["@ MX 10 mx.dane.test.", f"mx A {RIGHT}", record]
    if partial:
        servers += ["@ MX 20 mx2.dane.test.", f"mx2 A {RIGHT}"]
    published = (f"mta-sts A {POLICIES}", '_mta-sts TXT "v=STSv1; id=1;"')
    sts.network.publish("dane.test", *servers, *published)
    sts.network.policy("dane.test", "mx.dane.test", "mx2.dane.test")
    sts.sender.set(smtp_tls_security_level="dane", smtp_dns_support_level="dnssec")

    sts.install("--postfix-mta-sts-domains", str(sts.domains))

    assert (", DANE (MTA-STS)" in sts.policy("show")) != partial
