"""Which certificates Postfix serves to which hosts, or will, for the sake of DANE.

Raises `Error` if Postfix's configuration cannot be read.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from certbot_postfix.dane.gate import Candidate
from certbot_postfix.dane.history import Chain
from certbot_postfix.inbound.bundles import is_bundle
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.placement import Deployed
from certbot_postfix.inbound.state import Inventory, certificates_in
from certbot_postfix.tls.bundle import Bundle
from certbot_postfix.tls.certificates import Certificate, covers


def candidates(inventory: Inventory) -> Iterator[Candidate]:
    """Yield what Postfix serves: ours, and what else main.cf names.

    What certbot has renewed since takes the place of what is served.
    """
    default = inventory.default()
    paths = [each.path for each in default]
    for path in dict.fromkeys((*paths, *inventory.deployed())):
        if served := tuple(certificates_in(path)):
            new = _newest(inventory, path) or served
            yield _candidate(inventory, path, (served, new), default)


def replacing(inventory: Inventory, path: Path, bundle: Bundle) -> Candidate | None:
    """Return *bundle* as what takes the place of *path*; None if that has it already.

    It may also be served beside others, or via SNI.
    """
    served = tuple(certificates_in(path))
    if served and served[0] == bundle.leaf:
        return None
    new = tuple(Certificate.all_from_pem(bundle.pem))
    return _candidate(inventory, path, (served, new), inventory.default())


def _candidate(
    inventory: Inventory,
    path: Path,
    chains: tuple[Chain, Chain],
    default: Collection[Deployed],
) -> Candidate:
    served, new = chains
    own = inventory.configuration.value("myhostname")
    by_default = path in {each.path for each in default}
    presents = by_default or covers(new[0].names, own)
    others = ((each.leaf,) for each in default if each.path != path)
    return Candidate(
        path.stem,
        path if is_bundle(path, inventory.root) else None,
        (*([own] if presents else []), *sorted(new[0].names)),
        (*([served] if served else []), *others),
        new,
        own,
    )


def _newest(inventory: Inventory, bundle: Path) -> tuple[Certificate, ...]:
    """Return the chain that certbot has for *bundle*; none if that is no lineage."""
    if not is_bundle(bundle, inventory.root):
        return ()
    return tuple(certificates_in(Lineage.live(inventory.live, bundle.stem).fullchain))
