"""The only writer of Postfix's live files, and the only undo.

What is replaced is backed up beside the new file until that is verified; the backup of
a bundle that a killed run left says that Postfix may not serve the new one yet.  Keys
never enter a checkpoint of certbot's: a bundle is registered as a creation.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from certbot_postfix.change import staging as staged_copies
from certbot_postfix.change.checkpoint import Checkpoint
from certbot_postfix.change.plan import Edit, Plan
from certbot_postfix.errors import Error
from certbot_postfix.postfix import databases
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.databases import Databases
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.serving import Serving
from certbot_postfix.system import files, new_file, signals


class NoCheckpoint:
    """Where certbot makes no checkpoint: the transaction itself undoes all."""

    def before_change(self, path: Path, note: str) -> None:
        """Do nothing: the plan has the old content."""

    def before_creation(self, path: Path) -> None:
        """Do nothing: the plan knows that there was no file."""


class Transaction:
    """Files that change together: bundles, *maps* with their databases, and main.cf.

    With a *checkpoint* of certbot's, it is certbot that restores the files in it.
    """

    def __init__(
        self, maps: Collection[Databases], checkpoint: Checkpoint | None = None
    ) -> None:
        self._maps = maps
        self._checkpoint = checkpoint
        self._bundles: list[Path] = []
        self._plan: Plan | None = None
        self._note = ""

    def begin(self, serving: Serving, configuration: Configuration) -> None:
        """Probe each endpoint once, before anything is written: the baseline.

        Raises `MisconfiguredError` if Postfix would not survive a reload.  Where
        certbot makes a checkpoint, something is installed: raises `RefusedError` if a
        service lets no client in, since nothing could be verified there.
        """
        serving.record_baseline(configuration)
        if self._checkpoint:
            serving.refuse_refusals(configuration)
            self._note = serving.baseline.note() if serving.baseline else ""

    def put_bundle(self, path: Path, pem: bytes) -> None:
        """Make *path* a bundle of *pem*, which only its owner can read."""
        for directory in (path.parent.parent, path.parent):
            files.make_directory(directory)
        if path.exists():
            files.back_up(path)
            self._bundles.append(path)
        elif self._checkpoint:
            self._checkpoint.before_creation(path)
        files.replace(path, pem, mode=0o600)

    @property
    def register(self) -> Callable[[Path], None] | None:
        """What a new database is reported to before it is there; None to no one."""
        return self._checkpoint.before_creation if self._checkpoint else None

    def write(self, edit: Edit) -> None:
        """Write the map that *edit* is of, whose backup is that of its databases."""
        if edit.before is not None:
            files.back_up(edit.path)
        files.replace(edit.path, edit.after or b"", mode=edit.mode, cool=True)

    def commit(self, plan: Plan) -> None:
        """Write what *plan* says, if the files are still what it was made for.

        A map is there before main.cf refers to it, and as long as main.cf does.
        """
        checkpoint = self._checkpoint or NoCheckpoint()
        checkpoint.before_change(plan.main_cf.path, self._note + plan.describe())
        for edit in plan.maps:
            if edit.before is not None and not edit.empty:
                checkpoint.before_change(edit.path, f"{edit.path}: entries\n")
        _refuse_modified(plan)
        self._plan = plan
        for edit in plan.maps:
            if edit.after is not None and not edit.empty:
                if edit.before is None:
                    checkpoint.before_creation(edit.path)
                files.replace(edit.path, edit.after, mode=edit.mode, cool=True)
        if not plan.main_cf.empty:
            files.rewrite(plan.main_cf.path, plan.main_cf.after or b"")

    def undo(self) -> list[Path]:
        """Restore what no checkpoint holds; return the files that are restored.

        What somebody else has changed since is left alone.
        """
        restored = [path for path in self._bundles if files.backup_of(path)]
        for path in restored:
            files.restore_backup(path)
        if not self._checkpoint:
            restored += [maps.path for maps in self._maps if maps.restore_backups()]
            restored += _reverted(self._plan) if self._plan else ()
        self._bundles, self._plan = [], None
        return restored

    @contextlib.contextmanager
    def undone_on_failure(
        self, restore: Callable[[list[Path]], None]
    ) -> Iterator[None]:
        """Undo if anything fails, and have Postfix *restore* what it served.

        A signal that ends the process is such a failure; further ones wait until that
        is done.
        """
        with signals.ending(), signals.interruptible(), self._undone(restore):
            yield

    @contextlib.contextmanager
    def _undone(self, restore: Callable[[list[Path]], None]) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            with signals.uninterruptible():
                restored = self.undo()
                if not restored:
                    raise
                try:
                    restore(restored)
                except Error as failed:
                    raise Error(
                        f"{_reason(error)}; the previous files were restored, but that"
                        f" could not be verified: {failed.message}",
                        hint=failed.hint,
                    ) from error
            if isinstance(error, Error):
                error.message += "; the previous files were restored"
            raise

    def discard_backups(self, *bundles: Path) -> None:
        """Remove the backups of *bundles* and maps: what is there now is verified."""
        for path in bundles:
            files.discard_backup(path)
        for maps in self._maps:
            maps.discard_backups()


def _refuse_modified(plan: Plan) -> None:
    """Raise `Error` if a file is not what *plan* was made for."""
    for edit in (plan.main_cf, *plan.maps):
        now = files.read(edit.path) if os.path.lexists(edit.path) else None
        if now != edit.before:
            raise Error(
                f"{edit.path} was modified while this command was running; no changes"
                " were made",
                hint="run the same command again",
            )


def _reverted(plan: Plan) -> Iterator[Path]:
    for edit in (*plan.maps, plan.main_cf):
        if edit.before is None or edit.empty or files.read(edit.path) != edit.after:
            continue
        if edit is plan.main_cf:
            files.rewrite(edit.path, edit.before)
        else:
            files.replace(edit.path, edit.before, mode=edit.mode, cool=True)
        yield edit.path


def _reason(error: BaseException) -> str:
    return error.message if isinstance(error, Error) else type(error).__name__


def discard_backups(bundles: Path) -> None:
    """Remove all backups in the directory *bundles*: what is there is verified."""
    files.remove_all(bundles, files.OLD)


def remove_leftovers(
    postfix: Postfix, bundles: Iterable[Path], staging: Path | None, *maps: Path
) -> None:
    """Remove what killed runs left: new files, staged copies, half built *maps*.

    *bundles* are the directories of bundles.
    The backup of a bundle stays until the new one is verified.
    """
    files.remove(*files.leftovers(postfix.main_cf))
    for directory in bundles:
        files.remove_all(directory, new_file.NEW)
    if staging:
        staged_copies.remove_leftovers(staging)
    for path in maps:
        databases.remove_leftovers(path)
