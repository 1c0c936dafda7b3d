"""Whether renewed certificates have reached Postfix.

Pure: facts in, findings out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from certbot_postfix.inbound import copies
from certbot_postfix.status.facts import Facts
from certbot_postfix.status.findings import Code, Finding
from certbot_postfix.tls.certificates import Certificate


@dataclass(frozen=True, slots=True)
class Stale:
    """The *findings*, and the *leaves* in use that have a newer one."""

    findings: tuple[Finding, ...]
    leaves: frozenset[Certificate]


def check(facts: Facts) -> Stale:
    """Return what is older than certbot's newest, or than the file that has it."""
    behind = _behind(facts)
    findings = list(behind.values())
    leaves = {leaf for path in behind if (leaf := facts.leaf(path))}
    for handshake in facts.handshakes:
        paths, leaf = handshake.files, handshake.leaf
        # All must be known, to be sure that what is presented is none of them.
        if not leaf or not paths or any(map(facts.hidden, paths)):
            continue
        places = (handshake.endpoint.service,)
        path = _counterpart(facts, paths, leaf)
        if path and facts.leaf(path) != leaf:
            leaves.add(leaf)
            finding = behind.get(path) or _not_reloaded(facts, path, leaf)
            findings.append(replace(finding, places=places))
        elif path in behind:
            findings.append(replace(behind[path], places=places))
    return Stale(tuple(findings), frozenset(leaves))


def _behind(facts: Facts) -> dict[Path, Finding]:
    """Return the files that have an older certificate than their lineage."""
    served = [chain.files for chain in facts.chains if not chain.client]
    paths = {path for chain in served for path in chain}
    in_use = {path: leaf for path in paths if (leaf := facts.leaf(path))}
    newest = {name: leaf for name, leaf in facts.lineages.items() if leaf}
    outdated = copies.outdated(in_use, newest, facts.bundles)
    return {
        path: Finding(
            Code.STALE, str(path), each.message(facts.now), each.hint(facts.bundles)
        )
        for path, each in outdated.items()
    }


def _counterpart(
    facts: Facts, paths: Iterable[Path], presented: Certificate
) -> Path | None:
    """Return which of *paths* has *presented*, or what should have been presented."""
    leaves = {path: leaf for path in paths if (leaf := facts.leaf(path))}
    same = [path for path in leaves if leaves[path] == presented]
    of_type = [path for path in leaves if leaves[path].key_type == presented.key_type]
    return next(iter([*same, *of_type, *leaves]), None)


def _not_reloaded(facts: Facts, path: Path, presented: Certificate) -> Finding:
    directory = facts.configuration.directory
    return Finding(
        Code.STALE,
        str(path),
        f"{path} has {facts.leaf(path)}, but {presented} is presented, which"
        f" {presented.expiry(facts.now)}: Postfix was not reloaded, or reads a compiled"
        " copy",
        f"postfix -c {directory} reload; for a database, postmap -F before",
    )
