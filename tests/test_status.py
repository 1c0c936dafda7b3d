"""What is wrong is told, each cause once, and nothing else is."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from certbot_postfix import cli
from certbot_postfix.dane import store
from certbot_postfix.dane.history import RRset
from certbot_postfix.dane.rollover import State
from certbot_postfix.dane.store import Memory
from certbot_postfix.formats.policy import Entry, Mode, Policy
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.inbound import sni
from certbot_postfix.outbound import last_refresh
from certbot_postfix.outbound import policy_map as policies
from certbot_postfix.outbound.sources import Settings
from certbot_postfix.postfix.configuration import CHAIN, Configuration, Service
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.status import monitoring, nagios, report, terminal
from certbot_postfix.status.checks import dane, parameters
from certbot_postfix.status.collect import collect_facts
from certbot_postfix.status.facts import Facts, File, Handshake, Key, Skipped, SniMap
from certbot_postfix.status.findings import (
    Code,
    Finding,
    Severity,
    merged,
    usual_severity,
)
from certbot_postfix.status.report import Report
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.tls.certificates import Certificate
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import Seen
from tests.lab import (
    Authority,
    Issued,
    PrivatePostfix,
    install_lineage,
    renew_lineage,
)
from tests.lab.machine import LOOPBACK, PATIENCE, LabError, wait_until
from tests.lab.pki import generate_key
from tests.lab.postfix import snapshot
from tests.lab.postmap import needs

HOST = "mx.example.org"
NOW = datetime.now(timezone.utc)
DOCS = Path(__file__).parents[1] / "docs"
DOCUMENTATION = (DOCS / "monitoring.rst").read_text()


# A real site, healthy until a test breaks it


@dataclass
class Site:
    """A Postfix with a deployed lineage, and certbot's directory."""

    postfix: PrivatePostfix
    certbot_dir: Path
    authority: Authority
    others: list[socket.socket] = field(default_factory=list)

    @property
    def bundle(self) -> Path:
        return self.certbot_dir / "postfix" / f"{HOST}.pem"

    @property
    def live(self) -> Path:
        return self.certbot_dir / "live" / HOST

    def entry(self, service: str) -> str:
        return f"{LOOPBACK}:{self.postfix.ports[service]}/inet"

    @property
    def entries(self) -> list[str]:
        return list(map(self.entry, self.postfix.ports))

    def override(self, service: str, **values: str) -> None:
        options = (f"{self.entry(service)}/{n}={v}" for n, v in values.items())
        self.postfix.postconf("-P", *options)
        self.postfix.settle()

    def deploy(self, issued: Issued) -> None:
        """Make *issued* the newest of the lineage, and its bundle."""
        if self.live.exists():
            renew_lineage(self.certbot_dir, HOST, issued)
        else:
            install_lineage(self.certbot_dir, HOST, issued)
        self.write(self.bundle, issued.bundle_pem)

    def write(self, path: Path, content: bytes) -> Path:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path

    def table(self, form: str, text: str) -> Path:
        """Write a table of names, compile it, and name it in main.cf."""
        path = self.write(self.postfix.config_dir / "certbot_sni", text.encode())
        needs(form)
        if form != "texthash":
            assert self.postfix.command("postmap", "-F", f"{form}:{path}").stderr == ""
        self.postfix.set(tls_server_sni_maps=f"{form}:{path}")
        return path

    def examine(self, seconds: float = 20) -> Report:
        facts = collect_facts(
            Postfix(self.postfix.config_dir),
            self.certbot_dir / "postfix",
            Deadline(seconds),
        )
        return report.make(facts)

    def command(self, *options: str) -> list[str]:
        where = ["--postfix-config-dir", str(self.postfix.config_dir)]
        where += ["--config-dir", str(self.certbot_dir)]
        return [*where, "status", *options]


@pytest.fixture
def site(
    base: Path, stopped_postfix: PrivatePostfix, authority: Authority
) -> Iterator[Site]:
    """A site that does not run yet."""
    found = Site(stopped_postfix, base / "letsencrypt", authority)
    found.deploy(authority.issue(HOST))
    stopped_postfix.set(smtpd_tls_chain_files=str(found.bundle))
    stopped_postfix.postconf("-#", "smtpd_tls_cert_file", "smtpd_tls_key_file")
    stopped_postfix.settle()
    yield found
    for each in found.others:
        each.close()


def ago(**since: float) -> datetime:
    return datetime.now(timezone.utc) - timedelta(**since)


def expired(site: Site) -> None:
    site.deploy(site.authority.issue(HOST, not_after=ago(days=1)))


def nearly_expired(site: Site) -> None:
    start = ago(days=80)
    site.deploy(
        site.authority.issue(
            HOST, not_before=start, not_after=start + timedelta(days=90)
        )
    )


def not_yet_valid(site: Site) -> None:
    site.deploy(
        site.authority.issue(HOST, not_before=ago(days=-2), not_after=ago(days=-90))
    )


def not_deployed(site: Site) -> None:
    renew_lineage(site.certbot_dir, HOST, site.authority.issue(HOST))


def expired_and_not_deployed(site: Site) -> None:
    expired(site)
    not_deployed(site)


def copied_and_not_renewed(site: Site) -> None:
    copy = site.write(site.postfix.config_dir / "copy.pem", site.bundle.read_bytes())
    site.bundle.unlink()
    site.postfix.set(smtpd_tls_chain_files=str(copy))
    renewed = site.authority.issue(HOST, not_before=ago(minutes=1))
    renew_lineage(site.certbot_dir, HOST, renewed)


def misnamed(site: Site) -> None:
    site.postfix.set(myhostname="other.example.org")


def leaf_only(site: Site) -> None:
    issued = site.authority.issue(HOST)
    site.deploy(Issued(issued.cert_pem, b"", issued.key_pem))


def open_bundle(site: Site) -> None:
    site.bundle.parent.chmod(0o755)
    site.bundle.chmod(0o644)
    site.certbot_dir.chmod(0o755)


def open_database(site: Site) -> None:
    path = site.table("hash", f"{HOST} {site.bundle}\n")
    path.with_name(f"{path.name}.db").chmod(0o644)


