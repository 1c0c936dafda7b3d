"""Policies of recipient domains, and the two formats in which they are published."""

import ast
import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from certbot_postfix.formats import mta_sts, starttls_everywhere
from certbot_postfix.formats.mta_sts import Published
from certbot_postfix.formats.policy import (
    Mode,
    Policy,
    PolicyError,
    parse_domain,
    parse_pattern,
)
from certbot_postfix.outbound import policy_map

T = TypeVar("T")

NEVER = datetime(2100, 1, 1, tzinfo=timezone.utc)
SOURCE = "/etc/list.json"

# What would end an entry of a table, or a name in its list of names.
UNSAFE = set(" \t\r\n\v\f\0:,#{}=|\"'\\$")


def policy(*mxs: str) -> Policy:
    return Policy(Mode.ENFORCE, mxs)


def unless_refused(read: Callable[[], T]) -> T | None:
    """Return what is *read*, or None if that is refused in one line."""
    try:
        return read()
    except PolicyError as error:
        message = error.message
    assert message.isprintable()
    return None


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.org", "example.org"),
        ("EXAMPLE.org", "example.org"),
        ("_dmarc.example.org", "_dmarc.example.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"),
        ("FAẞ.DE", "xn--fa-hia.de"),
        ("straße.xn--bcher-kva.EXAMPLE", "xn--strae-oqa.xn--bcher-kva.example"),
        ("_dmarc.straße。example", "_dmarc.xn--strae-oqa.example"),
        ("βόλος.example", "xn--nxasmm1c.example"),
        ("localhost", "localhost"),
        ("3com.example", "3com.example"),
        ("a" * 63 + ".org", "a" * 63 + ".org"),
    ],
)
def test_a_name_is_told_in_lower_case_and_as_a_labels(text, name):
    assert parse_domain(text, "here") == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        ".example.org",
        "example.org.",
        "example..org",
        "-example.org",
        "*.example.org",
        "[192.0.2.1]",
        "192.0.2.1",
        "2001:db8::1",
        "example.org:25",
        "example.org\n* secure",
        "example.org\r",
        "example.org\0",
        "exa mple.org",
        "a" * 64 + ".org",
        "ü" * 60 + ".org",
        "ü..org",
        "ü.org.",
        "*.ü.org",
        "ü-.org",
        "💩.org",
        "xn--ü.org",
        "a" * 64 + ".ü.org",
        pytest.param("ü." * 100_000, id="very long"),
        "a." * 127 + "org",
        "\ud800.org",
        None,
        7,
        ["example.org"],
    ],
)
def test_what_is_no_name_is_shown_with_its_place(text):
    with pytest.raises(PolicyError) as raised:
        parse_domain(text, "here")

    assert raised.value.message.startswith("here: ")
    assert raised.value.message.isprintable()
    assert len(raised.value.message) < 120


_LABELS = st.text() | st.sampled_from(
    [
        "xn--",
        "ß",
        "_",
        "-",
        "*",
        "\u200d",
        "\u0640",
        "א1",
        "e\u0301",
        "ü" * 64,
        "a" * 64,
    ]
)
_NAMES = st.lists(_LABELS, max_size=4).map(".".join) | st.lists(_LABELS).map("".join)


@given(_NAMES)
@example("xn--i-7iq.example")  # an emoji, which only IDNA 2003 allows
@example("xn--strasse-.example")
def test_the_key_in_unicode_of_a_domain_is_a_name_for_the_same_domain(text):
    domain = unless_refused(lambda: parse_domain(text, "here"))
    name = policy_map.unicode_key(domain or "")

    labels = (
        each if each.isascii() else f"xn--{each.encode('punycode').decode()}"
        for each in name.split(".")
    )
    assert not name or ".".join(labels) == domain
    assert UNSAFE.isdisjoint(name)
    assert name.replace("\u200d", "").isprintable()


@given(_NAMES, st.sampled_from(["", ".", "*."]))
@example("K.example", "")  # the sign of Kelvin, which is a k in lower case
@example("a\u3002b", "")  # a full stop for IDNA
def test_whatever_is_told_as_a_name_fits_into_a_table(text, wildcard):
    found = unless_refused(lambda: parse_pattern(wildcard + text, "here", wildcard))

    assert found is None or found.isascii()
    assert found is None or found == found.lower()
    assert UNSAFE.isdisjoint(found or "")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("mx.example.org", True),
        ("MX.Example.org.", True),
        ("one.example.net", True),
        ("example.net", False),
        ("two.one.example.net", False),
        ("other.example.org", False),
        ("", False),
        ("net", False),
    ],
)
def test_a_parent_stands_for_one_more_label(host, allowed):
    assert policy("mx.example.org", ".example.net").allows(host) == allowed


