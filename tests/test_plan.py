"""Facts go in, and a plan comes out that describes itself."""

from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

import pytest

from certbot_postfix.change import plan
from certbot_postfix.change.plan import Edit, Plan
from certbot_postfix.errors import Error
from certbot_postfix.inbound import chain_files, chain_parameters, main_cf
from certbot_postfix.inbound.main_cf import Target
from certbot_postfix.options import ClientLevel, Profile
from certbot_postfix.postfix.configuration import Configuration, Service
from certbot_postfix.postfix.decisions import (
    Change,
    CommentOut,
    Decision,
    Kept,
    Override,
)
from certbot_postfix.tls.certificates import Certificate
from tests.test_rules import configured

BUNDLES = Path("/etc/letsencrypt/postfix")
BUNDLE = BUNDLES / "mx.example.org.pem"
MAIN_CF = Path("/etc/postfix/main.cf")
TABLE = Path("/etc/postfix/certbot_sni")
NOW = datetime(2026, 7, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)


def served(bundle: Path = BUNDLE) -> Target:
    """Return the wish that *bundle* be served by default."""
    return Target({bundle: "ECDSA"})


def decided(
    configuration: Configuration, wanted: Target | None = None
) -> tuple[Decision, ...]:
    return main_cf.decide(
        configuration, wanted or served(), Profile.CERTIFICATE, ClientLevel.KEEP
    )


def decide(configuration: Configuration, wanted: Target | None = None) -> list[str]:
    """Return what is decided about the certificate, in words without the reasons."""
    decisions = decided(configuration, wanted)
    return [
        str(item).rpartition(" (")[0]
        for item in decisions
        if item.name != "smtpd_tls_security_level"
    ]


def submission(**overrides: str) -> Service:
    return Service("submission", "inet", "smtpd", overrides, overrides)


OWN = {"smtpd_tls_cert_file": "/own.pem", "smtpd_tls_key_file": "/own.key"}


# Which parameters name the certificate


