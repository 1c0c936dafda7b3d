"""certbot's checkpoints: what enters one, and how its files are restored.

certbot finalises the one in progress when all is written, and undoes it when anything
fails before.  Keys never enter a checkpoint.
"""

import contextlib
import os
import re
import shutil
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from certbot import errors
from certbot.plugins import common

from certbot_postfix.change import plan
from certbot_postfix.errors import Error, named_logger
from certbot_postfix.system import files
from certbot_postfix.system.directories import real

logger = named_logger(__name__)

# The file in which certbot's checkpoint lists those that it restores.
_LISTED = "FILEPATHS"

# The file in which it lists those that it removes.
_CREATED = "NEW_FILES"

# A finished checkpoint is a directory with the time as its name.
_TIME = re.compile(r"\d+(?:\.\d+)?")


class Checkpoint(Protocol):
    """What a transaction needs from certbot's Reverter."""

    def before_change(self, path: Path, note: str) -> None:
        """Save *path*, which is about to be changed."""

    def before_creation(self, path: Path) -> None:
        """Take note of *path*, which does not exist yet."""


class CheckpointInProgress:
    """The checkpoint that *installer* is making; *used* says whether it has any."""

    def __init__(self, installer: common.Installer) -> None:
        self._installer = installer
        self.used = False

    def before_change(self, path: Path, note: str) -> None:
        """Save *path*, with a *note* of what is done to it."""
        self.used = True
        self._installer.add_to_checkpoint({str(path)}, note)

    def before_creation(self, path: Path) -> None:
        """Take note of *path*, so that an undo removes it."""
        self.used = True
        try:
            self._installer.reverter.register_file_creation(False, str(path))
        except errors.ReverterError as error:
            raise Error(f"certbot cannot make a checkpoint: {error}") from error


@dataclass(frozen=True, slots=True)
class Record:
    """A finished checkpoint: which files its undo *restores*, and which it *removes*.

    *changes* are what our plan changed in them; it is *ours* if our plan made it.
    """

    made: datetime
    ours: bool
    changes: tuple[str, ...]
    restores: tuple[Path, ...]
    removes: tuple[Path, ...]


def records(backups: Path, bundles: Path) -> list[Record]:
    """Return the checkpoints in certbot's directory *backups*, the newest first.

    One that created a file below *bundles*, our directory, is ours, too.
    """
    # Since Python 3.14, Path.exists() is False where it may not look.
    names: list[str] = []
    with files.explained("read", backups), contextlib.suppress(FileNotFoundError):
        names = [path.name for path in backups.iterdir()]
    return [
        _record(backups / name, bundles)
        for name in sorted(filter(_TIME.fullmatch, names), reverse=True)
    ]


def _record(checkpoint: Path, bundles: Path) -> Record:
    removes = tuple(created_in(checkpoint))
    planned = bool(_left_by_plans(checkpoint))
    return Record(
        datetime.fromtimestamp(float(checkpoint.name), timezone.utc),
        planned or any(path.is_relative_to(bundles) for path in removes),
        tuple(
            line
            for line in notes_in(checkpoint)
            if planned and line.startswith("/") and plan.MARK not in line
        ),
        tuple(path for path, _ in saved_in(checkpoint)),
        removes,
    )


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
        written = plans.get(plan.ascii_only(str(path)))
        if written and path.exists():
            changed.append(path)
            known = {*written, plan.digest(files.read(saved))}
            if plan.digest(files.read(path)) not in known:
                _keep(path, kept)
        files.restore(path, saved)
    files.remove(checkpoint / _LISTED)
    _keep_created(checkpoint / _CREATED)
    return changed


def _keep_created(listed: Path) -> None:
    """Leave in *listed* what there still is to be removed.

    Of a file that is gone, as after `certbot-postfix forget`, certbot says that it was
    probably shut down.
    """
    created = _lines(listed)
    present = [name for name in created if os.path.lexists(name)]
    if present != created:
        text = "".join(f"{name}\n" for name in present)
        files.replace(listed, text.encode(), mode=0o600)


def saved_in(checkpoint: Path) -> list[tuple[Path, Path]]:
    """Return the files that a checkpoint of certbot restores, and where it has them."""
    return [
        (real(Path(name)), checkpoint / f"{Path(name).name}_{number}")
        for number, name in enumerate(_lines(checkpoint / _LISTED))
    ]


def created_in(checkpoint: Path) -> list[Path]:
    """Return the files that a checkpoint of certbot removes."""
    return [real(Path(name)) for name in _lines(checkpoint / _CREATED)]


def notes_in(checkpoint: Path) -> list[str]:
    """Return the lines of the notes in a checkpoint of certbot."""
    notes = checkpoint / "CHANGES_SINCE"
    if not notes.exists():
        return []
    return files.read(notes).decode(errors="replace").splitlines()


def _lines(listed: Path) -> list[str]:
    return files.read(listed).decode().splitlines() if listed.exists() else []


def _left_by_plans(checkpoint: Path) -> dict[str, set[str]]:
    """Return the digests of each file as plans left it, from the checkpoint's note."""
    written: dict[str, set[str]] = {}
    lines = notes_in(checkpoint)
    for path, mark, digest in (line.partition(plan.MARK) for line in lines):
        if mark:
            written.setdefault(path, set()).add(digest)
    return written


def _keep(path: Path, kept: Path) -> None:
    try:
        shutil.copy2(path, kept)
        where = f"was saved as {kept}"
    except OSError as error:  # an undo is not to fail of that
        where = f"could not be saved as {kept}: {error.strerror}"
    logger.warning(
        "%s was changed after the installation that is undone; that version %s",
        path,
        where,
    )
