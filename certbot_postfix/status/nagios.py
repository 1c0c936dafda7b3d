"""The status report as a plugin of Nagios and its kin: one line, and an exit status.

Pure.  The format is that of the Monitoring Plugins Development Guidelines: exit status,
text, and after a ``|`` performance data.
"""

from collections import Counter
from datetime import timedelta

from certbot_postfix.errors import enumerated, printable, short
from certbot_postfix.status.findings import Severity
from certbot_postfix.status.report import Report
from certbot_postfix.tls.certificates import UNKNOWN

# The longest message in a line that goes into a short message.
_LONGEST = 300

UNKNOWN_STATUS = 3
_STATUSES = {Severity.CRITICAL: 2, Severity.WARNING: 1, Severity.INFO: 0}
_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


def as_check(report: Report) -> tuple[str, int]:
    """Return the line that the plugin prints, and its exit status."""
    worst = next(iter(report.findings), None)
    status = _STATUSES[worst.severity] if worst else 0
    return f"{_line(status, _text(report))} | {_data(report)}\n", status


def as_failure(message: str) -> tuple[str, int]:
    """Return line and status where nothing can be known, which *message* explains."""
    return f"{_line(UNKNOWN_STATUS, message)}\n", UNKNOWN_STATUS


def _line(status: int, text: str) -> str:
    words = short(" ".join(printable(text).split()), _LONGEST).replace("|", "/")
    return f"POSTFIX TLS {_WORDS[status]}: {words}"


def _text(report: Report) -> str:
    serious = [
        finding for finding in report.findings if finding.severity != Severity.INFO
    ]
    if serious:
        first, *others = serious
        codes = enumerated(dict.fromkeys(finding.code.value for finding in others))
        rest = f"; {len(others)} more: {codes}" if others else ""
        return f"[{first.code.value}] {short(first.message, _LONGEST // 2)}{rest}"
    services = len({handshake.endpoint.service for handshake in report.handshakes})
    text = f"{services} {'service' if services == 1 else 'services'}"
    remaining = _first_expiry(report)
    if remaining is not None:
        text += f", the first certificate expires in {remaining.days} days"
    return text


def _first_expiry(report: Report) -> timedelta | None:
    leaves = {handshake.leaf for handshake in report.handshakes if handshake.leaf}
    known = [report.remaining(leaf) for leaf in leaves if leaf.not_after != UNKNOWN]
    return min(known, default=None)


def _data(report: Report) -> str:
    counts = Counter(finding.severity for finding in report.findings)
    data = {severity.value: str(counts[severity]) for severity in Severity}
    data["not_checked"] = str(len(report.skipped))
    remaining = _first_expiry(report)
    if remaining is not None:
        data["expires_in"] = f"{int(remaining.total_seconds())}s"
    return " ".join(f"{label}={value}" for label, value in data.items())
