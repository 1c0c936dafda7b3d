"""The source of STARTTLS Everywhere lists: files and https URLs, signed or not.

What is kept is the last list that was good: one that is damaged, not signed as it must
be, older, expired, or much shorter changes nothing.  A list is verified as the bytes
that are kept, by gpgv(1).  Raises `PolicyError` and `NetworkError`.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from math import inf
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from zope.interface import implementer

from certbot_postfix.errors import Error, enumerated, excerpt, named_logger
from certbot_postfix.formats import starttls_everywhere
from certbot_postfix.formats.policy import Entry, Mode, Policy, PolicyError
from certbot_postfix.formats.starttls_everywhere import PolicyList
from certbot_postfix.interfaces import IPolicySource
from certbot_postfix.outbound import signatures
from certbot_postfix.outbound.sources import Context
from certbot_postfix.system import files, https
from certbot_postfix.system.https import Bounds

logger = named_logger(__name__)

# A million domains take 105 MiB, and 150 MiB if the list is indented.
_LIST = Bounds(192 * 1024 * 1024, seconds=120, redirects=1)
_SIGNATURE = Bounds(64 * 1024, seconds=30, redirects=1)

# How often an address is asked, if all is well.
_INTERVAL = timedelta(hours=6)

# The last second that a `datetime` has, in seconds since 1970.
_END = 253_402_300_799

# How far the clock of a publisher may be ahead.
_AHEAD = timedelta(days=1)

# What a server said of a list, and how it is told so the next time: RFC 9110, 13.1.
_VALIDATORS = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}


def sources(context: Context) -> list["List"]:
    """Return one source for each list that the settings name."""
    return [List(place, context) for place in context.settings.lists]


@implementer(IPolicySource)
class List:
    """The list at *place*, a path or an https URL.

    Beside the list itself, a small file has what was seen of it: *checked*, in seconds
    since 1970, *failed*, *expires*, *timestamp*, the *count* of its domains, and what
    tells whether it has changed: *look* of a file, the validators of a server.
    """

    def __init__(self, place: str, context: Context) -> None:
        self.place = place
        self.label = (
            place if place.isascii() and place.isprintable() else excerpt(place)
        )
        self._settings = context.settings
        self._ca_file = context.ca_file
        # One that was kept unsigned does not count when a signature is demanded.
        text = f"{place}\0{self._settings.keyring}".encode("utf-8", "surrogateescape")
        name = hashlib.sha256(text).hexdigest()[:32]
        self._kept = context.directory / f"{name}.list"
        self._seen = context.directory / f"{name}.seen"
        self._parsed: PolicyList | None = None

    def due(self, now: datetime) -> bool:
        """Whether the list may have changed, or what failed is to be told again."""
        seen = self._read_seen()
        if seen.get("failed", True) or not self._kept.exists():
            return True
        if seen["expires"] <= now.timestamp():
            return True
        if self._remote:
            age = now.timestamp() - seen["checked"]  # below 0 if the clock was wrong
            return not 0 <= age < _INTERVAL.total_seconds()
        return bool(seen.get("look") != self._look())

    def refresh(self, now: datetime) -> None:
        """Keep the list that is published now, if it is good."""
        seen = {**self._of_kept(), **self._read_seen()}
        try:
            changed = self._published(seen, now)
        except Error as error:
            self._write_seen({**seen, "failed": True, "checked": now.timestamp()})
            if self._ended(seen, now):
                raise self._expired(seen, f"; {error.message}") from error
            raise
        seen = {**seen, **changed, "failed": False, "checked": now.timestamp()}
        self._write_seen(seen)
        if self._ended(seen, now):
            raise self._expired(seen)

    def policies(self, now: datetime) -> Iterator[Entry]:
        """Yield the policies of the list that is kept."""
        if not self._kept.exists():
            return
        if not self._parsed:
            self._parsed = starttls_everywhere.parse(files.read(self._kept), self.label)
        found = self._parsed
        if found.expires <= now:
            return
        for domain, policy in found.policies.items():
            yield Entry(domain, self._enforced(policy), found.expires, self.label)

    @property
    def _remote(self) -> bool:
        return "://" in self.place and not self.place.startswith("/")

    def _enforced(self, policy: Policy) -> Policy:
        if self._settings.early_adopter and policy.mode is Mode.TESTING:
            return policy._replace(mode=Mode.ENFORCE)
        return policy

    def _published(self, seen: dict[str, Any], now: datetime) -> dict[str, Any]:
        """Keep what is published, if it has changed; return what is new of it."""
        if self._remote:
            body, about = self._fetched(seen)
        else:
            about = {"look": self._look()}
            body = _bytes(self.place, _LIST)
        if body is None:
            return {}
        if self._settings.keyring:
            self._verify(body)
        found = starttls_everywhere.parse(body, self.label)
        self._refuse(found, seen, now)
        if found.ambiguous:
            logger.warning(
                "%s: policies that differ for %s: none of them is followed",
                self.label,
                enumerated(sorted(found.ambiguous)),
            )
        files.replace(self._kept, body, mode=0o600)
        self._parsed = found
        return {**dict.fromkeys(_VALIDATORS), **about, **_described(found)}

    def _fetched(self, seen: dict[str, Any]) -> tuple[bytes | None, dict[str, Any]]:
        # After a failure, whatever is published is to be seen.
        known = self._kept.exists() and not seen.get("failed")
        asked = {
            header: seen[name]
            for name, header in _VALIDATORS.items()
            if known and seen.get(name)
        }
        answer = https.get(self.place, _LIST, self._ca_file, asked)
        if answer.status == 304 and asked:
            return None, {}
        self._refuse_status(self.place, answer.status)
        return answer.body, {
            name: answer.headers[name] for name in _VALIDATORS if name in answer.headers
        }

    def _verify(self, body: bytes) -> None:
        keyring = self._settings.keyring
        signatures.check(keyring)
        if why := signatures.fault(body, self._signature(), keyring, self._kept):
            raise PolicyError(
                f"the list {self.label} is not signed by a key in {keyring}: {why}",
                hint=f"ask its publisher, or add the key to {keyring}",
            )

    def _signature(self) -> bytes:
        if not self._remote:
            return _bytes(f"{self.place}.asc", _SIGNATURE)
        parts = urlsplit(self.place)
        url = urlunsplit(parts._replace(path=f"{parts.path}.asc"))
        answer = https.get(url, _SIGNATURE, self._ca_file)
        self._refuse_status(url, answer.status)
        return answer.body

    def _refuse_status(self, url: str, status: int) -> None:
        if status != 200:
            raise PolicyError(
                f"{excerpt(url)}: the server answers with the status {status}"
            )

    def _refuse(self, found: PolicyList, seen: dict[str, Any], now: datetime) -> None:
        """Raise `PolicyError` if *found* must not take the place of what was *seen*."""
        if found.expires <= now:
            raise PolicyError(
                f"{self.label}: what is published expired on {_day(found.expires)}",
                hint="ask its publisher for a new one, or take it out of the options",
            )
        if found.timestamp > now + _AHEAD:  # each right one would be older
            raise PolicyError(
                f"{self.label}: its timestamp, {_day(found.timestamp)}, is yet to come",
                hint="ask its publisher, or set the clock of this machine",
            )
        if not self._kept.exists() or "count" not in seen:
            return
        hint = (
            "if that is meant, call certbot-postfix policy refresh when you have"
            f" removed {self._kept}"
        )
        if found.timestamp.timestamp() < seen["timestamp"]:
            raise PolicyError(
                f"{self.label}: it is older than the list before",
                hint=hint,
            )
        if len(found.policies) * 2 < seen["count"]:
            raise PolicyError(
                f"{self.label}: it has {len(found.policies)} domains where the list"
                f" before has {seen['count']}",
                hint=hint,
            )

    def _ended(self, seen: dict[str, Any], now: datetime) -> bool:
        """Whether the list that is kept has expired."""
        return self._kept.exists() and seen.get("expires", inf) <= now.timestamp()

    def _expired(self, seen: dict[str, Any], why: str = "") -> PolicyError:
        day = _day(datetime.fromtimestamp(min(seen["expires"], _END), timezone.utc))
        return PolicyError(
            f"the list {self.label} has expired on {day}, and is not followed: mail to"
            f" its domains is protected only as far as others say{why}",
            hint="ask its publisher for a new one, or take it out of the options",
        )

    def _look(self) -> list[int]:
        """Return what changes when the file is written; nothing if it is not there."""
        paths = [Path(self.place)]
        paths += [Path(f"{self.place}.asc")] if self._settings.keyring else []
        found = []
        for path in paths:
            try:
                status = path.stat()
            except OSError:
                return []
            found += [status.st_mtime_ns, status.st_size, status.st_ino]
        return found

    def _of_kept(self) -> dict[str, Any]:
        """Return what is known of the list that is kept, if that was lost."""
        if "count" in self._read_seen() or not self._kept.exists():
            return {}
        try:
            kept = files.read(self._kept)
            return _described(starttls_everywhere.parse(kept, self.label))
        except PolicyError:
            return {}

    def _read_seen(self) -> dict[str, Any]:
        try:
            found = json.loads(files.read(self._seen))
        except (Error, ValueError, RecursionError):
            return {}
        return found if _sound(found) else {}

    def _write_seen(self, seen: dict[str, Any]) -> None:
        files.replace(self._seen, json.dumps(seen).encode(), mode=0o600)


def _described(found: PolicyList) -> dict[str, Any]:
    return {
        "expires": min(found.expires.timestamp(), _END),
        "timestamp": found.timestamp.timestamp(),
        "count": len(found.policies),
    }


def _sound(seen: Any) -> bool:
    """Whether *seen* is what `List` writes."""
    if not isinstance(seen, dict) or not isinstance(seen.get("failed"), bool):
        return False
    numbers = [seen.get(name) for name in ("checked", "expires", "timestamp", "count")]
    present = numbers if not seen["failed"] else [each for each in numbers if each]
    said = [seen.get(name) for name in _VALIDATORS]
    return all(map(_is_time, present)) and all(
        each is None or isinstance(each, str) for each in said
    )


def _is_time(value: object) -> bool:
    """Whether *value* is in seconds since 1970, and a `datetime` can have it."""
    return type(value) in (int, float) and abs(cast("float", value)) <= _END


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _bytes(place: str, bounds: Bounds) -> bytes:
    path = Path(place)
    if not path.is_absolute():
        raise PolicyError(
            f"{excerpt(place)} is neither an https URL nor an absolute path"
        )
    try:
        return files.read(path, most=bounds.size)
    except Error as error:
        raise PolicyError(error.message) from error
