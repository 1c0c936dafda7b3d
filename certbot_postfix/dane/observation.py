"""What DNS says of the TLSA records of an endpoint, as a value.

Pure.  `replies` makes it of messages, `observe` asks for them.
"""

from dataclasses import dataclass
from enum import Enum

from certbot_postfix.formats.tlsa import Record


class Status(Enum):
    """What DNSSEC says of the answer, records or none: RFC 4035, 4.3."""

    SECURE = "secure"
    INSECURE = "insecure"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one authoritative *server* has: *records*, none of them, or a *fault*.

    *ttl* is the original one, in seconds, which no cache has counted down.  Those of a
    *wildcard* are gone as soon as the name has records of its own, RFC 4592, 2.2.1.
    """

    server: str
    records: frozenset[Record] = frozenset()
    ttl: int = 0
    fault: str = ""
    wildcard: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """What DNS says of the records named *owner*, which are at *target* (a CNAME).

    *cached* is what the resolver had, and *why* tells why more is not known.
    *unsigned*: there are records, but in a zone that is not signed.
    """

    owner: str
    status: Status
    target: str = ""
    answers: tuple[Answer, ...] = ()
    cached: Answer | None = None
    why: str = ""
    unsigned: bool = False

    @property
    def blind(self) -> bool:
        """Whether there may be secure records that were not seen."""
        return self.status is Status.UNKNOWN or bool(self.why)

    @property
    def faults(self) -> list[str]:
        """The servers that gave no answer that counts, and why."""
        return [
            f"{answer.server} {answer.fault}" for answer in self.answers if answer.fault
        ]
