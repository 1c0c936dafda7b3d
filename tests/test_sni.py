"""Which name gets which bundle: no name is lost, taken or smuggled in."""

from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbot_postfix.errors import Error
from certbot_postfix.inbound import sni
from certbot_postfix.postfix import maps
from certbot_postfix.postfix.configuration import SNI_MAPS
from tests.test_rules import configured

TABLE = Path("/etc/postfix/certbot_sni")
BUNDLES = Path("/etc/letsencrypt/postfix")
A, B, C = (f"{BUNDLES}/{name}.pem" for name in "abc")


# Keys


@pytest.mark.parametrize(
    ("name", "key"),
    [
        pytest.param("mx.example.org", "mx.example.org", id="a name"),
        pytest.param("MX.Example.ORG", "mx.example.org", id="in capitals"),
        pytest.param("*.example.org", ".example.org", id="a wildcard"),
        pytest.param("*.Example.org", ".example.org", id="a wildcard in capitals"),
        pytest.param("xn--mnchen-3ya.de", "xn--mnchen-3ya.de", id="an A-label"),
        pytest.param("*.xn--mnchen-3ya.de", ".xn--mnchen-3ya.de", id="below A-labels"),
        pytest.param("_25._tcp.example.org", "_25._tcp.example.org", id="underscores"),
        pytest.param("localhost", "localhost", id="a single label"),
        pytest.param("1e3.5", "1e3.5", id="digits with a letter"),
        pytest.param(f"{'a' * 63}.org", f"{'a' * 63}.org", id="the longest label"),
    ],
)
def test_a_name_is_looked_up_in_small_letters_and_a_wildcard_by_its_parent(name, key):
    assert sni.key(name) == key


# Postfix asks valid_hostname() before it looks a name up.
NEVER_FOUND = [
    pytest.param("", id="nothing"),
    pytest.param("a b", id="a blank"),
    pytest.param("a.org\n", id="a newline behind"),
    pytest.param("a.org\nb.org /evil.pem", id="a line within"),
    pytest.param("a.org\r", id="a carriage return"),
    pytest.param("a.org\0", id="a null"),
    pytest.param("#a.org", id="a comment"),
    pytest.param("*", id="a star alone"),
    pytest.param("*.", id="a star and a dot"),
    pytest.param("*x.example.org", id="a star in a label"),
    pytest.param("x*.example.org", id="a star behind"),
    pytest.param("*.*.example.org", id="two stars"),
    pytest.param("a.*.org", id="a star in between"),
    pytest.param(".example.org", id="a dot in front"),
    pytest.param("example.org.", id="a dot behind"),
    pytest.param("a..org", id="two dots"),
    pytest.param("-a.org", id="a hyphen in front"),
    pytest.param("a-.org", id="a hyphen behind"),
    pytest.param("münchen.de", id="a U-label"),
    pytest.param("user@example.org", id="an address"),
    pytest.param("192.168.0.1", id="an IPv4 address"),
    pytest.param("123", id="a number"),
    pytest.param("::1", id="an IPv6 address"),
    pytest.param("example.a-", id="a hyphen at the end"),
    pytest.param(f"{'a' * 64}.org", id="a label that is too long"),
    pytest.param(".".join(["a" * 49] * 6), id="a name that is too long"),
]


@pytest.mark.parametrize("name", NEVER_FOUND)
def test_a_name_that_postfix_never_looks_up_has_no_key(name):
    assert sni.key(name) == ""
    assert sni.keys([name, "mx.example.org"]) == {"mx.example.org"}


_LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
_HOSTS = st.builds(
    lambda labels, last: ".".join([*labels, last]),
    st.lists(_LABELS, min_size=1, max_size=3),
    st.sampled_from(["org", "example", "xn--p1ai"]),
)
NAMES = st.builds("{}{}".format, st.sampled_from(["", "*."]), _HOSTS)


@given(NAMES)
def test_every_name_of_a_certificate_is_asked_for_by_a_name_that_it_covers(name):
    key = sni.key(name)

    asked = sni.example_name(key, {key})

    assert sni.key(asked) == asked
    assert asked == key or "." + asked.partition(".")[2] == key


@given(st.sets(NAMES, min_size=1, max_size=8), st.data())
def test_who_asks_for_a_wildcard_asks_for_no_name_that_has_an_entry_of_its_own(
    names, data
):
    table = sni.keys(names)
    table |= {f"any{key}" for key in table if key.startswith(".")}
    key = data.draw(st.sampled_from(sorted(table)))

    asked = sni.example_name(key, table)

    assert (asked == key) or asked not in table


@pytest.mark.parametrize(
    ("key", "parents"),
    [
        ("mx.example.org", {".example.org", ".org"}),
        (".example.org", {".org"}),
        ("localhost", set()),
        (".org", set()),
    ],
)
def test_the_parents_of_a_key_are_looked_up_after_it(key, parents):
    assert sni.parents(key) == parents


