"""The recipient domains that are learnt from the queue and the mail log.

Personal data: of all that a log says, domains alone are kept, with the day on which
mail was last sent there, in a file that only root can read, and for 90 days.  It may be
lost: then it begins with the providers that the package names.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from certbot_postfix.errors import Error
from certbot_postfix.formats.policy import PolicyError, parse_domain
from certbot_postfix.outbound import mta_sts_cache
from certbot_postfix.postfix import sent_mail
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.current import Current
from certbot_postfix.postfix.sent_mail import Position, Queued
from certbot_postfix.system import files

# The value of the option, in place of a file or before one and a comma.
AUTO = "auto"

_NAME = "recipients.json"
_VERSION = 1
_PROVIDERS = Path(__file__).with_name("providers.txt")

# Days after which a domain without mail is forgotten, and how many there may be.
_DAYS = 90
_MOST = 200_000
_DAY = 86400

# Seconds: how often it is worth while to look, and how long a look may take.
_AGAIN = 1800
_SECONDS = 30.0


@dataclass(slots=True)
class Learnt:
    """The *domains*, with the days since 1970 on which mail was last sent to them.

    The log was read up to *position*; the last look was at *looked*, in seconds.
    """

    domains: dict[str, int] = field(default_factory=dict)
    position: Position = field(default_factory=Position)
    looked: float = 0.0


def wanted(option: str) -> bool:
    """Whether the *option* asks for domains to be learnt."""
    return option == AUTO or option.startswith(f"{AUTO},")


def file_in(option: str) -> Path | None:
    """Return the file of domains that the *option* names, if it names one."""
    path = option.removeprefix(AUTO).removeprefix(",") if wanted(option) else option
    return Path(path) if path else None


def due(directory: Path, now: datetime) -> bool:
    """Whether a look is worth while; *directory* is that of sources."""
    age = now.timestamp() - _read(directory).looked
    return not 0 <= age < _AGAIN


def domains(directory: Path) -> list[str]:
    """Return the domains that are known: providers, and what was learnt."""
    lines = files.read(_PROVIDERS).decode().splitlines()
    providers = [line for line in lines if line and not line.startswith("#")]
    return list(dict.fromkeys([*providers, *_read(directory).domains]))


def look(
    current: Current,
    directory: Path,
    option: str,
    now: datetime,
    *,
    force: bool = False,
) -> frozenset[str]:
    """Learn from the queue and the log, if the *option* wants that.

    The log is not read again within half an hour, except with *force*.  Returns the
    domains that have a policy and mail that waits: it may be another one now.
    """
    queued = sent_mail.queued(current.postfix)
    if wanted(option) and (force or due(directory, now)):
        _learn(current.configuration, queued, directory, now)
    cache, _ = mta_sts_cache.read(mta_sts_cache.path_in(directory))
    waiting = filter(None, map(_domain, queued.deferred))
    return frozenset(name for name in waiting if name in cache and cache[name].mode)


def _learn(
    configuration: Configuration, queued: Queued, directory: Path, now: datetime
) -> None:
    """Learn what the log and the queue say since the last look; forget the old."""
    learnt, today = _read(directory), int(now.timestamp()) // _DAY
    seen = sent_mail.logged(
        configuration, learnt.position, now.timestamp(), seconds=_SECONDS
    )
    for text in (*seen, *queued.domains):
        if domain := _domain(text):
            learnt.domains[domain] = today
    fresh = {name: day for name, day in learnt.domains.items() if day > today - _DAYS}
    latest = sorted(fresh, key=lambda name: fresh[name], reverse=True)[:_MOST]
    learnt.domains = {name: fresh[name] for name in sorted(latest)}
    learnt.looked = now.timestamp()
    _write(directory, learnt)


def forget(directory: Path, option: str) -> None:
    """Forget what is known of domains, unless the *option* still needs it."""
    if not wanted(option):
        files.remove(directory / _NAME)
    if not option:
        files.remove(mta_sts_cache.path_in(directory))


def _domain(text: str) -> str:
    """Return the domain that *text* is, in A-labels; "" if it has no policy."""
    if "." not in text.strip(".") or len(text) > 255:
        return ""
    try:
        return parse_domain(text.removesuffix("."), "")
    except PolicyError:
        return ""


def _read(directory: Path) -> Learnt:
    """Return what was learnt; nothing if the file is damaged."""
    path = directory / _NAME
    if not path.exists():
        return Learnt()
    try:
        fields: Any = json.loads(files.read(path))
        if fields["version"] != _VERSION:
            return Learnt()
        days = {
            name: int(day)
            for name, day in fields["domains"].items()
            if _domain(name) == name
        }
        logs = {
            log: (int(inode), max(0, int(offset)), int(mark))
            for log, (inode, offset, mark) in fields["logs"].items()
        }
        position = Position(logs, float(fields["read"]))
        return Learnt(days, position, float(fields["looked"]))
    except (
        Error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ):
        return Learnt()


def _write(directory: Path, learnt: Learnt) -> None:
    fields = {
        "version": _VERSION,
        "looked": learnt.looked,
        "read": learnt.position.read,
        "logs": learnt.position.logs,
        "domains": learnt.domains,
    }
    files.replace(directory / _NAME, json.dumps(fields).encode(), mode=0o600)
