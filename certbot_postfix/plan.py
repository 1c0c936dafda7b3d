"""What would be done to one Postfix instance, as a value that describes itself.

Pure: facts in, `Plan` out.  The diff shown, the note in certbot's checkpoint and the
bytes that `transaction` writes all come from the one `Plan`.
"""

import difflib
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from certbot_postfix import chainfiles, maplist, rules, screening, sni
from certbot_postfix.certificates import Certificate
from certbot_postfix.configuration import (
    CHAIN,
    LEGACY,
    Configuration,
    reads,
)
from certbot_postfix.errors import printable
from certbot_postfix.profiles import ClientLevel, Profile
from certbot_postfix.rules import Change, Decision, Kept, Remove
from certbot_postfix.sni import Table

# The most bytes of a file whose diff is shown: a table may have a million entries.
SHOWN = 2_000_000

# Between a file's name and its digest in the note of a checkpoint.
MARK = ": SHA-256 "


@dataclass(frozen=True, slots=True)
class Edit:
    """A file before and after, byte for byte; None where there is no such file.

    One that is written anew has the *mode*.
    """

    path: Path
    before: bytes | None = field(repr=False)
    after: bytes | None = field(repr=False)
    mode: int = 0o600

    @property
    def empty(self) -> bool:
        """Whether the file is already as it should be."""
        return self.before == self.after

    def diff(self) -> str:
        """Return the unified diff, empty if there is none.

        Of a file that nobody would read to its end, only the numbers of lines.
        """
        texts = [text or b"" for text in (self.before, self.after)]
        if not self.empty and max(map(len, texts)) > SHOWN:
            old, new = (text.count(b"\n") for text in texts)
            told = f"{old} lines become {new}, too many to be shown here"
            return f"--- {self.path}\n+++ (planned)\n@@ {told} @@\n"
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
    without a type there is none.  What is *kept* of the administrator's is served
    beside the chain.
    """

    chain: Mapping[Path, str]
    table: Path = Path()
    form: str = ""
    kept: tuple[chainfiles.Half, ...] = ()


def decide(
    configuration: Configuration, wanted: Wanted, profile: Profile, client: ClientLevel
) -> tuple[Decision, ...]:
    """Return what makes Postfix serve what is *wanted*, and raises TLS to *profile*."""
    chain = list(chainfiles.serve(configuration, wanted.chain, wanted.kept))
    decisions = [
        *chain,
        *(screening.follow(configuration, chain) if wanted.chain else ()),
        *_by_name(configuration, wanted),
        *rules.offer_tls(configuration),
    ]
    if profile is not Profile.CERTIFICATE:
        decisions += rules.raise_client(configuration, client)
    if profile is Profile.INTERMEDIATE:
        decisions += rules.intermediate(configuration)
    return tuple(decisions)


def lost(
    new: Certificate,
    displaced: Iterable[Certificate],
    table: Table,
    now: datetime,
    lineages: Mapping[str, Certificate] = {},
) -> list[str]:
    """Say what clients lose when *new* takes the place of good certificates.

    One of the *lineages* may have what is lost.
    """
    good = [old for old in displaced if not old.self_signed and old.not_after > now]
    told = [
        f"{old} with its {old.key_type} key will not be served any more, and clients"
        f" that do not know {new.key_type} get no TLS\nWhat to do: if there are such,"
        f" {second(new, old.key_type, lineages)}"
        for old in good
        if old.key_type not in ("", new.key_type)
    ]
    names = {name for old in good for name in old.names - new.names}
    gone = sorted(name for name in names if sni.key(name) not in table)
    return [*told, *([f"no longer covered: {', '.join(gone)}"] if gone else [])]


def second(new: Certificate, key_type: str, lineages: Mapping[str, Certificate]) -> str:
    """Say how to have a certificate with a *key_type* served beside *new*."""
    for name, leaf in lineages.items():
        if leaf.key_type == key_type and leaf.names == new.names:
            return f"run `certbot install -i postfix --cert-name {name}`, too"
    return f"obtain the certificate with --key-type {key_type.lower()}, too"


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
        if name in governed
        and reads(service, name)
        and value != planned.get(name, configuration.value(name))
    ]


def _by_name(configuration: Configuration, wanted: Wanted) -> Iterator[Decision]:
    if (
        not wanted.form
        or maplist.form(configuration.value(sni.PARAMETER), wanted.table) == wanted.form
    ):
        return
    old = configuration.explicit.get(sni.PARAMETER)
    new = maplist.named(old or "", wanted.table, wanted.form)
    yield Change(sni.PARAMETER, old, new, "certificates by the name that is asked for")


def without_table(configuration: Configuration, table: Path) -> list[Decision]:
    """Return what takes our *table* out of main.cf."""
    old = configuration.explicit.get(sni.PARAMETER, "")
    new, why = maplist.unnamed(old, table), "no certificate is served by name any more"
    if new:
        return [Change(sni.PARAMETER, old, new, why)]
    return [Remove(sni.PARAMETER, old, why)] if old else []
