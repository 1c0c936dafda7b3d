"""Whatever fails, Postfix serves what it served, and the user reads why.

Each test breaks one thing for a real certbot on a running Postfix.  Programs of Postfix
are disturbed by scripts that stand in front of them, named with the plugin's options.
"""

import contextlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from certbot.reverter import Reverter
from cryptography import x509

from tests.lab import (
    Authority,
    Certbot,
    Issued,
    Pebble,
    PrivatePostfix,
    install_lineage,
    renew_lineage,
)
from tests.lab.machine import LOOPBACK, PATIENCE, wait_until
from tests.lab.postfix import SERVICES, snapshot

pytestmark = pytest.mark.postfix

NAME = "mx.example.org"
UNDONE = "we successfully restored your server to its prior configuration"

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def certbot(base: Path, pebble: Pebble) -> Certbot:
    """The newest certbot, which obtains certificates from Pebble."""
    return Certbot(base, pebble=pebble)


@pytest.fixture
def issued(certbot: Certbot, authority: Authority) -> Issued:
    """What is in the lineage, which no ACME server knows."""
    issued = authority.issue(NAME)
    install_lineage(certbot.config_dir, NAME, issued)
    return issued


@pytest.fixture
def obtained(certbot: Certbot, postfix: PrivatePostfix) -> x509.Certificate:
    """The leaf that certbot obtained from Pebble, deployed."""
    done = certbot("run", "-a", "standalone", "-d", NAME, *options(postfix))
    assert done.returncode == 0, done.stderr
    return live(certbot)


def options(postfix: PrivatePostfix) -> list[str]:
    """Return what a user has to say, since this Postfix is not the usual one."""
    return ["-i", "postfix", "--postfix-config-dir", str(postfix.config_dir)]


def install(certbot: Certbot, postfix: PrivatePostfix, *args: str) -> Done:
    """Deploy the lineage that is there; whether that fails is a result."""
    return certbot("install", "--cert-name", NAME, *options(postfix), *args)


def deploy(certbot: Certbot, postfix: PrivatePostfix) -> None:
    """Deploy the lineage that is there."""
    done = install(certbot, postfix)
    assert done.returncode == 0, done.stderr


def renew(certbot: Certbot, *args: str) -> Done:
    """Renew what is not due; whether that fails is a result."""
    return certbot("renew", "--force-renewal", *args)


def told(done: Done) -> str:
    """Return all that a user could read, as one line."""
    return " ".join((done.stdout + done.stderr).split())


def live(certbot: Certbot) -> x509.Certificate:
    """Return the newest leaf that certbot obtained."""
    pem = (certbot.config_dir / "live" / NAME / "cert.pem").read_bytes()
    return x509.load_pem_x509_certificate(pem)


def served(postfix: PrivatePostfix) -> dict[str, x509.Certificate]:
    """Return the leaf on every service."""
    return {service: postfix.served(service) for service in SERVICES}


def everywhere(leaf: x509.Certificate) -> dict[str, x509.Certificate]:
    """Return what `served` returns when every service serves *leaf*."""
    return dict.fromkeys(SERVICES, leaf)


class State:
    """All that a failed run must leave, or bring back, as it is now."""

    def __init__(self, certbot: Certbot, postfix: PrivatePostfix) -> None:
        self._certbot = certbot
        self._postfix = postfix
        self._before = self._now()
        self._served = served(postfix)

    def _now(self) -> list[Any]:
        bundles = self._certbot.config_dir / "postfix"
        checkpoints = self._certbot.work_dir / "backups"
        return [
            self._postfix.snapshot(),
            # The directory itself is no state, since it is made when it is missing.
            {name: entry for name, entry in _files(bundles).items() if name != "."},
            sorted(path.name for path in checkpoints.glob("*")),
            (self._certbot.work_dir / "IN_PROGRESS").exists(),
        ]

    def assert_kept(self) -> None:
        """Compare, without help of the plugin."""
        assert self._now() == self._before
        assert served(self._postfix) == self._served


def _files(directory: Path) -> dict[str, Any]:
    return snapshot(directory) if directory.is_dir() else {}


