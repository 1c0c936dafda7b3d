"""What was deployed beside one release of Postfix works on beside the next ones.

`make distro-test` deploys in a root directory of the oldest distribution, and moves
configuration and files into each of the newer in turn, where other types of databases
may be usual.  EXCHANGE is the directory between them.
"""

import json
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
# Each newer distribution forgets one; a rollback undoes the deployment of the last one.
SPARE = ["spare1", "spare2", "last"]
# So many that both maps are databases.
SHOP = ["shop.example.net", *(f"m{at}.example.net" for at in range(sni.LARGE))]
DOMAINS = [f"domain{at}.example.org" for at in range(update.LARGE + 1)]
LIST = LETSENCRYPT / "list.json"
CHECKPOINTS = Path("/var/lib/letsencrypt")
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


def hand_on() -> None:
    """Put what is deployed into the exchange."""
    files = [LETSENCRYPT, CHECKPOINTS, *_configuration()]
    must("tar", "-cf", str(ARCHIVE), *map(str, files))


def findings() -> set[str]:
    """Return the codes of what `status` reports."""
    report = json.loads(run("certbot-postfix", "status", "--json").stdout)
    return {finding["code"] for finding in report["findings"]}


@pytest.mark.skipif(ARCHIVE.exists(), reason="that was in the oldest one")
def test_certificates_and_policies_are_deployed_in_databases():
    answers = "postfix postfix/main_mailer_type select Internet Site\n"
    must("debconf-set-selections", text=f"{answers}postfix postfix/mailname string x.y")
    must("dpkg-reconfigure", "--frontend=noninteractive", "postfix")
    start()
    authority = Authority()
    spare = [(name, [f"{name}.test"]) for name in SPARE]
    LIST.parent.mkdir(exist_ok=True)
    LIST.write_bytes(written(*DOMAINS))
    for name, names in ((NAME, [NAME]), ("shop", SHOP), *spare):
        install_lineage(LETSENCRYPT, name, authority.issue(*names))
        policies = ("--postfix-policy-list", str(LIST))
        must(
            "certbot", "install", "-n", "-i", "postfix", "--cert-name", name, *policies
        )
    assert findings() == set()
    must("/etc/init.d/postfix", "stop")

    assert types() == ["hash", "hash"]
    hand_on()


@pytest.fixture
def usual() -> str:
    """The type of databases that this Postfix makes unless told otherwise."""
    return must("postconf", "-dh", "default_database_type").strip()


@pytest.fixture(params=["deprecated", "redirected"])
def upgraded(request: pytest.FixtureRequest, usual: str) -> Iterator[None]:
    """The configuration of the older one, in service."""
    if request.param == "redirected" and usual == "hash":
        pytest.skip("this Postfix has Berkeley DB, and redirects nothing")
    for path in (LETSENCRYPT, CHECKPOINTS):
        shutil.rmtree(path, ignore_errors=True)
    for path in _configuration():
        path.unlink(missing_ok=True)
    must("tar", "-xf", str(ARCHIVE), "-C", "/")
    if request.param == "redirected":
        must("postconf", "-e", "non_bdb_migration_level = enable-redirect")
        for path, options in zip(MAPS, (["-F"], []), strict=True):
            must("postmap", *options, f"hash:{path}")
    start()
    try:
        yield
    finally:
        must("/etc/init.d/postfix", "stop")


@pytest.mark.skipif(not ARCHIVE.exists(), reason="that is for the newer ones")
def test_they_are_looked_after_and_move_to_another_type(upgraded, usual):
    before = (ETC / "main.cf").read_bytes()
    moves = usual != "hash"
    noticed = {"deprecated-parameter"} if moves else set()
    assert findings() == noticed
    assert "mx.org" in demanded(DOMAINS[0])

    issued = [renewed(NAME, NAME), renewed("shop", *SHOP)]
    done = run("certbot", "renew")
    assert (done.returncode, MOVE in done.stderr) == (0, moves), done.stderr
    assert served(NAME, *SHOP[::50]) == _leaves(*issued)
    assert findings() == noticed

    LIST.write_bytes(written(*DOMAINS, "new.example.com"))
    done = run("certbot-postfix", "policy", "refresh")
    assert (done.returncode, MOVE in done.stderr) == (3 * moves, moves), done.stderr
    assert "mx.org" in demanded("new.example.com")
    assert findings() == noticed

    spare = next(
        name for name in SPARE if (LETSENCRYPT / f"postfix/{name}.pem").exists()
    )
    must("certbot-postfix", "forget", spare)
    assert served(f"{spare}.test") == served(NAME)
    assert (ETC / "main.cf").read_bytes() == before
    assert findings() == noticed
    if not moves:
        hand_on()

    if moves:
        must(*MOVE.split(), "-n")
        assert types() == [usual, usual]
        assert not [path for path in _configuration() if path.suffix == ".db"]
        assert served(NAME, *SHOP[::50]) == _leaves(*issued)
        assert "mx.org" in demanded("new.example.com")
        assert findings() == set()
        assert MOVE not in must("certbot-postfix", "policy", "refresh")

        must("certbot", "rollback", "-n", "-i", "postfix")

    assert served("last.test") != served(NAME)
    must("certbot", "rollback", "-n", "-i", "postfix")
    assert served("last.test") == served(NAME)
    assert types() == ["hash", "hash"]
    assert served(NAME, *SHOP[::50]) == _leaves(*issued)
    assert "mx.org" in demanded("new.example.com")
    assert findings() == noticed


def _configuration() -> list[Path]:
    """Return what of the configuration is not of a package."""
    named = (ETC / "main.cf", ETC / "master.cf", Path("/etc/mailname"))
    return [*named, *ETC.glob("certbot_*")]


def _leaves(default: Issued, shop: Issued) -> list[bytes]:
    leaves = [default, *[shop] * len(SHOP[::50])]
    return [each.leaf.public_bytes(_DER) for each in leaves]


_DER = serialization.Encoding.DER
