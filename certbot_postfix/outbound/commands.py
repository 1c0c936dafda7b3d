"""The commands ``certbot-postfix policy ...``: parse, call, print."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from datetime import datetime, timezone

from certbot_postfix.command_line import ATTEND, Commands, require_root
from certbot_postfix.errors import Error, enumerated, named_logger, short, shown
from certbot_postfix.formats.policy import Entry, gc_paused, parse_domain
from certbot_postfix.outbound import (
    dnssec,
    domain_state,
    effect,
    fitness,
    install_commands,
    lookup,
    policy_file,
    published,
    routes,
)
from certbot_postfix.outbound.dane_resolver import DaneResolver
from certbot_postfix.outbound.lookup import Answer
from certbot_postfix.outbound.mta_sts_cache import Cache
from certbot_postfix.outbound.routes import Route
from certbot_postfix.outbound.update import Outbound
from certbot_postfix.postfix import maps
from certbot_postfix.system import lock

logger = named_logger(__name__)

Find = Callable[[argparse.Namespace], Outbound]

# How much is shown of the name of a source: a path or an address.
_LABEL = 1000


def declare(commands: Commands, find: Find) -> None:
    """Declare the commands; *find* gives the instance that the arguments name."""
    policy = commands.add_parser(
        "policy",
        help="install, refresh, show or test outbound TLS policies",
        description="Install, refresh, show or test outbound TLS policies. Their"
        " sources are options of `policy install`, or of certbot's installer.",
    )
    verbs = policy.add_commands("VERB")
    install_commands.declare(verbs, find)
    _declare_refresh(verbs, find)
    _declare_show(verbs, find)
    query = verbs.add_parser(
        "query",
        help="show what a domain publishes now, and its state on this host",
        description="Show what a domain publishes now: its MTA-STS policy, its MX hosts"
        " and their TLSA records; and its state on this host. Exit status 3: one of"
        " these fails or does not match, or the policy in force here differs.",
    )
    query.add_argument("domain", metavar="DOMAIN", help="recipient domain")
    query.set_defaults(
        command=lambda arguments: _query(find(arguments), arguments.domain)
    )
    test = verbs.add_parser(
        "test",
        help="show which TLS policy applies to a domain",
        description="Show which TLS policy applies to a domain. Exit status 3: the"
        " policy is not effective, or (with --connect) no server satisfies it.",
    )
    test.add_argument("domain", metavar="DOMAIN", help="recipient domain")
    test.add_argument(
        "--connect",
        action="store_true",
        help="also test the servers of the domain, by posttls-finger(1)",
    )
    test.set_defaults(
        command=lambda arguments: _test(
            find(arguments), arguments.domain, connect=arguments.connect
        )
    )


def _declare_refresh(verbs: Commands, find: Find) -> None:
    refresh = verbs.add_parser(
        "refresh",
        help="query the sources that are due, and update the policy map",
        description="Query the sources that are due, and update the policy map, as"
        " certbot renew does. Exit status 1: a source failed, and its earlier"
        " policies stay in force. Exit status 3: a policy could not be renewed.",
    )
    refresh.add_argument(
        "domains",
        nargs="*",
        metavar="DOMAIN",
        help="look up the MTA-STS policy of this domain now, due or not",
    )
    refresh.add_argument(
        "--force", action="store_true", help="query all sources, due or not"
    )
    refresh.set_defaults(
        command=lambda arguments: _refresh(
            find(arguments), arguments.domains, force=arguments.force
        )
    )


def _declare_show(verbs: Commands, find: Find) -> None:
    show = verbs.add_parser("show", help="list the policies in force and in testing")
    show.add_argument("--json", action="store_true", help="print them as JSON")
    show.add_argument(
        "--failing",
        action="store_true",
        help="show the domains whose MTA-STS policy cannot be looked up, and why",
    )
    show.set_defaults(
        command=lambda arguments: (_show_failing if arguments.failing else _show)(
            find(arguments), as_json=arguments.json
        )
    )


@gc_paused()
def _refresh(outbound: Outbound, names: list[str], *, force: bool) -> int:
    require_root()
    now, collector = datetime.now(timezone.utc), outbound.collector
    domains = {parse_domain(name.removesuffix("."), "DOMAIN") for name in names}
    collector.force = force and not domains
    collector.urgent = frozenset(domains)
    before = collector.states()
    refreshed = outbound.refresh_sources(now, wait=lock.PATIENCE)
    after = collector.states()
    _refuse_unknown(domains - after.keys())
    lock.take(outbound.postfix.directory, wait=lock.PATIENCE)
    if missing := outbound.missing():
        logger.error("%s", missing)
        return 1
    if collector.settings() is None:
        print("there are no policies to refresh", file=sys.stderr)
        return 0
    complaints = outbound.refresh(now, refreshed)
    _report(before, after, domains, now)
    for complaint in complaints:
        logger.error("%s", complaint)
    return 1 if complaints else 0


def _refuse_unknown(names: Iterable[str]) -> None:
    if unknown := sorted(names):
        raise Error(
            f"the MTA-STS policy of {enumerated(unknown)} is not looked up",
            hint="add it to the file that --postfix-mta-sts-domains names;"
            " certbot-postfix policy query DOMAIN shows what a domain publishes",
        )


def _report(before: Cache, after: Cache, domains: Iterable[str], now: datetime) -> None:
    """Print what has changed, and the state of *domains*; warn of policies that end."""
    lines = {
        name: f"{name}: {domain_state.described(after[name], now)}" for name in domains
    }
    for name, policy in after.items():
        for change in domain_state.changes(name, before.get(name), policy, now):
            lines[name] = change
    for name in sorted(lines):
        print(shown(lines[name], sys.stdout))
    if why := domain_state.finding(after, now):
        logger.warning("%s", why)


def _show(outbound: Outbound, *, as_json: bool) -> int:
    if missing := outbound.missing():
        logger.error("%s", missing)
        return 1
    if unnamed := outbound.unnamed():
        logger.warning("%s", unnamed)
    path = outbound.path
    entries = list(policy_file.entries(path))
    if as_json:
        print(json.dumps([_described(entry) for entry in entries], indent=2))
        return 0
    domains = [entry.domain for entry in entries if entry.enforced]
    for note in (
        *effect.short_lived(entries),
        *effect.bypassed(outbound.postfix, outbound.configuration, path, domains),
    ):
        logger.warning("%s", note)
    for entry in entries:
        names = "DANE" if entry.dane else lookup.servers(entry.policy.mxs)
        line = (
            f"{entry.domain}: {entry.policy.mode.value} until"
            f" {entry.expires:%Y-%m-%d %H:%M} UTC, {names}"
            f" ({short(entry.source, _LABEL)})"
        )
        print(shown(line, sys.stdout))
    if not entries:
        print("there are no policies", file=sys.stderr)
    return 0


def _show_failing(outbound: Outbound, *, as_json: bool) -> int:
    require_root()
    now, states = datetime.now(timezone.utc), outbound.collector.states()
    failing = {name: states[name] for name in sorted(states) if states[name].failing}
    if as_json:
        described = [domain_state.fields(name, failing[name], now) for name in failing]
        print(json.dumps(described, indent=2))
    else:
        for name, policy in failing.items():
            line = f"{name}: {domain_state.described(policy, now)}"
            print(shown(line, sys.stdout))
        if not failing:
            print("no look-up fails", file=sys.stderr)
    return ATTEND if domain_state.finding(failing, now) else 0


def _query(outbound: Outbound, name: str) -> int:
    domain = parse_domain(name.removesuffix("."), "DOMAIN")
    now, root = datetime.now(timezone.utc), os.geteuid() == 0
    known = outbound.collector.states().get(domain) if root else None
    ca_file = outbound.configuration.ca_bundle
    publication = published.look(domain, DaneResolver(), ca_file)
    for line in publication.lines():
        print(shown(line, sys.stdout))
    unknown = "its policy is not looked up" if root else "only root sees its state"
    state = domain_state.described(known, now) if known else unknown
    print(shown(f"on this host: {state}", sys.stdout))
    for why in publication.problems(known):
        logger.warning("%s", why)
    return 0


def _described(entry: Entry) -> dict[str, object]:
    return {
        "domain": entry.domain,
        "mode": entry.policy.mode.value,
        "mxs": list(entry.policy.mxs),
        "dane": entry.dane,
        "expires": entry.expires.isoformat(),
        "source": entry.source,
    }


def _test(outbound: Outbound, name: str, *, connect: bool) -> int:
    domain = parse_domain(name.removesuffix("."), "DOMAIN")
    written = domain if name.isascii() else name.removesuffix(".").casefold()
    postfix, configuration = outbound.postfix, outbound.configuration

    def ask(table: str, keys: set[str]) -> dict[str, str]:
        listed = maps.listed(configuration.value("transport_maps"))
        parameter = "transport_maps" if table in listed else "relay_domains"
        return lookup.answers(postfix, table, keys, parameter=parameter)

    route = routes.find(configuration, written, ask)
    seen = routes.seen(configuration, route)
    key = routes.key(configuration, route, written)
    answer = lookup.answer(postfix, seen, key)
    print(shown(str(answer), sys.stdout))
    problems = _problems(outbound, route, domain, written, answer)
    for why in problems:
        logger.warning("%s", why)
    if not connect:
        return ATTEND if problems else 0
    # A name in UTF-8 is looked up in DNS as its A-labels.
    hop = domain if key == written else key
    fits, answers = lookup.connect(postfix, seen, hop, answer)
    for line in answers:
        print(shown(f"  {line}", sys.stdout))
    fits &= not problems
    print(f"mail to {domain} {'is' if fits else 'is not'} sent as demanded")
    return 0 if fits else ATTEND


def _problems(
    outbound: Outbound, route: Route, domain: str, written: str, answer: Answer
) -> list[str]:
    """Return why the policy for *domain*, which is *written* so, is not what counts."""
    postfix, configuration = outbound.postfix, outbound.configuration
    problems = fitness.complaints(postfix, configuration)
    if lookup.answer(postfix, configuration, written).table:  # if nobody reroutes it
        why = routes.void(configuration, route, outbound.path, written)
        problems += filter(None, [why])
        problems += routes.elsewhere(configuration)
    elif written != domain and lookup.answer(postfix, configuration, domain).table:
        problems.append(
            f"the policy for {domain} does not apply to this spelling, which Postfix"
            " looks up as it is"
        )
    if answer.level in ("dane", "dane-only"):
        problems += filter(None, [dnssec.without_dane(configuration, answer.level)])
    return problems
