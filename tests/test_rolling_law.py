"""Whatever is done with keys, and when, each cache knows the one that is served.

The commands as they decide, name servers that lag and fail, and a publisher that may
lose a change: `rollover`, `history`, `judge`, `steps` and `changes` together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from certbot_postfix.dane import changes, judge, steps
from certbot_postfix.dane.changes import Removal
from certbot_postfix.dane.history import FLOOR, Chain
from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.judge import Candidate, Look
from certbot_postfix.dane.observation import Answer, Observation, Status
from certbot_postfix.dane.steps import Rolling, Step
from certbot_postfix.dane.store import Key, Memory
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.tls.certificates import Certificate
from tests.lab import Authority

HOST = "mx.example.org"
OWNER = f"_25._tcp.{HOST}"
NOW = datetime(2026, 11, 30, tzinfo=timezone.utc)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
EVERY = 2 * DAY
HOURS = st.sampled_from([0, 1, 1.9, 2, 7.9, 8, 26])
TTLS = (60, 3600, 4 * 3600)
LAB = Authority()
CHAINS = [
    tuple(Certificate.all_from_pem(LAB.issue(HOST).fullchain_pem)) for _ in range(9)
]
KEYS = [Record.of_key(chain[0].spki) for chain in CHAINS]
THEIRS = Record.of_key(b"the key of another server of that name")


@dataclass(frozen=True)
class Had:
    """What a server had, until that changed."""

    records: frozenset[Record]
    ttl: int
    until: datetime | None = None


class Keys(RuleBasedStateMachine):
    """A host of two name servers, whose keys change by all commands that there are.

    Nobody else withdraws its records, or changes a TTL unseen; `test_rollover` has name
    servers that change while they are silent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.since = NOW
        self.memory = Memory(keys={KEYS[0]: Key(NOW)})
        self.served = 0
        self.staged: int | None = None
        self.renewed: int | None = None
        self.unused = list(range(1, len(CHAINS)))
        self.past: list[Had] = []
        self.last_served: dict[Record, datetime] = {}
        self.recover()

    @initialize(ttl=st.sampled_from(TTLS))
    def begin(self, ttl: int) -> None:
        first = Had(frozenset({KEYS[0]}), ttl)
        self.servers = {"ns1": first, "ns2": first}
        self.look()

    # The world

    @rule(
        dead=st.sampled_from([set(), set(), {"ns1"}, {"ns2"}]),
        knows=st.sampled_from([True, True, False]),
        publishes=st.sampled_from([True, True, False]),
        late=st.booleans(),
    )
    def fail(self, dead: set[str], knows: bool, publishes: bool, late: bool) -> None:
        self.dead, self.knows = dead, knows
        self.publishes, self.late = publishes, late

    @rule()
    def recover(self) -> None:
        self.dead: set[str] = set()
        self.knows = self.publishes = True
        self.late = False

    @rule()
    def transfer(self) -> None:
        """The secondary gets what the primary has."""
        self.set("ns2", self.servers["ns1"])

    @rule()
    def another_server_comes_or_goes(self) -> None:
        self.publish(self.servers["ns1"].records ^ {THEIRS})

    @precondition(lambda self: self.knows and not self.dead)
    @rule(ttl=st.sampled_from(TTLS))
    def live_longer(self, ttl: int) -> None:
        self.set("ns1", replace(self.servers["ns1"], ttl=ttl))
        self.transfer()
        self.look()

    def set(self, server: str, had: Had) -> None:
        if (old := self.servers[server]) != had:
            self.past.append(replace(old, until=self.now))
            self.servers[server] = had

    def publish(self, records: frozenset[Record]) -> None:
        self.set("ns1", replace(self.servers["ns1"], records=records))
        if not self.late:
            self.transfer()

    def is_known(self, key: int) -> bool:
        """Whether every cache has a record of *key*."""
        for had in [*self.servers.values(), *self.past]:
            ttl = max(HOUR, timedelta(seconds=had.ttl))
            may_be_cached = had.until is None or had.until + 2 * ttl > self.now
            if KEYS[key] not in had.records and may_be_cached:
                return False
        return True

    # The product

    def look(self, new: Chain = ()) -> list[Endpoint]:
        """Look as the host does; *new*, or the next key, follows what is served."""
        answers = tuple(
            Answer(name, fault="does not answer")
            if name in self.dead
            else Answer(name, had.records, had.ttl)
            for name, had in self.servers.items()
        )
        observation = Observation(OWNER, Status.SECURE, OWNER, answers)
        if not self.knows:
            observation = Observation(OWNER, Status.UNKNOWN, why="no answer")
        chain = CHAINS[self.served]
        if self.staged is not None:
            spki = CHAINS[self.staged][0].spki
            new = new or (chain[0].with_key(spki), *chain[1:])
        candidate = Candidate("mx", None, (HOST,), (chain,), new or chain, HOST)
        seen = Look({OWNER: observation}, (), self.now)
        endpoints = judge.endpoints(candidate, self.memory, seen)
        self.memory = judge.remembered(candidate, self.memory, endpoints, seen)
        return endpoints

    def add(self, endpoints: Sequence[Endpoint]) -> None:
        for endpoint in endpoints if self.publishes else ():
            for lacking in changes.additions(endpoint):
                record = Record.from_text(lacking.rdata)
                self.publish(self.servers["ns1"].records | {record})

    def remove(self, endpoints: Sequence[Endpoint]) -> None:
        known = {self.served, self.staged, self.renewed} - {None}
        needed = {KEYS[key] for key in known}
        ours = changes.ours(self.memory.keys, needed)
        for removal in changes.removals(endpoints[0], ours, self.now, FLOOR):
            if isinstance(removal, Removal):
                record = Record.from_text(removal.record.rdata)
                assert record in {*KEYS} - needed
                self.end(record, removal.observed)

    def end(self, record: Record, observed: frozenset[str]) -> None:
        longest = max(had.ttl for had in self.servers.values())
        wait = 2 * max(HOUR, timedelta(seconds=longest))
        assert self.now - self.last_served.get(record, NOW - 9 * DAY) >= wait
        records = self.servers["ns1"].records
        if self.publishes and observed == {*map(str, records)}:
            self.publish(records - {record})

    def serve(self, key: int) -> None:
        self.last_served[KEYS[self.served]] = self.now
        self.served, self.since = key, self.now

    @precondition(lambda self: self.unused)
    @rule(hours=HOURS)
    def stage(self, hours: float) -> None:
        self.now += hours * HOUR
        if self.staged is None:
            self.staged = self.unused.pop()
        endpoints = self.look()
        self.add(steps.in_use(endpoints) or endpoints)

    @rule(hours=HOURS)
    def switch(self, hours: float) -> None:
        self.now += hours * HOUR
        if self.staged is None or steps.unready(self.look()):
            return
        assert self.is_known(self.staged)
        # What certbot obtains for the key passes the gate again.
        if all(it.decision.open for it in self.look(CHAINS[self.staged])):
            self.serve(self.staged)
            self.staged = None
            self.look()

    @rule(hours=HOURS)
    def abandon(self, hours: float) -> None:
        self.now += hours * HOUR
        self.rescue()
        self.staged = None
        self.remove(self.look())

    def rescue(self) -> None:
        self.renewed = None
        self.memory = replace(self.memory, held=None, expiry=None)

    @rule(hours=HOURS)
    def withdraw(self, hours: float) -> None:
        self.now += hours * HOUR
        self.remove(self.look())

    @rule(hours=HOURS)
    def advance(self, hours: float) -> None:
        self.now += hours * HOUR
        endpoints = self.look()
        step = steps.step(endpoints, self.memory, Rolling(EVERY), self.now)
        self.remove(endpoints)
        match step:
            case Step.STAGE if self.unused:
                assert self.now - self.since >= EVERY
                self.stage(0)
            case Step.PUBLISH:
                self.add(steps.in_use(endpoints) or endpoints)
            case Step.SWITCH:
                assert self.is_known(self.staged)
                self.switch(0)
            case Step.RESCUE:
                self.rescue()

    @precondition(lambda self: self.unused)
    @rule(hours=HOURS, published=st.booleans())
    def renew(self, hours: float, published: bool) -> None:
        """Have certbot renew for a key of its own, or look at one that is held."""
        self.now += hours * HOUR
        if self.renewed is None:
            self.renewed = self.unused.pop()
        endpoints = self.look(CHAINS[self.renewed])
        if published:
            self.add(endpoints)
        if all(it.decision.open for it in endpoints):
            self.serve(self.renewed)
            self.rescue()
        else:
            held = self.memory.held or self.now
            self.memory = replace(self.memory, held=held, expiry=held + 30 * DAY)

    # The law

    @invariant()
    def what_is_served_is_known_to_every_cache(self) -> None:
        assert self.is_known(self.served)


class ManyKeys(Keys):
    """The same, searched for longer, and elsewhere each time."""


# The suite searches the same each time.
Keys.TestCase.settings = settings(
    max_examples=400, stateful_step_count=40, deadline=None, derandomize=True
)
TestKeys = Keys.TestCase
ManyKeys.TestCase.settings = settings(
    max_examples=6000, stateful_step_count=60, deadline=None
)
TestManyKeys = pytest.mark.soak(ManyKeys.TestCase)
