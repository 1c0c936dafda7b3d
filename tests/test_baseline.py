"""What answered before a change answers after it, or after its undo.

A real certbot and a real Postfix, of which one thing is broken before.
"""

import re
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from certbot_postfix.system import files
from certbot_postfix.tls import baseline
from tests.lab import (
    Authority,
    Certbot,
    Issued,
    PrivatePostfix,
    commands,
    install_lineage,
    renew_lineage,
)
from tests.lab.certbot import COMMAND
from tests.lab.machine import LOOPBACK, wait_until
from tests.lab.postfix import SERVICES

pytestmark = pytest.mark.postfix

NAME = "mx.example.org"
# Seconds for a service that never answers are waited for in vain.
BRIEF = ("--postfix-verify-timeout", "6")
UNDONE = "we successfully restored your server to its prior configuration"

Done = commands.Done


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


def renew(
    certbot: Certbot, postfix: PrivatePostfix, issued: Issued, *args: str
) -> Done:
    """Renew the lineage and have that made up for; whether that fails is a result."""
    renew_lineage(certbot.config_dir, NAME, issued)
    options = ["-i", "postfix", "--postfix-config-dir", str(postfix.config_dir)]
    return certbot("renew", *options, *args)


def hook(certbot: Certbot, postfix: PrivatePostfix, *args: str) -> Done:
    """Run the deploy hook; its exit status is a result."""
    argv = [
        *(str(COMMAND), "--postfix-config-dir", str(postfix.config_dir)),
        *("--config-dir", str(certbot.config_dir)),
        *("deploy", "--cert-name", NAME, *args),
    ]
    return commands.run(argv, env=certbot.environment)


def override(postfix: PrivatePostfix, services: Iterable[str], **values: str) -> None:
    """Override parameters for *services* in master.cf."""
    for service in services:
        entry = f"{LOOPBACK}:{postfix.ports[service]}/inet"
        options = (f"{entry}/{name}={value}" for name, value in values.items())
        postfix.postconf("-P", *options)
    postfix.settle()


def turn_away(postfix: PrivatePostfix, services: Iterable[str]) -> None:
    """Have *services* reject this machine at once."""
    reject = {"smtpd_delay_reject": "no", "smtpd_client_restrictions": "reject"}
    override(postfix, services, **reject)


def places(postfix: PrivatePostfix, *services: str) -> list[str]:
    return [f"{LOOPBACK}:{postfix.ports[service]}" for service in services]


def reloads(postfix: PrivatePostfix) -> int:
    return postfix.log().count("refreshing the Postfix mail system")


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


# Services that turn this machine away

ACCESS_DENIED = "rejected the test connection: 554 5.7.1 <localhost[127.0.0.1]>: Client"


def test_a_service_that_turns_this_machine_away_ends_an_installation_before_any_change(
    stopped_postfix, certbot
):
    postfix = stopped_postfix
    postfix.start()
    turn_away(postfix, ["smtp", "submission"])
    postfix.reload()
    wait_until(lambda: greeting(postfix) == b"554", "smtp rejects this machine")
    before, count = postfix.snapshot(), reloads(postfix)

    done = install(certbot, postfix)

    smtp, submission = places(postfix, "smtp", "submission")
    assert done.returncode == 1
    assert told(done).count("rejected the test connection") == 1
    assert f"{smtp} and {submission} {ACCESS_DENIED}" in told(done)
    assert "(is smtpd_delay_reject = no?)" in told(done)
    assert "--postfix-verify-timeout 0" in told(done)
    assert postfix.snapshot() == before
    assert not certbot.bundle(NAME).exists()
    assert reloads(postfix) == count


def test_an_installation_that_ends_before_any_change_puts_no_older_bundle_back(
    stopped_postfix, certbot, authority
):
    postfix = stopped_postfix
    postfix.start()
    assert install(certbot, postfix).returncode == 0
    bundle = certbot.bundle(NAME)
    newer = bundle.read_bytes()
    # A renewal that was killed before it was verified has left what it replaced.
    files.backup_name(bundle).write_bytes(authority.issue(NAME).bundle_pem)
    turn_away(postfix, ["smtp"])
    postfix.reload()
    wait_until(lambda: greeting(postfix) == b"554", "smtp rejects this machine")

    done = install(certbot, postfix)

    assert done.returncode == 1
    assert "no changes were made" in told(done)
    assert bundle.read_bytes() == newer


