"""What main.cf must say so that Postfix serves what it is to serve.

Pure: a `Configuration` in, decisions out; and what is lost, or hidden, by them.
"""

import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from certbot_postfix.errors import short
from certbot_postfix.inbound import chain_files, chain_parameters, sni
from certbot_postfix.inbound.placement import useless
from certbot_postfix.inbound.renewal_settings import RenewalSettings
from certbot_postfix.inbound.served import ServedFile
from certbot_postfix.inbound.sni import Table
from certbot_postfix.options import ClientLevel, Profile
from certbot_postfix.postfix import maps, screening, tls_levels
from certbot_postfix.postfix.configuration import (
    CHAIN,
    LEGACY,
    SNI_MAPS,
    Configuration,
    names,
)
from certbot_postfix.postfix.decisions import (
    Change,
    Decision,
    Override,
    Remove,
    applied,
)
from certbot_postfix.postfix.profiles import intermediate, internet_nl
from certbot_postfix.postfix.services import reads
from certbot_postfix.tls.certificates import Certificate, covers, listed

# Up to so many names of a certificate are spelled out in a command.
_SPELLED = 10


@dataclass(frozen=True, slots=True)
class Target:
    """What main.cf is to name.

    *chain* has the bundles that are served by default, with their types of key; if it
    is empty, the default stays.  *sni_map* is ours, *map_type* its type; without a
    type there is none.  What is *kept* of the administrator's is served
    beside the chain.
    """

    chain: Mapping[Path, str]
    sni_map: Path = Path()
    map_type: str = ""
    kept: tuple[chain_files.Half, ...] = ()


def decide(
    configuration: Configuration, wanted: Target, profile: Profile, client: ClientLevel
) -> tuple[Decision, ...]:
    """Return what makes Postfix serve what is *wanted*, and raises TLS to *profile*."""
    decisions: list[Decision] = [
        *chain_parameters.serve(configuration, wanted.chain, wanted.kept),
        *_by_name(configuration, wanted),
        *_raised(configuration, profile, client),
    ]
    default = bool(wanted.chain)
    decisions += screening.follow(configuration, decisions, default=default)
    return tuple(decisions)


def _raised(
    configuration: Configuration, profile: Profile, client: ClientLevel
) -> Iterator[Decision]:
    yield from tls_levels.offer_tls(configuration)
    if profile is not Profile.CERTIFICATE:
        yield from tls_levels.raise_client(configuration, client)
    if profile is Profile.INTERMEDIATE:
        yield from intermediate.intermediate(configuration)
    if profile is Profile.INTERNET_NL:
        yield from internet_nl.internet_nl(configuration)


def lost(
    new: Certificate,
    displaced: Iterable[Certificate],
    table: Table,
    now: datetime,
    lineages: Mapping[str, Certificate] = {},
) -> list[str]:
    """Say what clients lose when *new* takes the place of good certificates.

    One of the *lineages* may have what is lost.
    """
    good = [old for old in displaced if not old.self_signed and old.not_after > now]
    messages = [
        f"{old} with its {old.key_type} key will not be served any more, and clients"
        f" that do not know {new.key_type} get no TLS\nHint: if there are such,"
        f" {second(new, old.key_type, lineages)}"
        for old in good
        if old.key_type not in ("", new.key_type)
    ]
    dropped = {name for old in good for name in old.names - new.names}
    gone = sorted(name for name in dropped if sni.key(name) not in table)
    return [
        *messages,
        *([f"no longer covered: {listed(gone)}"] if gone else []),
    ]


