"""The publishers of records: what the administrator has chosen, and who implements it.

Whatever a third party's module does when it is imported or called is an `errors.Error`
that names it, even if it does not return.
"""

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from zope.interface.verify import verifyObject

from certbot_postfix.errors import Error, enumerated, excerpt
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.interfaces import IRecordPublisher
from certbot_postfix.publish import command, rfc2136
from certbot_postfix.publish.printing import Printer
from certbot_postfix.system import strangers

GROUP = "certbot_postfix.record_publishers"

# The publisher that does nothing but print.
BY_HAND = "print"

_OURS: dict[str, Callable[[str], Any]] = {
    BY_HAND: lambda _: Printer(),
    "rfc2136": rfc2136.publisher,
    "command": command.publisher,
}

# Seconds for one call, which may ask an API over HTTPS several times.
_SECONDS = 120.0

_LABEL = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")


@dataclass(frozen=True, slots=True)
class Publisher:
    """Whatever provides `IRecordPublisher`, and the *label* that it had at first.

    It may be a third party's, and do anything: here, it raises `Error` only.  What it
    did is not to be believed, but observed.  *by_hand*: it prints, and somebody has to
    edit the zone.  *seconds* are those that it may take for a change.
    """

    label: str
    implementation: Any
    by_hand: bool = False
    seconds: float = _SECONDS

    def add(self, record: ResourceRecord) -> None:
        """Have the records of that name and type include *record*, beside the others.

        Raises `Error` if that failed.  If *record* is there, nothing is done.
        """
        self._call(lambda: self.implementation.add(record), f"add {record}")

    def remove(self, record: ResourceRecord, observed: AbstractSet[str]) -> None:
        """Remove *record*, and no other; without it, nothing is done.

        Raises `Error` if that failed, or if the data of the records of that name and
        type are not those that were *observed*, *record*'s included.
        """
        others = frozenset(observed)
        self._call(
            lambda: self.implementation.remove(record, others), f"remove {record}"
        )

    def _call(self, work: Callable[[], object], what: str) -> None:
        failures: list[BaseException] = []
        with strangers.noted(failures):
            strangers.within(self.seconds, work)
        for error in failures:
            raise _refusal(error, f"{self.label} could not {what}") from None


def load(text: str, seconds: float = _SECONDS) -> Publisher:
    """Return the publisher that *text* means, ``NAME`` or ``NAME:TEXT``.

    Each of its calls may take so many *seconds*.  Raises `Error` if nobody implements
    it, or not as `IRecordPublisher` says.
    """
    name, _, rest = text.partition(":")
    if name in _OURS:
        ours = _OURS[name](rest)
        return Publisher(ours.label, ours, by_hand=name == BY_HAND)
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise Error(
            f"no publisher of records is named {excerpt(name)}",
            hint=f"use one of {enumerated(sorted({*_OURS, *points}), most=20)}",
        )
    failures: list[BaseException] = []
    with strangers.noted(failures):
        label, made = strangers.within(seconds, lambda: _made(points[name], rest))
        return Publisher(label, made, seconds=seconds)
    raise _refusal(
        failures[0], f"the publisher {name} ({points[name].value}) is broken"
    ) from None


def _made(point: EntryPoint, text: str) -> tuple[str, Any]:
    """Return what the entry *point* makes of *text*, and its label."""
    made = point.load()(text)
    verifyObject(IRecordPublisher, made)
    return _label(made.label), made


def _label(label: object) -> str:
    if type(label) is not str or not _LABEL.fullmatch(label):
        raise TypeError(f"its label {excerpt(label)} is not a single line of ASCII")
    return label


def _refusal(error: BaseException, what: str) -> Error:
    """Return *error*, whose text may be anything, as one of ours."""
    message, hint = strangers.reason(error), ""
    if isinstance(error, Error):
        with strangers.noted([]):  # a class of theirs may lack what ours has
            message, hint = strangers.line(error.message), strangers.line(error.hint)
    return Error(f"{what}: {message}", hint=hint)
