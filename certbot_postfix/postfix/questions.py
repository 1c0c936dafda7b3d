"""Which services are asked what: before a change, after it, and after its undo.

Promises in, questions out; nothing is asked here.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto

from certbot_postfix.postfix import screening
from certbot_postfix.postfix.configuration import SNI_MAPS, Configuration
from certbot_postfix.postfix.services import (
    endpoints,
    with_own_certificate,
    without_tls,
)
from certbot_postfix.system.listeners import is_local
from certbot_postfix.tls.baseline import Baseline
from certbot_postfix.tls.certificates import Certificate
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import Question
from certbot_postfix.tls.rejections import NEW_TLS


@dataclass(frozen=True, slots=True)
class Expectation:
    """Who asks for *server_name*, or for none, is shown one of *expected*.

    That holds where main.cf's certificates are served, or at *services* if there are
    any.
    """

    server_name: str | None
    expected: tuple[Certificate, ...]
    services: frozenset[str] = frozenset()


# Up to so many names, a client asks every service for each; of more, for so many names
# of each chain, or for one.
NAMES = 50


SAMPLE = 5


def sampled(promises: Collection[Expectation], most: int = NAMES) -> list[Expectation]:
    """Return those of *promises* that are asked for: every chain, some of its names.

    A table has one line for each of its names, all made in the same way.  Up to *most*
    names are all asked for.
    """
    named = [promise for promise in promises if promise.server_name is not None]
    if len(named) <= most:
        return list(promises)
    chains: dict[tuple[object, ...], list[Expectation]] = {}
    for promise in named:
        chains.setdefault((promise.expected, promise.services), []).append(promise)
    count = min(SAMPLE, max(1, most // len(chains)))
    chosen = [promise for promise in promises if promise.server_name is None]
    for chain in chains.values():
        step = max(1, len(chain) // count)
        chosen += chain[::step][:count]
    return chosen


class Purpose(Enum):
    """What has changed, which decides who must answer as expected."""

    INSTALLED = auto()
    RENEWED = auto()
    UNDONE = auto()


def before(configuration: Configuration) -> list[Question]:
    """Return a question for every endpoint, for a certificate or for a greeting."""
    plain = without_tls(configuration)
    return [
        *(Question(endpoint, None) for endpoint in _with_tls(configuration)),
        *(
            Question(endpoint, None, tls=False)
            for endpoint in plain
            if is_local(endpoint.host)
        ),
    ]


def to_be_verified(configuration: Configuration) -> list[Endpoint]:
    """Return where a certificate is served once TLS is not off any more."""
    values = dict(configuration.values)
    for command in ("smtpd", "postscreen"):
        name = f"{command}_tls_security_level"
        inherited = command == "smtpd" or name not in configuration.explicit
        if inherited and values.get(name, "").lower() in ("", "none"):
            values[name] = "may"
    return endpoints(replace(configuration, values=values))[0]


def after(
    configuration: Configuration, promises: Collection[Expectation]
) -> list[Question]:
    """Return what is to be asked where certificates of ours are served.

    With many chains that have names, each of them is asked for at one endpoint.
    """
    places = _with_tls(configuration)
    default = {endpoint.service for endpoint in endpoints(configuration)[0]}
    having = _with_sni_map(configuration, places)
    named = [promise for promise in promises if promise.server_name is not None]
    parts = len(having) if len(named) > NAMES else 1
    questions = [
        Question(endpoint, None, promise.expected)
        for endpoint in places
        for promise in promises
        if promise.server_name is None
        if endpoint.service in (promise.services or default)
    ]
    questions += [
        Question(endpoint, promise.server_name, promise.expected)
        for number, endpoint in enumerate(having)
        for promise in named[number % parts :: parts]
        if endpoint.service in (promise.services or default)
    ]
    return questions


def _with_tls(configuration: Configuration) -> list[Endpoint]:
    """Return where a certificate is served, to whom; at addresses of this machine."""
    everywhere = [
        *endpoints(configuration)[0],
        *with_own_certificate(configuration),
        *screening.strangers(configuration),
    ]
    return [endpoint for endpoint in everywhere if is_local(endpoint.host)]


def _with_sni_map(
    configuration: Configuration, places: Iterable[Endpoint]
) -> list[Endpoint]:
    """Return those *places* that have main.cf's SNI map, not one of their own."""
    sni_map = configuration.value(SNI_MAPS)
    services = {str(service): service for service in configuration.services}
    return [
        endpoint
        for endpoint in places
        if configuration.value(SNI_MAPS, services[endpoint.service]) == sni_map
    ]


def parted(
    questions: Collection[Question],
    configuration: Configuration,
    baseline: Baseline | None,
    purpose: Purpose,
) -> tuple[list[Question], list[Question]]:
    """Return what must be answered as expected after a change, and what may be.

    A service that was alive before must be alive, whatever it serves.
    """
    if not baseline:
        return from_known_clients(questions), []
    must: list[Question] = []
    may: list[Question] = []
    alive = purpose is Purpose.INSTALLED
    for question in questions:
        at = question.endpoint
        if at.source:
            # postscreen may have reasons of its own to reject a stranger.
            must += [question] if baseline.let_in(at) else []
            continue
        due = baseline.greeted(at) if alive else baseline.well(at)
        (must if due else may).append(question)
    ours = {question.endpoint for question in questions}
    for question in before(configuration):
        at = question.endpoint
        if at not in ours and not at.source:
            # A service's own certificate is not ours, and not to be harmed either.
            other = replace(question, tls=question.tls and baseline.well(at))
            (must if baseline.greeted(at) else may).append(other)
    return must, may


def limiting(configuration: Configuration) -> set[str]:
    """Return the services that limit how many sessions of TLS a client begins."""
    return {
        str(service)
        for service in configuration.services
        if configuration.value(NEW_TLS, service) not in ("", "0")
    }


def from_known_clients(questions: Collection[Question]) -> list[Question]:
    """Return those that every server answers that lets this machine in."""
    return [question for question in questions if not question.endpoint.source]
