"""What is wrong with what the services show, and with the certificates in use.

Pure: facts in, findings out.  What has a cause that is told already is not told again:
a service fails because of its file, a certificate has expired because it is stale.
"""

from collections.abc import Iterator
from pathlib import Path

from certbot_postfix.errors import short
from certbot_postfix.inbound import chain_files, sni
from certbot_postfix.postfix import configuration
from certbot_postfix.postfix.configuration import SNI_MAPS
from certbot_postfix.status import evidence
from certbot_postfix.status.evidence import Answer, Facts
from certbot_postfix.status.findings import Code, Finding
from certbot_postfix.tls import certificates
from certbot_postfix.tls.certificates import UNKNOWN, Certificate, listed

# A certificate ends soon if less than this part of its lifetime is left.  certbot
# renews when a third is left: for as long again, it has tried in vain.
SOON = 6

_IN_LOG = 'look for "disabling TLS support" or "fatal" in the mail log'


def of_services(facts: Facts, broken: frozenset[str]) -> Iterator[Finding]:
    """Yield which services fail; what fails because of *broken* files is not told."""
    directory = facts.configuration.directory
    asked = [each for each in facts.answers if each.server_name is None]
    if there := facts.elsewhere:
        yield Finding(
            Code.ANOTHER_RUNS,
            str(directory),
            f"the Postfix that listens there was started with {there}, and does not"
            f" read {directory}",
            f"certbot-postfix --config-dir {there} status; or stop that Postfix, and"
            f" start it with {directory}",
        )
        return
    silent = bool(asked) and not any(each.alive for each in facts.answers)
    if facts.running is False or (facts.running is None and silent):
        yield Finding(
            Code.NOT_RUNNING,
            str(directory),
            f"Postfix in {directory} does not run: no mail comes in",
            f"postfix -c {directory} start, and look at the end of the mail log",
        )
        return
    failing = [
        each
        for each in facts.answers
        if not each.seen and not _because_of(facts, each, broken)
    ]
    told = {_object(facts, each) for each in failing if each.alive}
    failed = {each.endpoint.service for each in failing if each.server_name is None}
    for answer in failing:
        # Without TLS, a service with implicit TLS can but close the connection.
        mute = answer.endpoint.implicit and _object(facts, answer) in told
        if answer.server_name is None and not answer.alive and not mute:
            yield _silent(answer)
        elif answer.server_name is None or answer.endpoint.service not in failed:
            yield _without_certificate(facts, answer)


def _silent(answer: Answer) -> Finding:
    service = answer.endpoint.service
    message = f"{service} does not answer: {answer.failure}: no client gets in"
    return Finding(
        Code.NO_ANSWER, service, message, _IN_LOG, (answer.endpoint.address,)
    )


def _object(facts: Facts, answer: Answer) -> str:
    return ", ".join(map(str, facts.configured(answer))) or answer.key or "main.cf"


def _without_certificate(facts: Facts, answer: Answer) -> Finding:
    files = facts.configured(answer)
    name = f" to who asks for {answer.server_name}" if answer.server_name else ""
    told = f"{_object(facts, answer)} is" if files else "no certificate is named, or"
    return Finding(
        Code.NO_CERTIFICATE,
        _object(facts, answer),
        f"{told} not shown{name}: {answer.failure}: clients send in clear text, or"
        " give up",
        _IN_LOG,
        (answer.endpoint.service,),
    )


def _because_of(facts: Facts, answer: Answer, broken: frozenset[str]) -> bool:
    by_name = answer.server_name is not None
    if by_name and not broken.isdisjoint(str(each.path) for each in facts.tables):
        return True
    wanted = {str(path) for path in facts.configured(answer)}
    authorities = evidence.authorities(facts.configuration)
    wanted |= {
        str(path) for where, path in authorities.items() if where.startswith("smtpd_")
    }
    for chain in facts.chains:
        if not wanted.isdisjoint(map(str, chain.files)):
            wanted.update(map(str, chain.paths))
    return not wanted.isdisjoint(broken)


def in_use(facts: Facts) -> dict[Certificate, list[str]]:
    """Return the certificates that are shown, with the services that show them.

    Those in files that no service was seen to show come with the parameter.
    """
    found: dict[Certificate, list[str]] = {}
    for answer in facts.answers:
        if answer.seen:
            found.setdefault(answer.seen.leaf, []).append(answer.endpoint.service)
    shown = frozenset(found)
    for chain in facts.chains:
        for leaf in facts.leaves(chain.files):
            if leaf not in shown:
                found.setdefault(leaf, []).append(chain.where)
    return found


def of_certificates(facts: Facts, old: frozenset[Certificate]) -> Iterator[Finding]:
    """Yield what is wrong with certificates, but for the stale ones, *old*."""
    gone = set()
    for chain in facts.chains:
        for path in chain.files:
            name = facts.lineage(path)
            ours = path.parent == facts.bundles
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
    yield from _covering_table(facts, old)


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
    return Finding(
        Code.SELF_SIGNED,
        _held(facts, leaf),
        f"{leaf} is signed by nobody but itself, as the one that a new"
        " installation has: clients that verify it cannot",
        f"certbot run -i postfix -d {facts.configuration.value('myhostname')}",
        tuple(places),
    )


