"""May a certificate be served, and what comes next?

Pure: facts and a time in, a decision out.  The law: nothing is served that an RRset
lacks which a cache may have got less than two TTLs ago, RFC 7671, 8.1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from certbot_postfix.dane.history import FLOOR, Chain, RRset, cached
from certbot_postfix.dane.observation import Observation, Status
from certbot_postfix.formats import tlsa


class State(Enum):
    """How far an endpoint is, from what lets a certificate pass to what is worst."""

    NONE = "none"
    FOREIGN = "foreign"
    STEADY = "steady"
    UNKNOWN = "unknown"
    READY = "ready"
    AGEING = "ageing"
    STAGED = "staged"
    HELD = "held"
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an endpoint of *host*.

    *history* includes the *observation*; *served* are the chains in service, and *new*
    is the one that may take the place of one of them.  *ours*: no other server has that
    name, as one may that shares the certificate.
    """

    host: str
    observation: Observation
    history: tuple[RRset, ...]
    served: tuple[Chain, ...]
    new: Chain
    ours: bool = True

    @property
    def staged(self) -> bool:
        """Whether *new* is a key that has no certificate yet."""
        return not self.new[0].der


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of an endpoint: whether the gate is *open*, and why not.

    *lacking* are the servers that must yet announce it, *until* when it can be served.
    """

    state: State
    open: bool
    lacking: tuple[str, ...] = ()
    until: datetime | None = None


def decide(facts: Facts, now: datetime, floor: timedelta = FLOOR) -> Decision:
    """Return whether the new chain of *facts* may be served *now*, and why not.

    No TTL counts for less than *floor*.
    """
    live = cached(facts.history, now, floor)
    known = not any(_rejects(rrset, facts) for rrset in live)
    same_key = facts.new[0].spki in {chain[0].spki for chain in facts.served}
    if facts.observation.status is Status.UNKNOWN or (live and facts.observation.blind):
        # As last known: without records, or with the key that they are for.
        return Decision(State.UNKNOWN, open=not live or (known and same_key))
    if not live:
        return Decision(State.NONE, open=True)
    if not facts.ours and not any(_serves(rrset, facts) for rrset in live):
        return Decision(State.FOREIGN, open=True)
    current = [rrset for rrset in live if rrset.until is None]
    # Whatever a server has that gives no answer: it has this key, as all others do.
    if lacking := () if known and same_key else tuple(_lacking(facts, bool(current))):
        in_service = facts.new in facts.served
        wrong = in_service or not all(_serves(rrset, facts) for rrset in current)
        state = State.STAGED if facts.staged else State.HELD
        state = State.MISMATCH if wrong else state
        return Decision(state, open=False, lacking=lacking)
    # Who rejects what is served now anyway loses nothing.
    past = [
        rrset.gone(floor)
        for rrset in live
        if _rejects(rrset, facts) and _serves(rrset, facts)
    ]
    if until := max(filter(None, past), default=None):
        return Decision(State.AGEING, open=False, until=until)
    return Decision(State.READY if facts.staged else State.STEADY, open=True)


def _serves(rrset: RRset, facts: Facts) -> bool:
    return rrset.accepts(facts.served, facts.host)


def _rejects(rrset: RRset, facts: Facts) -> bool:
    return not rrset.accepts([facts.new], facts.host)


def _lacking(facts: Facts, announced: bool) -> Iterator[str]:
    """Yield the servers that do not announce the new chain; some have *announced*."""
    for answer in facts.observation.answers:
        none = announced and not answer.records
        if answer.fault:
            yield f"{answer.server} {answer.fault}"
        elif none or not tlsa.accepts(answer.records, facts.new, facts.host):
            yield answer.server