def open_text(site: Site) -> None:
    # What postmap makes of it gets its mode.
    site.table("hash", f"{HOST} {site.bundle}\n").chmod(0o644)


def own_chain(site: Site) -> None:
    own = site.authority.issue(HOST)
    path = site.write(site.postfix.config_dir / "own.pem", own.bundle_pem)
    site.override("submission", smtpd_tls_chain_files=str(path))


def other_table(site: Site) -> None:
    site.table("texthash", f"{HOST} {site.bundle}\n")
    site.override("submission", tls_server_sni_maps="static:none")


def both_forms(site: Site) -> None:
    oil = site.postfix.config_dir / "snakeoil"
    site.postfix.set(smtpd_tls_cert_file=f"{oil}.pem", smtpd_tls_key_file=f"{oil}.key")


def old_parameter(site: Site) -> None:
    site.postfix.set(smtpd_use_tls="yes")
    site.override("submission", smtpd_use_tls="yes")


def server_certificate_of_client(site: Site) -> None:
    site.postfix.set(
        smtp_tls_cert_file=f"{site.live}/fullchain.pem",
        smtp_tls_key_file=f"{site.live}/privkey.pem",
    )


def chain_as_authorities(site: Site) -> None:
    site.postfix.set(smtp_tls_CAfile=f"{site.live}/chain.pem")


def no_authorities(site: Site) -> None:
    path = site.write(site.postfix.config_dir / "empty.pem", b"\n")
    site.postfix.set(smtp_tls_CAfile=str(path))


def snake_oil(site: Site) -> None:
    oil = site.postfix.config_dir / "snakeoil"
    site.postfix.postconf("-X", "smtpd_tls_chain_files")
    both_forms(site)
    assert oil.with_suffix(".pem").exists()


def no_lineage(site: Site) -> None:
    shutil.rmtree(site.live)


def no_bundle(site: Site) -> None:
    site.bundle.unlink()


def foreign_key(site: Site) -> None:
    other, issued = site.authority.issue(HOST), site.authority.issue(HOST)
    site.deploy(Issued(issued.cert_pem, issued.chain_pem, other.key_pem))


def certificate_first(site: Site) -> None:
    issued = site.authority.issue(HOST)
    site.deploy(issued)
    site.write(site.bundle, issued.fullchain_pem + issued.key_pem)


def damaged(site: Site) -> None:
    site.write(site.bundle, b"not PEM\n")


def no_table(site: Site) -> None:
    site.table("texthash", f"{HOST} {site.bundle}\n").unlink()


def name_too_many(site: Site) -> None:
    site.table("texthash", f"{HOST} {site.bundle}\nfoo.example.org {site.bundle}\n")


def protocols_unheard_of(site: Site) -> None:
    site.postfix.set(smtpd_tls_protocols="bogus", smtpd_tls_mandatory_protocols="bogus")


def no_policies(site: Site) -> None:
    site.postfix.set(smtp_tls_policy_maps=f"hash:{site.postfix.config_dir}/missing")


def dead_daemon(site: Site) -> None:
    # A port below those that the lab hands out, at which nobody listens.
    site.postfix.set(smtp_tls_policy_maps="socketmap:inet:127.0.0.1:1:postfix")


def silent_daemon(site: Site) -> None:
    site.others.append(socket.create_server((LOOPBACK, 0)))
    where = f"inet:{LOOPBACK}:{site.others[0].getsockname()[1]}"
    site.postfix.set(smtp_tls_policy_maps=f"socketmap:{where}:postfix")


def ended_policies(site: Site) -> None:
    path = site.postfix.config_dir / policies.NAME
    ended = datetime(2026, 1, 31, tzinfo=timezone.utc)
    policy = Policy(Mode.ENFORCE, ("mx.example.net",))
    entry = Entry("example.net", policy, ended, "a list")
    text = policies.render(Settings(("/a",)), {entry.domain: entry}, (3, 7))
    site.write(path, text)
    site.postfix.set(smtp_tls_policy_maps=f"texthash:{path}")


def unused_policies(site: Site) -> None:
    path = site.postfix.config_dir / policies.NAME
    site.write(path, policies.render(Settings(("/a",)), {}, (3, 7)))


def hidden_policies(site: Site) -> None:
    unused_policies(site)
    path = site.postfix.config_dir / policies.NAME
    site.postfix.set(smtp_tls_policy_maps=f"texthash:{path}")
    site.postfix.postconf("-P", "smtp/unix/smtp_tls_policy_maps=")


def failing_source(site: Site) -> None:
    path = site.postfix.config_dir / policies.NAME
    site.write(path, policies.render(Settings(("/a",)), {}, (3, 7)))
    site.postfix.set(smtp_tls_policy_maps=f"texthash:{path}")
    kept = last_refresh.cache_directory(path, site.bundle.parent)
    kept.mkdir(parents=True)
    (kept / "failed.json").write_text(json.dumps(["/a is gone\nHint: mend it"]))


def edited_policies(site: Site) -> None:
    path = site.postfix.config_dir / policies.NAME
    site.write(path, b"# \xfc\n")
    site.postfix.set(smtp_tls_policy_maps=f"texthash:{path}")


def plain_files(site: Site) -> None:
    for path in site.live.iterdir():
        site.write(path, path.read_bytes())


def no_authorities_of_server(site: Site) -> None:
    site.postfix.set(smtpd_tls_CAfile=f"{site.postfix.config_dir}/gone.pem")


def no_authorities_of_client(site: Site) -> None:
    site.postfix.set(smtp_tls_CAfile=f"{site.postfix.config_dir}/gone.pem")


def no_bundle_of_a_name(site: Site) -> None:
    install_lineage(site.certbot_dir, "shop", site.authority.issue("shop.example.net"))
    missing = site.bundle.with_name("shop.pem")
    site.table("texthash", f"{HOST} {site.bundle}\nshop.example.net {missing}\n")


def remembered(site: Site, record: Record, **held: datetime) -> None:
    """Let the records of the host be *record* when DNS was asked last."""
    rrset = RRset(frozenset({record}), 3600)
    store.save(site.bundle, Memory({f"_25._tcp.{HOST}": (rrset,)}, **held))


