"""What makes of the records that are published those that are wanted.

Pure: rows in, changes out.  Nothing that serves a purpose is taken away, and nothing is
announced that is not there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
        if row.state not in (State.MISSING, State.DIFFERENT) or withheld(row, rows):
            continue
        added = [record for record in row.records if record.rdata not in row.observed]
        yield from map(Change, added)
        observed = row.observed | {record.rdata for record in added}
        for data in row.stale:
            if data not in row.wanted:
                record = ResourceRecord(row.name, TTL, row.kind, data)
                yield Change(record, removes=True, observed=observed)
                observed -= {data}


def withheld(row: Row, rows: Sequence[Row]) -> str:
    """Return why *row* is not published now, "" if it can be.

    RFC 8461: a policy is served before its record is published, and allows an MX host
    before DNS has it.
    """
    policy = next(each for each in rows if each.kind == POLICY)
    if policy.state is State.OK:
        return ""
    if row.name.startswith("_mta-sts."):
        return "its policy is not served yet"
    if row.kind == "MX" and policy.published:
        return "the MTA-STS policy does not allow the host yet"
    return ""
