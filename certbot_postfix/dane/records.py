"""Which records are to be added and removed for the sake of a key that changes.

Pure.  Others may have records at the same name: a record that is not of a key of ours
is never to be removed.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from certbot_postfix.dane import report
from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.observation import Answer
from certbot_postfix.dane.rollover import State
from certbot_postfix.dane.store import Key
from certbot_postfix.formats import tlsa
from certbot_postfix.formats.tlsa import Record

# Nothing is known of what is published there, or it is not for this server.
_NOT_OURS = (State.FOREIGN, State.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Published:
    """A *record* at *name*, which is to be there or is to go."""

    name: str
    record: Record
    ttl: int

    def __str__(self) -> str:
        return tlsa.line(self.name, self.record, self.ttl)


def in_use(endpoints: Collection[Endpoint]) -> list[Endpoint]:
    """Return the endpoints that have records of this server."""
    return [
        each
        for each in endpoints
        if each.decision.state not in _NOT_OURS
        and any(rrset.until is None for rrset in each.facts.history)
    ]


def to_begin(endpoints: Collection[Endpoint]) -> list[Published]:
    """Return the records with which a host begins that has none."""
    return [
        Published(each.place, record, tlsa.TTL)
        for each in endpoints
        if each.decision.state is State.NONE and report.notable(each)
        for record in dict.fromkeys(
            Record.of_key(chain[0].spki)
            for chain in (*each.facts.served, each.facts.new)
        )
    ]


def to_add(endpoints: Collection[Endpoint]) -> list[Published]:
    """Return the records of the new key that some server lacks."""
    found = []
    for each in in_use(endpoints):
        record = Record.of_key(each.facts.new[0].spki)
        if any(record not in it.records for it in _answers(each)):
            found.append(Published(each.place, record, _ttl(each)))
    return list(dict.fromkeys(found))


def to_remove(
    endpoints: Collection[Endpoint],
    keys: Mapping[Record, Key],
    now: datetime,
    floor: timedelta,
) -> Iterator[Published]:
    """Yield the records of *keys* that were retired two TTLs ago, and are published.

    A key that was never served needs no wait.
    """
    for each in in_use(endpoints):
        chains = (*each.facts.served, each.facts.new)
        used = {Record.of_key(chain[0].spki) for chain in chains}
        longest = max((rrset.ttl for rrset in each.facts.history), default=0)
        wait = 2 * max(timedelta(seconds=longest), floor)
        published = {record for it in _answers(each) for record in it.records}
        for record in sorted((published & keys.keys()) - used):
            key = keys[record]
            if key.retired and now >= key.retired + (wait if key.since else wait * 0):
                yield Published(each.place, record, _ttl(each))


def _answers(endpoint: Endpoint) -> list[Answer]:
    answers = endpoint.facts.observation.answers
    return [each for each in answers if not each.fault]


def _ttl(endpoint: Endpoint) -> int:
    return max((each.ttl for each in _answers(endpoint) if each.ttl), default=tlsa.TTL)
