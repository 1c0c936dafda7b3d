"""Which type a map of ours has, as the running Postfix has it for new ones."""

from dataclasses import replace
from pathlib import Path

import pytest

from certbot_postfix.postfix import map_types
from certbot_postfix.postfix.instance import Postfix
from tests.test_rules import configured

MOST = 200


def chosen(
    directory: Path,
    now: str,
    size: int,
    *,
    built_in: str = "hash",
    wanted: str = "",
    supported: str = "btree cdb hash lmdb texthash",
) -> str:
    """Choose for a Postfix that was built with such a default, and supports so much."""
    postconf = directory / "postconf"
    postconf.write_text(f"#!/bin/sh\nprintf '%s\\n' {supported}\n")
    postconf.chmod(0o755)
    known = configured({"default_database_type": wanted or built_in})
    defaults = {**known.defaults, "default_database_type": built_in}
    postfix = Postfix(directory, postconf=str(postconf))
    return map_types.chosen(postfix, replace(known, defaults=defaults), now, size, MOST)


@pytest.mark.parametrize(
    ("now", "size", "database", "form"),
    [
        pytest.param("", 1, "hash", "texthash", id="a new one"),
        pytest.param("", MOST, "hash", "texthash", id="still small"),
        pytest.param("", MOST + 1, "hash", "hash", id="large"),
        pytest.param("texthash", MOST + 1, "lmdb", "lmdb", id="grown"),
        pytest.param("hash", 1, "hash", "hash", id="a database stays one"),
        pytest.param("", MOST + 1, "dbm", "texthash", id="no known database"),
    ],
)
def test_a_large_table_becomes_a_database_and_stays_one(
    tmp_path, now, size, database, form
):
    assert chosen(tmp_path, now, size, built_in=database) == form


@pytest.mark.parametrize(
    ("facts", "large", "small"),
    [
        pytest.param({"built_in": "cdb"}, "cdb", "texthash", id="of Debian 14"),
        pytest.param({"wanted": "lmdb"}, "lmdb", "texthash", id="of main.cf"),
        pytest.param(
            {"built_in": "cdb", "wanted": "hash"}, "cdb", "texthash", id="deprecated"
        ),
        pytest.param(
            {"built_in": "lmdb", "wanted": "btree", "supported": "lmdb"},
            *("lmdb", "texthash"),
            id="gone",
        ),
        pytest.param(
            {"wanted": "lmdb", "supported": "hash btree"},
            *("hash", "hash"),
            id="its package is missing",
        ),
        pytest.param(
            {"built_in": "lmdb", "supported": "texthash"},
            *("texthash", "texthash"),
            id="none is there",
        ),
    ],
)
def test_a_database_moves_to_the_type_that_this_postfix_has_for_new_ones(
    tmp_path, facts, large, small
):
    assert chosen(tmp_path, "hash", MOST + 1, **facts) == large
    assert chosen(tmp_path, "hash", 1, **facts) == small
