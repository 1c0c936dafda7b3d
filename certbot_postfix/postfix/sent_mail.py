"""Which domains mail is sent to, by the mail log and the queue: nothing else of either.

A log is read once, from where it was read last, in bounded time and memory, wherever it
is rotated to meanwhile.  What cannot be read is not known: nothing is raised.
"""

import bz2
import contextlib
import glob
import gzip
import json
import lzma
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from certbot_postfix.errors import Error, named_logger
from certbot_postfix.postfix import mail_log
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system import files
from certbot_postfix.system.programs import beginning

logger = named_logger(__name__)

# What a delivery looks like: of smtp(8) alone, since what local(8) or a rejection of
# smtpd(8) names is where nothing is sent, and anybody may have made it up.
_RECIPIENT = b": to=<"
_CLIENT = re.compile(rb"/smtp\[\d+\]: [0-9A-Za-z]+$")
_BEFORE = 80

# Bytes that are read at once, fit for the cache of a processor.
_PIECE = 1 << 17

# What begins with a recipient, and how many of those are passed over.
_HEAD = itemgetter(slice(48))
_KNOWN = 100_000

# Bytes by which a file is known again.
_MARKED = 512

# Bytes of the queue, and of the journal, that are read at most.
_QUEUE = 64 << 20
_JOURNAL = 64 << 20
_SECONDS = 20

# Seconds after which it seems that nobody writes a file any more, at the first look.
_QUIET = 24 * 60 * 60

_COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

# Damage of a compressed file, too.
_UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, Error)


@dataclass(slots=True)
class Position:
    """How far logs were read: for each path, *logs* has an inode, an offset and a mark.

    The mark tells whether it is the same file: an inode is used again.  *read* is when
    all was read to its end, in seconds since 1970.
    """

    logs: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    read: float = 0.0


@dataclass(frozen=True, slots=True)
class Queued:
    """The domains of recipients whose mail is in the queue, and which of it waits."""

    domains: frozenset[str]
    deferred: frozenset[str]


def queued(postfix: Postfix) -> Queued:
    """Return what is in the queue, as far as it can be read."""
    command = ["postqueue", "-c", str(postfix.directory), "-j"]
    domains: dict[str, bool] = {}
    for line in beginning(command, _QUEUE, timeout=_SECONDS).splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            message = json.loads(line)
            waits = message["queue_name"] == "deferred"
            for recipient in message["recipients"]:
                domain = recipient["address"].rpartition("@")[2]
                domains[domain] = domains.get(domain, False) or waits
    deferred = frozenset(domain for domain, waits in domains.items() if waits)
    return Queued(frozenset(domains), deferred)


def logged(
    configuration: Configuration, position: Position, now: float, *, seconds: float
) -> set[str]:
    """Return the domains in the part of the log that is new, within so many *seconds*.

    The *position* becomes that of its end.
    """
    end = time.monotonic() + seconds
    domains: set[bytes] = set()
    paths = [path for path in mail_log.places(configuration) if path.is_file()]
    whole = all([_read(path, position, domains, end) for path in paths])  # noqa: C419
    # The file may be an old one, from before the journal was in use.
    last = position.read or now - _QUIET
    if not any(_changed_since(last, path) for path in paths):
        domains |= _in_journal(configuration, position.read)
    if whole:
        position.read = now
    return {domain[1:].decode("utf-8", "surrogateescape") for domain in domains}


def _read(path: Path, position: Position, domains: set[bytes], end: float) -> bool:
    """Add the *domains* in what is new of *path*; return whether there was time."""
    try:
        for part, offset in _parts(path, position):
            inode, stopped = part.stat().st_ino, offset
            with _opened(part) as file:
                file.seek(offset)
                for size in _scan(file, domains):
                    stopped += size
                    if late := time.monotonic() > end:
                        break
                else:
                    late = False
            position.logs[str(path)] = inode, stopped, _mark(part, stopped)
            if late:
                logger.warning(
                    "%s: there was no time to read more of the mail log than %s bytes;"
                    " the next run goes on",
                    part,
                    f"{stopped:,}",
                )
                return False
    except _UNREADABLE as error:
        logger.warning("%s: the mail log could not be read: %s", path, error)
    return True


def _changed_since(time_of_look: float, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime >= time_of_look
    return False


def _parts(path: Path, position: Position) -> Iterator[tuple[Path, int]]:
    """Yield the files that have what is new, the oldest first, with offsets."""
    inode, offset, mark = position.logs.get(str(path), (0, 0, 0))
    status = path.stat()
    if not inode:
        yield path, 0
        return
    whole = status.st_ino == inode and status.st_size >= offset
    if whole and _mark(path, offset) == mark:
        yield path, offset
        return
    rotated = {
        other: other.stat()
        for other in path.parent.glob(f"{glob.escape(path.name)}[.-]*")
        if other.is_file()
    }
    for other in sorted(rotated, key=lambda other: rotated[other].st_mtime):
        if rotated[other].st_ino == inode and _mark(other, offset) == mark:
            yield other, offset
        elif rotated[other].st_mtime >= position.read:
            yield other, 0
    yield path, 0


def _mark(path: Path, offset: int) -> int:
    """Return what tells whether *path* begins as it did when it had *offset* bytes."""
    with files.opened(path) as file:
        return zlib.crc32(file.read(min(offset, _MARKED)))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with files.opened(path) as file:
        if opener := _COMPRESSED.get(path.suffix):
            with opener(file, "rb") as text:  # type: ignore[operator]
                yield text
        else:
            yield file


def _scan(file: BinaryIO, domains: set[bytes]) -> Iterator[int]:
    """Add to *domains* those of deliveries; yield the sizes of whole lines read."""
    rest, known = b"", set[bytes]()
    while piece := file.read(_PIECE):
        if cut := piece.rfind(b"\n") + 1:
            lines = b"".join((rest, memoryview(piece)[:cut]))
            rest = piece[cut:]
            _add(lines, domains, known)
            yield len(lines)
        elif len(rest) < _PIECE:
            rest += piece
        else:  # it is no log
            yield len(rest) + len(piece)
            rest = b""


def _add(lines: bytes, domains: set[bytes], known: set[bytes]) -> None:
    """Add the *domains* of deliveries in *lines*, with an @ before each.

    What begins with a recipient becomes *known*: most are in many lines.
    """
    # From the end: so CPython looks for it in half the time.
    parts = lines.rsplit(_RECIPIENT)
    if known.issuperset(map(_HEAD, parts[1:])):
        return
    for before, part in pairwise(parts):
        head = _HEAD(part)
        if head in known or not _CLIENT.search(before[-_BEFORE:]):
            continue
        recipient = part[: part.find(b">")]
        if (at := recipient.rfind(b"@")) >= 0:
            domains.add(recipient[at:])
        if b">" in head:  # or it may be of several recipients
            known.add(head)
    if len(known) > _KNOWN:
        known.clear()


def _in_journal(configuration: Configuration, since: float) -> set[bytes]:
    """Return the domains in the journal, with an @ before each; the latest first."""
    name = configuration.value("syslog_name") or "postfix"
    command = ["journalctl", "--quiet", "--no-pager", "--reverse"]
    command += [f"--since=@{since:.0f}"]
    command += [f"--identifier={name}/{client}" for client in ("smtp", "relay/smtp")]
    domains: set[bytes] = set()
    text = beginning(command, _JOURNAL, timeout=_SECONDS)
    _add(text, domains, set())
    return domains
