"""What is wrong with the TLSA records (DANE) of what is served, as last observed.

Pure: facts in, findings out.  `certbot renew` and ``tlsa show`` observe.
"""

from collections.abc import Iterator
from pathlib import Path

from certbot_postfix.dane.store import Memory
from certbot_postfix.formats import tlsa
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.inbound import renewal_settings
from certbot_postfix.status.facts import Facts
from certbot_postfix.status.findings import Code, Finding
from certbot_postfix.tls.certificates import Certificate

_SHOW = "certbot-postfix tlsa show"


def held(facts: Facts) -> Iterator[Finding]:
    """Yield the renewals that wait until DNS announces their keys."""
    for path, memory in facts.tlsa.items():
        newest = facts.lineages.get(path.stem)
        waits = newest is not None and newest != facts.leaf(path)
        if waits and memory.held and memory.expiry:
            half = memory.held + (memory.expiry - memory.held) / 2
            yield Finding(
                Code.TLSA_HELD,
                str(path),
                f"the renewal of {path.stem} is held since {memory.held:%Y-%m-%d}:"
                " TLSA records (DANE) do not announce its key everywhere yet; the"
                f" certificate expires at {memory.expiry:%Y-%m-%d %H:%M} UTC",
                f"{_SHOW} has the records to publish",
                urgent=facts.now >= half,
            )


def records(facts: Facts) -> Iterator[Finding]:
    """Yield the records that match nothing that is served, and those that are odd."""
    for path, memory in facts.tlsa.items():
        chain = facts.files[path].certificates if path in facts.files else ()
        for owner, record in _current(memory):
            if remark := record.fault or record.advice:
                yield Finding(
                    Code.TLSA_RECORD,
                    f"{owner} {record}",
                    f"the TLSA record {record} of {owner}: {remark}",
                    f"{_SHOW} has the records to publish",
                )
        if chain:
            own = facts.configuration.value("myhostname").lower()
            yield from _mismatches(path, memory, chain, own)


def keys(facts: Facts) -> Iterator[Finding]:
    """Yield the lineages whose renewals have new keys, although records pin this one.

    `certbot certonly` without --reuse-key forgets that it was given before.
    """
    for path, memory in facts.tlsa.items():
        settings, leaf = facts.renewals.get(path.stem), facts.leaf(path)
        if leaf is None or settings is None or settings.keeps_key or memory.held:
            continue
        chain, published = (leaf,), {record for _, record in _current(memory)}
        if any(each.matches(chain, "") and each.selector for each in published):
            yield Finding(
                Code.TLSA_KEY,
                path.stem,
                f"certbot makes a new key for each renewal of {path.stem}, whose TLSA"
                " records (DANE) are for the key in service: renewals will be held",
                renewal_settings.keep_key(path.stem, settings.path),
            )


def _mismatches(
    path: Path, memory: Memory, chain: tuple[Certificate, ...], own: str
) -> Iterator[Finding]:
    for owner, rrsets in memory.endpoints.items():
        host = owner.partition("._tcp.")[2]
        current = [each for each in rrsets if each.until is None]
        # Another server may have the name, and share the certificate.
        ours = host == own or any(each.accepts([chain], host) for each in rrsets)
        if ours and not all(each.accepts([chain], host) for each in current):
            line = tlsa.line(owner, Record.of_key(chain[0].spki))
            yield Finding(
                Code.TLSA_MISMATCH,
                owner,
                f"the TLSA records (DANE) of {owner} do not match the certificate in"
                f" {path}: senders that verify DANE deliver no mail",
                f"publish {line}",
            )


def _current(memory: Memory) -> Iterator[tuple[str, Record]]:
    for owner, rrsets in memory.endpoints.items():
        found = (each.records for each in rrsets if each.until is None)
        for record in sorted(frozenset[Record]().union(*found)):
            yield owner, record
