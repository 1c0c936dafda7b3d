"""What is to be in force: what sources say, without what the administrator has.

Sources are asked when they have something to say.  What fails is reported, and changes
nothing: what the table has from them stays.  Raises `errors.Error`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from certbot_postfix.errors import BusyError, Error, enumerated
from certbot_postfix.formats.policy import Entry, gc_paused
from certbot_postfix.options import ClientLevel
from certbot_postfix.outbound import (
    dnssec,
    domain_state,
    effect,
    last_refresh,
    learnt,
    main_cf,
    mta_sts_cache,
    policy_file,
    policy_map,
    sources,
)
from certbot_postfix.outbound.progress import Progress
from certbot_postfix.outbound.sources import Context, Settings, Source
from certbot_postfix.postfix import decisions, tls_levels
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.current import Current
from certbot_postfix.postfix.databases import Databases
from certbot_postfix.system import files, lock


@dataclass(frozen=True, slots=True)
class Policies:
    """What is *wanted*, and the entries that are to be in force therefore.

    *complaints* are of sources that failed, *notes* of what has no effect; *silent* if
    one of those that failed has nothing to say.  The table of a *daemon* is to be
    asked, too, and that of one that is *dropped* no more.

    With *dane*, domains that have DANE are left to that.  *text* is that of the table.
    """

    wanted: Settings
    entries: dict[str, Entry] = field(repr=False)
    complaints: list[str]
    notes: list[str]
    daemon: str = ""
    dropped: str = ""
    silent: bool = False
    dane: bool = False
    text: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The *sources* of what the *context* wants, which have looked for something new.

    *broken* has a sentence for each that could not be made; *failures*, by their
    labels, is what others raised.
    """

    context: Context
    sources: list[Source]
    broken: list[str]
    failures: dict[str, list[BaseException]] = field(default_factory=dict)


