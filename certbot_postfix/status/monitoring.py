"""The status report for programs: as JSON, and as metrics of Prometheus.

Pure.  docs/monitoring.rst describes both; the format of metrics is the text format of
Prometheus, version 0.0.4.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime

from certbot_postfix.errors import printable
from certbot_postfix.status.facts import Handshake
from certbot_postfix.status.findings import Code
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
        "services": [_service(each) for each in report.handshakes],
        "certificates": [_certificate(report, used) for used in report.certificates],
        "names": {"known": report.names, "asked": report.requested},
        "findings": [
            {
                "code": each.code.value,
                "object": printable(each.object),
                "places": list(map(printable, each.places)),
                "message": printable(each.message),
                "hint": printable(each.hint),
            }
            for each in report.findings
        ],
        "unseen": [
            {"object": printable(each.object), "reason": printable(each.reason)}
            for each in report.skipped
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


def _time(time: datetime) -> str | None:
    if time == UNKNOWN:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


# Prometheus

Sample = tuple[dict[str, str], float]


def as_prometheus(report: Report) -> str:
    """Return the report as metrics for the textfile collector of node_exporter."""
    codes = Counter(each.code for each in report.findings)
    presented = [
        ({**_labels(each), "key_type": each.leaf.key_type}, each.leaf)
        for each in report.handshakes
        if each.leaf
    ]
    running: list[Sample] = (
        [] if report.running is None else [({}, float(report.running))]
    )
    families: list[tuple[str, str, Iterable[Sample]]] = [
        (
            "status_timestamp_seconds",
            "Time of this check, in seconds since 1970.",
            [({}, report.time.timestamp())],
        ),
        ("running", "Whether Postfix runs; absent if that is not known.", running),
        (
            "service_shows_certificate",
            "Whether the service presented a certificate for this server name.",
            [
                (_labels(each), float(each.leaf is not None))
                for each in report.handshakes
            ],
        ),
        (
            "not_after_timestamp_seconds",
            "When the certificate presented expires, in seconds since 1970.",
            [
                (labels, leaf.not_after.timestamp())
                for labels, leaf in presented
                if leaf.not_after != UNKNOWN
            ],
        ),
        (
            "findings",
            "How many findings there are of a kind.",
            [({"code": code.value}, codes[code]) for code in Code],
        ),
        (
            "finding_info",
            "1 for each finding, with its object.",
            [
                ({"code": each.code.value, "object": each.object}, 1)
                for each in report.findings
            ],
        ),
        (
            "unseen",
            "How many things could not be checked.",
            [({}, len(report.skipped))],
        ),
        ("names", "How many names the SNI maps have.", [({}, report.names)]),
        (
            "names_asked",
            "How many of these names were requested.",
            [({}, report.requested)],
        ),
    ]
    return "".join(line for family in families for line in _family(*family))


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
    for series, value in distinct.items():  # each once
        yield f"{series} {value:.15g}\n"


def _series(name: str, labels: dict[str, str]) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{inside}}}" if inside else name


def _escaped(text: str) -> str:
    safe = printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return safe.replace("\n", "\\n")
