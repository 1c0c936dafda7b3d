"""The database that Postfix reads the table certbot_tls_policy from, built and checked.

Raises `ProgramError`.
"""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from certbot_postfix.errors import ProgramError
from certbot_postfix.outbound import policy_map
from certbot_postfix.postfix.databases import Databases
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.postmap import reason

# So many entries are compared with a database at once.
_AT_ONCE = 10_000


def build(
    postfix: Postfix,
    databases: Databases,
    map_type: str,
    text: bytes,
    register: Callable[[Path], None] | None = None,
) -> None:
    """Build the database of *map_type* for *text*, and put it in place if it is whole.

    A text table has none, but must be one that Postfix can read.  What is new is given
    to *register* before.
    """
    with databases.building(text, mode=0o644) as copy:
        table = f"{map_type}:{copy}"
        output = "" if map_type == "texthash" else postfix.map(table)
        _refuse_unwritten(postfix, table, text, output)
        databases.install(copy, register)


def _refuse_unwritten(postfix: Postfix, table: str, text: bytes, output: str) -> None:
    """Raise `ProgramError` if Postfix does not find the last entry of *text*.

    Or any, where the *output* of postmap(1) may mean that it has left something out.
    """
    # postmap of 3.7 exits with 0, silently, when lmdb finds the disk full.
    entries = policy_map.lines(text) if output else policy_map.last(text)
    while True:  # a table without entries must be one, too
        some = dict(islice(entries, _AT_ONCE))
        if postfix.answers(table, some.keys()) != some:
            raise ProgramError(
                f"{table} lacks what was written, and postmap {reason(output)}:"
                " the policies were left unchanged",
                hint="is the disk full?",
            )
        if not some:
            return
