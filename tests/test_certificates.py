"""Bundles exist only if they fit; certificates are judged before they are deployed."""

import base64
import contextlib
import ssl
import subprocess
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from certbot_postfix.errors import CertificateError
from certbot_postfix.tls import purposes, replacement
from certbot_postfix.tls.bundle import Bundle
from certbot_postfix.tls.certificates import Certificate, authorities, covers
from certbot_postfix.tls.replacement import is_copy_before, refuse_second
from tests.lab import Authority, pki

NOW = datetime(2026, 7, 1, 12, 0, tzinfo=timezone.utc)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def issued(authority: Authority) -> pki.Issued:
    return authority.issue("mx.example.org", "*.Example.net")


@pytest.fixture(scope="module")
def stranger(authority: Authority) -> pki.Issued:
    return authority.issue("stranger.example.org")


def certificate(
    *names: str, start: datetime = NOW - DAY, days: int = 90
) -> Certificate:
    """Return the certificate for *names* that is valid from *start*."""
    return Certificate(
        der=f"{names} {start} {days}".encode(),
        subject=f"CN={names[0]}",
        issuer="CN=CA",
        names=frozenset(names),
        spki=b"key",
        key_type="ECDSA",
        not_before=start,
        not_after=start + days * DAY,
    )


# Bundle


def test_a_bundle_is_the_key_then_the_leaf_then_the_issuers(issued):
    bundle = Bundle.from_pem(issued.key_pem, issued.fullchain_pem)

    assert bundle.pem == issued.key_pem + issued.cert_pem + issued.chain_pem


@pytest.mark.parametrize(
    ("key", "key_type"),
    [
        pytest.param(pki.generate_key("rsa"), "RSA", id="RSA"),
        pytest.param(pki.generate_key("ecdsa"), "ECDSA", id="ECDSA"),
        pytest.param(ed25519.Ed25519PrivateKey.generate(), "Ed25519", id="Ed25519"),
    ],
)
def test_a_key_of_any_type_fits_its_own_certificate(authority, key, key_type):
    issued = authority.issue("mx.example.org", key=key)

    bundle = Bundle.from_pem(issued.key_pem, issued.fullchain_pem)

    assert bundle.leaf.key_type == key_type
    assert bundle.leaf.der == issued.leaf.public_bytes(serialization.Encoding.DER)


def test_the_leaf_tells_its_names_in_small_letters_and_its_times(issued):
    leaf = Bundle.from_pem(issued.key_pem, issued.fullchain_pem).leaf

    assert leaf.names == {"mx.example.org", "*.example.net"}
    assert leaf.not_after - leaf.not_before == 90 * DAY
    assert leaf.not_after.tzinfo is timezone.utc


def test_a_bundle_without_final_newlines_is_still_well_formed(issued):
    bundle = Bundle.from_pem(issued.key_pem.rstrip(), issued.fullchain_pem.rstrip())

    assert bundle.pem == issued.bundle_pem


def test_a_chain_with_windows_line_ends_is_read(issued):
    fullchain = issued.fullchain_pem.replace(b"\n", b"\r\n")

    assert Bundle.from_pem(issued.key_pem, fullchain).leaf.names >= {"mx.example.org"}


def test_a_bundle_needs_no_issuers():
    issued = pki.self_signed("mx.example.org")

    bundle = Bundle.from_pem(issued.key_pem, issued.fullchain_pem)

    assert bundle.leaf.self_signed


def test_a_certificate_of_an_authority_is_not_self_signed(issued):
    assert not Bundle.from_pem(issued.key_pem, issued.fullchain_pem).leaf.self_signed


def test_the_key_of_another_certificate_is_refused(issued, stranger):
    with pytest.raises(CertificateError, match="key does not belong"):
        Bundle.from_pem(stranger.key_pem, issued.fullchain_pem)


def test_a_leaf_that_is_not_first_is_refused(issued):
    with pytest.raises(CertificateError, match="the private key is not the first"):
        Bundle.from_pem(issued.key_pem, issued.chain_pem + issued.cert_pem)


def test_a_chain_out_of_order_is_refused(authority, issued):
    fullchain = issued.cert_pem + authority.root_pem + authority.intermediate_pem

    with pytest.raises(
        CertificateError, match=r"out of order: CN=Lab Intermediate .* CN=Lab Root foll"
    ):
        Bundle.from_pem(issued.key_pem, fullchain)


def test_an_issuer_that_two_roots_signed_may_follow_twice(authority, issued):
    crossed = authority.cross_signed_by(Authority("Other"))
    fullchain = issued.fullchain_pem + crossed + authority.root_pem

    assert Bundle.from_pem(issued.key_pem, fullchain).pem.endswith(
        crossed + authority.root_pem
    )


