"""What one Postfix instance uses of certbot's certificates, read from its own files.

Nothing of that is remembered elsewhere: the bundles that main.cf and the table of names
name are those that are deployed.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path

from certbot_postfix.errors import CertificateError, Error, ProgramError, named_logger
from certbot_postfix.inbound import chain_files, placement, sni
from certbot_postfix.inbound.bundles import Bundles, directories, is_bundle
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.placement import Deployed, Present
from certbot_postfix.inbound.sni import Table
from certbot_postfix.inbound.sni_map import Tables
from certbot_postfix.postfix import instances, maps
from certbot_postfix.postfix.configuration import SNI_MAPS, Configuration
from certbot_postfix.postfix.current import Current
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.questions import Expectation
from certbot_postfix.system import files
from certbot_postfix.tls import replacement
from certbot_postfix.tls.certificates import Certificate

logger = named_logger(__name__)


class Inventory:
    """The view of *postfix*; bundles are below *root*."""

    def __init__(self, postfix: Postfix, root: Path) -> None:
        self.postfix = postfix
        self.current = Current(postfix)
        self.root = root
        self.live = root.parent / "live"
        self.tables = Tables(postfix)

    @property
    def configuration(self) -> Configuration:
        """The configuration as it was when it was last read."""
        return self.current.configuration

    @cached_property
    def siblings(self) -> list[Postfix]:
        """The other instances of this machine."""
        return instances.others(self.postfix, self.configuration)

    @cached_property
    def bundles(self) -> Bundles:
        """Where the bundles of this instance are."""
        own = self.root / instances.name_of(self.postfix.directory)
        if own.is_dir() or instances.is_further(self.configuration, self.siblings):
            return Bundles(self.root, own)
        return Bundles(self.root, self.root)

    @cached_property
    def table(self) -> Table:
        """The table of names, empty if main.cf names none of ours."""
        if not self.form:
            return {}
        if self.tables.text() is None:
            logger.warning(
                "%s, which main.cf refers to, is missing: certificates are no longer"
                " served via SNI\nHint: certbot install -i postfix --cert-name NAME,"
                " for each of them",
                self.tables.path,
            )
        return {
            key: tuple(map(_resolved, paths))
            for key, paths in self.tables.read().items()
        }

    @property
    def form(self) -> str:
        """The type of map as which main.cf names the table, empty if it does not."""
        return maps.form(self.configuration.value(SNI_MAPS), self.tables.path)

    def forget(self) -> None:
        """Read everything anew when it is asked for again."""
        self.current.forget()
        self._forget_derived()

    def changed(self) -> None:
        """Read anew what a change of main.cf or of the table may change."""
        self.current.changed()
        self._forget_derived()

    def _forget_derived(self) -> None:
        for name in ("table", "_named", "named_by_hand", "_in_use"):
            self.__dict__.pop(name, None)

    def default(self) -> list[Deployed]:
        """Return what main.cf has served by default, as far as it exists."""
        return leaves(chain_files.configured(self.configuration))

    def deployed(self) -> list[Path]:
        """Return the bundles that Postfix reads: main.cf's first."""
        default = chain_files.deployed(self.configuration, self.root)
        named = {Path(each) for each in self._named}
        ours = {path for path in named if is_bundle(path, self.root)}
        return [*default, *sorted((ours | self.named_by_hand) - {*default})]

    def standing(self, name: str, names: Iterable[str]) -> Present:
        """Return what matters when the lineage *name*, for *names*, is to be deployed.

        A bundle of it that is not in its own place counts as if it were.
        """
        new = self.bundles.new(name)
        moved = {new, *self.used(name)}
        found = (self.table.get(key, ()) for key in sni.keys(names))
        peers = leaves({Path(path) for paths in found for path in paths})
        default, peers = (
            [
                Deployed(new, each.leaf) if each.path in moved else each
                for each in deployed
            ]
            for deployed in (self.default(), peers)
        )
        table = sni.moved(self.table, {*map(str, moved)} - {str(new)}, str(new))
        return Present(default, table, peers, self.root)

    def half(self, kept: Deployed) -> chain_files.Half | None:
        """Return what main.cf names for *kept*, None if that cannot stand alone."""
        return chain_files.half(
            self.configuration, kept.path, kept.leaf.key_type, private_keys
        )

    def listed(
        self, path: Path, names: Iterable[str], default: Collection[Deployed]
    ) -> set[str]:
        """Return those of the *names* of a bundle that belong into the table."""
        if all(each.path != path for each in default):
            return set(names)
        apart = placement.shared(default, self.root)
        return {name for name in names if sni.key(name) not in apart}

    def used(self, name: str) -> list[Path]:
        """Return the bundles of the lineage *name* that Postfix reads: mostly one."""
        return self._in_use.get(name, [])

    @cached_property
    def _in_use(self) -> dict[str, list[Path]]:
        in_use: dict[str, list[Path]] = {}
        for path in self.deployed():
            in_use.setdefault(path.stem, []).append(path)
        return in_use

    @cached_property
    def _named(self) -> set[str]:
        return sni.bundles(self.table)

    @cached_property
    def named_by_hand(self) -> set[Path]:
        """The bundles that master.cf names, or a table of the administrator's."""
        used = {
            path
            for service in self.configuration.services
            if service.overrides
            for path in chain_files.configured(self.configuration, service)
        }
        tables = maps.before(self.configuration.value(SNI_MAPS), self.tables.path)
        sources = (table.partition(":")[2] for table in tables)
        texts = (_content(Path(each)) for each in sources if os.path.isfile(each))  # noqa: PTH113
        used |= {path for text in texts for path in chain_files.named(text, self.root)}
        default = chain_files.deployed(self.configuration, self.root)
        return {path for path in used if is_bundle(path, self.root)} - {*default}

    def pending(self) -> list[Lineage]:
        """Return the deployed lineages that are newer than their bundles.

        Only those are read that certbot touched after us, or that are not verified.
        """
        unverified = {
            path
            for place in directories(self.root)
            for path in place.glob(f".*{files.OLD}")
        }
        return [
            lineage
            for lineage in self.lineages()
            if any(
                self._suspect(lineage, path, unverified)
                and self._is_pending(lineage, path)
                for path in self.used(lineage.name)
            )
        ]

    def _is_pending(self, lineage: Lineage, path: Path) -> bool:
        try:
            return lineage.pending_for(path, self.postfix.directory)
        except Error as error:
            # One that is broken is not to keep others from being renewed.
            logger.error("lineage %s: %s", lineage.name, error)  # noqa: TRY400
            return False

    def listed_wrong(self) -> list[Lineage]:
        """Return the lineages for whose names the table is not as they have them."""
        table = self.table
        default = self.default()
        of_default = [str(each.path) for each in default]
        paths = {
            str(path): each for each in self.lineages() for path in self.used(each.name)
        }
        there = leaves(map(Path, sorted(sni.bundles(table) & paths.keys())))
        return [
            paths[str(each.path)]
            for each in there
            if sni.renewed(
                table,
                str(each.path),
                self.listed(each.path, each.leaf.names, default),
                of_default,
            )
            != table
        ]

    def _suspect(
        self, lineage: Lineage, path: Path, unverified: Collection[Path]
    ) -> bool:
        if files.backup_name(path) in unverified or not path.exists():
            return True
        return lineage.fullchain.lstat().st_mtime >= path.stat().st_mtime

    def inherited(
        self, table: Table, new: Mapping[Path, Certificate | None]
    ) -> dict[str, tuple[str, ...]]:
        """Return what else is served for the names that *table* has lost.

        That is a certificate which is deployed and has the name, by default or by name;
        *new* are leaves that take the place of what is in the bundles, or of nothing.
        """
        left = self.table.keys() - table.keys()
        if not left:
            return {}
        default = [each for each in self.default() if each.path not in new]
        others = leaves({Path(each) for each in sni.bundles(table)} - new.keys())
        others += [Deployed(path, leaf) for path, leaf in new.items() if leaf]
        return {
            **placement.heirs(left, others, self.root),
            **placement.heirs(left, default, self.root),
        }

    def answered(self, keys: Collection[str]) -> dict[str, str]:
        """Return those *keys* that the administrator's own tables answer first.

        Each comes with the table.
        """
        found: dict[str, str] = {}
        for table, answers in self._answers(keys):
            found = {**dict.fromkeys(answers, table), **found}
        return found

    def by_hand(self, lineages: Collection[Lineage]) -> list[Expectation]:
        """Return what services that read the files of *lineages* themselves must show.

        The administrator has named those files in main.cf, master.cf or a table, or our
        bundle in a table of his own.
        """
        by_directory = {each.fullchain.parent.resolve(): each for each in lineages}
        return [*self._in_services(by_directory), *self._in_tables(by_directory)]

    def _in_services(self, lineages: Mapping[Path, Lineage]) -> Iterator[Expectation]:
        for service in chain_files.with_certificates(self.configuration):
            used = chain_files.configured(self.configuration, service)
            directories = {path.parent for path in used} & lineages.keys()
            found = [lineages[each].bundle().leaf for each in directories]
            found += _shared(self.foreign(used, directories), lineages.values())
            for leaf in dict.fromkeys(found):
                yield Expectation(None, (leaf,), frozenset({str(service)}))

    def foreign(
        self, paths: Iterable[Path], known: Collection[Path] = ()
    ) -> list[Deployed]:
        """Return what is in those *paths* that are neither ours nor in *known*.

        A link, also a hard one, or a copy of certbot's files may be anywhere.
        """
        return leaves(
            path
            for path in paths
            if path.parent not in known and not is_bundle(path, self.root)
        )

    def _in_tables(self, lineages: Mapping[Path, Lineage]) -> Iterator[Expectation]:
        if not maps.before(self.configuration.value(SNI_MAPS), self.tables.path):
            return
        found = [
            (
                (
                    f"{directory}/",
                    f"{each.fullchain.parent}/",
                    *map(str, self.used(each.name)),
                ),
                leaf,
            )
            for directory, each in lineages.items()
            if (leaf := each.leaf())
        ]
        keys = sni.keys(name for _, leaf in found for name in leaf.names)
        before: set[str] = set()
        for table, answers in self._answers(keys):
            first = answers.keys() - before
            before |= first
            for places, leaf in found:
                for key in sorted(sni.keys(leaf.names) & first):
                    text = answers[key]
                    if any(place in text for place in places) or leaf in [
                        each.leaf for each in self.foreign(_files(text))
                    ]:
                        yield Expectation(sni.example_name(key, answers), (leaf,))
                    elif replacement.is_copy_before(answers[key], leaf):
                        logger.warning(
                            "%s has a copy of an older certificate for %s\nHint:"
                            " postmap -F %s, and reload Postfix",
                            table,
                            key,
                            table,
                        )

    def _answers(self, keys: Collection[str]) -> Iterator[tuple[str, dict[str, str]]]:
        for table in maps.before(self.configuration.value(SNI_MAPS), self.tables.path):
            try:
                yield table, self.postfix.answers(table, keys)
            except ProgramError as error:
                logger.warning("%s of main.cf cannot be asked: %s", table, error)

    def lineages(self) -> list[Lineage]:
        """Return all lineages that certbot has."""
        there = sorted(self.live.iterdir()) if self.live.is_dir() else []
        found = (Lineage.live(self.live, path.name) for path in there)
        return [lineage for lineage in found if lineage.fullchain.exists()]


