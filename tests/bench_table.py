"""What many certificates by server name cost each smtpd process: a part of the bench.

Compares the forms that the table of ``tls_server_sni_maps`` can have.  smtpd opens it
when it starts: of a compiled one it reads what a session asks for; with texthash it
reads, and keeps in memory, the file of every name.  Each process pays that anew, after
100 sessions (postconf(5), ``max_use``).  Raises `LabError`.
"""

import os
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median as _median

from cryptography import x509

from certbot_postfix.inbound import sni
from tests.lab import Authority, Issued, PrivatePostfix
from tests.lab.machine import LOOPBACK, LabError, Ports, wait_until
from tests.lab.pki import generate_key

FORMS = {"texthash": "", "hash": ".db", "lmdb": ".lmdb", "cdb": ".cdb"}
COUNTS = (10, 100, 200, 1_000, 10_000)


# What a busy server may run at once (postconf(5), ``default_process_limit``).
_PROCESSES = 100

# Turns of each variant: enough for a median that is stable to a millisecond.
STARTS = 15

# So many certificates are issued, and serve again and again under other file names;
# every tenth has an RSA key.
_ISSUED = 100

# What makes a bundle about as long as those of public authorities, which have signed
# timestamps and signatures of RSA roots.
_FURTHER_NAMES = 50


@dataclass
class Variant:
    """An smtpd service with one table, and what was measured of it."""

    form: str
    count: int
    table: Path
    port: int
    built: float = 0.0
    size: int = 0
    private: int = 0
    starts: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @property
    def master_cf(self) -> str:
        """The service as an entry of master.cf."""
        entry = f"{LOOPBACK}:{self.port} inet n - n - - smtpd\n"
        if self.form:
            entry += f"  -o tls_server_sni_maps={self.form}:{self.table}\n"
        return entry


def bench_table(base: Path) -> None:
    """Compare smtpd with tables of several forms and sizes."""
    print("\nsmtpd with many certificates by server name", flush=True)
    issued = _issue()
    _write_bundles(base / "bundles", issued)
    with ExitStack() as stack:
        postfix = stack.enter_context(closing(PrivatePostfix(base)))
        variants = stack.enter_context(_variants(base))
        for variant in variants:
            _write_table(postfix, base / "bundles", variant)
        postfix.set(max_use="1")  # every session gets a process of its own
        with postfix.master_cf.open("a") as file:
            file.writelines(variant.master_cf for variant in variants)
        postfix.settle()
        postfix.start()
        for variant in variants:
            _measure_memory(variant, issued)
        for _ in range(STARTS):
            for variant in variants:
                _measure_start(variant)
    _report(variants)


# Making tables


@contextmanager
def _variants(base: Path) -> Iterator[list[Variant]]:
    wanted = [("", 0), *product(FORMS, COUNTS)]
    ports = Ports(len(wanted))
    try:
        yield [
            Variant(form, count, base / f"{form}-{count}", port)
            for (form, count), port in zip(wanted, ports.numbers, strict=True)
        ]
    finally:
        ports.release()


def _issue() -> list[Issued]:
    authority = Authority()
    return [
        authority.issue(
            _name(number),
            *(f"alias{other}.{_name(number)}" for other in range(_FURTHER_NAMES)),
            key=None if number % 10 else generate_key("rsa"),
        )
        for number in range(_ISSUED)
    ]


def _name(number: int) -> str:
    return f"mx{number}.example.org"


def _write_bundles(directory: Path, issued: list[Issued]) -> None:
    directory.mkdir(mode=0o700)
    for number in range(max(COUNTS)):
        path = directory / f"{_name(number)}.pem"
        path.touch(mode=0o600)
        path.write_bytes(issued[number % _ISSUED].bundle_pem)


def _write_table(postfix: PrivatePostfix, bundles: Path, variant: Variant) -> None:
    """Write the table and its index, as old as Postfix wants them to read them once."""
    names = map(_name, range(variant.count))
    variant.table.touch(mode=0o600)
    variant.table.write_text(
        "".join(f"{each} {bundles / each}.pem\n" for each in names)
    )
    past = time.time() - 10
    os.utime(variant.table, (past, past))
    if not FORMS.get(variant.form):
        return
    began = time.perf_counter()
    done = postfix.command("postmap", "-F", f"{variant.form}:{variant.table}")
    variant.built = time.perf_counter() - began
    if done.returncode or done.stderr:
        raise LabError(f"postmap of {variant.table} failed: {done.stderr}")
    index = variant.table.with_name(variant.table.name + FORMS[variant.form])
    variant.size = index.stat().st_size


# Measuring


