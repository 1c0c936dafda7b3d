"""Private keys, certificates and chains, and whether they may be put into service.

Pure: takes bytes and a time, returns values; raises `CertificateError`.  The order of a
bundle (key, leaf, issuers) is that of smtpd_tls_chain_files, postconf(5).
"""

import base64
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from certbot_postfix.errors import CertificateError
from certbot_postfix.hostnames import a_labels

_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----\r?\n.+?\r?\n-----END CERTIFICATE-----", re.DOTALL
)

_KEY_PARAMETERS = re.compile(
    rb"-----BEGIN EC PARAMETERS-----.+?-----END EC PARAMETERS-----\s*", re.DOTALL
)

_NEW_PAIR = "certbot renew --cert-name NAME --force-renewal makes a new pair"

# What cryptography raises for what is broken, or newer than it.
_UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What matters of an X.509 certificate when it is deployed or found in service."""

    der: bytes = field(repr=False)
    subject: str
    issuer: str
    names: frozenset[str]
    spki: bytes = field(repr=False)
    key_type: str
    not_before: datetime
    not_after: datetime

    @classmethod
    def from_der(cls, der: bytes) -> "Certificate":
        """Read *der*; raise `CertificateError` if it is not a certificate."""
        try:
            return cls._from_x509(x509.load_der_x509_certificate(der))
        except _UNREADABLE as error:
            raise CertificateError(f"not a certificate: {error}") from error

    @classmethod
    def all_from_pem(cls, pem: bytes) -> list["Certificate"]:
        """Read every certificate in *pem*, in order; other text is skipped."""
        try:
            return [
                cls._from_x509(x509.load_pem_x509_certificate(block))
                for block in _PEM.findall(pem)
            ]
        except _UNREADABLE as error:
            raise CertificateError(f"not a PEM certificate: {error}") from error

    @classmethod
    def _from_x509(cls, certificate: x509.Certificate) -> "Certificate":
        public = certificate.public_key()
        return cls(
            der=certificate.public_bytes(Encoding.DER),
            subject=certificate.subject.rfc4514_string(),
            issuer=certificate.issuer.rfc4514_string(),
            names=_dns_names(certificate),
            spki=public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            key_type=_key_type(public),
            not_before=_time(certificate, "not_valid_before"),
            not_after=_time(certificate, "not_valid_after"),
        )

    @property
    def self_signed(self) -> bool:
        """Whether it names itself as its issuer, as a snake-oil certificate does."""
        return self.subject == self.issuer

    def __str__(self) -> str:
        digest = hashes.Hash(hashes.SHA256())
        digest.update(self.der)
        name = min(self.names, default=self.subject or "no name")
        start = digest.finalize().hex()[:16]
        return f"{name} (SHA-256 {start}..., until {self.not_after:%Y-%m-%d})"


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
        _match(_spki(_KEY_PARAMETERS.sub(b"", key)), chain)
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


def joined(key: bytes, fullchain: bytes) -> bytes:
    """Return the text of a bundle: the private key, then the chain.

    `openssl ecparam -genkey` writes the parameters of the key before it; for Postfix,
    they are no part of a chain.
    """
    key = _KEY_PARAMETERS.sub(b"", key)
    return key.rstrip() + b"\n" + fullchain.strip() + b"\n"


def judge(
    new: Certificate, old: Certificate | None, host: str, now: datetime
) -> list[str]:
    """Say what is remarkable when *new* replaces *old* in service at *host*.

    Raise `CertificateError` if *new* must not be put into service: it is not valid
    now, it is older than *old*, or it no longer covers *host*.
    """
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
        remarks.append(f"no longer covered: {', '.join(gone)}")
    if new.key_type != old.key_type:
        remarks.append(f"the key is {new.key_type} now, it was {old.key_type}")
    return remarks


def refuse_second(new: Certificate, beside: Iterable[Certificate]) -> None:
    """Raise `CertificateError` if one *beside* *new* has a key of the same type.

    Of two such, Postfix takes none, and offers no TLS.
    """
    for other in beside:
        if other.key_type == new.key_type:
            raise CertificateError(
                f"its key is {new.key_type} now, and beside it {other} is served, whose"
                " key is so, too: Postfix would offer no TLS",
                hint="renew it with the other --key-type, or forget one of the two:"
                " certbot-postfix forget NAME",
            )


def covers(names: Iterable[str], host: str) -> bool:
    """Whether *host* is among *names*, which may hold wildcards (RFC 6125, 6.4.3)."""
    host = a_labels(host.lower())
    _, _, parent = host.partition(".")
    return not {host, f"*.{parent}"}.isdisjoint(names)


def is_copy_before(text: str, new: Certificate) -> bool:
    """Whether *text*, as tables have it in base64, is a bundle that *new* replaced."""
    try:
        found = Certificate.all_from_pem(base64.b64decode(text, validate=True))
    except (ValueError, CertificateError):
        return False
    return bool(found) and found[0].names == new.names and found[0] != new


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


def _spki(key: bytes) -> bytes:
    try:
        public = load_pem_private_key(key, password=None).public_key()
    except (TypeError, *_UNREADABLE):  # from None: the cause may quote the key
        raise CertificateError("the private key cannot be read") from None
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _dns_names(certificate: x509.Certificate) -> frozenset[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return frozenset()
    names = extension.value.get_values_for_type(x509.DNSName)
    return frozenset(name.lower() for name in names)


def _key_type(public: object) -> str:
    match public:
        case RSAPublicKey():
            return "RSA"
        case EllipticCurvePublicKey():
            return "ECDSA"
        case _:
            # A private class before cryptography 40; Debian 12 has 38.
            return type(public).__name__.lstrip("_").removesuffix("PublicKey")


def _time(certificate: x509.Certificate, name: str) -> datetime:
    # cryptography 42 and later tell the aware time; Debian 12 has 38.
    aware = getattr(certificate, f"{name}_utc", None)
    if isinstance(aware, datetime):
        return aware
    naive: datetime = getattr(certificate, name)
    return naive.replace(tzinfo=timezone.utc)
