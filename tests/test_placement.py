"""A lineage finds its place, and nobody who was served well is served worse."""

import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbot_postfix.errors import Error
from certbot_postfix.inbound import (
    candidates,
    chain_files,
    copies,
    placing,
    served,
    sni,
)
from certbot_postfix.inbound.bundles import Bundles
from certbot_postfix.inbound.placement import (
    Placement,
    heirs,
    place,
    refuse,
)
from certbot_postfix.inbound.proposal import DeployOptions
from certbot_postfix.inbound.served import ServedFile
from certbot_postfix.inbound.sni import Table
from certbot_postfix.inbound.state import State
from certbot_postfix.postfix.configuration import Service
from certbot_postfix.tls import certificates, replacement
from certbot_postfix.tls.certificates import Certificate
from tests.test_rules import configured

BUNDLES = Path("/etc/letsencrypt/postfix")
HOST = "mx.example.org"
WEB = "www.example.org"
NOW = datetime(2026, 7, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)


def lineage(
    *names: str,
    name: str = "",
    kind: str = "ECDSA",
    days: int = 30,
    age: int = 90,
    issuer: str = "CN=CA",
    directory: Path = BUNDLES,
) -> ServedFile:
    """Return what certbot has for *names*, below the *name* of the first."""
    leaf = Certificate(
        der=f"{names} {kind} {days}".encode(),
        subject=f"CN={names[0] if names else ''}",
        issuer=issuer,
        names=frozenset(names),
        spki=b"",
        key_type=kind,
        not_before=NOW - age * DAY,
        not_after=NOW + days * DAY,
    )
    return ServedFile(directory / f"{name or names[0]}.pem", leaf)


def files(*deployed: ServedFile) -> tuple[str, ...]:
    """Return what the table has for a name that *deployed* are served for."""
    return tuple(str(each.path) for each in deployed)


def standing(
    *default: ServedFile, table: Table | None = None, peers: Iterable[ServedFile] = ()
) -> State:
    """Return what there is before a lineage is placed."""
    configuration = configured({"myhostname": HOST})
    places = Bundles(BUNDLES, BUNDLES)
    return State(configuration, places, default, table or {}, peers=tuple(peers))


def placed(new: ServedFile, before: State) -> Placement:
    return place(new, before, NOW)


MX = lineage(HOST)
MX_RSA = lineage(HOST, name="rsa", kind="RSA")
SHOP = lineage("shop.example.net")
SHOP_RSA = lineage("shop.example.net", name="shop-rsa", kind="RSA")
FOREIGN = lineage("old.example.org", directory=Path("/etc/ssl"))


# The default


@pytest.mark.parametrize(
    ("new", "default"),
    [
        pytest.param(MX, (lineage(WEB),), id="it covers the server"),
        pytest.param(
            lineage("*.example.org", name="wild"), (MX,), id="its wildcard does"
        ),
        pytest.param(SHOP, (), id="none is served"),
        pytest.param(
            SHOP,
            (lineage("snakeoil", issuer="CN=snakeoil"),),
            id="snake oil is served",
        ),
        pytest.param(SHOP, (lineage(HOST, days=0),), id="an expired one is served"),
        pytest.param(MX, (FOREIGN,), id="one of the administrator's is served"),
    ],
)
def test_a_certificate_becomes_the_default_if(new, default):
    result = placed(new, standing(*default))

    assert result.chain == {new.path: new.leaf.key_type}
    assert not result.by_name
    assert result.displaced == default


@pytest.mark.parametrize(
    "default",
    [
        pytest.param((MX,), id="ours"),
        pytest.param((FOREIGN,), id="the administrator's"),
        pytest.param((MX, MX_RSA), id="two"),
        pytest.param(
            (lineage(HOST, days=0), MX_RSA), id="an expired one, and a good one"
        ),
        pytest.param((lineage(WEB),), id="one that does not cover the server either"),
    ],
)
def test_a_certificate_for_other_names_displaces_no_good_one(default):
    result = placed(SHOP, standing(*default))

    assert result.by_name
    assert result.chain == {}
    assert result.displaced == ()
    assert result.table["shop.example.net"] == files(SHOP)


