"""The next hops that a mandatory level of the SMTP client would cut off.

postconf(5), smtp_tls_security_level: at the level encrypt, a server that offers no TLS
gets no mail, and a content filter on this machine seldom offers any.  So those that are
configured here are asked before the level is raised.  lmtp(8) has a level of its own.
"""

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from certbot_postfix.errors import Error, ProofError, enumerated
from certbot_postfix.outbound import lookup, routes
from certbot_postfix.outbound.policy_map import PARAMETER
from certbot_postfix.outbound.routes import Route
from certbot_postfix.postfix import maps
from certbot_postfix.postfix.configuration import Configuration, Service
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system import dns, files
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.tls import probe
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import Question
from certbot_postfix.tls.verification import side_by_side

LEVEL = "smtp_tls_security_level"

# Seconds for all of them, side by side, and how many are asked.
SECONDS = 10.0
MOST = 100

# In bytes: a table that is larger is not read.
_LARGEST = 10_000_000

_SOURCES = frozenset(
    "btree cdb cidr dbm hash lmdb pcre regexp sdbm texthash".split()  # noqa: SIM905
)
_PAIR = re.compile(r"=\s*([^\s,{}]+)")


@dataclass(frozen=True, slots=True)
class Hop:
    """The next hop *name*, as policies are looked up for it.

    The parameter *cause* refers to it, and *service* of master.cf delivers to it.
    """

    name: str
    service: Service
    cause: str

    def __str__(self) -> str:
        return f"{self.name[: routes.SHOWN]} ({self.cause})"


def find(configuration: Configuration) -> list[Hop]:
    """Return the next hops that are configured here and have main.cf's level."""
    hops: dict[tuple[str, str], Hop] = {}
    for route in _routes(configuration):
        service = routes.client(configuration, route)
        if not service or service.command != "smtp" or LEVEL in service.overrides:
            continue
        for name in re.split(r"[\s,]+", route.nexthop):
            if name:
                hop = Hop(name, service, route.cause)
                hops.setdefault((name, service.name), hop)
    return list(hops.values())


def unread(configuration: Configuration) -> list[str]:
    """Return the tables of routes that cannot be read here."""
    return [
        f"{table} in {name}"
        for name, value in _parameters(configuration)
        if name == "transport_maps"
        for table in maps.listed(value)
        if _values(table) is None
    ]


def _routes(configuration: Configuration) -> Iterator[Route]:
    yield from routes.filters(configuration)
    usual = [
        configuration.value(name).partition(":")[0]
        for name in ("default_transport", "relay_transport")
    ]
    for name, value in _parameters(configuration):
        if name.endswith("_transport"):
            yield _route(value, usual[0], name)
        elif name == "relayhost":
            yield from (Route(transport, value, name) for transport in usual)
        elif name.endswith(("transport_maps", "relayhost_maps")):
            for nexthop in _listed(value):
                # The latter have a next hop only, which may begin like a transport.
                relay = name.endswith("relayhost_maps")
                yield _route(f":{nexthop}" if relay else nexthop, usual[0], name)
    for service in configuration.services:
        name = "smtp_fallback_relay"
        yield Route(service.name, configuration.value(name, service), name)


def _listed(value: str) -> Iterator[str]:
    """Yield what the tables in *value* have, as far as they can be read."""
    for table in maps.listed(value):
        yield from _values(table) or []


def _route(value: str, usual: str, cause: str) -> Route:
    transport, _, nexthop = value.strip().partition(":")
    return Route(transport or usual, nexthop, cause)


def _parameters(configuration: Configuration) -> Iterator[tuple[str, str]]:
    """Yield each parameter with each value, those first that others refer to."""
    first = ("default_transport", "relay_transport", "relayhost", "transport_maps")
    places: list[Mapping[str, str]] = [configuration.values]
    places += [service.overrides for service in configuration.services]
    for values in places:
        for name in sorted(values, key=lambda name: (name not in first, name)):
            yield name, values[name]


def _values(table: str) -> list[str] | None:
    """Return what *table* has for all of its keys, None if that cannot be read."""
    kind, _, rest = table.removeprefix("proxy:").partition(":")
    if kind == "static":
        return [rest.strip("{} ")]
    if kind == "inline":
        return _PAIR.findall(rest)
    if kind not in _SOURCES:
        return None
    try:
        text = files.read(Path(rest), most=_LARGEST).decode(errors="replace")
    except Error:
        return None
    # A line that begins with blanks continues the one before: DATABASE_README.
    lines = re.sub(r"\n[ \t]+", " ", text).splitlines()
    pairs = (line.split(None, 1) for line in lines if not line.startswith("#"))
    return [pair[1].strip() for pair in pairs if len(pair) > 1]