# Lists

LIST: dict[str, Any] = {
    "timestamp": "2014-06-06T14:30:16+00:00",
    "author": "An organisation",
    "expires": "2100-01-01T00:00:00+00:00",
    "version": "0.1",
    "policy-aliases": {"big": {"mode": "testing", "mxs": [".mail.example.com"]}},
    "policies": {
        "example.net": {"mode": "enforce", "mxs": [".dns.example.net"]},
        "example.com": {"policy-alias": "big"},
        "Example.org": {
            "mode": "enforce",
            "mxs": ["MX.example.org", ".example.net", "mx.example.org"],
        },
    },
}


def listed(**changes: Any) -> bytes:
    return json.dumps({**LIST, **changes}).encode()


def test_a_list_is_read():
    found = starttls_everywhere.parse(listed(), SOURCE)

    assert found.timestamp == datetime(2014, 6, 6, 14, 30, 16, tzinfo=timezone.utc)
    assert found.expires == NEVER
    assert found.expires == NEVER
    assert found.policies == {
        "example.net": policy(".dns.example.net"),
        "example.com": Policy(Mode.TESTING, (".mail.example.com",)),
        "example.org": policy("mx.example.org", ".example.net"),
    }


@pytest.mark.parametrize(
    "value",
    [
        4102444800,
        4102444800.0,
        "2100-01-01T00:00:00Z",
        "2100-01-01T00:00:00",
        "2100-01-01T02:00:00+02:00",
    ],
)
def test_a_time_is_in_seconds_or_as_in_iso_8601(value):
    assert starttls_everywhere.parse(listed(expires=value), SOURCE).expires == NEVER


# In minutes, as RFC 3339, section 5.6, has them.
_OFFSETS = st.integers(-1439, 1439).map(lambda each: timezone(timedelta(minutes=each)))


@given(st.datetimes(timezones=_OFFSETS))
@example(datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-23))))
@example(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))))
def test_a_time_of_any_offset_is_refused_or_told_in_utc_and_fits_into_a_table(time):
    text = listed(timestamp="0001-01-01T00:00:00+00:00", expires=time.isoformat())

    found = unless_refused(lambda: starttls_everywhere.parse(text, SOURCE))

    if found is None:  # year 0, or 10000
        with pytest.raises(OverflowError):
            time.astimezone(timezone.utc)
        return
    assert found.expires == time
    assert found.expires.tzinfo is timezone.utc


def test_a_mode_is_testing_unless_it_is_given():
    entry = {"example.org": {"mxs": ["mx.example.org"]}}

    found = starttls_everywhere.parse(listed(policies=entry), SOURCE)

    assert found.policies["example.org"].mode is Mode.TESTING


def test_aliases_may_be_missing():
    fields = {key: value for key, value in LIST.items() if key != "policy-aliases"}
    fields["policies"] = {}

    found = starttls_everywhere.parse(json.dumps(fields).encode(), SOURCE)

    assert not found.policies