def test_a_default_alone_needs_no_table():
    assert placed(MX, standing()).table == {}
    assert placed(MX, standing(MX)).table == {}
    assert placed(MX, standing(FOREIGN)).table == {}


def test_the_default_stays_so_whatever_it_covers():
    default = lineage(WEB)

    result = placed(default, standing(default, MX_RSA))

    assert result.chain == {default.path: "ECDSA", MX_RSA.path: "RSA"}
    assert result.displaced == ()


def test_a_default_that_is_deployed_again_displaces_nothing_that_is_beside_it():
    result = placed(MX, standing(MX, FOREIGN))

    assert result.chain == {MX.path: "ECDSA"}
    assert result.displaced == ()


@pytest.mark.parametrize(
    ("default", "new"), [(MX, MX_RSA), (SHOP, SHOP_RSA)], ids=["covers it", "does not"]
)
def test_the_same_names_with_another_type_of_key_join_the_default(default, new):
    result = placed(new, standing(default))

    assert result.chain == {default.path: "ECDSA", new.path: "RSA"}
    assert result.displaced == ()
    assert result.table == {}


def test_the_same_names_with_the_same_type_of_key_replace_the_default():
    new = lineage(HOST, name="again")

    result = placed(new, standing(MX, MX_RSA))

    assert result.chain == {MX_RSA.path: "RSA", new.path: "ECDSA"}
    assert result.displaced == (MX,)
    assert result.table == {}


def test_of_the_administrator_s_own_certificates_none_is_joined():
    theirs = lineage(HOST, kind="RSA", directory=Path("/etc/ssl"))

    result = placed(MX, standing(theirs))

    assert result.chain == {MX.path: "ECDSA"}
    assert result.displaced == (theirs,)


# By name


def test_the_default_s_names_are_in_the_table_as_well():
    default = lineage(HOST, "*.example.org")

    assert placed(SHOP, standing(default)).table == {
        HOST: files(default),
        ".example.org": files(default),
        "shop.example.net": files(SHOP),
    }


def test_both_keys_of_the_default_are_in_the_table():
    table = placed(SHOP, standing(MX, MX_RSA)).table

    assert table[HOST] == files(MX, MX_RSA)


def test_of_the_administrator_s_certificates_no_name_enters_the_table():
    assert placed(SHOP, standing(FOREIGN)).table == {"shop.example.net": files(SHOP)}


def test_for_a_name_the_lineage_that_was_deployed_last_is_served():
    both = lineage("shop.example.net", WEB, name="both")
    table = {HOST: files(MX), "shop.example.net": files(SHOP)}

    result = placed(both, standing(MX, table=table, peers=[SHOP]))

    assert result.table == {
        HOST: files(MX),
        "shop.example.net": files(both),
        WEB: files(both),
    }


def test_a_name_of_the_default_s_goes_to_the_lineage_that_was_deployed_last():
    default = lineage(HOST, "shop.example.net")

    table = placed(SHOP, standing(default)).table

    assert table == {HOST: files(default), "shop.example.net": files(SHOP)}


def test_the_default_takes_its_names_back_when_it_is_deployed_again():
    default = lineage(HOST, "shop.example.net")
    table = {HOST: files(default), "shop.example.net": files(SHOP)}

    assert placed(default, standing(default, table=table)).table == {
        HOST: files(default),
        "shop.example.net": files(default),
    }


def test_the_same_names_with_another_type_of_key_are_served_beside():
    table = {"shop.example.net": files(SHOP)}

    result = placed(SHOP_RSA, standing(MX, table=table, peers=[SHOP]))

    assert result.by_name
    assert result.table["shop.example.net"] == files(SHOP, SHOP_RSA)


def test_other_names_with_another_type_of_key_are_not_served_beside():
    other = lineage("shop.example.net", WEB, name="other", kind="RSA")
    table = {"shop.example.net": files(SHOP)}

    result = placed(other, standing(MX, table=table, peers=[SHOP]))

    assert result.table["shop.example.net"] == files(other)


def test_of_two_keys_the_one_of_the_same_type_makes_room():
    newer = lineage("shop.example.net", name="newer")
    table = {"shop.example.net": files(SHOP, SHOP_RSA)}

    result = placed(newer, standing(MX, table=table, peers=[SHOP, SHOP_RSA]))

    assert result.table["shop.example.net"] == files(SHOP_RSA, newer)


