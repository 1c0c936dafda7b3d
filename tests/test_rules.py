"""TLS parameters are raised as far as the profile says, and never lowered.

The defaults of each release, from 2.11 to 3.12, are those that `postconf -d` prints.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbot_postfix.inbound.main_cf import Target, decide
from certbot_postfix.options import ClientLevel, Profile
from certbot_postfix.postfix import tls_levels
from certbot_postfix.postfix.configuration import Configuration, Service, version
from certbot_postfix.postfix.decisions import Change, CommentOut, Decision, Kept
from certbot_postfix.postfix.profiles import intermediate
from certbot_postfix.postfix.tls_levels import CLIENT_LEVELS, stricter

RELEASES = (
    "2.11.0",
    "3.3.22",
    "3.4.29",
    "3.5.25",
    "3.6.19",
    "3.7.11",
    "3.8.6",
    "3.10.2",
    "3.11.1",
    "3.12-20260821",
)
BUNDLE = Path("/etc/letsencrypt/postfix/mx.example.org.pem")
SERVED = Target({BUNDLE: "ECDSA"})
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

_NO_WEAK_CIPHERS = (
    "aNULL:-aNULL:HIGH:MEDIUM:!SEED:!IDEA:!3DES:!RC2:!RC5:!kDH:!kECDH:!aDSS:!MD5"
    ":+RC4:@STRENGTH"
)
# Each parameter with the release that brought it, or gave it this default.
_DEFAULTS = (
    ("lmtp_tls_security_level", "2.11", ""),
    ("myhostname", "2.11", "mx.example.org"),
    ("queue_directory", "2.11", "/var/spool/postfix"),
    ("smtp_dns_support_level", "2.11", ""),
    ("smtp_enforce_tls", "2.11", "no"),
    ("smtp_tls_CAfile", "2.11", ""),
    ("smtp_tls_CApath", "2.11", ""),
    ("smtp_tls_cert_file", "2.11", ""),
    ("smtp_tls_chain_files", "3.4", ""),
    ("smtp_tls_enforce_peername", "2.11", "yes"),
    ("smtp_tls_loglevel", "2.11", "0"),
    ("smtp_tls_security_level", "2.11", ""),
    ("smtp_use_tls", "2.11", "no"),
    ("smtpd_enforce_tls", "2.11", "no"),
    ("smtpd_tls_auth_only", "2.11", "no"),
    ("smtpd_tls_cert_file", "2.11", ""),
    ("smtpd_tls_chain_files", "3.4", ""),
    ("smtpd_tls_ciphers", "2.11", "export"),
    ("smtpd_tls_ciphers", "3.1", "medium"),
    ("smtpd_tls_dcert_file", "2.11", ""),
    ("smtpd_tls_dh1024_param_file", "2.11", ""),
    ("smtpd_tls_dkey_file", "2.11", "$smtpd_tls_dcert_file"),
    ("smtpd_tls_eccert_file", "2.11", ""),
    ("smtpd_tls_eckey_file", "2.11", "$smtpd_tls_eccert_file"),
    ("smtpd_tls_eecdh_grade", "2.11", "strong"),
    ("smtpd_tls_eecdh_grade", "3.2", "auto"),
    ("smtpd_tls_exclude_ciphers", "2.11", ""),
    ("smtpd_tls_key_file", "2.11", "$smtpd_tls_cert_file"),
    ("smtpd_tls_loglevel", "2.11", "0"),
    ("smtpd_tls_mandatory_ciphers", "2.11", "medium"),
    ("smtpd_tls_mandatory_protocols", "2.11", "!SSLv2"),
    ("smtpd_tls_mandatory_protocols", "3.1", "!SSLv2, !SSLv3"),
    ("smtpd_tls_mandatory_protocols", "3.6", ">=TLSv1"),
    ("smtpd_tls_protocols", "2.11", ""),
    ("smtpd_tls_protocols", "3.1", "!SSLv2, !SSLv3"),
    ("smtpd_tls_protocols", "3.6", ">=TLSv1"),
    ("smtpd_tls_received_header", "2.11", "no"),
    ("smtpd_tls_security_level", "2.11", ""),
    ("smtpd_use_tls", "2.11", "no"),
    ("tls_config_file", "3.5", "default"),  # in patch levels of that time
    ("tls_config_name", "3.5", ""),
    ("tls_eecdh_auto_curves", "3.2", "X25519 X448 prime256v1 secp521r1 secp384r1"),
    ("tls_eecdh_auto_curves", "3.10", "X25519 X448 prime256v1 secp384r1 secp521r1"),
    ("tls_ffdhe_auto_groups", "3.8", "ffdhe2048 ffdhe3072"),
    ("tls_medium_cipherlist", "2.11", "aNULL:-aNULL:HIGH:MEDIUM:+RC4:@STRENGTH"),
    ("tls_medium_cipherlist", "3.8", _NO_WEAK_CIPHERS),
    ("tls_preempt_cipherlist", "2.11", "no"),
)
# DEPRECATION_README of 3.11
DEPRECATED = frozenset(
    {
        "smtp_enforce_tls",
        "smtp_tls_enforce_peername",
        "smtp_use_tls",
        "smtpd_enforce_tls",
        "smtpd_tls_dh1024_param_file",
        "smtpd_tls_eecdh_grade",
        "smtpd_use_tls",
    }
)


def defaults(release: str = "3.7.11", openssl: str = "3.0.17") -> dict[str, str]:
    """Return what `postconf -d` would print."""
    running = version(release)
    known = {name: text for name, since, text in _DEFAULTS if version(since) <= running}
    if running >= (3, 11) and openssl >= "3.5":
        known["tls_eecdh_auto_curves"] = "?X25519MLKEM768:DEFAULT"
        known["tls_ffdhe_auto_groups"] = ""
    return known | {"mail_version": release}


def configured(
    explicit: Mapping[str, str] | None = None,
    *,
    release: str = "3.7.11",
    openssl: str = "3.0.17",
    services: tuple[Service, ...] = (),
    ca_bundle: Path | None = None,
    openssl_conf: Path | None = None,
) -> Configuration:
    """Return what is read of a Postfix whose main.cf is *explicit*."""
    known = defaults(release, openssl)
    texts = {**known, **(explicit or {})}
    return Configuration(
        directory=Path("/etc/postfix"),
        defaults=known,
        explicit=explicit or {},
        values={name: expanded(text, texts) for name, text in texts.items()},
        services=services,
        tls_library=f"OpenSSL {openssl} 1 Jul 2025"
        if version(release) > (3, 0)
        else "",
        ca_bundle=ca_bundle,
        openssl_conf=openssl_conf,
    )


def expanded(text: str, texts: Mapping[str, str]) -> str:
    """Replace each ``$name``, as `postconf -x` does."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[1] == "$" else expanded(texts.get(found[2], ""), texts)

    return re.sub(r"\$(\$|\{?(\w+)\}?)", value, text)


