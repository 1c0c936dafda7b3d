"""What name servers answer counts only if the keys of the zone have signed it, now."""

from datetime import datetime, timedelta, timezone

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.rrset
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certbot_postfix.dane import replies
from certbot_postfix.dane.observation import Status
from certbot_postfix.formats.tlsa import Record

ZONE = dns.name.from_text("example.org.")
OWNER = "_25._tcp.mx.example.org"
RECORD = Record.of_key(b"a key")
RECORDS = dns.rrset.from_text(f"{OWNER}.", 3600, "IN", "TLSA", str(RECORD))
DAY = timedelta(days=1)
KEY = ec.generate_private_key(ec.SECP256R1())
DNSKEY = dns.dnssec.make_dnskey(KEY.public_key(), dns.dnssec.ECDSAP256SHA256)


def answered(begin: timedelta, end: timedelta) -> replies.Answer:
    """Return what is read of an answer that is signed for that time."""
    now = datetime.now(timezone.utc)
    signature = dns.dnssec.sign(
        *(RECORDS, KEY, ZONE, DNSKEY), inception=now + begin, expiration=now + end
    )
    return read(RECORDS, dns.rrset.from_rdata(f"{OWNER}.", 3600, signature))


def received(*rrsets: dns.rrset.RRset) -> dns.message.Message:
    """Return an answer with *rrsets*, as it comes from the network."""
    question = dns.message.make_query(f"{OWNER}.", "TLSA", want_dnssec=True)
    reply = dns.message.make_response(question)
    reply.flags |= dns.flags.AA
    reply.answer = [*rrsets]
    return dns.message.from_wire(reply.to_wire())


def read(*rrsets: dns.rrset.RRset) -> replies.Answer:
    keys = {"example.org": dns.rrset.from_rdata(ZONE, 3600, DNSKEY)}
    return replies.of_server("ns1", OWNER, received(*rrsets), keys)


def test_records_with_a_valid_signature_count():
    assert answered(-DAY, DAY).records == {RECORD}


@pytest.mark.parametrize(
    ("begin", "end", "reason"),
    [
        pytest.param(-3 * DAY, -DAY, "it has expired", id="the clock was set forward"),
        pytest.param(DAY, 3 * DAY, "it is not valid yet", id="the clock was set back"),
    ],
)
def test_a_clock_that_is_wrong_announces_nothing(begin, end, reason):
    answer = answered(begin, end)

    assert answer.records == frozenset()
    assert answer.fault == (
        f"has a wrong signature of the records: {reason}, according to the clock of"
        " this machine"
    )


def test_records_without_a_signature_announce_nothing():
    answer = read(RECORDS)

    assert answer.records == frozenset()
    assert answer.fault == "has no signature of the records"


def test_an_alias_that_leads_in_a_circle_is_no_answer():
    other = "tlsa.example.org."
    circle = [
        dns.rrset.from_text(f"{OWNER}.", 3600, "IN", "CNAME", other),
        dns.rrset.from_text(other, 3600, "IN", "CNAME", f"{OWNER}."),
    ]

    observation = replies.of_resolver(
        OWNER, received(*circle), trusted=True
    ).observation

    assert observation.status is Status.UNKNOWN
    assert observation.why.startswith("its answer is not valid: ")
