"""Reads DNS messages about TLSA records.

Pure, but for the clock by which signatures are verified, RFC 4035, 5.3.  What cannot be
read is a fault of who sent it; nothing is raised.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from certbot_postfix.dane.observation import Answer, Observation, Status
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.system.dns import refusal

if TYPE_CHECKING:
    from dns.message import Message
    from dns.rrset import RRset

UNVALIDATED = (
    "there are signed TLSA records, but no resolver of this machine validates them"
)
UNKNOWN_ZONE = "no resolver of this machine validates, so the zone may be signed or not"


@dataclass(frozen=True, slots=True)
class Cut:
    """An *observation* by a resolver alone, and the *zone* that the records are in.

    *zone* is "" where nobody else need be asked, since no client would use them.
    """

    observation: Observation
    zone: str = ""


def of_resolver(owner: str, reply: "Message", *, trusted: bool) -> Cut:
    """Read what a resolver said of *owner*, and whether it has validated that."""
    import dns.exception  # noqa: PLC0415 - certbot loads us on every run
    import dns.flags  # noqa: PLC0415
    import dns.rcode  # noqa: PLC0415

    unknown, insecure = Status.UNKNOWN, Status.INSECURE
    if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        why = f"the resolver answers {dns.rcode.to_text(reply.rcode())}"
        return Cut(Observation(owner, unknown, why=why))
    try:
        chain = reply.resolve_chaining()  # type: ignore[attr-defined]
    except dns.exception.DNSException as error:
        return Cut(Observation(owner, unknown, why=f"its answer is not valid: {error}"))
    target = text(chain.canonical_name)
    signed = _signatures(reply, target)
    if not trusted:
        status, why = (unknown, UNVALIDATED) if signed else (insecure, UNKNOWN_ZONE)
        return Cut(Observation(owner, status, target, why=why))
    if not reply.flags & dns.flags.AD:
        unsigned = chain.answer is not None
        return Cut(Observation(owner, insecure, target, unsigned=unsigned))
    cached = None
    if chain.answer is not None:
        ttl = signed[0].original_ttl if signed else chain.answer.ttl
        cached = Answer("the resolver", _records(chain.answer), ttl)
    zone = text(signed[0].signer) if signed else _apex(reply)
    return Cut(Observation(owner, Status.SECURE, target, cached=cached), zone)


def of_server(
    server: str, target: str, reply: "Message", keys: "Mapping[str, RRset]"
) -> Answer:
    """Read what an authoritative *server* said of the records at *target*."""
    if fault := refusal(reply):
        return Answer(server, fault=fault)
    if (rrset := _of(reply, target, "TLSA")) is None:
        # That there are none is not verified: the gate only waits for longer.
        return Answer(server)
    if not (signatures := _of(reply, target, "RRSIG")):
        fault = "has no signature of the records"
    elif fault := _invalid(rrset, signatures, keys):
        fault = f"has a wrong signature of the records: {fault}"
    else:
        signature = _signatures(reply, target)[0]
        return Answer(
            server,
            _records(rrset),
            signature.original_ttl,
            # RFC 4035, 5.3.2; the root is a label of dnspython's.
            wildcard=signature.labels < len(rrset.name.labels) - 1,
        )
    return Answer(server, fault=fault)


def _invalid(rrset: "RRset", signatures: "RRset", keys: "Mapping[str, RRset]") -> str:
    import dns.dnssec  # noqa: PLC0415
    import dns.exception  # noqa: PLC0415
    import dns.name  # noqa: PLC0415

    now = time.time()
    if all(signature.expiration < now for signature in signatures):
        return "it has expired, according to the clock of this machine"
    if all(signature.inception > now for signature in signatures):
        return "it is not valid yet, according to the clock of this machine"
    known: dict[Any, Any] = {
        dns.name.from_text(zone): key for zone, key in keys.items()
    }
    try:
        dns.dnssec.validate(rrset, signatures, known)
    # dnspython has no DNSSEC with a version of cryptography that is too old for it.
    except (dns.exception.DNSException, ImportError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""


def validated(reply: "Message") -> "RRset | None":
    """Return the records that were asked for, if the resolver has validated them."""
    import dns.flags  # noqa: PLC0415

    question = reply.question[0]
    if not reply.flags & dns.flags.AD:
        return None
    return reply.get_rrset(
        reply.answer, question.name, question.rdclass, question.rdtype
    )


def _signatures(reply: "Message", target: str) -> list[Any]:
    return list(_of(reply, target, "RRSIG") or ())


def _of(reply: "Message", target: str, kind: str) -> "RRset | None":
    """Return the TLSA records of *target*, or their signatures."""
    import dns.name  # noqa: PLC0415
    import dns.rdataclass  # noqa: PLC0415
    import dns.rdatatype  # noqa: PLC0415

    rdtype, tlsa = dns.rdatatype.from_text(kind), dns.rdatatype.TLSA
    covers = tlsa if rdtype != tlsa else dns.rdatatype.NONE
    name = dns.name.from_text(target)
    return reply.get_rrset(reply.answer, name, dns.rdataclass.IN, rdtype, covers)


def _apex(reply: "Message") -> str:
    """Return the zone that has no such records: RFC 2308, 3; RFC 4035, 3.1.3."""
    import dns.rdatatype  # noqa: PLC0415

    soas = (rrset for rrset in reply.authority if rrset.rdtype == dns.rdatatype.SOA)
    return next((text(soa.name) for soa in soas), "")


def _records(rrset: "RRset") -> frozenset[Record]:
    return frozenset(map(Record.of_rdata, rrset))


def text(name: object) -> str:
    """Return a name of dnspython's without its last dot, but for the root."""
    return str(name).lower().removesuffix(".") or "."
