"""Of a list, only what is good is kept, and what is good stays."""

import contextlib
import gzip
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from certbot_postfix.errors import Error, NetworkError
from certbot_postfix.formats.policy import Mode, PolicyError
from certbot_postfix.interfaces import IPolicySource
from certbot_postfix.outbound import entries, lists
from certbot_postfix.outbound.sources import Context, Settings
from certbot_postfix.system import https
from certbot_postfix.system.https import Bounds
from tests.lab import Authority
from tests.lab.postfix import snapshot
from tests.test_tables import no_space

NOW = datetime.now(timezone.utc)
HOUR = timedelta(hours=1)


def written(
    *domains: str, mode: str = "enforce", since: float = -1, until: float = 30
) -> bytes:
    """Return a list of *domains*, good *since* and *until* so many days from now."""
    return json.dumps(
        {
            "version": "0.1",
            "timestamp": (NOW + timedelta(days=since)).timestamp(),
            "expires": (NOW + timedelta(days=until)).timestamp(),
            "policies": {name: {"mode": mode, "mxs": ["mx.org"]} for name in domains},
        }
    ).encode()


@dataclass
class Place:
    """A list in a file, and what a source makes of it."""

    path: Path
    context: Context
    now: datetime = NOW

    def publish(self, body: bytes) -> None:
        self.path.write_bytes(body)

    @property
    def source(self) -> lists.List:
        """The source as a new run has it."""
        (found,) = lists.sources(self.context)
        return found

    def refresh(self) -> None:
        source = self.source
        if source.due(self.now):
            source.refresh(self.now)

    def domains(self) -> list[str]:
        return [entry.domain for entry in self.source.policies(self.now)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o700)
    path = tmp_path / "list.json"
    path.write_bytes(written("example.org", "example.net"))
    return Place(path, Context(Settings((str(path),)), kept))


def test_a_list_is_a_source(place):
    assert verifyObject(IPolicySource, place.source)


def test_the_policies_of_a_list_have_its_end_and_its_name(place):
    place.refresh()

    first, second = place.source.policies(NOW)
    assert (first.domain, second.domain) == ("example.org", "example.net")
    assert first.policy == (Mode.ENFORCE, ("mx.org",))
    assert abs(first.expires - NOW - timedelta(days=30)) < HOUR
    assert first.source == str(place.path)


def test_what_a_list_gives_needs_no_second_check(place):
    document = json.loads(written("EXAMPLE.org", "b\u00fccher.example", "alias.org"))
    policies = document["policies"]
    policies["EXAMPLE.org"]["mxs"] = ["MX.org", ".example.net", "b\u00fccher.example"]
    policies["alias.org"] = {"policy-alias": "shared"}
    document["policy-aliases"] = {"shared": {"mode": "testing", "mxs": ["mx.org"]}}
    place.publish(json.dumps(document).encode())
    place.refresh()

    given = list(place.source.policies(NOW))

    assert len(given) == 3
    assert list(entries.checked(given, place.source.label, NOW)) == given


def test_what_is_tested_is_enforced_for_early_adopters_only(place):
    place.publish(written("example.org", mode="testing"))
    place.refresh()
    (tested,) = place.source.policies(NOW)
    settings = Settings(place.context.settings.lists, early_adopter=True)
    place.context = Context(settings, place.context.directory)

    (enforced,) = place.source.policies(NOW)

    assert tested.policy.mode is Mode.TESTING
    assert enforced.policy.mode is Mode.ENFORCE


def test_a_list_that_has_not_changed_is_not_due(place):
    place.refresh()
    assert not place.source.due(NOW)

    place.publish(written("example.org", "example.com"))
    assert place.source.due(NOW)


def test_a_clock_that_was_wrong_does_not_put_off_the_next_look(remote, web):
    remote.now += timedelta(days=20)
    remote.refresh()
    remote.now = NOW

    assert remote.source.due(NOW)


def test_what_is_kept_is_for_root_alone(place):
    place.refresh()

    modes = {path.stat().st_mode & 0o777 for path in place.context.directory.iterdir()}
    assert modes == {0o600}


# What is not good


