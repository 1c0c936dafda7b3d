"""Facts go in, and a plan comes out that describes itself."""

from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

import pytest

from certbot_postfix import plan
from certbot_postfix.certificates import Certificate
from certbot_postfix.configuration import Configuration, Service
from certbot_postfix.errors import Error
from certbot_postfix.plan import Override, Plan
from certbot_postfix.profiles import ClientLevel, Profile
from certbot_postfix.rules import Change, CommentOut, Kept
from tests.test_rules import configured

BUNDLES = Path("/etc/letsencrypt/postfix")
BUNDLE = BUNDLES / "mx.example.org.pem"
MAIN_CF = Path("/etc/postfix/main.cf")
NOW = datetime(2026, 7, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)


def decide(configuration: Configuration, bundle: Path = BUNDLE) -> list[str]:
    """Return what is decided about the certificate, in words without the reasons."""
    decisions = plan.decide(
        configuration, bundle, Profile.CERTIFICATE, ClientLevel.KEEP
    )
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

    decisions = plan.decide(
        configured(explicit), BUNDLE, Profile.CERTIFICATE, ClientLevel.KEEP
    )

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

    decisions = plan.decide(
        configured({"smtpd_tls_cert_file": "/a.pem"}, services=(service,)),
        BUNDLE,
        Profile.CERTIFICATE,
        ClientLevel.KEEP,
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

    decisions = plan.decide(
        configuration, BUNDLE, Profile.CERTIFICATE, ClientLevel.KEEP
    )

    (retired,) = (item for item in decisions if isinstance(item, CommentOut))
    successor = retired.why.partition(" ")[0]
    assert successor in {item.name for item in decisions if isinstance(item, Change)}


@pytest.mark.parametrize("blank", [" ", "\t", ","])
def test_a_path_that_a_list_cannot_hold_is_refused(blank):
    with pytest.raises(Error, match="Postfix allows no blank or comma there") as caught:
        decide(configured(), BUNDLES / f"a{blank}b.pem")

    assert "--config-dir" in caught.value.hint


def test_a_dollar_in_the_path_is_doubled_and_found_again():
    bundle = BUNDLES / "c$sh.pem"

    first = plan.decide(configured(), bundle, Profile.CERTIFICATE, ClientLevel.KEEP)
    written = {item.name: item.new for item in first if isinstance(item, Change)}

    assert written["smtpd_tls_chain_files"] == str(BUNDLES / "c$$sh.pem")
    assert decide(configured(written), bundle) == []


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
    assert plan.configured(configured(explicit)) == [Path(file) for file in files]


def test_deployed_is_what_main_cf_names_of_ours():
    configuration = configured({"smtpd_tls_chain_files": f"/other.pem, {BUNDLE}"})

    assert plan.deployed(configuration, BUNDLES) == [BUNDLE]


# Whether it may be the default


def certificate(
    name: str, *, issuer: str = "CN=CA", days: int = 30, key_type: str = "ECDSA"
) -> Certificate:
    return Certificate(
        der=name.encode(),
        subject=f"CN={name}",
        issuer=issuer,
        names=frozenset({name}),
        spki=b"",
        key_type=key_type,
        not_before=NOW - 90 * DAY,
        not_after=NOW + days * DAY,
    )


@pytest.mark.parametrize(
    ("new", "served", "refused"),
    [
        pytest.param(
            "mx.example.org",
            certificate("www.example.org"),
            False,
            id="it covers the server",
        ),
        pytest.param(
            "*.example.org",
            certificate("mx.example.org"),
            False,
            id="its wildcard does",
        ),
        pytest.param("www.example.org", None, False, id="none is served"),
        pytest.param(
            "www.example.org",
            certificate("snakeoil", issuer="CN=snakeoil"),
            False,
            id="snake oil is served",
        ),
        pytest.param(
            "www.example.org",
            certificate("mx.example.org", days=0),
            False,
            id="an expired one is served",
        ),
        pytest.param(
            "www.example.org",
            certificate("mx.example.org"),
            True,
            id="a good one is served",
        ),
    ],
)
def test_a_certificate_for_other_names_displaces_no_good_one(new, served, refused):
    reason = plan.refuse_default(certificate(new), served, "mx.example.org", NOW)

    assert bool(reason) is refused


def test_the_refusal_names_both_certificates_and_the_server():
    reason = plan.refuse_default(
        certificate("www.example.org"),
        certificate("mx.example.org"),
        "mx.example.org",
        NOW,
    )

    assert reason.startswith(
        "the certificate for www.example.org does not cover mx.example.org,"
        " and mx.example.org (SHA-256 "
    )


@pytest.mark.parametrize(
    ("served", "told"),
    [
        pytest.param(certificate("a", key_type="RSA"), True, id="of another type"),
        pytest.param(certificate("a"), False, id="of the same type"),
        pytest.param(certificate("a", key_type="RSA", days=0), False, id="expired"),
        pytest.param(
            certificate("a", key_type="RSA", issuer="CN=a"), False, id="self-signed"
        ),
    ],
)
def test_a_good_certificate_with_another_type_of_key_is_not_lost_silently(served, told):
    lost = plan.lost(certificate("mx.example.org"), [served], NOW)

    assert [words.startswith(f"{served} with its RSA key") for words in lost] == (
        [True] if told else []
    )


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
    decisions = plan.decide(configuration, BUNDLE, profile, ClientLevel.MAY)

    found = plan.overridden(configuration, decisions, profile)

    assert [(each.service, each.name) for each in found] == [
        ("submission/inet", name) for name in told
    ]


def test_an_override_says_service_parameter_and_value():
    override = Override("submission/inet", "smtpd_tls_security_level", "none")

    assert str(override) == (
        "master.cf: submission/inet overrides smtpd_tls_security_level = none;"
        " that stays, main.cf's value is hidden there"
    )


@pytest.mark.parametrize(("level", "harmless"), [("encrypt", True), ("none", False)])
def test_an_override_that_asks_for_more_is_harmless(level, harmless):
    override = Override("submission/inet", "smtpd_tls_security_level", level)

    assert override.harmless is harmless


# How a plan describes itself


def test_the_diff_is_a_unified_diff_of_main_cf():
    planned = Plan(
        (), MAIN_CF, b"# one\na = 1\nb = 2\n", b"# one\na = 2\nb = 2\nc = 3\n"
    )

    assert planned.diff() == (
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
    planned = Plan((), MAIN_CF, b"a = 1", b"a = 1\nb = 2\n")

    assert planned.diff().splitlines()[3:] == [
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
    assert Plan((), MAIN_CF, before, b"").diff().partition("@@\n")[2] == line


def test_a_plan_without_a_change_is_empty_and_so_is_its_diff():
    planned = Plan((), MAIN_CF, b"a = 1\n", b"a = 1\n")

    assert planned.empty
    assert planned.diff() == ""


DECISIONS = (
    Change("a", None, "1", "it was unset"),
    Change("b", "", "2", "it was empty"),
    Change("c", "2", "3", "it was less"),
    CommentOut("d", "4", "it is old"),
    Kept("e", "5", "it is more"),
)


def test_the_description_has_a_line_with_file_and_reason_for_each_change():
    planned = Plan(DECISIONS, MAIN_CF, b"", b"x")

    assert planned.describe() == (
        "/etc/postfix/main.cf: a: (unset) -> 1 (it was unset)\n"
        "/etc/postfix/main.cf: b: (empty) -> 2 (it was empty)\n"
        "/etc/postfix/main.cf: c: 2 -> 3 (it was less)\n"
        "/etc/postfix/main.cf: d: 4 -> commented out (it is old)\n"
        f"/etc/postfix/main.cf: SHA-256 {sha256(b'x').hexdigest()}\n"
    )


def test_what_is_kept_is_noted_with_the_reason():
    planned = Plan(DECISIONS, MAIN_CF, b"", b"x")

    assert planned.notes() == ["e: keeping 5 (it is more)"]


def test_an_empty_value_that_is_kept_can_be_seen():
    planned = Plan((Kept("e", "", "set by hand"),), MAIN_CF, b"", b"")

    assert planned.notes() == ["e: keeping (empty) (set by hand)"]


def test_the_description_can_be_written_in_every_encoding():
    decisions = (Change("a", "m\udcfcller", "grün", "it was latin-1"),)
    planned = Plan(decisions, MAIN_CF, b"", b"x")

    assert planned.describe().startswith(
        "/etc/postfix/main.cf: a: m\\xfcller -> gr\\xfcn (it was latin-1)\n"
    )
    assert planned.describe().isascii()
