"""What a recipient domain demands of the servers that take its mail.

Pure.  Names here are what smtp_tls_policy_maps looks up and compares with, postconf(5):
in lower case, as A-labels (RFC 5890, 2.3.2.1), and without anything that could end an
entry of a table.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from certbot_postfix.errors import Error, excerpt
from certbot_postfix.system.hostnames import a_labels, is_host

# How many servers a policy may name: an honest one has some dozens.
SERVERS = 1000


class PolicyError(Error):
    """A policy, or a list of them, must not be used."""


class Mode(Enum):
    """What happens to mail when a server does not fit the policy: RFC 8461, 5."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


class Policy(NamedTuple):
    """What happens to mail for a domain, and which servers may take it.

    *mxs* are host names, or parents with a dot before them that stand for any host with
    one more label.
    """

    mode: Mode
    mxs: tuple[str, ...]

    def allows(self, host: str) -> bool:
        """Whether *host* is one of the servers of the domain: RFC 8461, 4.1."""
        name = host.lower().removesuffix(".")
        _, dot, parent = name.partition(".")
        return name in self.mxs or f"{dot}{parent}" in self.mxs


class Entry(NamedTuple):
    """The policy of a recipient *domain*, from the source with the label *source*.

    It is in force until *expires*, an aware time.  One of MTA-STS has its *max_age*, in
    seconds, and the *id* of its TXT record.  With *dane*, TLSA records decide in its
    place: RFC 8461, 2.
    """

    domain: str
    policy: Policy
    expires: datetime
    source: str
    max_age: int = 0
    id: str = ""
    dane: bool = False

    @property
    def enforced(self) -> bool:
        """Whether mail is not delivered where no server fits the policy."""
        return self.policy.mode is Mode.ENFORCE


def parse_domain(text: object, where: str) -> str:
    """Return the recipient domain *text*; *where* it stands is for the error."""
    return _name(text, where, "the name of a domain")


def parse_pattern(text: object, where: str, wildcard: str) -> str:
    """Return the host name *text*, or the parent that it has after a *wildcard*."""
    if isinstance(text, str) and wildcard and text.startswith(wildcard):
        return f".{_name(text[len(wildcard) :], where, 'the name of a server')}"
    return _name(text, where, "the name of a server")


def parse_patterns(
    texts: Sequence[object], where: str, wildcard: str
) -> tuple[str, ...]:
    """Return what `parse_pattern` makes of each, once, in order."""
    if len(texts) > SERVERS:
        raise PolicyError(f"{where}: it has more than {SERVERS} names")
    patterns: dict[str, None] = {}
    for at, text in enumerate(texts):
        if isinstance(text, str) and wildcard == "." and is_pattern(text):
            patterns[text] = None
        else:
            patterns[parse_pattern(text, f"{where}[{at}]", wildcard)] = None
    return tuple(patterns)


def is_pattern(name: str) -> bool:
    """Whether *name* is that of a host, or a parent with a dot before it."""
    return is_host(name.removeprefix("."))


def _name(text: object, where: str, kind: str) -> str:
    if isinstance(text, str):
        if is_host(text):  # as nearly all are; what follows takes as long again
            return text
        name = a_labels(text.lower())
        if is_host(name):
            return name
    raise PolicyError(f"{where}: {excerpt(text)} is not {kind}")


@contextmanager
def gc_paused() -> Iterator[None]:
    """Let Python not look for cycles in a million policies, which have none.

    It would do so again and again: a fifth of the time.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
