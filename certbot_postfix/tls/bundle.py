"""A bundle: a private key with its leaf certificate and the issuers, in one PEM text.

Pure; raises `CertificateError`.  The order (key, leaf, issuers) is that of
smtpd_tls_chain_files, postconf(5).
"""

import itertools
from dataclasses import dataclass, field

from certbot_postfix.errors import CertificateError
from certbot_postfix.tls.certificates import Certificate, public_half
from certbot_postfix.tls.pem import joined, without_parameters

_NEW_PAIR = "certbot renew --cert-name NAME --force-renewal makes a new pair"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A private key with its leaf certificate and the issuers, in one PEM text.

    A bundle that exists is one whose key matches and whose chain is in order.
    """

    leaf: Certificate
    pem: bytes = field(repr=False)

    @classmethod
    def from_pem(cls, key: bytes, fullchain: bytes) -> "Bundle":
        """Join *key* and *fullchain*; raise `CertificateError` unless they fit."""
        chain = Certificate.all_from_pem(fullchain)
        if not chain:
            raise CertificateError("there is no certificate in the full chain")
        for certificate in chain:
            if certificate.fault:
                raise CertificateError(
                    f"the certificate {certificate} cannot be read: {certificate.fault}"
                )
        _match(_spki_of(without_parameters(key)), chain)
        # RFC 8446, 4.4.2: the leaf is first; of others, a receiver takes any order, and
        # what it needs not.  An issuer may be there once for each root that signed it.
        issuers = {chain[0].issuer}
        for lower, upper in itertools.pairwise(chain):
            if upper.subject not in issuers:
                raise CertificateError(
                    f"the chain is out of order: {lower.issuer} issued"
                    f" {lower.subject}, but {upper.subject} follows it",
                    hint=_NEW_PAIR,
                )
            issuers.add(upper.issuer)
        return cls(chain[0], joined(key, fullchain))


def _match(spki: bytes, chain: list[Certificate]) -> None:
    if chain[0].spki == spki:
        return
    if any(certificate.spki == spki for certificate in chain):
        raise CertificateError(
            "the chain is out of order: the certificate of the private key"
            " is not the first",
            hint=_NEW_PAIR,
        )
    raise CertificateError(
        f"the private key does not belong to the certificate for {chain[0]}",
        hint=_NEW_PAIR,
    )


def _spki_of(key: bytes) -> bytes:
    spki = public_half(key)
    if not spki:
        raise CertificateError("the private key cannot be read")
    return spki
