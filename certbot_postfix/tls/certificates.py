"""Certificates, as far as cryptography and OpenSSL can read them.

Pure: takes bytes, returns values; raises `CertificateError`, whatever cryptography
makes of the bytes.
"""

import contextlib
import hashlib
import ssl
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from inspect import signature
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from certbot_postfix.errors import CertificateError, Error, enumerated, short
from certbot_postfix.system.hostnames import a_labels
from certbot_postfix.tls.pem import blocks

T = TypeVar("T")

# How many names a message has one by one, and of how many characters: RFC 1035, 2.3.4.
MENTIONED = 5
LONGEST_NAME = 253
E = TypeVar("E", bound=x509.ExtensionType)


# The time of a certificate whose times cannot be read: it counts as expired.
UNKNOWN = datetime.fromtimestamp(0, timezone.utc)

# Only the public half is wanted.  cryptography 38 cannot do without the check.
_QUICKLY: dict[str, Any] = (
    {"unsafe_skip_rsa_key_validation": True}
    if "unsafe_skip_rsa_key_validation" in signature(load_pem_private_key).parameters
    else {}
)


# `warnings` has one list of filters for all threads before Python 3.14.
_QUIET = threading.RLock()


@dataclass(frozen=True, slots=True)
class Certificate:
    """What matters of an X.509 certificate when it is deployed or found in service.

    Of one that OpenSSL serves, but cryptography refuses, some is empty or `UNKNOWN`;
    then *fault* says why.
    """

    der: bytes = field(repr=False)
    subject: str
    issuer: str
    names: frozenset[str]
    spki: bytes = field(repr=False)
    key_type: str
    not_before: datetime
    not_after: datetime
    fault: str = ""

    @classmethod
    def from_der(cls, der: bytes) -> "Certificate":
        """Read *der* as far as possible; raise `CertificateError` if OpenSSL cannot."""
        try:
            with _reading():
                parsed = x509.load_der_x509_certificate(der)
            certificate = cls._from_x509(der, parsed)
        except CertificateError as error:
            nothing = ("", "", frozenset[str](), b"", "", UNKNOWN, UNKNOWN)
            certificate = cls(der, *nothing, fault=error.message)
        if certificate.fault and not _openssl_reads(der):
            raise CertificateError(f"not a certificate: {certificate.fault}")
        return certificate

    @classmethod
    def all_from_pem(cls, pem: bytes) -> list["Certificate"]:
        """Read every certificate in *pem*, in order; other text is skipped."""
        found = (block for block in blocks(pem) if block.public)
        return [cls.from_der(block.der()) for block in found]

    @classmethod
    def _from_x509(cls, der: bytes, parsed: x509.Certificate) -> "Certificate":
        faults: list[str] = []

        def read(get: Callable[[], T], unknown: T) -> T:
            try:
                with _reading():
                    return get()
            except CertificateError as error:
                faults.append(error.message)
                return unknown

        spki, key_type = read(lambda: _public(parsed.public_key()), (b"", ""))
        return cls(
            der=der,
            subject=read(lambda: _name(parsed, "subject"), ""),
            issuer=read(lambda: _name(parsed, "issuer"), ""),
            names=read(lambda: _dns_names(parsed), frozenset()),
            spki=spki,
            key_type=key_type,
            not_before=read(lambda: _time(parsed, "not_valid_before"), UNKNOWN),
            not_after=read(lambda: _time(parsed, "not_valid_after"), UNKNOWN),
            fault="; ".join(dict.fromkeys(faults)),
        )

    @property
    def digest(self) -> str:
        """The SHA-256 digest, in hexadecimal."""
        return hashlib.sha256(self.der).hexdigest()

    def expiry(self, now: datetime) -> str:
        """Say when it expires, or that it has expired *now*."""
        if self.not_after == UNKNOWN:
            return "expires at a time that cannot be read"
        verb = "expired" if self.not_after <= now else "expires"
        return f"{verb} at {self.not_after:%Y-%m-%d %H:%M} UTC"

    @property
    def rsa_bits(self) -> int:
        """The size of its key if that is one of RSA, else 0."""
        if self.key_type != "RSA":
            return 0
        with _reading():
            key = load_der_public_key(self.spki)
        return key.key_size if isinstance(key, RSAPublicKey) else 0

    @property
    def curve(self) -> str:
        """The name of its key's curve if that is one of ECDSA, else ""."""
        if self.key_type != "ECDSA":
            return ""
        with _reading():
            key = load_der_public_key(self.spki)
        return key.curve.name if isinstance(key, EllipticCurvePublicKey) else ""

    def with_key(self, spki: bytes) -> "Certificate":
        """Return what stands for a certificate with another key, not issued yet."""
        return replace(self, der=b"", spki=spki)

    @property
    def self_signed(self) -> bool:
        """Whether it names itself as its issuer, as a snake-oil certificate does.

        One whose names cannot be read counts as such.
        """
        return self.subject == self.issuer

    def __str__(self) -> str:
        first = short(min(self.names, default=""), LONGEST_NAME)
        name = first or short(self.subject) or "no name"
        known = self.not_after != UNKNOWN
        end = f"until {self.not_after:%Y-%m-%d}" if known else "until unknown"
        return f"{name} (SHA-256 {self.digest[:16]}..., {end})"


