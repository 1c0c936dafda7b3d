"""What many policies cost each process of smtp(8): a part of the bench.

Compares the types that the map of ``smtp_tls_policy_maps`` can have.  smtp opens it
when it starts: with texthash it reads, and keeps in memory, all of it.  Each process
pays that anew, after 100 deliveries (postconf(5), ``max_use``).  Raises `LabError`.
"""

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import product
from pathlib import Path

from certbot_postfix.formats.policy import Entry, Mode, Policy
from certbot_postfix.outbound import policy_map, update
from certbot_postfix.outbound.sources import Settings
from tests.lab import PrivatePostfix
from tests.lab.machine import LOOPBACK, LabError, Ports, accepts, wait_until

COUNTS = (100, update.LARGE, 10_000, 100_000)

# Deliveries of each variant, each by a process of its own.
TURNS = 9


@dataclass
class Client:
    """A service of smtp with one map, and what was measured of it."""

    form: str
    count: int
    processor: list[float] = field(default_factory=list)
    private: int = 0

    @property
    def name(self) -> str:
        """The service, and the first label of the domain whose mail it takes."""
        return f"{self.form or 'none'}-{self.count}"


def measure(base: Path) -> list[Client]:
    """Measure a start of each client, with one delivery."""
    wanted = [("", 0), *product(("texthash", "hash", "lmdb", "cdb"), COUNTS)]
    clients = [Client(form, count) for form, count in wanted]
    with _sink() as port, closing(PrivatePostfix(base)) as postfix:
        _configure(postfix, clients, port)
        postfix.settle()
        postfix.start()
        for _ in range(TURNS):
            for client in clients:
                _deliver(postfix, client)
            postfix.reload()
            wait_until(lambda: not any(map(_processes, clients)), "all smtp are gone")
    return clients


@contextmanager
def _sink() -> Iterator[int]:
    """Run smtp-sink(1), which takes and discards all mail; yield its port."""
    ports = Ports(1)
    (port,) = ports.numbers
    argv = ["smtp-sink", "-u", "nobody", f"{LOOPBACK}:{port}", "100"]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: accepts(port), "smtp-sink accepts connections")
        yield port
    finally:
        process.terminate()
        process.wait()
        ports.release()


def _configure(postfix: PrivatePostfix, clients: list[Client], port: int) -> None:
    routes = postfix.base / "routes"
    with postfix.master_cf.open("a") as master_cf, routes.open("w") as transport:
        for client in clients:
            master_cf.write(f"{client.name} unix - - n - - smtp\n")
            if client.form:
                path = postfix.base / client.name
                path.write_bytes(_text(client.count))
                if client.form != "texthash":
                    done = postfix.command("postmap", f"{client.form}:{path}")
                    if done.returncode or done.stderr:
                        raise LabError(f"postmap of {path} failed: {done.stderr}")
                master_cf.write(f"  -o smtp_tls_policy_maps={client.form}:{path}\n")
            domain = f"{client.name}.example.org"
            transport.write(f"{domain} {client.name}:[{LOOPBACK}]:{port}\n")
    postfix.set(transport_maps=f"texthash:{routes}", smtp_tls_security_level="may")


def _text(count: int) -> bytes:
    until = datetime(2040, 1, 1, tzinfo=timezone.utc)
    policy = Policy(Mode.ENFORCE, ("mx1.mail.example.net", ".mail.example.net"))
    domains = (f"domain{at}.example.org" for at in range(count))
    entries = {each: Entry(each, policy, until, "a list") for each in domains}
    return policy_map.render(Settings(("list",)), entries, (3, 7))


def _deliver(postfix: PrivatePostfix, client: Client) -> None:
    sent = postfix.log().count("status=sent")
    argv = ("sendmail", "-C", str(postfix.config_dir), "-f", "me@example.org")
    done = subprocess.run(
        [*argv, f"you@{client.name}.example.org"],
        input="Subject: bench\n\n", check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise LabError(f"sendmail: {done.stderr}")
    wait_until(lambda: postfix.log().count("status=sent") > sent, "the mail is sent")
    (process,) = _processes(client)
    schedule = Path(f"/proc/{process}/schedstat").read_text()
    client.processor.append(int(schedule.split()[0]) / 1e9)
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    lines = (line.split() for line in rollup if line.startswith("Private_"))
    client.private = 1024 * sum(int(line[1]) for line in lines)


def _processes(client: Client) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if f"\0-n\0{client.name}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found
