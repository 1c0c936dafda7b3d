"""What each ``certbot renew`` looks at for a lineage, before Postfix is asked anything.

certbot comes here twice a day, for every lineage: few files are read, and a program is
started only where something of ours is there, and no option names its place.
"""

import contextlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from certbot_postfix.dane import gate, staged, store
from certbot_postfix.errors import Error
from certbot_postfix.inbound import renewal_settings
from certbot_postfix.outbound import last_refresh
from certbot_postfix.postfix.instance import Postfix


def configuration_directory(root: Path, postconf: str) -> Path | None:
    """Return Postfix's directory, as *postconf* says; None if nothing of ours is there.

    *root* is the directory that has our bundles.
    """
    if not root.is_dir():
        return None
    with contextlib.suppress(Error):  # Postfix is gone: nothing can be deployed
        return Postfix.find(None, postconf=postconf, postfix="").directory
    return None


def is_last(name: str, configurations: Path, installer: str) -> bool:
    """Whether no lineage that *installer* deploys is renewed after *name*.

    certbot takes the files in its directory *configurations* in the order of names.
    """
    return not any(
        renewal_settings.names_installer(path, installer)
        for path in configurations.glob("*.conf")
        if path.name > f"{name}.conf"
    )


def is_overdue(policy_map: Path, root: Path, now: datetime) -> bool:
    """Whether the sources of the *policy_map* were not asked for a day."""
    cache = last_refresh.cache_directory(policy_map, root)
    return last_refresh.overdue(cache, now)


def problems_of_records(
    bundles: Iterable[Path], root: Path, settings: gate.Settings, now: datetime
) -> Iterator[str]:
    """Give what is wrong with the TLSA records of *bundles* that had some.

    Hosts that had none ask no DNS.
    """
    for path in bundles:
        if path.exists() and store.path_of(path).exists():
            key = staged.load(root, path.stem)
            yield from gate.watch(path, key, settings, now)
