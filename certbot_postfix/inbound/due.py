"""Which lineages are newer than what an instance serves of them.

That is known from the files alone, so a renewal that was missed heals by itself.
"""

from collections.abc import Collection
from pathlib import Path

from certbot_postfix.errors import Error, named_logger
from certbot_postfix.inbound import served, sni, transitions
from certbot_postfix.inbound.bundles import directories, is_bundle
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.state import State
from certbot_postfix.system import files

logger = named_logger(__name__)


def lineages(live: Path) -> list[Lineage]:
    """Return all lineages that certbot has in its directory *live*."""
    paths = sorted(live.iterdir()) if live.is_dir() else []
    every = (Lineage.live(live, path.name) for path in paths)
    return [lineage for lineage in every if lineage.fullchain.exists()]


def pending(state: State, known: Collection[str] = ()) -> list[Lineage]:
    """Return the deployed lineages that are newer than their bundles.

    Those with *known* names are left out.  Only those are read that certbot touched
    after us, or that are not verified.
    """
    unverified = {
        path
        for place in directories(state.bundles.root)
        for path in place.glob(f".*{files.OLD}")
    }
    used: dict[str, list[Path]] = {}
    for path in state.deployed:
        used.setdefault(path.stem, []).append(path)
    return [
        lineage
        for lineage in lineages(state.bundles.live)
        if lineage.name not in known
        and any(
            _is_suspect(lineage, path, unverified) and _is_pending(state, lineage, path)
            for path in used.get(lineage.name, ())
        )
    ]


def _is_suspect(lineage: Lineage, path: Path, unverified: Collection[Path]) -> bool:
    if files.backup_name(path) in unverified or not path.exists():
        return True
    return lineage.fullchain.lstat().st_mtime >= path.stat().st_mtime


def _is_pending(state: State, lineage: Lineage, path: Path) -> bool:
    try:
        return lineage.pending_for(path, state.configuration.directory)
    except Error as error:
        # One that is broken is not to keep others from being renewed.
        logger.error("lineage %s: %s", lineage.name, error)  # noqa: TRY400
        return False


def misplaced(state: State) -> list[Lineage]:
    """Return the lineages for whose names the SNI map is not as they have them."""
    root, live = state.bundles.root, state.bundles.live
    by_path = {
        path: Lineage.live(live, path.stem)
        for path in map(Path, sorted(sni.bundles(state.table)))
        if is_bundle(path, root)
    }
    existing = [path for path in by_path if by_path[path].fullchain.exists()]
    return [
        by_path[file.path]
        for file in served.read(existing)
        if transitions.renewed(state, [file]).table != state.table
    ]