def one(**fields: Any) -> dict[str, Any]:
    return {"policies": {"example.org": fields}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "0.2"}, "version: '0.2' is not '0.1'"),
        ({"version": 0.1}, "version: 0.1 is not '0.1'"),
        ({"timestamp": None}, "timestamp: None is no time"),
        ({"timestamp": True}, "timestamp: True is no time"),
        ({"expires": "soon"}, "expires: 'soon' is no time"),
        ({"expires": 1e300}, "expires: 1e+300 is no time"),
        ({"expires": float("nan")}, "expires: nan is no time"),
        ({"expires": 7}, "expires: it is before the timestamp"),
        ({"policies": None}, "policies: None is not an object"),
        ({"policies": []}, "policies: [] is not an object"),
        ({"policy-aliases": 7}, "policy-aliases: 7 is not an object"),
        (
            {"policy-aliases": {"big": {"mode": "enforce"}}},
            "policy-aliases.big.mxs: None is not a list of names",
        ),
        (
            {"policy-aliases": {"big": {"policy-alias": "big"}}},
            "policy-aliases.big.policy-alias: 'big' is not in policy-aliases",
        ),
        (
            {"policies": {"exam ple.org": {"mode": "enforce", "mxs": ["a.b"]}}},
            "policies.exam ple.org: 'exam ple.org' is not the name of a domain",
        ),
        (
            {"policies": {"a.org\nb.org": {"mode": "enforce", "mxs": ["a.b"]}}},
            r"policies.'a.org\nb.org': 'a.org\nb.org' is not the name of a domain",
        ),
        (one(), "policies.example.org.mxs: None is not a list"),
        ({"policies": {"A.org": {}}}, "policies.a.org.mxs: None is not a list"),
        (one(mode="none", mxs=["a.b"]), "policies.example.org.mode: 'none' is not"),
        (one(mode=["enforce"], mxs=["a.b"]), "policies.example.org.mode: ['enforce']"),
        (one(mode="enforce", mxs=[]), "policies.example.org.mxs: [] is not a list"),
        (one(mode="enforce", mxs="a.b"), "policies.example.org.mxs: 'a.b' is not"),
        (
            one(mode="enforce", mxs=["a.b", ".b", "a\n"]),
            r"policies.example.org.mxs[2]: 'a\n' is not the name of a server",
        ),
        (one(mxs=["*.b"]), "policies.example.org.mxs[0]: '*.b' is not"),
        (one(mxs=["."]), "policies.example.org.mxs[0]: '' is not"),
        (one(mxs=[7]), "policies.example.org.mxs[0]: 7 is not"),
        (one(mxs=["a.b", ["a.b"]]), "policies.example.org.mxs[1]: ['a.b'] is not"),
        ({"policies": {"a.org": 7}}, "policies.a.org: 7 is not an object"),
        (
            {"policies": {"a.org": {"policy-alias": "none"}}},
            "policies.a.org.policy-alias: 'none' is not in policy-aliases",
        ),
        (
            {"policies": {"a.org": {"policy-alias": ["big"]}}},
            "policies.a.org.policy-alias: ['big'] is not in policy-aliases",
        ),
    ],
)
def test_a_list_that_is_not_valid_is_refused_by_the_path_of_the_field(changes, message):
    with pytest.raises(PolicyError) as raised:
        starttls_everywhere.parse(listed(**changes), SOURCE)

    assert raised.value.message.startswith(f"{SOURCE}: {message}")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"7",
        b"\0",
        b"[" * 100_000,
        b'{"a": 1, "a": 2}',
        b'{"mxs": ["a.example"]}',
    ],
)
def test_what_is_no_list_is_refused(text):
    with pytest.raises(PolicyError) as raised:
        starttls_everywhere.parse(text, SOURCE)

    assert raised.value.message.startswith(SOURCE)


@pytest.mark.parametrize("text", [listed(), b"{"])
def test_the_collector_of_cycles_works_on_after_a_list(text):
    unless_refused(lambda: starttls_everywhere.parse(text, SOURCE))

    assert gc.isenabled()


MX, OTHER = {"mxs": ["mx.a", "mx.b"]}, {"mxs": ["mx.c"]}


def repeated(*pairs: tuple[str, object]) -> bytes:
    """Return a list in which the policies are these *pairs*, and an example.net."""
    said = ", ".join(
        f"{json.dumps(name)}: {json.dumps(value)}" for name, value in pairs
    )
    return listed(policies=0).replace(
        b'"policies": 0',
        f'"policies": {{{said}, "example.net": {{"mxs": ["a"]}}}}'.encode(),
    )


@pytest.mark.parametrize(
    "pairs",
    [
        [("a.org", MX), ("a.org", MX)],
        [("a.org", MX), ("A.org", MX)],
        [("a.org", MX), ("a.org", {"mxs": ["mx.b", "mx.a", "mx.b"]})],
        [("a.org", MX), ("a.org", {**MX, "mode": "testing"}), ("A.ORG", MX)],
        [("straße.org", MX), ("xn--strae-oqa.org", MX)],
    ],
)
def test_equal_duplicates_in_a_list_count_once(pairs):
    found = starttls_everywhere.parse(repeated(*pairs), SOURCE)

    assert len(found.policies) == 2
    assert not found.ambiguous


