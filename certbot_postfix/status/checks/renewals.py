"""Whether renewed certificates have reached Postfix, and will the next time.

Pure: facts in, findings out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.inbound import copies, renewal_settings
from certbot_postfix.status.facts import Facts
from certbot_postfix.status.findings import Code, Finding
from certbot_postfix.tls.certificates import UNKNOWN, Certificate


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
    problems = _problems(facts) if outdated else {}
    return {
        path: Finding(
            Code.STALE,
            str(path),
            copy.message(facts.now),
            _hint(facts, copy, problems.get(copy.lineage)),
            urgent=_expired(facts, copy.leaf),
        )
        for path, copy in outdated.items()
    }


def _expired(facts: Facts, leaf: Certificate) -> bool:
    return leaf.not_after != UNKNOWN and leaf.not_after <= facts.now


def _hint(facts: Facts, copy: copies.Outdated, problem: Error | None) -> str:
    later = f"; for the next renewals: {problem.hint}" if problem else ""
    return copy.hint(facts.bundles, facts.configuration.certbot_options) + later


def _problems(facts: Facts) -> dict[str, Error]:
    """Return why nothing deploys the renewals of lineages, by name."""
    if any(
        renewal_settings.runs_deploy(schedule.command) for schedule in facts.schedules
    ):
        return {}  # it is a hook on the command line, for all lineages
    gone = {name for name, leaf in facts.lineages.items() if not leaf}
    return {
        name: renewal_settings.missing(
            name, settings.path, facts.configuration.certbot_options
        )
        for name, settings in facts.renewals.items()
        if not settings.deployed and name not in gone
    }


def not_deployed(facts: Facts) -> Iterator[Finding]:
    """Yield the lineages whose next renewal will not reach Postfix."""
    for name, problem in _problems(facts).items():
        path = str(facts.renewals[name].path)
        yield Finding(Code.NOT_DEPLOYED, name, problem.message, problem.hint, (path,))


def other_certbots(facts: Facts) -> Iterator[Finding]:
    """Yield the schedules of a certbot that does not have this plugin."""
    if all(settings.hooked for settings in facts.renewals.values()):
        return  # a hook is run by every certbot
    for schedule in facts.schedules:
        if problem := schedule.problem:
            place = schedule.place
            yield Finding(
                Code.ANOTHER_CERTBOT, place, problem.message, problem.hint, (place,)
            )


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
        f"Postfix still presents {presented}, which {presented.expiry(facts.now)}, not"
        f" {facts.leaf(path)} in {path}: it was not reloaded, or reads a compiled copy",
        f"postfix -c {directory} reload; for a database, postmap -F first",
        urgent=_expired(facts, presented),
    )
