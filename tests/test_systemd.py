"""The package and its example units, under a real systemd.

These tests change the system that they run on: `tools/distro-test --systemd` runs them
in a root directory of their own, whose init is systemd.
"""

import os
import shutil
from pathlib import Path

import pytest

from tests.lab.machine import accepts, wait_until
from tests.lab.postfix import shown
from tests.test_distribution import (
    LETSENCRYPT,
    NAME,
    acme_server,
    deploy,
    due,
    live,
    master,
    must,
    run,
)

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.skipif(
        "UNDER_SYSTEMD" not in os.environ,
        reason="changes the system it runs on: run by tools/distro-test --systemd",
    ),
]

EXAMPLES = Path("/usr/share/doc/python3-certbot-postfix/examples")
MAILBOX = Path("/var/mail/root")


def test_certbots_timer_renews_and_the_example_units_refresh_check_and_mail():
    answers = "postfix postfix/main_mailer_type select Internet Site\n"
    must("debconf-set-selections", text=f"{answers}postfix postfix/mailname string x.y")
    must("dpkg-reconfigure", "--frontend=noninteractive", "postfix")
    must("postconf", "-e", f"myhostname = {NAME}", "mydestination = x.y, localhost")
    must("systemctl", "restart", "postfix")
    wait_until(lambda: accepts(25), "Postfix answers")

    with acme_server():
        deploy()
        assert shown(25) == live()
        old, pid = live(), master()
        due()
        must("systemctl", "start", "certbot.service")
    assert shown(25) == live() != old
    assert master() == pid
    assert must("ps", "-o", "unit=", "-p", str(pid)).startswith("postfix")

    for path in EXAMPLES.glob("*.[st]*"):
        shutil.copy(path, "/etc/systemd/system")
    must("systemctl", "daemon-reload")
    timers = ("certbot-postfix-check.timer", "certbot-postfix-policy.timer")
    must("systemctl", "enable", "--now", *timers)
    assert all(timer in must("systemctl", "list-timers") for timer in timers)
    must("systemctl", "start", "certbot-postfix-policy.service")
    must("systemctl", "start", "certbot-postfix-check.service")
    assert not MAILBOX.exists()

    conf = LETSENCRYPT / f"renewal/{NAME}.conf"
    conf.write_text(conf.read_text().replace("installer = postfix\n", ""))
    assert run("systemctl", "start", "certbot-postfix-check.service").returncode
    wait_until(MAILBOX.exists, "root has mail")
    assert "certbot-postfix-check.service failed" in MAILBOX.read_text()
    assert "renewal-not-deployed" in MAILBOX.read_text()
