"""Outbound policies in service: the table is written, and main.cf names it.

The table and its database are there before main.cf names them, and as long as it does.
Raises `errors.Error`.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from certbot_postfix.change.plan import Edit
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.errors import Error, named_logger
from certbot_postfix.outbound import (
    fitness,
    installed,
    learnt,
    main_cf,
    policy_database,
    policy_map,
    resolver_daemon,
    sources,
)
from certbot_postfix.outbound.collect import Collector, Policies, Refreshed
from certbot_postfix.outbound.installed import Installed
from certbot_postfix.outbound.sources import Settings
from certbot_postfix.postfix import databases, map_types, maps, trust
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.current import Current
from certbot_postfix.postfix.databases import Databases
from certbot_postfix.postfix.decisions import Decision, applied
from certbot_postfix.postfix.serving import Serving
from certbot_postfix.system import files, signals

logger = named_logger(__name__)

# Up to so many domains, each process reads them all (texthash); above, it looks into a
# database.  docs/how-it-works.rst has the figures.
LARGE = 5000


@dataclass(frozen=True, slots=True)
class Changes:
    """What puts policies in force: *decisions*, and the *edit* of the policy map.

    *stale* if its database is, or Postfix was not told of it.  The *daemon* is added,
    and that which is *dropped* taken out.  What was *installed* before is still there.
    """

    decisions: tuple[Decision, ...]
    edit: Edit
    stale: bool
    daemon: str = ""
    dropped: str = ""
    installed: Installed = field(default_factory=Installed)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.decisions and self.edit.empty and not self.stale


class Outbound:
    """The policies of the instance of *current*.

    Below *directory*, which is ours, sources keep what they say; main.cf is staged in
    *staging*.  *cert_name* returns the name of a certificate for an advice.
    """

    def __init__(
        self,
        current: Current,
        serving: Serving,
        directory: Path,
        *,
        staging: Path | None = None,
        cert_name: Callable[[], str] = lambda: "NAME",
    ) -> None:
        self.current = current
        self.serving = serving
        self.staging = staging
        self.cert_name = cert_name
        self.postfix = current.postfix
        self.path = self.postfix.directory / policy_map.NAME
        self.databases = Databases(self.path)
        self.collector = Collector(current, self.path, directory)

    @property
    def configuration(self) -> Configuration:
        """The configuration as it was when it was last read."""
        return self.current.configuration

    @property
    def map_type(self) -> str:
        """The type of map as which main.cf names the table, "" if it does not."""
        return maps.map_type(self.configuration.value(policy_map.PARAMETER), self.path)

    def collect(
        self,
        wanted: Settings,
        now: datetime,
        service: str = "",
        refreshed: Refreshed | None = None,
    ) -> Policies:
        """Return what fulfils *wanted* by sources, and by the daemon *service*.

        Sources that are *refreshed* already are not asked again.  No file of
        Postfix's changes.  Raises `Error` if policies would have no effect, or keep
        mail here.
        """
        _ = self.collector.settings()  # the table must be ours
        configuration = self.collector.configuration
        daemon, notes = fitness.choose(self.postfix, configuration, service)
        if not wanted.lists and not wanted.domains:
            policies = Policies(wanted, {}, [], sources.notes(wanted))
        else:
            policies = self.collector.policies(wanted, now, refreshed)
        dropped = ""
        if service == "none":
            dropped = self.installed().daemon
        if learnt.wanted(wanted.domains):
            notes += self._fit_daemons(daemon)
        notes += policies.notes
        return replace(policies, daemon=daemon, dropped=dropped, notes=notes)

    def _fit_daemons(self, daemon: str) -> Iterator[str]:
        """Yield that nothing has to be learnt, if a daemon is fit."""
        named = [daemon] if daemon else resolver_daemon.named(self.configuration)
        if named and not self.unfit_daemons():
            yield (
                f"{named[0]} has policies for all domains, from the first message on:"
                " recipient domains need not be learnt"
            )

    def unfit_daemons(self) -> list[str]:
        """Return a sentence for each daemon in main.cf that is not fit."""
        return fitness.complaints(self.postfix, self.collector.configuration)

    def missing(self) -> str:
        """Return what is to be said if main.cf names the table, and it is gone."""
        if not self.map_type or self.path.exists():
            return ""
        return (
            f"{self.path} is missing, and {policy_map.PARAMETER} names it: policies"
            " are not refreshed, and without its database mail to every domain is"
            " deferred\nHint: certbot install -i postfix --cert-name NAME, with"
            " the options of policies that you want; or take it out of main.cf"
        )

    def unnamed(self) -> str:
        """Return what is to be said if the table is there, and main.cf has it not."""
        unnamed = not self.map_type and self.path.exists()
        return str(main_cf.unnamed(self.path)) if unnamed else ""

    def changes(self, policies: Policies, configuration: Configuration) -> Changes:
        """Return what puts *policies* in force where main.cf says *configuration*."""
        wanted, map_type, text = policies.wanted, "", None
        decisions = list[Decision]()
        if wanted.lists or wanted.domains:
            map_type = self._chosen(len(policies.entries))
            text = policies.text
            decisions += trust.decide(configuration)
        if policies.daemon:
            later = applied(configuration, decisions)
            decisions += fitness.needs(later, policies.daemon)
        daemon, dropped = policies.daemon, policies.dropped
        known = resolver_daemon.known(configuration)
        target = main_cf.Target(self.path, map_type, daemon, known, dropped)
        decisions += main_cf.refer(configuration, target)
        before = files.read(self.path) if self.path.exists() else None
        edit = Edit(self.path, before, text, 0o644, map_type)
        database, existing = map_type not in ("", "texthash"), self.databases.existing()
        stale = database != bool(existing) or bool(self.databases.backed_up())
        made = tuple(decisions)
        return Changes(made, edit, stale, daemon, dropped, self.installed())

    def build(self, changes: Changes, register: Callable[[Path], None] | None) -> None:
        """Make the database that goes with *changes*: `policy_database.build`."""
        if changes.edit.after is not None and not changes.empty:
            self._build(changes.edit.map_type, changes.edit.after, register)

    def finish(self, changes: Changes, others: Iterable[Decision] = ()) -> None:
        """Remove what nothing refers to, now that Postfix follows *changes*.

        What these and *others* have set is kept in mind.
        """
        if changes.edit.after is None:
            self.databases.remove()
        self.databases.discard_backups()
        settings = self.collector.settings() or Settings()
        learnt.forget(self.collector.cache, settings.domains)
        record = changes.installed
        if changes.dropped:
            record = replace(record, daemon="")
        decisions = (*changes.decisions, *others)
        installed.write(self.collector.cache, record.after(decisions, changes.daemon))

    def installed(self) -> Installed:
        """Return what was set for policies, as far as main.cf still has it."""
        record = installed.read(self.collector.cache)
        return record.standing(self.configuration, self.path) if record.any else record

    def note_restored(self) -> None:
        """Forget what was set for policies, and main.cf has no more."""
        with contextlib.suppress(Error):  # it may be unreadable as it was before
            installed.write(self.collector.cache, self.installed())

    def refresh_sources(self, now: datetime, *, wait: float) -> Refreshed | None:
        """Let sources that are due look for something new, before Postfix is locked.

        So nobody waits for the network who waits for that lock.  Another process that
        asks is waited for, *wait* seconds; then `BusyError` is raised.
        """
        wanted = self.collector.settings()
        if not wanted or not (wanted.lists or wanted.domains) or self.unnamed():
            return None
        return self.collector.refresh(wanted, now, wait=wait)

    def refresh(self, now: datetime, refreshed: Refreshed | None = None) -> list[str]:
        """Bring the table up to date with what the sources say.

        They are asked unless they were *refreshed* before, for what is wanted still.
        main.cf stays as it is.  Returns what failed, a sentence each.
        """
        self.current.forget()  # it may have been read before Postfix was locked
        wanted = self.collector.settings()
        if wanted is None:
            return []
        databases.remove_leftovers(self.path)
        if warning := self.unnamed():
            logger.warning("%s", warning)
            return []
        with self.collector.progress.of(self.path.name):
            policies = self.collect(wanted, now, refreshed=refreshed)
        changed = policies.text != files.read(self.path) or self.databases.backed_up()
        if changed or resolver_daemon.fault(self.postfix, self._table):
            self._advise(len(policies.entries))
            with signals.ending(), signals.interruptible():
                self._replace(policies.text)
        return [
            *policies.complaints,
            *resolver_daemon.dead(self.postfix, self.configuration),
        ]

    def restore_database(self, *, changed: bool) -> None:
        """Make the database fit to the text, which is an old one again if *changed*.

        Or to the type that main.cf, which is an old one again, has for it.
        """
        if not self.path.exists() or not self.map_type:
            return
        undone = self.databases.restore_backups()
        if not undone and (changed or resolver_daemon.fault(self.postfix, self._table)):
            if self.map_type == "texthash":
                self.databases.retire()
            else:
                self._build(self.map_type, files.read(self.path))
        self.databases.discard_backups()

    def _build(
        self,
        map_type: str,
        text: bytes,
        register: Callable[[Path], None] | None = None,
    ) -> None:
        with self.collector.progress.of(self.path.name):
            policy_database.build(
                self.postfix, self.databases, map_type, text, register
            )

    def _advise(self, size: int) -> None:
        advice = map_types.outdated(
            self.configuration, self._table, self._chosen(size), self.cert_name()
        )
        if advice:
            logger.warning("%s", advice)

    @property
    def _table(self) -> str:
        return f"{self.map_type}:{self.path}"

    def _replace(self, text: bytes) -> None:
        change = Transaction((self.databases,))
        edit = Edit(self.path, files.read(self.path), text, 0o644, self.map_type)
        with change.undone_on_failure(
            lambda _: self.serving.reload(self.configuration)
        ):
            self._build(self.map_type, text, change.register)
            change.write(edit)
            self.serving.reload(self.configuration)
        change.discard_backups()

    def _chosen(self, size: int) -> str:
        return map_types.chosen(
            self.postfix, self.configuration, self.map_type, size, LARGE
        )
