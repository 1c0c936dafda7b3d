"""What each endpoint answers before anything is written: what an undo must bring back.

By endpoint, since one address of a service may be dead while another is well.  Raises
nothing; what was wrong is a value.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from certbot_postfix import probe
from certbot_postfix.configuration import Endpoint
from certbot_postfix.errors import ProofError, UnansweredError
from certbot_postfix.probe import Question
from certbot_postfix.verification import side_by_side


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was wrong at each endpoint, if anything; *slowest* answered in so long."""

    failures: Mapping[Endpoint, ProofError | None]
    slowest: float

    def well(self, endpoint: Endpoint) -> bool:
        """Whether it was as it should be, or nobody knows."""
        return self.failures.get(endpoint) is None

    def greeted(self, endpoint: Endpoint) -> bool:
        """Whether it was alive, or nobody knows."""
        return not isinstance(self.failures.get(endpoint), UnansweredError)


def take(questions: Collection[Question], timeout: float) -> Baseline:
    """Ask each of *questions* once, side by side, for at most *timeout* seconds."""
    failures: dict[Endpoint, ProofError | None] = {}
    seconds = [0.0]

    def ask(question: Question) -> None:
        start = time.monotonic()
        error = probe.attempt(question, timeout=timeout)
        failures[question.endpoint] = error
        if not isinstance(error, UnansweredError):
            seconds.append(time.monotonic() - start)

    side_by_side(ask, questions)
    return Baseline(failures, max(seconds))
