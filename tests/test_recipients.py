"""MTA-STS: what domains publish is kept as RFC 8461 says, whatever servers do."""

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from certbot_postfix.formats.policy import Entry, Mode, Policy, PolicyError
from certbot_postfix.interfaces import IPolicySource
from certbot_postfix.outbound import mta_sts_cache
from certbot_postfix.outbound import sources as seam
from certbot_postfix.outbound.mta_sts import Recipients, sources
from certbot_postfix.outbound.sources import Context, Settings, Source
from tests.lab import Authority, base_directory
from tests.lab.network import POLICIES, Network

NOW = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
DOMAIN = "sts.insecure"

LOOK = """
import json, sys
from datetime import datetime, timezone
from pathlib import Path
from certbot_postfix.formats.policy import PolicyError
from certbot_postfix.outbound import mta_sts_cache
from certbot_postfix.outbound.mta_sts import Recipients
from certbot_postfix.outbound.sources import Context, Settings
base, at = Path(sys.argv[1]), datetime.fromtimestamp(float(sys.argv[2]), timezone.utc)
settings = Settings(domains=str(base / "domains"))
source = Recipients(Context(settings, base / "kept", base / "authorities.pem"))
told = ""
if source.due(at):
    try:
        source.refresh(at)
    except PolicyError as error:
        told = str(error)
found = {e.domain: [e.policy.mode.value, *e.policy.mxs] for e in source.policies(at)}
states, _ = mta_sts_cache.read(mta_sts_cache.path_in(base / "kept"))
failing = {name: one.why for name, one in states.items() if one.failing}
print(json.dumps([told, failing, found]))
"""


@dataclass
class Looks:
    """A network, in which *domains* are looked up."""

    network: Network
    now: datetime = NOW
    told: str = ""
    failing: dict[str, str] = field(default_factory=dict)
    found: dict[str, list[str]] = field(default_factory=dict)

    def wanted(self, *domains: str) -> None:
        text = "".join(f"{domain}\n" for domain in domains)
        (self.network.base / "domains").write_text(text)

    def publish(self, *texts: str, domain: str = DOMAIN) -> None:
        records = (f'_mta-sts TXT "{text}"' for text in texts)
        self.network.publish(domain, f"mta-sts A {POLICIES}", *records)

    def look(self) -> None:
        """Do what a refresh does; take note of what fails, and what is in force."""
        at = str(self.now.timestamp())
        argv = (sys.executable, "-c", LOOK, str(self.network.base), at)
        said = json.loads(self.network.must(*argv).stdout)
        self.told, self.failing, self.found = said

    def asked(self) -> int:
        """Return how often a policy was fetched."""
        path = self.network.policies / "asked"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(scope="module")
def network(authority: Authority) -> Iterator[Network]:
    with base_directory() as base:
        found = Network(base, authority)
        try:
            found.serve_policies(DOMAIN, "other.insecure")
            yield found
        finally:
            found.close()


@pytest.fixture
def scene(network: Network) -> Iterator[Looks]:
    (network.base / "kept").mkdir(mode=0o700, exist_ok=True)
    found = Looks(network)
    found.wanted(DOMAIN)
    found.publish("v=STSv1; id=1;")
    network.policy(DOMAIN, "mx.sts.insecure", "*.example.net")
    yield found
    for path in [*network.policies.iterdir(), *(network.base / "kept").iterdir()]:
        path.unlink()


pytestmark = pytest.mark.postfix

POLICY = ["enforce", "mx.sts.insecure", ".example.net"]


def test_it_is_a_source():
    context = Context(Settings(domains="/domains"), Path("/kept"))

    (found,) = sources(context)

    assert verifyObject(IPolicySource, found)
    assert sources(Context(Settings(), Path("/kept"))) == []


def test_a_policy_is_followed_and_not_fetched_again_while_its_id_is_the_same(scene):
    scene.look()
    assert (scene.told, scene.found) == ("", {DOMAIN: POLICY})
    scene.look()
    scene.now += 11 * HOUR  # 12 would be half of its life
    scene.look()

    assert (scene.told, scene.found, scene.asked()) == ("", {DOMAIN: POLICY}, 1)


