"""A host adds the TLSA records that it lacks, and removes its own, no others."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from certbot_postfix.dane import changes, history, report, rollover
from certbot_postfix.dane.changes import Kept, Removal
from certbot_postfix.dane.history import Chain
from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.observation import Answer, Observation, Status
from certbot_postfix.dane.rollover import Facts, State
from certbot_postfix.formats import tlsa
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.tls.certificates import Certificate
from tests.lab import Authority

HOST = "mx.example.org"
OWNER = f"_25._tcp.{HOST}"
NOW = datetime(2026, 11, 30, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
LAB = Authority()
CHAINS = [
    tuple(Certificate.all_from_pem(LAB.issue(HOST).fullchain_pem)) for _ in range(4)
]
OLD, NEW, OTHER, RSA = [Record.of_key(chain[0].spki) for chain in CHAINS]
# The digests that a client may look at in place of ours.
OLD512, NEW512 = [Record.of_key(chain[0].spki, tlsa.SHA512) for chain in CHAINS[:2]]


def endpoint(
    *servers: Iterable[Record] | str,
    served: tuple[Chain, ...] = (CHAINS[0],),
    new: Chain | None = None,
    **how: object,
) -> Endpoint:
    """Return an endpoint at which the servers have these records, or this fault."""
    answers = tuple(
        Answer(f"ns{number}", fault=each)
        if isinstance(each, str)
        else Answer(
            f"ns{number}",
            frozenset(each),
            7200 if each else 0,
            wildcard=bool(how.get("wildcard")),
        )
        for number, each in enumerate(servers)
    )
    status = how.get("status", Status.SECURE)
    owner = str(how.get("owner", OWNER))
    observation = Observation(owner, status, str(how.get("target", owner)), answers)
    rrsets = history.updated((), observation, (), NOW)
    facts = Facts(HOST, observation, rrsets, served, new or served[0])
    facts = replace(facts, ours=bool(how.get("ours", True)))
    return Endpoint(facts, rollover.decide(facts, NOW))


def added(place: Endpoint) -> list[str]:
    return [str(each) for each in changes.additions(place)]


def lines(*records: Record, name: str = OWNER, ttl: int = 7200) -> list[str]:
    return [f"{name}. {ttl} IN TLSA {record}" for record in records]


def test_a_renewed_key_is_added_with_the_ttl_of_the_records_beside_it():
    place = endpoint({OLD}, {OLD}, new=CHAINS[1])

    assert place.decision.state is State.HELD
    assert added(place) == lines(NEW)


def test_nothing_is_added_that_every_server_has():
    assert added(endpoint({OLD, NEW}, {OLD, NEW}, new=CHAINS[1])) == []


def test_what_one_server_lacks_is_added():
    assert added(endpoint({OLD, NEW}, {OLD}, "hangs", new=CHAINS[1])) == lines(NEW)


def test_both_keys_of_a_host_are_added():
    place = endpoint({OTHER}, served=(CHAINS[0], CHAINS[3]))

    assert added(place) == lines(OLD, RSA)


def test_a_key_gets_the_digests_that_the_records_of_others_have():
    place = endpoint({OLD, OLD512}, new=CHAINS[1])

    assert added(place) == lines(NEW, NEW512)


def test_the_records_of_a_wildcard_are_added_before_they_are_hidden():
    place = endpoint({OTHER, OLD}, new=CHAINS[1], wildcard=True)

    assert added(place) == lines(OLD, OTHER, NEW)
    assert added(endpoint({OLD}, wildcard=True)) == []


def test_records_are_added_where_an_alias_leads():
    place = endpoint({OLD}, new=CHAINS[1], target="tlsa.example.net")

    assert added(place) == lines(NEW, name="tlsa.example.net")


def test_a_host_begins_at_port_25_with_a_ttl_of_an_hour():
    submission = OWNER.replace("25", "465")

    assert added(endpoint((), ())) == lines(OLD, ttl=3600)
    assert added(endpoint((), (), owner=submission)) == []


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(endpoint((), ours=False), id="a name that others may have"),
        pytest.param(endpoint({OTHER}, ours=False), id="a name that another has"),
        pytest.param(endpoint(status=Status.INSECURE), id="a zone that is not signed"),
        pytest.param(endpoint(status=Status.UNKNOWN), id="nobody knows"),
    ],
)
def test_nothing_is_added_to(place):
    assert added(place) == []


def removed(place: Endpoint, last: datetime = NOW - 4 * HOUR) -> list[Removal | Kept]:
    """Return what becomes of our records; the old key was needed *last* then."""
    return list(changes.removals(place, {OLD: last, NEW: NOW}, NOW, HOUR))


def switched(*servers: Iterable[Record] | str, **how: object) -> Endpoint:
    """Return an endpoint at which the new key is in service."""
    return endpoint(*servers, served=(CHAINS[1],), **how)


def test_a_record_is_removed_two_ttls_after_it_was_needed_last():
    place = switched({OLD, NEW, OTHER}, {OLD, NEW, OTHER})

    (removal,) = removed(place)

    assert isinstance(removal, Removal)
    assert [str(removal.record)] == lines(OLD)
    assert removal.observed == {str(OLD), str(NEW), str(OTHER)}
    (kept,) = removed(place, NOW - 4 * HOUR + timedelta(seconds=1))
    assert kept == Kept(removal.record, "kept until 2026-11-30 00:00 UTC")


def test_a_clock_that_was_set_back_does_not_prolong_the_wait():
    (kept,) = removed(switched({OLD, NEW}), NOW + 1000 * HOUR)

    assert isinstance(kept, Kept)
    assert kept.reason == "kept until 2026-11-30 04:00 UTC"


def test_the_records_of_others_are_not_removed():
    place = switched({NEW, OTHER})

    assert removed(place) == []


def test_a_key_that_is_served_or_renewed_is_needed():
    assert removed(endpoint({OLD, NEW}, new=CHAINS[1])) == []


def test_what_could_not_be_looked_up_again_is_not_verified():
    known = endpoint({OLD, NEW})
    (record,) = changes.additions(endpoint({OLD}, new=CHAINS[1]))
    observation = Observation(OWNER, Status.UNKNOWN, why="the resolver is down")
    facts = replace(known.facts, observation=observation)
    lost = Endpoint(facts, rollover.decide(facts, NOW))

    assert changes.unlike(record, [known], there=True) == []
    for there in (True, False):
        assert changes.unlike(record, [lost], there=there) == [
            f"those of {OWNER}, which are not known (the resolver is down)"
        ]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (switched({OLD}), "the state is mismatch"),
        (switched({OLD, NEW}, "hangs"), "not every server answers: ns1 hangs"),
        (switched({OLD, NEW}, wildcard=True), "it belongs to a wildcard"),
        (
            switched({OLD, NEW}, {OLD, NEW, OTHER}),
            "the servers have different records",
        ),
    ],
)
def test_a_record_stays_as_long_as_something_is_not_settled(place, reason):
    assert [each.reason for each in removed(place)] == [reason]


# What is shown


def test_who_lacks_a_record_and_which_makes_trouble_is_shown():
    digest = hashlib.sha256(CHAINS[0][0].der).digest()
    whole = Record(3, 0, 1, digest)  # wrong after each renewal
    place = endpoint({OLD, OTHER, whole}, {OLD, OTHER})

    assert list(report.as_text([place]))[1:-1] == [
        f"  {OLD}",
        "    in service, TTL 7200, at every server",
        f"  {whole}",
        "    in service, TTL 7200, missing at ns1",
        f"    {whole.remark()}",
        f"  {OTHER}",
        f"    {report.FOREIGN}, TTL 7200, at every server",
    ]


def test_a_zone_file_gets_no_record_of_others_or_that_makes_trouble():
    digest = hashlib.sha256(CHAINS[0][0].der).digest()
    place = endpoint({OTHER, Record(3, 0, 1, digest)}, new=CHAINS[1])

    assert list(report.as_lines([place])) == [
        *lines(OLD, ttl=3600),
        *lines(NEW, ttl=3600),
    ]