BAD = [
    pytest.param(b"{", "is not JSON", id="not JSON"),
    pytest.param(written("exa mple"), r"policies\.exa mple", id="a bad name"),
    pytest.param(
        written("example.org", until=-0.5), "what is published expired", id="expired"
    ),
    pytest.param(written("example.org", "a.org", since=-2), "is older", id="older"),
    pytest.param(written(), "0 domains where the list before has 2", id="shorter"),
    pytest.param(written("a.org", "b.org", since=1.1), "is in the future", id="ahead"),
]


@pytest.mark.parametrize(("body", "told"), BAD)
def test_a_bad_list_is_an_error_each_time_and_changes_nothing(place, body, told):
    place.refresh()
    place.publish(body)

    for _ in range(2):
        with pytest.raises(PolicyError, match=told):
            place.refresh()

    assert place.domains() == ["example.org", "example.net"]


def test_a_list_that_is_mended_is_followed(place):
    place.refresh()
    place.publish(b"{")
    with pytest.raises(PolicyError):
        place.refresh()
    place.publish(written("example.com", "example.org"))

    place.refresh()

    assert place.domains() == ["example.com", "example.org"]
    assert not place.source.due(NOW)


def test_a_list_of_less_than_half_the_domains_is_not_followed(place):
    place.publish(written(*"abcde"))
    place.refresh()
    place.publish(written(*"ab"))

    with pytest.raises(PolicyError, match="2 domains where the list before has 5"):
        place.refresh()

    assert place.domains() == [*"abcde"]


def test_a_list_of_half_the_domains_is_followed(place):
    place.refresh()
    place.publish(written("example.org"))

    place.refresh()

    assert place.domains() == ["example.org"]


def test_who_means_it_removes_what_is_kept(place):
    place.refresh()
    place.publish(written())
    with pytest.raises(PolicyError) as caught:
        place.refresh()
    Path(caught.value.hint.rpartition(" ")[2]).unlink()

    place.refresh()

    assert place.domains() == []


def test_a_list_that_is_gone_is_an_error_and_what_it_said_stays(place):
    place.refresh()
    place.path.unlink()

    with pytest.raises(PolicyError, match=r"could not read .*No such file"):
        place.refresh()

    assert place.domains() == ["example.org", "example.net"]


def test_a_list_that_has_expired_is_followed_no_more_and_that_is_repeated(place):
    place.refresh()
    place.now = NOW + timedelta(days=31)

    for _ in range(2):
        with pytest.raises(PolicyError, match=r"expired on .* no longer applied"):
            place.refresh()

    assert place.domains() == []


def test_of_a_list_that_has_expired_it_is_also_told_that_no_other_is_there(place):
    place.refresh()
    place.path.unlink()
    place.now = NOW + timedelta(days=31)

    with pytest.raises(PolicyError, match=r"is no longer applied; .* could not read"):
        place.refresh()


@pytest.mark.parametrize("name", ["list.json", "http://127.0.0.1/list.json", "ftp://a"])
def test_another_place_than_a_path_or_https_is_an_error_of_that_list(place, name):
    place.context = Context(Settings((name,)), place.context.directory)

    with pytest.raises(Error, match="https URL"):
        place.refresh()


def test_a_label_fits_into_one_line(place):
    place.context = Context(Settings(("/a\nb",)), place.context.directory)

    assert place.source.label == r"'/a\nb'"


# The last one is what a first list leaves that failed, and was killed when it came.
@pytest.mark.parametrize(
    "text",
    [
        None,
        b"{torn",
        b'{"failed": true, "checked": 1.0}',
        b"[" * 100_000,
        b'{"failed": false, "checked": 1, "expires": 9e99, "timestamp": 1, "count": 1}',
        b'{"failed": false, "checked": 1, "expires": NaN, "timestamp": 1, "count": 1}',
        b'{"failed": false, "checked": 1, "expires": true, "timestamp": 1, "count": 1}',
        b'{"failed": false, "checked": 1%s, "expires": 1, "timestamp": 1, "count": 1}'
        % (b"0" * 400),
        b'{"failed": true, "checked": 1, "expires": -1e300, "count": 1}',
        b'{"failed": "no", "checked": 1, "expires": 1, "timestamp": 1, "count": 1}',
    ],
)
def test_what_was_seen_may_be_lost(place, text):
    place.refresh()
    (seen,) = place.context.directory.glob("*.seen")
    if text is None:
        seen.unlink()
    else:
        seen.write_bytes(text)
    place.publish(written("a.org", "b.org", since=-2))

    with pytest.raises(PolicyError, match="is older"):
        place.refresh()


