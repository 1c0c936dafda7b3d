"""What makes of the records that are published those that are wanted.

Pure: rows in, changes out.  Nothing that serves a purpose is taken away, and nothing is
announced that is not there.
"""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from certbot_postfix.formats import txt
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.publish.publishers import Publisher
from certbot_postfix.publish.records import POLICY, TTL, Row, State


@dataclass(frozen=True, slots=True)
class Change:
    """A *record* that is added, or removed from those that were *observed*."""

    record: ResourceRecord
    removes: bool = False
    observed: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{'-' if self.removes else '+'} {self.record}"

    def apply(self, publisher: Publisher) -> None:
        """Have *publisher* make it; raises `Error` if that failed."""
        if self.removes:
            publisher.remove(self.record, self.observed)
        else:
            publisher.add(self.record)


def changes(rows: Sequence[Row]) -> Iterator[Change]:
    """Yield the changes for those *rows* that may be published, in their order.

    A new record comes before the old one goes, so that a CA finds one that permits it.
    """
    for row in rows:
        if row.state in (State.MISSING, State.DIFFERENT) and not withheld(row, rows):
            yield from replacing(row.records, row.observed, row.stale)


def replacing(
    wanted: Sequence[ResourceRecord], observed: AbstractSet[str], stale: Iterable[str]
) -> Iterator[Change]:
    """Yield what adds the records *wanted*, and then removes those that are *stale*.

    All are of one name and type, and *observed* is the data of those that exist.
    """
    present = {_content(wanted[0].type, data) for data in observed} if wanted else set()
    kept = [it for it in wanted if _content(it.type, it.rdata) in present]
    added = [record for record in wanted if record not in kept]
    yield from map(Change, added)
    contents = {_content(record.type, record.rdata) for record in kept}
    remaining = frozenset(observed) | {record.rdata for record in added}
    for data in stale if wanted else ():
        record = replace(wanted[0], ttl=TTL, rdata=data)
        content = _content(record.type, data)
        if content in contents:
            contents.remove(content)  # a second one of it goes
            continue
        yield Change(record, removes=True, observed=remaining)
        remaining -= {data}


def _content(kind: str, data: str) -> str:
    """Return what *data* says: a text may be split into strings in several ways."""
    return txt.joined(data) if kind == "TXT" else data


def withheld(row: Row, rows: Sequence[Row]) -> str:
    """Return why *row* is not published now, "" if it can be.

    RFC 8461: a policy is served before its record is published, and allows an MX host
    before DNS has it.
    """
    policy = next(candidate for candidate in rows if candidate.kind == POLICY)
    if policy.state is State.OK:
        return ""
    if row.name.startswith("_mta-sts."):
        return "its policy is not served yet"
    if row.kind == "MX" and policy.published:
        return "the MTA-STS policy does not allow the host yet"
    return ""
