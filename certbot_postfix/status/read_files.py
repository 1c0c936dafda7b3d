"""Reads the files that a configuration names: what is in them, who can read them.

Writes nothing.  What this user may not see is `Skipped`, and no error.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from certbot_postfix.dane import places, staged, store
from certbot_postfix.dane.store import Memory
from certbot_postfix.errors import CertificateError, Error
from certbot_postfix.formats.caa import Issuance
from certbot_postfix.inbound import bundles, chain_files, copies, key_swap, sni
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.renewal_settings import RenewalReader, RenewalSettings
from certbot_postfix.postfix import databases
from certbot_postfix.postfix.configuration import SNI_MAPS, Configuration
from certbot_postfix.status.facts import (
    Entries,
    File,
    Key,
    Skipped,
    SniMap,
    ca_files,
    chains,
)
from certbot_postfix.system import files
from certbot_postfix.system.directories import real
from certbot_postfix.tls import certificates, pem
from certbot_postfix.tls.certificates import Certificate

# More bytes than any file of keys, certificates or CAs has.
LARGEST = 10_000_000

# Of SNI maps with more chains, the files are read in part: the leaf, and whether there
# is a key.  To check an RSA key takes a tenth of a second.
THOROUGH = 50


Blocks = tuple[Certificate | Key, ...]


class FileReader:
    """What is in the files that *configuration* names; *bundles* is our directory."""

    def __init__(self, configuration: Configuration, bundles: Path) -> None:
        self.configuration = configuration
        self.bundles = bundles
        self.live = bundles.parent / "live"
        self.files: dict[Path, File] = {}
        self.sni_maps: list[SniMap] = []
        self.lineages: dict[str, Certificate | None] = {}
        self.unlinked: dict[str, Path] = {}
        self.renewals: dict[str, RenewalSettings] = {}
        self.issuances: dict[str, Issuance] = {}
        self.tlsa: dict[Path, Memory] = {}
        self.staged: dict[Path, bytes] = {}
        self.replaced: dict[str, Path] = {}
        self.roots: frozenset[str] = frozenset()
        self.skipped: list[Skipped] = []
        self._reachable: dict[Path, bool] = {}
        self._parsed: dict[bytes, Certificate] = {}

    def read(self) -> None:
        """Read everything, what matters most first."""
        for chain in chains(self.configuration):
            for path in chain.paths:
                self._keep(path)
        for path in ca_files(self.configuration).values():
            if path not in self.files:
                self.files[path] = self._file(path, cas)
        self._read_roots()
        for map_type, path in sni.tables(self.configuration):
            self._read_sni_map(map_type, path)
        self._read_chains()

    def _read_chains(self) -> None:
        named = chains(self.configuration, self.sni_maps)
        partly = sum(chain.parameter == SNI_MAPS for chain in named) > THOROUGH
        lineages = self._lineages()
        foreign = False
        renewals = RenewalReader(self.bundles.parent)
        paths = {path for chain in named if not chain.client for path in chain.files}
        for path in sorted(paths):
            self._keep(path, partly=partly)
            name = copies.lineage_of(path, self.bundles)
            foreign = foreign or not name
            if bundles.is_bundle(path, self.bundles) and (
                settings := renewals.read(name)
            ):
                self.renewals[name] = settings
                self.issuances[name] = renewals.issuance(name)
            if bundles.is_bundle(path, self.bundles):
                with suppress(OSError):  # only root may look there
                    self.tlsa[path] = store.load(path)
                    self._read_staged(path)
                    lineage = Lineage.live(self.live, name)
                    if key_swap.under_way(lineage):
                        self.replaced[name] = lineage.key
            if lineages is not None and name:
                self._read_lineage(name, named=True)
                self._check_links(name)
        # A copy of certbot's files is known by its names alone.
        for name in sorted(lineages or ()) if foreign else ():
            self._read_lineage(name)

    def _read_staged(self, path: Path) -> None:
        try:
            key = staged.load(self.bundles, path.stem)
        except Error as error:
            where = str(places.next_key(self.bundles, path.stem))
            self.skipped.append(Skipped(where, error.message))
        else:
            if key:
                self.staged[path] = key.spki

    def _keep(self, path: Path, *, partly: bool = False) -> None:
        if path not in self.files:
            read = self._first_blocks if partly else blocks
            self.files[path] = replace(self._file(path, read), partly=partly)

    def _file(self, path: Path, read: Callable[[bytes], Blocks]) -> File:
        try:
            content = read(_content(path))
            return File(path, content, exposed=self._exposed(path))
        except (FileNotFoundError, NotADirectoryError):
            return File(path, exists=False)
        except OSError as error:
            return self._hidden(path, error.strerror or str(error))
        except CertificateError as error:
            return File(path, exposed=self._exposed(path), damage=error.message)

    def _hidden(self, path: Path, reason: str) -> File:
        self.skipped.append(Skipped(str(path), reason))
        return File(path, hidden=reason)

    def _exposed(self, path: Path) -> bool:
        """Whether every user can read *path*, through all directories above it."""
        try:
            file = real(path)
            return bool(file.stat().st_mode & 0o004) and self._passable(file.parent)
        except OSError:
            return False

    def _passable(self, directory: Path) -> bool:
        if directory not in self._reachable:
            above = directory == directory.parent or self._passable(directory.parent)
            mode = directory.stat().st_mode
            self._reachable[directory] = above and bool(mode & 0o001)
        return self._reachable[directory]

    def _read_sni_map(self, map_type: str, path: Path) -> None:
        entries: Entries = {}
        text = File(path, exposed=self._exposed(path))
        try:
            entries = _resolved(sni.entries(_content(path)))
        except (FileNotFoundError, NotADirectoryError):
            text = File(path, exists=False)
        except OSError as error:
            text = self._hidden(path, error.strerror or str(error))
        compiled = []
        if map_type != "texthash" and not text.hidden:
            compiled = [
                File(database, exposed=self._exposed(database))
                for database in databases.possible(path)
                if database.exists()
            ]
        self.sni_maps.append(SniMap(map_type, path, entries, text, tuple(compiled)))

    def _lineages(self) -> set[str] | None:
        """Return the names of certbot's lineages, None if they cannot be seen."""
        try:
            return {path.name for path in self.live.iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except OSError as error:
            reason = error.strerror or str(error)
            self.skipped.append(Skipped(f"certbot's lineages in {self.live}", reason))
            return None

    def _check_links(self, name: str) -> None:
        with suppress(OSError):  # what cannot be read is reported with the chain
            for kind in ("privkey", "fullchain"):
                path = self.live / name / f"{kind}.pem"
                if path.is_file() and not path.is_symlink():
                    self.unlinked[name] = path

    def _read_lineage(self, name: str, *, named: bool = False) -> None:
        if name in self.lineages:
            return
        path = self.live / name / "fullchain.pem"
        try:
            certificates = File(path, self._first_blocks(_content(path))).certificates
            if certificates:
                self.lineages[name] = certificates[0]
            else:
                self.skipped.append(Skipped(str(path), "there is no certificate in it"))
        except (FileNotFoundError, NotADirectoryError):
            if named:
                self.lineages[name] = None
        except OSError as error:
            self.skipped.append(Skipped(str(path), error.strerror or str(error)))
        except CertificateError as error:
            self.skipped.append(Skipped(str(path), error.message))

    def _first_blocks(self, text: bytes) -> Blocks:
        """Return the first certificate in *text*, and the first key, which is not read.

        A bundle and its lineage have the same certificate, which takes time to parse.
        """
        first = {block.public: block for block in reversed([*pem.blocks(text)])}
        read: list[Certificate | Key] = [Key(b"")] if False in first else []
        if leaf := first.get(True):
            if leaf.pem not in self._parsed:
                self._parsed[leaf.pem] = Certificate.from_der(leaf.der())
            read.append(self._parsed[leaf.pem])
        return tuple(read)

    def _read_roots(self) -> None:
        """Read the machine's CAs, if some file has a leaf and no issuer."""
        bundle = self.configuration.ca_bundle
        bare = any(len(file.certificates) == 1 for file in self.files.values())
        if not (bundle and bare):
            return
        roots = self._file(bundle, cas).certificates
        self.roots = frozenset(root.subject for root in roots)


def _resolved(table: sni.Table) -> Entries:
    """Return *table* with each file as `chain_files` knows it."""
    chains = {
        chain: tuple(chain_files.resolved(Path(name)) for name in chain)
        for chain in set(table.values())
    }
    return {key: chains[chain] for key, chain in table.items()}


def _content(path: Path) -> bytes:
    with files.opened(path, most=LARGEST) as file:
        return file.read(LARGEST)


def blocks(text: bytes) -> Blocks:
    """Return the keys and certificates in *text*, in order."""
    return tuple(
        Certificate.from_der(block.der())
        if block.public
        else Key(certificates.public_half(block.pem, quickly=True))
        for block in pem.blocks(text)
    )


def cas(text: bytes) -> Blocks:
    """Return the certificates in *text* that can be read."""
    return tuple(certificates.authorities(text))
