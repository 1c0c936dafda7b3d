"""Where that lies, beside the bundles, which is there only where DANE is in use.

`certbot renew` looks for it twice a day, so nothing else is loaded for that.
"""

from pathlib import Path

MEMORY = ".tlsa.json"
# No bundle has such a name, whatever its lineage is called.
NEXT_KEY = ".next.key"


def memory(bundle: Path) -> Path:
    """Return where what is remembered for *bundle* is kept."""
    return bundle.with_suffix(MEMORY)


def next_key(root: Path, name: str) -> Path:
    """Return where the next key of the lineage *name* waits, below *root*."""
    return root / f"{name}{NEXT_KEY}"
