"""``certbot-postfix records`` compares what is published with what should be."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import dns.rdata
import dns.zone
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbot_postfix.dane.gate import Settings
from certbot_postfix.errors import Error
from certbot_postfix.formats import caa, mta_sts, tlsrpt, txt
from certbot_postfix.formats.caa import Issuance, Property
from certbot_postfix.formats.policy import Mode
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.inbound import advertised
from certbot_postfix.inbound.bundles import Bundles
from certbot_postfix.inbound.state import State as Postfixes
from certbot_postfix.publish import changes, policy_host, records, written
from certbot_postfix.publish.changes import Change
from certbot_postfix.publish.look import Found, Look, Relevant, Seen
from certbot_postfix.publish.records import POLICY, Row, Server, State
from certbot_postfix.status.findings import Code
from certbot_postfix.system.deadline import Deadline
from tests.lab import Authority, Certbot, base_directory
from tests.lab.dane import ADDRESS, DOMAIN, HOST, OWNER, Host, record
from tests.lab.dane import published as published_as
from tests.lab.machine import wait_until
from tests.lab.network import NAMES, POLICIES, Network
from tests.lab.primaries import KEYS
from tests.lab.zone import PRIMARY, SECONDARY, Zone
from tests.test_rules import configured

ACCOUNT = "https://acme-v02.api.letsencrypt.org/acme/acct/7"
OURS = Issuance("letsencrypt.org", ACCOUNT, "http-01")
BOUND = "letsencrypt.org; validationmethods=http-01; accounturi="


GOOD = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.org\r\nmax_age: 604800\r\n"


# Values


def seen(**what) -> Seen:
    return Seen("example.org", **what)


SERVER = Server(("mx.example.org",), issuances=(("mx.example.org", OURS),))
NOTHING = seen(caa=(("mx.example.org", Relevant()),))


def states(now: Seen, *reports: str, server: Server = SERVER) -> dict[str, State]:
    rows = records.rows(now, server, reports)
    return {f"{row.kind} {row.name}": row.state for row in rows}


def row(now: Seen, name: str, server: Server = SERVER) -> Row:
    rows = records.rows(now, server)
    return next(each for each in rows if name in (each.name, each.kind))


def published(now: Seen, server: Server, reports: list[str]) -> Seen:
    """Return what is seen when somebody publishes what is wanted."""
    for each in records.rows(now, server, reports):
        match each.kind:
            case "MX":
                others = [mx for mx in now.mx.values if mx != "0 ."]
                now = replace(now, mx=Found(tuple({*others, *each.wanted})))
            case "TXT":
                texts = [dns.rdata.from_text("IN", "TXT", one) for one in each.wanted]
                value = Found(tuple(b"".join(one.strings).decode() for one in texts))
                field = "sts" if each.name.startswith("_mta-sts") else "tlsrpt"
                now = replace(now, **{field: value})
            case records.POLICY if each.state is not State.OK:
                text = "".join(f"{line}\r\n" for line in each.wanted)
                now = replace(now, policy=text.encode(), fault="")
            case "CAA":
                values = [dns.rdata.from_text("IN", "CAA", one) for one in each.wanted]
                found = tuple(map(Property.of_rdata, values))
                now = replace(now, caa=((each.name, Relevant(each.name, found)),))
    return now


SOME_MX = ["10 mx.example.org.", "20 MX2.example.net.", "0 .", "5 other.example."]
SOME_TEXT = [
    "v=STSv1; id=1;",
    "v=STSv1; id=2",
    "v=STSv1",
    "v=spf1 -all",
    "v=TLSRPTv1; rua=mailto:a@b.example",
    "v=TLSRPTv1;rua=https://b.example/x",
    'v=TLSRPTv1; rua="\\',
]
SOME_POLICY = [
    None,
    b"",
    b"version: STSv1\nmode: enforce\nmax_age: 9\nmx: mx.example.org\n",
    b"version: STSv1\nmode: testing\nmx: *.example.net\nmax_age: 9",
    b"version: STSv1\nmode: none\nmax_age: 9",
]
SOME_CAA = [
    Property(0, "issue", ";"),
    Property(0, "issue", "letsencrypt.org"),
    Property(0, "issue", f"{BOUND}{ACCOUNT}1"),
    Property(0, "issuewild", "ca.example"),
    Property(128, "tbs", "x"),
]


def some(values: list) -> st.SearchStrategy[tuple]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)


FOUND = st.builds(
    Seen,
    st.just("example.org"),
    some(SOME_MX).map(Found),
    some(SOME_TEXT).map(Found),
    some(SOME_TEXT).map(Found),
    st.sampled_from(SOME_POLICY),
    st.sampled_from(["", "it did not answer in time"]),
    some(SOME_CAA).map(lambda some: (("mx.example.org", Relevant("org", some)),)),
)


@given(
    FOUND, st.booleans(), some(["mailto:t@x.example", "https://x.example/" + "r" * 300])
)
def test_once_all_that_is_wanted_is_published_nothing_differs(now, ours, reports):
    domains = frozenset({"example.org"} if ours else ())
    server = replace(SERVER, policies=domains)

    later = published(now, server, list(reports))

    assert {*states(later, *reports, server=server).values()} == {State.OK}


def as_found(values: list[str]) -> Found:
    return Found(tuple(values), tuple(values))


def texts_found(rdata: list[str]) -> Found:
    read = [dns.rdata.from_text("IN", "TXT", each) for each in rdata]
    texts = [b"".join(each.strings).decode() for each in read]
    return Found(tuple(texts), tuple(each.to_text() for each in read))


def after(now: Seen, made: list[Change]) -> Seen:
    """Return what is seen when the changes were *made*."""
    zone = {
        "example.org": [*now.mx.data],
        "_mta-sts.example.org": [*now.sts.data],
        "_smtp._tls.example.org": [*now.tlsrpt.data],
        "mx.example.org": [str(each) for each in now.caa[0][1].records],
    }
    if now.caa[0][1].name != "mx.example.org":
        zone["mx.example.org"] = []
    for change in made:
        data = zone[change.record.name]
        if change.removes:
            assert set(data) == change.observed
            data.remove(change.record.rdata)
        else:
            data.append(change.record.rdata)
    read = [dns.rdata.from_text("IN", "CAA", each) for each in zone["mx.example.org"]]
    caa = Relevant("mx.example.org", tuple(map(Property.of_rdata, read)))
    if not read:
        caa = now.caa[0][1]
    return replace(
        now,
        mx=as_found(zone["example.org"]),
        sts=texts_found(zone["_mta-sts.example.org"]),
        tlsrpt=texts_found(zone["_smtp._tls.example.org"]),
        caa=(("mx.example.org", caa),),
    )


PUBLISHED = st.builds(
    Seen,
    st.just("example.org"),
    some(SOME_MX).map(as_found),
    some(SOME_TEXT).map(lambda texts: texts_found(list(map(txt.strings, texts)))),
    some(SOME_TEXT).map(lambda texts: texts_found(list(map(txt.strings, texts)))),
    st.sampled_from([None, GOOD]),
    st.just(""),
    st.tuples(st.sampled_from(["org", "mx.example.org"]), some(SOME_CAA[:4])).map(
        lambda pair: (("mx.example.org", Relevant(*pair) if pair[1] else Relevant()),)
    ),
)


@given(PUBLISHED)
def test_what_is_changed_is_right_afterwards_and_others_records_stay(now):
    server = replace(SERVER, policies=frozenset({"example.org"}))
    rows = list(records.rows(now, server))

    later = after(now, list(changes.changes(rows)))

    held = {each.name for each in rows if changes.withheld(each, rows)}
    assert {
        each.state
        for each in records.rows(later, server)
        if each.kind != POLICY and each.name not in held
    } <= {State.OK}
    assert {*now.mx.data} - {"0 ."} <= {*later.mx.data}
    assert ("v=spf1 -all" in now.sts.values) is ("v=spf1 -all" in later.sts.values)
    foreign = {each for each in now.caa[0][1].records if each.tag == "issuewild"}
    assert now.caa[0][1].name == "org" or foreign <= {*later.caa[0][1].records}


def test_a_text_that_is_split_in_another_way_is_not_added_again_and_once_is_enough():
    wanted = ResourceRecord("_mta-sts.example.org", 3600, "TXT", '"v=STSv1; id=1;"')
    split, whole, old = '"v=STSv1; " "id=1;"', wanted.rdata, '"v=STSv1; id=0;"'
    spf = '"v=spf1 -all"'

    def edits(*stale: str) -> list[tuple[bool, str]]:
        every = changes.replacing([wanted], {spf, *stale}, stale)
        return [(change.removes, change.record.rdata) for change in every]

    assert edits(split) == []
    assert edits(split, old) == [(True, old)]
    assert edits(split, whole) == [(True, whole)]
    assert edits(old) == [(False, whole), (True, old)]


def test_the_record_of_a_policy_waits_until_it_is_served():
    waiting = [
        str(each) for each in changes.changes(list(records.rows(NOTHING, SERVER)))
    ]

    assert [each.split()[1] for each in waiting] == [
        "example.org.",
        "_smtp._tls.example.org.",
        "mx.example.org.",
    ]


def test_without_an_answer_nothing_is_said_to_be_missing():
    lost = Found(fault="MX of example.org: it did not answer")
    now = replace(NOTHING, mx=lost, sts=lost, tlsrpt=lost, fault="no address")
    now = replace(now, caa=(("mx.example.org", Relevant("org", fault="no")),))

    assert {*states(now).values()} == {State.UNKNOWN}


OTHERS = Found(("5 mx.example.net.", "10 mx.example.org."))


@pytest.mark.parametrize(
    ("now", "name", "state", "remark"),
    [
        pytest.param(
            seen(mx=Found(("5 mx.example.net.",))),
            "example.org",
            State.DIFFERENT,
            "mx.example.org is not among the MX hosts",
            id="MX without this server",
        ),
        pytest.param(
            seen(mx=replace(OTHERS, secure=False)),
            "example.org",
            State.NOT_SIGNED,
            "without DNSSEC, senders ignore TLSA records: RFC 7672, 2.2.1",
            id="MX not signed",
        ),
        pytest.param(
            seen(mx=OTHERS, policy=GOOD),
            POLICY,
            State.DIFFERENT,
            "it does not allow mx.example.net: senders that follow it deliver no mail"
            " there",
            id="an MX host that the policy does not allow",
        ),
        pytest.param(
            seen(policy=GOOD, sts=Found(("v=STSv1; id=1", "v=STSv1; id=2"))),
            "_mta-sts.example.org",
            State.DIFFERENT,
            "there must be only one record, or senders ignore all: RFC 8461, 3.1",
            id="two records of MTA-STS",
        ),
        pytest.param(
            seen(policy=GOOD, sts=Found(("v=STSv1; id=2026-01-01",))),
            "_mta-sts.example.org",
            State.DIFFERENT,
            "it is not valid",
            id="an id with signs",
        ),
        pytest.param(
            seen(policy=GOOD, sts=Found(("v=STSv1; id=20260101",))),
            "_mta-sts.example.org",
            State.OK,
            "",
            id="an id of their own",
        ),
        pytest.param(
            seen(tlsrpt=Found(("v=TLSRPTv1; rua=mailto:a@b.c",) * 2)),
            "_smtp._tls.example.org",
            State.DIFFERENT,
            "there must be only one record, or senders send no reports: RFC 8460, 3",
            id="two records of TLSRPT",
        ),
    ],
)
def test_what_differs_is_said(now, name, state, remark):
    server = Server(SERVER.hosts)

    found = row(now, name, server)

    assert (found.state, found.remark) == (state, remark)


def test_the_id_of_a_policy_that_was_written_here_is_that_of_its_text():
    now = seen(policy=GOOD, sts=Found(("v=STSv1; id=20260101",)))
    ours = replace(Server(SERVER.hosts), policies=frozenset({"example.org"}))

    found = row(now, "_mta-sts.example.org", ours)

    assert (found.state, found.remark) == (
        State.DIFFERENT,
        "the id is not that of the policy",
    )
    assert found.wanted == (f'"{mta_sts.record(mta_sts.content_id(GOOD))}"',)


def test_what_strangers_publish_cannot_reach_the_terminal():
    now = seen(
        sts=Found(("v=STSv1;\x1b]0;x\x07\n", *("v=STSv1; id=1",) * 99)),
        policy=b"\x1b[2J" * 1000,
        tlsrpt=Found(("v=TLSRPTv1; x=\x1b; rua=mailto:a@example.org",)),
        caa=(("mx.example.org", Relevant("org", (Property(0, "issue", "\x9b"),))),),
    )

    shown = [
        text
        for each in records.rows(now, SERVER)
        for text in (*each.published, *map(str, each.records), each.remark)
    ]

    assert all(text.isprintable() and len(text) < 400 for text in shown)
    assert len(shown) < 40


def test_named_checkzone_reads_what_is_wanted(tmp_path):
    program = shutil.which("named-checkzone")
    if not program:
        pytest.skip("bind9-utils is not installed")
    reports = [f"https://example.org/{'r' * 300}"]
    lines = [
        "$ORIGIN example.org.\n$TTL 1\n@ SOA ns1 admin 1 2 3 4 5\n@ NS ns1",
        "ns1 A 192.0.2.1\nmx A 192.0.2.2",
        *(
            str(one)
            for each in records.rows(NOTHING, SERVER, reports)
            for one in each.records
        ),
    ]
    zone = tmp_path / "zone"
    zone.write_text("\n".join(lines) + "\n")

    done = subprocess.run(
        [program, "-i", "local", "-k", "fail", "example.org", zone],
        check=False,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "OK")


# CAA

FORMER = "https://acme-v01.api.letsencrypt.org/acme/reg/7"


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ([], ""),
        (["issue letsencrypt.org"], ""),
        (["issue LetsEncrypt.org ; "], ""),
        ([f"issue {BOUND}{ACCOUNT}"], ""),
        (["issue letsencrypt.org;validationmethods=dns-01,http-01"], ""),
        (["issue ca.example", "issue letsencrypt.org"], ""),
        (["iodef mailto:a@b.example"], ""),
        (["issuewild ;"], ""),
        (["issuemail ;"], ""),
        ([f"issue letsencrypt.org; accounturi={FORMER}"], ""),
        (["issue ;"], "it permits no CA, not letsencrypt.org"),
        (["issue ca.example"], "it permits 'ca.example', not letsencrypt.org"),
        (["issue letsencrypt.org; x"], "it permits no CA, not letsencrypt.org"),
        (
            [f"issue letsencrypt.org; accounturi={ACCOUNT}1"],
            f"it permits the account '{ACCOUNT}1'; certbot uses {ACCOUNT}",
        ),
        (
            [f"issue letsencrypt.org; accounturi={ACCOUNT}; accounturi={ACCOUNT}"],
            "it has more than one accounturi, which permits nobody",
        ),
        (
            ["issue letsencrypt.org; validationmethods=dns-01"],
            "it permits the validation methods 'dns-01'; certbot uses http-01",
        ),
        (["tbs x"], "no CA may issue that does not know 'tbs'"),
    ],
)  # fmt: skip
def test_caa_records_permit_a_renewal_or_say_why_not(values, refusal):
    flags = {"tbs": 128}
    properties = [
        Property(flags.get(tag, 0), tag, value)
        for tag, _, value in (each.partition(" ") for each in values)
    ]

    assert caa.refusal(properties, OURS, wildcard=False) == refusal
    assert caa.refusal(properties, Issuance(), wildcard=False) in ("", refusal)


def test_a_server_needs_a_name_that_dns_can_have(tmp_path):
    places = Bundles(tmp_path, tmp_path)
    nameless = Postfixes(configured({"myhostname": "localhost"}), places)

    with pytest.raises(Error, match="myhostname is 'localhost', which is no") as caught:
        advertised.server(nameless, Settings())

    assert "--tlsa-name" in caught.value.hint
    named = Settings(names=("MX.example.org.",))
    assert advertised.server(nameless, named).hosts == ("mx.example.org",)


def test_a_certificate_of_an_unknown_ca_wants_no_record():
    server = replace(SERVER, issuances=(("mx.example.org", Issuance()),))

    assert "CAA mx.example.org" in states(NOTHING)
    assert "CAA mx.example.org" not in states(NOTHING, server=server)


def test_for_a_wildcard_issuewild_counts_alone():
    properties = [Property(0, "issue", "ca.example"), Property(0, "issuewild", ";")]
    permitted = replace(OURS, issuer="ca.example")

    assert caa.refusal(properties, permitted, wildcard=False) == ""
    assert caa.refusal(properties, permitted, wildcard=True) != ""
    assert caa.refusal(properties[:1], permitted, wildcard=True) == ""


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("a+b@example.org", "mailto:a+b@example.org"),
        ("mailto:a@example.org", "mailto:a@example.org"),
        ("https://example.org/reports", "https://example.org/reports"),
    ],
)
def test_an_address_for_reports_is_a_uri_or_of_mail(text, uri):
    assert tlsrpt.uri(text) == uri


@pytest.mark.parametrize(
    "text",
    ["a@b@c", "mailto:a", "mailto:a@b;c", "ftp://a/b", 'https://a/"', "a b@c", "", ":"],
)
def test_an_address_for_reports_that_senders_would_not_understand_is_refused(text):
    with pytest.raises(Error, match="is not an address for reports"):
        tlsrpt.uri(text)


# Real servers


@pytest.fixture(scope="module")
def zone() -> Iterator[Zone]:
    """A signed zone, and a web server for policies, in a network."""
    with base_directory() as base, ExitStack() as stack:
        network = Network(base, Authority())
        stack.callback(network.close)
        network.serve_policies(DOMAIN)
        yield Zone(network, DOMAIN, updates=True)


@pytest.fixture(scope="module")
def host(zone: Zone) -> Iterator[Host]:
    """A host that serves a certificate of Let's Encrypt's, as far as certbot knows."""
    with base_directory() as base:
        host = Host(zone, Certbot(base), base)
        try:
            host.key = record(host.lineage(HOST))
            of_lets_encrypt(host.certbot.config_dir)
            host.stand(HOST)
            yield host
        finally:
            host.postfix.close()


def of_lets_encrypt(config_dir: Path) -> None:
    """Have the lineage be one of Let's Encrypt's, by certbot's account there."""
    renewal = config_dir / "renewal" / f"{HOST}.conf"
    server = "acme-v02.api.letsencrypt.org/directory"
    text = renewal.read_text().replace("acme.invalid/directory", server)
    renewal.write_text(text)
    account = config_dir / "accounts" / server / ("0" * 32)
    account.mkdir(parents=True, mode=0o700)
    (account / "regr.json").write_text(json.dumps({"body": {}, "uri": ACCOUNT}))


