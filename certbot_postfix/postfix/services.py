"""The services of master.cf: where they listen, and which certificate they present.

Pure.  The meaning of entries and ``-o`` options is that of master(5); of the
parameters, that of postconf(5).
"""

import ipaddress
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from certbot_postfix.errors import MisconfiguredError
from certbot_postfix.postfix.configuration import (
    CHAIN,
    LEGACY,
    Configuration,
    Service,
    words_of,
)
from certbot_postfix.tls.endpoints import Endpoint


def endpoints(configuration: Configuration) -> tuple[list[Endpoint], list[str]]:
    """Return where the certificate of main.cf must be served, and what was left out.

    Those are smtpd and postscreen on the network, unless a service serves no TLS or an
    override names a certificate of its own.
    """
    places: list[Endpoint] = []
    notes: list[str] = []
    for service in _smtp(configuration):
        if not _speaks_tls(configuration, service):
            notes.append(f"{service} offers no TLS and is not verified")
        elif own := own_certificate(configuration, service):
            notes.append(f"{service} has its own {own} and is not verified")
        elif _behind_proxy(configuration, service):
            notes.append(f"{service} expects a proxy before it and is not verified")
        else:
            places += _endpoints(configuration, service)
    return places, notes


def ports(configuration: Configuration) -> frozenset[int]:
    """Return the ports of `endpoints`; none if a service has no known port."""
    try:
        return frozenset(place.port for place in endpoints(configuration)[0])
    except MisconfiguredError:  # the verification reports it
        return frozenset()


def with_own_certificate(configuration: Configuration) -> list[Endpoint]:
    """Return where a certificate of a service's own is served, which is not ours."""
    return [
        endpoint
        for service in _smtp(configuration)
        if own_certificate(configuration, service)
        and _speaks_tls(configuration, service)
        and not _behind_proxy(configuration, service)
        for endpoint in _endpoints(configuration, service)
    ]


def without_tls(configuration: Configuration) -> list[Endpoint]:
    """Return where SMTP is served without TLS."""
    return [
        endpoint
        for service in _smtp(configuration)
        if not _speaks_tls(configuration, service)
        and not _behind_proxy(configuration, service)
        for endpoint in _endpoints(configuration, service)
    ]


def bound(configuration: Configuration) -> list[tuple[str, int]]:
    """Return the addresses that the master process binds; an empty host means any."""
    interfaces = configuration.words("inet_interfaces")
    everywhere = [""] if "all" in interfaces else _interfaces(configuration)
    addresses = []
    for service in configuration.services:
        if service.kind == "inet":
            host, port = address(service, configuration)
            addresses += [
                (address, port) for address in ([host] if host else everywhere)
            ]
    return addresses


# How the parameters begin that each program reads, here or by their defaults.
_READ = {
    "smtpd": ("smtpd_", "tls_"),
    "postscreen": ("postscreen_", "smtpd_", "tls_"),
    "tlsproxy": ("tlsproxy_", "smtpd_", "smtp_", "tls_"),
    "smtp": ("smtp_", "tls_"),
    "lmtp": ("lmtp_", "tls_"),
}


def reads(service: Service, name: str) -> bool:
    """Whether the program of *service* reads the parameter *name* of TLS."""
    return name.startswith(_READ.get(service.command, ()))


def presenter(configuration: Configuration, service: Service) -> Service:
    """Return who presents the certificate to clients that *service* lets in.

    postscreen(8) passes them to the service that is named smtpd.
    """
    passed = (
        service
        for service in configuration.services
        if service.kind == "pass" and service.command == "smtpd"
    )
    return next(passed, service) if service.command == "postscreen" else service


def own_certificate(configuration: Configuration, service: Service) -> str:
    """Return the override that names a certificate of *service*'s own, if one does.

    postconf(5), smtpd_tls_chain_files: if it is set, the older ones are ignored.
    """
    service = presenter(configuration, service)
    chain = configuration.value(CHAIN, service)
    names = [CHAIN] if chain else [name for name in LEGACY if "cert" in name]
    return next((name for name in names if service.overrides.get(name)), "")


