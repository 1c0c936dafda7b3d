"""Lists of policies in the format of STARTTLS Everywhere, version 0.1.

Pure: bytes in, a `PolicyList` out; raises `PolicyError`, which names the field by its
path.  A list is JSON: ``timestamp`` and ``expires``, in seconds since 1970 or as ISO
8601; ``policy-aliases`` and ``policies``, each with a ``mode`` and the ``mxs``, which
are names, or suffixes that stand for one more label.  Fields that are not known are
ignored, as those of later versions will be; another version is not.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from certbot_postfix.errors import SHOWN, excerpt
from certbot_postfix.formats.policy import (
    Mode,
    Policy,
    PolicyError,
    gc_paused,
    parse_domain,
    parse_patterns,
)
from certbot_postfix.system.hostnames import is_host

VERSION = "0.1"

# What a list of a million domains has, each with a mode and five servers, and a fifth
# more: names with a value take most memory, 150 bytes and more each.
_MOST = {b"{": 1_200_000, b"[": 1_200_000, b":": 3_600_000, b",": 7_200_000}

# The bytes of a table: less than new_file.LARGEST; what an entry has beside its names
# and its source; and what it has more if its key is there in Unicode, too.
_TABLE = 260_000_000
_ENTRY, _KEY = 80, 600

# Python keeps a text with one character beyond Latin-1, or beyond 16 bits, with two or
# four bytes for each.
_WIDE = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")
_WIDER_THAN_LATIN = re.compile(rb"[\xc4-\xef]|\\u")
_MEMORY = 256 * 1024 * 1024

# The published format says that mode is required, and that testing is its default.
_MODES = {mode.value: mode for mode in (Mode.TESTING, Mode.ENFORCE)}
_DEFAULT = Mode.TESTING.value

# What a list consists of, and what a policy.
_TOP = ("version", "timestamp", "expires", "policy-aliases", "policies")
_FIELDS = ("policy-alias", "mode", "mxs")


@dataclass(frozen=True, slots=True)
class PolicyList:
    """The policies of domains, issued at *timestamp* and good until *expires*.

    The *ambiguous* domains have several, which differ, and so none of them.
    """

    timestamp: datetime
    expires: datetime
    policies: Mapping[str, Policy]
    ambiguous: frozenset[str] = frozenset()


class _AmbiguousError(PolicyError):
    """A policy may be one or another."""


class _Repeated(tuple[Any, ...]):
    """The values of a name that one object has several times, with different values.

    RFC 8259, 4, leaves open which of them counts.
    """

    __slots__ = ()


def parse(text: bytes, source: str) -> PolicyList:
    """Read a list from *source*; raise `PolicyError` if anything in it is not valid."""
    for sign, most in _MOST.items():
        if text.count(sign) > most:
            raise PolicyError(
                f"{source}: it has {sign.decode()!r} more than {most:,} times"
            )
    if len(text) * _width(text) > _MEMORY:
        raise PolicyError(f"{source}: it is too long for other characters than ASCII")
    try:
        with gc_paused():
            fields = json.loads(text, object_pairs_hook=_object)
            listed = _list(fields)
        _refuse_long(listed.policies, _ENTRY + len(source))
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{source} is not JSON: {error}") from error
    except PolicyError as error:
        error.message = f"{source}: {error.message}"
        raise
    return listed


def _width(text: bytes) -> int:
    if len(text) * 4 <= _MEMORY:
        return 1  # whatever is in it
    return 4 if _WIDE.search(text) else 2 if _WIDER_THAN_LATIN.search(text) else 1


def _list(fields: object) -> PolicyList:
    if not isinstance(fields, dict):  # it may be another file, by a link
        raise PolicyError("the list is not an object")
    _refuse_repeated(fields)
    if fields.get("version") != VERSION:
        raise PolicyError(
            f"version: {excerpt(fields.get('version'))} is not {VERSION!r}, which is"
            " the only one that is understood"
        )
    timestamp, expires = (_time(fields, name) for name in ("timestamp", "expires"))
    if expires < timestamp:
        raise PolicyError("expires: it is before the timestamp")
    path = "policy-aliases"
    aliases = {
        name: _only(entry, f"{path}.{_step(name)}", {})
        for name, entry in _mapping(fields.get(path, {}), path).items()
    }
    policies = _by_domain(fields.get("policies"))
    ambiguous = set()
    others = [name for name, entry in policies.items() if type(entry) is not Policy]
    for domain in others:  # which few are
        if policy := _only(policies[domain], f"policies.{domain}", aliases):
            policies[domain] = policy
        else:
            del policies[domain]
            ambiguous.add(domain)
    return PolicyList(timestamp, expires, policies, frozenset(ambiguous))


def _by_domain(value: object) -> dict[str, Any]:
    """Return the entry of each domain; one in several spellings is a repeated name."""
    path = "policies"
    entries = _mapping(value, path)
    for name in [name for name in entries if not is_host(name)]:
        domain = parse_domain(name, f"{path}.{_step(name)}")
        entry = entries.pop(name)
        if domain in entries:
            entry = _Repeated((*_values(entries[domain]), *_values(entry)))
        entries[domain] = entry
    return entries


def _refuse_long(policies: Mapping[str, Policy], entry: int) -> None:
    """Raise `PolicyError` if a table of *policies* would be too long to be read.

    With aliases, a few hundred kilobytes of them become gigabytes.
    """
    size = entry * len(policies)
    for name, policy in policies.items():
        names = len(name) + len(policy.mxs) + sum(map(len, policy.mxs))
        size += 2 * names + _KEY if "xn--" in name else names
    if size > _TABLE:
        raise PolicyError(f"policies: their table has more than {_TABLE:,} bytes")


def _refuse_repeated(fields: Mapping[str, Any]) -> None:
    for name in _TOP:
        if isinstance(fields.get(name), _Repeated):
            raise PolicyError(f"{name}: it is there twice, with different values")


def _only(
    entry: object, where: str, aliases: Mapping[str, Policy | None]
) -> Policy | None:
    """Return the policy *entry*, None if several differ, or one of them is invalid."""
    values = _values(entry)
    try:
        first, *others = (_policy(value, where, aliases) for value in values)
    except PolicyError as error:
        if len(values) > 1 or isinstance(error, _AmbiguousError):
            return None
        raise
    return first if all(_same(first, other) for other in others) else None


def _values(entry: object) -> tuple[object, ...]:
    return entry if isinstance(entry, _Repeated) else (entry,)


def _same(first: Policy, second: Policy) -> bool:
    return first.mode is second.mode and set(first.mxs) == set(second.mxs)


def _policy(entry: object, where: str, aliases: Mapping[str, Policy | None]) -> Policy:
    """Return the policy *entry*, or that of the alias that it gives."""
    if isinstance(entry, Policy):
        return entry
    fields = _mapping(entry, where)
    if any(isinstance(fields.get(name), _Repeated) for name in _FIELDS):
        raise _AmbiguousError(f"{where}: it is ambiguous")
    if "policy-alias" in fields:  # then all others are ignored
        alias = fields["policy-alias"]
        if not isinstance(alias, str) or alias not in aliases:
            raise PolicyError(
                f"{where}.policy-alias: {excerpt(alias)} is not in policy-aliases"
            )
        if (policy := aliases[alias]) is None:
            raise _AmbiguousError(f"{where}: it is ambiguous")
        return policy
    return _own_policy(fields, where)


def _own_policy(fields: Mapping[str, Any], where: str) -> Policy:
    """Return the policy that *fields* have, without an alias."""
    mode, mxs = fields.get("mode", _DEFAULT), fields.get("mxs")
    if not isinstance(mode, str) or mode not in _MODES:
        raise PolicyError(f"{where}.mode: {excerpt(mode)} is not testing or enforce")
    if not isinstance(mxs, list) or not mxs:
        raise PolicyError(f"{where}.mxs: {excerpt(mxs)} is not a list of names")
    return Policy(_MODES[mode], parse_patterns(mxs, f"{where}.mxs", "."))


def _time(fields: Mapping[str, Any], name: str) -> datetime:
    value = fields.get(name)
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, timezone.utc)
        if isinstance(value, str):
            time = datetime.fromisoformat(value.replace("Z", "+00:00"))
            return time.replace(tzinfo=time.tzinfo or timezone.utc).astimezone(
                timezone.utc
            )
    except (ValueError, OverflowError, OSError):
        pass
    raise PolicyError(
        f"{name}: {excerpt(value)} is no time, in seconds or as in ISO 8601"
    )


def _object(pairs: list[tuple[str, Any]]) -> object:
    """Return a policy if *pairs* are one, which takes less memory than they do."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        values: dict[str, list[Any]] = {}
        for name, value in pairs:
            values.setdefault(name, []).append(value)
        for name, (first, *others) in values.items():
            if any(other != first for other in others):
                fields[name] = _Repeated((first, *others))
    if "mxs" in fields and "policy-alias" not in fields:
        try:
            return _own_policy(fields, "")
        except PolicyError:
            pass  # it is told when its path is known
    return fields


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{where}: {excerpt(value)} is not an object")
    return value


def _step(name: str) -> str:
    """Return *name* as a step of a path."""
    plain = len(name) <= SHOWN and name.isascii() and name.isprintable()
    return name if plain else excerpt(name)