def announced(site: Site) -> Record:
    leaf = Certificate.all_from_pem(site.bundle.read_bytes())[0]
    return Record.of_key(leaf.spki)


def no_record_of_its_key(site: Site) -> None:
    remembered(site, Record(3, 1, 1, b"x" * 32))


def pinned_certificate(site: Site) -> None:
    leaf = Certificate.all_from_pem(site.bundle.read_bytes())[0]
    remembered(site, Record(3, 0, 1, bytes.fromhex(leaf.digest)))


def held(site: Site) -> None:
    remembered(site, announced(site), held=ago(days=1), expiry=ago(days=-9))
    not_deployed(site)


def another_key_each_time(site: Site) -> None:
    remembered(site, announced(site))


BEFORE_START = [
    (another_key_each_time, "key-not-kept"),
    (no_record_of_its_key, "tlsa-mismatch"),
    (pinned_certificate, "tlsa-record"),
    (held, "renewal-held"),
    (plain_files, "lineage-unlinked"),
    (no_authorities_of_server, "file-missing"),
    (no_authorities_of_client, "file-missing"),
    (no_bundle_of_a_name, "file-missing"),
    (expired, "expired"),
    (nearly_expired, "expires-soon"),
    (not_yet_valid, "not-yet-valid"),
    (not_deployed, "stale"),
    (expired_and_not_deployed, "stale"),
    (copied_and_not_renewed, "stale"),
    (misnamed, "name-not-covered"),
    (leaf_only, "chain-incomplete"),
    (open_bundle, "readable-by-others"),
    (open_database, "readable-by-others"),
    (open_text, "readable-by-others"),
    (own_chain, "override-hides"),
    (other_table, "override-hides"),
    (both_forms, "ignored-parameter"),
    (old_parameter, "deprecated-parameter"),
    (server_certificate_of_client, "client-purpose"),
    (chain_as_authorities, "ca-file-own-chain"),
    (no_authorities, "file-unusable"),
    (snake_oil, "self-signed"),
    (no_lineage, "lineage-missing"),
    (no_bundle, "file-missing"),
    (no_table, "file-missing"),
    (foreign_key, "key-mismatch"),
    (certificate_first, "key-mismatch"),
    (damaged, "file-unusable"),
    (name_too_many, "sni-name-not-covered"),
    (protocols_unheard_of, "no-certificate"),
    (no_policies, "policy-table-fails"),
    (dead_daemon, "policy-table-fails"),
    (silent_daemon, "policy-table-fails"),
    (ended_policies, "policies-ended"),
    (failing_source, "policy-source-fails"),
    (unused_policies, "policies-unused"),
    (hidden_policies, "override-hides"),
    (edited_policies, "policy-source-fails"),
]


def codes(found: Report) -> list[str]:
    return [each.code.value for each in found.findings]


@pytest.mark.postfix
@pytest.mark.parametrize(
    ("break_it", "code"),
    [pytest.param(*pair, id=pair[0].__name__) for pair in BEFORE_START],
)
def test_what_is_broken_is_one_finding(site, break_it, code):
    break_it(site)
    site.postfix.start()

    found = site.examine()

    assert codes(found) == [code], found.findings
    (hint,) = (each.hint for each in found.findings)
    # certbot, not told how, asks on a terminal, and fails without one.
    assert ("certbot run" in hint) is ("certbot run -a standalone" in hint)


def test_a_key_that_certbot_keeps_is_no_finding(site):
    another_key_each_time(site)
    assert "key-not-kept" in codes(site.examine())
    conf = site.certbot_dir / "renewal" / f"{HOST}.conf"
    conf.write_text(f"{conf.read_text()}reuse_key = True\n")

    assert "key-not-kept" not in codes(site.examine())


@pytest.mark.postfix
def test_a_daemon_that_cannot_be_judged_is_not_seen_and_all_else_is(site):
    dead_daemon(site)
    site.postfix.set(smtp_tls_CAfile=str(site.postfix.config_dir))
    expired(site)
    site.postfix.start()

    found = site.examine()

    unseen = {each.object.partition(":")[0]: each.reason for each in found.skipped}
    assert unseen["socketmap"].endswith("Is a directory")
    assert codes(found) == ["expired"]


@pytest.mark.parametrize("managed", [True, False])
def test_certbot_renew_is_a_hint_for_lineages_alone(site, managed):
    expired(site)
    if not managed:
        copy = site.postfix.config_dir / "own.pem"
        site.postfix.set(smtpd_tls_chain_files=str(copy))
        issued = site.authority.issue("own.example.org", not_after=ago(days=1))
        site.write(copy, issued.bundle_pem)
        site.postfix.set(myhostname="own.example.org")

    (hint,) = [
        each.hint for each in site.examine().findings if each.code.value == "expired"
    ]

    assert (f"certbot renew --cert-name {HOST}" in hint) is managed
    assert ("own.pem" in hint) is not managed


@pytest.mark.postfix
@pytest.mark.parametrize(
    ("break_it", "message", "hint"),
    [
        (
            no_authorities_of_server,
            "TLS is off where it is configured",
            "restore it",
        ),
        (
            no_bundle_of_a_name,
            "clients requesting its names get the default certificate",
            "certbot-postfix deploy --cert-name shop",
        ),
    ],
)
def test_a_missing_file_is_told_with_what_it_does(site, break_it, message, hint):
    break_it(site)
    site.postfix.start()

    (finding,) = site.examine().findings

    assert message in finding.message
    assert hint in finding.hint
    if break_it is no_bundle_of_a_name:
        assert site.postfix.served(sni="shop.example.net") == site.postfix.served()
    else:
        with pytest.raises(LabError):  # as the finding says
            site.postfix.served()


