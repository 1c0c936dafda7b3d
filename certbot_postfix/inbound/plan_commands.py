"""The command ``certbot-postfix plan``: parse, call, print."""

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from certbot_postfix import options
from certbot_postfix.command_line import ATTEND, Commands, require_root
from certbot_postfix.errors import enumerated, named_logger, shown
from certbot_postfix.inbound import due
from certbot_postfix.inbound.commands import (
    declare_name,
    known_lineage,
    refuse_path,
    session,
)
from certbot_postfix.inbound.imagined import KEY_TYPE, Imagined, choose
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.proposal import DeployOptions, Proposal
from certbot_postfix.inbound.session import Deployment
from certbot_postfix.outbound.collect import Collector
from certbot_postfix.system import files
from certbot_postfix.tls import certificates

logger = named_logger(__name__)


def declare(commands: Commands) -> None:
    """Declare the command."""
    plan = commands.add_parser(
        "plan",
        help="print the diff that `certbot install -i postfix` would apply",
        description="Print the diff that `certbot install -i postfix` would apply to a"
        " certificate that certbot has (--cert-name), or that `certbot run -i postfix`"
        " would apply to one that it would obtain (-d), and write nothing. The other"
        " options are those of certbot without --postfix-. Exit status 3: there is"
        " something to do.",
    )
    declare_name(plan)
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
    "tlsa-name",
    "dane-resolver",
    "tlsa-min-ttl",
    "tlsa-publisher",
    "tlsa-roll",
    "tlsa-roll-every",
    "tlsa-ignore",
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
        return known_lineage(deployment, name)
    if name:
        refuse_path(name)
    live = deployment.live
    return choose(live, due.lineages(live), arguments.domains, name)


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
