"""The cache of MTA-STS policies of recipient domains: RFC 8461.

What is read is checked as strictly as what was fetched, domain by domain.
"""

import json
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

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
LATEST = 1 << 36
_EPOCH = datetime.fromtimestamp(0, timezone.utc)

# What is kept of a domain that has no policy.
_WITHOUT_POLICY = ("next", "failing", "why")

# How long a reason may be: it comes from strangers.
LONGEST_REASON = 300


class CachedPolicy(NamedTuple):
    """What is known of a domain: *next* is when to look again, in seconds since 1970.

    Of a policy, also its *id*, when it was *fetched*, when DNS last had the same id
    (*seen*), its *age* in seconds, *mode* ("" without a policy) and *mxs*; *dane* is
    whether that protects the domain, if that was asked.  Looks have been *failing*
    since then, for the reason *why*; 0 if the last one did not fail.
    """

    next: int = 0
    id: str = ""
    fetched: int = 0
    seen: int = 0
    age: int = 0
    mode: str = ""
    mxs: tuple[str, ...] = ()
    dane: bool | None = None
    failing: int = 0
    why: str = ""

    @property
    def ends(self) -> int:
        """When the policy ends, in seconds since 1970."""
        return self.renewed + self.age

    @property
    def renewed(self) -> int:
        """When the policy was last known to be published."""
        return max(self.fetched, self.seen)

    def entry(self, domain: str) -> Entry | None:
        """Return the policy of *domain*, if there is one that says something.

        Raises `PolicyError` if it is damaged.
        """
        if self.mode not in (Mode.ENFORCE.value, Mode.TESTING.value):
            return None
        mxs = parse_patterns(self.mxs, f"{LABEL}: {domain}", ".")
        return Entry(
            parse_domain(domain, LABEL),
            Policy(Mode(self.mode), mxs),
            datetime.fromtimestamp(min(max(self.ends, 0), LATEST), timezone.utc),
            LABEL,
            self.age,
            self.id,
        )


Cache = dict[str, CachedPolicy]


def path_in(directory: Path) -> Path:
    """Return where the cache is in the *directory* that sources have."""
    return directory / "mta-sts.json"


def read(path: Path) -> tuple[Cache, list[str]]:
    """Return what the file *path* has of each domain, and a sentence for each damage.

    What is damaged is left out, so that it is looked up anew.
    """
    if not path.exists():
        return {}, []
    try:
        document = json.loads(files.read(path))
        domains: Any = document["domains"] if document["version"] == _VERSION else None
        policies = {name: _sound(name, value) for name, value in domains.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, [f"{path} is damaged: all domains are looked up anew"]
    return {name: policy for name, policy in policies.items() if policy}, [
        f"{path}: the entry for {excerpt(name)} is damaged: it is looked up anew"
        for name, policy in policies.items()
        if not policy
    ]


def write(path: Path, cache: Cache) -> None:
    """Let the file *path* have what is in *cache*, if that is something else."""
    domains = {name: _fields(policy) for name, policy in cache.items()}
    text = json.dumps({"version": _VERSION, "domains": domains}).encode()
    if not path.exists() or files.read(path) != text:
        files.replace(path, text, mode=0o600)


def recovered(entries: Iterable[Entry], now: datetime) -> Cache:
    """Return a cache of those *entries* that are in force, where it was lost."""
    at = int(now.timestamp())
    return {
        entry.domain: CachedPolicy(
            fetched=at,
            age=int(entry.expires.timestamp()) - at,
            mode=entry.policy.mode.value,
            mxs=entry.policy.mxs,
        )
        for entry in entries
        if entry.source == LABEL and entry.expires > now and not entry.dane
    }


def _fields(policy: CachedPolicy) -> dict[str, Any]:
    """Return *policy* for JSON: without a policy, little is known."""
    fields = policy._asdict()
    if not policy.failing:
        del fields["failing"], fields["why"]
    if not policy.mode:
        fields = {key: fields[key] for key in _WITHOUT_POLICY if key in fields}
    return {key: value for key, value in fields.items() if value is not None}


def _sound(name: str, fields: Any) -> CachedPolicy | None:
    """Return what *fields* say of the domain *name*, None if they are damaged."""
    if not _has_types(fields):
        return None
    failing, why = fields.get("failing", 0), fields.get("why", "")[:LONGEST_REASON]
    if "mode" not in fields:
        return CachedPolicy(fields["next"], failing=failing, why=why)
    try:
        policy = CachedPolicy(
            fields["next"],
            fields["id"],
            fields["fetched"],
            fields.get("seen", 0),
            fields["age"],
            Mode(fields["mode"]).value,
            tuple(fields["mxs"]),
            fields.get("dane"),
            failing,
            why,
        )
        # What a source gives is checked so, too, and there it would cost all domains.
        list(_entries.checked(filter(None, [policy.entry(name)]), LABEL, _EPOCH))
    except (PolicyError, TypeError, ValueError):
        return None
    return policy


def _has_types(fields: Any) -> bool:
    if not isinstance(fields, dict) or not isinstance(fields.get("next"), int):
        return False
    if not isinstance(fields.get("dane", False), bool):
        return False
    failing, why = fields.get("failing", 0), fields.get("why", "")
    if not isinstance(failing, int) or not isinstance(why, str):
        return False
    if "mode" not in fields:
        return True
    numbers = fields.get("fetched"), fields.get("age"), fields.get("seen", 0)
    words = fields.get("id"), fields["mode"]
    return (
        all(isinstance(number, int) for number in numbers)
        and all(isinstance(word, str) for word in words)
        and isinstance(fields.get("mxs"), list)
    )
