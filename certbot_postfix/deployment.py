"""The use cases that certbot's installer and the command share: plan, deploy, renew.

Work is level-triggered: what is deployed is read from Postfix's own configuration, and
success means that every service showed the certificate in a handshake.  Raises
`errors.Error`; after a failure Postfix serves what it served before.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path

from certbot_postfix import certificates, files, plan, transaction
from certbot_postfix.certificates import Bundle, Certificate
from certbot_postfix.configuration import Configuration, names
from certbot_postfix.errors import CertificateError, Error, SignalError
from certbot_postfix.lineage import Lineage
from certbot_postfix.plan import Override, Plan
from certbot_postfix.postfix import Postfix
from certbot_postfix.profiles import ClientLevel, Profile
from certbot_postfix.serving import Serving
from certbot_postfix.transaction import Checkpoint

logger = logging.getLogger(__name__)


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
        self.serving = Serving(postfix, timeout, say)
        self.say = say
        self.written = False
        self.kept = bundles / "main.cf.before-rollback"

    @cached_property
    def configuration(self) -> Configuration:
        """The configuration as it was when it was first asked for."""
        return self.postfix.read()

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
            warnings += plan.lost(bundle.leaf, self._served_now(), _now())
        decisions = plan.decide(configuration, path, profile, client)
        planned = transaction.stage(self.postfix, decisions, self.staging)
        overrides = plan.overridden(configuration, decisions, profile)
        stale = _differs(path, bundle)
        return Proposal(planned, path, bundle, stale, warnings, overrides)

    def apply(self, proposal: Proposal, checkpoint: Checkpoint) -> None:
        """Write the bundle and main.cf; Postfix is not told yet."""
        self.serving.foresee(self.configuration)
        self.written = not proposal.empty
        if proposal.stale:
            transaction.put_bundle(proposal.path, proposal.bundle.pem, checkpoint)
        if not proposal.plan.empty:
            transaction.commit(proposal.plan, checkpoint)
            self.configuration = self.postfix.read_again(self.configuration)

    def serve(self, proposal: Proposal) -> None:
        """Make Postfix serve what was applied, and prove it."""
        expected = [proposal.bundle.leaf]
        if proposal.empty and self.serving.shows(self.configuration, expected):
            self.say(f"Postfix serves the certificate for {expected[0]} already.")
        else:
            # certbot's own handler would swallow a signal here, and report success.
            with transaction.interruptible():
                self.serving.activate(self.configuration, expected)
        transaction.keep_bundle(proposal.path)

    def renew(self, lineage: Lineage) -> bool:
        """Put the newest certificate of a lineage into service, if it is deployed.

        If it is not proven, the old one is back, and proven, when this raises.
        Returns whether the lineage is deployed.
        """
        path = self._path(lineage)
        if path not in plan.deployed(self.configuration, self.bundles):
            return False
        bundle, warnings = self._judged(lineage)
        expected = [bundle.leaf]
        for warning in warnings:
            logger.warning("%s: %s", lineage.name, warning)
        if not _differs(path, bundle):
            if not self.serving.shows(self.configuration, expected):
                self.serving.foresee(self.configuration)
                self.serving.activate(self.configuration, expected)
            transaction.keep_bundle(path)
            return True
        self.serving.foresee(self.configuration)
        try:
            with transaction.interruptible(), self._old_bundle_on_failure(path):
                transaction.put_bundle(path, bundle.pem, None)
                self.serving.activate(self.configuration, expected)
        except SignalError as error:
            # certbot would go on with the next lineage.
            logger.error("%s: %s", lineage.name, error)  # noqa: TRY400 - it is known why
            raise SystemExit(128 + error.number) from error
        transaction.keep_bundle(path)
        return True

    def restore(self, checkpoint: Path) -> None:
        """Put back the files that a checkpoint of certbot holds, each in one step."""
        for path in transaction.restore(checkpoint, self.kept):
            if path != self.postfix.main_cf:
                logger.warning(
                    "%s was restored, of another instance than %s; it is not reloaded"
                    "\nWhat to do: reload the Postfix that it belongs to",
                    path,
                    self.postfix.directory,
                )

    def undo(self, proposal: Proposal) -> None:
        """Put back the bundle that `apply` replaced, if it did."""
        transaction.undo_bundle(proposal.path)

    def sweep(self) -> None:
        """Remove what a killed run may have left."""
        transaction.sweep(self.postfix, self.bundles, self.staging)

    def bring_back(self) -> None:
        """Make Postfix serve what its files, which are the old ones again, say."""
        self.configuration = self.postfix.read()
        self.serving.bring_back(self.configuration, self._served_now())
        transaction.keep_bundles(self.bundles)

    def refresh(self, live: Path) -> None:
        """Bring every deployed bundle up to date with its lineage in *live*."""
        paths = plan.deployed(self.configuration, self.bundles)
        for path in paths:
            if (live / path.stem).is_dir():
                self.renew(Lineage.live(live, path.stem))
        if not paths and self.serving.ran:
            self.postfix.refuse_fatal_reload(self.configuration)
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
                    f"{_told(error)}; the old certificate is back in {path}, but it is"
                    f" not proven that it is served: {failed.message}",
                    hint=failed.hint,
                ) from error
            if isinstance(error, Error):
                error.message += "; the old certificate was put back"
                if not (self.serving.timeout and self.serving.ran):
                    error.message += ", unproven"
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
                hint=error.hint.replace("NAME", lineage.name),
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


def _certificates(path: Path) -> list[Certificate]:
    try:
        return Certificate.all_from_pem(files.read(path)) if path.exists() else []
    except CertificateError:
        return []


def _told(error: BaseException) -> str:
    return error.message if isinstance(error, Error) else f"{type(error).__name__}"


def _differs(path: Path, bundle: Bundle) -> bool:
    return not path.exists() or files.read(path) != bundle.pem


def _now() -> datetime:
    return datetime.now(timezone.utc)
