"""What each endpoint answers before anything is written: what an undo must bring back.

By endpoint, since one address of a service may be dead while another is well.  It is
noted in certbot's checkpoint, for another process that undoes the change.  Raises
nothing; what was wrong is a value.
"""

import contextlib
import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from certbot_postfix.errors import ProofError, RefusedError, UnansweredError
from certbot_postfix.tls import probe
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import Question
from certbot_postfix.tls.verification import side_by_side

_NOTE = "answers before the change: "

_KINDS: dict[str, type[ProofError]] = {
    "silent": UnansweredError,
    "refused": RefusedError,
    "failed": ProofError,
}


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was wrong at each endpoint, if anything; *slowest* answered in so long."""

    failures: Mapping[str, ProofError | None]
    slowest: float = 0.0

    def well(self, endpoint: Endpoint) -> bool:
        """Whether it was as it should be, or nobody knows."""
        return self.failures.get(str(endpoint)) is None

    def greeted(self, endpoint: Endpoint) -> bool:
        """Whether it was alive, or nobody knows."""
        return not isinstance(self.failures.get(str(endpoint)), UnansweredError)

    def let_in(self, endpoint: Endpoint) -> bool:
        """Whether it is known to have been as it should be."""
        return str(endpoint) in self.failures and self.well(endpoint)

    def note(self) -> str:
        """Return a line that `noted` reads."""
        names = {kind: name for name, kind in _KINDS.items()}
        answers = {
            endpoint: [names[type(error)], error.reason] if error else None
            for endpoint, error in self.failures.items()
        }
        return f"{_NOTE}{json.dumps([self.slowest, answers])}\n"


def take(questions: Collection[Question], timeout: float) -> Baseline:
    """Ask each of *questions* once, side by side, for at most *timeout* seconds."""
    failures: dict[str, ProofError | None] = {}
    seconds = [0.0]

    def ask(question: Question) -> None:
        start = time.monotonic()
        error = probe.attempt(question, timeout=timeout)
        failures[str(question.endpoint)] = error
        if not isinstance(error, UnansweredError):
            seconds.append(time.monotonic() - start)

    side_by_side(ask, questions)
    return Baseline(failures, max(seconds))


def noted(lines: Iterable[str]) -> Baseline | None:
    """Return what was noted in one of *lines*, None if nothing was.

    A line that was half written when the power failed hinders no undo.
    """
    for line in lines:
        if line.startswith(_NOTE):
            with contextlib.suppress(ValueError, LookupError, TypeError):
                slowest, answers = json.loads(line.removeprefix(_NOTE))
                return Baseline(dict(_answers(answers)), float(slowest))
    return None


def _answers(noted: object) -> Iterator[tuple[str, ProofError | None]]:
    if not isinstance(noted, dict):
        raise TypeError
    for endpoint, answer in noted.items():
        kind, reason = answer or ("", "")
        yield endpoint, _KINDS[kind](reason, reason=reason) if answer else None
