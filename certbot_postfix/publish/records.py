"""What should be published for a domain whose mail this server takes, and what is.

Pure: what was seen in, rows out.  Most of it is the business of whoever edits the zone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from certbot_postfix.errors import Error, enumerated, short, shortened
from certbot_postfix.formats import caa, mta_sts, tlsrpt, txt
from certbot_postfix.formats.caa import Issuance, Property
from certbot_postfix.formats.mta_sts import Published
from certbot_postfix.formats.policy import Mode, Policy
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.publish import policy_host
from certbot_postfix.publish.look import Found, Relevant, Seen

# What a record should live, in seconds.
TTL = 3600

# The preference of an MX record, where there is none yet.
_PREFERENCE = 10

# Seconds for which senders keep a policy in testing mode.
TRIAL = 86400

# How much is shown of what strangers publish.
_LONGEST, _MOST = 300, 20


class State(Enum):
    """How what is published differs from what should be."""

    OK = "ok"
    MISSING = "missing"
    DIFFERENT = "different"
    NOT_SIGNED = "not signed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Row:
    """The *wanted* values of a *name*, beside what is *published*, and a *remark*.

    *kind* is the type of the records, or "policy" of what a web server has at *name*.
    *stale* is the data of records that must go, of those *observed*.
    """

    name: str
    kind: str
    state: State
    wanted: tuple[str, ...]
    published: tuple[str, ...] = ()
    remark: str = ""
    stale: tuple[str, ...] = ()
    observed: frozenset[str] = frozenset()

    @property
    def records(self) -> tuple[ResourceRecord, ...]:
        """The wanted records."""
        if self.kind == POLICY:
            return ()
        return tuple(
            ResourceRecord(self.name, TTL, self.kind, value) for value in self.wanted
        )


POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Server:
    """This server: its *hosts*, myhostname first, and what it needs for them.

    *tlsa* has a row for each host; *issuances* say how certificates for a name, perhaps
    a wildcard, are issued; *policies* are the domains whose policy was written here.
    """

    hosts: tuple[str, ...]
    tlsa: tuple[tuple[str, Row], ...] = ()
    issuances: tuple[tuple[str, Issuance], ...] = ()
    policies: frozenset[str] = frozenset()


def rows(seen: Seen, server: Server, reports: Sequence[str] = ()) -> Iterator[Row]:
    """Yield what should be published for the domain, in the order of its use.

    *reports* are where those about TLS should go; without any, the postmaster.
    """
    taking = _taking(seen, server)
    yield _mx(seen, taking[0])
    yield from (row for host, row in server.tlsa if host in taking)
    policy, body = _policy(seen, taking)
    yield _sts(seen, (policy, body), ours=seen.domain in server.policies)
    yield policy
    yield _tlsrpt(seen, reports)
    yield from _caa(seen, server)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Whether what is published is *good*; what is *wanted*, why; what is *stale*."""

    good: bool
    wanted: tuple[str, ...]
    remark: str = ""
    stale: tuple[str, ...] = ()


def _row(name: str, kind: str, found: Found, verdict: _Verdict) -> Row:
    state = State.OK if verdict.good else State.DIFFERENT
    if not found.values:
        state = State.MISSING
    if found.fault:
        state = State.UNKNOWN
    remark = short(found.fault or verdict.remark, _LONGEST)
    return Row(
        name,
        kind,
        state,
        verdict.wanted,
        _legible(found.values),
        remark,
        () if verdict.good else verdict.stale,
        frozenset(found.data),
    )


def _legible(values: Sequence[str]) -> tuple[str, ...]:
    """Return *values* from strangers, some of them, on a line each."""
    plain = [value if value.isprintable() else ascii(value) for value in values]
    return tuple(shortened([short(value, _LONGEST) for value in plain], _MOST))


# MX


def mx_host(value: str) -> str:
    """Return the host of an MX record, "" of a null MX: RFC 7505."""
    return value.partition(" ")[2].rstrip(".").lower()


def _taking(seen: Seen, server: Server) -> list[str]:
    """Return the hosts of *server* that take mail for the domain, or should."""
    published = {mx_host(value) for value in seen.mx.values}
    return [host for host in server.hosts if host in published] or [server.hosts[0]]


def _mx(seen: Seen, host: str) -> Row:
    ours = tuple(value for value in seen.mx.values if mx_host(value) == host)
    wanted = ours or (f"{_PREFERENCE} {host}.",)
    remark = "" if ours else f"{host} is not among the MX hosts"
    null = tuple(value for value in seen.mx.data if not mx_host(value))
    row = _row(seen.domain, "MX", seen.mx, _Verdict(bool(ours), wanted, remark, null))
    if row.state is State.OK and seen.mx.secure is False:
        remark = "without DNSSEC, senders ignore TLSA records: RFC 7672, 2.2.1"
        return replace(row, state=State.NOT_SIGNED, remark=remark)
    return row


# MTA-STS


