"""The commands ``certbot-postfix policy install`` and ``policy remove``."""

import argparse
import shlex
import sys
from collections.abc import Callable
from typing import Any

from certbot_postfix import options
from certbot_postfix.command_line import (
    Commands,
    confirm,
    declare_confirmation,
    require_root,
    say,
)
from certbot_postfix.errors import named_logger, shown
from certbot_postfix.outbound.send_only import Proposal, SendOnly
from certbot_postfix.outbound.update import Outbound
from certbot_postfix.postfix import databases
from certbot_postfix.system import lock

logger = named_logger(__name__)

Find = Callable[[argparse.Namespace], Outbound]

# The options of the installer that are about outbound mail.
_OPTIONS = frozenset(
    (
        "client-level",
        "policy-list",
        "policy-keyring",
        "policy-early-adopter",
        "mta-sts-domains",
        "policy-service",
    )
)


def declare(verbs: Commands, find: Find) -> None:
    """Declare the commands; *find* gives the instance that the arguments name."""
    install = verbs.add_parser(
        "install",
        help="put outbound TLS policies into service, without a certificate",
        description="Put outbound TLS policies into service on a host that only sends"
        " mail: no certificate is needed, and no parameter of the SMTP server changes."
        " The options are those of certbot without --postfix-. The diff is printed, and"
        " on a terminal you are asked. `policy remove` undoes it. Exit status 3: a"
        " source failed, or something else needs attention.",
    )

    def add(name: str, **about: Any) -> None:
        if name in _OPTIONS:
            install.add_argument(f"--{name}", **about)

    options.declare(add)
    declare_confirmation(install)
    install.set_defaults(command=lambda arguments: _install(find, arguments))
    remove = verbs.add_parser(
        "remove",
        help="take outbound TLS policies out of service",
        description="Remove the policy map, take it and a daemon that was added out of"
        " smtp_tls_policy_maps, and restore what was set in main.cf with them, where"
        " nobody has set something else since.",
    )
    declare_confirmation(remove)
    remove.set_defaults(command=lambda arguments: _remove(find, arguments))


def _install(find: Find, arguments: argparse.Namespace) -> int:
    require_root()
    outbound = find(arguments)
    _lock(outbound)

    def conf(name: str) -> Any:
        return getattr(arguments, name.replace("-", "_"))

    alone = SendOnly(outbound)
    proposal = alone.installation(conf)
    for note in proposal.notes:
        say(f"note: {note}")
    for warning in [*proposal.warnings, *proposal.complaints]:
        logger.warning("%s", warning)
    undo = ["certbot-postfix", "policy", "remove"]
    undo += outbound.configuration.certbot_options
    done = f"Outbound policies are installed. To undo: {shlex.join(undo)}"
    _carry_out(alone, proposal, arguments, done)
    return 0


def _remove(find: Find, arguments: argparse.Namespace) -> int:
    require_root()
    outbound = find(arguments)
    _lock(outbound)
    alone = SendOnly(outbound)
    done = "Outbound policies are removed."
    _carry_out(alone, alone.removal(), arguments, done)
    return 0


def _lock(outbound: Outbound) -> None:
    lock.take(outbound.postfix.directory, wait=lock.PATIENCE)
    databases.remove_leftovers(outbound.path)


def _carry_out(
    alone: SendOnly, proposal: Proposal, arguments: argparse.Namespace, done: str
) -> None:
    if proposal.empty:
        say("No changes needed.")
        return
    print(shown(proposal.plan.diff(), sys.stdout), end="", flush=True)
    confirm("Apply these changes and reload Postfix?", arguments)
    alone.carry_out(proposal)
    say(done)
