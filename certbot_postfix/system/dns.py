"""Asks resolvers: those of this machine, or those that another resolv.conf(5) names.

An answer counts as secure if the resolver says so (the AD flag, RFC 4035, 3.2.3), as it
does for Postfix, which asks the same ones.  Raises `NetworkError`; that there is no
record is an answer.
"""

import errno
import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certbot_postfix.errors import NetworkError, UnreachableError
from certbot_postfix.system import files
from certbot_postfix.system.deadline import Deadline

if TYPE_CHECKING:
    from dns.message import Message
    from dns.resolver import Answer

# Where libresolv looks, also below a chroot; without that file, it asks this machine.
RESOLV_CONF = "etc/resolv.conf"
_DEFAULT = "127.0.0.1"
_NAMESERVER = re.compile(r"^nameserver[ \t]+(\S+)", re.MULTILINE)
_MOST = 3  # MAXNS of <resolv.h>

# Seconds for one question: to one resolver, and to all of them together.
_ONE = 3.0
_ALL = 10.0

# What is not cut to pieces on its way, as the DNS flag day of 2020 agreed.
_PAYLOAD = 1232

# Where this machine has no IPv6, or no IPv4.
_NO_WAY = (errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one question; *secure* if their resolver has validated them."""

    records: tuple[Any, ...]
    secure: bool


class Resolver:
    """A client of the resolvers at *addresses*; those in /etc/resolv.conf without any.

    Nothing is waited for after the *deadline*.
    """

    def __init__(
        self, addresses: Sequence[str] = (), deadline: Deadline | None = None
    ) -> None:
        # certbot loads us on every run.
        import dns.flags  # noqa: PLC0415
        import dns.resolver  # noqa: PLC0415

        self._resolver = dns.resolver.Resolver(configure=False)
        self._resolver.nameservers = [*(addresses or nameservers())]
        self._deadline = deadline
        self._resolver.use_edns(0, dns.flags.DO, _PAYLOAD)
        self._resolver.flags = dns.flags.RD | dns.flags.AD  # RFC 6840, 5.7

    def texts(self, name: str) -> list[str]:
        """Return the TXT records of *name*, each as one string: RFC 8461, 3.1."""
        return [
            b"".join(record.strings).decode("ascii", "replace")
            for record in self.ask(name, "TXT").records
        ]

    def text_data(self, name: str) -> list[str]:
        """Return the data of the TXT records of *name*, as zone files have it."""
        return [record.to_text() for record in self.ask(name, "TXT").records]

    def servers(self, domain: str) -> list[str]:
        """Return the MX hosts of *domain*, the preferred one first."""
        return hosts(self.ask(domain, "MX"), domain)

    def server(self, domain: str) -> str:
        """Return the preferred server of *domain*, itself if none is published."""
        return self.servers(domain)[0]

    def addresses(self, host: str) -> list[str]:
        """Return the addresses of *host*, of IPv6 and IPv4."""
        answers = [self.ask(host, kind).records for kind in ("AAAA", "A")]
        return [record.address for records in answers for record in records]

    def ask(self, name: str, kind: str) -> Records:
        """Return the records of *name* that are of this *kind*."""
        import dns.exception  # noqa: PLC0415
        import dns.flags  # noqa: PLC0415
        import dns.name  # noqa: PLC0415
        import dns.resolver  # noqa: PLC0415

        try:
            answer: Answer = self._resolver.resolve(
                dns.name.from_text(name),
                kind,
                raise_on_no_answer=False,
                lifetime=min(_ALL, self._deadline.left) if self._deadline else _ALL,
            )
        except dns.resolver.NXDOMAIN:
            return Records((), secure=False)
        except (dns.exception.DNSException, OSError) as error:
            raise NetworkError(f"{kind} of {name}: {error}") from error
        secure = bool(answer.response.flags & dns.flags.AD)
        return Records(tuple(answer.rrset or ()), secure)


def hosts(servers: Records, domain: str) -> list[str]:
    """Return the hosts of the MX records *servers*; without any, *domain* itself."""
    hosts = sorted((mx.preference, str(mx.exchange)) for mx in servers.records)
    return [host.removesuffix(".") for _, host in hosts] or [domain]


def nameservers(path: Path = Path("/", RESOLV_CONF)) -> list[str]:
    """Return the resolvers that *path* names, as libresolv reads resolv.conf(5).

    Unlike dnspython, it passes over what it does not understand.
    """
    text = files.read(path).decode(errors="replace") if path.exists() else ""
    addresses = filter(_is_address, _NAMESERVER.findall(text))
    return list(islice(addresses, _MOST)) or [_DEFAULT]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether *address*, perhaps with an interface, is one of this machine."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def validating(
    resolvers: list[str], seconds: float = _ONE
) -> Iterator[tuple[str, bool]]:
    """Yield for each of the *resolvers* that answers whether it validates the root.

    As Postfix does, postconf(5), dnssec_probe: the AD flag says so, RFC 4035, 3.2.3.
    """
    import dns.flags  # noqa: PLC0415 - certbot loads us on every run

    for address in resolvers:
        try:
            answer = ask(address, ".", "NS", seconds)
        except NetworkError:
            continue
        yield address, bool(answer.flags & dns.flags.AD)


def refusal(reply: "Message") -> str:
    """Return why *reply* is not that of a server which has the zone, or ""."""
    import dns.flags  # noqa: PLC0415
    import dns.rcode  # noqa: PLC0415

    if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return f"answers {dns.rcode.to_text(reply.rcode())}"
    if not reply.flags & dns.flags.AA:
        return "does not have the zone: its answer is not authoritative"
    return ""


def ask(
    address: str, name: str, kind: str, seconds: float, *, recursive: bool = True
) -> "Message":
    """Return what the server at *address* answers, over UDP, then TCP if it is long.

    One that is not *recursive* has the records itself.  Raises `NetworkError` if it
    gives no answer in time, `UnreachableError` if there is no way to it.
    """
    import dns.exception  # noqa: PLC0415
    import dns.flags  # noqa: PLC0415
    import dns.message  # noqa: PLC0415
    import dns.query  # noqa: PLC0415

    try:
        query = dns.message.make_query(name, kind, want_dnssec=True, payload=_PAYLOAD)
        # RFC 6840, 5.7: with AD, a resolver says whether it has validated.
        query.flags = dns.flags.RD | dns.flags.AD if recursive else dns.flags.Flag(0)
        answer, _ = dns.query.udp_with_fallback(query, address, timeout=seconds)
    except dns.exception.Timeout:
        raise NetworkError(f"{address} does not answer") from None
    except (dns.exception.DNSException, OSError, ValueError, EOFError) as error:
        message = f"{address} does not answer: {error}"
        if isinstance(error, OSError) and error.errno in _NO_WAY:
            raise UnreachableError(message) from error
        raise NetworkError(message) from error
    return answer