@pytest.mark.postfix
def test_of_several_entries_for_one_service_the_last_is_examined(site):
    name, _, kind = site.entry("smtp").partition("/")
    first = f"{name} {kind} n - n - - smtpd -o smtpd_tls_security_level=none\n"
    filters = "filter unix - n n - 10 pipe flags=R user=nobody argv=/bin/false\n" * 2
    text = site.postfix.master_cf.read_text()
    site.postfix.master_cf.write_text(first + filters + text)
    site.postfix.settle()
    site.postfix.start()

    found = site.examine()

    assert codes(found) == []
    assert {row.endpoint.service for row in found.handshakes} == set(site.entries)
    assert all(row.leaf for row in found.handshakes)


@pytest.mark.postfix
def test_a_certificate_that_has_expired_on_three_services_is_one_finding(site):
    expired(site)
    site.postfix.start()

    (finding,) = site.examine().findings

    assert finding.places == tuple(site.entries)
    assert finding.object == str(site.bundle)


# Broken while it runs


def replaced(site: Site) -> None:
    site.deploy(site.authority.issue(HOST))


def stopped(site: Site) -> None:
    site.postfix.stop()


def mute(site: Site) -> None:
    site.override("submission", smtpd_tls_security_level="bogus")
    site.postfix.reload()
    wait_until(lambda: "bad command startup" in touched(site), "smtpd dies")


def touched(site: Site) -> str:
    with closing(
        socket.create_connection((LOOPBACK, site.postfix.ports["submission"]))
    ):
        time.sleep(0.1)
    return site.postfix.log()


@pytest.mark.postfix
@pytest.mark.parametrize(
    ("break_it", "code"),
    [(replaced, "stale"), (stopped, "postfix-not-running"), (mute, "no-answer")],
)
def test_what_breaks_while_postfix_runs_is_one_finding(site, break_it, code):
    site.postfix.start()
    site.examine()
    break_it(site)

    assert codes(site.examine(6)) == [code]


def bundle_by_a_link(site: Site) -> None:
    link = site.postfix.config_dir / "bundles"
    link.symlink_to(site.bundle.parent)
    site.postfix.set(smtpd_tls_chain_files=str(link / site.bundle.name))


def lineage_by_a_link(site: Site) -> None:
    link = site.postfix.config_dir / "mail"
    link.symlink_to(site.live)
    site.postfix.set(
        smtpd_tls_chain_files="",
        smtpd_tls_cert_file=f"{link}/fullchain.pem",
        smtpd_tls_key_file=f"{link}/privkey.pem",
    )


def sni_map_by_a_link(site: Site) -> None:
    bundle_by_a_link(site)
    site.table("hash", f"{HOST} {site.postfix.config_dir}/bundles/{HOST}.pem\n")


@pytest.mark.postfix
@pytest.mark.parametrize(
    "named", [bundle_by_a_link, lineage_by_a_link, sni_map_by_a_link]
)
def test_an_old_certificate_is_one_finding_also_if_its_directory_is_a_link(site, named):
    named(site)
    site.postfix.start()
    assert site.examine().findings == ()
    site.deploy(site.authority.issue(HOST))

    (finding,) = site.examine().findings

    file = "fullchain.pem" if named is lineage_by_a_link else site.bundle.name
    assert (finding.code.value, Path(finding.object).name) == ("stale", file)
    assert set(site.entries) <= set(finding.places)


@pytest.mark.postfix
@pytest.mark.parametrize("queue", ["queue", "another-queue"])
def test_a_postfix_that_was_started_with_another_directory_is_one_finding(
    site, base, queue
):
    running, here = site.postfix.config_dir, base / "here"
    (base / "another-queue").mkdir()
    shutil.copytree(running, here)
    text = (here / "main.cf").read_text()
    queue_directory = f"queue_directory = {base}/{queue}"
    text = re.sub(r"(?m)^queue_directory = .*", queue_directory, text)
    (here / "main.cf").write_text(text)
    site.postfix.start()

    facts = collect_facts(Postfix(here), site.certbot_dir / "postfix", Deadline(20))

    found = report.make(facts)
    assert codes(found) == ["another-postfix-runs"]
    assert f"was started with {running}" in found.findings[0].message
    assert not found.running


@pytest.mark.postfix
def test_a_directory_is_known_by_every_name(site, base):
    (base / "link").symlink_to(site.postfix.config_dir)
    site.postfix.start()

    bundles = site.certbot_dir / "postfix"
    facts = collect_facts(Postfix(base / "link"), bundles, Deadline(20))

    assert codes(report.make(facts)) == []


# Healthy


def nothing(site: Site) -> None:
    pass


def with_table(site: Site) -> None:
    other = site.authority.issue("foo.example.org", "*.foo.example.org")
    install_lineage(site.certbot_dir, "foo", other)
    path = site.write(site.bundle.with_name("foo.pem"), other.bundle_pem)
    site.table(
        "hash",
        f"{HOST} {site.bundle}\nfoo.example.org {path}\n.foo.example.org {path}\n",
    )


def with_two_keys(site: Site) -> None:
    second = site.authority.issue(HOST, key=generate_key("rsa"))
    install_lineage(site.certbot_dir, "rsa", second)
    path = site.write(site.bundle.with_name("rsa.pem"), second.bundle_pem)
    site.postfix.set(smtpd_tls_chain_files=f"{site.bundle}, {path}")
    site.table("texthash", f"{HOST} {site.bundle},{path}\n")


def by_hand(site: Site) -> None:
    site.postfix.set(
        smtpd_tls_chain_files="",
        smtpd_tls_cert_file=f"{site.live}/fullchain.pem",
        smtpd_tls_key_file=f"{site.live}/privkey.pem",
        smtpd_tls_CAfile=f"{site.live}/chain.pem",
    )


def chain_by_hand(site: Site) -> None:
    site.postfix.set(
        smtpd_tls_chain_files=f"{site.live}/privkey.pem {site.live}/fullchain.pem"
    )


def own_service(site: Site) -> None:
    by_hand(site)
    own = site.authority.issue(HOST)
    path = site.write(site.postfix.config_dir / "own.pem", own.bundle_pem)
    site.override(
        "submission", smtpd_tls_cert_file=str(path), smtpd_tls_key_file=str(path)
    )


def by_name_only(site: Site) -> None:
    site.table("texthash", f"{HOST} {site.bundle}\n")
    site.postfix.set(smtpd_tls_chain_files="", smtpd_tls_cert_file="none")


