"""Whether a resolver daemon is fit to answer the SMTP client, and which one is named.

One that is not fit defers mail that an honest sender could deliver, or overrides DANE.
Facts are collected by `look`, and `unfit` decides.  Raises `errors.Error`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from certbot_postfix.errors import Error
from certbot_postfix.outbound import dnssec, main_cf, resolver_daemon
from certbot_postfix.outbound.policy_map import PARAMETER
from certbot_postfix.postfix import decisions, maps, tls_levels, trust
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.decisions import Decision
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.services import as_clients_see_it

# What can stand in a list of tables, and is not expanded.
_TABLE = re.compile(r"[a-z]+:[^\s,{}$]+")

# What postfix-tlspol, which is the one that resolves DANE, calls its table.
_DANE = re.compile(r"socketmap:.*:QUERY(?:withTLSRPT)?", re.IGNORECASE)

# The end of its name where it adds the attributes of TLSRPT_README.
_TLSRPT = ":querywithtlsrpt"


@dataclass(frozen=True, slots=True)
class Daemon:
    """What is known of the daemon behind *table*, and of the client that asks it.

    *fault* and *fault_utf8* are why it does not answer, in general or for a name in
    UTF-8; *level* is the client's; *distrust* is why the client can verify no server,
    *hindrance* what keeps it from validated answers of DNS.  A client that is *old*
    knows no attributes of TLSRPT.
    """

    table: str
    fault: str = ""
    fault_utf8: str = ""
    level: str = "may"
    distrust: str = ""
    hindrance: str = ""
    old: bool = False

    @property
    def resolves_dane(self) -> bool:
        """Whether it can answer dane or dane-only."""
        return _resolves_dane(self.table)

    @property
    def overrides_dane(self) -> bool:
        """Whether it answers with MTA-STS where the client follows TLSA records."""
        known = self.table.startswith("socketmap:")
        return known and not self.resolves_dane and self.level == "dane"


class Reason(NamedTuple):
    """Why a daemon is not fit: a *kind* for monitoring, and what it does."""

    kind: str
    text: str


def _resolves_dane(table: str) -> bool:
    return bool(_DANE.fullmatch(table))


def unfit(daemon: Daemon) -> list[Reason]:
    """Return why the client must not ask *daemon*, as what it does; [] if it may."""
    if daemon.fault:
        fault = "does not answer, and while that is so mail to every domain is deferred"
        return [Reason("dead", f"{fault}: {daemon.fault}")]
    reasons = {}
    if daemon.fault_utf8:
        reasons["idn"] = (
            "does not answer for a domain in UTF-8, and mail to every such domain is"
            f" deferred: {daemon.fault_utf8}"
        )
    if daemon.old and daemon.table.lower().endswith(_TLSRPT):
        reasons["tlsrpt"] = (
            "adds attributes that Postfix before 3.10 does not know: mail to every"
            " domain with an MTA-STS policy is deferred (use QUERY in place of"
            " QUERYwithTLSRPT)"
        )
    if daemon.distrust:
        reasons["cas"] = (
            f"demands verified servers, but {daemon.distrust}: mail to every domain"
            " with an MTA-STS policy is deferred"
        )
    if daemon.resolves_dane and daemon.hindrance:
        reasons["dnssec"] = (
            f"demands DANE, but {daemon.hindrance}: mail to every domain with DANE is"
            " deferred"
        )
    if daemon.overrides_dane:
        reasons["dane"] = (
            "does not look up TLSA records, so its MTA-STS policies override"
            " smtp_tls_security_level = dane where DANE fails (RFC 8461, section 2)"
        )
    elif daemon.level in main_cf.STRICTER:
        reasons["level"] = (
            f"demands no more than smtp_tls_security_level = {daemon.level} does"
        )
    return [Reason(*reason) for reason in reasons.items()]


def look(
    postfix: Postfix,
    configuration: Configuration,
    table: str,
    seconds: float = resolver_daemon.PATIENCE,
) -> Daemon:
    """Return the facts about the daemon behind *table*, each answer in *seconds*."""
    fault, utf8 = resolver_daemon.fault(postfix, table, seconds), ""
    if not fault:
        utf8 = resolver_daemon.fault(
            postfix, table, seconds, domain=resolver_daemon.NOBODY_UTF8
        )
    clients = as_clients_see_it(configuration)
    levels = {tls_levels.client_level(client) for client in clients}
    strict = sorted(levels & {"dane", *main_cf.STRICTER})
    dane = _resolves_dane(table)
    return Daemon(
        table,
        fault,
        utf8,
        strict[0] if strict else "may",
        trust.distrust(configuration),
        dnssec.hindrance(configuration) if dane else "",
        old=configuration.version < (3, 10),
    )


def needs(configuration: Configuration, table: str) -> Iterator[Decision]:
    """Yield what main.cf must say as well if it names the daemon behind *table*."""
    yield from trust.decide(configuration)
    if _resolves_dane(table):
        why = "the resolver daemon demands DANE"
        yield from tls_levels.secure_dns(configuration, why)


def choose(
    postfix: Postfix, configuration: Configuration, wanted: str
) -> tuple[str, list[str]]:
    """Return the table of the daemon to name, "" if none, and what is to be said.

    *wanted* is "none" or ""; "auto", one that runs and is fit; or a table, which must
    be fit.
    """
    if wanted in ("", "none"):
        return "", []
    if wanted == "auto":
        return _fit(postfix, configuration)
    if not _TABLE.fullmatch(wanted):
        raise Error(
            f"{wanted!r} is not a table that can be named; no changes were made",
            hint="give auto, none, or such as socketmap:inet:127.0.0.1:8461:postfix",
        )
    if wanted in maps.listed(configuration.value(PARAMETER)):
        return "", []
    if ":unix:" in wanted:
        raise Error(
            f"{wanted}: whether Postfix's client, in its chroot and as its user, could"
            " reach that socket cannot be verified from here: it is not named",
            hint="let the daemon listen on an address of loopback, and name that",
        )
    if reasons := _unfit_with_needs(postfix, configuration, wanted):
        raise Error(
            f"{wanted} is not added to {PARAMETER}: it {reasons}",
            hint="fix that first, or give --postfix-policy-service none",
        )
    return wanted, []


def _fit(postfix: Postfix, configuration: Configuration) -> tuple[str, list[str]]:
    named = configuration.value(PARAMETER)
    notes: list[str] = []
    for table in resolver_daemon.known(configuration):
        _, _, host, port, _ = table.split(":")
        if f":{host}:{port}:" in named:
            return "", notes
        if not resolver_daemon.listens(host, int(port)):
            continue
        reasons = _unfit_with_needs(postfix, configuration, table)
        if not reasons:
            return table, notes
        notes.append(f"{table} is not added to {PARAMETER}: it {reasons}")
    return "", notes


def _unfit_with_needs(
    postfix: Postfix, configuration: Configuration, table: str
) -> str:
    planned = decisions.applied(configuration, needs(configuration, table))
    return _joined(look(postfix, planned, table))


def _joined(daemon: Daemon) -> str:
    return "; it ".join(reason.text for reason in unfit(daemon))


def complaints(postfix: Postfix, configuration: Configuration) -> list[str]:
    """Return a sentence for each daemon in main.cf that is not fit."""
    return [
        str(
            Error(
                f"{table} in {PARAMETER} {reasons}",
                hint=f"fix that, or take it out of {PARAMETER}",
            )
        )
        for table in resolver_daemon.named(configuration)
        if (reasons := _joined(look(postfix, configuration, table)))
    ]


def refuse_beside_dane(configuration: Configuration) -> None:
    """Raise `Error` if a daemon in main.cf would override DANE at the level dane."""
    for table in resolver_daemon.named(configuration):
        if table.startswith("socketmap:") and not _resolves_dane(table):
            raise Error(
                f"{table} in {PARAMETER} does not look up TLSA records, so its MTA-STS"
                " policies would override smtp_tls_security_level = dane where DANE"
                " fails, which RFC 8461, section 2, forbids",
                hint=f"take it out of {PARAMETER}, or use postfix-tlspol instead",
            )
