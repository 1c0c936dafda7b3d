"""A key changes without an outage: real name servers, certbot, CA and senders."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certbot_postfix.formats.tlsa import Record
from certbot_postfix.system import files
from certbot_postfix.tls.certificates import public_half
from tests.lab import Certbot, dane, renew_lineage
from tests.lab.certbot import NEWEST, OLDEST
from tests.lab.dane import (
    HOST,
    MIN,
    OWNER,
    TTL,
    Host,
    record,
    served,
)
from tests.lab.machine import wait_until
from tests.lab.scene import told
from tests.lab.zone import Zone

pytestmark = pytest.mark.postfix


@pytest.fixture
def host(zone: Zone, base: Path) -> Iterator[Host]:
    """A host that serves a certificate, whose key is announced; no CA is there."""
    host = Host(zone, Certbot(base), base)
    with closing(host.postfix):
        host.key = record(host.lineage(HOST))
        host.stand(HOST)
        host.publish(host.key, ttl=TTL)
        yield host


@pytest.fixture(
    params=[NEWEST, pytest.param(OLDEST, marks=pytest.mark.soak)],
    ids=["newest", "oldest"],
)
def with_ca(request: pytest.FixtureRequest, zone: Zone, base: Path) -> Iterator[Host]:
    """A host with a certificate of certbot's, whose key is announced, and a CA."""
    if not request.param.exists():
        pytest.skip("certbot 2.1 is not installed")
    with dane.with_ca(zone, base, executable=request.param) as host:
        host.obtain("--reuse-key")
        host.key = host.newest()
        host.publish(host.key, ttl=TTL)
        yield host


def matches(host: Host) -> bool:
    """Whether certbot's key is that of its certificate."""
    lineage = host.live(HOST)
    spki = public_half(lineage.key.read_bytes())
    return Record.of_key(spki) == host.newest()


def switch(host: Host, *args: str) -> list[str]:
    return ["tlsa", "switch", *MIN, *host.directories, *args]


def announced(host: Host) -> Record:
    """Stage a key and publish it; return its record when all caches know it."""
    done = host.command("tlsa", "stage", *MIN)
    assert done.returncode == 0, told(done)
    key = staged(host)
    host.publish(host.newest(), key, ttl=TTL)
    until = datetime.fromisoformat(host.show(*MIN, status=3)["until"])
    wait_until(lambda: datetime.now(timezone.utc) > until, "two TTLs are over")
    return key


def next_key(host: Host) -> Path:
    return host.certbot.bundle(HOST).with_suffix(".next.key")


def staged(host: Host) -> Record:
    return Record.of_key(public_half(next_key(host).read_bytes()))


def line(of: Record) -> str:
    return f"{OWNER}. {TTL} IN TLSA {of}\n"


def live(host: Host) -> Path:
    """Return where certbot has its links to the lineage."""
    return host.live(HOST).key.parent


def setting(host: Host, text: str) -> None:
    """Add *text* to what certbot has for renewals."""
    with (host.certbot.config_dir / "renewal" / f"{HOST}.conf").open("a") as file:
        file.write(f"{text}\n")


def test_a_staged_key_waits_in_dns_until_it_is_abandoned(host):
    setting(host, "reuse_key = True")
    bundle = host.certbot.bundle(HOST).read_bytes()

    done = host.command("tlsa", "stage", *MIN)

    assert (done.returncode, done.stdout) == (0, line(staged(host))), told(done)
    assert stat.S_IMODE(next_key(host).stat().st_mode) == 0o600
    assert "PRIVATE" not in told(done)
    assert host.show(*MIN, status=3)["state"] == "staged"
    (seen,) = json.loads(host.command("status", "--json").stdout)["tlsa"]
    assert seen == {"owner": OWNER, "lineage": HOST, "state": "staged"}
    again = host.command("tlsa", "stage", *MIN)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    host.publish(host.key, staged(host), ttl=TTL)
    shown = host.show(*MIN, status=3)
    assert shown["state"] == "ageing"
    assert [each["whose"] for each in shown["records"]] == ["in service", "next key"]
    assert "tlsa switch puts the next key into service" in shown["next"]

    withdraw = f"; remove: {line(staged(host))}"
    done = host.command("tlsa", "abandon", *MIN)

    assert (done.returncode, done.stdout) == (0, withdraw), told(done)
    assert not next_key(host).exists()
    assert host.certbot.bundle(HOST).read_bytes() == bundle
    done = host.command("tlsa", "abandon", *MIN)
    assert (done.returncode, f"no key is staged for {HOST}" in done.stderr) == (1, True)
    # What was printed once is not printed by each renewal.
    assert host.command("tlsa", "advance", *MIN).stdout == ""
    assert host.command("tlsa", "withdraw", *MIN).stdout == withdraw


