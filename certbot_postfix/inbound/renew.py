"""A renewed certificate is put into service at one instance, or what was there stays.

Only bundles and the SNI map are written, which are ours; Postfix's configuration is
not.  certbot has no net below a renewal, so the undo is here.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from pathlib import Path

from certbot_postfix.change.plan import Edit
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.errors import CertificateError, ProgramError, named_logger
from certbot_postfix.inbound import restore, served, sni, state, transitions
from certbot_postfix.inbound.expectations import expected
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.served import ServedFile
from certbot_postfix.inbound.server import Server
from certbot_postfix.inbound.state import State
from certbot_postfix.postfix import map_types
from certbot_postfix.postfix.questions import Expectation
from certbot_postfix.system import files
from certbot_postfix.tls import replacement
from certbot_postfix.tls.bundle import Bundle

logger = named_logger(__name__)

Bundles = Mapping[Path, Bundle]


def renew(
    server: Server, before: State, bundles: Bundles, by_hand: Collection[Expectation]
) -> None:
    """Have *bundles* served, which may be in place already, and what is named by hand.

    Raises `Error`; then *server* serves what it served *before*.
    """
    new = [ServedFile(path, bundle.leaf) for path, bundle in bundles.items()]
    after = after_renewal(server, before, new)
    keys = transitions.changed_keys(before, after, new)
    wanted = [*expected(after, keys, new), *by_hand]
    stale = {path: it.pem for path, it in bundles.items() if out_of_date(path, it)}
    paths = (*bundles, server.sni_map.path)
    if (
        stale
        or by_hand
        or not server.serving.serves_already(after.configuration, wanted, paths)
    ):
        _replace(server, before, after, stale, wanted)
    server.sni_map.databases.discard_backups()


def after_renewal(server: Server, before: State, new: Collection[ServedFile]) -> State:
    """Return what *server* serves once it has *new*."""
    after = transitions.renewed(before, new)
    if before.table.keys() - after.table.keys():
        after = transitions.inherited(before, state.with_all(after))
    keys = transitions.changed_keys(before, after, new)
    return state.look_up(after, server.postfix, keys)


def _replace(
    server: Server,
    before: State,
    after: State,
    stale: Mapping[Path, bytes],
    wanted: Collection[Expectation],
) -> None:
    """Write what is new, and have it served; or put back what is old."""
    change = Transaction((server.sni_map.databases,))
    change.begin(server.serving, after.configuration)
    with change.undone_on_failure(
        lambda paths: restore.restore(server, before.table, *paths)
    ):
        with server.serving.reporter.step("Writing files"):
            for path, pem in stale.items():
                change.put_bundle(path, pem)
            complete = _write(server, before, after, stale, change)
        if not complete:
            wanted = [
                expectation for expectation in wanted if expectation.server_name is None
            ]
        server.serving.reload_and_verify(after.configuration, wanted)


def _write(
    server: Server,
    before: State,
    after: State,
    stale: Collection[Path],
    change: Transaction,
) -> bool:
    """Write the SNI map, and its database where copies in it are old.

    Returns whether names can be served by it.  A map that Postfix could not use
    before, such as of a type that it has lost, keeps no certificate back.
    """
    if not after.map_type:
        return True
    _advise(server, after)
    text = sni.render(after.table)
    try:
        _build(server, before, after, stale)
    except ProgramError as error:
        if server.sni_map.usable(after.map_type):
            raise
        logger.error(  # noqa: TRY400 - it is known why
            "%s: clients that ask for a server name get no TLS, as before: %s",
            server.sni_map.path,
            error.message,
        )
        return False
    old = server.sni_map.text()
    if text != old:
        change.write(Edit(server.sni_map.path, old, text))
    return True


def _build(
    server: Server, before: State, after: State, stale: Collection[Path]
) -> None:
    changed = sni.changed_keys(before.table, after.table, *map(str, stale))
    if not stale or before.table.keys() - after.table.keys():
        # Copies may be old anywhere.
        server.sni_map.build(after.map_type, after.table)
    elif changed:
        server.sni_map.build(after.map_type, after.table, changed)


def _advise(server: Server, after: State) -> None:
    """Warn of a map type that this Postfix is about to lose."""
    usual = map_types.chosen(
        server.postfix,
        after.configuration,
        after.map_type,
        len(after.table),
        sni.LARGE,
    )
    named = f"{after.map_type}:{server.sni_map.path}"
    message = map_types.outdated(after.configuration, named, usual, after.a_name)
    if message:
        logger.warning("%s", message)


def load_and_check(
    before: State, lineage: Lineage, path: Path
) -> tuple[Bundle, list[str]]:
    """Return the bundle of *lineage*, and what is remarkable when it replaces *path*.

    Raises `CertificateError` if it must not.
    """
    bundle, default = lineage.bundle(), before.default
    is_default = any(file.path == path for file in default)
    beside = [*served.read(map(Path, sni.beside(before.table, str(path))))]
    beside += [file for file in default if is_default and file.path != path]
    host = before.host if is_default else ""
    now = datetime.now(timezone.utc)
    try:
        replacement.refuse_second(bundle.leaf, [file.leaf for file in beside])
        if not is_default and sni.keys_with(before.table, str(path)):
            sni.refuse_unsafe(bundle.leaf.key_type)
        old = next(iter(before.chain(path)), None)
        return bundle, replacement.check(bundle.leaf, old, host, now)
    except CertificateError as error:
        raise CertificateError(
            f"certificate {lineage.name} was not installed: {error.message}",
            hint=lineage.advice(error.hint),
        ) from error


def out_of_date(path: Path, bundle: Bundle) -> bool:
    """Whether the file *path* is not yet *bundle*."""
    return not path.exists() or files.read(path) != bundle.pem
