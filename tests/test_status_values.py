"""Values in, findings and text out: status judges and prints without a Postfix."""

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from certbot_postfix.inbound.renewal_settings import RenewalSettings
from certbot_postfix.inbound.schedules import Schedule
from certbot_postfix.postfix.configuration import CHAIN, SNI_MAPS, Service
from certbot_postfix.status import monitoring, nagios, report, terminal
from certbot_postfix.status.facts import Facts, File, Handshake, Key, SniMap
from certbot_postfix.status.report import Report
from certbot_postfix.tls.certificates import UNKNOWN, Certificate
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import Seen
from tests.lab import Authority
from tests.test_status import BUNDLES, HOST, NOW, certificate, concluded, configured

SMTP = Service("smtp", "inet", "smtpd", {})
ENDPOINT = Endpoint("smtp/inet", "192.0.2.1", 25, implicit=False)
PEM = Path("/x.pem")


@pytest.fixture(scope="module")
def leaf(authority: Authority) -> Certificate:
    return certificate(authority.issue(HOST))


def reported(*handshakes: Handshake, **known: object) -> Report:
    known = {"configuration": configured(), "running": True, **known}
    return report.make(Facts(now=NOW, bundles=BUNDLES, handshakes=handshakes, **known))


# Files


OTHER_KEY = Key(b"another")


@pytest.mark.parametrize(
    ("make", "code", "wrong"),
    [
        pytest.param(
            lambda _: File(PEM, damage="no start line"),
            "file-unusable",
            "cannot be read: no start line",
            id="broken text",
        ),
        pytest.param(
            lambda leaf: File(PEM, (Key(b""), leaf)),
            "file-unusable",
            "contains a private key that is damaged, or encrypted",
            id="encrypted key",
        ),
        pytest.param(
            lambda leaf: File(PEM, (leaf,)),
            "key-mismatch",
            "contains a certificate with no private key before it",
            id="no key",
        ),
        pytest.param(
            lambda leaf: File(PEM, (OTHER_KEY, Key(leaf.spki), leaf)),
            "key-mismatch",
            "follows a key without a certificate",
            id="two keys",
        ),
        pytest.param(
            lambda leaf: File(PEM, (Key(leaf.spki), leaf, OTHER_KEY)),
            "key-mismatch",
            "contains a private key that no certificate follows",
            id="key at the end",
        ),
    ],
)
def test_a_file_that_postfix_cannot_load_is_one_finding_that_says_why(
    leaf, make, code, wrong
):
    made = reported(
        configuration=configured({CHAIN: str(PEM)}), files={PEM: make(leaf)}
    )

    (finding,) = made.findings
    assert finding.code.value == code
    assert finding.message == f"{PEM} {wrong}: TLS is off where it is configured"


def test_a_missing_file_of_somebody_else_s_is_for_him_to_restore():
    made = reported(
        configuration=configured({CHAIN: str(PEM)}),
        files={PEM: File(PEM, exists=False)},
    )

    (finding,) = made.findings
    assert finding.code.value == "file-missing"
    assert finding.hint == "restore it, or use another file"


def test_a_file_of_cas_that_master_cf_names_is_checked_with_its_service():
    service = replace(SMTP, overrides={"smtpd_tls_CAfile": "/gone.pem"})
    gone = Path("/gone.pem")

    made = reported(
        configuration=configured({}, service), files={gone: File(gone, exists=False)}
    )

    (finding,) = made.findings
    assert finding.code.value == "file-missing"
    assert finding.places == ("smtpd_tls_CAfile in smtp/inet of master.cf",)


def test_an_sni_map_that_cannot_be_seen_is_not_called_missing():
    path = Path("/etc/postfix/sni")
    hidden = SniMap("hash", path, {}, File(path, hidden="Permission denied"))

    assert concluded(configured(), sni_maps=(hidden,)) == []


def test_a_client_certificate_that_is_valid_for_clients_is_no_finding(authority):
    # An intermediate has no extended key usage, which restricts nothing.
    pem = authority.intermediate_pem
    unrestricted = replace(
        Certificate.all_from_pem(pem)[0], issuer="CA", subject="client"
    )
    explicit = {"smtp_tls_chain_files": str(PEM)}
    file = File(PEM, (Key(unrestricted.spki), unrestricted))

    assert concluded(configured(explicit), files={PEM: file}) == []


# Parameters


@pytest.mark.parametrize(
    ("name", "interfaces", "found"),
    [
        ("127.0.0.1:10025", "all", []),
        ("localhost:10025", "all", []),
        ("[::1]:10025", "all", []),
        ("10025", "loopback-only", []),
        ("10025", "127.0.0.1, [::1]", []),
        ("10025", "localhost", []),
        ("10025", "localhost, 192.0.2.1", ["override-hides"]),
        ("10025", "all", ["override-hides"]),
        ("192.0.2.1:10025", "localhost", ["override-hides"]),
        ("mx.example.org:10025", "localhost", ["override-hides"]),
    ],
)
def test_tls_may_be_off_on_loopback_alone(name, interfaces, found):
    off = Service(name, "inet", "smtpd", {"smtpd_tls_security_level": "none"})

    configuration = configured({"inet_interfaces": interfaces}, SMTP, off)

    assert concluded(configuration) == found


def test_behind_a_proxy_it_is_not_said_that_no_service_offers_tls():
    explicit = {
        "smtpd_tls_security_level": "none",
        "smtpd_upstream_proxy_protocol": "haproxy",
    }

    assert concluded(configured(explicit)) == []


