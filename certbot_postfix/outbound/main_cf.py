"""What main.cf must say so that the client follows policies, and what stands against.

Pure: a `Configuration` in, decisions out.  The administrator's own tables stay in
front, ours comes next, and a resolver daemon last.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from certbot_postfix.outbound.policy_map import PARAMETER, unicode_key
from certbot_postfix.postfix import maps, tls_levels
from certbot_postfix.postfix.configuration import Configuration, client_roots
from certbot_postfix.postfix.decisions import Change, Decision, Override, Remove
from certbot_postfix.tls import purposes
from certbot_postfix.tls.certificates import Certificate

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

# What our entries would not make stricter, or else by another kind of proof.
STRICTER = frozenset({"dane-only", "fingerprint", "secure"})


@dataclass(frozen=True, slots=True)
class Named:
    """What main.cf is to name: our table *path* as *form*, "" if not, and a daemon.

    *daemons* are those that are known, which come last.
    """

    path: Path
    form: str
    daemon: str
    daemons: Sequence[str]


def name(configuration: Configuration, wanted: Named) -> Iterator[Decision]:
    """Let main.cf name what is *wanted*, after all that the administrator has."""
    old = configuration.explicit.get(PARAMETER, "")
    new, last = _split(old, wanted.daemons)
    if wanted.form:
        new = maps.named(new, wanted.path, wanted.form)
    elif maps.form(old, wanted.path):
        new = maps.unnamed(new, wanted.path)
    new = ", ".join(filter(None, (new, last, wanted.daemon)))
    if maps.listed(new) == maps.listed(old):
        return
    if new:
        why = "mail is protected as the domains of recipients ask"
        yield Change(PARAMETER, configuration.explicit.get(PARAMETER), new, why)
    else:
        yield Remove(PARAMETER, old, "there are no policies any more")


def _split(value: str, daemons: Sequence[str]) -> tuple[str, str]:
    """Return *value* without a daemon at its end, and that."""
    for each in daemons:
        if maps.listed(value)[-1:] == [each]:
            return value.rstrip().removesuffix(each).rstrip(", \t\n"), each
    return value, ""


def trust(configuration: Configuration) -> Iterator[Decision]:
    """Give the client authorities to judge servers by, if it has none.

    Or only a copy of the system's in its chroot, where a directory is looked up, unlike
    a file (postconf(5), smtp_tls_CApath): as old as the last start of Postfix.
    """
    copied = _directory(configuration) and client_roots(configuration) != [Path("/")]
    wanted = _of_the_system(configuration) and copied
    if configuration.ca_bundle and (wanted or not _authorities(configuration)):
        why = "the certificates of other servers can be verified"
        new = str(configuration.ca_bundle)
        old = configuration.explicit.get("smtp_tls_CAfile")
        yield Change("smtp_tls_CAfile", old, new, why)


def directories(configuration: Configuration) -> list[Path]:
    """Return where clients look for authorities one by one, if that is all they have.

    The system's are not among them, as its bundle is named instead.
    """
    named = _directory(configuration)
    if not named or _of_the_system(configuration):
        return []
    return [root / named.lstrip("/") for root in client_roots(configuration)]


def _directory(configuration: Configuration) -> str:
    """Return the directory of authorities, "" if there is a file of them as well."""
    if configuration.value("smtp_tls_CAfile"):
        return ""
    return configuration.value("smtp_tls_CApath")


def _of_the_system(configuration: Configuration) -> bool:
    bundle = configuration.ca_bundle
    named = Path(_directory(configuration))
    return bundle is not None and named == bundle.parent


def distrust(
    configuration: Configuration,
    trusted: Sequence[Certificate],
    empty: Sequence[Path] = (),
) -> str:
    """Return why no server could be verified, or ""; then mail would stay here.

    *trusted* are the certificates in smtp_tls_CAfile; *empty* those of `directories`
    that have none.
    """
    named = configuration.value("smtp_tls_CAfile")
    if not _authorities(configuration):
        if configuration.ca_bundle:
            return ""
        return "there is no bundle of authorities on this machine"
    if empty:
        path = configuration.value("smtp_tls_CApath")
        return f"smtp_tls_CApath = {path}, and {empty[0]} has no authorities"
    if not named:
        return ""
    if any(each.self_signed and purposes.of_authorities(each) for each in trusted):
        return ""
    return f"smtp_tls_CAfile = {named} holds no root certificate of an authority"


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
        and not maps.form(value, path)
    ]


def own_tables(configuration: Configuration, path: Path) -> list[str]:
    """Return the administrator's tables before *path*."""
    return maps.before(configuration.value(PARAMETER), path)


def keys(domain: str) -> list[str]:
    """Return what is looked up for *domain*, in order: itself, then its parents.

    A next hop with a port or in brackets has none: postconf(5), smtp_tls_policy_maps.
    """
    if set(domain) & set("[:"):
        return [domain]
    labels = domain.split(".")
    parents = (f".{'.'.join(labels[at:])}" for at in range(1, len(labels)))
    return [domain, *parents]


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


def _authorities(configuration: Configuration) -> bool:
    named = ("smtp_tls_CAfile", "smtp_tls_CApath")
    if any(map(configuration.value, named)):
        return True
    return configuration.flag("tls_append_default_CA")


def local(table: str) -> bool:
    """Whether *table* can be asked without a network, and without a daemon."""
    kind, _, rest = table.removeprefix("proxy:").partition(":")
    if kind in _COMPOSED and rest.startswith("{") and rest.endswith("}"):
        return all(map(local, maps.listed(rest[1:-1])))
    return kind in _LOCAL
