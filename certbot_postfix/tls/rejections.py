"""When a client of ours is rejected: whose fault that is, and what is to be done.

Our own clients count, too, where Postfix limits them.  Raises nothing.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from certbot_postfix.errors import AcceptedError, RefusedError, UnansweredError
from certbot_postfix.tls.dialogue import LIMITED
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import Question
from certbot_postfix.tls.verification import NO_NAME, Failure, clauses, some

# The limit of postconf(5) that also counts handshakes which end at once.
NEW_TLS = "smtpd_client_new_tls_session_rate_limit"


def limited(failures: Iterable[Failure], services: Collection[str]) -> list[Failure]:
    """Return *failures*, with what *services* mean when they close a connection.

    Where TLS comes first, smtpd(8) has no words for who reached `NEW_TLS`.
    """
    return [
        replace(failure, error=RefusedError(reason, reason=reason))
        if isinstance(failure.error, UnansweredError)
        and failure.question.endpoint.implicit
        and failure.question.endpoint.service in services
        and (reason := f"{failure.error.reason} ({NEW_TLS} is set)")
        else failure
        for failure in failures
    ]


def tolerable(
    failures: Collection[Failure],
    asked: Iterable[Question],
    let_in: Callable[[Endpoint], bool],
    *,
    anywhere: bool,
) -> list[Failure]:
    """Return those *failures* that say nothing against what was changed.

    An endpoint that rejects one client of ours and presents the certificate to another
    is well, and so is one that *let_in* a client before and has a limit; if *anywhere*,
    only where another presents the certificate.
    """
    failed = {failure.question for failure in failures}
    answered = [question for question in asked if question not in failed]
    here = {(question.endpoint, question.expected) for question in answered}
    seen = {question.expected for question in answered} | {()}
    return [
        failure
        for failure in failures
        if isinstance(failure.error, RefusedError)
        and (
            (failure.question.endpoint, failure.question.expected) in here
            or (
                LIMITED in failure.error.reason
                and let_in(failure.question.endpoint)
                and not (anywhere and failure.question.expected not in seen)
            )
        )
    ]


def unverified(failures: list[Failure]) -> str:
    """Say what was not verified because an endpoint rejected a client of ours."""
    names = {failure.question.server_name or NO_NAME for failure in failures}
    return (
        f"{'; '.join(clauses(failures))}; what clients requesting {some(names)} get"
        " there was not verified"
    )


def hint(failures: list[Failure]) -> str:
    """Return what is to be done about *failures*."""
    refusals = {
        failure.error.reason
        for failure in failures
        if isinstance(failure.error, RefusedError)
    }
    if any(isinstance(failure.error, AcceptedError) for failure in failures):
        return (
            "what excludes it is not in force there: is it overridden, or does OpenSSL"
            " not know all that its configuration names? --postfix-tls-profile"
            " intermediate does without it"
        )
    if not refusals:
        return 'look for "disabling TLS support" or "fatal" in the mail log'
    signs = ("421 ", LIMITED, NEW_TLS)
    too_many = any(sign in reason for reason in refusals for sign in signs)
    return (
        "exempt the addresses of this machine from limits for clients"
        " (smtpd_client_event_limit_exceptions)"
        if too_many
        else "allow connections from this machine (is smtpd_delay_reject = no?)"
    ) + ", or skip the verification with --postfix-verify-timeout 0"
