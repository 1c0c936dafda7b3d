"""Publishers of records are anybody's code: whatever they do, they are named."""

import contextlib
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rrset
import dns.tsig
import pytest

from certbot_postfix import options
from certbot_postfix.errors import Error, SignalError
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.publish import publishers
from certbot_postfix.publish.command import Command
from certbot_postfix.publish.credentials import Credentials
from certbot_postfix.publish.rfc2136 import DynamicUpdates
from tests.lab.source import ThirdParty

RECORD = ResourceRecord("_25._tcp.mx.example.org", 3600, "TLSA", "3 1 1 00ff")
TEXT = ResourceRecord("_smtp._tls.example.org", 600, "TXT", '"v=TLSRPTv1;" "rua="')

GOOD = """
import asyncio, sys
from zope.interface import implementer
from certbot_postfix import options
from certbot_postfix.errors import Error, SignalError
from certbot_postfix.interfaces import IRecordPublisher

@implementer(IRecordPublisher)
class Publisher:
    label = "third party"
    def __init__(self, text):
        self.text, self.done = text, []
    def add(self, record):
        self.done.append(("add", record))
    def remove(self, record, observed):
        self.done.append(("remove", record, observed))

sources = Publisher

def fail(error):
    raise error

class Mute(Exception):
    def __str__(self):
        sys.exit(0)

class Bare(Error):
    def __init__(self):
        pass
"""


@pytest.fixture
def third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThirdParty]:
    party = ThirdParty(tmp_path / "third", publishers.GROUP)
    monkeypatch.syspath_prepend(str(party.directory))
    sys.modules.pop("third_party_policies", None)
    party.break_(GOOD)
    yield party
    sys.modules.pop("third_party_policies", None)


@pytest.mark.usefixtures("third")
def test_a_publisher_gets_its_text_and_records_of_any_type():
    publisher = publishers.load("third:/etc/third.ini:7")

    publisher.add(TEXT)
    publisher.remove(RECORD, {"3 1 1 00ff", "3 1 1 ff00"})

    assert (publisher.label, publisher.by_hand) == ("third party", False)
    assert publisher.implementation.text == "/etc/third.ini:7"
    assert publisher.implementation.done == [
        ("add", TEXT),
        ("remove", RECORD, frozenset({"3 1 1 00ff", "3 1 1 ff00"})),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "sys.exit(0)",
        "sources = None",
        "sources = lambda text: None",
        "sources = lambda: Publisher('')",
        "del Publisher.remove",
        "Publisher.add = lambda self: None",
        "Publisher.label = None",
        "Publisher.label = 'a\\nb'",
        "Publisher.label = property(lambda self: sys.exit(0))",
        "fail(asyncio.CancelledError())",
    ],
)
def test_a_publisher_that_is_broken_is_named_before_it_publishes(third, line):
    third.break_(f"{GOOD}\n{line}")

    with pytest.raises(Error) as refused:
        publishers.load("third")

    assert str(refused.value).startswith(
        "the publisher third (third_party_policies:sources) is broken: "
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("SystemExit(3)", "it called sys.exit(3)"),
        ("Mute()", "Mute"),
        ("Bare()", "Bare"),
        ("asyncio.CancelledError()", "CancelledError"),
        ("TimeoutError('their API is slow')", "their API is slow"),
        ("ValueError('a\\nb\\x1b[2J')", "'a b\\x1b[2J'"),
        ("Error('no way\\nout', hint='go\\nback')", "no way out\nHint: go back"),
    ],
)
def test_whatever_a_publisher_raises_is_one_message(third, error, reason):
    third.break_(f"{GOOD}\nPublisher.add = lambda self, record: fail({error})")
    publisher = publishers.load("third")

    with pytest.raises(Error) as refused:
        publisher.add(RECORD)

    assert str(refused.value) == f"third party could not add {RECORD}: {reason}"


@pytest.mark.parametrize(
    ("hangs", "what"),
    [
        ("sources = lambda text: hang()", "the publisher third"),
        ("Publisher.label = property(lambda self: hang())", "the publisher third"),
        ("Publisher.add = lambda self, record: hang()", "third party could not add"),
    ],
)
def test_a_publisher_that_hangs_is_not_waited_for_any_longer(third, hangs, what):
    third.break_(f"{GOOD}\nimport threading\nhang = threading.Event().wait\n{hangs}")

    with pytest.raises(Error) as refused:
        publishers.load("third", seconds=0.5).add(RECORD)

    assert str(refused.value).startswith(what)
    assert str(refused.value).endswith(": it did not return within 0.5 seconds")


