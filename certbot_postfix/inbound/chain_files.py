"""Which files of keys and certificates main.cf and master.cf name, and are to name.

Pure, but that it follows symbolic links: the configuration in, decisions out.  The
parameters are those of postconf(5): smtpd_tls_chain_files, and what there was before.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.postfix.configuration import CHAIN, LEGACY, Configuration, Service
from certbot_postfix.postfix.decisions import Change, CommentOut, Decision, Kept, Remove
from certbot_postfix.postfix.services import (
    endpoints,
    own_certificate,
    presenter,
    with_own_certificate,
)

# The parameters of the SMTP client, and of its twin for LMTP, begin so.
CLIENTS = ("smtp", "lmtp")


@dataclass(frozen=True, slots=True)
class Chain:
    """Files that Postfix reads as one chain; *place* and *parameter* name them.

    With the older parameters, the *key* has a file of its own, or the same one.  A file
    is known by the directory that it is really in, however that is spelled.
    """

    place: str
    parameter: str
    files: tuple[Path, ...]
    key: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files, each once."""
        return tuple(dict.fromkeys([*self.files, *([self.key] if self.key else [])]))

    @property
    def where(self) -> str:
        """The parameter, and where it is set."""
        return f"{self.parameter} in {self.place}"

    @property
    def client(self) -> bool:
        """Whether it is the SMTP client that presents it, to servers."""
        return self.parameter.startswith(tuple(f"{each}_" for each in CLIENTS))


def every_chain(configuration: Configuration) -> list[Chain]:
    """Return the chains that main.cf and master.cf name, also for the client, once."""
    found = list(chains(configuration))
    for service in with_certificates(configuration):
        found += chains(configuration, presenter(configuration, service))
    for prefix in CLIENTS:
        found += chains(configuration, prefix=prefix)
        for service in configuration.services:
            if service.command in CLIENTS:
                found += chains(configuration, service, prefix)
    return list(dict.fromkeys(found))


def chains(
    configuration: Configuration, service: Service | None = None, prefix: str = "smtpd"
) -> Iterator[Chain]:
    """Yield the chains that main.cf names, or a *service* of master.cf.

    They are those of the server, or of a client with its *prefix*.
    """

    def place(name: str) -> str:
        inside = service and name in service.overrides
        return f"{service} of master.cf" if inside else "main.cf"

    # Relative names are looked up where Postfix's processes run.
    queue = configuration.value("queue_directory")
    name = CHAIN.replace("smtpd", prefix)
    if listed := configuration.words(name, service):
        files = tuple(resolved(Path(queue, each)) for each in listed)
        yield Chain(place(name), name, files)
        return
    for pair in _pairs():
        certificate, key = (each.replace("smtpd", prefix) for each in pair)
        file = configuration.value(certificate, service)
        # smtpd_tls_cert_file = none means TLS without a default certificate.
        if file not in ("", "none"):
            held = resolved(Path(queue, configuration.value(key, service)))
            files = (resolved(Path(queue, file)),)
            yield Chain(place(certificate), certificate, files, held)


@dataclass(frozen=True, slots=True)
class Half:
    """A certificate of the administrator's that is kept beside a lineage's.

    *files* are those of a list of chain files, *certificate* and *key* those of the
    older parameters.
    """

    key_type: str
    files: tuple[str, ...]
    certificate: str
    key: str


def half(
    configuration: Configuration,
    path: Path,
    key_type: str,
    keys: Callable[[Path], int],
) -> Half | None:
    """Return the half with the certificate in *path*, None if it cannot stand alone.

    *keys* counts the private keys in a file: postconf(5), smtpd_tls_chain_files, lets
    each begin a chain, which the files after it may go on with.
    """
    queue = configuration.value("queue_directory")
    for files in _chains(configuration, keys):
        if path in [resolved(Path(queue, each)) for each in files]:
            alone = keys(Path(queue, files[0])) == 1
            return Half(key_type, files, files[-1], files[0]) if alone else None
    return None


def _chains(
    configuration: Configuration, keys: Callable[[Path], int]
) -> list[tuple[str, ...]]:
    """Return the files of each chain that main.cf names, the key's first."""
    queue = configuration.value("queue_directory")
    if listed := configuration.words(CHAIN):
        groups: list[list[str]] = []
        for file in listed:
            if not groups or keys(Path(queue, file)):
                groups.append([])
            groups[-1].append(file)
        return [tuple(each) for each in groups]
    pairs = ((configuration.value(name) for name in pair) for pair in _pairs())
    return [tuple(dict.fromkeys((key, certificate))) for certificate, key in pairs]


