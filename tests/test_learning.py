"""Recipient domains are learnt from the queue and the mail log, and no more of them."""

import gzip
import json
import os
import stat
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from certbot_postfix.outbound import learnt
from certbot_postfix.postfix import sent_mail
from certbot_postfix.postfix.current import Current
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.sent_mail import Position
from tests.test_outbound_mail import (
    POLICIES,
    RIGHT,
    STRIPPED,
    publish_sts,
    sts,
    world,
)
from tests.test_resolver_daemons import policy, start_stand_in
from tests.test_rules import configured

__all__ = ["sts", "world"]  # fixtures

NOW = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)
FOREVER = 60.0

SENT = (
    "Nov 26 12:00:00 mx postfix/smtp[77]: 4FqPK12: to=<you@{}>,"
    " relay=mx[192.0.2.1]:25, delay=1, dsn=2.0.0, status=sent (250 Ok)\n"
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "mail.log"
    path.touch()
    return path


def looked(log: Path, position: Position) -> set[str]:
    """Return the domains that a look finds."""
    there = configured({"maillog_file": str(log)})
    return sent_mail.logged(there, position, time.time(), seconds=FOREVER)


def write(log: Path, *domains: str) -> None:
    with log.open("a") as file:
        file.writelines(SENT.format(domain) for domain in domains)


@pytest.mark.parametrize(
    ("line", "domains"),
    [
        pytest.param(SENT.format("a.org"), {"a.org"}, id="sent"),
        pytest.param(
            SENT.format("a.org").replace("sent (", "deferred ("), {"a.org"}, id="waits"
        ),
        pytest.param(
            SENT.format("a.org").replace("postfix/smtp", "postfix/relay/smtp"),
            {"a.org"},
            id="by another client",
        ),
        pytest.param(
            SENT.format("a.org").replace("/smtp", "/lmtp"), set(), id="delivered here"
        ),
        pytest.param(
            SENT.format("a.org") + SENT.format("a.org").replace("/smtp", "/lmtp"),
            {"a.org"},
            id="sent, and delivered here",
        ),
        pytest.param(
            "".join(
                SENT.replace("you", "y" * 60).format(name)
                for name in ("a.org", "b.org")
            ),
            {"a.org", "b.org"},
            id="recipients that begin alike",
        ),
        pytest.param(
            "Nov 26 12:00:00 mx postfix/smtpd[7]: NOQUEUE: reject: RCPT from x[::1]:"
            " 554 5.7.1 <b@b.org>: Relay access denied; from=<x@c.org> to=<b@b.org>\n",
            set(),
            id="refused",
        ),
        pytest.param(
            "Nov 26 12:00:00 mx postfix/qmgr[7]: 4FqPK12:"
            ' from=<"/smtp[1]: 4FqPK12: to=<x@evil.org>"@d.org>, size=1\n',
            {"evil.org"},
            id="a sender that looks like a delivery costs a look-up",
        ),
        pytest.param(
            SENT.replace("you@{}", "postmaster").format(), set(), id="no domain"
        ),
        pytest.param(SENT.format("a.org").rstrip("\n"), set(), id="half a line"),
        pytest.param("\0\xff\n" + SENT.format("a.org"), {"a.org"}, id="noise before"),
        pytest.param(
            "x" * 500_000 + "\n" + SENT.format("a.org"),
            {"a.org"},
            id="a long line before",
        ),
    ],
)
def test_of_a_log_the_domains_are_learnt_that_mail_was_sent_to(log, line, domains):
    log.write_text(line, encoding="latin-1")

    assert looked(log, Position()) == domains


def test_only_what_is_new_is_read_wherever_it_was_rotated_to(log):
    position = Position()
    write(log, "a.org")
    assert looked(log, position) == {"a.org"}
    assert looked(log, position) == set()

    write(log, "b.org")
    log.rename(log.with_name("mail.log.1"))
    write(log, "c.org")
    assert looked(log, position) == {"b.org", "c.org"}

    for number, domain in enumerate(("d.org", "e.org")):  # twice since the last look
        write(log, domain)
        log.rename(log.with_name(f"mail.log-{number}"))
    with gzip.open(log.with_name("mail.log-0.gz"), "wb") as file:
        file.write(log.with_name("mail.log-0").read_bytes())
    log.with_name("mail.log-0").unlink()
    write(log, "f.org")
    assert looked(log, position) >= {"d.org", "e.org", "f.org"}

    log.write_text("")  # copytruncate
    write(log, "g.org")
    assert looked(log, position) == {"g.org"}


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(gzip.compress(SENT.encode())[:-9], id="cut off"),
        pytest.param(gzip.compress(b"")[:10] + b"\xff" * 20, id="damaged"),
        pytest.param(b"plain\n", id="no gzip"),
    ],
)
def test_after_a_rotated_log_that_is_broken_the_next_run_reads_on(log, caplog, broken):
    position = Position()
    write(log, "a.org")
    looked(log, position)
    log.unlink()
    log.with_name("mail.log.1.gz").write_bytes(broken)
    write(log, "b.org")

    assert looked(log, position) == set()
    assert f"{log}: the mail log could not be read" in caplog.text
    assert looked(log, position) == {"b.org"}


