"""certbot's checkpoint in progress, as `transaction.Checkpoint` wants it.

certbot finalises it when all is written, and undoes it when anything fails before.
"""

from pathlib import Path

from certbot import errors
from certbot.plugins import common

from certbot_postfix.errors import Error


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