@pytest.mark.parametrize(
    "pairs",
    [
        [("a.org", MX), ("a.org", OTHER)],
        [("a.org", MX), ("A.org", OTHER), ("a.org", MX)],
        [("a.org", MX), ("a.org", {**MX, "mode": "enforce"})],
        [("a.org", MX), ("a.org", {"policy-alias": "big"})],
        [("a.org", MX), ("a.org", {"mxs": []})],
        [("a.org", 7), ("a.org", MX)],
        [("A.org", {"policy-alias": "none"}), ("a.org", MX)],
        [("a.org", MX), ("A.org", {**MX, "mode": "none"}), ("A.ORG", MX)],
    ],
)
def test_duplicates_that_differ_cost_their_domain_only(pairs):
    found = starttls_everywhere.parse(repeated(*pairs), SOURCE)

    assert list(found.policies) == ["example.net"]
    assert found.ambiguous == {"a.org"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"a.org": {"mode": "x",', '"a.org": {"mode": "testing", "mode": "enforce",'),
        ('"mxs": ["mx.a"]', '"mxs": ["mx.a"], "mxs": ["mx.b"]'),
        ('"big": {', '"big": {"mxs": ["other"]}, "big": {'),
        ('"big": {', '"big": {"mxs": []}, "big": {'),
        ('["big.a"]', '["big.a"], "mode": "testing", "mode": "enforce"'),
    ],
)
def test_a_policy_or_alias_that_is_ambiguous_costs_its_domains_only(before, after):
    text = (
        '{"version": "0.1", "timestamp": 7, "expires": 8, '
        '"policy-aliases": {"big": {"mxs": ["big.a"]}}, "policies": {'
        '"a.org": {"mode": "x", "mxs": ["mx.a"]}, "b.org": {"policy-alias": "big"}, '
        '"example.net": {"mxs": ["a"]}}}'
    )
    good = text.replace(before, after).replace('"mode": "x"', '"mode": "testing"')

    found = starttls_everywhere.parse(good.encode(), SOURCE)

    assert len(found.ambiguous) == 1
    assert {*found.policies} | found.ambiguous == {"a.org", "b.org", "example.net"}


@pytest.mark.parametrize("name", ["version", "timestamp", "expires", "policies"])
def test_a_list_that_is_ambiguous_itself_is_refused(name):
    text = listed().replace(b"{", f'{{"{name}": 7, '.encode(), 1)

    with pytest.raises(PolicyError, match=f"{name}: it is there twice"):
        starttls_everywhere.parse(text, SOURCE)


@pytest.mark.parametrize(
    "changes",
    [
        {"policies": {"a" * 2_000_000: {"mxs": ["a.b"]}}},
        {"policies": {"a.org": {"policy-alias": "a" * 2_000_000}}},
        {"policies": {"a.org": {"mxs": ["ü" * 2_000_000]}}},
        {"policies": {"a.org": {"mxs": {"a" * 2_000_000: 7}}}},
        {"policies": ["ü" * 2_000_000] * 3},
        {"policy-aliases": {"a" * 2_000_000: 7}},
        {"expires": "a" * 2_000_000},
        {"version": "\n" * 2_000_000},
    ],
)
def test_a_name_of_any_length_is_shortened_in_a_message(changes):
    with pytest.raises(PolicyError) as raised:
        starttls_everywhere.parse(listed(**changes), SOURCE)

    assert raised.value.message.isprintable()
    assert len(raised.value.message) < 300


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_HOSTILE = st.dictionaries(
    st.text(max_size=9) | st.sampled_from(["a.example", "a.example\nb.example may"]),
    _JSON
    | st.fixed_dictionaries(
        {"mode": st.sampled_from(["enforce", "testing"])},
        optional={
            "mxs": st.lists(st.text(max_size=9) | st.just("mx.example:25")),
            "policy-alias": st.text(max_size=3),
        },
    ),
)


@given(policies=_HOSTILE, aliases=_HOSTILE | _JSON, expires=_JSON)
def test_a_hostile_list_is_refused_or_gives_names_that_fit(policies, aliases, expires):
    changes = {"policies": policies, "policy-aliases": aliases, "expires": expires}

    found = unless_refused(lambda: starttls_everywhere.parse(listed(**changes), SOURCE))

    for name, each in found.policies.items() if found else ():
        assert UNSAFE.isdisjoint("".join([name, *each.mxs]))


# MTA-STS: the TXT record


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (["v=STSv1; id=20160831085700Z;"], "20160831085700Z"),  # RFC 8461, 3.1
        (["v=STSv1; id=20160831085700Z"], "20160831085700Z"),
        (["v=STSv1;id=a"], "a"),
        (["v=STSv1;\t id=a ;\t"], "a"),
        (["v=STSv1; id=a; other=b.c/d:e"], "a"),
        (["v=STSv1; other=b; id=a;"], "a"),
        (["v=STSv1; id=a; id=b"], "a"),
        (["v=spf1 -all", "v=STSv1; id=a", "v=STSv10; id=b"], "a"),
        ([], ""),
        (["v=STSv1; id=a", "v=STSv1; id=b"], ""),
        (["v=STSv1; id=a", "v=STSv1; id=a"], ""),
        (["v=STSv1;"], ""),
        (["v=STSv1"], ""),
        (["V=STSv1; id=a"], ""),
        ([" v=STSv1; id=a"], ""),
        (["v=STSv1; ID=a"], ""),
        (["v=STSv1; id="], ""),
        (["v=STSv1; id=a-b"], ""),
        (["v=STSv1; id=" + "a" * 32], "a" * 32),
        (["v=STSv1; id=" + "a" * 33], ""),
        (["v=STSv1; id=a;; other=b"], ""),
        (["v=STSv1; id=a; other"], ""),
        (["v=STSv1; id=a; other=b=c"], ""),
        (["v=STSv1; id=a; other=b c"], ""),
        (["v=STSv1; id=a\n"], ""),
        (["v=STSv1; id=ä"], ""),
    ],
)
def test_the_id_is_that_of_the_only_record(records, found):
    assert mta_sts.policy_id(records) == found


