"""The package comes, works and goes, beside a distribution's own certbot and Postfix.

These tests change the system that they run on: `make distro-test` runs them in a root
directory of their own, and says in PACKAGE which package to install.
"""

import json
import os
import re
import shutil
import smtplib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509

from tests.lab import Pebble, base_directory
from tests.lab.machine import accepts, wait_until
from tests.lab.postfix import Entry, shown, snapshot

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.skipif(
        "PACKAGE" not in os.environ,
        reason="changes the system it runs on: run by make distro-test",
    ),
]

FIRST = os.environ.get("FIRST", "/nonexistent")

NAME, SHOP = "mx.example.org", "shop.example.net"
NAMES = {"smtp": 25, "submission": 587}

ETC = Path("/etc/postfix")
LETSENCRYPT = Path("/etc/letsencrypt")
BUNDLE = LETSENCRYPT / f"postfix/{NAME}.pem"
UNITS = Path("/usr/lib/systemd/system")

# What systemd gives to a system service: systemd.exec(5), no HOME among it.
TIMER = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
    "LANG": "C.UTF-8",
    "INVOCATION_ID": "0" * 32,
    "SYSTEMD_EXEC_PID": "1",
}
SHELL = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}

SUBMISSION = """\
submission inet n       -       y       -       -       smtpd
  -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt
"""


