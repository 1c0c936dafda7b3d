"""The only writer of live files: staged copy, certbot's checkpoint, rename, undo.

Nothing live changes before the staged copy was accepted by Postfix and the checkpoint
knows every path.  Keys never enter a checkpoint: a bundle is registered as a creation,
and an old one is kept beside the new until that is proven.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from string import whitespace
from typing import Protocol

from certbot_postfix.change import plan
from certbot_postfix.change.plan import Edit, Plan
from certbot_postfix.errors import Error, MisconfiguredError, named_logger
from certbot_postfix.postfix.decisions import Change, CommentOut, Decision, Remove
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system import files

logger = named_logger(__name__)

# How the name of a staged copy begins; certbot's work directory may hold other things.
_STAGED = "certbot-postfix-"


# The file in which certbot's checkpoint lists those that it restores.
_LISTED = "FILEPATHS"


class Checkpoint(Protocol):
    """What a transaction needs from certbot's Reverter."""

    def before_change(self, path: Path, note: str) -> None:
        """Save *path*, which is about to be changed."""

    def before_creation(self, path: Path) -> None:
        """Take note of *path*, which does not exist yet."""


def stage(
    postfix: Postfix, decisions: tuple[Decision, ...], directory: Path | None
) -> Edit:
    """Carry *decisions* out on a copy of the configuration, which Postfix must accept.

    The copy lives below *directory* (None: where temporary files go), and is gone when
    this returns.  Returns what becomes of main.cf.
    """
    main_cf = postfix.main_cf
    before = files.read(main_cf)
    if directory and set(str(directory)) & set(whitespace):
        directory = None  # Postfix's own scripts do not quote it
    changes = {item.name: item.new for item in decisions if isinstance(item, Change)}
    retired = [item.name for item in decisions if isinstance(item, CommentOut)]
    removed = [item.name for item in decisions if isinstance(item, Remove)]
    if not changes and not retired and not removed:
        return Edit(main_cf, before, before)
    with _copy(postfix, before, directory) as staged, _named(staged, postfix):
        if changes:
            staged.edit(changes)
        if retired:
            staged.comment_out(retired)
        if removed:
            staged.remove(removed)
        added = sum(isinstance(item, Change) and item.old is None for item in decisions)
        edited = _sorted_end(files.read(staged.directory / "main.cf"), added)
        after = _in_style(before, edited)
        _write(staged.directory / "main.cf", after)
        _accept(staged, changes, [*retired, *removed])
        _check(staged, postfix)
    return Edit(main_cf, before, after)


def commit(planned: Plan, checkpoint: Checkpoint) -> None:
    """Write what *planned* says, if the files are still what it was planned for.

    The table is there before main.cf names it, and as long as main.cf does.
    """
    main_cf, table = planned.main_cf, planned.table
    checkpoint.before_change(main_cf.path, planned.describe())
    if table.before is not None and not table.empty:
        checkpoint.before_change(table.path, f"{table.path}: entries\n")
    for edit in (main_cf, table):
        now = files.read(edit.path) if os.path.lexists(edit.path) else None
        if now != edit.before:
            raise Error(
                f"{edit.path} was changed by somebody else meanwhile: nothing was done",
                hint="run the same command again",
            )
    if table.after is not None and not table.empty:
        if table.before is None:
            checkpoint.before_creation(table.path)
        files.replace(table.path, table.after, mode=table.mode, cool=True)
    if not main_cf.empty:
        files.rewrite(main_cf.path, main_cf.after or b"")


def revert(planned: Plan) -> None:
    """Undo `commit` where there is no checkpoint."""
    main_cf, table = planned.main_cf, planned.table
    if table.before is not None and files.read(table.path) == table.after:
        files.replace(table.path, table.before, mode=table.mode, cool=True)
    if main_cf.before is not None and files.read(main_cf.path) == main_cf.after:
        files.rewrite(main_cf.path, main_cf.before)


def put_bundle(path: Path, pem: bytes, checkpoint: Checkpoint | None) -> None:
    """Put *pem* at *path*; the old one, if any, is kept for `undo_bundle`."""
    files.make_directory(path.parent)
    if path.exists():
        files.keep(path)
    elif checkpoint:
        checkpoint.before_creation(path)
    files.replace(path, pem, mode=0o600)


def undo_bundle(path: Path) -> bool:
    """Bring the bundle back that `put_bundle` replaced; return whether it did."""
    if not files.kept(path):
        return False
    files.bring_back(path)
    return True


def keep_bundle(path: Path) -> None:
    """Forget the bundle that `put_bundle` replaced: the new one is proven."""
    files.forget(path)


def keep_bundles(directory: Path) -> None:
    """Forget all bundles that were replaced: what is there now is proven."""
    files.remove_all(directory, files.OLD)


def restore(checkpoint: Path, kept: Path) -> list[Path]:
    """Put back, each in one step, the files that a checkpoint of certbot holds.

    certbot's Reverter copies over the live file, which Postfix may read when it is
    still empty.  What it finds left to do after this is to remove created files and
    the checkpoint itself.  Returns those that our plans had changed.

    A main.cf that was edited after the plan of the checkpoint was carried out is kept
    as *kept*, so that the edits are not lost.
    """
    plans, changed = _left_by_plans(checkpoint), []
    for path, saved in saved_in(checkpoint):
        left = plans.get(plan.ascii_only(str(path)))
        if left and path.exists():
            changed.append(path)
            known = {*left, plan.digest(files.read(saved))}
            if plan.digest(files.read(path)) not in known:
                _keep(path, kept)
        files.restore(path, saved)
    files.remove(checkpoint / _LISTED)
    return changed