@given(st.lists(st.text().map("v=STSv1;{}".format), max_size=2))
def test_an_id_is_never_anything_but_letters_and_digits(records):
    assert mta_sts.policy_id(records).isalnum() or not mta_sts.policy_id(records)


# MTA-STS: the policy

# RFC 8461, 3.2
EXAMPLE = """\
version: STSv1
mode: enforce
mx: mail.example.com
mx: *.example.net
mx: backupmx.example.com
max_age: 604800
"""
EXAMPLE_READ = Published(
    Mode.ENFORCE, ("mail.example.com", ".example.net", "backupmx.example.com"), 604800
)


@pytest.mark.parametrize(
    "text",
    [
        EXAMPLE,
        EXAMPLE.replace("\n", "\r\n"),
        EXAMPLE.removesuffix("\n"),
        EXAMPLE.replace(": ", ":"),
        EXAMPLE.replace(": ", ": \t "),
        EXAMPLE.replace("\n", " \t\n"),
        "\n".join(reversed(EXAMPLE.split("\n")[:2] + EXAMPLE.split("\n")[2:-1][::-1])),
        f"{EXAMPLE}future: any thing with ü\nfuture: again\n",
        f"{EXAMPLE}mode: none\nmax_age: 1\nversion: STSv2\n",
        EXAMPLE.replace("mail.example.com", "MAIL.example.com"),
        f"{EXAMPLE}mx: mail.example.com\n",
    ],
)
def test_a_policy_is_read(text):
    assert mta_sts.parse(text.encode(), "example.com") == EXAMPLE_READ


@pytest.mark.parametrize("mode", Mode)
def test_a_policy_has_one_of_three_modes(mode):
    text = EXAMPLE.replace("enforce", mode.value)

    assert mta_sts.parse(text.encode(), "example.com").mode is mode


def test_a_policy_that_ends_another_needs_no_mx():
    text = b"version: STSv1\nmode: none\nmax_age: 86400\n"

    assert mta_sts.parse(text, "example.com") == Published(Mode.NONE, (), 86400)


