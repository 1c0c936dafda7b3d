"""What is known of a policy list beside the list itself: a small file.

It may be lost: then all but what the list itself says is unknown.
"""

import json
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeGuard

from certbot_postfix.errors import Error
from certbot_postfix.formats.starttls_everywhere import PolicyList
from certbot_postfix.system import files

# The last second that a `datetime` has, in seconds since 1970.
_END = 253_402_300_799

# What a server says of a list, and how it is given back the next time: RFC 9110, 13.1.
VALIDATORS = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}


@dataclass(frozen=True, slots=True)
class ListState:
    """What is known of the list that is kept; None is unknown.

    It was *checked* last, in seconds since 1970, and that *failed* or not; *expires*
    and *timestamp* are times as well, *count* is how many domains it has.  Whether it
    has changed is known from the *look* of a file, or the *validators* of a server.
    """

    checked: float | None = None
    failed: bool = True
    expires: float | None = None
    timestamp: float | None = None
    count: int | None = None
    look: tuple[int, ...] = ()
    validators: tuple[tuple[str, str], ...] = ()

    def of(self, policies: PolicyList) -> "ListState":
        """Return the state with what *policies* say."""
        return replace(
            self,
            expires=min(policies.expires.timestamp(), _END),
            timestamp=policies.timestamp.timestamp(),
            count=len(policies.policies),
        )

    def expired(self, now: datetime) -> bool:
        """Whether the list is known to have expired."""
        return self.expires is not None and self.expires <= now.timestamp()

    @property
    def end(self) -> datetime:
        """When the list expires, as far as that is known."""
        return datetime.fromtimestamp(min(self.expires or 0, _END), timezone.utc)


def read(path: Path) -> ListState:
    """Return what the file *path* has; nothing is known if it is not sound."""
    try:
        fields = json.loads(files.read(path))
    except (Error, ValueError, RecursionError):
        return ListState()
    if not isinstance(fields, dict) or not isinstance(fields.get("failed"), bool):
        return ListState()
    times = {name: fields.get(name) for name in ("checked", "expires", "timestamp")}
    numbers = [*times.values(), fields.get("count")]
    optional = fields["failed"]
    if not all(_is_time(number) or (optional and not number) for number in numbers):
        return ListState()
    validators = {name: fields.get(name) for name in VALIDATORS}
    if not all(text is None or isinstance(text, str) for text in validators.values()):
        return ListState()
    look = fields.get("look")
    return ListState(
        failed=fields["failed"],
        count=fields.get("count"),
        look=tuple(look) if isinstance(look, list) else (),
        validators=tuple((name, text) for name, text in validators.items() if text),
        **times,
    )


def write(path: Path, state: ListState) -> None:
    """Write *state* to the file *path*."""
    fields: dict[str, Any] = {
        "checked": state.checked,
        "failed": state.failed,
        "expires": state.expires,
        "timestamp": state.timestamp,
        "count": state.count,
        "look": state.look,
        **dict(state.validators),
    }
    files.replace(path, json.dumps(fields).encode(), mode=0o600)


def _is_time(value: object) -> TypeGuard[float]:
    """Whether *value* is in seconds since 1970, and a `datetime` can have it."""
    return (
        isinstance(value, int | float)
        and type(value) is not bool
        and (abs(value) <= _END)
    )
