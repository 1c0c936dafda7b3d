"""What one Postfix serves now: a frozen value, read once for a use case.

Nothing of that is remembered elsewhere: the bundles that main.cf and the SNI map name
are those that are deployed.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from certbot_postfix.errors import ProgramError, named_logger
from certbot_postfix.inbound import bundles, chain_files, served, sni
from certbot_postfix.inbound.bundles import Bundles
from certbot_postfix.inbound.served import ServedFile
from certbot_postfix.inbound.sni import Table
from certbot_postfix.inbound.sni_map import SniMap
from certbot_postfix.postfix import maps
from certbot_postfix.postfix.configuration import SNI_MAPS, Configuration
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.tls.certificates import Certificate

logger = named_logger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """What one instance serves to whom, as far as it concerns what may change.

    *default* are the files that main.cf names and that exist; *table* is our SNI map,
    of the type *map_type*, both empty if main.cf does not name it.  *by_hand* are
    bundles that master.cf names, or an SNI map of the administrator's.  *peers* are the
    files that the SNI map has for the names that matter, *answers* the administrator's
    SNI maps that answer first, by key.
    """

    configuration: Configuration
    bundles: Bundles
    default: tuple[ServedFile, ...] = ()
    table: Table = field(default_factory=dict)
    map_type: str = ""
    by_hand: frozenset[Path] = frozenset()
    peers: tuple[ServedFile, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """The name by which the server calls itself."""
        return self.configuration.value("myhostname")

    @property
    def ours(self) -> list[ServedFile]:
        """The bundles of ours that are served by default."""
        root = self.bundles.root
        return [file for file in self.default if bundles.is_bundle(file.path, root)]

    @property
    def deployed(self) -> list[Path]:
        """The bundles that Postfix reads: main.cf's first."""
        root = self.bundles.root
        default = chain_files.deployed(self.configuration, root)
        named = map(Path, sni.bundles(self.table))
        ours = {path for path in named if bundles.is_bundle(path, root)}
        return list(dict.fromkeys([*default, *sorted(ours | self.by_hand)]))

    def used(self, name: str) -> list[Path]:
        """Return the bundles of the lineage *name* that Postfix reads: mostly one."""
        return [path for path in self.deployed if path.stem == name]

    def chain(self, path: Path) -> tuple[Certificate, ...]:
        """Return the certificates in *path*, as they were when this was read."""
        known = {file.path: file.chain for file in (*self.default, *self.peers)}
        return known.get(path) or tuple(served.certificates_in(path))

    @property
    def a_name(self) -> str:
        """The name of a lineage that is deployed, for an advice."""
        return next((path.stem for path in self.deployed), "NAME")


def read(configuration: Configuration, places: Bundles, sni_map: SniMap) -> State:
    """Return what the instance with *configuration* serves, without *peers*.

    Raises `Error` if its SNI map, which main.cf names, was not written by us.
    """
    map_type = maps.map_type(configuration.value(SNI_MAPS), sni_map.path)
    return State(
        configuration,
        places,
        default=served.read(chain_files.configured(configuration)),
        table=_table(sni_map) if map_type else {},
        map_type=map_type,
        by_hand=_by_hand(configuration, sni_map.path, places.root),
    )


def look_up(state: State, postfix: Postfix, keys: Iterable[str]) -> State:
    """Return *state* with what is served for *keys* of the SNI map.

    The administrator's SNI maps are asked for these, and for those that Postfix looks
    up after them.
    """
    wanted = {*keys}
    known = {file.path for file in (*state.default, *state.peers)}
    paths = {Path(path) for key in wanted for path in state.table.get(key, ())}
    return replace(
        state,
        peers=(*state.peers, *served.read(sorted(paths - known))),
        answers=_answers(state.configuration, postfix, sni.with_parents(wanted)),
    )


def with_all(state: State) -> State:
    """Return *state* with all files of its SNI map as *peers*, which takes time."""
    known = {file.path for file in (*state.default, *state.peers)}
    paths = sorted({*map(Path, sni.bundles(state.table))} - known)
    leaves = ((path, served.leaf_in(path)) for path in paths)  # no chains: of thousands
    peers = tuple(ServedFile(path, leaf) for path, leaf in leaves if leaf)
    return replace(state, peers=(*state.peers, *peers))


def _answers(
    configuration: Configuration, postfix: Postfix, keys: Collection[str]
) -> dict[str, str]:
    """Return which of *keys* the administrator's own SNI maps answer first."""
    answered: dict[str, str] = {}
    for name, answers in answers_by_hand(configuration, postfix, keys):
        answered = {**dict.fromkeys(answers, name), **answered}
    return answered


def answers_by_hand(
    configuration: Configuration, postfix: Postfix, keys: Collection[str]
) -> Iterable[tuple[str, dict[str, str]]]:
    """Yield each SNI map of the administrator's before ours, with its answers.

    One that cannot be asked is a warning, and stops no renewal.
    """
    ours = configuration.directory / sni.NAME
    for name in maps.before(configuration.value(SNI_MAPS), ours):
        try:
            yield name, postfix.answers(name, keys)
        except ProgramError as error:
            logger.warning("%s of main.cf cannot be asked: %s", name, error)


def _table(sni_map: SniMap) -> Table:
    if sni_map.text() is None:
        served.warn_once(
            f"{sni_map.path}, which main.cf refers to, is missing: certificates are no"
            " longer served via SNI\nHint: certbot install -i postfix --cert-name NAME,"
            " for each of them"
        )
    return {key: tuple(map(_resolved, paths)) for key, paths in sni_map.read().items()}


def _by_hand(configuration: Configuration, ours: Path, root: Path) -> frozenset[Path]:
    """Return the bundles that master.cf names, or an SNI map of the administrator's."""
    paths = {
        path
        for service in configuration.services
        if service.overrides
        for path in chain_files.configured(configuration, service)
    }
    names = maps.before(configuration.value(SNI_MAPS), ours)
    sources = (name.partition(":")[2] for name in names)
    for source in sources:
        if os.path.isfile(source):  # noqa: PTH113
            paths |= {*chain_files.named(served.content(Path(source)), root)}
    default = chain_files.deployed(configuration, root)
    return frozenset(path for path in paths if bundles.is_bundle(path, root)) - {
        *default
    }


def _resolved(path: str) -> str:
    directory, _, name = path.rpartition("/")
    return f"{_real(directory)}/{name}"


_real = lru_cache(os.path.realpath)
