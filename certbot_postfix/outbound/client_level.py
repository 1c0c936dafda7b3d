"""Whether the security level of the SMTP client can be raised without losing mail."""

from collections.abc import Iterable

from certbot_postfix.options import ClientLevel
from certbot_postfix.outbound import dnssec, fitness, next_hops
from certbot_postfix.postfix import tls_levels
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.decisions import Change, Decision
from certbot_postfix.postfix.instance import Postfix


def refuse_dane(configuration: Configuration, wanted: ClientLevel) -> list[str]:
    """Raise `Error` if *wanted* is dane, and that would not work.

    Returns what is remarkable of the resolvers if it would.
    """
    if not tls_levels.wants_dane(configuration, wanted):
        return []
    warnings = dnssec.refuse_unvalidated(configuration)
    fitness.refuse_beside_dane(configuration)
    return warnings


def refuse_encryption(
    postfix: Postfix, configuration: Configuration, decisions: Iterable[Decision]
) -> list[str]:
    """Raise `Error` if *decisions* demand TLS, and a next hop has none.

    Returns what is remarkable of next hops else.
    """
    raised = (next_hops.LEVEL, ClientLevel.ENCRYPT.value)
    changes = [decision for decision in decisions if isinstance(decision, Change)]
    if raised not in [(change.name, change.new) for change in changes]:
        return []
    return next_hops.refuse_without_tls(postfix, configuration)