def test_what_is_kept_may_be_damaged(place):
    place.refresh()
    for path in place.context.directory.iterdir():
        path.write_bytes(b"{")

    place.refresh()

    assert place.domains() == ["example.org", "example.net"]


def test_a_list_that_ends_with_the_calendar_is_followed(place):
    text = json.loads(written("example.org"))
    for end in ("9999-12-31T23:59:59.999999+00:00", "9999-12-31T23:59:59-23:59"):
        place.publish(json.dumps({**text, "expires": end}).encode())
        with contextlib.suppress(PolicyError):  # the second one is no time in UTC
            place.refresh()

    assert place.domains() == ["example.org"]
    assert place.source.due(NOW)
    place.publish(json.dumps({**text, "expires": "9999-12-31T23:59:59.9"}).encode())
    place.refresh()
    assert not place.source.due(NOW)


def test_of_duplicates_that_differ_the_domain_is_named_once(place, caplog):
    entry = '{"mxs": ["mx%d.org"]}'
    twice = f'"a.org": {entry % 1}, "a.org": {entry % 2}, "example.org"'.encode()
    place.publish(written("example.org").replace(b'"example.org"', twice))

    place.refresh()
    place.refresh()

    assert place.domains() == ["example.org"]
    assert caplog.text.count("a.org: none of them is followed") == 1


def test_what_was_seen_may_be_of_the_list_before(place):
    place.refresh()
    (seen,) = place.context.directory.glob("*.seen")
    before = seen.read_bytes()
    place.publish(written("a.org"))
    place.refresh()
    seen.write_bytes(before)  # as after a kill between the two files

    assert place.domains() == ["a.org"]
    place.refresh()
    assert not place.source.due(NOW)


@pytest.mark.postfix
def test_a_full_disk_is_an_error_and_what_is_kept_stays(place):
    place.refresh()
    place.publish(written("example.com", "example.org"))

    with no_space(place.context.directory, 0):
        with pytest.raises(Error, match="No space left"):
            place.refresh()
        assert place.domains() == ["example.org", "example.net"]


# Signed


