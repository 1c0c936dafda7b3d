"""Which TLSA records an endpoint lacks, and which of ours nothing needs any more.

Pure.  Records of others are neither changed nor counted: several servers may have one
name, and each adds and removes its own, RFC 7671, 8.4.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from certbot_postfix.dane.history import Chain
from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.observation import Answer, Status
from certbot_postfix.dane.rollover import Facts, State
from certbot_postfix.dane.store import Key
from certbot_postfix.formats import tlsa
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.tls.certificates import UNKNOWN

# Nobody publishes for another server, nor without knowing what is there.
_HANDS_OFF = (State.FOREIGN, State.UNKNOWN)

# The states in which all that is served is announced everywhere.
_SETTLED = (State.STEADY, State.READY, State.STAGED)


@dataclass(frozen=True, slots=True)
class Removal:
    """A *record* that nothing needs; *observed* is the data of it and those beside."""

    record: ResourceRecord
    observed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Kept:
    """A *record* that nothing needs, but which must stay for a *reason*."""

    record: ResourceRecord
    reason: str


def wanted(facts: Facts) -> Iterator[Record]:
    """Yield the records that *facts* call for, of all keys that are or will be served.

    Where there are SHA-512 digests, all keys need one: RFC 7671, 8.3 and 9.
    """
    published = {
        record for answer in facts.observation.answers for record in answer.records
    }
    digests = {
        record.matching
        for record in published
        if (record.usage, record.selector) == (tlsa.DANE_EE, tlsa.SPKI)
        and not record.fault
    }
    spkis = dict.fromkeys(chain[0].spki for chain in _chains(facts))
    for spki in spkis:
        for matching in sorted({tlsa.SHA256, *digests} - {tlsa.FULL}):
            yield Record.of_key(spki, matching)


def additions(endpoint: Endpoint) -> Iterator[ResourceRecord]:
    """Yield the records that some server of *endpoint* lacks.

    A host begins with DANE at port 25, if it is ours and its zone is signed.  Where a
    wildcard has the records, all of them must be added, or they would be hidden.
    """
    facts, state = endpoint.facts, endpoint.decision.state
    observation = facts.observation
    begins = (
        observation.status is Status.SECURE
        and facts.ours
        and observation.owner.startswith("_25.")
    )
    if state in _HANDS_OFF or (state is State.NONE and not begins):
        return
    answers = _answers(endpoint)
    ttl = max((answer.ttl for answer in answers if answer.records), default=tlsa.TTL)
    lacking = [
        record
        for record in wanted(facts)
        if not answers or any(record not in answer.records for answer in answers)
    ]
    hidden = {it for answer in answers if answer.wildcard for it in answer.records}
    if lacking and hidden:
        # What is served first: the next key alone would be an outage.
        lacking = [*sorted(hidden, key=lambda it: not _needed(it, facts)), *lacking]
    for record in dict.fromkeys(lacking):
        yield tlsa.published(endpoint.place, record, ttl)


def removals(
    endpoint: Endpoint,
    ours: Mapping[Record, datetime],
    now: datetime,
    floor: timedelta,
) -> Iterator[Removal | Kept]:
    """Yield the records of *endpoint* that are *ours*, and that nothing needs.

    *ours* has when each of them was needed for the last time: it stays for two TTLs, in
    which its key can go back into service.
    """
    answers = _answers(endpoint)
    remaining = {record for answer in answers for record in answer.records}
    ttl = max((answer.ttl for answer in answers), default=0)
    wait = 2 * max(timedelta(seconds=ttl), floor)
    for record in sorted(remaining & ours.keys()):
        if _needed(record, endpoint.facts):
            continue
        published = tlsa.published(endpoint.place, record, ttl)
        due = min(ours[record], now) + wait
        if reason := _unsettled(endpoint):
            yield Kept(published, reason)
        elif now < due:
            yield Kept(published, f"kept until {due:%Y-%m-%d %H:%M} UTC")
        else:
            yield Removal(published, frozenset(map(str, remaining)))
            remaining = remaining - {record}


def ours(
    keys: Mapping[Record, Key],
    needed: Collection[Record] = (),
    *,
    at_once: bool = False,
) -> dict[Record, datetime]:
    """Return when each of our *keys* was needed last that nobody needs; see `removals`.

    Those *needed* are left out.  A key that was never served needs no wait: it cannot
    go back into service.  Nor may one that leaked: *at_once*.
    """
    return {
        record: key.retired if key.since and not at_once else UNKNOWN
        for record, key in keys.items()
        if key.retired and record not in needed
    }


def unlike(
    record: ResourceRecord, endpoints: Iterable[Endpoint], *, there: bool
) -> list[str]:
    """Return the servers of *endpoints* that lack *record*, or if not *there* have it.

    Those that give no answer are among them, and those that are not known.
    """
    observations = [it.facts.observation for it in endpoints if it.place == record.name]
    answers = [answer for it in observations for answer in it.answers]
    if not answers:
        why = "".join(f" ({it.why})" for it in observations[:1] if it.why)
        return [f"those of {record.name}, which are not known{why}"]
    return [
        f"{answer.server} {answer.fault}".rstrip()
        for answer in answers
        if answer.fault or (record.rdata in map(str, answer.records)) is not there
    ]


def _unsettled(endpoint: Endpoint) -> str:
    """Return why nothing can be removed now, or "".

    Where all that is served is announced, other records stand for it.
    """
    facts, answers = endpoint.facts, endpoint.facts.observation.answers
    if endpoint.decision.state not in _SETTLED:
        return f"the state is {endpoint.decision.state.value}"
    if facts.observation.faults:
        return f"not every server answers: {facts.observation.faults[0]}"
    if any(answer.wildcard for answer in answers):
        return "it belongs to a wildcard"
    if len({answer.records for answer in answers}) > 1:
        return "the servers have different records"
    return ""


def _needed(record: Record, facts: Facts) -> bool:
    return any(record.matches(chain, facts.host) for chain in _chains(facts))


def _chains(facts: Facts) -> Iterator[Chain]:
    yield from dict.fromkeys((*facts.served, facts.new))


def _answers(endpoint: Endpoint) -> list[Answer]:
    return [answer for answer in endpoint.facts.observation.answers if not answer.fault]