def known_authorities(site: Site) -> None:
    site.postfix.set(smtp_tls_CAfile="/etc/ssl/certs/ca-certificates.crt")


@pytest.mark.postfix
@pytest.mark.parametrize(
    "arrange",
    [
        nothing,
        with_table,
        with_two_keys,
        by_hand,
        chain_by_hand,
        own_service,
        by_name_only,
        known_authorities,
    ],
)
def test_nothing_is_found_at_a_healthy_site(site, arrange):
    arrange(site)
    site.postfix.start()

    found = site.examine()

    assert found.findings == ()
    assert found.skipped == ()
    assert {row.endpoint.service for row in found.handshakes} == set(site.entries)


@pytest.mark.postfix
def test_each_key_type_of_each_service_is_seen(site):
    with_two_keys(site)
    site.postfix.start()

    found = site.examine()

    types = {}
    for row in found.handshakes:
        asked = (row.endpoint.service, row.server_name)
        types.setdefault(asked, set()).add(row.leaf.key_type)
    both = {"RSA", "ECDSA"}
    assert types == {
        (entry, name): both for entry in site.entries for name in (None, HOST)
    }


@pytest.mark.postfix
def test_nothing_is_written(site):
    with_table(site)
    site.postfix.start()
    before = snapshot(site.postfix.config_dir), snapshot(site.certbot_dir)

    site.examine()

    assert (snapshot(site.postfix.config_dir), snapshot(site.certbot_dir)) == before


@pytest.mark.postfix
def test_no_connection_is_logged_as_lost(site):
    site.postfix.start()
    before = site.postfix.log()

    site.examine(PATIENCE)

    def since() -> str:
        return site.postfix.log().removeprefix(before)

    # smtpd(8) logs the end of a session after it has answered QUIT.
    wait_until(lambda: since().count("quit=1") >= 3, "three have said QUIT")
    log = since()
    assert log.count("quit=1") == 3
    # The lab itself connects, and leaves without a word.
    assert not re.findall(r"lost connection after (?!CONNECT)", log)


# Deadlines


@pytest.fixture
def mute_server() -> Iterator[int]:
    """The port of a server that accepts, and says nothing."""
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


def test_a_service_that_never_answers_does_not_hold_it_up(site, mute_server):
    for port in site.postfix.ports.values():
        site.postfix.postconf("-MX", f"{LOOPBACK}:{port}/inet")
    with site.postfix.master_cf.open("a") as file:
        file.write(f"{LOOPBACK}:{mute_server} inet n - n - - smtpd\n")
    site.postfix.settle()
    started = time.monotonic()

    found = site.examine(3)

    assert time.monotonic() - started < 4
    assert [(row.leaf, row.alive) for row in found.handshakes] == [(None, False)]


def test_a_service_behind_a_proxy_is_said_not_to_be_checked(site):
    site.override("smtp", smtpd_upstream_proxy_protocol="haproxy")

    found = site.examine(3)

    assert found.notes == (
        f"{site.entry('smtp')} expects a proxy before it and was not checked",
    )


def test_a_program_that_hangs_does_not_hold_it_up(site, tmp_path, monkeypatch, capsys):
    program = tmp_path / "postconf"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    started = time.monotonic()

    assert cli.main(site.command("--timeout", "1")) == 1

    assert time.monotonic() - started < 3
    assert "could not find Postfix within 1 seconds" in capsys.readouterr().err


@pytest.mark.postfix
def test_of_many_chains_some_are_asked_and_it_says_how_many(site):
    lines = [f"{HOST} {site.bundle}"]
    for number in range(60):
        name = f"n{number}.example.org"
        path = site.bundle.with_name(f"{number}.pem")
        path.symlink_to(site.bundle)
        install_lineage(site.certbot_dir, str(number), site.authority.issue(name))
        lines.append(f"{name} {path}")
    site.table("texthash", "".join(f"{line}\n" for line in lines))
    site.postfix.start()

    found = site.examine()

    assert (found.names, found.requested) == (61, 50)
    assert any("61 names with 61 chains" in note for note in found.notes)


# For whom it is not root who asks


UNPRIVILEGED = """
import os, sys
from certbot_postfix import cli
import _strptime, dns.resolver
"name".encode("idna")  # what is imported later could not be read
os.setgroups([]), os.setgid(65534), os.setuid(65534)
sys.exit(cli.main(sys.argv[1:]))
"""


def as_nobody(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )


@pytest.mark.postfix
def test_an_unprivileged_user_sees_what_is_served_and_is_told_what_he_did_not_see(site):
    with_two_keys(site)
    site.postfix.start()

    done = as_nobody(*site.command("--json"))

    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["findings"] == []
    assert found["postfix"]["running"] in (True, None)
    shown = {each["service"] for each in found["services"] if each["sha256"]}
    assert shown == set(site.entries)
    hidden = {each["object"]: each["reason"] for each in found["not_checked"]}
    for path in (site.bundle, site.postfix.config_dir / "certbot_sni"):
        assert hidden[str(path)] == "Permission denied"
    assert f"certbot's lineages in {site.certbot_dir}/live" in hidden


@pytest.mark.postfix
def test_an_unprivileged_user_is_told_of_what_he_can_see(site):
    expired(site)
    open_bundle(site)
    site.postfix.start()

    done = as_nobody(*site.command("--json"))

    assert done.returncode == 3
    found = [each["code"] for each in json.loads(done.stdout)["findings"]]
    assert found == ["readable-by-others", "expired"]


# Values in, findings out


def certificate(issued: Issued) -> Certificate:
    return Certificate.all_from_pem(issued.cert_pem)[0]


DEFAULTS = {
    "mail_version": "3.7.11",
    CHAIN: "",
    "smtp_tls_chain_files": "",
    "lmtp_tls_chain_files": "",
}


