"""The command certbot-postfix: parse, call, print.

Each wing declares its own commands; `command_line` has what they have in common.
"""

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import certbot_postfix
from certbot_postfix.command_line import ATTEND, CERTBOT, Parser, declare_common, say
from certbot_postfix.dane import commands as dane
from certbot_postfix.dane import publish_commands as publishing
from certbot_postfix.dane.judge import Candidate
from certbot_postfix.errors import Error
from certbot_postfix.inbound import advertised, bundles, candidates
from certbot_postfix.inbound import commands as inbound
from certbot_postfix.inbound import plan_commands as plan
from certbot_postfix.inbound import rolling_commands as rolling
from certbot_postfix.outbound import commands as outbound
from certbot_postfix.publish import mta_sts_commands as mta_sts
from certbot_postfix.publish import records_commands as records
from certbot_postfix.status import commands as status

EPILOG = """exit status:
  0 success; 1 failed, no changes made; 2 usage error; 3 succeeded, but needs your
  attention (a diff, a finding, a warning)

examples:
  certbot-postfix plan -d mx.example.org
  certbot-postfix plan --cert-name mx.example.org --tls-profile intermediate
  certbot-postfix deploy --cert-name mx.example.org
  certbot renew --deploy-hook 'certbot-postfix deploy'
  certbot-postfix forget old.example.org
  certbot-postfix status
  certbot-postfix status --json
  certbot-postfix checkpoints
  certbot-postfix policy install --mta-sts-domains /etc/postfix/mta-sts-domains
  certbot-postfix policy remove
  certbot-postfix policy refresh
  certbot-postfix policy show
  certbot-postfix policy query example.org
  certbot-postfix policy test example.org --connect
  certbot-postfix tlsa show
  certbot-postfix tlsa publish --publisher rfc2136:/etc/letsencrypt/rfc2136.ini
  certbot-postfix tlsa withdraw --publisher command:/usr/local/sbin/publish
  certbot-postfix tlsa stage --cert-name mx.example.org
  certbot-postfix tlsa switch --cert-name mx.example.org
  certbot-postfix tlsa advance --cert-name mx.example.org
  certbot-postfix tlsa abandon --cert-name mx.example.org
  certbot-postfix mta-sts example.org --webroot /var/www/mta-sts
  certbot-postfix records example.org
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``certbot-postfix`` and return its exit status."""
    arguments = parser().parse(sys.argv[1:] if argv is None else argv)
    level = logging.INFO if arguments.verbose else logging.WARNING
    messages = _Messages(level)
    package = logging.getLogger("certbot_postfix")
    package.addHandler(messages)
    package.setLevel(level)
    try:
        status = int(arguments.command(arguments))
    except Error as error:
        say(f"error: {error}")
        return 1
    else:
        return ATTEND if status == 0 and messages.attend else status
    finally:
        package.removeHandler(messages)
        package.setLevel(logging.NOTSET)


class _Messages(logging.Handler):
    """Writes messages to standard error; *attend* if there was a warning or an error.

    What only --verbose prints has no level before it.
    """

    attend = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            say(record.getMessage())
            return
        self.attend = True
        say(f"{record.levelname.lower()}: {record.getMessage()}")


def parser() -> Parser:
    """Return what reads the command line, with the help of each command."""
    parser = Parser(
        prog="certbot-postfix",
        description="Inspect and manage certbot certificates in Postfix.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"%(prog)s {certbot_postfix.__version__}",
        help="print the version",
    )
    commands = parser.add_commands("COMMAND")
    plan.declare(commands)
    inbound.declare(commands)
    status.declare(commands)
    outbound.declare(commands, lambda arguments: inbound.session(arguments).outbound)
    verbs = dane.declare(commands, _candidates)
    publishing.declare(verbs, _candidates, _bundles)
    rolling.declare(verbs)
    mta_sts.declare(commands, _bundles)
    records.declare(
        commands,
        lambda arguments: advertised.server(
            inbound.session(arguments).server.read(), dane.settings(arguments)
        ),
    )
    for action in parser.every():  # before and after the command
        declare_common(action, None if action is parser else argparse.SUPPRESS)
    return parser


def _candidates(arguments: argparse.Namespace) -> Iterable[Candidate]:
    return candidates.candidates(inbound.session(arguments).server.read())


def _bundles(arguments: argparse.Namespace) -> Path:
    return bundles.below(arguments.config_dir or CERTBOT)


if __name__ == "__main__":
    sys.exit(main())