def run(
    *argv: str, env: dict[str, str] = SHELL, text: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command without a terminal; whether it fails is a result."""
    return subprocess.run(
        argv,
        check=False,
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
        start_new_session=True,
        **({"input": text} if text else {"stdin": subprocess.DEVNULL}),
    )


def must(*argv: str, text: str | None = None) -> str:
    """Run a command that has to succeed; return what it said."""
    done = run(*argv, text=text)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout + done.stderr


def timer() -> "subprocess.CompletedProcess[str]":
    """Do what certbot.service does."""
    unit = (UNITS / "certbot.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    return run(*command.split(), env=TIMER)


def due(name: str = NAME) -> None:
    """Make certbot want to renew, at each of its runs."""
    conf = LETSENCRYPT / f"renewal/{name}.conf"
    lines = conf.read_text().splitlines(keepends=True)
    kept = [line for line in lines if "renew_before_expiry" not in line]
    conf.write_text("renew_before_expiry = 100 days\n" + "".join(kept))


def install_package(path: str) -> None:
    options = ("-y", "--no-install-recommends", "--allow-downgrades")
    must("apt-get", "install", *options, path)


def certbot(*arguments: str) -> str:
    """Run certbot as an administrator would, once and for all."""
    return must("certbot", *arguments, "--non-interactive")


def deploy(*options: str, name: str = NAME) -> None:
    certbot("run", "-a", "standalone", "-i", "postfix", "-d", name, *options)


def live(name: str = NAME) -> x509.Certificate:
    """Return the certificate that certbot has."""
    pem = (LETSENCRYPT / f"live/{name}/cert.pem").read_bytes()
    return x509.load_pem_x509_certificate(pem)


def served() -> set[x509.Certificate]:
    """Return what the ports of Postfix show."""
    return {shown(port) for port in NAMES.values()}


def master() -> int:
    return int(Path("/var/spool/postfix/pid/master.pid").read_text())


def settings() -> dict[str, Entry]:
    """Return the whole of Postfix's configuration."""
    return snapshot(ETC)


@contextmanager
def acme_server() -> Iterator[None]:
    """An ACME server that this system trusts, and that its certbot uses."""
    with base_directory() as base, Pebble(base) as pebble:
        authority = Path("/usr/local/share/ca-certificates/pebble.crt")
        shutil.copy(pebble.ca_bundle, authority)
        must("update-ca-certificates")
        LETSENCRYPT.mkdir(exist_ok=True)
        (LETSENCRYPT / "cli.ini").write_text(
            f"server = {pebble.directory_url}\n"
            f"http-01-port = {pebble.http_port}\n"
            "agree-tos = true\nregister-unsafely-without-email = true\n"
            "max-log-backups = 0\n"
        )
        yield


@pytest.fixture(scope="module", autouse=True)
def acme() -> Iterator[None]:
    with acme_server():
        yield


@pytest.fixture(scope="module", autouse=True)
def postfix() -> Iterator[None]:
    """Postfix as Debian configures it, in its chroot, with a service for submission."""
    answers = "postfix postfix/main_mailer_type select Internet Site\n"
    must("debconf-set-selections", text=f"{answers}postfix postfix/mailname string x.y")
    must("dpkg-reconfigure", "--frontend=noninteractive", "postfix")
    must("postconf", "-e", f"myhostname = {NAME}")
    with (ETC / "master.cf").open("a") as entries:
        entries.write(SUBMISSION)
    must("/etc/init.d/postfix", "start")
    wait_until(lambda: all(map(accepts, NAMES.values())), "Postfix answers")
    try:
        yield
    finally:
        must("/etc/init.d/postfix", "stop")


@contextmanager
def installed(path: str) -> Iterator[None]:
    """A package, installed; afterwards neither it nor a certificate is there."""
    before = settings()
    install_package(path)
    try:
        yield
    finally:
        install_package(os.environ["PACKAGE"])
        run("certbot", "rollback", "--checkpoints", "9", "-i", "postfix", "-n")
        must("apt-get", "purge", "-y", "python3-certbot-postfix")
        for name in ("archive", "live", "renewal", "postfix"):
            shutil.rmtree(LETSENCRYPT / name, ignore_errors=True)
        assert settings() == before


@pytest.fixture
def package() -> Iterator[str]:
    with installed(os.environ["PACKAGE"]):
        yield "python3-certbot-postfix"


@pytest.fixture
def first() -> Iterator[None]:
    """Version 0.1.0."""
    if must("postconf", "-dh", "default_database_type").strip() != "hash":
        pytest.skip("0.1.0 needs a Postfix with Berkeley DB, as Debian 12 and 13 have")
    with installed(FIRST):
        yield


def newer(path: str, place: Path) -> str:
    """Return the package once more, as a later version of it."""
    tree, later = place / "tree", place / "python3-certbot-postfix_later_all.deb"
    must("dpkg-deb", "--raw-extract", path, str(tree))
    control = tree / "DEBIAN/control"
    control.write_text(re.sub("(?m)^(Version: .*)$", r"\1+later", control.read_text()))
    must("dpkg-deb", "--build", str(tree), str(later))
    return str(later)


def test_to_install_the_package_changes_nothing_in_postfix_or_certbot():
    before, pid = (settings(), snapshot(LETSENCRYPT)), master()

    install_package(os.environ["PACKAGE"])

    assert (settings(), snapshot(LETSENCRYPT)) == before
    assert master() == pid
    assert "* postfix" in certbot("plugins")
    must("apt-get", "purge", "-y", "python3-certbot-postfix")
    assert (settings(), master()) == (before[0], pid)


def test_the_story_of_a_certificate_renewed_by_the_timer(package):
    before, oil = settings(), served()

    deploy()
    assert served() == {live()} != oil
    deployed = settings()

    quiet = timer()
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    old = live()
    due()
    quiet = timer()
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert served() == {live()} != {old}
    assert settings() == deployed
    assert "No problems found" in must("certbot-postfix", "status")

    certbot("rollback", "-i", "postfix")
    assert (settings(), served()) == (before, oil)


def test_a_renewal_is_deployed_though_services_turn_this_machine_away(package):
    deploy()
    old = live()
    due()
    # Postfix turns away whoever connects, so that no certificate is ever shown.
    must(
        "postconf", "-e", "smtpd_delay_reject = no", "smtpd_client_restrictions=reject"
    )
    must("postfix", "reload")

    done = timer()

    must("postconf", "-#", "smtpd_delay_reject", "smtpd_client_restrictions")
    must("postconf", "-X", "smtpd_delay_reject", "smtpd_client_restrictions")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    must("postfix", "reload")

    def serves() -> bool:
        # A process of before the reload still turns its last client away.
        with suppress(smtplib.SMTPException):
            return served() == {live()} != {old}
        return False

    wait_until(serves, "Postfix serves the renewed one")


def test_an_upgrade_keeps_renewals_going(package, tmp_path):
    deploy()
    old, deployed, pid = live(), settings(), master()

    install_package(newer(os.environ["PACKAGE"], tmp_path))

    assert (settings(), master(), served()) == (deployed, pid, {old})
    due()
    assert timer().returncode == 0
    assert served() == {live()} != {old}


@pytest.mark.skipif(
    not Path(FIRST).exists(), reason="this clone lacks the commit of version 0.1.0"
)
def test_what_0_1_0_deployed_is_renewed_and_rolled_back_after_an_upgrade(first):
    before, oil = settings(), served()
    policies = publish("example.org")
    deploy("--postfix-tls-profile", "intermediate", "--postfix-policy-list", policies)
    alone = settings()
    deploy("--postfix-policy-list", policies, name=SHOP)
    assert via_sni() == {NAME: live(), SHOP: live(SHOP)}
    deployed, pid, old = settings(), master(), live()

    install_package(os.environ["PACKAGE"])

    assert (settings(), master(), served()) == (deployed, pid, {old})
    assert "No problems found" in must("certbot-postfix", "status")
    due()
    due(SHOP)
    quiet = timer()
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert via_sni() == {NAME: live(), SHOP: live(SHOP)}
    assert live() != old
    assert settings()["main.cf"] == deployed["main.cf"]
    publish("example.org", "example.net")
    must("certbot-postfix", "policy", "refresh")
    assert "mx.test" in must("certbot-postfix", "policy", "test", "example.net")
    assert "No problems found" in must("certbot-postfix", "status")

    certbot("rollback", "-i", "postfix")
    assert via_sni() == {NAME: live(), SHOP: live()}
    assert settings()["main.cf"] == alone["main.cf"]
    certbot("rollback", "-i", "postfix")
    assert (settings(), served()) == (before, oil)


def publish(*domains: str) -> str:
    """Write a list of policies for *domains*; return its path."""
    policies = {name: {"mode": "enforce", "mxs": ["mx.test"]} for name in domains}
    times = {"timestamp": time.time() - 60, "expires": time.time() + 86400}
    path = LETSENCRYPT / "list.json"
    path.write_text(json.dumps({"version": "0.1", **times, "policies": policies}))
    return str(path)


def via_sni() -> dict[str, x509.Certificate]:
    """Return what clients that request each name get."""
    return {name: shown(25, sni=name) for name in (NAME, SHOP)}


@pytest.mark.parametrize("how", ["remove", "purge"])
def test_without_the_package_postfix_serves_on(package, how):
    deploy()
    deployed, bundle = settings(), BUNDLE.read_bytes()
    files = must("dpkg", "-L", package).split()

    said = must("apt-get", how, "-y", package)

    assert "no longer renewed" in said
    must("postfix", "reload")
    assert served() == {live()}
    assert (settings(), BUNDLE.read_bytes()) == (deployed, bundle)
    ours = [
        path for path in files if "certbot_postfix" in path or "certbot-postfix" in path
    ]
    assert ours
    assert not [path for path in ours if Path(path).exists()]
    # certbot renews on without a word, and forgets its installer (README.Debian).
    old = live()
    due()
    done = timer()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert served() == {old} != {live()}
    install_package(os.environ["PACKAGE"])
    told = run("certbot-postfix", "status")
    assert (told.returncode, "stale" in told.stdout) == (3, True), told.stdout
    deploy()
    assert served() == {live()}
    assert "installer = postfix" in (LETSENCRYPT / f"renewal/{NAME}.conf").read_text()


def test_back_to_plain_files_before_the_package_goes(package):
    deploy()

    assert run("certbot-postfix", "forget", NAME).returncode == 3  # a hook is needed
    assert str(LETSENCRYPT / f"live/{NAME}") in must("postconf", "-n")
    assert not BUNDLE.exists()
    said = must("apt-get", "remove", "-y", package)

    assert "no longer renewed" not in said
    must("postfix", "reload")
    assert served() == {live()}
    due()
    hook = LETSENCRYPT / "renewal-hooks/deploy/postfix"
    hook.write_text("#!/bin/sh\nexec postfix reload\n")
    hook.chmod(0o755)
    timer()
    hook.unlink()
    wait_until(lambda: served() == {live()}, "Postfix serves what certbot renewed")
