"""Where policies in the table have no effect, or may end too soon, in sentences.

Raises `errors.Error`.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from certbot_postfix.errors import Error, ProgramError, enumerated
from certbot_postfix.formats.policy import Entry, Mode
from certbot_postfix.outbound import lookup, main_cf, policy_map, routes
from certbot_postfix.postfix import trust
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.instance import Postfix

# Seconds in which an hourly timer runs twice.
_TWICE = 7200


def refuse_untrusting(configuration: Configuration) -> None:
    """Raise `Error` if policies would have no effect, or keep mail here."""
    if level := main_cf.stricter(configuration):
        raise Error(
            f"smtp_tls_security_level = {level} is already at least as strict as"
            " any policy, so no policies were written",
            hint="with --postfix-policy-list '' --postfix-mta-sts-domains '',"
            " certbot install ends those there are",
        )
    if why := trust.distrust(configuration):
        raise Error(
            f"{why}: no server could be verified, and mail to domains with a policy"
            " would be deferred; no policies were written",
            hint="set smtp_tls_CAfile ="
            f" {configuration.ca_bundle or 'a bundle'} in main.cf",
        )


def notes(
    postfix: Postfix,
    configuration: Configuration,
    path: Path,
    entries: Collection[Entry],
) -> list[str]:
    """Return what is to be known of *entries* if they are in the table at *path*."""
    enforced = [entry.domain for entry in entries if entry.policy.mode is Mode.ENFORCE]
    void = bypassed(postfix, configuration, path, enforced)
    reported = " ".join(void)  # of what hides our table, one sentence is enough
    return [
        *without_unicode(entries),
        *short_lived(entries),
        *(
            str(override)
            for override in main_cf.overrides(configuration, path)
            if f"for {override.service}" not in reported
        ),
        *void,
    ]


def bypassed(
    postfix: Postfix, configuration: Configuration, path: Path, domains: list[str]
) -> list[str]:
    """Return why policies for *domains* in the table at *path* do not count."""

    def ask(table: str, keys: set[str]) -> dict[str, str]:
        with suppress(ProgramError):
            return postfix.answers(table, keys) if main_cf.local(table) else {}
        return {}

    unasked = [
        f"{table} comes before {path.name} in {policy_map.PARAMETER}, and is not asked:"
        " where it has an entry for a domain, that overrides the policy"
        for table in main_cf.own_tables(configuration, path)
        if domains and not main_cf.local(table)
    ]
    return [*unasked, *routes.complaints(configuration, path, domains, ask)]


def answered_first(
    postfix: Postfix, table: str, entries: Iterable[Entry]
) -> dict[str, None]:
    """Return the domains of *entries* for which the administrator's *table* counts."""
    domains = [entry.domain for entry in entries if entry.enforced]
    keys = {
        key
        for domain in domains
        for spelling in policy_map.spellings_of(domain)
        for key in main_cf.keys(spelling)
    }
    answers = lookup.answers(postfix, table, keys) if keys else {}
    return dict.fromkeys(sorted(main_cf.overruled(domains, answers)))


def without_unicode(entries: Iterable[Entry]) -> list[str]:
    """Say which domains have a policy that is not followed where they are in UTF-8."""
    domains = {
        entry.domain
        for entry in entries
        if "xn--" in entry.domain
        and entry.enforced
        and not policy_map.unicode_key(entry.domain)
    }
    if not domains:
        return []
    why = "since Postfix looks up what may be another domain's name"
    return [
        f"an address in UTF-8 at {enumerated(sorted(domains))} has no policy, {why}"
    ]


def short_lived(entries: Iterable[Entry]) -> list[str]:
    """Say which policies may end between two runs of an hourly timer."""
    domains = {
        entry.domain
        for entry in entries
        if 0 < entry.max_age < _TWICE and entry.enforced
    }
    if not domains:
        return []
    why = "is valid for less than two hours: where a timer runs each hour, one look"
    return [f"the policy of {enumerated(sorted(domains))} {why} that fails ends it"]
