"""What is to be in force: what sources say, without what the administrator has.

Sources are asked when they have something to say.  What fails is told, and changes
nothing: what the table has from them stays.  Raises `errors.Error`.
"""

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from certbot_postfix.errors import BusyError, Error, ProgramError, enumerated
from certbot_postfix.formats.policy import Entry, Mode, gc_paused
from certbot_postfix.options import ClientLevel
from certbot_postfix.outbound import (
    dnssec,
    lookup,
    main_cf,
    policy_map,
    routes,
    sources,
)
from certbot_postfix.outbound.sources import Context, Settings, Source
from certbot_postfix.postfix import decisions, tls_levels
from certbot_postfix.postfix.configuration import Configuration, as_clients_see_it
from certbot_postfix.postfix.current import Current
from certbot_postfix.postfix.databases import Databases
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system import files, lock
from certbot_postfix.tls import certificates

# Our directory for what sources keep, below that of the bundles, and a file there, with
# what failed the last time.
_KEPT = "policies"
_FAILED = "failed.json"

# Seconds in which an hourly timer runs twice.
_TWICE = 7200

# How long a message of a former run may be.
_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Policies:
    """What is *wanted*, the *entries* that fulfil it, and the *text* of their table.

    *complaints* are of sources that failed, *notes* of what has no effect; *silent* if
    one of those that failed has nothing to say.  The table of a *daemon* is to be
    asked, too.  With *dane*, domains that have DANE are left to that.
    """

    wanted: Settings
    entries: dict[str, Entry] = field(repr=False)
    complaints: list[str]
    notes: list[str]
    daemon: str = ""
    silent: bool = False
    dane: bool = False
    text: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """The *sources* of what the *context* wants, which have asked whom they had to.

    *broken* has a sentence for each that could not be; *failures*, by their labels, is
    what others raised.
    """

    context: Context
    sources: list[Source]
    broken: list[str]
    failures: dict[str, list[BaseException]] = field(default_factory=dict)


