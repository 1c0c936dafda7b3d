"""What is kept of the recipient domains whose MTA-STS policies are looked up: RFC 8461.

What is read is checked as strictly as what was fetched, domain by domain.
"""

import json
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from certbot_postfix.errors import excerpt
from certbot_postfix.formats.policy import (
    Entry,
    Mode,
    Policy,
    PolicyError,
    parse_domain,
    parse_patterns,
)
from certbot_postfix.outbound import entries as _entries
from certbot_postfix.system import files

LABEL = "MTA-STS"
_VERSION = 1

# More than any policy that was fetched can last, in seconds since 1970.
_LATEST = 1 << 36
_EPOCH = datetime.fromtimestamp(0, timezone.utc)

# What is kept of a domain: *next* is when to look again, and of a policy its *id*, when
# it was *fetched*, when DNS last had the same id (*seen*), its *age*, *mode* and *mxs*;
# *dane* if that protects the domain.
Kept = dict[str, Any]


def read(path: Path) -> tuple[dict[str, Kept], list[str]]:
    """Return what the file *path* has of each domain, and a sentence for each damage.

    What is damaged is left out, so that it is looked up anew.
    """
    if not path.exists():
        return {}, []
    try:
        found = json.loads(files.read(path))
        domains: Any = found["domains"] if found["version"] == _VERSION else None
        kept = {name: one for name, one in domains.items() if _is_sound(name, one)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, [f"{path} is damaged: all domains are looked up anew"]
    damaged = (name for name in domains if name not in kept)
    return kept, [
        f"{path}: the entry for {excerpt(name)} is damaged: it is looked up anew"
        for name in damaged
    ]


def write(path: Path, found: dict[str, Kept]) -> None:
    """Let the file *path* have what was *found*, if that is something else."""
    text = json.dumps({"version": _VERSION, "domains": found}).encode()
    if not path.exists() or files.read(path) != text:
        files.replace(path, text, mode=0o600)


def of(entries: Iterable[Entry], now: datetime) -> dict[str, Kept]:
    """Return what was kept of those *entries* that are in force, if it is lost."""
    at = int(now.timestamp())
    return {
        one.domain: {
            "next": 0,
            "id": "",
            "fetched": at,
            "age": int(one.expires.timestamp()) - at,
            "mode": one.policy.mode.value,
            "mxs": list(one.policy.mxs),
        }
        for one in entries
        if one.source == LABEL and one.expires > now
    }


def entry(name: str, one: Kept) -> Entry | None:
    """Return the policy that is kept of *name*, if it is one that says something.

    Raises `model.PolicyError` if it is damaged.
    """
    if one.get("mode") not in (Mode.ENFORCE.value, Mode.TESTING.value):
        return None
    return Entry(
        parse_domain(name, LABEL),
        Policy(Mode(one["mode"]), parse_patterns(one["mxs"], f"{LABEL}: {name}", ".")),
        datetime.fromtimestamp(min(max(ends(one), 0), _LATEST), timezone.utc),
        LABEL,
        one["age"],
        one["id"],
    )


def _is_sound(name: str, one: Any) -> bool:
    """Whether *one* is what is kept of the domain *name*."""
    if not _has_types(one):
        return False
    try:
        Mode(one.get("mode", Mode.NONE.value))
        found = entry(name, one)
        # What a source gives is checked so, too, and there it would cost all domains.
        list(_entries.checked(filter(None, [found]), LABEL, _EPOCH))
    except (PolicyError, TypeError, ValueError):
        return False
    return True


def _has_types(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("next"), int):
        return False
    if not isinstance(one.get("dane", False), bool):
        return False
    if "mode" not in one:
        return True
    numbers = one.get("fetched"), one.get("age"), one.get("seen", 0)
    words = one.get("id"), one["mode"]
    return (
        all(isinstance(each, int) for each in numbers)
        and all(isinstance(each, str) for each in words)
        and isinstance(one.get("mxs"), list)
    )


def ends(one: Kept) -> int:
    """Return when the policy in *one* ends, in seconds since 1970."""
    since = max(one.get("fetched", 0), one.get("seen", 0))
    return int(since + one.get("age", 0))
