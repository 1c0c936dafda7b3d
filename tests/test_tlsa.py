"""TLSA records: what they say, and which certificates clients take with them."""

import hashlib

import dns.name
import dns.zone
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from certbot_postfix.errors import Error
from certbot_postfix.formats import tlsa
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.tls.certificates import Certificate
from tests.lab import Authority, Issued

HOST = "mx.example.org"
NOTHING = hashlib.sha256(b"").digest()


def chain(issued: Issued) -> list[Certificate]:
    return Certificate.all_from_pem(issued.fullchain_pem)


@pytest.fixture(scope="module")
def lab() -> Authority:
    return Authority()


def record(words: str, certificate: Certificate) -> Record:
    """Return the record of *certificate* with these *words*, such as 3 1 1."""
    usage, selector, matching = map(int, words.split())
    data = certificate.spki if selector else certificate.der
    digest = {1: hashlib.sha256, 2: hashlib.sha512}.get(matching)
    return Record(usage, selector, matching, digest(data).digest() if digest else data)


DIGESTS = st.one_of(
    st.tuples(st.just(1), st.binary(min_size=32, max_size=32)),
    st.tuples(st.just(2), st.binary(min_size=64, max_size=64)),
    st.tuples(st.integers(3, 255), st.binary(min_size=1)),
)


@given(st.tuples(st.integers(0, 255), st.integers(0, 255), DIGESTS))
def test_a_record_is_read_as_it_is_written(parts):
    usage, selector, (matching, data) = parts
    value = Record(usage, selector, matching, data)

    assert Record.from_text(str(value)) == value


@pytest.mark.parametrize("text", ["", "3 1 1", "3 1 1 xyz", "3 1 256 00", "3 one 1 00"])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(Error, match="not a TLSA record: "):
        Record.from_text(text)


def test_a_line_for_a_zone_file_is_read_by_a_name_server(lab):
    value = Record.of_key(chain(lab.issue(HOST))[0].spki)
    text = f"@ 0 SOA ns. admin. 1 1 1 1 1\n@ 0 NS ns.\n{tlsa.line('_25._tcp.a', value)}"

    zone = dns.zone.from_text(text, origin=".", relativize=False)

    found = zone.get_rdataset(dns.name.from_text("_25._tcp.a"), "TLSA")
    assert [Record.of_rdata(each) for each in found] == [value]
    assert found.ttl == tlsa.TTL


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("mx.example.org", "_25._tcp.mx.example.org"),
        ("MX.Example.org.", "_25._tcp.mx.example.org"),
        ("straße.example", "_25._tcp.xn--strae-oqa.example"),
    ],
)
def test_records_have_a_name_of_port_protocol_and_host(host, name):
    assert tlsa.owner(host, 25) == name


@pytest.mark.parametrize("host", ["*.example.org", "", "192.0.2.1", "a..b", "a b"])
def test_what_is_no_host_has_no_records(host):
    with pytest.raises(Error, match="is not the name of a host"):
        tlsa.owner(host, 25)


@pytest.mark.parametrize(
    "words", ["3 1 1", "3 1 2", "3 1 0", "3 0 1", "3 0 2", "3 0 0"]
)
def test_a_record_of_the_leaf_counts_for_no_other_key(lab, words):
    ours, other = chain(lab.issue(HOST)), chain(lab.issue(HOST))
    value = record(words, ours[0])

    assert tlsa.accepts([value], ours, "another.example")
    assert not tlsa.accepts([value], other, HOST)


@pytest.mark.parametrize(
    ("words", "counts"), [("3 1 1", True), ("3 0 1", False), ("3 0 0", False)]
)
def test_a_renewal_with_the_same_key_has_the_same_key_but_another_certificate(
    lab, words, counts
):
    first = lab.issue(HOST)
    key = load_pem_private_key(first.key_pem, None)
    again = chain(lab.issue(HOST, key=key))

    assert tlsa.accepts([record(words, chain(first)[0])], again, HOST) is counts