def applied(configuration: Configuration, decisions: tuple[Decision, ...]):
    """Return the configuration in which *decisions* were carried out."""
    explicit = dict(configuration.explicit)
    for decision in decisions:
        match decision:
            case Change(name, old, new):
                assert old == explicit.get(name)
                explicit[name] = new
            case CommentOut(name, old):
                assert old == explicit.pop(name)
    words = configuration.tls_library.split() or ["", "1.0.1"]
    return configured(
        explicit,
        release=configuration.defaults["mail_version"],
        openssl=words[1],
        services=configuration.services,
        ca_bundle=configuration.ca_bundle,
        openssl_conf=configuration.openssl_conf,
    )


def changes(decisions) -> dict[str, str]:
    return {item.name: item.new for item in decisions if isinstance(item, Change)}


def hardened(explicit=None, **facts) -> dict[str, str]:
    return changes(intermediate.intermediate(configured(explicit, **facts)))


def kept(decisions) -> dict[str, str]:
    return {item.name: item.value for item in decisions if isinstance(item, Kept)}


# Levels of the client

# What each level promises.
PROMISES = {
    "none": set(),
    "may": {"TLS if offered"},
    "encrypt": {"TLS if offered", "TLS"},
    "dane": {"TLS if offered", "TLSA if there"},
    "dane-only": {"TLS if offered", "TLS", "TLSA if there", "TLSA"},
    "verify": {"TLS if offered", "TLS", "CA"},
    "secure": {"TLS if offered", "TLS", "CA", "name without DNS"},
    "fingerprint": {"TLS if offered", "TLS", "fingerprint"},
}


def test_every_client_level_of_postfix_is_known():
    assert PROMISES.keys() == CLIENT_LEVELS


@pytest.mark.parametrize(("new", "old"), [*itertools.product(PROMISES, repeat=2)])
def test_a_level_is_stricter_if_it_promises_more_and_nothing_less(new, old):
    assert stricter(new, old) == (PROMISES[new] > PROMISES[old])


