"""What is to be done next for a key that changes, or that is held back.

Pure: what DNS says of the endpoints, what is remembered and a time in, a step out.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.rollover import State
from certbot_postfix.dane.store import Memory

# Time enough for somebody to help, where a certificate lasts for days only.
_DAY = timedelta(days=1)


class Step(Enum):
    """What comes next."""

    NOTHING = "nothing"
    STAGE = "stage"
    PUBLISH = "publish"
    WAIT = "wait"
    READY = "ready"  # for somebody who says so
    SWITCH = "switch"
    RESCUE = "rescue"


@dataclass(frozen=True, slots=True)
class Rolling:
    """How keys change: by themselves, *every* so often, or not at all (None)."""

    every: timedelta | None = None


def step(
    endpoints: Collection[Endpoint], memory: Memory, rolling: Rolling, now: datetime
) -> Step:
    """Return what comes next for a key that may be staged.

    *endpoints* are those of all that serves it.
    """
    if is_late(memory, now):
        return Step.RESCUE
    if not in_use(endpoints):
        return Step.NOTHING
    states = {endpoint.decision.state for endpoint in endpoints}
    if not any(endpoint.facts.staged for endpoint in endpoints):
        return Step.STAGE if _is_old(memory, rolling, now) else Step.NOTHING
    if states & {State.STAGED, State.MISMATCH}:
        return Step.PUBLISH
    if not all(endpoint.decision.open for endpoint in endpoints):
        return Step.WAIT
    return Step.SWITCH if rolling.every is not None else Step.READY


def unready(
    endpoints: Collection[Endpoint], *, at_once: bool = False
) -> list[Endpoint]:
    """Return the endpoints at which a staged key must not be served yet.

    *at_once*: caches need not have it, since the key in service has leaked.
    """
    passing = {State.AGEING} if at_once else set()
    return [
        endpoint
        for endpoint in endpoints
        if endpoint.decision.state is State.UNKNOWN
        or not (endpoint.decision.open or endpoint.decision.state in passing)
    ]


def may_come(memory: Memory, rolling: Rolling, now: datetime) -> bool:
    """Whether something may come next where no key is staged, as far as remembered."""
    retired = any(key.retired for key in memory.keys.values())
    old = bool(memory.endpoints) and _is_old(memory, rolling, now)
    return retired or old or is_late(memory, now)


def _is_old(memory: Memory, rolling: Rolling, now: datetime) -> bool:
    return rolling.every is not None and _since(memory, now) <= now - rolling.every


def _since(memory: Memory, now: datetime) -> datetime:
    """Return since when the key in service is, as far as that is known."""
    keys = memory.keys.values()
    return max(
        (key.since for key in keys if key.since and not key.retired), default=now
    )


def is_late(memory: Memory, now: datetime) -> bool:
    """Whether a renewal is held for so long that what is served soon expires."""
    if not memory.held or not memory.expiry:
        return False
    span = memory.expiry - memory.held
    return memory.expiry - now <= max(span / 4, min(_DAY, span / 2))


def in_use(endpoints: Collection[Endpoint]) -> list[Endpoint]:
    """Return the endpoints that have records, and of this server."""
    return [
        endpoint
        for endpoint in endpoints
        if endpoint.decision.state is not State.FOREIGN
        and any(rrset.until is None for rrset in endpoint.facts.history)
    ]