def _unreadable(facts: Facts, leaf: Certificate, places: list[str]) -> Finding:
    return Finding(
        Code.UNREADABLE,
        _held(facts, leaf),
        f"the certificate {leaf} breaks the rules for certificates: only a part of it"
        f" can be read and checked, and clients may refuse it: {leaf.fault}",
        f"certbot run -i postfix -d {facts.configuration.value('myhostname')}",
        tuple(places),
    )


def _unlinked(facts: Facts) -> Iterator[Finding]:
    """Yield the lineages that certbot cannot renew, since it would replace no file."""
    for name, path in facts.unlinked.items():
        yield Finding(
            Code.LINEAGE_UNLINKED,
            str(path.parent),
            f"{path} is a plain file, where certbot has a link into archive/: certbot"
            f" does not renew {name}",
            f"move {path.parent}, and its files in archive/ and renewal/, away, and"
            f" obtain the certificate again with --cert-name {name}",
            (str(path.parent),),
        )


def _orphan(
    facts: Facts, path: Path, name: str, leaf: Certificate | None, where: str
) -> Finding:
    told = f": it {leaf.expiry(facts.now)}, and" if leaf else ":"
    return Finding(
        Code.LINEAGE_MISSING,
        str(path),
        f"certbot has no lineage {name} any more, but {path} is in use{told} nothing"
        " renews it",
        f"obtain it again: certbot run -i postfix --cert-name {name} -d"
        f" {','.join(sorted(leaf.names)) if leaf else 'NAMES'}; or certbot-postfix"
        f" forget {name}, when another certificate is served in its place",
        (where,),
    )


def _in_time(facts: Facts, leaf: Certificate, places: list[str]) -> Iterator[Finding]:
    if leaf.not_after == UNKNOWN:
        return
    held = _held(facts, leaf)
    left = leaf.not_after - facts.now
    told = f"the certificate for {_names(leaf)} {leaf.expiry(facts.now)}"
    holder = facts.holder(leaf)
    name = facts.lineage(holder) if holder else ""
    hint = f"replace {held}, which is no file of certbot's"
    if name or not holder:
        hint = f"certbot renew{f' --cert-name {name}' if name else ''}, and see its log"
    where = tuple(places)
    if leaf.not_before > facts.now:
        told = f"the certificate for {_names(leaf)} is not valid before"
        told += f" {leaf.not_before:%Y-%m-%d %H:%M} UTC: clients refuse it"
        clock = "check the clock of this machine"
        yield Finding(Code.NOT_YET_VALID, held, told, clock, where)
    elif left.total_seconds() <= 0:
        yield Finding(Code.EXPIRED, held, f"{told}: clients refuse it", hint, where)
    elif left * SOON < leaf.not_after - leaf.not_before:
        told += ": it should have been renewed by now"
        yield Finding(Code.EXPIRES_SOON, held, told, hint, where)


def _judged(leaf: Certificate) -> bool:
    """Whether there is a finding that makes its names unimportant."""
    return leaf.self_signed or bool(leaf.fault)


def _names(leaf: Certificate) -> str:
    return listed(leaf.names) or short(leaf.subject) or "no name"


def _covering(facts: Facts, old: frozenset[Certificate]) -> Iterator[Finding]:
    """Yield the names by which the server calls itself, without a certificate."""
    public = configuration.names(facts.configuration)
    for name, service in facts.services.items():
        host = facts.configuration.value("myhostname", service)
        default = [
            each.seen.leaf
            for each in facts.answers
            if each.seen and each.endpoint.service == name and each.server_name is None
        ] or facts.leaves(chain_files.configured(facts.configuration, service))
        by_name = facts.leaves(facts.table.get(sni.key(host), ()))
        leaves = [*default, *by_name]
        if (
            host in public
            and default
            and not any(_judged(each) or each in old for each in default)
            and not any(certificates.covers(each.names, host) for each in leaves)
        ):
            yield Finding(
                Code.NAME_NOT_COVERED,
                f"myhostname = {host}",
                f"myhostname is {host}, which {_names(default[0])} does not cover:"
                " clients that verify the name give up",
                f"issue the certificate again with {host} among its names",
                (name,),
            )


def _covering_table(facts: Facts, old: frozenset[Certificate]) -> Iterator[Finding]:
    """Yield the chains with names in the table that they do not cover."""
    shown = {
        each.key: each.seen.leaf for each in facts.answers if each.key and each.seen
    }
    bare: dict[tuple[Path, ...], list[str]] = {}
    for key, paths in facts.table.items():
        leaves = facts.leaves(paths)
        if not leaves and key in shown:
            leaves = [shown[key]]
        if any(path in facts.files and not facts.files[path].exists for path in paths):
            continue  # reported, and why another certificate is presented
        useless = {each for each in leaves if each in old or _judged(each)}
        name = sni.example_name(key, ())
        covered = any(certificates.covers(each.names, name) for each in leaves)
        if leaves and not useless and not covered:
            bare.setdefault(paths, []).append(key)
    for paths, keys in bare.items():
        files = ", ".join(map(str, paths))
        yield Finding(
            Code.SNI_NOT_COVERED,
            files,
            f"{files} is served for {listed(keys)}, which its certificate"
            " does not cover: clients that verify the name give up",
            "issue the certificate again with these names, or take them out of the"
            " table",
            (SNI_MAPS,),
        )