@pytest.mark.parametrize(
    ("explicit", "facts", "decisions"),
    [
        pytest.param(
            {}, {}, [f"smtpd_tls_chain_files: (unset) -> {BUNDLE}"], id="a new Postfix"
        ),
        pytest.param(
            {"smtpd_tls_chain_files": "/old.pem"},
            {},
            [f"smtpd_tls_chain_files: /old.pem -> {BUNDLE}"],
            id="another chain",
        ),
        pytest.param(
            {"smtpd_tls_chain_files": ""},
            {},
            [f"smtpd_tls_chain_files: (empty) -> {BUNDLE}"],
            id="an empty chain",
        ),
        pytest.param(
            {"smtpd_tls_chain_files": str(BUNDLE)}, {}, [], id="already as it should be"
        ),
        pytest.param(
            {"tls": str(BUNDLES), "smtpd_tls_chain_files": f"$tls/{BUNDLE.name}"},
            {},
            [],
            id="already so in other words",
        ),
        pytest.param(
            {"smtpd_tls_chain_files": f"{BUNDLE}, /rsa.pem"},
            {},
            [],
            id="the bundle and another one",
        ),
        pytest.param(
            {"smtpd_tls_cert_file": "/a.pem", "smtpd_tls_key_file": "/a.key"},
            {},
            [
                f"smtpd_tls_chain_files: (unset) -> {BUNDLE}",
                "smtpd_tls_cert_file: /a.pem -> commented out",
                "smtpd_tls_key_file: /a.key -> commented out",
            ],
            id="snake oil",
        ),
        pytest.param(
            {
                "smtpd_tls_chain_files": str(BUNDLE),
                "smtpd_tls_eccert_file": "/ec.pem",
                "smtpd_tls_dcert_file": "/d.pem",
            },
            {},
            [
                "smtpd_tls_eccert_file: /ec.pem -> commented out",
                "smtpd_tls_dcert_file: /d.pem -> commented out",
            ],
            id="old parameters that Postfix ignores",
        ),
        pytest.param(
            {"smtpd_tls_eccert_file": ""},
            {},
            [f"smtpd_tls_chain_files: (unset) -> {BUNDLE}"],
            id="an empty old parameter is harmless",
        ),
        pytest.param(
            {},
            {"release": "3.3.22"},
            [
                f"smtpd_tls_cert_file: (unset) -> {BUNDLE}",
                "smtpd_tls_key_file: (unset) -> $smtpd_tls_cert_file",
            ],
            id="before 3.4",
        ),
        pytest.param(
            {
                "smtpd_tls_cert_file": "/a.pem",
                "smtpd_tls_key_file": "/a.key",
                "smtpd_tls_eccert_file": "/ec.pem",
            },
            {"release": "2.11.0"},
            [
                f"smtpd_tls_cert_file: /a.pem -> {BUNDLE}",
                "smtpd_tls_key_file: /a.key -> $smtpd_tls_cert_file",
                "smtpd_tls_eccert_file: /ec.pem -> commented out",
            ],
            id="snake oil before 3.4",
        ),
        pytest.param(
            {
                "smtpd_tls_cert_file": str(BUNDLE),
                "smtpd_tls_key_file": "$smtpd_tls_cert_file",
            },
            {"release": "3.3.22"},
            [],
            id="already as it should be before 3.4",
        ),
        pytest.param(
            {"smtpd_tls_cert_file": "/a.pem", "smtpd_tls_key_file": "/a.key"},
            {"services": (submission(**OWN),)},
            [
                f"smtpd_tls_cert_file: /a.pem -> {BUNDLE}",
                "smtpd_tls_key_file: /a.key -> $smtpd_tls_cert_file",
            ],
            id="a service has its own by the old name",
        ),
        pytest.param(
            {"smtpd_tls_cert_file": "/a.pem"},
            {"services": (submission(smtpd_tls_chain_files="/own.pem"),)},
            [
                f"smtpd_tls_chain_files: (unset) -> {BUNDLE}",
                "smtpd_tls_cert_file: /a.pem -> commented out",
            ],
            id="a service has its own by the new name",
        ),
        pytest.param(
            {"smtpd_tls_chain_files": "/old.pem"},
            {"services": (submission(smtpd_tls_cert_file="/ignored.pem"),)},
            [f"smtpd_tls_chain_files: /old.pem -> {BUNDLE}"],
            id="a service has an old name that Postfix ignores",
        ),
    ],
)
def test_the_bundle_is_named_by_the_parameter_for_it(explicit, facts, decisions):
    assert decide(configured(explicit, **facts)) == decisions


@pytest.mark.parametrize(
    "reference",
    ["$smtpd_tls_cert_file", "${smtpd_tls_cert_file}", "${smtpd_tls_cert_file?/x}"],
)
def test_an_old_parameter_that_another_refers_to_is_kept(reference):
    explicit = {
        "smtpd_tls_cert_file": "/a.pem",
        "smtpd_tls_key_file": "/a.key",
        "smtp_tls_cert_file": reference,
    }

    decisions = decided(configured(explicit))

    assert (
        Kept("smtpd_tls_cert_file", "/a.pem", "smtp_tls_cert_file refers to it")
        in decisions
    )
    assert "smtpd_tls_key_file: /a.key -> commented out" in decide(configured(explicit))


def test_an_old_parameter_that_a_service_refers_to_is_kept():
    service = Service(
        "relay",
        "unix",
        "smtp",
        {"smtp_tls_cert_file": "/a.pem"},
        {"smtp_tls_cert_file": "$smtpd_tls_cert_file"},
    )

    decisions = decided(
        configured({"smtpd_tls_cert_file": "/a.pem"}, services=(service,))
    )

    kept = [item for item in decisions if isinstance(item, Kept)]
    assert [(item.name, item.value) for item in kept] == [
        ("smtpd_tls_cert_file", "/a.pem")
    ]
    assert "relay/unix with its smtp_tls_cert_file refers to it" in str(kept[0])