def asked(host: Host, *options: str, domain: str = DOMAIN) -> tuple[int, list[dict]]:
    done = host.command("records", domain, "--json", *options)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)["records"]


@pytest.mark.postfix
def test_what_is_wanted_can_be_published_as_it_is_printed(host):
    host.zone.publish(f"mx A {ADDRESS}")
    status, before = asked(host)
    assert (status, {each["state"] for each in before}) == (3, {"missing"})

    lines = host.command("records", DOMAIN, "--bind").stdout.splitlines()
    assert dns.zone.from_text("\n".join(lines), DOMAIN, check_origin=False)
    host.zone.publish(*lines, f"mx A {ADDRESS}", f"mta-sts A {POLICIES}")
    policy = next(each for each in before if each["type"] == POLICY)
    text = "".join(f"{line}\r\n" for line in policy["wanted"])
    (host.zone.network.policies / DOMAIN).write_bytes(text.encode())

    status, after = asked(host)
    assert [(each["type"], each["name"], each["state"]) for each in after] == [
        ("MX", DOMAIN, "ok"),
        ("TLSA", OWNER, "ok"),
        ("TXT", f"_mta-sts.{DOMAIN}", "ok"),
        (POLICY, f"https://mta-sts.{DOMAIN}/.well-known/mta-sts.txt", "ok"),
        ("TXT", f"_smtp._tls.{DOMAIN}", "ok"),
        ("CAA", HOST, "ok"),
    ]
    assert status == 0
    caa = f'0 issue "{BOUND}{ACCOUNT}"'
    assert after[-1]["published"] == [caa]
    assert mta_sts.parse(text.encode(), "").mode is Mode.TESTING

    shown = host.command("records", DOMAIN)
    assert (shown.returncode, shown.stdout.splitlines()[-2:]) == (
        0,
        [f"{HOST} CAA: ok", f"  published  {caa}"],
    )
    done = host.command("records", DOMAIN, "--publisher", "print")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "certbot-postfix: there is nothing to publish\n"