def configured(
    explicit: dict[str, str] | None = None, *services: Service, version: str = "3.7.11"
) -> Configuration:
    values = {"smtpd_tls_security_level": "may", "myhostname": HOST}
    values |= explicit or {}
    values.setdefault("inet_interfaces", "127.0.0.1")
    values.setdefault("inet_protocols", "ipv4")
    return Configuration(
        directory=Path("/etc/postfix"),
        defaults={**DEFAULTS, "mail_version": version},
        explicit=explicit or {},
        values=values,
        services=services or (Service("smtp", "inet", "smtpd", {}),),
    )


BUNDLES = Path("/etc/letsencrypt/postfix")


def concluded(configuration: Configuration, **known: object) -> list[str]:
    facts = Facts(configuration, NOW, BUNDLES, **{"running": True, **known})
    return codes(report.make(facts))


# Not of this release: postconf(5) of 3.11 calls them deprecated.
LATER = {"smtp_cname_overrides_servername", "lmtp_cname_overrides_servername"}


@pytest.mark.parametrize("name", sorted(LATER | parameters.DEPRECATED.keys()))
def test_each_deprecated_parameter_is_a_finding(name):
    assert concluded(configured({name: "x"})) == ["deprecated-parameter"]


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        (set(), "will be removed from a future Postfix release"),
        ({"smtp_use_tls"}, "was removed from this Postfix release"),
    ],
)
def test_a_deprecated_parameter_may_be_gone_already(absent, message):
    """As tlsproxy_client_loglevel_parameter is in Postfix 3.12."""
    configuration = configured({"smtp_use_tls": "yes"})
    defaults = {"smtp_use_tls": "no", **configuration.defaults}
    known = {name: text for name, text in defaults.items() if name not in absent}
    facts = Facts(replace(configuration, defaults=known), NOW, BUNDLES, running=True)

    (finding,) = report.make(facts).findings

    assert finding.message == f"smtp_use_tls is deprecated and {message}"


def test_no_tls_at_all_is_one_finding():
    configuration = configured({"smtpd_tls_security_level": "none"})

    assert concluded(configuration) == ["no-tls"]


def test_before_3_4_the_chain_files_are_no_parameter_and_hide_nothing():
    configuration = configured({"smtpd_tls_cert_file": "/x.pem"}, version="3.3.2")
    known = {name: DEFAULTS[name] for name in ("mail_version",)}
    configuration = replace(configuration, defaults=known)
    file = File(Path("/x.pem"), hidden="Permission denied")

    assert concluded(configuration, files={file.path: file}) == []


@pytest.mark.parametrize(
    ("directory", "found"), [("", ["chain-incomplete"]), ("/etc/ssl/certs", [])]
)
def test_a_chain_may_be_completed_from_a_directory(authority, directory, found):
    leaf = certificate(authority.issue(HOST))
    file = File(Path("/x.pem"), (Key(leaf.spki), leaf))
    configuration = configured({CHAIN: "/x.pem", "smtpd_tls_CApath": directory})

    assert concluded(configuration, files={file.path: file}) == found


def test_a_table_that_was_not_compiled_is_one_finding():
    text = Path("/etc/postfix/certbot_sni")
    table = SniMap("hash", text, {HOST: (Path("/x.pem"),)}, File(text))

    assert concluded(configured(), sni_maps=(table,)) == ["file-missing"]


def test_of_two_tables_that_have_a_name_the_first_counts():
    first, second = (
        SniMap("texthash", path, {HOST: (path.with_suffix(".pem"),)}, File(path))
        for path in (Path("/first"), Path("/second"))
    )
    facts = Facts(configured(), NOW, BUNDLES, sni_maps=(first, second))

    assert facts.names == {HOST: (Path("/first.pem"),)}


def test_the_lineage_of_another_authority_makes_no_copy_stale():
    bought = certificate(Authority("Bought").issue(HOST, not_before=ago(days=9)))
    free = certificate(Authority("Free").issue(HOST))
    path = Path("/x.pem")
    file = File(path, (Key(bought.spki), bought), partly=True)
    endpoint = Endpoint("smtp/inet", LOOPBACK, 25, implicit=False)

    found = concluded(
        configured({CHAIN: str(path)}),
        files={path: file},
        lineages={HOST: free},
        handshakes=(Handshake(endpoint, seen=Seen(bought, "TLSv1.3"), files=(path,)),),
    )

    assert found == []


def test_one_cause_in_many_places_is_merged_to_one_finding():
    one = Finding(Code.EXPIRED, "x", "message", "hint", ("a",))

    (found,) = merged([one, replace(one, places=("b", "a")), one])

    assert found.places == ("a", "b")


def test_the_text_of_a_table_is_read_as_postmap_reads_it():
    text = (
        b"# comment\nA.example.org /a.pem,\n\t/b.pem\n\n.x /c.pem\na.example.org /d\n"
    )

    assert sni.entries(text) == {
        "a.example.org": ("/a.pem", "/b.pem"),
        ".x": ("/c.pem",),
    }


@pytest.mark.parametrize(
    ("mode", "above", "exposed"),
    [(0o644, 0o755, True), (0o640, 0o755, False), (0o644, 0o700, False)],
)
def test_a_key_is_exposed_if_others_reach_it(base, site, mode, above, exposed):
    directory = base / "keys"
    directory.mkdir()
    path = site.write(directory / "bundle.pem", site.bundle.read_bytes())
    path.chmod(mode)
    directory.chmod(above)
    site.postfix.set(smtpd_tls_chain_files=str(path))

    assert ("readable-by-others" in codes(site.examine(3))) == exposed


# What is printed


@pytest.fixture
def awkward(authority: Authority) -> Report:
    """A report full of what breaks formats."""
    odd = 'a"b\\n\nd\x1b[31m\udcff\u202e\u682a' + "x" * 200
    leaf = certificate(authority.issue(HOST, *(f"n{n}.example.org" for n in range(40))))
    strange = replace(leaf, subject=odd, issuer=odd)
    endpoint = Endpoint(
        odd, "2001:db8:1234:5678:9abc:def0:1234:5678", 25, implicit=True
    )
    service = Service(odd, "inet", "smtpd", {})
    answers = (
        Handshake(endpoint, odd, "key", Seen(strange, "TLSv1.3")),
        Handshake(endpoint, None, failure=odd, alive=False),
    )
    return replace(
        report.make(
            Facts(
                configured({}, replace(service, name="smtp")),
                NOW,
                BUNDLES,
                running=True,
                handshakes=answers,
                skipped=(Skipped(odd, odd),),
                notes=(odd,),
            )
        ),
        findings=(Finding(Code.STALE, odd, odd, odd, (odd, odd)),),
        held=(dane.Held(Path(odd), NOW, NOW),),
        tlsa=(dane.Endpoint(odd, Path(odd), State.HELD),),
    )


