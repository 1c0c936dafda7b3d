"""The commands ``certbot-postfix plan``, ``deploy`` and ``forget``."""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from certbot.plugins import util as plugin_util

from certbot_postfix import options
from certbot_postfix.command_line import (
    ATTEND,
    CERTBOT,
    Commands,
    declare_timeout,
    require_root,
    say,
)
from certbot_postfix.errors import Error, enumerated, named_logger, shown
from certbot_postfix.inbound import bundles as places
from certbot_postfix.inbound.imagined import KEY_TYPE, Imagined, choose
from certbot_postfix.inbound.install import DeployOptions, Proposal
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.renewal_settings import RenewalReader, missing
from certbot_postfix.inbound.session import Deployment
from certbot_postfix.outbound.collect import Collector
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system import files
from certbot_postfix.tls import certificates

logger = named_logger(__name__)


def declare(commands: Commands) -> None:
    """Declare the commands."""
    _declare_plan(commands)
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
    return Deployment(postfix, bundles, timeout=timeout, say=notify)


def _declare_plan(commands: Commands) -> None:
    plan = commands.add_parser(
        "plan",
        help="print the diff that `certbot install -i postfix` would apply",
        description="Print the diff that `certbot install -i postfix` would apply to a"
        " certificate that certbot has (--cert-name), or that `certbot run -i postfix`"
        " would apply to one that it would obtain (-d), and write nothing. The other"
        " options are those of certbot without --postfix-. Exit status 3: there is"
        " something to do.",
    )
    _declare_name(plan)
    plan.add_argument(
        "-d",
        metavar="NAME",
        dest="domains",
        action="extend",
        type=lambda text: text.split(","),
        help="name in a certificate that need not exist yet; can be repeated",
    )

    def add(name: str, **about: Any) -> None:
        if name not in _OF_A_RUN:
            plan.add_argument(f"--{name}", **about)

    options.declare(add)
    plan.set_defaults(command=_plan)


# What is no part of a plan, or is named by another option.
_OF_A_RUN = (
    "config-dir",
    "ctl",
    "config-utility",
    "verify-timeout",
    "ignore-master-overrides",
)


def _declare_deploy(commands: Commands) -> None:
    deploy = commands.add_parser(
        "deploy",
        help="put a renewed certificate into service, as certbot's deploy hook",
        description="Put a renewed certificate into service: refresh what Postfix"
        " reads, reload it, and verify that the certificate is served, or undo. Nothing"
        " is done if Postfix does not use it. Its configuration is not edited.",
    )
    _declare_name(deploy, " (default: that of $RENEWED_LINEAGE, which certbot sets)")
    declare_timeout(deploy)
    deploy.set_defaults(command=_deploy)


def _declare_forget(commands: Commands) -> None:
    forget = commands.add_parser(
        "forget",
        help="stop serving a certificate, and remove its bundle",
        description="Stop serving a certificate: remove it from main.cf and the SNI"
        " table, reload Postfix, verify the remaining certificates, delete the bundle."
        " If it is the only default certificate, main.cf is pointed to certbot's files"
        " in live/ (add a reload hook then).",
    )
    forget.add_argument(
        "name", metavar="NAME", nargs="?", help="short for --cert-name NAME"
    )
    _declare_name(forget)
    declare_timeout(forget)
    forget.set_defaults(command=_forget)


def _declare_name(command: argparse.ArgumentParser, default: str = "") -> None:
    command.add_argument(
        "--cert-name",
        metavar="NAME",
        help=f"certbot's name of the certificate{default}",
    )


def _plan(arguments: argparse.Namespace) -> int:
    if not arguments.cert_name and not arguments.domains:
        arguments.parser.error("--cert-name NAME or -d NAME is needed")
    require_root()
    deployment = session(arguments)

    def conf(name: str) -> Any:
        return getattr(arguments, name.replace("-", "_"))

    lineage = _planned(deployment, arguments)
    deployment.look()
    with _vanishing(deployment.outbound.collector):
        policies = deployment.policies(conf)
        proposal = deployment.installation.propose(
            lineage, DeployOptions.of(conf), policies
        )
    print(shown(proposal.plan.diff(), sys.stdout), end="")
    if isinstance(lineage, Imagined):
        _print(
            f"certbot has no certificate for {enumerated(sorted(lineage.names))}; this"
            f" is the plan for one with an {KEY_TYPE} key"
        )
    _report(proposal)
    return 0 if proposal.empty else ATTEND


