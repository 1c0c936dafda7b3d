"""Where mail for a domain goes, and whether a policy for it counts there.

Postfix looks up a policy for the next hop, postconf(5), smtp_tls_policy_maps: it counts
where that is the domain itself, and an SMTP client that asks our table takes the mail.
What routes say is in transport(5).  What cannot be read here is reported, not followed.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from certbot_postfix.errors import Error, enumerated
from certbot_postfix.outbound import main_cf
from certbot_postfix.outbound.policy_map import PARAMETER, spellings_of
from certbot_postfix.postfix import maps
from certbot_postfix.postfix.configuration import Configuration, Service, words_of
from certbot_postfix.postfix.services import as_clients_see_it
from certbot_postfix.system import files

# What asks a table for keys, and returns what it has of them.
Ask = Callable[[str, set[str]], Mapping[str, str]]

# What depends on the sender or on the content of a message.
_DEPENDING = (
    "sender_dependent_default_transport_maps",
    "sender_dependent_relayhost_maps",
)

_PATTERNS = ("pcre:", "regexp:")

# What takes mail that does not leave this machine.
_STAYS = frozenset({"discard", "error", "local", "virtual"})

# The actions of access(5) and header_checks(5) that name a next hop.
_FILTER = re.compile(r"(?<![^\s{=:])FILTER\s+([^\s{}]+:[^\s{}]*)", re.IGNORECASE)
_COMMENT = re.compile(r"^\s*#.*", re.MULTILINE)
_CHECKS = re.compile(r"(?:header|body|milter_header)_checks|smtpd_\w+_restrictions")

# How much of a table with actions is read.
_LARGEST = 1_000_000

# How much of a next hop a message has: a host name has 253 letters.
SHOWN = 300


@dataclass(frozen=True, slots=True)
class Route:
    """The *transport*, and the *nexthop*, "" for the domain, by which *cause*."""

    transport: str
    nexthop: str
    cause: str

    def __str__(self) -> str:
        return f"{self.transport}:{self.nexthop}"[:SHOWN]


def find(configuration: Configuration, domain: str, ask: Ask) -> Route:
    """Return the route of mail for *domain*."""
    usual = _usual(configuration, domain, ask)
    tables = maps.listed(configuration.value("transport_maps"))
    answers = [(table, ask(table, set(_keys(table, domain)))) for table in tables]
    for key in (_somebody(domain), *main_cf.keys(domain), "*"):
        for table, values in answers:
            if key in values:
                return _routed(values[key], usual, f"{table} in transport_maps")
    return usual


def _keys(table: str, domain: str) -> list[str]:
    """Return what a *table* of transport_maps is asked for mail to *domain*.

    Patterns are applied to a whole address only: transport(5), regular expressions.
    """
    if table.removeprefix("proxy:").startswith(_PATTERNS):
        return [_somebody(domain)]
    return [*main_cf.keys(domain), "*"]


def _somebody(domain: str) -> str:
    return f"postmaster@{domain}"  # who is at each domain: RFC 5321, 4.5.1


def _names(domain: str) -> set[str]:
    """Return *domain* and its parents, as relay_domains is asked for them."""
    return {key.removeprefix(".") for key in main_cf.keys(domain)}


def _relayed(configuration: Configuration) -> list[str]:
    """Return the tables of relay_domains, of which the keys are domains."""
    listed = maps.listed(configuration.value("relay_domains"))
    return [table for table in listed if ":" in table]


def _usual(configuration: Configuration, domain: str, ask: Ask) -> Route:
    """Return the route where transport_maps has none."""
    names, relayed = _names(domain), _relayed(configuration)
    relays = not names.isdisjoint(configuration.words("relay_domains"))
    relays = relays or any(ask(table, names) for table in relayed)
    name = "relay_transport" if relays else "default_transport"
    transport, _, nexthop = configuration.value(name).partition(":")
    if nexthop or not (relay := configuration.value("relayhost")):
        return Route(transport, nexthop, name)
    return Route(transport, relay, "relayhost")


def _routed(value: str, usual: Route, cause: str) -> Route:
    transport, _, nexthop = value.strip().partition(":")
    if transport or nexthop:
        return Route(transport or usual.transport, nexthop, cause)
    return usual


def client(configuration: Configuration, route: Route) -> Service | None:
    """Return the service of master.cf that takes the mail, if there is one."""
    name = f"{route.transport}/unix"
    matches = (service for service in configuration.services if str(service) == name)
    return next(matches, None)


def key(configuration: Configuration, route: Route, domain: str) -> str:
    """Return the next hop for which a client would look up a policy."""
    service = client(configuration, route)
    if service and service.command in _STAYS:
        return domain  # what stands there is a reason, not a next hop
    return route.nexthop or domain


def seen(configuration: Configuration, route: Route) -> Configuration:
    """Return *configuration* as the service that takes the mail sees it."""
    service = client(configuration, route)
    overrides = service.overrides if service else {}
    return replace(configuration, values={**configuration.values, **overrides})


def void(configuration: Configuration, route: Route, path: Path, domain: str) -> str:
    """Return why a policy for *domain* in our table at *path* does not count, or ""."""
    service = client(configuration, route)
    if service and service.command in _STAYS:
        return ""
    if service and service.command != "smtp":
        return f"{route.cause} sends mail to {service}, which follows no policies"
    if route.nexthop.lower() not in ("", domain):
        cause = f"{route.cause} sends mail to {route.nexthop[:SHOWN]}"
        return f"{cause}, and Postfix looks up a policy for that instead"
    own = service.overrides.get(PARAMETER) if service else None
    if own is not None and not maps.map_type(own, path):
        return f"master.cf overrides {PARAMETER} for {service}"
    return ""


def elsewhere(configuration: Configuration) -> Iterator[str]:
    """Yield why mail for any domain may go where policies for it do not count."""
    for name in _DEPENDING:
        if value := configuration.value(name):
            yield (
                f"{name} = {value}: policies for the domain of a recipient have no"
                " effect where it sends a sender's mail elsewhere"
            )
    for value in dict.fromkeys(
        client.value("smtp_fallback_relay")
        for client in as_clients_see_it(configuration)
    ):
        if value:
            yield (
                f"smtp_fallback_relay = {value}: mail that no server of a domain takes"
                " as its policy demands goes there, without that policy"
            )
    for route in dict.fromkeys(
        replace(route, cause="") for route in filters(configuration)
    ):
        yield (
            f"{route} is a content filter: policies count only for the mail that it"
            " gives back to this Postfix"
        )


def filters(configuration: Configuration) -> Iterator[Route]:
    """Yield the routes of content_filter, and of FILTER in what can be read."""
    places: list[Mapping[str, str]] = [configuration.values]
    places += [service.overrides for service in configuration.services]
    for values in places:
        named = words_of(values.get("smtpd_restriction_classes", ""))
        classes = {*named, *configuration.words("smtpd_restriction_classes")}
        if value := values.get("content_filter"):
            yield _filter(configuration, value, "content_filter")
        for name, value in values.items():
            if name in classes or _CHECKS.search(name):
                for action in _actions(value):
                    yield _filter(configuration, action, f"FILTER in {name}")


def _filter(configuration: Configuration, value: str, cause: str) -> Route:
    transport, _, nexthop = value.partition(":")
    usual = configuration.value("default_filter_nexthop")
    return Route(transport, nexthop or usual, cause)


def _actions(value: str) -> Iterator[str]:
    yield from _FILTER.findall(value)  # of static: and inline:
    for _, path in maps.files(value):
        with suppress(Error):
            text = files.read(path, most=_LARGEST)
            yield from _FILTER.findall(_COMMENT.sub("", text.decode(errors="replace")))


def complaints(
    configuration: Configuration, path: Path, domains: Collection[str], ask: Ask
) -> list[str]:
    """Return why policies for *domains* in our table at *path* do not count."""
    if not domains:
        return []
    spellings = dict(zip(domains, domains, strict=True))
    international = [domain for domain in domains if "xn--" in domain]
    spellings |= {name: one for one in international for name in spellings_of(one)}
    known: dict[str, Mapping[str, str]] = {
        table: ask(table, {name for spelling in spellings for name in _names(spelling)})
        for table in _relayed(configuration)
    }
    for table in maps.listed(configuration.value("transport_maps")):
        known[table] = ask(
            table, {key for spelling in spellings for key in _keys(table, spelling)}
        )

    def answers(table: str, keys: set[str]) -> dict[str, str]:
        return {key: known[table][key] for key in keys if key in known[table]}

    listed = {*configuration.words("relay_domains")}.union(*known.values())
    by_reason: dict[str, set[str]] = {}
    for route, names in _by_route(configuration, spellings, listed, answers):
        nexthop = route.nexthop.lower()
        for own in (True, False):
            alike = (name for name in names if (name == nexthop) is own)
            first = next(alike, None)
            if first and (why := void(configuration, route, path, first)):
                affected = map(spellings.__getitem__, (first, *alike))
                by_reason.setdefault(why, set()).update(affected)
    messages = [
        f"policies for {enumerated(sorted(affected))} have no effect: {why}"
        for why, affected in by_reason.items()
    ]
    return [*messages, *_unread(configuration), *elsewhere(configuration)]


def _by_route(
    configuration: Configuration, names: Collection[str], listed: set[str], ask: Ask
) -> Iterator[tuple[Route, Collection[str]]]:
    """Yield the *names* of domains by their routes.

    There may be a million: those that are not *listed*, nor a parent, go one way.
    """
    # What stands for all does not tell one from another.
    keys = {key for name in listed - {"*"} for key in (name, f".{name}")}
    apart: dict[Route, list[str]] = {}
    others: Collection[str] = names
    if keys:
        others = []
        for name in names:
            if keys.isdisjoint((_somebody(name), *main_cf.keys(name))):
                others.append(name)
            else:
                apart.setdefault(find(configuration, name, ask), []).append(name)
    yield from apart.items()
    for name in islice(others, 1):
        yield find(configuration, name, ask), others


def _unread(configuration: Configuration) -> Iterator[str]:
    """Yield what is not known of routes, since their tables are not asked."""
    for table in maps.listed(configuration.value("transport_maps")):
        if not main_cf.local(table):
            yield (
                f"{table} in transport_maps is not asked: where it sends mail"
                " elsewhere, policies have no effect"
            )
    transport = configuration.value("relay_transport")
    for table in _relayed(configuration):
        if transport.partition(":")[2] and not main_cf.local(table):
            yield (
                f"{table} in relay_domains is not asked: policies for its domains have"
                f" no effect, since relay_transport sends mail to {transport[:SHOWN]}"
            )
