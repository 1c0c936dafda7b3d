"""The key of a lineage changes without an outage: staged, announced, served, withdrawn.

DNS and the files are the truth; the staged key is all that is kept.  Raises `Error`.
"""

import contextlib
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from certbot_postfix.dane import gate, records, staged, store
from certbot_postfix.dane.gate import Candidate
from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.records import Published
from certbot_postfix.errors import Error, named_logger
from certbot_postfix.inbound import candidates, renewal_settings, served
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.renewal_settings import RenewalReader
from certbot_postfix.inbound.session import Deployment
from certbot_postfix.inbound.state import State
from certbot_postfix.tls.certificates import Certificate

logger = named_logger(__name__)


class Roll:
    """The change of the key of *lineage*, at all instances of Postfix that use it."""

    def __init__(self, deployment: Deployment, lineage: Lineage) -> None:
        self.deployment = deployment
        self.lineage = lineage
        self.name = lineage.name
        self.root = deployment.bundles
        self.settings = deployment.gate.settings
        self.now = datetime.now(timezone.utc)

    @property
    def _states(self) -> Iterator[State]:
        """What each instance serves; others than ours, as far as they can be read."""
        yield self.deployment.server.read()
        for other in self.deployment.server.others:
            with contextlib.suppress(Error):  # a renewal reports it
                yield other.read()

    @property
    def bundles(self) -> list[Path]:
        """The bundles of the lineage that are in service."""
        used = (path for state in self._states for path in state.used(self.name))
        return list(dict.fromkeys(used))

    @property
    def leaves(self) -> list[Certificate]:
        """The certificates of the lineage that are in service; raises if none is."""
        leaves = [leaf for each in self.bundles if (leaf := served.leaf_in(each))]
        if not leaves:
            raise Error(
                f"Postfix does not use the certificate {self.name}",
                hint=f"certbot install -i postfix --cert-name {self.name}",
            )
        return leaves

    @property
    def candidates(self) -> list[Candidate]:
        """What each bundle is to serve next: the staged key, if there is one."""
        every = (
            candidate
            for state in self._states
            for candidate in candidates.rolling(state, self.name)
        )
        return list(every)

    def look(self) -> list[Endpoint]:
        """Return what DNS says of the endpoints."""
        return [
            endpoint
            for candidate in self.candidates
            for endpoint in gate.look(candidate, self.settings, self.now)
        ]

    def settle(self) -> None:
        """Forget the staged key if it is the one in service."""
        key = staged.load(self.root, self.name)
        if key and {each.spki for each in self.leaves} == {key.spki}:
            staged.abandon(self.root, self.name)

    def stage(self) -> list[Published]:
        """Stage the next key, if none is; return the records that announce it."""
        leaf = self.leaves[0]
        self.settle()
        reader = RenewalReader(self.root.parent, renewal_settings.INSTALLER)
        staged.stage(self.root, self.name, reader.kind(self.name, leaf))
        settings = reader.read(self.name)
        if settings and not settings.keeps_key:
            logger.warning(
                "certbot makes a new key for each renewal of %s, not the staged one"
                "\nHint: %s",
                self.name,
                renewal_settings.keep_key(self.name, settings.path),
            )
        endpoints = self.look()
        if records.in_use(endpoints):
            return records.to_add(endpoints)
        return records.to_begin(endpoints)

    def abandon(self) -> list[Published]:
        """Remove the staged key; return the records that are to be withdrawn."""
        if not staged.path_of(self.root, self.name).exists():
            raise Error(f"no key is staged for {self.name}; no changes were made")
        staged.abandon(self.root, self.name)
        return self.withdrawn()

    def withdrawn(self) -> list[Published]:
        """Return the records of keys of ours that are no longer used."""
        found: list[Published] = []
        for candidate in self.candidates:
            endpoints = gate.look(candidate, self.settings, self.now)
            if candidate.bundle:
                keys = store.load(candidate.bundle).keys
                floor = self.settings.floor
                found += records.to_remove(endpoints, keys, self.now, floor)
        return list(dict.fromkeys(found))