def test_a_partner_stays_when_a_lineage_has_other_names_now_and_is_deployed_again():
    more = lineage("shop.example.net", WEB, name="shop.example.net")
    table = {"shop.example.net": files(SHOP, SHOP_RSA)}

    result = placed(more, standing(MX, table=table, peers=[SHOP, SHOP_RSA]))

    assert result.table["shop.example.net"] == files(SHOP, SHOP_RSA)
    assert result.table[WEB] == files(more)


def test_of_two_keys_of_one_type_only_the_one_that_is_deployed_again_stays():
    now_rsa = lineage("shop.example.net", kind="RSA")
    table = {"shop.example.net": files(SHOP, SHOP_RSA)}

    result = placed(now_rsa, standing(MX, table=table, peers=[SHOP, SHOP_RSA]))

    assert result.table["shop.example.net"] == files(now_rsa)


def test_a_bundle_that_is_gone_is_nobody_s_partner():
    table = {"shop.example.net": files(SHOP)}

    result = placed(SHOP_RSA, standing(MX, table=table))

    assert result.table["shop.example.net"] == files(SHOP_RSA)


def test_a_name_that_left_a_certificate_leaves_the_table_when_it_is_deployed():
    table = {"shop.example.net": files(SHOP), "old.example.net": files(SHOP)}

    result = placed(SHOP, standing(MX, table=table, peers=[SHOP]))

    assert "old.example.net" not in result.table


def test_a_name_that_left_the_default_leaves_the_table_when_it_is_deployed():
    table = {HOST: files(MX), WEB: files(MX), "shop.example.net": files(SHOP)}

    assert placed(MX, standing(MX, table=table)).table == {
        HOST: files(MX),
        "shop.example.net": files(SHOP),
    }


def test_names_that_cannot_be_looked_up_are_left_out():
    new = lineage("shop.example.net", "*x.example.net", "a b", "*")

    table = placed(new, standing(MX)).table

    assert table.keys() == {HOST, "shop.example.net"}


# Who is displaced


def test_the_names_of_a_default_that_is_displaced_stay_in_the_table():
    old = lineage(WEB, "shop.example.net", HOST, name="old")

    result = placed(MX, standing(old))

    assert result.displaced == (old,)
    assert result.table == {
        HOST: files(MX),
        WEB: files(old),
        "shop.example.net": files(old),
    }


def test_a_name_of_a_displaced_default_stays_with_who_serves_it():
    old = lineage(WEB, "shop.example.net", name="old")
    table = {WEB: files(old), "shop.example.net": files(SHOP)}

    result = placed(MX, standing(old, table=table))

    assert result.table == {**table, HOST: files(MX)}


def test_a_displaced_default_without_other_names_leaves_no_table():
    result = placed(lineage(HOST, WEB, name="more"), standing(MX))

    assert result.displaced == (MX,)
    assert result.table == {}


def test_of_a_displaced_certificate_of_the_administrator_s_no_name_is_kept():
    assert placed(MX, standing(FOREIGN)).table == {}


def test_a_lineage_by_name_that_becomes_the_default_keeps_its_names():
    new = lineage(HOST, "shop.example.net", name="shop.example.net")
    table = {HOST: files(MX), "shop.example.net": files(new)}

    result = placed(new, standing(MX, table=table, peers=[MX]))

    assert result.chain == {new.path: "ECDSA"}
    assert result.table == {HOST: files(new), "shop.example.net": files(new)}


# Who inherits


@pytest.mark.parametrize(
    ("others", "wanted"),
    [
        pytest.param((), None, id="nobody"),
        pytest.param((MX,), None, id="nobody who does not have the name"),
        pytest.param(
            (lineage(WEB, directory=Path("/etc/ssl")),),
            None,
            id="no certificate of the administrator's",
        ),
        pytest.param((lineage(WEB, kind="DSA"),), None, id="no key that is not safe"),
        pytest.param((lineage("*.example.org"),), None, id="no wildcard"),
        pytest.param((MX, lineage(WEB)), (lineage(WEB),), id="who has the name"),
        pytest.param(
            (lineage(WEB), lineage(WEB, HOST, name="new", age=1)),
            (lineage(WEB, name="new"),),
            id="of two the newest",
        ),
        pytest.param(
            (lineage(WEB), lineage(WEB, name="rsa", kind="RSA", age=1)),
            (lineage(WEB, name="rsa"), lineage(WEB)),
            id="with its partner",
        ),
        pytest.param(
            (lineage(WEB), lineage(WEB, HOST, name="rsa", kind="RSA", age=1)),
            (lineage(WEB, name="rsa"),),
            id="without one that has other names",
        ),
    ],
)
def test_a_name_that_lost_its_certificate_is_inherited_by(others, wanted):
    found = heirs([WEB], others, BUNDLES)

    assert found == ({WEB: files(*wanted)} if wanted else {})


