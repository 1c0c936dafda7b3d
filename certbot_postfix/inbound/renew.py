"""Putting renewed certificates into service, or leaving what was there.

Only bundles and the table of names are written, which are ours; Postfix's configuration
is not.  certbot has no net below a renewal, so the undo is here.
"""

import contextlib
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from pathlib import Path

from certbot_postfix.change import transaction
from certbot_postfix.change.plan import Edit
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.dane.gate import Gate
from certbot_postfix.errors import CertificateError, Error, ProgramError, named_logger
from certbot_postfix.inbound import expectations, sni
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.placement import Deployed
from certbot_postfix.inbound.sni import Table
from certbot_postfix.inbound.state import Inventory, certificates_in, leaves
from certbot_postfix.postfix import map_types
from certbot_postfix.postfix.questions import Expectation
from certbot_postfix.postfix.serving import Serving
from certbot_postfix.system import files, signals
from certbot_postfix.tls import replacement
from certbot_postfix.tls.bundle import Bundle

logger = named_logger(__name__)


class Renewal:
    """Renewals for the Postfix of *inventory*, verified by *serving*.

    The *gate* holds back those that TLSA records forbid.
    """

    def __init__(
        self, inventory: Inventory, serving: Serving, gate: Gate | None = None
    ) -> None:
        self.inventory = inventory
        self.serving = serving
        self.gate = gate or Gate()
        self.tables = inventory.tables

    def restore(self, before: Table, *paths: Path) -> None:
        """Make Postfix serve what its files, which are the old ones again, say.

        The table was *before*, and the bundles *paths* were others.
        """
        inventory = self.inventory
        inventory.forget()
        self._recreate()
        table = inventory.table
        if inventory.form:
            self.tables.rebuild(inventory.form, before)
        keys = sni.changed_keys(before, table, *map(str, paths))
        keys -= inventory.answered(keys).keys()
        peers = leaves({Path(path) for key in keys for path in table[key]})
        again = expectations.restored(table, keys, inventory.default(), peers)
        self.serving.restore_and_verify(inventory.configuration, list(again))
        # Another instance that reads those of the root may still have to be reloaded.
        if inventory.bundles.own != inventory.root or not inventory.siblings:
            transaction.discard_backups(inventory.bundles.own)
        self.tables.databases.discard_backups()

    def _recreate(self) -> None:
        """Write the bundles again that an instance wants, and that were removed."""
        inventory = self.inventory
        wanted = set(inventory.deployed())
        for other in inventory.siblings:
            with contextlib.suppress(Error):  # it is broken
                wanted |= set(Inventory(other, inventory.root).deployed())
        for path in wanted:
            lineage = Lineage.live(inventory.live, path.stem)
            if not path.exists() and lineage.fullchain.exists():
                Transaction(()).put_bundle(path, lineage.bundle().pem)

    def update(
        self, bundles: Mapping[Path, Bundle], by_hand: list[Expectation]
    ) -> None:
        """Have *bundles* served, which may be in place already."""
        inventory = self.inventory
        new = [Deployed(path, bundle.leaf) for path, bundle in bundles.items()]
        table = self._renewed(bundles)
        inherited = inventory.inherited(table, {each.path: each.leaf for each in new})
        table = {**table, **inherited}
        names = {name for each in new for name in each.leaf.names}
        answered = inventory.answered(with_parents(names))
        wanted = [*promised(inventory, table, new, answered), *by_hand]
        heirs = leaves(map(Path, sni.bundles(inherited) - set(map(str, bundles))))
        wanted += expectations.restored(table, inherited, [], heirs)
        stale = {
            path: each.pem for path, each in bundles.items() if out_of_date(path, each)
        }
        if stale or by_hand or not self._served(bundles, wanted):
            self.serving.record_baseline(inventory.configuration)
            self._replace(stale, table, wanted)
        self.tables.databases.discard_backups()

    def _served(self, bundles: Collection[Path], wanted: list[Expectation]) -> bool:
        paths = (*bundles, self.tables.path)
        return self.serving.serves_already(self.inventory.configuration, wanted, paths)

    def _replace(
        self, stale: dict[Path, bytes], table: Table, wanted: list[Expectation]
    ) -> None:
        """Write what is new, and have it served; or put back what is old."""
        before, change = self.inventory.table, Transaction((self.tables.databases,))
        undone = change.undone_on_failure(lambda paths: self.restore(before, *paths))
        with signals.ending(), signals.interruptible(), undone:
            with self.serving.reporter.step("Writing files"):
                for path, pem in stale.items():
                    change.put_bundle(path, pem)
                complete = self._write(table, stale, change)
            if not complete:
                wanted = [each for each in wanted if each.server_name is None]
            self.serving.reload_and_verify(self.inventory.configuration, wanted)

    def _write(
        self, table: Table, stale: Mapping[Path, bytes], change: Transaction
    ) -> bool:
        """Write the table, and its database where copies in it are old.

        Returns whether names can be served by it.  A map that Postfix could not use
        before, such as of a type that it has lost, keeps no certificate back.
        """
        inventory = self.inventory
        if not inventory.form:
            return True
        self._advise(table)
        text = sni.render(table)
        try:
            self._build(table, stale)
        except ProgramError as error:
            if self.tables.usable(inventory.form):
                raise
            logger.error(  # noqa: TRY400 - it is known why
                "%s: clients that ask for a server name get no TLS, as before: %s",
                self.tables.path,
                error.message,
            )
            return False
        before = self.tables.text()
        if text != before:
            change.write(Edit(self.tables.path, before, text))
        return True

    def _build(self, table: Table, stale: Mapping[Path, bytes]) -> None:
        inventory = self.inventory
        before = inventory.table
        changed = sni.changed_keys(before, table, *map(str, stale))
        if not stale or before.keys() - table.keys():
            self.tables.build(inventory.form, table)  # copies may be old anywhere
        elif changed:
            self.tables.build(inventory.form, table, changed)

    def _advise(self, table: Table) -> None:
        inventory = self.inventory
        usual = map_types.chosen(
            inventory.postfix,
            inventory.configuration,
            inventory.form,
            len(table),
            sni.LARGE,
        )
        named = f"{inventory.form}:{self.tables.path}"
        names = [path.stem for path in inventory.deployed()] or ["NAME"]
        told = map_types.outdated(inventory.configuration, named, usual, names[0])
        if told:
            logger.warning("%s", told)

    def _renewed(self, bundles: Mapping[Path, Bundle]) -> Table:
        table = self.inventory.table
        default = self.inventory.default()
        of_default = [str(each.path) for each in default]
        for path, bundle in bundles.items():
            safe = bundle.leaf.key_type in sni.KEY_TYPES
            able = bundle.leaf.names if safe else frozenset[str]()
            names = self.inventory.listed(path, able, default)
            if table:
                table = sni.renewed(table, str(path), names, of_default)
        return table


