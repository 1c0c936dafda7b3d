"""A key is served only when every cache knows it, whatever DNS and the clock do."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from certbot_postfix.dane import history, rollover
from certbot_postfix.dane.history import RRset
from certbot_postfix.dane.observation import Answer, Observation, Status
from certbot_postfix.dane.replies import UNKNOWN_ZONE
from certbot_postfix.dane.rollover import Facts, State
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.tls.certificates import Certificate
from tests.lab import Authority

HOST = "mx.example.org"
OWNER = f"_25._tcp.{HOST}"
NOW = datetime(2026, 11, 30, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
TTL = 3600
LAB = Authority()
CHAINS = [
    tuple(Certificate.all_from_pem(LAB.issue(HOST).fullchain_pem)) for _ in range(3)
]
KEYS = [Record.of_key(chain[0].spki) for chain in CHAINS]
PINNED = Record.from_text(f"3 0 1 {CHAINS[0][0].digest}")
OLD, NEW, OTHER = range(3)


def seen(*answers: Answer, status: Status = Status.SECURE) -> Observation:
    return Observation(OWNER, status, OWNER, answers)


def answers(server: str, *keys: int, ttl: int = TTL) -> Answer:
    return Answer(server, frozenset(KEYS[key] for key in keys), ttl)


DEAD = Answer("ns2", fault="does not answer")


@dataclass
class Endpoint:
    """An endpoint whose records are looked at as time goes by."""

    served: int = OLD
    now: datetime = NOW
    history: tuple[RRset, ...] = ()
    last: Observation = field(default_factory=seen)

    def look(self, observation: Observation) -> "Endpoint":
        chains = [CHAINS[self.served]]
        unseen = history.before(observation, self.history, chains, HOST)
        self.history = history.updated(self.history, observation, unseen, self.now)
        self.last = observation
        return self

    def wait(self, time: timedelta) -> "Endpoint":
        self.now += time
        return self

    def decide(self, new: int) -> rollover.Decision:
        facts = Facts(
            HOST, self.last, self.history, (CHAINS[self.served],), CHAINS[new]
        )
        return rollover.decide(facts, self.now)


@pytest.mark.parametrize("status", [Status.SECURE, Status.INSECURE])
def test_without_secure_records_any_key_is_served(status):
    decision = Endpoint().look(seen(status=status)).decide(NEW)

    assert (decision.state, decision.open) == (State.NONE, True)


def test_the_key_that_is_announced_goes_on_to_be_served():
    decision = Endpoint().look(seen(answers("ns1", OLD))).decide(OLD)

    assert (decision.state, decision.open) == (State.STEADY, True)


def test_a_key_that_is_not_announced_is_held_and_the_servers_are_named():
    both = seen(answers("ns1", OLD, NEW), answers("ns2", OLD))

    decision = Endpoint().look(both).decide(NEW)

    assert (decision.state, decision.open) == (State.HELD, False)
    assert decision.lacking == ("ns2",)


def test_a_new_key_is_served_two_ttls_after_every_server_has_it():
    endpoint = Endpoint().look(seen(answers("ns1", OLD))).wait(HOUR)
    endpoint.look(seen(answers("ns1", OLD, NEW)))

    decision = endpoint.decide(NEW)

    assert (decision.state, decision.open) == (State.AGEING, False)
    assert decision.until == NOW + 3 * HOUR
    assert not endpoint.wait(2 * HOUR - timedelta(seconds=1)).decide(NEW).open
    assert endpoint.wait(timedelta(seconds=1)).decide(NEW).state is State.STEADY


def test_the_ttl_that_counts_is_that_of_the_records_before():
    endpoint = Endpoint().look(seen(answers("ns1", OLD, ttl=86400)))
    endpoint.look(seen(answers("ns1", OLD, NEW)))

    assert endpoint.decide(NEW).until == NOW + timedelta(days=2)


def test_a_short_ttl_counts_as_an_hour():
    endpoint = Endpoint().look(seen(answers("ns1", OLD, ttl=5)))
    endpoint.look(seen(answers("ns1", OLD, NEW, ttl=5)))

    assert endpoint.decide(NEW).until == NOW + 2 * HOUR


def test_a_key_that_is_announced_when_it_is_looked_at_first_may_be_new_there():
    decision = Endpoint().look(seen(answers("ns1", OLD, NEW))).decide(NEW)

    assert (decision.state, decision.until) == (State.AGEING, NOW + 2 * HOUR)


def test_a_server_that_was_silent_may_have_had_the_old_records_until_then():
    endpoint = Endpoint().look(seen(answers("ns1", OLD, NEW), DEAD)).wait(HOUR)
    endpoint.look(seen(answers("ns1", OLD, NEW), DEAD)).wait(4 * HOUR)
    endpoint.look(seen(answers("ns1", OLD, NEW), DEAD))
    assert endpoint.decide(NEW).lacking == ("ns2 does not answer",)

    endpoint.look(seen(answers("ns1", OLD, NEW), answers("ns2", OLD, NEW)))

    assert endpoint.decide(NEW).until == endpoint.now + 2 * HOUR


def test_a_server_that_was_silent_may_have_had_other_records_meanwhile():
    endpoint = Endpoint().look(seen(answers("ns1", OLD, NEW), answers("ns2", OLD, NEW)))
    endpoint.wait(3 * HOUR).look(seen(answers("ns1", OLD, NEW), DEAD)).wait(3 * HOUR)

    endpoint.look(seen(answers("ns1", OLD, NEW), answers("ns2", OLD, NEW)))

    assert endpoint.decide(NEW).until == endpoint.now + 2 * HOUR


def test_servers_that_were_all_silent_may_have_had_other_records_meanwhile():
    endpoint = Endpoint().look(seen(answers("ns1", OLD, NEW, ttl=4 * TTL)))
    endpoint.wait(9 * HOUR).look(seen(DEAD)).wait(HOUR)

    endpoint.look(seen(answers("ns1", OLD, NEW, ttl=60)))

    assert endpoint.decide(NEW).until == endpoint.now + 8 * HOUR


def test_a_silent_server_holds_no_renewal_for_the_same_key():
    endpoint = Endpoint().look(seen(answers("ns1", OLD), DEAD))

    assert endpoint.decide(OLD).open


def test_a_server_without_records_announces_nothing():
    endpoint = Endpoint().look(seen(answers("ns1", OLD, NEW), answers("ns2")))

    assert endpoint.wait(9 * HOUR).decide(NEW).lacking == ("ns2",)


def test_records_of_no_key_that_is_served_are_a_mismatch():
    decision = Endpoint().look(seen(answers("ns1", OTHER))).decide(NEW)

    assert (decision.state, decision.open) == (State.MISMATCH, False)


def test_records_of_another_server_that_shares_the_certificate_hold_nothing():
    endpoint = Endpoint().look(seen(answers("ns1", OTHER)))
    served, new = (CHAINS[OLD],), CHAINS[NEW]
    facts = Facts(HOST, endpoint.last, endpoint.history, served, new, ours=False)

    decision = rollover.decide(facts, NOW)

    assert (decision.state, decision.open) == (State.FOREIGN, True)


def test_a_certificate_that_is_pinned_is_held_even_for_the_same_key():
    pinned = Answer("ns1", frozenset({PINNED}), TTL)
    renewed = LAB.issue(HOST)  # any other certificate
    chain = tuple(Certificate.all_from_pem(renewed.fullchain_pem))
    endpoint = Endpoint().look(seen(pinned))
    facts = Facts(HOST, endpoint.last, endpoint.history, (CHAINS[OLD],), chain)

    assert rollover.decide(facts, NOW).state is State.HELD


def test_records_that_were_withdrawn_count_until_no_cache_has_them():
    endpoint = (
        Endpoint().look(seen(answers("ns1", OLD))).wait(HOUR).look(seen(answers("ns1")))
    )

    assert endpoint.decide(NEW).until == NOW + 3 * HOUR
    assert endpoint.wait(2 * HOUR).decide(NEW).state is State.NONE


@pytest.mark.parametrize(("key", "is_open"), [(OLD, True), (NEW, False)])
def test_without_dns_only_the_key_that_was_announced_is_served(key, is_open):
    endpoint = Endpoint().look(seen(answers("ns1", OLD))).wait(HOUR)
    endpoint.look(seen(status=Status.UNKNOWN))

    decision = endpoint.decide(key)

    assert (decision.state, decision.open) == (State.UNKNOWN, is_open)


def test_a_resolver_that_validates_no_more_ends_no_records():
    endpoint = Endpoint().look(seen(answers("ns1", OLD))).wait(HOUR)
    blind = Observation(OWNER, Status.INSECURE, OWNER, why=UNKNOWN_ZONE)

    decision = endpoint.look(blind).wait(9 * HOUR).look(blind).decide(NEW)

    assert (decision.state, decision.open) == (State.UNKNOWN, False)


def test_without_dns_a_host_that_had_no_records_serves_any_key():
    decision = Endpoint().look(seen(status=Status.UNKNOWN)).decide(NEW)

    assert (decision.state, decision.open) == (State.UNKNOWN, True)


def test_a_clock_that_was_set_back_does_not_prolong_the_wait():
    endpoint = Endpoint().look(seen(answers("ns1", OLD)))
    endpoint.wait(1000 * HOUR).look(seen(answers("ns1", OLD, NEW))).wait(-1000 * HOUR)

    endpoint.look(seen(answers("ns1", OLD, NEW)))

    assert endpoint.decide(NEW).until == NOW + 2 * HOUR


@dataclass(frozen=True)
class Had:
    """What a server had, with its TTL, until that changed."""

    keys: frozenset[int]
    ttl: int
    until: datetime | None = None


class Rollovers(RuleBasedStateMachine):
    """Two servers whose records change, some of the time unseen, and a gate.

    Nobody withdraws the key in service; a server changes once between two answers, but
    more often once it was found silent; what was never seen had no longer a TTL than
    what was seen there before; and that there are records was seen once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.endpoint = Endpoint()
        first = Had(frozenset({OLD}), TTL)
        self.servers = {"ns1": first, "ns2": first}
        self.seen = dict(self.servers)
        self.changed: set[str] = set()
        self.dead: set[str] = set()
        self.silent: set[str] = set()  # when they were last asked
        self.past: list[Had] = []
        self.look(knows=True)

    @rule(
        servers=st.sampled_from([["ns1"], ["ns2"], ["ns1", "ns2"], ["ns1", "ns2"]]),
        announced=st.sampled_from([True, True, False]),
        ttl=st.sampled_from([60, TTL, 4 * TTL]),
    )
    def change(self, servers: list[str], announced: bool, ttl: int) -> None:
        keys = {self.endpoint.served, self.next if announced else self.endpoint.served}
        for server in servers:
            longer = self.servers[server].ttl > self.seen[server].ttl
            if server not in self.changed - (set() if longer else self.silent):
                self.changed.add(server)
                had = replace(self.servers[server], until=self.endpoint.now)
                self.past.append(had)
                self.servers[server] = Had(frozenset(keys), ttl)

    @rule(dead=st.sampled_from([set(), set(), set(), {"ns1"}, {"ns1", "ns2"}]))
    def fail(self, dead: set[str]) -> None:
        self.dead = set(dead)

    @property
    def next(self) -> int:
        return NEW if self.endpoint.served == OLD else OLD

    @rule(
        hours=st.sampled_from([0, 1.9, 2, 7.7, 8]),
        knows=st.sampled_from([True, True, True, False]),
    )
    def renew(self, hours: float, knows: bool) -> None:
        self.endpoint.wait(hours * HOUR)
        self.look(knows)
        if self.endpoint.decide(self.next).open:
            self.endpoint.served = self.next

    def look(self, knows: bool) -> None:
        if not knows:
            self.endpoint.look(seen(status=Status.UNKNOWN))
            return
        alive = self.servers.keys() - self.dead
        self.seen |= {name: self.servers[name] for name in alive}
        self.endpoint.look(
            seen(
                *(
                    answers(name, *had.keys, ttl=had.ttl)
                    if name in alive
                    else Answer(name, fault="does not answer")
                    for name, had in self.servers.items()
                )
            )
        )
        self.silent = set(self.dead)
        self.changed -= alive

    @invariant()
    def what_is_served_is_known_to_every_cache(self) -> None:
        served, now = self.endpoint.served, self.endpoint.now
        for had in [*self.servers.values(), *self.past]:
            ttl = max(HOUR, timedelta(seconds=had.ttl))
            may_be_cached = had.until is None or had.until + 2 * ttl > now
            assert served in had.keys or not may_be_cached


class ManyRollovers(Rollovers):
    """The same, searched for longer, and elsewhere each time."""


# The suite searches the same each time.
Rollovers.TestCase.settings = settings(
    max_examples=500, stateful_step_count=40, deadline=None, derandomize=True
)
TestRollovers = Rollovers.TestCase
ManyRollovers.TestCase.settings = settings(
    max_examples=6000, stateful_step_count=40, deadline=None
)
TestManyRollovers = pytest.mark.soak(ManyRollovers.TestCase)
