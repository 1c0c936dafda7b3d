"""What is remembered of TLSA records between two runs, beside the bundle: no keys.

DNS is the truth; remembered is only what it cannot say: which records it had, until
when, which of them are of keys of ours, and since when a renewal is held; and for
`status`, which does not look, what was wrong at the last look.  A file that cannot be
read counts as none, but for a warning: then the wait begins anew.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from certbot_postfix.dane import places
from certbot_postfix.dane.history import FLOOR, RRset
from certbot_postfix.dane.trouble import Kind, Trouble
from certbot_postfix.errors import Error, named_logger
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.system import files

logger = named_logger(__name__)

# More is not ours: an endpoint has a few RRsets of some records each.
_LARGEST = 1024 * 1024

# Seconds: RFC 2181, 8.
_LONGEST = 2**31 - 1

# What reading anything else than we have written may raise.
_UNREADABLE = (
    *(Error, ValueError, KeyError, TypeError, AttributeError),
    *(OverflowError, RecursionError),
)


@dataclass(frozen=True, slots=True)
class Key:
    """A key of ours: served *since* then, if it was, and *retired* if it is no more."""

    since: datetime | None = None
    retired: datetime | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """The RRsets of each endpoint, by the name of its records, and what is held.

    *held* is since when, *expiry* when what is served instead expires; *ours* has the
    endpoints that are of no other server, by the instance of Postfix.  *keys* are ours,
    by their records, and *troubles* are those of endpoints, which may have no RRset
    that counts.  *printed* are the records that the administrator was asked to remove.
    *floor* is the greatest of all looks: what one of them needs, the others keep.
    """

    endpoints: Mapping[str, tuple[RRset, ...]] = field(default_factory=dict)
    held: datetime | None = None
    expiry: datetime | None = None
    ours: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keys: Mapping[Record, Key] = field(default_factory=dict)
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    printed: frozenset[str] = frozenset()
    floor: timedelta = FLOOR

    @property
    def owners(self) -> tuple[str, ...]:
        """The endpoints at which something was seen."""
        return tuple(dict.fromkeys((*self.endpoints, *self.troubles)))


def load(bundle: Path | None) -> Memory:
    """Return what is remembered for *bundle*; nothing for what is not certbot's."""
    path = places.memory(bundle) if bundle else None
    if path is None or not path.exists():
        return Memory()
    try:
        return _parsed(json.loads(files.read(path, most=_LARGEST)))
    except _UNREADABLE as error:
        logger.warning(
            "%s cannot be read: %s; keys that are announced have to wait again",
            path,
            error,
        )
        return Memory()


def save(bundle: Path | None, memory: Memory) -> None:
    """Remember *memory* for *bundle*; a host without DANE gets no file."""
    if bundle is None:
        return
    path = places.memory(bundle)
    if not memory.owners and not memory.held:
        files.remove(path)
        return
    files.make_directory(path.parent)
    text = json.dumps(_plain(memory), indent=1)
    if not path.exists() or files.read(path) != text.encode():
        files.replace(path, text.encode(), mode=0o600)


def _plain(memory: Memory) -> dict[str, Any]:
    return {
        "version": 1,
        "held": _time(memory.held),
        "expiry": _time(memory.expiry),
        "ours": {it: list(owners) for it, owners in memory.ours.items()},
        "floor": int(memory.floor.total_seconds()),
        "keys": {
            str(record): {"since": _time(key.since), "retired": _time(key.retired)}
            for record, key in memory.keys.items()
        },
        "printed": sorted(memory.printed),
        "troubles": {
            owner: {"kind": trouble.kind.value, "details": trouble.details}
            for owner, trouble in memory.troubles.items()
        },
        "endpoints": {
            owner: [
                {
                    "records": sorted(map(str, rrset.records)),
                    "ttl": rrset.ttl,
                    "until": _time(rrset.until),
                }
                for rrset in rrsets
            ]
            for owner, rrsets in memory.endpoints.items()
        },
    }


def _parsed(value: Any) -> Memory:
    if value["version"] != 1:
        raise ValueError("it is of another version")
    endpoints = {
        str(owner): tuple(
            RRset(
                frozenset(map(Record.from_text, rrset["records"])),
                _ttl(rrset["ttl"]),
                _read(rrset["until"]),
            )
            for rrset in rrsets
        )
        for owner, rrsets in value["endpoints"].items()
    }
    keys = {
        Record.from_text(text): Key(_read(key["since"]), _read(key["retired"]))
        for text, key in value.get("keys", {}).items()
    }
    troubles = {
        str(owner): Trouble(Kind(trouble["kind"]), tuple(map(str, trouble["details"])))
        for owner, trouble in value.get("troubles", {}).items()
    }
    return Memory(
        endpoints,
        _read(value["held"]),
        _read(value["expiry"]),
        {it: tuple(map(str, owners)) for it, owners in value.get("ours", {}).items()},
        keys,
        troubles,
        frozenset(map(str, value.get("printed", ()))),
        max(FLOOR, timedelta(seconds=_ttl(value.get("floor", 0)))),
    )


def _ttl(value: Any) -> int:
    if not 0 <= value <= _LONGEST:
        raise ValueError("a TTL is out of range")
    return int(value)


def _time(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def _read(text: str | None) -> datetime | None:
    if text is None:
        return None
    return datetime.fromisoformat(text).astimezone(timezone.utc)