@dataclass
class Signer:
    """A key of OpenPGP, and the keyring that has it."""

    home: Path
    keyring: Path = field(init=False)

    def __post_init__(self) -> None:
        self.home.mkdir(mode=0o700)
        self.keyring = self.home / "keyring.gpg"
        user = "lists@example.org"
        self.gpg("--passphrase", "", "--quick-generate-key", user, "ed25519", "sign")
        self.gpg("--output", str(self.keyring), "--export")

    def gpg(self, *options: str) -> None:
        command = ["gpg", "--batch", "--quiet", "--homedir", str(self.home)]
        done = subprocess.run(
            [*command, "--pinentry-mode", "loopback", *options],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def sign(self, path: Path) -> None:
        signature = f"{path}.asc"
        self.gpg("--yes", "--armor", "--output", signature, "--detach-sign", str(path))

    def sign_as(self, path: Path, *users: str, when: str = "") -> None:
        """Sign *path* by the keys of *users*, at the time *when*."""
        signature = f"{path}.asc"
        keys = [part for user in users for part in ("--local-user", user)]
        clock = ["--faked-system-time", when] if when else []
        self.gpg(
            *(*clock, *keys, "--yes", "--armor", "--output", signature),
            *("--detach-sign", str(path)),
        )

    def export(self, keyring: Path, *users: str) -> str:
        self.gpg("--yes", "--output", str(keyring), "--export", *users)
        return str(keyring)

    def sign_inside(self, path: Path) -> None:
        """Sign *path*, and have it in the signature, which is not detached."""
        self.gpg("--yes", "--armor", "--output", f"{path}.asc", "--sign", str(path))

    def end(self) -> None:
        command = ["gpgconf", "--homedir", str(self.home), "--kill", "all"]
        subprocess.run(command, check=False, capture_output=True)


@pytest.fixture(scope="module")
def signers() -> Iterator[list[Signer]]:
    # The sockets of its agent need a short path.
    base = Path(f"/tmp/gpg-{os.getpid()}")
    base.mkdir(mode=0o700)
    found = [Signer(base / name) for name in ("one", "two")]
    yield found
    for each in found:
        each.end()
    shutil.rmtree(base, ignore_errors=True)


THEN = "20200101T000000!"


@pytest.fixture(scope="module")
def keys(signers: list[Signer]) -> Signer:
    """Have keys that are good, two of them, and one that expired in 2020."""
    found = Signer(signers[0].home.with_name("keys"))
    new = ("--passphrase", "", "--quick-generate-key")
    for user in ("old", "new"):
        found.gpg(*new, f"{user}@example.org", "ed25519", "sign")
    found.gpg(
        *("--faked-system-time", THEN, *new, "expired@example.org", "ed25519"),
        *("sign", "1d"),
    )
    signers.append(found)
    return found


@pytest.mark.parametrize("known", ["old", "new", "old new", "new expired"])
def test_a_list_signed_by_an_old_and_a_new_key_is_followed_with_either(
    place, keys, tmp_path, known
):
    keys.sign_as(place.path, "old@example.org", "new@example.org")
    users = [f"{user}@example.org" for user in known.split()]
    keyring = keys.export(tmp_path / "keyring.gpg", *users)
    settings = Settings((str(place.path),), keyring=keyring)
    place.context = Context(settings, place.context.directory)

    place.refresh()

    assert place.domains() == ["example.org", "example.net"]


@pytest.mark.parametrize("known", ["expired", "expired old", "old"])
def test_a_list_that_only_an_expired_key_has_signed_is_refused(
    place, keys, tmp_path, known
):
    keys.sign_as(place.path, "expired@example.org", when=THEN)
    users = [f"{user}@example.org" for user in known.split()]
    keyring = keys.export(tmp_path / "keyring.gpg", *users)
    settings = Settings((str(place.path),), keyring=keyring)
    place.context = Context(settings, place.context.directory)
    told = "the key that signed it has expired" if "expired" in known else "public key"

    with pytest.raises(PolicyError, match=told):
        place.refresh()

    assert place.domains() == []


def test_an_expired_key_beside_a_good_one_does_not_spoil_the_signature(
    place, keys, tmp_path
):
    keys.sign_as(place.path, "expired@example.org", when=THEN)
    first = Path(f"{place.path}.asc")
    keys.gpg("--yes", "--dearmor", "--output", str(tmp_path / "1"), str(first))
    keys.sign_as(place.path, "new@example.org")
    keys.gpg("--yes", "--dearmor", "--output", str(tmp_path / "2"), str(first))
    first.write_bytes((tmp_path / "1").read_bytes() + (tmp_path / "2").read_bytes())
    settings = Settings((str(place.path),), keyring=str(tmp_path / "keyring.gpg"))
    keys.export(tmp_path / "keyring.gpg", "expired@example.org", "new@example.org")
    place.context = Context(settings, place.context.directory)

    place.refresh()
    assert place.domains() == ["example.org", "example.net"]

    place.publish(written("example.org", "evil.example", since=0))
    with pytest.raises(PolicyError, match="is not signed by a key in"):
        place.refresh()


@pytest.fixture
def signed(place: Place, signers: list[Signer]) -> Place:
    signers[0].sign(place.path)
    settings = Settings((str(place.path),), keyring=str(signers[0].keyring))
    place.context = Context(settings, place.context.directory)
    return place


def test_a_list_that_is_signed_is_followed(signed):
    signed.refresh()

    assert signed.domains() == ["example.org", "example.net"]
    assert {path.suffix for path in signed.context.directory.iterdir()} == {
        ".list",
        ".seen",
    }


@pytest.mark.parametrize(
    "how", ["unsigned", "other key", "tampered", "no signature", "another inside"]
)
def test_a_list_that_is_not_signed_by_the_key_is_refused(signed, signers, how):
    signed.refresh()
    signers[0].sign_inside(signed.path)
    another_inside = Path(f"{signed.path}.asc").read_bytes()
    signers[0].sign(signed.path)
    signed.publish(written("example.org", "evil.example"))
    signature = Path(f"{signed.path}.asc")
    if how == "unsigned":
        signature.unlink()
    elif how == "other key":
        signers[1].sign(signed.path)
    elif how == "no signature":
        signature.write_bytes(b"\n")
    elif how == "another inside":
        signature.write_bytes(another_inside)

    for _ in range(2):
        with pytest.raises(
            PolicyError, match=r"is not signed by a key in|could not re"
        ):
            signed.refresh()

    assert signed.domains() == ["example.org", "example.net"]


def test_a_list_that_was_kept_unsigned_does_not_count_when_it_must_be_signed(
    place, signers
):
    place.refresh()
    settings = Settings((str(place.path),), keyring=str(signers[0].keyring))
    place.context = Context(settings, place.context.directory)

    with pytest.raises(PolicyError):
        place.refresh()

    assert place.domains() == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("armored.asc", "is armored, which gpgv does not read"),
        ("../keyring.gpg", "is not an absolute path"),
        ("none.gpg", "could not read .*No such file"),
        ("empty.gpg", "is not signed by a key in"),
    ],
)
def test_a_keyring_that_gpgv_cannot_read_is_told(signed, signers, tmp_path, name, told):
    (tmp_path / "empty.gpg").touch()
    signers[0].gpg(
        "--armor", "--yes", "--output", str(tmp_path / "armored.asc"), "--export"
    )
    keyring = name if name.startswith("..") else str(tmp_path / name)
    settings = Settings((str(signed.path),), keyring=keyring)
    signed.context = Context(settings, signed.context.directory)

    for _ in range(2):
        with pytest.raises(Error, match=told):
            signed.refresh()


