"""Renewals for all instances of Postfix of this machine, one after the other.

Each has its own undo and its own verification: the failure of one neither stops nor
undoes another one, and all are raised at the end.  A bundle that several instances read
is written only if none of them refuses it.
"""

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from certbot_postfix.dane import gate
from certbot_postfix.errors import (
    CertificateError,
    Error,
    MisconfiguredError,
    ProgramError,
    named_logger,
)
from certbot_postfix.inbound import by_hand, candidates, due, renew
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.server import Server
from certbot_postfix.inbound.state import State
from certbot_postfix.postfix import own_names
from certbot_postfix.system import files
from certbot_postfix.tls.bundle import Bundle

logger = named_logger(__name__)


@dataclass(slots=True)
class Turn:
    """What one instance is to serve of *lineages*, and what became of that.

    *bundles* are what it reads of them; *by_hand*: the administrator named some
    himself.  *refused* has the errors of lineages that it does not serve, *error* its
    own: then nothing is known of it; *held* are the bundles that must wait for DNS.
    """

    server: Server
    before: State | None = None
    lineages: dict[str, Lineage] = field(default_factory=dict)
    bundles: dict[Path, Bundle] = field(default_factory=dict)
    by_hand: bool = False
    refused: dict[str, Error] = field(default_factory=dict)
    held: set[Path] = field(default_factory=set)
    error: Error | None = None

    @classmethod
    def of(cls, server: Server, lineages: Collection[Lineage]) -> "Turn":
        """Return what is due at *server*: *lineages*, and all that it has missed."""
        turn = cls(server)
        try:
            turn.before = before = server.read()
            turn.lineages = {lineage.name: lineage for lineage in lineages}
            missed = due.pending(before, turn.lineages)
            turn.lineages |= {lineage.name: lineage for lineage in missed}
            for lineage in turn.lineages.values():
                turn._check(before, lineage)
        except Error as error:
            turn.error = error
        return turn

    def _check(self, before: State, lineage: Lineage) -> None:
        for path in before.used(lineage.name):
            try:
                bundle, warnings = renew.load_and_check(before, lineage, path)
                self._hold(before, path, bundle)
            except Error as error:
                self.refused[lineage.name] = error
                return
            self.bundles[path] = bundle
            for warning in warnings:
                logger.warning("%s: %s", path.stem, warning)

    def _hold(self, before: State, path: Path, bundle: Bundle) -> None:
        """Hold the bundle *path* back while TLSA records forbid the new one.

        Raises `Error` once that is urgent; until then, certbot reports no failure.
        """
        candidate = candidates.replacing(before, path, bundle)
        held = self.server.gate.hold(candidate, datetime.now(timezone.utc))
        if held and not before.chain(path):
            gate.release(path)  # nothing is in service that could be left unchanged
        elif held:
            message = f"the renewal of {path.stem} is held: {held.reason}"
            if held.urgent:
                raise Error(message, hint=held.hint)
            logger.warning("%s\nHint: %s", message, held.hint)
            self.held.add(path)

    def kept(self) -> set[Path]:
        """Return the bundles that must stay as they are."""
        used = self.before.used if self.before else lambda _: []
        return self.held | {path for name in self.refused for path in used(name)}

    def take(self, kept: set[Path]) -> None:
        """Put the bundles into service, but for those that must be *kept* as they are.

        Postfix is reloaded once.  If that fails, the lineages are tried one by one;
        bundles of what fails again must be kept by further instances, too.
        """
        names = [name for name in self.lineages if name not in self.refused]
        if self.error or not self.before or not names:
            return
        try:
            self._renew(self.before, names, kept)
        except Error as error:
            if len(names) < 2:
                self._fail(names, error, kept)
                return
            logger.debug("together, they failed: %s", error)
            for name in names:
                self._take_alone(name, kept)

    def _take_alone(self, name: str, kept: set[Path]) -> None:
        try:
            self._renew(self.server.read(), [name], kept)
        except Error as error:
            self._fail([name], error, kept)

    def _renew(self, before: State, names: Collection[str], kept: set[Path]) -> None:
        lineages = [self.lineages[name] for name in names]
        mine = by_hand.expected(before, self.server.postfix, lineages, kept)
        self.by_hand = self.by_hand or bool(mine)
        bundles = {
            path: bundle
            for path, bundle in self.bundles.items()
            if path.stem in names and path not in kept
        }
        if bundles or mine:
            renew.renew(self.server, before, bundles, mine)

    def _fail(self, names: Collection[str], error: Error, kept: set[Path]) -> None:
        kept |= {path for path in self.bundles if path.stem in names}
        self.refused.update(dict.fromkeys(names, error))

    def failures(self, names: Collection[str], *, always: bool) -> list[Error]:
        """Return what failed of the lineages with *names*, and log what failed else.

        That the instance cannot be read counts *always*, or if it may use one of them.
        """
        failures = [self.refused[name] for name in names if name in self.refused]
        for name in self.refused.keys() - {*names}:
            logger.error("%s", self.refused[name])
        if self.error and (always or self._may_use(names)):
            failures.append(self.error)
        return list(dict.fromkeys(failures))

    def _may_use(self, names: Collection[str]) -> bool:
        root = self.server.root
        places = (root, root / own_names.of_instance(self.server.directory))
        return any(
            (place / f"{name}.pem").exists() for place in places for name in names
        )


