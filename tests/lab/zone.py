"""A signed zone with real name servers, each of which can fail in its own way."""

import signal
import time

from tests.lab.machine import wait_until
from tests.lab.network import Network, delegation
from tests.lab.primaries import KEYS, knot_keys

PRIMARY, SECONDARY, FORGER = "127.0.0.11", "127.0.0.12", "127.0.0.13"

_KNOT = """\
server:
  listen: {address}@53
  rundir: {base}
  background-workers: 1
  udp-workers: 1
  tcp-workers: 2
database:
  storage: {base}
log:
  - target: stderr
    any: warning
policy:
  - id: signed
    algorithm: ecdsap256sha256
    single-type-signing: on
remote:
  - id: primary
    address: {primary}@53
  - id: secondary
    address: {secondary}@53
{keys}
acl:
  - id: everyone
    address: 127.0.0.0/8
    action: [transfer, notify]
zone:
  - domain: {domain}.
    storage: {base}
    file: zone
    zonefile-sync: -1
    journal-content: all
    {role}
"""
_SIGNS = """acl: [everyone{updaters}]
    {notifies}
    zonefile-load: difference-no-serial
    dnssec-signing: on
    dnssec-policy: signed"""


class NameServer:
    """A server of *domain* in *network*, at *address*; it signs, or copies.

    With *updates*, it takes them from `primaries.KEYS`, and its secondary gets to know.
    """

    def __init__(
        self,
        network: Network,
        domain: str,
        address: str,
        *,
        signs: bool,
        updates: bool = False,
    ) -> None:
        self.base = network.base / f"knot-{address}"
        self.base.mkdir()
        self._network, self._domain = network, domain
        self._config = self.base / "knot.conf"
        role = _SIGNS.format(
            updaters="".join(f", {name}" for name in KEYS) if updates else "",
            notifies="notify: secondary" if updates else "",
        )
        self._config.write_text(
            _KNOT.format(
                address=address,
                base=self.base,
                domain=domain,
                primary=PRIMARY,
                secondary=SECONDARY,
                keys=knot_keys() if updates else "",
                role=role if signs else "acl: everyone\n    master: primary",
            )
        )
        self.write("", 1)
        self.process = network.start("knotd", "-c", str(self._config))
        wait_until(self._runs, f"the name server at {address} runs")

    def _runs(self) -> bool:
        done = self._network.run(*self._knotc, "status")
        return done.returncode == 0

    @property
    def _knotc(self) -> tuple[str, ...]:
        return ("knotc", "-s", str(self.base / "knot.sock"), "-b")

    def write(self, records: str, ttl: int, second: str = SECONDARY) -> None:
        """Write the file of the zone, whose other server is said to be *second*."""
        new = self.base / "zone.new"
        head = (
            f"$ORIGIN {self._domain}.\n$TTL {ttl}\n"
            f"@ SOA ns1 admin 1 604800 3600 604800 {ttl}\n@ NS ns1\n@ NS ns2\n"
            f"ns1 A {PRIMARY}\n"
        )
        if second:
            head += f"ns2 A {second}\n"
        new.write_text(head + records)
        new.replace(self.base / "zone")

    def control(self, *words: str) -> None:
        """Have the server obey knotc(8)."""
        self._network.must(*self._knotc, *words)

    def records(self, owner: str) -> set[str]:
        """Return the TLSA records that the server has at *owner*."""
        question = ("zone-read", f"{self._domain}.", f"{owner}.", "TLSA")
        lines = self._network.run(*self._knotc, *question).stdout.splitlines()
        found = {line.partition(" TLSA ")[2].lower() for line in lines}
        return found - {""}  # that there are none is a line, too

    def version(self) -> str:
        """Return the SOA record that the server has."""
        question = ("zone-read", f"{self._domain}.", f"{self._domain}.", "SOA")
        return self._network.run(*self._knotc, *question).stdout

    def ds(self) -> str:
        """Return the data of the DS record of the key."""
        name = f"{self._domain}."
        argv = (*self._knotc, "zone-read", name, name, "DNSKEY")
        return delegation(name, self._network.must(*argv).stdout)

    def stop(self) -> None:
        """Have it answer nothing, as a host that hangs."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it answer again."""
        self.process.send_signal(signal.SIGCONT)


class Zone:
    """A signed zone *domain*, with a primary server and a secondary one.

    With *updates*, the primary takes them, and notifies the other.
    """

    def __init__(self, network: Network, domain: str, *, updates: bool = False) -> None:
        self.network, self.domain = network, domain
        self.primary = NameServer(network, domain, PRIMARY, signs=True, updates=updates)
        self.secondary = NameServer(network, domain, SECONDARY, signs=False)
        self.primary.control("zone-reload", f"{domain}.")
        # The resolver knows one server only, and is not confused by the other.
        network.publish(
            domain,
            f"@ NS ns1.{domain}.",
            f"ns1 A {PRIMARY}",
            f"@ DS {self.primary.ds()}",
        )
        self.publish()

    def publish(
        self,
        *records: str,
        ttl: int = 3600,
        late: bool = False,
        second: str = SECONDARY,
    ) -> None:
        """Let the zone have *records*, such as ``mx A 127.0.0.20``.

        The secondary goes on with the old ones, if it is *late*.  The *second* server
        can be another one, or have no address.
        """
        text = "".join(f"{record}\n" for record in records)
        self.primary.write(text, ttl, second)
        self.primary.control("zone-reload", f"{self.domain}.")
        if not late:
            self.secondary.control("zone-retransfer", f"{self.domain}.")
            wait_until(self._transferred, "the secondary has the zone")
        # What has a TTL of 0 is in the resolver's cache until the second is over.
        second_of_change = int(time.time())
        wait_until(lambda: int(time.time()) > second_of_change, "a second is over")

    def _transferred(self) -> bool:
        """Whether the secondary has the zone as it is; else it is told to fetch it."""
        if self.secondary.version() == self.primary.version():
            return True
        self.secondary.control("zone-retransfer", f"{self.domain}.")
        return False
