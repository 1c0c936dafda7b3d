"""Reads the outbound TLS policy maps, and asks whether the client does DANE.

Whatever hangs, it ends at its deadline.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.outbound import (
    dnssec,
    domain_state,
    effect,
    fitness,
    last_refresh,
    main_cf,
    mta_sts_cache,
    policy_file,
    resolver_daemon,
)
from certbot_postfix.outbound import policy_map as policies
from certbot_postfix.postfix import maps, tls_levels
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.status.facts import PolicyTable
from certbot_postfix.system.deadline import Deadline, LateError

# Of so many entries at most, the route of their mail is looked up.
_MOST = 1000

# The seconds for a table, and the parts of the remaining time.
_SECONDS = 5.0
_PART = 0.3
_DAEMON = 0.5


def read(
    postfix: Postfix, configuration: Configuration, bundles: Path, deadline: Deadline
) -> Iterator[PolicyTable]:
    """Yield the policy maps that main.cf names, each queried once, and ours."""
    value = configuration.value(policies.PARAMETER)
    path = configuration.directory / policies.NAME
    for name in maps.listed(value):
        seconds = min(_SECONDS, deadline.left * _PART)
        if name in resolver_daemon.named(configuration):
            yield _daemon(postfix, configuration, name, deadline)
            continue
        fault = resolver_daemon.fault(postfix, name, seconds)
        table = PolicyTable(name, fault)
        if maps.map_type(name, path):
            read = partial(_of_ours, table, postfix, configuration, bundles)
            try:
                table = deadline.within(read, "judge the policies", _PART)
            except LateError as error:
                table = replace(table, fault=fault or error.message, unknown=not fault)
        yield table
    if path.exists() and not maps.map_type(value, path):
        yield PolicyTable(str(path), "", unused=True)


def _of_ours(
    table: PolicyTable, postfix: Postfix, configuration: Configuration, bundles: Path
) -> PolicyTable:
    """Return what is known of our map *table*."""
    path = configuration.directory / policies.NAME
    cache = last_refresh.cache_directory(path, bundles)
    until, messages = None, last_refresh.failures(cache)
    void: list[str] = []
    endangered = ""
    try:
        until = policy_file.until(path)
        domains = policy_file.enforced(path, _MOST)
        void = effect.bypassed(postfix, configuration, path, domains)
        endangered = _endangered(cache)
    except Error as error:
        messages = [error.message, *messages]
    return replace(
        table,
        until=until,
        failures=tuple(messages),
        void=tuple(void),
        endangered=endangered,
    )


def _endangered(directory: Path) -> str:
    """Return which policies could not be renewed, as far as this user may know."""
    path = mta_sts_cache.path_in(directory)
    if not os.access(path, os.R_OK):
        return ""
    states, _ = mta_sts_cache.read(path)
    return domain_state.finding(states, datetime.now(timezone.utc))


def _daemon(
    postfix: Postfix, configuration: Configuration, name: str, deadline: Deadline
) -> PolicyTable:
    """Return what is known of a daemon; it is queried twice, and then resolvers are."""
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


def without_dane(configuration: Configuration, deadline: Deadline) -> str:
    """Return why the level dane has no effect, "" if it has, or is not in use."""
    if not main_cf.prefers_dane(configuration):
        return ""
    level = tls_levels.client_level(configuration)
    return deadline.within(
        lambda: dnssec.without_dane(configuration, level), "ask the resolvers", _PART
    )
