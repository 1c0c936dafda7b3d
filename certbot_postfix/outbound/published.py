"""What a recipient domain publishes now: for MTA-STS, of its MX hosts, and for DANE.

What cannot be looked up is said in its place.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from certbot_postfix.errors import Error, excerpt, short, shortened
from certbot_postfix.formats import mta_sts
from certbot_postfix.formats.mta_sts import Published
from certbot_postfix.formats.policy import Mode, Policy
from certbot_postfix.outbound.mta_sts_cache import CachedPolicy
from certbot_postfix.outbound.mta_sts_lookup import fetch

# So many MX hosts and TXT records are shown: more are those of nobody honest.
_MOST = 20

# How much is shown of a TXT record.
_TEXT = 300


class Resolver(Protocol):
    """What is asked for DNS records."""

    def texts(self, name: str) -> list[str]:
        """Return the TXT records of *name*."""

    def servers(self, domain: str) -> list[str]:
        """Return the MX hosts of *domain*, the preferred one first."""

    def has_tlsa(self, host: str) -> bool:
        """Whether the MX host *host* has usable TLSA records."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What *domain* publishes: the *identity* of its *policy*, and its MX *hosts*.

    *texts* are the TXT records; *tlsa* says for each host what there is of DANE;
    *failures* are what could not be looked up.
    """

    domain: str
    texts: tuple[str, ...] = ()
    identity: str = ""
    policy: Published | None = None
    hosts: tuple[str, ...] = ()
    tlsa: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Yield it for a terminal."""
        texts = [short(excerpt(text), _TEXT) for text in self.texts] or [
            "no TXT record"
        ]
        for text in shortened(texts, _MOST):
            yield f"_mta-sts.{self.domain}: {text}"
        if self.policy:
            names = shortened(map(_pattern, self.policy.mxs), _MOST)
            yield (
                f"https://mta-sts.{self.domain}: {self.policy.mode.value},"
                f" max_age {self.policy.max_age}, {', '.join(names)}"
            )
        for host, tlsa in zip(self.hosts, self.tlsa, strict=True):
            judged = "" if self.policy is None else ", in the policy"
            if host in self.unlisted():
                judged = ", not in the policy"
            yield f"MX {host or '.'}{judged}, {tlsa}"

    def unlisted(self) -> list[str]:
        """Return the MX hosts that the policy does not allow."""
        if not self.policy or self.policy.mode is Mode.NONE:
            return []
        policy = Policy(self.policy.mode, self.policy.mxs)
        return [host for host in self.hosts if not policy.allows(host)]

    def problems(self, known: CachedPolicy | None) -> Iterator[str]:
        """Yield what is wrong with it, and where what is *known* differs from it."""
        yield from self.failures
        if hosts := self.unlisted():
            yield (
                f"{self.domain}: its own policy does not allow"
                f" {', '.join(shortened(hosts, _MOST))}: mail is not delivered there"
            )
        if known and self.policy and self._differs(known):
            yield (
                f"{self.domain} publishes another policy than the one that is in force"
                f" here\nHint: certbot-postfix policy refresh {self.domain}"
            )

    def _differs(self, known: CachedPolicy) -> bool:
        policy = self.policy
        return policy is not None and (
            (policy.mode.value, frozenset(policy.mxs))
            != (known.mode or Mode.NONE.value, frozenset(known.mxs))
        )


def look(domain: str, resolver: Resolver, ca_file: Path | None) -> Publication:
    """Return what *domain* publishes now."""
    failures: list[str] = []
    texts: list[str] = []
    policy, hosts = None, []
    try:
        texts = resolver.texts(f"_mta-sts.{domain}")
        identity = mta_sts.policy_id(texts)
        policy = fetch(domain, ca_file) if identity else None
    except Error as error:
        identity = mta_sts.policy_id(texts)
        failures.append(error.message)
    try:
        hosts = resolver.servers(domain)[:_MOST]
    except Error as error:
        failures.append(error.message)
    tlsa = [_tlsa(host, resolver) for host in hosts]
    return Publication(
        domain,
        tuple(texts),
        identity,
        policy,
        tuple(hosts),
        tuple(tlsa),
        tuple(failures),
    )


def _tlsa(host: str, resolver: Resolver) -> str:
    try:
        usable = resolver.has_tlsa(host)
    except Error as error:
        return short(f"TLSA unknown ({error.message})", _TEXT)
    return "usable TLSA records" if usable else "no usable TLSA records"


def _pattern(mx: str) -> str:
    """Return the pattern *mx* as a policy has it."""
    return f"*{mx}" if mx.startswith(".") else mx
