"""The databases that postmap(1) makes of a table: built beside, and renamed.

Readers see the old one or the new one, whole, whatever ends the process that builds.
An old one is backed up, and so is one of another type, which main.cf may still name.
Raises `errors.Error`.
"""

import glob
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from certbot_postfix.system import directories, files, new_file


def possible(table: Path) -> list[Path]:
    """Return what postmap(1) may make of *table*: it redirects one type to another."""
    suffixes = (".db", ".lmdb", ".cdb")
    return [table.with_name(f"{table.name}{suffix}") for suffix in suffixes]


class Databases:
    """The databases of the table *path*, and its text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.built = False  # by this process
        self._created: list[Path] = []
        self._obsolete: list[Path] = []

    def existing(self) -> list[Path]:
        """Return the databases that there are."""
        return [path for path in self._all() if path != self.path and path.exists()]

    @contextmanager
    def building(self, text: bytes, *, mode: int) -> Iterator[Path]:
        """Yield a copy of the table with *text*, in a directory that only root enters.

        What is built of it there has the *mode* of the copy.
        """
        _clear(self.path)
        with files.explained("create", build_directory(self.path)):
            directory = _made(build_directory(self.path))
        try:
            copy = directory / self.path.name
            write(copy, text, mode=mode)
            yield copy
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def copied(self, copy: Path) -> list[Path]:
        """Copy the databases beside *copy*; return the copies."""
        copies = [copy.with_name(old.name) for old in self.existing()]
        for old, target in zip(self.existing(), copies, strict=True):
            with files.explained("copy", old), files.opened(old) as file:
                target.touch(mode=0o600)
                with target.open("wb") as new:
                    shutil.copyfileobj(file, new)
        return copies

    def install(
        self, copy: Path, register: Callable[[Path], None] | None = None
    ) -> None:
        """Rename what was built beside *copy* into place, and back up what was there.

        *register* gets what is new before it is there; without it, what is new is
        removed with the backups restored.  Databases of other types are removed with
        the backups.
        """
        built = [path for path in copy.parent.iterdir() if path != copy]
        self.built = True
        for path in built:
            self._put(path, register or self._created.append)
        names = {path.name for path in built}
        self._obsolete = [old for old in self.existing() if old.name not in names]

    def retire(self) -> None:
        """Have them all removed with the backups: the table is read as text now."""
        self.built = True
        self._obsolete = self.existing()

    def restore_backups(self) -> bool:
        """Bring back what was replaced; return whether anything was."""
        kept = self.backed_up()
        for path in kept:
            files.restore_backup(path)
        created, self._created, self._obsolete = self._created, [], []
        files.remove(*created)
        return bool(kept or created)

    def backed_up(self) -> list[Path]:
        """Return the files of which an old one is kept."""
        return [path for path in self._all() if files.backup_of(path)]

    def discard_backups(self) -> None:
        """Remove the backups: what is there now is verified."""
        for path in self._all():
            files.discard_backup(path)
        files.remove(*self._obsolete)
        self._created, self._obsolete = [], []

    def remove(self) -> None:
        """Remove the table and its databases."""
        files.remove(self.path, *self.existing())

    def _all(self) -> list[Path]:
        return [self.path, *possible(self.path)]

    def _put(self, built: Path, register: Callable[[Path], None]) -> None:
        path = self.path.with_name(built.name)
        if path.exists():
            files.back_up(path)
        else:
            register(path)
        files.put(built, path)


def write(copy: Path, text: bytes, *, mode: int) -> None:
    """Write *text* into *copy*, from which databases are built with its *mode*."""
    with files.explained("write", copy):  # not for long: no fsync(2)
        copy.touch(mode=0o600)
        copy.write_bytes(text)
        copy.chmod(mode)
        past = time.time() - new_file.COOL
        os.utime(copy, (past, past))


def build_directory(table: Path) -> Path:
    """Return the usual directory, beside *table*, in which its databases are built."""
    return new_file.staging_name(table.with_name(f"{table.name}.d"))


def remove_leftovers(table: Path) -> None:
    """Remove what a killed run may have left of a *table* that it was writing."""
    files.remove(*files.unfinished(table))
    _clear(table)


def _made(usual: Path) -> Path:
    """Make the *usual* directory, or another that nobody can put a third for."""
    if not directories.is_guarded(usual.parent):
        return Path(tempfile.mkdtemp(prefix=_elsewhere(usual)))
    try:
        usual.mkdir(mode=0o700)
    except FileExistsError:  # it is not ours
        return Path(tempfile.mkdtemp(prefix=f"{usual.name}.", dir=usual.parent))
    return usual


def _clear(table: Path) -> None:
    """Remove the directories that killed runs left: those that are ours."""
    usual, elsewhere = build_directory(table), Path(tempfile.gettempdir())
    paths = [usual, *usual.parent.glob(f"{glob.escape(usual.name)}.*")]
    for path in (*paths, *elsewhere.glob(f"{_elsewhere(usual)}*")):
        if directories.is_ours(path):
            shutil.rmtree(path, ignore_errors=True)


def _elsewhere(usual: Path) -> str:
    """Return how a directory begins that is made in place of the *usual* one."""
    name = hashlib.sha256(os.fsencode(usual)).hexdigest()[:16]
    return f"certbot-postfix-{name}-"
