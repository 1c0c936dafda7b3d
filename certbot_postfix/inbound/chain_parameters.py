"""What main.cf is to say for the certificates that are served by default.

Pure, but that it follows symbolic links: the configuration in, decisions out.  The
parameters are those of postconf(5): smtpd_tls_chain_files, and what there was before.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.inbound.chain_files import PAIRS, Half, configured, resolved
from certbot_postfix.postfix.configuration import CHAIN, LEGACY, Configuration
from certbot_postfix.postfix.decisions import Change, CommentOut, Decision, Kept, Remove
from certbot_postfix.postfix.services import (
    own_certificate,
)


def serve(
    configuration: Configuration, chain: Mapping[Path, str], kept: Sequence[Half] = ()
) -> Iterator[Decision]:
    """Yield what makes main.cf name the bundles *chain*, given with their key types.

    What is *kept* of the administrator's stays beside them.
    """
    if not chain:
        return
    wanted: dict[str, tuple[str, Iterable[str]]]
    files = [*map(str, chain), *(file for half in kept for file in half.files)]
    retired: tuple[str, ...] = LEGACY
    why = "the certificate of certbot's lineage " + " and ".join(
        path.stem for path in chain
    )
    if not _by_chain(configuration):
        _refuse_half_pairs(configuration)
        wanted = _legacy(chain, kept)
        retired = tuple(name for name in LEGACY if name not in wanted)
    else:
        _refuse_separators(files)
        wanted = {CHAIN: (", ".join(map(_escaped, files)), files)}
    for name, (new, in_force) in wanted.items():
        old = configuration.explicit.get(name)
        # A list of the administrator's that has all bundles in it stays as it is.
        value = configuration.value(name)
        known = {value, *configuration.words(name)}
        if old != new and not known.issuperset(in_force):
            yield Change(name, old, new, why)
    yield from _retire(configuration, retired, tuple(wanted))


def _refuse_separators(files: Sequence[str]) -> None:
    """Raise `Error` if a list of *files* could not be told from another one."""
    for file in files:
        if set(Path(file).name) & set(" \t,"):
            raise Error(
                f"{CHAIN} cannot name {file}: Postfix allows no blank or comma there",
                hint="give the certificate another --cert-name, without one",
            )
        if set(file) & set(" \t,"):
            raise Error(
                f"{CHAIN} cannot name {file}: Postfix allows no blank or comma there",
                hint="choose another --config-dir for certbot",
            )


def _escaped(path: Path | str) -> str:
    return str(path).replace("$", "$$")


def _legacy(
    chain: Mapping[Path, str], kept: Sequence[Half]
) -> dict[str, tuple[str, Iterable[str]]]:
    """Return the older parameters for *chain*: one bundle, or RSA and ECDSA."""
    halves = [Half(chain[path], (), str(path), str(path)) for path in chain]
    types = [half.key_type for half in (*halves, *kept)]
    halves = sorted([*halves, *kept], key=lambda half: half.key_type == "ECDSA")
    if len(halves) > 1 and sorted(types) != ["ECDSA", "RSA"]:
        raise Error(
            f"without {CHAIN}, Postfix serves an RSA and an ECDSA key side by side,"
            f" but not {' and '.join(types)}; no changes were made",
            hint="obtain the second certificate with the other --key-type",
        )
    wanted: dict[str, tuple[str, Iterable[str]]] = {}
    for half, (certificate, key) in zip(halves, PAIRS, strict=False):
        same = half.key == half.certificate
        wanted[certificate] = _escaped(half.certificate), [half.certificate]
        wanted[key] = f"${certificate}" if same else _escaped(half.key), [half.key]
    return wanted


def _refuse_half_pairs(configuration: Configuration) -> None:
    """Raise `Error` if a service takes one half of a pair from main.cf."""
    both_in_one = f"${LEGACY[0]}"
    of_all = configuration.explicit.get(LEGACY[1], both_in_one)
    for service in configuration.services:
        certificate, key = (service.written.get(name) for name in LEGACY[:2])
        lacks_key = certificate and not key and of_all != both_in_one
        lacks_certificate = key and not certificate and key != both_in_one
        if lacks_key or lacks_certificate:
            raise Error(
                f"master.cf: {service} takes only one of key and certificate from"
                " main.cf, which will have another pair; no changes were made",
                hint=f"let {service} override {LEGACY[0]} and {LEGACY[1]}",
            )


def _by_chain(configuration: Configuration) -> bool:
    """Whether smtpd_tls_chain_files is the parameter to set.

    It would silence the older parameters also where a service overrides them, so it is
    not taken up while one does.
    """
    if CHAIN not in configuration.defaults:
        return False
    return bool(configuration.value(CHAIN)) or not any(
        own_certificate(configuration, service) in LEGACY
        for service in configuration.services
    )


def _retire(
    configuration: Configuration, names: tuple[str, ...], successors: tuple[str, ...]
) -> Iterator[Decision]:
    """Comment out the older parameters, which Postfix would ignore with a warning."""
    for name in names:
        value = configuration.explicit.get(name)
        if not value:
            continue
        if user := _user(configuration, name, successors):
            yield Kept(name, value, f"{user} refers to it")
        else:
            yield CommentOut(name, value, f"{successors[0]} takes its place")


def _user(configuration: Configuration, name: str, successors: tuple[str, ...]) -> str:
    """Return a parameter, or a service's, that means the value of *name* by ``$``."""
    texts = [
        *(item for item in configuration.explicit.items() if item[0] not in successors),
        *(
            (f"{service} with its {other}", text)
            for service in configuration.services
            for other, text in service.written.items()
        ),
    ]
    others = (
        other for other, text in texts if other not in LEGACY and _refers(text, name)
    )
    return next(others, "")


