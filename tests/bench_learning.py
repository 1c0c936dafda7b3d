"""What it costs to learn recipient domains from a mail log: a part of the bench.

Beside `grep -c`, which looks for as many lines of the same file, in turns.  Raises
`LabError`.
"""

import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.machine import LabError

SIZE = 1 << 30
TURNS = 3

# A log of a busy server: seven lines for a message, one of which has its recipient.
_BLOCK = 20_000
_MESSAGE = """\
{at} mx postfix/smtpd[4711]: connect from mail{n}.example.net[192.0.2.{byte}]
{at} mx postfix/smtpd[4711]: {id}: client=mail{n}.example.net[192.0.2.{byte}]
{at} mx postfix/cleanup[4712]: {id}: message-id=<{id}.{n}@mail.example.net>
{at} mx postfix/qmgr[4713]: {id}: from=<someone{n}@example.net>, size={n}, nrcpt=1
{at} mx postfix/smtp[4714]: Trusted TLS connection established to mx.d{n}.example.org\
[198.51.100.{byte}]:25: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)
{at} mx postfix/smtp[4714]: {id}: to=<user{n}@d{n}.example.org>, relay=mx.d{n}.example\
.org[198.51.100.{byte}]:25, delay=0.9, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued)
{at} mx postfix/qmgr[4713]: {id}: removed
"""

_LOOK = """
import resource, sys, time
from pathlib import Path
from types import SimpleNamespace
from certbot_postfix.postfix import sent_mail
there = SimpleNamespace(value=lambda name: sys.argv[1])
began = time.perf_counter()
domains = sent_mail.logged(there, sent_mail.Position(), 0, seconds=1000)
took = time.perf_counter() - began
print(took, time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
assert len(domains) == 10_000, len(domains)
"""


@dataclass(frozen=True, slots=True)
class Learning:
    """Seconds of each turn, of us and of grep, elapsed; and our *memory* in bytes."""

    ours: list[float] = field(default_factory=list)
    grep: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


def measure(base: Path) -> Learning:
    """Let both read the same log, in turns, when it is in memory."""
    log = base / "mail.log"
    _write(log)
    grep = shutil.which("grep") or "grep"
    found = Learning()
    _run([grep, "-c", "status=", str(log)])
    for _ in range(TURNS):
        began = time.perf_counter()
        _run([grep, "-c", "status=", str(log)])
        found.grep.append(time.perf_counter() - began)
        words = _run([sys.executable, "-c", _LOOK, str(log)]).split()
        found.ours.append(float(words[0]))
        found.memory.append(int(words[2]) * 1024)
    return found


def _write(log: Path) -> None:
    chance = random.Random(1)
    block = "".join(
        _MESSAGE.format(
            at="Nov 26 12:00:00",
            id=f"{chance.getrandbits(44):X}",
            n=chance.randrange(10_000) if number >= 10_000 else number,
            byte=chance.randrange(255),
        )
        for number in range(_BLOCK)
    ).encode()
    with log.open("wb") as file:
        while file.tell() < SIZE:
            file.write(block)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{command[0]}: {done.stderr}")
    return done.stdout
