"""When sources were asked the last time, and what failed then; where they keep more."""

import json
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.postfix import own_names
from certbot_postfix.system import files

# Where sources keep what they know, below our directory; there, a file with what failed
# the last time, and one that has the time of that.
_DIRECTORY = "policies"
_FAILED = "failed.json"
_REFRESHED = "refreshed"

_DAY = 86400

# How long a message of a former run may be.
_LONGEST = 2000


def cache_directory(path: Path, directory: Path) -> Path:
    """Return where sources keep what they know for the table at *path*."""
    return directory / _DIRECTORY / own_names.of_instance(path.parent)


def note_end(cache: Path) -> None:
    """Take note that sources, which keep what they know in *cache*, were asked now."""
    files.replace(cache / _REFRESHED, b"", mode=0o600)


def overdue(cache: Path, now: datetime) -> bool:
    """Whether the sources that keep what they know in *cache* were asked a day ago."""
    last = cache / _REFRESHED
    return not last.exists() or last.stat().st_mtime < now.timestamp() - _DAY


def note_failures(cache: Path, messages: list[str]) -> None:
    """Keep the *messages* of what failed."""
    path = cache / _FAILED
    if messages:
        files.replace(path, json.dumps(messages).encode(), mode=0o600)
    else:
        files.remove(path)


def failures(cache: Path) -> list[str]:
    """Return what failed the last time, as far as this user may know."""
    with suppress(Error, ValueError, TypeError, RecursionError):
        messages = json.loads(files.read(cache / _FAILED))
        return [str(message)[:_LONGEST] for message in messages]
    return []
