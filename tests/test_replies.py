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
from certbot_postfix.formats.tlsa import Record

ZONE = dns.name.from_text("example.org.")
OWNER = "_25._tcp.mx.example.org"
RECORD = Record.of_key(b"a key")
DAY = timedelta(days=1)
KEY = ec.generate_private_key(ec.SECP256R1())
DNSKEY = dns.dnssec.make_dnskey(KEY.public_key(), dns.dnssec.ECDSAP256SHA256)


def answered(begin: timedelta, end: timedelta) -> replies.Answer:
    """Return what is read of an answer that is signed for that time."""
    now = datetime.now(timezone.utc)
    records = dns.rrset.from_text(f"{OWNER}.", 3600, "IN", "TLSA", str(RECORD))
    signature = dns.dnssec.sign(
        *(records, KEY, ZONE, DNSKEY), inception=now + begin, expiration=now + end
    )
    question = dns.message.make_query(f"{OWNER}.", "TLSA", want_dnssec=True)
    reply = dns.message.make_response(question)
    reply.flags |= dns.flags.AA
    reply.answer = [records, dns.rrset.from_rdata(f"{OWNER}.", 3600, signature)]
    # As it comes from the network.
    reply = dns.message.from_wire(reply.to_wire())
    keys = {"example.org": dns.rrset.from_rdata(ZONE, 3600, DNSKEY)}
    return replies.of_server("ns1", OWNER, reply, keys)


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
