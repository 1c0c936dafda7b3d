"""Restoring what certbot's checkpoints hold, and what Postfix served with it.

certbot removes what was created, and the checkpoints.  Raises `errors.Error`.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from certbot_postfix.change import checkpoint as checkpoints
from certbot_postfix.errors import Error, named_logger
from certbot_postfix.inbound import chain_files
from certbot_postfix.inbound.restore import restore
from certbot_postfix.inbound.server import Server
from certbot_postfix.inbound.sni import Table
from certbot_postfix.outbound.update import Outbound
from certbot_postfix.postfix import processes
from certbot_postfix.system import files
from certbot_postfix.tls import baseline

logger = named_logger(__name__)


class Rollback:
    """The undo of checkpoints: `restore` the files, then `activate` them.

    *bundles* are those that were restored beside the files of the checkpoints.
    """

    def __init__(self, server: Server, outbound: Outbound) -> None:
        self.server = server
        self.outbound = outbound
        self.bundles: list[Path] = []
        self._before: Table | None = None  # the SNI map, before anything was undone
        self._restored: set[Path] = set()

    def restore(
        self, newest_first: Sequence[Path], *, interrupted: bool = False
    ) -> None:
        """Restore the files that checkpoints of certbot hold, each in one step.

        What was *interrupted* may have left services dead that were not so before.
        Raises `Error` before anything is done if what results refers to a bundle that
        is gone for good: Postfix could not serve it.
        """
        final = _final(newest_first)
        self._refuse_gone(final)
        self._recall(newest_first, interrupted=interrupted)
        if self._before is None:
            self._before = self.server.sni_map.read_ours()
        self._restored |= final.keys()
        for directory in newest_first:
            self._restore(directory)

    @property
    def unread(self) -> bool:
        """Whether Postfix may not have read its files yet, as after a killed rollback.

        certbot has no checkpoint of that any more.
        """
        main_cf, sni_map = self.server.postfix.main_cf, self.server.sni_map.path
        try:
            configuration = self.server.configuration
        except Error:
            return True
        paths = (main_cf, sni_map, self.outbound.path)
        return processes.outdated(configuration, paths, processes.DAEMONS)

    def activate(self) -> None:
        """Make Postfix serve what its files, which are the old ones again, say."""
        try:
            self._activate()
        except Error as error:
            error.message = f"the previous files were restored, but {error.message}"
            raise

    def _activate(self) -> None:
        if self._restored & {self.server.postfix.main_cf, self.outbound.path}:
            self.server.current.forget()
            self.outbound.restore_database(changed=self.outbound.path in self._restored)
            self.outbound.note_restored()
            self._restored = set()
        restore(self.server, self._before or {}, *self.bundles)
        self._before, self.bundles = None, []

    def _refuse_gone(self, final: Mapping[Path, Path]) -> None:
        root = self.server.root
        for path, saved in final.items():
            for bundle in chain_files.named(files.read(saved), root):
                lineage = root.parent / "live" / bundle.stem
                if not bundle.exists() and not lineage.is_dir():
                    raise Error(
                        f"cannot roll back: the previous {path} refers to certificate"
                        f" {bundle.stem}, which no longer exists; no changes were made",
                        hint=f"copy the parts you need from {saved}",
                    )

    def _recall(self, newest_first: Sequence[Path], *, interrupted: bool) -> None:
        serving = self.server.serving
        if serving.baseline:
            return  # this process has made the change
        for directory in newest_first[-1:]:
            serving.recall(baseline.noted(checkpoints.notes_in(directory)))
        if not serving.baseline and not interrupted:
            with contextlib.suppress(Error):  # it is to be undone, whatever it is
                serving.record_before_undo(self.server.configuration)

    def _restore(self, directory: Path) -> None:
        edited = self.server.root / "main.cf.before-rollback"
        for path in checkpoints.restore(directory, edited):
            if path != self.server.postfix.main_cf:
                logger.warning(
                    "%s was restored, of another instance than %s; it is not reloaded"
                    "\nHint: reload the Postfix that it belongs to",
                    path,
                    self.server.directory,
                )


def _final(newest_first: Sequence[Path]) -> dict[Path, Path]:
    """Return which files there will be, each with the copy that it is restored from."""
    final: dict[Path, Path] = {}
    for directory in newest_first:
        final.update(checkpoints.saved_in(directory))
        for path in checkpoints.created_in(directory):
            final.pop(path, None)
    return final
