"""What is in use although there is something newer: a renewal that did not get there.

Pure: facts in, findings out.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from certbot_postfix.inbound import copies
from certbot_postfix.status.evidence import Facts
from certbot_postfix.status.findings import Code, Finding
from certbot_postfix.tls.certificates import Certificate


@dataclass(frozen=True, slots=True)
class Stale:
    """The *findings*, and the *leaves* in use although there are newer ones."""

    findings: tuple[Finding, ...]
    leaves: frozenset[Certificate]


def stale(facts: Facts) -> Stale:
    """Return what is older than certbot's newest, or than the file that has it."""
    behind = _behind(facts)
    found = list(behind.values())
    leaves = {leaf for path in behind if (leaf := facts.leaf(path))}
    for answer in facts.answers:
        paths = facts.configured(answer)
        # All must be known, to be sure that what is shown is none of them.
        if not answer.seen or not paths or any(map(facts.hidden, paths)):
            continue
        shown, where = answer.seen.leaf, answer.endpoint.service
        path = _counterpart(facts, paths, shown)
        if path and facts.leaf(path) != shown:
            leaves.add(shown)
            known = behind.get(path) or _not_reloaded(facts, path, shown)
            found.append(replace(known, places=(where,)))
        elif path in behind:
            found.append(replace(behind[path], places=(where,)))
    return Stale(tuple(found), frozenset(leaves))


def _behind(facts: Facts) -> dict[Path, Finding]:
    """Return the files that have an older certificate than their lineage."""
    served = [chain.files for chain in facts.chains if not chain.client]
    paths = {path for chain in served for path in chain}
    in_use = {path: leaf for path in paths if (leaf := facts.leaf(path))}
    newest = {name: leaf for name, leaf in facts.lineages.items() if leaf}
    found = copies.outdated(in_use, newest, facts.bundles)
    return {
        path: Finding(
            Code.STALE, str(path), each.message(facts.now), each.hint(facts.bundles)
        )
        for path, each in found.items()
    }


def _counterpart(facts: Facts, paths: list[Path], shown: Certificate) -> Path | None:
    """Return which of *paths* has *shown*, or else what should have been shown."""
    able = {path: leaf for path in paths if (leaf := facts.leaf(path))}
    same = [path for path in able if able[path] == shown]
    of_type = [path for path in able if able[path].key_type == shown.key_type]
    return next(iter([*same, *of_type, *able]), None)


def _not_reloaded(facts: Facts, path: Path, shown: Certificate) -> Finding:
    directory = facts.configuration.directory
    return Finding(
        Code.STALE,
        str(path),
        f"{path} has {facts.leaf(path)}, but {shown} is shown, which"
        f" {shown.expiry(facts.now)}: Postfix was not reloaded, or has a copy",
        f"postfix -c {directory} reload; for a database, postmap -F before",
    )
