"""What this server needs published: TLSA records for what it serves, CAA records.

Reads certbot's files, and asks DNS for TLSA records.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from certbot_postfix.dane import gate, report
from certbot_postfix.dane.gate import Settings
from certbot_postfix.dane.hold import Endpoint
from certbot_postfix.dane.judge import Candidate
from certbot_postfix.dane.observation import Status
from certbot_postfix.dane.rollover import State as Dane
from certbot_postfix.errors import Error, enumerated, excerpt
from certbot_postfix.formats import tlsa
from certbot_postfix.formats.caa import Issuance
from certbot_postfix.inbound import candidates
from certbot_postfix.inbound.renewal_settings import RenewalReader
from certbot_postfix.inbound.state import State
from certbot_postfix.publish import written
from certbot_postfix.publish.records import Row, Server
from certbot_postfix.publish.records import State as Published
from certbot_postfix.system.hostnames import a_labels, is_host

# Other servers send mail to it.
_PORT = 25


def server(now: State, settings: Settings) -> Server:
    """Return what the server needs; *settings* have its further names.

    Raises `Error` if it has none that DNS can have.
    """
    names = (now.host, *settings.names)
    every_name = dict.fromkeys(a_labels(name.lower().rstrip(".")) for name in names)
    hosts = tuple(name for name in every_name if is_host(name) and "." in name)
    if not hosts:
        raise Error(
            f"myhostname is {excerpt(now.host)}, which is no name in DNS",
            hint="set myhostname, or give the MX host with --tlsa-name",
        )
    every = list(candidates.candidates(now))
    return Server(
        hosts,
        tuple(_tlsa(every, hosts, settings)),
        tuple(dict.fromkeys(_issuances(now, every, hosts))),
        frozenset(written.read(now.bundles.root)),
    )


def _issuances(
    now: State, every: Sequence[Candidate], hosts: Sequence[str]
) -> Iterator[tuple[str, Issuance]]:
    """Yield how the certificates for *hosts* are issued, by the name in them."""
    reader = RenewalReader(now.bundles.root.parent)
    for candidate in every:
        issuance = reader.issuance(candidate.name) if candidate.bundle else None
        for host in hosts if issuance else ():
            wildcard = f"*.{host.partition('.')[2]}"
            for name in (host, wildcard):
                if issuance and name in candidate.new[0].names:
                    yield name, issuance


def _tlsa(
    every: Sequence[Candidate], hosts: Sequence[str], settings: Settings
) -> Iterator[tuple[str, Row]]:
    """Yield the TLSA records of each of *hosts* that is served a certificate."""
    at = datetime.now(timezone.utc)
    rows: dict[str, Row] = {}
    for candidate in every:
        own = tuple(host for host in hosts if host in {*candidate.hosts, candidate.own})
        some = replace(candidate, hosts=own)
        for endpoint in gate.look(some, replace(settings, names=own), at):
            facts = endpoint.facts
            if facts.observation.owner == tlsa.owner(facts.host, _PORT):
                row = _row(endpoint)
                rows[facts.host] = _joined(rows.get(facts.host, row), row)
    yield from rows.items()


def _row(endpoint: Endpoint) -> Row:
    observation = endpoint.facts.observation
    every = list(report.rows(endpoint))
    wanted = [row for row in every if row.whose != report.FOREIGN and not row.remark]
    state = Published.OK
    missing = sorted({server for row in wanted for server in row.missing})
    remark = f"missing at {enumerated(missing)}" if missing else ""
    if endpoint.decision.state is Dane.MISMATCH:
        state = Published.DIFFERENT
        remark = (
            "they match no certificate in service: senders that verify DANE deliver no"
            " mail"
        )
    elif missing or any(not row.servers for row in wanted):
        state = Published.MISSING
    if observation.blind:
        state, remark = Published.UNKNOWN, observation.why
    elif observation.status is Status.INSECURE:
        state, remark = Published.NOT_SIGNED, "DANE needs DNSSEC: sign the zone"
    faults = [remark, *observation.faults]
    return Row(
        endpoint.place,
        "TLSA",
        state,
        tuple(str(row.record) for row in wanted),
        tuple(str(row.record) for row in every if row.servers),
        "; ".join(filter(None, faults)),
    )


def _joined(row: Row, other: Row) -> Row:
    """Return *row* with what another certificate of the host needs."""
    worst = max(row, other, key=lambda each: [*Published].index(each.state))
    return replace(
        worst,
        wanted=tuple(dict.fromkeys((*row.wanted, *other.wanted))),
        published=tuple(dict.fromkeys((*row.published, *other.published))),
    )
