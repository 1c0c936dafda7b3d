"""The source of STARTTLS Everywhere lists: files and https URLs, signed or not.

What is kept is the last list that was good: one that is damaged, not signed as it must
be, older, expired, or much shorter changes nothing.  A list is verified as the bytes
that are kept, by gpgv(1).  Raises `PolicyError` and `NetworkError`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from zope.interface import implementer

from certbot_postfix.errors import Error, enumerated, excerpt, named_logger
from certbot_postfix.formats import starttls_everywhere
from certbot_postfix.formats.policy import Entry, Mode, Policy, PolicyError
from certbot_postfix.formats.starttls_everywhere import PolicyList
from certbot_postfix.interfaces import IPolicySource
from certbot_postfix.outbound import list_state, signatures
from certbot_postfix.outbound.list_state import VALIDATORS, ListState
from certbot_postfix.outbound.sources import Context
from certbot_postfix.system import files, https
from certbot_postfix.system.https import Bounds

logger = named_logger(__name__)

# A million domains take 105 MiB, and 150 MiB if the list is indented.
_LIST = Bounds(192 * 1024 * 1024, seconds=120, redirects=1)
_SIGNATURE = Bounds(64 * 1024, seconds=30, redirects=1)

# How often an address is asked, if all is well.
_INTERVAL = timedelta(hours=6)

# How far the clock of a publisher may be ahead.
_AHEAD = timedelta(days=1)


def sources(context: Context) -> list["List"]:
    """Return one source for each list that the settings name."""
    return [List(place, context) for place in context.settings.lists]


@implementer(IPolicySource)
class List:
    """The list at *place*, a path or an https URL; beside it, its `ListState`."""

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
        self._state = context.directory / f"{name}.seen"
        self._parsed: PolicyList | None = None

    def due(self, now: datetime) -> bool:
        """Whether the list may have changed, or what failed is to be told again."""
        state = list_state.read(self._state)
        if state.failed or not self._kept.exists() or state.expired(now):
            return True
        if self._remote:
            # Below 0 if the clock was wrong.
            age = now.timestamp() - (state.checked or 0)
            return not 0 <= age < _INTERVAL.total_seconds()
        return state.look != self._look()

    def refresh(self, now: datetime) -> None:
        """Keep the list that is published now, if it is good."""
        state = replace(self._known(), checked=now.timestamp())
        try:
            state = replace(self._published(state, now), failed=False)
        except Error as error:
            list_state.write(self._state, replace(state, failed=True))
            if self._kept.exists() and state.expired(now):
                raise self._expired(state, f"; {error.message}") from error
            raise
        list_state.write(self._state, state)
        if self._kept.exists() and state.expired(now):
            raise self._expired(state)

    def policies(self, now: datetime) -> Iterator[Entry]:
        """Yield the policies of the list that is kept."""
        if not self._kept.exists():
            return
        if not self._parsed:
            self._parsed = starttls_everywhere.parse(files.read(self._kept), self.label)
        expires = self._parsed.expires
        if expires <= now:
            return
        for domain, policy in self._parsed.policies.items():
            yield Entry(domain, self._enforced(policy), expires, self.label)

    @property
    def _remote(self) -> bool:
        return "://" in self.place and not self.place.startswith("/")

    def _enforced(self, policy: Policy) -> Policy:
        if self._settings.early_adopter and policy.mode is Mode.TESTING:
            return policy._replace(mode=Mode.ENFORCE)
        return policy

    def _published(self, state: ListState, now: datetime) -> ListState:
        """Keep what is published, if it has changed; return its state."""
        if self._remote:
            body, validators = self._fetched(state)
            new = replace(state, validators=validators)
        else:
            new = replace(state, look=self._look())
            body = _bytes(self.place, _LIST)
        if body is None:
            return state
        if self._settings.keyring:
            self._verify(body)
        published = starttls_everywhere.parse(body, self.label)
        self._refuse(published, state, now)
        if published.ambiguous:
            logger.warning(
                "%s: policies that differ for %s: none of them is followed",
                self.label,
                enumerated(sorted(published.ambiguous)),
            )
        files.replace(self._kept, body, mode=0o600)
        self._parsed = published
        return new.of(published)

    def _fetched(
        self, state: ListState
    ) -> tuple[bytes | None, tuple[tuple[str, str], ...]]:
        """Return the list if it has changed, and its validators."""
        # After a failure, whatever is published is to be seen.
        known = self._kept.exists() and not state.failed
        validators = state.validators if known else ()
        headers = {VALIDATORS[name]: text for name, text in validators}
        answer = https.get(self.place, _LIST, self._ca_file, headers)
        if answer.status == 304 and headers:
            return None, validators
        self._refuse_status(self.place, answer.status)
        return answer.body, tuple(
            (name, answer.headers[name])
            for name in VALIDATORS
            if name in answer.headers
        )

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

    def _refuse(self, new: PolicyList, state: ListState, now: datetime) -> None:
        """Raise `PolicyError` if *new* must not take the place of the list kept."""
        if new.expires <= now:
            raise PolicyError(
                f"{self.label}: what is published expired on {_day(new.expires)}",
                hint="ask its publisher for a new one, or take it out of the options",
            )
        if new.timestamp > now + _AHEAD:  # each right one would be older
            raise PolicyError(
                f"{self.label}: its timestamp, {_day(new.timestamp)}, is in the future",
                hint="ask its publisher, or set the clock of this machine",
            )
        if not self._kept.exists() or state.count is None or state.timestamp is None:
            return
        hint = (
            "if that is meant, call certbot-postfix policy refresh when you have"
            f" removed {self._kept}"
        )
        if new.timestamp.timestamp() < state.timestamp:
            raise PolicyError(
                f"{self.label}: it is older than the list before",
                hint=hint,
            )
        if len(new.policies) * 2 < state.count:
            raise PolicyError(
                f"{self.label}: it has {len(new.policies)} domains where the list"
                f" before has {state.count}",
                hint=hint,
            )

    def _expired(self, state: ListState, why: str = "") -> PolicyError:
        return PolicyError(
            f"policy list {self.label} expired on {_day(state.end)} and is no longer"
            f" applied; its domains fall back to other sources{why}",
            hint="ask its publisher for a new one, or take it out of the options",
        )

    def _look(self) -> tuple[int, ...]:
        """Return what changes when the file is written; nothing if it is not there."""
        paths = [Path(self.place)]
        paths += [Path(f"{self.place}.asc")] if self._settings.keyring else []
        try:
            statuses = [path.stat() for path in paths]
        except OSError:
            return ()
        return tuple(
            number
            for status in statuses
            for number in (status.st_mtime_ns, status.st_size, status.st_ino)
        )

    def _known(self) -> ListState:
        """Return the state, also where what the list itself says was lost."""
        state = list_state.read(self._state)
        if state.count is not None or not self._kept.exists():
            return state
        try:
            kept = files.read(self._kept)
            return state.of(starttls_everywhere.parse(kept, self.label))
        except PolicyError:
            return state


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