@pytest.mark.parametrize("error", ["KeyboardInterrupt()", "SignalError(15)"])
def test_who_ends_the_process_is_not_stopped_by_a_publisher(third, error):
    third.break_(f"{GOOD}\nPublisher.add = lambda self, record: fail({error})")

    with pytest.raises((KeyboardInterrupt, SignalError)):
        publishers.load("third").add(RECORD)


@pytest.mark.usefixtures("third")
def test_a_publisher_that_nobody_has_installed_is_refused_with_those_there_are():
    with pytest.raises(Error, match="no publisher of records is named 'fourth'") as no:
        publishers.load("fourth:x")

    assert no.value.hint == "use one of command, print, rfc2136 and third"


def test_what_is_to_be_published_by_hand_is_printed_as_a_zone_file_has_it(capsys):
    publisher = publishers.load("print")

    publisher.add(TEXT)
    publisher.remove(RECORD, {RECORD.rdata})

    assert publisher.by_hand
    assert capsys.readouterr().out.splitlines() == [
        '_smtp._tls.example.org. 600 IN TXT "v=TLSRPTv1;" "rua="',
        "; remove: _25._tcp.mx.example.org. 3600 IN TLSA 3 1 1 00ff",
    ]


@pytest.mark.parametrize(
    "fields",
    [
        ("mx.example.org\n. 0 IN A 1", 0, "TLSA", "3"),
        ("mx example", 0, "TLSA", "3"),
        ('"', 0, "TLSA", "3"),
        ("a." * 600, 0, "TLSA", "3"),
        ("", 0, "TLSA", "3"),
        ("mx.example.org", -1, "TLSA", "3"),
        ("mx.example.org", 2**31, "TLSA", "3"),
        ("mx.example.org", 0, "TLSA 3", "3"),
        ("mx.example.org", 0, "TLSA", "3\n1"),
        ("mx.example.org", 0, "TLSA", ""),
        ("mx.example.org", 0, "TLSA", "é"),
    ],
)
def test_a_record_that_would_be_read_as_another_one_cannot_be_made(fields):
    with pytest.raises(Error, match="is not "):
        ResourceRecord(*fields)


@pytest.fixture
def program(base: Path) -> Path:
    """A program that notes its environment, where only root can write."""
    path = base / "publish"
    path.write_text(f"#!/bin/sh\nenv >> {base}/noted\n")
    path.chmod(0o755)
    return path


def test_a_program_gets_one_record_in_its_environment(program, monkeypatch):
    monkeypatch.setenv("SECRET", "of somebody else")
    publisher = publishers.load(f"command:{program}")

    publisher.add(TEXT)
    publisher.remove(RECORD, {RECORD.rdata})

    noted = program.with_name("noted").read_text().splitlines()
    assert {each for each in noted if each.startswith("ACTION")} == {
        "ACTION=add",
        "ACTION=remove",
    }
    assert {
        "NAME=_smtp._tls.example.org",
        "TTL=600",
        "TYPE=TXT",
        'RDATA="v=TLSRPTv1;" "rua="',
    } < {*noted}
    assert not [each for each in noted if "somebody else" in each]


def test_a_program_is_not_looked_for_elsewhere(program, monkeypatch):
    monkeypatch.chdir(program.parent)

    assert publishers.load("command:publish").label == f"the program {program}"


def test_a_program_that_fails_is_quoted_in_one_short_line(program):
    program.write_text("#!/bin/sh\nprintf 'no\\033[2J\\nway %02000d' 7 >&2; exit 3\n")

    with pytest.raises(Error) as failed:
        publishers.load(f"command:{program}").add(RECORD)

    message = str(failed.value)
    start = f"the program {program} could not add {RECORD}: exit status 3: "
    assert message.startswith(f"{start}'no\\x1b[2J way")
    assert len(message) < len(start) + 100


def test_a_program_that_hangs_is_ended(program):
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    began = time.monotonic()

    with pytest.raises(Error, match="did not end within"):
        Command(program, seconds=0.2).add(RECORD)

    assert time.monotonic() < began + 30