def test_a_policy_that_is_valid_for_an_hour_is_in_force_at_each_hourly_run(scene):
    scene.network.policy(DOMAIN, "mx.sts.insecure", "*.example.net", age=3600)
    for _ in range(12):
        scene.look()
        assert (scene.told, scene.found) == ("", {DOMAIN: POLICY})
        scene.now += HOUR


def test_a_policy_is_extended_while_its_id_is_the_same_though_none_is_served(scene):
    scene.look()
    (scene.network.policies / DOMAIN).unlink()
    for _ in range(8):
        scene.now += 13 * HOUR
        scene.look()
        assert scene.found == {DOMAIN: POLICY}
    assert "the status 404" in scene.failing[DOMAIN]

    scene.publish("v=STSv1; id=2;")
    scene.now += 13 * HOUR
    scene.look()
    scene.now += 13 * HOUR
    scene.look()
    assert scene.found == {}


def test_a_policy_that_ended_is_not_extended(scene):
    scene.look()
    (scene.network.policies / DOMAIN).unlink()
    scene.now += 25 * HOUR

    scene.look()

    assert scene.found == {}


def test_a_policy_is_fetched_anew_in_the_second_half_of_its_life(scene):
    scene.look()
    scene.now += 13 * HOUR

    scene.look()

    assert scene.asked() == 2


def test_a_clock_that_was_wrong_does_not_put_off_the_next_look(scene):
    scene.now += 1000 * 24 * HOUR
    scene.look()
    scene.now -= 1000 * 24 * HOUR
    scene.network.policy(DOMAIN, "mx.example.com")
    scene.publish("v=STSv1; id=2;")

    scene.look()

    assert (scene.told, scene.found) == ("", {DOMAIN: ["enforce", "mx.example.com"]})


def test_a_new_id_brings_a_new_policy(scene):
    scene.look()
    scene.network.policy(DOMAIN, "mx.example.com", age=864000)
    scene.publish("v=STSv1; id=2;")
    scene.now += 12 * HOUR

    scene.look()

    assert scene.found == {DOMAIN: ["enforce", "mx.example.com"]}


def test_none_ends_a_policy_at_once(scene):
    scene.look()
    scene.network.policy(DOMAIN, mode="none")
    scene.publish("v=STSv1; id=2;")
    scene.now += 12 * HOUR

    scene.look()

    assert (scene.told, scene.found) == ("", {})


def test_a_policy_ends_with_its_max_age_if_it_is_published_no_more(scene):
    scene.look()
    scene.publish()
    scene.now += 23 * HOUR
    scene.look()
    assert scene.found == {DOMAIN: POLICY}
    scene.now += 2 * HOUR

    scene.look()

    assert scene.found == {}


NOBODY = [
    pytest.param((), id="no record"),
    pytest.param(("v=spf1 -all",), id="another record"),
    pytest.param(("v=STSv1; id=1;", "v=STSv1; id=2;"), id="two records"),
    pytest.param(("v=STSv1; id=;",), id="no id"),
]


@pytest.mark.parametrize("texts", NOBODY)
def test_without_one_valid_record_there_is_no_policy(scene, texts):
    scene.publish(*texts)

    scene.look()

    assert (scene.told, scene.found, scene.asked()) == ("", {}, 0)


def answer(status: str, kind: str, body: bytes, *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *more]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


TEXT = b"version: STSv1\nmode: enforce\nmx: evil.example\nmax_age: 86400\n"
BAD = [
    pytest.param(
        answer(
            "302 Found", "text/plain", b"", "Location: https://mta-sts.other.insecure/"
        ),
        "answers with the status 302",
        id="a redirect",
    ),
    pytest.param(answer("404 Not Found", "text/plain", TEXT), "status 404", id="404"),
    pytest.param(answer("200 OK", "text/html", TEXT), "type 'text/html'", id="HTML"),
    pytest.param(
        answer("200 OK", "text/plain", TEXT + b"x: y\n" * 14000),
        "longer than 65,536 bytes",
        id="too long",
    ),
    pytest.param(
        answer("200 OK", "text/plain", b"mode: x\n"), "no version", id="rubbish"
    ),
    pytest.param(
        answer("200 OK", "text/plain", TEXT, "Content-Encoding: gzip"),
        "is compressed",
        id="compressed",
    ),
    pytest.param(
        answer(
            "200 OK",
            "text/plain",
            TEXT + b"".join(b"mx: a%d.org\n" % number for number in range(1000)),
        ),
        "mx: it has more than 1000 names",
        id="too many servers",
    ),
    pytest.param(b"\x00\x01\r\n", "is not that of an HTTP server", id="not HTTP"),
]


