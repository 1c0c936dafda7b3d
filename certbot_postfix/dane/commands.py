"""The commands ``certbot-postfix tlsa ...``: parse, call, print."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from typing import Any

from certbot_postfix import options
from certbot_postfix.command_line import ATTEND, Commands, require_root
from certbot_postfix.dane import gate, report
from certbot_postfix.dane.gate import Settings
from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.judge import Candidate
from certbot_postfix.dane.rollover import State
from certbot_postfix.errors import shown

Find = Callable[[argparse.Namespace], Iterable[Candidate]]

# The states in which nobody has to do anything.
_WELL = (State.NONE, State.FOREIGN, State.STEADY)


def declare(commands: Commands, find: Find) -> Commands:
    """Declare the commands; *find* gives what the instance serves, or may serve.

    Returns where further ones are added.
    """
    verbs = commands.add_parser(
        "tlsa",
        help="show and publish TLSA records (DANE); change keys",
        description="TLSA records (DANE) of the certificates that Postfix serves.",
    ).add_commands("VERB")
    show = verbs.add_parser(
        "show",
        help="show the TLSA records of each endpoint, and what to do next",
        description="Show the TLSA records that should exist, which name server has"
        " them, and what to do next. Every authoritative server is queried. Exit status"
        " 3: an endpoint needs attention.",
    )
    form = show.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print them as JSON")
    form.add_argument(
        "--bind", action="store_true", help="print them as lines of a zone file"
    )
    declare_settings(show)
    show.set_defaults(command=lambda arguments: _show(arguments, find))
    return verbs


def declare_settings(command: Any, *, ignore: bool = False) -> None:
    """Declare what the installer's options say of DANE, for a *command*."""

    def add(name: str, **about: Any) -> None:
        command.add_argument(f"--{name}", **about)

    command.set_defaults(tlsa_ignore=False)
    options.declare_dane(add)
    if ignore:
        options.declare_ignore(add)


def settings(arguments: argparse.Namespace) -> Settings:
    """Return what *arguments* say of DANE."""
    return Settings.of(lambda name: getattr(arguments, name.replace("-", "_")))


def _show(arguments: argparse.Namespace, find: Find) -> int:
    require_root()
    now = datetime.now(timezone.utc)
    wanted = settings(arguments)
    every: list[tuple[str, list[Endpoint]]] = []
    for candidate in find(arguments):
        endpoints = gate.look(candidate, wanted, now)
        notable = [endpoint for endpoint in endpoints if report.notable(endpoint)]
        every.append((candidate.name, notable))
    if arguments.json:
        values = [
            {"certificate": name, **report.as_values(endpoint)}
            for name, endpoints in every
            for endpoint in endpoints
        ]
        print(json.dumps({"version": 1, "endpoints": values}, indent=2))
    else:
        for line in dict.fromkeys(_bind(every)) if arguments.bind else _table(every):
            print(shown(line, sys.stdout))
        if not any(endpoints for _, endpoints in every):
            print("no certificate is in service for a host in DNS", file=sys.stderr)
    states = {
        endpoint.decision.state for _, endpoints in every for endpoint in endpoints
    }
    return 0 if states <= {*_WELL} else ATTEND


def _bind(every: list[tuple[str, list[Endpoint]]]) -> Iterator[str]:
    for _, endpoints in every:
        yield from report.as_lines(endpoints)


def _table(every: list[tuple[str, list[Endpoint]]]) -> Iterator[str]:
    for name, endpoints in every:
        yield from report.as_text(endpoints, name if len(every) > 1 else "")
