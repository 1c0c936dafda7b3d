"""What would be done to one Postfix instance, as a value that describes itself.

Pure: facts in, `Plan` out.  The diff shown, the note in certbot's checkpoint and the
bytes that `transaction` writes all come from the one `Plan`.
"""

import difflib
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from certbot_postfix import rules, sni
from certbot_postfix.certificates import Certificate
from certbot_postfix.configuration import (
    CHAIN,
    LEGACY,
    Configuration,
    Service,
    endpoints,
    own_certificate,
    with_own_certificate,
)
from certbot_postfix.errors import Error, printable
from certbot_postfix.profiles import ClientLevel, Profile
from certbot_postfix.rules import Change, CommentOut, Decision, Kept, Remove
from certbot_postfix.sni import Table

# Between a file's name and its digest in the note of a checkpoint.
MARK = ": SHA-256 "


@dataclass(frozen=True, slots=True)
class Edit:
    """A file before and after, byte for byte; None where there is no such file."""

    path: Path
    before: bytes | None = field(repr=False)
    after: bytes | None = field(repr=False)

    @property
    def empty(self) -> bool:
        """Whether the file is already as it should be."""
        return self.before == self.after

    def diff(self) -> str:
        """Return the unified diff, empty if there is none."""
        before, after = (
            list(io.StringIO(text.decode(errors="backslashreplace"), newline="\n"))
            for text in (self.before or b"", self.after or b"")
        )
        lines = difflib.unified_diff(before, after, str(self.path), "(planned)")
        marked = (
            line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"
            for line in lines
        )
        return "".join(marked).replace("\r\n", "\n")


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions, and what they make of main.cf and of the table of names.

    *form* is the type of map as which main.cf is to name the table.
    """

    decisions: tuple[Decision, ...]
    main_cf: Edit
    table: Edit
    form: str = ""

    @property
    def empty(self) -> bool:
        """Whether both already are as they should be."""
        return self.main_cf.empty and self.table.empty

    def diff(self) -> str:
        """Return the unified diff of the files, empty if there is none."""
        return self.table.diff() + self.main_cf.diff()

    def notes(self) -> list[str]:
        """Return what stays otherwise than the profile would have it."""
        return [str(item) for item in self.decisions if isinstance(item, Kept)]

    def describe(self) -> str:
        """Return the changes, a line each, for certbot's checkpoint."""
        main_cf = self.main_cf.path
        lines = (str(item) for item in self.decisions if not isinstance(item, Kept))
        text = "".join(f"{main_cf}: {line}\n" for line in lines)
        text += f"{main_cf}{MARK}{digest(self.main_cf.after or b'')}\n"
        return ascii_only(text)


@dataclass(frozen=True, slots=True)
class Override:
    """An ``-o`` option of *service*, which hides what main.cf says."""

    service: str
    name: str
    value: str

    @property
    def harmless(self) -> bool:
        """Whether it asks for as much as any profile does, or for more."""
        return (self.name, self.value) in (
            ("smtpd_tls_security_level", "encrypt"),
            ("smtpd_tls_auth_only", "yes"),
        )

    def __str__(self) -> str:
        value = self.value or "(empty)"
        told = f"{self.service} overrides {self.name} = {value}; that stays"
        return printable(f"master.cf: {told}, main.cf's value is hidden there")


def ascii_only(text: str) -> str:
    """Return *text* as certbot can write it in the encoding of any locale."""
    return text.encode("ascii", "backslashreplace").decode()


def digest(text: bytes) -> str:
    """Return what tells whether a file is still as a plan left it."""
    return hashlib.sha256(text).hexdigest()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What main.cf is to name.

    *chain* has the bundles that are served by default, with their types of key; if it
    is empty, the default stays.  *table* is the table of names, *form* its type of map;
    without a type there is none.
    """

    chain: Mapping[Path, str]
    table: Path = Path()
    form: str = ""


def decide(
    configuration: Configuration, wanted: Wanted, profile: Profile, client: ClientLevel
) -> tuple[Decision, ...]:
    """Return what makes Postfix serve what is *wanted*, and raises TLS to *profile*."""
    decisions = [
        *_certificate(configuration, wanted.chain),
        *_by_name(configuration, wanted),
        *rules.offer_tls(configuration),
    ]
    if profile is not Profile.CERTIFICATE:
        decisions += rules.raise_client(configuration, client)
    if profile is Profile.INTERMEDIATE:
        decisions += rules.intermediate(configuration)
    return tuple(decisions)


def deployed(configuration: Configuration, directory: Path) -> list[Path]:
    """Return the bundles in *directory* that main.cf names."""
    return [path for path in configured(configuration) if path.parent == directory]


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
        listed = configuration.value(CHAIN).replace(",", " ").split()
        rest = [Path(each) for each in listed if each != str(bundle)]
        new = ", ".join(map(_escaped, rest or _plain(bundle, plain)))
        return [Change(CHAIN, configuration.explicit.get(CHAIN), new, why)]
    pairs = [pair for pair in _pairs() if configuration.value(pair[0]) == str(bundle)]
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


def configured(
    configuration: Configuration, service: Service | None = None
) -> list[Path]:
    """Return the files that hold the certificates of main.cf, or of a *service*."""
    chain = configuration.value(CHAIN, service).replace(",", " ").split()
    legacy = (configuration.value(name, service) for name in LEGACY if "cert" in name)
    # smtpd_tls_cert_file = none means TLS without a default certificate.
    files = chain or [file for file in legacy if file not in ("", "none")]
    # Relative names are looked up where Postfix's processes run.
    return [Path(configuration.value("queue_directory"), file) for file in files]


def named(text: bytes, directory: Path) -> list[str]:
    """Return the lineages whose bundles in *directory* a configuration file names."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith(b"#"))
    bundle = re.escape(bytes(directory)) + rb"/([^\s,/]+)\.pem(?![^\s,])"
    return [os.fsdecode(name) for line in lines for name in re.findall(bundle, line)]


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


