"""What policies for mail that is sent cost: a part of the bench.

A list of a million domains is brought from its file into the compiled table, as
``certbot-postfix policy refresh`` does it, beside a bare postmap(1) of the same text.
MTA-STS is looked up for many domains side by side, and for some one after the other, at
servers whose answers take their time.  Raises `LabError`.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from certbot_postfix.outbound import policy_map
from certbot_postfix.outbound.sources import Settings
from tests.lab import COMMAND, Authority, PrivatePostfix, base_directory
from tests.lab.machine import LabError
from tests.lab.network import POLICIES, RESOLVER, Network

DOMAINS = 1_000_000

GIB = 1 << 30

RECIPIENTS = 10_000
ONE_BY_ONE = 100
LATENCY = 0.02

_LOOK = """
import json, sys, time
from datetime import datetime, timezone
from pathlib import Path
from certbot_postfix.outbound import mta_sts
from certbot_postfix.outbound.sources import Context, Settings
base, domains, workers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
kept = base / f"kept-{workers}"
kept.mkdir(exist_ok=True)
mta_sts._SIDE_BY_SIDE = workers
context = Context(Settings(domains=domains), kept, base / "authorities.pem")
now = datetime.now(timezone.utc)
source = mta_sts.Recipients(context)
began = time.perf_counter()
source.refresh(now)
looked = time.perf_counter() - began
assert len(list(source.policies(now))) == len(Path(domains).read_text().split())
began = time.process_time()
assert not mta_sts.Recipients(context).due(now)
due = time.process_time() - began
began = time.process_time()
json.loads(kept.joinpath("mta-sts.json").read_bytes())
print(json.dumps([looked, due, time.process_time() - began]))
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took: *elapsed* and *processor* in seconds, *memory* in bytes."""

    elapsed: float
    processor: float
    memory: int


@dataclass(frozen=True, slots=True)
class Compilation:
    """A list brought into a table of type *form*, and a bare postmap of its text."""

    form: str
    ours: Cost
    bare: Cost


def compilations(forms: tuple[str, ...] = ("hash", "lmdb", "cdb")) -> list[Compilation]:
    """Measure each of the *forms* once: a table of a million entries is no noise."""
    return [_compilation(form) for form in forms]


def _compilation(form: str) -> Compilation:
    with base_directory() as base, closing(PrivatePostfix(base)) as postfix:
        listed, certbot = base / "list.json", base / "letsencrypt"
        certbot.mkdir()
        write_list(listed, DOMAINS)
        path = postfix.config_dir / policy_map.NAME
        path.write_bytes(policy_map.render(Settings((str(listed),)), {}, (3, 7)))
        # Or it would be warned that this is not the usual type.
        postfix.set(default_database_type=form)
        postfix.set(smtp_tls_policy_maps=f"{form}:{path}")
        ours = cost(
            str(COMMAND),
            *("--postfix-config-dir", str(postfix.config_dir)),
            *("--config-dir", str(certbot), "policy", "refresh"),
        )
        copy = base / "bare"
        copy.write_bytes(path.read_bytes())
        bare = cost("postmap", "-c", str(postfix.config_dir), f"{form}:{copy}")
        return Compilation(form, ours, bare)


def write_list(path: Path, count: int) -> None:
    """Write a list with so many domains, each with two servers."""
    with path.open("w") as file:
        file.write('{"timestamp": 1700000000, "expires": 4000000000, ')
        file.write('"version": "0.1", "policy-aliases": {}, "policies": {')
        for at in range(count):
            policy = {"mode": "enforce", "mxs": [f"mx{at}.example.net", ".example.com"]}
            separator = ",\n" if at else ""
            file.write(f'{separator}"domain{at}.example.org": {json.dumps(policy)}')
        file.write("}}\n")


def cost(*command: str) -> Cost:
    """Run *command*, which must succeed; memory is that of itself and its children."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=None
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise LabError(f"{' '.join(command)} ended with {process.returncode}")
    return Cost(
        time.perf_counter() - began,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024,
    )


@dataclass(frozen=True, slots=True)
class Looks:
    """Seconds for each domain, side by side and one by one; of the processor, for all:
    to find that nothing is due, and to read the cache once.
    """

    together: float
    single: float
    due: float
    read: float


def looks() -> Looks:
    """Measure how long it takes to look up MTA-STS."""
    with base_directory() as base:
        network = Network(base, Authority())
        try:
            return _looks(network)
        finally:
            network.close()


def _looks(network: Network) -> Looks:
    names = [f"d{at}.insecure" for at in range(RECIPIENTS)]
    network.publish("insecure", f"* A {POLICIES}", '* TXT "v=STSv1; id=1;"')
    network.policy("*", "mx.example.net")
    network.serve_policies(*names, latency=LATENCY)
    slow = "127.0.0.2"
    network.serve("delay", RESOLVER, str(LATENCY), address=slow, port=53)
    (network.base / "resolv.conf").write_text(f"nameserver {slow}\n")
    together, due, read = _look(network, names, 64)
    single, *_ = _look(network, names[:ONE_BY_ONE], 1)
    return Looks(together / RECIPIENTS, single / ONE_BY_ONE, due, read)


def _look(network: Network, names: list[str], workers: int) -> list[float]:
    domains = network.base / f"domains-{workers}"
    domains.write_text("\n".join(names))
    argv = (sys.executable, "-c", _LOOK, str(network.base), str(domains), str(workers))
    done = network.run(*argv, seconds=1800)
    if done.returncode:
        raise LabError(done.stderr[-2000:])
    return list(json.loads(done.stdout))