def test_of_a_signed_list_that_has_expired_it_is_told_that_its_keyring_is_gone(
    signed, tmp_path
):
    keyring = tmp_path / "keyring.gpg"
    shutil.copy(signed.context.settings.keyring, keyring)
    settings = Settings((str(signed.path),), keyring=str(keyring))
    signed.context = Context(settings, signed.context.directory)
    signed.refresh()
    keyring.unlink()
    signed.now = NOW + timedelta(days=31)

    with pytest.raises(PolicyError, match=r"is no longer applied; .* could not read"):
        signed.refresh()


def test_a_machine_without_gpgv_is_told(signed, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Error, match="the program gpgv was not found"):
        signed.refresh()


# Over HTTPS


Reply = Callable[[BaseHTTPRequestHandler], None]


class Web:
    """A server on loopback; *replies* are by path."""

    def __init__(self, context: ssl.SSLContext, host: str = "127.0.0.1") -> None:
        self.replies: dict[str, Reply] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.asked.append((self.path, dict(self.headers)))
                with contextlib.suppress(OSError):
                    web.replies.get(self.path, not_there)(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            ended: list[str] = []  # what was waited for to its end
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, *_: object) -> None:
                pass

        self.server = Server((host, 0), Handler)
        self.server.daemon_threads = True
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path: str, host: str = "localhost") -> str:
        return f"https://{host}:{self.server.server_port}{path}"