def test_a_limit_for_clients_ends_an_installation_with_a_hint_that_fits(
    postfix, certbot
):
    postfix.set(
        smtpd_client_connection_rate_limit="3", smtpd_client_event_limit_exceptions=""
    )
    postfix.reload()
    wait_until(lambda: greeting(postfix) == b"421", "the limit is reached")
    before = postfix.snapshot()

    done = install(certbot, postfix)

    assert done.returncode == 1
    assert "rejected the test connection: 421 4.7.0 " in told(done)
    assert "smtpd_client_event_limit_exceptions" in told(done)
    assert postfix.snapshot() == before


SHOP = "shop.example.net"
SHOPS = [SHOP, *(f"shop{number}.example.net" for number in range(12))]


def limit(postfix: PrivatePostfix, **limits: str) -> None:
    """Have *limits* for clients, of this machine as well, counted from now on."""
    postfix.set(**limits, smtpd_client_event_limit_exceptions="")
    postfix.reload()
    wait_until(lambda: greeting(postfix) == b"220", "smtp lets this machine in")


_RATE, _COUNT, _TLS = (
    ("smtpd_client_connection_rate_limit", "9", True),
    ("smtpd_client_connection_count_limit", "2", False),
    ("smtpd_client_new_tls_session_rate_limit", "9", True),
)


@pytest.mark.parametrize(
    ("way", "name", "most", "rejected"),
    [
        ("renew", *_RATE),
        ("install", *_COUNT),
        ("renew", *_TLS),
        pytest.param("install", *_RATE, marks=pytest.mark.soak),
        pytest.param("renew", *_COUNT, marks=pytest.mark.soak),
        pytest.param("install", *_TLS, marks=pytest.mark.soak),
    ],
)
def test_clients_of_ours_that_reach_a_limit_undo_no_deployment(
    postfix, certbot, authority, way, name, most, rejected
):
    assert install(certbot, postfix).returncode == 0
    shops = authority.issue(*SHOPS)
    install_lineage(certbot.config_dir, SHOP, shops)
    if way == "renew":
        assert install(certbot, postfix, "--cert-name", SHOP).returncode == 0
        shops = authority.issue(*SHOPS)
        renew_lineage(certbot.config_dir, SHOP, shops)
    limit(postfix, **{name: most})
    master = postfix.master_pid

    options = ["-i", "postfix", "--postfix-config-dir", str(postfix.config_dir)]
    options += ["--postfix-verify-timeout", "5", "--cert-name", SHOP]
    done = certbot(way, *options)

    assert done.returncode == 0, done.stderr
    assert certbot.bundle(SHOP).read_bytes() == shops.bundle_pem
    assert "Verified on " in told(done)
    assert ("Error: too many" in told(done)) == rejected
    assert ("get there was not verified" in told(done)) == rejected
    assert ("exempt the addresses of this machine" in told(done)) == rejected
    assert postfix.master_pid == master
    postfix.set(smtpd_client_event_limit_exceptions="127.0.0.1")
    postfix.reload()
    assert {postfix.served(sni=each) for each in SHOPS} == {shops.leaf}


def test_without_verification_it_is_installed_though_a_service_turns_this_machine_away(
    stopped_postfix, certbot
):
    postfix = stopped_postfix
    postfix.start()
    turn_away(postfix, ["smtp"])
    postfix.reload()

    done = install(certbot, postfix, "--postfix-verify-timeout", "0")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("services", [["smtp"], SERVICES], ids=["one", "all"])
def test_a_renewal_is_deployed_though_this_machine_is_turned_away_by(
    stopped_postfix, certbot, authority, services
):
    postfix = stopped_postfix
    postfix.start()
    assert install(certbot, postfix).returncode == 0
    turn_away(postfix, services)
    postfix.reload()
    wait_until(lambda: greeting(postfix) == b"554", "smtp rejects this machine")
    newer, master = authority.issue(NAME), postfix.master_pid

    done = renew(certbot, postfix, newer)

    assert done.returncode == 0, done.stderr
    assert ACCESS_DENIED in told(done)
    assert "nor could it be verified before the change" in told(done)
    assert certbot.bundle(NAME).read_bytes() == newer.bundle_pem
    assert postfix.served("submissions") == newer.leaf
    assert postfix.master_pid == master