def configured(
    configuration: Configuration, service: Service | None = None
) -> list[Path]:
    """Return the files that hold the certificates of main.cf, or of a *service*."""
    service = presenter(configuration, service) if service else None
    found = chains(configuration, service)
    return [path for chain in found for path in chain.files]


def resolved(path: Path) -> Path:
    """Return *path* with its directory as it really is: we know our bundles by that."""
    return _real(path.parent) / path.name


def _real(path: Path) -> Path:
    # resolve() raises RuntimeError where links go round in a circle.
    return Path(os.path.realpath(path))


def deployed(configuration: Configuration, directory: Path) -> list[Path]:
    """Return the bundles in *directory* that main.cf names."""
    return [path for path in configured(configuration) if path.parent == directory]


def named(text: bytes, directory: Path) -> list[str]:
    """Return the lineages whose bundles in *directory* a configuration file names."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith(b"#"))
    bundle = rb"([^\s,=\0]*)/([^\s,/\0]+)\.pem(?![^\s,])"
    found = [each for line in lines for each in re.findall(bundle, line)]
    ours = {each for each, _ in found if _real(Path(os.fsdecode(each))) == directory}
    return [os.fsdecode(name) for each, name in found if each in ours]


def with_certificates(configuration: Configuration) -> list[Service]:
    """Return the services that show a certificate, of main.cf or of their own."""
    found = {
        endpoint.service
        for endpoint in (
            *endpoints(configuration)[0],
            *with_own_certificate(configuration),
        )
    }
    return [each for each in configuration.services if str(each) in found]


def serve(
    configuration: Configuration, chain: Mapping[Path, str], kept: Sequence[Half] = ()
) -> Iterator[Decision]:
    """Yield what makes main.cf name the bundles *chain*, given with their key types.

    What is *kept* of the administrator's stays beside them.
    """
    if not chain:
        return
    wanted: dict[str, tuple[str, Iterable[str]]]
    files = [*map(str, chain), *(file for each in kept for file in each.files)]
    left: tuple[str, ...] = LEGACY
    why = "the certificate of certbot's lineage " + " and ".join(
        path.stem for path in chain
    )
    if not _by_chain(configuration):
        _refuse_half_pairs(configuration)
        wanted = _legacy(chain, kept)
        left = tuple(name for name in LEGACY if name not in wanted)
    else:
        _refuse_separators(files)
        wanted = {CHAIN: (", ".join(map(_escaped, files)), files)}
    for name, (new, in_force) in wanted.items():
        old = configuration.explicit.get(name)
        # A list of the administrator's that has all bundles in it stays as it is.
        value = configuration.value(name)
        there = {value, *configuration.words(name)}
        if old != new and not there.issuperset(in_force):
            yield Change(name, old, new, why)
    yield from _retire(configuration, left, tuple(wanted))


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
    types = [each.key_type for each in (*halves, *kept)]
    halves = sorted([*halves, *kept], key=lambda each: each.key_type == "ECDSA")
    if len(halves) > 1 and sorted(types) != ["ECDSA", "RSA"]:
        raise Error(
            f"without {CHAIN}, Postfix serves an RSA and an ECDSA key side by side,"
            f" but not {' and '.join(types)}; no changes were made",
            hint="obtain the second certificate with the other --key-type",
        )
    wanted: dict[str, tuple[str, Iterable[str]]] = {}
    for each, (certificate, key) in zip(halves, _pairs(), strict=False):
        same = each.key == each.certificate
        wanted[certificate] = _escaped(each.certificate), [each.certificate]
        wanted[key] = f"${certificate}" if same else _escaped(each.key), [each.key]
    return wanted


def _pairs() -> tuple[tuple[str, str], ...]:
    """Return the older parameters for certificate and key, by type of key."""
    return (LEGACY[:2], LEGACY[2:4], LEGACY[4:])


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
        rest = [Path(each) for each in listed if resolved(Path(each)) != bundle]
        new = ", ".join(map(_escaped, rest or _plain(bundle, plain)))
        return [Change(CHAIN, configuration.explicit.get(CHAIN), new, why)]
    pairs = [
        pair
        for pair in _pairs()
        if resolved(Path(configuration.value(pair[0]))) == bundle
    ]
    others = [pair for pair in _pairs() if configuration.value(pair[0])]
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
            f"{bundle} is the only certificate that main.cf names, and certbot has no"
            f" lineage {bundle.stem} any more: without it, Postfix would offer no TLS",
            hint="deploy another certificate in its place, and forget this one then",
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
            " plugin: nothing was changed",
            hint="name another file there first",
        )
