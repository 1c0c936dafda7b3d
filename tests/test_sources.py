"""Sources of policies are anybody's code: whatever they do, they are named."""

import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from certbot_postfix.errors import SignalError
from certbot_postfix.formats.policy import Entry, Mode
from certbot_postfix.outbound import policy_map, sources
from certbot_postfix.outbound.sources import Context, Settings
from tests.lab.source import ThirdParty

NOW = datetime(2026, 7, 1, tzinfo=timezone.utc)

GOOD = """
import asyncio, sys, warnings
from datetime import datetime, timedelta, timezone, tzinfo
from zope.interface import implementer
from certbot_postfix.errors import SignalError
from certbot_postfix.interfaces import IPolicySource
from certbot_postfix.formats.policy import Entry, Mode, Policy, PolicyError

LATER = datetime(2100, 1, 1, tzinfo=timezone.utc)
POLICY = Policy(Mode.ENFORCE, ("mx.org", ".example.net"))
ENTRY = Entry("example.org", POLICY, LATER, "third party")

@implementer(IPolicySource)
class Source:
    label = "third party"
    def due(self, now):
        return True
    def refresh(self, now):
        pass
    def policies(self, now):
        return [ENTRY]

def sources(context):
    return [Source()]

def give(*entries):
    Source.policies = lambda self, now: list(entries)

def having(**changes):
    give(ENTRY, ENTRY._replace(**changes))

def fail(error):
    raise error

class Mute(Exception):
    def __str__(self):
        sys.exit(0)

class Bare(PolicyError):
    def __init__(self):
        pass

class Clock(tzinfo):
    def utcoffset(self, when):
        return fail(RuntimeError("no such zone"))

def broken_label(self):
    sys.exit(0)
"""

FOREVER = "datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-9)))"
FIRST = "datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=9)))"


@pytest.fixture
def third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThirdParty]:
    party = ThirdParty(tmp_path / "third")
    monkeypatch.syspath_prepend(str(party.directory))
    sys.modules.pop("third_party_policies", None)
    yield party
    sys.modules.pop("third_party_policies", None)


def asked(tmp_path: Path, seconds: float = 60) -> tuple[list[str], dict[str, Entry]]:
    """Return what a run would say of the sources, and what is to be in force."""
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o700, exist_ok=True)
    found, told = sources.load(Context(Settings(), kept), seconds)
    groups = []
    for source in found:
        sources.due(source, NOW)
        failures, known = sources.known(source, NOW, sources.refresh(source, NOW))
        told += failures
        groups.append(known or [])
    return told, policy_map.merged(groups)


def test_a_source_that_works_is_followed(third, tmp_path):
    third.break_(GOOD)

    told, entries = asked(tmp_path)

    assert told == []
    assert list(entries) == ["example.org"]


@pytest.mark.parametrize(
    "line",
    [
        "Source.policies = lambda self, now: None",
        "Source.policies = lambda self, now: 7",
        "Source.policies = lambda self, now: {'example.org': POLICY}",
        "Source.policies = lambda self, now: iter(int, 1)",
        "Source.policies = lambda self, now: (fail(KeyError(7)) for _ in 'a')",
        "Source.policies = lambda self: []",
        "Source.policies = lambda self, now: sys.exit(0)",
        "Source.policies = lambda self, now: fail(GeneratorExit())",
        "Source.policies = lambda self, now: fail(asyncio.CancelledError())",
        "Source.policies = lambda self, now: fail(RecursionError())",
        "Source.policies = lambda self, now: fail(MemoryError())",
        "Source.policies = lambda self, now: fail(Mute())",
        "Source.policies = lambda self, now: fail(ValueError('a\\nb\\x1b[2J' * 10**6))",
        "Source.policies = lambda self, now: fail(PolicyError('a\\nb\\x07' * 10**6))",
        "Source.policies = lambda self, now: warnings.warn('old', stacklevel=1) or 7",
        "Source.due = lambda self, now: sys.exit(0)",
        "Source.due = lambda self, now: fail(RuntimeError('a\\nb'))",
        "Source.refresh = lambda self, now: sys.exit('no')",
        "Source.refresh = lambda self, now: fail(OSError(5, 'broken'))",
        "Source.refresh = lambda self, now: fail(Bare())",
        "give(None)",
        "give(())",
        "give(tuple(ENTRY))",
        "give('example.org')",
        "having(domain=None)",
        "having(domain=b'example.org')",
        "having(domain=['example.org'])",
        "having(domain='example.org\\n* none')",
        "having(domain='example.org ')",
        "having(domain='Example.org')",
        "having(domain='straße.example')",
        "having(domain='')",
        "having(domain='.example.org')",
        "having(domain='a' * 2_000_000)",
        "having(policy=None)",
        "having(policy=('enforce', ['mx.org']))",
        "having(policy=Policy('enforce', ('mx.org',)))",
        "having(policy=Policy(Mode.ENFORCE, None))",
        "having(policy=Policy(Mode.ENFORCE, ()))",
        "having(policy=Policy(Mode.ENFORCE, 'mx.org'))",
        "having(policy=Policy(Mode.ENFORCE, ('mx.org', None)))",
        "having(policy=Policy(Mode.ENFORCE, (['mx.org'],)))",
        "having(policy=Policy(Mode.ENFORCE, ('mx.org:b.org',)))",
        "having(policy=Policy(Mode.ENFORCE, ('mx.org\\nb.org none',)))",
        "having(policy=Policy(Mode.ENFORCE, ('mx.org',) * 10**6))",
        "having(expires=None)",
        "having(expires=4000000000)",
        "having(expires=LATER.date())",
        "having(expires='2100-01-01')",
        "having(expires=LATER.replace(tzinfo=None))",
        f"having(expires={FOREVER})",
        f"having(expires={FIRST})",
        "having(expires=LATER.replace(tzinfo=Clock()))",
        "having(max_age='7')",
        "having(max_age=None)",
        "having(id=None)",
        "having(dane='no')",
        "having(id='1\\n* none')",
        "Source.label = None",
        "Source.label = ''",
        "Source.label = 'third\\n* none'",
        "Source.label = 'thïrd'",
        "Source.label = 'a' * 2_000_000",
        "Source.label = property(broken_label)",
        "del Source.label",
        "del Source.refresh",
        "sources = lambda context: None",
        "sources = lambda context: [None]",
        "sources = lambda context: Source()",
        "sources = lambda context: [Source(), Source()]",
        "sources = lambda: []",
        "sources = lambda context: sys.exit(0)",
        "sys.exit(0)",
        "fail(asyncio.CancelledError())",
        "import nothing_of_this_name",
        "a syntax error",
        "del sources",
    ],
)
def test_a_broken_source_is_one_message_and_gives_nothing(third, tmp_path, line):
    third.break_(f"{GOOD}\n{line}")

    told, entries = asked(tmp_path)

    assert len(told) == 1, told
    assert "third" in told[0] or "a b" in told[0]
    assert told[0].isprintable()
    assert len(told[0]) < 1500
    kept = line.startswith(("Source.due", "Source.refresh"))
    assert list(entries) == (["example.org"] if kept else [])