def client_roots(configuration: Configuration) -> list[Path]:
    """Return what SMTP clients take for the root directory, each once."""
    queue = Path(configuration.value("queue_directory"))
    clients = [
        service for service in configuration.services if service.command == "smtp"
    ]
    roots = {
        queue if _chrooted(configuration, client) else Path("/") for client in clients
    }
    return sorted(roots) or [Path("/")]


def as_clients_see_it(configuration: Configuration) -> list[Configuration]:
    """Return *configuration* with the overrides of each SMTP client of master.cf.

    One that a content filter gets its mail from sends none to the servers of a domain,
    unless it is the usual one.
    """
    filters = {
        configuration.value("content_filter", service).partition(":")[0]
        for service in configuration.services
    }
    for name in ("default_transport", "relay_transport"):
        filters.discard(configuration.value(name).partition(":")[0])
    clients = [
        service
        for service in configuration.services
        if service.command == "smtp" and service.name not in filters
    ]
    return [
        replace(configuration, values={**configuration.values, **client.overrides})
        for client in clients
    ] or [configuration]


def _chrooted(configuration: Configuration, service: Service) -> bool:
    if service.chroot in "yn":
        return service.chroot == "y"
    # master(5): the default was yes before 3.0, and is with a level below 1.
    level = configuration.value("compatibility_level").partition(".")[0]
    return configuration.version < (3, 0) or level == "0"


def _smtp(configuration: Configuration) -> Iterator[Service]:
    for service in configuration.services:
        if service.kind == "inet" and service.command in ("smtpd", "postscreen"):
            yield service


def _endpoints(configuration: Configuration, service: Service) -> list[Endpoint]:
    host, port = address(service, configuration)
    hosts = [host] if host else _interfaces(configuration)
    implicit = configuration.flag("smtpd_tls_wrappermode", service)
    return [Endpoint(str(service), host, port, implicit) for host in hosts]


def _behind_proxy(configuration: Configuration, service: Service) -> bool:
    name = f"{service.command}_upstream_proxy_protocol"
    return bool(configuration.value(name, service))


def _speaks_tls(configuration: Configuration, service: Service) -> bool:
    if configuration.flag("smtpd_tls_wrappermode", service):
        return True
    # smtpd or postscreen, each with parameters of its own
    level = configuration.value(f"{service.command}_tls_security_level", service)
    if level:
        return level.lower() != "none"
    return any(
        configuration.flag(f"{service.command}_{what}_tls", service)
        for what in ("use", "enforce")
    )


def address(service: Service, configuration: Configuration) -> tuple[str, int]:
    """Return host, empty if the entry names none, and port of a network service."""
    host, _, port = service.name.rpartition(":")
    if _PORT.fullmatch(port):
        return host.strip("[]"), int(port)
    # 3.6 and later know names that /etc/services may lack: smtps=submissions=465.
    known = configuration.value("known_tcp_ports") or KNOWN_PORTS
    for entry in words_of(known):
        *names, number = entry.split("=")
        if port in names and _PORT.fullmatch(number):
            return host.strip("[]"), int(number)
    try:
        return host.strip("[]"), socket.getservbyname(port, "tcp")
    except (OSError, ValueError):  # the latter: it cannot be a name at all
        raise MisconfiguredError(
            f"master.cf: unknown service name {service} (not in /etc/services);"
            " Postfix cannot start with it",
            hint="name the port by its number, or add it to /etc/services",
        ) from None


_PORT = re.compile("[0-9]{1,5}")


KNOWN_PORTS = "smtp=25 smtps=submissions=465 submission=587"


def _interfaces(configuration: Configuration) -> list[str]:
    listed = configuration.words("inet_interfaces")
    if {"all", "loopback-only"} & set(listed):
        listed = ["127.0.0.1", "::1"]
    protocols = configuration.words("inet_protocols")
    families = {"ipv4", "ipv6"} if "all" in protocols else set(protocols)
    hosts = (host.strip("[]") for host in listed)
    return [host for host in hosts if _family(host) in {None, *families}]


def _family(host: str) -> str | None:
    try:
        return f"ipv{ipaddress.ip_address(host).version}"
    except ValueError:  # a name
        return None