def test_a_log_that_takes_too_long_is_read_on_the_next_time(log, caplog):
    position, there = Position(), configured({"maillog_file": str(log)})
    for number in range(20_000):
        write(log, f"d{number % 7}.org")

    first = sent_mail.logged(there, position, 0, seconds=0)

    assert "the next run goes on" in caplog.text
    ((_, offset, _),) = position.logs.values()
    assert 0 < offset < log.stat().st_size
    write(log, "last.org")
    assert "last.org" not in first
    assert "last.org" in looked(log, position)


def test_what_was_learnt_is_read_by_its_version_and_damage_is_nothing(tmp_path):
    known = {"version": 1, "domains": {"learnt.example": 20_000}, "logs": {}}
    now = datetime.now(timezone.utc)
    known |= {"read": 0, "looked": now.timestamp()}
    path = tmp_path / "recipients.json"
    path.write_text(json.dumps(known))
    assert "learnt.example" in learnt.domains(tmp_path)
    assert not learnt.due(tmp_path, now)

    for text in (json.dumps({**known, "version": 2}), json.dumps([known]), "{"):
        path.write_text(text)
        assert "learnt.example" not in learnt.domains(tmp_path)
        assert learnt.due(tmp_path, now)


@pytest.fixture
def journal(tmp_path, monkeypatch) -> Path:
    """What journalctl(1) prints; it notes its arguments in a file beside this one."""
    printed, program = tmp_path / "journal", tmp_path / "journalctl"
    program.write_text(f'#!/bin/sh\necho "$@" > {printed}.asked\ncat {printed}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return printed


def test_where_no_file_is_written_any_more_the_journal_is_read(log, journal):
    position = Position()
    write(log, "file.org")
    journal.touch()
    assert looked(log, position) == {"file.org"}

    os.utime(log, (1, 1))  # nothing since
    write(journal, "journal.org")
    since = position.read
    assert looked(log, position) == {"journal.org"}
    asked = journal.with_suffix(".asked").read_text().split()
    assert {f"--since=@{since:.0f}", "--identifier=postfix/smtp"} < set(asked)

    assert looked(log, Position()) == {"file.org", "journal.org"}
    log.unlink()
    assert looked(log, Position()) == {"journal.org"}


@pytest.mark.postfix
def test_domains_alone_are_kept_for_root_alone_and_for_90_days(stopped_postfix, log):
    stopped_postfix.set(maillog_file=str(log), maillog_file_prefixes=str(log.parent))
    kept = log.parent / "kept"
    kept.mkdir()

    def look(after: timedelta) -> list[str]:
        current = Current(Postfix(stopped_postfix.config_dir))
        learnt.look(current, kept, "auto", NOW + after)
        return learnt.domains(kept)

    write(log, "a.org", "xn--bcher-kva.org", "[192.0.2.1]", "exa mple", "b" * 300)
    domains = look(timedelta())
    assert {"a.org", "xn--bcher-kva.org", "gmail.com"} < {*domains}
    (path,) = kept.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "you" not in path.read_text()
    assert {"exa mple", "[192.0.2.1]"}.isdisjoint(domains)

    assert "a.org" in look(timedelta(days=89))
    write(log, "xn--bcher-kva.org")
    domains = look(timedelta(days=91))
    assert "a.org" not in domains
    assert "xn--bcher-kva.org" in domains
    path.write_text('{"version": 1, "domains": {"x y": 1}}')
    assert "x y" not in learnt.domains(kept)


@pytest.mark.postfix
def test_from_the_second_message_on_a_domain_is_protected(sts):
    """The first one is seen in the queue or in the log."""
    sts.network.serve("strip", RIGHT, address=STRIPPED, port=25)
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    assert policy(sts, "install", "--mta-sts-domains", "auto")[0] == 0
    log = sts.sender.postconf("-h", "maillog_file").strip()
    assert "sts.insecure" not in policy(sts, "show")[1]
    sts.sender.start()
    sts.arrives(sts.send("you@sts.insecure"))
    assert "sts.insecure" in Path(log).read_text()
    assert policy(sts, "refresh") == (0, "")  # the log was read just now

    status, said = policy(sts, "refresh", "--force")

    assert (status, "sts.insecure: enforce until" in said) == (0, True)
    sts.network.publish(
        "sts.insecure",
        *("@ MX 10 mx.sts.insecure.", f"mx A {STRIPPED}", f"mta-sts A {POLICIES}"),
        '_mta-sts TXT "v=STSv1; id=1;"',
    )
    mark = sts.send("you@sts.insecure")
    assert "TLS is required" in sts.sender.deferred("you@sts.insecure")
    publish_sts(sts)
    sts.flush()
    sts.arrives(mark)
    assert policy(sts, "remove")[0] == 0
    kept = sts.certbot.config_dir.glob("postfix/policies/*/*")
    assert [path.name for path in kept] == ["refreshed"]  # no name of a domain


def be_due(world) -> None:
    """Let half an hour pass since the log was read."""
    (path,) = world.certbot.config_dir.glob("postfix/policies/*/recipients.json")
    text = path.read_text()
    looked = text.partition('"looked": ')[2].partition(",")[0]
    path.write_text(text.replace(looked, "0", 1))


@pytest.mark.postfix
def test_a_domain_whose_mail_waits_is_looked_up_at_each_refresh(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    sts.install("--postfix-mta-sts-domains", str(sts.domains))
    sts.right.certify("mx.new.insecure")
    sts.network.publish("new.insecure", f"mx A {RIGHT}")
    publish_sts(sts, "@ MX 1 mx.new.insecure.")
    sts.network.policy("sts.insecure", "mx.new.insecure")
    sts.sender.start()
    mark = sts.send("you@sts.insecure")
    sts.sender.deferred("you@sts.insecure")

    status, said = policy(sts, "refresh")

    assert (status, "sts.insecure: enforce until" in said) == (0, True)
    sts.flush()
    sts.arrives(mark)
    sts.account()


@pytest.mark.postfix
def test_with_a_fit_daemon_it_is_said_that_nothing_has_to_be_learnt(world):
    start_stand_in(world)

    _, said = policy(world, "install", "--mta-sts-domains", "auto")

    assert "recipient domains need not be learnt" in said


@pytest.mark.postfix
def test_a_file_of_domains_stands_beside_what_is_learnt(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure")

    policy(sts, "install", "--mta-sts-domains", f"auto,{sts.domains}")

    assert "sts.insecure: enforce until" in policy(sts, "show")[1]
    table = sts.sender.config_dir / "certbot_tls_policy"
    assert f'"domains": "auto,{sts.domains}"' in table.read_text()