# The text of a table

# Whatever a directory may be called, but what a list cannot hold.
_PLAIN = st.characters().filter(
    lambda character: (
        category(character) not in {"Cs", "Zs", "Zl", "Zp", "Cc"}
        and character not in '/,"'
    )
)
_FILES = st.text(_PLAIN, min_size=1, max_size=8) | st.sampled_from(
    ["c$sh.pem", "#.pem", "a#b", "m\udcfcller.pem", "{x}", "a:b", "-", "a'b", "*"]
)
PATHS = _FILES.map("/etc/{}".format)
TABLES = st.dictionaries(
    NAMES.map(sni.key),
    st.lists(PATHS, min_size=1, max_size=3, unique=True).map(tuple),
    max_size=6,
)


@given(TABLES)
def test_a_table_is_read_as_it_was_written(table):
    assert sni.parse(sni.render(table), TABLE) == table


@given(TABLES)
def test_the_text_of_a_table_does_not_depend_on_the_order(table):
    turned = dict(reversed(table.items()))

    assert sni.render(turned) == sni.render(table)


@given(TABLES)
def test_a_table_has_a_line_for_each_name_and_no_other(table):
    text = sni.render(table).decode(errors="surrogateescape")

    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    assert [line.split(" ")[0] for line in lines] == sorted(table)


_ANYTHING = st.text(max_size=12) | st.text(
    "a. \n\r\t#,\"'\\\0*-\x85\u2028", max_size=12
)


@given(st.lists(_ANYTHING | NAMES, max_size=6), st.lists(_ANYTHING, max_size=2))
def test_no_name_and_no_path_smuggles_a_line_in(names, files):
    bundle = f"{BUNDLES}/{''.join(files).replace('/', '')}.pem"
    table = sni.renewed({"kept.org": (A,)}, bundle, names, [])

    try:
        text = sni.render(table)
    except (Error, UnicodeEncodeError):  # half of a surrogate is in no file's name
        return

    allowed = sni.keys(names) | {"kept.org"}
    lines = text.removeprefix(sni.HEADER).splitlines()
    assert len(lines) == len(table)
    assert {line.split()[0].decode() for line in lines} <= allowed
    assert all(len(line.split()) == 2 for line in lines)
    assert sni.parse(text, TABLE) == table


@pytest.mark.parametrize("blank", [" ", "\t", "\n", "\r", ",", '"', "\x85", "\u2028"])
@pytest.mark.parametrize(
    ("path", "hint"), [("a{}b/c.pem", "--config-dir"), ("a{}b.pem", "--cert-name")]
)
def test_a_path_that_a_table_cannot_hold_is_refused(blank, path, hint):
    with pytest.raises(Error, match="allows no blank, comma or") as caught:
        sni.render({"a.org": (f"{BUNDLES}/{path.format(blank)}",)})

    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="an empty file"),
        pytest.param(b"a.org /a.pem\n", id="a table by hand"),
        pytest.param(b"# my own\na.org /a.pem\n", id="with another comment"),
    ],
)
def test_a_table_of_somebody_else_is_refused_and_named(text):
    with pytest.raises(Error, match=f"{TABLE} was not written by this plugin"):
        sni.parse(text, TABLE)


@pytest.mark.parametrize(
    ("lines", "table"),
    [
        pytest.param(b"a.org /a.pem,/b.pem\n", {"a.org": "/a.pem /b.pem"}, id="ours"),
        pytest.param(
            b"a.org\t/a.pem, /b.pem\n", {"a.org": "/a.pem /b.pem"}, id="other blanks"
        ),
        pytest.param(b"\n# more\na.org /a.pem", {"a.org": "/a.pem"}, id="a comment"),
        pytest.param(b"A.Org /a.pem\n", {"a.org": "/a.pem"}, id="large letters"),
        pytest.param(b"a.org\n", {}, id="a name without a file"),
    ],
)
def test_a_table_that_was_edited_is_still_read(lines, table):
    expected = {key: tuple(paths.split()) for key, paths in table.items()}

    assert sni.parse(sni.HEADER + lines, TABLE) == expected


def test_a_table_with_the_title_of_an_earlier_version_is_one_of_ours():
    title = b"# Which certificate is served to whom asks for which name.\n"

    assert sni.parse(title + b"a.org /a.pem\n", TABLE) == {"a.org": ("/a.pem",)}


# Renewal


def test_a_name_that_left_the_certificate_leaves_the_table():
    table = {"a.org": (A,), "www.a.org": (A,), "b.org": (B,)}

    assert sni.renewed(table, A, ["a.org"], []) == {"a.org": (A,), "b.org": (B,)}