def uncovered(
    configuration: Configuration,
    default: Collection[ServedFile],
    table: Table,
    now: datetime,
    settings_of: Callable[[str], RenewalSettings | None],
) -> list[str]:
    """Say that no certificate covers the server's own name, as `status` would.

    *settings_of* returns what certbot has for a lineage.
    """
    host = configuration.value("myhostname")
    if (
        host not in names(configuration)
        or sni.key(host) in table
        or useless(default, now)  # which is worse
        or any(covers(file.leaf.names, host) for file in default)
    ):
        return []
    name, leaf = next((file.path.stem, file.leaf) for file in default)
    wanted = [*sorted(leaf.names), host]
    again = obtaining(configuration, wanted, name, settings_of(name))
    return [
        f"{not_covering(leaf, host)}\nHint: obtain it again with that name: {again}"
    ]


def not_covering(leaf: Certificate, host: str) -> str:
    """Say that *leaf*, the default certificate, does not cover *host*, the server."""
    name = listed(leaf.names) or short(leaf.subject) or "no name"
    return (
        f"the default certificate ({name}) does not cover myhostname ({host}): clients"
        " that check the name will reject it"
    )


def obtaining(
    configuration: Configuration,
    names: Collection[str],
    name: str = "",
    settings: RenewalSettings | None = None,
) -> str:
    """Return the command that obtains a certificate for *names*, and installs it.

    A lineage of that *name*, with those *settings*, keeps its authenticator.
    """
    wanted = ",".join(names) if 0 < len(names) <= _SPELLED else "NAMES"
    authenticator = (settings and settings.authenticator) or "standalone"
    words = ["certbot", "run", "-a", authenticator, "-i", "postfix"]
    words += ["--cert-name", name] if name else []
    return shlex.join([*words, "-d", wanted, *configuration.certbot_options])


def second(new: Certificate, key_type: str, lineages: Mapping[str, Certificate]) -> str:
    """Say how to have a certificate with a *key_type* served beside *new*."""
    for name, leaf in lineages.items():
        if leaf.key_type == key_type and leaf.names == new.names:
            return f"run `certbot install -i postfix --cert-name {name}`, too"
    return f"obtain the certificate with --key-type {key_type.lower()}, too"


def overridden(
    configuration: Configuration,
    decisions: tuple[Decision, ...],
    profile: Profile,
    client: ClientLevel,
) -> list[Override]:
    """Return the overrides in master.cf of what is, or will be, set in main.cf."""
    planned = {item.name: item.new for item in decisions if isinstance(item, Change)}
    levels = {"smtpd_tls_security_level"}
    if profile is Profile.INTERMEDIATE:
        levels |= set(intermediate.GOVERNED)
    if profile is Profile.INTERNET_NL:
        levels |= set(internet_nl.GOVERNED)

    def as_strict(name: str, value: str) -> bool:
        hidden = applied(configuration, [Change(name, None, value, "")])
        raised = {item.name for item in _raised(hidden, profile, client)}
        return name not in {CHAIN, *LEGACY, SNI_MAPS, *raised}

    return [
        Override(str(service), name, value, harmless=as_strict(name, value))
        for service in configuration.services
        for name, value in sorted(service.overrides.items())
        if name in {*planned, *levels, CHAIN, *LEGACY, SNI_MAPS}
        and reads(service, name)
        and value != planned.get(name, configuration.value(name))
    ]


def _by_name(configuration: Configuration, wanted: Target) -> Iterator[Decision]:
    if (
        not wanted.map_type
        or maps.map_type(configuration.value(SNI_MAPS), wanted.sni_map)
        == wanted.map_type
    ):
        return
    old = configuration.explicit.get(SNI_MAPS)
    new = maps.named(old or "", wanted.sni_map, wanted.map_type)
    yield Change(SNI_MAPS, old, new, "certificates are served via SNI")


def without_table(configuration: Configuration, table: Path) -> list[Decision]:
    """Return what takes our *table* out of main.cf."""
    old = configuration.explicit.get(SNI_MAPS, "")
    new, why = maps.unnamed(old, table), "no certificate is served via SNI any more"
    if new:
        return [Change(SNI_MAPS, old, new, why)]
    return [Remove(SNI_MAPS, old, why)] if old else []
