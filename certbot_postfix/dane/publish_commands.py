"""The commands ``certbot-postfix tlsa publish`` and ``withdraw``: parse, call, print.

No publisher is believed: afterwards, every authoritative server is asked.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from certbot_postfix import options
from certbot_postfix.command_line import (
    ATTEND,
    Commands,
    can_ask,
    confirm,
    declare_confirmation,
    require_root,
    say,
)
from certbot_postfix.dane import changes, gate, places, report, staged, store
from certbot_postfix.dane.changes import Kept, Removal
from certbot_postfix.dane.commands import Find, declare_settings, settings
from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.judge import Candidate
from certbot_postfix.dane.rollover import State
from certbot_postfix.errors import Error, enumerated, shown
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.publish import publishers
from certbot_postfix.system import files
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.tls import certificates
from certbot_postfix.tls.certificates import Certificate

Work = Callable[[argparse.Namespace, Find], int]
Bundles = Callable[[argparse.Namespace], Path]

# Seconds between two looks: secondaries have been notified, but are not at once there.
_PAUSE = 0.5


def declare(verbs: Commands, find: Find, bundles: Bundles) -> None:
    """Declare the commands among the *verbs* of ``tlsa``.

    *find* gives what the instance serves, *bundles* where those of all instances are.
    """
    publish = verbs.add_parser(
        "publish",
        help="publish the TLSA records that the endpoints lack",
        description="Publish the TLSA records that `tlsa show` calls missing, beside"
        " those that exist, and wait until every name server has them. A host without"
        " TLSA records begins with DANE at port 25. Exit status 3: something is left to"
        " do.",
    )
    _declare(publish, _publish, find)
    withdraw = verbs.add_parser(
        "withdraw",
        help="remove the TLSA records of former keys of this server",
        description="Remove the TLSA records of former keys of this server, once"
        " nothing that is served or staged has needed them for two TTLs. Records of"
        " others are left unchanged. Exit status 3: something is left to do.",
    )
    withdraw.add_argument(
        "--now",
        action="store_true",
        help="for a key that leaked: remove its record as soon as every name server"
        " announces the key in service",
    )
    _declare(withdraw, _withdraw, find)
    withdraw.set_defaults(bundles=bundles)


def _declare(command: argparse.ArgumentParser, work: Work, find: Find) -> None:
    def add(name: str, **about: Any) -> None:
        command.add_argument(f"--{name}", **about)

    declare_settings(command)
    options.declare_publisher(add)
    declare_confirmation(command)
    command.add_argument(
        "--verify-timeout",
        metavar="S",
        type=options.seconds,
        default=20,
        help="seconds to wait until every name server has the change; 0 skips"
        " verification (default: %(default)s)",
    )
    command.set_defaults(command=lambda arguments: work(arguments, find))


def _look(
    arguments: argparse.Namespace, find: Find
) -> list[tuple[Candidate, list[Endpoint]]]:
    now, wanted = datetime.now(timezone.utc), settings(arguments)
    return [
        (candidate, gate.look(candidate, wanted, now)) for candidate in find(arguments)
    ]


def _publish(arguments: argparse.Namespace, find: Find) -> int:
    require_root()
    publisher = publishers.load(arguments.publisher)
    endpoints = _endpoints(arguments, find)
    lacking = _lacking(endpoints)
    blocked = list(dict.fromkeys(filter(None, map(_obstacle, endpoints))))
    for line in blocked:
        say(line)
    if not lacking:
        if not blocked:
            say("every name server has the records of this host")
        return ATTEND if blocked else 0
    if publisher.by_hand:
        say("publish these records, in addition to the existing ones:")
        for record in lacking:
            publisher.add(record)
        return ATTEND
    _show("+", lacking)
    confirm("Publish these records?", arguments)
    for record in lacking:
        publisher.add(record)
    done = _verified(arguments, find, lacking, there=True)
    if not done and (lost := _lacking(_endpoints(arguments, find))):
        say(
            "the records have changed meanwhile, and these are missing:"
            f" {enumerated(map(str, lost))}\nHint: run this command again"
        )
        return ATTEND
    return ATTEND if blocked else done


def _endpoints(arguments: argparse.Namespace, find: Find) -> list[Endpoint]:
    return [endpoint for _, every in _look(arguments, find) for endpoint in every]


def _lacking(endpoints: Iterable[Endpoint]) -> list[ResourceRecord]:
    """Return the records that *endpoints* lack, each of them once."""
    additions = (record for it in endpoints for record in changes.additions(it))
    return list(dict.fromkeys(additions))


def _obstacle(endpoint: Endpoint) -> str:
    """Return why nothing can be published at *endpoint*, which is to have records."""
    state = endpoint.decision.state
    none = state is State.NONE and not list(changes.additions(endpoint))
    notable = report.notable(endpoint) and endpoint.facts.ours
    if notable and (none or state is State.UNKNOWN):
        return f"{endpoint.facts.observation.owner}: {report.following(endpoint)}"
    return ""


def _withdraw(arguments: argparse.Namespace, find: Find) -> int:
    require_root()
    publisher = publishers.load(arguments.publisher)
    every = dict.fromkeys(_superfluous(arguments, find))
    for change in every:
        if isinstance(change, Kept):
            say(f"not removed: {change.record} ({change.reason})")
    removals = [change for change in every if isinstance(change, Removal)]
    if not removals:
        if not every:
            say("there is no record of a former key to remove")
        return ATTEND if every else 0
    if publisher.by_hand:
        say("remove these records:")
    else:
        removals = _confirmed(removals, arguments, find)
    for removal in removals:
        publisher.remove(removal.record, removal.observed)
    if publisher.by_hand or not removals:
        return ATTEND
    removed = [removal.record for removal in removals]
    done = _verified(arguments, find, removed, there=False)
    return ATTEND if len(removals) < len(every) else done


def _confirmed(
    removals: Sequence[Removal], arguments: argparse.Namespace, find: Find
) -> list[Removal]:
    """Ask, and return what is still to be removed: a key may be in service again."""
    _show("-", [removal.record for removal in removals])
    confirm("Remove these records?", arguments)
    still = {*_superfluous(arguments, find)} if can_ask(arguments) else {*removals}
    for removal in removals:
        if removal not in still:
            say(
                f"not removed: {removal.record}: it is needed again, or DNS has changed"
            )
    return [removal for removal in removals if removal in still]


def _superfluous(arguments: argparse.Namespace, find: Find) -> Iterator[Removal | Kept]:
    """Yield the records of former keys."""
    now, floor = datetime.now(timezone.utc), settings(arguments).floor
    for candidate, endpoints in _look(arguments, find):
        keys = store.load(candidate.bundle).keys
        others = needed(arguments.bundles(arguments))
        ours = changes.ours(keys, others, at_once=arguments.now)
        for endpoint in endpoints:
            yield from changes.removals(endpoint, ours, now, floor)


def needed(root: Path) -> set[Record]:
    """Return the records of all keys below *root*, also of other instances.

    They are those in bundles, those that are staged, and those that certbot has renewed
    for: a renewal that is held waits for its record.
    """
    found = set()
    for path in (*root.glob("*.pem"), *root.glob("*/*.pem")):
        if chain := Certificate.all_from_pem(files.read(path)):
            found.add(Record.of_key(chain[0].spki))
    for path in root.glob(f"*{places.NEXT_KEY}"):
        if key := staged.load(root, path.name.removesuffix(places.NEXT_KEY)):
            found.add(key.record)
    return found | _renewed(root.parent / "live")


def _renewed(live: Path) -> set[Record]:
    found = set()
    for path in live.glob("*/fullchain.pem"):
        # What cannot be read cannot be put into service, either.
        with contextlib.suppress(Error):
            if leaf := certificates.leaf(files.read(path)):
                found.add(Record.of_key(leaf.spki))
    return found


def _show(sign: str, records: Iterable[ResourceRecord]) -> None:
    for record in records:
        print(shown(f"{sign} {record}", sys.stdout))


def _verified(
    arguments: argparse.Namespace,
    find: Find,
    records: Iterable[ResourceRecord],
    *,
    there: bool,
) -> int:
    """Wait until every server has *records*, or none has; return the exit status."""
    if not arguments.verify_timeout:
        say("not verified; check with certbot-postfix tlsa show")
        return ATTEND
    deadline = Deadline(arguments.verify_timeout)
    while late := _unlike(arguments, find, records, there=there):
        if not deadline.left:
            what = "lack the new records" if there else "have the old records"
            say(
                f"these name servers still {what}: {enumerated(late)}"
                "\nHint: certbot-postfix tlsa show lists what each server has"
            )
            return ATTEND
        time.sleep(min(_PAUSE, deadline.left))
    say(f"verified: {'every' if there else 'no'} name server has them")
    return 0


def _unlike(
    arguments: argparse.Namespace,
    find: Find,
    records: Iterable[ResourceRecord],
    *,
    there: bool,
) -> list[str]:
    endpoints = _endpoints(arguments, find)
    return list(
        dict.fromkeys(
            server
            for record in records
            for server in changes.unlike(record, endpoints, there=there)
        )
    )