def test_a_name_that_left_one_certificate_stays_with_the_other():
    table = {"a.org": (A, B)}

    assert sni.renewed(table, A, ["new.org"], []) == {"a.org": (B,), "new.org": (A,)}


def test_a_name_that_is_new_in_the_certificate_enters_the_table():
    table = {"a.org": (A,)}

    assert sni.renewed(table, A, ["a.org", "*.a.org"], []) == {
        "a.org": (A,),
        ".a.org": (A,),
    }


def test_a_new_name_that_another_certificate_serves_is_not_taken():
    table = {"a.org": (A,), "b.org": (B,)}

    assert sni.renewed(table, A, ["a.org", "b.org"], []) == table


@pytest.mark.parametrize(
    ("table", "default"),
    [
        pytest.param({"a.org": (A, B), "new.org": (B,)}, [], id="in the table"),
        pytest.param({"a.org": (A,), "new.org": (B,)}, [A, B], id="by default"),
    ],
)
def test_a_new_name_that_a_partner_serves_gets_a_key_of_the_other_type(table, default):
    after = sni.renewed(table, A, ["a.org", "new.org"], default)

    assert after["new.org"] == (B, A)


def test_a_new_name_that_partner_and_stranger_serve_is_not_taken():
    table = {"a.org": (A, B), "new.org": (B, C)}

    assert sni.renewed(table, A, ["a.org", "new.org"], []) == table


def test_a_default_without_the_certificate_makes_no_partner():
    table = {"a.org": (A,), "b.org": (B,)}

    assert sni.renewed(table, A, ["a.org", "b.org"], [B, C]) == table


def test_a_name_that_cannot_be_looked_up_is_left_out_of_a_renewal():
    assert sni.renewed({"a.org": (A,)}, A, ["a.org", "*x.a.org", "a b"], []) == {
        "a.org": (A,)
    }


_FEW = st.sampled_from(["a.org", "b.org", "c.org", "*.a.org", "*.b.org"])
_SMALL = st.dictionaries(
    _FEW.map(sni.key),
    st.lists(st.sampled_from([A, B, C]), min_size=1, unique=True).map(tuple),
)
_CERTIFIED = st.sets(_FEW, min_size=1)
_DEFAULTS = st.lists(st.sampled_from([A, B, C]), unique=True)


@given(_SMALL, _CERTIFIED, _DEFAULTS)
def test_a_renewal_leaves_the_certificate_for_its_own_names_only(table, names, default):
    after = sni.renewed(table, A, names, default)

    assert sni.keys_with(after, A) <= sni.keys(names)
    assert sni.keys_with(after, A) >= sni.keys(names) & sni.keys_with(table, A)
    assert sni.keys(names) <= after.keys()


@given(_SMALL, _CERTIFIED, _DEFAULTS)
def test_a_renewal_takes_nothing_from_another_certificate(table, names, default):
    after = sni.renewed(table, A, names, default)

    for other in (B, C):
        assert sni.keys_with(after, other) == sni.keys_with(table, other)


@given(_SMALL, _CERTIFIED, _DEFAULTS)
def test_the_same_renewal_again_changes_nothing(table, names, default):
    once = sni.renewed(table, A, names, default)

    assert sni.renewed(once, A, names, default) == once


@given(_SMALL, _CERTIFIED, _DEFAULTS)
def test_no_name_has_a_bundle_twice_or_none(table, names, default):
    after = sni.renewed(table, A, names, default)

    assert all(paths and len(set(paths)) == len(paths) for paths in after.values())


def test_partners_are_those_that_share_a_name():
    table = {"a.org": (A, B), "b.org": (B, C), "c.org": (C,)}

    assert sni.beside(table, A) == {B}
    assert sni.beside(table, B) == {A, C}
    assert sni.beside({}, A) == set()


# What changed


def test_touched_are_names_with_other_bundles_and_those_of_a_bundle_that_is_new():
    before = {"a.org": (A,), "b.org": (B,), "c.org": (C,), "gone.org": (A,)}
    after = {"a.org": (A,), "b.org": (B,), "c.org": (C, A), "new.org": (C,)}

    assert sni.changed_keys(before, after) == {"c.org", "new.org"}
    assert sni.changed_keys(before, after, B) == {"b.org", "c.org", "new.org"}
    assert sni.changed_keys(before, before) == set()


def test_a_bundle_is_taken_out_for_some_names_and_those_without_any_go():
    table = {"a.org": (A,), "b.org": (A, B), "c.org": (A,)}

    assert sni.without(table, A, {"a.org", "b.org"}) == {
        "b.org": (B,),
        "c.org": (A,),
    }


# The parameter in main.cf

