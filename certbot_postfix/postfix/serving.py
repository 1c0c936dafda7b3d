"""What a running instance serves: have it read its files anew, verify what it serves.

Success is concluded from handshakes alone.  Raises `ProofError`, `UnansweredError`, or
`ProgramError` where Postfix does not do as told.
"""

import time
from collections.abc import Collection, Iterable
from pathlib import Path

from certbot_postfix.errors import (
    ProgramError,
    ProofError,
    RefusedError,
    UnansweredError,
    named_logger,
)
from certbot_postfix.postfix import processes, questions, tolerance
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.questions import Expectation, Purpose, sampled
from certbot_postfix.postfix.running import SETTLE, Running
from certbot_postfix.system import signals
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.system.reporter import Reporter
from certbot_postfix.tls import baseline, summary
from certbot_postfix.tls.baseline import Baseline
from certbot_postfix.tls.probe import LEAST, Question
from certbot_postfix.tls.rejections import hint, limited, unverified
from certbot_postfix.tls.verification import (
    Failure,
    clauses,
    verify,
)

logger = named_logger(__name__)

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
        # What each endpoint answered before anything was changed, if known.
        self.baseline: Baseline | None = None
        # Before what that was, in a message.
        self._before = "change"
        self._running = Running(postfix, reporter)

    @property
    def ran(self) -> bool:
        """Whether Postfix ran when it was first asked."""
        return self._running.ran

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
            self._look(configuration)
        sample = sampled(promises, tolerance.affordable(self.baseline, self.timeout))
        asked = questions.after(configuration, sample)
        purpose = Purpose.INSTALLED
        must, _ = questions.parted(asked, configuration, self.baseline, purpose)
        must = [each for each in must if each.expected]
        failures = verify(must, timeout=self.timeout, once=True)
        harmless = self._rejected(must, failures, configuration, purpose)
        return bool(must) and len(harmless) == len(failures)

    def record_baseline(self, configuration: Configuration) -> None:
        """Look at the services before anything is changed.

        Raises `MisconfiguredError` if Postfix would not survive a reload.
        """
        self.postfix.refuse_fatal_reload(configuration)
        if self.ran and self.timeout:
            self._look(configuration)

    def _look(self, configuration: Configuration) -> None:
        asked = questions.before(configuration)
        count = summary.listeners(each.endpoint for each in asked)
        with self.reporter.step(f"Checking {count}"):
            self.baseline = baseline.take(asked, max(self.timeout, LEAST))

    def recall(self, noted: Baseline | None) -> None:
        """Take *noted* for the answers before the change that is to be undone."""
        self.baseline = noted

    def record_before_undo(self, configuration: Configuration) -> None:
        """Look at the services before a change is undone of which nothing is noted."""
        self._before = "undo"
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
            self._verify(configuration, promises, self.timeout, purpose)

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
            self._verify(configuration, promises, patience, Purpose.UNDONE)
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
        try:
            self._verify(configuration, promises, self.timeout, Purpose.UNDONE)
        except UnansweredError as error:
            if self.baseline:
                error.message += f"; it answered before the {self._before}"
            raise

    def _verify(
        self,
        configuration: Configuration,
        promises: Collection[Expectation],
        timeout: float,
        purpose: Purpose,
    ) -> None:
        if not timeout:
            self.reporter.say("Verification was skipped (--postfix-verify-timeout 0).")
            return
        sample = sampled(promises, tolerance.affordable(self.baseline, timeout))
        asked = questions.after(configuration, sample)
        must, may = questions.parted(asked, configuration, self.baseline, purpose)
        with self.reporter.step(
            f"Verifying {summary.listeners(each.endpoint for each in (*must, *may))}"
        ):
            unsure = self._demand_all(must, configuration, timeout, purpose)
            patience = tolerance.patience(self.baseline)
            failures = verify(may, timeout=min(timeout, patience))
        if unsure:
            logger.warning("%s\nHint: %s", unverified(unsure), hint(unsure))
        self._tolerate(failures, purpose)
        verified = _verified(asked, [*must, *may], failures, unsure)
        silent = all(
            isinstance(failure.error, UnansweredError)
            for failure in (*failures, *unsure)
        )
        if asked and not verified and silent and purpose is not Purpose.UNDONE:
            raise self._error(failures)
        if verified or not asked:
            self.reporter.result(summary.sentence(verified), summary.block(verified))
            if len(sample) < len(promises) and not unsure:
                self.reporter.say(tolerance.sampled(sample, promises))

    def _demand_all(
        self,
        must: Collection[Question],
        configuration: Configuration,
        timeout: float,
        purpose: Purpose,
    ) -> list[Failure]:
        settled = Deadline(SETTLE)
        # An idle process from before the reload is gone after a second: it is not
        # to take the time of a slow service, nor to give a sign of life.
        if self.baseline and self.baseline.slowest > SETTLE:
            time.sleep(SETTLE)
        first = [each for each in must if each.expected]
        unsure = self._demand(first, configuration, timeout, purpose)
        others = [each for each in must if not each.expected]
        self._running.settle(configuration, settled, whole=bool(others))
        return unsure + self._demand(others, configuration, timeout, purpose)

    def verify_refusals(
        self, configuration: Configuration, asked: Collection[Question]
    ) -> None:
        """Return when each offer in *asked* is refused, and the rest is answered.

        One who did not answer before, nor lets this client in, is not asked.
        """
        if not (self.ran and self.timeout):
            return  # as was said
        purpose = Purpose.INSTALLED
        must, _ = questions.parted(asked, configuration, self.baseline, purpose)
        must = [each for each in must if each.offer or each.key_type]
        failures = verify(must, timeout=self.timeout, watch=self._running.must_run)
        failures = limited(failures, questions.limiting(configuration))
        # Who rejects us now was verified to present the certificate just before.
        unsure = [each for each in failures if isinstance(each.error, RefusedError)]
        if wrong := [each for each in failures if each not in unsure]:
            self._running.must_run()
            raise self._error(wrong)
        if unsure:
            logger.warning(
                "%s; whether weak TLS is refused there was not verified\nHint: %s",
                "; ".join(clauses(unsure)),
                hint(unsure),
            )
        skipped = {failure.question for failure in unsure}
        refused = [each for each in must if each.offer and each not in skipped]
        if refused:
            self.reporter.say(summary.refusals(refused))

    def _demand(
        self,
        asked: list[Question],
        configuration: Configuration,
        timeout: float,
        purpose: Purpose,
    ) -> list[Failure]:
        """Return what was rejected without a fault of the change; raise all others."""
        failures = verify(asked, timeout=timeout, watch=self._running.must_run)
        unsure = self._rejected(asked, failures, configuration, purpose)
        if len(unsure) < len(failures):
            self._running.must_run()
            raise self._error(failures)
        return unsure

    def _rejected(
        self,
        asked: list[Question],
        failures: list[Failure],
        configuration: Configuration,
        purpose: Purpose,
    ) -> list[Failure]:
        return tolerance.rejected(
            asked,
            failures,
            configuration,
            self.baseline,
            anywhere=purpose is Purpose.INSTALLED,
        )

    def _tolerate(self, failures: list[Failure], purpose: Purpose) -> None:
        """Report what could not be verified before either; raise the first of others.

        A service that was alive is so no more, or now presents a wrong certificate.
        """
        judged = tolerance.judge(failures, self.baseline)
        if judged.new:
            raise self._error(judged.new)
        undone = purpose is Purpose.UNDONE
        for clause in clauses(judged.dead):
            logger.warning(
                "%s; it did not answer before the %s either", clause, self._before
            )
        for clause in clauses(judged.unverified):
            logger.warning(
                "%s; it was like that before the change"
                if undone
                else "%s; nor could it be verified before the change",
                clause,
            )

    def _error(self, failures: list[Failure]) -> ProofError:
        """Return the error for *failures*, of which there is one at least."""
        kinds = {type(failure.error) for failure in failures}
        kind = UnansweredError if UnansweredError in kinds else ProofError
        if there := self._running.elsewhere:
            here = self.postfix.directory
            return kind(
                f"{self._running.started} and does not read {here}",
                hint=f"name {there} as Postfix's configuration directory, or stop"
                f" Postfix and start it with {here}",
            )
        words = clauses(failures)
        if kinds & {UnansweredError, ProofError}:
            words += filter(None, [self._running.cause()])
        return kind("; ".join(words), hint=hint(failures))


def _verified(
    asked: Collection[Question],
    put: Collection[Question],
    failures: Collection[Failure],
    unsure: Collection[Failure],
) -> list[Question]:
    """Return which of the questions *asked* were *put*, and answered as expected."""
    failed = {failure.question.endpoint for failure in failures}
    answered = {question.endpoint for question in put} - failed
    skipped = {failure.question for failure in unsure}
    return [
        question
        for question in asked
        if question.endpoint in answered and question not in skipped
    ]
