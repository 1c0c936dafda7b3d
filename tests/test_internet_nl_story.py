"""The profile internet-nl on a running Postfix: what is refused, and undone."""

import stat
from contextlib import closing

import pytest

from certbot_postfix.errors import ProofError
from certbot_postfix.inbound.proposal import DeployOptions
from certbot_postfix.options import Profile
from certbot_postfix.postfix.profiles import internet_nl
from tests.lab import PrivatePostfix
from tests.lab.clients import SCREENED, everywhere, negotiate
from tests.lab.machine import LOOPBACK
from tests.lab.postfix import SERVICES, STRANGER
from tests.lab.scene import (
    NAME,
    Checkpoint,
    Scene,
    identity,
    impose,
    options,
    succeeded,
    told,
)

pytestmark = pytest.mark.postfix

REFUSED = (
    "refuse TLS 1.1 and older, weak ciphers, finite-field groups and signatures with"
    " SHA-1"
)
PROFILE = ("--postfix-tls-profile", Profile.INTERNET_NL.value)
WEAK, GOOD = "ALL:@SECLEVEL=0", "ECDHE-{}-AES128-GCM-SHA256"
AUTH = {"ecdsa": "ECDSA", "rsa": "RSA"}


def bad(kind: str) -> dict[str, list[str]]:
    """Return what OpenSSL offers to a server with a *kind* of key, and no other."""
    auth = AUTH[kind]
    tls12 = ["-tls1_2", "-cipher"]
    found = {
        "TLS 1.1": ["-tls1_1", "-cipher", f"a{auth}:@SECLEVEL=0"],
        "SHA-1": [*tls12, f"a{auth}:@SECLEVEL=0", "-sigalgs", f"{auth}+SHA1"],
        "SHA-224": [*tls12, f"a{auth}:@SECLEVEL=0", "-sigalgs", f"{auth}+SHA224"],
        "CBC": [*tls12, f"ECDHE-{auth}-AES128-SHA:@SECLEVEL=0"],
        "CBC with SHA-2": [*tls12, f"ECDHE-{auth}-AES128-SHA256"],
        "ARIA": [*tls12, "ECDHE-ARIA128-GCM-SHA256:ECDHE-ECDSA-ARIA128-GCM-SHA256"],
        "no certificate": [*tls12, "aNULL:@SECLEVEL=0"],
    }
    if kind == "rsa":
        found["key exchange by RSA"] = [*tls12, "kRSA+AESGCM"]
        found["DHE"] = [*tls12, "kDHE+AESGCM"]
    return found


def good(kind: str) -> dict[str, list[str]]:
    auth = AUTH[kind]
    return {
        "TLS 1.2": ["-tls1_2", "-cipher", GOOD.format(auth)],
        "TLS 1.3": [
            *("-tls1_3", "-sigalgs"),
            "RSA-PSS+SHA256" if kind == "rsa" else "ECDSA+SHA256",
        ],
    }


def matrix(
    postfix: PrivatePostfix, kinds: tuple[str, ...]
) -> tuple[set[str], set[str]]:
    """Return which handshakes succeed, and which fail, of bad and good ones."""
    passed, failed = set[str](), set[str]()
    for service in SERVICES:
        for kind in kinds:
            for what, offer in (bad(kind) | good(kind)).items():
                done = negotiate(postfix, service, *offer)
                (passed if done else failed).add(f"{service}, {kind}: {what}")
    return passed, failed


def every(kinds: tuple[str, ...], *, of: tuple[str, ...] = ("bad", "good")) -> set[str]:
    table = {"bad": bad, "good": good}
    return {
        f"{service}, {kind}: {what}"
        for service in SERVICES
        for kind in kinds
        for each in of
        for what in table[each](kind)
    }


@pytest.mark.parametrize(
    "kinds",
    [
        ("ecdsa", "rsa"),
        *(pytest.param((kind,), marks=pytest.mark.soak) for kind in ("ecdsa", "rsa")),
    ],
)
def test_what_internet_nl_calls_bad_succeeds_before_and_fails_after(scene, kinds):
    scene.postfix.start()
    for kind in kinds:
        scene.lineage(kind, NAME, kind=kind)
        succeeded(scene.install(kind))
    assert matrix(scene.postfix, kinds) == (every(kinds), set())

    said = succeeded(scene.install(kinds[-1], *PROFILE))

    assert matrix(scene.postfix, kinds) == (
        every(kinds, of=("good",)),
        every(kinds, of=("bad",)),
    )
    assert REFUSED in said
    for port in scene.postfix.ports.values():
        assert f"{LOOPBACK}:{port}" in said.partition("refuse TLS")[0]


