"""The databases that postmap(1) makes of a table: built beside, and renamed.

Readers see the old one or the new one, whole, whatever ends the process that builds.
An old one is kept until `keep`, for `undo`, and so is one of another type: main.cf may
still name it.  Raises `errors.Error`.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from certbot_postfix import files

# What postmap(1) makes of a table: it may redirect one type to another.
SUFFIXES = (".db", ".lmdb", ".cdb")


class Databases:
    """The databases of the table *path*, and its text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.built = False  # by this process
        self._created: list[Path] = []
        self._obsolete: list[Path] = []

    def there(self) -> list[Path]:
        """Return the databases that there are."""
        return [each for each in self._all() if each != self.path and each.exists()]

    @contextmanager
    def beside(self, text: bytes, *, mode: int) -> Iterator[Path]:
        """Yield a copy of the table with *text*, in a directory that only root enters.

        What is built of it there has the *mode* of the copy.
        """
        directory = workshop(self.path)
        shutil.rmtree(directory, ignore_errors=True)
        with files.explained("create", directory):
            directory.mkdir(mode=0o700)
        try:
            copy = directory / self.path.name
            with files.explained("write", copy):  # not for long: no fsync(2)
                copy.touch(mode=0o600)
                copy.write_bytes(text)
                copy.chmod(mode)
            yield copy
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def copied(self, copy: Path) -> list[Path]:
        """Copy the databases beside *copy*; return the copies."""
        copies = [copy.with_name(old.name) for old in self.there()]
        for old, target in zip(self.there(), copies, strict=True):
            with files.explained("copy", old):
                target.touch(mode=0o600)
                shutil.copyfile(old, target)
        return copies

    def put(self, copy: Path, register: Callable[[Path], None] | None = None) -> None:
        """Rename what was built beside *copy* into place; `keep` removes other types.

        What is new is told to *register* before it is there, or removed by `undo`.
        """
        built = [path for path in copy.parent.iterdir() if path != copy]
        self.built = True
        for path in built:
            self._put(path, register or self._created.append)
        names = {path.name for path in built}
        self._obsolete = [old for old in self.there() if old.name not in names]

    def outdate(self) -> None:
        """Let `keep` remove them all: the table is read as text from now on."""
        self.built = True
        self._obsolete = self.there()

    def undo(self) -> bool:
        """Bring back what was replaced; return whether anything was."""
        kept = self.kept()
        for path in kept:
            files.bring_back(path)
        created, self._created, self._obsolete = self._created, [], []
        files.remove(*created)
        return bool(kept or created)

    def kept(self) -> list[Path]:
        """Return the files of which an old one is kept."""
        return [path for path in self._all() if files.previous(path).exists()]

    def keep(self) -> None:
        """Forget what was replaced: what is there now is proven."""
        files.remove(*map(files.previous, self._all()), *self._obsolete)
        self._created, self._obsolete = [], []

    def remove(self) -> None:
        """Remove the table and its databases."""
        files.remove(self.path, *self.there())

    def _all(self) -> list[Path]:
        others = (self.path.with_name(f"{self.path.name}{each}") for each in SUFFIXES)
        return [self.path, *others]

    def _put(self, built: Path, register: Callable[[Path], None]) -> None:
        path = self.path.with_name(built.name)
        with files.explained("write", path), built.open("rb") as file:
            os.fsync(file.fileno())
        if path.exists():
            files.keep(path)
        else:
            register(path)
        with files.explained("write", path):
            built.replace(path)


def workshop(table: Path) -> Path:
    """Return the directory beside *table* in which its databases are built."""
    return files.temporary(table.with_name(f"{table.name}.d"))


def sweep(table: Path) -> None:
    """Remove what a killed run may have left of a *table* that it was writing."""
    files.remove(files.temporary(table))
    with files.explained("remove", workshop(table)):
        if workshop(table).is_dir():
            shutil.rmtree(workshop(table))