def test_old_parameters_that_refer_to_each_other_go_together():
    explicit = {
        "smtpd_tls_cert_file": "/a.pem",
        "smtpd_tls_key_file": "$smtpd_tls_cert_file",
    }

    assert decide(configured(explicit))[1:] == [
        "smtpd_tls_cert_file: /a.pem -> commented out",
        "smtpd_tls_key_file: $smtpd_tls_cert_file -> commented out",
    ]


def test_old_parameters_of_which_the_new_one_consisted_go_with_it():
    explicit = {
        "smtpd_tls_chain_files": "$smtpd_tls_key_file, $smtpd_tls_cert_file",
        **PAIR,
    }

    assert decide(configured(explicit))[1:] == [
        "smtpd_tls_cert_file: /a.pem -> commented out",
        "smtpd_tls_key_file: /a.key -> commented out",
    ]


PAIR = {"smtpd_tls_cert_file": "/a.pem", "smtpd_tls_key_file": "/a.key"}


@pytest.mark.parametrize(
    ("explicit", "overrides", "refused"),
    [
        pytest.param(PAIR, {"smtpd_tls_cert_file": "/own.pem"}, True, id="no key"),
        pytest.param(PAIR, {"smtpd_tls_key_file": "/own.key"}, True, id="only a key"),
        pytest.param(PAIR, OWN, False, id="both"),
        pytest.param(PAIR, {}, False, id="neither"),
        pytest.param(
            {}, {"smtpd_tls_cert_file": "/own.pem"}, False, id="both in one file"
        ),
    ],
)
def test_no_service_is_left_with_a_key_that_does_not_match(
    explicit, overrides, refused
):
    services = (submission(**overrides),)
    configuration = configured(explicit, release="3.3.22", services=services)

    if refused:
        with pytest.raises(Error, match="submission/inet takes only one of key and"):
            decide(configuration)
    else:
        decide(configuration)


@pytest.mark.parametrize("release", ["3.3.22", "3.7.11"])
def test_the_reason_names_a_parameter_that_is_there(release):
    configuration = configured({"smtpd_tls_eccert_file": "/ec.pem"}, release=release)

    decisions = decided(configuration)

    (retired,) = (item for item in decisions if isinstance(item, CommentOut))
    successor = retired.why.partition(" ")[0]
    assert successor in {item.name for item in decisions if isinstance(item, Change)}


@pytest.mark.parametrize("blank", [" ", "\t", ","])
@pytest.mark.parametrize(
    ("path", "option"), [("a{}b.pem", "--cert-name"), ("a{}b/mx.pem", "--config-dir")]
)
def test_a_path_that_a_list_cannot_hold_is_refused(blank, path, option):
    with pytest.raises(Error, match="Postfix allows no blank or comma there") as caught:
        decide(configured(), served(BUNDLES / path.format(blank)))

    assert option in caught.value.hint


def test_a_dollar_in_the_path_is_doubled_and_found_again():
    wanted = served(BUNDLES / "c$sh.pem")

    first = decided(configured(), wanted)
    written = {item.name: item.new for item in first if isinstance(item, Change)}

    assert written["smtpd_tls_chain_files"] == str(BUNDLES / "c$$sh.pem")
    assert decide(configured(written), wanted) == []


# Several certificates by default

RSA = BUNDLES / "rsa.pem"
FURTHER = BUNDLES / "%2Fetc%2Fpostfix-out" / "mx.example.org.pem"
BOTH = Target({BUNDLE: "ECDSA", RSA: "RSA"})


@pytest.mark.parametrize(
    ("explicit", "facts", "decisions"),
    [
        pytest.param(
            {"smtpd_tls_chain_files": str(BUNDLE)},
            {},
            [f"smtpd_tls_chain_files: {BUNDLE} -> {BUNDLE}, {RSA}"],
            id="one list",
        ),
        pytest.param(
            {"smtpd_tls_chain_files": f"{RSA} {BUNDLE}"}, {}, [], id="listed already"
        ),
        pytest.param(
            {},
            {"release": "3.3.22"},
            [
                f"smtpd_tls_cert_file: (unset) -> {RSA}",
                "smtpd_tls_key_file: (unset) -> $smtpd_tls_cert_file",
                f"smtpd_tls_eccert_file: (unset) -> {BUNDLE}",
                "smtpd_tls_eckey_file: (unset) -> $smtpd_tls_eccert_file",
            ],
            id="before 3.4, each in its pair",
        ),
    ],
)
def test_keys_of_two_types_are_named_side_by_side(explicit, facts, decisions):
    assert decide(configured(explicit, **facts), BOTH) == decisions


