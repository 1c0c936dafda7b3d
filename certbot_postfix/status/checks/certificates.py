"""Whether the certificates in use are valid, renewable, and cover their names.

Pure: facts in, findings out.  One that has expired because it is stale is no finding of
its own.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path

from certbot_postfix.errors import short
from certbot_postfix.inbound import main_cf, sni
from certbot_postfix.postfix import configuration
from certbot_postfix.postfix.configuration import SNI_MAPS
from certbot_postfix.status.facts import Facts
from certbot_postfix.status.findings import Code, Finding
from certbot_postfix.tls import certificates
from certbot_postfix.tls.certificates import UNKNOWN, Certificate, listed

# A certificate expires soon if less than this part of its lifetime remains.  certbot
# renews when a third remains: for as long again, it has tried in vain.
SOON = 6


def in_use(facts: Facts) -> dict[Certificate, list[str]]:
    """Return the certificates that are presented, with the services that do so.

    Those in files that no service was seen to present come with the parameter.
    """
    places: dict[Certificate, list[str]] = {}
    for handshake in facts.handshakes:
        if handshake.leaf:
            places.setdefault(handshake.leaf, []).append(handshake.endpoint.service)
    presented = frozenset(places)
    for chain in facts.chains:
        for leaf in facts.leaves(chain.files):
            if leaf not in presented:
                places.setdefault(leaf, []).append(chain.where)
    return places


def check(facts: Facts, old: frozenset[Certificate]) -> Iterator[Finding]:
    """Yield what is wrong with certificates, except for the stale ones, *old*."""
    gone = set()
    for chain in facts.chains:
        for path in chain.files:
            name = facts.lineage(path)
            ours = facts.is_bundle(path)
            if ours and name in facts.lineages and facts.lineages[name] is None:
                leaf = facts.leaf(path)
                gone.add(leaf)
                yield _orphan(facts, path, name, leaf, chain.where)
    clients = _of_clients(facts)
    for leaf, places in in_use(facts).items():
        if leaf in old or leaf in gone:
            continue
        if leaf.fault:
            yield _unreadable(facts, leaf, places)
        if leaf.self_signed and not leaf.fault and leaf not in clients:
            yield _self_signed(facts, leaf, places)
        else:
            yield from _in_time(facts, leaf, places)
    yield from _unlinked(facts)
    yield from _covering(facts, old)
    yield from _covering_names(facts, old)


def _of_clients(facts: Facts) -> set[Certificate]:
    return {
        leaf
        for chain in facts.chains
        if chain.client
        for leaf in facts.leaves(chain.files)
    }


def _held(facts: Facts, leaf: Certificate) -> str:
    return str(facts.holder(leaf) or leaf)


def _self_signed(facts: Facts, leaf: Certificate, places: list[str]) -> Finding:
    host = facts.configuration.value("myhostname")
    fitting = [
        name
        for name, newest in sorted(facts.lineages.items())
        if newest and certificates.covers(newest.names, host)
    ]
    command = main_cf.obtaining(facts.configuration, [host])
    if fitting:
        words = ["certbot", "install", "-i", "postfix", "--cert-name", fitting[0]]
        command = shlex.join([*words, *facts.configuration.certbot_options])
    return Finding(
        Code.SELF_SIGNED,
        _held(facts, leaf),
        f"self-signed certificate {short(leaf.subject) or leaf} (typical of a new"
        " installation): clients cannot verify it",
        command,
        tuple(places),
    )


def _again(facts: Facts, leaf: Certificate, *names: str) -> str:
    """Return the command that obtains *leaf* again, with *names* besides."""
    holder = facts.holder(leaf)
    lineage = facts.lineage(holder) if holder else ""
    wanted = dict.fromkeys((*sorted(leaf.names), *names))
    settings = facts.renewals.get(lineage)
    return main_cf.obtaining(facts.configuration, wanted, lineage, settings)


def _unreadable(facts: Facts, leaf: Certificate, places: list[str]) -> Finding:
    return Finding(
        Code.UNREADABLE,
        _held(facts, leaf),
        f"the certificate {leaf} violates RFC 5280 ({leaf.fault}): only a part of it"
        " can be checked, and clients may reject it",
        _again(facts, leaf, facts.configuration.value("myhostname")),
        tuple(places),
    )


def _unlinked(facts: Facts) -> Iterator[Finding]:
    """Yield the lineages that certbot cannot renew, since it would replace no file."""
    for name, path in facts.unlinked.items():
        yield Finding(
            Code.LINEAGE_UNLINKED,
            str(path.parent),
            f"{path} is a plain file, not a link into archive/: certbot does not renew"
            f" {name}",
            f"move {path.parent} and its files in archive/ and renewal/ away, and"
            f" obtain the certificate again with --cert-name {name}",
            (str(path.parent),),
        )


def _orphan(
    facts: Facts, path: Path, name: str, leaf: Certificate | None, where: str
) -> Finding:
    expiry = f"; it {leaf.expiry(facts.now)}" if leaf else ""
    again = "obtain it again"
    if leaf:
        again = f"{_again(facts, leaf)}, to obtain it again"
    return Finding(
        Code.LINEAGE_MISSING,
        str(path),
        f"{path} is in use, but its lineage {name} no longer exists: it will not be"
        f" renewed{expiry}",
        f"{again}; or certbot-postfix forget {name}",
        (where,),
    )


def _in_time(facts: Facts, leaf: Certificate, places: list[str]) -> Iterator[Finding]:
    if leaf.not_after == UNKNOWN:
        return
    held = _held(facts, leaf)
    remaining = leaf.not_after - facts.now
    message = f"the certificate for {_names(leaf)} {leaf.expiry(facts.now)}"
    holder = facts.holder(leaf)
    name = facts.lineage(holder) if holder else ""
    hint = f"replace {held}, which certbot does not manage"
    if name or not holder:
        hint = f"certbot renew{f' --cert-name {name}' if name else ''}, and see its log"
    where = tuple(places)
    if leaf.not_before > facts.now:
        message = f"the certificate for {_names(leaf)} is not valid before"
        message += f" {leaf.not_before:%Y-%m-%d %H:%M} UTC: clients reject it"
        yield Finding(
            Code.NOT_YET_VALID, held, message, "check the clock of this host", where
        )
    elif remaining.total_seconds() <= 0:
        yield Finding(Code.EXPIRED, held, f"{message}: clients reject it", hint, where)
    elif remaining * SOON < leaf.not_after - leaf.not_before:
        message += ": it should have been renewed by now"
        yield Finding(Code.EXPIRES_SOON, held, message, hint, where)


def _judged(leaf: Certificate) -> bool:
    """Whether there is a finding that makes its names unimportant."""
    return leaf.self_signed or bool(leaf.fault)


def _names(leaf: Certificate) -> str:
    return listed(leaf.names) or short(leaf.subject) or "no name"


def _covering(facts: Facts, old: frozenset[Certificate]) -> Iterator[Finding]:
    """Yield the server's own names that its certificates do not cover."""
    public = configuration.names(facts.configuration)
    for name, service in facts.services.items():
        host = facts.configuration.value("myhostname", service)
        default = [
            handshake.leaf
            for handshake in facts.handshakes
            if handshake.leaf
            and handshake.endpoint.service == name
            and handshake.server_name is None
        ] or facts.leaves(facts.configured(name))
        by_name = facts.leaves(facts.names.get(sni.key(host), ()))
        leaves = [*default, *by_name]
        if (
            host in public
            and default
            and not any(_judged(leaf) or leaf in old for leaf in default)
            and not any(certificates.covers(leaf.names, host) for leaf in leaves)
        ):
            yield Finding(
                Code.NAME_NOT_COVERED,
                f"myhostname = {host}",
                main_cf.not_covering(default[0], host),
                _again(facts, default[0], host),
                (name,),
            )


