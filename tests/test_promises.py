"""What is proven follows from what is deployed, and nothing that is not ours is."""

from pathlib import Path

import pytest

from certbot_postfix.inbound import chain_files
from certbot_postfix.inbound.bundles import Bundles
from certbot_postfix.inbound.expectations import expected
from certbot_postfix.inbound.sni import Table
from certbot_postfix.inbound.state import State
from certbot_postfix.inbound.transitions import changed_keys
from certbot_postfix.postfix.configuration import SNI_MAPS, Configuration
from certbot_postfix.postfix.questions import Expectation, sampled
from certbot_postfix.tls.certificates import Certificate
from tests.test_placement import (
    BUNDLES,
    HOST,
    MX,
    MX_RSA,
    SHOP,
    SHOP_RSA,
    WEB,
    files,
    lineage,
)
from tests.test_rules import configured

WILD = lineage("*.example.net", "example.net")


def serving(*default: Path, **explicit: str) -> Configuration:
    """Return a configuration with the bundles that are served by *default*."""
    chain = ", ".join(map(str, default))
    return configured({"smtpd_tls_chain_files": chain, **explicit})


Asked = list[tuple[str | None, tuple[Certificate, ...]]]


def asked(promises) -> Asked:
    found = list(promises)
    assert all(promise.services == frozenset() for promise in found)
    return [(promise.server_name, promise.expected) for promise in found]


def state(configuration: Configuration, table: Table, files, answered=()) -> State:
    """Return what is served where *files* are known, and others *answered* first."""
    chain = chain_files.configured(configuration)
    default = tuple(file for file in files if file.path in chain)
    answers = dict.fromkeys(answered, "hash:/own")
    places = Bundles(BUNDLES, BUNDLES)
    return State(
        configuration, places, default, table, peers=tuple(files), answers=answers
    )


def promised(configuration, table, new, answered):
    """Return what is expected when *new* is deployed."""
    after = state(configuration, table, new, answered)
    return expected(after, changed_keys(after, after, new), new)


def restored(table, keys, default, peers):
    """Return what is expected for *keys* when nothing is new."""
    serves = serving(*(file.path for file in default))
    return expected(state(serves, table, dict.fromkeys([*default, *peers])), keys)


# What follows from a deployment


def test_without_a_table_the_default_is_promised_without_a_name_and_with_one():
    default = lineage(HOST, WEB, "a.org")

    assert asked(promised(serving(default.path), {}, [default], ())) == [
        (None, (default.leaf,)),
        ("a.org", (default.leaf,)),
    ]


def test_a_default_without_names_is_promised_without_one_only():
    default = lineage(name="nameless")

    assert asked(promised(serving(default.path), {}, [default], ())) == [
        (None, (default.leaf,))
    ]


def test_with_a_table_every_name_of_what_is_new_is_promised():
    table = {HOST: files(MX), WEB: files(MX), "shop.example.net": files(SHOP)}

    assert asked(promised(serving(MX.path), table, [MX], ())) == [
        (None, (MX.leaf,)),
        (HOST, (MX.leaf,)),
        (WEB, (MX.leaf,)),
    ]


def test_what_is_served_by_name_is_promised_to_those_only_who_ask():
    table = {HOST: files(MX), "shop.example.net": files(SHOP)}

    assert asked(promised(serving(MX.path), table, [SHOP], ())) == [
        ("shop.example.net", (SHOP.leaf,))
    ]


def test_a_name_that_another_lineage_serves_is_not_promised():
    new = lineage("shop.example.net", WEB, name="new")
    table = {WEB: files(new), "shop.example.net": files(SHOP)}

    assert asked(promised(serving(MX.path), table, [new], ())) == [(WEB, (new.leaf,))]


def test_a_wildcard_is_asked_for_by_a_name_that_has_no_entry():
    table = {
        ".example.net": files(WILD),
        "example.net": files(WILD),
        "any.example.net": files(SHOP),
    }

    assert asked(promised(serving(MX.path), table, [WILD], ())) == [
        ("xany.example.net", (WILD.leaf,)),
        ("example.net", (WILD.leaf,)),
    ]


