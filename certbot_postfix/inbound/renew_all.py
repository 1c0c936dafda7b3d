"""Renewals for all instances of Postfix of this machine, one after the other.

Each has its own undo and its own verification: the failure of one neither stops nor
undoes another one, and all are raised at the end.  A bundle that several instances read
is written only if none of them refuses it.
"""

import contextlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from certbot_postfix.errors import (
    CertificateError,
    Error,
    MisconfiguredError,
    ProgramError,
    named_logger,
)
from certbot_postfix.inbound import candidates
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.renew import Renewal, load_and_check
from certbot_postfix.inbound.state import Inventory
from certbot_postfix.postfix import instances
from certbot_postfix.postfix.questions import Expectation
from certbot_postfix.postfix.serving import Serving
from certbot_postfix.system import files
from certbot_postfix.tls.bundle import Bundle

logger = named_logger(__name__)


@dataclass(slots=True)
class Turn:
    """What one instance is to serve of *lineages*, and what became of that.

    *refused* has the errors of lineages that it does not serve, *error* its own; *held*
    are the bundles that must wait for DNS.
    """

    renewal: Renewal
    lineages: dict[str, Lineage] = field(default_factory=dict)
    bundles: dict[Path, Bundle] = field(default_factory=dict)
    by_hand: list[Expectation] = field(default_factory=list)
    refused: dict[str, Error] = field(default_factory=dict)
    held: set[Path] = field(default_factory=set)
    error: Error | None = None

    @property
    def directory(self) -> Path:
        """Where the configuration of the instance is."""
        return self.renewal.inventory.postfix.directory

    def check(self, lineage: Lineage) -> None:
        """Take the bundles of *lineage* that the instance reads, or refuse them."""
        inventory = self.renewal.inventory
        for path in inventory.used(lineage.name):
            try:
                self.bundles[path], warnings = load_and_check(inventory, lineage, path)
                self._hold(path)
            except Error as error:
                self.refused[lineage.name] = error
                return
            for warning in warnings:
                logger.warning("%s: %s", path.stem, warning)

    def _hold(self, path: Path) -> None:
        """Hold the bundle *path* back while TLSA records forbid the new one.

        Raises `Error` once that is urgent; until then, certbot reports no failure.
        """
        inventory = self.renewal.inventory
        candidate = candidates.replacing(inventory, path, self.bundles[path])
        held = self.renewal.gate.hold(candidate, datetime.now(timezone.utc))
        if held:
            message = f"the renewal of {path.stem} is held: {held.reason}"
            if held.urgent:
                raise Error(message, hint=held.hint)
            logger.warning("%s\nHint: %s", message, held.hint)
            self.held.add(path)

    def take(self, kept: set[Path]) -> None:
        """Put the bundles into service, but for those that must be *kept* as they are.

        Postfix is reloaded once.  If that fails, the lineages are tried one by one;
        bundles of what fails again must be kept by further instances, too.
        """
        names = self.lineages.keys() - self.refused.keys()
        if self.error:
            return
        try:
            self._update(names, self.by_hand, kept)
        except Error as error:
            if len(names) < 2:
                self._fail(names, error, kept)
                return
            logger.debug("together, they failed: %s", error)
            for name in names:
                by_hand = self.renewal.inventory.by_hand([self.lineages[name]])
                try:
                    self._update([name], by_hand, kept)
                except Error as alone:
                    self._fail([name], alone, kept)

    def _update(
        self, names: Collection[str], by_hand: list[Expectation], kept: set[Path]
    ) -> None:
        bundles = {
            path: bundle
            for path, bundle in self.bundles.items()
            if path.stem in names and path not in kept
        }
        if bundles or by_hand:
            self.renewal.update(bundles, by_hand)

    def failures(self, names: Collection[str], *, always: bool) -> list[Error]:
        """Return what failed of the lineages with *names*, and log what failed else.

        That the instance cannot be read counts *always*, or if it may use one of them.
        """
        root = self.renewal.inventory.root
        places = (root, root / instances.name_of(self.directory))
        may_use = any(
            (place / f"{name}.pem").exists() for place in places for name in names
        )
        mine = [self.refused[name] for name in names if name in self.refused]
        for name in self.refused.keys() - {*names}:
            logger.error("%s", self.refused[name])
        counts = self.error and (always or may_use)
        return [*([self.error] if self.error and counts else []), *dict.fromkeys(mine)]

    def _fail(self, names: Collection[str], error: Error, kept: set[Path]) -> None:
        kept |= {path for path in self.bundles if path.stem in names}
        self.refused.update(dict.fromkeys(names, error))


