"""A status report for people, as a table that any terminal can show.

Pure.  Nothing that comes from certificates or the configuration can command a terminal.
"""

import textwrap
from collections.abc import Iterator
from datetime import timedelta

from certbot_postfix.errors import printable, short
from certbot_postfix.status.conclusion import Report, Row, Used
from certbot_postfix.status.findings import Finding
from certbot_postfix.tls.certificates import UNKNOWN, Certificate, listed

# Columns of the table for people.
WIDTH = 100

_HEADINGS = ("SERVICE", "ADDRESS", "ASKED FOR", "TLS", "LEFT", "SHOWN")
_LIMITS = (24, 24, 23, 7, 7, 5)

_ALARM, _RESET = "\033[1;31m", "\033[0m"

# How many certificates are told that no service was seen to show.
_OTHERS = 10

# Names of a certificate that the table tells one by one.
_MENTIONED = 8


def as_table(report: Report, *, colour: bool = False) -> str:
    """Return the report for people, at most `WIDTH` columns wide."""
    numbers = {used.leaf: number for number, used in enumerate(report.used, 1)}
    lines = [
        *_heading(report),
        *_services(report, numbers),
        *_certificates(report, numbers),
    ]
    if report.findings:
        lines += ["", f"Findings: {len(report.findings)}"]
        lines += [line for each in report.findings for line in _finding(each, colour)]
    else:
        lines += ["", "Nothing is wrong with what was seen."]
    if report.unseen:
        lines += ["", "Not seen:"]
        for each in report.unseen:
            lines += _wrapped(f"{each.object}: {each.reason}")
    if report.notes:
        lines += ["", "Notes:"]
        lines += [line for note in report.notes for line in _wrapped(note)]
    return "".join(f"{line}\n" for line in lines)


def _heading(report: Report) -> list[str]:
    states = {True: "runs", False: "does not run", None: "(unknown whether it runs)"}
    told = f"Postfix {report.version} in {report.directory} {states[report.running]}"
    return [*_wrapped(told, "", ""), ""]


def _services(report: Report, numbers: dict[Certificate, int]) -> list[str]:
    if not report.rows:
        return ["No service was asked."]
    cells = [_HEADINGS, *(_cells(report, row, numbers) for row in report.rows)]
    short = [
        tuple(_cut(cell, limit) for cell, limit in zip(row, _LIMITS, strict=True))
        for row in cells
    ]
    widths = [max(map(len, column)) for column in zip(*short, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in short]


def _cells(
    report: Report, row: Row, numbers: dict[Certificate, int]
) -> tuple[str, ...]:
    answer = row.answer
    where = answer.endpoint.address
    asked = answer.server_name or "(no name)"
    if not answer.seen or not row.leaf:
        return answer.endpoint.service, where, asked, "-", "-", "none"
    known = row.leaf.not_after != UNKNOWN
    left = _left(report.left(row.leaf)) if known else "unknown"
    number = f"[{numbers[row.leaf]}]"
    return answer.endpoint.service, where, asked, answer.seen.protocol, left, number


def _left(left: timedelta) -> str:
    if left <= timedelta(0):
        return "expired"
    if left < timedelta(days=2):
        return f"{left // timedelta(hours=1)} h"
    return f"{left.days} d"


def _certificates(report: Report, numbers: dict[Certificate, int]) -> list[str]:
    """Tell of all certificates that were shown, and of some others."""
    shown = {row.leaf for row in report.rows}
    others = [used.leaf for used in report.used if used.leaf not in shown]
    left_out = set(others[_OTHERS:])
    told = [used for used in report.used if used.leaf not in left_out]
    lines = [line for used in told for line in _used(report, used, numbers)]
    if len(others) > _OTHERS:
        lines += ["", f"and {len(others) - _OTHERS} more certificates, not asked for"]
    return lines


def _used(report: Report, used: Used, numbers: dict[Certificate, int]) -> list[str]:
    leaf = used.leaf
    names = listed(leaf.names, _MENTIONED)
    name = names or short(leaf.subject) or "no name"
    files = ", ".join(map(str, used.files)) or "a file that was not seen"
    lineage = f", lineage {used.lineage}" if used.lineage else ""
    return [
        "",
        *_wrapped(f"{f'[{numbers[leaf]}]':5}{name}", "", "     "),
        *_wrapped(f"SHA-256 {leaf.digest}", "     "),
        *_wrapped(
            f"{leaf.key_type or 'key unknown'}, {_until(report, leaf)},"
            f" issued by {leaf.issuer or ('unknown' if leaf.fault else 'nobody')}",
            "     ",
        ),
        *_wrapped(f"from {files}{lineage}", "     "),
    ]


def _until(report: Report, leaf: Certificate) -> str:
    if leaf.not_after == UNKNOWN:
        return "until unknown"
    left = report.left(leaf)
    days = f"{left.days} days left" if left > timedelta(0) else "expired"
    return f"until {leaf.not_after:%Y-%m-%d %H:%M} UTC ({days})"


def _finding(finding: Finding, colour: bool) -> Iterator[str]:
    start, end = (_ALARM, _RESET) if colour else ("", "")
    yield f"  {start}{finding.code.value}{end}"
    yield from _wrapped(finding.message, "    ")
    if finding.places:
        yield from _wrapped(f"Where: {', '.join(finding.places)}", "    ", "      ")
    yield from _wrapped(f"What to do: {finding.hint}", "    ", "      ")


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
