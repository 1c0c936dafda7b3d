"""Asks every authoritative server whether it has what was published.

The word of a publisher is not enough, and a resolver may have the old records cached
for their TTL.  Raises `NetworkError` if the servers are not known.
"""

import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from certbot_postfix.errors import NetworkError, UnreachableError
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.publish.changes import Change
from certbot_postfix.system import dns
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.system.dns import Resolver

# Seconds for one question.
_LONGEST = 2.0

# How many questions are asked at once.
_WORKERS = 16


@dataclass(frozen=True, slots=True)
class _Question:
    """Whether the server *name*, at *address*, has made *change*."""

    name: str
    address: str
    change: Change


def late(changes: Iterable[Change], resolver: Resolver) -> list[str]:
    """Return the name servers that lack one of *changes*, or do not answer.

    *resolver* looks up which there are.
    """
    every = list(changes)
    names = dict.fromkeys(change.record.name for change in every)
    servers = {name: _servers(name, resolver) for name in names}
    questions = [
        _Question(name, address, change)
        for change in every
        for name, address in servers[change.record.name]
    ]
    with ThreadPoolExecutor(_WORKERS) as pool:
        faults = list(pool.map(_fault, questions))
    answered = list(zip(questions, faults, strict=True))
    reached = {question.name for question, fault in answered if fault is not None}
    unreachable = (
        f"{question.name} ({question.address}) cannot be reached from this machine"
        for question in questions
        if question.name not in reached
    )
    return list(dict.fromkeys((*filter(None, faults), *unreachable)))


def _servers(name: str, resolver: Resolver) -> list[tuple[str, str]]:
    """Return the servers of the zone that has *name*, with each of their addresses.

    That is "" if a server has none that is known.
    """
    labels = name.rstrip(".").split(".")
    for number in range(len(labels) - 1):
        records = resolver.ask(".".join(labels[number:]), "NS").records
        hosts = sorted(str(it.target).removesuffix(".") for it in records)
        if hosts:
            return [
                (host, address)
                for host in hosts
                for address in [*_addresses(host, resolver)] or [""]
            ]
    raise NetworkError(f"the name servers of {name} are not known")


def _addresses(host: str, resolver: Resolver) -> Iterator[str]:
    for kind in ("AAAA", "A"):
        with contextlib.suppress(NetworkError):
            yield from (it.address for it in resolver.ask(host, kind).records)


def _fault(question: _Question) -> str | None:
    """Return what is wrong, "" if nothing is, None if there is no way to the server."""
    if not question.address:
        return f"{question.name} has no address"
    server = f"{question.name} ({question.address})"
    record = question.change.record
    deadline = Deadline(_LONGEST)
    try:
        reply = dns.ask(
            *(question.address, record.name, record.type, deadline.left),
            recursive=False,
        )
    except UnreachableError:
        return None
    except NetworkError:
        return f"{server} does not answer"
    if why := dns.refusal(reply):
        return f"{server} {why}"
    return server if _has(reply, record) is question.change.removes else ""


def _has(reply: Any, record: ResourceRecord) -> bool:
    import dns.rdata  # noqa: PLC0415 - certbot loads us on every run

    rdata = dns.rdata.from_text("IN", record.type, record.rdata)
    return any(rdata in rrset for rrset in reply.answer)
