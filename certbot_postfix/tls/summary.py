"""What was verified, in a sentence or as a block of lines.

Pure: questions that were answered as expected in, text out.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from certbot_postfix.errors import enumerated
from certbot_postfix.tls.certificates import UNKNOWN, Certificate
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import Question
from certbot_postfix.tls.verification import places

# How many services, and how many names of a certificate, are listed one by one.
SERVICES = 9
NAMES = 3

NOTHING = (
    "No Postfix service uses the certificate configured in main.cf, so there was"
    " nothing to verify."
)


@dataclass(frozen=True, slots=True)
class _Row:
    """One certificate, or several of which each may be presented to one client."""

    names: str
    key: str
    expires: str
    use: str


def sentence(verified: Collection[Question]) -> str:
    """Return in one line which services present what."""
    if not verified:
        return NOTHING
    rows = (
        f"{row.names} ({row.key}, {row.expires}, {row.use})" for row in _rows(verified)
    )
    return f"{_head(verified)}: {'; '.join(rows)}."


def block(verified: Collection[Question]) -> list[str]:
    """Return the same as lines, one for each certificate."""
    if not verified:
        return [NOTHING]
    rows = _rows(verified)
    names, keys = (
        max(map(len, column))
        for column in zip(*((row.names, row.key) for row in rows), strict=True)
    )
    return [
        f"{_head(verified)}:",
        *(
            f"  {row.names:{names}}  {row.key:{keys}}  {row.expires}  {row.use}"
            for row in rows
        ),
    ]


def refusals(verified: Collection[Question]) -> str:
    """Say who refused what."""
    where: dict[str, list[Endpoint]] = {}
    for question in verified:
        where.setdefault(str(question.offer), []).append(question.endpoint)
    alike: dict[str, list[str]] = {}
    for offer, endpoints in where.items():
        several = len({endpoint.service for endpoint in endpoints}) > 1
        subject = f"{places(endpoints)} {'refuse' if several else 'refuses'}"
        alike.setdefault(subject, []).append(offer)
    parts = (f"{who} {enumerated(what)}" for who, what in alike.items())
    return f"Verified: {'; '.join(parts)}."


def listeners(endpoints: Iterable[Endpoint]) -> str:
    """Return how many addresses there are."""
    count = len({(endpoint.host, endpoint.port) for endpoint in endpoints})
    return f"{count} listener{'s' if count != 1 else ''}"


def _head(verified: Collection[Question]) -> str:
    endpoints = list(dict.fromkeys(question.endpoint for question in verified))
    services = dict.fromkeys(endpoint.name for endpoint in endpoints)
    versions = {"IPv6" if ":" in endpoint.host else "IPv4" for endpoint in endpoints}
    sources = dict.fromkeys(
        f"from {endpoint.source}" for endpoint in endpoints if endpoint.source
    )
    about = [
        enumerated(services, most=SERVICES),
        enumerated(sorted(versions)),
        *sources,
    ]
    return f"Verified on {listeners(endpoints)} ({'; '.join(about)})"


def _rows(verified: Collection[Question]) -> list[_Row]:
    alike: dict[tuple[Certificate, ...], list[Question]] = {}
    for question in verified:
        alike.setdefault(question.expected, []).append(question)
    everywhere = {question.endpoint.service for question in verified}
    return [_row(leaves, mine, everywhere) for leaves, mine in alike.items()]


def _row(
    leaves: tuple[Certificate, ...], mine: list[Question], everywhere: set[str]
) -> _Row:
    known = {name for leaf in leaves for name in leaf.names}
    names = enumerated(sorted(known), most=1) or leaves[0].subject
    keys = dict.fromkeys(leaf.key_type or "unknown key" for leaf in leaves)
    end = min(leaf.not_after for leaf in leaves)
    expires = f"expires {end:%Y-%m-%d}" if end != UNKNOWN else "unknown expiry"
    default = [question.endpoint for question in mine if question.server_name is None]
    requested = sorted({question.server_name or "" for question in mine})
    use = f"SNI {enumerated(requested, most=NAMES)}"
    if default:
        use = "default"
        if {endpoint.service for endpoint in default} != everywhere:
            services = dict.fromkeys(endpoint.name for endpoint in default)
            use += f" on {enumerated(services)}"
    return _Row(names, " or ".join(keys), expires, use)