class Gathering:
    """What sources say to the instance of *current*, whose table is at *path*.

    They keep it below *directory*.
    """

    def __init__(self, current: Current, path: Path, directory: Path) -> None:
        self.current = current
        self.path = path
        self.directory = directory
        self.level = ClientLevel.KEEP  # what the client is about to be raised to

    @property
    def configuration(self) -> Configuration:
        """The configuration, with the level of the client as it is about to be."""
        now = self.current.configuration
        return decisions.applied(now, tls_levels.raise_client(now, self.level))

    def settings(self) -> Settings | None:
        """Return what the table says that the administrator wants; None without one."""
        return _header(self.path).wanted if self.path.exists() else None

    def due(self, now: datetime) -> bool:
        """Whether the table may have to change; it exists, and is one of ours."""
        header = _header(self.path)
        context = self._context(header.wanted)
        found, broken = sources.load(context)
        return bool(
            broken
            or (header.until and header.until <= now)
            or header.dane != context.dane
            or Databases(self.path).kept()  # a run was killed before Postfix was told
            or any(sources.due(source, now) for source in found)
        )

    def broken(self) -> list[str]:
        """Return a sentence for each source that is broken."""
        return sources.load(self._context(self.settings() or Settings()))[1]

    def ask(self, wanted: Settings, now: datetime, *, wait: float) -> Asked:
        """Let the sources of what is *wanted* ask whom they have to, if they are due.

        That may take minutes, and needs no lock of Postfix.  One process at a time does
        it: another is waited for, *wait* seconds; then `BusyError` is raised.
        """
        self._make_directories()
        context = self._context(wanted)
        found = Asked(context, *sources.load(context))
        with lock.alone(kept_for(self.path, self.directory), wait=wait):
            for source in found.sources:
                found.failures[source.label] = sources.refresh(source, now)
        return found

    def policies(
        self, wanted: Settings, now: datetime, asked: Asked | None = None
    ) -> Policies:
        """Return what fulfils *wanted*; the sources are asked, if they were not before.

        A source that is new and fails takes nothing out of force: then what was wanted
        before is still what is wanted.  Raises `Error` if policies would have no
        effect, or keep mail here; if they are wanted already, that is a complaint, and
        those that are in force stay until they end.
        """
        before = self.settings()
        self._make_directories()
        try:
            self._refuse_untrusting()
            found = self._policies(wanted, now, asked)
        except Error as error:
            if wanted != before:
                raise
            held = policy_map.merged([self._entries(now)])
            dane = _header(self.path).dane
            found = self._rendered(Policies(wanted, held, [str(error)], [], dane=dane))
        if before and before != wanted and found.silent and self._loses(found, now):
            kept = Error(
                "the options of policies stay as they were, since policies that are in"
                " force would go",
                hint="mend what failed, and give the options again",
            )
            told = [*found.complaints, str(kept)]
            found = replace(self._policies(before, now), complaints=told)
        self._note_failures(found.complaints)
        return found

    def _policies(
        self, wanted: Settings, now: datetime, asked: Asked | None = None
    ) -> Policies:
        if not asked or asked.context.settings != wanted:
            asked = self._asked(wanted, now)
        complaints = list(asked.broken)
        left = self._left(wanted, asked.sources, complaints, now)
        groups: list[Iterable[Entry]] = [left]
        silent = False
        for source in asked.sources:
            told, known = sources.known(
                source, now, asked.failures.get(source.label, ())
            )
            complaints += told
            silent |= bool(told) and known == []
            groups.append(self._of(source, now) if known is None else known)
        with gc_paused():
            merged = policy_map.merged(groups)
        notes = self._notes(merged)
        dane = asked.context.dane
        return self._rendered(
            Policies(wanted, merged, complaints, notes, silent=silent, dane=dane)
        )

    def _rendered(self, found: Policies) -> Policies:
        version = self.current.configuration.version
        text = policy_map.render(found.wanted, found.entries, version, dane=found.dane)
        return replace(found, text=text)

    def _asked(self, wanted: Settings, now: datetime) -> Asked:
        """Ask, but do not wait for another process that asks for the same."""
        same = wanted == self.settings()
        try:
            return self.ask(wanted, now, wait=0 if same else lock.PATIENCE)
        except BusyError:
            if not same:
                raise
            context = self._context(wanted)
            return Asked(context, *sources.load(context))

    def _make_directories(self) -> None:
        kept = kept_for(self.path, self.directory)
        for directory in (self.directory, kept.parent, kept):
            files.make_directory(directory)

    def _loses(self, found: Policies, now: datetime) -> bool:
        """Whether a domain has an entry in the table, and would have none so strict."""
        return any(
            one.domain not in found.entries
            or (_enforced(one) and not _enforced(found.entries[one.domain]))
            for one in self._entries(now)
        )

    def _note_failures(self, complaints: list[str]) -> None:
        path = kept_for(self.path, self.directory) / _FAILED
        if complaints:
            files.replace(path, json.dumps(complaints).encode(), mode=0o600)
        else:
            files.remove(path)

    def _context(self, wanted: Settings) -> Context:
        return Context(
            wanted,
            kept_for(self.path, self.directory),
            ca_file=self.current.configuration.ca_bundle,
            dane=main_cf.prefers_dane(self.configuration)
            and dnssec.does_dane(self.configuration),
            entries=lambda: entries(self.path) if self.path.exists() else [],
        )

    def _left(
        self, wanted: Settings, found: list[Source], broken: list[str], now: datetime
    ) -> Iterable[Entry]:
        """Return the entries in the table of sources that are broken now."""
        before = self.settings()
        if not (broken and before):
            return []
        gone = {source.label for source in found}
        gone |= {*before.lists, *wanted.lists}
        return [one for one in self._entries(now) if one.source not in gone]

    def _of(self, source: Source, now: datetime) -> Iterable[Entry]:
        """Return the entries in the table of a *source* that does not know its own."""
        return [one for one in self._entries(now) if one.source == source.label]

    def _entries(self, now: datetime) -> Iterable[Entry]:
        if not self.path.exists():
            return []
        return (one for one in entries(self.path) if one.expires > now)

    def _notes(self, found: dict[str, Entry]) -> list[str]:
        """Take what the administrator has out of *found*; say what has no effect."""
        notes = []
        configuration, postfix = self.current.configuration, self.current.postfix
        for own in filter(main_cf.local, main_cf.own_tables(configuration, self.path)):
            enforced = [one.domain for one in found.values() if _enforced(one)]
            kept = _answered(postfix, own, enforced)
            if kept:
                notes.append(
                    f"{own} has an entry for {enumerated(sorted(kept))}, and that stays"
                )
            for domain in kept:
                del found[domain]
        notes += unwritten(found.values())
        notes += fleeting(found.values())
        enforced = [one.domain for one in found.values() if _enforced(one)]
        void = bypassed(postfix, configuration, self.path, enforced)
        hidden = main_cf.overrides(configuration, self.path)
        said = " ".join(void)  # of what hides our table, one word is enough
        notes += [str(one) for one in hidden if f"for {one.service}" not in said]
        return [*notes, *void]

    def _refuse_untrusting(self) -> None:
        configuration = self.current.configuration
        if level := main_cf.stricter(configuration):
            raise Error(
                f"smtp_tls_security_level = {level} asks no less than policies would:"
                " none is written",
                hint="do without them; with --postfix-policy-list ''"
                " --postfix-mta-sts-domains '', certbot install ends those there are",
            )
        if why := distrust(configuration):
            raise Error(
                f"{why}: no server could be verified, and mail to domains with a policy"
                " would not be sent; no policy is written",
                hint="let main.cf say smtp_tls_CAfile ="
                f" {configuration.ca_bundle or 'a bundle'}",
            )


