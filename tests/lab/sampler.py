"""A Postfix that sends mail through a warm cache, again and again, verified by DANE.

Two deliveries, of one message, begin twice a second: at the level ``dane``, and at
``dane-only``.  What became of each is read from the mail log of the sender.
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.lab.dane import LEVELS, Host
from tests.lab.machine import LabError, wait_until
from tests.lab.network import Network, Sender

VERIFIED = "verified"

_PAUSE = 0.5
_LINE = re.compile(
    r"postfix/smtp\[(?P<process>\d+)\]: (?:\w+: )?"
    r"(?:(?P<tls>\w+) TLS connection established to "
    r"|to=<[^@>]*@(?P<domain>[^>]+)>,.* status=(?P<status>\w+))"
)


class Sampler:
    """What became of the messages that a sender in *network* sent, when it has ended.

    `counts` has a number for each level and each end: ``verified``, ``unverified``, or
    the status that Postfix gives (``deferred``).  The *settings* are the sender's.
    """

    def __init__(self, network: Network, base: Path, **settings: str) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        self._sent = 0
        self.sender = Sender(network, base)
        # Each delivery looks at the server by itself, whatever came of those before.
        self.sender.set(
            smtp_dns_support_level="dnssec",
            smtp_tls_security_level="dane",
            smtp_tls_policy_maps=f"inline:{{{LEVELS['dane-only']}=dane-only}}",
            smtp_tls_session_cache_database="",
            smtp_connection_cache_on_demand="no",
            default_destination_concurrency_failed_cohort_limit="0",
            **settings,
        )

    def sample(self, until: threading.Event) -> None:
        """Send *until* that is over."""
        recipients = [f"me@{domain}" for domain in LEVELS.values()]
        due = time.monotonic()
        while not until.wait(max(0, due - time.monotonic())):
            due = time.monotonic() + _PAUSE
            try:
                self.sender.send(*recipients)
            except LabError as error:
                self.failures.append(str(error))
                return
            self._sent += 1

    def count(self) -> None:
        """Count what became of every message, when each had its turn."""
        wait_until(lambda: not self.sender.untried(), "each message had its turn")
        levels = {domain: level for level, domain in LEVELS.items()}
        connections: dict[str, str] = {}  # by process, which has one delivery at a time
        for line in self.sender.log().splitlines():
            if not (match := _LINE.search(line)):
                continue
            if match["tls"]:
                connections[match["process"]] = match["tls"]
                continue
            end = match["status"]
            tls = connections.pop(match["process"], "no")
            if end == "sent":
                end = VERIFIED if tls == "Verified" else "unverified"
            self.counts[levels[match["domain"]], end] += 1
            if end != VERIFIED:
                self.failures.append(line)
        assert self.counts.total() == self._sent * len(LEVELS), self.counts

    def all_verified(self, least: int) -> bool:
        """Whether *least* messages arrived at each level, and each one verified."""
        verified = {(level, VERIFIED) for level in LEVELS}
        enough = min(self.counts.values(), default=0) >= least
        return enough and set(self.counts) == verified and not self.failures

    def lines(self) -> Iterator[str]:
        """Tell what was counted, and the first failures."""
        for (level, end), number in sorted(self.counts.items()):
            yield f"{level}: {number} {end}"
        yield from self.failures[:3]

    def __str__(self) -> str:
        return "\n".join(self.lines())


@contextmanager
def sampled(host: Host, name: str = "sender", **settings: str) -> Iterator[Sampler]:
    """Send mail to *host* as long as this lasts; count in the end what became of it."""
    ended = threading.Event()
    base = host.postfix.base.with_name(name)
    sampler = Sampler(host.zone.network, base, **settings)
    with closing(sampler.sender) as sender:
        sender.start()
        thread = threading.Thread(target=sampler.sample, args=[ended])
        thread.start()
        try:
            yield sampler
        finally:
            ended.set()
            thread.join()
        sampler.count()
