"""Files of certbot's that the administrator has named himself, in any place.

They change with a renewal without our doing: what services that read them must present
is verified in the same way.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from certbot_postfix.errors import named_logger
from certbot_postfix.inbound import bundles, chain_files, served, sni, state
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.served import ServedFile
from certbot_postfix.inbound.state import State
from certbot_postfix.postfix import maps
from certbot_postfix.postfix.configuration import SNI_MAPS
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.questions import Expectation
from certbot_postfix.system.directories import real
from certbot_postfix.tls import replacement
from certbot_postfix.tls.certificates import Certificate

logger = named_logger(__name__)


def expected(
    now: State,
    postfix: Postfix,
    lineages: Iterable[Lineage],
    kept: Collection[Path] = (),
) -> list[Expectation]:
    """Return what services that read the files of *lineages* themselves must present.

    The administrator has named those files in main.cf, master.cf or an SNI map, or our
    bundle in an SNI map of his own, unless that is *kept* as it is.
    """
    by_directory = {real(lineage.fullchain.parent): lineage for lineage in lineages}
    in_maps = _in_maps(now, postfix, by_directory, kept)
    return [*_in_services(now, by_directory), *in_maps]


def _in_services(now: State, lineages: Mapping[Path, Lineage]) -> Iterator[Expectation]:
    for service in chain_files.with_certificates(now.configuration):
        used = chain_files.configured(now.configuration, service)
        directories = {path.parent for path in used} & lineages.keys()
        leaves = [lineages[directory].bundle().leaf for directory in directories]
        leaves += _newest(_foreign(now, used, directories), lineages.values())
        for leaf in dict.fromkeys(leaves):
            yield Expectation(None, (leaf,), frozenset({str(service)}))


def _foreign(
    now: State, paths: Iterable[Path], known: Collection[Path] = ()
) -> tuple[ServedFile, ...]:
    """Return what is in those *paths* that are neither ours nor in *known*.

    A link, also a hard one, or a copy of certbot's files may be anywhere.
    """
    root = now.bundles.root
    return served.read(
        path
        for path in paths
        if path.parent not in known and not bundles.is_bundle(path, root)
    )


def _newest(
    foreign: Collection[ServedFile], lineages: Iterable[Lineage]
) -> list[Certificate]:
    """Return which certificates of *foreign* files are the newest of *lineages*."""
    newest = {lineage.leaf() for lineage in lineages} if foreign else set()
    return [file.leaf for file in foreign if file.leaf in newest]


def _in_maps(
    now: State,
    postfix: Postfix,
    lineages: Mapping[Path, Lineage],
    kept: Collection[Path],
) -> Iterator[Expectation]:
    ours = now.configuration.directory / sni.NAME
    if not maps.before(now.configuration.value(SNI_MAPS), ours):
        return
    leaves = {
        lineage: leaf for lineage in lineages.values() if (leaf := lineage.leaf())
    }
    places = {
        lineage: (
            f"{directory}/",
            f"{lineage.fullchain.parent}/",
            *(str(path) for path in now.used(lineage.name) if path not in kept),
        )
        for directory, lineage in lineages.items()
    }
    keys = sni.keys(name for leaf in leaves.values() for name in leaf.names)
    answered: set[str] = set()
    for name, answers in state.answers_by_hand(now.configuration, postfix, keys):
        first = answers.keys() - answered
        answered |= first
        for lineage, leaf in leaves.items():
            for key in sorted(sni.keys(leaf.names) & first):
                if _has(now, answers[key], leaf, places[lineage]):
                    yield Expectation(sni.example_name(key, answers), (leaf,))
                elif replacement.is_copy_before(answers[key], leaf):
                    _warn_of_copy(name, key)


def _has(now: State, answer: str, leaf: Certificate, places: Iterable[str]) -> bool:
    """Whether an *answer* of an SNI map names *leaf*, which has these *places*."""
    if any(place in answer for place in places):
        return True
    return leaf in [file.leaf for file in _foreign(now, _files(answer))]


def _warn_of_copy(name: str, key: str) -> None:
    logger.warning(
        "%s has a copy of an older certificate for %s\nHint: postmap -F %s, and reload"
        " Postfix",
        name,
        key,
        name,
    )


def _files(answer: str) -> list[Path]:
    """Return the files that an SNI map names, nothing if it has their content."""
    words = answer.replace(",", " ").split()
    return [Path(word) for word in words if word.startswith("/")]