@pytest.mark.parametrize(
    "kinds", [("RSA", "RSA"), ("RSA", "Ed25519"), ("ECDSA", "RSA", "Ed25519")]
)
def test_the_older_parameters_are_not_asked_for_more_than_they_can(kinds):
    chain = {BUNDLES / f"{at}.pem": kind for at, kind in enumerate(kinds)}

    with pytest.raises(Error, match="no changes were made") as caught:
        decide(configured(release="3.3.22"), Target(chain))

    assert " and ".join(kinds) in caught.value.message


def test_the_reason_names_all_lineages():
    (first, *_) = decided(configured(), BOTH)

    assert str(first).endswith(
        "(the certificate of certbot's lineage mx.example.org and rsa)"
    )


# By name


BY_NAME = Target({}, TABLE, "texthash")


@pytest.mark.parametrize(
    ("explicit", "decisions"),
    [
        pytest.param(
            {}, [f"tls_server_sni_maps: (unset) -> texthash:{TABLE}"], id="no table yet"
        ),
        pytest.param(
            {"tls_server_sni_maps": "hash:/own"},
            [f"tls_server_sni_maps: hash:/own -> hash:/own, texthash:{TABLE}"],
            id="behind another",
        ),
        pytest.param(
            {"tls_server_sni_maps": f"hash:{TABLE}"},
            [f"tls_server_sni_maps: hash:{TABLE} -> texthash:{TABLE}"],
            id="of another type",
        ),
        pytest.param(
            {"tls_server_sni_maps": f"texthash:{TABLE}, hash:/own"}, [], id="there"
        ),
    ],
)
def test_what_is_served_by_name_leaves_the_default_alone(explicit, decisions):
    explicit = {"smtpd_tls_cert_file": "/a.pem", **explicit}

    assert decide(configured(explicit), BY_NAME) == decisions


def test_without_names_there_is_no_table():
    changed = {item.name for item in decided(configured())}

    assert "tls_server_sni_maps" not in changed


# What is deployed


@pytest.mark.parametrize(
    ("explicit", "files"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param(
            {"smtpd_tls_chain_files": "/k.pem, /c.pem"},
            ["/k.pem", "/c.pem"],
            id="a list",
        ),
        pytest.param(
            {"smtpd_tls_chain_files": "rsa.pem"},
            ["/var/spool/postfix/rsa.pem"],
            id="relative",
        ),
        pytest.param(
            {"smtpd_tls_cert_file": "/a.pem", "smtpd_tls_eccert_file": "/ec.pem"},
            ["/a.pem", "/ec.pem"],
            id="by the old names",
        ),
        pytest.param({"smtpd_tls_cert_file": "none"}, [], id="none by the old name"),
        pytest.param(
            {"smtpd_tls_chain_files": "/c.pem", "smtpd_tls_cert_file": "/a.pem"},
            ["/c.pem"],
            id="the old name is ignored",
        ),
    ],
)
def test_the_configured_certificates_are_found(explicit, files):
    assert chain_files.configured(configured(explicit)) == [
        Path(file) for file in files
    ]


def test_deployed_is_what_main_cf_names_of_ours():
    configuration = configured({"smtpd_tls_chain_files": f"/other.pem, {BUNDLE}"})

    assert chain_files.deployed(configuration, BUNDLES) == [BUNDLE]


# What is forgotten

PLAIN = (Path("/live/privkey.pem"), Path("/live/fullchain.pem"))
CHAINED = "smtpd_tls_chain_files"