class Renewals:
    """Those of *server*, the instance that is worked on, and of all others."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def renew(self, lineages: Collection[Lineage]) -> bool:
        """Put the newest certificates of *lineages* into service, where they are used.

        With them, each instance gets what it has missed.  Returns whether any is used.
        """
        mine = Turn.of(self.server, lineages)
        # Which others there are is known from this one alone.
        others = [] if mine.error else self.server.others
        turns = [mine, *(Turn.of(other, lineages) for other in others)]
        return self._take(turns, lineages)

    def renew_others(self, lineages: Collection[Lineage]) -> None:
        """Do so for the other instances only; raise `Error`."""
        self._take([Turn.of(other, lineages) for other in self.server.others], lineages)

    def refuse(self, lineage: Lineage, path: Path) -> None:
        """Raise `CertificateError` if another one must not read *lineage* in *path*."""
        for other in self.server.others:
            try:
                with contextlib.suppress(MisconfiguredError, ProgramError):
                    before = other.read()
                    if path in before.used(lineage.name):
                        renew.load_and_check(before, lineage, path)
            except CertificateError as error:
                error.message = f"{other.directory}: {error.message}"
                raise

    def _take(self, turns: Sequence[Turn], lineages: Collection[Lineage]) -> bool:
        names = [lineage.name for lineage in lineages]
        kept = {path for turn in turns for path in turn.kept()}
        for turn in turns:
            turn.take(kept)
        unreadable = any(turn.error for turn in turns)
        for turn in turns:
            for path in turn.bundles.keys() - kept:
                # One that cannot be read may use it, and have to be reloaded later.
                if not unreadable or path.parent != self.server.root:
                    files.discard_backup(path)
        self._report(turns, names)
        return any(
            turn.by_hand or any(path.stem in names for path in turn.bundles)
            for turn in turns
        )

    def _report(self, turns: Sequence[Turn], names: Collection[str]) -> None:
        """Raise what failed of the lineages with *names*, all of it as one."""
        failures: list[Error] = []
        elsewhere: list[str] = []
        for turn in turns:
            here = turn.server is self.server
            errors = turn.failures(names, always=here)
            if here:
                failures += errors
            else:
                elsewhere += [
                    f"{turn.server.directory}: {error.message}" for error in errors
                ]
        if elsewhere:
            message = (
                f"{', '.join(names)}: another instance of Postfix than that in"
                f" {self.server.directory} failed: {'; '.join(elsewhere)}"
            )
            hint = "fix that instance; certbot renew tries again"
            failures.append(Error(message, hint=hint))
        if failures:
            failures[0].message = "; ".join(error.message for error in failures)
            raise failures[0]
