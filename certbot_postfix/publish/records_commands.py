"""The command ``certbot-postfix records``: parse, call, print."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from certbot_postfix import options
from certbot_postfix.command_line import (
    ATTEND,
    Commands,
    confirm,
    declare_confirmation,
    require_root,
    say,
)
from certbot_postfix.errors import Error, enumerated, excerpt, shown
from certbot_postfix.formats import tlsrpt
from certbot_postfix.publish import changes, everywhere, publishers, records
from certbot_postfix.publish.changes import Change
from certbot_postfix.publish.look import Look
from certbot_postfix.publish.records import Row, Server, State
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.system.dns import Resolver
from certbot_postfix.system.hostnames import a_labels, is_host

# Seconds for all questions but those about TLSA records, which have their own.
_SECONDS = 20

# Seconds between two looks: secondaries have been notified, but are not at once there.
_PAUSE = 0.5

Find = Callable[[argparse.Namespace], Server]


def declare(commands: Commands, find: Find) -> None:
    """Declare the command; *find* gives what this server needs."""
    command = commands.add_parser(
        "records",
        help="compare DNS and the web with what a domain should publish",
        description="Print all that a domain with this server as MX should publish: MX,"
        " TLSA, MTA-STS, TLSRPT and CAA records, and the MTA-STS policy, beside what"
        " DNS and the web have now. With --publisher, show the changes that this takes,"
        " ask, and have them made; without it, nothing is changed. Exit status 3:"
        " something differs, or could not be looked up.",
    )
    command.add_argument("domain", metavar="DOMAIN", type=_domain, help="mail domain")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print them as JSON")
    form.add_argument(
        "--bind", action="store_true", help="print them as lines of a zone file"
    )
    command.add_argument(
        "--rua",
        metavar="ADDRESS",
        action="append",
        type=_reports,
        default=[],
        help="where senders report TLS failures, mailto:... or https:...; can be"
        " repeated (default: what is published, or the domain's postmaster)",
    )
    options.declare_publisher(
        lambda name, **about: form.add_argument(f"--{name}", **about), default=""
    )
    declare_confirmation(command)
    command.add_argument(
        "--verify-timeout",
        metavar="S",
        type=options.seconds,
        default=_SECONDS,
        help="seconds to wait until every name server has the changes; 0 skips"
        " verification (default: %(default)s)",
    )
    options.declare_dane(
        lambda name, **about: command.add_argument(f"--{name}", **about)
    )
    command.set_defaults(
        tlsa_ignore=False, command=lambda arguments: _records(arguments, find)
    )


def _domain(text: str) -> str:
    name = a_labels(text.lower().rstrip("."))
    if not is_host(name):
        raise argparse.ArgumentTypeError(f"{excerpt(text)} is not the name of a domain")
    return name


def _reports(text: str) -> str:
    try:
        return tlsrpt.uri(text)
    except Error as error:
        raise argparse.ArgumentTypeError(error.message) from None


def _records(arguments: argparse.Namespace, find: Find) -> int:
    require_root()
    server = find(arguments)
    names = [name for name, issuance in server.issuances if issuance.issuer]
    look = Look(Deadline(_SECONDS), arguments.dane_resolver)
    seen = look.at(arguments.domain, names)
    rows = list(records.rows(seen, server, arguments.rua))
    if arguments.publisher:
        return _publish(rows, arguments)
    if arguments.json:
        values = [_values(row) for row in rows]
        document = {"version": 1, "domain": arguments.domain, "records": values}
        print(json.dumps(document, indent=2))
    else:
        for line in _lines(rows) if arguments.bind else _table(rows):
            print(shown(line, sys.stdout))
    return 0 if {row.state for row in rows} <= {State.OK} else ATTEND


def _publish(rows: Sequence[Row], arguments: argparse.Namespace) -> int:
    publisher = publishers.load(arguments.publisher)
    for row in rows:
        if row.state is not State.OK and (why := changes.withheld(row, rows)):
            say(f"{row.name} {row.kind} is not published: {why}")
    every = list(changes.changes(rows))
    if every and not publisher.by_hand:
        for change in every:
            print(shown(str(change), sys.stdout), flush=True)
        confirm(f"Have {publisher.label} make these changes?", arguments)
    for change in every:
        change.apply(publisher)
    if not every:
        say("there is nothing to publish")
    elif not publisher.by_hand and _verified(every, arguments):
        changed = {(change.record.name, change.record.type) for change in every}
        rows = [row for row in rows if (row.name, row.kind) not in changed]
    return 0 if {row.state for row in rows} <= {State.OK} else ATTEND


def _verified(every: Sequence[Change], arguments: argparse.Namespace) -> bool:
    """Wait until every name server has made the changes, and say so."""
    if not arguments.verify_timeout:
        say(f"not verified; check with certbot-postfix records {arguments.domain}")
        return False
    resolver = Resolver([arguments.dane_resolver] if arguments.dane_resolver else [])
    deadline = Deadline(arguments.verify_timeout)
    while late := everywhere.late(every, resolver):
        if not deadline.left:
            say(f"these name servers do not have all the changes: {enumerated(late)}")
            return False
        time.sleep(min(_PAUSE, deadline.left))
    say(
        "verified: every name server has the changes; caches may keep the old records"
        " until their TTL is over"
    )
    return True


def _values(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "type": row.kind,
        "state": row.state.value,
        "wanted": row.wanted,
        "published": row.published,
        "remark": row.remark,
    }


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    yield from dict.fromkeys(str(record) for row in rows for record in row.records)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        yield f"{row.name} {row.kind}: {row.state.value}"
        if row.state is not State.OK:
            yield from (f"  wanted     {value}" for value in row.wanted)
        yield from (f"  published  {value}" for value in row.published)
        if row.remark:
            yield f"  {row.remark}"