def _resolved(path: str) -> str:
    directory, _, name = path.rpartition("/")
    return f"{_real(directory)}/{name}"


_real = lru_cache(os.path.realpath)


def _files(answer: str) -> list[Path]:
    """Return the files that a table of names names, nothing if it has their content."""
    words = answer.replace(",", " ").split()
    return [Path(each) for each in words if each.startswith("/")]


def _shared(
    found: Collection[Deployed], lineages: Iterable[Lineage]
) -> list[Certificate]:
    """Return which certificates that were *found* are the newest of *lineages*."""
    newest = {each.leaf() for each in lineages} if found else set()
    return [each.leaf for each in found if each.leaf in newest]


def leaves(paths: Iterable[Path]) -> list[Deployed]:
    """Return each of *paths* that exists with its leaf certificate."""
    found = ((path, certificates_in(path)) for path in paths)
    return [Deployed(path, chain[0]) for path, chain in found if chain]


def private_keys(path: Path) -> int:
    """Return how many private keys there are in *path*; two if it cannot be read."""
    try:
        return files.read(path).count(b"PRIVATE KEY-----") // 2
    except Error:
        return 2


def certificates_in(path: Path) -> list[Certificate]:
    """Return the certificates in the file *path*, none if there are none."""
    try:
        return Certificate.all_from_pem(_content(path))
    except CertificateError:
        return []


def _content(path: Path) -> bytes:
    """Return what is in *path*, nothing if that cannot be read, which is a warning.

    The administrator may name any file: none stops a renewal.
    """
    try:
        # Path.exists() raises OSError, of a name that is too long, for example.
        return files.read(path) if os.path.exists(path) else b""  # noqa: PTH110
    except Error as error:
        _warn_once(error.message)
        return b""


@lru_cache
def _warn_once(message: str) -> None:
    logger.warning("%s; any certificate in it is ignored", message)
