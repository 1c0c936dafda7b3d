"""Which TLSA RRsets a cache may hold: those that were observed, and until when.

Pure.  A server that gives no answer may go on with what it had.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from certbot_postfix.dane.observation import Answer, Observation
from certbot_postfix.formats import tlsa
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.tls.certificates import Certificate

Chain = tuple[Certificate, ...]

# The TTL that is counted at least: some caches keep records longer than they should.
FLOOR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class RRset:
    """Records that some server had, *until* then; None: it has them now."""

    records: frozenset[Record]
    ttl: int
    until: datetime | None = None

    def gone(self, floor: timedelta) -> datetime | None:
        """Return when no cache has it any more: two TTLs after its end.

        RFC 7671, 8.1: one for caches, and one for servers that are late.
        """
        ttl = max(timedelta(seconds=self.ttl), floor)
        return self.until + 2 * ttl if self.until else None

    def cached(self, now: datetime, floor: timedelta) -> bool:
        """Whether a cache may have it *now*."""
        gone = self.gone(floor)
        return gone is None or gone > now

    def accepts(self, chains: Iterable[Chain], host: str) -> bool:
        """Whether clients that see it take one of *chains* for *host*."""
        return any(tlsa.accepts(self.records, chain, host) for chain in chains)


def updated(
    history: Sequence[RRset],
    observation: Observation,
    served: Iterable[RRset],
    now: datetime,
) -> tuple[RRset, ...]:
    """Return *history* with what was observed *now*.

    What was not seen, before the first time or at a server that gave no answer, may
    have been *served*, with as long a TTL as any that was seen: see `before`.
    """
    if observation.blind:
        return tuple(history)
    current = {
        RRset(answer.records, answer.ttl)
        for answer in observation.answers
        if answer.records
    }
    past = [*history]
    if observation.faults or not history:
        longest = max((rrset.ttl for rrset in history), default=0)
        past += [replace(rrset, ttl=max(rrset.ttl, longest)) for rrset in served]
    if observation.cached:
        cached = observation.cached
        past.append(RRset(cached.records, cached.ttl, now))
    ended: dict[RRset, datetime] = {}
    for old in past:
        rrset = replace(old, until=None)
        if old.until is None and observation.faults:
            current.add(rrset)
        else:
            # A clock that was set back must not prolong the wait.
            until = min(old.until or now, now)
            ended[rrset] = max(until, ended.get(rrset, until))
    ends = (
        replace(rrset, until=until)
        for rrset, until in ended.items()
        if rrset not in current
    )
    return (*current, *ends)


def before(
    observation: Observation,
    history: Iterable[RRset],
    chains: Iterable[Chain],
    host: str,
) -> list[RRset]:
    """Return what caches may have that was not observed.

    That is not known, but what is served was announced: those records of the
    *observation*, or of *history*, that are of *chains*, and no others.
    """
    every = list(chains)
    seen: list[Answer | RRset] = [*observation.answers, *history]
    return [
        RRset(known, rrset.ttl)
        for rrset in seen
        if (
            known := frozenset(
                record
                for record in rrset.records
                if any(record.matches(chain, host) for chain in every)
            )
        )
    ]


def cached(
    history: Iterable[RRset], now: datetime, floor: timedelta
) -> tuple[RRset, ...]:
    """Return what of *history* a cache may still have *now*."""
    return tuple(rrset for rrset in history if rrset.cached(now, floor))