def test_the_parameters_before_a_key_are_left_out_of_the_bundle():
    made = subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey"],
        check=True,
        capture_output=True,
    ).stdout
    bare = made[made.index(b"-----BEGIN EC PRIV") :]
    key = serialization.load_pem_private_key(bare, None)
    leaf = pki.self_signed("mx.example.org", key)

    bundle = Bundle.from_pem(made, leaf.fullchain_pem)

    assert b"EC PARAMETERS" in made
    assert b"EC PARAMETERS" not in bundle.pem
    assert bundle.pem == bare + leaf.cert_pem


def test_a_chain_up_to_the_root_is_accepted(authority, issued):
    fullchain = issued.fullchain_pem + authority.root_pem

    assert Bundle.from_pem(issued.key_pem, fullchain).pem.endswith(authority.root_pem)


@pytest.mark.parametrize("fullchain", [b"", b"no PEM", b"\xff\x00"])
def test_a_chain_without_a_certificate_is_refused(issued, fullchain):
    with pytest.raises(CertificateError, match="no certificate in the full chain"):
        Bundle.from_pem(issued.key_pem, fullchain)


def test_a_damaged_certificate_is_refused(issued):
    lines = issued.fullchain_pem.splitlines(keepends=True)

    with pytest.raises(CertificateError, match="not a certificate"):
        Bundle.from_pem(issued.key_pem, b"".join([lines[0], *lines[2:]]))


@pytest.fixture(scope="module")
def unheard_of(tmp_path_factory) -> tuple[bytes, bytes]:
    """Return a key on a curve that cryptography does not know, and its certificate."""
    directory = tmp_path_factory.mktemp("unheard-of")
    key, certificate = directory / "key", directory / "certificate"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-subj", "/CN=mx.example.org"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp112r1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return key.read_bytes(), certificate.read_bytes()


def test_a_certificate_with_an_unheard_of_key_is_refused(issued, unheard_of):
    key, certificate = unheard_of

    with pytest.raises(CertificateError, match=r"cannot be read: .*[cC]urve"):
        Bundle.from_pem(issued.key_pem, certificate)
    der = ssl.PEM_cert_to_DER_cert(certificate.decode())
    assert "curve" in Certificate.from_der(der).fault.lower()
    with pytest.raises(CertificateError, match="private key cannot be read"):
        Bundle.from_pem(key, issued.fullchain_pem)


def test_a_certificate_that_is_no_der_is_refused():
    with pytest.raises(CertificateError, match="not a certificate"):
        Certificate.from_der(b"")


def damaged(key: bytes) -> bytes:
    first, _, *rest = key.splitlines(keepends=True)
    return b"".join([first, *rest])


