"""What a failed verification means, measured by what was there before the change.

Pure: failures and the baseline in, values out.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from certbot_postfix.errors import (
    OtherCertificateError,
    RefusedError,
    UnansweredError,
)
from certbot_postfix.postfix import questions
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.questions import NAMES, Expectation
from certbot_postfix.tls.baseline import Baseline
from certbot_postfix.tls.probe import LEAST, Question
from certbot_postfix.tls.rejections import limited, tolerable
from certbot_postfix.tls.verification import CLIENTS, Failure


@dataclass(frozen=True, slots=True)
class Judged:
    """Failures where nothing had to be verified: *new* ones, and those from before.

    *dead* services did not answer, and *unverified* ones present what nobody can judge.
    """

    new: list[Failure]
    dead: list[Failure]
    unverified: list[Failure]


def judge(failures: Iterable[Failure], known: Baseline | None) -> Judged:
    """Tell new failures from those of before.

    One is new if a service was alive and is so no more, or now presents a wrong
    certificate.
    """
    judged = Judged([], [], [])
    for failure in failures:
        silent = isinstance(failure.error, UnansweredError)
        if isinstance(failure.error, OtherCertificateError):
            judged.new.append(failure)
        elif not silent:
            judged.unverified.append(failure)
        elif known and known.greeted(failure.question.endpoint):
            judged.new.append(failure)
        else:
            judged.dead.append(failure)
    return judged


def rejected(
    asked: list[Question],
    failures: list[Failure],
    configuration: Configuration,
    known: Baseline | None,
    *,
    anywhere: bool,
) -> list[Failure]:
    """Return what was rejected without a fault of the change: see `tolerable`."""
    return tolerable(
        limited(failures, questions.limiting(configuration)),
        asked,
        lambda endpoint: bool(known and known.let_in(endpoint)),
        anywhere=anywhere,
    )


def refusals(configuration: Configuration, known: Baseline | None) -> list[Failure]:
    """Return the services to be verified that let no client in."""
    before = known.failures if known else {}
    return [
        Failure(Question(endpoint, None), error)
        for endpoint in questions.to_be_verified(configuration)
        if isinstance(error := before.get(str(endpoint)), RefusedError)
    ]


def patience(known: Baseline | None) -> float:
    """Return the seconds for a service that is not known to be well."""
    return max(LEAST, 2 * known.slowest if known else 0)


def affordable(known: Baseline | None, timeout: float) -> int:
    """Return for how many names each service can be asked within *timeout*."""
    slowest = known.slowest if known else 0.0
    # A tenth of a second each is no reason to ask for fewer.
    rounds = int(timeout / max(slowest, 0.1))
    # One round is for those who answer once more as before the change.
    return min(NAMES, CLIENTS * max(1, rounds - 1) - 1)


def sampled(sample: Collection[Expectation], every: Collection[Expectation]) -> str:
    """Say how many of the names in *every* expectation are in the *sample*."""
    few, many = (
        sum(item.server_name is not None for item in items) for items in (sample, every)
    )
    return f"Of {many:,} names, a sample of {few:,} was verified, with every chain."