@pytest.mark.parametrize(
    ("explicit", "decisions"),
    [
        pytest.param({}, [], id="it is not named"),
        pytest.param({CHAINED: f"/rsa.pem, {RSA}"}, [], id="others are"),
        pytest.param(
            {CHAINED: f"{BUNDLE}, {RSA}"},
            [f"{CHAINED}: {BUNDLE}, {RSA} -> {RSA}"],
            id="one of two",
        ),
        pytest.param(
            {CHAINED: str(BUNDLE)},
            [f"{CHAINED}: {BUNDLE} -> /live/privkey.pem, /live/fullchain.pem"],
            id="the only one",
        ),
        pytest.param(
            {
                "smtpd_tls_cert_file": str(BUNDLE),
                "smtpd_tls_key_file": "$smtpd_tls_cert_file",
            },
            [
                f"smtpd_tls_cert_file: {BUNDLE} -> /live/fullchain.pem",
                "smtpd_tls_key_file: $smtpd_tls_cert_file -> /live/privkey.pem",
            ],
            id="the only pair",
        ),
        pytest.param(
            {
                "smtpd_tls_cert_file": "/rsa.pem",
                "smtpd_tls_eccert_file": str(BUNDLE),
                "smtpd_tls_eckey_file": "$smtpd_tls_eccert_file",
            },
            [
                f"smtpd_tls_eccert_file: {BUNDLE} -> removed",
                "smtpd_tls_eckey_file: $smtpd_tls_eccert_file -> removed",
            ],
            id="one of two pairs",
        ),
    ],
)
def test_what_is_forgotten_is_named_no_more(explicit, decisions):
    found = chain_parameters.forget(configured(explicit), BUNDLE, PLAIN)

    assert [str(item).rpartition(" (")[0] for item in found] == decisions


def test_the_last_certificate_is_not_forgotten_without_another():
    with pytest.raises(Error, match=r"the only certificate that Postfix has left"):
        chain_parameters.forget(configured({CHAINED: str(BUNDLE)}), BUNDLE, None)


@pytest.mark.parametrize(
    ("explicit", "overrides", "user"),
    [
        pytest.param(
            {"smtp_tls_cert_file": str(BUNDLE)}, {}, "smtp_tls_cert_file", id="main.cf"
        ),
        pytest.param(
            {},
            {CHAINED: str(BUNDLE)},
            f"submission/inet in master.cf with {CHAINED}",
            id="master.cf",
        ),
    ],
)
def test_what_is_named_by_hand_is_not_forgotten(explicit, overrides, user):
    configuration = configured(
        {CHAINED: f"{BUNDLE}, {RSA}", **explicit}, services=(submission(**overrides),)
    )

    with pytest.raises(Error, match="was not done by this plugin") as caught:
        chain_parameters.forget(configuration, BUNDLE, PLAIN)

    assert f"{BUNDLE} is named by {user}, which" in caught.value.message


@pytest.mark.parametrize(
    ("value", "decisions"),
    [
        pytest.param(None, [], id="no table"),
        pytest.param(
            f"texthash:{TABLE}",
            [f"tls_server_sni_maps: texthash:{TABLE} -> removed"],
            id="ours alone",
        ),
        pytest.param(
            f"hash:/own, texthash:{TABLE}",
            [f"tls_server_sni_maps: hash:/own, texthash:{TABLE} -> hash:/own"],
            id="behind another",
        ),
    ],
)
def test_a_table_that_is_over_is_named_no_more(value, decisions):
    explicit = {} if value is None else {"tls_server_sni_maps": value}

    found = main_cf.without_table(configured(explicit), TABLE)

    assert [str(item).rpartition(" (")[0] for item in found] == decisions


@pytest.mark.parametrize(
    ("text", "bundles"),
    [
        pytest.param(f"{CHAINED} = {BUNDLE}\n", [BUNDLE], id="main.cf"),
        pytest.param(f"a = {RSA}, {BUNDLE}", [RSA, BUNDLE], id="a list"),
        pytest.param(f"a.org {RSA},{BUNDLE}\n", [RSA, BUNDLE], id="a table"),
        pytest.param(f"a = {FURTHER}\n", [FURTHER], id="of a further instance"),
        pytest.param(f"  # {BUNDLE}\n", [], id="a comment"),
        pytest.param(f"a = {BUNDLE}.old /x/mx.pem {BUNDLES}/a/b.pem", [], id="others"),
    ],
)
def test_bundles_that_a_file_names_are_found(text, bundles):
    assert chain_files.named(text.encode(), BUNDLES) == bundles


