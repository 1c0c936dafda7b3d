"""The table of names on disk: its text, and the database that is made of it.

A database holds copies of private keys.  It is built beside, in a directory that only
root may enter, and renamed: readers see the old or the new one, whole, and one that
lay there readable by others does not pass that on.  What postmap(1) warns of is a
failure: it exits with 0 when it leaves out a name.  Raises `errors.Error`.
"""

import base64
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from certbot_postfix import files, sni
from certbot_postfix.errors import Error, ProgramError
from certbot_postfix.postfix import Postfix
from certbot_postfix.sni import Table


class Tables:
    """The table `sni.NAME` of *postfix*, in the configuration directory."""

    def __init__(self, postfix: Postfix) -> None:
        self.postfix = postfix
        self.path = postfix.directory / sni.NAME
        self._built = False

    def text(self) -> bytes | None:
        """Return the text of the table, None if there is none."""
        return files.read(self.path) if os.path.lexists(self.path) else None

    def read(self) -> Table:
        """Return what the table says, which may be nothing at all."""
        text = self.text()
        return {} if text is None else sni.parse(text, self.path)

    def found(self) -> Table:
        """Return what the table says, if it is ours."""
        try:
            return self.read()
        except Error:
            return {}

    def databases(self) -> list[Path]:
        """Return the databases that there are."""
        found = map(self.path.with_name, sni.DATABASE_FILES)
        return [path for path in found if path.exists()]

    def build(
        self,
        form: str,
        table: Table,
        changed: Collection[str] | None = None,
        register: Callable[[Path], None] = lambda _: None,
    ) -> None:
        """Make the database of type *form* of *table*; the old one is kept for `undo`.

        With *changed*, only these keys are read anew, where the type allows it.  A
        database that is new is told to *register* before it is there.
        """
        if form == "texthash":  # a database would be out of date, with old keys
            files.remove(*self.databases())
        if form in ("", "texthash"):
            return
        with files.explained("make private", self.path):
            for old in self.databases():
                old.chmod(0o600)
        part = {key: table[key] for key in changed or () if key in table}
        with self._beside(sni.render(table)) as copy:
            # One by one takes long where each is a transaction of its own (lmdb).
            few = 0 < len(part) * 10 <= len(table)
            # Whatever has lost its bundle keeps its copy.
            few = few or bool(part and not all(map(os.path.exists, sni.bundles(table))))
            if few and form != "cdb" and self._copied(copy):
                _refuse_empty(part)
                self.postfix.map("-irF", f"{form}:{copy}", text=_lines(part))
            else:
                _refuse_empty(table)
                self.postfix.map("-F", f"{form}:{copy}")
            self._refuse_unwritten(f"{form}:{copy}", table, part or table)
            built = [path for path in copy.parent.iterdir() if path != copy]
            self._built = True
            for path in built:
                self._put(path, register)
        for old in self.databases():
            if old.name not in {path.name for path in built}:
                files.remove(old)  # of another type, and out of date

    def replace(self, text: bytes) -> None:
        """Write the *text*; the old one is kept for `undo`."""
        if self.path.exists():
            files.keep(self.path)
        files.replace(self.path, text, mode=0o600, cool=True)

    def undo(self) -> bool:
        """Bring back what `build` and `replace` replaced; return whether they did."""
        kept = [path for path in self._all() if files.previous(path).exists()]
        for path in kept:
            files.bring_back(path)
        return bool(kept)

    def rebuild(self, form: str, before: Table) -> None:
        """Make the database fit to the text, which is an old one again.

        What this process has built is brought back; the table was *before* another.
        """
        if self._built and self.undo():
            return
        table = self.read()
        if before != table or not self.databases() or self._kept():
            self.build(form, table)

    def keep(self) -> None:
        """Forget what was replaced: what is there now is proven."""
        files.remove(*map(files.previous, self._all()))

    def remove(self) -> None:
        """Remove the table and its databases."""
        files.remove(self.path, *self.databases())

    def answers(self, table: str, keys: Collection[str]) -> dict[str, str]:
        """Return what any *table* of names has for those *keys* that it has.

        These are names of files, or copies of the files, in base64: private keys.
        """
        asked = "".join(f"{key}\n" for key in sorted(keys))
        found = self.postfix.map("-q", "-", table, text=asked, empty=True)
        pairs = (line.partition("\t") for line in found.splitlines())
        return {key: value for key, _, value in pairs if key in keys}

    def _refuse_unwritten(
        self, database: str, table: Table, keys: Collection[str]
    ) -> None:
        # postmap of 3.7 exits with 0, silently, when lmdb finds the disk full.
        key = max(keys, default="")
        answer = self.answers(database, {key}).get(key, "") if key else ""
        copies = base64.b64decode(answer)
        paths = map(Path, table.get(key, ()))
        if not all(files.read(path).strip() in copies for path in paths):
            raise ProgramError(
                f"postmap did not write {database}, and gave no reason:"
                " the table of names stays as it was",
                hint="is the disk full?",
            )

    def _kept(self) -> list[Path]:
        return [path for path in map(files.previous, self._all()) if path.exists()]

    def _all(self) -> list[Path]:
        return [self.path, *map(self.path.with_name, sni.DATABASE_FILES)]

    @contextmanager
    def _beside(self, text: bytes) -> Iterator[Path]:
        """Yield the name of a copy of the table in a directory of its own."""
        directory = workshop(self.path)
        shutil.rmtree(directory, ignore_errors=True)
        with files.explained("create", directory):
            directory.mkdir(mode=0o700)
        try:
            copy = directory / sni.NAME
            files.replace(copy, text, mode=0o600)
            yield copy
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _copied(self, copy: Path) -> bool:
        """Copy the databases beside *copy*; return whether there are any."""
        for old in self.databases():
            with files.explained("copy", old):
                target = copy.with_name(old.name)
                target.touch(mode=0o600)
                shutil.copyfile(old, target)
        return bool(self.databases())

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


def _refuse_empty(table: Table) -> None:
    """Raise `Error` for a missing bundle, or an empty one: there, postmap is silent."""
    for path in sni.bundles(table):
        try:
            problem = "" if os.stat(path).st_size else "it is empty"  # noqa: PTH116
        except OSError as error:
            problem = error.strerror or str(error)
        if problem:
            raise Error(
                f"{path}, which the table of names has, cannot be read: {problem}; the"
                " table stays as it was",
                hint="certbot-postfix status shows what there is; certbot-postfix"
                f" forget {Path(path).stem} takes it out",
            )


def _lines(entries: Table) -> str:
    return sni.render(entries).decode(errors="surrogateescape")


def workshop(table: Path) -> Path:
    """Return the directory beside *table* in which its databases are built."""
    return files.temporary(table.with_name(f"{table.name}.d"))


def sweep(postfix: Postfix) -> None:
    """Remove what a killed run may have left of a table that it was writing."""
    table = Tables(postfix).path
    files.remove(files.temporary(table))
    with files.explained("remove", workshop(table)):
        if workshop(table).is_dir():
            shutil.rmtree(workshop(table))
