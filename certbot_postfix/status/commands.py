"""The command ``certbot-postfix status``: parse, call, print."""

import argparse
import logging
import os
import sys
from collections.abc import Callable

from certbot.plugins import util as plugin_util

from certbot_postfix import options
from certbot_postfix.command_line import ATTEND, CERTBOT, Commands
from certbot_postfix.errors import Error
from certbot_postfix.inbound import bundles as places
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.status import (
    checkpoints,
    collect,
    monitoring,
    nagios,
    report,
    terminal,
)
from certbot_postfix.system.deadline import Deadline

# Seconds for `status`, all in all.
STATUS = 20


def declare(commands: Commands) -> None:
    """Declare the commands."""
    checkpoints.declare(commands)
    command = commands.add_parser(
        "status",
        help="check the certificate of every service and server name",
        description="Check the certificate of every service and server name."
        " Read-only; works for any user. Exit status 3: there is a finding.",
    )
    form = command.add_mutually_exclusive_group()
    for name, run, what in (
        ("json", _printing(monitoring.as_json), "print JSON"),
        ("prometheus", _printing(monitoring.as_prometheus), "print metrics"),
        ("check", _check, "act as a Nagios plugin: one line, exit status 0 to 3"),
    ):
        form.add_argument(
            f"--{name}", dest="command", action="store_const", const=run, help=what
        )
    command.add_argument(
        "--timeout",
        metavar="S",
        type=_some_seconds,
        default=STATUS,
        help="give up after this many seconds (default: %(default)s)",
    )
    command.set_defaults(command=_printing(_table))


def _some_seconds(text: str) -> float:
    """Return the number of seconds that a *text* of the command line means, not 0."""
    if value := options.seconds(text):
        return value
    raise argparse.ArgumentTypeError("0 seconds are too few to check anything")


def _printing(
    render: Callable[[report.Report], str],
) -> Callable[[argparse.Namespace], int]:
    """Return the command that prints what *render* makes of the report."""

    def status(arguments: argparse.Namespace) -> int:
        result = _report(arguments)
        _print(render(result))
        return ATTEND if result.findings else 0

    return status


def _check(arguments: argparse.Namespace) -> int:
    """Print one line, whatever happens: plugins have no other output."""
    package = logging.getLogger("certbot_postfix")
    level = package.level
    package.setLevel(logging.CRITICAL)
    try:
        line, status = nagios.as_check(_report(arguments))
    except Error as error:
        line, status = nagios.as_failure(error.message)
    finally:
        package.setLevel(level)
    _print(line)
    return status


def _report(arguments: argparse.Namespace) -> report.Report:
    deadline = Deadline(arguments.timeout)
    plugin_util.path_surgery("postconf")
    postfix = deadline.within(
        lambda: Postfix.find(
            arguments.postfix_config_dir, postconf="postconf", postfix="postfix"
        ),
        "find Postfix",
    )
    bundles = places.below(arguments.config_dir or CERTBOT)
    return report.make(collect.collect_facts(postfix, bundles, deadline))


def _print(text: str) -> None:
    encoding = sys.stdout.encoding or "ascii"  # the colours are ours
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")


def _table(result: report.Report) -> str:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return terminal.as_table(result, colour=colour)