def test_the_record_of_another_server_is_never_withdrawn(host):
    theirs = record(host.issue(HOST))
    host.publish(host.key, theirs, ttl=TTL)
    host.command("tlsa", "stage", *MIN)

    done = host.command("tlsa", "abandon", *MIN)

    assert (done.returncode, done.stdout) == (0, ""), told(done)


def test_the_record_of_a_renewal_that_is_held_is_not_withdrawn(host):
    renewed = record(host.renew(HOST))
    host.publish(host.key, renewed, ttl=TTL)
    assert host.show(*MIN, status=3)["state"] == "ageing"

    done = host.command("tlsa", "advance", *MIN)

    assert (done.returncode, done.stdout) == (0, ""), told(done)


def test_a_key_of_which_dns_says_nothing_is_not_put_into_service(host):
    setting(host, "reuse_key = True")
    host.command("tlsa", "stage", *MIN)
    host.remembered.unlink()

    done = host.command(*switch(host, "--dane-resolver", "127.0.0.99"))

    assert done.returncode == 1
    assert f"it is not known whether {OWNER} announces its key" in done.stderr
    assert "Hint: check the resolver" in done.stderr


def test_a_kind_of_key_that_cannot_be_made_is_an_error(host):
    setting(host, "key_type = ed25519")

    done = host.command("tlsa", "stage", *MIN)

    assert (done.returncode, next_key(host).exists()) == (1, False)
    assert "error: no key of the type 'ed25519' can be made" in done.stderr


def test_a_key_that_no_renewal_will_have_is_staged_with_a_warning(host):
    done = host.command("tlsa", "stage", *MIN)

    assert done.returncode == 3
    assert f"certbot makes a new key for each renewal of {HOST}" in done.stderr
    assert "--reuse-key" in done.stderr


def test_the_next_key_is_in_nobody_s_way_whatever_a_lineage_is_called(host):
    other = f"{HOST}.next"
    host.lineage(other, HOST, kind="rsa")
    host.stand(HOST, other)
    bundle = host.certbot.bundle(other).read_bytes()

    for verb in ("stage", "abandon"):
        done = host.command("tlsa", verb, "--cert-name", HOST, *MIN)
        assert done.returncode in (0, 3), told(done)

    assert host.certbot.bundle(other).read_bytes() == bundle


def test_a_staged_key_goes_with_the_certificate(host):
    host.command("tlsa", "stage", *MIN)
    assert next_key(host).exists()

    host.command("forget", HOST)

    assert not next_key(host).exists()


def test_a_host_without_dane_reads_both_records_to_begin_with(host):
    host.publish(ttl=TTL)
    setting(host, "reuse_key = True")
    # What the resolver got before, for another test, would be remembered.
    wait_until(lambda: not host.cached(), "the records are forgotten")

    done = host.command("tlsa", "stage", *MIN)

    records = [f"{OWNER}. 3600 IN TLSA {each}" for each in (host.key, staged(host))]
    assert (done.returncode, done.stdout.splitlines()) == (0, records), told(done)
    assert not host.remembered.exists()
    done = host.command("tlsa", "stage", *MIN, "--publisher", "command:/bin/true")
    assert (done.returncode, done.stdout.splitlines()) == (0, records), told(done)
    assert "to begin with DANE: certbot-postfix tlsa publish" in done.stderr


