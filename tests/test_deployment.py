"""The use cases, with whatever else the administrator has set up."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from cryptography import x509

from certbot_postfix.change.plan import Edit, Plan
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.errors import Error, MissingError
from certbot_postfix.inbound import sni
from certbot_postfix.inbound.session import Deployment
from certbot_postfix.postfix.decisions import Change
from tests.lab import (
    Authority,
    Certbot,
    Issued,
    PrivatePostfix,
    commands,
    install_lineage,
    pki,
    renew_lineage,
)
from tests.lab.certbot import COMMAND
from tests.lab.machine import LOOPBACK
from tests.lab.scene import LEAST, NAME, Scene
from tests.test_transaction import Reversible


@pytest.fixture
def scene(stopped_postfix: PrivatePostfix, base: Path, authority: Authority) -> Scene:
    """As elsewhere, but with no ACME server."""
    return Scene(stopped_postfix, Certbot(base), authority)


@pytest.mark.parametrize("missing", ["config-utility", "ctl"])
def test_a_program_of_postfix_that_is_missing_is_named_with_its_option(missing):
    conf = {"config-utility": sys.executable, "ctl": sys.executable}
    conf[missing] = "/nowhere/program"

    with pytest.raises(MissingError) as caught:
        Deployment.find(conf.get, None, None)

    assert "the program /nowhere/program of Postfix was not" in caught.value.message
    assert caught.value.hint == f"install Postfix, or use --postfix-{missing}"


def bundle(path: Path, issued: Issued) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(issued.bundle_pem)
    return path


# Other certificates


def odd(base: Path, *options: str) -> Path:
    """Make a self-signed certificate with a key of a kind that is seldom seen."""
    path = base / "odd.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-subj", f"/CN={NAME}"),
            *("-keyout", str(path), "-out", str(base / "odd.crt"), *options),
        ],
        check=True,
        capture_output=True,
    )
    with path.open("ab") as file:
        file.write((base / "odd.crt").read_bytes())
    return path


ODD = [
    pytest.param(["-newkey", "ed25519"], id="Ed25519"),
    pytest.param(
        ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp112r1"], id="a small curve"
    ),
]


@pytest.mark.parametrize("options", ODD)
def test_a_certificate_in_service_may_have_any_key(scene, base, authority, options):
    install_lineage(scene.certbot.config_dir, NAME, authority.issue(NAME))
    scene.postfix.set(smtpd_tls_chain_files=str(odd(base, *options)))

    assert scene.warnings(LEAST) == []


def test_a_good_certificate_with_a_key_of_another_type_is_missed(
    scene, base, authority
):
    install_lineage(scene.certbot.config_dir, NAME, authority.issue(NAME))
    rsa = authority.issue(NAME, key=pki.generate_key("rsa"))
    scene.postfix.set(smtpd_tls_chain_files=str(bundle(base / "rsa.pem", rsa)))

    (warning,) = scene.warnings(LEAST)

    assert "with its RSA key will not be served any more" in warning


@pytest.mark.postfix
@pytest.mark.parametrize(
    ("ours", "theirs", "protocols"),
    [
        pytest.param("rsa", "ecdsa", ">=TLSv1", id="an RSA key"),
        pytest.param("ecdsa", "rsa", ">=TLSv1.3", id="TLS 1.3 only"),
        pytest.param("rsa", "ecdsa", ">=TLSv1.3", id="an RSA key and TLS 1.3 only"),
    ],
)
def test_a_renewal_is_proven_beside_a_certificate_of_the_administrator_s_with(
    scene, base, authority, ours, theirs, protocols
):
    listed = [
        bundle(base / "theirs.pem", authority.issue(NAME, key=pki.generate_key(theirs)))
    ]
    install_lineage(
        scene.certbot.config_dir,
        NAME,
        authority.issue(NAME, key=pki.generate_key(ours)),
    )
    scene.postfix.start()
    scene.deploy(wish=LEAST)
    scene.postfix.set(
        smtpd_tls_chain_files=", ".join(
            map(str, [scene.certbot.bundle(NAME), *listed])
        ),
        smtpd_tls_protocols=protocols,
        smtpd_tls_mandatory_protocols=protocols,
    )
    main_cf = scene.postfix.main_cf.read_bytes()
    newer = authority.issue(NAME, key=pki.generate_key(ours))
    renew_lineage(scene.certbot.config_dir, NAME, newer)

    assert scene.deployment.renew(scene.live())

    assert scene.said[-1].startswith("Verified on ")
    assert scene.certbot.bundle(NAME).read_bytes() == newer.bundle_pem
    assert scene.postfix.main_cf.read_bytes() == main_cf


# Other services


@pytest.mark.postfix
@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param(
            {"postscreen_access_list": "permit_mynetworks"}, id="lets pass to smtpd"
        ),
        pytest.param(
            {
                "postscreen_access_list": "",
                "postscreen_greet_wait": "1s",
                "postscreen_pipelining_enable": "yes",
            },
            id="serves itself",
        ),
    ],
)
def test_a_certificate_is_proven_to_a_client_that_postscreen(
    scene, authority, parameters
):
    install_lineage(scene.certbot.config_dir, NAME, authority.issue(NAME))
    name = f"{LOOPBACK}:{scene.postfix.ports['smtp']}"
    master_cf, entry = scene.postfix.master_cf, f"{name} inet n - n - "
    before = master_cf.read_text()
    assert f"{entry}- smtpd\n" in before
    master_cf.write_text(
        before.replace(f"{entry}- smtpd\n", f"{entry}1 postscreen\n")
        + "smtpd pass - - n - - smtpd\n"
        + "dnsblog unix - - n - 0 dnsblog\n"
        + "tlsproxy unix - - n - 0 tlsproxy\n"
    )
    scene.postfix.set(**parameters)
    scene.postfix.start()

    scene.deploy(wish=LEAST)

    (words,) = scene.said
    assert words.startswith("Verified on ")
    assert name in words


@pytest.mark.postfix
def test_who_listens_in_place_of_a_postfix_that_does_not_run_is_told(
    scene, base, authority, caplog
):
    install_lineage(scene.certbot.config_dir, NAME, authority.issue(NAME))
    running, here = scene.postfix.config_dir, base / "here"
    shutil.copytree(running, here)
    (base / "another-queue").mkdir()
    scene.postfix.start()
    scene.postfix.config_dir = here
    scene.postfix.set(queue_directory=str(base / "another-queue"))
    before = scene.postfix.served()

    scene.deploy(wish=LEAST)

    (warning,) = caplog.messages
    assert f"({here}) is not running" in warning
    assert f"was started with {running}" in warning
    assert scene.postfix.served() == before
    scene.postfix.config_dir = running


# Other instances, and other installers


def change(main_cf: Path, checkpoint: Reversible) -> None:
    """Change *main_cf*, as a deployment would."""
    before = main_cf.read_bytes()
    decisions = (Change("a", None, "1", "it is meant"),)
    edit = Edit(main_cf, before, before + b"a=1\n")
    no_table = Edit(main_cf.with_name(sni.NAME), None, None)
    Transaction((), checkpoint).commit(Plan(decisions, edit, (no_table,)))


def test_a_checkpoint_of_another_instance_is_restored_with_a_warning(
    scene, base, caplog
):
    other, checkpoint = base / "other.cf", Reversible(base)
    other.write_bytes(b"before\n")
    change(other, checkpoint)

    scene.deployment.rollback.restore([checkpoint.in_progress])

    assert other.read_bytes() == b"before\n"
    (warning,) = caplog.messages
    assert warning.startswith(f"{other} was restored, of another instance")
    assert "Hint: reload the Postfix" in warning


def test_a_checkpoint_of_the_same_instance_is_restored_without_a_warning(
    scene, base, caplog
):
    link = scene.postfix.main_cf
    target = base / "managed" / link.name
    target.parent.mkdir()
    link.rename(target)
    link.symlink_to(target)
    before, checkpoint = target.read_bytes(), Reversible(base)
    change(target, checkpoint)

    scene.deployment.rollback.restore([checkpoint.in_progress])

    assert target.read_bytes() == before
    assert caplog.messages == []


def test_a_checkpoint_of_another_installer_is_restored_without_a_warning(
    scene, base, caplog
):
    other, checkpoint = base / "main.cf", Reversible(base)
    other.write_bytes(b"before\n")
    checkpoint.before_change(other, "changed")
    other.write_bytes(b"after\n")

    scene.deployment.rollback.restore([checkpoint.in_progress])

    assert other.read_bytes() == b"before\n"
    assert caplog.messages == []


# An RSA and an ECDSA certificate of the administrator's own


def pair(
    scene: Scene, base: Path, authority: Authority, form: str
) -> dict[str, Issued]:
    """Have Postfix serve both by default, and return them."""
    both = {
        kind: authority.issue(NAME, f"old.{NAME}", key=pki.generate_key(kind))
        for kind in ("rsa", "ecdsa")
    }
    for kind, issued in both.items():
        bundle(base / f"{kind}.pem", issued)
        bundle(base / f"{kind}.key", issued).write_bytes(issued.key_pem)
        (base / f"{kind}.crt").write_bytes(issued.fullchain_pem)
    rsa, ecdsa = base / "rsa", base / "ecdsa"
    older = {
        "smtpd_tls_cert_file": f"{rsa}.crt",
        "smtpd_tls_key_file": f"{rsa}.key",
        "smtpd_tls_eccert_file": f"{ecdsa}.crt",
        "smtpd_tls_eckey_file": f"{ecdsa}.key",
    }
    if form != "older":
        scene.postfix.postconf("-#", *list(older)[:2])
    bundle(base / "one.pem", both["rsa"]).write_bytes(
        both["rsa"].bundle_pem + both["ecdsa"].bundle_pem
    )
    lists = {
        "bundles": [f"{rsa}.pem", f"{ecdsa}.pem"],
        "files": [f"{rsa}.key", f"{rsa}.crt", f"{ecdsa}.key", f"{ecdsa}.crt"],
        "one file": [base / "one.pem"],
    }
    parameters = (
        older
        if form == "older"
        else {"smtpd_tls_chain_files": ", ".join(map(str, lists[form]))}
    )
    scene.postfix.set(**parameters)
    return both


def presented(scene: Scene, kind: str, name: str = "") -> x509.Certificate:
    """Return what a client of TLS 1.2 gets that knows one *kind* of key alone."""
    port = scene.postfix.ports["smtp"]
    done = subprocess.run(
        [
            *("openssl", "s_client", "-starttls", "smtp", "-tls1_2"),
            *("-connect", f"{LOOPBACK}:{port}", "-cipher", f"a{kind.upper()}"),
            *(["-servername", name] if name else ["-noservername"]),
        ],
        check=False,
        input=b"QUIT\r\n",
        capture_output=True,
        timeout=30,
    )
    return x509.load_pem_x509_certificate(done.stdout)


@pytest.mark.postfix
@pytest.mark.parametrize(
    ("form", "service_with_its_own"),
    [("bundles", False), ("files", False), ("older", False), ("older", True)],
)
@pytest.mark.parametrize(("ours", "theirs"), [("rsa", "ecdsa"), ("ecdsa", "rsa")])
def test_the_other_half_of_the_administrator_s_default_stays(
    scene, base, authority, form, ours, theirs, service_with_its_own
):
    both = pair(scene, base, authority, form)
    if service_with_its_own:
        submission = f"127.0.0.1:{scene.postfix.ports['submission']}/inet"
        scene.postfix.postconf(
            "-P",
            f"{submission}/smtpd_tls_cert_file={base}/rsa.crt",
            f"{submission}/smtpd_tls_key_file={base}/rsa.key",
        )
        scene.postfix.settle()
    issued = authority.issue(NAME, key=pki.generate_key(ours))
    install_lineage(scene.certbot.config_dir, NAME, issued)
    scene.postfix.start()

    scene.deploy(wish=LEAST)
    after = scene.postfix.main_cf.read_bytes()
    newer = authority.issue(NAME, key=pki.generate_key(ours))
    renew_lineage(scene.certbot.config_dir, NAME, newer)
    assert scene.deployment.renew(scene.live())

    assert presented(scene, ours) == newer.leaf
    assert presented(scene, theirs) == both[theirs].leaf
    assert scene.postfix.main_cf.read_bytes() == after
    assert "disabling TLS" not in scene.postfix.log()


@pytest.mark.postfix
def test_a_lineage_by_name_hides_no_half_of_the_default(scene, base, authority):
    both = pair(scene, base, authority, "bundles")
    rsa = authority.issue(NAME, key=pki.generate_key("rsa"))
    install_lineage(scene.certbot.config_dir, NAME, rsa)
    other = authority.issue("shop.example.net")
    install_lineage(scene.certbot.config_dir, "shop", other)
    scene.postfix.start()
    scene.deploy(wish=LEAST)
    scene.deploy("shop", LEAST)
    newer = authority.issue(NAME, key=pki.generate_key("rsa"))
    renew_lineage(scene.certbot.config_dir, NAME, newer)
    assert scene.deployment.renew(scene.live())

    assert presented(scene, "ecdsa", "shop.example.net") == other.leaf
    assert presented(scene, "ecdsa", NAME) == both["ecdsa"].leaf
    assert presented(scene, "rsa", NAME) == newer.leaf


def test_a_half_that_cannot_stay_is_not_replaced_without_the_option(
    scene, base, authority
):
    pair(scene, base, authority, "one file")
    install_lineage(
        scene.certbot.config_dir,
        NAME,
        authority.issue(NAME, key=pki.generate_key("rsa")),
    )
    before = scene.postfix.main_cf.read_bytes()

    with pytest.raises(Error, match=f"{base}/one.pem, which cannot stay") as caught:
        scene.deploy(wish=LEAST)

    assert "--postfix-replace-default" in caught.value.hint
    assert scene.postfix.main_cf.read_bytes() == before
    scene.deployment.installation.propose(scene.live(), replace(LEAST, replace=True))


def test_a_lineage_that_has_the_lost_type_of_key_is_named(scene, base, authority):
    rsa = authority.issue(NAME, key=pki.generate_key("rsa"))
    scene.postfix.set(smtpd_tls_chain_files=str(bundle(base / "rsa.pem", rsa)))
    install_lineage(scene.certbot.config_dir, NAME, authority.issue(NAME))
    install_lineage(
        scene.certbot.config_dir,
        "mx-rsa",
        authority.issue(NAME, key=pki.generate_key("rsa")),
    )

    (warning,) = scene.warnings(LEAST)

    assert "certbot install -i postfix --cert-name mx-rsa" in warning
    assert "--key-type" not in warning


# Files of certbot's that are named elsewhere


def _linked(path: Path, source: Path) -> None:
    path.symlink_to(source)


def _hard_linked(path: Path, source: Path) -> None:
    path.hardlink_to(source.resolve())


def _copied(path: Path, source: Path) -> None:
    path.write_bytes(source.read_bytes())


def names_by_hand(scene: Scene, chain: Path, key: Path) -> None:
    scene.postfix.set(
        smtpd_tls_cert_file=str(chain),
        smtpd_tls_key_file=str(key),
    )


def hook(scene: Scene) -> commands.Done:
    """Run the deploy hook, as certbot does."""
    where = ["--postfix-config-dir", str(scene.postfix.config_dir)]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "RENEWED_LINEAGE": str(scene.certbot.config_dir / "live" / NAME),
    }
    return commands.run([str(COMMAND), *where, "deploy"], env=environment)


def outside(scene: Scene, base: Path, issued: Issued, place: str) -> None:
    """Have Postfix read files of the lineage that are not in certbot's ``live``."""
    live = install_lineage(scene.certbot.config_dir, NAME, issued)
    chain, key = live / "fullchain.pem", live / "privkey.pem"
    if place == "archive":
        names_by_hand(scene, chain.resolve(), key.resolve())
        return
    put = {"link": _linked, "hard link": _hard_linked, "copy": _copied}[place]
    for name, source in (("chain.pem", chain), ("key.pem", key)):
        put(base / name, source)
    names_by_hand(scene, base / "chain.pem", base / "key.pem")


