"""The table of outbound policies says what was meant, and nothing else."""

import io
import string
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbot_postfix.errors import Error
from certbot_postfix.formats.policy import (
    Entry,
    Mode,
    Policy,
    PolicyError,
    parse_domain,
    parse_pattern,
)
from certbot_postfix.outbound import (
    fitness,
    installed,
    lookup,
    main_cf,
    policy_map,
    sources,
)
from certbot_postfix.outbound.lookup import Answer
from certbot_postfix.outbound.sources import Settings
from certbot_postfix.postfix.instance import Postfix
from tests.test_rules import configured

NOW = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)
LATER = NOW + timedelta(days=30)
NEWEST = (3, 12)
PATH = Path("/etc/postfix/certbot_tls_policy")
MAY = Answer("", "a.org", "may")


def entry(
    domain: str, *mxs: str, mode: Mode = Mode.ENFORCE, age: int = 0, source: str = "a"
) -> Entry:
    return Entry(domain, Policy(mode, mxs or ("mx.example.org",)), LATER, source, age)


def lines(*entries: Entry, version: tuple[int, int] = (3, 7)) -> list[str]:
    """Return the lines of the table that are not its head."""
    found = policy_map.merged([entries])
    return policy_map.render(Settings(), found, version).decode().splitlines()[3:]


def test_an_enforced_policy_is_an_entry_with_its_source_and_its_end():
    assert lines(entry("example.org", "mx.example.org", ".example.net")) == [
        "# enforce until 2026-12-26T12:00:00Z from a",
        "example.org secure match=mx.example.org:.example.net servername=hostname",
    ]


def a_label(label: str) -> str:
    return f"xn--{label.encode('punycode').decode()}"


@pytest.mark.parametrize(
    ("labels", "there"),
    [
        (["b\u00fccher"], True),
        (["\u0646\u0627\u0645\u0647\u200c\u0627\u06cc"], True),
        (["b\u202e\u00fccher"], False),  # changes the direction of text
        (["\u0378"], False),  # not assigned: Postfix may fold it
        (["\U00020000" * 54] * 2, True),
        (["\U00020000" * 54] * 3, False),  # longer than a key of lmdb
        (["b\u00fc\u3002org"], False),  # a dot for UTS 46
    ],
)
def test_a_key_in_unicode_is_one_that_postfix_looks_up_and_a_database_holds(
    labels, there
):
    found = lines(entry(".".join(map(a_label, labels))))

    keys = [line.partition(" ")[0] for line in found[2:]]
    assert keys == ([".".join(labels)] if there else [])


def test_an_a_label_that_stands_for_no_name_has_no_key_in_unicode():
    assert len(lines(entry("xn--99999999.org"))) == 2


def test_a_policy_that_is_tested_is_a_comment():
    (about, demand) = lines(entry("example.org", mode=Mode.TESTING))

    assert about.startswith("# testing until ")
    assert demand.startswith("# example.org secure ")


def test_before_3_4_no_server_name_is_sent():
    assert lines(entry("example.org"), version=(3, 3))[1] == (
        "example.org secure match=mx.example.org"
    )


def test_from_3_10_on_a_policy_of_mta_sts_lets_postfix_compare_the_hosts():
    found = lines(entry("example.org", "mx.a.org", ".b.org", age=86400), version=NEWEST)

    assert found[1] == (
        "example.org secure match=mx.a.org:.b.org servername=hostname policy_type=sts"
        " policy_domain=example.org { policy_string = version: STSv1 }"
        " { policy_string = mode: enforce } { policy_string = mx: mx.a.org }"
        " { policy_string = mx: *.b.org } { policy_string = max_age: 86400 }"
        " mx_host_pattern=mx.a.org mx_host_pattern=*.b.org"
    )


@pytest.mark.parametrize(
    ("age", "version"),
    [
        pytest.param(0, NEWEST, id="a list, for which it would be an error"),
        pytest.param(86400, (3, 9), id="a Postfix that would defer the mail"),
    ],
)
def test_attributes_of_mta_sts_are_for_mta_sts_where_postfix_knows_them(age, version):
    assert "policy_" not in lines(entry("example.org", age=age), version=version)[1]


# Which policy of several


def test_a_later_policy_overrides_an_earlier_one():
    first, second = entry("example.org", source="a"), entry("example.org", source="b")

    assert policy_map.merged([[first], [second]]) == {"example.org": second}


def test_a_list_that_tests_overrides_one_that_enforces():
    first, second = entry("example.org"), entry("example.org", mode=Mode.TESTING)

    assert policy_map.merged([[first], [second]]) == {"example.org": second}


def test_what_a_list_only_tests_does_not_end_what_mta_sts_enforces():
    first = entry("example.org", age=86400)
    second = entry("example.org", mode=Mode.TESTING)

    assert policy_map.merged([[first], [second]]) == {"example.org": first}


def test_of_two_that_test_the_list_counts():
    first = entry("example.org", age=86400, mode=Mode.TESTING)
    second = entry("example.org", mode=Mode.TESTING)

    assert policy_map.merged([[first], [second]]) == {"example.org": second}