# What is lost


def certificate(
    *names: str, issuer: str = "CN=CA", days: int = 30, key_type: str = "ECDSA"
) -> Certificate:
    return Certificate(
        der=f"{names} {key_type}".encode(),
        subject=f"CN={names[0]}",
        issuer=issuer,
        names=frozenset(names),
        spki=b"",
        key_type=key_type,
        not_before=NOW - 90 * DAY,
        not_after=NOW + days * DAY,
    )


SAME = "mx.example.org"


@pytest.mark.parametrize(
    ("old", "told"),
    [
        pytest.param(certificate(SAME, key_type="RSA"), True, id="of another type"),
        pytest.param(certificate(SAME), False, id="of the same type"),
        pytest.param(certificate(SAME, key_type="RSA", days=0), False, id="expired"),
        pytest.param(
            certificate(SAME, key_type="RSA", issuer=f"CN={SAME}"),
            False,
            id="self-signed",
        ),
    ],
)
def test_a_good_certificate_with_another_type_of_key_is_not_lost_silently(old, told):
    lost = main_cf.lost(certificate(SAME), [old], {}, NOW)

    assert [words.startswith(f"{old} with its RSA key") for words in lost] == (
        [True] if told else []
    )


@pytest.mark.parametrize(
    ("old", "told"),
    [
        pytest.param(certificate(SAME, "*.b.org", "a.org"), True, id="a good one"),
        pytest.param(certificate(SAME, "a.org", days=0), False, id="expired"),
        pytest.param(
            certificate(SAME, "a.org", issuer=f"CN={SAME}"), False, id="self-signed"
        ),
        pytest.param(certificate(SAME), False, id="one without other names"),
    ],
)
def test_the_names_of_a_good_certificate_are_not_lost_silently(old, told):
    lost = main_cf.lost(certificate(SAME), [old], {}, NOW)

    assert lost == (["no longer covered: *.b.org and a.org"] if told else [])


def test_a_second_certificate_is_one_of_certbot_s_or_is_to_be_obtained():
    lineages = {
        "another": certificate("www.example.org", key_type="RSA"),
        "rsa": certificate(SAME, key_type="RSA"),
    }

    assert "--cert-name rsa`" in main_cf.second(certificate(SAME), "RSA", lineages)
    del lineages["rsa"]
    assert "--key-type rsa" in main_cf.second(certificate(SAME), "RSA", lineages)


def test_a_name_that_the_table_has_is_not_lost():
    old = certificate(SAME, "a.org", "*.b.org", "c.org")
    table = {"a.org": (Path("/a.pem"),), ".b.org": (Path("/b.pem"),)}

    assert main_cf.lost(certificate(SAME), [old], table, NOW) == [
        "no longer covered: c.org"
    ]


# Overrides