def test_the_table_fits_100_columns_and_commands_no_terminal(awkward):
    text = terminal.as_table(awkward)

    assert max(map(len, text.splitlines())) <= 100
    assert all(each.isprintable() for each in text.replace("\n", ""))


def rows(report: Report) -> list[list[str]]:
    """Return the rows of the table of services, without its headings."""
    table = terminal.as_table(report).split("\n\n")[1]
    headings, *lines = (re.split(" {2,}", line) for line in table.splitlines())
    columns = ["SERVICE", "ADDRESS", "SERVER NAME", "KEY", "EXPIRES", "CERTIFICATE"]
    assert headings == columns
    return lines


@pytest.mark.postfix
def test_types_of_key_are_rows_of_their_own_and_no_downgrade(site):
    with_two_keys(site)
    site.postfix.start()

    report = site.examine()

    wanted = [
        (f"{LOOPBACK}:{port}", name, key)
        for port in sorted(site.postfix.ports.values())
        for name in ("(none)", HOST)
        for key in ("ECDSA", "RSA")
    ]
    kinds = sorted((row[1], row[2], row[3]) for row in rows(report))
    assert kinds == sorted(wanted)
    assert "TLSv1" not in terminal.as_table(report)  # 1.2, since a type was requested


def test_addresses_that_agree_are_one_row_and_what_nothing_presents_is_not_listed(
    authority: Authority,
):
    default, other, unused = (certificate(authority.issue(HOST)) for _ in range(3))
    path = Path("/unused.pem")
    facts = Facts(
        configured({CHAIN: str(path)}, Service("smtp", "inet", "smtpd", {})),
        NOW,
        BUNDLES,
        running=True,
        files={path: File(path, (Key(unused.spki), unused))},
        handshakes=tuple(
            Handshake(
                Endpoint("smtp/inet", host, 25, implicit=False),
                seen=Seen(leaf, "TLSv1.3"),
            )
            for host, leaf in (
                ("192.0.2.1", default),
                ("192.0.2.2", other),
                ("2001:db8::1", default),
            )
        ),
    )

    made = report.make(facts)

    ends = f"{default.not_after:%Y-%m-%d}"
    both = "192.0.2.1:25, [2001:db8::1]:25"
    assert rows(made) == [
        ["smtp", both, "(none)", "ECDSA", ends, "[1]"],
        ["smtp", "192.0.2.2:25", "(none)", "ECDSA", ends, "[2]"],
    ]
    text = terminal.as_table(made)
    assert default.digest in text
    assert unused.digest not in text
    assert unused.digest in monitoring.as_json(made)


# The plugin of Nagios


LINE = r"POSTFIX TLS (OK|WARNING|CRITICAL|UNKNOWN): ([^|\n]+)( \| [a-z_]+=\d.*)?\n"


def running(site: Site) -> None:
    site.postfix.start()


def soon(site: Site) -> None:
    nearly_expired(site)
    site.postfix.start()


def unreadable(site: Site) -> None:
    site.postfix.main_cf.write_text("no equals sign\n")
    site.postfix.settle()


@pytest.mark.postfix
@pytest.mark.parametrize(
    ("arrange", "status", "word", "text"),
    [
        (running, 0, "OK", "3 services, the first certificate expires in 89 days"),
        (soon, 1, "WARNING", f"[expires-soon] the certificate for {HOST} expires"),
        (nothing, 2, "CRITICAL", "[postfix-not-running] Postfix in "),
        (unreadable, 3, "UNKNOWN", "missing '='"),
    ],
)
def test_a_plugin_of_nagios_prints_one_line(site, capsys, arrange, status, word, text):
    arrange(site)

    assert cli.main(site.command("--check")) == status

    output = capsys.readouterr()
    match = re.fullmatch(LINE, output.out)
    assert match
    assert output.err == ""
    assert match[1] == word
    assert text in match[2]
    assert bool(match[3]) is (word != "UNKNOWN")
    if word == "CRITICAL":
        assert match[3].split()[1:3] == ["critical=1", "warning=0"]


def test_the_line_for_nagios_survives_what_breaks_formats(awkward):
    odd = replace(awkward.findings[0], message="a | b\nc\x1b[31m")

    line, status = nagios.as_check(replace(awkward, findings=(odd,)))

    assert re.fullmatch(LINE, line)
    assert line.rstrip("\n").isprintable()
    assert status == 1


def test_a_stale_certificate_is_critical_once_it_has_expired():
    warning = Finding(Code.STALE, "a", "", "")
    urgent = replace(warning, object="b", urgent=True)

    found = merged([warning, urgent, replace(warning, object="b")])

    kinds = [(each.object, each.severity) for each in found]
    assert kinds == [("b", Severity.CRITICAL), ("a", Severity.WARNING)]


def test_colour_is_for_terminals_alone(awkward):
    assert "\x1b" in terminal.as_table(awkward, colour=True)
    assert "\x1b" not in terminal.as_table(awkward)


def test_metrics_survive_the_real_parser(awkward):
    text = monitoring.as_prometheus(awkward)

    families = list(text_string_to_metric_families(text))

    documented = re.findall(r"``(certbot_postfix_\w+)``  ", DOCUMENTATION)
    assert [family.name for family in families] == documented
    assert all(family.documentation for family in families)
    assert {family.type for family in families} == {"gauge"}
    by_name = {family.name: family.samples for family in families}
    counts = {
        each.labels["code"]: each.value for each in by_name["certbot_postfix_findings"]
    }
    assert counts == {code.value: float(code is Code.STALE) for code in Code}
    (info,) = by_name["certbot_postfix_finding_info"]
    assert info.labels["object"].startswith('a"b\\n\nd\\x1b[31m')
    (end,) = by_name["certbot_postfix_not_after_timestamp_seconds"]
    assert end.value == awkward.handshakes[0].leaf.not_after.timestamp()


