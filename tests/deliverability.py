"""By which TLS mail of which senders arrives: ``make deliverability``.

Prints the table of docs/profiles.rst: each sender delivers a message to a private
Postfix with each profile and each type of key.  The directory that is given has the
senders that no package of Debian's has, see `tests.lab.senders`.
"""

import itertools
import sys
from pathlib import Path

from tests.internet_nl import CHAINS, PROFILES, served, versions
from tests.lab import Authority
from tests.lab.senders import delivered, senders


def main(build: Path) -> int:
    """Print the table, a row for each sender."""
    missing: list[str] = []
    found = list(senders(build, missing))
    authority = Authority()
    cells: Cells = {}
    for profile, (keys, kinds) in itertools.product(PROFILES, CHAINS.items()):
        with served(authority, profile, kinds) as postfix:
            for sender in found:
                result = delivered(sender, postfix) or "no TLS"
                cells[sender.title, keys, profile.value] = result
                print(profile.value, keys, sender.title, result, file=sys.stderr)
    print(_HEAD)
    for sender in found:
        print(f"   * - {sender.title}")
        for keys in CHAINS:
            print(f"     - {_cell(cells, sender.title, keys)}")
    print(f"\nTo {' with '.join(versions())}.")
    if missing:
        print(f"Could not be had: {', '.join(missing)}.")
    return 0


# By the sender, the keys and the profile.
Cells = dict[tuple[str, str, str], str]


def _cell(cells: Cells, sender: str, keys: str) -> str:
    """Return the result with each profile, once if it is always the same."""
    profiles: dict[str, list[str]] = {}
    for profile in PROFILES:
        result = cells[sender, keys, profile.value]
        profiles.setdefault(result, []).append(f"``{profile.value}``")
    if len(profiles) == 1:
        return next(iter(profiles))
    return "; ".join(f"{', '.join(names)}: {it}" for it, names in profiles.items())


_HEAD = f"""\
.. list-table::
   :header-rows: 1
   :widths: 19 27 27 27

   * - sender
     - {f"{chr(10)}     - ".join(CHAINS)}"""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
