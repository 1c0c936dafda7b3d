"""TLSA records: RFC 6698, as RFC 7671 and RFC 7672 narrow them for SMTP.

Pure; raises `errors.Error`.  The text of a record is that of zone files, RFC 6698, 2.2.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from certbot_postfix.errors import Error, excerpt
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.system.hostnames import a_labels, is_host
from certbot_postfix.tls.certificates import Certificate, covers

# RFC 6698, 2.1, with the acronyms of RFC 7218.  RFC 7672, 3.1.3: with SMTP, PKIX-TA(0)
# and PKIX-EE(1) count as unusable.
DANE_TA, DANE_EE = 2, 3
CERT, SPKI = 0, 1
FULL, SHA256, SHA512 = 0, 1, 2

_DIGESTS = {SHA256: hashlib.sha256, SHA512: hashlib.sha512}

# What a record should live, in seconds, where nothing else is known: short enough for a
# change that nobody has planned, RFC 7671, 13.
TTL = 3600


@dataclass(frozen=True, slots=True, order=True)
class Record:
    """The value of a TLSA record."""

    usage: int
    selector: int
    matching: int
    data: bytes

    @classmethod
    def of_key(cls, spki: bytes, matching: int = SHA256) -> "Record":
        """Return the record of a public key; RFC 7671, 5.1, recommends 3 1 1."""
        return cls(DANE_EE, SPKI, matching, _DIGESTS[matching](spki).digest())

    @classmethod
    def of_rdata(cls, rdata: Any) -> "Record":
        """Return what dnspython has read."""
        return cls(rdata.usage, rdata.selector, rdata.mtype, rdata.cert)

    @classmethod
    def from_text(cls, text: str) -> "Record":
        """Read *text*, as zone files have it; raise `Error` if it is no such record."""
        import dns.exception  # noqa: PLC0415 - certbot loads us on every run
        import dns.rdata  # noqa: PLC0415

        try:
            return cls.of_rdata(dns.rdata.from_text("IN", "TLSA", text))
        except (dns.exception.DNSException, ValueError) as error:
            raise Error(f"not a TLSA record: {excerpt(text)}") from error

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"

    @property
    def unusable(self) -> str:
        """Why SMTP clients ignore it, as if it were not there, or ""."""
        if self.usage in (0, 1):
            return f"usage {self.usage} (PKIX) is not for SMTP: RFC 7672, 3.1.3"
        for number, known, field in (
            (self.usage, (DANE_TA, DANE_EE), "usage"),
            (self.selector, (CERT, SPKI), "selector"),
            (self.matching, (FULL, SHA256, SHA512), "matching type"),
        ):
            if number not in known:
                return f"the {field} {number} is unknown"
        digest = _DIGESTS.get(self.matching)
        if digest and len(self.data) != digest().digest_size:
            return f"{len(self.data)} octets are not a {digest().name} digest"
        return ""

    def remark(self, beside: "Collection[Record]" = ()) -> str:
        """What is wrong with it, or will be, or "".

        *beside* are the records of the same name.
        """
        return self.fault or self._advice(beside)

    @property
    def fault(self) -> str:
        """Why it is ignored, or can match nothing, or ""."""
        digest = _DIGESTS.get(self.matching)
        if not self.unusable and digest and self.data == digest().digest():
            return f"it is the {digest().name} digest of nothing, as of an empty file"
        return self.unusable

    def _advice(self, beside: "Collection[Record]") -> str:
        """Return why it should be another one, although clients use it, or ""."""
        if self.usage == DANE_TA:
            return "CAs change their issuers without notice: publish 3 1 1 records"
        if self.selector == CERT:
            return "every renewal makes it wrong: publish 3 1 1 records"
        like = (self.usage, self.selector, SHA256)
        known = any((it.usage, it.selector, it.matching) == like for it in beside)
        if self.matching == SHA512 and not known:
            return "not every client knows SHA-512: publish 3 1 1 records as well"
        return ""

    def matches(self, chain: Sequence[Certificate], host: str) -> bool:
        """Whether it stands for the *chain*, leaf first, that *host* presents.

        With DANE-EE, names and times do not count, RFC 7671, 5.1; with DANE-TA, the
        issuer must be in the chain, and the name covered, 5.2.
        """
        if self.usage == DANE_EE:
            return self._is(chain[0])
        covered = covers(chain[0].names, host)
        return self.usage == DANE_TA and covered and any(map(self._is, chain[1:]))

    def _is(self, certificate: Certificate) -> bool:
        selected = certificate.der if self.selector == CERT else certificate.spki
        digest = _DIGESTS.get(self.matching)
        return self.data == (digest(selected).digest() if digest else selected)


def accepts(
    records: Collection[Record], chain: Sequence[Certificate], host: str
) -> bool:
    """Whether every SMTP client takes the *chain* of *host* with these *records*.

    So it is without records, and if none is usable: RFC 7672, 2.2.  Else one must
    match.  Of digests of the same thing, a client may look only at the strongest that
    it knows, RFC 7671, 9: whatever it is, it must match.
    """
    usable = [record for record in records if not record.fault]
    return not usable or any(
        _accepts(group, chain, host) for group in _by_content(usable)
    )


def _accepts(
    records: Sequence[Record], chain: Sequence[Certificate], host: str
) -> bool:
    matching = {record.matching for record in records if record.matches(chain, host)}
    digests = {record.matching for record in records} - {FULL}
    return FULL in matching or (bool(digests) and matching >= digests)


def _by_content(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield the *records* of each usage and selector."""
    for _, group in groupby(sorted(records), lambda one: (one.usage, one.selector)):
        yield list(group)


def owner(host: str, port: int) -> str:
    """Return the name of the records of *host*, RFC 6698, 3: _25._tcp.mx.example.org.

    Raises `Error` if it is not a host's: there are none of a wildcard.
    """
    name = a_labels(host.lower().rstrip("."))
    if not is_host(name):
        raise Error(f"{excerpt(host)} is not the name of a host")
    return f"_{port}._tcp.{name}"


def published(name: str, record: Record, ttl: int = TTL) -> ResourceRecord:
    """Return *record* as one of DNS with that *name*, `owner` or where it leads."""
    return ResourceRecord(name, ttl, "TLSA", str(record))


def line(name: str, record: Record, ttl: int = TTL) -> str:
    """Return *record* as a line of a zone file."""
    return str(published(name, record, ttl))
