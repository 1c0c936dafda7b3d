"""Where our bundles are: in a directory below certbot's, which we call the root.

The first instance of Postfix has its bundles there, a further one of postmulti(1) in a
directory of its own below.  Which bundle an instance reads is what its own files name:
further ones used those of the first before they had their own.
"""

from dataclasses import dataclass
from pathlib import Path

from certbot_postfix.postfix import own_names
from certbot_postfix.system.directories import real


def below(config_dir: str) -> Path:
    """Return the root below certbot's directory, however that is spelled.

    Postfix's files name what is in there, and are compared with it.
    """
    return real(Path(config_dir)) / "postfix"


def is_bundle(path: Path, root: Path) -> bool:
    """Whether *path* is in the place of a bundle, of whatever instance."""
    parent = path.parent
    return parent == root or (
        parent.parent == root and own_names.instance(parent.name) is not None
    )


def directories(root: Path) -> list[Path]:
    """Return those directories that have bundles, the root first."""
    if not root.is_dir():
        return []
    return [root, *(path for path in sorted(root.iterdir()) if _is_further(path))]


def of_lineage(root: Path, name: str, directory: Path) -> list[tuple[Path, Path]]:
    """Return the bundles that the lineage *name* may have, each with its instance.

    Those in the root are of the instance in *directory*, unless it has its own.
    """
    own = root / own_names.of_instance(directory)
    pairs = [
        (place / f"{name}.pem", own_names.instance(place.name) or directory)
        for place in directories(root)
        if place != root or not own.is_dir()
    ]
    return pairs or [(root / f"{name}.pem", directory)]


def _is_further(path: Path) -> bool:
    return own_names.instance(path.name) is not None and path.is_dir()


@dataclass(frozen=True, slots=True)
class Bundles:
    """The bundles of one instance: new ones are in its *own* directory."""

    root: Path
    own: Path

    @property
    def live(self) -> Path:
        """certbot's directory of lineages."""
        return self.root.parent / "live"

    def new(self, name: str) -> Path:
        """Return where the bundle of the lineage *name* is written."""
        return self.own / f"{name}.pem"
