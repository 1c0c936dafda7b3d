"""The status report as a table for people, on any terminal.

Pure.  Nothing that comes from certificates or the configuration can command a terminal.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta

from certbot_postfix.errors import printable, short
from certbot_postfix.status.facts import Handshake
from certbot_postfix.status.findings import Finding, Severity
from certbot_postfix.status.report import CertificateInUse, Report
from certbot_postfix.tls import certificates
from certbot_postfix.tls.certificates import UNKNOWN, Certificate

# Columns of the table for people.
WIDTH = 100

_GAP = 2
_HEADINGS = ("SERVICE", "SERVER NAME", "KEY", "EXPIRES", "CERTIFICATE")
_LIMITS = (15, 21, 7, 10, 11)

_COLOURS = {Severity.CRITICAL: "\033[1;31m", Severity.WARNING: "\033[33m"}
_RESET = "\033[0m"

# Names of a certificate that are listed one by one.
_MENTIONED = 8


def as_table(report: Report, *, colour: bool = False) -> str:
    """Return the report for people, at most `WIDTH` columns wide."""
    presented = {handshake.leaf for handshake in report.handshakes}
    listed = [used for used in report.certificates if used.leaf in presented]
    numbers = {used.leaf: number for number, used in enumerate(listed, 1)}
    lines = [*_heading(report), *_services(report, numbers)]
    lines += [line for used in listed for line in _in_use(report, used, numbers)]
    lines += ["", *_findings(report, colour)]
    if report.skipped:
        lines += ["", "Not checked:"]
        for skipped in report.skipped:
            lines += _wrapped(f"{skipped.object}: {skipped.reason}")
    if report.notes:
        lines += ["", "Notes:"]
        lines += [line for note in report.notes for line in _wrapped(note)]
    return "".join(f"{line}\n" for line in lines)


def _heading(report: Report) -> list[str]:
    states = {
        True: " is running",
        False: " is not running",
        None: ": run as root to see whether it is running",
    }
    text = f"Postfix {report.version} ({report.directory}){states[report.running]}"
    return [*_wrapped(text, "", ""), ""]


def _services(report: Report, numbers: Mapping[Certificate, int]) -> list[str]:
    """Return the table: addresses that agree share a row, types of key do not."""
    if not report.handshakes:
        return ["No service was checked."]
    rows: dict[tuple[str, ...], list[str]] = {_HEADINGS: ["ADDRESS"]}
    for handshake in _in_order(report.handshakes):
        cells = tuple(map(_cut, _cells(report, handshake, numbers), _LIMITS))
        rows.setdefault(cells, []).append(handshake.endpoint.address)
    room = WIDTH - sum(_GAP + width for width in _widths(rows))  # for the addresses
    table = [
        (service, _fitting(addresses, room), *others)
        for (service, *others), addresses in rows.items()
    ]
    lines = (map(str.ljust, row, _widths(table)) for row in table)
    return [(" " * _GAP).join(line).rstrip() for line in lines]


def _widths(rows: Iterable[tuple[str, ...]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _in_order(handshakes: Sequence[Handshake]) -> list[Handshake]:
    """Return *handshakes* by service, as in master.cf, by name and by type of key."""
    services = [handshake.endpoint.service for handshake in handshakes]
    return sorted(
        handshakes,
        key=lambda handshake: (
            services.index(handshake.endpoint.service),
            handshake.server_name or "",
            handshake.leaf.key_type if handshake.leaf else "",
        ),
    )


def _cells(
    report: Report, handshake: Handshake, numbers: Mapping[Certificate, int]
) -> tuple[str, ...]:
    """Return all columns but the address."""
    service, leaf = handshake.endpoint.name, handshake.leaf
    name = handshake.server_name or "(none)"
    if not leaf:
        return service, name, "-", "-", "none"
    expiry = f"{leaf.not_after:%Y-%m-%d}" if leaf.not_after != UNKNOWN else "unknown"
    if report.remaining(leaf) <= timedelta(0) and leaf.not_after != UNKNOWN:
        expiry = "expired"
    return service, name, leaf.key_type or "unknown", expiry, f"[{numbers[leaf]}]"


def _fitting(addresses: Sequence[str], limit: int) -> str:
    """Return *addresses*, or the first of them and how many more there are."""
    distinct = list(dict.fromkeys(addresses))
    text = _visible(", ".join(distinct))
    if len(text) <= limit or len(distinct) == 1:
        return _cut(text, limit)
    rest = f" and {len(distinct) - 1} more"
    return _cut(distinct[0], limit - len(rest)) + rest


def _in_use(
    report: Report, used: CertificateInUse, numbers: Mapping[Certificate, int]
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
    remaining = report.remaining(leaf)
    text = leaf.expiry(report.time)
    if leaf.not_after == UNKNOWN or remaining <= timedelta(0):
        return text
    if remaining < timedelta(days=2):
        return f"{text} ({remaining // timedelta(hours=1)} hours left)"
    return f"{text} ({remaining.days} days left)"


def _findings(report: Report, colour: bool) -> Iterator[str]:
    if not report.findings:
        unchecked = len(report.skipped)
        items = "item" if unchecked == 1 else "items"
        rest = f", {unchecked} {items} could not be checked" if unchecked else ""
        yield f"No problems found{rest}."
        return
    counts = Counter(finding.severity for finding in report.findings)
    summary = ", ".join(
        _counted(counts[severity], severity)
        for severity in Severity
        if counts[severity]
    )
    yield f"Findings: {summary} (the documentation explains each [code])"
    for finding in report.findings:
        yield from _finding(finding, colour)


def _counted(number: int, severity: Severity) -> str:
    plural = severity is Severity.WARNING and number > 1
    return f"{number} {severity.value}{'s' if plural else ''}"


def _finding(finding: Finding, colour: bool) -> Iterator[str]:
    start = _COLOURS.get(finding.severity, "") if colour else ""
    end = _RESET if start else ""
    yield f"  {start}{finding.severity.value}{end} [{finding.code.value}]"
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
        character
        if character.isprintable() and ord(character) < 0x300
        else ascii(character)[1:-1]
        for character in printable(text)
    )


def _cut(text: str, limit: int) -> str:
    text = _visible(text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
