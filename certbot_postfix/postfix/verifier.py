"""Verifies what a running instance serves, by handshakes alone.

An answer is judged by what was there before: the baseline.  Raises `ProofError`, or
`UnansweredError` where a service is dead that was not.
"""

import time
from collections.abc import Collection

from certbot_postfix.errors import (
    ProofError,
    RefusedError,
    UnansweredError,
    named_logger,
)
from certbot_postfix.postfix import questions, tolerance
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.questions import Expectation, Purpose, sampled
from certbot_postfix.postfix.running import SETTLE, Running
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.system.reporter import Reporter
from certbot_postfix.tls import baseline, summary
from certbot_postfix.tls.baseline import Baseline
from certbot_postfix.tls.probe import LEAST, Question
from certbot_postfix.tls.rejections import hint, limited, unverified
from certbot_postfix.tls.verification import Failure, clauses, verify

logger = named_logger(__name__)


class Verifier:
    """Asks the services of the *running* instance; the *reporter* is read by the user.

    *baseline* is what each endpoint answered before anything was changed, if known, and
    *before* what that was, in a message.
    """

    def __init__(self, running: Running, reporter: Reporter) -> None:
        self.running = running
        self.reporter = reporter
        self.baseline: Baseline | None = None
        self.before = "change"

    def take_baseline(self, configuration: Configuration, timeout: float) -> None:
        """Ask each endpoint once, for at most *timeout* seconds."""
        every = questions.before(configuration)
        count = summary.listeners(question.endpoint for question in every)
        with self.reporter.step(f"Checking {count}"):
            self.baseline = baseline.take(every, max(timeout, LEAST))

    def is_served(
        self,
        configuration: Configuration,
        promises: Collection[Expectation],
        timeout: float,
    ) -> bool:
        """Whether every service keeps the *promises*; each is asked once."""
        sample = sampled(promises, tolerance.affordable(self.baseline, timeout))
        every = questions.after(configuration, sample)
        purpose = Purpose.INSTALLED
        must, _ = questions.parted(every, configuration, self.baseline, purpose)
        must = [question for question in must if question.expected]
        failures = verify(must, timeout=timeout, once=True)
        harmless = self._rejected(must, failures, configuration, purpose)
        return bool(must) and len(harmless) == len(failures)

    def verify(
        self,
        configuration: Configuration,
        promises: Collection[Expectation],
        timeout: float,
        purpose: Purpose,
    ) -> None:
        """Return when every service keeps the *promises*, or raise after *timeout*."""
        if not timeout:
            self.reporter.say("Verification was skipped (--postfix-verify-timeout 0).")
            return
        sample = sampled(promises, tolerance.affordable(self.baseline, timeout))
        every = questions.after(configuration, sample)
        must, may = questions.parted(every, configuration, self.baseline, purpose)
        count = summary.listeners(question.endpoint for question in (*must, *may))
        with self.reporter.step(f"Verifying {count}"):
            unsure = self._demand_all(must, configuration, timeout, purpose)
            patience = tolerance.patience(self.baseline)
            failures = verify(may, timeout=min(timeout, patience))
        if unsure:
            logger.warning("%s\nHint: %s", unverified(unsure), hint(unsure))
        self._tolerate(failures, purpose)
        verified = _verified(every, [*must, *may], failures, unsure)
        if every and not verified and purpose is not Purpose.UNDONE:
            self._refuse_silence(failures, unsure)
        if verified or not every:
            self.reporter.result(summary.sentence(verified), summary.block(verified))
            if len(sample) < len(promises) and not unsure:
                self.reporter.say(tolerance.sampled(sample, promises))

    def _refuse_silence(self, failures: list[Failure], unsure: list[Failure]) -> None:
        if all(
            isinstance(failure.error, UnansweredError)
            for failure in (*failures, *unsure)
        ):
            raise self._error(failures)

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
        first = [question for question in must if question.expected]
        unsure = self._demand(first, configuration, timeout, purpose)
        others = [question for question in must if not question.expected]
        self.running.settle(configuration, settled, whole=bool(others))
        return unsure + self._demand(others, configuration, timeout, purpose)

    def _demand(
        self,
        must: list[Question],
        configuration: Configuration,
        timeout: float,
        purpose: Purpose,
    ) -> list[Failure]:
        """Return what was rejected without a fault of the change; raise all others."""
        failures = verify(must, timeout=timeout, watch=self.running.must_run)
        unsure = self._rejected(must, failures, configuration, purpose)
        if len(unsure) < len(failures):
            self.running.must_run()
            raise self._error(failures)
        return unsure

    def _rejected(
        self,
        must: list[Question],
        failures: list[Failure],
        configuration: Configuration,
        purpose: Purpose,
    ) -> list[Failure]:
        return tolerance.rejected(
            must,
            failures,
            configuration,
            self.baseline,
            anywhere=purpose is Purpose.INSTALLED,
        )

    def verify_refusals(
        self,
        configuration: Configuration,
        offers: Collection[Question],
        timeout: float,
    ) -> None:
        """Return when each of the *offers* is refused, and the rest is answered.

        One who did not answer before, nor lets this client in, is not asked.
        """
        purpose = Purpose.INSTALLED
        must, _ = questions.parted(offers, configuration, self.baseline, purpose)
        must = [question for question in must if question.offer or question.key_type]
        failures = verify(must, timeout=timeout, watch=self.running.must_run)
        failures = limited(failures, questions.limiting(configuration))
        # Who rejects us now was verified to present the certificate just before.
        unsure = [
            failure for failure in failures if isinstance(failure.error, RefusedError)
        ]
        if wrong := [failure for failure in failures if failure not in unsure]:
            self.running.must_run()
            raise self._error(wrong)
        if unsure:
            logger.warning(
                "%s; whether weak TLS is refused there was not verified\nHint: %s",
                "; ".join(clauses(unsure)),
                hint(unsure),
            )
        skipped = {failure.question for failure in unsure}
        refused = [
            question for question in must if question.offer and question not in skipped
        ]
        if refused:
            self.reporter.say(summary.refusals(refused))

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
                "%s; it did not answer before the %s either", clause, self.before
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
        if elsewhere := self.running.elsewhere:
            here = self.running.postfix.directory
            return kind(
                f"{self.running.started} and does not read {here}",
                hint=f"name {elsewhere} as Postfix's configuration directory, or stop"
                f" Postfix and start it with {here}",
            )
        words = clauses(failures)
        if kinds & {UnansweredError, ProofError}:
            words += filter(None, [self.running.cause()])
        return kind("; ".join(words), hint=hint(failures))


def _verified(
    every: Collection[Question],
    put: Collection[Question],
    failures: Collection[Failure],
    unsure: Collection[Failure],
) -> list[Question]:
    """Return which of *every* question were *put*, and answered as expected."""
    failed = {failure.question.endpoint for failure in failures}
    answered = {question.endpoint for question in put} - failed
    skipped = {failure.question for failure in unsure}
    return [
        question
        for question in every
        if question.endpoint in answered and question not in skipped
    ]
