"""Mail flows on during renewals: no handshake fails, and no message is deferred.

Eight clients connect to every service, with every server name and with none, while one
lineage after the other gets a new certificate with a new key.  Together they deliver
some two messages a second; in `make soak` they come without pause.  The figures of a
set-up without the plugin are told beside ours.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import (
    Authority,
    Certbot,
    Issued,
    PrivatePostfix,
    renew_lineage,
)
from tests.lab.load import Certified, Counts, Fault, Load, complaint
from tests.lab.machine import wait_until
from tests.lab.postfix import SERVICES
from tests.lab.scene import Scene, succeeded

pytestmark = pytest.mark.postfix

LINEAGES = (
    Certified("mx.example.org", ("mx.example.org",), default=True),
    Certified("mx.example.org-rsa", ("mx.example.org",), kind="rsa", default=True),
    Certified("lists.example.org", ("lists.example.org", "list.example.org")),
    Certified("example.net", ("example.net", "*.example.net")),
    Certified("mail.example.com", ("mail.example.com",), kind="rsa"),
)

# What may be in the mail log: that a daemon with which another was talking has ended in
# a reload, and that who proves what is served did not wait for ever.
HARMLESS = {"other warnings", "handshakes that a client left"}

# Seconds from one renewal without the plugin to the next.  Reloads in quick succession
# have a fault of their own: a process that does not reach tlsmgr, which a reload
# restarts, tries once more a second later, and else offers no TLS until it ends.
PACE = 2.0

# Seconds between two visits of a client, one visit in five being to deliver.
PAUSE = 1.0


class Renewals(Scene):
    """A Postfix with all lineages, and the *load* that is to come."""

    def __init__(
        self, postfix: PrivatePostfix, certbot: Certbot, authority: Authority
    ) -> None:
        super().__init__(postfix, certbot, authority)
        self.load = Load(postfix, authority.root_pem, LINEAGES)
        self.seconds: list[float] = []
        for each in LINEAGES:
            issued = self.lineage(each.name, *each.hosts, kind=each.kind)
            self.load.issued(each.name, issued)

    def announce(self, lineage: Certified) -> Issued:
        """Return a certificate of *lineage* with a new key, known to the load."""
        issued = self.issue(*lineage.hosts, kind=lineage.kind)
        self.load.issued(lineage.name, issued)
        return issued

    def renew_in_turns(
        self, number: int, deploy: Callable[[Certified], str], *, pace: float = 0
    ) -> list[str]:
        """Renew *number* times, in turns, and *deploy*; return its complaints."""
        complaints: list[str] = []
        for lineage in itertools.islice(itertools.cycle(LINEAGES), number):
            issued, began = self.announce(lineage), time.monotonic()
            renew_lineage(self.certbot.config_dir, lineage.name, issued)
            if failed := deploy(lineage):
                complaints.append(f"{lineage.name}: {failed}")
            else:
                self.load.deployed(lineage.name)
            self.seconds.append(time.monotonic() - began)
            time.sleep(max(0.0, pace - self.seconds[-1]))
        return complaints

    def lines(self, counts: Counts) -> list[str]:
        """Tell how long it took, and what became of the connections."""
        taken = (
            f"{statistics.median(self.seconds):.2f} s, {max(self.seconds):.2f} at most"
        )
        return [f"{len(self.seconds)} renewals of {taken}", *counts.lines()]


@pytest.fixture
def scene(base: Path, authority: Authority) -> Iterator[Renewals]:
    """Postfix with postscreen runs; every lineage is there, none is deployed."""
    with PrivatePostfix(base, postscreen=True) as postfix:
        postfix.set(
            # One TLS line for each handshake, and no client turned away for being many.
            smtpd_tls_loglevel="1",
            smtpd_client_connection_count_limit="0",
        )
        yield Renewals(postfix, Certbot(base), authority)


# With the plugin


def install(scene: Renewals) -> None:
    """Deploy every lineage with certbot."""
    for lineage in LINEAGES:
        succeeded(scene.install(lineage.name))
        scene.load.deployed(lineage.name)


def hook(scene: Renewals) -> Callable[[Certified], str]:
    """Return what runs our deploy hook for a lineage, and returns what it said."""

    def deploy(lineage: Certified) -> str:
        done = scene.command("deploy", "--cert-name", lineage.name)
        return f"{done.returncode} {done.stderr}" if done.returncode else ""

    return deploy


@pytest.mark.parametrize(
    ("renewals", "pause"),
    [
        (10, PAUSE),
        pytest.param(1000, 0, marks=pytest.mark.soak),
    ],
)
def test_no_handshake_fails_during_renewals(scene, record_property, renewals, pause):
    install(scene)
    scene.load.pause = pause

    with scene.load:
        complaints = scene.renew_in_turns(renewals, hook(scene))

    counts = scene.load.counts
    record_property("load", ["with the plugin", *scene.lines(counts)])
    assert complaints == []
    assert counts.faults == {}
    assert set(counts.complaints) <= HARMLESS
    assert len(counts.handshakes) == len(SERVICES) + 1
    assert counts.messages > 0


# Without it


def configure(scene: Renewals, table: str) -> None:
    """Have Postfix read certbot's own files, by server name from a *table*, too."""
    lines = []
    for host in sorted({host for lineage in LINEAGES for host in lineage.hosts}):
        key = host.removeprefix("*")
        lines.append(f"{key} {live(scene, lambda one, host=host: host in one.hosts)}\n")
    source = scene.postfix.config_dir / "sni"
    source.touch(mode=0o600)
    source.write_text("".join(lines))
    scene.postfix.set(
        smtpd_tls_cert_file="",
        smtpd_tls_key_file="",
        smtpd_tls_chain_files=live(scene, lambda one: one.default),
        tls_server_sni_maps=f"{table}:{source}",
    )


