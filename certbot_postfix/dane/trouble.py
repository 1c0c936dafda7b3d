"""What is wrong with the look-up of the TLSA records of an endpoint.

Pure: an observation in, what `status` reports of it out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from certbot_postfix.dane.observation import Observation
from certbot_postfix.dane.replies import UNVALIDATED


class Kind(Enum):
    """What is wrong, by the name under which it is remembered."""

    SERVERS = "servers"  # they differ, or one gives no answer
    UNSIGNED = "unsigned"  # senders ignore the records
    UNKNOWN = "unknown"  # no answer that can be trusted


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong at an endpoint, with *details* for people."""

    kind: Kind
    details: tuple[str, ...] = ()


def trouble(observation: Observation, *, known: bool) -> Trouble | None:
    """Return what is wrong with what was observed, None if nothing is.

    Without DANE, nothing is: *known* tells whether there have been records.
    """
    if observation.unsigned:
        return Trouble(Kind.UNSIGNED)
    if observation.blind:
        matters = known or observation.why == UNVALIDATED
        return Trouble(Kind.UNKNOWN, (observation.why,)) if matters else None
    details = tuple(_differences(observation)) if known else ()
    return Trouble(Kind.SERVERS, details) if details else None


def _differences(observation: Observation) -> Iterator[str]:
    """Yield the servers that give no answer, and the records that one lacks."""
    every = frozenset[object]().union(*(it.records for it in observation.answers))
    for answer in observation.answers:
        if answer.fault:
            yield f"{answer.server} {answer.fault}"
        else:
            lacking = sorted(map(str, every - answer.records))
            yield from (f"{answer.server} lacks {record}" for record in lacking)
