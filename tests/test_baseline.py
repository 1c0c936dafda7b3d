"""What answered before a change answers after it, or after its undo.

A real certbot and a real Postfix, of which one thing is broken before.
"""

import re
import socket
import subprocess
from pathlib import Path

import pytest

from tests.lab import Authority, Certbot, PrivatePostfix, install_lineage
from tests.lab.machine import LOOPBACK
from tests.lab.postfix import SERVICES

pytestmark = pytest.mark.postfix

NAME = "mx.example.org"
UNDONE = "we successfully restored your server to its prior configuration"

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def certbot(base: Path, authority: Authority) -> Certbot:
    """A certbot with a lineage that no ACME server knows."""
    certbot = Certbot(base)
    install_lineage(certbot.config_dir, NAME, authority.issue(NAME))
    return certbot


def install(certbot: Certbot, postfix: PrivatePostfix, *args: str) -> Done:
    """Deploy the lineage; whether that fails is a result."""
    options = ["-i", "postfix", "--postfix-config-dir", str(postfix.config_dir)]
    return certbot("install", "--cert-name", NAME, *options, *args)


def told(done: Done) -> str:
    """Return all that a user could read, as one line."""
    return " ".join((done.stdout + done.stderr).split())


def greeting(postfix: PrivatePostfix, service: str = "smtp") -> bytes:
    """Return the first bytes that *service* says, none if it does not answer."""
    try:
        where = LOOPBACK, postfix.ports[service]
        with socket.create_connection(where, 5) as connection:
            return connection.recv(3)
    except OSError:
        return b""


def without_tls(postfix: PrivatePostfix) -> None:
    """Have TLS nowhere, as in a configuration that never had it."""
    text = postfix.master_cf.read_text()
    for option in ("smtpd_tls_security_level=encrypt", "smtpd_tls_wrappermode=yes"):
        text = text.replace(f"  -o {option}\n", "")
    postfix.master_cf.write_text(text)
    postfix.set(smtpd_tls_security_level="none")


def bad_source(postfix: PrivatePostfix) -> None:
    postfix.set(tls_random_source="dev:/nonexistent/random")


def egd(postfix: PrivatePostfix) -> None:
    postfix.set(tls_random_source="egd:/nonexistent/egd")


def foreign_exchange(postfix: PrivatePostfix) -> None:
    exchange = postfix.base / "data" / "prng_exch"
    exchange.touch(mode=0o600)


def missing_program(postfix: PrivatePostfix) -> None:
    daemons = postfix.base / "daemons"
    daemons.mkdir()
    for program in Path(postfix.postconf("-h", "daemon_directory").strip()).iterdir():
        if program.name != "tlsmgr":
            (daemons / program.name).symlink_to(program)
    postfix.set(daemon_directory=str(daemons))


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        pytest.param(bad_source, "cannot open entropy device", id="a bad source"),
        pytest.param(egd, "cannot connect to EGD server", id="an egd"),
        pytest.param(foreign_exchange, "cannot open PRNG exchange file", id="a file"),
        pytest.param(missing_program, "exec .*/tlsmgr: No such file", id="no program"),
    ],
)
def test_after_an_undo_every_port_greets_though_tlsmgr_cannot_run(
    stopped_postfix, certbot, spoil, cause
):
    postfix = stopped_postfix
    without_tls(postfix)
    spoil(postfix)
    postfix.start()
    before = postfix.snapshot()

    done = install(certbot, postfix, "--postfix-verify-timeout", "3")

    assert {name: greeting(postfix, name) for name in SERVICES} == dict.fromkeys(
        SERVICES, b"220"
    )
    assert done.returncode == 1
    assert UNDONE in told(done)
    assert re.search(rf"postfix/(tlsmgr|master)\[\d+\]: .*{cause}", told(done))
    assert "tlsmgr" in told(done)
    assert postfix.snapshot() == before