def saved_in(checkpoint: Path) -> list[tuple[Path, Path]]:
    """Return the files that a checkpoint of certbot restores, and where it has them."""
    return [
        (Path(name).resolve(), checkpoint / f"{Path(name).name}_{number}")
        for number, name in enumerate(_lines(checkpoint / _LISTED))
    ]


def created_in(checkpoint: Path) -> list[Path]:
    """Return the files that a checkpoint of certbot removes."""
    return [Path(name).resolve() for name in _lines(checkpoint / "NEW_FILES")]


def notes_in(checkpoint: Path) -> list[str]:
    """Return the lines of the notes in a checkpoint of certbot."""
    notes = checkpoint / "CHANGES_SINCE"
    if not notes.exists():
        return []
    return files.read(notes).decode(errors="replace").splitlines()


def _lines(listed: Path) -> list[str]:
    return files.read(listed).decode().splitlines() if listed.exists() else []


def sweep(postfix: Postfix, bundles: Path, staging: Path | None) -> None:
    """Remove what a killed run may have left: new files and staged copies.

    An old bundle that it kept stays until the new one is proven.
    """
    files.remove(*files.leftovers(postfix.main_cf))
    files.remove_all(bundles, files.NEW)
    if staging and _is_safe(staging):
        for copy in staging.glob(f"{_STAGED}*"):
            shutil.rmtree(copy, ignore_errors=True)
        _rmdir(staging)


def _left_by_plans(checkpoint: Path) -> dict[str, set[str]]:
    """Return the digests of each file as plans left it, from the checkpoint's note."""
    left: dict[str, set[str]] = {}
    lines = notes_in(checkpoint)
    for path, mark, digest in (line.partition(plan.MARK) for line in lines):
        if mark:
            left.setdefault(path, set()).add(digest)
    return left


def _keep(path: Path, kept: Path) -> None:
    try:
        shutil.copy2(path, kept)
        where = f"it is kept as {kept}"
    except OSError as error:  # an undo is not to fail of that
        where = f"it could not be kept as {kept}: {error.strerror}"
    logger.warning(
        "%s was edited after the deployment that is undone; with the edits, %s",
        path,
        where,
    )


@contextlib.contextmanager
def _copy(
    postfix: Postfix, main_cf: bytes, directory: Path | None
) -> Iterator[Postfix]:
    with contextlib.ExitStack() as stack:
        with files.explained(
            "stage a copy in", directory or Path(tempfile.gettempdir())
        ):
            if directory:
                with contextlib.suppress(FileExistsError):
                    directory.mkdir(mode=0o700)
                stack.callback(_rmdir, directory)
                # What others can change must not become main.cf.
                directory = directory if _is_safe(directory) else None
            name = tempfile.TemporaryDirectory(dir=directory, prefix=_STAGED)
            staged = postfix.at(Path(stack.enter_context(name)))
        # postconf before 3.7.15 would glue what it adds to a last line without end.
        ended = main_cf if main_cf.endswith(b"\n") else main_cf + b"\n"
        _write(staged.directory / "main.cf", ended)
        _write(
            staged.directory / "master.cf", files.read(postfix.directory / "master.cf")
        )
        yield staged


def _is_safe(directory: Path) -> bool:
    return files.is_guarded(directory.parent) and files.own(directory)


def _rmdir(directory: Path) -> None:
    with contextlib.suppress(OSError):  # somebody else's copy is there
        directory.rmdir()


def _write(path: Path, content: bytes) -> None:
    with files.explained("write", path):
        path.write_bytes(content)
        cool = time.time() - files.COOL
        os.utime(path, (cool, cool))


def _sorted_end(text: bytes, count: int) -> bytes:
    """Sort the last *count* lines, which postconf appended.

    Before 3.7.17 and its contemporaries, it does so in an order of chance.
    """
    lines = text.splitlines(keepends=True)
    start = len(lines) - count
    return b"".join(lines[:start] + sorted(lines[start:]))


def _in_style(before: bytes, after: bytes) -> bytes:
    """Give the text that postconf made of *before* its line ends again."""
    last = before.rpartition(b"\n")[2]
    if last and after.endswith(b"\n" + last + b"\n"):
        after = after[:-1]
    lines = before.count(b"\n")
    if lines and before.count(b"\r\n") == lines:
        after = after.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return after


def _accept(staged: Postfix, changes: dict[str, str], retired: list[str]) -> None:
    explicit = staged.explicit()
    wrong = {name for name, new in changes.items() if explicit.get(name) != new}
    wrong |= set(retired) & set(explicit)
    if wrong:
        raise MisconfiguredError(
            f"postconf did not set {', '.join(sorted(wrong))} as told: nothing was done"
        )


def _check(staged: Postfix, postfix: Postfix) -> None:
    """Raise `MisconfiguredError` unless Postfix accepts *staged*, a copy of *postfix*.

    If the live configuration was not accepted either, the message says that instead.
    """
    try:
        staged.check()
    except MisconfiguredError as refused:
        try:
            postfix.check()
        except MisconfiguredError as error:
            told = error.message.replace("` fails for", "` already fails for")
            error.message = f"{told}; nothing was changed"
            raise
        _, _, reason = refused.message.partition(": ")
        raise MisconfiguredError(
            f"`postfix check` rejects the new configuration: {reason}; nothing was"
            " changed"
        ) from refused


@contextlib.contextmanager
def _named(staged: Postfix, postfix: Postfix) -> Iterator[None]:
    """Let errors name the directory of *postfix*, since that of *staged* is gone."""
    try:
        yield
    except Error as error:
        gone, there = str(staged.directory), str(postfix.directory)
        error.message = error.message.replace(gone, there)
        error.hint = error.hint.replace(gone, there)
        raise