def test_what_a_service_sets_in_vain_is_named_with_the_service():
    service = replace(SMTP, overrides={"smtpd_tls_cert_file": "/old.pem"})
    file = File(PEM, hidden="Permission denied")

    made = reported(
        configuration=configured({CHAIN: str(PEM)}, service), files={PEM: file}
    )

    (finding,) = made.findings
    assert finding.code.value == "ignored-parameter"
    assert finding.hint == "remove smtpd_tls_cert_file from smtp/inet of master.cf"


def test_a_map_of_ours_that_a_postfix_without_berkeley_db_cannot_read_is_deprecated():
    configuration = configured({SNI_MAPS: "hash:/etc/postfix/certbot_sni"})
    defaults = {**configuration.defaults, "default_database_type": "lmdb"}

    made = reported(configuration=replace(configuration, defaults=defaults))

    (finding,) = made.findings
    assert finding.object == "hash:/etc/postfix/certbot_sni"
    assert "a Postfix built without Berkeley DB cannot read the map" in finding.message
    assert "certbot install -i postfix" in finding.hint


# Services


def test_a_service_for_which_no_file_is_known_presents_no_certificate():
    made = reported(Handshake(ENDPOINT, failure="454 TLS not available"))

    (finding,) = made.findings
    assert finding.code.value == "no-certificate"
    assert finding.message.startswith(
        "no certificate is presented (454 TLS not available): "
    )


def test_names_of_a_service_that_fails_without_a_name_are_the_same_cause():
    failed = Handshake(ENDPOINT, failure="454 TLS not available")

    made = reported(failed, replace(failed, server_name=HOST, key=HOST))

    assert [finding.places for finding in made.findings] == [("smtp/inet",)]


# Renewals


CRON = Schedule("/etc/cron.d/certbot", "", Path("/opt/certbot"), without_plugin=True)


@pytest.mark.parametrize(
    ("schedule", "found"),
    [
        pytest.param(
            replace(
                CRON,
                command="/opt/certbot renew --deploy-hook 'certbot-postfix deploy'",
            ),
            [],
            id="with a hook on its command line",
        ),
        pytest.param(
            replace(CRON, command="certbot renew", without_plugin=False),
            ["renewal-not-deployed"],
            id="with the plugin",
        ),
    ],
)
def test_a_renewal_must_reach_postfix_by_installer_or_hook(leaf, schedule, found):
    bundle = BUNDLES / f"{HOST}.pem"
    settings = RenewalSettings(
        Path("/renewal.conf"), installer=False, hooked=False, keeps_key=True
    )

    made = reported(
        configuration=configured({CHAIN: str(bundle)}),
        files={bundle: File(bundle, (Key(leaf.spki), leaf), partly=True)},
        lineages={HOST: leaf},
        renewals={HOST: settings},
        schedules=(schedule,),
    )

    assert sorted(finding.code.value for finding in made.findings) == found


# What is printed


def expiring(leaf: Certificate, **remaining: float) -> Certificate:
    return replace(leaf, not_after=NOW + timedelta(**remaining))


@pytest.mark.parametrize(
    ("make", "cell", "words"),
    [
        pytest.param(
            lambda leaf: expiring(leaf, days=9, hours=1),
            None,
            "(9 days left)",
            id="days",
        ),
        pytest.param(
            lambda leaf: expiring(leaf, hours=30.5), None, "(30 hours left)", id="hours"
        ),
        pytest.param(
            lambda leaf: expiring(leaf, days=-1),
            "expired",
            "expired at 2",
            id="expired",
        ),
        pytest.param(
            lambda leaf: replace(leaf, not_after=UNKNOWN, fault="odd"),
            "unknown",
            "expires at a time that cannot be read",
            id="unknown",
        ),
    ],
)
def test_the_table_says_how_long_a_certificate_is_valid(leaf, make, cell, words):
    shown = make(leaf)

    text = terminal.as_table(reported(Handshake(ENDPOINT, seen=Seen(shown, "TLSv1.3"))))

    row = next(line for line in text.splitlines() if "192.0.2.1:25" in line)
    assert row.split()[-2] == (cell or f"{shown.not_after:%Y-%m-%d}")
    assert words in " ".join(text.split())
    assert ("left)" in text) is (cell is None)


def test_a_time_that_cannot_be_read_is_none_for_programs_and_counts_for_no_alarm(leaf):
    odd = replace(leaf, not_after=UNKNOWN, fault="odd")
    made = reported(Handshake(ENDPOINT, seen=Seen(odd, "TLSv1.3")))

    (used,) = json.loads(monitoring.as_json(made))["certificates"]
    assert used["not_after"] is None
    line, _ = nagios.as_check(replace(made, findings=()))
    assert line.startswith("POSTFIX TLS OK: 1 service |")
    assert "expires_in" not in line


def test_of_many_addresses_the_first_is_shown_with_how_many_there_are(leaf):
    hosts = [f"2001:db8::1:{number:x}" for number in range(12)]

    text = terminal.as_table(
        reported(
            *(
                Handshake(replace(ENDPOINT, host=host), seen=Seen(leaf, "TLSv1.3"))
                for host in hosts
            )
        )
    )

    assert re.search(r"\[2001:db8::1:0\]:25 and 11 more", text)


def test_where_nothing_was_probed_it_says_so():
    text = terminal.as_table(reported(running=False, elsewhere=Path("/etc/other")))

    assert "No service was checked." in text