@pytest.mark.parametrize("words", ["2 0 1", "2 1 1", "2 1 2", "2 0 0"])
def test_a_record_of_an_issuer_counts_for_its_certificates_of_the_right_name(
    lab, words
):
    ours = chain(lab.issue(HOST))
    value = record(words, ours[1])

    assert tlsa.accepts([value], chain(lab.issue(HOST)), HOST)
    assert not tlsa.accepts([value], chain(lab.issue("shop.example.net")), HOST)
    assert not tlsa.accepts([value], chain(Authority("Other").issue(HOST)), HOST)
    assert not tlsa.accepts([value], ours[:1], HOST)


def test_one_record_that_matches_is_enough(lab):
    ours, other = chain(lab.issue(HOST)), chain(lab.issue(HOST))
    records = [record("3 1 1", other[0]), record("3 1 1", ours[0])]

    assert tlsa.accepts(records, ours, HOST)
    assert tlsa.accepts(
        [record("3 1 1", other[0]), record("2 1 1", ours[1])], ours, HOST
    )


def test_each_digest_must_match_since_a_client_may_look_at_the_strongest_only(lab):
    ours, other = chain(lab.issue(HOST)), chain(lab.issue(HOST))
    stale = record("3 1 2", other[0])

    assert not tlsa.accepts([record("3 1 1", ours[0]), stale], ours, HOST)
    assert tlsa.accepts(
        [record("3 1 1", ours[0]), record("3 1 2", ours[0]), stale], ours, HOST
    )
    assert tlsa.accepts([record("3 1 0", ours[0]), stale], ours, HOST)


FAULTS = {
    (0, 1, 1, b"a" * 32): "usage 0 (PKIX) is not for SMTP: RFC 7672, 3.1.3",
    (1, 0, 1, b"a" * 32): "usage 1 (PKIX) is not for SMTP: RFC 7672, 3.1.3",
    (4, 1, 1, b"a" * 32): "the usage 4 is unknown",
    (3, 2, 1, b"a" * 32): "the selector 2 is unknown",
    (3, 1, 3, b"a" * 32): "the matching type 3 is unknown",
    (3, 1, 1, b"a" * 64): "64 octets are not a sha256 digest",
    (3, 1, 2, b"a" * 32): "32 octets are not a sha512 digest",
    (3, 1, 1, NOTHING): "it is the sha256 digest of nothing, as of an empty file",
}


@pytest.mark.parametrize(("parts", "fault"), FAULTS.items())
def test_a_record_that_no_client_can_use_says_why_and_hinders_nothing(
    lab, parts, fault
):
    value, ours = Record(*parts), chain(lab.issue(HOST))

    assert value.fault == fault
    # A digest of nothing is one as any other for a client, and matches no certificate.
    assert value.unusable == ("" if value.data == NOTHING else fault)
    assert tlsa.accepts([value], ours, HOST)
    assert not tlsa.accepts(
        [value, record("3 1 1", chain(lab.issue(HOST))[0])], ours, HOST
    )


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("3 1 1", ""),
        ("3 0 1", "every renewal makes it wrong: publish 3 1 1 records"),
        ("2 1 1", "CAs change their issuers without notice: publish 3 1 1 records"),
        ("3 1 2", "not every client knows SHA-512: publish 3 1 1 records as well"),
    ],
)
def test_a_record_that_will_make_trouble_says_so(lab, words, advice):
    value = record(words, chain(lab.issue(HOST))[0])

    assert (value.fault, value.remark()) == ("", advice)


def test_a_sha_512_digest_is_well_beside_a_sha_256_one_of_the_same_kind(lab):
    leaf = chain(lab.issue(HOST))[0]
    longer = record("3 1 2", leaf)

    assert longer.remark([longer, record("2 1 1", leaf)])
    assert longer.remark([longer, record("3 1 1", leaf)]) == ""
