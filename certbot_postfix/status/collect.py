"""Collects the facts about an instance: reads, connects, and changes nothing.

It ends at its deadline, whatever hangs, and works for any user: what that one may not
see is `Skipped`.  Raises `MisconfiguredError` or `ProgramError` if the configuration
cannot be read, or not in time.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.inbound import schedules
from certbot_postfix.postfix import instances, processes
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.services import endpoints
from certbot_postfix.status import read_dns, read_policies
from certbot_postfix.status.facts import Facts, Skipped
from certbot_postfix.status.probe_services import probe_services
from certbot_postfix.status.read_files import FileReader
from certbot_postfix.system.deadline import Deadline, LateError

# The part of the remaining time for reading files, at most.
_FOR_FILES = 0.5


def collect_facts(
    postfix: Postfix, bundles: Path, deadline: Deadline, root: Path = Path("/")
) -> Facts:
    """Return what can be known before the *deadline*; timers are those below *root*."""
    configuration = deadline.within(postfix.read, "read the configuration")
    facts = _of_files(configuration, bundles, deadline)
    if facts.renewals:
        facts = replace(facts, schedules=schedules.read(bundles.parent, root))
    notes = (*facts.notes, *_siblings(postfix, configuration, deadline))
    facts = replace(facts, notes=notes)
    policies = tuple(read_policies.read(postfix, configuration, bundles, deadline))
    hidden = (
        Skipped(policy.name, policy.fault) for policy in policies if policy.hidden
    )
    facts = replace(facts, policies=policies, skipped=(*facts.skipped, *hidden))
    try:
        without_dane = read_policies.without_dane(configuration, deadline)
        facts = replace(facts, without_dane=without_dane)
    except LateError:
        late = Skipped("whether DANE works", "no resolver answered in time")
        facts = replace(facts, skipped=(*facts.skipped, late))
    facts = _of_dns(facts, deadline)
    if elsewhere := processes.elsewhere(configuration):
        # Others would answer.
        return replace(facts, running=False, elsewhere=elsewhere)
    facts = replace(facts, running=processes.running(configuration))
    return probe_services(facts, deadline)


def _of_files(configuration: Configuration, bundles: Path, deadline: Deadline) -> Facts:
    reader = FileReader(configuration, bundles)
    skipped: list[Skipped] = []
    try:
        deadline.within(reader.read, "read the files", _FOR_FILES)
    except LateError:
        others = f"all but the {len(reader.files)} files that were read first"
        skipped.append(Skipped(others, "the time for them was over"))
    return Facts(
        configuration=configuration,
        now=datetime.now(timezone.utc),
        bundles=bundles,
        files=dict(reader.files),
        sni_maps=tuple(reader.sni_maps),
        lineages=dict(reader.lineages),
        unlinked=dict(reader.unlinked),
        renewals=dict(reader.renewals),
        issuances=dict(reader.issuances),
        tlsa=dict(reader.tlsa),
        staged=dict(reader.staged),
        replaced=dict(reader.replaced),
        roots=reader.roots,
        skipped=(*skipped, *reader.skipped),
        notes=tuple(_notes(configuration)),
    )


def _of_dns(facts: Facts, deadline: Deadline) -> Facts:
    try:
        relevant = read_dns.caa(facts.issuances, facts.lineages, deadline)
        policies = read_dns.policies(facts.bundles, deadline)
    except Error as error:  # resolv.conf cannot be read
        unseen = Skipped("what DNS says of this server", error.message)
        return replace(facts, skipped=(*facts.skipped, unseen))
    skipped = (*facts.skipped, *read_dns.skipped(relevant, policies))
    return replace(facts, caa=relevant, own_policies=tuple(policies), skipped=skipped)


def _siblings(
    postfix: Postfix, configuration: Configuration, deadline: Deadline
) -> Iterator[str]:
    try:
        siblings = deadline.within(
            lambda: instances.others(postfix, configuration),
            "find other instances",
            _FOR_FILES,
        )
    except LateError:
        siblings = []
    for sibling in siblings:
        yield (
            f"another instance was not checked: certbot-postfix --postfix-config-dir"
            f" {sibling.directory} status"
        )


def _notes(configuration: Configuration) -> Iterator[str]:
    _, left_out = endpoints(configuration)
    for note in left_out:
        if " has its own " not in note:
            yield note.replace("is not verified", "was not checked")
