"""Which certificates Postfix serves to which hosts, or will, for the sake of DANE.

Raises `Error` if Postfix's configuration cannot be read.
"""

from collections.abc import Iterator
from pathlib import Path

from certbot_postfix.dane.gate import Candidate
from certbot_postfix.inbound.bundles import is_bundle
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.state import Inventory, certificates_in
from certbot_postfix.tls.bundle import Bundle
from certbot_postfix.tls.certificates import Certificate, covers


def candidates(inventory: Inventory) -> Iterator[Candidate]:
    """Yield what Postfix serves: ours, and what else main.cf names.

    What certbot has renewed since takes the place of what is served.
    """
    default = [each.path for each in inventory.default()]
    for path in dict.fromkeys((*default, *inventory.deployed())):
        if served := tuple(certificates_in(path)):
            yield Candidate(
                path.stem,
                path if is_bundle(path, inventory.root) else None,
                hosts(inventory, path, served[0].names),
                (served,),
                _newest(inventory, path) or served,
            )


def renewed(inventory: Inventory, path: Path, bundle: Bundle) -> Candidate:
    """Return *bundle* as what takes the place of the bundle *path*."""
    default = [each.path for each in inventory.default()]
    beside = [each for each in default if each != path] if path in default else []
    served = filter(None, (tuple(certificates_in(each)) for each in (path, *beside)))
    new = tuple(Certificate.all_from_pem(bundle.pem))
    names = hosts(inventory, path, new[0].names)
    return Candidate(path.stem, path, names, tuple(served), new)


def installed(inventory: Inventory, path: Path, bundle: Bundle) -> Candidate:
    """Return *bundle* as what is installed as *path*, by default or via SNI."""
    every = dict.fromkeys((path, *(each.path for each in inventory.default())))
    served = filter(None, (tuple(certificates_in(each)) for each in every))
    new = tuple(Certificate.all_from_pem(bundle.pem))
    names = hosts(inventory, path, new[0].names)
    return Candidate(path.stem, path, names, tuple(served), new)


def hosts(inventory: Inventory, bundle: Path, names: frozenset[str]) -> tuple[str, ...]:
    """Return the hosts that present *bundle*, whose certificate has *names*."""
    myhostname = inventory.configuration.value("myhostname")
    by_default = any(each.path == bundle for each in inventory.default())
    presents = by_default or covers(names, myhostname)
    return (*([myhostname] if presents else []), *sorted(names))


def _newest(inventory: Inventory, bundle: Path) -> tuple[Certificate, ...]:
    """Return the chain that certbot has for *bundle*; none if that is no lineage."""
    if not is_bundle(bundle, inventory.root):
        return ()
    return tuple(certificates_in(Lineage.live(inventory.live, bundle.stem).fullchain))
