"""Taking a lineage out of Postfix, when the administrator says so.

certbot's checkpoints take no part, since a key must not enter them: what fails is
undone here, and what was done is shown as a diff.
"""

from pathlib import Path

from certbot_postfix.change import staging
from certbot_postfix.change.plan import Edit, Plan
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.dane import store
from certbot_postfix.errors import Error, enumerated, named_logger
from certbot_postfix.inbound import (
    chain_files,
    chain_parameters,
    dropped,
    expectations,
    main_cf,
    sni,
)
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.renew import Renewal, load_and_check
from certbot_postfix.inbound.sni import Table
from certbot_postfix.inbound.state import Inventory, leaves
from certbot_postfix.postfix.decisions import Change
from certbot_postfix.postfix.serving import Serving
from certbot_postfix.system import files, signals

logger = named_logger(__name__)


class Removal:
    """The removal of the lineage *name* from the Postfix of *inventory*."""

    def __init__(self, inventory: Inventory, serving: Serving, name: str) -> None:
        self.inventory = inventory
        self.serving = serving
        self.lineage = Lineage.live(inventory.live, name)
        new = inventory.bundles.new(name)
        self.path = next(iter(inventory.used(name)), new)

    def propose(self, directory: Path | None) -> Plan:
        """Plan it; copies are staged below *directory*, and no live file changes."""
        inventory = self.inventory
        if self.path not in inventory.deployed() and not self.path.exists():
            names = sorted(path.stem for path in inventory.deployed())
            raise Error(
                f"Postfix does not use a certificate named {self.lineage.name}."
                f" Available: {enumerated(names, most=20) or 'none'}"
            )
        configuration, table = inventory.configuration, self._table()
        exists = self.lineage.fullchain.exists()
        plain = (self.lineage.key, self.lineage.fullchain) if exists else None
        decisions = chain_parameters.forget(configuration, self.path, plain)
        if exists and chain_files.configured(configuration) == [self.path]:
            # Postfix will read what certbot has.
            load_and_check(inventory, self.lineage, self.path)
        if self.path in inventory.named_by_hand:
            raise Error(
                f"an SNI map of your own lists {self.path}; no changes were made",
                hint="remove it there first",
            )
        for path in self._lost():
            logger.warning(
                "%s and its lineage no longer exist; its names are removed from the SNI"
                " map, too",
                path,
            )
        path, before = inventory.tables.path, inventory.tables.text()
        edit = Edit(path, before, before)
        if inventory.form and table:
            edit = Edit(path, before, sni.render(table), map_type=inventory.form)
        elif inventory.form:
            edit = Edit(path, before, None)
            decisions += main_cf.without_table(configuration, path)
        edited = staging.stage(inventory.postfix, tuple(decisions), directory)
        return Plan(tuple(decisions), edited, (edit,))

    def warning(self, planned: Plan) -> str:
        """Return what is to be said of what is planned, if there is something."""
        fullchain = str(self.lineage.fullchain)
        if not any(
            isinstance(each, Change) and fullchain in each.new
            for each in planned.decisions
        ):
            return ""
        return (
            f"Postfix will read certbot's own files in {self.lineage.fullchain.parent}:"
            " without this plugin, it has a renewed certificate only after a reload"
            "\nHint: add a deploy hook before you remove it: certbot reconfigure"
            f" --cert-name {self.lineage.name} --deploy-hook 'postfix reload'"
        )

    def _table(self) -> Table:
        """Return the table without the lineage; nothing if the default is all of it."""
        inventory = self.inventory
        default = {str(each.path) for each in inventory.default()} - {str(self.path)}
        rest: Table = inventory.table
        for path in (str(self.path), *map(str, self._lost())):
            rest = sni.without(rest, path, sni.keys_with(rest, path))
        rest = {**rest, **inventory.inherited(rest, {self.path: None})}
        return {} if sni.bundles(rest) <= default else rest

    def _lost(self) -> list[Path]:
        """Return the other bundles in the table that nothing can bring back."""
        inventory = self.inventory
        paths = map(Path, sorted(sni.bundles(inventory.table) - {str(self.path)}))
        return [
            path
            for path in paths
            if not path.exists()
            and not Lineage.live(inventory.live, path.stem).fullchain.exists()
        ]

    def carry_out(self, planned: Plan) -> bool:
        """Do what is planned, verify it, and remove the bundle.

        Returns whether that was removed: another instance may use it.
        """
        if not planned.empty:
            self.inventory.postfix.refuse_elsewhere(self.inventory.configuration)
            self.serving.record_baseline(self.inventory.configuration)
            change = Transaction((self.inventory.tables.databases,))
            before = self.inventory.table
            again = Renewal(self.inventory, self.serving)
            undone = change.undone_on_failure(lambda _: again.restore(before))
            with signals.interruptible(), undone:
                self._write(planned, change)
        self.inventory.tables.databases.discard_backups()
        if planned.maps[0].after is None:
            self.inventory.tables.databases.remove()
        if self._used_elsewhere():
            return False
        leftovers = files.leftovers(self.path)
        ours = (self.path, dropped.note(self.path), store.path_of(self.path))
        files.remove(*ours, *leftovers)
        return True

    def _write(self, planned: Plan, change: Transaction) -> None:
        inventory, before = self.inventory, self.inventory.table
        edit = planned.maps[0]
        with self.serving.reporter.step("Writing files"):
            if edit.map_type and not edit.empty:
                table = self._table()
                inventory.tables.build(edit.map_type, table, None, change.register)
            change.commit(planned)
        inventory.changed()
        left = sni.keys_with(before, str(self.path))
        default = inventory.default()
        found = (inventory.table.get(key, ()) for key in left)
        peers = leaves({Path(path) for paths in found for path in paths})
        answered = inventory.answered(left.union(*map(sni.parents, left)))
        mine = left - answered.keys()
        wanted = list(expectations.restored(inventory.table, mine, default, peers))
        known = {**dict.fromkeys(answered, ()), **inventory.table}
        wanted += expectations.fallen_back(known, left, default)
        self.serving.reload_and_verify(inventory.configuration, wanted)

    def _used_elsewhere(self) -> bool:
        inventory = self.inventory
        for other in inventory.siblings:
            try:
                if self.path in Inventory(other, inventory.root).deployed():
                    logger.warning(
                        "%s is not removed: %s uses it", self.path, other.directory
                    )
                    return True
            except Error as error:
                logger.warning(
                    "%s is not removed: %s may use it", self.path, other.directory
                )
                logger.debug("%s", error)
                return True
        return False
