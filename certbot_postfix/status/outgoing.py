"""What stands against mail that is sent: policy tables that fail, policies that ended.

Where a table of smtp_tls_policy_maps cannot be asked, mail to every domain is deferred.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.outbound import (
    collect,
    dnssec,
    effect,
    fitness,
    main_cf,
    policy_file,
    resolver_daemon,
)
from certbot_postfix.outbound import policy_map as policies
from certbot_postfix.postfix import maps, tls_levels
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.status.evidence import Facts, PolicyTable
from certbot_postfix.status.findings import Code, Finding
from certbot_postfix.system.deadline import Deadline, LateError

# For so many entries it is found out where their mail goes.
_MOST = 1000

# The seconds that a table has, and the part of the time that is left.
_SECONDS = 5.0
_PART = 0.3
_DAEMON = 0.5


def look(
    postfix: Postfix, configuration: Configuration, bundles: Path, deadline: Deadline
) -> Iterator[PolicyTable]:
    """Yield the tables of policies that main.cf names, each asked once, and ours."""
    value = configuration.value(policies.PARAMETER)
    path = configuration.directory / policies.NAME
    for name in maps.listed(value):
        seconds = min(_SECONDS, deadline.left * _PART)
        if name in resolver_daemon.named(configuration):
            yield _daemon(postfix, configuration, name, deadline)
            continue
        fault = resolver_daemon.fault(postfix, name, seconds)
        table = PolicyTable(name, fault)
        if maps.form(name, path):
            read = partial(_read, table, postfix, configuration, bundles)
            try:
                table = deadline.within(read, "judge the policies", _PART)
            except LateError as error:
                table = replace(table, fault=fault or error.message, unknown=not fault)
        yield table
    if path.exists() and not maps.form(value, path):
        yield PolicyTable(str(path), "", unused=True)


def _read(
    table: PolicyTable, postfix: Postfix, configuration: Configuration, bundles: Path
) -> PolicyTable:
    """Return what is known of our *table*."""
    path = configuration.directory / policies.NAME
    until, failures = None, collect.failures(path, bundles)
    void: list[str] = []
    try:
        until = policy_file.until(path)
        domains = policy_file.enforced(path, _MOST)
        void = effect.bypassed(postfix, configuration, path, domains)
    except Error as error:
        failures = [error.message, *failures]
    return replace(table, until=until, failures=tuple(failures), void=tuple(void))


def _daemon(
    postfix: Postfix, configuration: Configuration, name: str, deadline: Deadline
) -> PolicyTable:
    """Return what is known of a daemon; it is asked twice, and then resolvers are."""
    seconds = min(_SECONDS, deadline.left * _DAEMON / 2.5)
    try:
        daemon = deadline.within(
            lambda: fitness.look(postfix, configuration, name, seconds),
            "ask the daemon and the resolvers",
            _DAEMON,
        )
    except Error as error:
        return PolicyTable(name, error.message, unknown=True)
    reasons = [] if daemon.fault else fitness.unfit(daemon)
    return PolicyTable(name, daemon.fault, unfit=tuple(reasons))


def dane(configuration: Configuration, deadline: Deadline) -> str:
    """Return why the level dane is in vain, "" if it is not, or not in use."""
    if not main_cf.prefers_dane(configuration):
        return ""
    level = tls_levels.client_level(configuration)
    return deadline.within(
        lambda: dnssec.without_dane(configuration, level), "ask the resolvers", _PART
    )


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with the tables, and with DANE."""
    tables, now = facts.policies, facts.now
    if facts.without_dane:
        yield Finding(
            Code.WITHOUT_DANE,
            "smtp_tls_security_level",
            facts.without_dane,
            "certbot install -i postfix --postfix-client-level dane, which says what is"
            " missing",
            ("main.cf",),
        )
    for table in tables:
        if table.fault and not table.hidden:
            yield Finding(
                Code.POLICY_TABLE,
                table.name,
                f"{table.name} cannot be asked, and while that is so mail to every"
                f" domain is deferred: {table.fault}",
                f"fix it, or take it out of {policies.PARAMETER}",
                ("main.cf",),
            )
        yield from _in_vain(table)
        if table.until and table.until <= now:
            yield Finding(
                Code.POLICY_ENDED,
                table.name,
                f"{table.name} has policies that ended, the first one at"
                f" {table.until:%Y-%m-%d %H:%M} UTC",
                "certbot-postfix policy refresh, which tells what fails",
                ("main.cf",),
            )
        if table.unused:
            yield Finding(
                Code.POLICY_UNUSED,
                table.name,
                f"{table.name} is there, and {policies.PARAMETER} does not name it: its"
                " policies have no effect",
                "certbot-postfix policy refresh, which tells how to end that",
                ("main.cf",),
            )
        if table.failures:
            told = [each.partition("\n")[0] for each in table.failures]
            yield Finding(
                Code.POLICY_SOURCE,
                table.name,
                f"{table.name} could not be refreshed the last time: {'; '.join(told)}",
                "certbot-postfix policy refresh, which tells whether that is so still",
                ("main.cf",),
            )


def _in_vain(table: PolicyTable) -> Iterator[Finding]:
    if table.unfit:
        yield Finding(
            Code.POLICY_DAEMON,
            table.name,
            f"{table.name} {'; it '.join(table.unfit)}",
            f"fix that, or take it out of {policies.PARAMETER}",
            ("main.cf",),
        )
    if table.void:
        yield Finding(
            Code.POLICY_VOID,
            table.name,
            "; ".join(table.void),
            "certbot-postfix policy test DOMAIN, which tells what counts there",
            ("main.cf",),
        )