def test_clients_of_postscreen_are_refused_the_same(base, certbot, authority):
    with closing(PrivatePostfix(base, postscreen=True)) as postfix:
        scene = Scene(postfix, certbot, authority)
        issued = scene.lineage(NAME)
        postfix.start()
        succeeded(scene.install(NAME))
        offers = bad("ecdsa").values()
        for client in (LOOPBACK, STRANGER):
            assert all(
                negotiate(postfix, "smtp", *each, client=client) for each in offers
            )

        said = succeeded(scene.install(NAME, *PROFILE))

        assert REFUSED in said
        for client in (LOOPBACK, STRANGER):
            assert not any(
                negotiate(postfix, "smtp", *each, client=client) for each in offers
            )
        assert everywhere(postfix, roads=SCREENED) == issued.leaf


def test_the_file_is_shown_and_written_and_a_second_run_changes_nothing(scene):
    scene.lineage(NAME)
    scene.postfix.start()

    said = succeeded(scene.install(NAME, *PROFILE))

    path = scene.postfix.config_dir / internet_nl.NAME
    assert path.read_bytes() == internet_nl.FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert f"--- {path}" in said
    assert "+SignatureAlgorithms = ECDSA+SHA256:" in said
    assert "shuts out senders that know nothing newer than TLS 1.1" in said
    assert "have an RSA certificate served beside it" in said
    files, reloads = (path, scene.postfix.main_cf), scene.reloads
    before = [identity(each) for each in files]

    again = succeeded(scene.install(NAME, *PROFILE))

    assert "is already configured" in again
    assert REFUSED in again
    assert [identity(each) for each in files] == before
    assert scene.reloads == reloads


def test_a_rollback_from_the_profile_is_exact(scene):
    scene.lineage(NAME)
    scene.postfix.start()
    snapshots = [scene.postfix.snapshot()]
    succeeded(scene.install(NAME, *PROFILE))
    snapshots.append(scene.postfix.snapshot())
    path = scene.postfix.config_dir / internet_nl.NAME
    edited = path.read_bytes().replace(b":ed448", b"")
    path.write_bytes(edited)

    succeeded(scene.install(NAME, *PROFILE))  # what was edited is written anew
    assert path.read_bytes() == internet_nl.FILE
    succeeded(scene.certbot("rollback", *options(scene.postfix)))
    assert path.read_bytes() == edited
    succeeded(scene.certbot("rollback", *options(scene.postfix)))

    assert scene.postfix.snapshot() == snapshots[0]
    assert negotiate(scene.postfix, "smtp", *bad("rsa")["SHA-1"])


@pytest.mark.parametrize("link", [False, True])
def test_a_file_of_somebody_else_is_not_overwritten(scene, base, link):
    scene.lineage(NAME)
    path = scene.postfix.config_dir / internet_nl.NAME
    if link:
        (base / "mine.cnf").write_bytes(internet_nl.FILE)
        path.symlink_to(base / "mine.cnf")
    else:
        path.write_text("# mine\n")
    scene.postfix.start()
    before = scene.postfix.snapshot()

    done = scene.install(NAME, *PROFILE)

    assert done.returncode == 1
    assert f"{path} was not written by certbot-postfix" in told(done)
    assert scene.postfix.snapshot() == before


@pytest.mark.parametrize("of", ["--cert-name", "-d"])
def test_a_plan_shows_it_and_writes_nothing(scene, of):
    scene.lineage(NAME, kind="rsa")
    before = scene.postfix.snapshot()

    done = scene.command("plan", of, NAME, "--tls-profile", "internet-nl")

    assert done.returncode == 3
    assert "+SignatureAlgorithms = " in done.stdout
    assert "+smtpd_tls_exclude_ciphers = aNULL, kRSA" in done.stdout
    assert "Exchange on Windows Server 2012 R2" in done.stderr
    assert scene.postfix.snapshot() == before