def live(scene: Renewals, serves: Callable[[Certified], bool]) -> str:
    """Return certbot's files of the lineages that *serves* picks, for Postfix."""
    directory = scene.certbot.config_dir / "live"
    return ",".join(
        str(directory / lineage.name / f"{kind}.pem")
        for lineage in LINEAGES
        if serves(lineage)
        for kind in ("privkey", "fullchain")
    )


def reload(scene: Renewals, table: str) -> str:
    """Do what a deploy hook of an administrator's does; return what failed."""
    commands = [("postfix", "reload")]
    if table != "texthash":
        source = scene.postfix.config_dir / "sni"
        commands.insert(0, ("postmap", "-F", f"{table}:{source}"))
    for command in commands:
        done = scene.postfix.command(*command)
        # Postfix 3.10 says so, also without a terminal.
        told = done.stderr.removeprefix(
            "postfix/postlog: refreshing the Postfix mail system\n"
        )
        if done.returncode or told:
            return f"{done.returncode} {told}"
    return ""


def start_plainly(scene: Renewals, table: str) -> None:
    """Serve every lineage without the plugin."""
    configure(scene, table)
    assert reload(scene, table) == ""
    wait_until(
        lambda: (
            common_names(scene, "mx.example.org")
            == dict.fromkeys(SERVICES, "CN=mx.example.org")
        ),
        "the lineages are served",
    )
    for lineage in LINEAGES:
        scene.load.deployed(lineage.name)


def common_names(scene: Renewals, sni: str | None) -> dict[str, str]:
    """Return whose certificate every service serves."""
    return {
        service: scene.postfix.served(service, sni=sni).subject.rfc4514_string()
        for service in SERVICES
    }


@pytest.mark.parametrize(
    ("table", "renewals", "pause"),
    [
        ("texthash", 5, PAUSE),
        pytest.param("texthash", 1000, 0, marks=pytest.mark.soak),
        pytest.param("hash", 1000, 0, marks=pytest.mark.soak),
    ],
)
def test_the_same_is_counted_without_the_plugin(
    scene, record_property, table, renewals, pause
):
    start_plainly(scene, table)
    scene.load.pause = pause

    with scene.load:
        scene.renew_in_turns(renewals, lambda _: reload(scene, table), pace=PACE)

    title = f"live/ by chain_files and {table}, and a hook that reloads"
    counts = scene.load.counts
    record_property("load", [title, *scene.lines(counts)])
    assert len(counts.handshakes) == len(SERVICES) + 1


