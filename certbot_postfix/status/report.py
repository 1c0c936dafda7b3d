"""The report of ``status``: what each service presents to whom, and what is wrong.

Pure: facts in, `Report` out.  `terminal` and `monitoring` render it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from certbot_postfix.status.checks import (
    certificates,
    dane,
    files,
    parameters,
    policies,
    publication,
    renewals,
    services,
)
from certbot_postfix.status.facts import Facts, Handshake, Skipped
from certbot_postfix.status.findings import Code, Finding, merged
from certbot_postfix.tls.certificates import Certificate

# What makes TLS fail where the file is named.
_BREAKING = (Code.FILE_MISSING, Code.FILE_UNUSABLE, Code.KEY_MISMATCH)


@dataclass(frozen=True, slots=True)
class CertificateInUse:
    """A certificate that is presented or configured, its files, and its lineage."""

    leaf: Certificate
    files: tuple[Path, ...]
    lineage: str


@dataclass(frozen=True)
class Report:
    """All that is reported.

    *names* counts the names in SNI maps, *requested* those that were requested.  *held*
    are the renewals that wait for DNS, *tlsa* the endpoints that have TLSA records.
    """

    time: datetime
    directory: Path
    version: str
    running: bool | None
    handshakes: tuple[Handshake, ...]
    certificates: tuple[CertificateInUse, ...]
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    names: int
    requested: int
    held: tuple[dane.Held, ...] = ()
    tlsa: tuple[dane.Endpoint, ...] = ()

    def remaining(self, leaf: Certificate | dane.Held) -> timedelta:
        """Return for how long *leaf* is still valid; less than nothing if it is not."""
        return leaf.not_after - self.time


def make(facts: Facts) -> Report:
    """Return the report on *facts*."""
    requested = {handshake.key for handshake in facts.handshakes}
    return Report(
        time=facts.now,
        directory=facts.configuration.directory,
        version=facts.configuration.defaults.get("mail_version", ""),
        running=facts.running,
        handshakes=facts.handshakes,
        certificates=tuple(_in_use(facts)),
        findings=tuple(merged(_findings(facts))),
        skipped=facts.skipped,
        notes=facts.notes,
        names=len(facts.names),
        requested=len(requested & facts.names.keys()),
        held=tuple(dane.waiting(facts)),
        tlsa=tuple(dane.endpoints(facts)),
    )


def _findings(facts: Facts) -> Iterator[Finding]:
    of_files = list(files.check(facts))
    broken = frozenset(
        finding.object for finding in of_files if finding.code in _BREAKING
    )
    stale = renewals.check(facts)
    yield from of_files
    yield from parameters.check(facts)
    yield from policies.check(facts)
    yield from services.check(facts, broken)
    waiting = list(dane.held(facts))
    held = {finding.object for finding in waiting}
    yield from waiting
    yield from dane.records(facts)
    yield from dane.keys(facts)
    yield from dane.replaced(facts)
    yield from dane.troubles(facts)
    yield from dane.ageing(facts)
    yield from (finding for finding in stale.findings if finding.object not in held)
    yield from renewals.not_deployed(facts)
    yield from renewals.other_certbots(facts)
    yield from publication.caa_records(facts)
    yield from publication.own_policies(facts)
    yield from certificates.check(facts, stale.leaves)


def _in_use(facts: Facts) -> Iterator[CertificateInUse]:
    holders: dict[Certificate, list[Path]] = {}
    for chain in facts.chains:
        for path in chain.files:
            if leaf := facts.leaf(path):
                holders.setdefault(leaf, []).append(path)
    for leaf in certificates.in_use(facts):
        paths = tuple(dict.fromkeys(holders.get(leaf, ())))
        lineage = next(filter(None, map(facts.lineage, paths)), "")
        yield CertificateInUse(leaf, paths, lineage)