def not_there(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(404)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def body(text: bytes, **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        etag = headers.get("ETag")
        if etag and handler.headers.get("If-None-Match") == etag:
            handler.send_response(304)
            handler.end_headers()
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(text)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(text)

    return reply


def redirect(target: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return reply


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(400):
            handler.wfile.write(b" ")
            time.sleep(0.05)
        handler.server.ended.append(handler.path)


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b" " * 65536)


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"{")
    handler.close_connection = True


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    with contextlib.suppress(OSError):
        for _ in range(400):
            handler.wfile.write(b"H")
            time.sleep(0.05)
        handler.server.ended.append(handler.path)


def without_length(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(b"max_age: 6")


def ended(handler: BaseHTTPRequestHandler) -> None:
    without_length(handler)
    handler.connection.settimeout(5)
    handler.connection.unwrap()


def ended_early(handler: BaseHTTPRequestHandler) -> None:
    cut_off(handler)
    handler.connection.settimeout(5)
    handler.connection.unwrap()


def no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"220 mx.example.org ESMTP\r\n")
    handler.close_connection = True


def served_by(authority: Authority, tmp_path: Path, *names: str, **how) -> Web:
    issued = authority.issue(*names, **how)
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.pem"
    path.write_bytes(issued.bundle_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return Web(context, names[0] if ":" in names[0] else "127.0.0.1")


@pytest.fixture
def trusted(authority: Authority, tmp_path: Path) -> Path:
    path = tmp_path / "authorities.pem"
    path.write_bytes(authority.root_pem)
    return path


@pytest.fixture
def web(authority: Authority, tmp_path: Path) -> Iterator[Web]:
    found = served_by(authority, tmp_path, "localhost")
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def remote(place: Place, web: Web, trusted: Path) -> Place:
    web.replies["/list.json"] = body(place.path.read_bytes(), ETag='"1"')
    settings = Settings((web.url("/list.json"),))
    place.context = Context(settings, place.context.directory, trusted)
    return place


LITTLE = Bounds(100_000, seconds=1.0, redirects=1)


def test_a_list_is_fetched_and_then_asked_for_conditionally(remote, web):
    remote.refresh()
    remote.refresh()
    assert len(web.asked) == 1  # within six hours
    remote.now = NOW + 7 * HOUR

    remote.refresh()

    assert remote.domains() == ["example.org", "example.net"]
    assert [headers.get("If-None-Match") for _, headers in web.asked] == [None, '"1"']
    assert not remote.source.due(remote.now)


def test_a_validator_that_is_damaged_is_not_sent(remote, web):
    remote.refresh()
    (seen,) = remote.context.directory.glob("*.seen")
    seen.write_text(json.dumps({**json.loads(seen.read_bytes()), "etag": 1}))
    remote.now = NOW + 7 * HOUR

    remote.refresh()

    assert [headers.get("If-None-Match") for _, headers in web.asked] == [None, None]


def test_a_list_that_has_expired_is_an_error_though_there_is_no_other(remote, web):
    remote.refresh()
    remote.now = NOW + timedelta(days=31)

    with pytest.raises(PolicyError, match=r"expired on .* no longer applied"):
        remote.refresh()

    assert remote.domains() == []


def test_a_bad_list_is_an_error_each_time_though_it_has_not_changed(remote, web):
    remote.refresh()
    remote.now = NOW + 7 * HOUR
    web.replies["/list.json"] = body(b"{", ETag='"2"')

    for _ in range(2):
        with pytest.raises(PolicyError, match="is not JSON"):
            remote.refresh()

    assert remote.domains() == ["example.org", "example.net"]


def test_after_an_error_the_whole_list_is_asked_for(remote, web):
    remote.refresh()
    remote.now = NOW + 7 * HOUR
    web.replies["/list.json"] = body(b"{", Last_Modified="today")
    with pytest.raises(PolicyError):
        remote.refresh()
    web.replies["/list.json"] = body(remote.path.read_bytes(), ETag='"1"')

    remote.refresh()

    asked = [headers.get("If-None-Match") for _, headers in web.asked]
    assert asked == [None, '"1"', None]
    assert not remote.source.due(remote.now)


def test_a_server_that_has_no_list_is_an_error(remote, web):
    web.replies.clear()

    with pytest.raises(PolicyError, match="answers with the status 404"):
        remote.refresh()


def test_a_list_that_must_be_signed_is_fetched_with_its_signature(
    remote, web, signers, trusted
):
    signers[0].sign(remote.path)
    web.replies["/list.json.asc"] = body(Path(f"{remote.path}.asc").read_bytes())
    settings = Settings(remote.context.settings.lists, str(signers[0].keyring))
    remote.context = Context(settings, remote.context.directory, trusted)

    remote.refresh()

    assert remote.domains() == ["example.org", "example.net"]
    assert [path for path, _ in web.asked] == ["/list.json", "/list.json.asc"]


def test_one_redirect_is_followed(web, trusted):
    web.replies["/a"] = redirect("/b")
    web.replies["/b"] = body(b"there")

    assert https.get(web.url("/a"), LITTLE, trusted).body == b"there"


def test_the_query_of_a_url_is_part_of_what_is_asked_for(web, trusted):
    web.replies["/a?b=c"] = body(b"there")

    assert https.get(web.url("/a?b=c"), LITTLE, trusted).body == b"there"


def test_a_second_redirect_is_not_followed(web, trusted):
    web.replies["/a"] = redirect("/a")

    assert https.get(web.url("/a"), LITTLE, trusted).status == 302
    assert len(web.asked) == 2


def test_where_no_redirect_is_allowed_it_is_the_answer(web, trusted):
    web.replies["/a"] = redirect("/b")

    answer = https.get(web.url("/a"), Bounds(1000, 1.0), trusted)

    assert (answer.status, len(web.asked)) == (302, 1)


def test_a_redirect_to_clear_text_is_refused(web, trusted):
    web.replies["/a"] = redirect("http://localhost/b")

    with pytest.raises(NetworkError, match="only an https URL"):
        https.get(web.url("/a"), LITTLE, trusted)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        pytest.param(drip, "did not answer in time", id="drips"),
        pytest.param(drip_headers, "did not answer in time", id="drips before it"),
        pytest.param(endless, "longer than 100,000 bytes", id="never ends"),
        pytest.param(cut_off, "cut off", id="is cut off"),
        pytest.param(without_length, "cut off", id="may be cut off"),
        pytest.param(ended_early, "the answer was cut off", id="ends early"),
        pytest.param(no_http, "not that of an HTTP server", id="is of another kind"),
        pytest.param(redirect("https://["), "which is no URL", id="redirects nowhere"),
        pytest.param(
            body(gzip.compress(b"{}"), Content_Encoding="gzip"),
            "is compressed",
            id="is compressed",
        ),
    ],
)
def test_a_server_that_behaves_badly_is_an_error(web, trusted, reply, told):
    web.replies["/a"] = reply

    with pytest.raises(NetworkError, match=told):
        https.get(web.url("/a"), LITTLE, trusted)

    assert web.server.ended == []