def test_the_next_key_is_of_the_kind_that_certbot_has_for_the_certificate(host):
    host.certbot.bundle(HOST).unlink()
    host.lineage("rsa", HOST, kind="rsa")
    host.stand("rsa")
    conf = host.certbot.config_dir / "renewal" / "rsa.conf"
    settings = "reuse_key = True\nkey_type = rsa\nrsa_key_size = 3072\n"
    conf.write_text(conf.read_text() + settings)

    done = host.command("tlsa", "stage", *MIN)

    path = host.certbot.bundle("rsa").with_suffix(".next.key")
    key = load_pem_private_key(path.read_bytes(), None)
    assert (done.returncode, key.key_size) == (0, 3072), told(done)


def test_a_key_is_served_once_every_cache_knows_it(with_ca):
    host, old = with_ca, with_ca.key
    done = host.command(*switch(host))
    assert (done.returncode, f"no key is staged for {HOST}" in done.stderr) == (1, True)
    host.command("tlsa", "stage", *MIN)
    done = host.command(*switch(host, "--now"))
    assert (done.returncode, served(host)) == (1, old)
    assert f"{OWNER} does not announce its key" in done.stderr
    assert line(staged(host)) in f"{done.stderr}\n"
    key = announced(host)
    first = host.live(HOST).key.resolve()

    done = host.command(*switch(host))

    assert (done.returncode, served(host)) == (0, key), told(done)
    assert (host.newest(), matches(host), next_key(host).exists()) == (key, True, False)
    assert Record.of_key(public_half(first.read_bytes())) == old
    conf = host.certbot.config_dir / "renewal" / f"{HOST}.conf"
    assert "reuse_key = True" in conf.read_text()
    assert host.show(*MIN)["state"] == "steady"


def test_without_a_ca_the_key_in_service_stays(with_ca):
    host, old = with_ca, with_ca.key
    announced(host)
    host.pebble.close()

    done = host.command(*switch(host))

    assert (done.returncode, served(host)) == (1, old), told(done)
    why = done.stderr.partition(f"certbot obtained no certificate of {HOST}")[2]
    assert "127.0.0.1" in why, done.stderr  # it names the CA
    assert (host.newest(), matches(host), next_key(host).exists()) == (old, True, True)


def children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in path.read_text().split()]


def test_what_is_killed_in_a_switch_is_repaired_by_the_next_renewal(with_ca):
    host, old = with_ca, with_ca.key
    key = announced(host)
    host.pebble.stop()
    argv = host.zone.network.argv(*host.argv(*switch(host)))
    command = subprocess.Popen(argv, env=host.certbot.environment)
    wait_until(lambda: not matches(host), "certbot's key is another one")
    wait_until(lambda: children(command.pid), "certbot runs")
    child = children(command.pid)[0]
    for process in (command.pid, child):
        os.kill(process, signal.SIGKILL)
    command.wait()
    host.pebble.go_on()
    assert not matches(host)

    done = host.certbot_in_network("renew")

    assert (done.returncode, served(host)) == (0, old), told(done)
    assert (host.newest(), matches(host), staged(host)) == (old, True, key)


def test_certbot_ends_what_it_does_when_a_switch_is_interrupted(with_ca, base):
    host = with_ca
    setting(host, f"post_hook = touch {base}/started-again")
    key = announced(host)
    host.pebble.stop()
    argv = host.zone.network.argv(*host.argv(*switch(host)))
    log = base / "switch.log"
    with log.open("w") as out:
        command = subprocess.Popen(argv, env=host.certbot.environment, stderr=out)
    wait_until(
        lambda: "Sending GET" in host.certbot.log.partition("--force-renewal")[2],
        "certbot waits for the CA",
    )

    command.send_signal(signal.SIGTERM)
    wait_until(lambda: "interrupted" in log.read_text(), "it is interrupted")
    host.pebble.go_on()
    command.wait()

    assert (base / "started-again").exists()
    assert (matches(host), served(host)) == (True, host.key)
    assert host.certbot_in_network("renew").returncode == 0
    assert served(host) == key