# Services that were dead before


@pytest.fixture
def dying(stopped_postfix: PrivatePostfix) -> PrivatePostfix:
    """A Postfix of which one service dies whenever it starts."""
    override(stopped_postfix, ["submissions"], smtpd_tls_wrappermode="bad")
    stopped_postfix.start()
    return stopped_postfix


def test_a_service_that_was_dead_before_stops_neither_installation_nor_renewal(
    dying, certbot, authority
):
    master, (dead,) = dying.master_pid, places(dying, "submissions")
    words = rf"{dead} did not answer: [^;]*; it did not answer before the change either"

    done = install(certbot, dying, *BRIEF)

    assert done.returncode == 0, done.stderr
    assert re.search(words, told(done))

    newer = authority.issue(NAME)
    done = renew(certbot, dying, newer, *BRIEF)

    assert done.returncode == 0, done.stderr
    assert re.search(words, told(done))
    assert dying.served("smtp") == newer.leaf

    newest = authority.issue(NAME)
    renew_lineage(certbot.config_dir, NAME, newest)
    done = hook(certbot, dying, "--verify-timeout", "6")

    assert done.returncode == 3
    assert re.search(words, told(done))
    assert dying.served("submission") == newest.leaf
    assert dying.master_pid == master


def test_a_renewal_that_no_service_answers_stays_out_and_says_so(
    stopped_postfix, certbot, authority
):
    postfix = stopped_postfix
    postfix.start()
    issued = certbot.bundle(NAME)
    assert install(certbot, postfix).returncode == 0
    old = issued.read_bytes()
    override(postfix, SERVICES, smtpd_tls_wrappermode="bad")
    postfix.reload()
    wait_until(lambda: greeting(postfix) == b"", "smtp is dead")
    master = postfix.master_pid

    done = renew(certbot, postfix, authority.issue(NAME), *BRIEF)

    assert done.returncode == 1
    where = ", ".join(places(postfix, "smtp", "submission"))
    assert f"{where} and " in told(done)
    assert "did not answer" in told(done)
    assert "No Postfix service uses" not in told(done)
    assert "the previous files were restored" in told(done)
    assert issued.read_bytes() == old
    assert postfix.master_pid == master


def test_a_service_that_greets_late_is_verified(stopped_postfix, certbot):
    postfix = stopped_postfix
    late = {"smtpd_delay_reject": "no", "smtpd_client_restrictions": "sleep,6"}
    postfix.start()
    override(postfix, ["smtp"], **late)
    postfix.reload()

    done = install(certbot, postfix)

    assert done.returncode == 0, done.stderr
    assert places(postfix, "smtp")[0] in told(done)
    assert "did not answer" not in told(done)

    master, done = postfix.master_pid, rollback(certbot, postfix)

    assert done.returncode == 0, done.stderr
    assert postfix.master_pid == master


def test_what_slow_services_present_for_many_names_is_served_already(
    stopped_postfix, certbot, authority
):
    postfix = stopped_postfix
    postfix.start()
    assert install(certbot, postfix).returncode == 0
    install_lineage(certbot.config_dir, SHOP, authority.issue(*SHOPS))
    slow = {"smtpd_delay_reject": "no", "smtpd_client_restrictions": "sleep,1"}
    override(postfix, SERVICES, **slow)
    postfix.reload()
    assert install(certbot, postfix, "--cert-name", SHOP).returncode == 0
    count = reloads(postfix)

    again = install(certbot, postfix, "--cert-name", SHOP)
    hooked = hook(certbot, postfix, "--cert-name", SHOP)

    assert again.returncode == 0, again.stderr
    assert "already" in told(again)
    assert hooked.returncode == 0, hooked.stderr
    assert reloads(postfix) == count


# What another process undoes


