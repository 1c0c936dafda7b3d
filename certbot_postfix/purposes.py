"""What a certificate is good for: the extensions that say so, RFC 5280, section 4.2.1.

Pure.
"""

import warnings

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from certbot_postfix.certificates import Certificate

_OF_CLIENTS = (
    ExtendedKeyUsageOID.CLIENT_AUTH,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
)


def of_clients(certificate: Certificate) -> bool:
    """Whether a client may show *certificate* to a server that checks it."""
    try:
        extension = _extensions(certificate).get_extension_for_class(
            x509.ExtendedKeyUsage
        )
    except x509.ExtensionNotFound:
        return True  # not restricted: section 4.2.1.12
    return any(each in _OF_CLIENTS for each in extension.value)


def of_authorities(certificate: Certificate) -> bool:
    """Whether *certificate* may issue others."""
    try:
        extension = _extensions(certificate).get_extension_for_class(
            x509.BasicConstraints
        )
    except x509.ExtensionNotFound:
        return certificate.self_signed  # as those of before version 3
    return extension.value.ca


def _extensions(certificate: Certificate) -> x509.Extensions:
    with warnings.catch_warnings():
        # cryptography dislikes the numbers of some old authorities.
        warnings.simplefilter("ignore")
        return x509.load_der_x509_certificate(certificate.der).extensions