def _answered(postfix: Postfix, own: str, domains: list[str]) -> set[str]:
    """Return those of *domains* for which the administrator's table *own* counts."""
    forms = {form for each in domains for form in (each, policy_map.unicode_key(each))}
    keys = {key for form in forms if form for key in main_cf.keys(form)}
    answered = lookup.asked(postfix, own, keys) if keys else {}
    return main_cf.overruled(domains, answered)


def distrust(configuration: Configuration) -> str:
    """Return why a client could verify no server, "" if all can."""
    for client in as_clients_see_it(configuration):
        named = client.value("smtp_tls_CAfile")
        path = Path(named)
        text = files.read(path) if named and path.exists() else b""
        trusted = certificates.authorities(text)
        empty = [
            directory
            for directory in main_cf.directories(client)
            if not any(directory.glob("*.[0-9]"))  # as openssl-rehash(1) names them
        ]
        if why := main_cf.distrust(client, trusted, empty):
            return why
    return ""


def kept_for(path: Path, bundles: Path) -> Path:
    """Return where sources keep what they say for the table at *path*."""
    return bundles / _KEPT / quote(str(path.parent.resolve()), safe="")


def failures(path: Path, bundles: Path) -> list[str]:
    """Return what failed the last time, as far as this user may know."""
    with suppress(Error, ValueError, TypeError, RecursionError):
        found = json.loads(files.read(kept_for(path, bundles) / _FAILED))
        return [str(each)[:_LONGEST] for each in found]
    return []


def entries(path: Path) -> Iterable[Entry]:
    """Yield the entries of the table at *path*."""
    with _opened(path) as text:
        yield from policy_map.parse(text, path)


def until(path: Path) -> datetime | None:
    """Return when the first of the policies in the table at *path* ends."""
    return _header(path).until


def _header(path: Path) -> policy_map.Header:
    with _opened(path) as text:
        return policy_map.header(text, path)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    with (
        files.explained("read", path),
        files.opened(path, most=files.LARGEST) as file,
        # Whoever edits it may write another encoding.
        io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape") as text,
    ):
        yield text


def bypassed(
    postfix: Postfix, configuration: Configuration, path: Path, domains: list[str]
) -> list[str]:
    """Return why policies for *domains* in the table at *path* do not count."""

    def ask(table: str, keys: set[str]) -> dict[str, str]:
        with suppress(ProgramError):
            return postfix.answers(table, keys) if main_cf.local(table) else {}
        return {}

    unasked = [
        f"{own} comes before {path.name} in {policy_map.PARAMETER}, and is not asked:"
        " where it has an entry for a domain, that overrides the policy"
        for own in main_cf.own_tables(configuration, path)
        if domains and not main_cf.local(own)
    ]
    return [*unasked, *routes.complaints(configuration, path, domains, ask)]


def enforced(path: Path, most: int | None = None) -> list[str]:
    """Return the domains whose policies are enforced, up to so many entries."""
    return [one.domain for one in islice(entries(path), most) if _enforced(one)]


def unwritten(found: Iterable[Entry]) -> list[str]:
    """Say which domains have a policy that is not followed where they are in UTF-8."""
    domains = {
        one.domain
        for one in found
        if "xn--" in one.domain
        and _enforced(one)
        and not policy_map.unicode_key(one.domain)
    }
    if not domains:
        return []
    why = "since Postfix looks up what may be another domain's name"
    return [
        f"an address in UTF-8 at {enumerated(sorted(domains))} has no policy, {why}"
    ]


def fleeting(found: Iterable[Entry]) -> list[str]:
    """Say which policies may end between two runs of an hourly timer."""
    short = {one.domain for one in found if 0 < one.max_age < _TWICE and _enforced(one)}
    if not short:
        return []
    told = "is valid for less than two hours: where a timer runs each hour, one look"
    return [f"the policy of {enumerated(sorted(short))} {told} that fails ends it"]


def _enforced(entry: Entry) -> bool:
    return entry.policy.mode is Mode.ENFORCE