@pytest.mark.parametrize(("raw", "told"), BAD)
def test_what_is_no_policy_is_told_and_the_one_before_stays(scene, raw, told):
    scene.look()
    (scene.network.policies / f"{DOMAIN}.raw").write_bytes(raw)
    scene.publish("v=STSv1; id=2;")
    scene.now += 12 * HOUR
    scene.look()
    assert told in scene.failing[DOMAIN]
    assert scene.found == {DOMAIN: POLICY}

    scene.now += HOUR  # in which it is not asked again
    (scene.network.policies / f"{DOMAIN}.raw").unlink()
    scene.look()

    assert (scene.failing, scene.found) == ({}, {DOMAIN: POLICY})


def test_a_domain_that_fails_holds_up_no_other(scene):
    scene.wanted(DOMAIN, "silent.insecure", "lame.insecure", "other.insecure")
    scene.publish("v=STSv1; id=1;", domain="other.insecure")
    scene.network.publish(
        "silent.insecure", '_mta-sts TXT "v=STSv1; id=1;"', "mta-sts A 127.0.0.99"
    )
    scene.network.publish("lame.insecure", "@ NS ns.lame.insecure.", "ns A 127.0.0.98")
    scene.network.policy("other.insecure", "mx.other.insecure")

    scene.look()

    assert (scene.told, scene.failing.keys()) == (
        "",
        {"silent.insecure", "lame.insecure"},
    )
    assert scene.found.keys() == {DOMAIN, "other.insecure"}


def test_a_domain_that_leaves_the_file_leaves_the_policies(scene):
    scene.look()
    scene.wanted("other.insecure  # a comment", "", "# another")
    scene.network.publish("other.insecure")

    scene.look()

    assert (scene.told, scene.found) == ("", {})


@pytest.mark.parametrize(
    ("names", "how"),
    [
        pytest.param(("third.insecure",), {}, id="of another name"),
        pytest.param(
            (DOMAIN,),
            {
                "not_before": datetime.now(timezone.utc) - 9 * DAY,
                "not_after": datetime.now(timezone.utc) - DAY,
            },
            id="expired",
        ),
    ],
)
def test_a_server_that_cannot_be_verified_is_not_believed(authority, names, how):
    with base_directory() as base:
        network = Network(base, authority)
        try:
            network.serve_policies(*names, **how)
            (base / "kept").mkdir()
            scene = Looks(network)
            scene.wanted(DOMAIN)
            scene.publish("v=STSv1; id=1;")
            network.policy(DOMAIN, "mx.sts.insecure")

            scene.look()

            assert "its certificate is not valid" in scene.failing[DOMAIN]
            assert scene.found == {}
        finally:
            network.close()


# Without servers


class Nobody:
    """Resolvers that know nothing."""

    def texts(self, _: str) -> list[str]:
        return []

    def has_dane(self, _: str) -> bool:
        return False


def kept_by(directory: Path, text: bytes, *domains: str) -> Recipients:
    return Recipients(context_of(directory, text, *domains), Nobody())


def context_of(directory: Path, text: bytes, *domains: str) -> Context:
    """Write a cache with this *text*, and the *domains* that are wanted."""
    directory.mkdir(exist_ok=True)
    (directory / "mta-sts.json").write_bytes(text)
    wanted = directory / "domains"
    wanted.write_text("".join(f"{domain}\n" for domain in domains))
    return Context(Settings(domains=str(wanted)), directory)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["next", "fetched", "age", "mode", "mxs", "id", "dane", "a.org"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_is_in_the_cache_ends_in_a_policy_or_an_error(tmp_path_factory, found):
    directory = tmp_path_factory.getbasetemp() / "hostile"
    text = json.dumps({"version": 1, "domains": found}).encode()
    source = kept_by(directory, text, "a.org")

    source.due(NOW)
    try:
        entries = list(source.policies(NOW))
        source.refresh(NOW)
    except PolicyError:
        return
    for entry in entries:
        assert not set(entry.domain + "".join(entry.policy.mxs)) & set(" \n\r\t:,{}")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"version": 0}'])
