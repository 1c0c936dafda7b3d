"""The table of names on disk: its text, and the database that is made of it.

A database holds copies of private keys.  It is built beside, in a directory that only
root may enter, and renamed: readers see the old or the new one, whole, and one that
lay there readable by others does not pass that on.  What postmap(1) warns of is a
failure: it exits with 0 when it leaves out a name.  Raises `errors.Error`.
"""

import base64
import os
from collections.abc import Callable, Collection
from pathlib import Path

from certbot_postfix import databases, files, sni
from certbot_postfix.databases import Databases
from certbot_postfix.errors import Error, ProgramError
from certbot_postfix.postfix import Postfix
from certbot_postfix.sni import Table


class Tables:
    """The table `sni.NAME` of *postfix*, in the configuration directory."""

    def __init__(self, postfix: Postfix) -> None:
        self.postfix = postfix
        self.path = postfix.directory / sni.NAME
        self.databases = Databases(self.path)

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
            files.remove(*self.databases.there())
        if form in ("", "texthash"):
            return
        with files.explained("make private", self.path):
            for old in self.databases.there():
                old.chmod(0o600)
        part = {key: table[key] for key in changed or () if key in table}
        with self.databases.beside(sni.render(table), mode=0o600) as copy:
            # One by one takes long where each is a transaction of its own (lmdb).
            few = 0 < len(part) * 10 <= len(table)
            # Whatever has lost its bundle keeps its copy.
            few = few or bool(part and not all(map(os.path.exists, sni.bundles(table))))
            if few and form != "cdb" and self.databases.copied(copy):
                _refuse_empty(part)
                self.postfix.map("-irF", f"{form}:{copy}", text=_lines(part))
            else:
                _refuse_empty(table)
                self.postfix.map("-F", f"{form}:{copy}")
            self._refuse_unwritten(f"{form}:{copy}", table, part or table)
            self.databases.put(copy, register)

    def replace(self, text: bytes) -> None:
        """Write the *text*; the old one is kept for `undo`."""
        if self.path.exists():
            files.keep(self.path)
        files.replace(self.path, text, mode=0o600, cool=True)

    def rebuild(self, form: str, before: Table) -> None:
        """Make the database fit to the text, which is an old one again.

        What this process has built is brought back; the table was *before* another.
        """
        if self.databases.built and self.databases.undo():
            return
        table = self.read()
        if before != table or not self.databases.there() or self.databases.kept():
            self.build(form, table)

    def _refuse_unwritten(
        self, database: str, table: Table, keys: Collection[str]
    ) -> None:
        # postmap of 3.7 exits with 0, silently, when lmdb finds the disk full.
        key = max(keys, default="")
        answer = self.postfix.answers(database, {key}).get(key, "") if key else ""
        copies = base64.b64decode(answer)
        paths = map(Path, table.get(key, ()))
        if not all(files.read(path).strip() in copies for path in paths):
            raise ProgramError(
                f"postmap did not write {database}, and gave no reason:"
                " the table of names stays as it was",
                hint="is the disk full?",
            )


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


def sweep(postfix: Postfix) -> None:
    """Remove what a killed run may have left of a table that it was writing."""
    databases.sweep(Tables(postfix).path)
