"""Looks at the TLSA records of what is to be served, and remembers what it saw.

A host without DANE gets no file, no message, and no wait that is longer than
`observe.BRIEF`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path

from certbot_postfix.dane import history, observe, rollover, store
from certbot_postfix.dane.history import FLOOR, Chain
from certbot_postfix.dane.rollover import Decision, Facts
from certbot_postfix.dane.store import Memory
from certbot_postfix.formats import tlsa
from certbot_postfix.system.hostnames import a_labels, is_host

# SMTP between servers, submission over TLS, submission.
PORTS = (25, 465, 587)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the administrator says of DANE.

    *names* are hosts whose records count as well, *resolver* is believed, *ignore* lets
    every key pass, and no TTL counts for less than *floor*.
    """

    names: tuple[str, ...] = ()
    resolver: str = ""
    ignore: bool = False
    floor: timedelta = FLOOR


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chain that *hosts* may serve: *new*, in place of *served*.

    What is seen is remembered beside *bundle*, if the certificate is certbot's.
    """

    name: str
    bundle: Path | None
    hosts: tuple[str, ...]
    served: tuple[Chain, ...]
    new: Chain


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What was found out of one endpoint, and what follows."""

    facts: Facts
    decision: Decision


def look(candidate: Candidate, settings: Settings, now: datetime) -> list[Endpoint]:
    """Return what DNS says of the endpoints of *candidate*, and remember it."""
    memory = store.load(candidate.bundle) if candidate.bundle else Memory()
    owners = dict(_owners((*candidate.hosts, *settings.names)))
    found = observe.observe(
        owners,
        settings.resolver,
        patient=not memory.endpoints.keys().isdisjoint(owners),
    )
    endpoints = []
    for owner, host in owners.items():
        unseen = history.before(found[owner], candidate.served, host)
        known = memory.endpoints.get(owner, ())
        rrsets = history.updated(known, found[owner], unseen, now)
        rrsets = history.cached(rrsets, now, settings.floor)
        facts = Facts(host, found[owner], rrsets, candidate.served, candidate.new)
        decision = rollover.decide(facts, now, settings.floor)
        endpoints.append(Endpoint(facts, decision))
    if candidate.bundle:
        _remember(candidate.bundle, memory, endpoints)
    return endpoints


def _owners(hosts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the names of the records of *hosts*, with the host; wildcards have none."""
    names = dict.fromkeys(a_labels(host.lower().rstrip(".")) for host in hosts)
    for port, name in product(PORTS, filter(is_host, names)):
        yield tlsa.owner(name, port), name


def _remember(bundle: Path, memory: Memory, endpoints: Sequence[Endpoint]) -> None:
    known = {
        each.facts.observation.owner: each.facts.history
        for each in endpoints
        if each.facts.history
    }
    store.save(bundle, replace(memory, endpoints=known))
