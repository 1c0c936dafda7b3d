"""The sources of policies: what the administrator named, and who implements it.

Each is an entry point of the group `GROUP`.  Whatever a stranger's module does when it
is imported or called, it is named, and what the table has from it stays as it is: no
certificate waits for it.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from zope.interface.verify import verifyObject

from certbot_postfix.errors import Error, excerpt
from certbot_postfix.formats.policy import Entry, gc_paused
from certbot_postfix.interfaces import IPolicySource
from certbot_postfix.outbound import entries, learnt
from certbot_postfix.system import strangers

T = TypeVar("T")

GROUP = "certbot_postfix.policy_sources"

# More than an honest source has of entries, and an honest module of sources.
_MOST = 2_000_000
_SOURCES = 1000

# The table has it in a comment: a path or an address, for instance.
_LABEL = re.compile(r"[!-~](?:[ -~]{0,4094}[!-~])?")

# The options of which an empty value ends what was wanted.
_OPTIONS = ("policy-list", "policy-keyring", "mta-sts-domains")

# What it says overrides what all others say.
LAST = "lists"

# What it gives is checked where it is parsed: there may be a million domains.
_PARSED = "certbot_postfix.outbound.lists:sources"

# Sources that have a time limit of their own.
_OURS = "certbot_postfix."

# Seconds for one call of any other source: certbot waits for it, holding its locks.
_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the administrator wants of outbound policies; "" is nothing.

    *lists* are paths or https URLs, the later ones before the earlier ones; *domains*
    is the file of recipient domains whose MTA-STS policies are looked up.
    """

    lists: tuple[str, ...] = ()
    keyring: str = ""
    early_adopter: bool = False
    domains: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What a source is made with.

    *directory* is where sources keep what they know; it exists, and only root may
    enter.  *ca_file* has the CAs that HTTPS servers are verified by;
    with *dane*, the SMTP client prefers DANE where there is some.  *entries* yields
    what is in the table, of all sources.  With *force*, everything is to be asked anew,
    due or not, and else the *urgent* domains.  *progress* is called with how many of
    all domains are done.
    """

    settings: Settings
    directory: Path
    ca_file: Path | None = None
    dane: bool = False
    entries: Callable[[], Iterable[Entry]] = tuple
    force: bool = False
    urgent: frozenset[str] = frozenset()
    progress: Callable[[int, int], None] = lambda done, of: None  # noqa: ARG005


@dataclass(frozen=True, slots=True)
class Source:
    """Whatever provides `IPolicySource`, and the *label* that it had when it was made.

    It may be a stranger's, and do anything, unless what it gives was *parsed*.  A call
    may take so many *seconds*; None means any time.
    """

    label: str
    implementation: Any
    parsed: bool = False
    seconds: float | None = None

    def call(self, work: Callable[[Any], T]) -> T:
        """Return what *work* returns for it; raise whatever that raises."""
        return _limited(self.seconds, lambda: work(self.implementation))


def load(context: Context, seconds: float = _SECONDS) -> tuple[list[Source], list[str]]:
    """Return the sources that there are, and a sentence for each that is broken.

    A call of one that is not ours may take at most *seconds*.
    """
    sources: list[Source] = []
    broken: list[str] = []
    points = entry_points(group=GROUP)
    for point in sorted(points, key=lambda point: (point.name == LAST, point.name)):
        failures: list[BaseException] = []
        with strangers.noted(failures):
            limit = None if point.value.startswith(_OURS) else seconds
            made = _limited(limit, partial(_made, point, context, limit))
            _refuse_double([*sources, *made])
            sources += made
        broken += [
            f"the source of policies {point.name} ({point.value}) is broken, and"
            f" its earlier policies stay in force: {strangers.reason(error)}"
            for error in failures
        ]
    return sources, broken


def due(source: Source, now: datetime) -> bool:
    """Whether *source* has something to do; one that fails has to say so."""
    failures: list[BaseException] = []
    answer = False
    with strangers.noted(failures):
        answer = source.call(lambda given: bool(given.due(now)))
    return answer or bool(failures)


def refresh(
    source: Source, now: datetime, *, force: bool = False
) -> list[BaseException]:
    """Let *source* ask whom it has to, if it is due; return what it raised."""
    failures: list[BaseException] = []
    with strangers.noted(failures):
        if force or source.call(lambda given: given.due(now)):
            source.call(lambda given: given.refresh(now))
    return failures


def known(
    source: Source, now: datetime, failures: Iterable[BaseException]
) -> tuple[list[str], list[Entry] | None]:
    """Return what failed, a sentence each, and the entries of *source*.

    They are None if nobody knows them; *failures* are those of its `refresh`.
    """
    failures = list(failures)
    checked: list[Entry] | None = None
    with strangers.noted(failures), gc_paused():
        checked = source.call(lambda given: _given(source, given.policies(now), now))
    end = "no earlier policies from this source are available"
    if checked != []:
        end = "its earlier policies stay in force"
    messages = (_message(source, error, end) for error in failures)
    return list(dict.fromkeys(messages)), checked


def _given(source: Source, policies: Iterable[Entry], now: datetime) -> list[Entry]:
    """Return *policies*, those of *source*; raise `PolicyError` for one not valid."""
    few = islice(policies, _MOST + 1)
    given = list(few if source.parsed else entries.checked(few, source.label, now))
    if len(given) > _MOST:
        raise ValueError(f"it has more than {_MOST:,} policies")
    return given


def _message(source: Source, error: BaseException, end: str) -> str:
    if isinstance(error, Error):
        with strangers.noted([]):  # a class of theirs may lack what ours has
            return str(
                Error(
                    f"{strangers.line(error.message)}; {end}",
                    hint=strangers.line(error.hint),
                )
            )
    reason = strangers.reason(error)
    return f"the source of policies {source.label} is broken: {reason}; {end}"


def options_given(conf: Callable[[str], Any]) -> bool:
    """Whether the options of the installer say something of policies."""
    given = any(conf(name) is not None for name in _OPTIONS)
    return bool(
        given
        or conf("policy-early-adopter")
        or conf("policy-service") not in ("auto", "none")
    )


def merge_options(
    conf: Callable[[str], Any], before: Settings | None
) -> Settings | None:
    """Return the settings *before* with the options of the installer, read by *conf*.

    An empty value of an option ends what was wanted.  None if nothing is wanted.
    Raises `Error` where an option makes no sense.
    """
    settings = before or Settings()
    _refuse_missing(conf, settings)
    if (lists := conf("policy-list")) is not None:
        if wrong := list(filter(_senseless, lists)):
            raise Error(
                f"{excerpt(wrong[0])} is neither a path nor an https URL; no"
                " changes were made",
                hint="give --postfix-policy-list one of them",
            )
        places = tuple(filter(None, lists))
        settings = replace(settings, lists=places, early_adopter=False)
    for name, field in (("policy-keyring", "keyring"), ("mta-sts-domains", "domains")):
        if (value := conf(name)) is not None:
            settings = replace(settings, **{field: value})
    if conf("policy-early-adopter"):
        settings = replace(settings, early_adopter=True)
    return settings if before or settings != Settings() else None


def notes(wanted: Settings) -> list[str]:
    """Return what is not kept where neither lists nor domains are *wanted*."""
    if not wanted.keyring:
        return []
    why = f"no list is named, so the keyring {wanted.keyring} is not kept"
    return [f"{why}: name it again with the list"]


def _refuse_missing(conf: Callable[[str], Any], before: Settings) -> None:
    """Raise `Error` if an option names a file that is not there.

    One that was named *before* and is gone since costs no certificate: certbot gives
    the same options again.
    """
    known = {*before.lists, before.keyring, before.domains}
    options = {
        "policy-list": [place for place in conf("policy-list") or () if _local(place)],
        "policy-keyring": [conf("policy-keyring")],
        "mta-sts-domains": [conf("mta-sts-domains")],
    }
    for name, values in options.items():
        for value in filter(None, values):
            path = learnt.file_in(value)
            if value not in known and path and not os.path.lexists(path):
                raise Error(
                    f"{path}: no such file; no changes were made",
                    hint=f"correct the option --postfix-{name}, or create the file",
                )


def _local(place: str) -> bool:
    return "://" not in place or place.startswith("/")


def _senseless(place: str) -> bool:
    return "://" in place and not place.startswith(("/", "https://"))


def _limited(seconds: float | None, work: Callable[[], T]) -> T:
    return strangers.within(seconds, work) if seconds else work()


def _made(point: EntryPoint, context: Context, seconds: float | None) -> list[Source]:
    made = []
    for source in islice(point.load()(context), _SOURCES):
        verifyObject(IPolicySource, source)
        label = source.label
        if type(label) is not str or not _LABEL.fullmatch(label):
            raise TypeError(f"its label {excerpt(label)} is no line of ASCII")
        made.append(Source(label, source, point.value == _PARSED, seconds))
    return made


def _refuse_double(sources: list[Source]) -> None:
    labels = [source.label for source in sources]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"another source has the label {excerpt(label)}")