# Written and read

LABELS = st.sampled_from(["a", "mx", "mail-1", "xn--mnchen-3ya", "example", "x" * 63])
DOMAINS = st.lists(LABELS, min_size=2, max_size=3).map(".".join)
MXS = st.lists(st.tuples(st.sampled_from(["", "."]), DOMAINS).map("".join), min_size=1)
TEXTS = st.text(string.ascii_letters + string.digits + ":/.-_ #{}=%", min_size=1)
ENTRIES = st.builds(
    Entry,
    DOMAINS,
    st.builds(Policy, st.sampled_from([Mode.ENFORCE, Mode.TESTING]), MXS.map(tuple)),
    st.integers(0, 4_000_000_000).map(
        lambda at: datetime.fromtimestamp(at, timezone.utc)
    ),
    TEXTS.map(str.strip).filter(bool),
    st.integers(0, 31_557_600),
    st.just(""),
)
SETTINGS = st.builds(
    Settings, st.lists(st.text()).map(tuple), st.text(), st.booleans(), st.text()
)


@given(st.lists(ENTRIES, max_size=5), SETTINGS, st.booleans())
def test_reading_a_table_gives_what_was_written(found, settings, dane):
    merged = policy_map.merged([found])
    text = io.StringIO(policy_map.render(settings, merged, NEWEST, dane=dane).decode())

    header = policy_map.header(text, PATH)

    until = min((one.expires for one in merged.values()), default=None)
    assert header == policy_map.Header(settings, until, dane)
    expected = {
        name: entry._replace(policy=entry.policy._replace(mxs=()), max_age=0)
        if entry.dane
        else entry
        for name, entry in merged.items()
        if dane or not entry.dane  # or nothing could be delivered
    }
    parsed = policy_map.parse(text, Path("/table"))
    assert {entry.domain: entry for entry in parsed} == expected


def test_a_table_whose_head_was_edited_stays():
    head = policy_map.render(Settings(keyring="/k"), {}, NEWEST).decode()
    assert policy_map.header(io.StringIO(head), PATH).wanted.keyring == "/k"

    with pytest.raises(Error, match="was edited, and its third line"):
        policy_map.header(io.StringIO(head.replace('"/k"', "1")), PATH)


@pytest.mark.parametrize("text", ["", "example.org none\n", "# Which TLS\n#\n# {}\n"])
def test_a_table_that_is_not_ours_stays(text):
    with pytest.raises(Error, match="was not written by this plugin, and is left"):
        policy_map.header(io.StringIO(text), PATH)


HOSTILE = st.text(
    st.sampled_from("ab.-_:* \t\n\r\x00\x0b\x85\u2028{}=,$#ßİ\ud800"), max_size=12
)


@given(HOSTILE, HOSTILE)
def test_no_name_ends_an_entry_or_begins_another(domain, mx):
    try:
        name = parse_domain(domain, "d")
        pattern = parse_pattern(mx, "m", "*.")
    except PolicyError:
        return
    about, demand, *unicode = lines(entry(name, pattern))

    assert demand == f"{name} secure match={pattern} servername=hostname"
    assert about.startswith("# enforce")
    keys = [key for key in [policy_map.unicode_key(name)] if key]
    assert unicode == [demand.replace(name, key, 1) for key in keys]
    assert [each.split() for each in keys] == [[each] for each in keys]


@pytest.mark.parametrize("form", ["hash", "btree", "lmdb", "cdb", "texthash"])
def test_postfix_finds_what_was_meant_and_no_more(form, stopped_postfix):
    found = [entry(f"d{at}.example.org", ".example.net") for at in range(300)]
    found += [entry("tested.example.org", mode=Mode.TESTING)]
    path = stopped_postfix.config_dir / policy_map.NAME
    path.write_bytes(policy_map.render(Settings(), policy_map.merged([found]), (3, 7)))
    postfix = Postfix(stopped_postfix.config_dir)
    if form != "texthash":
        postfix.map(f"{form}:{path}")

    asked = {one.domain for one in found}
    answers = postfix.answers(f"{form}:{path}", asked)

    wanted = "secure match=.example.net servername=hostname"
    assert answers == dict.fromkeys(asked - {"tested.example.org"}, wanted)


# What an administrator has, and asks for


def test_an_entry_for_a_parent_counts_too():
    domains = {"a.example.org", "b.example.net", "example.org"}

    found = main_cf.overruled(domains, {".example.org", "b.example.net"})

    assert found == {"a.example.org", "b.example.net"}


def test_without_posttls_finger_no_server_is_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Error, match="posttls-finger is not installed") as caught:
        lookup.connect(Postfix(tmp_path), configured(), "a.org", MAY)

    assert caught.value.hint == "install the package of Postfix that has it"