class Collector:
    """Collects what sources say to the instance of *current*, whose table is at *path*.

    They keep it below *directory*.
    """

    def __init__(self, current: Current, path: Path, directory: Path) -> None:
        self.current = current
        self.path = path
        self.directory = directory
        self.cache = last_refresh.cache_directory(path, directory)
        self.level = ClientLevel.KEEP  # what the client is about to be raised to
        self.force = False  # whether all are asked, due or not
        self.urgent: frozenset[str] = frozenset()
        self.progress = Progress()

    @property
    def configuration(self) -> Configuration:
        """The configuration, with the level of the client as it is about to be."""
        now = self.current.configuration
        return decisions.applied(now, tls_levels.raise_client(now, self.level))

    def settings(self) -> Settings | None:
        """Return what the table says that the administrator wants; None without one."""
        return policy_file.header(self.path).wanted if self.path.exists() else None

    def due(self, now: datetime) -> bool:
        """Whether the table may have to change; it exists, and is one of ours."""
        header = policy_file.header(self.path)
        context = self._context(header.wanted)
        loaded, broken = sources.load(context)
        return bool(
            broken
            or (header.until and header.until <= now)
            or header.dane != context.dane
            # A run was killed before Postfix was told.
            or Databases(self.path).backed_up()
            or (learnt.wanted(header.wanted.domains) and learnt.due(self.cache, now))
            or any(sources.due(source, now) for source in loaded)
        )

    def states(self) -> mta_sts_cache.Cache:
        """Return what is known of each domain whose MTA-STS policy is looked up."""
        return mta_sts_cache.read(mta_sts_cache.path_in(self.cache))[0]

    def broken(self) -> list[str]:
        """Return a sentence for each source that is broken."""
        return sources.load(self._context(self.settings() or Settings()))[1]

    def refresh(self, wanted: Settings, now: datetime, *, wait: float) -> Refreshed:
        """Let the sources of what is *wanted* look for something new, if they are due.

        That may take minutes, and needs no lock of Postfix.  One process at a time does
        it: another is waited for, *wait* seconds; then `BusyError` is raised.
        """
        self._make_directories()
        with lock.alone(self.cache, wait=wait):
            with self.progress.of("mail log and queue"):
                waiting = learnt.look(
                    self.current, self.cache, wanted.domains, now, force=self.force
                )
            self.urgent |= waiting
            context = self._context(wanted)
            refreshed = Refreshed(context, *sources.load(context))
            for source in refreshed.sources:
                with self.progress.of(source.label):
                    raised = sources.refresh(source, now, force=self.force)
                refreshed.failures[source.label] = raised
            last_refresh.note_end(self.cache)
        return refreshed

    def policies(
        self, wanted: Settings, now: datetime, refreshed: Refreshed | None = None
    ) -> Policies:
        """Return what fulfils *wanted*, by sources that are *refreshed* now if not yet.

        A source that is new and fails takes nothing out of force: then what was wanted
        before is still what is wanted.  Raises `Error` if policies would have no
        effect, or keep mail here; if they are wanted already, that is a complaint, and
        those that are in force stay until they end.
        """
        before = self.settings()
        self._make_directories()
        try:
            effect.refuse_untrusting(self.configuration)
            policies = self._policies(wanted, now, refreshed)
        except Error as error:
            if wanted != before:
                raise
            held = policy_map.merged([self._entries(now)])
            dane = policy_file.header(self.path).dane
            policies = self._rendered(
                Policies(wanted, held, [str(error)], [], dane=dane)
            )
        if before and before != wanted and policies.silent:
            policies = self._or_before(before, policies, now)
        last_refresh.note_failures(self.cache, policies.complaints)
        return policies

    def _or_before(
        self, before: Settings, policies: Policies, now: datetime
    ) -> Policies:
        """Return *policies*, or those of what was wanted *before* if some would go."""
        if not self._loses(policies, now):
            return policies
        unchanged = Error(
            "the policy options were not changed, because policies now in force would"
            " be lost",
            hint="fix what failed, and give the options again",
        )
        complaints = [*policies.complaints, str(unchanged)]
        return replace(self._policies(before, now), complaints=complaints)

    def _policies(
        self, wanted: Settings, now: datetime, refreshed: Refreshed | None = None
    ) -> Policies:
        if not refreshed or refreshed.context.settings != wanted:
            refreshed = self._refreshed(wanted, now)
        complaints = list(refreshed.broken)
        groups = [self._of_broken(wanted, refreshed, now)]
        silent = False
        for source in refreshed.sources:
            raised = refreshed.failures.get(source.label, ())
            messages, known = sources.known(source, now, raised)
            complaints += messages
            silent |= bool(messages) and known == []
            groups.append(self._of(source, now) if known is None else known)
        with gc_paused():
            merged = policy_map.merged(groups)
        notes = self._notes(merged)
        dane = refreshed.context.dane
        return self._rendered(
            Policies(wanted, merged, complaints, notes, silent=silent, dane=dane)
        )

    def _rendered(self, policies: Policies) -> Policies:
        version = self.current.configuration.version
        text = policy_map.render(
            policies.wanted, policies.entries, version, dane=policies.dane
        )
        return replace(policies, text=text)

    def _refreshed(self, wanted: Settings, now: datetime) -> Refreshed:
        """Refresh, but do not wait for another process that does so for the same."""
        same = wanted == self.settings()
        try:
            return self.refresh(wanted, now, wait=0 if same else lock.PATIENCE)
        except BusyError:
            if not same:
                raise
            context = self._context(wanted)
            return Refreshed(context, *sources.load(context))

    def _make_directories(self) -> None:
        certbots = self.directory.parent
        if not certbots.is_dir():
            raise Error(
                f"could not create {self.directory}: there is no directory {certbots}",
                hint="if this is certbot's directory, and certbot has not run here yet:"
                f" mkdir -m 755 {certbots}",
            )
        for directory in (self.directory, self.cache.parent, self.cache):
            files.make_directory(directory)

    def _loses(self, policies: Policies, now: datetime) -> bool:
        """Whether a domain has an entry in the table, and would have none so strict."""
        new = policies.entries
        return any(
            entry.domain not in new
            or (entry.enforced and not new[entry.domain].enforced)
            for entry in self._entries(now)
        )

    def _context(self, wanted: Settings) -> Context:
        return Context(
            wanted,
            self.cache,
            ca_file=self.current.configuration.ca_bundle,
            dane=main_cf.prefers_dane(self.configuration)
            and dnssec.does_dane(self.configuration),
            entries=lambda: policy_file.entries(self.path),
            force=self.force,
            urgent=self.urgent,
            progress=self.progress.count,
        )

    def _of_broken(
        self, wanted: Settings, refreshed: Refreshed, now: datetime
    ) -> Iterable[Entry]:
        """Return the entries in the table of sources that are broken now."""
        before = self.settings()
        if not (refreshed.broken and before):
            return []
        others = {source.label for source in refreshed.sources}
        others |= {*before.lists, *wanted.lists}
        return [entry for entry in self._entries(now) if entry.source not in others]

    def _of(self, source: Source, now: datetime) -> Iterable[Entry]:
        """Return the entries in the table of a *source* that does not know its own."""
        return [entry for entry in self._entries(now) if entry.source == source.label]

    def _entries(self, now: datetime) -> Iterable[Entry]:
        return (
            entry for entry in policy_file.entries(self.path) if entry.expires > now
        )

    def _notes(self, entries: dict[str, Entry]) -> list[str]:
        """Take out of *entries* what the administrator has; say what has no effect."""
        postfix, configuration = self.current.postfix, self.current.configuration
        notes = []
        for table in filter(
            main_cf.local, main_cf.own_tables(configuration, self.path)
        ):
            own = effect.answered_first(postfix, table, entries.values())
            if own:
                notes.append(
                    f"{table} has an entry for {enumerated(own)}: left unchanged"
                )
            for domain in own:
                del entries[domain]
        return [
            *notes,
            *domain_state.notes(self.states()),
            *effect.notes(postfix, configuration, self.path, entries.values()),
        ]
