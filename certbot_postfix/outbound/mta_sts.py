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
from certbot_postfix.outbound.mta_sts_cache import LABEL, Kept
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


class Asks(Protocol):
    """Who is asked for DNS records."""

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
        resolver: Asks | None = None,
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
        kept, _ = mta_sts_cache.read(self._cache)
        wanted, wrong = self._wanted(kept)
        changed = kept.keys() != wanted.keys()
        return bool(wrong or changed or self._due(wanted, kept, now))

    def refresh(self, now: datetime) -> None:
        """Look up the domains that are due."""
        kept, damage = mta_sts_cache.read(self._cache)
        for damaged in shortened(damage, _NAMED):
            logger.warning("%s", damaged)
        wanted, wrong = self._wanted(kept)
        if wrong or wanted.keys() - kept.keys():
            kept = {**mta_sts_cache.of(self._context.entries(), now), **kept}
        if wrong:  # then what was wanted stays so
            wanted.update(dict.fromkeys(filter(is_host, kept)))
        found = {name: one for name, one in kept.items() if name in wanted}
        failed: dict[str, str] = {}
        try:
            for name, one, error in self._look_up(
                self._due(wanted, kept, now), kept, now
            ):
                found[name] = one
                if error:
                    failed[name] = error
        finally:
            mta_sts_cache.write(self._cache, found)
        if wrong or failed:
            raise PolicyError(f"{LABEL}: {'; '.join([*wrong, *_failure(failed)])}")

    def policies(self, now: datetime) -> Iterator[Entry]:
        """Yield the policies that are in force."""
        kept, _ = mta_sts_cache.read(self._cache)
        for name, one in kept.items():
            entry = mta_sts_cache.entry(name, one)
            left = self._context.dane and one.get("dane")
            if entry and entry.expires > now and not left:
                yield entry

    def _due(
        self, wanted: Mapping[str, None], kept: Mapping[str, Kept], now: datetime
    ) -> list[str]:
        at, dane = now.timestamp(), self._context.dane
        return [
            name
            for name in wanted
            # A time further ahead than was ever set comes from a clock that was wrong.
            if not at < (one := kept.get(name, {})).get("next", 0) <= at + _INTERVAL
            or (dane and one.get("mode") and "dane" not in one)
        ]

    def _look_up(
        self, names: list[str], kept: Mapping[str, Kept], now: datetime
    ) -> Iterator[tuple[str, Kept, str]]:
        """Yield for each domain what is to be kept, and what failed."""
        if not names:
            return
        resolver = self._resolver or dns.Resolver()
        pool = ThreadPoolExecutor(_SIDE_BY_SIDE)
        try:
            found = {
                pool.submit(self._one, resolver, name, kept.get(name, {}), now): name
                for name in names
            }
            for future in as_completed(found, self._seconds):
                yield (found[future], *future.result())
        except FutureTimeoutError:  # the built-in since 3.11
            for future, name in found.items():
                if not future.done():
                    again = kept.get(name, {"next": 0})
                    yield name, again, f"{name}: there was no time for it"
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _one(
        self, resolver: Asks, name: str, before: Kept, now: datetime
    ) -> tuple[Kept, str]:
        at = int(now.timestamp())
        after, told = before, []
        try:
            identity = mta_sts.policy_id(resolver.texts(f"_mta-sts.{name}"))
            if before.get("id") == identity != "" and at < mta_sts_cache.ends(before):
                after = {**before, "seen": at}
            after = self._published(name, identity, after, at)
        except (NetworkError, PolicyError) as error:
            told.append(error.message)
        try:
            if self._context.dane and after.get("mode"):
                after = {**after, "dane": resolver.has_dane(name)}
        except (NetworkError, PolicyError) as error:
            told.append(error.message)
        wait = _AGAIN if told else _INTERVAL
        if after.get("mode"):
            wait = min(wait, max(after["age"] // 2, 1))  # or it would end unseen
        return {**after, "next": at + wait}, "; ".join(told)

    def _published(self, name: str, identity: str, before: Kept, at: int) -> Kept:
        """Return the policy that *name* publishes, or still the one *before*."""
        if not identity:
            return before  # section 3.3: its end is that of its max_age
        half = before.get("fetched", 0) + before.get("age", 0) // 2
        if identity == before.get("id") and at < half:
            return before
        url = f"https://mta-sts.{name}/.well-known/mta-sts.txt"
        answer = https.get(url, _BOUNDS, self._context.ca_file)
        kind = answer.headers.get("content-type", "").partition(";")[0].strip()
        if answer.status != 200 or kind.lower() != "text/plain":
            raise PolicyError(
                f"{url}: the server answers with the status {answer.status} and the"
                f" type {excerpt(kind)}, not with a policy"
            )
        found = mta_sts.parse(answer.body, url)
        return {
            "id": identity,
            "fetched": at,
            "age": found.max_age,
            "mode": found.mode.value,
            "mxs": list(found.mxs),
        }

    def _wanted(self, kept: Mapping[str, Kept]) -> tuple[dict[str, None], list[str]]:
        """Return the domains in the file, and a sentence for what is wrong with it.

        It must name a domain if there are some that are *kept*.
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
        if kept and not wanted and not wrong:
            end = '--postfix-mta-sts-domains "" ends MTA-STS'
            wrong.append(f"{self._path} names no domain; {end}")
        return wanted, shortened(wrong, _NAMED)


def _failure(failed: Mapping[str, str]) -> list[str]:
    if not failed:
        return []
    told = "; ".join(shortened((failed[name] for name in sorted(failed)), _NAMED))
    domains = "1 domain" if len(failed) == 1 else f"{len(failed)} domains"
    return [f"{domains} could not be looked up: {told}"]
