"""The profile internet-nl: what it writes, and what it says."""

import functools
from dataclasses import replace
from pathlib import Path

import pytest

from certbot_postfix.inbound import main_cf
from certbot_postfix.options import ClientLevel, Profile
from certbot_postfix.postfix import refusals
from certbot_postfix.postfix.configuration import Service
from certbot_postfix.postfix.profiles import internet_nl
from certbot_postfix.system import openssl_conf
from certbot_postfix.tls.certificates import Certificate
from certbot_postfix.tls.hello import Offer
from tests.lab import pki
from tests.test_rules import SERVED, changes, configured

FILE = "/etc/postfix/certbot_openssl.cnf"
EXCLUDED = "aNULL, kRSA, kDHE, AESCCM8, ARIA, CAMELLIA, SHA1, SHA256, SHA384"


def decide(explicit=None, **facts):
    return list(internet_nl.internet_nl(configured(explicit, **facts)))


@functools.cache
def leaf(kind: str) -> Certificate:
    key = pki.generate_key(kind)
    return Certificate.all_from_pem(pki.self_signed("mx", key).cert_pem)[0]


def noted(explicit=None, kinds=("ecdsa", "rsa3072"), **facts) -> str:
    configuration = configured(explicit, **facts)
    decisions = internet_nl.internet_nl(configuration)
    chain = [leaf(kind) for kind in kinds]
    return "\n".join(internet_nl.notes(configuration, decisions, chain))


@pytest.mark.parametrize(
    ("release", "openssl", "more"),
    [
        ("3.4.29", "1.1.1", {}),
        ("3.7.11", "1.1.0", {}),
        ("3.7.11", "3.0.17", {"tls_config_file": FILE}),
        ("3.8.6", "3.0.17", {"tls_config_file": FILE, "tls_ffdhe_auto_groups": ""}),
        ("3.10.2", "3.5.0", {"tls_config_file": FILE, "tls_ffdhe_auto_groups": ""}),
        (
            *("3.11.1", "3.5.0"),
            {
                "tls_config_file": FILE,
                "tls_eecdh_auto_curves": "X25519MLKEM768/*X25519:prime256v1:secp384r1",
            },
        ),
    ],
)
def test_it_is_intermediate_with_exclusions_in_place_of_the_list_that_binds_the_client(
    release, openssl, more
):
    configuration = configured(release=release, openssl=openssl)
    intermediate, found = (
        changes(main_cf.decide(configuration, SERVED, profile, ClientLevel.MAY))
        for profile in (Profile.INTERMEDIATE, Profile.INTERNET_NL)
    )

    del intermediate["tls_medium_cipherlist"]
    assert found == intermediate | {"smtpd_tls_exclude_ciphers": EXCLUDED} | more


@pytest.mark.parametrize(
    ("curves", "others", "demanded"),
    [
        pytest.param("X25519:prime256v1", "", True, id="curves"),
        pytest.param("X25519:prime256v1", "ffdhe3072", False, id="groups beside them"),
        pytest.param("X25519:ffdhe2048", "", False, id="among them"),
        pytest.param("?X25519MLKEM768:DEFAULT", "", False, id="of OpenSSL's default"),
        pytest.param("", "", False, id="OpenSSL's default"),
    ],
)
def test_finite_field_groups_must_be_refused_unless_main_cf_has_some(
    curves, others, demanded
):
    service = Service("127.0.0.1:25", "inet", "smtpd", {})
    configuration = configured(
        {
            "smtpd_tls_security_level": "may",
            "tls_eecdh_auto_curves": curves,
            "tls_ffdhe_auto_groups": others,
        },
        services=(service,),
    )

    offers = {each.offer for each in refusals.questions(configuration, [])}

    assert (Offer.FINITE_FIELDS in offers) is demanded


def test_behind_postscreen_what_tlsproxy_has_of_its_own_is_not_demanded():
    """Its clients may be served by smtpd or by tlsproxy, each with its own values."""
    explicit = {
        "smtpd_tls_security_level": "may",
        "postscreen_tls_security_level": "may",
        "tls_eecdh_auto_curves": "X25519",
        "tls_ffdhe_auto_groups": "",
    }
    screen = Service("127.0.0.1:25", "inet", "postscreen", {})
    passed = Service("smtpd", "pass", "smtpd", {})
    lax = Service("tlsproxy", "unix", "tlsproxy", {"tls_eecdh_auto_curves": "DEFAULT"})

    demanded = [
        {
            question.offer
            for question in refusals.questions(
                configured(explicit, services=(screen, passed, proxy)), []
            )
        }
        for proxy in (replace(lax, overrides={}), lax)
    ]

    assert [Offer.FINITE_FIELDS in offers for offers in demanded] == [True, False]


def test_nothing_is_demanded_at_an_ipv6_address_that_this_machine_lacks():
    service = Service("[2001:db8::1]:25", "inet", "smtpd", {})
    configuration = configured(
        {"smtpd_tls_security_level": "may", "tls_eecdh_auto_curves": "X25519"},
        services=(service,),
    )

    assert list(refusals.questions(configuration, [])) == []


