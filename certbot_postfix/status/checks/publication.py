"""Whether what DNS and the web say of this host contradicts what it does, or will.

Pure: facts in, findings out.  Of what could not be looked up, nothing is said.
"""

import shlex
from collections.abc import Iterator
from datetime import datetime, timedelta

from certbot_postfix.errors import enumerated, excerpt
from certbot_postfix.formats import caa, mta_sts
from certbot_postfix.formats.caa import Property
from certbot_postfix.formats.mta_sts import Published
from certbot_postfix.formats.policy import Mode, Policy, PolicyError
from certbot_postfix.publish import records
from certbot_postfix.status.facts import Facts, OwnPolicy
from certbot_postfix.status.findings import Code, Finding

# As long as it takes to read the reports of a month.
_TRIAL = timedelta(days=30)


def caa_records(facts: Facts) -> Iterator[Finding]:
    """Yield the CAA records that forbid the next renewal."""
    for lineage, issuance in facts.issuances.items():
        leaf = facts.lineages.get(lineage)
        for name in sorted(leaf.names) if leaf else ():
            relevant, wild = facts.caa.get(name), name.startswith("*.")
            if relevant is None or relevant.fault:
                continue
            why = caa.refusal(relevant.records, issuance, wildcard=wild)
            if why:
                yield Finding(
                    Code.CAA,
                    f"{relevant.name} CAA",
                    f"the CAA record of {relevant.name} does not permit renewing"
                    f" {lineage}: {why}",
                    f"publish, in its place: {Property.permitting(issuance)}",
                    (lineage,),
                )


def own_policies(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with the MTA-STS policies that were written here."""
    for own in facts.own_policies:
        if own.hidden:
            continue
        try:
            policy = mta_sts.parse(own.text, str(own.path)) if own.text else None
        except PolicyError:
            policy = None  # the command says so
        yield from _record(own, policy)
        if policy:
            yield from _unlisted(own, policy)
            yield from _tried(own, policy, facts.now)


def _tried(own: OwnPolicy, policy: Published, now: datetime) -> Iterator[Finding]:
    since = own.since
    if policy.mode is Mode.TESTING and since and since + _TRIAL < now:
        yield Finding(
            Code.STS_TESTING,
            own.domain,
            f"the MTA-STS policy of {own.domain} has been in testing mode since"
            f" {since:%Y-%m-%d}: senders also deliver to a server that fails it",
            f"{_command(own)} --mode enforce, if the reports have no failures",
        )


def _record(own: OwnPolicy, policy: Published | None) -> Iterator[Finding]:
    texts = mta_sts.relevant(own.sts.values)
    ended = own.text is None or (policy and policy.mode is Mode.NONE)
    if own.sts.fault or (ended and not texts):
        return
    problem, wanted = "", mta_sts.record(mta_sts.content_id(own.text or b""))
    if len(texts) > 1:
        problem = f"has {len(texts)} MTA-STS records: senders follow none"
    elif own.text is None:
        problem = f"announces a policy, but {own.path} is missing"
    elif not texts:
        problem = "has no record of the policy: senders do not know it"
    elif mta_sts.policy_id(texts) != mta_sts.content_id(own.text):
        problem = f"is {excerpt(texts[0])}, which is not for the policy in {own.path}"
    if problem:
        hint = f'publish, as the only MTA-STS record: "{wanted}"'
        yield Finding(
            Code.STS_RECORD,
            own.domain,
            f"_mta-sts.{own.domain} {problem}",
            f"{_command(own)}, or remove the record" if own.text is None else hint,
        )


def _unlisted(own: OwnPolicy, policy: Published) -> Iterator[Finding]:
    if policy.mode is Mode.NONE:
        return
    hosts = [host for host in map(records.mx_host, own.mx.values) if host]
    allows = Policy(policy.mode, policy.mxs).allows
    if unlisted := [host for host in hosts if not allows(host)]:
        enforced = policy.mode is Mode.ENFORCE
        effect = "deliver no mail there" if enforced else "report that"
        yield Finding(
            Code.STS_MX,
            own.domain,
            f"the MTA-STS policy of {own.domain} does not allow its MX"
            f" {enumerated(map(excerpt, unlisted))}: senders that follow it {effect}",
            _command(own),
            urgent=enforced and len(unlisted) == len(hosts),
        )


def _command(own: OwnPolicy) -> str:
    webroot = str(own.path.parents[1])
    return shlex.join(["certbot-postfix", "mta-sts", own.domain, "--webroot", webroot])
