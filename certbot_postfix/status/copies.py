"""Copies of certbot's files that a renewal does not reach, as `status` tells them.

Reads files, and asks nobody; a deployment, which has no time for more, tells of them.
"""

from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.status import freshness
from certbot_postfix.status.evidence import Facts
from certbot_postfix.status.findings import Finding, merged
from certbot_postfix.status.inspection import Inspection


def outdated(
    configuration: Configuration, bundles: Path, lineages: Iterable[str]
) -> list[Finding]:
    """Return which files in use, not ours, are older copies of those of *lineages*."""
    found = Inspection(configuration, bundles)
    found.look_at_copies(lineages)
    facts = Facts(
        configuration=configuration,
        now=datetime.now(timezone.utc),
        bundles=bundles,
        files=found.files,
        tables=tuple(found.tables),
        lineages=found.lineages,
    )
    return merged(freshness.stale(facts).findings)