@pytest.mark.parametrize(("mode", "directory"), [(0o775, 0o755), (0o755, 0o777)])
def test_a_program_that_others_can_change_is_not_run(program, base, mode, directory):
    publisher = publishers.load(f"command:{program}")
    program.chmod(mode)
    base.chmod(directory)

    with pytest.raises(
        Error, match="can be modified by users other than root"
    ) as failed:
        publisher.add(RECORD)

    assert "only root may own it" in failed.value.hint
    assert not program.with_name("noted").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("command:", "no program is given"),
        ("command:/nowhere/publish", "could not use /nowhere/publish: No such file"),
        ("command:/", "/ is not a file"),
        ("rfc2136:", "no credentials file is given"),
        ("rfc2136:/nowhere/rfc2136.ini", "/nowhere/rfc2136.ini: No such file"),
    ],
)
def test_what_cannot_publish_is_refused_before_anything_is_published(text, reason):
    with pytest.raises(Error) as refused:
        publishers.load(text)

    assert reason in str(refused.value)


def test_the_file_of_a_publisher_is_found_from_any_directory(monkeypatch):
    monkeypatch.chdir("/usr")

    assert options.publisher("rfc2136:../etc/a.ini") == "rfc2136:/etc/a.ini"
    assert options.publisher("command:bin/env") == "command:/usr/bin/env"
    assert options.publisher("third:bin:7") == "third:bin:7"
    assert options.publisher("print") == "print"


# A server that takes updates, and does not answer as it should


Answer = Callable[[bytes], bytes]

VALID = replace(RECORD, rdata=f"3 1 1 {'ab' * 32}")


ACCOUNT = Credentials("127.0.0.1", 53, "ours.", "hmac-sha256", b"secret")


def unsigned(query: bytes) -> bytes:
    """Answer an update with its id and NOERROR: RFC 2136, 3.8."""
    flags = dns.flags.QR | dns.opcode.to_flags(dns.opcode.UPDATE)
    return query[:2] + flags.to_bytes(2, "big") + bytes(8)


def signed(code: int) -> Answer:
    def answer(query: bytes) -> bytes:
        key = dns.tsig.Key(ACCOUNT.key, ACCOUNT.secret, ACCOUNT.algorithm)
        reply = dns.message.make_response(dns.message.from_wire(query, {key.name: key}))
        reply.set_rcode(code)
        return reply.to_wire()

    return answer


def soa(query: bytes) -> bytes:
    reply = dns.message.make_response(dns.message.from_wire(query))
    reply.flags |= dns.flags.AA
    text = "ns.example.org. root.example.org. 1 1 1 1 1"
    reply.authority = [dns.rrset.from_text("example.org.", 1, "IN", "SOA", text)]
    return reply.to_wire()


@contextlib.contextmanager
def updated(answer: Answer) -> Iterator[DynamicUpdates]:
    """Publish at a server of example.org that has this *answer* to an update."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            query = self.rfile.read(int.from_bytes(self.rfile.read(2), "big"))
            update = dns.opcode.from_flags(query[2] << 8) == dns.opcode.UPDATE
            reply = answer(query) if update else soa(query)
            self.wfile.write(len(reply).to_bytes(2, "big") + reply)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        account = replace(ACCOUNT, port=server.server_address[1])
        try:
            yield DynamicUpdates(account, 5)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        # dnspython 2.9 says the first itself, 2.3 leaves it to us.
        pytest.param(unsigned, "requires a TSIG|is not signed", id="unsigned"),
        pytest.param(signed(dns.rcode.SERVFAIL), "answers SERVFAIL", id="failed"),
        pytest.param(lambda query: query[:9], "is not valid: ", id="cut off"),
        pytest.param(lambda query: b"", "is not valid: ", id="empty"),
    ],
)
def test_an_update_counts_only_if_its_answer_is_signed(answer, reason):
    with updated(signed(dns.rcode.NOERROR)) as publisher:
        publisher.add(VALID)

    with updated(answer) as publisher, pytest.raises(Error, match=reason) as caught:
        publisher.add(VALID)

    compared = "compare name, secret and algorithm of the key" in caught.value.hint
    assert compared is (reason != "answers SERVFAIL")


def test_data_that_are_not_those_of_the_type_are_not_sent():
    with pytest.raises(Error, match="'3 1 1 xyz' is not valid data for a TLSA record"):
        DynamicUpdates(ACCOUNT).add(replace(RECORD, rdata="3 1 1 xyz"))
