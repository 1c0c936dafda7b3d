"""Records are published by dynamic updates, at real name servers.

Knot DNS always; BIND and PowerDNS with `make soak`.
"""

import logging
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from certbot_postfix.errors import Error
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.publish import credentials, publishers
from certbot_postfix.publish.rfc2136 import DynamicUpdates
from tests.lab import base_directory
from tests.lab.primaries import KEYS, ZONE, Bind, Knot, PowerDns, Primary

pytestmark = pytest.mark.postfix

OWNER = f"_25._tcp.mx.{ZONE}"
OLD, NEW, OTHER = (f"3 1 1 {digit * 64}" for digit in "abc")
TLSA = ResourceRecord(OWNER, 1800, "TLSA", NEW)


@pytest.fixture(
    scope="module",
    params=[
        Knot,
        pytest.param(Bind, marks=pytest.mark.soak),
        pytest.param(PowerDns, marks=pytest.mark.soak),
    ],
)
def server(request: pytest.FixtureRequest) -> Iterator[Primary]:
    with base_directory() as base:
        server = request.param(base)
        try:
            yield server
        finally:
            server.close()


@pytest.fixture
def primary(server: Primary) -> Primary:
    """A server that has the records of another host, and the old one of ours."""
    server.change("delete", OWNER)
    server.change("add", OWNER, 1800, "TLSA", OLD)
    server.change("add", OWNER, 1800, "TLSA", OTHER)
    return server


def file(base: Path, primary: Primary, **changes: str) -> Path:
    """Write credentials for *primary*, but for the *changes*."""
    properties = {
        "server": "127.0.0.1",
        "port": str(primary.port),
        "name": "ours.",
        "secret": KEYS["ours"],
        "algorithm": "HMAC-SHA256",
        **changes,
    }
    path = base / "rfc2136.ini"
    lines = [f"dns_rfc2136_{name} = {value}\n" for name, value in properties.items()]
    path.write_text("# Target DNS server\n" + "".join(lines))
    path.chmod(0o600)
    return path


def refused(publisher: publishers.Publisher, record: ResourceRecord = TLSA) -> Error:
    with pytest.raises(Error) as error:
        publisher.add(record)
    return error.value


def load(base: Path, primary: Primary, **changes: str) -> publishers.Publisher:
    return publishers.load(f"rfc2136:{file(base, primary, **changes)}")


def test_a_record_is_added_beside_those_of_others_and_once(primary, tmp_path):
    publisher = load(tmp_path, primary)

    publisher.add(TLSA)
    publisher.add(TLSA)

    assert primary.records(OWNER) == {OLD: 1800, NEW: 1800, OTHER: 1800}


def test_a_record_alone_is_removed_and_once(primary, tmp_path):
    publisher = load(tmp_path, primary, sign_query="true")
    record = ResourceRecord(OWNER, 1800, "TLSA", OLD)

    publisher.remove(record, {OLD, OTHER})
    publisher.remove(record, {OLD, OTHER})

    assert primary.records(OWNER) == {OTHER: 1800}


def test_nothing_is_removed_if_somebody_else_has_changed_the_records(primary, tmp_path):
    primary.change("delete", OWNER, "TLSA", OTHER)
    primary.change("add", OWNER, 1800, "TLSA", NEW)

    with pytest.raises(Error, match="somebody else has changed the records") as error:
        load(tmp_path, primary).remove(
            ResourceRecord(OWNER, 1800, "TLSA", OLD), {OLD, OTHER}
        )

    assert "nothing was changed" in str(error.value)
    assert primary.records(OWNER) == {OLD: 1800, NEW: 1800}


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("TXT", '"v=STSv1; id=20261130;" " \\"quoted\\""'),
        ("CAA", '0 issue "letsencrypt.org;validationmethods=http-01"'),
    ],
)
def test_records_of_other_types_are_published(primary, tmp_path, kind, data):
    record = ResourceRecord(ZONE, 600, kind, data)
    publisher = load(tmp_path, primary)

    publisher.add(record)
    assert primary.records(ZONE, kind) == {data: 600}
    publisher.remove(record, {data})

    assert primary.records(ZONE, kind) == {}