@contextlib.contextmanager
def lenient(monkeypatch) -> Iterator[None]:
    """Have contexts that take each end of a connection for good, as Debian's are."""
    made = ssl.create_default_context

    def create(**how: str | None) -> ssl.SSLContext:
        context = made(**how)
        context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
        return context

    with monkeypatch.context() as patch:
        patch.setattr(ssl, "create_default_context", create)
        yield


def test_an_answer_that_may_be_cut_off_is_refused_by_any_python(
    web, trusted, monkeypatch
):
    web.replies["/a"] = without_length

    with lenient(monkeypatch), pytest.raises(NetworkError, match="cut off"):
        https.get(web.url("/a"), LITTLE, trusted)


def test_a_connection_is_closed_though_an_error_is_still_looked_at(web, trusted):
    closed = threading.Event()

    def compressed(handler: BaseHTTPRequestHandler) -> None:
        body(b"?" * 1000, Content_Encoding="gzip")(handler)
        handler.connection.settimeout(10)
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            handler.connection.recv(1)
        closed.set()

    web.replies["/a"] = compressed
    with pytest.raises(NetworkError) as caught:
        https.get(web.url("/a"), LITTLE, trusted)

    assert closed.wait(5), caught


def test_an_answer_may_end_with_the_connection_if_tls_says_so(web, trusted):
    web.replies["/a"] = ended

    assert https.get(web.url("/a"), LITTLE, trusted).body == b"max_age: 6"


def test_the_authorities_of_the_system_are_not_read_where_others_are_named(
    web, trusted, monkeypatch
):
    web.replies["/a"] = body(b"there")
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", None)

    assert https.get(web.url("/a"), LITTLE, trusted).body == b"there"


