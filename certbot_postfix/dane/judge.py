"""What a look at DNS means for a chain that may be served, and what is remembered.

Pure: what was observed and what is remembered in, endpoints and a memory out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from certbot_postfix.dane import history, rollover
from certbot_postfix.dane.history import FLOOR, Chain
from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.observation import Observation
from certbot_postfix.dane.rollover import Facts, State
from certbot_postfix.dane.store import Key, Memory
from certbot_postfix.dane.trouble import Kind, Trouble, trouble
from certbot_postfix.formats import tlsa
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.system.hostnames import a_labels

_SMTP = 25


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chain that *hosts* may serve: *new*, in place of *served*.

    The other hosts than *own* may be other servers, too, and so may *own* at other
    ports than 25 and *ports*.  What is seen is remembered beside *bundle*, if the
    certificate is certbot's; other instances of Postfix than *instance* may read that.
    Without an *instance*, what all of them have found to be theirs counts.
    """

    name: str
    bundle: Path | None
    hosts: tuple[str, ...]
    served: tuple[Chain, ...]
    new: Chain
    own: str = ""
    ports: frozenset[int] = frozenset()
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What DNS answered *now*, by the names of records: *found*.

    *names* are further hosts of this server; no TTL counts for less than *floor*.
    """

    found: Mapping[str, Observation]
    names: tuple[str, ...]
    now: datetime
    floor: timedelta = FLOOR


def endpoints(candidate: Candidate, memory: Memory, look: Look) -> list[Endpoint]:
    """Return what *look* means for the endpoints of *candidate*."""
    ours = here((candidate.own, *look.names), candidate.ports)
    if not candidate.instance:
        ours = ours.union(*memory.ours.values())
    judged = []
    for owner, observation in look.found.items():
        host = owner.partition("._tcp.")[2]
        known = memory.endpoints.get(owner, ())
        unseen = history.before(observation, known, candidate.served, host)
        rrsets = history.updated(known, observation, unseen, look.now)
        rrsets = history.cached(rrsets, look.now, max(look.floor, memory.floor))
        facts = Facts(
            host, observation, rrsets, candidate.served, candidate.new, owner in ours
        )
        decision = rollover.decide(facts, look.now, look.floor)
        judged.append(Endpoint(facts, decision))
    return judged


def remembered(
    candidate: Candidate, memory: Memory, endpoints: Sequence[Endpoint], look: Look
) -> Memory:
    """Return *memory* with what *look* saw at the *endpoints* of *candidate*."""
    # Another run, or another instance, looks at other hosts: theirs are not forgotten.
    every = {
        **memory.endpoints,
        **{
            endpoint.facts.observation.owner: endpoint.facts.history
            for endpoint in endpoints
        },
    }
    looked_at = {endpoint.facts.observation.owner for endpoint in endpoints}
    troubles = {it: old for it, old in memory.troubles.items() if it not in looked_at}
    return replace(
        memory,
        endpoints={owner: rrsets for owner, rrsets in every.items() if rrsets},
        ours={**memory.ours, **_ours(candidate, endpoints)},
        keys=_keys(memory, candidate, endpoints, look.now),
        troubles={**troubles, **dict(_troubles(endpoints))},
        floor=max(look.floor, memory.floor),
    )


def _keys(
    memory: Memory, candidate: Candidate, endpoints: Sequence[Endpoint], now: datetime
) -> dict[Record, Key]:
    """Return which keys are ours, of the type of that which *candidate* has.

    A record may be withdrawn once its key is none that is served, staged or renewed.
    """
    known = {
        record
        for endpoint in endpoints
        for rrset in endpoint.facts.history
        for record in rrset.records
    }
    new = candidate.new[0]
    served = [
        chain[0] for chain in candidate.served if chain[0].key_type == new.key_type
    ]
    keys = {
        record: replace(key, retired=min(key.retired or now, now))
        for record, key in memory.keys.items()
        if record in known
    }
    for certificate in (new, *served):
        record = Record.of_key(certificate.spki)
        if certificate not in served:
            since = None
        elif record in memory.keys:
            since = min(memory.keys[record].since or now, now)
        else:
            since = min(certificate.not_before, now)
        keys[record] = Key(since)
    return keys


def _troubles(endpoints: Sequence[Endpoint]) -> Iterator[tuple[str, Trouble]]:
    """Yield what is wrong at *endpoints*, unless they are of another server."""
    for endpoint in endpoints:
        facts = endpoint.facts
        found = trouble(facts.observation, known=bool(facts.history))
        # The zones of the certificate's other names may well be unsigned.
        elsewhere = not facts.ours and found and found.kind is Kind.UNSIGNED
        if found and not elsewhere and endpoint.decision.state is not State.FOREIGN:
            yield facts.observation.owner, found


def _ours(
    candidate: Candidate, endpoints: Sequence[Endpoint]
) -> dict[str, tuple[str, ...]]:
    facts = [endpoint.facts for endpoint in endpoints]
    owners = tuple(sorted(it.observation.owner for it in facts if it.ours))
    return {candidate.instance: owners} if candidate.instance else {}


def here(hosts: Iterable[str], ports: Iterable[int]) -> set[str]:
    """Return the names of the records that belong to no other server than *hosts*.

    Those are at port 25 and at the *ports* that Postfix serves.  At any other port,
    another program may serve a key of its own, and nothing waits for that.
    """
    every = {_SMTP, *ports}
    named = [in_dns(host) for host in hosts if host]
    return {tlsa.owner(host, port) for host in named for port in every}


def in_dns(host: str) -> str:
    """Return *host* as DNS has it."""
    return a_labels(host.lower().rstrip("."))
