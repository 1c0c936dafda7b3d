"""Taking a lineage out of Postfix, when the administrator says so.

certbot's checkpoints take no part, since a key must not enter them: what fails is
undone here, and what was done is shown as a diff.
"""

from datetime import datetime, timezone
from pathlib import Path

from certbot_postfix.change import staging
from certbot_postfix.change.plan import Edit, Plan
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.dane import places
from certbot_postfix.errors import Error, enumerated, named_logger
from certbot_postfix.inbound import (
    candidates,
    chain_files,
    chain_parameters,
    dropped,
    main_cf,
    restore,
    sni,
    state,
    transitions,
)
from certbot_postfix.inbound.expectations import expected
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.renew import load_and_check
from certbot_postfix.inbound.server import Server
from certbot_postfix.inbound.state import State
from certbot_postfix.postfix.decisions import Change, Decision
from certbot_postfix.system import files

logger = named_logger(__name__)


class Removal:
    """The removal of the lineage *name* from the Postfix of *server*."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.before = server.read()
        self.lineage = Lineage.live(self.before.bundles.live, name)
        places = [*self.before.used(name), self.before.bundles.new(name)]
        self.path = places[0]
        self._after = self._forgotten()

    def propose(self, directory: Path | None) -> Plan:
        """Plan it; copies are staged below *directory*, and no live file changes."""
        if self.path not in self.before.deployed and not self.path.exists():
            names = sorted({path.stem for path in self.before.deployed})
            raise Error(
                f"Postfix does not use a certificate named {self.lineage.name}."
                f" Available: {enumerated(names, most=20) or 'none'}"
            )
        decisions = self._decisions()
        for path in self._lost():
            logger.warning(
                "%s and its lineage no longer exist; its names are removed from the SNI"
                " map, too",
                path,
            )
        edit = self._sni_map()
        if edit.after is None:
            decisions += main_cf.without_table(self.before.configuration, edit.path)
        edited = staging.stage(self.server.postfix, tuple(decisions), directory)
        return Plan(tuple(decisions), edited, (edit,))

    def warning(self, planned: Plan) -> str:
        """Return what is to be said of what is planned, if there is something."""
        fullchain = str(self.lineage.fullchain)
        if not any(
            isinstance(item, Change) and fullchain in item.new
            for item in planned.decisions
        ):
            return ""
        return (
            f"Postfix will read certbot's own files in {self.lineage.fullchain.parent}:"
            " without this plugin, it has a renewed certificate only after a reload"
            "\nHint: add a deploy hook before you remove it: certbot reconfigure"
            f" --cert-name {self.lineage.name} --deploy-hook 'postfix reload'"
        )

    def _decisions(self) -> list[Decision]:
        """Return what becomes of main.cf; raise `Error` if that cannot be."""
        configuration = self.before.configuration
        exists = self.lineage.fullchain.exists()
        plain = (self.lineage.key, self.lineage.fullchain) if exists else None
        decisions = chain_parameters.forget(configuration, self.path, plain)
        if exists and chain_files.configured(configuration) == [self.path]:
            self._check_plain()
        if self.path in self.before.by_hand:
            raise Error(
                f"an SNI map of your own lists {self.path}; no changes were made",
                hint="remove it there first",
            )
        return decisions

    def _check_plain(self) -> None:
        """Raise `Error` if Postfix must not read what certbot has."""
        bundle, _ = load_and_check(self.before, self.lineage, self.path)
        candidate = candidates.replacing(self.before, self.path, bundle)
        now = datetime.now(timezone.utc)
        if held := self.server.gate.hold(candidate, now):
            name = self.lineage.name
            raise Error(
                f"{name} cannot be removed: Postfix would read its renewed key in"
                f" {self.lineage.fullchain.parent}; {held.reason}",
                hint=f"{held.hint}; `certbot-postfix deploy --cert-name {name}"
                " --tlsa-ignore` deploys it nevertheless",
            )

    def _sni_map(self) -> Edit:
        """Return what becomes of the SNI map; None if nothing is left in it."""
        path, text = self.server.sni_map.path, self.server.sni_map.text()
        map_type, table = self.before.map_type, self._after.table
        if not map_type:
            return Edit(path, text, text)
        if not table:
            return Edit(path, text, None)
        return Edit(path, text, sni.render(table), map_type=map_type)

    def _forgotten(self) -> State:
        """Return the state after it, without SNI map if the default is all of it."""
        after = transitions.forgotten(self.before, [self.path, *self._lost()])
        if self.before.table.keys() - after.table.keys():
            after = transitions.inherited(self.before, state.with_all(after))
        default = {str(file.path) for file in after.default}
        if sni.bundles(after.table) <= default:
            return transitions.without_sni_map(after)
        return after

    def _lost(self) -> list[Path]:
        """Return the other bundles in the SNI map that nothing can bring back."""
        live = self.before.bundles.live
        paths = map(Path, sorted(sni.bundles(self.before.table) - {str(self.path)}))
        return [
            path
            for path in paths
            if not path.exists()
            and not Lineage.live(live, path.stem).fullchain.exists()
        ]

    def carry_out(self, planned: Plan) -> bool:
        """Do what is planned, verify it, and remove the bundle.

        Returns whether that was removed: another instance may use it.
        """
        server = self.server
        databases = server.sni_map.databases
        if not planned.empty:
            server.postfix.refuse_elsewhere(self.before.configuration)
            change = Transaction((databases,))
            change.begin(server.serving, self.before.configuration)
            with change.undone_on_failure(
                lambda _: restore.restore(server, self.before.table)
            ):
                self._write(planned, change)
        databases.discard_backups()
        if planned.maps[0].after is None:
            databases.remove()
        elsewhere = self._used_elsewhere()
        if elsewhere is None or self.path in elsewhere:
            return False
        ours = (self.path, dropped.note(self.path), places.memory(self.path))
        files.remove(*ours, *files.leftovers(self.path))
        if not elsewhere:  # all instances have one next key
            files.remove(places.next_key(self.before.bundles.root, self.lineage.name))
        return True

    def _write(self, planned: Plan, change: Transaction) -> None:
        server, edit = self.server, planned.maps[0]
        with server.serving.reporter.step("Writing files"):
            if edit.map_type and not edit.empty:
                table = self._after.table
                server.sni_map.build(edit.map_type, table, None, change.register)
            change.commit(planned)
        server.current.changed()
        keys = sni.keys_with(self.before.table, str(self.path))
        after = state.look_up(server.read(), server.postfix, keys)
        server.serving.reload_and_verify(after.configuration, expected(after, keys))

    def _used_elsewhere(self) -> set[Path] | None:
        """Return the bundles of the lineage that other instances use.

        None if that is not known of one.
        """
        used: set[Path] = set()
        for other in self.server.others:
            try:
                theirs = other.read().used(self.lineage.name)
            except Error as error:
                logger.warning(
                    "%s is not removed: %s may use it", self.path, other.directory
                )
                logger.debug("%s", error)
                return None
            if self.path in theirs:
                logger.warning(
                    "%s is not removed: %s uses it", self.path, other.directory
                )
            used.update(theirs)
        return used
