"""A damaged memory of TLSA records is reported, and stops nothing."""

import json

import pytest

from certbot_postfix.dane import places, store
from certbot_postfix.dane.store import Memory


def with_rrset(ttl: str, until: str = "null") -> str:
    document = {"version": 1, "held": None, "expiry": None, "endpoints": {"_25": []}}
    rrset = f'[{{"records": [], "ttl": {ttl}, "until": {until}}}]'
    return json.dumps(document).replace("[]", rrset)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        with_rrset("Infinity"),
        with_rrset("1" + "0" * 18),
        with_rrset("-1"),
        with_rrset("60", '"9999-12-31T23:59:59-10:00"'),
    ],
    ids=["nested", "infinite", "no TTL", "negative", "no time"],
)
def test_a_memory_that_cannot_be_read_counts_as_none(tmp_path, caplog, text):
    bundle = tmp_path / "mx.example.org.pem"
    places.memory(bundle).write_text(text)

    assert store.load(bundle) == Memory()

    assert "keys that are announced have to wait again" in caplog.text
    places.memory(bundle).write_text(with_rrset("60"))
    assert store.load(bundle) != Memory()
