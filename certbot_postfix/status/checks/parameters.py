"""Whether the parameters in main.cf and master.cf take effect.

Pure: facts in, findings out.  Their meaning is that of postconf(5); deprecated are
those of which postconf(1) of Postfix 3.9 and 3.11 warns.
"""

import ipaddress
from collections.abc import Iterator

from certbot_postfix.errors import enumerated
from certbot_postfix.inbound import chain_files, sni
from certbot_postfix.outbound import main_cf
from certbot_postfix.outbound import policy_map as policies
from certbot_postfix.postfix import map_types, maps, screening
from certbot_postfix.postfix.configuration import (
    CHAIN,
    LEGACY,
    SNI_MAPS,
    Configuration,
    Service,
)
from certbot_postfix.postfix.services import address, own_certificate
from certbot_postfix.status.facts import Facts
from certbot_postfix.status.findings import Code, Finding


def check(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with the parameters, in main.cf and master.cf."""
    configuration = facts.configuration
    yield from _deprecated(configuration)
    for prefix in ("smtpd", *chain_files.CLIENTS):
        yield from _ignored(configuration, prefix)
    yield from _hidden(facts)
    yield from _screened(configuration)
    network = [
        service
        for service in configuration.services
        if service.kind == "inet" and service.command in ("smtpd", "postscreen")
    ]
    if network and not chain_files.with_certificates(configuration):
        if any(
            configuration.value(f"{service.command}_upstream_proxy_protocol", service)
            for service in network
        ):
            return  # whether those offer TLS is not known here
        yield Finding(
            Code.NO_TLS,
            "smtpd_tls_security_level",
            "no service offers TLS: all mail is received unencrypted",
            "smtpd_tls_security_level = may",
            tuple(map(str, network)),
        )


def _settings(configuration: Configuration) -> Iterator[tuple[str, str]]:
    """Yield each parameter that is set, with the place."""
    for name in configuration.explicit:
        yield name, "main.cf"
    for service in configuration.services:
        for name in service.overrides:
            yield name, f"{service} of master.cf"


def _deprecated(configuration: Configuration) -> Iterator[Finding]:
    for name, place in _settings(configuration):
        if name in DEPRECATED:
            removal = "was removed from this Postfix release"
            if name in configuration.defaults:
                removal = "will be removed from a future Postfix release"
            yield Finding(
                Code.DEPRECATED,
                name,
                f"{name} is deprecated and {removal}",
                DEPRECATED[name],
                (place,),
            )
    ours = ((SNI_MAPS, sni.NAME), (policies.PARAMETER, policies.NAME))
    for parameter, table in ours:
        path = configuration.directory / table
        now = maps.map_type(configuration.value(parameter), path)
        if map_types.leaving(configuration, now):
            yield Finding(
                Code.DEPRECATED,
                f"{now}:{path}",
                f"the map type {now} is deprecated: a Postfix built without Berkeley DB"
                " cannot read the map",
                "certbot install -i postfix --cert-name NAME, which converts the map",
                ("main.cf",),
            )


def _level(prefix: str) -> dict[str, str]:
    instead = f"set {prefix}_tls_security_level instead, and remove it"
    return dict.fromkeys((f"{prefix}_use_tls", f"{prefix}_enforce_tls"), instead)


# Those of which postconf(1) warns since 3.9 or 3.11, or that are gone; and what to do.
DEPRECATED = {
    "disable_dns_lookups": "set smtp_dns_support_level instead, and remove it",
    **_level("smtpd"),
    **_level("smtp"),
    **_level("lmtp"),
    **_level("postscreen"),
    **_level("tlsproxy"),
    **_level("tlsproxy_client"),
    "smtp_tls_per_site": "set smtp_tls_policy_maps instead, and remove it",
    "lmtp_tls_per_site": "set lmtp_tls_policy_maps instead, and remove it",
    "tlsproxy_client_per_site": "remove it",
    "smtpd_tls_dh1024_param_file": "remove it: OpenSSL has parameters of its own",
    "smtpd_tls_eecdh_grade": "remove it: the default is as good",
    "smtp_cname_overrides_servername": "remove it",
    "lmtp_cname_overrides_servername": "remove it",
    "smtp_tls_enforce_peername": "set smtp_tls_security_level = verify instead",
    "lmtp_tls_enforce_peername": "set lmtp_tls_security_level = verify instead",
    "tlsproxy_client_level": "set tlsproxy_client_security_level instead",
    "tlsproxy_client_policy": "set tlsproxy_client_policy_maps instead",
    "smtpd_tls_cipherlist": "remove it",
    "smtp_tls_cipherlist": "remove it",
    "tls_dane_digest_agility": "remove it",
    "tls_dane_trust_anchor_digest_enable": "remove it",
    "tls_legacy_public_key_fingerprints": "remove it",
    "tlsproxy_client_loglevel_parameter": "remove it",
}


def _ignored(configuration: Configuration, prefix: str) -> Iterator[Finding]:
    chain = CHAIN.replace("smtpd", prefix)
    older = [name.replace("smtpd", prefix) for name in LEGACY]
    if chain not in configuration.defaults:
        return
    set_here = [name for name in older if configuration.explicit.get(name)]
    if configuration.value(chain) and set_here:
        yield _unheeded(chain, set_here, "main.cf")
    for service in configuration.services:
        set_there = [name for name in older if service.overrides.get(name)]
        if configuration.value(chain, service) and set_there:
            yield _unheeded(chain, set_there, f"{service} of master.cf")


def _unheeded(chain: str, names: list[str], place: str) -> Finding:
    return Finding(
        Code.IGNORED,
        chain,
        f"Postfix ignores {enumerated(names)} in {place}, because {chain} is set",
        f"remove {enumerated(names)} from {place}",
        (place,),
    )


def _screened(configuration: Configuration) -> Iterator[Finding]:
    """Yield what postscreen has otherwise than smtpd, or than tlsproxy."""
    places = screening.differences(configuration)
    problem = "postscreen does not present the certificate that smtpd presents"
    if not places:
        places = screening.mismatches(configuration)
        problem = "postscreen offers TLS, but tlsproxy cannot provide it"
    if places:
        listed = ", ".join(places)
        hint = "remove these settings; they default to those of smtpd"
        message = f"{problem}, because of {listed}"
        yield Finding(Code.SCREENED, listed, message, hint, tuple(places))


def _hidden(facts: Facts) -> Iterator[Finding]:
    """Yield for each service the overrides of what this plugin has put into main.cf."""
    configuration = facts.configuration
    for service in configuration.services:
        if service.kind == "inet" and service.command in ("smtpd", "postscreen"):
            names = list(_hiding(facts, service))
            if names:
                yield _override(str(service), names)
    path = configuration.directory / policies.NAME
    if maps.map_type(configuration.value(policies.PARAMETER), path):
        for override in main_cf.overrides(configuration, path):
            yield _override(override.service, [override.name])


def _override(service: str, names: list[str]) -> Finding:
    return Finding(
        Code.OVERRIDE,
        service,
        f"master.cf overrides {', '.join(names)} for {service}: the value in main.cf"
        " does not apply there",
        "remove the override, unless it is intended",
        ("master.cf",),
    )


def _hiding(facts: Facts, service: Service) -> Iterator[str]:
    configuration = facts.configuration
    default = chain_files.configured(configuration)
    own = own_certificate(configuration, service)
    if (
        own
        and any(facts.is_bundle(path) for path in default)
        and set(chain_files.configured(configuration, service)) != set(default)
    ):
        yield own
    table = configuration.directory / sni.NAME
    value = service.overrides.get(SNI_MAPS)
    if (
        maps.map_type(configuration.value(SNI_MAPS), table)
        and value is not None
        and str(table) not in value
    ):
        yield SNI_MAPS
    level = "smtpd_tls_security_level"
    here = service.overrides.get(level, "").lower()
    everywhere = configuration.value(level).lower()
    order = ("none", "may", "encrypt")
    if (
        here in order
        and everywhere in order
        and order.index(here) < order.index(everywhere)
        and not _loopback(configuration, service)
    ):
        yield level


def _loopback(configuration: Configuration, service: Service) -> bool:
    host, _ = address(service, configuration)
    hosts = [host] if host else configuration.words("inet_interfaces")
    return all(map(_is_loopback, hosts))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host in ("localhost", "loopback-only")
