"""What ``tlsa show`` prints: the records of each endpoint, and what comes next.

Pure: endpoints in, text or values for JSON out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.observation import Status
from certbot_postfix.dane.rollover import Facts, State
from certbot_postfix.errors import enumerated
from certbot_postfix.formats import tlsa
from certbot_postfix.formats.tlsa import Record

# Whose a record is that matches no certificate of this server.
FOREIGN = "not of this server"


@dataclass(frozen=True, slots=True)
class Row:
    """A record, *whose* it is, the servers that have it and those that do not.

    *since* is when the last server got it, None if that is longer ago than any cache
    remembers.  *remark* is what is wrong with it, or will be.
    """

    record: Record
    whose: str
    servers: tuple[str, ...]
    missing: tuple[str, ...]
    since: datetime | None
    ttl: int
    remark: str


def rows(endpoint: Endpoint) -> Iterator[Row]:
    """Yield the records that are published or should be: ours first."""
    facts = endpoint.facts
    answers = [answer for answer in facts.observation.answers if not answer.fault]
    wanted = [Record.of_key(chain[0].spki) for chain in (*facts.served, facts.new)]
    published = sorted({record for answer in answers for record in answer.records})
    for record in dict.fromkeys((*wanted, *published)):
        having = [answer for answer in answers if record in answer.records]
        lacking = [
            rrset.until
            for rrset in facts.history
            if rrset.until and record not in rrset.records
        ]
        yield Row(
            record,
            _whose(record, facts),
            tuple(answer.server for answer in having),
            tuple(answer.server for answer in answers if record not in answer.records),
            max(lacking, default=None) if having else None,
            max((answer.ttl for answer in having), default=tlsa.TTL),
            record.remark(published),
        )


def _whose(record: Record, facts: Facts) -> str:
    if any(record.matches(chain, facts.host) for chain in facts.served):
        return "in service"
    if record.matches(facts.new, facts.host):
        return "next key" if facts.staged else "renewed"
    return FOREIGN


_DEPLOY = "then certbot renew deploys the renewed certificate"
_SWITCH = "then certbot-postfix tlsa switch puts the next key into service"

_NEXT = {
    State.NONE: "to begin with DANE, publish this record if the host is an MX",
    State.FOREIGN: "nothing to do: the records are not of this server",
    State.STEADY: "nothing to do",
    State.READY: "certbot-postfix tlsa switch puts the next key into service",
    State.UNKNOWN: "not known: {why}",
    State.AGEING: "caches may have older records until {until}; {then}",
    State.STAGED: "publish the record of the next key beside the others; not announced"
    " by {lacking}",
    State.HELD: "publish the record of the renewed key beside the others; not announced"
    " by {lacking}",
    State.MISMATCH: "publish the record of the key in service, or senders that verify"
    " DANE send no mail; not announced by {lacking}",
}


def following(endpoint: Endpoint) -> str:
    """Say what comes next at *endpoint*."""
    decision, observation = endpoint.decision, endpoint.facts.observation
    text = _NEXT[decision.state].format(
        why=observation.why,
        until=f"{decision.until:%Y-%m-%d %H:%M} UTC" if decision.until else "",
        then=_SWITCH if endpoint.facts.staged else _DEPLOY,
        lacking=enumerated(decision.lacking),
    )
    if decision.state is State.NONE and observation.status is not Status.SECURE:
        first = "sign the zone"
        if observation.unsigned:
            first += ", since senders ignore TLSA records in an unsigned zone"
        if observation.why:
            first = f"{observation.why}; set one up, and run this command again"
        return f"DANE needs DNSSEC: {first}; then, {text}"
    return text


def notable(endpoint: Endpoint) -> bool:
    """Whether *endpoint* is shown: that of port 25, and others that have records."""
    owner = endpoint.facts.observation.owner
    return owner.startswith("_25.") or bool(endpoint.facts.history)


def as_text(endpoints: Sequence[Endpoint], name: str = "") -> Iterator[str]:
    """Yield the lines of the table, for the certificate *name* if there are others."""
    for endpoint in endpoints:
        observation = endpoint.facts.observation
        at = observation.target
        alias = f" (at {at})" if at not in ("", observation.owner) else ""
        alias += f", certificate {name}" if name else ""
        yield f"{observation.owner}{alias}: {endpoint.decision.state.value}"
        for row in rows(endpoint):
            yield f"  {row.record}"
            yield f"    {_where(row)}"
            if row.remark:
                yield f"    {row.remark}"
        yield from (f"  {fault}" for fault in observation.faults)
        yield f"  Next: {following(endpoint)}."


def _where(row: Row) -> str:
    if not row.servers:
        return f"{row.whose}, not published"
    since = f" since {row.since:%Y-%m-%d %H:%M} UTC" if row.since else ""
    where = f"at every server{since}"
    if row.missing:
        where = f"missing at {enumerated(row.missing)}"
    return f"{row.whose}, TTL {row.ttl}, {where}"


def as_lines(endpoints: Sequence[Endpoint]) -> Iterator[str]:
    """Yield the records that should exist, as lines of a zone file."""
    for endpoint in endpoints:
        observation = endpoint.facts.observation
        for row in rows(endpoint):
            if row.whose != FOREIGN and not row.remark:
                name = observation.target or observation.owner
                yield tlsa.line(name, row.record, row.ttl)


def as_values(endpoint: Endpoint) -> dict[str, Any]:
    """Return *endpoint* as values for JSON."""
    observation, decision = endpoint.facts.observation, endpoint.decision
    return {
        "owner": observation.owner,
        "target": observation.target,
        "dnssec": observation.status.value,
        "state": decision.state.value,
        "until": _time(decision.until),
        "records": [
            {
                "record": str(row.record),
                "whose": row.whose,
                "servers": row.servers,
                "missing": row.missing,
                "since": _time(row.since),
                "ttl": row.ttl,
                "remark": row.remark,
            }
            for row in rows(endpoint)
        ],
        "faults": observation.faults,
        "next": following(endpoint),
    }


def _time(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
