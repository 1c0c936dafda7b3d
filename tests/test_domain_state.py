"""Each recipient domain has a state, and only what endangers mail is a finding."""

import io
import json
import shutil
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from certbot_postfix.outbound import domain_state
from certbot_postfix.outbound.mta_sts_cache import CachedPolicy
from certbot_postfix.outbound.progress import Progress
from tests.lab.machine import wait_until
from tests.lab.network import POLICIES
from tests.test_outbound_mail import (
    RIGHT,
    STRIPPED,
    publish_sts,
    sts,
    with_domains,
    world,
)
from tests.test_resolver_daemons import findings, policy
from tests.test_status import UNPRIVILEGED

__all__ = ["sts", "world"]  # fixtures

NOW = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)
AT, DAY = int(NOW.timestamp()), 86400
BEFORE = AT - 7200

WEEK = CachedPolicy(mode="enforce", mxs=("mx.org",), age=7 * DAY, fetched=AT)
FAILING = {"failing": BEFORE, "why": "no answer"}
SINCE = "failing since 2026-11-26 10:00 UTC (no answer)"


@pytest.mark.parametrize(
    ("policy", "state", "endangered"),
    [
        pytest.param(CachedPolicy(), "no policy", False, id="none"),
        pytest.param(
            CachedPolicy(**FAILING), f"no policy, {SINCE}", False, id="never had one"
        ),
        pytest.param(WEEK, "enforce until 2026-12-03 12:00 UTC", False, id="in force"),
        pytest.param(
            WEEK._replace(**FAILING),
            f"enforce until 2026-12-03 12:00 UTC, {SINCE}",
            False,
            id="there is time to renew it",
        ),
        pytest.param(
            WEEK._replace(fetched=AT - 4 * DAY, **FAILING),
            f"enforce until 2026-11-29 12:00 UTC, {SINCE}",
            True,
            id="past its half",
        ),
        pytest.param(
            WEEK._replace(fetched=AT - 4 * DAY, seen=AT, **FAILING),
            f"enforce until 2026-12-03 12:00 UTC, {SINCE}",
            False,
            id="extended, since its id is the same",
        ),
        pytest.param(
            WEEK._replace(fetched=AT - 8 * DAY, **FAILING),
            f"no policy since 2026-11-25 12:00 UTC, when the last one ended, {SINCE}",
            True,
            id="ended",
        ),
        pytest.param(
            WEEK._replace(fetched=AT - 4 * DAY, mode="testing", **FAILING),
            f"testing until 2026-11-29 12:00 UTC, {SINCE}",
            False,
            id="protects nothing",
        ),
    ],
)
def test_a_state_is_described_and_endangered_if_it_was_to_be_renewed(
    policy, state, endangered
):
    assert domain_state.described(policy, NOW) == state
    assert bool(domain_state.finding({"a.org": policy}, NOW)) == endangered


def test_of_many_policies_that_cannot_be_renewed_a_few_are_named():
    late = WEEK._replace(fetched=AT - 4 * DAY, **FAILING)
    many = {f"d{at:02}.org": late for at in range(50)}

    finding = domain_state.finding(many, NOW)

    assert "d00.org, d01.org, d02.org, d03.org, d04.org and 45 more" in finding


def age(world, by: timedelta) -> None:
    """Let what is known of domains be older, and due."""
    (cache,) = world.certbot.config_dir.glob("postfix/policies/*/mta-sts.json")
    document = json.loads(cache.read_text())
    for fields in document["domains"].values():
        fields["next"] = 0
        fields["fetched"] -= by.total_seconds() * ("fetched" in fields)
        fields["fetched"], fields["seen"] = int(fields["fetched"]), 0
    cache.write_text(json.dumps(document))


