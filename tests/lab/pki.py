"""Certificates without an ACME server, and certbot's lineages made of them.

Works with every version of cryptography from 38.  The layout of a lineage is that of
certbot's `certbot._internal.storage`.
"""

import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | dsa.DSAPrivateKey

KINDS = ("cert", "chain", "fullchain", "privkey")


@dataclass(frozen=True)
class Issued:
    """A leaf with its key and its issuers, as certbot would store them."""

    cert_pem: bytes
    chain_pem: bytes
    key_pem: bytes = field(repr=False)

    @property
    def fullchain_pem(self) -> bytes:
        """The leaf, then its issuers."""
        return self.cert_pem + self.chain_pem

    @property
    def bundle_pem(self) -> bytes:
        """What ``smtpd_tls_chain_files`` wants: the key, the leaf, its issuers."""
        return self.key_pem + self.fullchain_pem

    @property
    def leaf(self) -> x509.Certificate:
        """The leaf, parsed."""
        return x509.load_pem_x509_certificate(self.cert_pem)


class Authority:
    """A root and an intermediate that issues leaves for TLS servers."""

    def __init__(self, name: str = "Lab") -> None:
        self.root_key, self._key = generate_key(), generate_key()
        root_key = self.root_key
        root_name = _common_name(f"{name} Root")
        self._name = _common_name(f"{name} Intermediate")
        self.root_pem = _pem(_certificate(root_name, root_key, root_name, root_key))
        self.intermediate_pem = _pem(
            _certificate(self._name, self._key, root_name, root_key)
        )

    def issue(
        self,
        *names: str,
        key: Key | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Issued:
        """Return a new leaf for *names*, the first of which is its common name.

        It has a new P-256 key unless *key* is given, and is valid from an hour ago for
        90 days unless told otherwise.
        """
        key = key or generate_key()
        leaf = _certificate(
            _common_name(names[0]),
            key,
            self._name,
            self._key,
            names=names,
            validity=_validity(not_before, not_after),
        )
        return Issued(_pem(leaf), self.intermediate_pem, _key_pem(key))

    def cross_signed_by(self, other: "Authority") -> bytes:
        """Return the intermediate as the root of *other* signs it."""
        root = x509.load_pem_x509_certificate(other.root_pem).subject
        return _pem(_certificate(self._name, self._key, root, other.root_key))


def self_signed(name: str, key: Key | None = None) -> Issued:
    """Return a certificate without an authority, as Debian's snake oil is."""
    key = key or generate_key()
    subject = _common_name(name)
    leaf = _certificate(subject, key, subject, key, names=[name])
    return Issued(_pem(leaf), b"", _key_pem(key))


def edited(issued: Issued, **parts: bytes) -> Issued:
    """Return *issued* with other *parts* (RFC 5280, 4.1), in DER, signed by its key.

    Parts are version, serial, issuer, validity, subject, public_key and extensions.
    OpenSSL serves much that cryptography neither makes nor reads.
    """
    outer = _inside(issued.leaf.public_bytes(serialization.Encoding.DER))
    tbs, algorithm, _ = _members(outer)
    names = "version serial algorithm issuer validity subject public_key extensions"
    found = dict(zip(names.split(), _members(_inside(tbs)), strict=True)) | parts
    tbs = der(0x30, *found.values())
    key = serialization.load_pem_private_key(issued.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    encoded = der(0x30, tbs, algorithm, der(0x03, b"\0", signature))
    pem = ssl.DER_cert_to_PEM_cert(encoded).encode()
    return Issued(pem, issued.chain_pem, issued.key_pem)


def der(tag: int, *contents: bytes) -> bytes:
    """Return *contents* as one value in DER."""
    content = b"".join(contents)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes(2, "big").lstrip(b"\0")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _inside(value: bytes) -> bytes:
    return value[2 + (value[1] & 0x7F if value[1] & 0x80 else 0) :]


def _members(content: bytes) -> list[bytes]:
    found = []
    while content:
        head = len(content) - len(_inside(content))
        size = content[1] if head == 2 else int.from_bytes(content[2:head], "big")
        found.append(content[: head + size])
        content = content[head + size :]
    return found


def _extension(oid: bytes, value: bytes) -> bytes:
    return der(0x30, der(0x06, oid), der(0x04, value))


def _extensions(*members: bytes) -> bytes:
    return der(0xA3, der(0x30, *members))


def _cn(tag: int, value: bytes) -> bytes:
    attribute = der(0x30, der(0x06, b"\x55\x04\x03"), der(tag, value))
    return der(0x30, der(0x31, attribute))


def _san(*names: bytes) -> bytes:
    return _extension(b"\x55\x1d\x11", der(0x30, *names))


def _times(tag: int, start: bytes, end: bytes) -> bytes:
    return der(0x30, der(tag, start), der(tag, end))


_UTC, _GENERAL = 0x17, 0x18
_NAME = der(0x82, b"mx.example.org")
_BITS = _cn(0x03, b"\0mx.example.org")

ODD: dict[str, dict[str, bytes]] = {
    "version 4": {"version": der(0xA0, der(0x02, b"\3"))},
    "version 1 with extensions": {"version": b""},
    "x400Address": {"extensions": _extensions(_san(_NAME, der(0xA3, der(0x30))))},
    "CN as BIT STRING": {"subject": _BITS, "issuer": _BITS},
    "subject as BIT STRING": {"subject": _BITS},
    "CN in broken UTF-8": {"subject": _cn(0x0C, b"\xff\xfe")},
    "CN as half a surrogate": {"subject": _cn(0x1E, b"\xd8\0")},
    "CN with control characters": {"subject": _cn(0x0C, b"a\x1b[31mb\xc2\x9b")},
    "empty subject": {"subject": der(0x30)},
    "serial number -5": {"serial": der(0x02, b"\xfb")},
    "serial number 0": {"serial": der(0x02, b"\0")},
    "serial number of 40 octets": {"serial": der(0x02, b"\1" * 40)},
    "broken extension": {
        "extensions": _extensions(_extension(b"\x55\x1d\x11", b"\x30\x05ab"))
    },
    "extension twice": {"extensions": _extensions(_san(_NAME), _san(_NAME))},
    "no extensions": {"extensions": b""},
    "name in Latin-1": {"extensions": _extensions(_san(der(0x82, b"m\xfc.example")))},
    "address of five octets": {"extensions": _extensions(_san(der(0x87, b"12345")))},
    "30 February": {"validity": _times(_UTC, b"260230000000Z", b"360230000000Z")},
    "time without seconds": {"validity": _times(_UTC, b"2601010000Z", b"3601010000Z")},
    "time with a zone": {
        "validity": _times(_UTC, b"260101000000+0100", b"360101000000+0100")
    },
    "year 0": {"validity": _times(_GENERAL, b"00000101000000Z", b"00000102000000Z")},
    "year 9999": {"validity": _times(_GENERAL, b"20200101000000Z", b"99991231235959Z")},
    "no time at all": {"validity": _times(_UTC, b"", b"")},
}
"""Parts by which a certificate becomes odd."""

SERVED = [
    kind
    for kind in ODD
    if kind
    not in (
        "CN in broken UTF-8",
        "CN as half a surrogate",
        "broken extension",
        "extension twice",
    )
]
"""Those that OpenSSL serves nevertheless."""


def loaded() -> list[str]:
    """Return those of them that this OpenSSL serves."""
    strict = {"time without seconds", "no time at all"}
    newer = ssl.OPENSSL_VERSION_INFO >= (3, 5)
    return [kind for kind in SERVED if not (newer and kind in strict)]


def generate_key(kind: str = "ecdsa") -> Key:
    """Return a new private key: ``ecdsa`` (P-256, quick), ``rsa`` or ``dsa``.

    One of RSA has 2048 bits, or as many as stand after its name.
    """
    if kind == "dsa":
        return dsa.generate_private_key(key_size=1024)
    if kind.startswith("rsa"):
        bits = int(kind[3:] or 2048)
        return rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return ec.generate_private_key(ec.SECP256R1())


def install_lineage(
    config_dir: Path,
    name: str,
    issued: Issued,
    *,
    installer: str | None = "postfix",
    server: str = "https://acme.invalid/directory",
    **params: str,
) -> Path:
    """Write the lineage *name* as certbot does; return its directory in ``live``.

    Further *params* join the ``[renewalparams]``, such as ``postfix_config_dir``.
    """
    for directory in ("archive", "live"):
        (config_dir / directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    archive, live = config_dir / "archive" / name, config_dir / "live" / name
    archive.mkdir()
    live.mkdir()
    renew_lineage(config_dir, name, issued)
    renewal = config_dir / "renewal" / f"{name}.conf"
    renewal.parent.mkdir(exist_ok=True)
    settings = {
        "authenticator": "standalone",
        "installer": installer or "None",
        "account": "0" * 32,
        "server": server,
        **params,
    }
    lines = [
        "version = 2.1.0",
        f"archive_dir = {archive}",
        *(f"{kind} = {live / kind}.pem" for kind in KINDS),
        "",
        "[renewalparams]",
        *(f"{setting} = {value}" for setting, value in settings.items()),
    ]
    renewal.write_text("\n".join(lines) + "\n")
    return live


def renew_lineage(config_dir: Path, name: str, issued: Issued) -> int:
    """Add the next version to the lineage *name*; return its number."""
    archive, live = config_dir / "archive" / name, config_dir / "live" / name
    version = 1 + len(list(archive.glob("cert*.pem")))
    contents = {
        "cert": issued.cert_pem,
        "chain": issued.chain_pem,
        "fullchain": issued.fullchain_pem,
        "privkey": issued.key_pem,
    }
    for kind, content in contents.items():
        path = archive / f"{kind}{version}.pem"
        path.touch(mode=0o600 if kind == "privkey" else 0o644)
        path.write_bytes(content)
        link = live / f"{kind}.pem"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..", "..", "archive", name, path.name))
    return version


def _validity(
    not_before: datetime | None = None, not_after: datetime | None = None
) -> tuple[datetime, datetime]:
    lifetime = timedelta(days=90)
    start = not_before or datetime.now(timezone.utc) - timedelta(hours=1)
    if not_after and not_after <= start and not not_before:
        start = not_after - lifetime  # what has expired began before that
    return start, not_after or start + lifetime


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _certificate(
    subject: x509.Name,
    key: Key,
    issuer: x509.Name,
    issuer_key: Key,
    *,
    names: Iterable[str] = (),
    validity: tuple[datetime, datetime] | None = None,
) -> x509.Certificate:
    """Sign a leaf for *names*, or an authority if there are none."""
    alternatives = [_alternative_name(name) for name in names]
    start, end = validity or _validity()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(
            x509.BasicConstraints(ca=not alternatives, path_length=None), critical=True
        )
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if alternatives:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(alternatives), critical=False
        ).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    else:
        # RFC 5280, 4.2.1.3; Python 3.13 insists on it.
        builder = builder.add_extension(_SIGNS, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