@given(st.sampled_from(sorted(CLIENT_LEVELS)))
def test_no_level_is_stricter_than_itself(level):
    assert not stricter(level, level)


@given(*[st.sampled_from(sorted(CLIENT_LEVELS))] * 2)
def test_two_levels_are_not_both_the_stricter(one, other):
    assert not (stricter(one, other) and stricter(other, one))


@given(*[st.sampled_from(sorted(CLIENT_LEVELS))] * 3)
def test_stricter_than_the_stricter_is_stricter(one, two, three):
    assert stricter(one, three) or not (stricter(one, two) and stricter(two, three))


@pytest.mark.parametrize(
    ("explicit", "wanted", "new"),
    [
        pytest.param({}, "may", "may", id="nothing becomes may"),
        pytest.param({}, "encrypt", "encrypt", id="nothing becomes encrypt"),
        pytest.param(
            {"smtp_tls_security_level": "none"}, "may", "may", id="none is off"
        ),
        pytest.param({"smtp_tls_security_level": "may"}, "may", None, id="may stays"),
        pytest.param(
            {"smtp_tls_security_level": "MAY"},
            "encrypt",
            "encrypt",
            id="in any letters",
        ),
        pytest.param(
            {"smtp_tls_security_level": "dane"}, "may", None, id="dane is more than may"
        ),
        pytest.param(
            {"smtp_tls_security_level": "dane"},
            "encrypt",
            None,
            id="dane trusts what encrypt does not",
        ),
        pytest.param(
            {"smtp_tls_security_level": "secure"}, "encrypt", None, id="secure stays"
        ),
        pytest.param(
            {"smtp_tls_security_level": "unheard-of"}, "may", None, id="unknown stays"
        ),
        pytest.param({"smtp_use_tls": "yes"}, "may", None, id="the older name of may"),
        pytest.param(
            {"smtp_use_tls": "yes"}, "encrypt", "encrypt", id="more than the older name"
        ),
        pytest.param(
            {"smtp_enforce_tls": "yes"}, "may", None, id="the older name of verify"
        ),
        pytest.param(
            {"smtp_enforce_tls": "yes", "smtp_tls_enforce_peername": "no"},
            "encrypt",
            None,
            id="the older name of encrypt",
        ),
        pytest.param({}, "keep", None, id="keep keeps"),
    ],
)
def test_the_client_is_raised_only_to_what_is_plainly_stricter(explicit, wanted, new):
    decisions = tls_levels.raise_client(configured(explicit), ClientLevel(wanted))

    assert changes(decisions).get("smtp_tls_security_level") == new


@pytest.mark.parametrize(
    ("now", "wanted", "told"),
    [
        pytest.param("dane", "encrypt", True, id="neither is stricter"),
        pytest.param("unheard-of", "may", True, id="nobody knows"),
        pytest.param("dane", "may", False, id="it is stricter already"),
        pytest.param("encrypt", "encrypt", False, id="it is the same"),
    ],
)
def test_a_client_level_that_stays_for_a_reason_is_told(now, wanted, told):
    configuration = configured({"smtp_tls_security_level": now})

    decisions = list(tls_levels.raise_client(configuration, ClientLevel(wanted)))

    assert kept(decisions) == ({"smtp_tls_security_level": now} if told else {})


# Level of the server


@pytest.mark.parametrize(
    ("explicit", "new"),
    [
        pytest.param({}, "may", id="off by default"),
        pytest.param({"smtpd_tls_security_level": "none"}, "may", id="off"),
        pytest.param({"smtpd_tls_security_level": ""}, "may", id="empty"),
        pytest.param({"smtpd_tls_security_level": "may"}, None, id="on"),
        pytest.param({"smtpd_tls_security_level": "encrypt"}, None, id="enforced"),
        pytest.param({"smtpd_tls_security_level": "May"}, None, id="in any letters"),
        pytest.param(
            {"smtpd_tls_security_level": "secure"}, None, id="more than it can be"
        ),
        pytest.param({"smtpd_use_tls": "yes"}, None, id="on by the older name"),
        pytest.param(
            {"smtpd_enforce_tls": "yes"}, None, id="enforced by the older name"
        ),
        pytest.param(
            {"smtpd_use_tls": "yes", "smtpd_tls_security_level": "none"},
            "may",
            id="off in spite of the older name",
        ),
    ],
)
def test_the_server_is_made_to_offer_tls_and_no_more(explicit, new):
    decisions = tls_levels.offer_tls(configured(explicit))

    assert changes(decisions).get("smtpd_tls_security_level") == new


