"""Taking a lineage out of Postfix, when the administrator says so.

certbot's checkpoints take no part, since a key must not enter them: what fails is
undone here, and what was done is shown as a diff.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from certbot_postfix.change import transaction
from certbot_postfix.change.plan import Edit, Plan
from certbot_postfix.errors import Error, named_logger
from certbot_postfix.inbound import chain_files, dropped, expectations, main_cf, sni
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.renew import Renewal, judged
from certbot_postfix.inbound.sni import Table
from certbot_postfix.inbound.state import Inventory, leaves
from certbot_postfix.postfix import instances
from certbot_postfix.postfix.serving import Serving
from certbot_postfix.system import files, signals

logger = named_logger(__name__)


@dataclass(slots=True)
class Unneeded:
    """A checkpoint that nobody keeps, since a removal undoes itself."""

    created: list[Path] = field(default_factory=list)

    def before_change(self, path: Path, note: str) -> None:
        """Do nothing: the plan has the old content."""

    def before_creation(self, path: Path) -> None:
        """Take note of *path*, which is removed if something fails."""
        self.created.append(path)


class Removal:
    """The removal of the lineage *name* from the Postfix of *inventory*."""

    def __init__(self, inventory: Inventory, serving: Serving, name: str) -> None:
        self.inventory = inventory
        self.serving = serving
        self.lineage = Lineage.live(inventory.live, name)
        self.path = inventory.bundles / f"{name}.pem"

    def propose(self, staging: Path | None) -> Plan:
        """Plan it; nothing live changes."""
        inventory = self.inventory
        if self.path not in inventory.deployed() and not self.path.exists():
            raise Error(
                f"there is no bundle {self.path}, and Postfix names none: nothing was"
                " done",
                hint="certbot-postfix status shows what there is",
            )
        configuration, table = inventory.configuration, self._table()
        exists = self.lineage.fullchain.exists()
        plain = (self.lineage.key, self.lineage.fullchain) if exists else None
        decisions = chain_files.forget(configuration, self.path, plain)
        if exists and chain_files.configured(configuration) == [self.path]:
            judged(inventory, self.lineage)  # Postfix will read what certbot has
        if self.path in inventory.named_by_hand:
            raise Error(
                f"{self.path} is named by a table of names that is not ours: nothing"
                " was changed",
                hint="take it out there first",
            )
        for path in self._lost():
            logger.warning(
                "%s, which the table of names has, is gone, and so is its lineage: its"
                " names leave the table, too",
                path,
            )
        path, before = inventory.tables.path, inventory.tables.text()
        edit = Edit(path, before, before)
        if inventory.form and table:
            edit = Edit(path, before, sni.render(table))
        elif inventory.form:
            edit = Edit(path, before, None)
            decisions += main_cf.without_table(configuration, path)
        edit_of_main_cf = transaction.stage(
            inventory.postfix, tuple(decisions), staging
        )
        return Plan(
            tuple(decisions), edit_of_main_cf, edit, inventory.form if table else ""
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
        """Do what is planned, prove it, and remove the bundle.

        Returns whether that was removed: another instance may use it.
        """
        if not planned.empty:
            self.inventory.postfix.refuse_elsewhere(self.inventory.configuration)
            self.serving.foresee(self.inventory.configuration)
            with signals.interruptible(), self._undone_on_failure(planned):
                self._write(planned)
        self.inventory.tables.databases.keep()
        if planned.table.after is None:
            self.inventory.tables.databases.remove()
        if self._used_elsewhere():
            return False
        leftovers = files.leftovers(self.path)
        files.remove(self.path, *leftovers, dropped.note(self.path))
        return True

    def _write(self, planned: Plan) -> None:
        inventory, before = self.inventory, self.inventory.table
        if planned.form and not planned.table.empty:
            inventory.tables.build(planned.form, self._table())
        transaction.commit(planned, Unneeded())
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
        self.serving.activate(inventory.configuration, wanted)

    def _used_elsewhere(self) -> bool:
        inventory = self.inventory
        for other in instances.others(inventory.postfix, inventory.configuration):
            try:
                if self.path in Inventory(other, inventory.bundles).deployed():
                    logger.warning("%s stays: %s uses it", self.path, other.directory)
                    return True
            except Error as error:
                logger.warning("%s stays: %s may use it", self.path, other.directory)
                logger.debug("%s", error)
                return True
        return False

    @contextmanager
    def _undone_on_failure(self, planned: Plan) -> Iterator[None]:
        before = self.inventory.table
        try:
            yield
        except BaseException as error:
            with signals.uninterruptible():
                self.inventory.tables.databases.undo()
                transaction.revert(planned)
                Renewal(self.inventory, self.serving).bring_back(before)
            if isinstance(error, Error):
                error.message += "; what was there before is back"
            raise