def test_a_cache_that_is_damaged_is_made_anew(tmp_path, text, caplog):
    source = kept_by(tmp_path, text, "a.org")

    assert source.due(NOW)
    source.refresh(NOW)

    assert not source.due(NOW)
    assert "is damaged: all domains are looked up anew" in caplog.text


ONE = {"next": int(NOW.timestamp()) + 3600, "mode": "enforce", "mxs": ["mx.org"]}
ONE |= {"fetched": int(NOW.timestamp()), "age": 864000, "id": "1"}


@pytest.mark.parametrize(
    "damage",
    [
        {"mode": "force"},
        {"mxs": []},
        {"mxs": ["mx.org", "mx .org"]},
        {"mxs": [f"mx{number}.org" for number in range(1001)]},
        {"mxs": ["m" * 2_000_000]},
        {"id": "1 2"},
        {"age": "1"},
        {"dane": "no"},
        {"next": None},
        {"failing": "yes"},
    ],
)
def test_a_damaged_entry_of_the_cache_costs_its_domain_only(tmp_path, damage, caplog):
    domains = {"a.org": ONE, "b.org": {**ONE, **damage}}
    text = json.dumps({"version": 1, "domains": domains}).encode()
    context = replace(
        context_of(tmp_path, text, *domains),
        entries=lambda: [
            Entry("b.org", Policy(Mode.ENFORCE, ("mx.b.org",)), NOW + DAY, "MTA-STS")
        ],
    )
    source = Source("MTA-STS", Recipients(context, Failing()))

    told, known = seam.known(source, NOW, ())
    assert ([entry.domain for entry in known or []], told) == (["a.org"], [])
    assert seam.due(source, NOW)
    failures = seam.refresh(source, NOW)
    told, known = seam.known(source, NOW, failures)

    assert {entry.domain: entry.policy.mxs for entry in known or []} == {
        "a.org": ("mx.org",),
        "b.org": ("mx.b.org",),
    }
    states, _ = mta_sts_cache.read(tmp_path / "mta-sts.json")
    assert (told, states["b.org"].why) == ([], "_mta-sts.b.org: no answer")
    assert "the entry for 'b.org' is damaged: it is looked up anew" in caplog.text


@pytest.mark.parametrize("line", ["exa mple", "a.org b.org", "*.org", "127.0.0.1"])
def test_what_is_no_domain_is_named_with_its_line(tmp_path, line):
    source = kept_by(tmp_path, b"", "a.org", line)

    with pytest.raises(PolicyError, match=r"domains, line 2: .* is not the name of a"):
        source.refresh(NOW)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            "exa mple\na.org.\n", "line 1: it is not the name of a domain", id="a line"
        ),
        pytest.param("# nothing\n", "names no domain; --postfix-", id="empty"),
        pytest.param("b\u00fccher.org\n", "is not in UTF-8", id="latin-1"),
        pytest.param(None, "could not read", id="no file"),
    ],
)
def test_while_the_file_is_wrong_what_was_wanted_stays_and_is_looked_up(
    tmp_path, text, told
):
    until = {"next": 0, "mode": "enforce", "mxs": ["mx.org"], "id": "1"}
    until |= {"fetched": int(NOW.timestamp()), "age": 864000}
    domains = {"kept.org": until, "not a domain": until}
    cache = json.dumps({"version": 1, "domains": domains}).encode()
    source = kept_by(tmp_path, cache, "a.org.")
    path = tmp_path / "domains"
    path.unlink() if text is None else path.write_text(text, "latin-1")

    for _ in range(2):  # that is an error each time
        assert source.due(NOW)
        with pytest.raises(PolicyError, match=told):
            source.refresh(NOW)

    found = json.loads((tmp_path / "mta-sts.json").read_text())["domains"]
    assert [entry.domain for entry in source.policies(NOW)] == ["kept.org"]
    assert found.keys() == {
        "kept.org",
        *(["a.org"] if text and "a.org" in text else []),
    }
    assert all(one["next"] > NOW.timestamp() for one in found.values())

    path.write_text("a.org\n")
    source.refresh(NOW)

    assert list(source.policies(NOW)) == []
    assert not source.due(NOW)