@pytest.mark.postfix
def test_a_policy_that_cannot_be_renewed_is_a_finding_until_it_can(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    sts.install(*with_domains(sts))
    (sts.network.policies / "sts.insecure").unlink()
    publish_sts(sts, version="2")
    age(sts, timedelta(hours=13))

    for _ in range(2):  # within the hour, too
        status, said = policy(sts, "refresh")
        assert (status, "sts.insecure could not be renewed" in said) == (3, True)
    assert "the status 404" in findings(sts)["policy-not-renewed"]
    status, said = policy(sts, "show", "--failing")
    assert (status, "sts.insecure: enforce until " in said) == (3, True)

    sts.network.policy("sts.insecure", "mx.sts.insecure")
    status, said = policy(sts, "refresh", "sts.insecure")
    assert (status, "sts.insecure: enforce until" in said) == (0, True)
    assert "policy-not-renewed" not in findings(sts)
    assert policy(sts, "show", "--failing") == (0, "no look-up fails\n")


@pytest.mark.postfix
def test_a_domain_that_never_had_a_policy_and_fails_is_information(sts):
    (sts.network.policies / "sts.insecure").unlink(missing_ok=True)
    sts.install(*with_domains(sts))

    assert policy(sts, "refresh") == (0, "")
    status, said = policy(sts, "show", "--failing")
    assert (status, "sts.insecure: no policy, failing since" in said) == (0, True)
    (described,) = json.loads(policy(sts, "show", "--failing", "--json")[1])
    assert described["domain"] == "sts.insecure"
    assert not described["endangered"]
    assert "policy-source-fails" not in findings(sts)


@pytest.mark.postfix
def test_mail_to_a_domain_that_moves_arrives_after_a_forced_refresh(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    sts.install(*with_domains(sts))
    sts.right.certify("mx.new.insecure")
    sts.network.publish("new.insecure", "mx A 127.0.0.20")
    publish_sts(sts, "@ MX 1 mx.new.insecure.", version="1")  # it forgot the new id
    sts.network.policy("sts.insecure", "mx.new.insecure")
    assert policy(sts, "refresh") == (0, "")  # it is not due
    assert ", mx.sts.insecure (MTA-STS)" in policy(sts, "show")[1]

    status, said = policy(sts, "refresh", "--force")

    assert (status, "sts.insecure: enforce until" in said) == (0, True)
    sts.sender.start()
    sts.arrives(sts.send("you@sts.insecure"))
    sts.account()


def let_pass(world, by: timedelta) -> None:
    """Let all that is known of domains be older by so much."""
    (cache,) = world.certbot.config_dir.glob("postfix/policies/*/mta-sts.json")
    document = json.loads(cache.read_text())
    for fields in document["domains"].values():
        for name in fields.keys() & {"next", "fetched", "seen"}:
            fields[name] -= int(by.total_seconds()) if fields[name] else 0
    cache.write_text(json.dumps(document))


@pytest.mark.postfix
def test_mail_does_not_leave_in_clear_while_a_policy_is_valid_for_an_hour_only(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure", age=3600)
    sts.network.serve("strip", RIGHT, address=STRIPPED, port=25)
    sts.install(*with_domains(sts))
    sts.sender.start()
    sts.arrives(sts.send("you@sts.insecure"))
    for _ in range(2):
        let_pass(sts, timedelta(minutes=45))
        sts.refresh()
    published = (f"mta-sts A {POLICIES}", '_mta-sts TXT "v=STSv1; id=1;"')
    mx = "@ MX 10 mx.sts.insecure."
    sts.network.publish("sts.insecure", mx, f"mx A {STRIPPED}", *published)

    mark = sts.send("you@sts.insecure")

    reason = sts.sender.deferred("you@sts.insecure")
    assert "TLS is required, but was not offered" in reason
    publish_sts(sts)
    sts.flush()
    sts.arrives(mark)
    sts.account()


@pytest.mark.postfix
def test_a_domain_that_is_not_looked_up_cannot_be_refreshed(sts):
    sts.install(*with_domains(sts))

    status, said = policy(sts, "refresh", "other.example")

    assert status == 1
    assert "the MTA-STS policy of other.example is not looked up" in said


@pytest.mark.postfix
def test_what_a_domain_publishes_now_is_shown_beside_what_is_in_force(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure", age=604800)
    shown = (
        "_mta-sts.sts.insecure: 'v=STSv1; id=1;'\n"
        "https://mta-sts.sts.insecure: enforce, max_age 604800, mx.sts.insecure\n"
        "MX mx.sts.insecure, in the policy, no usable TLSA records\n"
        "on this host: its policy is not looked up\n"
    )
    assert policy(sts, "query", "sts.insecure") == (0, shown)
    words = ["policy", "query", "sts.insecure", "--postfix-config-dir"]
    done = sts.network.run(
        *(sys.executable, "-c", UNPRIVILEGED, *words, str(sts.sender.config_dir)),
        env={**sts.certbot.environment, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    hidden = "only root sees its state"
    publication = shown.replace("its policy is not looked up", hidden)
    assert (done.returncode, done.stdout) == (0, publication), done.stderr

    sts.install(*with_domains(sts))
    sts.network.policy("sts.insecure", "*.new.insecure")
    status, said = policy(sts, "query", "sts.insecure")

    assert status == 3
    assert "enforce, max_age 86400, *.new.insecure" in said
    assert "MX mx.sts.insecure, not in the policy" in said
    assert "its own policy does not allow mx.sts.insecure" in said
    assert "publishes another policy than the one that is in force here" in said
    assert "on this host: enforce until " in said


@pytest.mark.postfix
@pytest.mark.skipif(not shutil.which("posttls-finger"), reason="not installed")
def test_policy_test_knows_whether_postfix_compares_mx_hosts_with_the_policy(sts):
    """From 3.10.5 on; before, the names in a certificate only."""
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    sts.install(*with_domains(sts))
    sts.sender.start()
    sts.network.publish(
        "sts.insecure",
        *("@ MX 10 mx.moved.insecure.", f"mta-sts A {POLICIES}"),
        '_mta-sts TXT "v=STSv1; id=1;"',
    )
    sts.network.publish(
        "moved.insecure", f"mx A {RIGHT}"
    )  # the certificate is as it was
    compares = sts.sender.postconf("-h", "smtp_tls_enforce_sts_mx_patterns").strip()

    status, said = policy(sts, "test", "sts.insecure", "--connect")

    mark = sts.send("you@sts.insecure")
    if compares == "yes":
        sts.sender.deferred("you@sts.insecure")
        assert (status, "mx.moved.insecure is not allowed" in said) == (3, True)
        publish_sts(sts)
        sts.flush()
    sts.arrives(mark)
    assert compares or status == 0
    assert policy(sts, "test", "sts.insecure", "--connect")[0] == 0


@pytest.mark.postfix
def test_what_cannot_be_looked_up_is_said_in_its_place(sts):
    sts.network.publish("lame.test", "@ NS ns.lame.test.", "ns A 127.0.0.98")
    sts.network.publish(
        "dane.test",
        "@ MX 10 mx.dane.test.",
        "mx A 127.0.0.20",
        "_25._tcp.mx NS ns.lame.test.",
        f"mta-sts A {POLICIES}",
        '_mta-sts TXT "v=STSv1; id=1;"',
    )

    status, said = policy(sts, "query", "dane.test")

    assert (status, "the status 404" in said) == (3, True)
    assert "MX mx.dane.test, TLSA unknown (TLSA of _25._tcp.mx.dane.test" in said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_work_shows_how_far_it_is_on_a_terminal_and_leaves_nothing_there():
    terminal = Terminal()
    progress = Progress(terminal)

    with progress.of("MTA-STS"):
        progress.count(1234, 10000)
        wait_until(lambda: "1,234 of 10,000" in terminal.getvalue(), "it is shown")

    assert terminal.getvalue().rpartition("\r")[0].endswith(" " * 79)


def test_work_says_nothing_where_there_is_no_terminal():
    stream = io.StringIO()

    with Progress(stream).of("MTA-STS"):
        pass

    assert stream.getvalue() == ""
