"""Asks DNS whether it fits what certbot will do, and the MTA-STS policies written here.

Nothing is asked where neither is at stake.  It ends at its deadline.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.formats.caa import Issuance
from certbot_postfix.publish import policy_host, written
from certbot_postfix.publish.look import Look, Relevant
from certbot_postfix.status.facts import OwnPolicy, Skipped
from certbot_postfix.system import files
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.tls.certificates import Certificate

# Seconds for all questions.
_SECONDS = 3.0


def caa(
    issuances: Mapping[str, Issuance],
    lineages: Mapping[str, Certificate | None],
    deadline: Deadline,
) -> dict[str, Relevant]:
    """Return the CAA records that count for the names of lineages, of known CAs."""
    names = {
        name
        for lineage, issuance in issuances.items()
        for leaf in [lineages.get(lineage)]
        if leaf and issuance.issuer
        for name in leaf.names
    }
    return Look(_brief(deadline)).caa(sorted(names)) if names else {}


def policies(bundles: Path, deadline: Deadline) -> list[OwnPolicy]:
    """Return the policies that were written here, with what DNS says of the domains."""
    known = written.read(bundles)
    look = Look(_brief(deadline)) if known else None
    return [
        _policy(domain, webroot / policy_host.PATH, look)
        for domain, webroot in known.items()
        if look
    ]


def _policy(domain: str, path: Path, look: Look) -> OwnPolicy:
    mx, sts = look.records(domain, "MX"), look.records(f"_mta-sts.{domain}", "TXT")
    policy = OwnPolicy(domain, path, mx, sts)
    try:
        since = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
        return replace(policy, text=files.read(path), since=since)
    except FileNotFoundError:
        return policy
    except Error as error:
        return replace(policy, hidden=error.message)
    except OSError as error:
        return replace(policy, hidden=error.strerror or str(error))


def skipped(
    relevant: Mapping[str, Relevant], policies: Iterable[OwnPolicy]
) -> Iterator[Skipped]:
    """Yield what could not be looked up: once, since mostly DNS is down as a whole."""
    faults = [value.fault for value in relevant.values()]
    faults += [found.fault for policy in policies for found in (policy.mx, policy.sts)]
    if fault := next(filter(None, faults), ""):
        yield Skipped("what DNS says of this server", fault)
    for policy in policies:
        if policy.hidden:
            yield Skipped(str(policy.path), policy.hidden)


def _brief(deadline: Deadline) -> Deadline:
    return Deadline(min(_SECONDS, deadline.left))
