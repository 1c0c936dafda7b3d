"""Which CAs the SMTP client verifies servers by: the one rule for smtp_tls_CAfile.

Where a level demands verified servers and the client has no CAs, mail is not sent.
"""

from collections.abc import Iterator
from pathlib import Path

from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.decisions import Change, Decision
from certbot_postfix.postfix.services import as_clients_see_it, client_roots
from certbot_postfix.system import files
from certbot_postfix.tls import certificates, purposes


def decide(configuration: Configuration) -> Iterator[Decision]:
    """Give the client CAs to verify servers by, if it has none.

    Or only a copy of the system's in its chroot, where a directory is looked up, unlike
    a file (postconf(5), smtp_tls_CApath): as old as the last start of Postfix.
    """
    copied = _directory(configuration) and client_roots(configuration) != [Path("/")]
    outdated = _of_the_system(configuration) and copied
    if configuration.ca_bundle and (outdated or not _has_cas(configuration)):
        why = "the certificates of other servers can be verified"
        new = str(configuration.ca_bundle)
        old = configuration.explicit.get("smtp_tls_CAfile")
        yield Change("smtp_tls_CAfile", old, new, why)


def distrust(configuration: Configuration) -> str:
    """Return why a client could verify no server, "" if all can."""
    return next(filter(None, map(_fault, as_clients_see_it(configuration))), "")


def _fault(client: Configuration) -> str:
    if not _has_cas(client):
        return "" if client.ca_bundle else "there is no bundle of CAs on this machine"
    for directory in _directories(client):
        if not any(directory.glob("*.[0-9]")):  # as openssl-rehash(1) names them
            path = client.value("smtp_tls_CApath")
            return f"smtp_tls_CApath = {path}, and {directory} has no CAs"
    file = client.value("smtp_tls_CAfile")
    if not file:
        return ""
    pem = files.read(Path(file)) if Path(file).exists() else b""
    trusted = certificates.authorities(pem)
    if any(ca.self_signed and purposes.of_authorities(ca) for ca in trusted):
        return ""
    return f"smtp_tls_CAfile = {file} holds no root certificate of a CA"


def _has_cas(configuration: Configuration) -> bool:
    parameters = ("smtp_tls_CAfile", "smtp_tls_CApath")
    if any(map(configuration.value, parameters)):
        return True
    return configuration.flag("tls_append_default_CA")


def _directories(configuration: Configuration) -> list[Path]:
    """Return where clients look for CAs one by one, if that is all they have.

    The system's are not among them, as its bundle is used instead.
    """
    directory = _directory(configuration)
    if not directory or _of_the_system(configuration):
        return []
    return [root / directory.lstrip("/") for root in client_roots(configuration)]


def _directory(configuration: Configuration) -> str:
    """Return the directory of CAs, "" if there is a file of them as well."""
    if configuration.value("smtp_tls_CAfile"):
        return ""
    return configuration.value("smtp_tls_CApath")


def _of_the_system(configuration: Configuration) -> bool:
    bundle = configuration.ca_bundle
    directory = Path(_directory(configuration))
    return bundle is not None and directory == bundle.parent
