"""Daemons that resolve policies for Postfix, as tables of the type socketmap_table(5).

While a daemon that main.cf names does not answer, mail to every domain is deferred: so
it is asked, through postmap(1), before it is named.  Raises `errors.Error`.
"""

import socket
from contextlib import suppress

from certbot_postfix.errors import ProgramError
from certbot_postfix.outbound.policy_map import PARAMETER
from certbot_postfix.postfix import maps
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.services import as_clients_see_it

# A domain for which nobody has a policy: RFC 6761, 6.4.
NOBODY = "certbot-postfix.invalid"
NOBODY_UTF8 = f"b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.{NOBODY}"

# Seconds until a daemon must have answered.
PATIENCE = 10.0

# Those of them whose answers are those of a daemon.
_KINDS = ("socketmap:", "tcp:")


def known(configuration: Configuration) -> tuple[str, ...]:
    """Return the tables of those daemons that are found by themselves.

    Where postfix-mta-sts-resolver and postfix-tlspol listen as they are delivered.
    """
    tlspol = "QUERYwithTLSRPT" if configuration.version >= (3, 10) else "QUERY"
    return (
        "socketmap:inet:127.0.0.1:8461:postfix",
        f"socketmap:inet:127.0.0.1:8642:{tlspol}",
    )


def named(configuration: Configuration) -> list[str]:
    """Return the tables of daemons that the SMTP client asks."""
    tables = (
        table
        for client in as_clients_see_it(configuration)
        for table in maps.listed(client.value(PARAMETER))
    )
    return [table for table in dict.fromkeys(tables) if table.startswith(_KINDS)]


def fault(
    postfix: Postfix, table: str, seconds: float = PATIENCE, *, domain: str = NOBODY
) -> str:
    """Return why *table* does not answer within *seconds*, "" if it does."""
    try:
        postfix.answers(table, {domain}, timeout=seconds)
    except ProgramError as error:
        return error.message
    return ""


def dead(postfix: Postfix, configuration: Configuration) -> list[str]:
    """Return a sentence for each daemon in main.cf that does not answer."""
    return [
        f"{table} does not answer, and while that is so mail to every domain is"
        f" deferred: {why}\nHint: start the daemon, or take it out of {PARAMETER}"
        for table in named(configuration)
        if (why := fault(postfix, table))
    ]


def listens(host: str, port: int) -> bool:
    """Whether something takes connections there."""
    with suppress(OSError), socket.create_connection((host, port), timeout=0.5):
        return True
    return False
