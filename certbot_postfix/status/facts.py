"""What is known about an instance, as values that the checks take.

Pure: `collect` collects them.  How Postfix reads certificates is described in
postconf(5), smtpd_tls_chain_files and tls_server_sni_maps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from certbot_postfix.dane.store import Memory
from certbot_postfix.formats.caa import Issuance
from certbot_postfix.inbound import bundles, chain_files, copies
from certbot_postfix.inbound.chain_files import CLIENTS, Chain
from certbot_postfix.inbound.renewal_settings import RenewalSettings
from certbot_postfix.inbound.schedules import Schedule
from certbot_postfix.outbound.fitness import Reason
from certbot_postfix.postfix.configuration import SNI_MAPS, Configuration, Service
from certbot_postfix.publish.look import Found, Relevant
from certbot_postfix.tls.certificates import Certificate
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import Seen

# The files of a chain for each key of an SNI map.
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
        return tuple(block for block in self.blocks if isinstance(block, Certificate))

    @property
    def keys(self) -> tuple[Key, ...]:
        """The private keys in it."""
        return tuple(block for block in self.blocks if isinstance(block, Key))


@dataclass(frozen=True, slots=True)
class SniMap:
    """An SNI map whose text is a file, with its databases; *map_type* as in main.cf."""

    map_type: str
    path: Path
    entries: Entries
    text: File
    databases: tuple[File, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether Postfix can look something up in it, as far as is known."""
        if self.text.hidden:
            return True
        return bool(self.databases) or (
            self.map_type == "texthash" and self.text.exists
        )


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a service presented to a client that requests *server_name*, or none.

    *key* is that of the SNI map, *files* have what should have been presented.  If
    nothing was *seen*, *failure* says why; *alive* is whether the service greeted.
    """

    endpoint: Endpoint
    server_name: str | None = None
    key: str = ""
    seen: Seen | None = None
    failure: str = ""
    alive: bool = True
    files: tuple[Path, ...] = ()

    @property
    def leaf(self) -> Certificate | None:
        """The certificate that was presented."""
        return self.seen.leaf if self.seen else None


@dataclass(frozen=True, slots=True)
class Skipped:
    """What could not be checked, and the *reason*."""

    object: str
    reason: str


@dataclass(frozen=True, slots=True)
class PolicyTable:
    """A table of policies: the *fault* that it has, and when its first policy ends.

    *failures* are what sources of its policies complained of the last time;
    *endangered* is which policies could not be renewed in time; it is *unused* if it is
    ours, and main.cf does not name it.  *unfit* is what a daemon does that the client
    must not have; *void* is why policies do not count.  Of one that is *unknown*, the
    fault is why nothing is known.
    """

    name: str
    fault: str = ""
    until: datetime | None = None
    failures: tuple[str, ...] = ()
    endangered: str = ""
    unused: bool = False
    unfit: tuple[Reason, ...] = ()
    void: tuple[str, ...] = ()
    unknown: bool = False

    @property
    def hidden(self) -> bool:
        """Whether it could not be seen, by this user or in time."""
        return self.unknown or "Permission denied" in self.fault


@dataclass(frozen=True, slots=True)
class OwnPolicy:
    """The MTA-STS policy that was written here for *domain*, and what DNS says of that.

    Its *text* is that of the file *path* *since* that was written, None without a file;
    *hidden* says why it could not be read.
    """

    domain: str
    path: Path
    mx: Found
    sts: Found
    text: bytes | None = None
    since: datetime | None = None
    hidden: str = ""


@dataclass(frozen=True)
class Facts:
    """All that the checks take.

    *bundles* is our directory below certbot's.  *lineages* has the newest leaf of those
    that matter, None of one that is gone; *unlinked* those that have plain files in
    ``live``, with one of these.  *renewals* has what certbot does after it renewed one
    of those with a bundle, *issuances* who issues it, *tlsa* what is remembered of its
    records, *staged* the public half of its next key, *replaced* certbot's private key
    if another one stands in for it, *schedules* what renews them from time to time.
    *roots* are the subjects of the machine's CAs.
    *caa* has the CAA records that count for names of lineages.  *running* is None if
    that is not known.  *elsewhere* is the directory of the Postfix that runs, or
    listens, in its place.
    """

    configuration: Configuration
    now: datetime
    bundles: Path
    running: bool | None = None
    elsewhere: Path | None = None
    files: Mapping[Path, File] = field(default_factory=dict)
    sni_maps: tuple[SniMap, ...] = ()
    lineages: Mapping[str, Certificate | None] = field(default_factory=dict)
    unlinked: Mapping[str, Path] = field(default_factory=dict)
    renewals: Mapping[str, RenewalSettings] = field(default_factory=dict)
    issuances: Mapping[str, Issuance] = field(default_factory=dict)
    tlsa: Mapping[Path, Memory] = field(default_factory=dict)
    staged: Mapping[Path, bytes] = field(default_factory=dict, repr=False)
    replaced: Mapping[str, Path] = field(default_factory=dict)
    schedules: tuple[Schedule, ...] = ()
    roots: frozenset[str] = frozenset()
    handshakes: tuple[Handshake, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    policies: tuple[PolicyTable, ...] = ()
    without_dane: str = ""
    caa: Mapping[str, Relevant] = field(default_factory=dict)
    own_policies: tuple[OwnPolicy, ...] = ()

    @cached_property
    def names(self) -> Entries:
        """The entries of all SNI maps; of two for a key, the first one counts."""
        return {
            key: paths
            for sni_map in reversed(self.sni_maps)
            for key, paths in sni_map.entries.items()
        }

    @cached_property
    def chains(self) -> list[Chain]:
        """All chains that Postfix reads."""
        return chains(self.configuration, self.sni_maps)

    @cached_property
    def services(self) -> Mapping[str, Service]:
        """The services that present a certificate, by name."""
        services = chain_files.with_certificates(self.configuration)
        return {str(service): service for service in services}

    def configured(self, service: str, key: str = "") -> tuple[Path, ...]:
        """Return the files that *service* presents, for a *key* of the SNI maps."""
        if key in self.names:
            return self.names[key]
        services = self.services
        return tuple(chain_files.configured(self.configuration, services.get(service)))

    def leaf(self, path: Path) -> Certificate | None:
        """Return the leaf certificate in the file *path*, if it was read."""
        file = self.files.get(path)
        return file.certificates[0] if file and file.certificates else None

    def hidden(self, path: Path) -> bool:
        """Whether the file *path* could not be read."""
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
        holders: dict[Certificate, Path] = {}
        for chain in self.chains:
            for path in chain.files:
                if leaf := self.leaf(path):
                    holders.setdefault(leaf, path)
        return holders

    def is_bundle(self, path: Path) -> bool:
        """Whether *path* is in the place of a bundle of ours."""
        return bundles.is_bundle(path, self.bundles)

    def lineage(self, path: Path) -> str:
        """Return the lineage that *path* is made of by its place, or empty."""
        return copies.lineage_of(path, self.bundles)


def chains(
    configuration: Configuration, sni_maps: Iterable[SniMap] = ()
) -> list[Chain]:
    """Return every chain that *configuration* or one of *sni_maps* names, once."""
    named = chain_files.every_chain(configuration)
    for sni_map in sni_maps:
        distinct = dict.fromkeys(sni_map.entries.values())
        named += (Chain(str(sni_map.path), SNI_MAPS, files) for files in distinct)
    return list(dict.fromkeys(named))


def ca_files(configuration: Configuration) -> dict[str, Path]:
    """Return the files of CAs, by parameter and place."""
    queue = configuration.value("queue_directory")
    paths = {}
    for name in ("smtpd_tls_CAfile", *(f"{client}_tls_CAfile" for client in CLIENTS)):
        if value := configuration.value(name):
            paths[f"{name} in main.cf"] = Path(queue, value)
        for service in configuration.services:
            if value := service.overrides.get(name, ""):
                paths[f"{name} in {service} of master.cf"] = Path(queue, value)
    return paths