@pytest.mark.postfix
def test_tlsa_records_that_shut_senders_out_are_different_wherever_they_are(host):
    other = published_as(record(host.issue(HOST)))
    # There is no way to these, but one of the servers has another address.
    lost = ("@ NS ns3", "ns3 AAAA 2001:db8::1", "ns1 AAAA 2001:db8::1")
    host.zone.publish(f"mx A {ADDRESS}", *other, *lost)

    _, rows = asked(host)

    found = next(row for row in rows if row["type"] == "TLSA")
    assert found["state"] == "different"
    assert found["remark"] == (
        "they match no certificate in service: senders that verify DANE deliver no"
        f" mail; ns3.{DOMAIN} (2001:db8::1) cannot be reached from this machine"
    )


@pytest.mark.postfix
def test_what_differs_is_handed_to_a_publisher_in_its_order(host):
    host.zone.publish(
        f"mx A {ADDRESS}",
        'mx CAA 0 issue "letsencrypt.org"',
        'mx CAA 0 issue "ca.example"',
        "@ MX 0 .",
    )

    done = host.command("records", DOMAIN, "--publisher", "print")

    name = f"_mta-sts.{DOMAIN}"
    assert f"{name} TXT is not published: its policy is not served yet" in done.stderr
    reports = f'"v=TLSRPTv1; rua=mailto:postmaster@{DOMAIN}"'
    assert (done.returncode, done.stdout.splitlines()) == (
        3,
        [
            f"{DOMAIN}. 3600 IN MX 10 {HOST}.",
            f"; remove: {DOMAIN}. 3600 IN MX 0 .",
            f"{OWNER}. 3600 IN TLSA {host.key}",
            f"_smtp._tls.{DOMAIN}. 3600 IN TXT {reports}",
            f'{HOST}. 3600 IN CAA 0 issue "{BOUND}{ACCOUNT}"',
            f'; remove: {HOST}. 3600 IN CAA 0 issue "letsencrypt.org"',
        ],
    )


