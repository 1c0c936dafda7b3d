"""What postscreen serves itself: TLS for clients that it does not pass to smtpd.

Pure.  tlsproxy(8) presents the certificate of tlsproxy_tls_*, whose defaults are
smtpd_tls_*; from Postfix 3.12 on, that of postscreen_tls_*, and it has none where its
own parameters differ.  Raises `Error` where another certificate would be presented.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from certbot_postfix.errors import Error
from certbot_postfix.postfix.configuration import (
    CHAIN,
    LEGACY,
    Configuration,
    Service,
    endpoints,
)
from certbot_postfix.postfix.decisions import Change, CommentOut, Decision, Kept
from certbot_postfix.tls.endpoints import Endpoint

_CERTIFICATES = [name for name in LEGACY if "cert" in name]

# Of these, postscreen and tlsproxy may have values that differ.
_OWN = frozenset({"security_level", "loglevel", "loglevel_maps", "trace_size_limit"})

# Where a stranger may come from.  Lists of clients for tests (RFC 5782, section 5) have
# 127.0.0.2, and those around it mean something to many.
_STRANGERS = ("127.25.25.25", "127.0.25.25")

PROXY, SCREEN = "tlsproxy_tls", "postscreen_tls"


def strangers(configuration: Configuration) -> list[Endpoint]:
    """Return where to ask as a client that postscreen does not pass to smtpd at once.

    Those that it does not have in mynetworks, on loopback, and where it would present
    what smtpd does.
    """
    source = _stranger(configuration.value("mynetworks"))
    if not source or differences(configuration) or mismatches(configuration):
        return []
    screened = {str(each) for each in _screens(configuration)}
    return [
        replace(each, source=source)
        for each in endpoints(configuration)[0]
        if each.service in screened and each.host.startswith("127.")
    ]


def _stranger(networks: str) -> str:
    """Return an address that is in none of *networks*, empty if there is none."""
    known = []
    for each in networks.replace(",", " ").split():
        try:
            known.append(ipaddress.ip_network(each.replace("[", "").replace("]", "")))
        except ValueError:  # a table, or excluded by !
            continue
    return next(
        (
            each
            for each in _STRANGERS
            if not any(ipaddress.ip_address(each) in network for network in known)
        ),
        "",
    )


def differences(configuration: Configuration) -> list[str]:
    """Return which parameters make postscreen present another certificate than smtpd.

    Each with its place.
    """
    if not _screens(configuration):
        return []
    wanted, _ = _named(configuration, "smtpd_tls", None)
    found: dict[str, None] = {}
    for prefix, service in _scopes(configuration):
        files, places = _named(configuration, prefix, service)
        if files != wanted:
            found.update(dict.fromkeys(places))
    return list(found)


def mismatches(configuration: Configuration) -> list[str]:
    """Return the parameters of postscreen that tlsproxy has otherwise.

    Postfix 3.12 and later: then tlsproxy cannot read the keys.
    """
    names = [name for name in configuration.defaults if name.startswith(f"{SCREEN}_")]
    proxy = _proxy(configuration)
    return [
        name
        for service in _screens(configuration)
        for name in names
        if (what := name.removeprefix(f"{SCREEN}_")) not in _OWN
        and f"{PROXY}_{what}" in configuration.defaults
        and _value(configuration, f"smtpd_tls_{what}", SCREEN, service)[0]
        != _value(configuration, f"smtpd_tls_{what}", PROXY, proxy)[0]
    ]


def follow(
    configuration: Configuration, decisions: Iterable[Decision]
) -> list[CommentOut]:
    """Return what makes postscreen present what smtpd will after *decisions*.

    Raises `Error` if it presents something else already.
    """
    after = _applied(configuration, decisions)
    differing = differences(after) or mismatches(after)
    if not differing:
        return []
    why = "the certificate for smtpd is its default"
    ours = [
        CommentOut(name, value, why)
        for name, value in configuration.explicit.items()
        if name.startswith((f"{PROXY}_", f"{SCREEN}_"))
        and name.replace(PROXY, "smtpd_tls").replace(SCREEN, "smtpd_tls")
        in (CHAIN, *LEGACY)
    ]
    rest = _applied(after, ours)
    alike = not differences(configuration) and not mismatches(configuration)
    if ours and alike and not differences(rest) and not mismatches(rest):
        return ours
    raise Error(
        f"{', '.join(differing)}: clients to which postscreen itself offers TLS would"
        " not be presented the certificate that smtpd presents; no changes were made",
        hint="remove these settings: the defaults are the values for smtpd",
    )


def _screens(configuration: Configuration) -> list[Service]:
    services = configuration.services
    return [each for each in services if (each.command, each.kind) == _SCREEN]


_SCREEN = ("postscreen", "inet")


def _proxy(configuration: Configuration) -> Service | None:
    found = (each for each in configuration.services if each.command == "tlsproxy")
    return next(found, None)


def _scopes(configuration: Configuration) -> Iterator[tuple[str, Service | None]]:
    """Yield how the parameters begin that decide, and the service that reads them."""
    yield PROXY, _proxy(configuration)
    if f"{SCREEN}_chain_files" in configuration.defaults:
        for service in _screens(configuration):
            yield SCREEN, service


def _named(
    configuration: Configuration, prefix: str, service: Service | None
) -> tuple[list[str], list[str]]:
    """Return the files with certificates, and where they are named, if not by default.

    postconf(5), smtpd_tls_chain_files: if it is set, the older ones are ignored.
    """
    chain, place = _value(configuration, CHAIN, prefix, service)
    if files := chain.replace(",", " ").split():
        return files, [place] if place else []
    older = [_value(configuration, name, prefix, service) for name in _CERTIFICATES]
    places = [place, *(where for _, where in older)]
    return (
        [file for file, _ in older if file not in ("", "none")],
        list(filter(None, places)),
    )


def _value(
    configuration: Configuration, name: str, prefix: str, service: Service | None
) -> tuple[str, str]:
    """Return what *service* has for the parameter of smtpd, and where that is set."""
    own = name.replace("smtpd_tls", prefix)
    overrides = service.overrides if service else {}
    if own in overrides:
        return overrides[own], f"{own} in {service} of master.cf"
    if own != name and own in configuration.explicit and own in configuration.values:
        return configuration.values[own], f"{own} in main.cf"
    if name in overrides:
        return overrides[name], f"{name} in {service} of master.cf"
    return configuration.value(name), ""


def _applied(
    configuration: Configuration, decisions: Iterable[Decision]
) -> Configuration:
    """Return *configuration* as it is after *decisions*, as far as it matters here."""
    explicit, values = dict(configuration.explicit), dict(configuration.values)
    changed = [each for each in decisions if not isinstance(each, Kept)]
    for each in changed:
        explicit.pop(each.name, None)
        if isinstance(each, Change):
            explicit[each.name] = each.new
        text = explicit.get(each.name, configuration.defaults.get(each.name, ""))
        values[each.name] = _expanded(text, values)
    for name, text in explicit.items():
        if name.startswith((f"{PROXY}_", f"{SCREEN}_")) and name in values:
            values[name] = _expanded(text, values)
    services = tuple(
        replace(
            service,
            overrides={
                name: _expanded(service.written.get(name, value), values)
                for name, value in service.overrides.items()
            },
        )
        if service.command in ("tlsproxy", "postscreen")
        else service
        for service in configuration.services
    )
    return replace(configuration, explicit=explicit, values=values, services=services)


def _expanded(text: str, values: Mapping[str, str]) -> str:
    """Return *text* with the plain forms of ``$name`` expanded."""
    return re.sub(
        r"\$(?:(\$)|\{(\w+)\}|\((\w+)\)|(\w+))",
        lambda found: found[1] or values.get(found[2] or found[3] or found[4], ""),
        text,
    )