def test_a_level_that_posttls_finger_cannot_test_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/sbin")
    pinned = replace(MAY, value="fingerprint match=3D:95")

    assert lookup.connect(Postfix(tmp_path), configured(), "a.org", pinned) == (
        False,
        ["posttls-finger cannot test the level fingerprint"],
    )


def test_what_is_looked_up_for_a_domain():
    assert main_cf.keys("a.b.org") == ["a.b.org", ".b.org", ".org"]


def options(**given: object):
    """Return what certbot has for each option."""
    return lambda name: given.get(name.replace("-", "_"))


HERE = __file__
BEFORE = Settings(("/a", "/b"), "/keys", early_adopter=True, domains="/domains")


@pytest.mark.parametrize(
    ("given", "before", "after"),
    [
        pytest.param({}, None, None, id="nobody wants anything"),
        pytest.param({}, BEFORE, BEFORE, id="what was wanted stays"),
        pytest.param(
            {"policy_list": [HERE]},
            BEFORE,
            Settings((HERE,), "/keys", domains="/domains"),
            id="other lists, which are not those that were trusted while tested",
        ),
        pytest.param(
            {"policy_list": [""], "mta_sts_domains": "", "policy_keyring": ""},
            BEFORE,
            Settings(),
            id="empty values end it",
        ),
        pytest.param(
            {"policy_list": [HERE], "policy_early_adopter": True},
            None,
            Settings((HERE,), early_adopter=True),
            id="lists that are tested",
        ),
    ],
)
def test_options_say_what_is_wanted(given, before, after):
    assert sources.merge_options(options(**given), before) == after


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("policy_list", [HERE, "/misspelt"]),
        ("policy_keyring", "/misspelt"),
        ("mta_sts_domains", "/misspelt"),
        ("mta_sts_domains", "auto,/misspelt"),
    ],
)
def test_a_file_that_is_not_there_is_refused_unless_it_was_named_before(name, value):
    conf = options(**{name: value})
    known = Settings(("/misspelt",), "/misspelt", domains="/misspelt")

    with pytest.raises(Error, match="/misspelt: no such file") as caught:
        sources.merge_options(conf, BEFORE)

    assert f"--postfix-{name.replace('_', '-')}," in caught.value.hint
    if value != "auto,/misspelt":
        assert sources.merge_options(conf, known)


# What else main.cf names

DAEMON = "socketmap:inet:127.0.0.1:8461:"


def test_a_daemon_that_is_named_already_is_not_named_again():
    there = configured({policy_map.PARAMETER: f"{DAEMON}postfix"})

    assert fitness.choose(Postfix(PATH.parent), there, f"{DAEMON}postfix") == ("", [])


@pytest.mark.parametrize(
    ("table", "refused"),
    [(f"{DAEMON}postfix", True), (f"{DAEMON}QUERY", False), ("hash:/own", False)],
)
def test_beside_dane_a_daemon_must_resolve_dane(table, refused):
    there = configured({policy_map.PARAMETER: table})

    with pytest.raises(Error, match="RFC 8461") if refused else nullcontext():
        fitness.refuse_beside_dane(there)


# What was set in main.cf


WAS = {"smtp_dns_support_level": ("enabled", "dnssec"), "smtp_host_lookup": (None, "x")}


@pytest.mark.parametrize("daemon", ["", "socketmap:inet:127.0.0.1:8461:postfix"])
def test_what_was_set_is_undone_to_what_it_was(tmp_path, daemon):
    directory = tmp_path / "certbot/postfix/sources"
    wanted = installed.Installed(daemon, WAS)

    installed.write(directory, wanted)

    assert installed.read(directory) == wanted
    assert [str(change).partition(" (")[0] for change in wanted.restored()] == [
        "smtp_dns_support_level: dnssec -> enabled",
        "smtp_host_lookup: x -> removed",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"daemon": 1, "parameters": {}}',
        '{"daemon": "", "parameters": {"a": [1, "b"]}}',
        '{"daemon": "", "parameters": {"a": [null, null]}}',
        '{"daemon": "", "parameters": {"a": "b"}}',
    ],
)
def test_of_what_was_set_a_damaged_file_says_nothing(tmp_path, text):
    (tmp_path / "installed.json").write_text(text)

    assert installed.read(tmp_path) == installed.Installed()


def test_a_table_with_the_title_of_an_earlier_version_is_one_of_ours():
    title = "# Which TLS mail to a domain must have, and which servers may take it."
    wanted = Settings(domains="/etc/domains")
    text = policy_map.render(wanted, {}, NEWEST).decode()
    former = "\n".join([title, *text.splitlines()[1:], ""])

    assert policy_map.header(io.StringIO(former), PATH).wanted == wanted


@pytest.mark.parametrize("until", ["then", "2027-01-01T00:00:00Z"])
def test_an_entry_of_any_length_that_was_edited_is_shortened_in_a_message(until):
    text = [f"# enforce until {until} from it\n", f"{'a.' * 10**6}b secure match=a\n"]

    with pytest.raises(Error, match="was edited") as caught:
        list(policy_map.parse(text, Path("/table")))

    assert len(caught.value.message) < 200
