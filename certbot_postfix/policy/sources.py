"""The sources of policies: what the administrator named, and who implements it.

Each is an entry point of the group `GROUP`.  Whatever a stranger's module does when it
is imported or called, it is named, and what the table has from it stays as it is: no
certificate waits for it.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from certbot_postfix.errors import Error
from certbot_postfix.interfaces import IPolicySource
from certbot_postfix.policy import model
from certbot_postfix.policy.model import Entry, uncollected

logger = logging.getLogger(__name__)

GROUP = "certbot_postfix.policy_sources"

# The options of which an empty value ends what was wanted.
_OPTIONS = ("policy-list", "policy-keyring", "mta-sts-domains")

# What it says overrides what all others say.
LAST = "lists"


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

    *directory* is where sources keep what they were told; it exists, and only root may
    enter.  *authorities* is the file of authorities that HTTPS servers are judged by;
    with *dane*, the SMTP client prefers DANE where there is some.  *entries* yields
    what is in the table, of all sources.
    """

    settings: Settings
    directory: Path
    authorities: Path | None = None
    dane: bool = False
    entries: Callable[[], Iterable[Entry]] = tuple


def load(context: Context) -> tuple[list[Any], list[str]]:
    """Return the sources that there are, and a sentence for each that is broken."""
    sources: list[Any] = []
    broken: list[str] = []
    points = entry_points(group=GROUP)
    for point in sorted(points, key=lambda point: (point.name == LAST, point.name)):
        try:
            sources += _made(point, context)
        except Exception as error:
            logger.debug("source %s", point.name, exc_info=True)
            broken.append(
                f"the source of policies {point.name} ({point.value}) is broken, and"
                f" what it said before stays in force: {error}"
            )
    return sources, broken


def ask(source: Any, now: datetime) -> tuple[list[str], list[Entry] | None]:
    """Let *source* refresh what it keeps, if it is due.

    Returns what failed, a sentence each, and its entries, None if they are not known.
    """
    failures: list[Exception] = []
    known: list[Entry] | None = None
    try:
        if source.due(now):
            source.refresh(now)
    except Exception as error:
        failures.append(error)
    try:
        with uncollected():
            known = list(source.policies(now))
    except Exception as error:
        failures.append(error)
    end = "there is nothing of it to follow"
    if known != []:
        end = "what was said before stays in force"
    return [_told(source, error, end) for error in failures], known


def _told(source: Any, error: Exception, end: str) -> str:
    what, hint = f"the source of policies {source.label} is broken: {error}", ""
    if isinstance(error, Error):
        what, hint = error.message, error.hint
    else:
        logger.debug("source %s fails", source.label, exc_info=error)
    return str(Error(f"{what}; {end}", hint=hint))


def mentioned(conf: Callable[[str], Any]) -> bool:
    """Whether the options of the installer say something of policies."""
    named = any(conf(name) is not None for name in _OPTIONS)
    return bool(
        named
        or conf("policy-early-adopter")
        or conf("policy-service") not in ("auto", "none")
    )


def asked(conf: Callable[[str], Any], before: Settings | None) -> Settings | None:
    """Return what the options of the installer ask for, each read by *conf*.

    What they do not mention stays as it was wanted *before*; an empty value ends it.
    None if nobody wants anything.  Raises `Error` if nothing could come of it.
    """
    found = before or Settings()
    if (lists := conf("policy-list")) is not None:
        if wrong := list(filter(_senseless, lists)):
            raise Error(
                f"{model.shown(wrong[0])} is neither a path nor an https URL: nothing"
                " was done",
                hint="give --postfix-policy-list one of them",
            )
        found = replace(found, lists=tuple(filter(None, lists)), early_adopter=False)
    for name, field in (("policy-keyring", "keyring"), ("mta-sts-domains", "domains")):
        if (value := conf(name)) is not None:
            found = replace(found, **{field: value})
    if conf("policy-early-adopter"):
        found = replace(found, early_adopter=True)
    return found if before or found != Settings() else None


def _senseless(place: str) -> bool:
    return "://" in place and not place.startswith(("/", "https://"))


def _made(point: EntryPoint, context: Context) -> Iterable[Any]:
    found = list(point.load()(context))
    for source in found:
        try:
            verifyObject(IPolicySource, source)
        except Invalid as error:
            raise TypeError(" ".join(str(error).split())) from error
    return found
