"""Looks at the files that a configuration names: what is in them, who can read them.

Writes nothing.  What this user may not see is told as `Unseen`, and is no error.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from certbot_postfix.errors import CertificateError
from certbot_postfix.inbound import chain_files, sni
from certbot_postfix.postfix.configuration import SNI_MAPS, Configuration
from certbot_postfix.status import evidence, nametables
from certbot_postfix.status.evidence import File, Key, NameTable, Unseen
from certbot_postfix.system import files
from certbot_postfix.tls import certificates
from certbot_postfix.tls.certificates import Certificate

# More bytes than any file of keys, certificates or authorities has.
LARGEST = 10_000_000

# Of tables with more chains, the files are read in part: the leaf, and whether there is
# a key.  To check an RSA key takes a tenth of a second.
THOROUGH = 50

# What postmap(1) makes of a table: hash may be redirected to lmdb.
_DATABASES = (".db", ".lmdb", ".cdb")


Blocks = tuple[Certificate | Key, ...]


class Inspection:
    """What was found in the files that *configuration* names; *bundles* is ours."""

    def __init__(self, configuration: Configuration, bundles: Path) -> None:
        self.configuration = configuration
        self.bundles = bundles
        self.live = bundles.parent / "live"
        self.files: dict[Path, File] = {}
        self.tables: list[NameTable] = []
        self.lineages: dict[str, Certificate | None] = {}
        self.unlinked: dict[str, Path] = {}
        self.roots: frozenset[str] = frozenset()
        self.unseen: list[Unseen] = []
        self._reachable: dict[Path, bool] = {}
        self._parsed: dict[bytes, Certificate] = {}

    def look(self) -> None:
        """Look at everything, what matters most first."""
        for chain in evidence.chains(self.configuration):
            for path in chain.paths:
                self._keep(path)
        for path in evidence.authorities(self.configuration).values():
            if path not in self.files:
                self.files[path] = self._file(path, authorities)
        self._look_for_roots()
        for form, path in nametables.named(self.configuration):
            self._look_into_table(form, path)
        self._look_at_chains()

    def look_at_copies(self, lineages: Iterable[str]) -> None:
        """Look at the files that are not ours, and at *lineages* if there are any."""
        for form, path in nametables.named(self.configuration):
            if path != self.configuration.directory / sni.NAME:
                self._look_into_table(form, path)
        for chain in evidence.chains(self.configuration, self.tables):
            for path in () if chain.client else chain.files:
                if path.parent != self.bundles:
                    self._keep(path, partly=True)
        for name in lineages if self.files else ():
            self._look_at_lineage(name)

    def _look_at_chains(self) -> None:
        found = evidence.chains(self.configuration, self.tables)
        partly = sum(chain.parameter == SNI_MAPS for chain in found) > THOROUGH
        there = self._lineages()
        copies = False
        paths = {path for chain in found if not chain.client for path in chain.files}
        for path in sorted(paths):
            self._keep(path, partly=partly)
            name = evidence.lineage(path, self.bundles)
            copies = copies or not name
            if there is not None and name:
                self._look_at_lineage(name, named=True)
                self._look_at_links(name)
        # A copy of certbot's files is known by its names alone.
        for name in sorted(there or ()) if copies else ():
            self._look_at_lineage(name)

    def _keep(self, path: Path, *, partly: bool = False) -> None:
        if path not in self.files:
            read = self._first_blocks if partly else blocks
            self.files[path] = replace(self._file(path, read), partly=partly)

    def _file(self, path: Path, read: Callable[[bytes], Blocks]) -> File:
        try:
            found = read(_content(path))
            return File(path, found, exposed=self._exposed(path))
        except (FileNotFoundError, NotADirectoryError):
            return File(path, exists=False)
        except OSError as error:
            return self._hidden(path, error.strerror or str(error))
        except CertificateError as error:
            return File(path, exposed=self._exposed(path), damage=error.message)

    def _hidden(self, path: Path, reason: str) -> File:
        self.unseen.append(Unseen(str(path), reason))
        return File(path, hidden=reason)

    def _exposed(self, path: Path) -> bool:
        """Whether every user can read *path*, through all directories above it."""
        try:
            real = path.resolve()
            return bool(real.stat().st_mode & 0o004) and self._passable(real.parent)
        except OSError:
            return False

    def _passable(self, directory: Path) -> bool:
        if directory not in self._reachable:
            above = directory == directory.parent or self._passable(directory.parent)
            mode = directory.stat().st_mode
            self._reachable[directory] = above and bool(mode & 0o001)
        return self._reachable[directory]

    def _look_into_table(self, form: str, path: Path) -> None:
        entries: evidence.Entries = {}
        text = File(path, exposed=self._exposed(path))
        try:
            entries = _resolved(nametables.entries(_content(path)))
        except (FileNotFoundError, NotADirectoryError):
            text = File(path, exists=False)
        except OSError as error:
            text = self._hidden(path, error.strerror or str(error))
        databases = []
        if form != "texthash" and not text.hidden:
            beside = (path.with_name(path.name + each) for each in _DATABASES)
            databases = [
                File(each, exposed=self._exposed(each))
                for each in beside
                if each.exists()
            ]
        self.tables.append(NameTable(form, path, entries, text, tuple(databases)))

    def _lineages(self) -> set[str] | None:
        """Return the names of certbot's lineages, None if they cannot be seen."""
        try:
            return {path.name for path in self.live.iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except OSError as error:
            reason = error.strerror or str(error)
            self.unseen.append(Unseen(f"certbot's lineages in {self.live}", reason))
            return None

    def _look_at_links(self, name: str) -> None:
        with suppress(OSError):  # what cannot be read is reported with the chain
            for kind in ("privkey", "fullchain"):
                path = self.live / name / f"{kind}.pem"
                if path.is_file() and not path.is_symlink():
                    self.unlinked[name] = path

    def _look_at_lineage(self, name: str, *, named: bool = False) -> None:
        if name in self.lineages:
            return
        path = self.live / name / "fullchain.pem"
        try:
            found = File(path, self._first_blocks(_content(path))).certificates
            if found:
                self.lineages[name] = found[0]
            else:
                self.unseen.append(Unseen(str(path), "there is no certificate in it"))
        except (FileNotFoundError, NotADirectoryError):
            if named:
                self.lineages[name] = None
        except OSError as error:
            self.unseen.append(Unseen(str(path), error.strerror or str(error)))
        except CertificateError as error:
            self.unseen.append(Unseen(str(path), error.message))

    def _first_blocks(self, text: bytes) -> Blocks:
        """Return the first certificate in *text*, and the first key, which is not read.

        A bundle and its lineage have the same certificate, which takes time to parse.
        """
        first = {each.public: each for each in reversed([*certificates.blocks(text)])}
        found: list[Certificate | Key] = [Key(b"")] if False in first else []
        if leaf := first.get(True):
            if leaf.pem not in self._parsed:
                self._parsed[leaf.pem] = Certificate.from_der(leaf.der())
            found.append(self._parsed[leaf.pem])
        return tuple(found)

    def _look_for_roots(self) -> None:
        """Learn the machine's authorities, if some file has a leaf and no issuer."""
        bundle = self.configuration.ca_bundle
        bare = any(len(file.certificates) == 1 for file in self.files.values())
        if not (bundle and bare):
            return
        found = self._file(bundle, authorities).certificates
        self.roots = frozenset(each.subject for each in found)


def _resolved(entries: evidence.Entries) -> evidence.Entries:
    """Return *entries* with each file as `chain_files` knows it."""
    distinct = set(entries.values())
    known = {files: tuple(map(chain_files.resolved, files)) for files in distinct}
    return {key: known[files] for key, files in entries.items()}


def _content(path: Path) -> bytes:
    with files.opened(path) as file:
        return file.read(LARGEST)


def blocks(text: bytes) -> Blocks:
    """Return the keys and certificates in *text*, in order."""
    return tuple(
        Certificate.from_der(each.der())
        if each.public
        else Key(certificates.public_half(each.pem, quickly=True))
        for each in certificates.blocks(text)
    )


def authorities(text: bytes) -> Blocks:
    """Return the certificates in *text* that can be read."""
    return tuple(certificates.authorities(text))
