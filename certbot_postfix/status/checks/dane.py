"""What is wrong with the TLSA records (DANE) of what is served, as last observed.

Pure: facts in, findings out.  `certbot renew` and ``tlsa show`` observe.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from certbot_postfix.dane import judge, rollover
from certbot_postfix.dane.history import RRset
from certbot_postfix.dane.observation import Answer, Observation, Status
from certbot_postfix.dane.rollover import State
from certbot_postfix.dane.store import Memory
from certbot_postfix.dane.trouble import Kind
from certbot_postfix.errors import enumerated
from certbot_postfix.formats import tlsa
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.inbound import renewal_settings
from certbot_postfix.postfix import services
from certbot_postfix.status.facts import Facts
from certbot_postfix.status.findings import Code, Finding
from certbot_postfix.tls.certificates import Certificate

_SHOW = "certbot-postfix tlsa show"

_TIME = "%Y-%m-%d %H:%M UTC"

# The states of endpoints that a next key need not wait for.
_PASSED = (State.NONE, State.FOREIGN, State.STEADY, State.READY)

# By the kind of a trouble: code, message and hint.
_TROUBLES = {
    Kind.SERVERS: (
        Code.TLSA_SERVERS,
        "not every name server has the same TLSA records (DANE) for {owner}: {details}",
        f"fix these name servers, then run {_SHOW}, which queries all of them",
    ),
    Kind.UNSIGNED: (
        Code.TLSA_UNSIGNED,
        "senders ignore the TLSA records (DANE) of {owner}: the zone is not signed",
        "sign the zone (DNSSEC), or remove the records",
    ),
    Kind.UNKNOWN: (
        Code.TLSA_UNKNOWN,
        "the TLSA records (DANE) of {owner} cannot be verified: {details}",
        f"run a validating resolver, or set --postfix-dane-resolver; then run {_SHOW}",
    ),
}


@dataclass(frozen=True, slots=True)
class Held:
    """A renewal that is held *since* then; what *bundle* serves instead ends."""

    bundle: Path
    since: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The records named *owner*, and how far they are with the keys of *bundle*."""

    owner: str
    bundle: Path
    state: State
    until: datetime | None = None


def waiting(facts: Facts) -> Iterator[Held]:
    """Yield the renewals that wait until DNS announces their keys."""
    for path, memory in facts.tlsa.items():
        newest = facts.lineages.get(path.stem)
        waits = newest is not None and newest != facts.leaf(path)
        if waits and memory.held and memory.expiry:
            yield Held(path, memory.held, memory.expiry)


def endpoints(facts: Facts) -> Iterator[Endpoint]:
    """Yield the endpoints that have records, or had some that caches may have."""
    for path, memory in facts.tlsa.items():
        chain = facts.files[path].certificates if path in facts.files else ()
        own = facts.configuration.value("myhostname")
        ours = judge.here([own], services.ports(facts.configuration))
        for owner, rrsets in memory.endpoints.items() if chain else ():
            host = owner.partition("._tcp.")[2]
            known = rollover.Facts(
                host, _observed(owner, rrsets), rrsets, (chain,), chain, owner in ours
            )
            decisions = [
                rollover.decide(replace(known, new=new), facts.now)
                for new in (chain, (_next(facts, path, chain[0]), *chain[1:]))
            ]
            # What is served comes first: the next key repairs nothing now.
            worst = State.MISMATCH in {decision.state for decision in decisions}
            state = State.MISMATCH if worst else decisions[1].state
            yield Endpoint(owner, path, state, decisions[1].until)


def _next(facts: Facts, path: Path, leaf: Certificate) -> Certificate:
    """Return what takes the place of *leaf* next, as far as that is known."""
    newest, key = facts.lineages.get(path.stem) or leaf, facts.staged.get(path)
    if newest != leaf or key is None or key == leaf.spki:
        return newest
    return leaf.with_key(key)


def _observed(owner: str, rrsets: Iterable[RRset]) -> Observation:
    answers = (
        Answer("", rrset.records, rrset.ttl) for rrset in rrsets if not rrset.until
    )
    return Observation(owner, Status.SECURE, owner, tuple(answers))