class Renewals:
    """Those of *first*, the instance that is worked on, and of all others."""

    def __init__(self, first: Renewal) -> None:
        self.first = first
        self._others: list[Renewal] | None = None

    @property
    def others(self) -> list[Renewal]:
        """The renewals of the other instances."""
        if self._others is None:
            inventory, serving = self.first.inventory, self.first.serving
            self._others = [
                Renewal(
                    Inventory(each, inventory.root),
                    Serving(each, serving.timeout, serving.reporter),
                    self.first.gate,
                )
                for each in inventory.siblings
            ]
        return self._others

    def renew(self, lineages: Collection[Lineage]) -> bool:
        """Put the newest certificates of *lineages* into service, where they are used.

        With them, each instance gets what it has missed.  Returns whether any is used.
        """
        mine = _turn(self.first, lineages)
        others = [] if mine.error else [_turn(each, lineages) for each in self.others]
        return self._take([mine, *others], lineages)

    def renew_others(self, lineages: Collection[Lineage]) -> None:
        """Do so for the other instances only; raise `Error`."""
        self._take([_turn(each, lineages) for each in self.others], lineages)

    def refuse(self, lineage: Lineage, path: Path) -> None:
        """Raise `CertificateError` if another one must not read *lineage* in *path*."""
        for inventory in [each.inventory for each in self.others]:
            with contextlib.suppress(MisconfiguredError, ProgramError):  # it is broken
                if path in inventory.used(lineage.name):
                    try:
                        load_and_check(inventory, lineage, path)
                    except CertificateError as error:
                        where = inventory.postfix.directory
                        error.message = f"{where}: {error.message}"
                        raise

    def _take(self, turns: Sequence[Turn], lineages: Collection[Lineage]) -> bool:
        names = [each.name for each in lineages]
        kept = {
            path
            for turn in turns
            for name in turn.refused
            for path in turn.renewal.inventory.used(name)
        }
        kept = kept.union(*(turn.held for turn in turns))
        for turn in turns:
            turn.take(kept)
        unreadable = any(turn.error for turn in turns)
        for turn in turns:
            for path in turn.bundles.keys() - kept:
                # One that cannot be read may use it, and have to be reloaded later.
                if not unreadable or path.parent != turn.renewal.inventory.root:
                    files.discard_backup(path)
        self._report(turns, names)
        return any(
            turn.by_hand or any(path.stem in names for path in turn.bundles)
            for turn in turns
        )

    def _report(self, turns: Sequence[Turn], names: Collection[str]) -> None:
        """Raise what failed of the lineages with *names*, log what failed of others."""
        failures: list[Error] = []
        elsewhere: list[str] = []
        for turn in turns:
            errors = turn.failures(names, always=turn.renewal is self.first)
            if turn.renewal is self.first:
                failures += errors
            else:
                elsewhere += [f"{turn.directory}: {each.message}" for each in errors]
        if elsewhere:
            failures.append(
                Error(
                    f"{', '.join(names)}: another instance of Postfix than that in"
                    f" {self.first.inventory.postfix.directory} failed:"
                    f" {'; '.join(elsewhere)}",
                    hint="fix that instance; certbot renew tries again",
                )
            )
        if failures:
            failures[0].message = "; ".join(each.message for each in failures)
            raise failures[0]


def _turn(renewal: Renewal, lineages: Iterable[Lineage]) -> Turn:
    """Return what is to be served there of *lineages*, and of those that are due."""
    turn, inventory = Turn(renewal), renewal.inventory
    try:
        for lineage in (*lineages, *inventory.pending()):
            if lineage.name not in turn.lineages:
                turn.lineages[lineage.name] = lineage
                turn.check(lineage)
        turn.by_hand = inventory.by_hand(turn.lineages.values())
    except Error as error:
        turn.error = error
    return turn
