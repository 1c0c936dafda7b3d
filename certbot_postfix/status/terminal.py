"""The status report as a table for people, on any terminal.

Pure.  Nothing that comes from certificates or the configuration can command a terminal.
"""

import textwrap
from collections.abc import Iterator
from datetime import timedelta

from certbot_postfix.errors import printable, short
from certbot_postfix.status.facts import Handshake
from certbot_postfix.status.findings import Finding
from certbot_postfix.status.report import CertificateInUse, Report
from certbot_postfix.tls import certificates
from certbot_postfix.tls.certificates import UNKNOWN, Certificate

# Columns of the table for people.
WIDTH = 100

_HEADINGS = ("SERVICE", "ADDRESS", "REQUESTED", "TLS", "LEFT", "CERT")
_LIMITS = (24, 24, 23, 7, 7, 5)

_ALARM, _RESET = "\033[1;31m", "\033[0m"

# How many certificates are listed that no service was seen to present.
_OTHERS = 10

# Names of a certificate that the table lists one by one.
_MENTIONED = 8


def as_table(report: Report, *, colour: bool = False) -> str:
    """Return the report for people, at most `WIDTH` columns wide."""
    numbers = {used.leaf: number for number, used in enumerate(report.certificates, 1)}
    lines = [
        *_heading(report),
        *_services(report, numbers),
        *_certificates(report, numbers),
    ]
    if report.findings:
        lines += ["", f"Findings: {len(report.findings)}"]
        lines += [line for each in report.findings for line in _finding(each, colour)]
    else:
        lines += ["", "No problems found."]
    if report.skipped:
        lines += ["", "Not checked:"]
        for each in report.skipped:
            lines += _wrapped(f"{each.object}: {each.reason}")
    if report.notes:
        lines += ["", "Notes:"]
        lines += [line for note in report.notes for line in _wrapped(note)]
    return "".join(f"{line}\n" for line in lines)


def _heading(report: Report) -> list[str]:
    states = {True: "runs", False: "does not run", None: "(state unknown)"}
    text = f"Postfix {report.version} in {report.directory} {states[report.running]}"
    return [*_wrapped(text, "", ""), ""]


def _services(report: Report, numbers: dict[Certificate, int]) -> list[str]:
    if not report.handshakes:
        return ["No service was checked."]
    rows = (_cells(report, each, numbers) for each in report.handshakes)
    narrow = [
        tuple(_cut(cell, limit) for cell, limit in zip(row, _LIMITS, strict=True))
        for row in (_HEADINGS, *rows)
    ]
    widths = [max(map(len, column)) for column in zip(*narrow, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in narrow]


def _cells(
    report: Report, handshake: Handshake, numbers: dict[Certificate, int]
) -> tuple[str, ...]:
    endpoint, seen = handshake.endpoint, handshake.seen
    name = handshake.server_name or "(no name)"
    if not seen:
        return endpoint.service, endpoint.address, name, "-", "-", "none"
    known = seen.leaf.not_after != UNKNOWN
    remaining = _remaining(report.remaining(seen.leaf)) if known else "unknown"
    number = f"[{numbers[seen.leaf]}]"
    return endpoint.service, endpoint.address, name, seen.protocol, remaining, number


def _remaining(time: timedelta) -> str:
    if time <= timedelta(0):
        return "expired"
    if time < timedelta(days=2):
        return f"{time // timedelta(hours=1)} h"
    return f"{time.days} d"


def _certificates(report: Report, numbers: dict[Certificate, int]) -> list[str]:
    """Return all certificates that were presented, and some others."""
    presented = {each.leaf for each in report.handshakes}
    leaves = [each.leaf for each in report.certificates]
    others = [leaf for leaf in leaves if leaf not in presented]
    omitted = set(others[_OTHERS:])
    listed = [each for each in report.certificates if each.leaf not in omitted]
    lines = [line for each in listed for line in _in_use(report, each, numbers)]
    if omitted:
        lines += ["", f"and {len(omitted)} more certificates, not requested"]
    return lines


def _in_use(
    report: Report, used: CertificateInUse, numbers: dict[Certificate, int]
) -> list[str]:
    leaf = used.leaf
    names = certificates.listed(leaf.names, _MENTIONED)
    name = names or short(leaf.subject) or "no name"
    files = ", ".join(map(str, used.files)) or "an unknown file"
    lineage = f", lineage {used.lineage}" if used.lineage else ""
    return [
        "",
        *_wrapped(f"{f'[{numbers[leaf]}]':5}{name}", "", "     "),
        *_wrapped(f"SHA-256 {leaf.digest}", "     "),
        *_wrapped(
            f"{leaf.key_type or 'key unknown'}, {_expiry(report, leaf)},"
            f" issued by {leaf.issuer or ('unknown' if leaf.fault else 'nobody')}",
            "     ",
        ),
        *_wrapped(f"from {files}{lineage}", "     "),
    ]


def _expiry(report: Report, leaf: Certificate) -> str:
    if leaf.not_after == UNKNOWN:
        return "until unknown"
    remaining = report.remaining(leaf)
    valid = remaining > timedelta(0)
    days = f"{remaining.days} days left" if valid else "expired"
    return f"until {leaf.not_after:%Y-%m-%d %H:%M} UTC ({days})"


def _finding(finding: Finding, colour: bool) -> Iterator[str]:
    start, end = (_ALARM, _RESET) if colour else ("", "")
    yield f"  {start}{finding.code.value}{end}"
    yield from _wrapped(finding.message, "    ")
    if finding.places:
        yield from _wrapped(f"Where: {', '.join(finding.places)}", "    ", "      ")
    yield from _wrapped(f"Hint: {finding.hint}", "    ", "      ")


def _wrapped(text: str, first: str = "  ", others: str | None = None) -> list[str]:
    return textwrap.wrap(
        _visible(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if others is None else others,
        break_on_hyphens=False,
    )


def _visible(text: str) -> str:
    """Return *text* with whatever a terminal might obey, or make wide, as escapes."""
    return "".join(
        each if each.isprintable() and ord(each) < 0x300 else ascii(each)[1:-1]
        for each in printable(text)
    )


def _cut(text: str, limit: int) -> str:
    text = _visible(text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
