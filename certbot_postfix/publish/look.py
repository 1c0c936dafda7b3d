"""Asks DNS and the web what they say of a domain now, as any sender or CA would.

It ends at its deadline, and raises nothing: what could not be looked up has a fault.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from certbot_postfix.errors import Error
from certbot_postfix.formats import caa
from certbot_postfix.formats.caa import Property
from certbot_postfix.publish import policy_host
from certbot_postfix.system import dns
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.system.dns import Records, Resolver

# So many records of a name count: more are those of nobody honest.
_MOST = 20

# Seconds for the question whether a resolver validates.
_PROBE = 3.0

# So many questions are under way at once.
_WORKERS = 8

Ask = Callable[[str, str], Records]


@dataclass(frozen=True, slots=True)
class Found:
    """The *values* of the records of a name, or the *fault* of the look-up.

    *data* is how zone files have them.
    *secure* is None if that cannot be told: no resolver is believed to validate.
    """

    values: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    secure: bool | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Relevant:
    """The CAA *records* for a name, which are those of *name*: RFC 8659, 3."""

    name: str = ""
    records: tuple[Property, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is published for *domain*; of *policy* there is nothing, or a *fault*.

    *mx* has values as zone files have them, *sts* and *tlsrpt* texts; *caa* is by name.
    """

    domain: str
    mx: Found = Found()
    sts: Found = Found()
    tlsrpt: Found = Found()
    policy: bytes | None = None
    fault: str = ""
    caa: tuple[tuple[str, Relevant], ...] = ()


class Look:
    """One look, until *deadline*, by *resolver*, or those of this machine."""

    def __init__(self, deadline: Deadline, resolver: str = "") -> None:
        self._deadline = deadline
        addresses = [resolver] if resolver else dns.nameservers()
        self._resolver = Resolver(addresses, deadline)
        # An AD flag that comes over a network may be anybody's.
        self._near = bool(resolver) or all(map(dns.is_loopback, addresses))
        self._addresses = addresses

    def at(self, domain: str, names: Iterable[str]) -> Seen:
        """Return what is published for *domain*, and the CAA records of *names*."""
        every = list(dict.fromkeys(names))
        with ThreadPoolExecutor(_WORKERS) as pool:
            policy = pool.submit(self._policy, domain)
            believed = pool.submit(self._is_believed)
            relevant = pool.submit(self.caa, every)
            mx = pool.submit(self.records, domain, "MX")
            texts = [
                pool.submit(self.records, f"{label}.{domain}", "TXT")
                for label in ("_mta-sts", "_smtp._tls")
            ]
        found = mx.result()
        if not believed.result():
            found = replace(found, secure=None)
        sts, tlsrpt = (text.result() for text in texts)
        return Seen(
            domain, found, sts, tlsrpt, *policy.result(), (*relevant.result().items(),)
        )

    def records(self, name: str, kind: str) -> Found:
        """Return the records of *name*, of the *kind* MX or TXT."""
        try:
            answer = self._resolver.ask(name, kind)
        except Error as error:
            return Found(fault=error.message)
        read = _text if kind == "TXT" else str
        some = list(islice(answer.records, _MOST))
        data = tuple(record.to_text() for record in some)
        return Found(tuple(map(read, some)), data, answer.secure)

    def caa(self, names: Sequence[str]) -> dict[str, Relevant]:
        """Return the CAA records that count for each of *names*."""
        return relevant_caa(names, self._resolver.ask)

    def _is_believed(self) -> bool:
        """Whether one of the resolvers validates, and no network is between."""
        seconds = min(_PROBE, self._deadline.left)
        return self._near and any(
            good for _, good in dns.validating(self._addresses, seconds)
        )

    def _policy(self, domain: str) -> tuple[bytes | None, str]:
        try:
            fetch = partial(policy_host.fetch, domain, None)
            return self._deadline.within(fetch, "fetch the policy"), ""
        except Error as error:
            return None, error.message


def _text(record: Any) -> str:
    return b"".join(record.strings).decode("ascii", "replace")


def relevant_caa(names: Sequence[str], ask: Ask) -> dict[str, Relevant]:
    """Return the CAA records that count for each of *names*, as *ask* answers.

    Names share their parents, each of which is asked for once.
    """
    known: dict[str, tuple[Property, ...] | Error] = {}

    def look(name: str) -> None:
        try:
            answer = islice(ask(name, "CAA").records, _MOST)
            known[name] = tuple(map(Property.of_rdata, answer))
        except Error as error:
            known[name] = error

    every = dict.fromkeys(parent for name in names for parent in caa.parents(name))
    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(look, every))
    return {name: _closest(caa.parents(name), known) for name in names}


def _closest(
    names: Iterator[str], known: dict[str, tuple[Property, ...] | Error]
) -> Relevant:
    """Return the first records: a CA takes a failure before them for a refusal."""
    for name in names:
        match known[name]:
            case Error() as error:
                return Relevant(name, fault=error.message)
            case records if records:
                return Relevant(name, records)
    return Relevant()
