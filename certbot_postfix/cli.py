"""The command certbot-postfix: parse, call, print.

Standard output is data, standard error is talk.  Exit status: 0 all is well, 1 could
not do it, 2 usage, 3 there is something to attend to.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from certbot.plugins import util as plugin_util

from certbot_postfix.deployment import Deployment
from certbot_postfix.errors import Error
from certbot_postfix.lineage import Lineage
from certbot_postfix.postfix import Postfix
from certbot_postfix.profiles import ClientLevel, Profile

EXAMPLES = """exit status:
  0 all is well, 1 could not do it, 2 usage, 3 there is something to do

examples:
  certbot-postfix plan --cert-name mx.example.org
  certbot-postfix plan --cert-name mx.example.org --tls-profile intermediate
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``certbot-postfix`` and return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except Error as error:
        print(f"certbot-postfix: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"certbot-postfix: hint: {error.hint}", file=sys.stderr)
        return 1


def _plan(arguments: argparse.Namespace) -> int:
    lineage = Lineage.live(
        Path(arguments.certbot_config_dir, "live"), arguments.cert_name
    )
    deployment = _deployment(arguments)
    if "/" in lineage.name or not lineage.fullchain.exists():
        raise Error(
            f"certbot has no certificate named {lineage.name}: there is no"
            f" {lineage.fullchain}",
            hint="certbot certificates lists the names",
        )
    proposal = deployment.propose(
        lineage,
        Profile(arguments.tls_profile),
        ClientLevel(arguments.client_level),
    )
    print(proposal.plan.diff(), end="")
    for line in [*proposal.plan.notes(), *proposal.warnings, *proposal.overrides]:
        print(line, file=sys.stderr)
    if proposal.stale:
        print(f"the bundle {proposal.path} would be written", file=sys.stderr)
    if proposal.empty:
        print("nothing to do", file=sys.stderr)
        return 0
    return 3


def _deployment(arguments: argparse.Namespace) -> Deployment:
    if os.geteuid() != 0:
        raise Error("only root can read certbot's keys", hint="use sudo")
    for program in ("postconf", "postfix"):
        plugin_util.path_surgery(program)
    postfix = Postfix.find(arguments.config_dir, postconf="postconf", postfix="postfix")
    return Deployment(postfix, Path(arguments.certbot_config_dir, "postfix"))


def _parser() -> argparse.ArgumentParser:
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
        default="/etc/letsencrypt",
        type=os.path.abspath,
        help="certbot's (default: %(default)s)",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
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
    plan.set_defaults(command=_plan)
    return parser


if __name__ == "__main__":
    sys.exit(main())