def rollback(certbot: Certbot, postfix: PrivatePostfix, *args: str) -> Done:
    """Undo the newest deployment; whether that fails is a result."""
    options = ["-i", "postfix", "--postfix-config-dir", str(postfix.config_dir)]
    return certbot("rollback", *options, *args)


def test_a_rollback_to_a_default_whose_tls_never_worked_is_one(
    stopped_postfix, certbot, authority
):
    postfix = stopped_postfix
    (postfix.config_dir / "snakeoil.key").write_bytes(authority.issue(NAME).key_pem)
    override(postfix, ["submissions"], smtpd_tls_wrappermode="no")
    postfix.start()
    before, master = postfix.snapshot(), postfix.master_pid
    assert install(certbot, postfix).returncode == 0

    done = rollback(certbot, postfix)

    assert done.returncode == 0, done.stderr
    assert "Restored the previous configuration." in told(done)
    assert "present no certificate: 454 4.7.0" in told(done)
    assert "it was like that before the change" in told(done)
    assert postfix.snapshot() == before
    assert postfix.master_pid == master


def test_a_rollback_starts_postfix_anew_if_a_service_that_greeted_is_dead(
    postfix, certbot
):
    assert install(certbot, postfix).returncode == 0
    postfix.set(smtpd_helo_required="maybe")
    postfix.reload()
    wait_until(lambda: greeting(postfix) == b"", "smtpd dies when it starts")

    done = rollback(certbot, postfix, *BRIEF)

    assert greeting(postfix) == b"220"
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("died", ["before the installation", "since"])
def test_a_rollback_fails_if_a_service_that_answered_before_the_change_stays_dead(
    stopped_postfix, certbot, died
):
    postfix = stopped_postfix
    dying = {"smtpd_tls_wrappermode": "bad"}
    if died != "since":
        override(postfix, ["submissions"], **dying)
    postfix.start()
    before = postfix.snapshot()["main.cf"]
    assert install(certbot, postfix, *BRIEF).returncode == 0
    if died == "since":
        override(postfix, ["submissions"], **dying)
        postfix.reload()
        wait_until(lambda: greeting(postfix, "submissions") == b"", "it is dead")

    done = rollback(certbot, postfix, *BRIEF)

    assert postfix.snapshot()["main.cf"] == before
    assert f"{places(postfix, 'submissions')[0]} did not answer" in told(done)
    if died == "since":
        assert done.returncode == 1
        assert "the previous files were restored, but" in told(done)
        assert "it answered before the change" in told(done)
    else:
        assert done.returncode == 0, done.stderr
        assert "it did not answer before the change either" in told(done)


@pytest.mark.parametrize("left", ["", "{}", "[1.0, []]", '[1.0, {"a": ["?", "b"]}]'])
def test_a_note_that_was_half_written_hinders_no_undo(left):
    known = baseline.Baseline({"smtp": None}, 2.5)
    start, _, _ = known.note().partition("[")

    assert baseline.noted(["another", known.note()]) == known
    assert baseline.noted([f"{start}{left}"]) is None


def test_an_installation_that_was_killed_leaves_no_service_dead_after_the_next_run(
    stopped_postfix, base, certbot
):
    postfix = stopped_postfix
    without_tls(postfix)
    bad_source(postfix)
    postfix.start()
    before = postfix.snapshot()
    killing = base / "killing"
    killing.write_text(
        """#!/bin/sh
        [ "$3" != reload ] || { postfix "$@"; kill -9 $PPID; }
        exec postfix "$@"
        """
    )
    killing.chmod(0o755)
    install(certbot, postfix, "--postfix-ctl", str(killing))
    wait_until(lambda: greeting(postfix) == b"", "smtpd waits for tlsmgr")
    (checkpoint,) = (certbot.work_dir / "backups").iterdir()
    checkpoint.rename(certbot.work_dir / "IN_PROGRESS")  # a moment earlier

    options = ["-i", "postfix", "--postfix-config-dir", str(postfix.config_dir)]
    done = certbot("renew", *options)

    assert {name: greeting(postfix, name) for name in SERVICES} == dict.fromkeys(
        SERVICES, b"220"
    )
    assert done.returncode == 0, done.stderr
    assert postfix.snapshot() == before
