"""Where a lineage is served: by default, beside the default, or by its names.

Pure: certificates, the table and a time in, a `Placement` out.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.inbound import bundles, sni
from certbot_postfix.inbound.served import ServedFile
from certbot_postfix.inbound.sni import Table
from certbot_postfix.inbound.state import State
from certbot_postfix.tls import certificates
from certbot_postfix.tls.certificates import Certificate


@dataclass(frozen=True, slots=True)
class Placement:
    """What is to be served once a lineage is deployed.

    *chain* has the bundles that are served by default, with their types of key; it is
    empty if the lineage is served by name, and the default stays.  *displaced* are
    certificates that are not served by default any more, *kept* those of the
    administrator's that stay beside the *chain*.
    """

    chain: Mapping[Path, str]
    table: Table
    displaced: tuple[ServedFile, ...] = ()
    kept: tuple[ServedFile, ...] = ()

    @property
    def by_name(self) -> bool:
        """Whether the lineage is served by its names only."""
        return not self.chain


def place(new: ServedFile, state: State, now: datetime) -> Placement:
    """Decide where *new* is served.

    It becomes the default if it covers *host*, or if the default there is is good for
    nobody; with the names of the default, but another type of key, it joins that; else
    it is served by name.  For its names, the lineage that was deployed last is served.
    """
    default = state.default
    ours = state.ours
    present = {file.path: file for file in ours}
    same = [file for file in ours if file.leaf.names == new.leaf.names]
    if new.path in present:
        members = [*({**present, new.path: new}).values()]
    elif (
        # A default that was deployed again may have other names than its partner.
        (same and same == ours)
        or certificates.covers(new.leaf.names, state.host)
        or useless(default, now)
    ):
        beside = [file for file in same if file.leaf.key_type != new.leaf.key_type]
        members = [*beside, new]
    else:
        return Placement({}, _by_name(new, state))
    chain = {file.path: file.leaf.key_type for file in members}
    if new.path in present:
        return Placement(chain, _with_default(new, members, state))
    kept = tuple(other_halves(state, members, now))
    gone = tuple(
        file for file in default if file.path not in chain and file not in kept
    )
    return Placement(chain, _with_default(new, members, state), gone, kept)


def default_after(
    new: ServedFile, placed: Placement, before: Collection[ServedFile]
) -> list[ServedFile]:
    """Return what is served by default with *placed*, where it was *before*."""
    if placed.by_name:
        return list(before)
    others = [file for file in before if file.path in placed.chain.keys() - {new.path}]
    return [new, *others, *placed.kept]


def other_halves(
    state: State, members: Collection[ServedFile], now: datetime
) -> Iterator[ServedFile]:
    """Yield what the administrator serves by default, and can beside *members*.

    That is one certificate for each type of key that they lack, valid, not self-signed,
    and for some of their names: clients that know no other type of key depend on it.
    """
    default, types = state.default, {file.leaf.key_type for file in members}
    if types.isdisjoint(file.leaf.key_type for file in default):
        return  # what is replaced has no other half
    names = {name for file in members for name in file.leaf.names}
    for file in default:
        leaf = file.leaf
        if (
            leaf.key_type not in types
            and file not in state.ours
            and not names.isdisjoint(leaf.names)
            and not useless([file], now)
        ):
            types.add(leaf.key_type)
            yield file


def refuse(
    new: ServedFile, default: Collection[ServedFile], host: str, why_no_table: str
) -> None:
    """Raise `Error` if *new* cannot be served by name, and so not at all."""
    reason = why_no_table
    if not reason and new.leaf.key_type not in sni.KEY_TYPES:
        reason = f"OpenSSL is not safe with {new.leaf.key_type} keys via SNI"
    if not reason and not sni.keys(new.leaf.names):
        reason = "it has no DNS name that can be used with SNI"
    if not reason:
        return
    served = " and ".join(str(file.leaf) for file in default)
    raise Error(
        f"{new.path.stem} was not installed: it covers"
        f" {certificates.listed(new.leaf.names) or 'no name'}, but not this server's"
        f" name ({host}), and {reason}; the current default certificate ({served}) is"
        " left unchanged",
        hint=f"obtain a certificate that covers {host}"
        + (", or use --postfix-sni auto" if "never" in why_no_table else ""),
    )


def heirs(
    keys: Iterable[str], others: Collection[ServedFile], root: Path
) -> dict[str, tuple[str, ...]]:
    """Return which of the *others* are served for *keys* that lost their bundle.

    That is the newest below *root* that has the name, with what it pairs with.
    """
    ours = [
        file
        for file in others
        if bundles.is_bundle(file.path, root) and file.leaf.key_type in sni.KEY_TYPES
    ]
    ours.sort(key=lambda file: file.leaf.not_before, reverse=True)
    having = [(file, sni.keys(file.leaf.names)) for file in ours]
    bundles_of: dict[str, tuple[str, ...]] = {}
    for key in keys:
        able = [file for file, names in having if key in names]
        if able:
            pair = [file for file in able[1:] if _pairs(file.leaf, able[0].leaf)]
            bundles_of[key] = tuple(str(file.path) for file in (able[0], *pair[:1]))
    return bundles_of


def useless(default: Collection[ServedFile], now: datetime) -> bool:
    """Whether all of *default* are self-signed or expired."""
    return all(file.leaf.self_signed or file.leaf.not_after <= now for file in default)


def _by_name(new: ServedFile, state: State) -> Table:
    # The default's names are in the table as well, or Postfix would log each time that
    # it did not find one.
    path, keys = str(new.path), sni.keys(new.leaf.names)
    default = state.ours
    table = state.table or {
        key: value
        for key, value in _served(default).items()
        if key not in shared(state.default, state.bundles.root)
    }
    result = sni.without(table, path, sni.keys_with(table, path) - keys)
    known = {str(file.path): file.leaf for file in (*default, *state.peers)}
    for key in keys:
        paths = result.get(key, ())
        wanted = paths if path in paths else (*paths, path)
        result[key] = tuple(
            other
            for other in wanted
            if other == path
            or _pairs(known.get(other), new.leaf)
            or (path in paths and _differ(known.get(other), new.leaf))
        )
    return result


def _differ(other: Certificate | None, new: Certificate) -> bool:
    """Whether both, which are served for one name, can go on to be."""
    return other is not None and other.key_type != new.key_type


def _pairs(other: Certificate | None, new: Certificate) -> bool:
    """Whether both can be served for one name, as RSA beside ECDSA."""
    return (
        other is not None
        and other.names == new.names
        and other.key_type != new.key_type
    )


def _with_default(
    new: ServedFile, members: Collection[ServedFile], state: State
) -> Table:
    """Return the table for a default that *members* are now, *new* among them.

    Of the names that only other members have, nothing changes.
    """
    table, served = state.table, _served(members)
    paths = {file.path for file in members}
    orphans = _served([file for file in state.ours if file.path not in paths])
    unchanged = {key: value for key, value in orphans.items() if key not in served}
    if not table and not unchanged:
        return {}
    for file in members:
        lost = sni.keys_with(table, str(file.path)) - _served([file]).keys()
        table = sni.without(table, str(file.path), lost)
    ours = _served([new]).keys()
    taken = {key: it for key, it in served.items() if key in ours or key not in table}
    return {**unchanged, **table, **taken}


def shared(default: Collection[ServedFile], root: Path) -> set[str]:
    """Return the keys of what the administrator serves by default beside ours.

    A name that is in the table would get one half only, a name that is not gets both.
    """
    return sni.keys(
        name
        for file in default
        if not bundles.is_bundle(file.path, root)
        for name in file.leaf.names
    )


def _served(default: Collection[ServedFile]) -> dict[str, tuple[str, ...]]:
    able = [
        (str(file.path), sni.keys(file.leaf.names))
        for file in default
        if file.leaf.key_type in sni.KEY_TYPES
    ]
    return {
        key: tuple(path for path, keys in able if key in keys)
        for key in set[str]().union(*(keys for _, keys in able))
    }