def in_front_of(program: str, base: Path, script: str) -> str:
    """Return a command that runs *script* first, which has the verb in ``$verb``.

    It may end the command itself.  A function ``once`` succeeds on its first call only.
    """
    path = base / f"disturbed-{program}"
    path.write_text(
        "#!/bin/sh\n"
        "[ $# -lt 3 ] || verb=$3\n"
        f"once() {{ mkdir {shlex.quote(str(path))}.once 2> /dev/null; }}\n"
        f"{textwrap.dedent(script)}\n"
        f'exec {program} "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


@contextlib.contextmanager
def mounted(path: Path, *args: str) -> Iterator[None]:
    """Have something mounted on *path*."""
    subprocess.run(["mount", *args, str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """Have the directory *path*, with all that is in it, on a small disk of its own."""
    kept = subprocess.run(
        ["tar", "-c", "-C", str(path), "."], check=True, capture_output=True
    )
    with mounted(path, "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs"):
        subprocess.run(["tar", "-xp", "-C", str(path)], check=True, input=kept.stdout)
        yield


@contextlib.contextmanager
def full(directory: Path) -> Iterator[None]:
    """Have no space left on the disk of *directory*."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


# Certificates that must not be put into service


def tamper(certbot: Certbot, kind: str, content: bytes) -> None:
    """Overwrite a file of the lineage."""
    (certbot.config_dir / "live" / NAME / f"{kind}.pem").write_bytes(content)


def test_a_key_that_does_not_match_is_refused(postfix, certbot, issued, authority):
    tamper(certbot, "privkey", authority.issue(NAME).key_pem)
    before = State(certbot, postfix)

    done = install(certbot, postfix)

    assert done.returncode == 1
    assert "the private key does not belong to the certificate" in told(done)
    assert f"lineage {NAME}" in told(done)
    before.assert_kept()


def test_an_expired_certificate_is_refused(postfix, certbot, authority):
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    install_lineage(
        certbot.config_dir, NAME, authority.issue(NAME, not_after=yesterday)
    )
    before = State(certbot, postfix)

    done = install(certbot, postfix)

    assert done.returncode == 1
    assert f"the certificate expired at {yesterday:%Y-%m-%d %H:%M} UTC" in told(done)
    before.assert_kept()


def test_a_certificate_older_than_the_deployed_one_is_refused(
    postfix, certbot, issued, authority
):
    deploy(certbot, postfix)
    last_week = datetime.now(timezone.utc) - timedelta(days=7)
    renew_lineage(certbot.config_dir, NAME, authority.issue(NAME, not_before=last_week))
    before = State(certbot, postfix)

    done = install(certbot, postfix)

    assert done.returncode == 1
    assert f"{last_week:%Y-%m-%d %H:%M} UTC is older than the deployed one" in told(
        done
    )
    before.assert_kept()
    assert served(postfix) == everywhere(issued.leaf)


def test_a_chain_that_does_not_begin_with_the_leaf_is_refused(postfix, certbot, issued):
    tamper(certbot, "fullchain", issued.chain_pem + issued.cert_pem)
    before = State(certbot, postfix)

    done = install(certbot, postfix)

    assert done.returncode == 1
    assert "the certificate of the private key is not the first" in told(done)
    before.assert_kept()


# No place to write to


def test_a_file_in_place_of_the_bundle_directory_stops_a_deployment(
    postfix, certbot, issued
):
    (certbot.config_dir / "postfix").touch()
    before = State(certbot, postfix)

    done = install(certbot, postfix)

    assert done.returncode == 1
    assert str(certbot.config_dir / "postfix") in told(done)
    assert "File exists" in told(done)
    before.assert_kept()


def test_a_read_only_bundle_directory_stops_a_deployment(postfix, certbot, issued):
    bundles = certbot.config_dir / "postfix"
    bundles.mkdir(mode=0o700)
    before = State(certbot, postfix)

    with mounted(bundles, "-t", "tmpfs", "-o", "ro", "tmpfs"):
        done = install(certbot, postfix)

    assert done.returncode == 1
    assert f"could not write {certbot.bundle(NAME)}: Read-only file system" in told(
        done
    )
    before.assert_kept()


def test_a_read_only_bundle_directory_stops_a_renewal(postfix, certbot, obtained):
    bundles = certbot.config_dir / "postfix"
    before = State(certbot, postfix)

    with mounted(bundles, "--bind", str(bundles)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(bundles)], check=True)
        done = renew(certbot)

    assert done.returncode == 1
    assert f"{certbot.bundle(NAME)}: Read-only file system" in told(done)
    assert live(certbot) != obtained
    before.assert_kept()


def test_a_full_disk_stops_staging(postfix, certbot, issued):
    staging = certbot.work_dir / "postfix"
    staging.mkdir(parents=True)
    before = State(certbot, postfix)

    # Space for main.cf, not for master.cf.
    with mounted(staging, "-t", "tmpfs", "-o", "size=4k", "tmpfs"):
        done = install(certbot, postfix)
        left = list(staging.iterdir())

    assert done.returncode == 1
    assert "No space left on device" in told(done)
    assert str(staging) in told(done)
    assert left == []
    before.assert_kept()


def test_a_full_disk_stops_the_commit(stopped_postfix, certbot, issued):
    with small_disk(stopped_postfix.config_dir, "64k"):
        stopped_postfix.start()
        with full(stopped_postfix.config_dir):
            before = State(certbot, stopped_postfix)

            done = install(certbot, stopped_postfix)

            assert done.returncode == 1
            assert (
                f"could not write {stopped_postfix.main_cf}: No space left on device"
                in told(done)
            )
            before.assert_kept()


def test_a_full_disk_stops_a_deployment_at_its_bundle(postfix, certbot, issued):
    bundles = certbot.config_dir / "postfix"
    bundles.mkdir(mode=0o700)
    before = State(certbot, postfix)

    with small_disk(bundles, "16k"), full(bundles):
        done = install(certbot, postfix)
        left = [path.name for path in bundles.iterdir()]

    assert done.returncode == 1
    assert f"could not write {certbot.bundle(NAME)}: No space left" in told(done)
    assert left == ["filler"]
    before.assert_kept()


def test_a_full_disk_stops_a_renewal(postfix, certbot, obtained):
    bundles = certbot.config_dir / "postfix"
    with small_disk(bundles, "16k"), full(bundles):
        before = State(certbot, postfix)

        done = renew(certbot)

        assert done.returncode == 1
        assert f"could not write {certbot.bundle(NAME)}: No space left" in told(done)
        assert live(certbot) != obtained
        before.assert_kept()


# Other hands


def test_what_somebody_else_writes_meanwhile_is_kept(postfix, base, certbot, issued):
    live_main_cf = shlex.quote(str(postfix.main_cf))
    disturbed = in_front_of(
        "postfix", base, f'[ "$verb" != check ] || echo "# by hand" >> {live_main_cf}'
    )
    wanted, snake_oil = postfix.snapshot(), served(postfix)
    edited = wanted["main.cf"]._replace(
        content=postfix.main_cf.read_bytes() + b"# by hand\n"
    )

    done = install(certbot, postfix, "--postfix-ctl", disturbed)

    assert done.returncode == 1
    assert f"{postfix.main_cf} was modified while this command" in told(done)
    assert postfix.snapshot() == {**wanted, "main.cf": edited}
    assert not certbot.bundle(NAME).exists()
    assert served(postfix) == snake_oil


@pytest.mark.parametrize("directories", ["same", "other"])
def test_a_second_certbot_waits_its_turn(
    postfix, base, certbot, issued, authority, directories
):
    entered, leave = base / "entered", base / "leave"
    disturbed = in_front_of(
        "postfix",
        base,
        f"""
        if [ "$verb" = reload ]; then
            touch {entered}
            until [ -e {leave} ]; do sleep 0.02; done
        fi
        """,
    )
    other = certbot
    if directories == "other":
        other = Certbot(base / "other")
        install_lineage(other.config_dir, NAME, authority.issue(NAME))
    first = subprocess.Popen(
        certbot.argv(
            "install",
            "--cert-name",
            NAME,
            *options(postfix),
            *("--postfix-ctl", disturbed, "--postfix-verify-timeout", str(PATIENCE)),
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=certbot.environment,
    )
    try:
        wait_until(entered.exists, "the first certbot reloads")
        main_cf = postfix.main_cf.read_bytes()

        done = install(other, postfix)

        assert postfix.main_cf.read_bytes() == main_cf
    finally:
        leave.touch()
        printed, _ = first.communicate(timeout=2 * PATIENCE)
    assert done.returncode == 1
    if directories == "same":
        assert "Another instance of Certbot is already running" in told(done)
    else:
        assert f"could not lock {postfix.config_dir}" in told(done)
    assert first.returncode == 0, printed
    assert served(postfix) == everywhere(issued.leaf)


HOLD = """
import sys
from certbot import util
util.lock_dir_until_exit(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_renewal_waits_for_who_works_on_postfix_and_says_who_that_is(
    postfix, certbot, obtained
):
    command = [sys.executable, "-c", HOLD, str(postfix.config_dir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as holder:
        assert holder.stdout.readline() == "locked\n"
        renewal = subprocess.Popen(
            certbot.argv("renew", "--force-renewal"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=certbot.environment,
        )
        try:
            said = f"process {holder.pid} has the lock ({sys.executable} -c"
            wait_until(lambda: said in certbot.log, "the renewal waits")
        finally:
            holder.stdin.close()
            printed, _ = renewal.communicate(timeout=60)

    assert renewal.returncode == 0, printed
    assert live(certbot) != obtained
    assert served(postfix) == everywhere(live(certbot))


def test_only_root_deploys_and_is_told_so(postfix, certbot, issued):
    before = State(certbot, postfix)

    done = subprocess.run(
        # Without a mapping, the user is nobody in a namespace of its own.
        [
            "unshare",
            "--user",
            *certbot.argv("install", "--cert-name", NAME, *options(postfix)),
        ],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=certbot.environment,
        timeout=60,
    )

    assert done.returncode == 1
    assert "this command must be run as root" in told(done)
    assert "Traceback" not in told(done)
    before.assert_kept()


# Postfix cannot, or is not there


def test_a_stopped_postfix_is_configured_but_not_started(postfix, certbot, issued):
    postfix.stop()

    done = install(certbot, postfix)

    assert done.returncode == 0
    assert f"Postfix ({postfix.config_dir}) is not running and was not started" in told(
        done
    )
    assert "could not be verified" in told(done)
    assert "Verified" not in told(done)
    assert not postfix.running
    assert certbot.bundle(NAME).read_bytes() == issued.bundle_pem
    postfix.start()
    assert served(postfix) == everywhere(issued.leaf)


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        pytest.param(
            '[ "$verb" != -d ] || { postconf "$@" |'
            " sed 's/^mail_version = .*/mail_version = 2.10.9/'; exit 0; }",
            "Postfix 2.10.9 is too old: 2.11 is the oldest that can be configured",
            id="too old",
        ),
        pytest.param(
            '[ "$verb" != -T ] || exit 0',
            "this Postfix was built without TLS",
            id="without TLS",
        ),
    ],
)
def test_a_postfix_is_refused_that_is(
    postfix, base, certbot, issued, script, complaint
):
    disturbed = in_front_of("postconf", base, script)
    before = State(certbot, postfix)

    done = install(certbot, postfix, "--postfix-config-utility", disturbed)

    assert done.returncode == 1
    assert complaint in told(done)
    before.assert_kept()


BROKEN = [
    pytest.param(
        "main.cf", "this is no parameter\n", "after attribute name", id="broken main.cf"
    ),
    pytest.param(
        "master.cf", "smtp inet n\n", "bad field count", id="broken master.cf"
    ),
]


def line_of(path: Path, line: str) -> int:
    """Append *line* to the file at *path*; return its number."""
    with path.open("a") as file:
        file.write(line)
    return path.read_text().count("\n")


@pytest.mark.parametrize(("name", "line", "words"), BROKEN)
def test_a_deployment_quotes_postfix_about_its(
    postfix, certbot, issued, name, line, words
):
    number = line_of(postfix.config_dir / name, line)
    before = postfix.snapshot()

    done = install(certbot, postfix)

    assert done.returncode == 1
    assert words in told(done)
    assert f"{postfix.config_dir / name}" in told(done)
    assert f"line {number}" in told(done)
    assert "Hint: fix it, " in told(done)
    assert "MisconfiguredError(" not in told(done)
    assert "\\'" not in told(done)
    assert postfix.snapshot() == before
    assert not certbot.bundle(NAME).exists()


@pytest.mark.parametrize(("name", "line", "words"), BROKEN)
def test_a_renewal_is_not_forgotten_for_a(
    postfix, certbot, obtained, name, line, words
):
    path = postfix.config_dir / name
    whole = path.read_bytes()
    number = line_of(path, line)

    done = renew(certbot)

    assert done.returncode == 1
    assert words in told(done)
    assert f"line {number}" in told(done)
    assert live(certbot) != obtained
    renewal = (certbot.config_dir / "renewal" / f"{NAME}.conf").read_text()
    assert "\ninstaller = postfix\n" in renewal
    path.write_bytes(whole)
    postfix.settle()
    assert served(postfix) == everywhere(obtained)
    # Nothing is due any more, and yet something is to be made up for.
    again = certbot("renew")
    assert again.returncode == 0, again.stderr
    assert served(postfix) == everywhere(live(certbot))


def test_the_postfix_that_runs_must_read_what_is_changed(
    postfix, certbot, issued, base
):
    here = base / "here"
    shutil.copytree(postfix.config_dir, here)
    before, state = snapshot(here), State(certbot, postfix)

    done = certbot(
        "install", "--cert-name", NAME, "-i", "postfix", f"--postfix-config-dir={here}"
    )

    assert done.returncode == 1
    read = f"Postfix was started with {postfix.config_dir} and does not read {here}"
    assert read in told(done)
    assert snapshot(here) == before
    state.assert_kept()


def test_a_renewal_that_the_postfix_that_runs_does_not_read_is_told_as_such(
    postfix, certbot, issued, base, authority
):
    first, here = postfix.config_dir, base / "here"
    shutil.copytree(first, here)
    deploy(certbot, postfix)
    renew_lineage(certbot.config_dir, NAME, authority.issue(NAME))
    bundle = certbot.bundle(NAME).read_bytes()
    postfix.stop()
    postfix.config_dir = here
    postfix.start()
    postfix.config_dir = first

    done = missed(certbot, postfix, "--postfix-verify-timeout", "3")

    assert done.returncode == 1
    cause = f"the Postfix that listens there was started with {here} and does not read"
    assert cause in told(done)
    assert "snakeoil" not in told(done)
    assert certbot.bundle(NAME).read_bytes() == bundle


def test_a_renewal_is_not_forgotten_for_a_main_cf_that_only_postconf_reads(
    postfix, certbot, issued, authority
):
    deploy(certbot, postfix)
    newer, whole = authority.issue(NAME), postfix.main_cf.read_bytes()
    renew_lineage(certbot.config_dir, NAME, newer)
    line_of(postfix.main_cf, "message_size_limit = 50M\n")
    postfix.settle()
    master, old = postfix.master_pid, certbot.bundle(NAME).read_bytes()

    done = missed(certbot, postfix)

    assert done.returncode == 1
    assert f"`postfix check` fails for {postfix.config_dir}" in told(done)
    assert "message_size_limit = 50M" in told(done)
    assert "is not running" not in told(done)
    assert (postfix.master_pid, certbot.bundle(NAME).read_bytes()) == (master, old)
    postfix.main_cf.write_bytes(whole)
    postfix.settle()
    again = missed(certbot, postfix)
    assert again.returncode == 0, again.stderr
    assert served(postfix) == everywhere(newer.leaf)


# The reload, and what comes after it

DEATHS = {
    "at once": "kill -9 $master; exit 0",
    # It takes its time to read what it dies of.
    "soon": "kill -STOP $master; (sleep 0.6; kill -9 $master) > /dev/null 2>&1 &",
}


@pytest.fixture(params=DEATHS.values(), ids=DEATHS)
def deadly_reload(base: Path, request: pytest.FixtureRequest) -> list[str]:
    """Options under which the first reload succeeds and the master process dies."""
    script = f"""
    if [ "$verb" = reload ] && once; then
        read -r master < {base}/queue/pid/master.pid
        {request.param}
    fi
    """
    return ["--postfix-ctl", in_front_of("postfix", base, script)]


def test_a_master_that_dies_of_a_deployment_is_started_with_the_old_configuration(
    postfix, certbot, issued, deadly_reload
):
    before = State(certbot, postfix)

    done = install(certbot, postfix, *deadly_reload, "--postfix-verify-timeout", "3")

    assert done.returncode == 1
    assert f"Postfix ({postfix.config_dir}) terminated" in told(done)
    assert UNDONE in told(done)
    before.assert_kept()


def test_a_master_that_dies_of_a_renewal_is_started_with_the_old_certificate(
    postfix, certbot, obtained, deadly_reload
):
    before = State(certbot, postfix)

    done = renew(certbot, *deadly_reload, "--postfix-verify-timeout", "3")

    assert done.returncode == 1
    assert f"Postfix ({postfix.config_dir}) terminated" in told(done)
    assert "the previous files were restored" in told(done)
    assert live(certbot) != obtained
    before.assert_kept()


def test_a_service_that_dies_of_the_new_configuration_serves_again_at_once(
    stopped_postfix, certbot, issued
):
    entry = f"{LOOPBACK}:{stopped_postfix.ports['submission']}/inet"
    deadly = "${smtpd_tls_chain_files?{bad}:{no}}"
    stopped_postfix.postconf("-P", f"{entry}/smtpd_tls_wrappermode={deadly}")
    stopped_postfix.settle()
    stopped_postfix.start()
    before = State(certbot, stopped_postfix)

    done = install(certbot, stopped_postfix, "--postfix-verify-timeout", "8")

    before.assert_kept()  # not only after the minute for which a service is throttled
    assert done.returncode == 1
    assert f"{entry.removesuffix('/inet')} did not answer" in told(done)
    assert UNDONE in told(done)
    assert "bad boolean configuration: smtpd_tls_wrappermode = bad" in (
        stopped_postfix.log()
    )


class Impostor:
    """One service that shows another certificate to who asks for the server's name.

    It does so from `begin` on, or from the first reload under `options` until the next.
    """

    def __init__(self, postfix: PrivatePostfix, certificate: Issued) -> None:
        base = postfix.base
        self._postfix = postfix
        self._certificate = certificate
        # Which table a service has is decided where it runs, and not to be read before.
        self.service = f"{LOOPBACK}:{postfix.ports['submission']}/inet"
        tables = {name: base / f"sni-{name}" for name in self._services()}
        self._table = tables[self.service.removesuffix("/inet")]
        bundle = base / "impostor.pem"
        bundle.touch(mode=0o600)
        bundle.write_bytes(certificate.bundle_pem)
        self._line = f"{NAME} {bundle}\n"
        for table in tables.values():
            table.touch()
        postfix.set(tls_server_sni_maps=f"texthash:{base}/sni-$service_name")

    def _services(self) -> list[str]:
        """Return the names of all services, and the empty one of programs."""
        return ["", *(f"{LOOPBACK}:{port}" for port in self._postfix.ports.values())]

    def begin(self) -> None:
        """Show the other certificate."""
        self._switch(self._line, self._certificate.leaf)

    def end(self) -> None:
        """Show what main.cf says."""
        self._switch("", self._postfix.served("smtp"))

    def _switch(self, table: str, leaf: x509.Certificate) -> None:
        self._table.write_text(table)
        self._postfix.reload()
        wait_until(
            lambda: self._postfix.served("submission", sni=NAME) == leaf,
            "the submission service has read its table",
        )

    def reported(self, done: Done) -> bool:
        """Whether it was found out."""
        service = self.service.removesuffix("/inet")
        words = told(done)
        return f"{service} presents " in words and f" requesting {NAME}" in words

    @property
    def options(self) -> list[str]:
        """Options under which every second reload ends the imposture."""
        script = f"""
        if [ "$verb" = reload ]; then
            if once; then
                echo {shlex.quote(self._line.strip())} > {self._table}
            else
                : > {self._table}
            fi
        fi
        """
        disturbed = in_front_of("postfix", self._postfix.base, script)
        return ["--postfix-ctl", disturbed, "--postfix-verify-timeout", "3"]


@pytest.fixture
def impostor(stopped_postfix: PrivatePostfix, authority: Authority) -> Impostor:
    """Set it up before Postfix starts."""
    return Impostor(stopped_postfix, authority.issue(NAME))


def test_a_deployment_is_undone_if_a_service_shows_another_certificate(
    impostor, postfix, certbot, issued
):
    before = State(certbot, postfix)

    done = install(certbot, postfix, *impostor.options)

    assert done.returncode == 1
    assert impostor.reported(done)
    assert UNDONE in told(done)
    before.assert_kept()


def test_a_renewal_is_undone_if_a_service_shows_another_certificate(
    impostor, postfix, certbot, obtained
):
    before = State(certbot, postfix)

    done = renew(certbot, *impostor.options)

    assert done.returncode == 1
    assert impostor.reported(done)
    assert "the previous files were restored" in told(done)
    assert "unproven" not in told(done)
    assert live(certbot) != obtained
    before.assert_kept()


def test_a_second_deployment_that_fails_brings_back_the_first_bundle(
    impostor, postfix, certbot, issued, authority
):
    deploy(certbot, postfix)
    before = State(certbot, postfix)
    renew_lineage(certbot.config_dir, NAME, authority.issue(NAME))

    done = install(certbot, postfix, *impostor.options)

    assert done.returncode == 1
    assert "is already configured" in told(done)
    assert UNDONE in told(done)
    before.assert_kept()
    assert served(postfix) == everywhere(issued.leaf)


SIGNALS = [
    pytest.param(signal.SIGTERM, id="SIGTERM"),
    pytest.param(signal.SIGINT, id="SIGINT"),
]


def interrupting(base: Path, number: signal.Signals) -> list[str]:
    """Return options under which certbot gets a signal at its first reload."""
    script = f'[ "$verb" != reload ] || ! once || kill -{int(number)} $PPID'
    return ["--postfix-ctl", in_front_of("postfix", base, script)]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_deployment_is_undone_at_a(postfix, base, certbot, issued, number):
    before = State(certbot, postfix)

    done = install(certbot, postfix, *interrupting(base, number))

    assert done.returncode != 0
    assert UNDONE in told(done)
    # certbot's own words for Ctrl-C.
    assert number.name in told(done) or "Exiting due to user request" in told(done)
    before.assert_kept()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_renewal_is_undone_at_a(postfix, base, certbot, obtained, number):
    before = State(certbot, postfix)

    done = renew(certbot, *interrupting(base, number))

    assert done.returncode != 0
    assert number.name in told(done)
    assert "the previous files were restored" in told(done)
    assert live(certbot) != obtained
    before.assert_kept()


@pytest.mark.parametrize("number", SIGNALS)
def test_postfix_is_started_again_though_an_undo_is_told_to_end_by_a(
    postfix, base, certbot, issued, authority, number
):
    deploy(certbot, postfix)
    renew_lineage(certbot.config_dir, NAME, authority.issue(NAME))
    before, main_cf = State(certbot, postfix), shlex.quote(str(postfix.main_cf))
    # Every smtpd dies at its start, until the second reload.
    script = f"""
    case "$verb" in
    reload)
        if once; then
            cp -p {main_cf} {base}/whole
            echo smtpd_helo_required = maybe >> {main_cf}
            touch -r {base}/whole {main_cf}
        else
            cp -p {base}/whole {main_cf}
        fi ;;
    stop)
        postfix "$@"
        touch {base}/stopped
        kill -{int(number)} $PPID
        exit 0 ;;
    esac
    """
    disturbed = in_front_of("postfix", base, script)

    done = missed(
        certbot, postfix, "--postfix-ctl", disturbed, "--postfix-verify-timeout", "3"
    )

    assert (base / "stopped").exists()
    assert done.returncode == 1
    assert "the previous files were restored" in told(done)
    before.assert_kept()


# A reload that would be fatal


@pytest.mark.parametrize("deployed", [False, True], ids=["deployment", "renewal"])
def test_a_port_that_another_program_has_taken_stops_a(
    postfix, certbot, issued, authority, deployed
):
    if deployed:
        deploy(certbot, postfix)
        renew_lineage(certbot.config_dir, NAME, authority.issue(NAME))
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with postfix.master_cf.open("a") as file:
            file.write(f"{LOOPBACK}:{port} inet n - n - - smtpd\n")
        postfix.settle()
        before, master = State(certbot, postfix), postfix.master_pid

        done = missed(certbot, postfix) if deployed else install(certbot, postfix)

        assert done.returncode == 1
        assert f"port {port} of {LOOPBACK} in " in (told(done))
        assert postfix.master_pid == master
        before.assert_kept()


# What certbot's other verbs and a plain `certbot renew` make of it


def missed(certbot: Certbot, postfix: PrivatePostfix, *args: str) -> Done:
    """Run `certbot renew` while nothing is due; whether that fails is a result."""
    return certbot("renew", *options(postfix), *args)


def interrupt(certbot: Certbot) -> None:
    """Make the newest deployment one that was killed before it ended."""
    newest = max((certbot.work_dir / "backups").iterdir())
    newest.rename(certbot.work_dir / "IN_PROGRESS")


def test_a_renewal_that_was_not_proven_is_tried_again_by_the_next_run(
    impostor, postfix, certbot, issued, authority
):
    deploy(certbot, postfix)
    newer = authority.issue(NAME)
    renew_lineage(certbot.config_dir, NAME, newer)

    done = missed(certbot, postfix, *impostor.options)

    assert done.returncode == 1
    assert "the previous files were restored" in told(done)
    assert served(postfix) == everywhere(issued.leaf)

    done = missed(certbot, postfix)

    assert done.returncode == 0, done.stderr
    assert served(postfix) == everywhere(newer.leaf)


def test_a_deployment_that_was_interrupted_is_undone_though_nothing_is_due(
    postfix, certbot, issued
):
    before = State(certbot, postfix)
    deploy(certbot, postfix)
    interrupt(certbot)

    done = missed(certbot, postfix)

    assert done.returncode == 0, done.stderr
    assert "undoing what an interrupted run of certbot had begun" in told(done)
    before.assert_kept()


def test_a_rollback_counts_the_deployment_that_was_interrupted(
    postfix, certbot, issued
):
    deploy(certbot, postfix)
    before = State(certbot, postfix)
    done = install(certbot, postfix, "--postfix-tls-profile", "intermediate")
    assert done.returncode == 0, done.stderr
    interrupt(certbot)

    done = certbot("rollback", *options(postfix))

    assert done.returncode == 0, done.stderr
    before.assert_kept()


def test_a_read_only_configuration_is_no_hindrance_to_a_renewal(
    postfix, certbot, issued, authority
):
    deploy(certbot, postfix)
    newer = authority.issue(NAME)
    renew_lineage(certbot.config_dir, NAME, newer)
    where = str(postfix.config_dir)

    with mounted(postfix.config_dir, "--bind", where):
        subprocess.run(["mount", "-o", "remount,bind,ro", where], check=True)
        done = missed(certbot, postfix)

    assert done.returncode == 0, done.stderr
    assert served(postfix) == everywhere(newer.leaf)


def test_a_configuration_directory_that_is_missing_is_not_said_to_be_locked(
    stopped_postfix, base, certbot, issued
):
    done = certbot(
        *("install", "--cert-name", NAME, "-i", "postfix"),
        *("--postfix-config-dir", str(base / "none")),
    )

    assert done.returncode == 1
    assert f"could not lock {base / 'none'}: " in told(done)
    assert "Hint: see that it exists, and is Postfix's configuration" in told(done)


# certbot's own undo, which reverts the newest checkpoint, whoever made it


def checkpoint_of_another_installer(certbot: Certbot, path: Path) -> None:
    """Change *path*, as another installer of certbot's would."""
    work_dir = certbot.work_dir
    reverter = Reverter(
        SimpleNamespace(
            backup_dir=str(work_dir / "backups"),
            in_progress_dir=str(work_dir / "IN_PROGRESS"),
            temp_checkpoint_dir=str(work_dir / "temp_checkpoint"),
            strict_permissions=False,
        )
    )
    path.write_text("before\n")
    reverter.add_to_checkpoint({str(path)}, "changed")
    path.write_text("after\n")
    reverter.finalize_checkpoint("Another installer")


@pytest.mark.parametrize("newest", ["ours", "another installer's"])
def test_a_failure_that_changed_nothing_reverts_no_checkpoint(
    impostor, postfix, base, certbot, issued, newest
):
    deploy(certbot, postfix)
    other = base / "other.conf"
    other.write_text("after\n")
    if newest != "ours":
        checkpoint_of_another_installer(certbot, other)
    before = State(certbot, postfix)
    disturbed = impostor.options
    impostor.begin()

    done = install(certbot, postfix, *disturbed)

    assert done.returncode == 1
    assert "is already configured" in told(done)
    assert impostor.reported(done)
    assert other.read_text() == "after\n"
    impostor.end()
    before.assert_kept()


def test_the_verb_rollback_reverts_the_newest_checkpoint_whoever_made_it(
    postfix, base, certbot, issued
):
    snake_oil, original = served(postfix), postfix.snapshot()
    deploy(certbot, postfix)
    deployed = postfix.snapshot()
    other = base / "other.conf"
    checkpoint_of_another_installer(certbot, other)

    done = certbot("rollback", *options(postfix))

    assert done.returncode == 0, done.stderr
    assert other.read_text() == "before\n"
    assert postfix.snapshot() == deployed
    assert served(postfix) == everywhere(issued.leaf)

    done = certbot("rollback", *options(postfix))

    assert done.returncode == 0, done.stderr
    assert postfix.snapshot() == original
    assert served(postfix) == snake_oil