@pytest.fixture
def rolling(authority: Authority) -> Facts:
    """Four endpoints, and a renewal with a new key, which is held."""
    served, renewed = (certificate(authority.issue(HOST)) for _ in range(2))
    bundle, day = BUNDLES / f"{HOST}.pem", timedelta(days=1)
    old, new = (Record.of_key(each.spki) for each in (served, renewed))
    before, both, wrong = (
        RRset(frozenset(each), 3600) for each in ({old}, {old, new}, {new})
    )
    ports = {
        587: (before,),
        26: (both,),
        465: (both, replace(before, until=NOW)),
        25: (wrong,),
    }
    endpoints = {f"_{port}._tcp.{HOST}": each for port, each in ports.items()}
    return Facts(
        configured({"myhostname": HOST}),
        NOW,
        BUNDLES,
        files={bundle: File(bundle, (served,))},
        lineages={HOST: renewed},
        tlsa={bundle: Memory(endpoints, NOW - day, NOW + 2 * day)},
    )


def states(text: str) -> list[str]:
    """Return the states of endpoints in metrics."""
    return re.findall(r'(?m)^certbot_postfix_tlsa_state{.*,state="(\w+)"} 1$', text)


def test_metrics_tell_how_far_a_held_renewal_is_and_for_how_long_it_may_wait(rolling):
    text = monitoring.as_prometheus(report.make(rolling))

    assert f'certbot_postfix_held_seconds_left{{lineage="{HOST}"}} 172800\n' in text
    assert states(text) == ["held", "steady", "ageing", "mismatch"]


def test_metrics_tell_how_far_a_staged_key_is(rolling):
    ((bundle, file),) = rolling.files.items()
    keys = {bundle: rolling.lineages[HOST].spki}
    unchanged = {HOST: file.certificates[0]}

    made = report.make(replace(rolling, lineages=unchanged, staged=keys))

    text = monitoring.as_prometheus(made)
    assert states(text) == ["staged", "ready", "ageing", "mismatch"]


def messages(facts: Facts, code: Code) -> list[str]:
    found = report.make(facts).findings
    return [each.message for each in found if each.code is code]


def test_a_staged_key_says_until_when_it_waits_and_so_does_a_held_renewal(rolling):
    ((bundle, memory),) = rolling.tlsa.items()
    waits = {name: it for name, it in memory.endpoints.items() if "_465." in name}
    late = replace(rolling, tlsa={bundle: replace(memory, endpoints=waits)})
    keys = {bundle: rolling.lineages[HOST].spki}
    leaf = rolling.leaf(bundle)
    until = f"until {NOW + timedelta(hours=2):%Y-%m-%d %H:%M} UTC"

    ((held, *_), staged) = (
        messages(late, Code.TLSA_HELD),
        messages(replace(late, lineages={HOST: leaf}, staged=keys), Code.TLSA_AGEING),
    )

    assert f"TLSA records (DANE) without its key {until}; the certificate" in held
    assert [each.rpartition("records (DANE) ")[2] for each in staged] == [until]
    # Where a server lacks the record, to wait is not enough.
    (held,) = messages(rolling, Code.TLSA_HELD)
    assert "do not announce its key everywhere yet; the certificate expires" in held
    assert not messages(replace(rolling, staged=keys), Code.TLSA_AGEING)


def schema() -> dict[str, str]:
    """Return type by key, as the documentation has them."""
    rows = re.findall(r"(?m)^``([\w.\[\]]+)``  +(\w[\w ,]*?)(?:  .*)?$", DOCUMENTATION)
    return {key: kind for key, kind in rows if not key.startswith("certbot_")}


def described(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield each value of a JSON document with its path, as in the documentation."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from described(inner, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list):
        yield f"{path}[]", value
        for inner in value:
            if isinstance(inner, dict):
                yield from described(inner, f"{path}[]")
            else:
                assert isinstance(inner, str)
    else:
        yield path, value


TYPES = {
    "integer": int,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "list of objects": list,
    "list of strings": list,
}


def matches(value: object, kind: str) -> bool:
    words = kind.split(",", maxsplit=1)[0].split(" or ")
    told = any(type(value) is TYPES[word] for word in words)
    if told and "time" in kind:
        return bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", str(value)))
    return told


def test_json_is_as_documented(awkward):
    found = list(described(json.loads(monitoring.as_json(awkward))))

    known = schema()
    assert {path for path, _ in found} == known.keys()
    assert not [
        (path, value) for path, value in found if not matches(value, known[path])
    ]


def test_each_code_has_an_anchor_in_the_documentation_with_severity_cause_and_fix():
    _, *sections = (DOCS / "findings.rst").read_text().split("\n.. _finding-")

    documented = [
        re.match(
            r"([a-z-]+):\n\n``\1``\n-+\n\n(?s:.+?)\n\nSeverity\n    ([a-z]+)\n"
            r"Cause\n    (?s:.+?)\nFix\n    ",
            section,
        )
        for section in sections
    ]

    found = [(match[1], match[2]) for match in documented if match]
    assert found == [(code.value, usual_severity(code).value) for code in Code]
    assert len(found) == len(sections)


@pytest.mark.postfix
@pytest.mark.parametrize("options", [[], ["--json"], ["--prometheus"]])
def test_the_exit_status_tells_of_findings_and_output_is_data(site, options, capsys):
    site.postfix.start()

    healthy = cli.main(site.command(*options))
    site.postfix.stop()
    broken = cli.main(site.command(*options))

    told = capsys.readouterr()
    assert (healthy, broken, told.err) == (0, 3, "")
    assert "\x1b" not in told.out


def test_a_configuration_that_cannot_be_read_is_no_finding_but_an_error(site, capsys):
    site.postfix.main_cf.write_text("no equals sign\n")
    site.postfix.settle()

    assert cli.main(site.command("--json")) == 1

    told = capsys.readouterr()
    assert told.out == ""
    assert "missing '='" in told.err
