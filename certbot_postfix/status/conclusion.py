"""How an instance fares: what each service shows to whom, and what is wrong with that.

Pure: facts in, `Report` out.  `report` renders it, `examination` collects the facts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from certbot_postfix.status import diagnosis, freshness, keyfiles, outgoing, settings
from certbot_postfix.status.evidence import Answer, Facts, Unseen
from certbot_postfix.status.findings import Code, Finding, merged
from certbot_postfix.tls.certificates import Certificate

# What makes TLS fail where the file is named.
_BREAKING = (Code.FILE_MISSING, Code.FILE_UNUSABLE, Code.KEY_MISMATCH)


@dataclass(frozen=True, slots=True)
class Row:
    """What one service showed, or why it showed nothing, and what is configured."""

    answer: Answer
    files: tuple[Path, ...]

    @property
    def leaf(self) -> Certificate | None:
        """The certificate that was shown."""
        return self.answer.seen.leaf if self.answer.seen else None


@dataclass(frozen=True, slots=True)
class Used:
    """A certificate that is shown or configured, its files, and its lineage."""

    leaf: Certificate
    files: tuple[Path, ...]
    lineage: str


@dataclass(frozen=True)
class Report:
    """All that is told.  *names* are those in the tables, *asked* those asked for."""

    time: datetime
    directory: Path
    version: str
    running: bool | None
    rows: tuple[Row, ...]
    used: tuple[Used, ...]
    findings: tuple[Finding, ...]
    unseen: tuple[Unseen, ...]
    notes: tuple[str, ...]
    names: int
    asked: int

    def left(self, leaf: Certificate) -> timedelta:
        """Return for how long *leaf* is still valid; less than nothing if it is not."""
        return leaf.not_after - self.time


def report(facts: Facts) -> Report:
    """Conclude from *facts*."""
    asked = {each.key for each in facts.answers if each.key}
    return Report(
        time=facts.now,
        directory=facts.configuration.directory,
        version=facts.configuration.defaults.get("mail_version", ""),
        running=facts.running,
        rows=tuple(
            Row(answer, tuple(facts.configured(answer))) for answer in facts.answers
        ),
        used=tuple(_used(facts)),
        findings=tuple(merged(_findings(facts))),
        unseen=facts.unseen,
        notes=facts.notes,
        names=len(facts.table),
        asked=len(asked & facts.table.keys()),
    )


def _findings(facts: Facts) -> Iterator[Finding]:
    of_files = list(keyfiles.of_files(facts))
    broken = frozenset(each.object for each in of_files if each.code in _BREAKING)
    stale = freshness.stale(facts)
    yield from of_files
    yield from settings.of_parameters(facts)
    yield from outgoing.findings(facts)
    yield from diagnosis.of_services(facts, broken)
    yield from stale.findings
    yield from diagnosis.of_certificates(facts, stale.leaves)


def _used(facts: Facts) -> Iterator[Used]:
    files: dict[Certificate, list[Path]] = {}
    for chain in facts.chains:
        for path in chain.files:
            if leaf := facts.leaf(path):
                files.setdefault(leaf, []).append(path)
    for leaf in diagnosis.in_use(facts):
        paths = tuple(dict.fromkeys(files.get(leaf, ())))
        lineage = next(filter(None, map(facts.lineage, paths)), "")
        yield Used(leaf, paths, lineage)