def encrypted(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(damaged, id="a line is missing"),
        pytest.param(encrypted, id="encrypted"),
        pytest.param(lambda key: key.replace(b"PRIVATE", b"SECRET"), id="of no kind"),
        pytest.param(lambda key: key[: len(key) // 2], id="cut off"),
        pytest.param(lambda _: b"", id="empty"),
    ],
)
def test_a_key_that_cannot_be_read_is_refused_and_never_quoted(issued, spoil):
    key = spoil(issued.key_pem)

    with pytest.raises(CertificateError, match="private key cannot be read") as caught:
        Bundle.from_pem(key, issued.fullchain_pem)

    assert_hidden(key, "".join(traceback.format_exception(caught.value)))


def test_a_key_that_does_not_match_is_never_quoted(issued, stranger):
    with pytest.raises(CertificateError) as caught:
        Bundle.from_pem(stranger.key_pem, issued.fullchain_pem)

    assert_hidden(stranger.key_pem, "".join(traceback.format_exception(caught.value)))


def test_no_key_is_in_the_repr_of_a_bundle(issued):
    bundle = Bundle.from_pem(issued.key_pem, issued.fullchain_pem)

    assert_hidden(issued.key_pem, repr(bundle) + str(bundle))


def assert_hidden(key: bytes, text: str) -> None:
    secret = [line for line in key.decode().splitlines() if not line.startswith("---")]
    assert not [line for line in secret if line in text]


# Judgement


@pytest.mark.parametrize("old", [None, certificate("mx.example.org", days=30)])
def test_a_valid_certificate_is_not_remarkable(old):
    new = certificate("mx.example.org")

    assert replacement.check(new, old, "mx.example.org", NOW) == []


def test_an_expired_certificate_is_refused_with_the_date():
    new = certificate("mx.example.org", start=NOW - 90 * DAY)

    with pytest.raises(CertificateError, match="expired at 2026-07-01 12:00 UTC"):
        replacement.check(new, None, "mx.example.org", NOW)


def test_a_certificate_of_the_future_is_refused_with_the_date():
    new = certificate("mx.example.org", start=NOW + DAY)

    with pytest.raises(CertificateError, match="not valid before 2026-07-02 12:00 UTC"):
        replacement.check(new, None, "mx.example.org", NOW)


def test_an_older_certificate_than_the_deployed_one_is_refused():
    new = certificate("mx.example.org", start=NOW - 2 * DAY)
    old = certificate("mx.example.org", start=NOW - DAY)

    with pytest.raises(CertificateError, match=r"2026-06-29 .* is older .* 2026-06-30"):
        replacement.check(new, old, "mx.example.org", NOW)


def test_a_certificate_that_no_longer_covers_the_server_is_refused():
    old, new = certificate("mx.example.org", days=30), certificate("www.example.org")

    with pytest.raises(CertificateError, match=r"no longer covers mx\.example\.org"):
        replacement.check(new, old, "mx.example.org", NOW)


def test_a_wildcard_still_covers_the_server():
    old, new = certificate("mx.example.org", days=30), certificate("*.example.org")

    assert replacement.check(new, old, "mx.example.org", NOW) == [
        "no longer covered: mx.example.org"
    ]


def test_names_that_are_gone_are_told():
    old = certificate("mx.example.org", "b.example.org", "a.example.org", days=30)
    new = certificate("mx.example.org", "c.example.org")

    assert replacement.check(new, old, "mx.example.org", NOW) == [
        "no longer covered: a.example.org and b.example.org"
    ]


@pytest.mark.parametrize(
    ("names", "more"),
    [(["x" * 5000], ""), ([f"{n}.example.org" for n in range(5000)], "4,995 more")],
    ids=["long", "many"],
)
def test_no_more_is_told_of_names_than_can_be_read(names, more):
    new = certificate("mx.example.org")
    old = replace(new, names=frozenset(names))

    (gone,) = replacement.check(new, old, "", NOW)

    assert max(len(str(old)), len(gone)) < 350
    assert gone.endswith(more)


def test_a_certificate_that_never_covered_the_server_may_be_renewed():
    old, new = certificate("www.example.org", days=30), certificate("www.example.org")

    assert replacement.check(new, old, "mx.example.org", NOW) == []


def test_the_deployed_certificate_itself_is_not_remarkable():
    same = certificate("www.example.org")

    assert replacement.check(same, same, "mx.example.org", NOW) == []


def test_the_deployed_certificate_is_refused_once_it_has_expired():
    same = certificate("mx.example.org", days=1)

    with pytest.raises(CertificateError, match="expired"):
        replacement.check(same, same, "mx.example.org", NOW)


def test_a_key_of_another_type_is_told():
    old, new = certificate("mx.example.org", days=30), certificate("mx.example.org")

    assert replacement.check(
        replace(new, key_type="RSA"), old, "mx.example.org", NOW
    ) == ["the key is RSA now, it was ECDSA"]


def test_a_key_of_another_type_is_welcome_beside_one():
    refuse_second(
        replace(certificate("mx.example.org"), key_type="RSA"),
        [certificate("mx.example.org")],
    )
    refuse_second(certificate("mx.example.org"), [])


def test_of_two_keys_of_one_type_the_second_is_refused():
    beside = certificate("mx.example.org", days=30)

    with pytest.raises(CertificateError, match="and would offer no TLS") as caught:
        refuse_second(certificate("mx.example.org"), [beside])

    assert str(beside) in caught.value.message
    assert "the other --key-type" in caught.value.hint


def in_base64(*parts: bytes) -> str:
    return base64.b64encode(b"".join(parts)).decode()


def test_a_copy_of_what_was_replaced_is_recognised(authority, issued):
    old, new = (authority.issue("mx.example.org") for _ in range(2))
    leaf = Bundle.from_pem(new.key_pem, new.fullchain_pem).leaf

    assert is_copy_before(in_base64(old.key_pem, old.fullchain_pem), leaf)
    assert not is_copy_before(in_base64(new.key_pem, new.fullchain_pem), leaf)
    assert not is_copy_before(in_base64(issued.key_pem, issued.fullchain_pem), leaf)


@pytest.mark.parametrize(
    "text", ["", "/etc/a.pem", "/a.pem, /b.pem", "\udcff", in_base64(b"no PEM")]
)
def test_what_is_no_copy_is_not_taken_for_one(issued, text):
    leaf = Bundle.from_pem(issued.key_pem, issued.fullchain_pem).leaf

    assert not is_copy_before(text, leaf)


@pytest.mark.parametrize(
    ("names", "host", "covered"),
    [
        pytest.param({"mx.example.org"}, "mx.example.org", True, id="the name itself"),
        pytest.param({"mx.example.org"}, "MX.Example.org", True, id="in any letters"),
        pytest.param({"*.example.org"}, "mx.example.org", True, id="by a wildcard"),
        pytest.param({"*.example.org"}, "a.mx.example.org", False, id="one label only"),
        pytest.param({"*.example.org"}, "example.org", False, id="not the parent"),
        pytest.param({"example.org"}, "mx.example.org", False, id="not the child"),
        pytest.param({"*.org"}, "mx.example.org", False, id="not the grandchild"),
        pytest.param(set(), "mx.example.org", False, id="no name at all"),
        pytest.param({"*.example.org"}, "localhost", False, id="a single label"),
        pytest.param({"xn--mnchen-3ya.de"}, "München.de", True, id="its A-labels"),
        pytest.param({"*.xn--mnchen-3ya.de"}, "mx.münchen.de", True, id="below those"),
        pytest.param({"xn--strae-oqa.de"}, "STRASSE.de", False, id="ß is not ss"),
        pytest.param({"xn--strae-oqa.de"}, "STRAẞE.de", True, id="ß is a letter"),
    ],
)
def test_names_cover(names, host, covered):
    assert covers(names, host) is covered


# What OpenSSL serves, and cryptography refuses


@pytest.fixture(scope="module")
def self_signed() -> pki.Issued:
    return pki.self_signed("mx.example.org")


def der_of(issued: pki.Issued) -> bytes:
    return ssl.PEM_cert_to_DER_cert(issued.cert_pem.decode())


@pytest.mark.parametrize("kind", pki.SERVED)
def test_whatever_openssl_serves_is_read_as_far_as_it_can_be(
    self_signed, tmp_path, kind
):
    issued = pki.edited(self_signed, **pki.ODD[kind])
    path = tmp_path / "served.pem"
    path.write_bytes(issued.bundle_pem)
    if kind not in pki.loaded():
        pytest.skip("OpenSSL 3.5 and newer do not load it")
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)

    (found,) = Certificate.all_from_pem(issued.cert_pem)

    assert found.der == der_of(issued)
    assert found == Certificate.from_der(found.der)
    assert purposes.of_clients(found) in (True, False)
    assert str(found).startswith(("mx.", "CN=", "no name"))


