"""The command certbot-postfix: parse, call, print.

Standard output is data, standard error is talk.  Exit status: 0 all is well, 1 could
not do it, 2 usage, 3 there is something to attend to.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certbot.plugins import util as plugin_util

from certbot_postfix import options
from certbot_postfix.errors import Error, named_logger, shown
from certbot_postfix.inbound.install import DeployOptions
from certbot_postfix.inbound.lineage import Lineage, bundles_below
from certbot_postfix.inbound.session import Deployment
from certbot_postfix.options import ClientLevel, Profile
from certbot_postfix.outbound import commands as policy
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.status import collect, monitoring, report, terminal
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.tls import certificates

logger = named_logger(__name__)

Commands = Any  # argparse has no public name for it

# Exit status: done, and there is something to attend to.
ATTEND = 3

CERTBOT = "/etc/letsencrypt"

EXAMPLES = """exit status:
  0 all is well, 1 could not do it, 2 usage, 3 there is something to do

examples:
  certbot-postfix plan --cert-name mx.example.org
  certbot-postfix plan --cert-name mx.example.org --tls-profile intermediate
  certbot-postfix deploy --cert-name mx.example.org
  certbot renew --deploy-hook 'certbot-postfix deploy'
  certbot-postfix forget old.example.org
  certbot-postfix status
  certbot-postfix status --json
  certbot-postfix policy refresh
  certbot-postfix policy show
  certbot-postfix policy test example.org --connect
"""

# Seconds for `status`, all in all.
STATUS = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``certbot-postfix`` and return its exit status."""
    arguments = parser().parse_args(argv)
    talk = _Talk(logging.WARNING)
    package = logging.getLogger("certbot_postfix")
    package.addHandler(talk)
    try:
        status = int(arguments.command(arguments))
    except Error as error:
        _say(f"error: {error.message}")
        if error.hint:
            _say(f"hint: {error.hint}")
        return 1
    else:
        return ATTEND if status == 0 and talk.heard else status
    finally:
        package.removeHandler(talk)


class _Talk(logging.Handler):
    """Tells warnings and errors on standard error, and whether there were some."""

    heard = False

    def emit(self, record: logging.LogRecord) -> None:
        self.heard = True
        _say(f"{record.levelname.lower()}: {record.getMessage()}")


def _say(text: str) -> None:
    print(shown(f"certbot-postfix: {text}", sys.stderr), file=sys.stderr)


def _plan(arguments: argparse.Namespace) -> int:
    deployment = _deployment(arguments)
    lineage = _lineage(arguments, arguments.cert_name)
    wish = DeployOptions(
        Profile(arguments.tls_profile),
        ClientLevel(arguments.client_level),
        by_name=arguments.sni == "auto",
        replace=arguments.replace_default,
    )
    proposal = deployment.installation.propose(lineage, wish)
    print(shown(proposal.plan.diff(), sys.stdout), end="")
    for line in [*proposal.notes, *proposal.warnings, *proposal.overrides]:
        print(shown(str(line), sys.stderr), file=sys.stderr)
    if found := certificates.addresses(proposal.bundle.leaf):
        print(
            f"the certificate has the address {found[0]} among its names: current"
            " versions of certbot refuse to install it; obtain one for names alone",
            file=sys.stderr,
        )
    if proposal.stale:
        told = f"the bundle {proposal.path} would be written"
        print(shown(told, sys.stderr), file=sys.stderr)
    if proposal.empty:
        print("nothing to do", file=sys.stderr)
        return 0
    return ATTEND


def _deploy(arguments: argparse.Namespace) -> int:
    renewed = os.environ.get("RENEWED_LINEAGE")
    if not arguments.cert_name and not renewed:
        arguments.parser.error("--cert-name is needed, or $RENEWED_LINEAGE of certbot")
    if renewed and not arguments.cert_name and not arguments.certbot_config_dir:
        arguments.certbot_config_dir = str(Path(renewed).parent.parent)
    deployment = _deployment(arguments, timeout=arguments.verify_timeout)
    name = arguments.cert_name or Path(renewed or "").name
    lineage = _lineage(arguments, name)
    deployment.lock(patiently=True)
    deployment.remove_leftovers()
    if not deployment.renew(lineage):
        deployment.say(f"Postfix does not use {name}: no changes were made.")
    return 0


