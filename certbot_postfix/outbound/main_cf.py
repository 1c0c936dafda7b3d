"""What main.cf must say so that the client follows policies, and what stands against.

Pure: a `Configuration` in, decisions out.  The administrator's own tables stay in
front, ours comes next, and a resolver daemon last.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.outbound.policy_map import PARAMETER, unicode_key
from certbot_postfix.postfix import maps, tls_levels
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.decisions import Change, Decision, Override, Remove

# Types of tables that are asked without a network, and without a daemon.
_LOCAL = frozenset(
    (
        "btree",
        "cdb",
        "cidr",
        "dbm",
        "hash",
        "inline",
        "lmdb",
        "pcre",
        "regexp",
        "sdbm",
        "static",
        "texthash",
    )
)

# Those that ask a list of others, in braces: DATABASE_README.
_COMPOSED = frozenset({"pipemap", "unionmap"})

# What our entries would not make stricter, or else by another kind of evidence.
STRICTER = frozenset({"dane-only", "fingerprint", "secure"})


@dataclass(frozen=True, slots=True)
class Target:
    """What main.cf is to refer to: our table at *path*, and a *daemon*.

    Either is left out if its *map_type* or name is "".  *daemons* are those that are
    known, which come last.  That which is *dropped* is not referred to any more.
    """

    path: Path
    map_type: str
    daemon: str
    daemons: Sequence[str]
    dropped: str = ""


def refer(configuration: Configuration, target: Target) -> Iterator[Decision]:
    """Let main.cf refer to *target*, after all that the administrator has."""
    old = configuration.explicit.get(PARAMETER, "")
    new, last = _split(old, target.daemons)
    if target.map_type:
        new = maps.named(new, target.path, target.map_type)
    elif maps.map_type(old, target.path):
        new = maps.unnamed(new, target.path)
    if last == target.dropped:
        last = ""
    new = ", ".join(filter(None, (new, last, target.daemon)))
    if maps.listed(new) == maps.listed(old):
        return
    if new:
        why = "mail is protected as the domains of recipients ask"
        yield Change(PARAMETER, configuration.explicit.get(PARAMETER), new, why)
    else:
        yield Remove(PARAMETER, old, "there are no policies any more")


def _split(value: str, daemons: Sequence[str]) -> tuple[str, str]:
    """Return *value* without a daemon at its end, and that."""
    for daemon in daemons:
        if maps.listed(value)[-1:] == [daemon]:
            return value.rstrip().removesuffix(daemon).rstrip(", \t\n"), daemon
    return value, ""


def stricter(configuration: Configuration) -> str:
    """Return the level of the client if policies would not raise it, else ""."""
    level = tls_levels.client_level(configuration)
    return level if level in STRICTER else ""


def prefers_dane(configuration: Configuration) -> bool:
    """Whether the client uses DANE where there is some."""
    return tls_levels.client_level(configuration) in ("dane", "dane-only")


def overrides(configuration: Configuration, path: Path) -> list[Override]:
    """Return where master.cf hides from the client that main.cf names *path*."""
    return [
        Override(str(service), PARAMETER, value)
        for service in configuration.services
        if service.command == "smtp"
        and (value := service.overrides.get(PARAMETER)) is not None
        and not maps.map_type(value, path)
    ]


def own_tables(configuration: Configuration, path: Path) -> list[str]:
    """Return the administrator's tables before *path*."""
    return maps.before(configuration.value(PARAMETER), path)


def keys(domain: str) -> list[str]:
    """Return what is looked up for *domain*, in order: itself, then its parents.

    A next hop with a port or in brackets has none: postconf(5), smtp_tls_policy_maps.
    """
    names, parent = [domain], domain
    if "[" in domain or ":" in domain:
        return names
    while "." in parent:
        parent = parent.partition(".")[2]
        names.append(f".{parent}")
    return names


def overruled(domains: Collection[str], answered: Collection[str]) -> set[str]:
    """Return the *domains* for which a table of the administrator's has an entry.

    *answered* are the keys that it has.  Postfix would ask our table first for the
    domain itself, where the administrator has an entry for a parent.
    """
    has = set(answered)
    return {
        domain
        for domain in domains
        if not has.isdisjoint([*keys(domain), *keys(unicode_key(domain))])
    }


def unnamed(path: Path | str) -> Error:
    """Return the error that our map *path* exists, and main.cf does not name it."""
    return Error(
        f"main.cf does not name {path} in {PARAMETER}: its policies have no effect",
        hint="certbot install -i postfix --cert-name NAME; with --postfix-policy-list"
        " '' --postfix-mta-sts-domains '' the map is removed",
    )


def local(table: str) -> bool:
    """Whether *table* can be asked without a network, and without a daemon."""
    kind, _, rest = table.removeprefix("proxy:").partition(":")
    if kind in _COMPOSED and rest.startswith("{") and rest.endswith("}"):
        return all(map(local, maps.listed(rest[1:-1])))
    return kind in _LOCAL
