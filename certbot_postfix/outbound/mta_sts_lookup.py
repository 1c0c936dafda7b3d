"""One look at what a domain publishes for MTA-STS, RFC 8461, and what is kept of it.

A look that fails changes no policy: that it failed, and why, is kept beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from certbot_postfix.errors import NetworkError
from certbot_postfix.formats import mta_sts
from certbot_postfix.formats.mta_sts import Published
from certbot_postfix.formats.policy import PolicyError
from certbot_postfix.outbound.mta_sts_cache import LONGEST_REASON, CachedPolicy
from certbot_postfix.publish import policy_host

# Seconds: section 3.3 wants a check each day at least, and half of a policy's max_age
# leaves time for another one.
INTERVAL = 12 * 3600

# A failure is soon tried again, and so is DANE: what replaces it must not wait long.
_SOON = 3600


class Resolver(Protocol):
    """What is asked for DNS records."""

    def texts(self, name: str) -> list[str]:
        """Return the TXT records of *name*."""

    def has_dane(self, domain: str) -> bool:
        """Whether DANE protects mail to *domain*."""


def fetch(name: str, ca_file: Path | None) -> Published:
    """Return the policy of the domain *name*; raise `Error` if it serves none."""
    return mta_sts.parse(policy_host.fetch(name, ca_file), policy_host.url(name))


Fetch = Callable[[str, Path | None], Published]


@dataclass(frozen=True, slots=True)
class Lookup:
    """Looks by *resolver*, at the time *at*, in seconds since 1970.

    *ca_file* has the CAs that HTTPS servers are verified by, where *fetch* gets
    policies.  With *dane*, the client prefers that.
    """

    resolver: Resolver
    ca_file: Path | None
    at: int
    dane: bool = False
    fetch: Fetch = fetch

    def look(
        self, name: str, before: CachedPolicy, *, force: bool = False
    ) -> CachedPolicy:
        """Return what is to be kept of the domain *name*, of which *before* is known.

        With *force*, its policy is fetched though the id is the same.
        """
        policy, failures = before, []
        try:
            identity = mta_sts.policy_id(self.resolver.texts(f"_mta-sts.{name}"))
            if before.id == identity != "" and self.at < before.ends:
                policy = before._replace(seen=self.at)
            if force or not self._is_fresh(policy, identity):
                policy = self._published(name, identity, policy)
        except (NetworkError, PolicyError) as error:
            failures.append(error.message)
        try:
            if self.dane and policy.mode:
                policy = policy._replace(dane=self.resolver.has_dane(name))
        except NetworkError as error:
            failures.append(error.message)
        wait = _SOON if failures or (self.dane and policy.dane) else INTERVAL
        if policy.mode:
            wait = min(wait, max(policy.age // 2, 1))  # or it would end unseen
        return policy._replace(
            next=self.at + wait,
            failing=(before.failing or self.at) if failures else 0,
            why="; ".join(failures)[:LONGEST_REASON],
        )

    def _is_fresh(self, policy: CachedPolicy, identity: str) -> bool:
        """Whether *policy* is still the one with this *identity*, in its first half."""
        half = policy.fetched + policy.age // 2
        return policy.id == identity != "" and self.at < half

    def _published(
        self, name: str, identity: str, before: CachedPolicy
    ) -> CachedPolicy:
        """Return the policy that *name* publishes, or still the one *before*."""
        if not identity:  # section 3.3: its end is that of its max_age
            return before if self.at < before.ends else CachedPolicy()
        published = self.fetch(name, self.ca_file)
        return CachedPolicy(
            id=identity,
            fetched=self.at,
            age=published.max_age,
            mode=published.mode.value,
            mxs=published.mxs,
        )
