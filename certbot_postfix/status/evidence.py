"""What was found out about an instance, as values, before anything is concluded of it.

Pure: `examination` collects it, `findings` and `diagnosis` conclude.  How Postfix reads
certificates is told in postconf(5), smtpd_tls_chain_files and tls_server_sni_maps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from certbot_postfix.inbound import chain_files, copies
from certbot_postfix.inbound.chain_files import CLIENTS, Chain
from certbot_postfix.postfix.configuration import SNI_MAPS, Configuration, Service
from certbot_postfix.tls.certificates import Certificate
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import Seen

# What the keys of tables of names stand for: the files of a chain.
Entries = Mapping[str, tuple[Path, ...]]


@dataclass(frozen=True, slots=True)
class Key:
    """A private key in a file, by its public half; empty if it cannot be read."""

    spki: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class File:
    """A file that the configuration names, with what is in it, in order.

    *hidden* says why it could not be seen, *damage* why it cannot be used; *partly*
    means that no key was read, and of the certificates the leaf.  It is *exposed* if
    everybody can read it.
    """

    path: Path
    blocks: tuple[Certificate | Key, ...] = ()
    exists: bool = True
    exposed: bool = False
    hidden: str = ""
    damage: str = ""
    partly: bool = False

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The certificates in it."""
        return tuple(each for each in self.blocks if isinstance(each, Certificate))

    @property
    def keys(self) -> tuple[Key, ...]:
        """The private keys in it."""
        return tuple(each for each in self.blocks if isinstance(each, Key))


@dataclass(frozen=True, slots=True)
class NameTable:
    """A table of tls_server_sni_maps whose text is a file, with its databases."""

    form: str
    path: Path
    entries: Entries
    text: File
    databases: tuple[File, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether Postfix finds what it looks up in, as far as could be seen."""
        if self.text.hidden:
            return True
        return bool(self.databases) or (self.form == "texthash" and self.text.exists)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service showed to who asked for *server_name*, or why it showed nothing.

    *key* is that of the table; *alive* is whether the service greeted at least.
    """

    endpoint: Endpoint
    server_name: str | None = None
    key: str = ""
    seen: Seen | None = None
    failure: str = ""
    alive: bool = True


@dataclass(frozen=True, slots=True)
class Unseen:
    """What could not be looked at, and why."""

    object: str
    reason: str


@dataclass(frozen=True, slots=True)
class PolicyTable:
    """A table of policies: the *fault* that it has, and when its first policy ends.

    *failures* are what sources of its policies complained of the last time; it is
    *unused* if it is ours, and main.cf does not name it.  *unfit* is what a daemon does
    that the client must not have; *void* is why policies do not count.  Of one that is
    *unknown*, the fault is why that could not be found out.
    """

    name: str
    fault: str = ""
    until: datetime | None = None
    failures: tuple[str, ...] = ()
    unused: bool = False
    unfit: tuple[str, ...] = ()
    void: tuple[str, ...] = ()
    unknown: bool = False

    @property
    def hidden(self) -> bool:
        """Whether it could not be seen, by this user or in time."""
        return self.unknown or "Permission denied" in self.fault


@dataclass(frozen=True)
class Facts:
    """All there is to conclude from.

    *bundles* is our directory below certbot's.  *lineages* has the newest leaf of those
    that matter, None of one that is gone; *unlinked* those that have plain files in
    ``live``, with one of these.  *roots* are the subjects of the machine's
    certificate authorities.  *running* is None if that could not be found out.
    *elsewhere* is the directory of the Postfix that runs, or listens, in its place.
    """

    configuration: Configuration
    now: datetime
    bundles: Path
    running: bool | None = None
    elsewhere: Path | None = None
    files: Mapping[Path, File] = field(default_factory=dict)
    tables: tuple[NameTable, ...] = ()
    lineages: Mapping[str, Certificate | None] = field(default_factory=dict)
    unlinked: Mapping[str, Path] = field(default_factory=dict)
    roots: frozenset[str] = frozenset()
    answers: tuple[Answer, ...] = ()
    unseen: tuple[Unseen, ...] = ()
    notes: tuple[str, ...] = ()
    policies: tuple[PolicyTable, ...] = ()
    without_dane: str = ""

    @cached_property
    def table(self) -> Entries:
        """What all tables say; of two, the first one counts."""
        return {
            key: paths
            for table in reversed(self.tables)
            for key, paths in table.entries.items()
        }

    @cached_property
    def chains(self) -> list[Chain]:
        """Return every chain that is named."""
        return chains(self.configuration, self.tables)

    @cached_property
    def services(self) -> Mapping[str, Service]:
        """The services that show a certificate, by name."""
        found = chain_files.with_certificates(self.configuration)
        return {str(service): service for service in found}

    def configured(self, answer: Answer) -> list[Path]:
        """Return the files whose certificate *answer* should have shown."""
        if answer.key in self.table:
            return list(self.table[answer.key])
        service = self.services.get(answer.endpoint.service)
        return chain_files.configured(self.configuration, service)

    def leaf(self, path: Path) -> Certificate | None:
        """Return the leaf certificate in the file *path*, if it could be seen."""
        file = self.files.get(path)
        return file.certificates[0] if file and file.certificates else None

    def hidden(self, path: Path) -> bool:
        """Whether it could not be seen what is in the file *path*."""
        file = self.files.get(path)
        return file is None or bool(file.hidden)

    def leaves(self, paths: Iterable[Path]) -> list[Certificate]:
        """Return the leaf certificates in the files *paths*."""
        return [leaf for leaf in map(self.leaf, paths) if leaf]

    def holder(self, leaf: Certificate) -> Path | None:
        """Return the first file that has *leaf*."""
        return self._holders.get(leaf)

    @cached_property
    def _holders(self) -> Mapping[Certificate, Path]:
        found: dict[Certificate, Path] = {}
        for chain in self.chains:
            for path in chain.files:
                if leaf := self.leaf(path):
                    found.setdefault(leaf, path)
        return found

    def lineage(self, path: Path) -> str:
        """Return the lineage that *path* is made of by its place, or empty."""
        return copies.lineage_of(path, self.bundles)


def chains(
    configuration: Configuration, tables: Iterable[NameTable] = ()
) -> list[Chain]:
    """Return every chain that *configuration* or one of the *tables* names, once."""
    found = chain_files.every_chain(configuration)
    for table in tables:
        distinct = dict.fromkeys(table.entries.values())
        found += (Chain(str(table.path), SNI_MAPS, each) for each in distinct)
    return list(dict.fromkeys(found))


def authorities(configuration: Configuration) -> dict[str, Path]:
    """Return the files of certificate authorities, by parameter and place."""
    queue = configuration.value("queue_directory")
    found = {}
    for name in ("smtpd_tls_CAfile", *(f"{each}_tls_CAfile" for each in CLIENTS)):
        if value := configuration.value(name):
            found[f"{name} in main.cf"] = Path(queue, value)
        for service in configuration.services:
            if value := service.overrides.get(name, ""):
                found[f"{name} in {service} of master.cf"] = Path(queue, value)
    return found