# Keys that are not safe by name


def test_a_default_with_a_key_that_is_not_safe_by_name_never_enters_the_table():
    old = lineage(HOST, WEB, kind="DSA")

    assert placed(SHOP, standing(old)).table == {"shop.example.net": files(SHOP)}
    assert placed(MX, standing(old)).table == {}


def test_a_certificate_with_a_key_that_is_not_safe_by_name_may_be_the_default():
    new = lineage(HOST, kind="DSA")

    result = placed(new, standing(table={"shop.example.net": files(SHOP)}))

    assert result.chain == {new.path: "DSA"}
    assert result.table == {"shop.example.net": files(SHOP)}


@pytest.mark.parametrize("kind", sni.KEY_TYPES)
def test_what_has_names_and_a_safe_key_is_not_refused(kind):
    refuse(lineage(WEB, kind=kind), [MX], HOST, "")


@pytest.mark.parametrize(
    ("new", "why", "words"),
    [
        pytest.param(
            lineage(WEB),
            "--postfix-sni never rules out serving it via SNI",
            "and --postfix-sni never rules out serving it via SNI;",
            id="forbidden",
        ),
        pytest.param(
            lineage(WEB),
            "Postfix before 3.4 has no SNI support",
            "and Postfix before 3.4 has no SNI support;",
            id="an old Postfix",
        ),
        pytest.param(
            lineage(WEB, kind="DSA"),
            "",
            "OpenSSL is not safe with DSA keys via SNI",
            id="a key that is not safe",
        ),
        pytest.param(
            lineage("*x.example.org"),
            "",
            "it has no DNS name that can be used with SNI",
            id="no name to be asked for",
        ),
        pytest.param(
            lineage(name="nameless"),
            "",
            "it has no DNS name that can be used with SNI",
            id="no name at all",
        ),
    ],
)
def test_what_cannot_be_served_by_name_is_refused_and_told_why(new, why, words):
    with pytest.raises(Error, match=" was not installed: ") as caught:
        refuse(new, [MX], HOST, why)

    assert words in caught.value.message
    assert caught.value.hint.startswith(f"obtain a certificate that covers {HOST}")
    assert ("--postfix-sni auto" in caught.value.hint) is ("never" in why)


def test_the_refusal_names_both_certificates_and_the_server():
    with pytest.raises(Error) as caught:
        refuse(lineage(WEB, "a.org"), [MX, MX_RSA], HOST, "it may not be")

    assert caught.value.message == (
        f"{WEB} was not installed: it covers a.org and {WEB}, but not this server's"
        f" name ({HOST}), and it may not be; the current default certificate ({MX.leaf}"
        f" and {MX_RSA.leaf}) is left unchanged"
    )


# What the options and the release allow


def test_without_a_table_no_name_of_a_displaced_default_stays():
    old = lineage(WEB, "shop.example.net", HOST, name="old")

    result = placing.place(standing(old), MX, DeployOptions(by_name=False))

    assert (result.displaced, result.table) == ((old,), {})


def test_before_3_4_a_certificate_for_other_names_is_not_installed():
    old = configured({"myhostname": HOST}, release="3.3.8")
    before = replace(standing(lineage(HOST, days=9999)), configuration=old)

    with pytest.raises(Error, match=r"Postfix before 3\.4 has no SNI support"):
        placing.place(before, SHOP, DeployOptions())


