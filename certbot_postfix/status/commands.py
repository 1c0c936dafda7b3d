"""The command ``certbot-postfix status``: parse, call, print."""

import argparse
import os
import sys

from certbot.plugins import util as plugin_util

from certbot_postfix import options
from certbot_postfix.command_line import ATTEND, CERTBOT, Commands
from certbot_postfix.inbound import bundles as places
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.status import collect, monitoring, report, terminal
from certbot_postfix.system.deadline import Deadline

# Seconds for `status`, all in all.
STATUS = 20


def declare(commands: Commands) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "status",
        help="check the certificate of every service and server name",
        description="Check the certificate of every service and server name."
        " Read-only; works for any user. Exit status 3: there is a finding.",
    )
    form = command.add_mutually_exclusive_group()
    for name, render in (
        ("json", monitoring.as_json),
        ("prometheus", monitoring.as_prometheus),
    ):
        form.add_argument(
            f"--{name}",
            dest="render",
            action="store_const",
            const=render,
            help=f"print {'JSON' if name == 'json' else 'metrics for Prometheus'}",
        )
    command.add_argument(
        "--timeout",
        metavar="S",
        type=_some_seconds,
        default=STATUS,
        help="give up after this many seconds (default: %(default)s)",
    )
    command.set_defaults(command=_status, render=_table)


def _some_seconds(text: str) -> float:
    """Return the number of seconds that a *text* of the command line means, not 0."""
    if value := options.seconds(text):
        return value
    raise argparse.ArgumentTypeError("0 seconds are too few to check anything")


def _status(arguments: argparse.Namespace) -> int:
    deadline = Deadline(arguments.timeout)
    plugin_util.path_surgery("postconf")
    postfix = deadline.within(
        lambda: Postfix.find(
            arguments.postfix_config_dir, postconf="postconf", postfix="postfix"
        ),
        "find Postfix",
    )
    bundles = places.below(arguments.config_dir or CERTBOT)
    found = report.make(collect.collect_facts(postfix, bundles, deadline))
    text = arguments.render(found)
    encoding = sys.stdout.encoding or "ascii"  # the colours are ours
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")
    return ATTEND if found.findings else 0


def _table(found: report.Report) -> str:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return terminal.as_table(found, colour=colour)