def _report(proposal: Proposal) -> None:
    for override in proposal.overrides:
        if override.harmless:
            logger.info("%s", override)
        else:
            _print(str(override))
    for line in [*proposal.notes, *proposal.warnings]:
        _print(line)
    if addresses := certificates.addresses(proposal.bundle.leaf):
        _print(
            f"the certificate has the address {addresses[0]} among its names: current"
            " versions of certbot refuse to install it; obtain one for names alone"
        )
    if proposal.stale:
        verb = "updated" if proposal.path.exists() else "created"
        _print(f"{proposal.path} would be {verb}")
    if proposal.empty:
        _print("No changes needed.")


def _print(message: str) -> None:
    print(shown(message, sys.stderr), file=sys.stderr)


def _planned(deployment: Deployment, arguments: argparse.Namespace) -> Lineage:
    name = arguments.cert_name or ""
    if not arguments.domains:
        return _lineage(deployment, name)
    if name:
        _refuse_path(name)
    inventory = deployment.inventory
    return choose(inventory.live, inventory.lineages(), arguments.domains, name)


@contextlib.contextmanager
def _vanishing(collector: Collector) -> Iterator[None]:
    """Let sources of policies keep what they say in a directory that vanishes."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place, "cache")
        if collector.cache.is_dir():
            with files.explained("copy", collector.cache):
                shutil.copytree(collector.cache, directory, symlinks=True)
        collector.directory, collector.cache = Path(place), directory
        yield


def _deploy(arguments: argparse.Namespace) -> int:
    renewed = os.environ.get("RENEWED_LINEAGE")
    if not arguments.cert_name and not renewed:
        arguments.parser.error("--cert-name is needed, or $RENEWED_LINEAGE of certbot")
    require_root()
    if renewed and not arguments.cert_name and not arguments.config_dir:
        arguments.config_dir = str(Path(renewed).parent.parent)
    deployment = session(arguments, timeout=arguments.verify_timeout)
    name = arguments.cert_name or Path(renewed or "").name
    lineage = _lineage(deployment, name)
    deployment.lock(patiently=True)
    deployment.remove_leftovers()
    if not deployment.renew(lineage):
        deployment.say(f"Postfix does not use {name}: no changes were made.")
    elif not renewed:
        _warn_if_not_deployed(deployment, name)
    return 0


def _warn_if_not_deployed(deployment: Deployment, name: str) -> None:
    """Warn whoever runs ``deploy`` by hand, if nothing will do so for the next one."""
    settings = RenewalReader(deployment.bundles.parent).read(name)
    if settings and not settings.deployed:
        words = deployment.inventory.configuration.certbot_options
        problem = missing(name, settings.path, words)
        logger.warning("%s\nHint: %s", problem.message, problem.hint)


def _forget(arguments: argparse.Namespace) -> int:
    name = arguments.cert_name or arguments.name
    if not name or (arguments.name and arguments.name != name):
        arguments.parser.error("one NAME is needed, that of a certificate")
    require_root()
    deployment = session(arguments, timeout=arguments.verify_timeout)
    _refuse_path(name)
    deployment.lock(patiently=True)
    deployment.remove_leftovers()
    removal = deployment.removal(name)
    planned = removal.propose(None)
    print(shown(planned.diff(), sys.stdout), end="")
    if removal.carry_out(planned):
        say(f"removed {removal.path}")
    return 0


def _lineage(deployment: Deployment, name: str) -> Lineage:
    _refuse_path(name)
    inventory = deployment.inventory
    lineage = Lineage.live(inventory.live, name)
    if not lineage.fullchain.exists():
        available = enumerated(
            sorted(each.name for each in inventory.lineages()), most=20
        )
        raise Error(
            f"no certificate named {name} in {inventory.live}. Available:"
            f" {available or 'none'}"
        )
    return lineage


def _refuse_path(name: str) -> None:
    if not name or "/" in name:
        raise Error(
            f"{name!r} is not the name of a certificate",
            hint="`certbot certificates` lists the names",
        )