@pytest.mark.parametrize(
    ("told", "read"), [("0", 0), ("31557600", 31557600), ("9999999999", 31557600)]
)
def test_the_longest_age_is_about_a_year(told, read):
    text = EXAMPLE.replace("604800", told).encode()

    assert mta_sts.parse(text, "example.com").max_age == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "it has no version"),
        (b"version: STSv1\n", "it has no mode"),
        (b"version: STSv1\nmode: none\n", "it has no max_age"),
        (b"version: STSv1\nmode: testing\nmax_age: 1\n", "it has no mx"),
        (EXAMPLE.replace("STSv1", "stsv1"), "version: 'stsv1' is not STSv1"),
        (EXAMPLE.replace("version", "Version"), "it has no version"),
        (EXAMPLE.replace("enforce", "Enforce"), "mode: 'Enforce' is not enforce"),
        (EXAMPLE.replace("604800", "-1"), "max_age: '-1' is not a number"),
        (EXAMPLE.replace("604800", "1" * 11), "max_age: '11111111111' is not"),
        (EXAMPLE.replace("604800", "٣"), r"max_age: '\u0663' is not a number"),
        (EXAMPLE.replace("mail.", "*.mail."), None),
        (EXAMPLE.replace("mail.", "mail.*."), "mx[0]: 'mail.*.example.com' is not"),
        (EXAMPLE.replace("mail.", "."), "mx[0]: '.example.com' is not the name"),
        (EXAMPLE.replace("mail.example.com", "192.0.2.1"), "mx[0]: '192.0.2.1' is not"),
        (EXAMPLE.replace("mail.example.com", "a:b"), "mx[0]: 'a:b' is not the name"),
        (EXAMPLE.replace("\nmode", "\n\nmode"), ", line 2: '' is not a name, a colon"),
        (f"\n{EXAMPLE}", ", line 1: '' is not a name"),
        (f"{EXAMPLE}mode\n", ", line 7: 'mode' is not a name"),
        (f"{EXAMPLE}mode:\n", ", line 7: 'mode:' is not a name"),
        (f"{EXAMPLE} a: b\n", ", line 7: ' a: b' is not a name"),
        (f"{EXAMPLE}a : b\n", ", line 7: 'a : b' is not a name"),
        (f"{EXAMPLE}a: b\0\n", r", line 7: 'a: b\x00' is not a name"),
        (f"{EXAMPLE}a: b\rc\n", r", line 7: 'a: b\rc' is not a name"),
        (EXAMPLE.replace("\n", "\r"), ", line 1: "),
        (b"\xff", "it is not in UTF-8"),
        (EXAMPLE + f"a: {'b' * 65536}\n", "it is longer than 64 KiB"),
    ],
)
def test_a_policy_that_is_not_valid_is_refused(text, message):
    body = text.encode() if isinstance(text, str) else text
    if message is None:
        assert mta_sts.parse(body, "example.com").mxs[0] == ".mail.example.com"
        return

    with pytest.raises(PolicyError) as raised:
        mta_sts.parse(body, "example.com")

    assert message in raised.value.message
    assert raised.value.message.startswith("example.com")


@given(st.binary() | st.text().map(lambda text: f"{EXAMPLE}mx: {text}\n".encode()))
def test_a_hostile_policy_is_refused_or_gives_names_that_fit(body):
    found = unless_refused(lambda: mta_sts.parse(body, "example.com"))

    assert UNSAFE.isdisjoint("".join(found.mxs if found else ()))


# MTA-STS: what is published

LABELS = st.sampled_from(["mx", "a", "xn--bcher-kva", "_x", "backup-2", "7"])
HOSTS = st.lists(LABELS, min_size=1, max_size=3).map(lambda some: f"{'.'.join(some)}.z")
PUBLISHED = st.builds(
    Published,
    st.sampled_from(Mode),
    st.lists(HOSTS | HOSTS.map(".{}".format), min_size=1, max_size=4, unique=True).map(
        tuple
    ),
    st.integers(0, mta_sts.LONGEST),
)


@given(PUBLISHED)
def test_a_policy_that_is_rendered_is_read_as_the_same(policy):
    assert mta_sts.parse(mta_sts.render(policy), "example.com") == policy


@given(PUBLISHED, PUBLISHED)
def test_the_id_changes_with_the_policy_and_only_then(policy, other):
    ids = [mta_sts.content_id(mta_sts.render(each)) for each in (policy, other)]

    assert (ids[0] == ids[1]) is (policy == other)
    assert mta_sts.policy_id([mta_sts.record(ids[0])]) == ids[0]


def test_postfix_mta_sts_resolver_reads_what_is_rendered():
    script = (
        "import sys; from postfix_mta_sts_resolver.utils import *\n"
        "print(parse_mta_sts_policy(sys.argv[1]))\n"
        "print(parse_mta_sts_record(sys.argv[2]))"
    )
    python = Path("/usr/bin/python3")  # Debian's, which has the package
    if not shutil.which("mta-sts-daemon") or not python.exists():
        pytest.skip("postfix-mta-sts-resolver is not installed")
    text, record = mta_sts.render(EXAMPLE_READ), mta_sts.record("20261130")

    done = subprocess.run(
        [python, "-I", "-c", script, text, record],
        check=True,
        capture_output=True,
        text=True,
    )

    mxs = ["mail.example.com", "*.example.net", "backupmx.example.com"]
    assert [ast.literal_eval(line) for line in done.stdout.splitlines()] == [
        {"version": "STSv1", "mode": "enforce", "mx": mxs, "max_age": "604800"},
        {"v": "STSv1", "id": "20261130"},
    ]


