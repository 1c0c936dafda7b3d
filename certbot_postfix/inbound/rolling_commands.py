"""The commands ``certbot-postfix tlsa stage`` and its kin: parse, call, print."""

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from certbot_postfix.command_line import Commands, require_root, say
from certbot_postfix.dane import commands as dane
from certbot_postfix.dane.records import Published
from certbot_postfix.errors import Error, enumerated, shown
from certbot_postfix.inbound.commands import declare_name, known_lineage, session
from certbot_postfix.inbound.rolling import Roll
from certbot_postfix.inbound.session import Deployment


def declare(verbs: Commands) -> None:
    """Declare the commands among the *verbs* of ``tlsa``."""
    stage = verbs.add_parser(
        "stage",
        help="make the next key of a certificate, and print its records",
        description="Make the next key of a certificate, of the same kind, and print"
        " the TLSA records to publish beside those that exist. It is put into service"
        " when all caches have them: see `tlsa switch`. A key that is staged already"
        " stays.",
    )
    _declare(stage, _stage)
    abandon = verbs.add_parser(
        "abandon",
        help="remove the next key of a certificate",
        description="Remove the key that `tlsa stage` made, and print its TLSA records,"
        " which are to be withdrawn.",
    )
    _declare(abandon, _abandon)


def _declare(command: argparse.ArgumentParser, run: Any) -> None:
    declare_name(command, " (default: the one that Postfix uses, if it is one)")
    dane.declare_settings(command)
    command.set_defaults(command=run)


def _roll(arguments: argparse.Namespace) -> Roll:
    require_root()
    deployment = session(arguments)
    deployment.gate.settings = dane.settings(arguments)
    name = arguments.cert_name or _only(deployment)
    lineage = known_lineage(deployment, name)
    deployment.lock(patiently=True)
    deployment.remove_leftovers()
    return Roll(deployment, lineage)


def _only(deployment: Deployment) -> str:
    names = sorted({path.stem for path in deployment.server.read().deployed})
    if len(names) == 1:
        return names[0]
    raise Error(
        f"Postfix uses {len(names) or 'no'} certificates of certbot's",
        hint=f"--cert-name names one of {enumerated(names, most=20)}" if names else "",
    )


def _stage(arguments: argparse.Namespace) -> int:
    roll = _roll(arguments)
    missing = roll.stage()
    if missing:
        say(f"the next key of {roll.name} is staged; publish, beside what exists:")
        _print(missing)
    else:
        say(f"the next key of {roll.name} is staged, and every server announces it")
    return 0


def _abandon(arguments: argparse.Namespace) -> int:
    roll = _roll(arguments)
    superfluous = roll.abandon()
    if superfluous:
        say(f"the next key of {roll.name} is removed; withdraw:")
        _print(superfluous)
    else:
        say(f"the next key of {roll.name} is removed")
    return 0


def _print(lines: Iterable[Published]) -> None:
    for line in lines:
        print(shown(str(line), sys.stdout))
