"""What was deployed beside one release of Postfix works on beside the next one.

`make distro-test` deploys in a root directory of the older distribution, and moves
configuration and files into one of the newer, where other types of databases are usual.
EXCHANGE is the directory between them.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from certbot_postfix.inbound import sni
from certbot_postfix.outbound import update
from tests.lab import Authority, Issued, install_lineage, renew_lineage
from tests.lab.machine import accepts, wait_until
from tests.lab.postfix import shown
from tests.test_distribution import ETC, LETSENCRYPT, must, run
from tests.test_lists import written

EXCHANGE = Path(os.environ.get("EXCHANGE", "/nonexistent"))
ARCHIVE = EXCHANGE / "deployed.tar"

pytestmark = [
    pytest.mark.postfix,
    pytest.mark.skipif(
        "EXCHANGE" not in os.environ,
        reason="changes the system it runs on: run by make distro-test",
    ),
]

NAME = "mx.example.org"
# So many that both maps are databases.
SHOP = ["shop.example.net", *(f"m{at}.example.net" for at in range(sni.LARGE))]
DOMAINS = [f"domain{at}.example.org" for at in range(update.LARGE + 1)]
LIST = LETSENCRYPT / "list.json"
MAPS = [ETC / "certbot_sni", ETC / "certbot_tls_policy"]

MOVE = f"certbot install -i postfix --cert-name {NAME}"


def start() -> None:
    must("postconf", "-e", f"myhostname = {NAME}", "inet_interfaces = 127.0.0.1")
    must("/etc/init.d/postfix", "start")
    wait_until(lambda: accepts(25), "Postfix answers")


def served(*names: str) -> list[bytes]:
    return [shown(25, sni=name).public_bytes(_DER) for name in names]


def renewed(name: str, *names: str) -> Issued:
    """Renew a lineage, as certbot does before anybody is told."""
    issued = Authority().issue(*names)
    renew_lineage(LETSENCRYPT, name, issued)
    return issued


def types() -> list[str]:
    """Return the types of the two maps."""
    values = must("postconf", "-h", "tls_server_sni_maps", "smtp_tls_policy_maps")
    return [line.partition(":")[0] for line in values.split()]


def demanded(domain: str) -> str:
    done = run("certbot-postfix", "policy", "test", domain)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(ARCHIVE.exists(), reason="that was in the older one")
def test_certificates_and_policies_are_deployed_in_databases():
    answers = "postfix postfix/main_mailer_type select Internet Site\n"
    must("debconf-set-selections", text=f"{answers}postfix postfix/mailname string x.y")
    must("dpkg-reconfigure", "--frontend=noninteractive", "postfix")
    start()
    authority = Authority()
    for name, names in ((NAME, [NAME]), ("shop", SHOP), ("spare", ["spare.test"])):
        install_lineage(LETSENCRYPT, name, authority.issue(*names))
        LIST.write_bytes(written(*DOMAINS))
        policies = ("--postfix-policy-list", str(LIST))
        must(
            "certbot", "install", "-n", "-i", "postfix", "--cert-name", name, *policies
        )
    must("/etc/init.d/postfix", "stop")

    assert types() == ["hash", "hash"]
    must("tar", "-cf", str(ARCHIVE), str(LETSENCRYPT), *map(str, _configuration()))


@pytest.fixture(params=["deprecated", "redirected"])
def upgraded(request: pytest.FixtureRequest) -> Iterator[str]:
    """The configuration of the older one, in service."""
    shutil.rmtree(LETSENCRYPT, ignore_errors=True)
    for path in _configuration():
        path.unlink(missing_ok=True)
    must("tar", "-xf", str(ARCHIVE), "-C", "/")
    if request.param == "redirected":
        must("postconf", "-e", "non_bdb_migration_level = enable-redirect")
        for path, options in zip(MAPS, (["-F"], []), strict=True):
            must("postmap", *options, f"hash:{path}")
    start()
    try:
        yield request.param
    finally:
        must("/etc/init.d/postfix", "stop")


@pytest.mark.skipif(not ARCHIVE.exists(), reason="that is for the newer one")
def test_they_are_looked_after_and_move_to_another_type(upgraded):
    before = (ETC / "main.cf").read_bytes()
    assert "deferred" not in run("certbot-postfix", "status").stdout
    assert "mx.org" in demanded(DOMAINS[0])

    issued = [renewed(NAME, NAME), renewed("shop", *SHOP)]
    done = run("certbot", "renew")
    assert (done.returncode, MOVE in done.stderr) == (0, True), done.stderr
    assert served(NAME, *SHOP[::50]) == _leaves(*issued)

    LIST.write_bytes(written(*DOMAINS, "new.example.com"))
    done = run("certbot-postfix", "policy", "refresh")
    assert (done.returncode, MOVE in done.stderr) == (3, True), done.stderr
    assert "mx.org" in demanded("new.example.com")
    must("certbot-postfix", "forget", "spare")
    assert (ETC / "main.cf").read_bytes() == before

    must(*MOVE.split(), "-n")
    usual = must("postconf", "-h", "default_database_type").strip()
    assert types() == [usual, usual]
    assert not [path for path in _configuration() if path.suffix == ".db"]
    assert served(NAME, *SHOP[::50]) == _leaves(*issued)
    assert "mx.org" in demanded("new.example.com")
    assert "deferred" not in run("certbot-postfix", "status").stdout
    assert MOVE not in must("certbot-postfix", "policy", "refresh")

    must("certbot", "rollback", "-n", "-i", "postfix")
    assert types() == ["hash", "hash"]
    assert served(NAME, *SHOP[::50]) == _leaves(*issued)
    assert "mx.org" in demanded("new.example.com")


def _configuration() -> list[Path]:
    """Return what of the configuration is not of a package."""
    named = (ETC / "main.cf", ETC / "master.cf", Path("/etc/mailname"))
    return [*named, *ETC.glob("certbot_*")]


def _leaves(default: Issued, shop: Issued) -> list[bytes]:
    leaves = [default, *[shop] * len(SHOP[::50])]
    return [each.leaf.public_bytes(_DER) for each in leaves]


_DER = serialization.Encoding.DER