def held(facts: Facts) -> Iterator[Finding]:
    """Yield the renewals that wait as findings."""
    for renewal in waiting(facts):
        name = renewal.bundle.stem
        half = renewal.since + (renewal.not_after - renewal.since) / 2
        why = "TLSA records (DANE) do not announce its key everywhere yet"
        hint = f"{_SHOW} has the records to publish"
        if until := _until(facts, renewal.bundle):
            why = f"caches may have TLSA records (DANE) without its key until {until}"
            hint = "the next certbot renew after that deploys it"
        yield Finding(
            Code.TLSA_HELD,
            str(renewal.bundle),
            f"the renewal of {name} has been held since {renewal.since:%Y-%m-%d}:"
            f" {why}; the certificate expires at {renewal.not_after:{_TIME}}",
            hint,
            urgent=facts.now >= half,
        )


def ageing(facts: Facts) -> Iterator[Finding]:
    """Yield the staged keys that every server announces, but not every cache yet."""
    for path in facts.staged:
        if until := _until(facts, path):
            yield Finding(
                Code.TLSA_AGEING,
                str(path),
                f"every name server announces the next key of {path.stem}, but caches"
                f" may have older TLSA records (DANE) until {until}",
                "after that, run certbot-postfix tlsa switch; with --postfix-tlsa-roll"
                " auto, the next certbot renew does so",
            )


def _until(facts: Facts, bundle: Path) -> str:
    """Return until when the next key of *bundle* has nothing to do but to wait."""
    every = [endpoint for endpoint in endpoints(facts) if endpoint.bundle == bundle]
    if not {endpoint.state for endpoint in every} <= {*_PASSED, State.AGEING}:
        return ""
    until = max((endpoint.until for endpoint in every if endpoint.until), default=None)
    return f"{until:{_TIME}}" if until else ""


def troubles(facts: Facts) -> Iterator[Finding]:
    """Yield what was wrong with name servers, zones and resolvers at the last look."""
    for memory in facts.tlsa.values():
        for owner, trouble in memory.troubles.items():
            code, message, hint = _TROUBLES[trouble.kind]
            details = enumerated(trouble.details)
            yield Finding(
                code, owner, message.format(owner=owner, details=details), hint
            )


def records(facts: Facts) -> Iterator[Finding]:
    """Yield the records that match nothing that is served, and those that are odd."""
    for memory in facts.tlsa.values():
        current = list(_current(memory))
        for owner, record in current:
            beside = [other for name, other in current if name == owner]
            if remark := record.remark(beside):
                yield Finding(
                    Code.TLSA_RECORD,
                    f"{owner} {record}",
                    f"the TLSA record {record} of {owner}: {remark}",
                    f"{_SHOW} has the records to publish",
                )
    for endpoint in endpoints(facts):
        leaf = facts.leaf(endpoint.bundle)
        if leaf and endpoint.state is State.MISMATCH:
            yield Finding(
                Code.TLSA_MISMATCH,
                endpoint.owner,
                f"the TLSA records (DANE) of {endpoint.owner} do not match the"
                f" certificate in {endpoint.bundle}: senders that verify DANE deliver"
                " no mail",
                f"publish {tlsa.line(endpoint.owner, Record.of_key(leaf.spki))}",
            )


def keys(facts: Facts) -> Iterator[Finding]:
    """Yield the lineages whose renewals have new keys, although records pin this one.

    `certbot certonly` without --reuse-key forgets that it was given before.
    """
    for path, memory in facts.tlsa.items():
        settings, leaf = facts.renewals.get(path.stem), facts.leaf(path)
        if leaf is None or settings is None or settings.keeps_key or memory.held:
            continue
        chain, published = (leaf,), {record for _, record in _current(memory)}
        if any(record.matches(chain, "") and record.selector for record in published):
            yield Finding(
                Code.TLSA_KEY,
                path.stem,
                f"certbot makes a new key for each renewal of {path.stem}, whose TLSA"
                " records (DANE) are for the key in service: renewals will be held",
                renewal_settings.keep_key(path.stem, settings.path),
            )


def replaced(facts: Facts) -> Iterator[Finding]:
    """Yield the lineages in which another key stands in for certbot's own."""
    for name, path in facts.replaced.items():
        yield Finding(
            Code.KEY_CHANGE,
            name,
            f"a change of the key of {name} is in progress, or was killed: another key"
            f" stands in for {path}",
            f"if none is in progress: certbot-postfix tlsa advance --cert-name {name}"
            " restores the key",
        )


def _current(memory: Memory) -> Iterator[tuple[str, Record]]:
    for owner, rrsets in memory.endpoints.items():
        found = (rrset.records for rrset in rrsets if rrset.until is None)
        for record in sorted(frozenset[Record]().union(*found)):
            yield owner, record
