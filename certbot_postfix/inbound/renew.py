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
from certbot_postfix.errors import CertificateError, Error, ProgramError, named_logger
from certbot_postfix.inbound import expectations, sni
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.placement import Deployed
from certbot_postfix.inbound.sni import Table
from certbot_postfix.inbound.state import Inventory, certificates_in, leaves
from certbot_postfix.postfix import instances, map_types
from certbot_postfix.postfix.questions import Expectation
from certbot_postfix.postfix.serving import Serving
from certbot_postfix.system import files, signals
from certbot_postfix.tls import replacement
from certbot_postfix.tls.bundle import Bundle

logger = named_logger(__name__)


class Renewal:
    """Renewals for the Postfix of *inventory*, verified by *serving*."""

    def __init__(self, inventory: Inventory, serving: Serving) -> None:
        self.inventory = inventory
        self.serving = serving
        self.tables = inventory.tables

    def renew(self, lineages: list[Lineage]) -> bool:
        """Put the newest certificates of *lineages* into service, where they are used.

        Postfix is reloaded once.  If that fails, they are tried one by one; the failure
        of the first is raised, that of others logged.  Returns whether any is used.
        """
        try:
            return self._together(lineages)
        except Error as error:
            if len(lineages) < 2:
                raise
            logger.debug("together, they failed: %s", error)
        used = self._together(lineages[:1])
        for lineage in lineages[1:]:
            try:
                self._together([lineage])
            except Error as error:
                logger.error("%s", error)  # noqa: TRY400 - it is known why
        return used

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
        # Where there are other instances, one of them may still have to be told.
        if not instances.others(inventory.postfix, inventory.configuration):
            transaction.discard_backups(inventory.bundles)
        self.tables.databases.discard_backups()

    def _recreate(self) -> None:
        """Write the bundles again that an instance wants, and that were removed."""
        inventory = self.inventory
        wanted = set(inventory.deployed())
        for other in instances.others(inventory.postfix, inventory.configuration):
            with contextlib.suppress(Error):  # it is broken
                wanted |= set(Inventory(other, inventory.bundles).deployed())
        for path in wanted:
            lineage = Lineage.live(inventory.live, path.stem)
            if not path.exists() and lineage.fullchain.exists():
                Transaction(()).put_bundle(path, lineage.bundle().pem)

    def _together(self, lineages: list[Lineage]) -> bool:
        paths = {self.inventory.path_of(each): each for each in lineages}
        family = Family(self.inventory, lineages)
        here = {path for path in paths if self.inventory.uses(path)}
        bundles = {}
        for path in here | family.used:
            bundles[path], warnings = load_and_check(self.inventory, paths[path])
            family.judge(paths[path])
            for warning in warnings:
                logger.warning("%s: %s", path.stem, warning)
        by_hand = self.inventory.by_hand(lineages)
        if here or by_hand:
            self.update({path: bundles[path] for path in here}, by_hand)
        self.tell(family, bundles)
        for path in bundles:
            files.discard_backup(path)
        return bool(bundles or by_hand)

    def tell(self, family: "Family", bundles: Mapping[Path, Bundle]) -> None:
        """Have the other instances that use *bundles* serve them; raise `Error`."""
        failures = [f"{where}: {why}" for where, why in family.unreadable.items()]
        for view in family.views:
            used = {path: each for path, each in bundles.items() if view.uses(path)}
            serving = Serving(view.postfix, self.serving.timeout, self.serving.say)
            try:
                by_hand = view.by_hand(family.lineages)
                if used or by_hand:
                    Renewal(view, serving).update(used, by_hand)
            except Error as error:
                failures.append(f"{view.postfix.directory}: {error.message}")
        mattering = map(self.inventory.path_of, family.lineages)
        if failures and any(path.exists() for path in mattering):
            raise Error(
                f"{', '.join(each.name for each in family.lineages)}: another instance"
                f" of Postfix than that in {self.inventory.postfix.directory} failed:"
                f" {'; '.join(failures)}",
                hint="mend that instance; certbot renew tries again",
            )

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
            for path, pem in stale.items():
                change.put_bundle(path, pem)
            if not self._write(table, stale, change):
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


class Family:
    """The other instances of Postfix, and what they use of *lineages*."""

    def __init__(self, inventory: Inventory, lineages: Collection[Lineage]) -> None:
        self.lineages = lineages
        self.views: list[Inventory] = []
        self.unreadable: dict[Path, str] = {}
        self.used: set[Path] = set()
        paths = list(map(inventory.path_of, lineages))
        for other in instances.others(inventory.postfix, inventory.configuration):
            view = Inventory(other, inventory.bundles)
            try:
                self.used |= set(filter(view.uses, paths))
                self.views.append(view)
            except Error as error:
                self.unreadable[other.directory] = error.message

    def judge(self, lineage: Lineage) -> None:
        """Raise `CertificateError` if *lineage* must not be served by one of them."""
        for view in self.views:
            if view.uses(view.path_of(lineage)):
                try:
                    load_and_check(view, lineage)
                except CertificateError as error:
                    error.message = f"{view.postfix.directory}: {error.message}"
                    raise


def load_and_check(inventory: Inventory, lineage: Lineage) -> tuple[Bundle, list[str]]:
    """Return the bundle of *lineage*, and what is remarkable when it is deployed.

    Raises `CertificateError` if it must not be.
    """
    path, bundle = inventory.path_of(lineage), lineage.bundle()
    default = inventory.default()
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
            f"lineage {lineage.name} is not deployed: {error.message}",
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