def load_and_check(
    inventory: Inventory, lineage: Lineage, path: Path
) -> tuple[Bundle, list[str]]:
    """Return the bundle of *lineage*, and what is remarkable when it replaces *path*.

    Raises `CertificateError` if it must not.
    """
    bundle, default = lineage.bundle(), inventory.default()
    old = next(iter(certificates_in(path)), None)
    is_default = any(each.path == path for each in default)
    host = inventory.configuration.value("myhostname") if is_default else ""
    beside = leaves(map(Path, sni.beside(inventory.table, str(path))))
    beside += [each for each in default if is_default and each.path != path]
    now = datetime.now(timezone.utc)
    try:
        replacement.refuse_second(bundle.leaf, [each.leaf for each in beside])
        if not is_default and sni.keys_with(inventory.table, str(path)):
            sni.refuse_unsafe(bundle.leaf.key_type)
        return bundle, replacement.check(bundle.leaf, old, host, now)
    except CertificateError as error:
        raise CertificateError(
            f"certificate {lineage.name} was not installed: {error.message}",
            hint=lineage.advice(error.hint),
        ) from error


def promised(
    inventory: Inventory, table: Table, new: list[Deployed], answered: Mapping[str, str]
) -> list[Expectation]:
    """Return what must be shown when *new* is deployed, and that the default is."""
    found = list(expectations.promised(inventory.configuration, table, new, answered))
    default = inventory.default()
    if default and not any(each.server_name is None for each in found):
        found.append(Expectation(None, tuple(each.leaf for each in default)))
    return found


def with_parents(names: set[str]) -> set[str]:
    """Return the keys of *names*, and those that are looked up after them."""
    keys = sni.keys(names)
    return keys.union(*map(sni.parents, keys))


def out_of_date(path: Path, bundle: Bundle) -> bool:
    """Whether the file *path* is not yet *bundle*."""
    return not path.exists() or files.read(path) != bundle.pem
