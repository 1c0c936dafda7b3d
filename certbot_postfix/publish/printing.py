"""Prints records, for whoever edits the zone by hand."""

from collections.abc import Set as AbstractSet

from zope.interface import implementer

from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.interfaces import IRecordPublisher


@implementer(IRecordPublisher)
class Printer:
    """Writes lines of a zone file to standard output."""

    label = "print"

    def add(self, record: ResourceRecord) -> None:
        """Print *record*."""
        print(record, flush=True)

    def remove(
        self,
        record: ResourceRecord,
        observed: AbstractSet[str],  # noqa: ARG002 - the person who edits sees them
    ) -> None:
        """Print *record* as a comment: who reads it must not add it."""
        print(f"; remove: {record}", flush=True)
