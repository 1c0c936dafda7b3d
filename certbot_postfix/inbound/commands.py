"""The commands ``certbot-postfix deploy`` and ``forget``, and what `plan` shares."""

import argparse
import os
import sys
from pathlib import Path

from certbot.plugins import util as plugin_util

from certbot_postfix.command_line import (
    CERTBOT,
    Commands,
    confirm,
    declare_confirmation,
    declare_timeout,
    require_root,
    say,
)
from certbot_postfix.dane import commands as dane
from certbot_postfix.errors import Error, enumerated, named_logger, shown
from certbot_postfix.inbound import bundles as places
from certbot_postfix.inbound import due
from certbot_postfix.inbound.forget import Removal
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.renewal_settings import INSTALLER
from certbot_postfix.inbound.session import Deployment
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system.reporter import SLOW, Reporter

logger = named_logger(__name__)


def declare(commands: Commands) -> None:
    """Declare the commands."""
    _declare_deploy(commands)
    _declare_forget(commands)


def session(arguments: argparse.Namespace, *, timeout: float = 20) -> Deployment:
    """Return what can be done to the instance that *arguments* mean."""
    for program in ("postconf", "postfix"):
        plugin_util.path_surgery(program)
    postfix = Postfix.find(
        arguments.postfix_config_dir, postconf="postconf", postfix="postfix"
    )
    bundles = places.below(arguments.config_dir or CERTBOT)
    # certbot warns of whatever its hooks print: only a person reads of a success.
    notify = say if sys.stderr.isatty() else logger.info
    reporter = Reporter.on(sys.stderr, notify)
    return Deployment(postfix, bundles, timeout=timeout, reporter=reporter)


def _declare_deploy(commands: Commands) -> None:
    deploy = commands.add_parser(
        "deploy",
        help="put a renewed certificate into service, as certbot's deploy hook",
        description="Put a renewed certificate into service: refresh what Postfix"
        " reads, reload it, and verify that the certificate is served, or undo. Nothing"
        " is done if Postfix does not use it. Its configuration is not edited.",
    )
    declare_name(deploy, " (default: that of $RENEWED_LINEAGE, which certbot sets)")
    declare_timeout(deploy)
    dane.declare_settings(deploy, ignore=True)
    deploy.set_defaults(command=_deploy)


def _declare_forget(commands: Commands) -> None:
    forget = commands.add_parser(
        "forget",
        help="stop serving a certificate, and remove its bundle",
        description="Stop serving a certificate: remove it from main.cf and the SNI"
        " map, reload Postfix, verify the remaining certificates, delete the bundle."
        " If it is the only default certificate, main.cf is pointed to certbot's files"
        " in live/ (add a reload hook then).",
    )
    forget.add_argument(
        "name", metavar="NAME", nargs="?", help="short for --cert-name NAME"
    )
    declare_name(forget)
    declare_confirmation(forget)
    declare_timeout(forget)
    forget.set_defaults(command=_forget)


def declare_name(command: argparse.ArgumentParser, default: str = "") -> None:
    """Declare how a lineage is named."""
    command.add_argument(
        "--cert-name",
        metavar="NAME",
        help=f"certbot's name of the certificate{default}",
    )


def _deploy(arguments: argparse.Namespace) -> int:
    renewed = os.environ.get("RENEWED_LINEAGE")
    if not arguments.cert_name and not renewed:
        arguments.parser.error("--cert-name is needed, or $RENEWED_LINEAGE of certbot")
    require_root()
    if renewed and not arguments.cert_name and not arguments.config_dir:
        arguments.config_dir = str(Path(renewed).parent.parent)
    deployment = session(arguments, timeout=arguments.verify_timeout)
    deployment.gate.settings = dane.settings(arguments)
    name = arguments.cert_name or Path(renewed or "").name
    lineage = known_lineage(deployment, name)
    deployment.lock(patiently=True)
    deployment.remove_leftovers()
    if not deployment.renew(lineage):
        deployment.reporter.say(f"Postfix does not use {name}: no changes were made.")
    elif not renewed:  # nothing may do so for the next one
        words = deployment.configuration.certbot_options
        deployment.warn_of_obstacles(name, words, INSTALLER)
    return 0


def _forget(arguments: argparse.Namespace) -> int:
    name = arguments.cert_name or arguments.name
    if not name or (arguments.name and arguments.name != name):
        arguments.parser.error("one NAME is needed, that of a certificate")
    require_root()
    deployment = session(arguments, timeout=arguments.verify_timeout)
    refuse_path(name)
    deployment.lock(patiently=True)
    deployment.remove_leftovers()
    removal = Removal(deployment.server, name)
    with deployment.reporter.step("Checking the new configuration", after=SLOW):
        planned = removal.propose(None)
    print(shown(planned.diff(), sys.stdout), end="", flush=True)
    if warning := removal.warning(planned):
        logger.warning("%s", warning)
    question = "Apply these changes and reload Postfix?"
    if planned.empty:
        question = f"Remove {removal.path}?"
    confirm(question, arguments)
    if removal.carry_out(planned):
        say(f"removed {removal.path}")
    return 0


def known_lineage(deployment: Deployment, name: str) -> Lineage:
    """Return certbot's lineage *name*; raise `Error` if there is none."""
    refuse_path(name)
    live = deployment.live
    lineage = Lineage.live(live, name)
    if not lineage.fullchain.exists():
        available = enumerated(
            sorted(lineage.name for lineage in due.lineages(live)), most=20
        )
        raise Error(
            f"no certificate named {name} in {live}. Available: {available or 'none'}"
        )
    return lineage


def refuse_path(name: str) -> None:
    """Raise `Error` if *name* cannot be that of a lineage."""
    if not name or "/" in name:
        raise Error(
            f"{name!r} is not the name of a certificate",
            hint="`certbot certificates` lists the names",
        )