@pytest.mark.parametrize(
    ("overrides", "profile", "told"),
    [
        pytest.param(
            {"smtpd_tls_security_level": "none"},
            Profile.CERTIFICATE,
            ["smtpd_tls_security_level"],
            id="of the level",
        ),
        pytest.param(
            {"smtpd_tls_chain_files": "/own.pem"},
            Profile.CERTIFICATE,
            ["smtpd_tls_chain_files"],
            id="of the certificate",
        ),
        pytest.param(
            {"smtpd_tls_cert_file": "/own.pem"},
            Profile.CERTIFICATE,
            ["smtpd_tls_cert_file"],
            id="of the certificate by the old name",
        ),
        pytest.param(
            {"tls_server_sni_maps": "hash:/own"},
            Profile.CERTIFICATE,
            ["tls_server_sni_maps"],
            id="of the certificates by name",
        ),
        pytest.param(
            {"smtpd_tls_protocols": ">=TLSv1"},
            Profile.INTERMEDIATE,
            ["smtpd_tls_protocols"],
            id="of what the profile sets",
        ),
        pytest.param(
            {"smtpd_tls_protocols": "!SSLv2"},
            Profile.OPPORTUNISTIC,
            [],
            id="of what another profile sets",
        ),
        pytest.param(
            {"smtpd_tls_auth_only": "yes"},
            Profile.INTERMEDIATE,
            [],
            id="by the value that is set",
        ),
        pytest.param(
            {"syslog_name": "postfix/submission"},
            Profile.INTERMEDIATE,
            [],
            id="of something else",
        ),
    ],
)
def test_overrides_of_what_the_plan_governs_are_told(overrides, profile, told):
    configuration = configured(
        {"smtpd_tls_security_level": "may"}, services=(submission(**overrides),)
    )
    decisions = main_cf.decide(configuration, served(), profile, ClientLevel.MAY)

    found = main_cf.overridden(configuration, decisions, profile, ClientLevel.MAY)

    assert [(each.service, each.name) for each in found] == [
        ("submission/inet", name) for name in told
    ]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("smtpd", ["smtpd_tls_chain_files", "tls_medium_cipherlist"]),
        ("smtp", ["smtp_tls_security_level", "tls_medium_cipherlist"]),
        ("pipe", []),
    ],
)
def test_an_override_that_the_program_does_not_read_is_not_told(command, told):
    overrides = {
        "smtp_tls_security_level": "none",
        "smtpd_tls_chain_files": "/own.pem",
        "tls_medium_cipherlist": "HIGH",
    }
    service = Service("another", "unix", command, overrides)
    configuration = configured({}, services=(service,))
    profile = Profile.INTERMEDIATE
    decisions = main_cf.decide(configuration, served(), profile, ClientLevel.MAY)

    found = main_cf.overridden(configuration, decisions, profile, ClientLevel.MAY)

    assert [each.name for each in found] == told


def test_an_override_says_service_parameter_and_value():
    override = Override("submission/inet", "smtpd_tls_security_level", "none")

    assert str(override) == (
        "master.cf overrides smtpd_tls_security_level for submission/inet (value:"
        " none). That setting is left unchanged, so main.cf has no effect there."
    )


@pytest.mark.parametrize(
    ("name", "value", "harmless"),
    [
        ("smtpd_tls_security_level", "encrypt", True),
        ("smtpd_tls_security_level", "none", False),
        ("smtpd_tls_protocols", ">=TLSv1.3", True),
        ("smtpd_tls_protocols", ">=TLSv1", False),
        ("smtpd_tls_mandatory_ciphers", "high", True),
        ("smtpd_tls_chain_files", "/own.pem", False),
        ("tls_server_sni_maps", "hash:/own", False),
    ],
)
def test_an_override_that_is_as_strict_as_the_profile_is_harmless(
    name, value, harmless
):
    configuration = configured(
        {"smtpd_tls_security_level": "may"}, services=(submission(**{name: value}),)
    )
    profile, client = Profile.INTERMEDIATE, ClientLevel.MAY
    decisions = main_cf.decide(configuration, served(), profile, client)

    found = main_cf.overridden(configuration, decisions, profile, client)

    assert [(each.name, each.harmless) for each in found] == [(name, harmless)]


# How a plan describes itself


def planned(
    decisions: tuple[Decision, ...],
    before: bytes,
    after: bytes,
    table: tuple[bytes | None, bytes | None] = (None, None),
) -> Plan:
    return Plan(decisions, Edit(MAIN_CF, before, after), (Edit(TABLE, *table),))


def test_the_diff_is_a_unified_diff_of_main_cf():
    change = planned((), b"# one\na = 1\nb = 2\n", b"# one\na = 2\nb = 2\nc = 3\n")

    assert change.diff() == (
        "--- /etc/postfix/main.cf\n"
        "+++ (planned)\n"
        "@@ -1,3 +1,4 @@\n"
        " # one\n"
        "-a = 1\n"
        "+a = 2\n"
        " b = 2\n"
        "+c = 3\n"
    )


