"""The readers of what strangers write, each as a function of bytes.

Whatever but our own errors comes out of one is a failure.
"""

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from certbot_postfix.errors import CertificateError, Error
from certbot_postfix.formats import caa, mta_sts, starttls_everywhere, tlsrpt
from certbot_postfix.formats.caa import Issuance, Property
from certbot_postfix.inbound import sni
from certbot_postfix.outbound import policy_map as outbound_map
from certbot_postfix.postfix import configuration, maps, services
from certbot_postfix.postfix import postconf as output
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.status import read_files
from certbot_postfix.tls import certificates, purposes
from certbot_postfix.tls.bundle import Bundle
from certbot_postfix.tls.certificates import Certificate

SEEDS = Path(__file__).parent / "seeds"
PATH = Path("/table")


def certificate(data: bytes) -> None:
    """Read DER, as from a handshake."""
    with suppress(CertificateError):
        found = Certificate.from_der(data)
        assert found == Certificate.from_der(found.der)
        purposes.of_clients(found)
        purposes.of_authorities(found)
        str(found)


def chain(data: bytes) -> None:
    """Read PEM, as from the files that main.cf names."""
    certificates.authorities(data)
    with suppress(CertificateError):
        read_files.blocks(data)
    with suppress(CertificateError):
        Bundle.from_pem(data, data)


def policy_list(data: bytes) -> None:
    """Read a list of STARTTLS Everywhere."""
    with suppress(Error):
        found = starttls_everywhere.parse(data, "a list")
        assert found.timestamp.utcoffset() is not None
        assert found.timestamp <= found.expires


def mta_sts_policy(data: bytes) -> None:
    """Read a policy of MTA-STS."""
    with suppress(Error):
        found = mta_sts.parse(data, "a policy")
        assert all(mx.isascii() and mx.isprintable() for mx in found.mxs)


def mta_sts_record(data: bytes) -> None:
    """Read TXT records; latin-1, as those have any octets."""
    found = mta_sts.policy_id(data.decode("latin-1").split("\n"))
    assert not found or (found.isascii() and found.isalnum())


def caa_record(data: bytes) -> None:
    """Read the value of a CAA record, as a CA does."""
    found = Property(0, "issue", data.decode("latin-1"))
    ours = Issuance("letsencrypt.org", "https://acme.example/1", "http-01")
    assert caa.refusal([found], ours, wildcard=False).isprintable()


def tlsrpt_record(data: bytes) -> None:
    """Read TXT records of TLSRPT."""
    for text in tlsrpt.relevant(data.decode("latin-1").split("\n")):
        assert all(tlsrpt.addresses(text))


def sni_map(data: bytes) -> None:
    """Read SNI maps, ours and an administrator's."""
    sni.entries(data)
    maps.listed(data.decode(errors="surrogateescape"))
    with suppress(Error):
        found = sni.parse(sni.HEADER + data, PATH)
        sni.bundles(found)


def policy_map(data: bytes) -> None:
    """Read our policy map, as somebody edited it."""
    text = io.StringIO(data.decode(errors="surrogateescape"))
    with suppress(Error):
        outbound_map.header(text, PATH)
        list(outbound_map.parse(text, PATH))


def postconf(data: bytes) -> None:
    """Read what postconf prints; of a service, it prints eight fields."""
    text = data.decode(errors="surrogateescape")
    lines = [line for line in text.split("\n") if len(line.split(None, 7)) == 8]
    values = {**DEFAULTS, **output.pairs(text)}
    with suppress(Error):
        entries = output.services("\n".join(lines), text, text)
        found = Configuration(Path("/etc/postfix"), DEFAULTS, {}, values, entries)
        services.endpoints(found)
        services.bound(found)
        configuration.names(found)
        services.as_clients_see_it(found)
        services.client_roots(found)


DEFAULTS = {
    "mail_version": "3.7.11",
    "queue_directory": "/var/spool/postfix",
    "inet_interfaces": "all",
    "inet_protocols": "all",
    "myhostname": "mx.example.org",
}

TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        certificate,
        chain,
        policy_list,
        mta_sts_policy,
        mta_sts_record,
        caa_record,
        tlsrpt_record,
        sni_map,
        policy_map,
        postconf,
    )
}