@pytest.mark.parametrize("key", [HOST, WEB])
def test_a_table_of_ones_own_that_takes_precedence_is_named(key):
    before = replace(standing(MX), answers={key: "own.map"})
    result = placing.place(before, lineage(HOST, name="new"), DeployOptions())
    result = replace(result, table={HOST: files(lineage(HOST, name="new"))})

    found = list(placing.warnings(before, lineage(HOST, name="new"), result))

    named = [line for line in found if "own.map" in line]
    assert [f"will not be used for {key}" in line for line in named] == (
        [True] if key == HOST else []
    )


CHAIN = "smtpd_tls_chain_files"


def test_a_certificate_that_shares_a_file_with_what_is_replaced_is_not_lost(tmp_path):
    (tmp_path / "both.pem").mkdir()  # unreadable: there may be two keys in it
    other = lineage(HOST, name="both", kind="RSA", days=9999, directory=tmp_path)
    explicit = {"myhostname": HOST, CHAIN: f"{MX.path}, {other.path}"}
    before = replace(standing(MX, other), configuration=configured(explicit))
    new = lineage(HOST, name="new")

    with pytest.raises(Error, match="cannot stay beside that of new") as caught:
        placing.place(before, new, DeployOptions())

    assert f"a second certificate by default, from {other.path}" in str(caught.value)
    assert "obtain the certificate with --key-type rsa, too" in caught.value.hint
    replaced = placing.place(before, new, DeployOptions(replace=True))
    assert replaced.displaced == (MX, other)


# What is served now