# Profiles


@pytest.mark.parametrize("release", RELEASES)
def test_opportunistic_sets_levels_and_the_certificate_and_nothing_else(release):
    decisions = decide(
        configured(release=release), SERVED, Profile.OPPORTUNISTIC, ClientLevel.MAY
    )

    assert changes(decisions).keys() <= {
        "smtpd_tls_chain_files",
        "smtpd_tls_cert_file",
        "smtpd_tls_key_file",
        "smtpd_tls_security_level",
        "smtp_tls_security_level",
    }


@pytest.mark.parametrize("release", RELEASES)
def test_the_profile_certificate_leaves_the_client_alone(release):
    decisions = decide(
        configured(release=release), SERVED, Profile.CERTIFICATE, ClientLevel.ENCRYPT
    )

    assert "smtp_tls_security_level" not in changes(decisions)


INTERMEDIATE = {
    "tls_medium_cipherlist": (
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
        ":ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
        ":ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
    ),
    "smtpd_tls_auth_only": "yes",
    "smtpd_tls_received_header": "yes",
    "smtpd_tls_loglevel": "1",
    "smtp_tls_loglevel": "1",
}
_NOT_OLD = "!SSLv2, !SSLv3, !TLSv1, !TLSv1.1"
_CURVES = "X25519 prime256v1 secp384r1"
_HYBRID = f"X25519MLKEM768/*{_CURVES}"


@pytest.mark.parametrize(
    ("release", "openssl", "protocols", "curves"),
    [
        ("2.11.0", "1.0.1", _NOT_OLD, None),
        ("3.3.22", "1.1.1", _NOT_OLD, _CURVES),
        ("3.4.29", "1.1.1", _NOT_OLD, _CURVES),
        ("3.5.25", "1.1.1", _NOT_OLD, _CURVES),
        ("3.6.19", "1.1.1", ">=TLSv1.2", _CURVES),
        ("3.7.11", "3.0.17", ">=TLSv1.2", _CURVES),
        ("3.8.6", "3.0.17", ">=TLSv1.2", _CURVES),
        ("3.10.2", "3.4.1", ">=TLSv1.2", _CURVES),
        ("3.10.2", "3.5.0", ">=TLSv1.2", _HYBRID.replace(" ", ":")),
        ("3.11.1", "3.0.17", ">=TLSv1.2", _CURVES),
        ("3.11.1", "3.5.0", ">=TLSv1.2", None),
        ("3.12-20260821", "3.5.0", ">=TLSv1.2", None),
    ],
)
def test_intermediate_is_spoken_in_the_words_of_the_release(
    release, openssl, protocols, curves
):
    expected = {
        **INTERMEDIATE,
        "smtpd_tls_mandatory_protocols": protocols,
        "smtpd_tls_protocols": protocols,
    }
    if curves:
        expected["tls_eecdh_auto_curves"] = curves

    assert hardened(release=release, openssl=openssl) == expected


@pytest.mark.parametrize(
    ("release", "library", "curves"),
    [
        pytest.param("3.11.1", "OpenSSL 3.5.0 8 Apr 2025", _HYBRID, id="it has it"),
        pytest.param("3.11.1", "OpenSSL 4.0.0 1 Apr 2026", _HYBRID, id="so do later"),
        pytest.param("3.11.1", "OpenSSL 3.4.1 1 Jan 2025", _CURVES, id="too old"),
        pytest.param("3.10.2", "OpenSSL 3.5.0 8 Apr 2025", _HYBRID, id="so does 3.10"),
        pytest.param("3.9.14", "OpenSSL 3.5.0 8 Apr 2025", _CURVES, id="Postfix is"),
        pytest.param("3.11.1", "LibreSSL 4.0.0", _CURVES, id="another library"),
        pytest.param("3.11.1", "OpenSSL x.y", _CURVES, id="nobody knows"),
        pytest.param("3.11.1", "", _CURVES, id="nobody says"),
    ],
)
def test_the_hybrid_curve_is_named_only_where_it_is_known(release, library, curves):
    # as built with an older library than the one it runs with
    built = configured(release=release, openssl="3.4.1")
    configuration = replace(built, tls_library=library)

    written = changes(intermediate.intermediate(configuration))["tls_eecdh_auto_curves"]

    assert re.split("[ :]", written) == curves.split()


