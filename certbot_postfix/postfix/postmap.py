"""What postmap(1) does: it writes databases, and answers queries of any table.

Raises `ProgramError`.  Its exit status is 0 also where it leaves an entry out.
"""

import re
import shlex
from collections.abc import Collection

from certbot_postfix.errors import (
    ProgramError,
)
from certbot_postfix.postfix import databases, maps
from certbot_postfix.system import files
from certbot_postfix.system.programs import (
    Done,
    complaint,
    run,
)

# What postmap(1) says of an entry that it leaves out: postmap.c, dict_utf8.c, and the
# dict_*.c of these databases, from 2.11 to 3.12.
_LEFT_OUT = re.compile(
    r"ignoring this line|expected format: key|skipping this entry|duplicate entry"
    r"|non-UTF-8 (?:key|value)"
)


# How it begins when it gives up: msg_vstream.c.
_FATAL = re.compile(r"^\S+: (?:fatal|error|panic): ", re.MULTILINE)


def write(command: list[str], text: str, timeout: float) -> str:
    """Run the *command*, which reads *text*; return what it said, if it succeeded."""
    done = run(command, check=False, text=text, timeout=timeout)
    if done.returncode or _LEFT_OUT.search(done.stderr):
        raise _failed(done)
    return done.stderr.strip()


def answers(
    program: list[str], table: str, keys: Collection[str], timeout: float
) -> dict[str, str]:
    """Return what *table* has for those *keys* that it has."""
    named = [path for kind, path in maps.files(table) if kind in _OF_FILES]
    for path in named:
        for file in (path, *databases.possible(path)):
            if files.is_special(file):
                raise ProgramError(
                    f"{file}, which {table} names, is not a regular file"
                )
    queries = "".join(f"{key}\n" for key in sorted(keys))
    command = [*program, "-q", "-", table]
    done = run(command, check=False, text=queries, timeout=timeout)
    # 1 is also the exit status where nothing is found; a warning changes no answer.
    failed = done.returncode > 1 or done.returncode < 0 or _FATAL.search(done.stderr)
    # postmap(1) reads on, but Postfix's daemons refuse such a table as a whole.
    if failed or "duplicate entry" in done.stderr:
        raise _failed(done)
    pairs = (line.partition("\t") for line in done.stdout.split("\n"))
    return {key: value for key, _, value in pairs if key in keys}


def reason(said: str) -> str:
    """Return what postmap(1) *said*, its first line, for a message."""
    return f"said: {said.splitlines()[0]}" if said else "gave no error message"


def _failed(done: Done) -> ProgramError:
    return ProgramError(f"{shlex.join(done.args)} failed: {complaint(done)}")


# The types of tables that are read from a file.
_OF_FILES = frozenset(
    {"texthash", "hash", "btree", "lmdb", "cdb", "dbm", "sdbm", "regexp", "pcre"}
    | {"cidr", "ldap", "mysql", "pgsql", "sqlite", "memcache"}
)
