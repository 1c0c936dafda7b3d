"""Outbound policies in service: sources asked, table written, main.cf names it.

Sources are asked when they have something to say.  What fails is told, and changes
nothing: the table stays as it is.  Raises `errors.Error`.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from certbot_postfix import databases, files, maplist, signals, sni, transaction
from certbot_postfix.configuration import Configuration
from certbot_postfix.databases import Databases
from certbot_postfix.errors import Error, ProgramError
from certbot_postfix.inventory import Inventory, certificates_in
from certbot_postfix.plan import Edit, Plan
from certbot_postfix.policy import service as services
from certbot_postfix.policy import sources, table, wiring
from certbot_postfix.policy.model import Entry, Mode
from certbot_postfix.policy.sources import Context, Settings
from certbot_postfix.rules import Decision
from certbot_postfix.serving import Serving
from certbot_postfix.transaction import Checkpoint

logger = logging.getLogger(__name__)

# Our directory for what sources keep, below that of the bundles.
KEPT = "policies"

# How many domains a message names.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Policies:
    """What is *wanted*, and the entries that are to be in force therefore.

    *complaints* are of sources that failed, *notes* of what has no effect.  The table
    of a *daemon* is to be asked, too.
    """

    wanted: Settings
    entries: dict[str, Entry] = field(repr=False)
    complaints: list[str]
    notes: list[str]
    daemon: str = ""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan for main.cf and the table; *stale* if the database is, or was not told."""

    plan: Plan
    stale: bool

    @property
    def empty(self) -> bool:
        """Whether all is as it should be already."""
        return self.plan.empty and not self.stale