def test_each_of_two_keys_is_promised_by_itself():
    table = {"shop.example.net": files(SHOP, SHOP_RSA)}

    assert asked(promised(serving(MX.path), table, [SHOP, SHOP_RSA], ())) == [
        ("shop.example.net", (SHOP.leaf,)),
        ("shop.example.net", (SHOP_RSA.leaf,)),
    ]


def test_what_is_not_served_anywhere_is_not_promised():
    assert asked(promised(serving(MX.path), {}, [SHOP], ())) == []


@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "by default"])
def test_a_name_that_a_table_of_the_administrator_s_answers_is_not_promised(by_name):
    new = lineage(HOST, WEB)
    table = {HOST: files(new), WEB: files(new)} if by_name else {}
    configuration = serving(new.path, **{SNI_MAPS: "hash:/own"})

    assert asked(promised(configuration, table, [new], {WEB})) == [
        (None, (new.leaf,)),
        (HOST, (new.leaf,)),
    ]


def test_a_wildcard_of_the_administrator_s_answers_for_names_that_have_no_entry():
    configuration = serving(MX.path, **{SNI_MAPS: "hash:/own"})

    assert asked(promised(configuration, {}, [MX], {".example.org"})) == [
        (None, (MX.leaf,))
    ]
    assert asked(promised(configuration, {HOST: files(MX)}, [MX], {".org"})) == [
        (None, (MX.leaf,)),
        (HOST, (MX.leaf,)),
    ]


# What follows from an undo


def test_what_was_before_is_promised_for_the_names_that_changed():
    table = {HOST: files(MX, MX_RSA), "shop.example.net": files(SHOP), WEB: files(MX)}
    keys = {HOST, "shop.example.net"}

    found = asked(restored(table, keys, [MX, MX_RSA], [MX, MX_RSA, SHOP]))

    assert found == [
        (None, (MX.leaf, MX_RSA.leaf)),
        (HOST, (MX.leaf, MX_RSA.leaf)),
        ("shop.example.net", (SHOP.leaf,)),
    ]


def test_what_cannot_be_read_is_not_promised():
    table = {HOST: files(MX), "shop.example.net": files(SHOP)}

    assert asked(restored(table, table, [], [SHOP])) == [
        ("shop.example.net", (SHOP.leaf,))
    ]


def test_the_default_is_promised_for_a_name_that_left_the_table():
    table = {HOST: files(MX)}

    assert asked(restored(table, {WEB, ".shop.org"}, [MX, MX_RSA], [])) == [
        (None, (MX.leaf, MX_RSA.leaf)),
        ("any.shop.org", (MX.leaf, MX_RSA.leaf)),
        (WEB, (MX.leaf, MX_RSA.leaf)),
    ]


def test_a_name_that_left_the_table_may_be_covered_by_a_wildcard_there():
    table = {".example.org": files(MX)}

    assert asked(restored(table, {WEB}, [SHOP], [MX])) == [(None, (SHOP.leaf,))]


def test_without_a_default_nothing_is_promised_for_what_left():
    assert asked(restored({}, {WEB}, [], [])) == []


# Which names are asked for


def many(chains: int, names: int) -> list[Expectation]:
    """Return promises for a default, and for *names* of each of so many *chains*."""
    leaves = [lineage(HOST, name=f"lineage{number}").leaf for number in range(chains)]
    named = [
        Expectation(f"{number}.{chain}.example.net", (leaf,), frozenset({str(chain)}))
        for chain, leaf in enumerate(leaves)
        for number in range(names)
    ]
    return [Expectation(None, (MX.leaf,)), *named]


def test_of_few_names_all_are_asked_for():
    promises = many(5, 10)

    assert sampled(promises) == promises


@pytest.mark.parametrize(
    ("chains", "names", "count"), [(1, 10_000, 5), (10, 100, 50), (100, 100, 100)]
)
def test_of_many_names_some_are_asked_for_of_every_chain(chains, names, count):
    promises = many(chains, names)

    sample = sampled(promises)

    assert sample[0] == promises[0]
    assert len(sample) == 1 + count
    assert {each.services for each in sample} == {each.services for each in promises}
    assert set(sample) <= set(promises)


def test_where_there_is_little_time_fewer_names_are_asked_for():
    promises = many(1, 20)

    assert len(sampled(promises, most=3)) == 1 + 3
    assert len(sampled(many(10, 2), most=3)) == 1 + 10
