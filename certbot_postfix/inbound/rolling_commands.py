"""The commands ``certbot-postfix tlsa stage`` and its kin: parse, call, print."""

import argparse
from collections.abc import Callable
from typing import Any

from certbot_postfix import options
from certbot_postfix.command_line import (
    Commands,
    declare_timeout,
    require_root,
    say,
)
from certbot_postfix.dane import commands as dane
from certbot_postfix.errors import Error, enumerated
from certbot_postfix.inbound.commands import declare_name, known_lineage, session
from certbot_postfix.inbound.rolling import Means, Roll
from certbot_postfix.inbound.session import Deployment
from certbot_postfix.publish import publishers


def declare(verbs: Commands) -> None:
    """Declare the commands among the *verbs* of ``tlsa``."""
    stage = verbs.add_parser(
        "stage",
        help="make the next key of a certificate, and publish its records",
        description="Make the next key of a certificate, of the same kind, and publish"
        " its TLSA records beside those that exist, or print them. It is put into"
        " service when all caches have them: see `tlsa switch`. A key that is staged"
        " already stays.",
    )
    _declare(stage, lambda roll, _: roll.stage())
    switch = verbs.add_parser(
        "switch",
        help="put the next key of a certificate into service",
        description="Have certbot obtain a certificate for the key that `tlsa stage`"
        " made, and put it into service, once no cache can lack its TLSA records. If"
        " that fails, the key in service stays.",
    )
    switch.add_argument(
        "--now",
        action="store_true",
        help="as soon as every name server has the records, for a key that leaked",
    )
    _declare(switch, lambda roll, arguments: roll.switch(at_once=arguments.now))
    _declare_certbot(switch)
    abandon = verbs.add_parser(
        "abandon",
        help="remove the next key of a certificate",
        description="Remove the key that `tlsa stage` made, and withdraw its TLSA"
        " records, or print them. If a renewal is held, have certbot renew for the key"
        " in service instead.",
    )
    _declare(abandon, lambda roll, _: roll.abandon())
    _declare_certbot(abandon)


def _declare(
    command: argparse.ArgumentParser, work: Callable[[Roll, argparse.Namespace], None]
) -> None:
    def add(name: str, **about: Any) -> None:
        command.add_argument(f"--{name}", **about)

    def run(arguments: argparse.Namespace) -> int:
        work(_roll(arguments), arguments)
        return 0

    declare_name(command, " (default: the one that Postfix uses, if it is one)")
    dane.declare_settings(command)
    options.declare_publisher(add)
    command.set_defaults(command=run, verify_timeout=20, work_dir="", logs_dir="")


def _declare_certbot(command: argparse.ArgumentParser) -> None:
    """Declare what a command needs that has certbot renew."""
    declare_timeout(command)
    for name in ("work-dir", "logs-dir"):
        command.add_argument(
            f"--{name}",
            metavar="DIR",
            type=options.path,
            default="",
            help="certbot's option of that name",
        )


def _roll(arguments: argparse.Namespace) -> Roll:
    require_root()
    deployment = session(arguments, timeout=arguments.verify_timeout)
    deployment.gate.settings = dane.settings(arguments)
    name = arguments.cert_name or _only(deployment)
    lineage = known_lineage(deployment, name)
    deployment.lock(patiently=True)
    deployment.remove_leftovers()
    directories = {
        "--config-dir": str(deployment.bundles.parent),
        "--work-dir": arguments.work_dir,
        "--logs-dir": arguments.logs_dir,
    }
    words = [word for each in directories.items() if each[1] for word in each]
    publisher = publishers.load(arguments.tlsa_publisher)
    return Roll(deployment, lineage, Means(publisher, words, say))


def _only(deployment: Deployment) -> str:
    names = sorted({path.stem for path in deployment.server.read().deployed})
    if len(names) == 1:
        return names[0]
    raise Error(
        f"Postfix uses {len(names) or 'no'} certificates of certbot's",
        hint=f"--cert-name names one of {enumerated(names, most=20)}" if names else "",
    )
