"""Which certificates Postfix serves to which hosts, or will, for the sake of DANE.

Raises `Error` if Postfix's configuration cannot be read.
"""

from collections.abc import Iterator
from pathlib import Path

from certbot_postfix.dane import staged
from certbot_postfix.dane.history import Chain
from certbot_postfix.dane.judge import Candidate
from certbot_postfix.inbound.bundles import is_bundle
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.served import ServedFile, certificates_in
from certbot_postfix.inbound.state import State
from certbot_postfix.postfix import services
from certbot_postfix.tls.bundle import Bundle
from certbot_postfix.tls.certificates import Certificate, covers


def candidates(now: State) -> Iterator[Candidate]:
    """Yield what Postfix serves: ours, and what else main.cf names.

    What certbot has renewed since takes the place of what is served, or else the key
    that is staged.
    """
    paths = [file.path for file in now.default]
    for path in dict.fromkeys((*paths, *now.deployed)):
        if served := now.chain(path):
            new = _newest(now, path) or served
            if new == served and is_bundle(path, now.bundles.root):
                new = _with_next_key(now, path, served)
            yield _candidate(now, path, (served, new))


def rolling(now: State, name: str) -> Iterator[Candidate]:
    """Yield the bundles of the lineage *name* with its staged key, or as they are."""
    for path in now.used(name):
        if served := now.chain(path):
            yield _candidate(now, path, (served, _with_next_key(now, path, served)))


def _with_next_key(now: State, path: Path, served: Chain) -> Chain:
    return staged.chain(served, staged.load(now.bundles.root, path.stem))


def replacing(now: State, path: Path, bundle: Bundle) -> Candidate | None:
    """Return *bundle* as what takes the place of *path*; None if that has it already.

    It may also be served beside others, or via SNI.
    """
    served = now.chain(path)
    if served and served[0] == bundle.leaf:
        return None
    new = tuple(Certificate.all_from_pem(bundle.pem))
    return _candidate(now, path, (served, new))


def installing(
    now: State, path: Path, bundle: Bundle, *, by_name: bool
) -> Candidate | None:
    """Return *bundle* as what is installed as *path*; None if it is served so already.

    It may lie there, and not be served, or *by_name* only.
    """
    if ServedFile(path, bundle.leaf) in now.default:
        return None
    in_use = [*now.deployed] if by_name else [file.path for file in now.default]
    served = now.chain(path) if path in in_use else ()
    if served and served[0] == bundle.leaf:
        return None
    new = tuple(Certificate.all_from_pem(bundle.pem))
    return _candidate(now, path, (served, new), by_default=not by_name)


def _candidate(
    now: State, path: Path, chains: tuple[Chain, Chain], *, by_default: bool = False
) -> Candidate:
    served, new = chains
    own, default = now.host, now.default
    by_default = by_default or path in {file.path for file in default}
    presents = by_default or covers(new[0].names, own)
    others = ((file.leaf,) for file in default if file.path != path)
    return Candidate(
        path.stem,
        path if is_bundle(path, now.bundles.root) else None,
        (*([own] if presents else []), *sorted(new[0].names)),
        (*([served] if served else []), *others),
        new,
        own,
        services.ports(now.configuration),
        str(now.configuration.directory),
    )


def _newest(now: State, bundle: Path) -> tuple[Certificate, ...]:
    """Return the chain that certbot has for *bundle*; none if that is no lineage."""
    if not is_bundle(bundle, now.bundles.root):
        return ()
    return tuple(certificates_in(Lineage.live(now.bundles.live, bundle.stem).fullchain))
