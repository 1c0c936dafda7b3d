"""What many names cost a deployment, a renewal and a compilation: a part of the bench.

certbot has no part in it: what is measured is ours and Postfix's, in this process.
Raises `LabError`.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from certbot_postfix.change.plan import Edit
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.inbound import sni
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.inbound.proposal import DeployOptions
from certbot_postfix.inbound.session import Deployment
from certbot_postfix.postfix import map_types
from certbot_postfix.postfix.instance import Postfix
from tests.lab import (
    Authority,
    Issued,
    PrivatePostfix,
    base_directory,
    install_lineage,
    renew_lineage,
)
from tests.lab.machine import LabError

FEW, MANY = 10, 10_000

TURNS = 5

DEFAULT = "mx.example.org"

# So many certificates are issued; each is in the bundles of many names.
_ISSUED = 100

Timed = Callable[[], float]


@dataclass
class Checkpoint:
    """Stands in for certbot's."""

    paths: list[Path] = field(default_factory=list)

    def before_change(self, path: Path, note: str) -> None:
        """Take note."""
        self.paths.append(path)

    def before_creation(self, path: Path) -> None:
        """Take note."""
        self.paths.append(path)


class Host:
    """A running Postfix with a default and *count* lineages of one name each."""

    def __init__(self, base: Path, authority: Authority, count: int) -> None:
        self.authority = authority
        self.postfix = PrivatePostfix(base)
        self.certbot = base / "letsencrypt"
        self.names = [f"mx{number}.example.net" for number in range(count)]
        self._lineage(DEFAULT)
        self._write(count)
        self.postfix.start()
        self._deploy(DEFAULT)

    def _write(self, count: int) -> None:
        bundles = self.certbot / "postfix"
        bundles.mkdir(mode=0o700)
        issued = [self.authority.issue(name) for name in self.names[:_ISSUED]]
        table = {}
        for number, name in enumerate(self.names):
            path = bundles / f"{name}.pem"
            path.touch(mode=0o600)
            path.write_bytes(issued[number % len(issued)].bundle_pem)
            table[name] = (str(path),)
        deployment = self.deployment()
        edit = Edit(
            deployment.server.sni_map.path, deployment.tables.text(), sni.render(table)
        )
        Transaction((deployment.server.sni_map.databases,)).write(edit)
        form = map_types.chosen(
            deployment.postfix, deployment.configuration, "", count, sni.LARGE
        )
        deployment.server.sni_map.build(form, table)
        self.postfix.set(tls_server_sni_maps=f"{form}:{deployment.server.sni_map.path}")

    def _lineage(self, name: str) -> Issued:
        issued = self.authority.issue(name)
        install_lineage(self.certbot, name, issued)
        return issued

    def deployment(self) -> Deployment:
        """Return what works on this Postfix, and knows nothing yet."""
        return Deployment(Postfix(self.postfix.config_dir), self.certbot / "postfix")

    def _deploy(self, name: str) -> float:
        deployment = self.deployment()
        began = time.perf_counter()
        lineage = Lineage.live(self.certbot / "live", name)
        proposal = deployment.installation.propose(lineage, DeployOptions())
        deployment.installation.apply(proposal, Checkpoint())
        deployment.installation.serve(proposal)
        return time.perf_counter() - began

    def deploy_another(self) -> float:
        """Deploy one more lineage; return how long that took in seconds."""
        name = f"new{len(list((self.certbot / 'live').iterdir()))}.example.net"
        issued = self._lineage(name)
        elapsed = self._deploy(name)
        self._check(name, issued)
        return elapsed

    def renew(self) -> float:
        """Renew one lineage among all; return how long that took in seconds."""
        name = self.names[len(self.names) // 2]
        issued = self.authority.issue(name)
        if (self.certbot / "live" / name).exists():
            renew_lineage(self.certbot, name, issued)
        else:
            install_lineage(self.certbot, name, issued)
        lineage = Lineage.live(self.certbot / "live", name)
        deployment = self.deployment()
        began = time.perf_counter()
        deployment.renew(lineage)
        elapsed = time.perf_counter() - began
        self._check(name, issued)
        return elapsed

    def _check(self, name: str, issued: Issued) -> None:
        if self.postfix.served("submissions", sni=name) != issued.leaf:
            raise LabError(f"{name} is not served")

    def compile(self) -> float:
        """Make the whole database as the plugin does; return the seconds."""
        tables = self.deployment().server.sni_map
        table = tables.read()
        began = time.perf_counter()
        tables.build("hash", table)
        elapsed = time.perf_counter() - began
        tables.databases.discard_backups()
        return elapsed

    def compile_bare(self) -> float:
        """Make it with postmap alone, of the same text; return the seconds."""
        copy = self.postfix.base / "bare"
        copy.write_bytes(self.deployment().server.sni_map.text() or b"")
        began = time.perf_counter()
        done = self.postfix.command("postmap", "-F", f"hash:{copy}")
        elapsed = time.perf_counter() - began
        if done.returncode or done.stderr:
            raise LabError(f"postmap failed: {done.stderr}")
        copy.with_name("bare.db").unlink()
        return elapsed


def measure(
    take_turns: Callable[..., dict[str, list[float]]],
) -> dict[str, list[float]]:
    """Return the seconds of each thing, measured by turns."""
    authority = Authority()
    with ExitStack() as stack:
        hosts = {}
        for count in (FEW, MANY):
            base = stack.enter_context(base_directory())
            hosts[count] = Host(base, authority, count)
            stack.enter_context(closing(hosts[count].postfix))
        variants: dict[str, Timed] = {}
        for count, host in hosts.items():
            variants[f"renewal of one among {count:,} names"] = host.renew
            variants[f"deployment of one more beside {count:,}"] = host.deploy_another
        variants["postmap -F of 10,000 names, by itself"] = hosts[MANY].compile_bare
        variants["database of 10,000 names"] = hosts[MANY].compile
        return take_turns(variants, TURNS)
