"""What TLSA records (DANE) cost: a part of the bench.

Those of several endpoints are looked up at servers whose answers take their time,
beside one question to one of these servers; the resolver is of this machine.  And what
``certbot renew`` does with nothing due on a host without them.  Raises `LabError`.
"""

import asyncio
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
from cryptography.hazmat.primitives.asymmetric import ec

from certbot_postfix.dane.observation import Status
from certbot_postfix.dane.observe import observe
from certbot_postfix.errors import NetworkError
from certbot_postfix.system.dns import ask
from tests.lab import Certbot
from tests.lab.machine import LabError, wait_until

ENDPOINTS, SERVERS = 4, 4
LATENCY = 0.02

_RESOLVER = "127.53.0.1"
_TLSA = "3 1 1 " + 64 * "0"
_DAY = 24 * 3600

# Names, by the kind of record: an answer for each zone is made, and signed, once.
_Answers = dict[tuple[str, str], list[dns.rrset.RRset]]

# What certbot opens, starts, connects to, sends and imports: Python's audit events.
_AUDITED = """\
import json, sys
log, *sys.argv = sys.argv[1:]
seen = {name: [] for name in ("open", "programs", "questions", "imports")}
def note(event, args):
    if event == "open":
        seen["open"].append(str(args[0]))
    elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        seen["programs"].append(str(args[0]))
    elif event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        seen["questions"].append(str(args))
    elif event == "import":
        seen["imports"].append(args[0])
sys.addaudithook(note)
from certbot.main import main
try:
    sys.exit(main())
finally:
    open(log, "w").write(json.dumps(seen))
"""


@dataclass(frozen=True, slots=True)
class Deeds:
    """What a program did: files it opened, programs, questions to the network."""

    files: list[str]
    programs: list[str]
    questions: list[str]
    imports: list[str]


def deeds(client: Certbot, base: Path) -> Deeds:
    """Return what ``certbot renew`` of *client* does, of files those below *base*."""
    log = base / "deeds"
    _, *argv = client.argv("renew")
    done = subprocess.run(
        [sys.executable, "-c", _AUDITED, str(log), "certbot", *argv],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode or "not due for renewal" not in done.stdout + done.stderr:
        raise LabError(f"certbot renew: {done.stdout}{done.stderr}")
    seen = json.loads(log.read_text())
    files = [each for each in seen["open"] if each.startswith(str(base))]
    return Deeds(files, seen["programs"], seen["questions"], seen["imports"])


def ask_one() -> None:
    """Ask one server one question."""
    ask(_address(0, 0), f"_25._tcp.mx.{_zone(0)}", "TLSA", 5, recursive=False)


def look() -> None:
    """Look up all endpoints at all servers."""
    owners = [f"_25._tcp.mx.{_zone(number)}" for number in range(ENDPOINTS)]
    for found in observe(owners, _RESOLVER).values():
        records = [each.records for each in found.answers]
        if found.status is not Status.SECURE or not all(records):
            raise LabError(f"{found.owner}: {found}")
        if len(records) != SERVERS:
            raise LabError(f"{found.owner}: {len(records)} servers")


@contextmanager
def servers() -> Iterator[None]:
    """Run the resolver, and the servers of a zone for each endpoint."""
    process = multiprocessing.get_context("fork").Process(target=_serve, daemon=True)
    process.start()
    try:
        wait_until(_answers, "the servers answer")
        yield
    finally:
        process.terminate()
        process.join()


def _answers() -> bool:
    try:
        ask_one()
        look()
    except (NetworkError, LabError):
        return False
    return True


def _zone(number: int) -> str:
    return f"zone{number}.test"


def _address(zone: int, server: int) -> str:
    return f"127.53.{zone + 1}.{server + 1}"


def _records() -> _Answers:
    known: _Answers = {}

    def add(owner: str, kind: str, *data: str) -> dns.rrset.RRset:
        rrset = dns.rrset.from_text(f"{owner}.", 3600, "IN", kind, *data)
        known[owner, kind] = [rrset]
        return rrset

    add("", "NS", "ns.test.")
    for number in range(ENDPOINTS):
        zone = _zone(number)
        hosts = [f"ns{server}.{zone}" for server in range(SERVERS)]
        add(zone, "NS", *(f"{host}." for host in hosts))
        for server, host in enumerate(hosts):
            add(host, "A", _address(number, server))
        private = ec.generate_private_key(ec.SECP256R1())
        algorithm = dns.dnssec.Algorithm.ECDSAP256SHA256
        key = dns.dnssec.make_dnskey(private.public_key(), algorithm)
        add(zone, "DNSKEY", key.to_text())
        owner = f"_25._tcp.mx.{zone}"
        rrset = add(owner, "TLSA", _TLSA)
        signer = dns.name.from_text(zone)
        signature = dns.dnssec.sign(rrset, private, signer, key, lifetime=_DAY)
        signed = dns.rrset.from_rdata(rrset.name, 3600, signature)
        known[owner, "TLSA"].append(signed)
    return known


class _Server(asyncio.DatagramProtocol):
    """Answers from *known*: a resolver at once, others after the latency."""

    def __init__(self, known: _Answers, *, resolves: bool) -> None:
        self._known, self._resolves = known, resolves

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = dns.message.make_response(dns.message.from_wire(data))
        (question,) = reply.question
        name = str(question.name).rstrip(".")
        kind = dns.rdatatype.to_text(question.rdtype)
        reply.flags |= dns.flags.AD if self._resolves else dns.flags.AA
        reply.answer += self._known.get((name, kind), [])
        delay = 0 if self._resolves else LATENCY
        loop = asyncio.get_running_loop()
        loop.call_later(delay, self._transport.sendto, reply.to_wire(), addr)


def _serve() -> None:
    async def run() -> None:
        loop, known = asyncio.get_running_loop(), _records()
        every = [_RESOLVER]
        for zone in range(ENDPOINTS):
            every += [_address(zone, server) for server in range(SERVERS)]
        for address in every:
            await loop.create_datagram_endpoint(
                lambda at=address: _Server(known, resolves=at == _RESOLVER),
                (address, 53),
            )
        await asyncio.Event().wait()

    asyncio.run(run())
