"""What postscreen serves itself: TLS for clients that it does not pass to smtpd.

Pure.  tlsproxy(8) presents the certificate of tlsproxy_tls_*, whose defaults are
smtpd_tls_*; from Postfix 3.12 on, that of postscreen_tls_*, and it has none where its
own parameters differ.  Raises `Error` where another certificate would be presented.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from certbot_postfix.errors import Error
from certbot_postfix.postfix.configuration import (
    CHAIN,
    LEGACY,
    Configuration,
    Service,
    words_of,
)
from certbot_postfix.postfix.decisions import Change, CommentOut, Decision, Kept
from certbot_postfix.postfix.services import endpoints
from certbot_postfix.tls.endpoints import Endpoint

# From Postfix 3.12 on, tlsproxy has read its keys with these, before it gave up the
# right to read them: tlsproxy_server.c, TLS_SERVER_INIT_ARGS.
_WITH_KEYS = (
    *(CHAIN, *LEGACY, "smtpd_tls_CAfile", "smtpd_tls_CApath", "smtpd_tls_loglevel"),
    *("smtpd_tls_always_issue_session_ids", "smtpd_tls_ccert_verifydepth"),
    *("smtpd_tls_dh1024_param_file", "smtpd_tls_dh512_param_file"),
    *("smtpd_tls_eecdh_grade", "smtpd_tls_fingerprint_digest"),
)

# Where a stranger may come from.  Lists of clients for tests (RFC 5782, section 5) have
# 127.0.0.2, and those around it mean something to many.
_STRANGERS = ("127.25.25.25", "127.0.25.25")

PROXY, SCREEN = "tlsproxy", "postscreen"


class _Setting(NamedTuple):
    """What is in force, and where that is set, if not by the defaults."""

    value: str
    places: tuple[str, ...] = ()

    @property
    def yes(self) -> bool:
        """Whether that of a parameter that says yes or no is yes."""
        return self.value.lower() == "yes"


@dataclass(frozen=True, slots=True)
class _Reader:
    """A *program* with parameters of its own, whose defaults are those of smtpd."""

    configuration: Configuration
    program: str
    service: Service | None

    def setting(self, name: str) -> _Setting:
        """Return what it has for the parameter of smtpd."""
        own = name.replace("smtpd", self.program, 1)
        known = self.configuration
        overrides = self.service.overrides if self.service else {}
        inherited = own == name or own not in known.explicit or own not in known.values
        for parameter in (own, name) if inherited else (own,):
            if parameter in overrides:
                place = f"{parameter} in {self.service} of master.cf"
                return _Setting(overrides[parameter], (place,))
        if inherited:
            return _Setting(known.value(name))
        return _Setting(known.values[own], (f"{own} in main.cf",))

    def files(self) -> _Setting:
        """Return the files with certificates and keys.

        postconf(5), smtpd_tls_chain_files: if it is set, the older ones are ignored.
        """
        chain = self.setting(CHAIN)
        if files := words_of(chain.value):
            return _Setting(" ".join(files), chain.places)
        older = [self.setting(name) for name in LEGACY]
        places = [place for setting in (chain, *older) for place in setting.places]
        files = [file for file, _ in older if file not in ("", "none")]
        return _Setting(" ".join(files), tuple(places))

    def level(self) -> _Setting:
        """Return the security level; "none" is TLS off."""
        level = self.setting("smtpd_tls_security_level")
        if level.value:
            return level._replace(value=level.value.lower())
        enforce, use = map(self.setting, ("smtpd_enforce_tls", "smtpd_use_tls"))
        value = "encrypt" if enforce.yes else "may" if use.yes else "none"
        return _Setting(value, level.places + enforce.places + use.places)

    def with_keys(self) -> list[_Setting]:
        """Return with what it reads its keys, or wants them read."""
        level = self.level()
        enforced = level.value != "may"
        which = "mandatory_protocols" if enforced else "protocols"
        protocols = self.setting(f"smtpd_tls_{which}")
        ask, require = map(self.setting, ("smtpd_tls_ask_ccert", "smtpd_tls_req_ccert"))
        asks = ask.yes or (enforced and require.yes)
        return [
            *map(self.setting, _WITH_KEYS),
            _Setting(protocols.value, level.places + protocols.places),
            _Setting(str(asks), level.places + ask.places + require.places),
        ]


def strangers(configuration: Configuration) -> list[Endpoint]:
    """Return where to ask as a client that postscreen does not pass to smtpd at once.

    Those that it does not have in mynetworks, on loopback, and where it would present
    what smtpd does.
    """
    source = _stranger(configuration.value("mynetworks"))
    if not source or differences(configuration) or mismatches(configuration):
        return []
    screened = {str(screen) for screen in _screens(configuration)}
    return [
        replace(endpoint, source=source)
        for endpoint in endpoints(configuration)[0]
        if endpoint.service in screened and endpoint.host.startswith("127.")
    ]


def _stranger(networks: str) -> str:
    """Return an address that is in none of *networks*, empty if there is none."""
    known = []
    for word in words_of(networks):
        try:
            known.append(ipaddress.ip_network(word.replace("[", "").replace("]", "")))
        except ValueError:  # a table, or excluded by !
            continue
    return next(
        (
            address
            for address in _STRANGERS
            if not any(ipaddress.ip_address(address) in network for network in known)
        ),
        "",
    )


def differences(configuration: Configuration) -> list[str]:
    """Return which parameters make postscreen present another certificate than smtpd.

    Each with its place.
    """
    wanted = _Reader(configuration, "smtpd", None).files().value
    places: list[str] = []
    for screen, proxy in _readers(configuration):
        for reader in (proxy, screen) if _sends_settings(configuration) else (proxy,):
            files = reader.files()
            if files.value != wanted:
                places += files.places
    return list(dict.fromkeys(places))


def mismatches(configuration: Configuration) -> list[str]:
    """Return which parameters keep tlsproxy from TLS for clients of postscreen.

    Each with its place.  TLS is off in tlsproxy; or, from Postfix 3.12 on, postscreen
    wants other settings than those with which tlsproxy has read the keys.
    """
    places: list[str] = []
    for screen, proxy in _readers(configuration):
        for wanted, present in _unlike(screen, proxy):
            places += wanted.places + present.places
    return list(dict.fromkeys(places))


def _unlike(screen: _Reader, proxy: _Reader) -> list[tuple[_Setting, _Setting]]:
    levels = (screen.level(), proxy.level())
    if levels[0].value == "none":
        return []
    if levels[1].value == "none":
        return [levels]
    if not _sends_settings(screen.configuration):
        return []
    pairs = zip(screen.with_keys(), proxy.with_keys(), strict=True)
    return [pair for pair in pairs if pair[0].value != pair[1].value]


def _sends_settings(configuration: Configuration) -> bool:
    """Whether postscreen tells tlsproxy the settings for its clients (3.12)."""
    return f"{SCREEN}_tls_chain_files" in configuration.defaults


def follow(
    configuration: Configuration, decisions: Iterable[Decision], *, default: bool
) -> list[CommentOut]:
    """Return what makes postscreen present what smtpd will after *decisions*.

    Raises `Error` if it would present something else.  Where it does so already, that
    matters only for a *default*, the certificate for clients that request no name.
    """
    decisions = list(decisions)
    after = _applied(configuration, decisions)
    alike = _alike(configuration)
    if _alike(after) or not (alike or default):
        return []
    certificates = {CHAIN, *LEGACY}
    changed = {item.name for item in decisions if not isinstance(item, Kept)}
    for names in (certificates, certificates | changed) if alike else ():
        ours = _counterparts(configuration, names)
        if _alike(_applied(after, ours)):
            return ours
    differing = differences(after) or mismatches(after)
    raise Error(
        f"{', '.join(differing)}: clients to which postscreen itself offers TLS would"
        " not be presented the certificate that smtpd presents; no changes were made",
        hint="remove these settings: the defaults are the values for smtpd",
    )


def _alike(configuration: Configuration) -> bool:
    return not differences(configuration) and not mismatches(configuration)


def _counterparts(configuration: Configuration, names: set[str]) -> list[CommentOut]:
    return [
        CommentOut(name, value, "the value for smtpd is its default")
        for name, value in configuration.explicit.items()
        if name.startswith((f"{PROXY}_tls_", f"{SCREEN}_tls_"))
        and f"smtpd_{name.partition('_')[2]}" in names
    ]


def _readers(configuration: Configuration) -> list[tuple[_Reader, _Reader]]:
    """Return each postscreen, with the tlsproxy that works for it."""
    return [
        (
            _Reader(configuration, SCREEN, screen),
            _Reader(configuration, PROXY, _proxy(configuration, screen)),
        )
        for screen in _screens(configuration)
    ]


def _screens(configuration: Configuration) -> list[Service]:
    return [
        service
        for service in configuration.services
        if (service.command, service.kind) == (SCREEN, "inet")
    ]


def _proxy(configuration: Configuration, screen: Service) -> Service | None:
    name = configuration.value("tlsproxy_service_name", screen) or PROXY
    proxies = (
        service
        for service in configuration.services
        if (service.name, service.command) == (name, PROXY)
    )
    return next(proxies, None)


def _applied(
    configuration: Configuration, decisions: Iterable[Decision]
) -> Configuration:
    """Return *configuration* as it is after *decisions*, as far as it matters here."""
    explicit, values = dict(configuration.explicit), dict(configuration.values)
    changed = [decision for decision in decisions if not isinstance(decision, Kept)]
    for change in changed:
        explicit.pop(change.name, None)
        if isinstance(change, Change):
            explicit[change.name] = change.new
        text = explicit.get(change.name, configuration.defaults.get(change.name, ""))
        values[change.name] = _expanded(text, values)
    of_both = (f"{PROXY}_tls_", f"{SCREEN}_tls_")
    for name, text in 2 * list(explicit.items()):  # one may refer to another
        if name.startswith(of_both) and name in values:
            values[name] = _expanded(text, values)
    services = tuple(
        replace(
            service,
            overrides={
                name: _expanded(service.written.get(name, value), values)
                for name, value in service.overrides.items()
            },
        )
        if service.command in (PROXY, SCREEN)
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
