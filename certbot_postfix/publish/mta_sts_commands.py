"""The command ``certbot-postfix mta-sts``: parse, call, print."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from certbot_postfix.command_line import (
    ATTEND,
    Commands,
    can_ask,
    confirm,
    declare_confirmation,
    require_root,
    say,
)
from certbot_postfix.errors import Error, named_logger, shown
from certbot_postfix.formats.mta_sts import Published, content_id, policy_id, record
from certbot_postfix.formats.policy import Mode, parse_domain, parse_patterns
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.publish import mta_sts, written
from certbot_postfix.publish.mta_sts import Present, Resolver
from certbot_postfix.system import dns

logger = named_logger(__name__)

# Seconds: of the record in a zone.
_TTL = 3600


Root = Callable[[argparse.Namespace], Path]


def declare(commands: Commands, root: Root) -> None:
    """Declare the command; *root* gives the directory of what is to be remembered."""
    command = commands.add_parser(
        "mta-sts",
        help="publish an MTA-STS policy of your own domain, through your web server",
        description="Publish the MTA-STS policy of a domain whose mail comes here:"
        " write the file for the web server of mta-sts.DOMAIN, verify that senders get"
        " it, and print the TXT record that announces it. Exit status 3: senders do not"
        " get it, the record is not in DNS yet, or an MX host is unfit.",
    )
    command.add_argument("domain", metavar="DOMAIN", help="your mail domain")
    command.add_argument(
        "--webroot",
        metavar="DIR",
        type=Path,
        required=True,
        help="the directory that the web server of mta-sts.DOMAIN serves",
    )
    command.add_argument(
        "--mode",
        choices=[mode.value for mode in (Mode.TESTING, Mode.ENFORCE, Mode.NONE)],
        help="what senders do if a server does not fit: report it, or send no mail;"
        " none leads out of MTA-STS (default: that of the file, or testing)",
    )
    command.add_argument(
        "--mx",
        metavar="NAME",
        action="append",
        help="an MX host of the policy, or a pattern such as '*.example.org'; may be"
        " repeated (default: the MX hosts in DNS)",
    )
    declare_confirmation(command)
    command.set_defaults(command=lambda arguments: _mta_sts(arguments, root))


def _mta_sts(arguments: argparse.Namespace, root: Root) -> int:
    require_root()
    domain = parse_domain(arguments.domain.removesuffix("."), "DOMAIN")
    webroot = arguments.webroot.absolute()
    resolver, now = dns.Resolver(), mta_sts.present(webroot)
    servers = mta_sts.hosts(domain, resolver)
    names = parse_patterns(arguments.mx or servers, "--mx", "*.")
    mode = Mode(arguments.mode) if arguments.mode else None
    policy = mta_sts.wanted(now, mode, names)
    _examine(domain, now, policy, resolver)
    _write(now, policy, arguments)
    written.note(root(arguments), domain, webroot)
    edit = now.edit(policy)
    text = edit.after or b""
    if why := mta_sts.unserved(domain, text, None):
        logger.warning(
            "senders do not get the policy, so its record must not be published yet:"
            " %s\nHint: have the web server of mta-sts.%s serve %s as text/plain, and"
            " run the command again",
            why,
            domain,
            now.path,
        )
        return ATTEND
    say(f"senders get the policy (mode {policy.mode.value})")
    return _announce(domain, content_id(text), resolver) | _end(now, policy)


def _examine(domain: str, now: Present, policy: Published, resolver: Resolver) -> None:
    """Warn of MX hosts that do not fit; raise `Error` if mail would not be sent."""
    if policy.mode is Mode.NONE:
        return
    servers = mta_sts.hosts(domain, resolver)
    problems = list(mta_sts.unfit(policy, servers, resolver, None))
    if policy.mode is not Mode.ENFORCE:
        for problem in problems:
            logger.warning("%s: mode enforce would keep mail from it", problem)
        return
    problems = [*mta_sts.untested(domain, now, resolver, None), *problems]
    if problems:
        raise Error(
            f"mode enforce is refused for {domain}, no changes were made:"
            f" {'; '.join(problems)}",
            hint="with --mode testing, senders report what fails, and send mail",
        )


def _write(now: Present, policy: Published, arguments: argparse.Namespace) -> None:
    edit = now.edit(policy)
    if edit.empty:
        return
    if not now.ours and not can_ask(arguments):
        raise Error(
            f"{now.path} is not of this command, and was left unchanged",
            hint="run it at a terminal, where it asks, or move the file away",
        )
    print(shown(edit.diff(), sys.stdout), end="", flush=True)
    foreign = "" if now.ours else ", which is not of this command"
    confirm(f"Write {now.path}{foreign}?", arguments)
    mta_sts.write(edit)


def _announce(domain: str, identity: str, resolver: Resolver) -> int:
    """Print the record for the policy with this *identity*, unless DNS has it."""
    name = f"_mta-sts.{domain}"
    if policy_id(resolver.texts(name)) == identity:
        say(f"{name} announces it")
        return 0
    say(f"now publish this record, in place of any other of {name}:")
    print(ResourceRecord(name, _TTL, "TXT", f'"{record(identity)}"'))
    return ATTEND


def _end(now: Present, policy: Published) -> int:
    """Say how to leave, RFC 8461, 8.3: senders may keep the policy of before."""
    if policy.mode is not Mode.NONE:
        return 0
    before = now.policy
    age = before.max_age if before and before.mode is not Mode.NONE else 0
    seconds = f"{age} seconds" if age else "the max_age of the policy before"
    say(
        f"keep file and record for {seconds} from when the record is published; then"
        " remove first the record, then the file"
    )
    return 0
