"""Why a chain is held back, and what to do: words.

Pure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from certbot_postfix.dane.rollover import Decision, Facts, State
from certbot_postfix.errors import enumerated
from certbot_postfix.formats import tlsa
from certbot_postfix.formats.tlsa import Record

_TIME = "%Y-%m-%d %H:%M UTC"

# So many endpoints are named in a message.
_MOST = 3


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What was found out of one endpoint, and what follows."""

    facts: Facts
    decision: Decision

    @property
    def place(self) -> str:
        """Where records are published: a CNAME may have led there."""
        return self.facts.observation.target or self.facts.observation.owner


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a chain is held: *reason*, what to do, and whether that is *urgent*."""

    reason: str
    hint: str
    urgent: bool


def make(
    closed: Sequence[Endpoint], times: tuple[datetime, datetime, datetime]
) -> Hold:
    """Return the hold of a chain at the endpoints that are *closed*.

    *times* are since when it is held, when what is served expires, and now.  It becomes
    urgent when half of the time in between is over.
    """
    since, expiry, now = times
    states = {endpoint.decision.state for endpoint in closed}
    urgent = State.MISMATCH in states or expiry - now <= (expiry - since) / 2
    return Hold(
        f"{enumerated(reasons(closed), most=_MOST)}; the certificate in service, which"
        f" expires at {expiry:{_TIME}}, is left unchanged",
        _hint(closed),
        urgent,
    )


def reasons(closed: Sequence[Endpoint]) -> list[str]:
    """Return why a key cannot be served at the endpoints that are *closed*."""
    return list(dict.fromkeys(map(_reason, closed)))


def advice(closed: Sequence[Endpoint]) -> str:
    """Return what to do for a staged key, at the endpoints that are *closed*."""
    if {endpoint.decision.state for endpoint in closed} <= {State.AGEING}:
        return (
            "wait; if the key in service has leaked: certbot-postfix tlsa switch --now"
        )
    lines = "\n".join(dict.fromkeys(_lines(closed)))
    if not lines:
        return "check the resolver, or set another one with --dane-resolver"
    return f"publish, in addition to the existing records:\n{lines}"


def _reason(endpoint: Endpoint) -> str:
    decision, owner = endpoint.decision, endpoint.facts.observation.owner
    match decision.state:
        case State.AGEING:
            return (
                f"{owner} announces its key, but caches may have older records until"
                f" {decision.until:{_TIME}}"
            )
        case State.UNKNOWN:
            why = endpoint.facts.observation.why
            return f"it is not known whether {owner} announces its key ({why})"
        case State.MISMATCH:
            return f"{owner} announces neither its key nor one that is in service"
        case _:
            return f"{owner} does not announce its key ({enumerated(decision.lacking)})"


def _hint(closed: Sequence[Endpoint]) -> str:
    states = {endpoint.decision.state for endpoint in closed}
    if states <= {State.AGEING}:
        return "the next certbot renew after that deploys it"
    if states <= {State.UNKNOWN}:
        return "check the resolver, or set another one with --postfix-dane-resolver"
    lines = "\n".join(dict.fromkeys(_lines(closed)))
    return (
        f"publish, in addition to the existing records:\n{lines}\ncertbot renew deploys"
        " the certificate two TTLs after every server has the record; certbot-postfix"
        " tlsa show says when"
    )


def _lines(closed: Sequence[Endpoint]) -> Iterator[str]:
    for endpoint in closed:
        if endpoint.decision.lacking:
            record = Record.of_key(endpoint.facts.new[0].spki)
            ttl = max((rrset.ttl for rrset in endpoint.facts.history), default=tlsa.TTL)
            yield tlsa.line(endpoint.place, record, ttl)
