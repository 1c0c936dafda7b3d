"""Daemons that resolve policies for Postfix, as tables of the type socketmap_table(5).

While a daemon that main.cf names does not answer, mail to every domain is deferred: so
it is asked, through postmap(1), before it is named.  Raises `errors.Error`.
"""

import re
import socket
from contextlib import suppress

from certbot_postfix import maplist
from certbot_postfix.configuration import Configuration
from certbot_postfix.errors import Error, ProgramError
from certbot_postfix.policy.table import PARAMETER
from certbot_postfix.postfix import Postfix

# A domain for which nobody has a policy: RFC 6761, 6.4.
NOBODY = "certbot-postfix.invalid"

# Seconds until a daemon must have answered.
PATIENCE = 10.0

# What can stand in a list of tables, and is not expanded.
_TABLE = re.compile(r"[a-z]+:[^\s,{}$]+")


def known(configuration: Configuration) -> tuple[str, ...]:
    """Return the tables of those daemons that are found by themselves.

    Where postfix-mta-sts-resolver and postfix-tlspol listen as they are delivered.
    """
    tlspol = "QUERYwithTLSRPT" if configuration.version >= (3, 10) else "QUERY"
    return (
        "socketmap:inet:127.0.0.1:8461:postfix",
        f"socketmap:inet:127.0.0.1:8642:{tlspol}",
    )


def find(postfix: Postfix, configuration: Configuration, wanted: str) -> str:
    """Return the table of the daemon that is *wanted*, "" if there is none to be named.

    That is "auto", one that answers; "none"; or a table, which must answer.
    """
    if wanted == "none":
        return ""
    if wanted == "auto":
        return _found(postfix, configuration)
    if not _TABLE.fullmatch(wanted):
        raise Error(
            f"{wanted!r} is not a table that can be named: nothing was done",
            hint="give auto, none, or such as socketmap:inet:127.0.0.1:8461:postfix",
        )
    if wanted in maplist.listed(configuration.value(PARAMETER)):
        return ""
    if ":unix:" in wanted:
        raise Error(
            f"{wanted}: whether Postfix's client, in its chroot and as its user, could"
            " reach that socket cannot be proven from here: it is not named",
            hint="let the daemon listen on an address of loopback, and name that",
        )
    if why := fault(postfix, wanted):
        raise Error(
            f"{wanted} does not answer, and while that is so Postfix would defer all"
            f" mail: it is not named ({why})",
            hint="start the daemon first",
        )
    return wanted


def _found(postfix: Postfix, configuration: Configuration) -> str:
    named = configuration.value(PARAMETER)
    for table in known(configuration):
        _, _, host, port, _ = table.split(":")
        if f":{host}:{port}:" in named:
            return ""
        if _listens(host, int(port)) and not fault(postfix, table):
            return table
    return ""


def fault(postfix: Postfix, table: str, seconds: float = PATIENCE) -> str:
    """Return why *table* does not answer within *seconds*, "" if it does."""
    try:
        postfix.answers(table, {NOBODY}, timeout=seconds)
    except ProgramError as error:
        return error.message
    return ""


def dead(postfix: Postfix, configuration: Configuration) -> list[str]:
    """Return a sentence for each daemon in main.cf that does not answer."""
    tables = maplist.listed(configuration.value(PARAMETER))
    daemons = [each for each in tables if each.startswith(("socketmap:", "tcp:"))]
    return [
        f"{each} does not answer, and while that is so mail to every domain is"
        f" deferred: {why}\nWhat to do: start the daemon, or take it out of {PARAMETER}"
        for each in daemons
        if (why := fault(postfix, each))
    ]


def _listens(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=0.5):
        return True
    return False