def refuse_without_tls(postfix: Postfix, configuration: Configuration) -> list[str]:
    """Raise `Error` if a next hop that inherits the level offers no TLS.

    Returns a sentence for each of which that is not known.
    """
    unknown = [f"{table} is not read" for table in unread(configuration)]
    hops = []
    for hop in find(configuration):
        try:
            if not _exempt(postfix, configuration, hop):
                hops.append(hop)
        except Error as error:
            unknown.append(f"{hop}: {error.message}")
    once = {(hop.name, _wrapped(configuration, hop)): hop for hop in reversed(hops)}
    places = list(once.values())[::-1]
    unknown += [f"{hop} is not asked: there are too many" for hop in places[MOST:]]
    without, unanswered = _ask(configuration, places[:MOST])
    if without:
        raise _refusal(without, hops)
    unknown += unanswered
    effect = f"next hops without TLS get no mail with {LEVEL} = encrypt"
    return [f"{hop}; {effect}" for hop in unknown]


def _exempt(postfix: Postfix, configuration: Configuration, hop: Hop) -> bool:
    """Whether a table has a level of its own for *hop*."""
    route = Route(hop.service.name, hop.name, hop.cause)
    seen = routes.seen(configuration, route)
    return bool(lookup.answer(postfix, seen, hop.name).table)


def _refusal(without: list[tuple[Hop, str]], hops: list[Hop]) -> Error:
    several = len(without) > 1
    named = enumerated([f"{hop}: {why}" for hop, why in without], most=3)
    hop = without[0][0]
    clients = [str(other.service) for other in hops if other.name == hop.name]
    return Error(
        f"{LEVEL} = encrypt would defer all mail to {'next hops' if several else 'a'}"
        f"{'' if several else ' next hop'} without TLS: {named}; no changes were made",
        hint=f"exempt {'each' if several else 'it'}: an entry `{hop.name} may` in"
        f" {PARAMETER}, or `-o {LEVEL}=may` for {enumerated(clients, most=3)} in"
        " master.cf",
    )


def _ask(
    configuration: Configuration, hops: list[Hop]
) -> tuple[list[tuple[Hop, str]], list[str]]:
    """Return which of *hops* offer no TLS, with the reason, and which do not answer."""
    deadline = Deadline(SECONDS)
    without: dict[int, str] = {}
    unknown = dict.fromkeys(range(len(hops)), "it did not answer: timed out")

    def ask(number: int) -> None:
        try:
            question = _question(configuration, hops[number])
            seconds = max(deadline.left, 0.1)
            if why := probe.without_tls(question, timeout=seconds):
                without[number] = why
            del unknown[number]
        except ProofError as error:
            unknown[number] = f"it did not answer: {error.reason}"
        except Error as error:
            unknown[number] = f"it was not asked: {error.message}"

    side_by_side(ask, range(len(hops)), patience=SECONDS)
    return (
        [(hops[number], without[number]) for number in sorted(without)],
        [f"{hops[number]}: {why}" for number, why in sorted(unknown.items())],
    )


def _question(configuration: Configuration, hop: Hop) -> Question:
    """Return where *hop* is; raise `Error` if that is not known.

    A name in brackets is a host's; another one is looked up in the DNS: smtp(8).
    """
    parts = re.fullmatch(r"(\[[^]$]+\]|[^:$]+)(?::([A-Za-z0-9-]+))?", hop.name)
    if not parts:
        raise Error("its name is not understood")
    port = parts[2] or configuration.value("smtp_tcp_port", hop.service) or "25"
    with suppress(OSError):
        port = port if port.isdigit() else str(socket.getservbyname(port, "tcp"))
    if not (port.isdigit() and int(port) < 1 << 16):
        raise Error(f"the port {port} is not known")
    host = re.sub(r"(?i)^ipv6:", "", parts[1].strip("[]"))
    if not parts[1].startswith("[") and _looks_up(configuration, hop.service):
        host = dns.Resolver().server(host)
    if not host:
        raise Error("its domain accepts no mail")  # a null MX: RFC 7505
    wrapped = _wrapped(configuration, hop)
    return Question(Endpoint(hop.name, host, int(port), wrapped), None)


def _wrapped(configuration: Configuration, hop: Hop) -> bool:
    return configuration.flag("smtp_tls_wrappermode", hop.service)


def _looks_up(configuration: Configuration, service: Service) -> bool:
    """Whether a client looks up MX records: postconf(5), smtp_dns_support_level."""
    level = configuration.value("smtp_dns_support_level", service).lower()
    off = configuration.flag("disable_dns_lookups", service)
    return level != "disabled" and (bool(level) or not off)
