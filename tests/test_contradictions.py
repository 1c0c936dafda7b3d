"""``status`` reports what DNS says of this host that contradicts it, and no more."""

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from certbot_postfix.formats import mta_sts
from certbot_postfix.formats.caa import Issuance, Property
from certbot_postfix.inbound import issuance as issuances
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.publish import policy_host, written
from certbot_postfix.publish.look import Found, Relevant
from certbot_postfix.status import read_dns
from certbot_postfix.status.checks import publication
from certbot_postfix.status.facts import Facts, OwnPolicy
from certbot_postfix.status.findings import Code, Severity
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.tls.certificates import Certificate
from tests.lab import Authority

NOW = datetime(2026, 11, 30, tzinfo=timezone.utc)
NAME = "mx.example.org"
ACCOUNT = "https://acme-v02.api.letsencrypt.org/acme/acct/7"
OURS = Issuance("letsencrypt.org", ACCOUNT, "http-01")
PATH = Path("/var/www/mta-sts/.well-known/mta-sts.txt")
COMMAND = "certbot-postfix mta-sts example.org --webroot /var/www/mta-sts"
TEXT = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.org\r\nmax_age: 604800\r\n"
RECORD = mta_sts.record(mta_sts.content_id(TEXT))

# Healthy until a test breaks it.
POLICY = OwnPolicy(
    "example.org",
    PATH,
    Found(("10 mx.example.org.",)),
    Found((RECORD, "v=spf1 -all")),
    TEXT,
    NOW - timedelta(days=31),
)


def findings(**known) -> list[tuple[Code, Severity, str, str]]:
    configuration = Configuration(Path("/etc/postfix"), {}, {}, {}, ())
    facts = Facts(configuration, NOW, Path("/etc/letsencrypt/postfix"), **known)
    return [
        (each.code, each.severity, each.message, each.hint)
        for check in (publication.caa_records, publication.own_policies)
        for each in check(facts)
    ]


def changed(policy: OwnPolicy, old: bytes, new: bytes) -> OwnPolicy:
    """Return *policy* with another text, and the record of that."""
    text = (policy.text or b"").replace(old, new)
    record = mta_sts.record(mta_sts.content_id(text))
    return replace(policy, text=text, sts=Found((record,)))


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(POLICY, id="all fits"),
        pytest.param(
            replace(POLICY, mx=Found(fault="x"), sts=Found(fault="x")), id="DNS is down"
        ),
        pytest.param(replace(POLICY, text=None, sts=Found()), id="it was left"),
        pytest.param(
            replace(changed(POLICY, b"enforce", b"none"), sts=Found()), id="it is left"
        ),
        pytest.param(replace(POLICY, text=None, hidden="denied"), id="not root"),
        pytest.param(
            changed(replace(POLICY, since=NOW), b"enforce", b"testing"), id="new"
        ),
        pytest.param(
            replace(changed(POLICY, b"enforce", b"none"), mx=Found(("1 x.",))),
            id="none",
        ),
        pytest.param(
            changed(POLICY, b"STSv1", b"STSv9"), id="broken, as the command says"
        ),
    ],
)
def test_a_policy_that_fits_is_no_finding(policy):
    assert findings(own_policies=(policy,)) == []


@pytest.mark.parametrize(
    ("policy", "code", "severity", "message", "hint"),
    [
        pytest.param(
            replace(POLICY, mx=Found(("10 mx.example.org.", "20 new.example.org."))),
            Code.STS_MX,
            Severity.WARNING,
            "the MTA-STS policy of example.org does not allow its MX 'new.example.org':"
            " senders that follow it deliver no mail there",
            COMMAND,
            id="an MX host is not in the policy",
        ),
        pytest.param(
            replace(POLICY, mx=Found(("20 new.example.org.",))),
            Code.STS_MX,
            Severity.CRITICAL,
            "the MTA-STS policy of example.org does not allow its MX 'new.example.org':"
            " senders that follow it deliver no mail there",
            COMMAND,
            id="no MX host is in the policy",
        ),
        pytest.param(
            replace(POLICY, sts=Found(("v=STSv1; id=1;",))),
            Code.STS_RECORD,
            Severity.WARNING,
            "_mta-sts.example.org is 'v=STSv1; id=1;', which is not for the policy in"
            f" {PATH}",
            f'publish, as the only MTA-STS record: "{RECORD}"',
            id="another id",
        ),
        pytest.param(
            replace(POLICY, sts=Found((RECORD, "v=STSv1; id=1;"))),
            Code.STS_RECORD,
            Severity.WARNING,
            "_mta-sts.example.org has 2 MTA-STS records: senders follow none",
            f'publish, as the only MTA-STS record: "{RECORD}"',
            id="two records",
        ),
        pytest.param(
            replace(POLICY, sts=Found(("v=spf1 -all",))),
            Code.STS_RECORD,
            Severity.WARNING,
            "_mta-sts.example.org has no record of the policy: senders do not know it",
            f'publish, as the only MTA-STS record: "{RECORD}"',
            id="no record",
        ),
        pytest.param(
            replace(POLICY, text=None),
            Code.STS_RECORD,
            Severity.WARNING,
            f"_mta-sts.example.org announces a policy, but {PATH} is missing",
            f"{COMMAND}, or remove the record",
            id="no file",
        ),
        pytest.param(
            changed(POLICY, b"enforce", b"testing"),
            Code.STS_TESTING,
            Severity.INFO,
            "the MTA-STS policy of example.org has been in testing mode since"
            " 2026-10-30: senders also deliver to a server that fails it",
            f"{COMMAND} --mode enforce, if the reports have no failures",
            id="testing for more than 30 days",
        ),
    ],
)
def test_a_policy_that_is_contradicted_is_a_finding(
    policy, code, severity, message, hint
):
    assert findings(own_policies=(policy,)) == [(code, severity, message, hint)]


