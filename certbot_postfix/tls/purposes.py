"""What a certificate is good for: the extensions that say so, RFC 5280, section 4.2.1.

Pure.
"""

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from certbot_postfix.tls import certificates
from certbot_postfix.tls.certificates import Certificate

_OF_CLIENTS = (
    ExtendedKeyUsageOID.CLIENT_AUTH,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
)


def of_clients(certificate: Certificate) -> bool:
    """Whether a client may show *certificate* to a server that checks it."""
    usage = certificates.extension(certificate, x509.ExtendedKeyUsage)
    # Not restricted without it: section 4.2.1.12.
    return usage is None or any(purpose in _OF_CLIENTS for purpose in usage)


def of_authorities(certificate: Certificate) -> bool:
    """Whether *certificate* may issue others."""
    constraints = certificates.extension(certificate, x509.BasicConstraints)
    if constraints is None:
        return certificate.self_signed  # as those of before version 3
    return constraints.ca