def test_a_record_that_permits_another_account_is_not_removed():
    theirs = f"letsencrypt.org; accounturi={ACCOUNT}1"
    published = Relevant(
        "mx.example.org",
        (
            Property(0, "issue", theirs),
            Property(0, "issuemail", "letsencrypt.org"),
            Property(0, "issue", "letsencrypt.org"),
        ),
    )
    now = replace(NOTHING, caa=(("mx.example.org", published),))

    made = [*changes.changes([*records.rows(now, SERVER)])]

    caa = [str(each) for each in made if each.record.type == "CAA"]
    name = "mx.example.org. 3600 IN CAA 0 issue"
    assert caa == [
        f'+ {name} "{BOUND}{ACCOUNT}"',
        f'- {name} "letsencrypt.org"',
    ]


@pytest.mark.postfix
def test_a_publisher_that_did_nothing_is_not_believed(host):
    host.zone.publish(f"mx A {ADDRESS}", "@ MX 0 .")
    options = ("--publisher", "command:/bin/true", "--verify-timeout", "0.1")

    done = host.command("records", DOMAIN, *options)

    servers = f"ns1.{DOMAIN} ({PRIMARY}) and ns2.{DOMAIN} ({SECONDARY})"
    assert done.returncode == 3
    assert f"these name servers do not have all the changes: {servers}\n" in done.stderr