def test_the_diff_shows_that_a_final_newline_is_missing():
    change = planned((), b"a = 1", b"a = 1\nb = 2\n")

    assert change.diff().splitlines()[3:] == [
        "-a = 1",
        "\\ No newline at end of file",
        "+a = 1",
        "+b = 2",
    ]


@pytest.mark.parametrize(
    ("before", "line"),
    [
        pytest.param(b"# Gr\xfc\xdfe\n", "-# Gr\\xfc\\xdfe\n", id="not UTF-8"),
        pytest.param("# grüße\n".encode(), "-# grüße\n", id="UTF-8"),
        pytest.param(b"a = 1\r\n", "-a = 1\n", id="CRLF"),
        pytest.param(b"# page \f two\n", "-# page \f two\n", id="a form feed"),
    ],
)
def test_the_diff_shows_any_line_as_one_line(before, line):
    assert planned((), before, b"").diff().partition("@@\n")[2] == line


def test_of_a_file_that_nobody_would_read_only_the_lines_are_counted():
    edit = Edit(Path("/table"), b"one\ntwo\n", b"line\n" * (plan.SHOWN // 5 + 1))

    assert edit.diff() == (
        "--- /table\n+++ (planned)\n"
        "@@ 2 lines become 400001, too many to be shown here @@\n"
    )


def test_a_plan_without_a_change_is_empty_and_so_is_its_diff():
    change = planned((), b"a = 1\n", b"a = 1\n")

    assert change.empty
    assert change.diff() == ""


def test_the_diff_shows_the_table_before_main_cf_which_names_it():
    change = planned((), b"", b"a = 1\n", table=(None, b"mx.org /mx.pem\n"))

    assert not change.empty
    assert change.diff() == (
        f"--- {TABLE}\n+++ (planned)\n@@ -0,0 +1 @@\n+mx.org /mx.pem\n"
        f"--- {MAIN_CF}\n+++ (planned)\n@@ -0,0 +1 @@\n+a = 1\n"
    )


@pytest.mark.parametrize(
    "table", [(None, b"new\n"), (b"old\n", b"new\n"), (b"old\n", None)]
)
def test_a_plan_for_the_table_alone_is_not_empty(table):
    change = planned((), b"a = 1\n", b"a = 1\n", table)

    assert not change.empty
    assert change.diff().startswith(f"--- {TABLE}\n")


def test_a_plan_that_leaves_the_table_as_it_is_is_empty():
    assert planned((), b"", b"", table=(b"same\n", b"same\n")).empty


DECISIONS = (
    Change("a", None, "1", "it was unset"),
    Change("b", "", "2", "it was empty"),
    Change("c", "2", "3", "it was less"),
    CommentOut("d", "4", "it is old"),
    Kept("e", "5", "it is more"),
)


def test_the_description_has_a_line_with_file_and_reason_for_each_change():
    change = planned(DECISIONS, b"", b"x")

    assert change.describe() == (
        "/etc/postfix/main.cf: a: (unset) -> 1 (it was unset)\n"
        "/etc/postfix/main.cf: b: (empty) -> 2 (it was empty)\n"
        "/etc/postfix/main.cf: c: 2 -> 3 (it was less)\n"
        "/etc/postfix/main.cf: d: 4 -> commented out (it is old)\n"
        f"/etc/postfix/main.cf: SHA-256 {sha256(b'x').hexdigest()}\n"
    )


def test_what_is_kept_is_noted_with_the_reason():
    change = planned(DECISIONS, b"", b"x")

    assert change.notes() == ["e: keeping 5 (it is more)"]


def test_an_empty_value_that_is_kept_can_be_seen():
    change = planned((Kept("e", "", "set by hand"),), b"", b"")

    assert change.notes() == ["e: keeping (empty) (set by hand)"]


def test_the_description_can_be_written_in_every_encoding():
    decisions = (Change("a", "m\udcfcller", "grün", "it was latin-1"),)
    change = planned(decisions, b"", b"x")

    assert change.describe().startswith(
        "/etc/postfix/main.cf: a: m\\xfcller -> gr\\xfcn (it was latin-1)\n"
    )
    assert change.describe().isascii()
