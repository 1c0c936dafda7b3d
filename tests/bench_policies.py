"""What policies for mail that is sent cost: a part of the bench.

A list of a million domains is brought from its file into the compiled table, as
``certbot-postfix policy refresh`` does it, beside a bare postmap(1) of the same text.
Raises `LabError`.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from certbot_postfix.policy import table
from certbot_postfix.policy.sources import Settings
from tests.lab import PrivatePostfix, base_directory
from tests.lab.machine import LabError

DOMAINS = 1_000_000
COMMAND = Path(sys.executable).with_name("certbot-postfix")

GIB = 1 << 30


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
        listed = base / "list.json"
        write_list(listed, DOMAINS)
        path = postfix.config_dir / table.NAME
        path.write_bytes(table.render(Settings((str(listed),)), {}, (3, 7)))
        postfix.set(smtp_tls_policy_maps=f"{form}:{path}")
        ours = cost(
            str(COMMAND),
            *("--config-dir", str(postfix.config_dir)),
            *("--certbot-config-dir", str(base / "letsencrypt"), "policy", "refresh"),
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