@pytest.mark.parametrize(
    ("make", "text", "hidden"),
    [
        pytest.param(lambda path: path.write_bytes(TEXT), TEXT, "", id="there"),
        pytest.param(lambda path: None, None, "", id="gone"),
        pytest.param(
            Path.mkdir, None, "could not read {}: Is a directory", id="no file"
        ),
        pytest.param(
            lambda path: path.symlink_to(path),
            None,
            "Too many levels of symbolic links",
            id="links in a circle",
        ),
    ],
)
def test_the_policy_that_was_written_is_read_where_that_was(
    tmp_path, make, text, hidden
):
    webroot, bundles = tmp_path / "www", tmp_path / "letsencrypt" / "postfix"
    path = webroot / policy_host.PATH
    path.parent.mkdir(parents=True)
    make(path)
    written.note(bundles, "example.org", webroot)

    (policy,) = read_dns.policies(bundles, Deadline(0))

    assert (policy.domain, policy.path, policy.text) == ("example.org", path, text)
    assert policy.hidden == hidden.format(path)
    reasons = {skip.object: skip.reason for skip in read_dns.skipped({}, [policy])}
    assert reasons.get(str(path), "") == policy.hidden
    assert "what DNS says of this server" in reasons


def renewing(authority: Authority, *values: str, issuance: Issuance = OURS) -> dict:
    """Return the facts of a lineage whose name has CAA records with *values*."""
    (leaf,) = Certificate.all_from_pem(authority.issue(NAME).cert_pem)
    records = tuple(Property(0, "issue", value) for value in values)
    return {
        "issuances": {NAME: issuance},
        "lineages": {NAME: leaf},
        "caa": {NAME: Relevant("example.org", records)},
    }


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("ca.example", "it permits 'ca.example', not letsencrypt.org"),
        (
            f"letsencrypt.org; accounturi={ACCOUNT}8",
            f"it permits the account '{ACCOUNT}8'; certbot uses {ACCOUNT}",
        ),
        (
            "letsencrypt.org; validationmethods=dns-01",
            "it permits the validation methods 'dns-01'; certbot uses http-01",
        ),
    ],
)
def test_caa_records_that_forbid_the_next_renewal_are_a_finding(authority, value, why):
    ((code, severity, message, hint),) = findings(**renewing(authority, value))

    assert (code, severity) == (Code.CAA, Severity.WARNING)
    assert (
        message
        == f"the CAA record of example.org does not permit renewing {NAME}: {why}"
    )
    wanted = f"letsencrypt.org; validationmethods=http-01; accounturi={ACCOUNT}"
    assert hint == f'publish, in its place: 0 issue "{wanted}"'


def test_the_advice_has_what_is_known_of_the_account(authority):
    known = renewing(authority, "ca.example", issuance=Issuance("letsencrypt.org"))

    ((_, _, _, hint),) = findings(**known)

    assert hint == 'publish, in its place: 0 issue "letsencrypt.org"'


@pytest.mark.parametrize(
    "value", ["letsencrypt.org", f"letsencrypt.org; accounturi={ACCOUNT}"]
)
def test_caa_records_that_permit_it_are_no_finding(authority, value):
    assert findings(**renewing(authority, value)) == []
    assert findings(**renewing(authority, value, issuance=Issuance())) == []


LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"


@pytest.mark.parametrize(
    ("settings", "issuance"),
    [
        ({"authenticator": "webroot"}, OURS),
        ({"authenticator": "dns-rfc2136"}, replace(OURS, method="dns-01")),
        ({"authenticator": "certbot-dns-x:dns-x"}, replace(OURS, method="dns-01")),
        (
            {"authenticator": "manual", "pref_challs": "dns-01,"},
            replace(OURS, method="dns-01"),
        ),
        ({"authenticator": "manual"}, replace(OURS, method="")),
        ({"authenticator": "third:party"}, replace(OURS, method="")),
        ({"account": "../" + "0" * 32}, Issuance("letsencrypt.org")),
        ({"account": "1" * 32}, Issuance("letsencrypt.org")),
        ({"server": "https://acme.example/directory"}, Issuance()),
        ({"server": "https://acme.example/../directory"}, Issuance()),
        ({"server": "https://[/"}, Issuance()),
    ],
)
def test_how_a_lineage_is_issued_is_read_as_far_as_it_is_known(
    tmp_path, settings, issuance
):
    place = tmp_path / "accounts/acme-v02.api.letsencrypt.org/directory"
    for account, uri in (("0" * 32, ACCOUNT), ("1" * 32, 'https://x; "')):
        (place / account).mkdir(parents=True)
        (place / account / "regr.json").write_text(json.dumps({"uri": uri}))
    usual = {"server": LETS_ENCRYPT, "account": "0" * 32}

    assert issuances.read(tmp_path, {**usual, **settings}) == issuance
