"""Primary name servers that take dynamic updates: Knot DNS, BIND 9, PowerDNS.

Each has one zone, and the keys `KEYS`: ``ours`` may change it, ``other`` may not, or
one name only.  Raises `LabError`.
"""

import subprocess
import textwrap
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.tsig
import dns.update

from tests.lab.machine import LOOPBACK, LabError, Ports, wait_until

ZONE = "dynamic.test"

# Secrets of tests, which are none.
KEYS = {
    "ours": "b3VyIHNlY3JldCwgd2hpY2ggaXMgbG9uZyBlbm91Z2gh",
    "other": "YW5vdGhlciBzZWNyZXQsIGxvbmcgZW5vdWdoLCB0b28h",
    "lab": "dGhlIGxhYidzLCBieSB3aGljaCBvdGhlcnMgcHVibGlzaA==",
}

# What `ours` may publish, and the only name that `other` may change.
TYPES = ("TLSA", "TXT", "CAA")
ELSEWHERE = f"elsewhere.{ZONE}"

_RECORDS = f"""\
$ORIGIN {ZONE}.
@ 3600 SOA ns1 admin 1 3600 600 86400 300
@ 3600 NS ns1
ns1 3600 A {LOOPBACK}
"""

_KNOT = """\
server:
  listen: {address}@{port}
  rundir: {base}
  background-workers: 1
  udp-workers: 1
  tcp-workers: 2
database:
  storage: {base}
log:
  - target: stderr
    any: warning
{keys}
zone:
  - domain: {zone}.
    storage: {base}
    file: zone
    zonefile-sync: -1
    acl: {rules}
"""

_BIND = """\
options {{
  directory "{base}";
  listen-on port {port} {{ {address}; }};
  listen-on-v6 {{ none; }};
  pid-file "{base}/named.pid";
  session-keyfile "{base}/session.key";
  managed-keys-directory "{base}";
  recursion no;
  dnssec-validation no;
}};
controls {{ }};
{keys}
zone "{zone}" {{
  type primary;
  file "{base}/zone";
  update-policy {{
    grant ours. zonesub {types};
    grant other. name {elsewhere}. ANY;
    grant lab. zonesub ANY;
  }};
}};
"""

_POWERDNS = """\
launch=gsqlite3
gsqlite3-database={base}/pdns.sqlite3
local-address={address}
local-port={port}
socket-dir={base}
daemon=no
guardian=no
disable-syslog=yes
dnsupdate=yes
allow-dnsupdate-from=127.0.0.0/8
query-cache-ttl=0
cache-ttl=0
negquery-cache-ttl=0
zone-cache-refresh-interval=0
"""
_SCHEMA = Path("/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql")


def knot_keys(types: tuple[str, ...] = TYPES) -> str:
    """Return the keys, and the rules of each, as knot.conf has them."""
    keys = "".join(
        f"  - id: {name}.\n    algorithm: hmac-sha256\n    secret: {secret}\n"
        for name, secret in KEYS.items()
    )
    return textwrap.dedent(
        f"""\
        key:
        KEYS
        acl:
          - id: ours
            key: ours.
            action: update
            update-type: [{", ".join(types)}]
          - id: other
            key: other.
            action: update
            update-owner: name
            update-owner-match: equal
            update-owner-name: [elsewhere]
          - id: lab
            key: lab.
            action: update
        """
    ).replace("KEYS\n", keys)


class Primary:
    """A server with the zone `ZONE`, on a port of its own, until `close`."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._ports = Ports(1)
        (self.port,) = self._ports.numbers
        (base / "zone").write_text(_RECORDS)
        argv = self._configure()
        with (base / "log").open("wb") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(self._answers, f"{argv[0]} answers")

    def _configure(self) -> list[str]:
        raise NotImplementedError

    def _fill(self, template: str, **more: str) -> Path:
        path = self.base / "server.conf"
        fields = {"base": self.base, "address": LOOPBACK, "port": self.port}
        path.write_text(template.format(zone=ZONE, **fields, **more))
        return path

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise LabError((self.base / "log").read_text())
        query = dns.message.make_query(ZONE, "SOA")
        try:
            reply = dns.query.tcp(query, LOOPBACK, 1, self.port)
        except (OSError, EOFError, dns.exception.DNSException):
            return False
        return bool(reply.answer)

    def records(self, name: str, kind: str = "TLSA") -> dict[str, int]:
        """Return the records that the server has, each with its TTL."""
        query = dns.message.make_query(name, kind)
        reply = dns.query.tcp(query, LOOPBACK, 5, self.port)
        return {str(each): rrset.ttl for rrset in reply.answer for each in rrset}

    def change(self, action: str, name: str, *what: object) -> None:
        """Publish or delete records as somebody else does."""
        key = dns.tsig.Key("lab", KEYS["lab"], "hmac-sha256")
        update = dns.update.UpdateMessage(ZONE, keyring=key)
        getattr(update, action)(f"{name}.", *what)
        reply = dns.query.tcp(update, LOOPBACK, 5, self.port)
        if reply.rcode():
            raise LabError(dns.rcode.to_text(reply.rcode()))

    def close(self) -> None:
        """Stop the server."""
        self._process.terminate()
        self._process.wait()
        self._ports.release()


class Knot(Primary):
    """Knot DNS."""

    def _configure(self) -> list[str]:
        path = self._fill(_KNOT, keys=knot_keys(), rules=f"[{', '.join(KEYS)}]")
        return ["knotd", "-c", str(path)]


class Bind(Primary):
    """BIND 9."""

    def _configure(self) -> list[str]:
        keys = "".join(
            f'key "{name}." {{ algorithm hmac-sha256; secret "{secret}"; }};\n'
            for name, secret in KEYS.items()
        )
        more = {"keys": keys, "types": " ".join(TYPES), "elsewhere": ELSEWHERE}
        return ["named", "-g", "-c", str(self._fill(_BIND, **more))]


class PowerDns(Primary):
    """PowerDNS, which cannot restrict a key to names."""

    def _configure(self) -> list[str]:
        path = self.base / "pdns.conf"
        self._fill(_POWERDNS).rename(path)
        database = self.base / "pdns.sqlite3"
        sqlite3 = f"import sqlite3; sqlite3.connect({str(database)!r})"
        script = f"{sqlite3}.executescript(open({str(_SCHEMA)!r}).read())"
        self._run("python3", "-c", script)
        self._run(*self._pdnsutil, "load-zone", ZONE, str(self.base / "zone"))
        for name, secret in KEYS.items():
            key = (name, "hmac-sha256", secret)
            self._run(*self._pdnsutil, "import-tsig-key", *key)
        allowed = ("TSIG-ALLOW-DNSUPDATE", "ours", "lab")
        self._run(*self._pdnsutil, "set-meta", ZONE, *allowed)
        return ["pdns_server", f"--config-dir={self.base}"]

    @property
    def _pdnsutil(self) -> tuple[str, str]:
        return "pdnsutil", f"--config-dir={self.base}"

    def _run(self, *argv: str) -> None:
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"{argv}: {done.stderr}")