@pytest.mark.postfix
@pytest.mark.parametrize(
    ("second", "fault"),
    [
        (NAMES, f" ({NAMES}) does not have the zone: its answer is not authoritative"),
        ("", " has no address"),
        ("192.0.2.1", " (192.0.2.1) cannot be reached from this machine"),
    ],
)
def test_a_name_server_without_the_zone_an_address_or_a_way_has_no_change(
    host, second, fault
):
    host.zone.publish(f"mx A {ADDRESS}", "@ MX 0 .", second=second)
    options = ("--publisher", "command:/bin/true", "--verify-timeout", "0.1")

    done = host.command("records", DOMAIN, *options)

    assert done.returncode == 3
    assert f"({PRIMARY}) and ns2.{DOMAIN}{fault}\n" in done.stderr


@pytest.mark.postfix
def test_what_differs_is_published_by_dynamic_updates(host, base):
    host.zone.publish(f"mx A {ADDRESS}", 'mx CAA 0 issue "letsencrypt.org"', "@ MX 0 .")
    credentials = base / "rfc2136.ini"
    credentials.touch(mode=0o600)
    credentials.write_text(
        f"dns_rfc2136_server = {PRIMARY}\ndns_rfc2136_name = lab.\n"
        f"dns_rfc2136_secret = {KEYS['lab']}\ndns_rfc2136_algorithm = HMAC-SHA256\n"
    )

    done = host.command("records", DOMAIN, "--publisher", f"rfc2136:{credentials}")

    assert "verified: every name server has the changes; caches may" in done.stderr
    assert done.returncode == 3  # the policy is missing
    late = {f"_mta-sts.{DOMAIN}", policy_host.url(DOMAIN)}

    rows: dict[str, dict] = {}

    def published_everywhere() -> bool:
        rows.update((each["name"], each) for each in asked(host)[1])
        return {each["name"] for each in rows.values() if each["state"] != "ok"} == late

    # The secondary server, which the resolver may ask, has them later.
    wait_until(published_everywhere, "all are published")
    published = {name: each["published"] for name, each in rows.items()}
    assert published[DOMAIN] == [f"10 {HOST}."]
    assert published[OWNER] == [str(host.key)]
    assert published[HOST] == [f'0 issue "{BOUND}{ACCOUNT}"']