def test_hostile_input_takes_no_time_that_grows_with_its_square():
    """Each took minutes, or hours."""
    many = ", ".join(f'"d{number}.org": 7' for number in range(200_000))
    with pytest.raises(PolicyError, match=r"'d7\.org': 'd7\.org'|version"):
        starttls_everywhere.parse(f'{{{many}, "d7.org": 8}}'.encode(), SOURCE)

    record = f"v=STSv1; id=1; a{' ' * 300_000}b"
    assert mta_sts.policy_id([record]) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            b"[" + b"{}," * 1_200_001, "'{' more than 1,200,000", id="objects"
        ),
        pytest.param(b"[" * 1_200_001, r"'\[' more than 1,200,000", id="lists"),
        pytest.param(b'"":' * 3_600_001, "':' more than 3,600,000", id="keys"),
        pytest.param(b"0," * 7_200_001, "',' more than 7,200,000", id="values"),
        pytest.param("😀".encode() * 2**24 + b" ", "too long for other", id="emoji"),
        pytest.param(b'"\\ud83d"' + b" " * 2**26, "too long for other", id="escapes"),
        pytest.param("ж".encode() * 2**26 + b" ", "too long for other", id="Cyrillic"),
    ],
)
def test_a_list_that_takes_more_memory_than_an_honest_one_is_not_read(text, message):
    with pytest.raises(PolicyError, match=message):
        starttls_everywhere.parse(text, SOURCE)


def test_a_policy_with_more_servers_than_an_honest_one_is_refused():
    names = [f"mx{number}.example" for number in range(1001)]

    with pytest.raises(PolicyError, match="it has more than 1000 names"):
        starttls_everywhere.parse(listed(**one(mxs=names)), SOURCE)


def test_a_list_whose_table_would_be_too_long_to_be_read_is_refused():
    names = [f"{'a' * 63}.{'b' * 63}.{'c' * 63}.mx{at}.org" for at in range(1000)]
    aliases = {"big": {"mode": "enforce", "mxs": names}}
    some = {f"xn--bcher-kva.{at}.org": {"policy-alias": "big"} for at in range(1000)}
    text = listed(**{"policy-aliases": aliases, "policies": some})

    with pytest.raises(PolicyError, match="their table has more than 260,000,000"):
        starttls_everywhere.parse(text, SOURCE)


_MEASURED = """
import json, resource, sys
from pathlib import Path
from certbot_postfix.formats import starttls_everywhere
from certbot_postfix.formats.policy import PolicyError
try:
    text = Path(sys.argv[1]).read_bytes()
    found = len(starttls_everywhere.parse(text, "it").policies)
except PolicyError:
    found = 0
print(json.dumps([found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024]))
"""


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["honest", "keys", "objects", "strings"])
def test_a_list_of_a_million_domains_passes_and_no_other_takes_much_more_memory(
    kind, tmp_path
):
    path = tmp_path / "list.json"
    with path.open("w") as file:
        file.write('{"version": "0.1", "timestamp": 7, "expires": 8, "policies": {')
        lines = {
            "honest": (1_000_000, '"d%d.org": {"mode": "enforce", "mxs": ["m%d.org"]}'),
            "keys": (3_590_000, '"%d": %d'),
            "objects": (1_190_000, '"%d": {"a": "%d"}'),
            "strings": (7_190_000, '"%d%d"'),
        }
        count, line = lines[kind]
        file.write('"a": [' if kind == "strings" else "")
        file.writelines(f"{',' if at else ''}{line % (at, at)}" for at in range(count))
        file.write("]}}" if kind == "strings" else "}}")
    # Of what a shell starts, the memory of this process is no part.
    command = f'"{sys.executable}" -c "$1" "$2"; :'
    done = subprocess.run(
        ["sh", "-c", command, "sh", _MEASURED, str(path)],
        check=True,
        capture_output=True,
        text=True,
    )

    found, mebibytes = json.loads(done.stdout)

    assert found == (1_000_000 if kind == "honest" else 0)
    assert mebibytes < 1100, mebibytes
