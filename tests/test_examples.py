"""The examples in the documentation are what the programs accept that read them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from certbot_postfix.formats import starttls_everywhere
from certbot_postfix.formats.policy import Mode, Policy
from tests.lab import NEWEST, Certbot, Pebble, PrivatePostfix

EXAMPLES = Path(__file__).parents[1] / "docs/examples"
UNITS = sorted(EXAMPLES.glob("*.service")) + sorted(EXAMPLES.glob("*.timer"))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd")
def test_systemd_accepts_the_units():
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, UNITS)],
        check=False,
        capture_output=True,
        text=True,
    )

    assert UNITS
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_list_of_policies_in_the_documentation_is_one():
    page = (EXAMPLES.parent / "outbound-tls.rst").read_text()
    text = page.partition("to pin your partners::\n")[2]

    found = starttls_everywhere.parse(text.partition("\n*")[0].encode(), "it")

    assert found.policies == {
        "example.com": Policy(Mode.ENFORCE, ("mx.example.com", ".example.net")),
        "partner.example": Policy(Mode.ENFORCE, (".mail.example.net",)),
    }


ANSIBLE = NEWEST.with_name("ansible-playbook")
NAME = "mx.example.org"


class Playbook:
    """The playbook for Ansible, run on this machine with the lab's certbot."""

    def __init__(self, certbot: Certbot, postfix: PrivatePostfix, base: Path) -> None:
        beside = os.pathsep.join((str(ANSIBLE.parent), os.defpath, "/usr/sbin"))
        self.environment = certbot.environment | {
            "PATH": beside,
            "LANG": "C.UTF-8",
            "HOME": str(base),
        }
        there = str(postfix.config_dir)
        options = certbot.argv("--postfix-config-dir", there)[1:]
        ours = ["--postfix-config-dir", there, "--config-dir", str(certbot.config_dir)]
        self.settings = {
            "certificate": NAME,
            "as_root": False,
            "ansible_python_interpreter": sys.executable,
            "certbot_options": options,
            "certbot_postfix_options": ours,
        }

    def __call__(self, *arguments: str) -> str:
        """Run it; return what it says at its end of what it did."""
        done = subprocess.run(
            [
                *(ANSIBLE, "--connection", "local", "--inventory", "localhost,"),
                *("--extra-vars", json.dumps(self.settings), *arguments),
                EXAMPLES / "ansible/playbook.yml",
            ],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return " ".join(done.stdout.rpartition("PLAY RECAP")[2].split())


@pytest.mark.postfix
@pytest.mark.skipif(not ANSIBLE.exists(), reason="there is no Ansible")
def test_ansible_deploys_certificate_and_profile_once(
    postfix: PrivatePostfix, base: Path, pebble: Pebble
):
    play = Playbook(Certbot(base, pebble=pebble), postfix, base)

    assert "changed=1 " in play()

    deployed = postfix.snapshot()
    assert b"smtpd_tls_auth_only = yes" in deployed["main.cf"].content
    assert f"{NAME}.pem".encode() in deployed["main.cf"].content
    assert "ok=1 changed=0 " in play()
    assert "ok=1 changed=0 " in play("--check")
    assert postfix.snapshot() == deployed
