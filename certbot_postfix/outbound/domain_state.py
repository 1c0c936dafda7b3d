"""The state of a recipient domain's MTA-STS policy: none, in force, failing.

Pure.  A domain that never had a policy and fails is information.  A policy that could
not be renewed in the first half of its life is a finding, and so is one that ended
without that, until a look at the domain succeeds: its mail may go unprotected.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone

from certbot_postfix.errors import enumerated
from certbot_postfix.formats.policy import Mode
from certbot_postfix.outbound.mta_sts_cache import LATEST, CachedPolicy

_NONE = CachedPolicy()


def has_policy(policy: CachedPolicy, now: datetime) -> bool:
    """Whether *policy* is in force, enforced or tested."""
    return policy.mode not in ("", Mode.NONE.value) and policy.ends > now.timestamp()


def is_endangered(policy: CachedPolicy, now: datetime) -> bool:
    """Whether *policy* should have been renewed, and could not be."""
    due = policy.renewed + policy.age // 2
    return bool(
        policy.failing and policy.mode == Mode.ENFORCE.value and now.timestamp() >= due
    )


def described(policy: CachedPolicy, now: datetime) -> str:
    """Return the state of a domain, as *policy* has it, for a message."""
    words = []
    if has_policy(policy, now):
        words.append(f"{policy.mode} until {_time(policy.ends)}")
    elif policy.mode not in ("", Mode.NONE.value):
        words.append(f"no policy since {_time(policy.ends)}, when the last one ended")
    else:
        words.append("no policy")
    if policy.failing:
        words.append(f"failing since {_time(policy.failing)} ({policy.why})")
    return ", ".join(words)


def fields(name: str, policy: CachedPolicy, now: datetime) -> dict[str, object]:
    """Return the state of the domain *name*, which is failing, for JSON."""
    return {
        "domain": name,
        "mode": policy.mode or None,
        "expires": _utc(policy.ends).isoformat() if policy.mode else None,
        "failing_since": _utc(policy.failing).isoformat(),
        "reason": policy.why,
        "endangered": is_endangered(policy, now),
    }


def changes(
    name: str, before: CachedPolicy | None, after: CachedPolicy, now: datetime
) -> Iterator[str]:
    """Yield a line for the log if the state of the domain *name* is another one."""
    old, new = (
        (policy.mode.replace(Mode.NONE.value, ""), policy.mxs, bool(policy.failing))
        for policy in (before or _NONE, after)
    )
    if old != new:
        yield f"{name}: {described(after, now)}"


def notes(policies: Mapping[str, CachedPolicy]) -> Iterator[str]:
    """Yield how many domains could not be looked up, if any."""
    if failing := sum(bool(policy.failing) for policy in policies.values()):
        yield (
            f"MTA-STS: {failing:,} of {len(policies):,} domains could not be looked up;"
            " certbot-postfix policy show --failing lists them"
        )


def finding(policies: Mapping[str, CachedPolicy], now: datetime) -> str:
    """Return which of the *policies* could not be renewed in time; "" if none."""
    late = sorted(
        name for name, policy in policies.items() if is_endangered(policy, now)
    )
    if not late:
        return ""
    first = policies[late[0]]
    return (
        f"the MTA-STS policies of {enumerated(late)} could not be renewed, and without"
        f" one mail is not protected: {late[0]}: {described(first, now)}"
    )


def _time(seconds: int) -> str:
    return f"{_utc(seconds):%Y-%m-%d %H:%M} UTC"


def _utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(min(max(seconds, 0), LATEST), timezone.utc)
