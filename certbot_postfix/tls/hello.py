"""A ClientHello that offers nothing but what a server should refuse, and its answer.

It is built here, byte by byte, since a library may no longer know what is refused, or
have settings of its own against it, and Python's ssl cannot choose the signature
algorithms before 3.15.  The formats are those of RFC 5246, section 7.4.1, RFC 8422, and
for TLS 1.3 of RFC 8446, section 4; a server that shares nothing with the client answers
with an alert, RFC 5246, section 7.2.2.
"""

import os
from collections.abc import Callable, Iterable
from enum import Enum

# Cipher suites by the numbers that IANA gave them, in OpenSSL's words.
_GOOD = {
    0xC02B: "ECDHE-ECDSA-AES128-GCM-SHA256",
    0xC02C: "ECDHE-ECDSA-AES256-GCM-SHA384",
    0xC02F: "ECDHE-RSA-AES128-GCM-SHA256",
    0xC030: "ECDHE-RSA-AES256-GCM-SHA384",
    0xC0AC: "ECDHE-ECDSA-AES128-CCM",
    0xC0AD: "ECDHE-ECDSA-AES256-CCM",
    0xCCA8: "ECDHE-RSA-CHACHA20-POLY1305",
    0xCCA9: "ECDHE-ECDSA-CHACHA20-POLY1305",
}
# Those that exist in TLS 1.0 and 1.1 as well.
_OLD = {
    0x0002: "NULL-SHA",
    0x0005: "RC4-SHA",
    0x0007: "IDEA-CBC-SHA",
    0x000A: "DES-CBC3-SHA",
    0x0016: "DHE-RSA-DES-CBC3-SHA",
    0x0018: "ADH-RC4-MD5",
    0x001B: "ADH-DES-CBC3-SHA",
    0x002F: "AES128-SHA",
    0x0033: "DHE-RSA-AES128-SHA",
    0x0034: "ADH-AES128-SHA",
    0x0035: "AES256-SHA",
    0x0039: "DHE-RSA-AES256-SHA",
    0x003A: "ADH-AES256-SHA",
    0x0041: "CAMELLIA128-SHA",
    0x0045: "DHE-RSA-CAMELLIA128-SHA",
    0x0084: "CAMELLIA256-SHA",
    0x0088: "DHE-RSA-CAMELLIA256-SHA",
    0x0096: "SEED-SHA",
    0x009A: "DHE-RSA-SEED-SHA",
    0xC007: "ECDHE-ECDSA-RC4-SHA",
    0xC008: "ECDHE-ECDSA-DES-CBC3-SHA",
    0xC009: "ECDHE-ECDSA-AES128-SHA",
    0xC00A: "ECDHE-ECDSA-AES256-SHA",
    0xC011: "ECDHE-RSA-RC4-SHA",
    0xC012: "ECDHE-RSA-DES-CBC3-SHA",
    0xC013: "ECDHE-RSA-AES128-SHA",
    0xC014: "ECDHE-RSA-AES256-SHA",
    0xC017: "AECDH-DES-CBC3-SHA",
    0xC018: "AECDH-AES128-SHA",
    0xC019: "AECDH-AES256-SHA",
}
_WEAK = _OLD | {
    0x003B: "NULL-SHA256",
    0x003C: "AES128-SHA256",
    0x003D: "AES256-SHA256",
    0x0067: "DHE-RSA-AES128-SHA256",
    0x006B: "DHE-RSA-AES256-SHA256",
    0x006C: "ADH-AES128-SHA256",
    0x006D: "ADH-AES256-SHA256",
    0x009C: "AES128-GCM-SHA256",
    0x009D: "AES256-GCM-SHA384",
    0x009E: "DHE-RSA-AES128-GCM-SHA256",
    0x009F: "DHE-RSA-AES256-GCM-SHA384",
    0x00A6: "ADH-AES128-GCM-SHA256",
    0x00A7: "ADH-AES256-GCM-SHA384",
    0x00BA: "CAMELLIA128-SHA256",
    0x00BE: "DHE-RSA-CAMELLIA128-SHA256",
    0x00C0: "CAMELLIA256-SHA256",
    0x00C4: "DHE-RSA-CAMELLIA256-SHA256",
    0xC023: "ECDHE-ECDSA-AES128-SHA256",
    0xC024: "ECDHE-ECDSA-AES256-SHA384",
    0xC027: "ECDHE-RSA-AES128-SHA256",
    0xC028: "ECDHE-RSA-AES256-SHA384",
    0xC050: "ARIA128-GCM-SHA256",
    0xC051: "ARIA256-GCM-SHA384",
    0xC052: "DHE-RSA-ARIA128-GCM-SHA256",
    0xC053: "DHE-RSA-ARIA256-GCM-SHA384",
    0xC05C: "ECDHE-ECDSA-ARIA128-GCM-SHA256",
    0xC05D: "ECDHE-ECDSA-ARIA256-GCM-SHA384",
    0xC060: "ECDHE-ARIA128-GCM-SHA256",
    0xC061: "ECDHE-ARIA256-GCM-SHA384",
    0xC072: "ECDHE-ECDSA-CAMELLIA128-SHA256",
    0xC073: "ECDHE-ECDSA-CAMELLIA256-SHA384",
    0xC076: "ECDHE-RSA-CAMELLIA128-SHA256",
    0xC077: "ECDHE-RSA-CAMELLIA256-SHA384",
    0xC09C: "AES128-CCM",
    0xC09D: "AES256-CCM",
    0xC09E: "DHE-RSA-AES128-CCM",
    0xC09F: "DHE-RSA-AES256-CCM",
    0xC0A0: "AES128-CCM8",
    0xC0A1: "AES256-CCM8",
    0xC0A2: "DHE-RSA-AES128-CCM8",
    0xC0A3: "DHE-RSA-AES256-CCM8",
    0xC0AE: "ECDHE-ECDSA-AES128-CCM8",
    0xC0AF: "ECDHE-ECDSA-AES256-CCM8",
    0xCCAA: "DHE-RSA-CHACHA20-POLY1305",
}

