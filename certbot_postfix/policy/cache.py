"""What is kept of the recipient domains whose MTA-STS policies are looked up: RFC 8461.

What is read is checked as strictly as what was fetched.
"""

import json
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from certbot_postfix import files
from certbot_postfix.errors import named_logger
from certbot_postfix.policy import model
from certbot_postfix.policy.model import Entry, Mode, Policy

logger = named_logger(__name__)

LABEL = "MTA-STS"
_VERSION = 1

# More than any policy that was fetched can last, in seconds since 1970.
_LATEST = 1 << 36

# What is kept of a domain: *next* is when to look again, and of a policy its *id*, when
# it was *fetched*, when DNS last had the same id (*seen*), its *age*, *mode* and *mxs*;
# *dane* if that protects the domain.
Kept = dict[str, Any]


def read(path: Path) -> dict[str, Kept]:
    """Return what the file *path* has of each domain; nothing if it is damaged."""
    if not path.exists():
        return {}
    try:
        found = json.loads(files.read(path))
        if found["version"] == _VERSION:
            domains = found["domains"].items()
            return {name: one for name, one in domains if _sound(one)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    logger.warning("%s is damaged: all domains are looked up anew", path)
    return {}


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
        model.domain(name, LABEL),
        Policy(Mode(one["mode"]), model.patterns(one["mxs"], f"{LABEL}: {name}", ".")),
        datetime.fromtimestamp(min(max(ends(one), 0), _LATEST), timezone.utc),
        LABEL,
        one["age"],
        one["id"],
    )


def _sound(one: Any) -> bool:
    """Whether *one* is what is kept of a domain, as far as types go."""
    if not isinstance(one, dict) or not isinstance(one.get("next"), int):
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
