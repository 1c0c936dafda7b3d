"""What an instance serves after a change: pure functions, State -> State."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from certbot_postfix.inbound import chain_files, placement, sni
from certbot_postfix.inbound.served import ServedFile
from certbot_postfix.inbound.state import State
from certbot_postfix.postfix.configuration import SNI_MAPS


def renewed(state: State, new: Collection[ServedFile]) -> State:
    """Return *state* with *new* certificates in their files.

    What left a certificate leaves the SNI map, and what is new enters it.
    """
    table = state.table
    default = [str(file.path) for file in state.default]
    for file in new:
        if table:
            names = _listed(state, file)
            table = sni.renewed(table, str(file.path), names, default)
    return with_files(replace(state, table=table), new)


def _listed(state: State, file: ServedFile) -> set[str]:
    """Return those of the names of *file* that belong into the SNI map."""
    names = file.leaf.names if file.leaf.key_type in sni.KEY_TYPES else frozenset[str]()
    if all(other.path != file.path for other in state.default):
        return set(names)
    apart = placement.shared(state.default, state.bundles.root)
    return {name for name in names if sni.key(name) not in apart}


def with_files(state: State, new: Collection[ServedFile]) -> State:
    """Return *state* with *new* in the place of what these files had."""
    by_path = {file.path: file for file in (*state.default, *new)}
    named = dict.fromkeys(chain_files.configured(state.configuration))
    default = tuple(by_path[path] for path in named if path in by_path)
    others = [file for file in state.peers if file.path not in by_path]
    return replace(state, default=default, peers=(*others, *new))


def moved(state: State, name: str) -> State:
    """Return *state* as if the bundle of the lineage *name* were in its own place.

    A further instance may still read that of the first one.
    """
    new, old = state.bundles.new(name), {*state.used(name)}
    default, peers = (
        tuple(
            ServedFile(new, file.leaf) if file.path in old else file for file in group
        )
        for group in (state.default, state.peers)
    )
    table = sni.moved(state.table, set(map(str, old)), str(new))
    return replace(state, default=default, peers=peers, table=table)


def forgotten(state: State, paths: Iterable[Path]) -> State:
    """Return *state* without the bundles *paths*."""
    gone, table = {*paths}, state.table
    for path in map(str, gone):
        table = sni.without(table, path, sni.keys_with(table, path))
    default, peers = (
        tuple(file for file in group if file.path not in gone)
        for group in (state.default, state.peers)
    )
    return replace(state, default=default, peers=peers, table=table)


def inherited(before: State, after: State) -> State:
    """Return *after* with another bundle for the names that its SNI map has lost.

    That is one which is deployed and has the name, by default or by name.
    """
    lost = before.table.keys() - after.table.keys()
    root = after.bundles.root
    others = placement.heirs(lost, after.peers, root)
    heirs = {**others, **placement.heirs(lost, after.default, root)}
    return replace(after, table={**after.table, **heirs})


def changed_keys(before: State, after: State, new: Collection[ServedFile]) -> set[str]:
    """Return the keys whose answer another one may be, and by which *new* are seen.

    Without any SNI map, no name makes a difference: one is enough.
    """
    keys = {key for file in new for key in sni.keys_with(after.table, str(file.path))}
    keys |= {
        key for key, paths in before.table.items() if after.table.get(key) != paths
    }
    default = chain_files.configured(after.configuration)
    if not after.table:
        named = sni.keys(
            name for file in new if file.path in default for name in file.leaf.names
        )
        some = after.configuration.value(SNI_MAPS)
        keys |= named if some else set(sorted(named)[:1])
    return keys


def without_sni_map(state: State) -> State:
    """Return *state* without an SNI map."""
    return replace(state, table={}, map_type="")
