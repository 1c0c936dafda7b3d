"""The options of policies survive in certbot's renewal configuration, old and new."""

import json

import pytest

from certbot_postfix.outbound import policy_map
from tests.lab import (
    Authority,
    Certbot,
    PrivatePostfix,
    install_lineage,
    renew_lineage,
)
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
    path = stopped_postfix.config_dir / policy_map.NAME
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
    assert done.returncode == 0, done.stderr
    live = certbot.config_dir / f"live/{NAME}/fullchain.pem"
    assert certbot.bundle(NAME).read_bytes().endswith(live.read_bytes())


@pytest.fixture
def install(stopped_postfix: PrivatePostfix, base, authority: Authority):
    """Run ``certbot install`` with options of policies."""
    certbot = Certbot(base)
    install_lineage(certbot.config_dir, NAME, authority.issue(NAME))

    def run(*options: str):
        stopped_postfix.settle()
        where = ("--postfix-config-dir", str(stopped_postfix.config_dir))
        return certbot(
            *("install", "-i", "postfix", "--cert-name", NAME, *where, *options)
        )

    run.certbot = certbot
    return run


def stricter(postfix: PrivatePostfix) -> str:
    postfix.set(smtp_tls_security_level="secure")
    return "secure is already at least as strict as any policy"


def edited(postfix: PrivatePostfix) -> str:
    path = postfix.config_dir / policy_map.NAME
    path.write_text(path.read_text().replace("# {", "# ", 1))
    return f"{path} was edited, and its third line, with what was asked for, cannot"


@pytest.mark.parametrize("stands_against", [stricter, edited])
def test_policies_stop_no_certificate_and_no_renewal(
    install, stopped_postfix: PrivatePostfix, base, authority, stands_against
):
    place = base / "list.json"
    place.write_bytes(written("example.org"))
    done = install("--postfix-policy-list", str(place))
    assert done.returncode == 0, done.stdout + done.stderr
    path = stopped_postfix.config_dir / policy_map.NAME
    told = stands_against(stopped_postfix)
    place.write_bytes(written("example.org", "example.net"))
    issued = authority.issue(NAME)
    directory = install.certbot.config_dir
    renew_lineage(directory, NAME, issued)

    done = install()

    assert done.returncode == 0, done.stdout + done.stderr
    assert install.certbot.bundle(NAME).read_bytes() == issued.bundle_pem
    assert done.stderr.count(told) == 1
    assert entries(path) == [f"example.org {place}"]

    stopped_postfix.settle()
    params = {"postfix_config_dir": str(stopped_postfix.config_dir)}
    install_lineage(directory, "other", authority.issue(NAME), **params)
    done = install.certbot("renew", "--cert-name", "other")

    assert done.returncode == 0, done.stdout + done.stderr
    assert told in done.stderr


def test_an_option_ends_policies_though_their_table_is_gone(
    install, stopped_postfix: PrivatePostfix, base
):
    place = base / "list.json"
    place.write_bytes(written("example.org"))
    done = install("--postfix-policy-list", str(place))
    assert done.returncode == 0, done.stdout + done.stderr
    (stopped_postfix.config_dir / policy_map.NAME).unlink()

    done = install("--postfix-policy-list", "")

    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(stopped_postfix.config_dir.glob(f"{policy_map.NAME}*"))
    assert "smtp_tls_policy_maps" not in stopped_postfix.main_cf.read_text()


def test_a_list_that_cannot_be_one_is_refused(install, stopped_postfix: PrivatePostfix):
    before = stopped_postfix.main_cf.read_bytes()

    done = install("--postfix-policy-list", "http://lists.example.org/list.json")

    assert done.returncode == 1
    assert "is neither a path nor an https URL; no changes were made" in done.stderr
    assert stopped_postfix.main_cf.read_bytes() == before


def entries(path) -> list[str]:
    """Return each domain in the table with its source."""
    lines = path.read_text().splitlines()[3:]
    return [
        f"{demand.split()[0]} {about.partition(' from ')[2]}"
        for about, demand in zip(lines[::2], lines[1::2], strict=True)
    ]


def test_no_certificate_waits_for_a_daemon_that_cannot_be_judged(
    install, stopped_postfix: PrivatePostfix
):
    directory = stopped_postfix.config_dir
    stopped_postfix.set(
        smtp_tls_policy_maps="socketmap:inet:127.0.0.1:1:postfix",
        smtp_tls_CAfile=str(directory),
    )

    done = install()

    assert f"could not read {directory}: Is a directory" in done.stderr
    assert done.returncode == 0, done.stderr
