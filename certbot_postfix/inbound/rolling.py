"""The key of a lineage changes without an outage: staged, announced, served, withdrawn.

DNS and the files are the truth; the staged key is all that is kept.  Raises `Error`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from certbot_postfix.dane import changes, gate, hold, places, staged, steps, store
from certbot_postfix.dane.changes import Removal
from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.judge import Candidate
from certbot_postfix.dane.publish_commands import needed
from certbot_postfix.dane.staged import NextKey
from certbot_postfix.dane.steps import Rolling, Step
from certbot_postfix.dane.store import Memory
from certbot_postfix.errors import Error, enumerated, named_logger
from certbot_postfix.inbound import candidates, key_swap, renewal_settings, served
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.renewal_settings import RenewalReader
from certbot_postfix.inbound.session import Deployment
from certbot_postfix.publish.publishers import Publisher, load
from certbot_postfix.system import files
from certbot_postfix.tls.certificates import Certificate
from certbot_postfix.tls.pem import blocks

logger = named_logger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What a change of keys needs besides: who publishes, certbot's *options*.

    What was done is *told*.
    """

    publisher: Publisher
    options: Sequence[str]
    tell: Callable[[str], None]


class Roll:
    """The change of the key of *lineage*, at all instances of Postfix that use it."""

    def __init__(self, deployment: Deployment, lineage: Lineage, means: Means) -> None:
        self.deployment = deployment
        self.lineage = lineage
        self.name = lineage.name
        self.root = deployment.bundles
        self.settings = deployment.gate.settings
        self.means = means
        self.now = datetime.now(timezone.utc)

    @property
    def bundles(self) -> dict[Path, Certificate]:
        """The bundles that are in service, with the leaf of each; raises if none is."""
        states = self.deployment.states()
        used = (path for state in states for path in state.used(self.name))
        leaves = {path: served.leaf_in(path) for path in used}
        if found := {path: leaf for path, leaf in leaves.items() if leaf}:
            return found
        raise Error(
            f"Postfix does not use the certificate {self.name}",
            hint=f"certbot install -i postfix --cert-name {self.name}",
        )

    def _keys(self) -> set[bytes]:
        return {leaf.spki for leaf in self.bundles.values()}

    def _look(self) -> list[tuple[Candidate, list[Endpoint]]]:
        """Return what DNS says of each bundle, with the staged key if there is one."""
        return [
            (candidate, gate.look(candidate, self.settings, self.now))
            for state in self.deployment.states()
            for candidate in candidates.rolling(state, self.name)
        ]

    def settle(self) -> bool:
        """Finish what a killed run has begun, as far as possible.

        Returns whether the staged key is now in service, and no longer the next one.
        """
        key = staged.load(self.root, self.name)
        if self._is_half_done(key):
            try:
                self.deployment.renew(self.lineage)
            except Error as error:  # the command itself need not wait for it
                logger.error("%s", error)  # noqa: TRY400 - it is known why
        if key is None or self._keys() != {key.spki}:
            return False
        staged.abandon(self.root, self.name)
        self.means.tell(f"the next key of {self.name} is in service")
        return True

    def _is_half_done(self, key: NextKey | None) -> bool:
        """Whether certbot has renewed for *key*, or a bundle is not verified yet."""
        if any(map(files.backup_of, self.bundles)):
            return True
        renewed = key is not None and self._has(self.lineage.leaf(), key.spki)
        return renewed and key is not None and self._keys() != {key.spki}

    # Stage and abandon

    def stage(self) -> None:
        """Stage the next key, if none is, and have its records published."""
        leaf = next(iter(self.bundles.values()))
        self.settle()
        reader = RenewalReader(self.root.parent, renewal_settings.INSTALLER)
        staged.stage(self.root, self.name, reader.kind(self.name, leaf))
        settings = reader.read(self.name)
        if settings and not settings.keeps_key:
            logger.warning(
                "certbot makes a new key for each renewal of %s, despite the staged one"
                "\nHint: %s",
                self.name,
                renewal_settings.keep_key(self.name, settings.path),
            )
        self.means.tell(f"the next key of {self.name} is staged")
        every = [endpoint for _, endpoints in self._look() for endpoint in endpoints]
        # DANE is not begun as a side effect.
        publisher = self.means.publisher
        if not (steps.in_use(every) or publisher.by_hand):
            self.means.tell(
                "this host has no TLSA records in DNS, so none are published; to begin"
                " with DANE: certbot-postfix tlsa publish"
            )
            publisher = load("print")
        self._publish(every, publisher)

    def _publish(self, endpoints: Sequence[Endpoint], publisher: Publisher) -> None:
        """Have the records published that *endpoints* lack which have some."""
        every = steps.in_use(endpoints) or endpoints
        lacking = dict.fromkeys(
            it for endpoint in every for it in changes.additions(endpoint)
        )
        if lacking and publisher.by_hand:
            self.means.tell("publish, in addition to the existing records:")
        for record in lacking:
            publisher.add(record)

    def abandon(self) -> None:
        """Remove the staged key, withdraw its records, and keep the key in service."""
        path = places.next_key(self.root, self.name)
        newest = self.lineage.leaf()
        held = newest is not None and newest.spki not in self._keys()
        if not path.exists() and not held:
            raise Error(f"no key is staged for {self.name}; no changes were made")
        if held:
            self.rescue()
        if path.exists():
            staged.abandon(self.root, self.name)
            self.means.tell(f"the next key of {self.name} is removed")
        self._withdraw(self._look())

    def _withdraw(
        self, looks: Sequence[tuple[Candidate, list[Endpoint]]], *, again: bool = True
    ) -> None:
        """Withdraw the records of our keys that nothing needs any more.

        *again*: print what the administrator has to remove, even if printed before.
        """
        publisher = self.means.publisher
        due: dict[Path | None, dict[str, Removal]] = {}  # instances may share a bundle
        for candidate, endpoints in looks:
            removals = self._removals(candidate.bundle, endpoints)
            due.setdefault(candidate.bundle, {}).update(removals)
        for bundle, every in due.items():
            memory = store.load(bundle)
            printed = memory.printed if publisher.by_hand and not again else ()
            for line, removal in every.items():
                if line not in printed:
                    publisher.remove(removal.record, removal.observed)
            if publisher.by_hand:
                store.save(bundle, replace(memory, printed=frozenset(every)))

    def _removals(
        self, bundle: Path | None, endpoints: Sequence[Endpoint]
    ) -> Iterator[tuple[str, Removal]]:
        ours = changes.ours(store.load(bundle).keys, needed(self.root))
        for endpoint in endpoints:
            for it in changes.removals(endpoint, ours, self.now, self.settings.floor):
                if isinstance(it, Removal):
                    yield str(it.record), it

    # Switch

    def switch(self, *, at_once: bool = False) -> None:
        """Put the staged key into service, once all caches know its record.

        *at_once*: as soon as every server has it, since the key in service has leaked.
        """
        if self.settle():
            return
        key = staged.load(self.root, self.name)
        if key is None:
            raise Error(
                f"no key is staged for {self.name}; no changes were made",
                hint=f"certbot-postfix tlsa stage --cert-name {self.name}",
            )
        self._refuse_unready(at_once=at_once)
        if at_once:
            self.deployment.gate.forced = frozenset({key.spki})
        self._renew_for(key.pem, key.spki)
        staged.abandon(self.root, self.name)
        self.means.tell(f"the next key of {self.name} is in service")

    def _refuse_unready(self, *, at_once: bool) -> None:
        endpoints = [endpoint for _, found in self._look() for endpoint in found]
        closed = steps.unready(endpoints, at_once=at_once)
        if closed:
            raise Error(
                f"the next key of {self.name} cannot be served yet:"
                f" {enumerated(hold.reasons(closed))}; no changes were made",
                hint=hold.advice(closed),
            )

    def rescue(self) -> None:
        """Have certbot renew for the key in service, in place of one that is held."""
        path, leaf = next(iter(self.bundles.items()))
        every = blocks(files.read(path))
        key = next((block.pem for block in every if not block.public), b"")
        self._renew_for(key, leaf.spki)
        self.means.tell(f"{self.name} is renewed for the key in service")

    def _renew_for(self, key: bytes, spki: bytes) -> None:
        """Have a certificate for *key* served, whose public one is *spki*.

        certbot may have obtained it before, in a run that was killed.
        """
        if not self._has(self.lineage.leaf(), spki):
            key_swap.obtain(self.lineage, key, spki, self.means.options)
        self.deployment.renew(self.lineage)
        late = [path for path, leaf in self.bundles.items() if leaf.spki != spki]
        if late:
            raise Error(
                f"{late[0]} is left unchanged, although certbot has the certificate",
                hint="certbot renew deploys it when it is time",
            )

    def _has(self, leaf: Certificate | None, spki: bytes) -> bool:
        return leaf is not None and leaf.spki == spki

    # Advance

    def advance(self, rolling: Rolling) -> Step:
        """Do what comes next, and return it."""
        self.settle()
        looks = self._look()
        endpoints = [endpoint for _, found in looks for endpoint in found]
        memories = [store.load(candidate.bundle) for candidate, _ in looks]
        memory = next((it for it in memories if steps.is_late(it, self.now)), None)
        memory = memory or next(iter(memories), Memory())
        step = steps.step(endpoints, memory, rolling, self.now)
        self._withdraw(looks, again=False)
        match step:
            case Step.STAGE:
                self.stage()
            case Step.PUBLISH:
                self._publish(endpoints, self.means.publisher)
            case Step.READY:
                command = f"certbot-postfix tlsa switch --cert-name {self.name}"
                self.means.tell(f"the next key of {self.name} can be served: {command}")
            case Step.SWITCH:
                self.switch()
            case Step.RESCUE:
                self.rescue()
            case _:
                pass
        if not self.lineage.leaf():  # certbot was killed, or had no space
            self.rescue()
        return step