@pytest.mark.parametrize("number", ["0x0303", "0x303", "0303", "303"])
def test_a_bound_may_be_a_number_in_all_forms_that_postfix_knows(number):
    assert intermediate.protocols(f">={number}") == {"TLSv1.2", "TLSv1.3"}


def test_a_number_that_is_no_bound_cannot_be_read():
    assert intermediate.protocols("0x0303") is None


@pytest.mark.parametrize(
    "name", ["smtpd_tls_protocols", "smtpd_tls_mandatory_protocols"]
)
@pytest.mark.parametrize(
    ("value", "new"),
    [
        pytest.param("", ">=TLSv1.2", id="everything"),
        pytest.param("!SSLv2, !SSLv3", ">=TLSv1.2", id="without SSL"),
        pytest.param("!sslv2 !sslv3:!tlsv1", ">=TLSv1.2", id="other separators"),
        pytest.param(">=0x0301", ">=TLSv1.2", id="a bound in numbers"),
        pytest.param("TLSv1, TLSv1.2", "TLSv1.2", id="only some by name"),
        pytest.param("<=TLSv1.2", "TLSv1.2", id="an upper bound"),
        pytest.param(">=TLSv1.2", None, id="already so"),
        pytest.param(">=TLSv1.3", None, id="stricter"),
        pytest.param("TLSv1.3", None, id="stricter by name"),
        pytest.param(
            "!SSLv2, !SSLv3, !TLSv1, !TLSv1.1", None, id="already so, spelled"
        ),
    ],
)
def test_old_protocols_go_and_no_modern_one_comes(name, value, new):
    assert hardened({name: value}).get(name) == new


@pytest.mark.parametrize("value", ["<=TLSv1.1", "SSLv3", "TLSv9", ">=", "!SSLv2, odd"])
def test_protocols_that_cannot_be_raised_are_kept_and_told(value):
    configuration = configured({"smtpd_tls_protocols": value})

    decisions = list(intermediate.intermediate(configuration))

    assert "smtpd_tls_protocols" not in changes(decisions)
    assert kept(decisions)["smtpd_tls_protocols"] == value


@pytest.mark.parametrize(
    ("value", "new"),
    [("low", "medium"), ("EXPORT", "medium"), ("medium", None), ("HIGH", None)],
)
def test_a_cipher_grade_is_raised_to_medium(value, new):
    name = "smtpd_tls_mandatory_ciphers"

    assert hardened({name: value}).get(name) == new


OURS = INTERMEDIATE["tls_medium_cipherlist"]


@pytest.mark.parametrize(
    ("value", "new"),
    [
        pytest.param(f"{OURS}:AES128-SHA", OURS, id="a wider list is narrowed"),
        pytest.param("ECDHE-RSA-AES128-GCM-SHA256", None, id="a narrower one stays"),
        pytest.param("HIGH:!aNULL", None, id="one that cannot be compared stays"),
        pytest.param(
            f"{OURS}:!ECDHE-RSA-AES128-GCM-SHA256",
            None,
            id="what is excluded stays out",
        ),
        pytest.param(f"{OURS}:@SECLEVEL=2", None, id="a security level stays"),
        pytest.param("", None, id="an empty one stays"),
    ],
)
def test_a_cipher_list_of_the_administrator_is_only_narrowed(value, new):
    name = "tls_medium_cipherlist"

    assert hardened({name: value}).get(name) == new


@pytest.mark.parametrize(
    ("value", "new"),
    [
        pytest.param(f"{_CURVES} X448", _CURVES, id="a wider list is narrowed"),
        pytest.param("secp384r1", None, id="a narrower one stays"),
        pytest.param("X448, secp521r1", None, id="one that cannot be compared stays"),
        pytest.param("", None, id="the choice of the library stays"),
        pytest.param("X25519MLKEM768 X25519", None, id="a hybrid one stays"),
        pytest.param("*X25519/?secp384r1", None, id="prefixes are no other curves"),
    ],
)
def test_curves_of_the_administrator_are_only_narrowed(value, new):
    name = "tls_eecdh_auto_curves"

    assert hardened({name: value}).get(name) == new


def test_the_preference_of_the_server_is_kept_and_told():
    configuration = configured({"tls_preempt_cipherlist": "yes"})

    decisions = list(intermediate.intermediate(configuration))

    assert kept(decisions) == {"tls_preempt_cipherlist": "yes"}


