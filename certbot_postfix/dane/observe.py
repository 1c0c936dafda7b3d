"""Asks for TLSA records: a resolver, then every authoritative server itself.

All that can be asked at once is; there are four rounds, of which a host without DNSSEC
has one.  It ends in time, whatever hangs, and raises nothing: what is not known is
`Status.UNKNOWN`, with the reason.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from certbot_postfix.dane import replies
from certbot_postfix.dane.observation import Answer, Observation, Status
from certbot_postfix.dane.replies import Cut
from certbot_postfix.errors import NetworkError, UnreachableError
from certbot_postfix.system import dns
from certbot_postfix.system.deadline import Deadline

if TYPE_CHECKING:
    from dns.message import Message
    from dns.rrset import RRset

S = TypeVar("S")
T = TypeVar("T")

# Seconds for all, where no records are known; and where there are some.
BRIEF = 2.0
PATIENT = 10.0

# A question is asked so often: a packet may be lost.  Each time waits so many seconds.
_TRIES = 2
_LONGEST = 2.0

# So many questions are under way at once.
_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Server:
    """An authoritative server: a name of the NS set, with one of its addresses."""

    name: str
    address: str

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


@dataclass(frozen=True, slots=True)
class Zone:
    """The *servers* and the *keys* of a zone, or *why* they are not known."""

    servers: tuple[Server, ...] = ()
    keys: "RRset | None" = None
    why: str = ""


def observe(
    owners: Iterable[str], resolver: str = "", *, patient: bool = False
) -> dict[str, Observation]:
    """Return what DNS says of the TLSA records named *owners*.

    The *resolver* is believed; by default those of /etc/resolv.conf on this machine.
    *patient*: wait longer for servers, since it is known that there are records.
    """
    # Not in the threads below: one that imports what another is about to have imported
    # may find the package without it.
    import dns.query  # noqa: F401, PLC0415 - certbot loads us on every run

    look = Look(resolver, Deadline(PATIENT if patient else BRIEF))
    cuts = look.cuts(list(dict.fromkeys(owners)))
    if not patient and any(cut.observation.cached for cut in cuts):
        look.deadline = Deadline(PATIENT)
    zones = look.zones({cut.zone for cut in cuts if cut.zone})
    return {
        observation.owner: observation for observation in look.answered(cuts, zones)
    }


class Look:
    """One look at DNS, until *deadline*, which believes *resolver*."""

    def __init__(self, resolver: str, deadline: Deadline) -> None:
        self.deadline = deadline
        self._resolvers = [resolver] if resolver else dns.nameservers()
        near = [address for address in self._resolvers if dns.is_loopback(address)]
        # An AD flag that comes over a network may be anybody's.
        self._believed = [resolver] if resolver else near

    def cuts(self, owners: Sequence[str]) -> list[Cut]:
        """Return what the resolver says of each of *owners*."""
        asked = self._believed or self._resolvers
        questions = [(owner, "TLSA") for owner in owners]
        *found, root = self._ask_all([*questions, (".", "NS")], asked)
        # dnssec_probe of postconf(5): who does not validate the root validates nothing.
        trusted = bool(
            self._believed
            and not isinstance(root, NetworkError)
            and replies.validated(root)
        )
        return [
            Cut(Observation(owner, Status.UNKNOWN, why=reply.message))
            if isinstance(reply, NetworkError)
            else replies.of_resolver(owner, reply, trusted=trusted)
            for owner, reply in zip(owners, found, strict=True)
        ]

    def zones(self, names: Iterable[str]) -> dict[str, Zone]:
        """Return the servers and the keys of the zones *names*."""
        apexes = sorted(names)
        pairs = [(name, kind) for name in apexes for kind in ("NS", "DNSKEY")]
        found = dict(zip(pairs, self._ask_all(pairs, self._believed), strict=True))
        hosts = {name: _hosts(found[name, "NS"]) for name in apexes}
        every = sorted(set().union(*hosts.values()))
        pairs = [(host, kind) for host in every for kind in ("A", "AAAA")]
        replied = self._ask_all(pairs, self._believed)
        servers: dict[str, list[Server]] = defaultdict(list)
        for (host, _), reply in zip(pairs, replied, strict=True):
            servers[host] += [Server(host, address) for address in _data(reply)]
        return {
            name: _zone(
                [server for host in hosts[name] for server in servers[host]],
                [host for host in hosts[name] if not servers[host]],
                found[name, "DNSKEY"],
            )
            for name in apexes
        }

    def answered(
        self, cuts: Sequence[Cut], zones: dict[str, Zone]
    ) -> Iterator[Observation]:
        """Yield the observations of *cuts* with what the servers of *zones* answer."""
        questions = [
            (cut.observation.target, server)
            for cut in cuts
            if cut.zone and not zones[cut.zone].why
            for server in zones[cut.zone].servers
        ]
        every = self._parallel(self._server, questions)
        replied = dict(zip(questions, every, strict=True))
        for cut in cuts:
            target, zone = cut.observation.target, zones.get(cut.zone, Zone())
            if zone.why:
                yield replace(cut.observation, status=Status.UNKNOWN, why=zone.why)
                continue
            answers = [
                _answer(server, target, replied[target, server], (cut.zone, zone))
                for server in zone.servers
                if cut.zone
            ]
            yield replace(cut.observation, answers=tuple(_reachable(answers)))

    def _server(self, question: tuple[str, Server]) -> "Message | NetworkError":
        target, server = question
        return self._ask(target, "TLSA", [server.address], recursive=False)

    def _ask_all(
        self, questions: Sequence[tuple[str, str]], resolvers: Sequence[str]
    ) -> "list[Message | NetworkError]":
        return self._parallel(
            lambda question: self._ask(*question, resolvers), questions
        )

    def _ask(
        self, name: str, kind: str, servers: Sequence[str], *, recursive: bool = True
    ) -> "Message | NetworkError":
        """Return the first reply, each of *servers* having its part of the time."""
        error = NetworkError("there is no resolver")
        addresses = [*servers] * _TRIES
        for number, address in enumerate(addresses):
            seconds = min(_LONGEST, self.deadline.left / (len(addresses) - number))
            try:
                return dns.ask(address, name, kind, seconds, recursive=recursive)
            except NetworkError as caught:
                error = caught
        return error

    def _parallel(self, work: Callable[[S], T], items: Sequence[S]) -> list[T]:
        with ThreadPoolExecutor(max(1, min(_WORKERS, len(items)))) as pool:
            return list(pool.map(work, items))


def _hosts(reply: "Message | NetworkError") -> list[str]:
    return sorted(name.rstrip(".").lower() for name in _data(reply))


def _data(reply: "Message | NetworkError") -> list[str]:
    """Return the data of the records that were asked for, also behind a CNAME."""
    if isinstance(reply, NetworkError):
        return []
    kind = reply.question[0].rdtype
    return [
        str(data) for rrset in reply.answer if rrset.rdtype == kind for data in rrset
    ]


def _zone(
    servers: list[Server], lost: list[str], keys: "Message | NetworkError"
) -> Zone:
    if isinstance(keys, NetworkError) or (found := replies.validated(keys)) is None:
        return Zone(why="the keys of the zone are not known")
    if not servers and not lost:
        return Zone(why="the servers of the zone are not known")
    return Zone((*servers, *(Server(host, "") for host in lost)), found)


def _answer(
    server: Server,
    target: str,
    reply: "Message | NetworkError",
    of: tuple[str, Zone],
) -> tuple[Server, Answer | None]:
    """Return what *server* answers; None if there is no way to it from here."""
    name, zone = of
    if not server.address:
        return server, Answer(server.name, fault="has no address")
    if not isinstance(reply, NetworkError):
        keys = {name: zone.keys} if zone.keys else {}
        return server, replies.of_server(str(server), target, reply, keys)
    if isinstance(reply, UnreachableError):
        return server, None
    return server, Answer(str(server), fault="does not answer")


def _reachable(answers: Sequence[tuple[Server, Answer | None]]) -> Iterator[Answer]:
    """Yield the *answers*, and that a server has no address that can be reached."""
    reached = {server.name for server, reply in answers if reply}
    for server, reply in answers:
        if reply:
            yield reply
        elif server.name not in reached:
            yield Answer(str(server), fault="cannot be reached from this machine")
