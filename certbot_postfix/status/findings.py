"""What is wrong, as a value.

Pure.  One cause is one finding, however many places it shows in: `merged` sees to that.
The modules of `checks` find them; docs/findings.rst has the meaning of each code.
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
    TLSA_MISMATCH = "tlsa-mismatch"
    TLSA_HELD = "renewal-held"
    TLSA_RECORD = "tlsa-record"
    TLSA_SERVERS = "tlsa-servers"
    TLSA_UNKNOWN = "tlsa-unknown"
    TLSA_UNSIGNED = "tlsa-unsigned"
    TLSA_AGEING = "tlsa-ageing"
    TLSA_KEY = "key-not-kept"
    KEY_CHANGE = "key-change-not-ended"
    NOT_DEPLOYED = "renewal-not-deployed"
    CAA = "caa-forbids-renewal"
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
    DAEMON_IDN = "policy-daemon-idn"
    DAEMON_TLSRPT = "policy-daemon-tlsrpt"
    DAEMON_CAS = "policy-daemon-cas"
    DAEMON_DNSSEC = "policy-daemon-dnssec"
    DAEMON_DANE = "policy-daemon-dane"
    DAEMON_LEVEL = "policy-daemon-level"
    POLICY_VOID = "policies-without-effect"
    POLICY_ENDED = "policies-ended"
    POLICY_SOURCE = "policy-source-fails"
    POLICY_RENEWAL = "policy-not-renewed"
    POLICY_UNUSED = "policies-unused"
    STS_MX = "mta-sts-mx"
    STS_RECORD = "mta-sts-record"
    STS_TESTING = "mta-sts-testing"


class Severity(Enum):
    """How bad a finding is, the worst first, by the names that monitoring sees.

    *critical*: mail or connections fail now, or a private key is exposed; *warning*:
    they will, or some clients are refused; *info*: a setting has no effect.
    """

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


_CRITICAL = frozenset(
    {
        Code.NOT_RUNNING,
        Code.ANOTHER_RUNS,
        Code.NO_ANSWER,
        Code.NO_CERTIFICATE,
        Code.NO_TLS,
        Code.FILE_MISSING,
        Code.FILE_UNUSABLE,
        Code.KEY_MISMATCH,
        Code.READABLE,
        Code.EXPIRED,
        Code.NOT_YET_VALID,
        Code.TLSA_MISMATCH,
        Code.POLICY_TABLE,
    }
)
_INFO = frozenset(
    {
        Code.TLSA_UNSIGNED,
        Code.TLSA_AGEING,
        Code.IGNORED,
        Code.DEPRECATED,
        Code.STS_TESTING,
    }
)


def usual_severity(code: Code) -> Severity:
    """Return how bad a finding of that kind is, as a rule."""
    if code in _CRITICAL:
        return Severity.CRITICAL
    return Severity.INFO if code in _INFO else Severity.WARNING


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause: what is wrong with *object*, *places* where it shows, and a hint.

    It may be *urgent*, and critical, where others of its kind are not.
    """

    code: Code
    object: str
    message: str
    hint: str
    places: tuple[str, ...] = ()
    urgent: bool = False

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return Severity.CRITICAL if self.urgent else usual_severity(self.code)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return each cause once, with all its places: the worst first, then by code."""
    by_cause: dict[tuple[Code, str], Finding] = {}
    for finding in findings:
        cause = (finding.code, finding.object)
        known = by_cause.setdefault(cause, finding)
        places = dict.fromkeys((*known.places, *finding.places))
        urgent = known.urgent or finding.urgent
        by_cause[cause] = replace(known, places=tuple(places), urgent=urgent)
    codes, severities = list(Code), list(Severity)
    return sorted(
        by_cause.values(),
        key=lambda finding: (
            severities.index(finding.severity),
            codes.index(finding.code),
            finding.object,
        ),
    )


def missing(
    path: Path,
    consequence: str,
    where: str,
    hint: str = "restore it, or use another file",
) -> Finding:
    """Return that *path* is missing."""
    return Finding(
        Code.FILE_MISSING,
        str(path),
        f"{path} is missing: {consequence}",
        hint,
        (where,),
    )