@pytest.mark.parametrize(
    ("level", "louder"),
    [
        ("", "1"),
        ("none", "1"),
        ("0,trace", "1,trace"),
        ("trace", "1,trace"),
        ("0, cache", "1,cache"),
        ("1,trace", None),
        ("Summary", None),
    ],
)
def test_a_level_with_names_is_raised_to_1_and_keeps_its_names(level, louder):
    written = hardened({"smtp_tls_loglevel": level})

    assert written.get("smtp_tls_loglevel") == louder


@pytest.mark.parametrize("level", ["1", "2", "4"])
def test_a_louder_log_stays_as_loud(level):
    assert "smtpd_tls_loglevel" not in hardened({"smtpd_tls_loglevel": level})


@pytest.mark.parametrize(
    ("explicit", "ca_bundle", "new"),
    [
        pytest.param({}, CA_BUNDLE, str(CA_BUNDLE), id="it trusts nobody yet"),
        pytest.param({}, None, None, id="the machine has none"),
        pytest.param(
            {"smtp_tls_CApath": "/etc/ssl"}, CA_BUNDLE, None, id="a directory"
        ),
        pytest.param({"smtp_tls_CAfile": "/my.pem"}, CA_BUNDLE, None, id="its own"),
        pytest.param(
            {"tls_append_default_CA": "yes"}, CA_BUNDLE, None, id="those of OpenSSL"
        ),
    ],
)
def test_a_client_without_authorities_gets_those_of_the_machine(
    explicit, ca_bundle, new
):
    assert hardened(explicit, ca_bundle=ca_bundle).get("smtp_tls_CAfile") == new


# Laws

_YES_NO = ["yes", "no"]
_CLIENT = ["", "NONE", *sorted(CLIENT_LEVELS), "unheard-of"]
_PROTOCOLS = st.lists(
    st.builds(
        "{}{}".format,
        st.sampled_from(["", "!", "!", ">=", "<="]),
        st.sampled_from(["SSLv2", "SSLv3", "TLSv1", "tlsv1.1", "TLSv1.2", "TLSv1.3"]),
    ),
    max_size=4,
).map(", ".join)
_CIPHERS = st.lists(
    st.sampled_from(
        [
            *OURS.split(":"),
            "AES128-SHA",
            "HIGH",
            "!ECDHE-RSA-AES128-GCM-SHA256",
            "-ECDHE-ECDSA-AES256-GCM-SHA384",
            "+RC4",
            "@SECLEVEL=2",
        ]
    ),
    unique=True,
).map(":".join)
_WIDE = st.lists(st.sampled_from(["AES128-SHA", "!ECDHE-RSA-AES128-GCM-SHA256"])).map(
    lambda more: ":".join([OURS, *more])
)
_CURVE_LISTS = st.lists(
    st.sampled_from([*_HYBRID.split(), "X448", "secp521r1"]), unique=True
).map(" ".join)
_EXCLUSIONS = st.builds(
    str.join,
    st.sampled_from([", ", " ", ":", ","]),
    st.lists(
        st.sampled_from(["aNULL", "kRSA", "MD5", "RC4", "AES+SHA1", "$myhostname"])
    ),
)
_EXPLICIT = st.fixed_dictionaries(
    {},
    optional={
        "smtp_enforce_tls": st.sampled_from(_YES_NO),
        "smtp_tls_CAfile": st.sampled_from(["", "/ca.pem"]),
        "smtp_tls_cert_file": st.sampled_from(["", "$smtpd_tls_cert_file"]),
        "smtp_tls_enforce_peername": st.sampled_from(_YES_NO),
        "smtp_tls_loglevel": st.sampled_from(["0", "1", "2"]),
        "smtp_tls_security_level": st.sampled_from(_CLIENT),
        "smtp_use_tls": st.sampled_from(_YES_NO),
        "smtpd_enforce_tls": st.sampled_from(_YES_NO),
        "smtpd_tls_auth_only": st.sampled_from(_YES_NO),
        "smtpd_tls_cert_file": st.sampled_from(["", "none", "/a.pem", str(BUNDLE)]),
        "smtpd_tls_chain_files": st.sampled_from(["", "/c.pem", str(BUNDLE)]),
        "smtpd_tls_ciphers": st.sampled_from(["null", "export", "low", "high", "odd"]),
        "smtpd_tls_eccert_file": st.sampled_from(["", "/ec.pem"]),
        "smtpd_tls_exclude_ciphers": _EXCLUSIONS,
        "smtpd_tls_key_file": st.sampled_from(["", "/a.key", "$smtpd_tls_cert_file"]),
        "smtpd_tls_loglevel": st.sampled_from(["0", "1", "2"]),
        "smtpd_tls_mandatory_ciphers": st.sampled_from(
            ["null", "export", "low", "medium", "HIGH", "odd"]
        ),
        "smtpd_tls_mandatory_protocols": _PROTOCOLS,
        "smtpd_tls_protocols": _PROTOCOLS,
        "smtpd_tls_security_level": st.sampled_from(["", "none", "May", "encrypt"]),
        "smtpd_use_tls": st.sampled_from(_YES_NO),
        "tls_config_file": st.sampled_from(["default", "none", "/own.cnf"]),
        "tls_config_name": st.sampled_from(["", "postfix"]),
        "tls_eecdh_auto_curves": _CURVE_LISTS,
        "tls_ffdhe_auto_groups": st.sampled_from(["", "ffdhe3072"]),
        "tls_medium_cipherlist": _CIPHERS | _WIDE,
        "tls_preempt_cipherlist": st.sampled_from(_YES_NO),
    },
)
_PAIR = {"smtpd_tls_cert_file": "/own.pem", "smtpd_tls_key_file": "/own.key"}
_OWN = Service("submission", "inet", "smtpd", _PAIR, _PAIR)