def test_a_switch_that_was_killed_before_it_had_replaced_the_key_is_forgotten(host):
    setting(host, "reuse_key = True")
    setting(host, "postfix_tlsa_min_ttl = 0")
    host.command("tlsa", "stage", *MIN)
    archive = host.live(HOST).key.resolve().parent
    files.back_up(host.live(HOST).key.resolve())
    assert "key-change-not-ended" in host.command("status", "--json").stdout

    done = host.certbot_in_network("renew")

    assert (done.returncode, [*archive.glob(".*")]) == (0, []), told(done)
    assert line(staged(host)) in done.stdout


@pytest.mark.soak
def test_a_certificate_that_certbot_could_not_write_is_replaced(with_ca):
    host, old = with_ca, with_ca.key
    host.command("tlsa", "stage", *MIN)
    key = staged(host)
    live(host).joinpath("fullchain.pem").write_bytes(b"")

    done = host.certbot_in_network("renew")

    assert "there is no certificate in the full chain" in done.stderr
    assert (host.newest(), served(host), staged(host)) == (old, old, key), told(done)
    assert host.certbot_in_network("renew").returncode == 0


def test_links_that_certbot_was_killed_over_are_mended_before_a_key_changes(host):
    links = {link.name: link.readlink() for link in live(host).glob("*.pem")}
    for name, target in links.items():
        live(host).joinpath(f"previous_{name}").symlink_to(target)
    live(host).joinpath("fullchain.pem").unlink()
    assert len(links) == 4

    done = host.command("tlsa", "advance", *MIN, *host.directories)

    assert done.returncode == 0, told(done)
    assert {link.name: link.readlink() for link in live(host).glob("*.pem")} == links


@pytest.mark.parametrize(
    "verified",
    [
        pytest.param(True, marks=pytest.mark.soak, id="certbot had obtained it"),
        pytest.param(False, id="its bundle was written"),
    ],
)
def test_a_switch_that_was_killed_later_is_ended_by_the_next_step(host, verified):
    host.postfix.start()
    setting(host, "reuse_key = True")
    key, bundle = announced(host), host.certbot.bundle(HOST)
    private = load_pem_private_key(next_key(host).read_bytes(), None)
    issued = host.zone.network.authority.issue(HOST, key=private)
    renew_lineage(host.certbot.config_dir, HOST, issued)
    if not verified:
        files.back_up(bundle)
        files.rewrite(bundle, issued.bundle_pem)

    done = host.command("tlsa", "advance", *MIN)

    assert (done.returncode, served(host)) == (0, key), told(done)
    assert not next_key(host).exists()
    assert not files.backup_of(bundle)


LOCKED = """
import subprocess, sys
from pathlib import Path
from certbot_postfix.system import lock
lock.take(Path(sys.argv[1]))
sys.exit(subprocess.run(sys.argv[2:]).returncode)
"""


def test_what_certbot_runs_for_another_instance_leaves_the_key_to_the_switch(host):
    key, bundles = host.live(HOST).key.resolve(), host.certbot.bundle(HOST).parent
    before, other = key.read_bytes(), host.issue(HOST).key_pem
    files.back_up(key)
    files.rewrite(key, other)
    deploy = host.argv("deploy", "--cert-name", HOST, *MIN)

    # A switch has the lock of its own instance, and that of the bundles.
    host.run([sys.executable, "-c", LOCKED, str(bundles), *deploy])
    assert key.read_bytes() == other

    host.run(deploy)
    assert key.read_bytes() == before


def test_a_key_that_leaked_is_replaced_at_once(with_ca):
    host = with_ca
    host.command("tlsa", "stage", *MIN)
    key = staged(host)
    host.publish(host.newest(), key, ttl=TTL)
    long = ("--tlsa-min-ttl", "604800")
    done = host.command(*switch(host), *long)
    assert (done.returncode, "tlsa switch --now" in done.stderr) == (1, True)

    done = host.command(*switch(host), *long, "--now")

    assert (done.returncode, served(host)) == (0, key), told(done)
    done = host.command("tlsa", "withdraw", *long)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"not removed: {line(host.key)[:-1]} (kept until " in done.stderr
    done = host.command("tlsa", "withdraw", *long, "--now")
    assert done.stdout == f"; remove: {line(host.key)}"
