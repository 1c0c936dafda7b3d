"""The source of MTA-STS policies, RFC 8461, of the recipient domains in a file.

Domains are looked up side by side.  A policy is kept for its max_age from the time at
which it was fetched, whatever fails meanwhile.  Raises `PolicyError`.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import datetime
from pathlib import Path
from typing import Protocol

from zope.interface import implementer

from certbot_postfix.errors import Error, NetworkError, excerpt, named_logger, shortened
from certbot_postfix.formats import mta_sts
from certbot_postfix.formats.policy import Entry, PolicyError, parse_domain
from certbot_postfix.interfaces import IPolicySource
from certbot_postfix.outbound import mta_sts_cache
from certbot_postfix.outbound.mta_sts_cache import LABEL, Cache, CachedPolicy
from certbot_postfix.outbound.sources import Context
from certbot_postfix.system import dns, files, https
from certbot_postfix.system.hostnames import is_host
from certbot_postfix.system.https import Bounds

logger = named_logger(__name__)

# Seconds: section 3.3 wants a check each day at least, and half of a policy's max_age
# leaves time for another one; a failure is soon tried again.
_INTERVAL = 12 * 3600
_AGAIN = 3600

_BOUNDS = Bounds(mta_sts.LARGEST, seconds=20)  # no redirects: section 3.3

# For a whole refresh: certbot waits for it, and others for certbot.
_SECONDS = 300.0

# At the same time: each waits for others most of the time.
_SIDE_BY_SIDE = 64

# The file of domains, in bytes: a million of them.
_LARGEST = 64 * 1024 * 1024

# How many domains a message names.
_NAMED = 5

# Of a domain that is not in the cache.
_UNKNOWN = CachedPolicy()


class Resolver(Protocol):
    """What is asked for DNS records."""

    def texts(self, name: str) -> list[str]:
        """Return the TXT records of *name*."""

    def has_dane(self, domain: str) -> bool:
        """Whether DANE protects mail to *domain*."""


def sources(context: Context) -> list["Recipients"]:
    """Return the source, if the settings name a file of domains."""
    return [Recipients(context)] if context.settings.domains else []


@implementer(IPolicySource)
class Recipients:
    """The policies that the domains of the file in the settings publish.

    A refresh takes so many *seconds* at most; what it did not come to is due again.
    """

    label = LABEL

    def __init__(
        self,
        context: Context,
        resolver: Resolver | None = None,
        *,
        seconds: float = _SECONDS,
    ) -> None:
        self._context = context
        self._seconds = seconds
        self._path = Path(context.settings.domains)
        self._cache = context.directory / "mta-sts.json"
        self._resolver = resolver

    def due(self, now: datetime) -> bool:
        """Whether a domain is to be looked up, or the file is wrong."""
        cache, _ = mta_sts_cache.read(self._cache)
        wanted, wrong = self._wanted(cache)
        changed = cache.keys() != wanted.keys()
        return bool(wrong or changed or self._due(wanted, cache, now))

    def refresh(self, now: datetime) -> None:
        """Look up the domains that are due."""
        cache, damage = mta_sts_cache.read(self._cache)
        for message in shortened(damage, _NAMED):
            logger.warning("%s", message)
        wanted, wrong = self._wanted(cache)
        if wrong or wanted.keys() - cache.keys():
            cache = {**mta_sts_cache.recovered(self._context.entries(), now), **cache}
        if wrong:  # then what was wanted stays so
            wanted.update(dict.fromkeys(filter(is_host, cache)))
        new = {name: policy for name, policy in cache.items() if name in wanted}
        failures: dict[str, str] = {}
        try:
            due = self._due(wanted, cache, now)
            for name, policy, failure in self._look_up(due, cache, now):
                new[name] = policy
                if failure:
                    failures[name] = failure
        finally:
            mta_sts_cache.write(self._cache, new)
        if wrong or failures:
            raise PolicyError(f"{LABEL}: {'; '.join([*wrong, *_failure(failures)])}")

    def policies(self, now: datetime) -> Iterator[Entry]:
        """Yield the policies that are in force."""
        cache, _ = mta_sts_cache.read(self._cache)
        for name, policy in cache.items():
            entry = policy.entry(name)
            by_dane = self._context.dane and policy.dane
            if entry and entry.expires > now and not by_dane:
                yield entry

    def _due(
        self, wanted: Mapping[str, None], cache: Cache, now: datetime
    ) -> list[str]:
        at, dane = now.timestamp(), self._context.dane
        return [
            name
            for name in wanted
            # A time further ahead than was ever set comes from a clock that was wrong.
            if not at < (policy := cache.get(name, _UNKNOWN)).next <= at + _INTERVAL
            or (dane and policy.mode and policy.dane is None)
        ]

    def _look_up(
        self, names: list[str], cache: Cache, now: datetime
    ) -> Iterator[tuple[str, CachedPolicy, str]]:
        """Yield for each domain what is to be cached, and what failed."""
        if not names:
            return
        resolver = self._resolver or dns.Resolver()
        pool = ThreadPoolExecutor(_SIDE_BY_SIDE)
        try:
            domains = {
                pool.submit(
                    self._domain, resolver, name, cache.get(name, _UNKNOWN), now
                ): name
                for name in names
            }
            for future in as_completed(domains, self._seconds):
                yield (domains[future], *future.result())
        except FutureTimeoutError:  # the built-in since 3.11
            for future, name in domains.items():
                if not future.done():
                    yield name, cache.get(name, _UNKNOWN), f"{name}: timed out"
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _domain(
        self, resolver: Resolver, name: str, before: CachedPolicy, now: datetime
    ) -> tuple[CachedPolicy, str]:
        at = int(now.timestamp())
        policy, failures = before, []
        try:
            identity = mta_sts.policy_id(resolver.texts(f"_mta-sts.{name}"))
            if before.id == identity != "" and at < before.ends:
                policy = before._replace(seen=at)
            policy = self._published(name, identity, policy, at)
        except (NetworkError, PolicyError) as error:
            failures.append(error.message)
        try:
            if self._context.dane and policy.mode:
                policy = policy._replace(dane=resolver.has_dane(name))
        except NetworkError as error:
            failures.append(error.message)
        wait = _AGAIN if failures else _INTERVAL
        if policy.mode:
            wait = min(wait, max(policy.age // 2, 1))  # or it would end unseen
        return policy._replace(next=at + wait), "; ".join(failures)

    def _published(
        self, name: str, identity: str, before: CachedPolicy, at: int
    ) -> CachedPolicy:
        """Return the policy that *name* publishes, or still the one *before*."""
        if not identity:
            return before  # section 3.3: its end is that of its max_age
        half = before.fetched + before.age // 2
        if identity == before.id and at < half:
            return before
        url = f"https://mta-sts.{name}/.well-known/mta-sts.txt"
        answer = https.get(url, _BOUNDS, self._context.ca_file)
        kind = answer.headers.get("content-type", "").partition(";")[0].strip()
        if answer.status != 200 or kind.lower() != "text/plain":
            raise PolicyError(
                f"{url}: the server answers with the status {answer.status} and the"
                f" type {excerpt(kind)}, not with a policy"
            )
        published = mta_sts.parse(answer.body, url)
        return CachedPolicy(
            id=identity,
            fetched=at,
            age=published.max_age,
            mode=published.mode.value,
            mxs=published.mxs,
        )

    def _wanted(self, cache: Cache) -> tuple[dict[str, None], list[str]]:
        """Return the domains in the file, and a sentence for what is wrong with it.

        It must name a domain if there are some in the *cache*.
        """
        wanted: dict[str, None] = {}
        wrong = []
        try:
            lines = files.read(self._path, most=_LARGEST).decode().splitlines()
        except Error as error:
            lines = []
            wrong.append(error.message)
        except UnicodeDecodeError:
            lines = []
            wrong.append(f"{self._path} is not in UTF-8")
        for number, line in enumerate(lines, 1):
            name = line.partition("#")[0].strip().removesuffix(".")
            try:
                if name:
                    wanted[parse_domain(name, "")] = None
            except PolicyError:  # it may be a line of another file, by a link
                where = f"{self._path}, line {number}"
                wrong.append(f"{where}: it is not the name of a domain")
        if cache and not wanted and not wrong:
            end = '--postfix-mta-sts-domains "" ends MTA-STS'
            wrong.append(f"{self._path} names no domain; {end}")
        return wanted, shortened(wrong, _NAMED)


def _failure(failures: Mapping[str, str]) -> list[str]:
    if not failures:
        return []
    messages = shortened((failures[name] for name in sorted(failures)), _NAMED)
    domains = "1 domain" if len(failures) == 1 else f"{len(failures)} domains"
    return [f"{domains} could not be looked up: {'; '.join(messages)}"]
