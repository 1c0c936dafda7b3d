"""What comes next for a key, from what DNS says, what is remembered, and the time."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

from certbot_postfix.dane import places, rollover, steps
from certbot_postfix.dane.history import RRset
from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.observation import Answer, Observation, Status
from certbot_postfix.dane.rollover import Facts
from certbot_postfix.dane.steps import Rolling, Step
from certbot_postfix.dane.store import Key, Memory
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.inbound import every_renew, rolling_commands
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.tls.certificates import Certificate
from tests.lab import Authority

HOST = "mx.example.org"
NOW = datetime(2026, 11, 30, tzinfo=timezone.utc)
DAY = timedelta(days=1)
LAB = Authority()
OLD, OTHER = (
    tuple(Certificate.all_from_pem(LAB.issue(HOST).fullchain_pem)) for _ in range(2)
)
NEXT = (OLD[0].with_key(OTHER[0].spki), *OLD[1:])
KEYS = {chain: Record.of_key(chain[0].spki) for chain in (OLD, NEXT)}

AUTO, MANUAL = Rolling(90 * DAY), Rolling()
IN_SERVICE = Memory(keys={KEYS[OLD]: Key(since=NOW - 90 * DAY)})


def endpoint(*announced: tuple, new: tuple = OLD, before: tuple = ()) -> Endpoint:
    """Return an endpoint that has announced these chains, and an hour ago *before*."""
    records = frozenset(KEYS[each] for each in announced)
    answers = (Answer("ns1", records, 3600),)
    seen = Observation(f"_25._tcp.{HOST}", Status.SECURE, HOST, answers)
    history = [RRset(records, 3600)] if records else []
    if before:
        past = frozenset(KEYS[each] for each in before)
        history.append(RRset(past, 3600, NOW - timedelta(hours=1)))
    facts = Facts(HOST, seen, tuple(history), (OLD,), new)
    return Endpoint(facts, rollover.decide(facts, NOW))


@pytest.mark.parametrize(
    ("at", "rolling", "step"),
    [
        (endpoint(OLD), MANUAL, Step.NOTHING),
        (endpoint(OLD), AUTO, Step.STAGE),
        (endpoint(OLD), Rolling(91 * DAY), Step.NOTHING),
        (endpoint(), AUTO, Step.NOTHING),  # nobody begins with DANE by the way
        (endpoint(new=NEXT), AUTO, Step.NOTHING),
        (endpoint(OLD, new=NEXT), AUTO, Step.PUBLISH),
        (endpoint(OLD, NEXT, new=NEXT, before=(OLD,)), AUTO, Step.WAIT),
        (endpoint(OLD, NEXT, new=NEXT), AUTO, Step.SWITCH),
        (endpoint(OLD, NEXT, new=NEXT), MANUAL, Step.READY),
    ],
)
def test_a_key_is_staged_announced_awaited_and_served(at, rolling, step):
    assert steps.step([at], IN_SERVICE, rolling, NOW) is step


def test_all_endpoints_must_have_the_record():
    both = [endpoint(OLD, NEXT, new=NEXT), endpoint(OLD, new=NEXT)]

    assert steps.step(both, IN_SERVICE, AUTO, NOW) is Step.PUBLISH


@pytest.mark.parametrize(
    ("span", "left", "late"),
    [
        (30 * DAY, 8 * DAY, False),
        (30 * DAY, 7 * DAY, True),
        (DAY * 80 / 24, DAY * 25 / 24, False),  # certificates of six days
        (DAY * 80 / 24, DAY, True),
    ],
)
def test_a_renewal_is_held_no_longer_than_the_certificate_in_service_can_wait(
    span, left, late
):
    memory = replace(IN_SERVICE, held=NOW + left - span, expiry=NOW + left)

    step = steps.step([endpoint(OLD, new=NEXT)], memory, MANUAL, NOW)

    assert (step is Step.RESCUE) is late
    assert steps.may_come(memory, MANUAL, NOW) is late


# What certbot leaves for its end


@pytest.mark.parametrize("given", [{}, {"config-dir": "/etc/postfix-2"}])
def test_certbot_goes_on_with_the_options_that_it_has_for_postfix(given):
    conf = {"tlsa-min-ttl": 0, "tlsa-roll": "auto", "dane-resolver": "", **given}
    conf |= {"tlsa-publisher": "print", "tlsa-name": [HOST, "mx2.example.org"]}
    names = ("config_dir", "work_dir", "logs_dir")
    config = SimpleNamespace(**{name: Path("/c", name) for name in names})
    plugin = SimpleNamespace(conf=conf.get, config=config)

    words = rolling_commands.advance(plugin, Lineage.live(Path("/live"), HOST))

    pairs = list(zip(words[5::2], words[6::2], strict=True))
    assert pairs == [
        ("--cert-name", HOST),
        *(("--postfix-config-dir", directory) for directory in given.values()),
        ("--config-dir", "/c/config_dir"),
        ("--work-dir", "/c/work_dir"),
        ("--logs-dir", "/c/logs_dir"),
        ("--tlsa-min-ttl", "0"),  # is a value
        ("--tlsa-roll", "auto"),
        ("--publisher", "print"),
        ("--tlsa-name", HOST),
        ("--tlsa-name", "mx2.example.org"),
    ]


def test_what_certbot_leaves_for_its_end_is_run_once_and_what_it_says_is_printed(
    tmp_path, capsys
):
    root, postfix = tmp_path / "postfix", tmp_path / "etc"
    for directory in (root, postfix):
        directory.mkdir()
    places.next_key(root, HOST).write_bytes(b"a staged key")
    conf = {
        "config-dir": str(postfix),
        "tlsa-roll": "manual",
        "tlsa-publisher": "print",
    }
    names = ("work_dir", "logs_dir", "in_progress_dir")
    config = SimpleNamespace(
        config_dir=str(tmp_path), **{name: str(tmp_path / name) for name in names}
    )
    plugin = SimpleNamespace(name="postfix", conf=conf.get, config=config)
    every_renew.EveryRenew(plugin).visit(Lineage.live(tmp_path / "live", HOST))
    assert capsys.readouterr() == ("", "")

    every_renew.run_afterwards()

    told = capsys.readouterr().err
    assert told.startswith(f"certbot-postfix: error: no certificate named {HOST} in ")
    every_renew.run_afterwards()
    assert capsys.readouterr() == ("", "")
