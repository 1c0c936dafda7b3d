"""What is in use although there is something newer: a renewal that did not get there.

Pure: facts in, findings out.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from certbot_postfix.status.evidence import Facts
from certbot_postfix.status.findings import Code, Finding
from certbot_postfix.tls.certificates import UNKNOWN, Certificate

# The lineages by the names and the type of key of their certificates.
Index = dict[tuple[frozenset[str], str], list[tuple[str, Certificate]]]


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
    index: Index = {}
    for name, leaf in facts.lineages.items():
        if leaf:
            index.setdefault((leaf.names, leaf.key_type), []).append((name, leaf))
    found: dict[Path, Finding] = {}
    for path in {
        path for chain in facts.chains if not chain.client for path in chain.files
    }:
        old, newer = facts.leaf(path), _newer(facts, path, index)
        if old and newer:
            found[path] = _not_deployed(facts, path, old, newer)
    return found


def _counterpart(facts: Facts, paths: list[Path], shown: Certificate) -> Path | None:
    """Return which of *paths* has *shown*, or else what should have been shown."""
    able = {path: leaf for path in paths if (leaf := facts.leaf(path))}
    same = [path for path in able if able[path] == shown]
    of_type = [path for path in able if able[path].key_type == shown.key_type]
    return next(iter([*same, *of_type, *able]), None)


def _newer(facts: Facts, path: Path, index: Index) -> tuple[str, Certificate] | None:
    """Return the lineage that has a newer certificate than *path*, if one has."""
    old, name = facts.leaf(path), facts.lineage(path)
    if old is None:
        return None
    if name:
        new = facts.lineages.get(name)
        newer = new is not None and new != old and new.not_before >= old.not_before
        return (name, new) if new and newer else None
    candidates = index.get((old.names, old.key_type), ())
    return next((each for each in candidates if _successor(old, each[1])), None)


def _successor(old: Certificate, new: Certificate) -> bool:
    """Whether *new* is what a copy of *old* should be a copy of."""
    return new.not_before > old.not_before and _issuer(old) == _issuer(new)


def _issuer(certificate: Certificate) -> str:
    """Return who issued it: an organisation has several authorities in turn."""
    parts = certificate.issuer.split(",")
    found = [part for part in parts if part.startswith("O=")]
    return found[0] if found else certificate.issuer


def _not_deployed(
    facts: Facts, path: Path, old: Certificate, newer: tuple[str, Certificate]
) -> Finding:
    name, new = newer
    message = (
        f"lineage {name} has the certificate {new}, but {path} still has {old}, which"
        f" {ends(old, facts.now)}: the renewal did not get there"
    )
    ours = path.parent == facts.bundles
    hint = (
        f"certbot-postfix deploy --cert-name {name}"
        if ours
        else f"certbot install -i postfix --cert-name {name}, in place of the copy"
    )
    return Finding(Code.STALE, str(path), message, hint)


def _not_reloaded(facts: Facts, path: Path, shown: Certificate) -> Finding:
    directory = facts.configuration.directory
    return Finding(
        Code.STALE,
        str(path),
        f"{path} has {facts.leaf(path)}, but {shown} is shown, which"
        f" {ends(shown, facts.now)}: Postfix was not reloaded, or has a copy",
        f"postfix -c {directory} reload; for a database, postmap -F before",
    )


def ends(certificate: Certificate, now: datetime) -> str:
    """Say when *certificate* ends, or ended."""
    if certificate.not_after == UNKNOWN:
        return "ends at a time that cannot be read"
    verb = "expired" if certificate.not_after <= now else "ends"
    return f"{verb} at {certificate.not_after:%Y-%m-%d %H:%M} UTC"
