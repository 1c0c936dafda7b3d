"""Asks the resolvers of this machine for the DNS records that policies hang on.

An answer counts as secure if the resolver says so (the AD flag, RFC 4035, 3.2.3), as it
does for Postfix, which asks the same ones.  Raises `PolicyError`; that there is no
record is an answer.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from certbot_postfix.formats.policy import PolicyError
from certbot_postfix.outbound import dnssec

if TYPE_CHECKING:
    from dns.resolver import Answer

# Seconds for one question, to all resolvers together.
_SECONDS = 10.0

# So many servers of a domain are asked about: more are those of nobody honest.
_SERVERS = 20

# RFC 7672, 3.1: what SMTP can use; 1.3.2: PKIX-TA(0) and PKIX-EE(1) are not among it.
_USAGES = frozenset({2, 3})
_SELECTORS = frozenset({0, 1})
_MATCHING = frozenset({0, 1, 2})


@dataclass(frozen=True, slots=True)
class Found:
    """The records of one question; *secure* if their resolver has validated them."""

    records: tuple[Any, ...]
    secure: bool


class Resolvers:
    """Those in /etc/resolv.conf."""

    def __init__(self) -> None:
        # certbot loads us on every run.
        import dns.flags  # noqa: PLC0415
        import dns.resolver  # noqa: PLC0415

        self._resolver = dns.resolver.Resolver(configure=False)
        self._resolver.nameservers = [*dnssec.nameservers()]
        self._resolver.use_edns(0, dns.flags.DO, 1232)
        self._resolver.flags = dns.flags.RD | dns.flags.AD  # RFC 6840, 5.7

    def texts(self, name: str) -> list[str]:
        """Return the TXT records of *name*, each as one string: RFC 8461, 3.1."""
        found = self._ask(name, "TXT").records
        return [b"".join(each.strings).decode("ascii", "replace") for each in found]

    def has_dane(self, domain: str) -> bool:
        """Whether DANE protects mail to *domain*, at each of its servers.

        RFC 8461, 2: MTA-STS must not override it where it fails.  A policy is for all
        servers of the domain, and one without usable records would be left with none.
        """
        servers = self._ask(domain, "MX")
        if not servers.secure:
            return False
        hosts = [str(each.exchange).removesuffix(".") for each in servers.records]
        return len(hosts) <= _SERVERS and all(map(self._has_tlsa, hosts or [domain]))

    def server(self, domain: str) -> str:
        """Return the preferred server of *domain*, itself if none is published."""
        records = self._ask(domain, "MX").records
        hosts = [(each.preference, str(each.exchange)) for each in records]
        return min(hosts, default=(0, domain))[1].removesuffix(".")

    def _has_tlsa(self, host: str) -> bool:
        if not host:  # a null MX: RFC 7505
            return False
        found = self._ask(f"_25._tcp.{host}", "TLSA")
        return found.secure and any(
            each.usage in _USAGES
            and each.selector in _SELECTORS
            and each.mtype in _MATCHING
            for each in found.records
        )

    def _ask(self, name: str, kind: str) -> Found:
        import dns.exception  # noqa: PLC0415
        import dns.flags  # noqa: PLC0415
        import dns.name  # noqa: PLC0415
        import dns.resolver  # noqa: PLC0415

        try:
            answer: Answer = self._resolver.resolve(
                dns.name.from_text(name),
                kind,
                raise_on_no_answer=False,
                lifetime=_SECONDS,
            )
        except dns.resolver.NXDOMAIN:
            return Found((), secure=False)
        except (dns.exception.DNSException, OSError) as error:
            raise PolicyError(f"{kind} of {name}: {error}") from error
        secure = bool(answer.response.flags & dns.flags.AD)
        return Found(tuple(answer.rrset or ()), secure)