def _covering_names(facts: Facts, old: frozenset[Certificate]) -> Iterator[Finding]:
    """Yield the chains with names in SNI maps that they do not cover."""
    presented = {
        handshake.key: handshake.leaf
        for handshake in facts.handshakes
        if handshake.key and handshake.leaf
    }
    bare: dict[tuple[Path, ...], list[str]] = {}
    for key, paths in facts.names.items():
        leaves = facts.leaves(paths)
        if not leaves and key in presented:
            leaves = [presented[key]]
        if any(path in facts.files and not facts.files[path].exists for path in paths):
            continue  # reported, and why another certificate is presented
        useless = {leaf for leaf in leaves if leaf in old or _judged(leaf)}
        name = sni.example_name(key, ())
        covered = any(certificates.covers(leaf.names, name) for leaf in leaves)
        if leaves and not useless and not covered:
            bare.setdefault(paths, []).append(key)
    for paths, keys in bare.items():
        files = ", ".join(map(str, paths))
        yield Finding(
            Code.SNI_NOT_COVERED,
            files,
            f"the SNI map assigns {files} to {listed(keys)}, which the certificate does"
            " not cover: clients that check the name reject it",
            "obtain the certificate again with these names, or remove them from the SNI"
            " map",
            (SNI_MAPS,),
        )