# The load itself
#
# What it counts must be there to be found.


def swap_the_key(scene: Renewals) -> None:
    """Put another key beside the certificate of the default."""
    other = scene.issue("mx.example.org")
    (scene.certbot.config_dir / "live/mx.example.org/privkey.pem").write_bytes(
        other.key_pem
    )


def remove_the_keys(scene: Renewals) -> None:
    """Remove the keys of the default, and all names."""
    for name in ("mx.example.org", "mx.example.org-rsa"):
        (scene.certbot.config_dir / "live" / name / "privkey.pem").unlink()
    # With server names, OpenSSL takes TLS 1.3 for possible, and the handshake fails.
    scene.postfix.set(tls_server_sni_maps="")


def swap_names(scene: Renewals) -> None:
    """Serve the certificate of one lineage for the names of another."""
    source = scene.postfix.config_dir / "sni"
    source.write_text(
        source.read_text().replace("live/lists.example.org", "live/example.net")
    )


def forget_a_name(scene: Renewals) -> None:
    """Take a name out of the table."""
    source = scene.postfix.config_dir / "sni"
    lines = source.read_text().splitlines(keepends=True)
    source.write_text("".join(line for line in lines if not line.startswith("mail.")))


def name_one_twice(scene: Renewals) -> None:
    """Make the table unusable."""
    source = scene.postfix.config_dir / "sni"
    source.write_text(source.read_text() + source.read_text())


def keep_an_old_one(scene: Renewals) -> None:
    """Say that a certificate was deployed that is not served."""
    scene.announce(LINEAGES[0])
    scene.load.deployed(LINEAGES[0].name)


def defer(scene: Renewals) -> None:
    """Have every message deferred after it was accepted."""
    scene.postfix.set(local_transport="retry:4.0.0 later")


def put_off(scene: Renewals) -> None:
    """Have every recipient put off."""
    scene.postfix.set(smtpd_recipient_restrictions="defer")


SABOTAGES = [
    pytest.param(
        swap_the_key,
        {Fault.NO_TLS, Fault.HANDSHAKE},
        {"keys that do not match", "TLS switched off"},
        id="a wrong key",
    ),
    pytest.param(
        remove_the_keys, {Fault.ANONYMOUS}, {"anonymous ciphers"}, id="no certificate"
    ),
    pytest.param(swap_names, {Fault.WRONG}, set(), id="a wrong certificate"),
    pytest.param(
        forget_a_name, {Fault.WRONG}, {"names without an entry"}, id="a lost name"
    ),
    pytest.param(
        name_one_twice, {Fault.HANDSHAKE}, {"failed handshakes"}, id="a bad table"
    ),
    pytest.param(keep_an_old_one, {Fault.STALE}, set(), id="an old certificate"),
    pytest.param(defer, set(), {"deferred messages"}, id="messages deferred later"),
    pytest.param(put_off, {Fault.DEFERRED}, set(), id="messages put off"),
]


@pytest.mark.parametrize(("sabotage", "faults", "logged"), SABOTAGES)
def test_the_load_notices(scene, sabotage, faults, logged):
    start_plainly(scene, "texthash")
    sabotage(scene)
    scene.postfix.settle()
    assert reload(scene, "texthash") == ""

    with scene.load:
        wait_until(lambda: scene.load.faults >= faults, "the clients have noticed")
        wait_until(
            lambda: logged <= set(map(complaint, scene.postfix.log().splitlines())),
            "the mail log tells",
        )

    counts = scene.load.counts
    assert {fault for fault, _, _ in counts.faults} >= faults
    assert set(counts.complaints) >= logged
