"""The status report for programs: as JSON, and as metrics of Prometheus.

Pure.  docs/monitoring.rst describes both; the format of metrics is the text format of
Prometheus, version 0.0.4.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime

from certbot_postfix.errors import printable
from certbot_postfix.status.checks.dane import Held
from certbot_postfix.status.facts import Handshake
from certbot_postfix.status.findings import Code, Finding, Severity, usual_severity
from certbot_postfix.status.report import CertificateInUse, Report
from certbot_postfix.tls.certificates import UNKNOWN
from certbot_postfix.tls.endpoints import Endpoint

# Of the JSON document: it changes when a key goes, or means something else.
VERSION = 1


def as_json(report: Report) -> str:
    """Return the report as a JSON document, which docs/monitoring.rst describes."""
    document = {
        "version": VERSION,
        "time": _time(report.time),
        "postfix": {
            "configuration_directory": printable(str(report.directory)),
            "version": report.version,
            "running": report.running,
        },
        "services": list(map(_service, report.handshakes)),
        "certificates": [_certificate(report, used) for used in report.certificates],
        "names": {"known": report.names, "requested": report.requested},
        "tlsa": [
            {
                "owner": printable(endpoint.owner),
                "lineage": printable(endpoint.bundle.stem),
                "state": endpoint.state.value,
            }
            for endpoint in report.tlsa
        ],
        "held": [_held(report, held) for held in report.held],
        "findings": list(map(_finding, report.findings)),
        "not_checked": [
            {"object": printable(skipped.object), "reason": printable(skipped.reason)}
            for skipped in report.skipped
        ],
        "notes": list(map(printable, report.notes)),
    }
    return json.dumps(document, indent=2) + "\n"


def _service(handshake: Handshake) -> dict[str, object]:
    endpoint, seen = handshake.endpoint, handshake.seen
    return {
        "service": printable(endpoint.service),
        "host": endpoint.host,
        "port": endpoint.port,
        "tls": _tls(endpoint),
        "server_name": handshake.server_name and printable(handshake.server_name),
        "files": [printable(str(path)) for path in handshake.files],
        "sha256": seen.leaf.digest if seen else None,
        "protocol": seen.protocol if seen else None,
        "error": None if seen else printable(handshake.failure),
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "code": finding.code.value,
        "severity": finding.severity.value,
        "object": printable(finding.object),
        "places": list(map(printable, finding.places)),
        "message": printable(finding.message),
        "hint": printable(finding.hint),
    }


def _tls(endpoint: Endpoint) -> str:
    return "implicit" if endpoint.implicit else "starttls"


def _certificate(report: Report, used: CertificateInUse) -> dict[str, object]:
    leaf = used.leaf
    return {
        "sha256": leaf.digest,
        "names": sorted(map(printable, leaf.names)),
        "subject": printable(leaf.subject),
        "issuer": printable(leaf.issuer),
        "key_type": leaf.key_type or None,
        "not_before": _time(leaf.not_before),
        "not_after": _time(leaf.not_after),
        "seconds_left": None
        if leaf.not_after == UNKNOWN
        else int(report.remaining(leaf).total_seconds()),
        "files": [printable(str(path)) for path in used.files],
        "lineage": printable(used.lineage) or None,
    }


def _held(report: Report, held: Held) -> dict[str, object]:
    return {
        "lineage": printable(held.bundle.stem),
        "since": _time(held.since),
        "not_after": _time(held.not_after),
        "seconds_left": int(report.remaining(held).total_seconds()),
    }


def _time(time: datetime) -> str | None:
    if time == UNKNOWN:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


# Prometheus

Sample = tuple[dict[str, str], float]
Family = tuple[str, str, Iterable[Sample]]


def as_prometheus(report: Report) -> str:
    """Return the report as metrics for the textfile collector of node_exporter."""
    families = [*_of_services(report), *_of_dane(report), *_of_findings(report)]
    return "".join(line for family in families for line in _family(*family))


def _of_services(report: Report) -> Iterator[Family]:
    yield (
        "status_timestamp_seconds",
        "Time of this check, in seconds since 1970.",
        [({}, report.time.timestamp())],
    )
    yield (
        "running",
        "Whether Postfix runs; absent if that is not known.",
        [] if report.running is None else [({}, float(report.running))],
    )
    handshakes = report.handshakes
    yield (
        "service_presents_certificate",
        "Whether the service presents a certificate for this server name.",
        [
            (_labels(handshake), float(handshake.leaf is not None))
            for handshake in handshakes
        ],
    )
    yield (
        "not_after_timestamp_seconds",
        "When the certificate presented expires, in seconds since 1970.",
        list(filter(None, map(_expiry, handshakes))),
    )


def _expiry(handshake: Handshake) -> Sample | None:
    leaf = handshake.leaf
    if leaf is None or leaf.not_after == UNKNOWN:
        return None
    labels = {**_labels(handshake), "key_type": leaf.key_type}
    return labels, leaf.not_after.timestamp()


def _of_dane(report: Report) -> Iterator[Family]:
    yield (
        "tlsa_state",
        "1 for the state of each name with TLSA records.",
        [
            (
                {
                    "owner": endpoint.owner,
                    "lineage": endpoint.bundle.stem,
                    "state": endpoint.state.value,
                },
                1,
            )
            for endpoint in report.tlsa
        ],
    )
    yield (
        "held_seconds_left",
        "While a renewal is held: until the certificate in service expires.",
        [
            ({"lineage": held.bundle.stem}, report.remaining(held).total_seconds())
            for held in report.held
        ],
    )


def _of_findings(report: Report) -> Iterator[Family]:
    kinds = [(finding.code, finding.severity) for finding in report.findings]
    counts = Counter({(code, usual_severity(code)): 0 for code in Code})
    counts.update(kinds)
    yield (
        "findings",
        "How many findings of a kind and severity there are.",
        [(_kind(code, severity), count) for (code, severity), count in counts.items()],
    )
    yield (
        "finding_info",
        "1 for each finding, with its object.",
        [
            ({**_kind(finding.code, finding.severity), "object": finding.object}, 1)
            for finding in report.findings
        ],
    )
    skipped = len(report.skipped)
    yield "not_checked", "How many items could not be checked.", [({}, skipped)]
    yield "names", "How many names the SNI maps have.", [({}, report.names)]
    yield (
        "names_requested",
        "How many of these names were requested.",
        [({}, report.requested)],
    )


def _kind(code: Code, severity: Severity) -> dict[str, str]:
    return {"code": code.value, "severity": severity.value}


def _labels(handshake: Handshake) -> dict[str, str]:
    endpoint = handshake.endpoint
    return {
        "service": endpoint.service,
        "address": endpoint.address,
        "server_name": handshake.server_name or "",
    }


def _family(name: str, explanation: str, samples: Iterable[Sample]) -> Iterator[str]:
    name = f"certbot_postfix_{name}"
    yield f"# HELP {name} {explanation}\n# TYPE {name} gauge\n"
    distinct = {_series(name, labels): value for labels, value in samples}
    for series, value in distinct.items():
        yield f"{series} {value:.15g}\n"


def _series(name: str, labels: dict[str, str]) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{inside}}}" if inside else name


def _escaped(text: str) -> str:
    safe = printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return safe.replace("\n", "\\n")