@pytest.mark.parametrize(
    ("value", "new"),
    [
        pytest.param("", EXCLUDED, id="none"),
        pytest.param("MD5, aNULL", f"MD5, {EXCLUDED}", id="some"),
        pytest.param("RC4:3DES", f"RC4:3DES, {EXCLUDED}", id="other separators"),
        pytest.param("$mine", f"$mine, {EXCLUDED}", id="by another name"),
        pytest.param(EXCLUDED.replace(", ", " "), None, id="already so"),
        pytest.param(f"RC4 {EXCLUDED}", None, id="more"),
    ],
)
def test_the_exclusions_of_the_administrator_stay_in_their_words(value, new):
    explicit = {"smtpd_tls_exclude_ciphers": value, "mine": "RC4"}

    assert changes(decide(explicit)).get("smtpd_tls_exclude_ciphers") == new


def test_groups_that_were_set_by_hand_are_kept_and_reported():
    groups = "?X25519MLKEM768:DEFAULT"

    explicit = {"tls_eecdh_auto_curves": groups}
    decisions = decide(explicit, release="3.11.1", openssl="3.5.0")

    kept = [str(each) for each in decisions if each.name in explicit]
    assert [f"keeping {groups} (set by hand" in each for each in kept] == [True]


@pytest.mark.parametrize(
    ("explicit", "facts"),
    [
        pytest.param({"tls_config_file": "/own.cnf"}, {}, id="a file"),
        pytest.param({"tls_config_file": "none"}, {}, id="none"),
        pytest.param({"tls_config_name": "mine"}, {}, id="a name"),
        pytest.param({}, {"openssl_conf": Path("/etc/ssl/openssl.cnf")}, id="system's"),
    ],
)
def test_a_configuration_of_openssl_that_is_there_is_kept_and_told(explicit, facts):
    decisions = decide(explicit, **facts)

    assert "tls_config_file" not in changes(decisions)
    (told,) = [str(each) for each in decisions if each.name == "tls_config_file"]
    assert "keeping " in told
    assert "signatures with SHA-1" in told


@pytest.mark.parametrize(
    ("release", "openssl", "told"),
    [
        ("3.4.29", "1.1.1", "Postfix 3.4.29 has no tls_config_file"),
        ("3.7.11", "1.1.0", "tls_config_file needs OpenSSL 1.1.1"),
    ],
)
def test_what_an_old_postfix_cannot_is_said(release, openssl, told):
    text = noted(release=release, openssl=openssl)

    assert told in text
    assert "signatures with SHA-1 remain accepted" in text


@pytest.mark.parametrize(
    ("kinds", "advice"),
    [
        (["rsa3072"], "Exchange on Windows Server 2012 R2"),
        (["ecdsa"], "have an RSA certificate served beside it"),
        (["ecdsa", "rsa3072"], None),
    ],
)
def test_it_says_who_is_shut_out_and_which_second_key_helps(kinds, advice):
    text = noted(kinds=kinds)

    assert "nothing newer than TLS 1.1, only signatures with SHA-1" in text
    assert text.count("served beside it") == bool(advice)
    assert (advice or "") in text
    assert " bits" not in text


def test_once_it_is_in_force_it_says_no_more_but_that_a_key_is_short():
    explicit = changes(decide())

    assert decide(explicit) == []
    assert noted(explicit, ["ecdsa", "rsa3072"]) == ""
    assert "the RSA key has 2048 bits" in noted(explicit, ["ecdsa", "rsa"])


# The system's openssl.cnf

PLAIN = """\
HOME = .
openssl_conf = openssl_init
[openssl_init]
providers = provider_sect
[provider_sect]
default = default_sect
[ default_sect ] # activate = 1
[ req ]
default_bits = 2048
"""


@pytest.mark.parametrize(
    ("text", "has"),
    [
        pytest.param("", False, id="nothing"),
        pytest.param(PLAIN, False, id="as OpenSSL has it"),
        pytest.param(
            "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n"
            "[c]\nCipherString = DEFAULT:@SECLEVEL=2\n",
            False,
            id="as Ubuntu has it",
        ),
        pytest.param(
            "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n"
            "[c]\nCipherString = DEFAULT:@SECLEVEL=2\nMinProtocol = TLSv1.2\n",
            True,
            id="a protocol",
        ),
        pytest.param(f"{PLAIN}[c]\n.include = /x\n", True, id="a policy of Fedora's"),
        pytest.param(f".include /x\n{PLAIN}", True, id="another file"),
        pytest.param(
            PLAIN.replace("default = d", "fips = d"), True, id="another provider"
        ),
        pytest.param(
            PLAIN.replace("providers", "engines"), True, id="something unknown"
        ),
        pytest.param("[a\n", True, id="not readable"),
    ],
)
def test_it_is_seen_whether_the_system_has_settings_of_tls(text, has):
    assert openssl_conf.has_settings(text) == has


def test_the_first_openssl_cnf_that_is_there_counts(tmp_path):
    paths = [tmp_path / name for name in ("none", "first", "second")]
    assert openssl_conf.with_settings(paths) is None

    paths[2].write_text(".include /x\n")
    assert openssl_conf.with_settings(paths) == paths[2]

    paths[1].write_text(PLAIN)
    assert openssl_conf.with_settings(paths) is None
