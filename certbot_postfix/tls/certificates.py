"""Private keys, certificates and chains, and whether they may be put into service.

Pure: takes bytes and a time, returns values; raises `CertificateError`, whatever
cryptography makes of the bytes.  The order of a bundle (key, leaf, issuers) is that of
smtpd_tls_chain_files, postconf(5).
"""

import base64
import contextlib
import hashlib
import itertools
import re
import ssl
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from inspect import signature
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from certbot_postfix.errors import CertificateError, Error, enumerated, short
from certbot_postfix.system.hostnames import a_labels

T = TypeVar("T")

# How many names a message has one by one, and of how many characters: RFC 1035, 2.3.4.
MENTIONED = 5
LONGEST_NAME = 253
E = TypeVar("E", bound=x509.ExtensionType)

_BLOCK = re.compile(
    rb"-----BEGIN (CERTIFICATE|(?:[A-Z0-9]+ )*PRIVATE KEY)-----(.+?)-----END \1-----",
    re.DOTALL,
)

# The time of a certificate whose times cannot be read: it counts as expired.
UNKNOWN = datetime.fromtimestamp(0, timezone.utc)

# Only the public half is wanted.  cryptography 38 cannot do without the check.
_QUICKLY: dict[str, Any] = (
    {"unsafe_skip_rsa_key_validation": True}
    if "unsafe_skip_rsa_key_validation" in signature(load_pem_private_key).parameters
    else {}
)

_KEY_PARAMETERS = re.compile(
    rb"-----BEGIN EC PARAMETERS-----.+?-----END EC PARAMETERS-----\s*", re.DOTALL
)

_NEW_PAIR = "certbot renew --cert-name NAME --force-renewal makes a new pair"

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
            found = cls._from_x509(der, parsed)
        except CertificateError as error:
            nothing = ("", "", frozenset[str](), b"", "", UNKNOWN, UNKNOWN)
            found = cls(der, *nothing, fault=error.message)
        if found.fault and not _openssl_reads(der):
            raise CertificateError(f"not a certificate: {found.fault}")
        return found

    @classmethod
    def all_from_pem(cls, pem: bytes) -> list["Certificate"]:
        """Read every certificate in *pem*, in order; other text is skipped."""
        found = (each for each in blocks(pem) if each.public)
        return [cls.from_der(each.der()) for each in found]

    @classmethod
    def _from_x509(cls, der: bytes, found: x509.Certificate) -> "Certificate":
        faults: list[str] = []

        def read(get: Callable[[], T], unknown: T) -> T:
            try:
                with _reading():
                    return get()
            except CertificateError as error:
                faults.append(error.message)
                return unknown

        spki, key_type = read(lambda: _public(found.public_key()), (b"", ""))
        return cls(
            der=der,
            subject=read(lambda: _name(found, "subject"), ""),
            issuer=read(lambda: _name(found, "issuer"), ""),
            names=read(lambda: _dns_names(found), frozenset()),
            spki=spki,
            key_type=key_type,
            not_before=read(lambda: _time(found, "not_valid_before"), UNKNOWN),
            not_after=read(lambda: _time(found, "not_valid_after"), UNKNOWN),
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
        _match(_spki_of(_KEY_PARAMETERS.sub(b"", key)), chain)
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


# Bytes of a chain that clients of OpenSSL take: SSL_CTX_set_max_cert_list(3).
_LARGEST = 100 * 1024


def judge(
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
                f"its key is {new.key_type} now, and beside it {other} is served, whose"
                " key is so, too: Postfix would offer no TLS",
                hint="renew it with the other --key-type, or forget one of the two:"
                " certbot-postfix forget NAME",
            )


def listed(names: Iterable[str], most: int = MENTIONED) -> str:
    """Return *names* in a row, but not too many, and of each what can be a host."""
    return enumerated((short(each, LONGEST_NAME) for each in sorted(names)), most=most)


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


def _spki_of(key: bytes) -> bytes:
    spki = public_half(key)
    if not spki:
        raise CertificateError("the private key cannot be read")
    return spki


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


@dataclass(frozen=True, slots=True)
class Block:
    """A certificate or a private key in PEM, of which nothing is read yet."""

    label: str
    pem: bytes = field(repr=False)

    @property
    def public(self) -> bool:
        """Whether it is a certificate."""
        return self.label == "CERTIFICATE"

    def der(self) -> bytes:
        """Return what is encoded; raise `CertificateError` if it is not in base64."""
        inside = self.pem.split(b"-----")[2]
        try:
            return base64.b64decode(b"".join(inside.split()), validate=True)
        except ValueError as error:
            raise CertificateError(f"not a PEM certificate: {error}") from error


def blocks(text: bytes) -> Iterator[Block]:
    """Yield the certificates and private keys in *text*, in order."""
    for found in _BLOCK.finditer(text):
        yield Block(found[1].decode(), found[0])


def leaf(text: bytes) -> Certificate | None:
    """Return the first certificate in *text*; the others take time to read."""
    first = next((block for block in blocks(text) if block.public), None)
    return Certificate.from_der(first.der()) if first else None


def authorities(text: bytes) -> list[Certificate]:
    """Return the certificates in *text*; what cannot be read is skipped.

    Bundles have roots that are older than the rules of today, as to serial numbers.
    """
    found: list[Certificate] = []
    for block in blocks(text):
        with contextlib.suppress(CertificateError):
            found += Certificate.all_from_pem(block.pem)
    return found


def extension(certificate: Certificate, kind: type[E]) -> E | None:
    """Return that extension; None if there is none, or none that can be read."""
    try:
        with _reading():
            found = x509.load_der_x509_certificate(certificate.der).extensions
            return found.get_extension_for_class(kind).value
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
