"""Whether DANE can work: the resolvers that the SMTP client asks must validate.

postconf(5), smtp_tls_security_level: without DNSSEC, the level dane is no more than
may, silently.  Where it does not work, that is said with the reason.
"""

import ipaddress
from collections.abc import Mapping
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.postfix import tls_levels
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.services import as_clients_see_it, client_roots
from certbot_postfix.system import dns


def refuse_unvalidated(configuration: Configuration) -> list[str]:
    """Raise `Error` unless DANE would work; return what is remarkable if it does."""
    if why := next(filter(None, map(_unfit, as_clients_see_it(configuration))), ""):
        raise Error(
            f"{why}: the level dane would protect no mail, and no changes were made",
            hint="another --postfix-client-level, or change that first",
        )
    resolvers = _resolvers(configuration)
    if why := _unvalidated(resolvers):
        raise Error(
            f"{why}: the level dane would protect no mail, and no changes were made",
            hint="run one that validates on this machine, such as unbound, and name it"
            " alone there",
        )
    return [
        f"{path} lists the remote resolver {server}: its DNSSEC answers could be forged"
        " in transit\nHint: run a validating resolver on this machine"
        for path, servers in resolvers.items()
        for server in servers
        if not ipaddress.ip_address(server.partition("%")[0]).is_loopback
    ]


def hindrance(configuration: Configuration) -> str:
    """Return what keeps an SMTP client from validated answers of DNS, or ""."""
    for client in as_clients_see_it(configuration):
        if client.value("smtp_dns_support_level").lower() != "dnssec":
            return "smtp_dns_support_level is not dnssec"
        if why := _unfit(client):
            return why
    return _unvalidated(_resolvers(configuration))


def without_dane(configuration: Configuration, level: str) -> str:
    """Return why *level*, which demands DANE, is in vain; "" if it works."""
    why = hindrance(configuration)
    if not why:
        return ""
    # postconf(5), smtp_tls_security_level: without DNSSEC dane is no more than may.
    does = "defers all mail" if level == "dane-only" else "protects no mail"
    return f"{why}: the level {level} {does}"


def does_dane(configuration: Configuration) -> bool:
    """Whether every SMTP client follows TLSA records where there are some."""
    clients = as_clients_see_it(configuration)
    levels = {tls_levels.client_level(client) for client in clients}
    return levels <= {"dane", "dane-only"} and not hindrance(configuration)


def _unfit(configuration: Configuration) -> str:
    """Return the parameter that keeps the client from asking DNS as DANE needs it."""
    if configuration.flag("disable_dns_lookups"):
        return "disable_dns_lookups = yes"
    if configuration.flag("ignore_mx_lookup_error"):
        return "ignore_mx_lookup_error = yes"
    if "dns" not in configuration.words("smtp_host_lookup"):
        return (
            f"smtp_host_lookup = {configuration.value('smtp_host_lookup')} has no dns"
        )
    options = configuration.value("smtp_dns_resolver_options").lower()
    if "res_defnames" in options or "res_dnsrch" in options:
        return f"smtp_dns_resolver_options = {options}"
    return ""


def _resolvers(configuration: Configuration) -> dict[Path, list[str]]:
    """Return the resolvers of each client, by the file that it finds."""
    paths = (root / dns.RESOLV_CONF for root in client_roots(configuration))
    return {path: dns.nameservers(path) for path in paths}


def _unvalidated(resolvers: Mapping[Path, list[str]]) -> str:
    """Return why not: each of a file that answers must validate, and one must."""
    for path, servers in resolvers.items():
        answers = dict(dns.validating(servers))
        wrong = [server for server, validates in answers.items() if not validates]
        if wrong or not answers:
            named = ", ".join(wrong or servers)
            does = "does not validate DNSSEC" if wrong else "does not answer"
            return f"the resolver {named} in {path} {does}"
    return ""
