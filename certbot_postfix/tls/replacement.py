"""Whether a certificate may take the place of another one.

Pure: certificates and a time in; raises `CertificateError`.
"""

import base64
from collections.abc import Iterable
from datetime import datetime

from certbot_postfix.errors import CertificateError
from certbot_postfix.tls.certificates import Certificate, covers, listed

# Bytes of a chain that clients of OpenSSL take: SSL_CTX_set_max_cert_list(3).
_LARGEST = 100 * 1024


def check(
    new: Certificate, old: Certificate | None, host: str, now: datetime
) -> list[str]:
    """Say what is remarkable when *new* replaces *old* in service at *host*.

    Raise `CertificateError` if *new* must not be put into service: it is not valid
    now, it is older than *old*, it no longer covers *host*, or no client takes it.
    """
    _refuse_unfit(new, now)
    if old is None:
        return []
    if new.not_before < old.not_before:
        raise CertificateError(
            f"the certificate of {new.not_before:%Y-%m-%d %H:%M} UTC is older than the"
            f" deployed one of {old.not_before:%Y-%m-%d %H:%M} UTC",
            hint="if that is meant, renew the certificate, so that it is the newest",
        )
    if covers(old.names, host) and not covers(new.names, host):
        raise CertificateError(
            f"the certificate no longer covers {host}, the name of this mail server",
            hint=f"issue it again with {host} among its names",
        )
    remarks = []
    if gone := sorted(old.names - new.names):
        remarks.append(f"no longer covered: {listed(gone)}")
    if old.key_type not in ("", new.key_type):
        remarks.append(f"the key is {new.key_type} now, it was {old.key_type}")
    return remarks


def _refuse_unfit(new: Certificate, now: datetime) -> None:
    if len(new.der) > _LARGEST:
        raise CertificateError(
            f"the certificate has {len(new.der) // 1024} KB: clients of OpenSSL take"
            f" chains of {_LARGEST // 1024} KB at most",
            hint="obtain several certificates, each with fewer names",
        )
    if new.not_after <= now:
        raise CertificateError(
            f"the certificate expired at {new.not_after:%Y-%m-%d %H:%M} UTC",
            hint="certbot renew --cert-name NAME",
        )
    if new.not_before > now:
        raise CertificateError(
            f"the certificate is not valid before {new.not_before:%Y-%m-%d %H:%M} UTC",
            hint="check the clock of this machine",
        )


def refuse_second(new: Certificate, beside: Iterable[Certificate]) -> None:
    """Raise `CertificateError` if one *beside* *new* has a key of the same type.

    Of two such, Postfix takes none, and offers no TLS.
    """
    for other in beside:
        if other.key_type == new.key_type:
            raise CertificateError(
                f"both {other} and it would have a key of type {new.key_type}; Postfix"
                " accepts one of each type, and would offer no TLS",
                hint="renew it with the other --key-type, or forget one of the two:"
                " certbot-postfix forget NAME",
            )


def is_copy_before(text: str, new: Certificate) -> bool:
    """Whether *text*, as tables have it in base64, is a bundle that *new* replaced."""
    try:
        certificates = Certificate.all_from_pem(base64.b64decode(text, validate=True))
    except (ValueError, CertificateError):
        return False
    return (
        bool(certificates)
        and certificates[0].names == new.names
        and certificates[0] != new
    )
