"""The command ``certbot-postfix mta-sts``: parse, call, print."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from certbot_postfix import options
from certbot_postfix.command_line import (
    ATTEND,
    Commands,
    can_ask,
    confirm,
    declare_confirmation,
    require_root,
    say,
)
from certbot_postfix.errors import Error, enumerated, named_logger, shown
from certbot_postfix.formats.mta_sts import content_id
from certbot_postfix.formats.policy import Mode, parse_domain, parse_patterns
from certbot_postfix.publish import mta_sts, written
from certbot_postfix.publish.announcement import Announcement
from certbot_postfix.publish.mta_sts import Proposal, Resolver
from certbot_postfix.publish.publishers import load
from certbot_postfix.system import dns

logger = named_logger(__name__)


Root = Callable[[argparse.Namespace], Path]


def declare(commands: Commands, root: Root) -> None:
    """Declare the command; *root* gives the directory of what is to be remembered."""
    command = commands.add_parser(
        "mta-sts",
        help="publish an MTA-STS policy of your own domain, through your web server",
        description="Publish the MTA-STS policy of a domain whose mail comes here:"
        " write the file for the web server of mta-sts.DOMAIN, verify that senders get"
        " it, and publish the TXT record that announces it, or print it. Exit status 3:"
        " senders do not get it, the record is not in DNS yet, or an MX host cannot be"
        " verified.",
    )
    _declare_policy(command)
    options.declare_publisher(
        lambda name, **about: command.add_argument(f"--{name}", **about)
    )
    declare_confirmation(command)
    command.set_defaults(command=lambda arguments: _mta_sts(arguments, root))


def _declare_policy(command: argparse.ArgumentParser) -> None:
    command.add_argument("domain", metavar="DOMAIN", help="your mail domain")
    command.add_argument(
        "--webroot",
        metavar="DIR",
        type=Path,
        required=True,
        help="directory that the web server of mta-sts.DOMAIN serves",
    )
    command.add_argument(
        "--mode",
        choices=[mode.value for mode in (Mode.TESTING, Mode.ENFORCE, Mode.NONE)],
        help="what senders do with a server that fails the policy: report it (testing),"
        " or deliver no mail to it (enforce); none ends MTA-STS (default: that of the"
        " file, or testing)",
    )
    command.add_argument(
        "--mx",
        metavar="NAME",
        action="append",
        help="MX host of the policy, or a pattern such as '*.example.org'; can be"
        " repeated (default: the MX hosts in DNS)",
    )


def _mta_sts(arguments: argparse.Namespace, root: Root) -> int:
    require_root()
    publisher = load(arguments.publisher)
    proposal = _propose(arguments, dns.Resolver())
    _examine(proposal)
    announcement = Announcement(
        proposal.domain, content_id(proposal.text), proposal.resolver, publisher
    )
    others = written.others(root(arguments), proposal.domain, proposal.webroot)
    _confirm(proposal, announcement, others, arguments)
    proposal.write()
    written.note(root(arguments), proposal.domain, proposal.webroot)
    if why := mta_sts.unserved(proposal.domain, proposal.text, None):
        logger.warning(
            "senders do not get the policy, so its record must not be published yet:"
            " %s\nHint: have the web server of mta-sts.%s serve %s as text/plain, and"
            " run the command again",
            why,
            proposal.domain,
            proposal.now.path,
        )
        return ATTEND
    say(f"senders get the policy (mode {proposal.policy.mode.value})")
    _say_how_it_ends(proposal)
    try:
        return _announce(announcement)
    except Error as error:  # the file is written
        logger.warning("%s", error)
        return ATTEND


def _propose(arguments: argparse.Namespace, resolver: Resolver) -> Proposal:
    domain = parse_domain(arguments.domain.removesuffix("."), "DOMAIN")
    webroot = arguments.webroot.absolute()
    now, servers = mta_sts.present(webroot), mta_sts.hosts(domain, resolver)
    names = parse_patterns(
        arguments.mx or servers, "--mx" if arguments.mx else "MX", "*."
    )
    mode = Mode(arguments.mode) if arguments.mode else None
    policy = mta_sts.wanted(now, mode, names)
    return Proposal(domain, webroot, now, policy, tuple(servers), resolver)


def _examine(proposal: Proposal) -> None:
    """Warn of MX hosts that do not fit; raise `Error` if mail would not be sent."""
    if proposal.policy.mode is Mode.NONE:
        return
    problems = list(mta_sts.unfit(proposal, None))
    if proposal.policy.mode is Mode.TESTING:
        for problem in problems:
            logger.warning(
                "%s; with mode enforce, senders would deliver no mail there", problem
            )
        return
    problems = [*mta_sts.untested(proposal, None), *problems]
    if problems:
        raise Error(
            f"mode enforce is refused for {proposal.domain}, no changes were made:"
            f" {'; '.join(problems)}",
            hint="with --mode testing, senders report what fails, and deliver mail",
        )


def _confirm(
    proposal: Proposal,
    announcement: Announcement,
    others: list[str],
    arguments: argparse.Namespace,
) -> None:
    """Show what would be done; end the command if the answer is no."""
    now, edit, steps = proposal.now, proposal.edit, []
    if not edit.empty:
        what = f" (also the policy of {enumerated(others)})" if others else ""
        if not now.ours:
            what = " (not written by this command)"
        if what and not can_ask(arguments):
            raise Error(
                f"{now.path}{what} was left unchanged",
                hint="run it on a terminal, where it asks, or use another directory",
            )
        steps.append(f"Write {now.path}{what}?")
    publisher = announcement.publisher
    if not (publisher.by_hand or announcement.seen):
        steps.append(f"Have {publisher.label} publish its record?")
    print(shown(edit.diff(), sys.stdout), end="", flush=True)
    if steps:
        confirm(" ".join(steps), arguments)


def _announce(announcement: Announcement) -> int:
    """Have the record published, or printed, unless DNS has it."""
    name, publisher = announcement.name, announcement.publisher
    if announcement.seen:
        say(f"{name} announces it")
        return 0
    if publisher.by_hand:
        say("publish this record, in place of any other MTA-STS record of that name:")
    announcement.publish()
    if announcement.seen:
        say(f"{publisher.label}: {name} announces it now")
        return 0
    if not publisher.by_hand:
        say(f"{publisher.label} has the record; DNS does not have it yet")
    return ATTEND


def _say_how_it_ends(proposal: Proposal) -> None:
    """Say how to leave, RFC 8461, 8.3: senders may keep the policy of before."""
    if proposal.policy.mode is not Mode.NONE:
        return
    before = proposal.now.policy
    age = before.max_age if before and before.mode is not Mode.NONE else 0
    seconds = f"{age} seconds" if age else "the max_age of the previous policy"
    say(
        f"after publishing the record, keep it and the file for {seconds}; then remove"
        " the record first, and the file after it"
    )
