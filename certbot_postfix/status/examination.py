"""Collects the facts about an instance: reads, asks, and changes nothing.

It ends at its deadline, whatever hangs, and works for any user: what that one may not
see is told.  Raises `MisconfiguredError` or `ProgramError` if the configuration cannot
be read, or not in time.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from certbot_postfix.postfix.configuration import Configuration, endpoints
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.status import outgoing
from certbot_postfix.status.evidence import Facts, Unseen
from certbot_postfix.status.inspection import Inspection
from certbot_postfix.status.interview import Interview
from certbot_postfix.system import files
from certbot_postfix.system.deadline import Deadline, LateError

# The part of the time that is left when files are read, at most.
_FOR_FILES = 0.5


def examine(postfix: Postfix, bundles: Path, deadline: Deadline) -> Facts:
    """Return what there is to know before the *deadline*."""
    configuration = deadline.within(postfix.read, "read the configuration")
    found = Inspection(configuration, bundles)
    unseen: list[Unseen] = []
    try:
        deadline.within(found.look, "read the files", _FOR_FILES)
    except LateError:
        told = f"all but the {len(found.files)} files that were read first"
        unseen.append(Unseen(told, "the time for them was over"))
    facts = Facts(
        configuration=configuration,
        now=datetime.now(timezone.utc),
        bundles=bundles,
        files=dict(found.files),
        tables=tuple(found.tables),
        lineages=dict(found.lineages),
        unlinked=dict(found.unlinked),
        roots=found.roots,
        unseen=(*unseen, *found.unseen),
        notes=tuple(_notes(configuration)),
    )
    asked = tuple(outgoing.look(postfix, configuration, bundles, deadline))
    hidden = (Unseen(each.name, each.fault) for each in asked if each.hidden)
    facts = replace(facts, policies=asked, unseen=(*facts.unseen, *hidden))
    try:
        facts = replace(facts, without_dane=outgoing.dane(configuration, deadline))
    except LateError:
        late = Unseen("whether DANE works", "no resolver answered in time")
        facts = replace(facts, unseen=(*facts.unseen, late))
    if there := postfix.elsewhere(configuration):
        return replace(facts, running=False, elsewhere=there)  # others would answer
    running = _running(configuration)
    return Interview(replace(facts, running=running), deadline).facts()


# Bytes that a number of a process has at most, and more.
_MOST = 64


def _running(configuration: Configuration) -> bool | None:
    """Whether the master process runs, None if this user cannot know.

    postfix(1) would tell root alone.
    """
    file = Path(configuration.value("queue_directory"), "pid", "master.pid")
    try:
        with files.opened(file) as content:
            process = int(content.read(_MOST))
        with suppress(PermissionError):  # it exists, and is another user's
            os.kill(process, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except (OSError, ValueError):
        return None
    try:
        told = Path("/proc", str(process), "stat").read_text()
    except OSError:  # not Linux
        return True
    # proc(5): number, (program), state, ...; Z and X are dead
    name, _, state = told.partition("(")[2].rpartition(")")
    return name == "master" and state.split()[0] not in "ZX"


def _notes(configuration: Configuration) -> Iterator[str]:
    _, left_out = endpoints(configuration)
    for note in left_out:
        if " has its own " not in note:
            yield note.replace("is not proven", "was not asked")