@pytest.mark.parametrize(
    "line",
    [
        "sources = lambda context: Event().wait()",
        "Source.due = lambda self, now: Event().wait()",
        "Source.refresh = lambda self, now: Event().wait()",
        "Source.policies = lambda self, now: Event().wait()",
        "Source.policies = lambda self, now: (Event().wait() for _ in [1])",
    ],
)
def test_a_source_that_never_returns_is_one_message(third, tmp_path, line):
    third.break_(f"{GOOD}\nfrom threading import Event\n{line}")

    told, _ = asked(tmp_path, seconds=0.2)

    assert len(told) == 1, told
    assert "did not return within 0.2 seconds" in told[0]


@pytest.mark.parametrize("hint", ["'a\\nb' * 10**6", r"'a b \ud800'"])
def test_a_hint_of_a_source_is_one_line_that_can_be_printed(third, tmp_path, hint):
    third.break_(
        f"{GOOD}\nSource.refresh = lambda self, now: fail(ERROR)\n"
        f"ERROR = PolicyError('third')\nERROR.hint = {hint}"
    )

    (told,), _ = asked(tmp_path)

    assert told.encode().startswith(b"third; ")
    assert "\nHint: " in told
    assert (told.count("\n"), len(told) < 1500) == (1, True)


@pytest.mark.parametrize(
    "where",
    [
        "Source.due = lambda self, now",
        "Source.refresh = lambda self, now",
        "Source.policies = lambda self, now",
        "sources = lambda context",
    ],
)
@pytest.mark.parametrize(
    ("error", "kind"),
    [("KeyboardInterrupt()", KeyboardInterrupt), ("SignalError(15)", SignalError)],
)
def test_who_ends_the_process_ends_it_within_a_source_as_well(
    third, tmp_path, where, error, kind
):
    third.break_(f"{GOOD}\n{where}: fail({error})")

    with pytest.raises(kind):
        asked(tmp_path)


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (
            "having(expires=LATER.astimezone(timezone(timedelta(hours=5))))",
            ("example.org", (Mode.ENFORCE, ("mx.org", ".example.net")), 0),
        ),
        (
            "give(ENTRY._replace(policy=Policy(Mode.TESTING, ['mx.org'])))",
            ("example.org", (Mode.TESTING, ("mx.org",)), 0),
        ),
        (
            "give(ENTRY._replace(source='another', max_age=10**20, id='7'))",
            ("example.org", (Mode.ENFORCE, ("mx.org", ".example.net")), 31_557_600),
        ),
    ],
)
def test_what_an_honest_source_may_give_becomes_an_entry_in_utc(
    third, tmp_path, line, entry
):
    third.break_(f"{GOOD}\n{line}")

    told, entries = asked(tmp_path)

    (found,) = entries.values()
    assert told == []
    assert (found.domain, found.policy, found.max_age) == entry
    assert found.expires == datetime(2100, 1, 1, tzinfo=timezone.utc)
    assert found.expires.tzinfo is timezone.utc
    assert found.source == "third party"


@pytest.mark.parametrize(
    "line",
    [
        "give(ENTRY._replace(expires=datetime(2020, 1, 1, tzinfo=timezone.utc)))",
        "give(ENTRY._replace(policy=Policy(Mode.NONE, ())))",
    ],
)
def test_what_is_over_or_demands_nothing_is_left_out(third, tmp_path, line):
    third.break_(f"{GOOD}\n{line}")

    assert asked(tmp_path) == ([], {})
