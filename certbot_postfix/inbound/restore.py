"""What an instance served before is served again, from files that are the old ones."""

import contextlib
from pathlib import Path

from certbot_postfix.change import transaction
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.errors import Error
from certbot_postfix.inbound import sni, state
from certbot_postfix.inbound.expectations import expected
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.server import Server
from certbot_postfix.inbound.sni import Table
from certbot_postfix.inbound.state import State


def restore(server: Server, before: Table, *paths: Path) -> None:
    """Make *server* serve what its files, which are the old ones again, say.

    Its SNI map was *before*, and the files *paths* were others.  Raises `Error`.
    """
    server.current.forget()
    again = server.read()
    if _recreate(server, again):
        again = server.read()
    if again.map_type:
        server.sni_map.rebuild(again.map_type, before)
    keys = sni.changed_keys(before, again.table, *map(str, paths))
    again = state.look_up(again, server.postfix, keys)
    server.serving.restore_and_verify(again.configuration, expected(again, keys))
    bundles = again.bundles
    # Another instance that reads those of the root may still have to be reloaded.
    if bundles.own != bundles.root or not server.others:
        transaction.discard_backups(bundles.own)
    server.sni_map.databases.discard_backups()


def _recreate(server: Server, again: State) -> bool:
    """Write the bundles again that an instance wants, and that were removed."""
    wanted = {*again.deployed}
    for other in server.others:
        with contextlib.suppress(Error):  # it is broken
            wanted |= {*other.read().deployed}
    missing = [path for path in wanted if not path.exists()]
    for path in missing:
        lineage = Lineage.live(again.bundles.live, path.stem)
        if lineage.fullchain.exists():
            Transaction(()).put_bundle(path, lineage.bundle().pem)
    return bool(missing)