def contradictions(host: Host) -> tuple[dict[str, str], bool]:
    """Return what ``status`` says of what is published, and whether DNS answered."""
    report = json.loads(host.command("status", "--json").stdout)
    found = {each["code"]: each["message"] for each in report["findings"]}
    codes = {Code.CAA, Code.STS_MX, Code.STS_RECORD, Code.STS_TESTING}
    dns = "what DNS says of this server"
    answered = dns not in {each["object"] for each in report["not_checked"]}
    return {
        code.value: found[code.value] for code in codes if code.value in found
    }, answered


@pytest.mark.postfix
def test_status_reports_what_dns_contradicts_and_nothing_while_it_is_down(host, base):
    path = base / policy_host.PATH
    path.parent.mkdir()
    path.write_bytes(GOOD)
    written.note(host.certbot.config_dir / "postfix", DOMAIN, base)
    host.zone.publish(
        f"@ MX 10 {HOST}.",
        f"mx A {ADDRESS}",
        '_mta-sts TXT "v=STSv1; id=1;"',
        f'@ CAA 0 issue "letsencrypt.org; accounturi={ACCOUNT}1"',
    )

    found: dict[str, str] = {}

    def answered() -> bool:
        said, in_time = contradictions(host)
        found.update(said)
        return in_time

    wait_until(answered, "DNS answers within the time that status gives it")

    assert found.keys() == {
        "caa-forbids-renewal",
        "mta-sts-mx",
        "mta-sts-record",
    }
    assert found["caa-forbids-renewal"].startswith(f"the CAA record of {DOMAIN} ")
    servers = (host.zone.primary, host.zone.secondary)
    for server in servers:
        server.stop()
    try:
        assert contradictions(host) == ({}, False)
    finally:
        for server in servers:
            server.go_on()


@pytest.mark.postfix
def test_an_international_domain_that_is_not_signed(host):
    host.zone.network.publish("xn--bcher-kva.insecure", f"@ MX 10 {HOST}.")

    status, rows = asked(host, domain="BÜCHER.insecure.")

    assert (status, rows[0]["name"]) == (3, "xn--bcher-kva.insecure")
    assert rows[0]["state"] == "not signed"


def test_a_look_ends_in_time_and_says_what_is_not_known():
    start = time.monotonic()

    found = Look(Deadline(1), "127.0.0.99").at("example.org", ["mx.example.org"])

    assert time.monotonic() - start < 3
    server = replace(SERVER, hosts=("mx.example.org",))
    assert {*states(found, server=server).values()} == {State.UNKNOWN}