@contextlib.contextmanager
def full(port: int = 0) -> Iterator[int]:
    """Listen at 127.0.0.2, with as many clients that the next one waits."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.2", port))
        server.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def have_addresses(monkeypatch, *found: str) -> None:
    """Let the name localhost have these addresses."""
    asked = socket.getaddrinfo

    def answer(host: str, *how: object, **more: object) -> list[tuple]:
        if host != "localhost":
            return asked(host, *how, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (at, 0)) for at in found]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def test_all_addresses_of_a_server_share_its_time(trusted, monkeypatch):
    with full() as port:
        have_addresses(monkeypatch, *["127.0.0.2"] * 4)
        began = time.monotonic()

        with pytest.raises(NetworkError, match="did not answer in time"):
            https.get(f"https://localhost:{port}/", LITTLE, trusted)

    assert time.monotonic() - began < 2 * LITTLE.seconds


def test_a_name_that_is_not_looked_up_in_time_is_an_error(trusted, monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: let_go.wait(10))
    began = time.monotonic()

    with pytest.raises(NetworkError, match="did not answer in time"):
        https.get("https://localhost/", LITTLE, trusted)

    assert time.monotonic() - began < 2 * LITTLE.seconds
    let_go.set()


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    web, trusted, monkeypatch
):
    web.replies["/a"] = body(b"there")
    with full(web.server.server_port):
        have_addresses(monkeypatch, "127.0.0.2", "127.0.0.1")

        assert https.get(web.url("/a"), LITTLE, trusted).body == b"there"


def test_the_server_of_an_internationalised_url_is_that_of_idna_2008(
    authority, tmp_path, trusted, monkeypatch
):
    found = served_by(authority, tmp_path, "xn--strae-oqa.example")
    found.replies["/a"] = body(b"there")
    looked_up, asked = [], socket.getaddrinfo

    def answer(host: str, *how: object, **more: object) -> list[tuple]:
        looked_up.append(host)
        return asked("127.0.0.1", *how, **more)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    try:
        url = found.url("/a", "STRAẞE.example")
        assert https.get(url, LITTLE, trusted).body == b"there"
    finally:
        found.server.shutdown()
        found.server.server_close()

    assert looked_up[0] == "xn--strae-oqa.example"
    assert found.asked[0][1]["Host"].startswith("xn--strae-oqa.example:")


def test_a_server_that_is_silent_is_an_error_in_time(trusted):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://localhost:{silent.getsockname()[1]}/"

        with pytest.raises(NetworkError, match="did not answer in time"):
            https.get(url, LITTLE, trusted)


def test_a_server_that_is_silent_is_not_waited_for_until_the_end(trusted):
    bounds = Bounds(1024, seconds=300, silence=0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://localhost:{silent.getsockname()[1]}/"

        with pytest.raises(NetworkError, match="did not answer in time"):
            https.get(url, bounds, trusted)


def test_a_handshake_that_drips_is_an_error_in_time(trusted):
    ended = []

    def drip_handshake(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x40\x00")  # a record begins
            for _ in range(400):
                connection.sendall(b"\x02")
                time.sleep(0.05)
            ended.append(True)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip_handshake, args=[server], daemon=True).start()
        url = f"https://localhost:{server.getsockname()[1]}/"
        with pytest.raises(NetworkError, match="did not answer in time"):
            https.get(url, LITTLE, trusted)

    assert not ended


def test_a_server_that_nobody_knows_is_not_trusted(web, tmp_path):
    other = tmp_path / "other.pem"
    other.write_bytes(Authority().root_pem)

    with pytest.raises(NetworkError, match="its certificate is not valid"):
        https.get(web.url("/"), LITTLE, other)


@pytest.mark.parametrize(
    ("names", "how"),
    [
        pytest.param(("other.example",), {}, id="of another name"),
        pytest.param(
            ("localhost",),
            {
                "not_before": NOW - timedelta(days=9),
                "not_after": NOW - timedelta(days=1),
            },
            id="expired",
        ),
    ],
)
def test_a_certificate_that_is_not_good_is_refused(
    authority, tmp_path, trusted, names, how
):
    found = served_by(authority, tmp_path, *names, **how)
    try:
        with pytest.raises(NetworkError, match="its certificate is not valid"):
            https.get(found.url("/"), LITTLE, trusted)
    finally:
        found.server.shutdown()
        found.server.server_close()


def test_a_server_may_be_named_by_its_address(authority, tmp_path, trusted):
    found = served_by(authority, tmp_path, "::1")
    found.replies["/a"] = body(b"there")
    try:
        assert https.get(found.url("/a", "[::1]"), LITTLE, trusted).body == b"there"
        assert found.asked[0][1]["Host"] == f"[::1]:{found.server.server_port}"
    finally:
        found.server.shutdown()
        found.server.server_close()


def test_no_password_is_sent(web, trusted):
    with pytest.raises(NetworkError, match="without a password"):
        https.get(web.url("/", host="me:secret@localhost"), LITTLE, trusted)


def test_an_error_changes_nothing_that_is_kept_but_that_it_failed(remote, web):
    remote.refresh()
    before = snapshot(remote.context.directory)
    remote.now = NOW + 7 * HOUR
    web.replies["/list.json"] = not_there

    with pytest.raises(PolicyError):
        remote.refresh()

    after = snapshot(remote.context.directory)
    assert {name for name in before if before[name] != after[name]} <= {
        name for name in before if name.endswith(".seen") or name == "."
    }
