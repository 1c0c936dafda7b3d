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

from certbot_postfix.dane import history, hold, observe, rollover, staged, store
from certbot_postfix.dane.history import FLOOR, Chain
from certbot_postfix.dane.hold import Endpoint, Hold
from certbot_postfix.dane.rollover import Facts, State
from certbot_postfix.dane.staged import NextKey
from certbot_postfix.dane.store import Key, Memory
from certbot_postfix.dane.trouble import Kind, Trouble, trouble
from certbot_postfix.formats import tlsa
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.system import files
from certbot_postfix.system.hostnames import a_labels, is_host
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


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chain that *hosts* may serve: *new*, in place of *served*.

    The other hosts than *own* may be other servers, too.  What is seen is remembered
    beside *bundle*, if the certificate is certbot's.
    """

    name: str
    bundle: Path | None
    hosts: tuple[str, ...]
    served: tuple[Chain, ...]
    new: Chain
    own: str = ""


class Gate:
    """What keeps back, in one run, a chain that some TLSA record forbids.

    Public keys that are *forced* pass.
    """

    def __init__(self) -> None:
        self.settings = Settings()
        self.forced: frozenset[bytes] = frozenset()
        self._known: dict[Candidate, Hold | None] = {}

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
            each
            for each in look(candidate, self.settings, now)
            if not each.decision.open
        ]
        bundle = candidate.bundle
        memory = store.load(bundle) if bundle else Memory()
        served = min((each[0].not_after for each in candidate.served), default=now)
        # A clock that was set back must not put off what is done about a late one.
        since = min(memory.held or now, now) if closed else None
        if bundle:
            expiry = served if since else None
            store.save(bundle, replace(memory, held=since, expiry=expiry))
        return hold.make(closed, (since, served, now)) if since else None


def release(bundle: Path | None) -> None:
    """Forget that *bundle* was held."""
    if bundle and (memory := store.load(bundle)).held:
        store.save(bundle, replace(memory, held=None, expiry=None))


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
        known = memory.endpoints.get(owner, ())
        unseen = history.before(found[owner], known, candidate.served, host)
        rrsets = history.updated(known, found[owner], unseen, now)
        rrsets = history.cached(rrsets, now, settings.floor)
        ours = host in map(_in_dns, (candidate.own, *settings.names))
        facts = Facts(host, found[owner], rrsets, candidate.served, candidate.new, ours)
        decision = rollover.decide(facts, now, settings.floor)
        endpoints.append(Endpoint(facts, decision))
    if candidate.bundle:
        keys = _keys(memory, candidate, endpoints, now)
        memory = replace(memory, own=candidate.own or memory.own, keys=keys)
        _remember(candidate.bundle, memory, endpoints)
    return endpoints


def _keys(
    memory: Memory, candidate: Candidate, endpoints: Sequence[Endpoint], now: datetime
) -> dict[Record, Key]:
    """Return which keys are ours, of the type of that which *candidate* has.

    A record may be withdrawn once its key is none that is served, staged or renewed.
    """
    known = {
        record
        for each in endpoints
        for rrset in each.facts.history
        for record in rrset.records
    }
    new = candidate.new[0]
    served = [each[0] for each in candidate.served if each[0].key_type == new.key_type]
    keys = {
        record: replace(key, retired=min(key.retired or now, now))
        for record, key in memory.keys.items()
        if record in known
    }
    for each in (new, *served):
        record = Record.of_key(each.spki)
        if each not in served:
            since = None
        elif record in memory.keys:
            since = min(memory.keys[record].since or now, now)
        else:
            since = min(each.not_before, now)
        keys[record] = Key(since)
    return keys


def watch(
    bundle: Path, key: NextKey | None, settings: Settings, now: datetime
) -> Iterator[str]:
    """Look at records that were seen before; yield what is wrong with them.

    So it is known since when a *key* is announced that is staged, or that certbot will
    renew for.
    """
    chain = tuple(Certificate.all_from_pem(files.read(bundle)))
    memory = store.load(bundle)
    owners = [owner.partition("._tcp.")[2] for owner in memory.owners]
    hosts = tuple(dict.fromkeys(owners))
    new = staged.chain(chain, key)
    candidate = Candidate(bundle.stem, bundle, hosts, (chain,), new, memory.own)
    for endpoint in look(candidate, settings, now) if chain and hosts else ():
        facts = replace(endpoint.facts, new=chain)
        decision = rollover.decide(facts, now, settings.floor)
        if decision.state is State.MISMATCH:
            record = Record.of_key(chain[0].spki)
            yield (
                f"the TLSA records (DANE) of {endpoint.facts.observation.owner} do not"
                f" match the certificate in {bundle}: senders that verify DANE deliver"
                f" no mail\nHint: publish {tlsa.line(endpoint.place, record)}"
            )


def _owners(hosts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the names of the records of *hosts*, with the host; wildcards have none.

    Nor has a name of one label, such as that in a new system's certificate.
    """
    every = dict.fromkeys(map(_in_dns, hosts))
    names = [name for name in every if is_host(name) and "." in name]
    for port, name in product(PORTS, names):
        yield tlsa.owner(name, port), name


def _in_dns(host: str) -> str:
    return a_labels(host.lower().rstrip("."))


def _remember(bundle: Path, memory: Memory, endpoints: Sequence[Endpoint]) -> None:
    # Another run, or another instance, looks at other hosts: theirs are not forgotten.
    every = {
        **memory.endpoints,
        **{each.facts.observation.owner: each.facts.history for each in endpoints},
    }
    known = {owner: rrsets for owner, rrsets in every.items() if rrsets}
    looked_at = {each.facts.observation.owner for each in endpoints}
    troubles = {
        **{it: old for it, old in memory.troubles.items() if it not in looked_at},
        **dict(_troubles(endpoints)),
    }
    store.save(bundle, replace(memory, endpoints=known, troubles=troubles))


def _troubles(endpoints: Sequence[Endpoint]) -> Iterator[tuple[str, Trouble]]:
    """Yield what is wrong at *endpoints*, unless they are of another server."""
    for each in endpoints:
        facts = each.facts
        found = trouble(facts.observation, known=bool(facts.history))
        # Who has the other names of a certificate may do without DNSSEC.
        elsewhere = not facts.ours and found and found.kind is Kind.UNSIGNED
        if found and not elsewhere and each.decision.state is not State.FOREIGN:
            yield facts.observation.owner, found