@st.composite
def configurations(draw) -> Configuration:
    release = draw(st.sampled_from(RELEASES))
    openssl = draw(st.sampled_from(["1.1.1", "3.0.17", "3.5.0"]))
    known = defaults(release, openssl)
    explicit = draw(_EXPLICIT)
    return configured(
        {name: value for name, value in explicit.items() if name in known},
        release=release,
        openssl=openssl,
        services=draw(st.sampled_from([(), (_OWN,)])),
        ca_bundle=draw(st.sampled_from([None, CA_BUNDLE])),
        openssl_conf=draw(st.sampled_from([None, Path("/etc/ssl/openssl.cnf")])),
    )


def plans(law):
    """Let *law* hold for a configuration, and for any profile and client level."""
    return given(
        configurations(), st.sampled_from(Profile), st.sampled_from(ClientLevel)
    )(law)


def raised(configuration, profile, client):
    decisions = decide(configuration, SERVED, profile, client)
    return applied(configuration, decisions)


@plans
def test_applying_a_plan_leaves_nothing_to_do(before, profile, client):
    after = raised(before, profile, client)

    again = decide(after, SERVED, profile, client)

    assert [item for item in again if not isinstance(item, Kept)] == []


@plans
def test_a_plan_names_known_parameters_only_and_no_deprecated_one(
    before, profile, client
):
    decisions = decide(before, SERVED, profile, client)

    written = changes(decisions).keys()
    assert written <= before.defaults.keys()
    assert written & DEPRECATED == set()


@plans
def test_a_plan_says_of_each_parameter_one_thing(before, profile, client):
    names = [item.name for item in decide(before, SERVED, profile, client)]

    assert len(names) == len(set(names))


@plans
def test_a_plan_does_not_set_what_is_set(before, profile, client):
    decisions = decide(before, SERVED, profile, client)

    set_again = [item for item in decisions if isinstance(item, Change)]
    assert not [item for item in set_again if item.old == item.new]


def asked_of_servers(configuration: Configuration) -> set[str]:
    level = configuration.value("smtp_tls_security_level").lower()
    if not level and configuration.value("smtp_enforce_tls") == "yes":
        named = configuration.value("smtp_tls_enforce_peername") == "yes"
        level = "verify" if named else "encrypt"
    if not level and configuration.value("smtp_use_tls") == "yes":
        level = "may"
    return PROMISES.get(level or "none", {level})


@plans
def test_a_plan_never_asks_less_of_other_servers(before, profile, client):
    after = raised(before, profile, client)

    assert asked_of_servers(after) >= asked_of_servers(before)


def asked_of_clients(configuration: Configuration) -> int:
    level = configuration.value("smtpd_tls_security_level").lower()
    if not level and configuration.value("smtpd_enforce_tls") == "yes":
        level = "encrypt"
    if not level and configuration.value("smtpd_use_tls") == "yes":
        level = "may"
    return ["none", "may", "encrypt"].index(level or "none")


@plans
def test_a_plan_never_offers_clients_less(before, profile, client):
    after = raised(before, profile, client)

    assert max(1, asked_of_clients(before)) == asked_of_clients(after)


_AGES = ["sslv2", "sslv3", "tlsv1", "tlsv1.1", "tlsv1.2", "tlsv1.3"]


