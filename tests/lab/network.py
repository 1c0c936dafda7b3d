"""A network of its own: DNS with and without DNSSEC, HTTPS, servers for mail.

It is a network namespace with a mount namespace, whose resolv.conf and authorities are
the lab's; ports 25, 53 and 443 on loopback are free there.  Everything that is started
there ends with `close`.  Raises `LabError`.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import dns.dnssec
import dns.rdata

from tests.lab import commands
from tests.lab.machine import LabError, wait_until
from tests.lab.pki import Authority
from tests.lab.postfix import PrivatePostfix

SERVERS = Path(__file__).with_name("servers.py")
DAEMONS = Path(__file__).with_name("daemons.py")

NAMES, RESOLVER, POLICIES = "127.0.0.10", "127.0.0.1", "127.0.0.40"

# How many names a certificate has.
_TOGETHER = 100

_KNOT = """\
server:
  listen: {names}@53
  rundir: {base}/knot
  background-workers: 1
  udp-workers: 1
  tcp-workers: 2
database:
  storage: {base}/knot
log:
  - target: stderr
    any: warning
policy:
  - id: signed
    algorithm: ecdsap256sha256
    single-type-signing: on
template:
  - id: default
    storage: {base}/zones
    zonefile-load: difference-no-serial
    zonefile-sync: -1
    journal-content: all
zone:
  - domain: .
    file: root
    dnssec-signing: on
    dnssec-policy: signed
  - domain: insecure.
    file: insecure
"""

_UNBOUND = """\
server:
  interface: {resolver}
  access-control: 127.0.0.0/8 allow
  chroot: ""
  username: ""
  directory: {base}
  pidfile: {base}/unbound.pid
  do-daemonize: no
  use-syslog: no
  do-ip6: no
  do-not-query-localhost: no
  root-hints: {base}/hints
  module-config: "{modules}"
  trust-anchor: "{anchor}"
  local-zone: "test." nodefault
  cache-max-ttl: {cache}
  cache-max-negative-ttl: {cache}
  log-queries: yes
  num-threads: 1
  outgoing-range: 900
  num-queries-per-thread: 450
remote-control:
  control-enable: no
