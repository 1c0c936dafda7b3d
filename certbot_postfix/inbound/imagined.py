"""A lineage that certbot does not have yet, so that a plan needs no certificate."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from certbot_postfix.errors import Error, enumerated
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.system.hostnames import a_labels, is_host
from certbot_postfix.tls.bundle import Bundle
from certbot_postfix.tls.certificates import Certificate

# What certbot obtains if no option says otherwise: since 2.0 an ECDSA key.
KEY_TYPE = "ECDSA"
_LIFE = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Imagined(Lineage):
    """A lineage as certbot would make it, with a certificate for *names*."""

    names: frozenset[str]

    def bundle(self) -> Bundle:
        """Return the bundle that it would have, without a key."""
        now = datetime.now(timezone.utc)
        leaf = Certificate(
            b"",
            f"CN={min(self.names)}",
            "CN=the CA",
            self.names,
            b"",
            KEY_TYPE,
            now,
            now + _LIFE,
        )
        return Bundle(leaf, b"")


def choose(
    live: Path, lineages: Collection[Lineage], given: Sequence[str], name: str = ""
) -> Lineage:
    """Return the lineage that certbot would have for the names *given*, in their order.

    That is one of the *lineages* in *live* if it has these very names, or else a new
    one; *name* is that of --cert-name.  Raises `Error` if no certificate can have them.
    """
    names = [a_labels(name).lower() for name in given]
    if wrong := [name for name in names if not is_host(name.removeprefix("*."))]:
        raise Error(f"not the names of hosts: {enumerated(map(ascii, wrong))}")
    for lineage in lineages:
        leaf = lineage.leaf()
        if leaf and leaf.names == set(names) and name in ("", lineage.name):
            return lineage
    taken, first = {lineage.name for lineage in lineages}, names[0].removeprefix("*.")
    numbered = (f"{first}-{number:04}" for number in itertools.count(1))
    free = (name for name in itertools.chain([first], numbered) if name not in taken)
    lineage = Lineage.live(live, name or next(free))
    return Imagined(lineage.name, lineage.key, lineage.fullchain, frozenset(names))