class Outbound:
    """The policies of the instance of *inventory*, kept below its bundles."""

    def __init__(
        self, inventory: Inventory, serving: Serving, staging: Path | None = None
    ) -> None:
        self.inventory = inventory
        self.serving = serving
        self.staging = staging
        self.postfix = inventory.postfix
        self.path = self.postfix.directory / table.NAME
        self.databases = Databases(self.path)
        self.dane = False  # whether the client is about to prefer DANE

    @property
    def configuration(self) -> Configuration:
        """The configuration as it was when it was last read."""
        return self.inventory.configuration

    @property
    def form(self) -> str:
        """The type of map as which main.cf names the table, "" if it does not."""
        return maplist.form(self.configuration.value(table.PARAMETER), self.path)

    def settings(self) -> Settings | None:
        """Return what the table says that the administrator wants; None without one."""
        return _settings(self.path)[0] if self.path.exists() else None

    def gather(
        self, wanted: Settings, now: datetime, service: str = "none"
    ) -> Policies:
        """Ask the sources for what fulfils *wanted*, and the daemon *service*.

        No file of Postfix's changes.  Raises `Error` if policies would have no effect,
        or keep mail here.
        """
        if self.path.exists():
            _ = self.settings()  # it must be ours
        daemon = services.find(self.postfix, self.configuration, service)
        if not wanted.lists and not wanted.domains:
            return Policies(wanted, {}, [], [], daemon)
        self._refuse_untrusting()
        return replace(self._policies(wanted, now), daemon=daemon)

    def propose(self, policies: Policies) -> Proposal:
        """Plan what puts *policies* in force; nothing live changes."""
        configuration, wanted = self.configuration, policies.wanted
        form, text, decisions = "", None, list[Decision]()
        if wanted.lists or wanted.domains:
            form = self.form or self._usual_form()
            text = table.render(wanted, policies.entries, configuration.version)
            decisions += wiring.trust(configuration)
        known = services.known(configuration)
        named = wiring.Named(self.path, form, policies.daemon, known)
        decisions += wiring.name(configuration, named)
        main_cf = transaction.stage(self.postfix, tuple(decisions), self.staging)
        before = files.read(self.path) if self.path.exists() else None
        edit = Edit(self.path, before, text, 0o644)
        needs_database = form not in ("", "texthash")
        stale = needs_database != bool(self.databases.there()) or self.databases.kept()
        return Proposal(Plan(tuple(decisions), main_cf, edit, form), bool(stale))

    def apply(self, proposal: Proposal, checkpoint: Checkpoint) -> None:
        """Write the table, its database and main.cf; Postfix is not told yet."""
        if proposal.empty:
            return
        planned = proposal.plan
        try:
            if planned.table.after is not None:
                register = checkpoint.before_creation
                self._build(planned.form, planned.table.after, register)
            transaction.commit(planned, checkpoint)
        except BaseException:
            self.databases.undo()
            raise
        self.inventory.changed()

    def serve(self, proposal: Proposal) -> None:
        """Make Postfix follow what was applied."""
        if not proposal.empty:
            self.serving.reload(self.configuration)
        if proposal.plan.table.after is None:
            self.databases.remove()  # nothing names it any more
        self.databases.keep()

    def broken(self) -> list[str]:
        """Return a sentence for each source that is broken."""
        return sources.load(self._context(self.settings() or Settings()))[1]

    def refresh(self, now: datetime) -> list[str]:
        """Ask the sources that are due, and bring the table up to date.

        main.cf stays as it is.  Returns what failed, a sentence each.
        """
        wanted = self.settings()
        if wanted is None:
            return []
        databases.sweep(self.path)
        if not self.form:
            logger.warning(
                "main.cf does not name %s in %s: its policies have no effect",
                self.path,
                table.PARAMETER,
            )
            return []
        policies = self.gather(wanted, now)
        text = table.render(wanted, policies.entries, self.configuration.version)
        lacking = self.form != "texthash" and not self.databases.there()
        if text != files.read(self.path) or lacking or self.databases.kept():
            with signals.interruptible():
                self._replace(text)
        return [*policies.complaints, *services.dead(self.postfix, self.configuration)]

    def bring_back(self) -> None:
        """Make the database fit to the text, which is an old one again."""
        if self.path.exists() and self.form:
            if not self.databases.undo():
                self._build(self.form, files.read(self.path), lambda _: None)
            self.databases.keep()

    def _replace(self, text: bytes) -> None:
        try:
            self._build(self.form, text, lambda _: None)
            files.keep(self.path)
            files.replace(self.path, text, mode=0o644, cool=True)
            self.serving.reload(self.configuration)
        except BaseException:
            with signals.uninterruptible():
                if self.databases.undo():
                    self.serving.reload(self.configuration)
            raise
        self.databases.keep()

    def _policies(self, wanted: Settings, now: datetime) -> Policies:
        context = self._context(wanted)
        for directory in (self.inventory.bundles, context.directory):
            with files.explained("create", directory):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found, complaints = sources.load(context)
        groups: list[Iterable[Entry]] = [self._left(wanted, found, complaints, now)]
        for source in found:
            told, known = sources.ask(source, now)
            complaints += told
            groups.append(self._of(source, now) if known is None else known)
        merged = table.merged(groups)
        return Policies(wanted, merged, complaints, self._notes(merged))

    def _context(self, wanted: Settings) -> Context:
        return Context(
            wanted,
            self.inventory.bundles / KEPT,
            authorities=self.configuration.ca_bundle,
            dane=self.dane or wiring.prefers_dane(self.configuration),
        )

    def _left(
        self, wanted: Settings, found: list[Any], broken: list[str], now: datetime
    ) -> Iterable[Entry]:
        """Return the entries in the table of sources that are broken now."""
        before = self.settings()
        if not (broken and before):
            return []
        gone = {getattr(source, "label", "") for source in found}
        gone |= {*before.lists, *wanted.lists}
        return [one for one in self._entries(now) if one.source not in gone]

    def _of(self, source: Any, now: datetime) -> Iterable[Entry]:
        """Return the entries in the table of a *source* that does not know its own."""
        label = getattr(source, "label", "")
        return [one for one in self._entries(now) if one.source == label]

    def _entries(self, now: datetime) -> Iterable[Entry]:
        if not self.path.exists():
            return []
        return (one for one in entries(self.path) if one.expires > now)

    def _notes(self, found: dict[str, Entry]) -> list[str]:
        """Take what the administrator has out of *found*; say what has no effect."""
        notes = []
        for own in wiring.own_tables(self.configuration, self.path):
            kept = self._answered(own, found)
            if kept:
                notes.append(f"{own} has an entry for {_some(kept)}, and that stays")
            for domain in kept:
                del found[domain]
        if routes := wiring.routes(self.configuration):
            notes.append(
                f"main.cf sets {' and '.join(routes)}: for mail that is sent elsewhere"
                " than to the MX hosts of its domain, policies have no effect"
            )
        return notes

    def _answered(self, own: str, found: dict[str, Entry]) -> set[str]:
        """Return those of *found* for which the administrator's table *own* counts."""
        domains = [domain for domain, entry in found.items() if _enforced(entry)]
        keys = {key for domain in domains for key in wiring.keys(domain)}
        answered = self.postfix.answers(own, keys) if keys else {}
        return wiring.overruled(domains, answered)

    def _refuse_untrusting(self) -> None:
        configuration = self.configuration
        if level := wiring.stricter(configuration):
            raise Error(
                f"smtp_tls_security_level = {level} asks no less than policies would:"
                " none is written"
            )
        named = configuration.value("smtp_tls_CAfile")
        trusted = certificates_in(Path(named)) if named else []
        if why := wiring.distrust(configuration, trusted):
            raise Error(
                f"{why}: no server could be verified, and mail to domains with a policy"
                " would not be sent; no policy is written",
                hint=f"smtp_tls_CAfile = {configuration.ca_bundle or 'a bundle'}",
            )

    def _usual_form(self) -> str:
        usual = self.configuration.value("default_database_type")
        return usual if usual in sni.DATABASES else "texthash"

    def _build(self, form: str, text: bytes, register: Callable[[Path], None]) -> None:
        if form == "texthash":
            return
        with self.databases.beside(text, mode=0o644) as copy:
            self.postfix.map(f"{form}:{copy}")
            self._refuse_unwritten(f"{form}:{copy}", text)
            self.databases.put(copy, register)

    def _refuse_unwritten(self, database: str, text: bytes) -> None:
        # postmap of 3.7 exits with 0, silently, when lmdb finds the disk full.
        end = text.rindex(b"\n")
        last = text[text.rfind(b"\n", 0, end) + 1 : end].decode()
        key, _, value = last.partition(" ")
        if key != "#" and self.postfix.answers(database, {key}) != {key: value}:
            raise ProgramError(
                f"postmap did not write {database}, and gave no reason: the policies"
                " stay as they were",
                hint="is the disk full?",
            )


def due(path: Path, bundles: Path, now: datetime) -> bool:
    """Whether the table at *path* may have to change; it is one of ours."""
    wanted, until = _settings(path)
    found, broken = sources.load(Context(wanted, bundles / KEPT))
    return bool(
        broken
        or (until and until <= now)
        or Databases(path).kept()  # a run was killed before Postfix was told
        or any(each.due(now) for each in found)
    )


def entries(path: Path) -> Iterable[Entry]:
    """Yield the entries of the table at *path*."""
    with files.explained("read", path), path.open(encoding="utf-8") as text:
        yield from table.parse(text)


def until(path: Path) -> datetime | None:
    """Return when the first of the policies in the table at *path* ends."""
    return _settings(path)[1]


def _settings(path: Path) -> tuple[Settings, datetime | None]:
    with files.explained("read", path), path.open(encoding="utf-8") as text:
        return table.settings(text, path)


def _enforced(entry: Entry) -> bool:
    return entry.policy.mode is Mode.ENFORCE


def _some(domains: set[str]) -> str:
    told = sorted(domains)
    more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    return ", ".join(told[:_NAMED]) + more