def test_a_file_with_a_certificate_that_is_none_serves_nobody(tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")

    assert served.read([broken, tmp_path / "missing.pem"]) == ()


def test_a_file_with_a_certificate_that_is_none_is_behind_no_lineage(tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    smtpd = Service("smtp", "inet", "smtpd", {}, {})
    there = configured({CHAIN: str(broken)}, services=(smtpd,))

    assert [chain.files for chain in chain_files.every_chain(there)] == [(broken,)]
    assert copies.read(there, BUNDLES, []) == []


def test_for_dane_a_bundle_that_is_gone_is_not_looked_at():
    before = standing(table={"shop.example.net": files(SHOP)})

    assert before.used("shop.example.net") == [SHOP.path]
    assert list(candidates.candidates(before)) == []
    assert list(candidates.rolling(before, "shop.example.net")) == []


def test_for_dane_what_is_served_by_hand_is_looked_at_and_not_remembered():
    chain = (FOREIGN.leaf,)

    (found,) = candidates.candidates(standing(replace(FOREIGN, chain=chain)))

    assert (found.served, found.new, found.bundle) == ((chain,), chain, None)
    assert found.hosts == (HOST, *FOREIGN.leaf.names)


# The law behind the examples

_NAMES = st.sets(
    st.sampled_from([HOST, WEB, "*.example.org", "a.net", "b.net", "*.net", "*x.net"]),
    min_size=1,
    max_size=3,
)


@st.composite
def lineages(draw: st.DrawFn) -> ServedFile:
    return lineage(
        *sorted(draw(_NAMES)),
        name=draw(st.sampled_from("abcd")),
        kind=draw(st.sampled_from(["RSA", "ECDSA", "Ed25519", "DSA"])),
        days=draw(st.sampled_from([30, 30, 30, 0])),
    )


class Server:
    """What is deployed, as one lineage after another finds its place."""

    def __init__(self) -> None:
        self.chain: list[str] = []
        self.table: Table = {}
        self.there: dict[str, ServedFile] = {}

    def deploy(self, new: ServedFile) -> Placement | None:
        """Place *new*, unless it is refused."""
        path, default = str(new.path), [self.there[each] for each in self.chain]
        if not self._fit(new):
            return None
        # Its bundle is still the old one.
        keys = sni.keys(new.leaf.names)
        found = {each for key in keys for each in self.table.get(key, ())}
        peers = [self.there[each] for each in found]
        result = placed(new, standing(*default, table=self.table, peers=peers))
        if result.by_name:
            try:
                refuse(new, default, HOST, "")
            except Error:
                return None
        self.chain = list(map(str, result.chain)) or self.chain
        self.table = result.table
        self.there[path] = new
        return result

    def _fit(self, new: ServedFile) -> bool:
        """Whether *new* may replace its bundle, which is asked before it is placed."""
        path = str(new.path)
        beside = sni.beside(self.table, path)
        beside |= set(self.chain) - {path} if path in self.chain else set()
        try:
            replacement.refuse_second(
                new.leaf, [self.there[each].leaf for each in beside]
            )
            if path not in self.chain and sni.keys_with(self.table, path):
                sni.refuse_unsafe(new.leaf.key_type)
        except Error:
            return False
        return True


def _twice(kinds: Iterable[str]) -> bool:
    listed = list(kinds)
    return len(set(listed)) < len(listed)


SERVERS = st.lists(lineages(), max_size=5)


def server(history: list[ServedFile]) -> Server:
    made = Server()
    for each in history:
        made.deploy(each)
    return made


@given(SERVERS, lineages())
def test_placing_again_what_was_placed_changes_nothing(history, new):
    state = server(history)
    if not state.deploy(new):
        return
    chain, table = list(state.chain), state.table

    again = state.deploy(new)

    assert again is not None
    assert again.displaced == ()
    assert (state.chain, state.table) == (chain, table)


@given(SERVERS, lineages())
def test_who_asks_for_a_name_of_the_newest_lineage_is_shown_that(history, new):
    state = server(history)
    if not state.deploy(new) or new.leaf.key_type not in sni.KEY_TYPES:
        return

    for key in sni.keys(new.leaf.names):
        assert str(new.path) in (state.table[key] if state.table else state.chain)


@given(SERVERS, lineages())
def test_no_name_gets_a_certificate_that_is_not_for_it(history, new):
    state = server(history)
    state.deploy(new)

    for key, paths in state.table.items():
        for path in paths:
            assert key in sni.keys(state.there[path].leaf.names)


@given(SERVERS, lineages())
def test_no_name_has_two_keys_of_one_type_or_a_key_that_is_not_safe(history, new):
    state = server(history)
    state.deploy(new)

    for paths in [*state.table.values(), state.chain]:
        kinds = [state.there[path].leaf.key_type for path in paths]
        assert paths
        assert not _twice(kinds)
    safe = {path for paths in state.table.values() for path in paths}
    assert {state.there[path].leaf.key_type for path in safe} <= set(sni.KEY_TYPES)


def test_a_default_does_not_leave_with_the_names_that_its_partner_has_kept():
    partner = lineage(WEB, name="rsa", kind="RSA")
    state = server([lineage(WEB, name="first"), partner, lineage(HOST, name="first")])

    state.deploy(lineage(WEB, name="new", kind="RSA"))

    assert state.chain == [f"{BUNDLES}/first.pem", f"{BUNDLES}/rsa.pem"]
    assert state.table[WEB] == (f"{BUNDLES}/new.pem",)


def test_the_partner_of_a_default_that_is_deployed_again_takes_no_name():
    names = (HOST, "a.net")
    state = server(
        [lineage(*names), lineage(*names, name="rsa", kind="RSA"), lineage("a.net")]
    )
    assert state.table["a.net"] == files(lineage("a.net"))

    state.deploy(MX)

    assert state.table == {
        HOST: (*files(MX), f"{BUNDLES}/rsa.pem"),
        "a.net": files(lineage("a.net")),
    }


@given(SERVERS, lineages())
def test_no_name_that_was_served_is_lost_to_another_lineage(history, new):
    state = server(history)
    table = dict(state.table)
    state.deploy(new)

    for key, paths in table.items():
        if str(new.path) not in paths:
            assert state.table[key] == paths or str(new.path) in state.table[key]


@given(SERVERS, lineages())
def test_a_good_default_stays_unless_the_newest_covers_the_server(history, new):
    state = server(history)
    before = [state.there[path] for path in state.chain]
    good = [
        each
        for each in before
        if each.leaf.not_after > NOW and each.leaf.names != new.leaf.names
    ]
    state.deploy(new)

    if good and not certificates.covers(new.leaf.names, HOST):
        assert set(files(*good)) <= {*state.chain, str(new.path)}


def test_thousands_of_names_are_placed_at_once():
    names = [f"{number}.example.net" for number in range(5_000)]
    old, new = lineage(HOST, *names, name="old"), lineage(HOST, *names, name="new")
    start = time.monotonic()

    result = placed(new, standing(old))

    assert list(result.chain) == [new.path]
    assert time.monotonic() - start < 10
