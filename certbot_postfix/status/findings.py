"""What is wrong, as a value.

Pure.  One cause is one finding, however many places it shows in: `merged` sees to that.
The modules of `checks` find them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path


class Code(Enum):
    """The kinds of findings, by the stable names that monitoring sees."""

    NOT_RUNNING = "postfix-not-running"
    ANOTHER_RUNS = "another-postfix-runs"
    NO_ANSWER = "no-answer"
    NO_CERTIFICATE = "no-certificate"
    NO_TLS = "no-tls"
    FILE_MISSING = "file-missing"
    FILE_UNUSABLE = "file-unusable"
    KEY_MISMATCH = "key-mismatch"
    READABLE = "readable-by-others"
    EXPIRED = "expired"
    EXPIRES_SOON = "expires-soon"
    NOT_YET_VALID = "not-yet-valid"
    UNREADABLE = "certificate-unreadable"
    STALE = "stale"
    NOT_DEPLOYED = "renewal-not-deployed"
    ANOTHER_CERTBOT = "another-certbot"
    SELF_SIGNED = "self-signed"
    LINEAGE_MISSING = "lineage-missing"
    LINEAGE_UNLINKED = "lineage-unlinked"
    NAME_NOT_COVERED = "name-not-covered"
    SNI_NOT_COVERED = "sni-name-not-covered"
    CHAIN_INCOMPLETE = "chain-incomplete"
    SCREENED = "postscreen-differs"
    OVERRIDE = "override-hides"
    IGNORED = "ignored-parameter"
    DEPRECATED = "deprecated-parameter"
    CLIENT_PURPOSE = "client-purpose"
    CA_FILE = "ca-file-own-chain"
    WITHOUT_DANE = "dane-without-effect"
    POLICY_TABLE = "policy-table-fails"
    POLICY_DAEMON = "policy-daemon-unfit"
    POLICY_VOID = "policies-without-effect"
    POLICY_ENDED = "policies-ended"
    POLICY_SOURCE = "policy-source-fails"
    POLICY_RENEWAL = "policy-not-renewed"
    POLICY_UNUSED = "policies-unused"


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause: what is wrong with *object*, *places* where it shows, and a hint."""

    code: Code
    object: str
    message: str
    hint: str
    places: tuple[str, ...] = ()


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return each cause once, with all its places, in the order of the codes."""
    by_cause: dict[tuple[Code, str], Finding] = {}
    for finding in findings:
        cause = (finding.code, finding.object)
        known = by_cause.setdefault(cause, finding)
        places = dict.fromkeys((*known.places, *finding.places))
        by_cause[cause] = replace(known, places=tuple(places))
    order = list(Code)
    return sorted(
        by_cause.values(), key=lambda each: (order.index(each.code), each.object)
    )


def missing(
    path: Path,
    consequence: str,
    where: str,
    hint: str = "restore it, or name another file",
) -> Finding:
    """Return that *path* is missing."""
    return Finding(
        Code.FILE_MISSING,
        str(path),
        f"{path} is missing: {consequence}",
        hint,
        (where,),
    )