@pytest.mark.postfix
@pytest.mark.parametrize("place", ["archive", "hard link", "copy"])
def test_the_hook_tells_that_an_older_copy_is_still_served(
    scene, base, authority, place
):
    old = authority.issue(NAME)
    outside(scene, base, old, place)
    scene.postfix.start()
    renew_lineage(
        scene.certbot.config_dir,
        NAME,
        authority.issue(NAME, not_before=datetime.now(timezone.utc)),
    )

    done = hook(scene)

    assert scene.postfix.served() == old.leaf
    assert done.returncode == 3
    assert f"certbot renewed {NAME}, but " in done.stderr
    assert "still has the previous certificate" in done.stderr
    assert f"certbot install -i postfix --cert-name {NAME}" in done.stderr
    status = scene.command("status", "--json")
    (stale,) = [
        each
        for each in json.loads(status.stdout)["findings"]
        if "stale" in each["code"]
    ]
    assert stale["message"] in done.stderr


def test_an_older_copy_in_a_service_or_a_table_of_the_administrator_s_is_told(
    scene, base, authority, caplog
):
    live = install_lineage(scene.certbot.config_dir, NAME, authority.issue(NAME))
    pair = base / "pair.pem"
    pair.write_bytes(
        (live / "privkey.pem").read_bytes() + (live / "fullchain.pem").read_bytes()
    )
    (base / "own").write_text(f"{NAME} {pair}\n")
    other = live.parent.parent / "archive" / NAME
    submission = f"127.0.0.1:{scene.postfix.ports['submission']}/inet"
    scene.postfix.postconf(
        "-P",
        f"{submission}/smtpd_tls_cert_file={other}/fullchain1.pem",
        f"{submission}/smtpd_tls_key_file={other}/privkey1.pem",
    )
    scene.postfix.set(tls_server_sni_maps=f"texthash:{base}/own")
    renew_lineage(
        scene.certbot.config_dir,
        NAME,
        authority.issue(NAME, not_before=datetime.now(timezone.utc)),
    )

    assert scene.deployment.renew(scene.live())

    assert f"{pair} still has" in caplog.text
    assert f"{other}/fullchain1.pem still has" in caplog.text


@pytest.mark.postfix
def test_a_link_to_the_newest_files_is_reloaded_and_verified(scene, base, authority):
    outside(scene, base, authority.issue(NAME), "link")
    scene.postfix.start()
    assert scene.postfix.served()
    new = authority.issue(NAME)
    renew_lineage(scene.certbot.config_dir, NAME, new)

    done = hook(scene)

    assert (done.returncode, done.stderr) == (0, "")
    assert scene.postfix.served() == new.leaf