def enabled(value: str) -> set[str]:
    """Return the protocol versions that postconf(5) says *value* enables."""
    words = value.lower().replace(",", " ").split()
    only = {word for word in words if word in _AGES}
    return {
        age
        for place, age in enumerate(_AGES)
        if (not only or age in only)
        and f"!{age}" not in words
        and not any(f">={young}" in words for young in _AGES[place + 1 :])
        and not any(f"<={old}" in words for old in _AGES[:place])
    }


@plans
def test_a_plan_never_enables_a_protocol_and_never_loses_all(before, profile, client):
    after = raised(before, profile, client)

    for name in ("smtpd_tls_protocols", "smtpd_tls_mandatory_protocols"):
        old, new = enabled(before.value(name)), enabled(after.value(name))
        assert new <= old
        assert bool(new) == bool(old)
        assert old & {"tlsv1.2", "tlsv1.3"} <= new


@plans
def test_a_plan_writes_protocols_in_words_that_the_release_knows(
    before, profile, client
):
    decisions = decide(before, SERVED, profile, client)

    written = [new for name, new in changes(decisions).items() if "_protocols" in name]
    if before.version < (3, 6):
        assert not [new for new in written if "=" in new]
    if before.version < (3, 4):
        assert not [new for new in written if "!TLSv1.3" in new]


@pytest.mark.parametrize("grade", ["smtpd_tls_ciphers", "smtpd_tls_mandatory_ciphers"])
@plans
def test_a_plan_never_lowers_a_cipher_grade(grade, before, profile, client):
    after = raised(before, profile, client)
    order = ["null", "export", "low", "medium", "high"]
    old, new = before.value(grade).lower(), after.value(grade).lower()

    assert new == old or order.index(new) > order.index(old)


@pytest.mark.parametrize("name", ["tls_medium_cipherlist", "tls_eecdh_auto_curves"])
@plans
def test_a_plan_adds_nothing_to_a_list_of_the_administrator(
    name, before, profile, client
):
    after = raised(before, profile, client)
    old, new = (each.explicit.get(name) for each in (before, after))

    if old is not None and old != new:
        words = set(re.split("[: ,]+", old))
        assert set(re.split("[: ,]+", new)) < words
        assert not [word for word in words if word[0] in "!-@"]


@plans
def test_a_plan_never_lets_a_cipher_in_that_the_administrator_excludes(
    before, profile, client
):
    after, name = raised(before, profile, client), "smtpd_tls_exclude_ciphers"
    old, new = (set(re.split("[: ,]+", each.value(name))) for each in (before, after))

    assert new >= old - {""}


@plans
def test_a_plan_keeps_a_configuration_of_openssl_and_says_so(before, profile, client):
    decisions = decide(before, SERVED, profile, client)
    name, names = "tls_config_file", ("tls_config_file", "tls_config_name")
    own = before.value(name) in ("none", "/own.cnf") or before.value(names[1])
    kept_back = own or before.openssl_conf

    if kept_back or profile is not Profile.INTERNET_NL or name not in before.defaults:
        assert not changes(decisions).keys() & set(names)
        assert (name in kept(decisions)) == bool(
            kept_back and profile is Profile.INTERNET_NL and name in before.defaults
        )
    else:
        assert changes(decisions)[name] == "/etc/postfix/certbot_openssl.cnf"


@plans
def test_a_plan_never_lowers_a_switch_or_a_log(before, profile, client):
    after = raised(before, profile, client)

    for name in ("smtpd_tls_auth_only", "smtpd_tls_received_header"):
        assert (before.value(name), after.value(name)) != ("yes", "no")
    for name in ("smtpd_tls_loglevel", "smtp_tls_loglevel"):
        assert int(after.value(name)) >= int(before.value(name))


@plans
def test_every_parameter_that_no_decision_names_stays(before, profile, client):
    decisions = decide(before, SERVED, profile, client)
    after = applied(before, decisions)

    named = {item.name for item in decisions if not isinstance(item, Kept)}
    differing = {
        name
        for name in before.explicit.keys() | after.explicit.keys()
        if before.explicit.get(name) != after.explicit.get(name)
    }
    assert differing == named


@plans
def test_a_plan_makes_the_server_serve_the_bundle(before, profile, client):
    after = raised(before, profile, client)

    assert str(BUNDLE) == (
        after.value("smtpd_tls_chain_files") or after.value("smtpd_tls_cert_file")
    )