"""

_SOA = "@ 0 SOA ns.test. admin.test. 1 3600 600 86400 0\n@ 0 NS ns.test.\n"


def delegation(zone: str, keys: str) -> str:
    """Return the data of the DS record, from what knotc(8) reads of the *keys*."""
    (key,) = re.findall(r" DNSKEY (257 .*)", keys)
    rdata = dns.rdata.from_text("IN", "DNSKEY", key)
    return dns.dnssec.make_ds(zone, rdata, "SHA256").to_text()


class Network:
    """A network below *base*, whose HTTPS servers *authority* has certified.

    Its resolver keeps what it knows for *cache* seconds at most.
    """

    def __init__(
        self,
        base: Path,
        authority: Authority,
        *,
        validates: bool = True,
        cache: int = 0,
    ) -> None:
        self.base = base
        self._cache = cache
        self.authority = authority
        self.policies = base / "policies"
        self.authorities = base / "authorities.pem"
        self._records: dict[str, list[str]] = {"root": [], "insecure": []}
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            self._enter()
            self._start_names(validates=validates)
        except BaseException:
            self.close()
            raise

    def _enter(self) -> None:
        argv = ["unshare", "--net", "--mount", "--propagation", "private"]
        holder = subprocess.Popen([*argv, "sleep", "infinity"])
        self._processes.append(holder)
        self._holder = str(holder.pid)
        ours = Path("/proc/self/ns/mnt").readlink()
        wait_until(
            lambda: (
                Path(f"/proc/{holder.pid}/ns/mnt").readlink() != ours
                and b"sleep" in Path(f"/proc/{holder.pid}/cmdline").read_bytes()
            ),
            "there is a namespace",
        )
        resolv = self.base / "resolv.conf"
        resolv.write_text(f"nameserver {RESOLVER}\noptions trust-ad\n")
        self.authorities.write_bytes(self.authority.root_pem)
        self.must("ip", "link", "set", "lo", "up")
        self.must("mount", "--bind", str(resolv), "/etc/resolv.conf")
        self.must(
            *("mount", "--bind", str(self.authorities)),
            "/etc/ssl/certs/ca-certificates.crt",
        )

    def _start_names(self, *, validates: bool) -> None:
        for name in ("knot", "zones", "policies"):
            (self.base / name).mkdir()
        self._write_zones()
        config = self.base / "knot.conf"
        config.write_text(_KNOT.format(base=self.base, names=NAMES))
        self.start("knotd", "-c", str(config))
        self._knotc = ("knotc", "-s", str(self.base / "knot/knot.sock"), "-b")
        wait_until(
            lambda: self.run(*self._knotc, "zone-status", ".").returncode == 0,
            "the name server answers",
        )
        self.must(*self._knotc, "zone-reload", ".")
        keys = self.must(*self._knotc, "zone-read", ".", ".", "DNSKEY").stdout
        anchor = f". DS {delegation('.', keys)}"
        (self.base / "hints").write_text(f". 0 NS ns.test.\nns.test. 0 A {NAMES}\n")
        path = self.base / "unbound.conf"
        path.write_text(
            _UNBOUND.format(
                base=self.base,
                resolver=RESOLVER,
                anchor=anchor,
                cache=self._cache,
                modules="validator iterator" if validates else "iterator",
            )
        )
        self.start("unbound", "-d", "-c", str(path))
        probe = "import socket; socket.getaddrinfo('ns.test', 53)"
        wait_until(
            lambda: self.run(sys.executable, "-c", probe).returncode == 0,
            "the resolver answers",
        )

    def _write_zones(self) -> None:
        head = {
            "root": f"$ORIGIN .\n{_SOA}ns.test. 0 A {NAMES}\ninsecure. 0 NS ns.test.\n",
            "insecure": f"$ORIGIN insecure.\n{_SOA}",
        }
        for zone, records in self._records.items():
            text = head[zone] + "".join(f"{record}\n" for record in records)
            new = self.base / "zones" / f"{zone}.new"
            new.write_text(text)
            new.replace(new.with_suffix(""))

    def publish(self, domain: str, *records: str) -> None:
        """Let DNS say *records* of *domain* and below, and nothing else.

        Each is as ``@ MX 10 mx.example.test.``, with names below the domain.  Domains
        below ``insecure`` are not signed, all others are.
        """
        zone = "insecure" if f".{domain}".endswith(".insecure") else "root"
        ours = re.compile(rf"(?:\S+\.)?{re.escape(domain)}\. ")
        kept = [each for each in self._records[zone] if not ours.match(each)]
        for record in records:
            name, _, rest = record.partition(" ")
            owner = domain if name == "@" else f"{name}.{domain}"
            kept.append(f"{owner}. 0 {rest}")
        self._records[zone] = kept
        self._write_zones()
        self.must(*self._knotc, "zone-reload", "." if zone == "root" else "insecure.")

    # Programs in the network

    def argv(self, *command: str) -> list[str]:
        """Return what runs *command* in the network."""
        here = f"--wd={Path.cwd()}"
        return ["nsenter", "-t", self._holder, "--net", "--mount", here, *command]

    def run(
        self,
        *command: str,
        env: dict[str, str] | None = None,
        text: str | None = None,
        seconds: float = 120,
    ) -> "subprocess.CompletedProcess[str]":
        """Run *command*, which reads *text*; whether it fails is a result."""
        if env is not None and text is None:
            return commands.run(command, env=env, timeout=seconds, inside=self._holder)
        return subprocess.run(
            self.argv(*command),
            check=False,
            capture_output=True,
            **({"input": text} if text is not None else {"stdin": subprocess.DEVNULL}),
            text=True,
            env=env,
            timeout=seconds,
        )

    def must(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run *command*, which must not fail."""
        done = self.run(*command)
        if done.returncode:
            raise LabError(f"{command}: {done.stderr or done.stdout}")
        return done

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        """Start *command*, which ends with the network."""
        log = (self.base / f"{Path(command[0]).name}-{len(self._processes)}.log").open(
            "wb"
        )
        with log:
            process = subprocess.Popen(
                self.argv(*command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def serve(self, what: str, *arguments: str, address: str, port: int) -> None:
        """Start one of the `SERVERS`, and wait until it listens."""
        self.start(
            *(sys.executable, str(SERVERS), what),
            *(address, str(port), *arguments),
        )
        self.await_port(address, port)

    def await_port(self, address: str, port: int) -> None:
        """Return when something listens there."""
        listening = f"{address}:{port} "
        wait_until(
            lambda: listening in self.run("ss", "-Hlntu").stdout,
            f"{address} listens at {port}",
        )

    def serve_policies(
        self, *domains: str, latency: float = 0, **how: datetime
    ) -> None:
        """Serve what `policy` says of *domains*, over HTTPS."""
        bundles = []
        for start in range(0, len(domains), _TOGETHER):
            some = domains[start : start + _TOGETHER]
            names = [f"mta-sts.{domain}" for domain in some]
            issued = self.authority.issue(*names, **how)  # type: ignore[arg-type]
            path = self.base / f"https-{start}.pem"
            path.write_bytes(issued.bundle_pem)
            path.with_name(f"{path.name}.names").write_text("\n".join(names))
            bundles.append(str(path))
        self.serve(
            "policies",
            *(",".join(bundles), str(self.policies), str(latency)),
            address=POLICIES,
            port=443,
        )

    def serve_policies_to_postfix(
        self, daemon: str, *, port: int
    ) -> "subprocess.Popen[bytes]":
        """Start one of the `DAEMONS`, and wait until it listens."""
        argv = [sys.executable, str(DAEMONS), daemon, RESOLVER, str(port)]
        process = self.start(*argv)
        self.await_port(RESOLVER, port)
        return process

    def policy(
        self, domain: str, *mxs: str, mode: str = "enforce", age: int = 86400
    ) -> None:
        """Let *domain* have this policy of MTA-STS, from the next look on."""
        lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {mx}" for mx in mxs)]
        text = "".join(f"{line}\r\n" for line in [*lines, f"max_age: {age}"])
        (self.policies / domain).write_text(text)

    def close(self) -> None:
        """End whatever was started here."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self._processes):
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Inside(PrivatePostfix):
    """A Postfix that runs in *network*, at *address* port 25 if it takes mail."""

    def __init__(
        self, network: Network, base: Path, *, hostname: str, address: str = ""
    ) -> None:
        self.network = network
        base.mkdir()
        base.chmod(0o755)
        super().__init__(base, hostname=hostname)
        self.address = address
        self.mail = base / "mail"
        if address:
            self._take_mail()

    def _take_mail(self) -> None:
        self.mail.mkdir()
        os.chown(self.mail, 65534, 65534)
        with self.master_cf.open("a") as file:
            file.write(f"{self.address}:25 inet n - n - - smtpd\n")
        self.set(
            virtual_mailbox_base=str(self.mail),
            virtual_mailbox_domains="static:all",
            virtual_mailbox_maps="static:all/",
            virtual_uid_maps="static:65534",
            virtual_gid_maps="static:65534",
            mydestination="",
            smtpd_tls_received_header="yes",
            smtpd_client_connection_rate_limit="0",
        )

    def certify(self, *names: str, **how: object) -> None:
        """Serve a certificate for *names*, by the lab's authority."""
        self.install(self.network.authority.issue(*names, **how).bundle_pem)  # type: ignore[arg-type]

    def install(self, bundle: bytes) -> None:
        """Serve the certificate in *bundle*."""
        path = self.base / "bundle.pem"
        path.touch(mode=0o600)
        path.write_bytes(bundle)
        self.set(smtpd_tls_chain_files=str(path))
        if self.running:
            self.reload()

    def command(self, program: str, *args: str) -> "subprocess.CompletedProcess[str]":
        return self.network.run(program, "-c", str(self.config_dir), *args)

    def start(self) -> None:
        self.start_quickly()
        self._run("postfix", "start")
        wait_until(lambda: self.running, "Postfix runs")
        if self.address:
            self.network.await_port(self.address, 25)

    def arrived(self) -> list[str]:
        """Return the messages that were delivered here."""
        return [path.read_text() for path in self.mail.glob("all/new/*")]


class Sender(Inside):
    """A Postfix that sends mail."""

    def __init__(self, network: Network, base: Path) -> None:
        super().__init__(network, base, hostname="sender.test")
        self.set(
            default_transport="smtp",
            inet_interfaces="127.0.0.1",
            inet_protocols="ipv4",
            smtp_tls_loglevel="1",
            smtp_tls_security_level="may",
            smtp_host_lookup="dns",
            minimal_backoff_time="300s",
        )
        # The authorities of the network are in a file, which the product names.
        self.postconf("-X", "smtp_tls_CApath")
        self._sent = 0

    def send(self, *recipients: str) -> str:
        """Send a message; return the text in it that no other has."""
        self._sent += 1
        mark = f"message-{self._sent}-of-{self.base.name}"
        argv = ("sendmail", "-C", str(self.config_dir), "-f", "me@sender.test")
        text = f"Subject: {mark}\n\n{mark}\n"
        done = self.network.run(*argv, *recipients, text=text)
        if done.returncode:
            raise LabError(f"sendmail: {done.stderr}")
        return mark

    def waiting(self) -> dict[str, str]:
        """Return why each message that waits for another attempt does, by recipient."""
        listed = self._run("postqueue", "-j").stdout.splitlines()
        found = [json.loads(line) for line in listed]
        return {
            each["address"]: each.get("delay_reason", "")
            for message in found
            if message["queue_name"] == "deferred"
            for each in message["recipients"]
        }

    def queued(self) -> int:
        """Return how many messages have not been delivered."""
        return len(self._run("postqueue", "-j").stdout.splitlines())

    def untried(self) -> int:
        """Return how many messages have not had their turn yet."""
        listed = map(json.loads, self._run("postqueue", "-j").stdout.splitlines())
        return sum(message["queue_name"] != "deferred" for message in listed)

    def deferred(self, recipient: str) -> str:
        """Return why the message to *recipient* waits, as soon as it does."""
        wait_until(lambda: recipient in self.waiting(), f"{recipient} is deferred")
        return self.waiting()[recipient]

    def flush(self) -> None:
        """Try again what waits."""
        self._run("postqueue", "-f")


def marks(messages: Iterable[str]) -> list[str]:
    """Return which messages these are, as `Sender.send` called them."""
    return sorted(
        found[1] for text in messages if (found := re.search(r"Subject: (\S+)", text))
    )