UNKNOWN = internet_nl.FILE.replace(b":ed448", b":unheard-of")


@pytest.mark.parametrize(
    ("parameter", "value", "told_why"),
    [
        pytest.param(
            "smtpd_tls_exclude_ciphers",
            "aNULL",
            "accepts TLS 1.2 with",
            id="ciphers",
        ),
        pytest.param(
            "tls_config_file",
            "{base}/unknown.cnf",
            "and a signature with SHA-1",
            id="signatures",
        ),
    ],
)
def test_what_is_not_refused_is_undone(scene, base, parameter, value, told_why):
    scene.lineage("ecdsa", NAME)
    scene.lineage("rsa", NAME, kind="rsa")
    # With a name in its list that OpenSSL does not know.
    (base / "unknown.cnf").write_bytes(UNKNOWN)
    scene.postfix.start()
    succeeded(scene.install("ecdsa", *PROFILE))
    impose(scene, parameter, value.format(base=base))
    before = scene.postfix.snapshot()

    done = scene.install("rsa", *PROFILE, "--postfix-verify-timeout", "4")

    assert done.returncode == 1
    assert told_why in told(done)
    assert scene.postfix.snapshot() == before


def test_a_file_that_is_lost_fails_the_verification(scene):
    scene.lineage(NAME)
    scene.postfix.start()
    installation = scene.deployment.installation
    installation.server.serving.timeout = 3
    wish = DeployOptions(Profile.INTERNET_NL)
    proposal = installation.propose(scene.live(), wish)
    installation.apply(proposal, Checkpoint())
    (scene.postfix.config_dir / internet_nl.NAME).unlink()

    with pytest.raises(ProofError, match=r"454 .* TLS not available"):
        installation.serve(proposal)


def test_an_override_is_reported_and_not_demanded_otherwise(scene):
    scene.lineage(NAME)
    entry = f"{LOOPBACK}:{scene.postfix.ports['submission']}/inet"
    scene.postfix.postconf("-P", f"{entry}/smtpd_tls_mandatory_protocols=>=TLSv1")
    scene.postfix.settle()
    scene.postfix.start()

    said = succeeded(scene.install(NAME, *PROFILE))

    assert f"smtpd_tls_mandatory_protocols for {entry} (value: >=TLSv1)" in said
    verified = said.partition("refuse TLS 1.1")[0].rpartition("Verified")[2]
    assert f":{scene.postfix.ports['smtp']}" in verified
    assert f":{scene.postfix.ports['submission']}" not in verified


def test_exclusions_that_leave_no_cipher_for_a_key_are_undone(scene):
    scene.lineage(NAME, kind="rsa")
    scene.postfix.set(smtpd_tls_exclude_ciphers="kECDHE")
    scene.postfix.start()
    before = scene.postfix.snapshot()

    done = scene.install(NAME, *PROFILE, "--postfix-verify-timeout", "4")

    assert done.returncode == 1
    assert "to clients of TLS 1.2 that know RSA only" in told(done)
    assert scene.postfix.snapshot() == before


def test_a_limit_for_new_sessions_is_a_warning(scene):
    scene.lineage(NAME)
    scene.postfix.set(
        smtpd_client_new_tls_session_rate_limit="2",
        smtpd_client_event_limit_exceptions="",
    )
    scene.postfix.start()

    said = succeeded(scene.install(NAME, *PROFILE, "--postfix-verify-timeout", "4"))

    assert "whether weak TLS is refused there was not verified" in said
    assert not negotiate(scene.postfix, "smtp", *bad("ecdsa")["SHA-1"])


def test_a_service_in_a_chroot_reads_the_file_as_well(scene):
    scene.lineage(NAME)
    entry = f"{LOOPBACK}:{scene.postfix.ports['smtp']}/inet"
    scene.postfix.postconf("-F", f"{entry}/chroot=y")
    scene.postfix.settle()
    scene.postfix.start()
    succeeded(scene.install(NAME))
    assert negotiate(scene.postfix, "smtp", *bad("ecdsa")["SHA-1"])

    succeeded(scene.install(NAME, *PROFILE))

    assert not negotiate(scene.postfix, "smtp", *bad("ecdsa")["SHA-1"])
    assert negotiate(scene.postfix, "smtp", *good("ecdsa")["TLS 1.2"])
