"""Which type a map of ours has: text, or a database.

Since it is our choice, it follows what the running Postfix has for new ones.
"""

import shlex
from typing import TYPE_CHECKING

from certbot_postfix.postfix.configuration import Configuration

if TYPE_CHECKING:
    from certbot_postfix.postfix.instance import Postfix

# The databases that postmap(1) builds, and that can hold the content of files (-F).
DATABASES = ("hash", "btree", "lmdb", "cdb")
_BERKELEY = ("hash", "btree")


def chosen(
    postfix: "Postfix", configuration: Configuration, now: str, size: int, most: int
) -> str:
    """Return the type for a map with *size* entries, which has the type *now*.

    Up to *most* entries it is text, for which nothing can go stale.  A database stays
    one, as long as new ones would have its type.
    """
    if now in ("", "texthash") and size <= most:
        return "texthash"
    usual = _database(postfix, configuration)
    return usual if usual and (now == usual or size > most) else "texthash"


def _database(postfix: "Postfix", configuration: Configuration) -> str:
    """Return the type of a new database, "" if none can be used."""
    supported = postfix.map_types()
    built_in = configuration.defaults.get("default_database_type", "")
    for map_type in (configuration.value("default_database_type"), built_in):
        if (
            map_type in DATABASES
            and map_type in supported
            and not leaving(configuration, map_type)
        ):
            return map_type
    return ""


def leaving(configuration: Configuration, now: str) -> bool:
    """Whether the type *now* is of Berkeley DB, and this Postfix about to lose that.

    As is one whose built-in default is another: NON_BERKELEYDB_README of Postfix 3.11.
    """
    built_in = configuration.defaults.get("default_database_type", "")
    return now in _BERKELEY and built_in not in _BERKELEY


def outdated(configuration: Configuration, table: str, usual: str, name: str) -> str:
    """Return what is to be said where *table* is a database, and *usual* its new type.

    *name* is that of a lineage that is deployed: once more, it moves the map.
    """
    now = table.partition(":")[0]
    if now in ("texthash", usual):
        return ""
    command = ["certbot", "install", "-i", "postfix", "--cert-name", name]
    command += configuration.certbot_options
    return (
        f"{table} in main.cf has a map type that this Postfix has replaced by"
        f" {configuration.value('default_database_type')}; that is left unchanged, and"
        f" installing a certificate makes it {usual}\nHint: {shlex.join(command)}"
    )
