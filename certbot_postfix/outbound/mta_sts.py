"""The source of MTA-STS policies, RFC 8461, of the recipient domains in a file.

Domains are looked up side by side.  A policy is kept for its max_age from the time at
which it was fetched, whatever fails meanwhile.  Raises `PolicyError`.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import datetime
from pathlib import Path

from zope.interface import implementer

from certbot_postfix.errors import Error, named_logger, shortened
from certbot_postfix.formats.policy import Entry, PolicyError, parse_domain
from certbot_postfix.interfaces import IPolicySource
from certbot_postfix.outbound import (
    domain_state,
    learnt,
    mta_sts_cache,
    mta_sts_lookup,
)
from certbot_postfix.outbound.dane_resolver import DaneResolver
from certbot_postfix.outbound.mta_sts_cache import LABEL, Cache, CachedPolicy
from certbot_postfix.outbound.mta_sts_lookup import INTERVAL, Fetch, Lookup, Resolver
from certbot_postfix.outbound.sources import Context
from certbot_postfix.system import files
from certbot_postfix.system.hostnames import is_host

logger = named_logger(__name__)

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
        fetch: Fetch = mta_sts_lookup.fetch,
    ) -> None:
        self._context = context
        self._seconds = seconds
        self._path = learnt.file_in(context.settings.domains)
        self._cache = mta_sts_cache.path_in(context.directory)
        self._resolver = resolver
        self._fetch = fetch

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
        due = self._due(wanted, cache, now)
        try:
            for name, policy in self._look_up(due, cache, now):
                new[name] = policy
                for change in domain_state.changes(name, cache.get(name), policy, now):
                    logger.info("%s", change)
        finally:
            mta_sts_cache.write(self._cache, new)
        if wrong:
            raise PolicyError(f"{LABEL}: {'; '.join(wrong)}")

    def policies(self, now: datetime) -> Iterator[Entry]:
        """Yield the policies that are in force."""
        cache, _ = mta_sts_cache.read(self._cache)
        for name, policy in cache.items():
            entry = policy.entry(name)
            if entry and entry.expires > now:
                by_dane = self._context.dane and policy.dane is True
                yield entry._replace(dane=by_dane) if by_dane else entry

    def _due(
        self, wanted: Mapping[str, None], cache: Cache, now: datetime
    ) -> list[str]:
        """Return the *wanted* domains that are to be looked up, longest due first."""
        at, dane = now.timestamp(), self._context.dane
        force, urgent = self._context.force, self._context.urgent
        due = [
            name
            for name in wanted
            if force
            or name in urgent
            # A time further ahead than was ever set comes from a clock that was wrong.
            or not at < (policy := cache.get(name, _UNKNOWN)).next <= at + INTERVAL
            or (dane and policy.mode and policy.dane is None)
        ]
        return sorted(due, key=lambda name: cache.get(name, _UNKNOWN).next)

    def _look_up(
        self, names: list[str], cache: Cache, now: datetime
    ) -> Iterator[tuple[str, CachedPolicy]]:
        """Yield for each domain what is to be cached, as soon as that is known."""
        if not names:
            return
        lookup = Lookup(
            self._resolver or DaneResolver(),
            self._context.ca_file,
            int(now.timestamp()),
            self._context.dane,
            self._fetch,
        )
        force, urgent = self._context.force, self._context.urgent
        pool, done = ThreadPoolExecutor(_SIDE_BY_SIDE), 0
        try:
            domains = {
                pool.submit(
                    lookup.look,
                    name,
                    cache.get(name, _UNKNOWN),
                    force=force or name in urgent,
                ): name
                for name in names
            }
            for done, future in enumerate(as_completed(domains, self._seconds), 1):
                self._context.progress(done, len(names))
                yield domains[future], future.result()
        except FutureTimeoutError:  # the built-in since 3.11
            logger.warning(
                "%s: %s of %s domains were not looked up within %.0f seconds; they are"
                " due again at the next refresh",
                LABEL,
                f"{len(names) - done:,}",
                f"{len(names):,}",
                self._seconds,
            )
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _wanted(self, cache: Cache) -> tuple[dict[str, None], list[str]]:
        """Return the domains in the file, and a sentence for what is wrong with it.

        It must name a domain if there are some in the *cache*.
        """
        wanted: dict[str, None] = {}
        if learnt.wanted(self._context.settings.domains):
            wanted = dict.fromkeys(learnt.domains(self._context.directory))
        if not self._path:
            return wanted, []
        lines, wrong = _lines(self._path)
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


def _lines(path: Path) -> tuple[list[str], list[str]]:
    """Return the lines of the file *path*, and what is wrong with it as a whole."""
    try:
        return files.read(path, most=_LARGEST).decode().splitlines(), []
    except Error as error:
        return [], [error.message]
    except UnicodeDecodeError:
        return [], [f"{path} is not in UTF-8"]
