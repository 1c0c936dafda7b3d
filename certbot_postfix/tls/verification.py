"""Asks services until they answer as expected, and says in one sentence who did not.

Every endpoint is asked by threads of its own, so that one that hangs keeps nobody from
another; a small server allows few smtpd processes.  Raises nothing but what *watch*
raises.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from certbot_postfix.errors import (
    AcceptedError,
    OtherCertificateError,
    ProofError,
    RefusedError,
    UnansweredError,
    enumerated,
    shortened,
)
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.tls import probe
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import LEAST, Question

T = TypeVar("T")

# Seconds between two attempts, at most where a client is rejected, since its attempts
# may count, and until somebody looks at what takes so long.
PAUSE = 0.1
LONGEST_PAUSE = 2.0
WATCH = 1.0

# How many clients of ours an endpoint has at a time.
CLIENTS = 4

# In a sentence, for a client without server name.
NO_NAME = "no name"

# How many names are told one by one.
NAMES = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """A question that was not answered as expected, and how it was answered last."""

    question: Question
    error: ProofError


def verify(
    questions: Collection[Question],
    *,
    timeout: float,
    once: bool = False,
    watch: Callable[[], None] = lambda: None,
) -> list[Failure]:
    """Return which *questions* were not answered as expected within *timeout* seconds.

    A process that serves a client from before the change may answer for a while, so
    each is asked again until then, if not only *once*; at least once, for which there
    are `probe.LEAST` seconds.  *watch* is called if that takes longer than a second,
    and may end it all.
    """
    deadline = Deadline(timeout)
    stopped = threading.Event()
    lanes = list(_lanes(questions))
    failures = [[Failure(question, _UNASKED) for question in lane] for lane in lanes]

    def work(number: int) -> None:
        failures[number] = _until(lanes[number], deadline, stopped, once=once)

    try:
        side_by_side(work, range(len(lanes)), watch)
    finally:
        stopped.set()
    return [failure for lane in failures for failure in lane]


def _lanes(questions: Iterable[Question]) -> Iterator[list[Question]]:
    """Yield what is asked one after the other, of one endpoint each."""
    by_endpoint: dict[Endpoint, list[Question]] = {}
    for question in questions:
        by_endpoint.setdefault(question.endpoint, []).append(question)
    for mine in by_endpoint.values():
        yield from filter(None, (mine[start::CLIENTS] for start in range(CLIENTS)))


def side_by_side(
    work: Callable[[T], None],
    things: Iterable[T],
    watch: Callable[[], None] = lambda: None,
    patience: float | None = None,
) -> None:
    """Do *work* for each of *things* at once; *watch* is called if that takes long.

    What takes longer than *patience* seconds is left alone.
    """
    deadline = Deadline(patience or 0)
    threads = [
        # Ctrl-C need not wait for the deadline.
        threading.Thread(target=work, args=(thing,), daemon=True)
        for thing in things
    ]
    for thread in threads:
        thread.start()
    short = Deadline(WATCH)
    for thread in threads:
        thread.join(short.left)
    if any(thread.is_alive() for thread in threads):
        watch()
    for thread in threads:
        thread.join(None if patience is None else deadline.left)


_UNASKED = ProofError("no time was left", reason="no time was left")


def _until(
    questions: list[Question],
    deadline: Deadline,
    stopped: threading.Event,
    *,
    once: bool,
) -> list[Failure]:
    """Ask one endpoint until it has answered all as expected or the time is over."""
    last = Deadline(max(deadline.left, LEAST))
    known: dict[Question, Failure] = {}
    pause = PAUSE
    while True:
        failures = _round(questions, last, known)
        known.update((failure.question, failure) for failure in failures)
        refused = failures and isinstance(failures[-1].error, RefusedError)
        pause = min(2 * pause, LONGEST_PAUSE) if refused else PAUSE
        left = deadline.left
        over = once or left <= PAUSE
        if not failures or over or stopped.wait(min(pause, left)):
            return failures
        questions = [failure.question for failure in failures]


def _round(
    questions: list[Question], last: Deadline, known: Mapping[Question, Failure]
) -> list[Failure]:
    failures = []
    for number, question in enumerate(questions):
        left = last.left
        error = probe.ask(question, timeout=left)
        if isinstance(error, UnansweredError) and left < LEAST / 2:
            error = _UNASKED  # there was hardly time to answer
        if error is _UNASKED and question in known:
            failures.append(known[question])
        elif error:
            failures.append(Failure(question, error))
        if isinstance(error, RefusedError | UnansweredError):
            # Nor will it answer the others.
            failures += [
                Failure(question, error) for question in questions[number + 1 :]
            ]
            break
    return failures


def clauses(failures: Iterable[Failure]) -> list[str]:
    """Say what was wrong; what was answered alike is one clause."""
    alike: dict[tuple[type, str], list[Question]] = {}
    for failure in failures:
        key = (type(failure.error), failure.error.reason)
        alike.setdefault(key, []).append(failure.question)
    return [_clause(kind, why, mine) for (kind, why), mine in alike.items()]


def _clause(kind: type, reason: str, questions: list[Question]) -> str:
    endpoints = list(dict.fromkeys(question.endpoint for question in questions))
    if kind is UnansweredError:
        return f"{places(endpoints)} did not answer: {reason}"
    if kind is RefusedError:
        return f"{places(endpoints)} rejected the test connection: {reason}"
    if kind is AcceptedError:
        several = len({endpoint.service for endpoint in endpoints}) > 1
        return f"{places(endpoints)} {'accept' if several else 'accepts'} {reason}"
    clients = {question.server_name or "" for question in questions}
    to = (
        ""
        if "" in clients
        else f" to clients requesting {enumerated(sorted(clients), most=NAMES)}"
    )
    if types := sorted({question.key_type for question in questions} - {""}):
        to += f" to clients of TLS 1.2 that know {' or '.join(types)} only"
    if kind is OtherCertificateError:
        return f"{presenting(endpoints)} {reason}{to}"
    return f"{presenting(endpoints)} no certificate{to}: {reason}"


def presenting(endpoints: Iterable[Endpoint]) -> str:
    """Return subject and verb of a sentence about what services present."""
    found = list(endpoints)
    several = len({endpoint.service for endpoint in found}) > 1
    return f"{places(found)} {'present' if several else 'presents'}"


def places(endpoints: Iterable[Endpoint]) -> str:
    """Return each service with its addresses."""
    services: dict[str, list[str]] = {}
    for endpoint in dict.fromkeys(endpoints):
        services.setdefault(endpoint.name, []).append(endpoint.address)
    return enumerated(
        [
            name if [name] == where else f"{name} ({', '.join(where)})"
            for name, where in services.items()
        ],
        most=len(services),
    )


def some(names: set[str]) -> str:
    """Return some of *names* for a sentence, the absence of one last."""
    named = sorted(names - {NO_NAME})
    last = [NO_NAME] if NO_NAME in names else []
    return enumerated([*shortened(named, NAMES), *last], most=NAMES + 2)
