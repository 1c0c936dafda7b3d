"""What sources of policies give, which may be anybody's, checked where it comes in.

Pure; raises `TypeError` and `ValueError`.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone

from certbot_postfix.errors import excerpt
from certbot_postfix.formats.policy import SERVERS, Entry, Mode, Policy, is_pattern
from certbot_postfix.system.hostnames import is_host

# What RFC 8461, 3.2, has for a max_age, and for an id.
_OLDEST = 31_557_600
_ID = re.compile(r"[A-Za-z0-9]{0,32}")


def checked(entries: Iterable[object], label: str, now: datetime) -> Iterator[Entry]:
    """Yield those *entries* that are in force *now*, as of the source *label*."""
    for entry in entries:
        if type(entry) is not Entry:
            raise TypeError(f"{_kind(entry)} is no entry")
        domain = entry.domain
        if type(domain) is not str or not is_host(domain):
            raise ValueError(f"{_show(domain)} is not a domain in A-labels")
        policy, expires = _policy(entry.policy, domain), _utc(entry.expires, domain)
        if expires <= now or policy.mode is Mode.NONE:
            continue
        age = _max_age(entry)
        same = policy is entry.policy and expires is entry.expires
        if same and (label, age) == (entry.source, entry.max_age):
            yield entry
        else:
            yield Entry(domain, policy, expires, label, age, entry.id, entry.dane)


def _policy(policy: object, domain: str) -> Policy:
    if type(policy) is not Policy or type(policy.mode) is not Mode:
        raise TypeError(f"{domain}: {_kind(policy)} is no policy with a mode")
    if type(policy.mxs) not in (tuple, list):
        raise TypeError(f"{domain}: {_kind(policy.mxs)} is no tuple of servers")
    mxs = tuple(policy.mxs)
    if not mxs and policy.mode is not Mode.NONE:
        raise ValueError(f"{domain}: it has no server")
    if len(mxs) > SERVERS:
        raise ValueError(f"{domain}: it has more than {SERVERS} servers")
    for mx in mxs:
        if type(mx) is not str or not is_pattern(mx):
            raise ValueError(f"{domain}: {_show(mx)} is not the name of a server")
    return policy if mxs is policy.mxs else Policy(policy.mode, mxs)


def _utc(expires: object, domain: str) -> datetime:
    if type(expires) is not datetime:
        raise TypeError(f"{domain}: it expires at {_kind(expires)}, which is no time")
    if expires.tzinfo is timezone.utc:
        return expires
    if expires.utcoffset() is None:
        raise ValueError(f"{domain}: the time at which it expires has no time zone")
    try:
        return expires.astimezone(timezone.utc)
    except OverflowError as error:
        raise ValueError(f"{domain}: it expires when no calendar goes on") from error


def _max_age(entry: Entry) -> int:
    if type(entry.max_age) is not int:
        raise TypeError(f"{entry.domain}: its max_age is no number of seconds")
    if type(entry.id) is not str or (entry.id and not _ID.fullmatch(entry.id)):
        raise ValueError(f"{entry.domain}: its id is not one of RFC 8461")
    if type(entry.dane) is not bool:
        raise TypeError(
            f"{entry.domain}: whether it has DANE is neither true nor false"
        )
    return min(max(entry.max_age, 0), _OLDEST) if entry.max_age else 0


def _show(value: object) -> str:
    """Return text for a message; of what else there is, the type: repr may fail."""
    return excerpt(value) if type(value) is str else _kind(value)


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
