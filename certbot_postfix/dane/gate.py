"""The gate: a chain is held back while a TLSA record (DANE) forbids to serve it.

Looks at the records of what is to be served, and remembers what it saw.  A host without
DANE gets no file, no message, and no wait that is longer than `observe.BRIEF`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

from certbot_postfix.dane import hold, judge, observe, rollover, staged, store
from certbot_postfix.dane.history import FLOOR
from certbot_postfix.dane.hold import Endpoint, Hold
from certbot_postfix.dane.judge import Candidate, Look, in_dns
from certbot_postfix.dane.rollover import State
from certbot_postfix.dane.staged import NextKey
from certbot_postfix.formats import tlsa
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.system import files
from certbot_postfix.system.hostnames import is_host
from certbot_postfix.tls.certificates import Certificate

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

    @classmethod
    def of(cls, conf: Callable[[str], Any]) -> "Settings":
        """Return what *conf* says, which has the options by their names."""
        return cls(
            tuple(conf("tlsa-name") or ()),
            conf("dane-resolver"),
            conf("tlsa-ignore"),
            timedelta(seconds=conf("tlsa-min-ttl")),
        )


class Gate:
    """What keeps back, in one run, a chain that some TLSA record forbids.

    Public keys that are *forced* pass.
    """

    def __init__(self) -> None:
        self.settings = Settings()
        self.forced: frozenset[bytes] = frozenset()
        self._known: dict[Candidate, Hold | None] = {}
        self._held: dict[Path | None, datetime | None] = {}  # since, before this run
        self._closed: set[Path | None] = set()

    def hold(self, candidate: Candidate | None, now: datetime) -> Hold | None:
        """Return why *candidate* must not be served yet, None if it may be.

        DNS is asked once about each.
        """
        if candidate is None:
            return None
        if self.settings.ignore or candidate.new[0].spki in self.forced:
            release(candidate.bundle)
            return None
        if candidate not in self._known:
            self._known[candidate] = self._look(candidate, now)
        return self._known[candidate]

    def _look(self, candidate: Candidate, now: datetime) -> Hold | None:
        closed = [
            endpoint
            for endpoint in look(candidate, self.settings, now)
            if not endpoint.decision.open
        ]
        served = min((chain[0].not_after for chain in candidate.served), default=now)
        if not closed:
            self._open(candidate.bundle)
            return None
        since = self._since(candidate.bundle, served, now)
        return hold.make(closed, (since, served, now))

    def _open(self, bundle: Path | None) -> None:
        """Forget that *bundle* was held, unless it is held for another instance."""
        if (memory := store.load(bundle)).held:
            self._held.setdefault(bundle, memory.held)
            if bundle not in self._closed:
                release(bundle)

    def _since(self, bundle: Path | None, expiry: datetime, now: datetime) -> datetime:
        """Remember that *bundle* is held; return since when it is."""
        memory = store.load(bundle)
        held = self._held.setdefault(bundle, memory.held)
        # A clock that was set back must not put off what is done about a late one.
        since = min(held or now, now)
        self._closed.add(bundle)
        store.save(bundle, replace(memory, held=since, expiry=expiry))
        return since


def release(bundle: Path | None) -> None:
    """Forget that *bundle* was held."""
    if (memory := store.load(bundle)).held:
        store.save(bundle, replace(memory, held=None, expiry=None))


def look(candidate: Candidate, settings: Settings, now: datetime) -> list[Endpoint]:
    """Return what DNS says of the endpoints of *candidate*, and remember it."""
    memory = store.load(candidate.bundle)
    owners = list(_owners((*candidate.hosts, *settings.names)))
    found = observe.observe(
        owners,
        settings.resolver,
        patient=not memory.endpoints.keys().isdisjoint(owners),
    )
    seen = Look(found, settings.names, now, settings.floor)
    endpoints = judge.endpoints(candidate, memory, seen)
    memory = judge.remembered(candidate, memory, endpoints, seen)
    store.save(candidate.bundle, memory)
    return endpoints


def watch(
    bundle: Path, key: NextKey | None, settings: Settings, now: datetime
) -> Iterator[str]:
    """Look at records that were seen before; yield what is wrong with them.

    So it is known since when a *key* is announced that is staged, or that certbot will
    renew for.
    """
    if not (chain := tuple(Certificate.all_from_pem(files.read(bundle)))):
        return
    memory = store.load(bundle)
    owners = [owner.partition("._tcp.")[2] for owner in memory.owners]
    hosts = tuple(dict.fromkeys(owners))
    new = staged.chain(chain, key)
    candidate = Candidate(bundle.stem, bundle, hosts, (chain,), new)
    for endpoint in look(candidate, settings, now) if hosts else ():
        facts = replace(endpoint.facts, new=chain)
        decision = rollover.decide(facts, now, settings.floor)
        if decision.state is State.MISMATCH:
            record = Record.of_key(chain[0].spki)
            yield (
                f"the TLSA records (DANE) of {endpoint.facts.observation.owner} do not"
                f" match the certificate in {bundle}: senders that verify DANE deliver"
                f" no mail\nHint: publish {tlsa.line(endpoint.place, record)}"
            )


def _owners(hosts: Sequence[str]) -> Iterator[str]:
    """Yield the names of the records of *hosts*; wildcards have none.

    Nor has a name of one label, such as that in a new system's certificate.
    """
    every = dict.fromkeys(map(in_dns, hosts))
    names = [name for name in every if is_host(name) and "." in name]
    for port, name in product(PORTS, names):
        yield tlsa.owner(name, port)
