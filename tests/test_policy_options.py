"""The options of policies survive in certbot's renewal configuration, old and new."""

import json

import pytest

from certbot_postfix.policy import table
from tests.lab import Certbot, PrivatePostfix
from tests.test_lists import written

pytestmark = pytest.mark.postfix

NAME = "mx.example.org"


def test_lists_are_followed_on_run_and_on_renewals(
    executable, stopped_postfix: PrivatePostfix, base, pebble
):
    certbot = Certbot(base, executable=executable, pebble=pebble)
    places = [base / "one.json", base / "two, with a blank.json"]
    for number, place in enumerate(places):
        place.write_bytes(written(f"domain{number}.example.org", "both.example.org"))
    options = [part for each in places for part in ("--postfix-policy-list", str(each))]
    done = certbot(
        "run",
        *("-a", "standalone", "-i", "postfix", "-d", NAME, *options),
        *("--postfix-config-dir", str(stopped_postfix.config_dir)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    path = stopped_postfix.config_dir / table.NAME
    assert entries(path) == [
        f"both.example.org {places[1]}",
        f"domain0.example.org {places[0]}",
        f"domain1.example.org {places[1]}",
    ]

    places[0].write_bytes(written("domain2.example.org", "both.example.org", since=0))
    stopped_postfix.settle()
    done = certbot("renew")

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"domain2.example.org {places[0]}" in entries(path)
    head = path.read_text().splitlines()[2]
    assert json.loads(head.removeprefix("# "))["lists"] == list(map(str, places))

    stopped_postfix.settle()
    done = certbot("renew", "--force-renewal")

    assert done.returncode == 0, done.stdout + done.stderr

    # A table that is not ours any more does not keep a certificate from being deployed.
    path.write_text(path.read_text().partition("\n")[2])
    stopped_postfix.settle()
    done = certbot("renew", "--force-renewal")

    assert f"{path} was not written by this plugin" in done.stderr
    live = certbot.config_dir / f"live/{NAME}/fullchain.pem"
    assert certbot.bundle(NAME).read_bytes().endswith(live.read_bytes())


def entries(path) -> list[str]:
    """Return each domain in the table with its source."""
    lines = path.read_text().splitlines()[3:]
    return [
        f"{demand.split()[0]} {about.partition(' from ')[2]}"
        for about, demand in zip(lines[::2], lines[1::2], strict=True)
    ]
