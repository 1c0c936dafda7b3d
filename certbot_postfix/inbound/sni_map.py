"""The SNI map on disk: its text, and the database that is made of it.

A database holds copies of private keys.  It is built beside, in a directory that only
root may enter, and renamed: readers see the old or the new one, whole, and one that
lay there readable by others does not pass that on.  Raises `errors.Error`.
"""

import base64
import hashlib
import os
import stat
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from certbot_postfix.errors import Error, ProgramError, named_logger
from certbot_postfix.inbound import sni
from certbot_postfix.inbound.sni import Table
from certbot_postfix.postfix import databases
from certbot_postfix.postfix.databases import Databases
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.postmap import reason
from certbot_postfix.system import files

logger = named_logger(__name__)

# A database of names has copies of files: so many are compared at once.
_AT_ONCE = 500


class SniMap:
    """The SNI map `sni.NAME` of *postfix*, in the configuration directory."""

    def __init__(self, postfix: Postfix) -> None:
        self.postfix = postfix
        self.path = postfix.directory / sni.NAME
        self.databases = Databases(self.path)

    def text(self) -> bytes | None:
        """Return the text of the map, None if there is none."""
        return files.read(self.path) if os.path.lexists(self.path) else None

    def read(self) -> Table:
        """Return what the map says, which may be nothing at all."""
        text = self.text()
        return {} if text is None else sni.parse(text, self.path)

    def read_ours(self) -> Table:
        """Return what the map says, if it is ours."""
        try:
            return self.read()
        except Error:
            return {}

    def build(
        self,
        map_type: str,
        table: Table,
        changed: Collection[str] | None = None,
        register: Callable[[Path], None] | None = None,
    ) -> None:
        """Make the database of *table*, as *map_type*; the old one is backed up.

        With *changed*, only these keys are read anew, where the type allows it, and
        whatever else has lost its bundle keeps its copy.  A database that is new is
        told to *register* before it is there.
        """
        if map_type == "texthash":  # a database would be out of date, with old keys
            self.databases.retire()
        if map_type in ("", "texthash"):
            return
        for old in self.databases.existing():
            files.hide(old)
        part = {key: table[key] for key in changed or () if key in table}
        with self.databases.building(sni.render(table), mode=0o600) as copy:
            added = map_type != "cdb" and _fits(part, table)
            if not (added and self._add(f"{map_type}:{copy}", copy, part)):
                rest = {key: table[key] for key in table.keys() - part} if part else {}
                kept = self._kept(map_type, rest, copy)
                self._make(f"{map_type}:{copy}", copy, table, kept)
            self.databases.install(copy, register)

    def _kept(self, map_type: str, table: Table, copy: Path) -> Table:
        """Return a file beside *copy* for what has lost its bundle, with its copy."""
        gone = {path for path in sni.bundles(table) if _problem(path)}
        lost = [key for key, paths in table.items() if not gone.isdisjoint(paths)]
        kept = {}
        with suppress(ProgramError, ValueError):  # what has no copy is reported
            for at in range(0, len(lost), _AT_ONCE):
                some = lost[at : at + _AT_ONCE]
                answers = self.postfix.answers(f"{map_type}:{self.path}", some)
                for key, answer in answers.items():
                    text = base64.b64decode(answer)
                    path = copy.with_name(hashlib.sha256(text).hexdigest())
                    databases.write(path, text, mode=0o600)
                    kept[key] = (str(path),)
        return kept

    def _make(self, database: str, copy: Path, table: Table, kept: Table) -> None:
        """Make the *database* of *table* with the files that are *kept*."""
        whole = {**table, **kept}
        _refuse_empty(whole)
        if kept:
            databases.write(copy, sni.render(whole), mode=0o600)
        said = self.postfix.map("-F", database)
        self._refuse_unwritten(database, whole, said)
        files.remove(*map(Path, sni.bundles(kept)))

    def _add(self, database: str, copy: Path, part: Table) -> bool:
        """Change a copy of the *database* for *part*; return whether that was done.

        postmap(1) may redirect one type to another, so that it changes no file that is
        there, or none that can be changed: then the copies are gone again.
        """
        copies = self.databases.copied(copy)
        if len(copies) == 1:
            _refuse_empty(part)
            try:
                said = self.postfix.map("-irF", database, text=_lines(part))
            except ProgramError as error:
                logger.debug("it is made anew: %s", error)
            else:
                if set(copy.parent.iterdir()) == {copy, *copies}:
                    self._refuse_unwritten(database, part, said)
                    return True
        files.remove(*(path for path in copy.parent.iterdir() if path != copy))
        return False

    def rebuild(self, map_type: str, before: Table) -> None:
        """Make the database fit to the text, which is an old one again.

        What this process has built is brought back; the table was *before* another.
        """
        if self.databases.built and self.databases.restore_backups():
            return
        table = self.read()
        current = before == table and self.databases.existing()
        if (
            not current
            or self.databases.backed_up()
            or not self._answers(map_type, table)
        ):
            self.build(map_type, table)

    def usable(self, map_type: str) -> bool:
        """Whether Postfix can look something up in the table as *map_type*."""
        try:
            self.postfix.answers(f"{map_type}:{self.path}", {"nobody.invalid"})
        except ProgramError:
            return False
        return True

    def _answers(self, map_type: str, table: Table) -> bool:
        """Whether Postfix finds the last key of *table*, if it has any."""
        key = max(table, default="")
        try:
            return not key or key in self.postfix.answers(
                f"{map_type}:{self.path}", {key}
            )
        except ProgramError:
            return False

    def _refuse_unwritten(self, database: str, table: Table, said: str) -> None:
        """Raise `ProgramError` if *database* lacks the last key of *table*.

        Or any, where postmap(1) *said* what may mean that it has left something out.
        """
        # postmap of 3.7 exits with 0, silently, when lmdb finds the disk full.
        keys = sorted(table) if said else sorted(table)[-1:]
        for at in range(0, len(keys), _AT_ONCE):
            some = keys[at : at + _AT_ONCE]
            answers = self.postfix.answers(database, some)
            for key in some:
                copies = base64.b64decode(answers.get(key, ""))
                paths = map(Path, table[key])
                if not all(files.read(path).strip() in copies for path in paths):
                    raise ProgramError(
                        f"postmap did not write {database}, and"
                        f" {reason(said)}: the SNI map was left unchanged",
                        hint="check the free disk space",
                    )


def _fits(part: Table, table: Table) -> bool:
    """Whether *part* is added to the old database, or all of *table* made anew."""
    # One by one takes long where each is a transaction of its own (lmdb).
    few = 0 < len(part) * 10 <= len(table)
    # Whatever has lost its bundle keeps its copy.
    return few or bool(part and not all(map(os.path.exists, sni.bundles(table))))


def _refuse_empty(table: Table) -> None:
    """Raise `Error` for a missing bundle, or an empty one: there, postmap is silent."""
    for path in sni.bundles(table):
        if problem := _problem(path):
            raise Error(
                f"{path}, which the SNI map lists, cannot be read: {problem}; the map"
                " was left unchanged",
                hint="certbot-postfix status shows what there is; certbot-postfix"
                f" forget {Path(path).stem} takes it out",
            )


def _problem(path: str) -> str:
    """Return why postmap(1) cannot copy the bundle at *path*, or ""."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(status.st_mode):  # postmap would wait for a FIFO
        return "it is not a regular file"
    return "" if status.st_size else "it is empty"


def _lines(entries: Table) -> str:
    return sni.render(entries).decode(errors="surrogateescape")
