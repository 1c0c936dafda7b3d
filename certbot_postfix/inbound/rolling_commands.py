"""The commands ``certbot-postfix tlsa stage`` and its kin: parse, call, print."""

import argparse
import sys
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
from certbot_postfix.dane.steps import Rolling
from certbot_postfix.errors import Error, enumerated
from certbot_postfix.inbound import key_swap
from certbot_postfix.inbound.commands import declare_name, known_lineage, session
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.rolling import Means, Roll
from certbot_postfix.inbound.session import Deployment
from certbot_postfix.publish import publishers

# What the command has of certbot's options for Postfix.
_PASSED = (
    "dane-resolver",
    "tlsa-min-ttl",
    "tlsa-roll",
    "tlsa-roll-every",
    "verify-timeout",
)


def declare(verbs: Commands) -> None:
    """Declare the commands among the *verbs* of ``tlsa``."""
    stage = verbs.add_parser(
        "stage",
        help="make the next key of a certificate, and publish its records",
        description="Make the next key of a certificate, of the same kind, and publish"
        " its TLSA records in addition to the existing ones, or print them. `tlsa"
        " switch` puts it into service later. A key that is staged already is kept.",
    )
    _declare(stage, lambda roll, _: roll.stage())
    switch = verbs.add_parser(
        "switch",
        help="put the next key of a certificate into service",
        description="Have certbot obtain a certificate for the key that `tlsa stage`"
        " made, and put it into service. Refused until every name server has its TLSA"
        " records and cached copies of the older ones have expired. If it fails, the"
        " key in service is left unchanged.",
    )
    switch.add_argument(
        "--now",
        action="store_true",
        help="for a key that leaked: wait for every name server, but not for caches",
    )
    _declare(switch, lambda roll, arguments: roll.switch(at_once=arguments.now))
    _declare_certbot(switch)
    abandon = verbs.add_parser(
        "abandon",
        help="remove the next key of a certificate, or give up a renewal that is held",
        description="Remove the key that `tlsa stage` made, and withdraw its TLSA"
        " records, or print them. If a renewal is held, have certbot renew for the key"
        " in service instead.",
    )
    _declare(abandon, lambda roll, _: roll.abandon())
    _declare_certbot(abandon)
    _declare_advance(verbs)


def _declare_advance(verbs: Commands) -> None:
    advance = verbs.add_parser(
        "advance",
        help="take the next step of changing a key, if one is due",
        description="Take the next step of changing a key that TLSA records announce:"
        " publish records, stage and switch (with --tlsa-roll auto), or withdraw"
        " records of former keys. If a renewal is held for too long, have certbot renew"
        " for the key in service. `certbot renew` runs this where something may be"
        " due.",
    )

    def add(name: str, **about: Any) -> None:
        advance.add_argument(f"--{name}", **about)

    _declare(advance, lambda roll, arguments: roll.advance(_rolling(arguments)))
    _declare_certbot(advance)
    options.declare_rolling(add)


def _rolling(arguments: argparse.Namespace) -> Rolling:
    return Rolling(options.rolls_every(lambda name: vars(arguments)[_attribute(name)]))


def _attribute(name: str) -> str:
    return name.replace("-", "_")


def advance(plugin: Any, lineage: Lineage) -> list[str]:
    """Return the command that does so for *lineage*, as certbot's *plugin* is set."""
    conf, config = plugin.conf, plugin.config
    words = [sys.executable, "-m", "certbot_postfix.cli", "tlsa", "advance"]
    words += ["--cert-name", lineage.name]
    if conf("config-dir"):
        words += ["--postfix-config-dir", conf("config-dir")]
    for name in ("config-dir", "work-dir", "logs-dir"):
        words += [f"--{name}", str(getattr(config, _attribute(name)))]
    for name in _PASSED:
        if (value := conf(name)) not in (None, ""):  # 0 is a value
            words += [f"--{name}", str(value)]
    words += ["--publisher", conf("tlsa-publisher")]
    for host in conf("tlsa-name") or ():
        words += ["--tlsa-name", host]
    return words


def _declare(
    command: argparse.ArgumentParser, work: Callable[[Roll, argparse.Namespace], object]
) -> None:
    def add(name: str, **about: Any) -> None:
        command.add_argument(f"--{name}", **about)

    def run(arguments: argparse.Namespace) -> int:
        work(_roll(arguments), arguments)
        return 0

    declare_name(command, " (default: that of the only one that Postfix uses)")
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
    deployment.lock(patiently=True)
    deployment.remove_leftovers()
    directories = {
        "--config-dir": str(deployment.bundles.parent),
        "--work-dir": arguments.work_dir,
        "--logs-dir": arguments.logs_dir,
    }
    words = [word for item in directories.items() if item[1] for word in item]
    key_swap.fix_links(Lineage.live(deployment.live, name), words)
    lineage = known_lineage(deployment, name)
    publisher = publishers.load(arguments.publisher)
    return Roll(deployment, lineage, Means(publisher, words, say))


def _only(deployment: Deployment) -> str:
    names = sorted({path.stem for path in deployment.server.read().deployed})
    if len(names) == 1:
        return names[0]
    raise Error(
        f"Postfix uses {len(names) or 'no'} certificates from certbot",
        hint=f"use --cert-name with one of {enumerated(names, most=20)}"
        if names
        else "",
    )