def test_what_can_be_read_of_an_odd_certificate_is(self_signed):
    whole = Certificate.from_der(der_of(self_signed))
    odd = pki.edited(self_signed, **pki.ODD["x400Address"])

    found = Certificate.from_der(der_of(odd))

    assert "x400Address" in found.fault
    assert replace(found, der=b"", names=frozenset(), fault="") == replace(
        whole, der=b"", names=frozenset()
    )


@pytest.mark.parametrize("kind", [each for each in pki.ODD if each not in pki.SERVED])
def test_what_openssl_does_not_serve_either_is_read_or_refused_in_our_words(
    self_signed, kind
):
    issued = pki.edited(self_signed, **pki.ODD[kind])

    with contextlib.suppress(CertificateError):
        assert Certificate.from_der(der_of(issued)).fault


@pytest.mark.parametrize("kind", ["version 4", "CN as BIT STRING", "30 February"])
def test_a_certificate_that_cannot_be_read_in_full_is_not_put_into_service(
    self_signed, kind
):
    issued = pki.edited(self_signed, **pki.ODD[kind])

    with pytest.raises(CertificateError, match="cannot be read: "):
        Bundle.from_pem(issued.key_pem, issued.fullchain_pem)


def test_of_a_bundle_of_roots_only_what_cannot_be_read_at_all_is_skipped(
    authority, self_signed
):
    odd = pki.edited(self_signed, **pki.ODD["version 4"])
    garbage = self_signed.cert_pem.replace(b"MII", b"AAA", 1)

    found = authorities(garbage + odd.cert_pem + b"text\n" + authority.root_pem)

    assert [each.subject for each in found] == ["", "CN=Lab Root"]
    assert all(map(purposes.of_authorities, found))


@pytest.mark.parametrize("kind", ["serial number -5", "serial number 0", "version 4"])
def test_no_warning_of_a_library_leaves_the_reader(self_signed, kind):
    issued = pki.edited(self_signed, **pki.ODD[kind])

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(Certificate.from_der, [der_of(issued)] * 200))
        filters = list(warnings.filters)

    assert heard == []
    assert filters[0][0] == "always"


def test_a_certificate_that_clients_of_openssl_do_not_take_is_refused():
    new = replace(certificate("mx.example.org"), der=bytes(250_000))

    with pytest.raises(CertificateError, match=r"has 244 KB: .* 100 KB at most"):
        replacement.check(new, None, "mx.example.org", NOW)