def _measure_start(variant: Variant) -> None:
    """Note the time until a new process greets, and that of the processor in it."""
    _await_none(variant)
    began = time.perf_counter()
    with _connection(variant) as (_, greeting):
        variant.starts.append(greeting - began)
        # In nanoseconds; what stat has is in ticks of 10 ms.
        schedule = Path(f"/proc/{_processes(variant)[0]}/schedstat").read_text()
        variant.processor.append(int(schedule.split()[0]) / 1e9)


def _measure_memory(variant: Variant, issued: list[Issued]) -> None:
    """Note the memory that a further process with a session takes for itself alone.

    What two of them share, such as libraries and a mapped index, is not counted.
    """
    number = variant.count // 2
    name = _name(number) if variant.form else None
    _await_none(variant)
    with ExitStack() as stack:
        for _ in range(2):
            leaf = stack.enter_context(_session(variant, name))
            if name and leaf != issued[number % _ISSUED].leaf:
                raise LabError(f"{variant.table} does not serve {name}")
        variant.private = min(map(_private_memory, _processes(variant)))


def _await_none(variant: Variant) -> None:
    wait_until(lambda: not _processes(variant), "the last smtpd is gone")


def _processes(variant: Variant) -> list[int]:
    """Return the smtpd processes of this service, which are told its name."""
    service = f"\0-n\0{LOOPBACK}:{variant.port}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if service in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def _private_memory(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    lines = (line.split() for line in rollup.splitlines())
    return 1024 * sum(int(line[1]) for line in lines if line[0].startswith("Private_"))


@contextmanager
def _connection(variant: Variant) -> Iterator[tuple[socket.socket, float]]:
    """Yield a connection and the moment of the greeting."""
    with socket.create_connection((LOOPBACK, variant.port), timeout=30) as connection:
        if not connection.recv(512).startswith(b"220 "):
            raise LabError(f"{variant.table}: smtpd does not greet")
        yield connection, time.perf_counter()


@contextmanager
def _session(variant: Variant, name: str | None) -> Iterator[x509.Certificate]:
    """Yield the certificate that a TLS session with server name *name* begins with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _connection(variant) as (connection, _):
        for command in (b"EHLO lab.example.org", b"STARTTLS"):
            connection.sendall(command + b"\r\n")
            connection.recv(4096)
        with context.wrap_socket(connection, server_hostname=name) as tls:
            der = tls.getpeercert(binary_form=True)
            assert der is not None
            yield x509.load_der_x509_certificate(der)


# Reporting


def _report(variants: list[Variant]) -> None:
    """Print a table in reStructuredText, for the documentation, and the targets."""
    header = ["table", "names", "start", "more", "processor", "memory", "more"]
    header += ["postmap -F", "index"]
    nothing = variants[0]
    rows = [header, *(_row(variant, nothing) for variant in variants)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["=" * width for width in widths]
    for row in (rule, header, rule, *rows[1:], rule):
        cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)]
        print("  " + "  ".join(cells).rstrip())
    print(
        f"  start: until the greeting, medians of {STARTS}; memory: what one more"
        " process has for\n  itself alone during a session; more: than without a table"
    )
    _report_targets(variants)


def _report_targets(variants: list[Variant]) -> None:
    nothing = variants[0]
    limit = next(v for v in variants if (v.form, v.count) == ("texthash", sni.LARGE))
    longer = _median(limit.processor) / _median(nothing.processor)
    total = _PROCESSES * (limit.private - nothing.private)
    _target(
        f"texthash of {sni.LARGE} names, processor time of a start: ratio {longer:.2f}",
        "at most 1.50",
        met=longer <= 1.5,
    )
    _target(
        f"the same, {_PROCESSES} processes: {_mebibytes(total)}",
        "at most 100 MiB",
        met=total <= 100 * 2**20,
    )
    compiled = [variant for variant in variants if variant.size]
    longer = max(_median(v.processor) for v in compiled) / _median(nothing.processor)
    _target(
        f"compiled tables, processor time of a start: ratio up to {longer:.2f}",
        "at most 1.10",
        met=longer <= 1.1,
    )


def _target(result: str, target: str, *, met: bool) -> None:
    print(f"  {result}; target: {target}: {'ok' if met else 'MISSED'}", flush=True)


def _row(variant: Variant, nothing: Variant) -> list[str]:
    start, least = _median(variant.starts), _median(nothing.starts)
    compiled = bool(variant.size)
    return [
        variant.form or "none",
        f"{variant.count:,}",
        _milliseconds(start),
        _milliseconds(start - least),
        _milliseconds(_median(variant.processor)),
        _mebibytes(variant.private),
        _mebibytes(variant.private - nothing.private),
        f"{variant.built:.2f} s" if compiled else "-",
        _mebibytes(variant.size) if compiled else "-",
    ]


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.1f} ms"


def _mebibytes(value: int) -> str:
    return f"{value / 2**20:.1f} MiB"


if __name__ == "__main__":
    from tests import bench

    sys.exit(bench.main(["table"]))