# TLS 1.3, RFC 8446, B.4.
_MODERN = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
}

# Hash and signature, RFC 5246, 7.4.1.4.1, and RFC 8446, 4.2.3.
_STRONG_SIGNATURES = (
    *(0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806),
    *(0x0401, 0x0501, 0x0601, 0x0807, 0x0808),
)
_WEAK_SIGNATURES = (0x0203, 0x0201, 0x0303, 0x0301, 0x0101)

# X25519, P-256, P-384, P-521, and ffdhe2048 for DHE (RFC 7919).
_GROUPS = (0x001D, 0x0017, 0x0018, 0x0019, 0x0100)
# ffdhe2048 to ffdhe8192, RFC 7919.
_FINITE_FIELDS = (0x0100, 0x0101, 0x0102, 0x0103, 0x0104)

_VERSIONS = {0x0300: "SSL 3", 0x0301: "TLS 1.0", 0x0302: "TLS 1.1", 0x0303: "TLS 1.2"}
_TLS_1_3 = 0x0304
_HANDSHAKE, _ALERT, _SERVER_HELLO = 22, 21, 2

# The most bytes that a record has, RFC 5246, 6.2.3.
_LARGEST = 2**14 + 2048


class Offer(Enum):
    """All that a client offers: the newest version, cipher suites, signatures, groups.

    The groups of finite fields are those of TLS 1.3: there, no cipher suite implies
    them.
    """

    OLD_PROTOCOLS = (0x0302, tuple(_OLD), _STRONG_SIGNATURES, _GROUPS)
    WEAK_CIPHERS = (0x0303, tuple(_WEAK), _STRONG_SIGNATURES, _GROUPS)
    FINITE_FIELDS = (0x0304, tuple(_MODERN), _STRONG_SIGNATURES, _FINITE_FIELDS)
    WEAK_SIGNATURES = (0x0303, tuple(_GOOD), _WEAK_SIGNATURES, _GROUPS)

    def __str__(self) -> str:
        return _WORDS[self]

    def hello(self) -> bytes:
        """Return the record of TLS that offers it."""
        version, suites, signatures, groups = self.value
        extensions = [
            _extension(0x000A, _sized(_numbers(groups), 2)),
            _extension(0x000B, _sized(b"\x00", 1)),  # points are not compressed
            _extension(0x000D, _sized(_numbers(signatures), 2)),
            _extension(0x0017, b""),  # extended master secret, RFC 7627
            _extension(0xFF01, b"\x00"),  # secure renegotiation, RFC 5746
        ]
        if version == _TLS_1_3:
            # The server asks for a share of the group that it chooses, 4.2.8.
            extensions += [
                _extension(0x002B, _sized(_numbers([version]), 1)),
                _extension(0x0033, _sized(b"", 2)),
            ]
        body = (
            _numbers([min(version, 0x0303)])
            + os.urandom(32)
            + _sized(b"", 1)  # no session
            + _sized(_numbers(suites), 2)
            + _sized(b"\x00", 1)  # no compression
            + _sized(b"".join(extensions), 2)
        )
        return b"\x16\x03\x01" + _sized(b"\x01" + _sized(body, 3), 2)


_WORDS = {
    Offer.OLD_PROTOCOLS: "TLS 1.1 and older",
    Offer.WEAK_CIPHERS: "weak ciphers",
    Offer.FINITE_FIELDS: "finite-field groups",
    Offer.WEAK_SIGNATURES: "signatures with SHA-1 or SHA-224",
}


def accepted(offer: Offer, receive: Callable[[int], bytes]) -> str:
    """Return what of *offer* a server has taken, empty if it has refused all of it.

    *receive* returns so many bytes of its answer.  Raises `ConnectionError` for one
    that is none of TLS.
    """
    kind, *_, high, low = receive(5)
    size = high << 8 | low
    if kind == _ALERT:
        return ""
    if kind != _HANDSHAKE or not 4 + 2 + 32 < size <= _LARGEST:
        raise ConnectionError("its answer to a ClientHello is not one of TLS")
    record = receive(size)
    version = int.from_bytes(record[4:6], "big")
    end = 4 + 2 + 32 + 1 + record[4 + 2 + 32]
    suite = int.from_bytes(record[end : end + 2], "big")
    if record[0] != _SERVER_HELLO or suite not in offer.value[1]:
        raise ConnectionError("its answer to a ClientHello is not one of TLS")
    if offer is Offer.FINITE_FIELDS:
        return "TLS 1.3 with a finite-field group"
    terms = f"{_VERSIONS.get(version, 'SSL')} with {(_GOOD | _WEAK)[suite]}"
    weak = offer is Offer.WEAK_SIGNATURES
    return f"{terms} and a signature with SHA-1 or SHA-224" if weak else terms


def _numbers(values: Iterable[int]) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)


def _sized(content: bytes, width: int) -> bytes:
    return len(content).to_bytes(width, "big") + content


def _extension(number: int, content: bytes) -> bytes:
    return _numbers([number]) + _sized(content, 2)
