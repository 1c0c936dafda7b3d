"""The table certbot_tls_policy, as a value: what smtp_tls_policy_maps has of ours.

Pure.  Its first lines say what the administrator wants, as JSON in a comment: so that
is kept in one place, and restored with the table.  Before each entry stands how long it
is in force, and where it comes from.  The entries are those of postconf(5),
smtp_tls_policy_maps; the attributes for MTA-STS those of TLSRPT_README.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import TextIO

from certbot_postfix.errors import Error, excerpt
from certbot_postfix.formats.policy import Entry, Mode, Policy
from certbot_postfix.outbound.sources import Settings
from certbot_postfix.postfix import own_names
from certbot_postfix.system import new_file
from certbot_postfix.system.hostnames import is_host

PARAMETER = "smtp_tls_policy_maps"
NAME = own_names.POLICY_MAP
_TITLE = "# Outbound TLS policies: what each recipient domain requires."
_FORMER = "# Which TLS mail to a domain must have, and which servers may take it."
_HEADER = f"{_TITLE}\n# Written by certbot-postfix: edits are lost.\n"

# Attributes that an older Postfix does not know make it defer the mail.
_SERVERNAME = (3, 4)
_MTA_STS = (3, 10)

# Beside what is printable, a key may have joiners (RFC 5892, A.1 and A.2), but no dot
# of UTS 46, which ends a label.  What Python's Unicode does not have yet is left out:
# Postfix's may have two of it as one letter in two cases, and of a texthash with a key
# that is there twice, no key counts.
_JOINERS = frozenset("\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}")
_DOTS = frozenset("\u3002\uff0e\uff61")

# A key of lmdb has no more bytes, with the one at its end that some have.
_LONGEST = 510

# The level of a domain with a policy that is left to DANE: unlike dane, it is none that
# delivers without TLS when TLSA records go away between two looks.
_BY_DANE = "dane-only"

_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Header:
    """What the first lines of a table say.

    That is what the administrator *wanted*, *until* when all entries are in force, and
    whether domains that have DANE are left to *dane*.
    """

    wanted: Settings
    until: datetime | None
    dane: bool


def merged(groups: Iterable[Iterable[Entry]]) -> dict[str, Entry]:
    """Return the entry of each domain; that of a later group overrides earlier ones.

    What a list only tests does not end what MTA-STS enforces.
    """
    by_domain: dict[str, Entry] = {}
    for entry in (entry for entries in groups for entry in entries):
        earlier = by_domain.get(entry.domain)
        if (
            earlier
            and earlier.max_age
            and earlier.policy.mode is Mode.ENFORCE
            and entry.policy.mode is Mode.TESTING
        ):
            continue
        by_domain[entry.domain] = entry
    return by_domain


def render(
    settings: Settings,
    entries: Mapping[str, Entry],
    version: tuple[int, int],
    *,
    dane: bool = False,
) -> bytes:
    """Return the text of the table for a Postfix of this *version*.

    Raises `Error` if it would be too long to be read again.
    """
    until = min((entry.expires for entry in entries.values()), default=None)
    wanted = {**asdict(settings), "until": _timestamp(until) if until else ""}
    wanted["dane"] = dane
    # There may be a million: they are never all there twice.
    text = io.BytesIO()
    text.write(f"{_HEADER}# {json.dumps(wanted)}\n".encode())
    before: tuple[Mode, datetime, str] | None = None
    for domain in sorted(entries):
        entry = entries[domain]
        if entry.dane and not dane:
            continue  # nothing could be delivered
        demand = _demand(entry, version)
        origin = entry.policy.mode, entry.expires, entry.source
        if origin != before:  # all of a list have the same
            mode, expires, source = before = origin
            about = f"# {mode.value} until {_timestamp(expires)} from {source}\n"
            mark = "" if mode is Mode.ENFORCE else "# "
        lines = f"{about}{mark}{domain} {demand}\n"
        if not mark and "xn--" in domain and (key := unicode_key(domain)):
            lines += f"{key} {demand}\n"
        text.write(lines.encode())
        if text.tell() > new_file.LARGEST:
            raise Error(
                f"the policies of {len(entries):,} domains take more than"
                f" {new_file.LARGEST:,} bytes: {NAME} was left unchanged",
                hint="name fewer lists or domains",
            )
    return text.getvalue()


def unicode_key(domain: str) -> str:
    """Return what Postfix looks up for *domain* if it is written in Unicode, or "".

    It folds the case of what it looks up, as far as ``strasse`` for its German form:
    where that is the name of another domain, there is none.
    """
    # Not by idna: Postfix lets symbols pass, unlike IDNA 2008.
    try:
        name = ".".join(
            label[4:].encode().decode("punycode") if label.startswith("xn--") else label
            for label in domain.split(".")
        )
    except UnicodeError:
        return ""
    if name.isascii() or name != name.casefold() or not _is_written(name):
        return ""
    return name


def spellings_of(domain: str) -> Iterator[str]:
    """Yield *domain*, and its `unicode_key` if it has one."""
    yield domain
    if "xn--" in domain and (key := unicode_key(domain)):
        yield key


def _is_written(name: str) -> bool:
    """Whether *name* is safe as a key, on a line and in a database."""
    fits = all(
        letter in _JOINERS or (letter.isprintable() and letter not in _DOTS)
        for letter in name
    )
    return fits and len(name.encode()) <= _LONGEST


def _demand(entry: Entry, version: tuple[int, int]) -> str:
    if entry.dane:
        return _BY_DANE
    # A pattern with a dot before it means any host below, and a host has one more label
    # only if the certificate says so: see docs/outbound-tls.rst.
    demand = f"secure match={':'.join(entry.policy.mxs)}"
    if version >= _SERVERNAME:
        demand += " servername=hostname"  # RFC 8461, 4.2: the host's name is asked
    if version >= _MTA_STS and entry.max_age:
        mxs = [f"*{mx}" if mx.startswith(".") else mx for mx in entry.policy.mxs]
        words = [demand, f"policy_type=sts policy_domain={entry.domain}"]
        policy = ["version: STSv1", f"mode: {entry.policy.mode.value}"]
        policy += [*(f"mx: {mx}" for mx in mxs), f"max_age: {entry.max_age}"]
        words += [f"{{ policy_string = {line} }}" for line in policy]
        words += [f"mx_host_pattern={mx}" for mx in mxs]
        demand = " ".join(words)
    return demand


def header(text: TextIO, path: Path) -> Header:
    """Read the first lines; raise `Error` if `render` has not written them."""
    title, _, wanted = (text.readline().rstrip("\n") for _ in range(3))
    try:
        fields = (
            json.loads(wanted.removeprefix("# ")) if title in (_TITLE, _FORMER) else {}
        )
        until, dane = fields.pop("until"), fields.pop("dane", False) is True
        settings = Settings(**{**fields, "lists": tuple(fields["lists"])})
        texts = (settings.keyring, settings.domains, *settings.lists)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
        return Header(settings, _time(until) if until else None, dane)
    except _UNREADABLE as error:
        if title in (_TITLE, _FORMER):
            raise Error(
                f"{path} was edited, and its third line, with what was asked for,"
                " cannot be read",
                hint=f"undo that, or remove {path} and install the policies anew",
            ) from error
        raise Error(
            f"{path} was not written by this plugin, and is left unchanged",
            hint="give it another name, there and in main.cf",
        ) from error


def parse(lines: Iterable[str], path: Path) -> Iterator[Entry]:
    """Yield the entries in the *lines* of the table *path*, which `render` made.

    Raises `Error` where they were edited.
    """
    about: list[str] = []
    for line in lines:
        words = line.removeprefix("# ").rstrip("\n").split(" ", 4)
        if about:
            try:
                entry = _entry(about, words, line.rpartition("max_age: ")[2])
            except (ValueError, IndexError) as error:
                name = words[0] if is_host(words[0]) else excerpt(words[0])
                raise Error(
                    f"{path} was edited, and its entry for {name} cannot be read",
                    hint=f"undo that, or remove {path} and install the policies anew",
                ) from error
            yield entry
            about = []
        elif line.startswith("# ") and words[1:2] == ["until"]:
            about = words


def lines(text: bytes) -> Iterator[tuple[str, str]]:
    """Yield the keys and values in the *text* of a table that `render` made."""
    for line in io.BytesIO(text):
        if not line.startswith(b"#"):
            key, _, value = line.decode().rstrip("\n").partition(" ")
            yield key, value


def last(text: bytes) -> Iterator[tuple[str, str]]:
    """Yield the last of `lines`, if there is any, without a look at the others."""
    end = len(text)
    while end > 0:
        start = text.rfind(b"\n", 0, end - 1) + 1
        if pairs := list(lines(text[start:end])):
            yield from pairs
            return
        end = start


def _entry(about: list[str], words: list[str], age: str) -> Entry:
    mode, _, expires, _, source = about
    if len(words[0]) > _LONGEST:
        raise ValueError  # each of its parents would be looked up
    dane = words[1] == _BY_DANE
    mxs = () if dane else tuple(words[2].removeprefix("match=").split(":"))
    number = age.partition(" ")[0]
    return Entry(
        words[0],
        Policy(Mode(mode), mxs),
        _time(expires),
        source,
        int(number) if number.isdigit() else 0,
        dane=dane,
    )


@lru_cache
def _timestamp(when: datetime) -> str:
    return when.astimezone(timezone.utc).strftime(_TIME)


@lru_cache
def _time(text: str) -> datetime:
    return datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc)
