"""What lies beside the bundles for DANE is not lost; if it is damaged, that is said."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from certbot_postfix.dane import (
    gate,
    judge,
    places,
    publish_commands,
    staged,
    store,
)
from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.judge import Candidate, Look
from certbot_postfix.dane.observation import Answer, Observation, Status
from certbot_postfix.dane.rollover import State
from certbot_postfix.dane.store import Memory
from certbot_postfix.errors import Error
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.tls.certificates import Certificate
from tests.lab import Authority

HOST = "mx.example.org"
OWNER = f"_25._tcp.{HOST}"
NOW = datetime(2026, 11, 30, tzinfo=timezone.utc)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
LAB = Authority()
OLD, NEW = (
    tuple(Certificate.all_from_pem(LAB.issue(HOST).fullchain_pem)) for _ in range(2)
)


class Host:
    """A host that serves the old key; whoever looks at it shares what is remembered."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle

    def look(
        self, *published: tuple[Certificate, ...], at: timedelta, floor: timedelta
    ) -> Endpoint:
        """Look for the new key, where these are *published* with a TTL of a minute."""
        records = frozenset(Record.of_key(chain[0].spki) for chain in published)
        answers = (Answer("ns1", records, 60),)
        found = {OWNER: Observation(OWNER, Status.SECURE, OWNER, answers)}
        look = Look(found, (), NOW + at, floor)
        candidate = Candidate("mx", self.bundle, (HOST,), (OLD,), NEW, HOST)
        memory = store.load(self.bundle)
        endpoints = judge.endpoints(candidate, memory, look)
        store.save(self.bundle, judge.remembered(candidate, memory, endpoints, look))
        return endpoints[0]


@pytest.mark.parametrize("floor", [60 * MINUTE, DAY])
def test_who_waits_for_less_forgets_nothing_that_others_wait_for(tmp_path, floor):
    host = Host(tmp_path / "mx.example.org.pem")
    host.look(OLD, at=0 * MINUTE, floor=floor)
    host.look(OLD, NEW, at=MINUTE, floor=floor)

    for shorter in (timedelta(0), 60 * MINUTE, timedelta(0)):
        host.look(OLD, NEW, at=floor, floor=shorter)

    decision = host.look(OLD, NEW, at=floor, floor=floor).decision
    assert (decision.state, decision.until) == (State.AGEING, NOW + MINUTE + 2 * floor)
    over = host.look(OLD, NEW, at=2 * MINUTE + 2 * floor, floor=timedelta(0))
    assert len(over.facts.history) == 1


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
    store.save(None, Memory({OWNER: ()}, held=NOW))

    assert store.load(None) == Memory()


def test_a_file_without_a_certificate_as_on_a_full_disk_stops_nothing(tmp_path):
    root, live = tmp_path / "postfix", tmp_path / "live" / HOST
    root.mkdir()
    live.mkdir(parents=True)
    (live / "fullchain.pem").touch()
    bundle = root / f"{HOST}.pem"
    bundle.touch()
    key = staged.stage(root, HOST, staged.Kind("ecdsa"))

    assert publish_commands.needed(root) == {key.record}

    assert [*gate.watch(bundle, key, gate.Settings(), NOW)] == []