def lost(
    new: Certificate, displaced: Iterable[Certificate], table: Table, now: datetime
) -> list[str]:
    """Say what clients lose when *new* takes the place of good certificates."""
    good = [old for old in displaced if not old.self_signed and old.not_after > now]
    told = [
        f"{old} with its {old.key_type} key will not be served any more, and clients"
        f" that do not know {new.key_type} get no TLS\nWhat to do: if there are such,"
        f" obtain the certificate with --key-type {old.key_type.lower()}"
        for old in good
        if old.key_type != new.key_type
    ]
    names = {name for old in good for name in old.names - new.names}
    gone = sorted(name for name in names if sni.key(name) not in table)
    return [*told, *([f"no longer covered: {', '.join(gone)}"] if gone else [])]


def overridden(
    configuration: Configuration, decisions: tuple[Decision, ...], profile: Profile
) -> list[Override]:
    """Return the overrides in master.cf of what is, or will be, set in main.cf."""
    planned = {item.name: item.new for item in decisions if isinstance(item, Change)}
    governed = {*planned, CHAIN, *LEGACY, "smtpd_tls_security_level", sni.PARAMETER}
    if profile is Profile.INTERMEDIATE:
        governed |= set(rules.GOVERNED)
    return [
        Override(str(service), name, value)
        for service in configuration.services
        for name, value in sorted(service.overrides.items())
        if name in governed and value != planned.get(name, configuration.value(name))
    ]


def _certificate(
    configuration: Configuration, chain: Mapping[Path, str]
) -> Iterator[Decision]:
    if not chain:
        return
    wanted: dict[str, tuple[str, Iterable[Path]]]
    left: tuple[str, ...] = LEGACY
    why = "the certificate of certbot's lineage " + " and ".join(
        path.stem for path in chain
    )
    if not _by_chain(configuration):
        _refuse_half_pairs(configuration)
        wanted = _legacy(chain)
        left = tuple(name for name in LEGACY if name not in wanted)
    elif any(set(str(path)) & set(" \t,") for path in chain):
        raise Error(
            f"{CHAIN} cannot name {min(chain)}: Postfix allows no blank or comma there",
            hint="choose another --config-dir for certbot",
        )
    else:
        wanted = {CHAIN: (", ".join(map(_escaped, chain)), chain)}
    for name, (new, in_force) in wanted.items():
        old = configuration.explicit.get(name)
        # A list of the administrator's that has all bundles in it stays as it is.
        value = configuration.value(name)
        there = {value, *value.replace(",", " ").split()}
        if old != new and not there.issuperset(map(str, in_force)):
            yield Change(name, old, new, why)
    yield from _retire(configuration, left, tuple(wanted))


def _escaped(path: Path) -> str:
    return str(path).replace("$", "$$")


def _legacy(chain: Mapping[Path, str]) -> dict[str, tuple[str, Iterable[Path]]]:
    """Return the older parameters for *chain*: one bundle, or RSA and ECDSA."""
    paths = sorted(chain, key=lambda path: chain[path] == "ECDSA")
    if len(paths) > 1 and sorted(chain.values()) != ["ECDSA", "RSA"]:
        raise Error(
            f"without {CHAIN}, Postfix serves an RSA and an ECDSA key side by side,"
            f" but not {' and '.join(chain.values())}: nothing was done",
            hint="obtain the second certificate with the other --key-type",
        )
    return {
        name: value
        for path, (certificate, key) in zip(paths, _pairs(), strict=False)
        for name, value in (
            (certificate, (_escaped(path), [path])),
            (key, (f"${certificate}", [path])),
        )
    }


def _pairs() -> tuple[tuple[str, str], ...]:
    """Return the older parameters for certificate and key, by type of key."""
    return (LEGACY[:2], LEGACY[2:4], LEGACY[4:])


def _by_name(configuration: Configuration, wanted: Wanted) -> Iterator[Decision]:
    if not wanted.form or sni.form(configuration, wanted.table) == wanted.form:
        return
    old = configuration.explicit.get(sni.PARAMETER)
    new = sni.named(old or "", wanted.table, wanted.form)
    yield Change(sni.PARAMETER, old, new, "certificates by the name that is asked for")


def without_table(configuration: Configuration, table: Path) -> list[Decision]:
    """Return what takes our *table* out of main.cf."""
    old = configuration.explicit.get(sni.PARAMETER, "")
    new, why = sni.unnamed(old, table), "no certificate is served by name any more"
    if new:
        return [Change(sni.PARAMETER, old, new, why)]
    return [Remove(sni.PARAMETER, old, why)] if old else []


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
                " main.cf, which will have another pair: nothing was done",
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
