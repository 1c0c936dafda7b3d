"""Dovecot and Postfix present one certificate, by what the documentation says."""

import contextlib
import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Certbot, PrivatePostfix
from tests.lab.machine import LOOPBACK, Ports, accepts, wait_until
from tests.lab.postfix import shown
from tests.lab.scene import NAME, STANDALONE, options, succeeded

DOVECOT = shutil.which("dovecot", path="/usr/sbin:/usr/bin")

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.skipif(not DOVECOT, reason="there is no Dovecot"),
]

PAGE = (Path(__file__).parents[1] / "docs/howto/dovecot.rst").read_text()


def documented(start: str) -> str:
    """Return the literal block of the page that begins with *start*."""
    (block,) = re.findall(rf"(?s)\n( +{re.escape(start)}.*?)\n\n", PAGE)
    return textwrap.dedent(block) + "\n"


def is_new() -> bool:
    """Whether settings have the names of Dovecot 2.4."""
    argv = [DOVECOT, "--version"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return done.stdout >= "2.4"


@contextlib.contextmanager
def dovecot(base: Path, settings: str) -> Iterator[int]:
    """Run a Dovecot of its own with *settings*; yield its port for IMAP over TLS."""
    ports = Ports(1)
    configuration = base / "dovecot.conf"
    head, users = "", "passdb {\n  driver = static\n  args = nopassword\n}"
    if is_new():
        head = "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
        users = "passdb static {\n}"
    configuration.write_text(
        f"""\
{head}base_dir = {base}/dovecot
state_dir = {base}/dovecot
log_path = {base}/dovecot.log
listen = {LOOPBACK}
protocols = imap
ssl = required
{settings}
{users}
service imap-login {{
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {ports.numbers[0]}
    ssl = yes
  }}
}}
"""
    )
    process = subprocess.Popen([DOVECOT, "-F", "-c", configuration])
    try:
        wait_until(lambda: accepts(ports.numbers[0]), "Dovecot answers")
        yield ports.numbers[0]
    finally:
        process.terminate()
        process.wait()
        ports.release()


def test_dovecot_and_postfix_present_the_renewed_certificate(
    certbot: Certbot, postfix: PrivatePostfix, base: Path
):
    succeeded(certbot("run", *STANDALONE, "-d", NAME, *options(postfix)))
    live = str(certbot.config_dir / "live")
    settings = documented("ssl_cert").replace("/etc/letsencrypt/live", live)
    if is_new():  # as the page says below
        names = (r"ssl_(cert|key) = <", r"ssl_server_\1_file = ")
        settings = re.sub(*names, settings)
    hook = certbot.config_dir / "renewal-hooks/deploy/dovecot"
    hook.write_text(documented("#!/bin/sh"))
    hook.chmod(0o755)
    certbot.environment["CONFIG_FILE"] = str(base / "dovecot.conf")  # doveadm(1)
    with dovecot(base, settings) as port:
        before = shown(port, wrapped=True)
        assert before == postfix.served("submissions")

        done = certbot("renew", "--force-renewal")

        renewed = postfix.served("submissions")
        assert renewed != before, succeeded(done)
        wait_until(lambda: shown(port, wrapped=True) == renewed, "Dovecot presents it")