def test_what_is_in_force_stays_though_the_cache_is_lost(tmp_path):
    policy = Policy(Mode.ENFORCE, ("mx.org", ".example.net"))
    entries = [
        Entry("a.org", policy, NOW + DAY, "MTA-STS"),
        Entry("b.org", policy, NOW - DAY, "MTA-STS"),
        Entry("c.org", policy, NOW + DAY, "a list"),
    ]
    (tmp_path / "domains").write_text("a.org\nb.org\nc.org\n")
    settings = Settings(domains=str(tmp_path / "domains"))
    context = Context(settings, tmp_path, entries=lambda: entries)
    source = Recipients(context, Failing())

    source.refresh(NOW)

    (found,) = source.policies(NOW)
    assert found[:4] == entries[0][:4]


def test_what_is_in_force_stays_though_the_cache_is_lost_and_the_file_is_wrong(
    tmp_path,
):
    policy = Policy(Mode.ENFORCE, ("mx.org",))
    in_force = [Entry("a.org", policy, NOW + DAY, "MTA-STS")]
    settings = Settings(domains=str(tmp_path / "missing"))
    context = Context(settings, tmp_path, entries=lambda: in_force)
    source = Recipients(context, Nobody())

    with pytest.raises(PolicyError, match="could not read"):
        source.refresh(NOW)

    assert [entry[:4] for entry in source.policies(NOW)] == [in_force[0][:4]]


class Failing(Nobody):
    """Resolvers that do not answer of records, but of DANE."""

    def texts(self, name: str) -> list[str]:
        raise PolicyError(f"{name}: no answer")


@pytest.mark.parametrize("before", [True, False])
def test_whether_dane_protects_a_domain_is_asked_though_its_policy_fails(
    tmp_path, before
):
    class Asked(Failing):
        def has_dane(self, _: str) -> bool:
            return not before

    one = {"next": 0, "mode": "enforce", "mxs": ["mx.org"], "id": "1", "dane": before}
    one |= {"fetched": int(NOW.timestamp()), "age": 864000}
    text = json.dumps({"version": 1, "domains": {"a.org": one}}).encode()
    context = replace(context_of(tmp_path, text, "a.org"), dane=True)
    source = Recipients(context, Asked())

    source.refresh(NOW)

    assert [entry.dane for entry in source.policies(NOW)] == [not before]


def test_of_many_lines_that_are_wrong_a_few_are_named(tmp_path):
    lines = [f"exa mple{number}" for number in range(8)]
    source = kept_by(tmp_path, b"", *lines)

    with pytest.raises(PolicyError, match=r"line 5: .*; 3 more$") as told:
        source.refresh(NOW)
    assert "line 6" not in str(told.value)


class Hanging(Nobody):
    """Resolvers of which one question is not answered before `let_go`."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def texts(self, name: str) -> list[str]:
        if name.endswith("slow.org"):
            self.let_go.wait(60)
        return []


def test_a_domain_that_hangs_is_told_and_due_again(tmp_path, caplog):
    context = context_of(tmp_path, b"{}", "a.org", "slow.org", "b.org")
    hanging = Hanging()
    source = Recipients(context, hanging, seconds=0.5)
    try:
        source.refresh(NOW)
    finally:
        hanging.let_go.set()

    assert "1 of 3 domains were not looked up within" in caplog.text
    done = json.loads((tmp_path / "mta-sts.json").read_text())["domains"]
    assert {name for name, one in done.items() if one["next"]} == {"a.org", "b.org"}
    assert source.due(NOW)


def test_what_is_kept_is_not_written_when_nothing_has_changed(tmp_path):
    source = kept_by(tmp_path, b'{"version": 1, "domains": {}}', "a.org")
    source.refresh(NOW)
    before = (tmp_path / "mta-sts.json").stat()

    source.refresh(NOW)

    assert (tmp_path / "mta-sts.json").stat() == before
