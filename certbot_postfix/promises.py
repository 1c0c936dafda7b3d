"""What must be shown to whom: the questions of a proof, before they are asked.

Pure: the configuration, the table and certificates in, promises out.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from certbot_postfix import chainfiles, sni
from certbot_postfix.certificates import Certificate
from certbot_postfix.configuration import Configuration, own_certificate
from certbot_postfix.placement import Deployed
from certbot_postfix.sni import Table


@dataclass(frozen=True, slots=True)
class Promise:
    """Who asks for *server_name*, or for none, is shown one of *expected*.

    That holds where main.cf's certificates are served, or at *services* if there are
    any.
    """

    server_name: str | None
    expected: tuple[Certificate, ...]
    services: frozenset[str] = frozenset()


# Up to so many names, a client asks every service for each; of more, for so many names
# of each chain, or for one.
NAMES = 50
SAMPLE = 5


def sampled(promises: Collection[Promise], most: int = NAMES) -> list[Promise]:
    """Return those of *promises* that are asked for: every chain, some of its names.

    A table has one line for each of its names, all made in the same way.  Up to *most*
    names are all asked for.
    """
    named = [each for each in promises if each.server_name is not None]
    if len(named) <= most:
        return list(promises)
    chains: dict[tuple[object, ...], list[Promise]] = {}
    for each in named:
        chains.setdefault((each.expected, each.services), []).append(each)
    count = min(SAMPLE, max(1, most // len(chains)))
    chosen = [each for each in promises if each.server_name is None]
    for chain in chains.values():
        step = max(1, len(chain) // count)
        chosen += chain[::step][:count]
    return chosen


def promised(
    configuration: Configuration,
    table: Table,
    new: Collection[Deployed],
    answered: Collection[str],
) -> Iterator[Promise]:
    """Yield what follows from having *new* deployed.

    The names that the administrator's tables have *answered* are not ours to promise.
    """
    default = chainfiles.configured(configuration)
    for each in new:
        expected = (each.leaf,)
        if own := _with_own(configuration, each):
            yield Promise(None, expected, own)
        keys = sni.keys_with(table, str(each.path))
        if each.path in default:
            yield Promise(None, expected)
            if not table:
                keys = _unlisted(configuration, each.leaf, answered)
        for key in sorted(keys - set(answered)):
            yield Promise(sni.asked(key, table), expected)


def _with_own(configuration: Configuration, deployed: Deployed) -> frozenset[str]:
    """Return the services that name the bundle themselves, in master.cf."""
    return frozenset(
        str(service)
        for service in chainfiles.with_certificates(configuration)
        if own_certificate(configuration, service)
        and deployed.path in chainfiles.configured(configuration, service)
    )


def _unlisted(
    configuration: Configuration, leaf: Certificate, answered: Collection[str]
) -> set[str]:
    keys = sni.keys(leaf.names)
    if not configuration.value(sni.PARAMETER):
        return set(sorted(keys)[:1])  # without any table, no name makes a difference
    return {key for key in keys if sni.parents(key).isdisjoint(answered)}


def restored(
    table: Table,
    keys: Iterable[str],
    default: Collection[Deployed],
    peers: Collection[Deployed],
) -> Iterator[Promise]:
    """Yield what must be shown again when *default* and *keys* are as they were."""
    if default:
        yield Promise(None, tuple(each.leaf for each in default))
    leaf = {str(each.path): each.leaf for each in peers}
    for key in sorted(keys):
        found = tuple(leaf[path] for path in table.get(key, ()) if path in leaf)
        if found:
            yield Promise(sni.asked(key, table), found)


def fallen_back(
    table: Table, keys: Iterable[str], default: Collection[Deployed]
) -> Iterator[Promise]:
    """Yield what is shown for *keys* that are in *table* no more: the *default*."""
    expected = tuple(each.leaf for each in default)
    for key in sorted(set(keys) - table.keys()):
        if expected and sni.parents(key).isdisjoint(table):
            yield Promise(sni.asked(key, table), expected)
