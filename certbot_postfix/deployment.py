"""The use cases that certbot's installer and the command share: plan, deploy, renew.

Work is level-triggered: what is deployed is read from Postfix's own configuration, and
success means that every service showed the certificate in a handshake.  Raises
`errors.Error`; after a failure Postfix serves what it served before.
"""

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path

from certbot_postfix import certificates, files, plan, probe, transaction
from certbot_postfix.certificates import Bundle, Certificate
from certbot_postfix.configuration import (
    Configuration,
    Endpoint,
    endpoints,
    names,
)
from certbot_postfix.errors import (
    CertificateError,
    Error,
    ProgramError,
    ProofError,
    UnansweredError,
)
from certbot_postfix.plan import Override, Plan
from certbot_postfix.postfix import Postfix
from certbot_postfix.profiles import ClientLevel, Profile
from certbot_postfix.transaction import Checkpoint

logger = logging.getLogger(__name__)

# Seconds after a reload at which the master process must still be there: it reads
# master.cf after `postfix reload` ended, and may die of what it finds.
SETTLE = 1.0

# Seconds in which the old certificate must be back before Postfix is started anew.
BACK = 5.0


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where certbot keeps the newest key and chain of a certificate."""

    name: str
    key: Path
    fullchain: Path

    @classmethod
    def live(cls, directory: Path, name: str) -> "Lineage":
        """Return the lineage *name* in certbot's directory ``live``."""
        return cls(
            name, directory / name / "privkey.pem", directory / name / "fullchain.pem"
        )

    def bundle(self) -> Bundle:
        """Read it; raises `CertificateError` if key and chain do not fit."""
        try:
            return Bundle.from_pem(files.read(self.key), files.read(self.fullchain))
        except CertificateError as error:
            raise CertificateError(
                f"lineage {self.name}: {error.message}: nothing was changed",
                hint=error.hint,
            ) from error


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan, and the bundle that goes with it."""

    plan: Plan
    path: Path
    bundle: Bundle
    stale: bool
    warnings: list[str]
    overrides: list[Override]

    @property
    def empty(self) -> bool:
        """Whether neither main.cf nor the bundle would change."""
        return self.plan.empty and not self.stale


class Deployment:
    """What can be done to one Postfix instance.

    *bundles* is our directory below certbot's, *staging* the place for staged copies,
    *timeout* the seconds in which a certificate must be served; 0 asks for no proof.
    """

    def __init__(
        self,
        postfix: Postfix,
        bundles: Path,
        *,
        staging: Path | None = None,
        timeout: float = 20,
        say: Callable[[str], None] = logger.info,
    ) -> None:
        self.postfix = postfix
        self.bundles = bundles
        self.staging = staging
        self.timeout = timeout
        self.say = say
        self.written = False

    @cached_property
    def configuration(self) -> Configuration:
        """The configuration as it was when it was first asked for."""
        return self.postfix.read()

    @cached_property
    def _ran(self) -> bool:
        """Whether Postfix ran when it was first asked."""
        return self.postfix.running()

    def names(self) -> set[str]:
        """Return the public names by which the server calls itself."""
        return names(self.configuration)

    def propose(
        self, lineage: Lineage, profile: Profile, client: ClientLevel
    ) -> Proposal:
        """Plan the deployment of *lineage*; nothing live changes."""
        configuration, path = self.configuration, self._path(lineage)
        bundle, warnings = self._judged(lineage)
        if path not in plan.deployed(configuration, self.bundles):
            self._refuse_to_displace(lineage, bundle.leaf)
        decisions = plan.decide(configuration, path, profile, client)
        planned = transaction.stage(self.postfix, decisions, self.staging)
        overrides = plan.overridden(configuration, decisions, profile)
        stale = _differs(path, bundle)
        return Proposal(planned, path, bundle, stale, warnings, overrides)

    def apply(self, proposal: Proposal, checkpoint: Checkpoint) -> None:
        """Write the bundle and main.cf; Postfix is not told yet."""
        self.postfix.refuse_fatal_reload(self.configuration)
        self.written = not proposal.empty
        if proposal.stale:
            transaction.put_bundle(proposal.path, proposal.bundle.pem, checkpoint)
        if not proposal.plan.empty:
            transaction.commit(proposal.plan, checkpoint)
            decisions = proposal.plan.decisions
            self.configuration = plan.applied(self.configuration, decisions)

    def serve(self, proposal: Proposal) -> None:
        """Make Postfix serve what was applied, and prove it."""
        expected = [proposal.bundle.leaf]
        if proposal.empty and self._shown(expected):
            self.say(f"Postfix serves the certificate for {expected[0]} already.")
        else:
            self._activate(expected, self.timeout)
        transaction.keep_bundle(proposal.path)

    def renew(self, lineage: Lineage) -> None:
        """Put the newest certificate of a deployed lineage into service.

        If it is not proven, the old one is back, and proven, when this raises.
        """
        path = self._path(lineage)
        if path not in plan.deployed(self.configuration, self.bundles):
            self.say(
                f"Postfix in {self.postfix.directory} does not use lineage"
                f" {lineage.name} through this plugin: nothing was changed."
            )
            return
        bundle, warnings = self._judged(lineage)
        for warning in warnings:
            logger.warning("%s: %s", lineage.name, warning)
        if not _differs(path, bundle):
            if not self._shown([bundle.leaf]):
                self._activate([bundle.leaf], self.timeout)
            return
        self.postfix.refuse_fatal_reload(self.configuration)
        with transaction.interruptible(), self._old_bundle_on_failure(path):
            transaction.put_bundle(path, bundle.pem, None)
            self._activate([bundle.leaf], self.timeout)
        transaction.keep_bundle(path)

    def restore(self, checkpoint: Path) -> None:
        """Put back the files that a checkpoint of certbot holds, each in one step."""
        transaction.restore(checkpoint)

    def undo(self, proposal: Proposal) -> None:
        """Put back the bundle that `apply` replaced, if it did."""
        transaction.undo_bundle(proposal.path)

    def sweep(self) -> None:
        """Remove what a killed run may have left."""
        transaction.sweep(self.postfix, self.bundles, self.staging)

    def bring_back(self) -> None:
        """Make Postfix serve what its files, which are the old ones again, say."""
        self.__dict__.pop("configuration", None)
        expected = self._served_now()
        self.postfix.refuse_fatal_reload(self.configuration)
        try:
            self._activate(expected, min(self.timeout, BACK))
        except (ProgramError, UnansweredError) as error:
            # A service that died at its start stays down for a minute, and a master
            # that died stays dead, whatever is mended and reloaded.
            logger.debug("starting Postfix anew: %s", error)
            self.postfix.restart()
            self._prove(expected, self.timeout)

    def refresh(self, live: Path) -> None:
        """Bring every deployed bundle up to date with its lineage in *live*."""
        paths = plan.deployed(self.configuration, self.bundles)
        for path in paths:
            if (live / path.stem).is_dir():
                self.renew(Lineage.live(live, path.stem))
        if not paths and self._ran:
            self.postfix.reload()

    @contextlib.contextmanager
    def _old_bundle_on_failure(self, path: Path) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if not transaction.undo_bundle(path):
                raise
            try:
                self.bring_back()
            except Error as failed:
                raise Error(
                    f"the old certificate is back in {path}, but could not be brought"
                    f" into service: {failed.message}",
                    hint=f"this began with: {error}",
                ) from error
            if isinstance(error, Error):
                raise Error(
                    f"{error.message}; the old certificate was put back"
                    + ("" if self.timeout and self._ran else ", unproven"),
                    hint=error.hint,
                ) from error
            raise

    def _judged(self, lineage: Lineage) -> tuple[Bundle, list[str]]:
        bundle = lineage.bundle()
        old = next(iter(_certificates(self._path(lineage))), None)
        host = self.configuration.value("myhostname")
        try:
            return bundle, certificates.judge(bundle.leaf, old, host, _now())
        except CertificateError as error:
            raise CertificateError(
                f"lineage {lineage.name} is not deployed: {error.message}",
                hint=error.hint,
            ) from error

    def _refuse_to_displace(self, lineage: Lineage, new: Certificate) -> None:
        default = next(iter(self._served_now()), None)
        host = self.configuration.value("myhostname")
        if reason := plan.refuse_default(new, default, host, _now()):
            raise Error(
                f"lineage {lineage.name} is not deployed: {reason}",
                hint=f"issue a certificate that covers {host}",
            )

    def _path(self, lineage: Lineage) -> Path:
        return self.bundles / f"{lineage.name}.pem"

    def _served_now(self) -> list[Certificate]:
        """Return the leaf certificates that main.cf names, as far as they exist."""
        found = (_certificates(path) for path in plan.configured(self.configuration))
        return [certificates[0] for certificates in found if certificates]

    def _shown(self, expected: Collection[Certificate]) -> bool:
        if not (self._ran and self.timeout):
            return False
        try:
            probe.prove(expected, self._questions(expected), timeout=0)
        except ProofError:
            return False
        return True

    def _activate(self, expected: Collection[Certificate], timeout: float) -> None:
        if not self._ran:
            self.say(
                f"Postfix in {self.postfix.directory} does not run and was not started;"
                " what it will serve could not be proven."
            )
            return
        self.postfix.reload()
        self._prove(expected, timeout)

    def _prove(self, expected: Collection[Certificate], timeout: float) -> None:
        if not timeout:
            self.say("No proof was wanted, and none was made.")
            return
        settled = time.monotonic() + SETTLE
        questions = self._questions(expected) if expected else []
        probe.prove(expected, questions, timeout=timeout)
        time.sleep(max(0.0, settled - time.monotonic()))
        if not self.postfix.running():
            raise UnansweredError(
                f"Postfix in {self.postfix.directory} died after it was reloaded",
                hint='look for "fatal" at the end of the mail log',
            )
        if questions:
            shown = sorted({str(question.endpoint) for question in questions})
            self.say(
                f"Proven: {', '.join(shown)} serve {' or '.join(map(str, expected))}."
            )

    def _questions(self, expected: Collection[Certificate]) -> list[probe.Question]:
        found, notes = endpoints(self.configuration)
        for note in notes:
            logger.info("%s", note)
        server_names: list[str | None] = [None]
        # Without a table the answer cannot depend on the name; with one of the
        # administrator's it may, as it should.
        if not self.configuration.value("tls_server_sni_maps"):
            server_names += sorted(min(one.names) for one in expected if one.names)[:1]
        return [
            probe.Question(endpoint, name and name.removeprefix("*."))
            for endpoint in found
            if _here(endpoint)
            for name in server_names
        ]


def _certificates(path: Path) -> list[Certificate]:
    try:
        return Certificate.all_from_pem(files.read(path)) if path.exists() else []
    except CertificateError:
        return []


def _differs(path: Path, bundle: Bundle) -> bool:
    return not path.exists() or files.read(path) != bundle.pem


def _here(endpoint: Endpoint) -> bool:
    """Whether this machine has the address, which an IPv6 one may not be."""
    if ":" not in endpoint.host:
        return True
    try:
        with socket.socket(socket.AF_INET6) as attempt:
            attempt.bind((endpoint.host, 0))
    except OSError:
        return False
    return True


def _now() -> datetime:
    return datetime.now(timezone.utc)
