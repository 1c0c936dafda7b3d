"""What lies beside the bundles for DANE may be damaged, and is reported."""

import json
from datetime import datetime, timezone

import pytest

from certbot_postfix.dane import places, staged, store
from certbot_postfix.dane.store import Memory
from certbot_postfix.errors import Error
from tests.lab import Authority


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
        with_rrset("60").replace('"version": 1', '"version": 2'),
    ],
    ids=["nested", "infinite", "no TTL", "negative", "no time", "of the future"],
)
def test_a_memory_that_cannot_be_read_counts_as_none(tmp_path, caplog, text):
    bundle = tmp_path / "mx.example.org.pem"
    places.memory(bundle).write_text(text)

    assert store.load(bundle) == Memory()

    assert "keys that are announced have to wait again" in caplog.text
    places.memory(bundle).write_text(with_rrset("60"))
    assert store.load(bundle) != Memory()


@pytest.mark.parametrize("kind", ["nothing", "certificate", "both"])
def test_a_staged_key_is_a_private_key_and_nothing_else(tmp_path, kind):
    issued = Authority().issue("mx.example.org")
    texts = {"nothing": b"", "certificate": issued.cert_pem, "both": issued.bundle_pem}
    path = places.next_key(tmp_path, "mx.example.org")
    path.write_bytes(texts[kind])

    with pytest.raises(Error, match="is not a private key") as error:
        staged.load(tmp_path, "mx.example.org")

    command = "certbot-postfix tlsa abandon --cert-name mx.example.org"
    assert error.value.hint == f"{command} removes it"


def test_of_a_certificate_that_is_not_certbot_s_nothing_is_remembered():
    store.save(None, Memory(own="mx.example.org", held=datetime.now(timezone.utc)))

    assert store.load(None) == Memory()