def _policy(seen: Seen, taking: Sequence[str]) -> tuple[Row, bytes]:
    """Return the row of the policy, and the text that should be served."""
    served, fault = _served(seen)
    old = served or Published(Mode.TESTING, (), TRIAL)
    hosts = dict.fromkeys([*taking, *map(mx_host, seen.mx.values)])
    allows = Policy(old.mode, old.mxs).allows
    lacking = [host for host in hosts if host and not allows(host)]
    if served and (not lacking or served.mode is Mode.NONE):
        body = seen.policy or b""
    else:
        body = mta_sts.render(replace(old, mxs=(*old.mxs, *lacking)))
        fault = fault or (
            f"it does not allow {enumerated(lacking)}: senders that follow it deliver"
            " no mail there"
        )
    if seen.policy is None:  # whether there is none is as uncertain as its record
        found = Found(fault=fault if seen.sts.fault else "")
    else:
        found = Found(_lines(seen.policy))
    wanted = tuple(body.decode(errors="replace").splitlines())
    verdict = _Verdict(body == seen.policy, wanted, fault)
    return _row(policy_host.url(seen.domain), POLICY, found, verdict), body


def _served(seen: Seen) -> tuple[Published | None, str]:
    """Return the policy that is served, or why there is none."""
    if seen.policy is None:
        return None, seen.fault
    try:
        return mta_sts.parse(seen.policy, policy_host.url(seen.domain)), ""
    except Error as error:
        return None, error.message


def _lines(body: bytes) -> tuple[str, ...]:
    return _legible(body.decode("ascii", "replace").splitlines())


def _sts(seen: Seen, policy: tuple[Row, bytes], *, ours: bool) -> Row:
    """Return the row of the record with the id of the *policy*.

    Unless that is *ours*, whoever wrote it chose an id.
    """
    row, body = policy
    texts = mta_sts.relevant(seen.sts.values)
    identity, content_id = mta_sts.policy_id(texts), mta_sts.content_id(body)
    theirs = row.state is State.OK and not ours
    good = bool(identity) if theirs else identity == content_id
    remark = "the id is not that of the policy"
    if not texts:
        remark = "" if row.state is State.OK else "publish it once the policy is served"
    elif len(texts) > 1:
        remark = "there must be only one record, or senders ignore all: RFC 8461, 3.1"
    elif not identity:
        remark = "it is not valid"
    wanted = texts[0] if good else mta_sts.record(content_id)
    return _text_row(f"_mta-sts.{seen.domain}", seen.sts, texts, (good, wanted, remark))


def _text_row(
    name: str, found: Found, texts: Sequence[str], verdict: tuple[bool, str, str]
) -> Row:
    """Return the row of the *texts* that count among the TXT records *found*."""
    good, wanted, remark = verdict
    pairs = zip(found.values, found.data, strict=False)
    stale = tuple(data for text, data in pairs if text in texts)
    ours = replace(found, values=tuple(map(txt.strings, texts)))
    remark = "" if good else remark
    return _row(
        name, "TXT", ours, _Verdict(good, (txt.strings(wanted),), remark, stale)
    )


# TLSRPT


def _tlsrpt(seen: Seen, reports: Sequence[str]) -> Row:
    texts = tlsrpt.relevant(seen.tlsrpt.values)
    addresses = [*reports] or [f"mailto:postmaster@{seen.domain}"]
    published = tlsrpt.addresses(texts[0]) if len(texts) == 1 else []
    good = set(published) == set(addresses) if reports else bool(published)
    remark = "reports go elsewhere" if published else "it has no valid address"
    if not texts:
        remark = ""
    elif len(texts) > 1:
        remark = (
            "there must be only one record, or senders send no reports: RFC 8460, 3"
        )
    wanted = texts[0] if good else tlsrpt.record(addresses)
    verdict = good, wanted, remark
    return _text_row(f"_smtp._tls.{seen.domain}", seen.tlsrpt, texts, verdict)


# CAA


def _caa(seen: Seen, server: Server) -> Iterator[Row]:
    """Yield the records for the hosts, which bind a CA to an account and a method."""
    relevant = dict(seen.caa)
    wanted: dict[str, list[Issuance]] = {}
    for name, issuance in server.issuances:
        if issuance.issuer:
            wanted.setdefault(name, []).append(issuance)
    for name, issuances in wanted.items():
        yield _caa_row(name, issuances, relevant[name])


def _caa_row(name: str, issuances: Sequence[Issuance], now: Relevant) -> Row:
    wild, host = name.startswith("*."), name.removeprefix("*.")
    refusals = [
        caa.refusal(now.records, issuance, wildcard=wild) for issuance in issuances
    ]
    loose = any(not caa.is_bound(now.records, issuance) for issuance in issuances)
    remarks = [f"the next renewal fails: {refusal}" for refusal in refusals if refusal]
    if loose and not remarks:
        remarks = ["the CA may issue to every account"]
    if now.name not in ("", host):
        remarks.append(f"these are the records of {now.name}")
    wanted = dict.fromkeys(str(Property.permitting(issuance)) for issuance in issuances)
    values = tuple(map(str, now.records))
    found = Found(values, values if now.name == host else (), fault=now.fault)
    good = not loose and not any(refusals)
    # What is for another CA, or for another account, may be in use.
    opened = [it for it in now.records if any(map(it.is_open, issuances))]
    stale = [str(permit) for permit in opened if str(permit) in found.data]
    verdict = _Verdict(good, tuple(wanted), "; ".join(remarks), tuple(stale))
    return _row(host, "CAA", found, verdict)
