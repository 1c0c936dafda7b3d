"""Whether outbound TLS policies take effect, and are up to date.

Pure: facts in, findings out.  Where a map of smtp_tls_policy_maps cannot be queried,
mail to every domain is deferred.
"""

from collections.abc import Iterator
from datetime import datetime

from certbot_postfix.outbound import main_cf, policy_map
from certbot_postfix.postfix import tls_levels
from certbot_postfix.status.facts import Facts, PolicyTable
from certbot_postfix.status.findings import Code, Finding

_PLACES = ("main.cf",)


def check(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with the policy maps, and with DANE."""
    if facts.without_dane:
        yield Finding(
            Code.WITHOUT_DANE,
            "smtp_tls_security_level",
            facts.without_dane,
            "fix that: DANE needs a validating resolver on this host, and"
            " smtp_dns_support_level = dnssec",
            _PLACES,
            urgent=tls_levels.client_level(facts.configuration) == "dane-only",
        )
    for table in facts.policies:
        yield from _of_map(table)
        yield from _without_effect(table)
        yield from _of_sources(table, facts.now)


def _of_map(table: PolicyTable) -> Iterator[Finding]:
    if table.fault and not table.hidden:
        yield Finding(
            Code.POLICY_TABLE,
            table.name,
            f"{table.name} cannot be queried; until it can, all outbound mail is"
            f" deferred: {table.fault}",
            f"fix it, or remove it from {policy_map.PARAMETER}",
            _PLACES,
        )
    if table.unused:
        problem = main_cf.unnamed(table.name)
        yield Finding(
            Code.POLICY_UNUSED, table.name, problem.message, problem.hint, _PLACES
        )


def _of_sources(table: PolicyTable, now: datetime) -> Iterator[Finding]:
    if table.until and table.until <= now:
        yield Finding(
            Code.POLICY_ENDED,
            table.name,
            f"{table.name} has policies that expired, the first at"
            f" {table.until:%Y-%m-%d %H:%M} UTC",
            "certbot-postfix policy refresh, which reports the cause",
            _PLACES,
        )
    if table.failures:
        reasons = [failure.partition("\n")[0] for failure in table.failures]
        yield Finding(
            Code.POLICY_SOURCE,
            table.name,
            f"the last refresh of {table.name} failed: {'; '.join(reasons)}",
            "fix the cause, then certbot-postfix policy refresh",
            _PLACES,
        )
    if table.endangered:
        yield Finding(
            Code.POLICY_RENEWAL,
            table.name,
            table.endangered,
            "certbot-postfix policy query DOMAIN, which reports what it publishes now",
            _PLACES,
        )


def _without_effect(table: PolicyTable) -> Iterator[Finding]:
    for reason in table.unfit:
        yield Finding(
            Code(f"policy-daemon-{reason.kind}"),
            table.name,
            f"{table.name} {reason.text}",
            f"fix that, or remove it from {policy_map.PARAMETER}",
            _PLACES,
        )
    if table.void:
        yield Finding(
            Code.POLICY_VOID,
            table.name,
            "; ".join(table.void),
            "certbot-postfix policy test DOMAIN shows what applies to a domain",
            _PLACES,
        )