def _forget(arguments: argparse.Namespace) -> int:
    deployment = _deployment(arguments, timeout=arguments.verify_timeout)
    _refuse_path(arguments.name)
    deployment.lock(patiently=True)
    deployment.remove_leftovers()
    removal = deployment.removal(arguments.name)
    planned = removal.propose(None)
    print(shown(planned.diff(), sys.stdout), end="")
    if removal.carry_out(planned):
        _say(f"removed {removal.path}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    deadline = Deadline(arguments.timeout)
    plugin_util.path_surgery("postconf")
    postfix = deadline.within(
        lambda: Postfix.find(
            arguments.config_dir, postconf="postconf", postfix="postfix"
        ),
        "find Postfix",
    )
    bundles = bundles_below(arguments.certbot_config_dir or CERTBOT)
    found = report.make(collect.collect_facts(postfix, bundles, deadline))
    text = arguments.render(found)
    encoding = sys.stdout.encoding or "ascii"  # the colours are ours
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")
    return ATTEND if found.findings else 0


def _table(found: report.Report) -> str:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return terminal.as_table(found, colour=colour)


def _lineage(arguments: argparse.Namespace, name: str) -> Lineage:
    _refuse_path(name)
    live = Path(arguments.certbot_config_dir or CERTBOT, "live")
    lineage = Lineage.live(live, name)
    if not lineage.fullchain.exists():
        raise Error(
            f"certbot has no certificate named {name}: there is no {lineage.fullchain}",
            hint="certbot certificates lists the names",
        )
    return lineage


def _refuse_path(name: str) -> None:
    if not name or "/" in name:
        raise Error(
            f"{name!r} is not the name of a certificate",
            hint="certbot certificates lists the names",
        )


def _deployment(arguments: argparse.Namespace, *, timeout: float = 20) -> Deployment:
    if os.geteuid() != 0:
        raise Error("only root can read certbot's keys", hint="use sudo")
    for program in ("postconf", "postfix"):
        plugin_util.path_surgery(program)
    postfix = Postfix.find(arguments.config_dir, postconf="postconf", postfix="postfix")
    bundles = bundles_below(arguments.certbot_config_dir or CERTBOT)
    # certbot warns of whatever its hooks tell: only a person is told of a success.
    say = _say if sys.stderr.isatty() else logger.info
    return Deployment(postfix, bundles, timeout=timeout, say=say)


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line, with the help of each command."""
    parser = argparse.ArgumentParser(
        prog="certbot-postfix",
        description="Certificates from certbot in the Postfix mail server.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-dir", metavar="DIR", help="Postfix's, if not the usual one"
    )
    parser.add_argument(
        "--certbot-config-dir",
        metavar="DIR",
        type=os.path.abspath,
        help=f"certbot's (default: {CERTBOT})",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _declare_plan(commands)
    _declare_deploy(commands)
    _declare_forget(commands)
    _declare_status(commands)
    policy.declare(commands, lambda arguments: _deployment(arguments).outbound)
    return parser


def _declare_plan(commands: Commands) -> None:
    plan = commands.add_parser(
        "plan",
        help="print the diff that `certbot install -i postfix` would apply",
        description="Print the diff that `certbot install -i postfix` would apply, and"
        " write nothing. Exit status 3: there is something to do.",
    )
    plan.add_argument(
        "--cert-name",
        required=True,
        metavar="NAME",
        help="certbot's name of the certificate",
    )
    plan.add_argument(
        "--tls-profile",
        choices=[profile.value for profile in Profile],
        default=Profile.OPPORTUNISTIC.value,
        help="how far TLS parameters are raised (default: %(default)s)",
    )
    plan.add_argument(
        "--client-level",
        choices=[level.value for level in ClientLevel],
        default=ClientLevel.MAY.value,
        help="what the SMTP client is raised to (default: %(default)s)",
    )
    plan.add_argument(
        "--sni",
        choices=["auto", "never"],
        default="auto",
        help="whether it may be served by name only (default: %(default)s)",
    )
    plan.add_argument(
        "--replace-default",
        action="store_true",
        help="plan to replace certificates of your own that cannot stay beside it",
    )
    plan.set_defaults(command=_plan)


def _declare_deploy(commands: Commands) -> None:
    deploy = commands.add_parser(
        "deploy",
        help="put a renewed certificate into service, as certbot's deploy hook",
        description="Put a renewed certificate into service: refresh what Postfix"
        " reads, reload it, and verify that the certificate is served, or undo. Nothing"
        " is done if Postfix does not use it. Its configuration is not edited.",
    )
    deploy.add_argument(
        "--cert-name",
        metavar="NAME",
        help="certbot's name of the certificate (default: that of $RENEWED_LINEAGE,"
        " which certbot sets for its hooks)",
    )
    _declare_timeout(deploy)
    deploy.set_defaults(command=_deploy, parser=deploy)


def _declare_forget(commands: Commands) -> None:
    forget = commands.add_parser(
        "forget",
        help="take a certificate out of Postfix, and remove its bundle",
        description="Take a certificate out of the table of names and out of main.cf,"
        " print the diff, reload Postfix, verify that it serves the others, and remove"
        " the bundle. The only default certificate is replaced by certbot's own files.",
    )
    forget.add_argument("name", metavar="NAME", help="certbot's name of it")
    _declare_timeout(forget)
    forget.set_defaults(command=_forget)


def _declare_status(commands: Commands) -> None:
    command = commands.add_parser(
        "status",
        help="show what every service serves for every name, and what is wrong",
        description="Show what every service serves for every name, and what is wrong"
        " with that. Nothing is changed, and any user may ask. Exit status 3: there is"
        " a finding.",
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
            help=f"print it as {'JSON' if name == 'json' else 'metrics of Prometheus'}",
        )
    command.add_argument(
        "--timeout",
        metavar="S",
        type=_some_seconds,
        default=STATUS,
        help="seconds until it ends, whatever hangs (default: %(default)s)",
    )
    command.set_defaults(command=_status, render=_table)


def _some_seconds(text: str) -> float:
    """Return the number of seconds that a *text* of the command line means, not 0."""
    if value := options.seconds(text):
        return value
    raise argparse.ArgumentTypeError("0 seconds are too few to ask anybody")


def _declare_timeout(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--verify-timeout",
        metavar="S",
        type=options.seconds,
        default=20,
        help="seconds to wait for every service to present it; 0 skips verification"
        " (default: %(default)s)",
    )


if __name__ == "__main__":
    sys.exit(main())