OURS = f"texthash:{TABLE}"
BRACES = "inline:{ a.org=/a.pem, b.org=/b.pem }"
NESTED = "inline:{ { a.org = /a.pem, /b.pem }, b.org=/b.pem }"
UNION = "unionmap:{texthash:/a, inline:{x=/x}}"


@pytest.mark.parametrize(
    ("value", "form", "before"),
    [
        pytest.param("", "", [], id="none"),
        pytest.param(OURS, "texthash", [], id="ours alone"),
        pytest.param(f"hash:{TABLE}", "hash", [], id="as a database"),
        pytest.param(
            "texthash:$config_directory/certbot_sni", "texthash", [], id="by reference"
        ),
        pytest.param("hash:/own", "", ["hash:/own"], id="another one"),
        pytest.param(
            f"hash:/own, {OURS}", "texthash", ["hash:/own"], id="another one first"
        ),
        pytest.param(
            f"hash:/own {OURS}, cdb:/more", "texthash", ["hash:/own"], id="amid others"
        ),
        pytest.param(
            f"lmdb:/a,\n  texthash:/b,\n  {OURS}",
            "texthash",
            ["lmdb:/a", "texthash:/b"],
            id="line by line",
        ),
        pytest.param(f"{BRACES}, {OURS}", "texthash", [BRACES], id="braces"),
        pytest.param(f"{NESTED}, {OURS}", "texthash", [NESTED], id="braces in braces"),
        pytest.param(f"{UNION} {OURS}", "texthash", [UNION], id="a union"),
        pytest.param(
            f"proxy:hash:/own, {OURS}", "texthash", ["proxy:hash:/own"], id="a proxy"
        ),
        pytest.param(
            f"texthash:{TABLE}.old, texthash:/x{TABLE}",
            "",
            [f"texthash:{TABLE}.old", f"texthash:/x{TABLE}"],
            id="names like ours",
        ),
    ],
)
def test_our_table_is_found_and_those_that_are_asked_before_it(value, form, before):
    configuration = configured({SNI_MAPS: value, "config_directory": str(TABLE.parent)})

    assert maps.map_type(configuration.value(SNI_MAPS), TABLE) == form
    assert maps.before(configuration.value(SNI_MAPS), TABLE) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("", OURS, id="none"),
        pytest.param(BRACES, f"{BRACES}, {OURS}", id="braces"),
        pytest.param("hash:/own", f"hash:/own, {OURS}", id="another one"),
        pytest.param(f"hash:{TABLE}", OURS, id="ours as a database"),
        pytest.param(
            f"hash:/own, hash:{TABLE} cdb:/more",
            f"hash:/own, {OURS} cdb:/more",
            id="ours amid others",
        ),
        pytest.param(OURS, OURS, id="as it should be"),
        pytest.param(
            f"hash:{TABLE}.old", f"hash:{TABLE}.old, {OURS}", id="a name like ours"
        ),
    ],
)
def test_our_table_is_named_where_it_is_or_last(old, new):
    assert maps.named(old, TABLE, "texthash") == new


def test_a_table_that_is_named_by_reference_is_not_named_twice():
    new = maps.named("hash:/own, hash:$config_directory/certbot_sni", TABLE, "cdb")

    assert new.count("certbot_sni") == 1
    assert new.startswith("hash:/own, cdb:")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(OURS, "", id="ours alone"),
        pytest.param(f"{BRACES}, {OURS}", BRACES, id="behind braces"),
        pytest.param(f"{OURS}, hash:/own", "hash:/own", id="in front"),
        pytest.param("hash:/own", "hash:/own", id="not there"),
        pytest.param(
            "hash:/own, texthash:$config_directory/certbot_sni",
            "hash:/own",
            id="by reference",
        ),
    ],
)
def test_our_table_is_taken_out_and_no_other(old, new):
    assert maps.unnamed(old, TABLE) == new


_OTHERS = st.lists(
    st.sampled_from(["hash:/own", BRACES, "cdb:/more", "texthash:$queue/x"]),
    max_size=3,
    unique=True,
)


@given(
    _OTHERS,
    st.sampled_from([", ", ",", " ", "\n  "]),
    st.sampled_from(["certbot_sni", "c$sh/certbot_sni", "a+(b)/certbot_sni"]),
    st.sampled_from(["texthash", "hash", "cdb"]),
)
def test_what_was_named_is_found_once_and_can_be_taken_out_again(
    others, comma, name, form
):
    old, path = comma.join(others), Path("/etc/postfix", name)

    new = maps.named(old, path, form)
    configuration = configured({SNI_MAPS: new})

    assert maps.map_type(configuration.value(SNI_MAPS), path) == form
    assert len(maps.before(configuration.value(SNI_MAPS), path)) == len(others)
    assert maps.named(new, path, form) == new
    assert maps.unnamed(new, path) == old