def _refers(text: str, name: str) -> bool:
    return any(f"${form}" in text for form in (name, f"{{{name}", f"({name}"))


def forget(
    configuration: Configuration, bundle: Path, plain: tuple[Path, Path] | None
) -> list[Decision]:
    """Return what takes *bundle* out of what main.cf has served by default.

    The last certificate is replaced by the *plain* files of its key and chain, since
    Postfix would offer no TLS without any; raise `Error` if there are none.
    """
    _refuse_other_uses(configuration, bundle)
    if bundle not in configured(configuration):
        return []
    why = f"lineage {bundle.stem} is forgotten"
    if configuration.value(CHAIN):
        listed = configuration.words(CHAIN)
        rest = [Path(name) for name in listed if resolved(Path(name)) != bundle]
        new = ", ".join(map(_escaped, rest or _plain(bundle, plain)))
        return [Change(CHAIN, configuration.explicit.get(CHAIN), new, why)]
    return _forget_pair(configuration, bundle, plain, why)


def _forget_pair(
    configuration: Configuration,
    bundle: Path,
    plain: tuple[Path, Path] | None,
    why: str,
) -> list[Decision]:
    """Do so for the older parameters, a pair for each type of key."""
    pairs = [
        pair for pair in PAIRS if resolved(Path(configuration.value(pair[0]))) == bundle
    ]
    others = [pair for pair in PAIRS if configuration.value(pair[0])]
    if len(others) > len(pairs):
        return [
            Remove(name, value, why)
            for name in pairs[0]
            if (value := configuration.explicit.get(name)) is not None
        ]
    key, chain = _plain(bundle, plain)
    return [
        Change(name, configuration.explicit.get(name), _escaped(path), why)
        for name, path in zip(pairs[0], (chain, key), strict=True)
    ]


def _plain(bundle: Path, plain: tuple[Path, Path] | None) -> tuple[Path, Path]:
    if plain is None:
        raise Error(
            f"{bundle.stem} is the only certificate that Postfix has left, and certbot"
            " no longer manages it: removing it would turn TLS off",
            hint="install another certificate in its place, then forget this one",
        )
    return plain


def _refuse_other_uses(configuration: Configuration, bundle: Path) -> None:
    """Raise `Error` where *bundle* was named by hand."""
    ours = {CHAIN, *LEGACY}
    users = [
        name
        for name, text in configuration.explicit.items()
        if name not in ours and str(bundle) in text
    ]
    users += [
        f"{service} in master.cf with {name}"
        for service in configuration.services
        for name, text in service.overrides.items()
        if str(bundle) in text
    ]
    if users:
        raise Error(
            f"{bundle} is named by {', '.join(users)}, which was not done by this"
            " plugin; no changes were made",
            hint="name another file there first",
        )