def test_a_name_that_the_key_may_not_change_is_not_called_a_wrong_key(
    primary, tmp_path
):
    error = refused(load(tmp_path, primary, name="other.", secret=KEYS["other"]))

    assert "allow" in error.message
    assert f"allow the key other. to update TLSA records of {OWNER}" in error.hint
    assert NEW not in primary.records(OWNER)


def test_a_key_that_the_server_does_not_know_may_also_be_a_forbidden_one(
    primary, tmp_path
):
    error = refused(load(tmp_path, primary, name="nobody."))

    # That of PowerDNS is not signed, which newer versions of dnspython refuse.
    assert "it does not know the key" in str(error) or "TSIG" in str(error)
    assert "compare name, secret and algorithm" in error.hint
    assert "the server must allow the key nobody." in error.hint


@pytest.mark.parametrize(
    "changes", [{"secret": KEYS["other"]}, {"algorithm": "HMAC-SHA512"}]
)
def test_a_key_that_differs_is_refused_and_in_no_log(
    primary, tmp_path, caplog, changes
):
    caplog.set_level(logging.DEBUG)

    error = refused(load(tmp_path, primary, **changes))

    everything = caplog.text + "".join(traceback.format_exception(error))
    assert "answer" in str(error)
    assert not [each for each in KEYS.values() if each in everything]


def test_a_server_without_the_zone_is_named(primary, tmp_path):
    record = ResourceRecord("_25._tcp.mx.example.org", 3600, "TLSA", NEW)

    error = refused(load(tmp_path, primary), record)

    assert "it does not have the zone of that name" in error.message


def test_a_server_that_hangs_is_given_up(primary, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        account = credentials.read(file(tmp_path, primary, port=str(port)))
        with pytest.raises(Error, match="it does not answer"):
            DynamicUpdates(account, seconds=0.3).add(TLSA)


def test_a_server_that_is_down_is_named(primary, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

    error = refused(load(tmp_path, primary, port=str(port)))

    assert error.message == (
        f"the RFC 2136 server 127.0.0.1 port {port} could not add {TLSA}: it cannot be"
        " reached: Connection refused"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"server": "ns1.example.org"}, "'ns1.example.org' is not an IP address"),
        ({"server": ""}, "dns_rfc2136_server: missing, or not a single value"),
        ({"server": "192.0.2.1, 192.0.2.2"}, "server: missing, or not a single value"),
        ({"port": "0"}, "'0' is not a port"),
        ({"port": "domain"}, "'domain' is not a port"),
        ({"name": "a key"}, "'a key' is not the name of a key"),
        ({"algorithm": "HMAC-SHA3"}, "'HMAC-SHA3' is not one of HMAC-MD5, HMAC-SHA1"),
        ({"secret": "b3Vy!secret"}, "dns_rfc2136_secret: not valid base64"),
        ({"secret": '"b3Vy'}, "line 5 is not of the form NAME = VALUE"),
    ],
)
def test_credentials_that_are_wrong_are_refused_without_the_secret(
    primary, tmp_path, caplog, changes, reason
):
    caplog.set_level(logging.DEBUG)
    path = file(tmp_path, primary, **changes)

    with pytest.raises(Error) as error:
        publishers.load(f"rfc2136:{path}")

    everything = caplog.text + "".join(traceback.format_exception(error.value))
    assert f"{path}: " in str(error.value)
    assert reason in str(error.value)
    assert "b3Vy" not in everything


def test_a_line_that_cannot_be_read_is_in_no_message(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "rfc2136.ini"
    path.write_text("# the key\ndns_rfc2136_secret b3Vy\n")
    path.chmod(0o600)

    with pytest.raises(Error) as error:
        publishers.load(f"rfc2136:{path}")

    assert str(error.value) == f"{path}: line 2 is not of the form NAME = VALUE"
    assert "b3Vy" not in caplog.text + "".join(traceback.format_exception(error.value))


def test_credentials_that_everybody_can_read_are_warned_of(primary, tmp_path, caplog):
    file(tmp_path, primary).chmod(0o644)

    publishers.load(f"rfc2136:{tmp_path / 'rfc2136.ini'}")

    assert "Unsafe permissions on credentials configuration file" in caplog.text