def listed(names: Iterable[str], most: int = MENTIONED) -> str:
    """Return *names* in a row, but not too many, and of each what can be a host."""
    return enumerated((short(name, LONGEST_NAME) for name in sorted(names)), most=most)


def covers(names: Iterable[str], host: str) -> bool:
    """Whether *host* is among *names*, which may hold wildcards (RFC 6125, 6.4.3)."""
    host = a_labels(host.lower())
    _, _, parent = host.partition(".")
    return not {host, f"*.{parent}"}.isdisjoint(names)


def public_half(key: bytes, *, quickly: bool = False) -> bytes:
    """Return the public half of a private key in PEM, empty if it cannot be read.

    It is not checked whether the key is sound if that shall be done *quickly*.
    """
    try:
        with _reading():
            options = _QUICKLY if quickly else {}
            public = load_pem_private_key(key, password=None, **options).public_key()
            return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except CertificateError:  # its cause may quote the key
        return b""


def leaf(text: bytes) -> Certificate | None:
    """Return the first certificate in *text*; the others take time to read."""
    first = next((block for block in blocks(text) if block.public), None)
    return Certificate.from_der(first.der()) if first else None


def authorities(text: bytes) -> list[Certificate]:
    """Return the certificates in *text*; what cannot be read is skipped.

    Bundles have roots that are older than the rules of today, as to serial numbers.
    """
    certificates: list[Certificate] = []
    for block in blocks(text):
        with contextlib.suppress(CertificateError):
            certificates += Certificate.all_from_pem(block.pem)
    return certificates


def extension(certificate: Certificate, kind: type[E]) -> E | None:
    """Return that extension; None if there is none, or none that can be read."""
    try:
        with _reading():
            extensions = x509.load_der_x509_certificate(certificate.der).extensions
            return extensions.get_extension_for_class(kind).value
    except CertificateError:
        return None


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Let out of cryptography no warning, and no exception but `CertificateError`.

    There is no list of what it raises for bytes: ValueError and its kin, TypeError,
    OverflowError, classes of its own that derive from Exception, and for a panic of its
    Rust code one that derives from BaseException, and has no public name.
    """
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except BaseException as error:
            foreign = isinstance(error, Exception) and not isinstance(error, Error)
            if not foreign and type(error).__name__ != "PanicException":
                raise  # a signal came meanwhile
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CertificateError(reason) from error


def _openssl_reads(der: bytes) -> bool:
    """Whether OpenSSL takes *der* for a certificate, and so does Postfix."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    except (ssl.SSLError, ValueError):
        return False
    return True


def addresses(certificate: Certificate) -> list[str]:
    """Return the IP addresses among the names of *certificate*."""
    found = extension(certificate, x509.SubjectAlternativeName)
    return list(map(str, found.get_values_for_type(x509.IPAddress))) if found else []


def _dns_names(certificate: x509.Certificate) -> frozenset[str]:
    try:
        found = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return frozenset()
    names = found.value.get_values_for_type(x509.DNSName)
    return frozenset(name.lower() for name in names)


def _name(certificate: x509.Certificate, attribute: str) -> str:
    name: x509.Name = getattr(certificate, attribute)
    return name.rfc4514_string()


def _public(public: Any) -> tuple[bytes, str]:
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der, _key_type(public)


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
