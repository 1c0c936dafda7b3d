"""What a running instance serves: have it read its files anew, and verify that.

Success is concluded from handshakes alone: `postfix.verifier`.  Raises `ProofError`,
`UnansweredError`, or `ProgramError` where Postfix does not do as told.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from certbot_postfix.errors import ProgramError, RefusedError, UnansweredError
from certbot_postfix.postfix import processes, tolerance
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.questions import Expectation, Purpose
from certbot_postfix.postfix.running import SETTLE, Running
from certbot_postfix.postfix.verifier import Verifier
from certbot_postfix.system import signals
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.system.reporter import Reporter
from certbot_postfix.tls.baseline import Baseline
from certbot_postfix.tls.probe import Question
from certbot_postfix.tls.rejections import hint
from certbot_postfix.tls.verification import clauses

# Seconds in which the old certificate must be back before Postfix is started anew.
BACK = 5.0


class Serving:
    """The running side of *postfix*, if it runs.

    *timeout* is in seconds, 0 skips verification; the *reporter* is read by the user.
    """

    def __init__(self, postfix: Postfix, timeout: float, reporter: Reporter) -> None:
        self.postfix = postfix
        self.timeout = timeout
        self.reporter = reporter
        self._running = Running(postfix, reporter)
        self._verifier = Verifier(self._running, reporter)

    @property
    def ran(self) -> bool:
        """Whether Postfix ran when it was first asked."""
        return self._running.ran

    @property
    def baseline(self) -> Baseline | None:
        """What each endpoint answered before anything was changed, if known."""
        return self._verifier.baseline

    def serves_already(
        self,
        configuration: Configuration,
        promises: Collection[Expectation],
        paths: Iterable[Path],
    ) -> bool:
        """Whether every service keeps the *promises* already.

        Another process than the one that was asked may have read what was there before
        the files *paths*: then nobody knows.
        """
        if not (self.ran and self.timeout):
            return False
        if processes.outdated(configuration, paths):
            return False
        if self.baseline is None:
            self._verifier.take_baseline(configuration, self.timeout)
        return self._verifier.is_served(configuration, promises, self.timeout)

    def record_baseline(self, configuration: Configuration) -> None:
        """Look at the services before anything is changed.

        Raises `MisconfiguredError` if Postfix would not survive a reload.
        """
        self.postfix.refuse_fatal_reload(configuration)
        if self.ran and self.timeout:
            self._verifier.take_baseline(configuration, self.timeout)

    def recall(self, noted: Baseline | None) -> None:
        """Take *noted* for the answers before the change that is to be undone."""
        self._verifier.baseline = noted

    def record_before_undo(self, configuration: Configuration) -> None:
        """Look at the services before a change is undone of which nothing is noted."""
        self._verifier.before = "undo"
        self.record_baseline(configuration)

    def refuse_refusals(self, configuration: Configuration) -> None:
        """Raise `RefusedError` if a service to be verified lets no client in."""
        if failures := tolerance.refusals(configuration, self.baseline):
            raise RefusedError(
                f"{'; '.join(clauses(failures))}; no certificate could be verified"
                " there, so no changes were made",
                hint=hint(failures),
            )

    def reload_and_verify(
        self,
        configuration: Configuration,
        promises: Collection[Expectation],
        purpose: Purpose = Purpose.RENEWED,
    ) -> None:
        """Reload, and return when every service keeps the *promises*.

        One that could not be verified before is reported, and no more; but where a
        certificate is installed, all that were alive must be verified.
        """
        if self._running.reload(configuration):
            self._verifier.verify(configuration, promises, self.timeout, purpose)

    def verify_refusals(
        self, configuration: Configuration, offers: Collection[Question]
    ) -> None:
        """Return when each of the *offers* is refused, and the rest is answered."""
        if self.ran and self.timeout:  # else, that was said
            self._verifier.verify_refusals(configuration, offers, self.timeout)

    def reload(self, configuration: Configuration) -> None:
        """Reload, where no certificate has changed, and see that Postfix lives."""
        if not self.ran:
            self.reporter.say("Postfix is not running, and was not started.")
            return
        self.postfix.refuse_fatal_reload(configuration)
        self._running.signal(configuration)
        self._running.settle(configuration, Deadline(SETTLE))

    def restore_and_verify(
        self, configuration: Configuration, promises: Collection[Expectation]
    ) -> None:
        """Do the same for files that are the old ones again, by all means."""
        with signals.uninterruptible():
            self._restore_and_verify(configuration, promises)

    def _restore_and_verify(
        self, configuration: Configuration, promises: Collection[Expectation]
    ) -> None:
        self.postfix.refuse_fatal_reload(configuration)
        self.reporter.say("Restored the previous configuration.")
        patience = min(self.timeout, max(BACK, tolerance.patience(self.baseline)))
        try:
            if not self._running.reload(configuration):
                return
            self._verifier.verify(configuration, promises, patience, Purpose.UNDONE)
        except ProgramError:
            if self.postfix.running():
                raise
            self.postfix.start()  # it ran, and died of what is undone now
        except UnansweredError:
            # A service that died at its start stays down for a minute, whatever is
            # fixed and reloaded.  One that did not answer before is no reason.
            if self.baseline is None or self._running.elsewhere:
                raise
            self.postfix.restart()
        else:
            return
        self._verify_at_last(configuration, promises)

    def _verify_at_last(
        self, configuration: Configuration, promises: Collection[Expectation]
    ) -> None:
        """Verify what was undone, of a Postfix that was started anew for that."""
        purpose = Purpose.UNDONE
        try:
            self._verifier.verify(configuration, promises, self.timeout, purpose)
        except UnansweredError as error:
            if self.baseline:
                error.message += f"; it answered before the {self._verifier.before}"
            raise
