"""The lab keeps its promises."""

import re
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509

from certbot_postfix.tls.bundle import Bundle
from tests.lab import (
    COMMAND,
    NEWEST,
    Authority,
    Certbot,
    Issued,
    Pebble,
    PrivatePostfix,
    commands,
    install_lineage,
    pki,
    renew_lineage,
)
from tests.lab.machine import LabError, Ports, wait_until
from tests.lab.postfix import SERVICES, snapshot


def common_name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


@pytest.fixture
def issued(authority: Authority) -> Issued:
    return authority.issue("mx.example.org", "example.org")


@pytest.mark.postfix
@pytest.mark.parametrize("service", SERVICES)
def test_every_service_of_a_new_postfix_serves_snake_oil(postfix, service):
    assert common_name(postfix.served(service)) == "CN=snakeoil"


@pytest.mark.postfix
def test_postfix_serves_what_it_was_configured_to_serve(postfix, base, issued):
    bundle = base / "bundle.pem"
    bundle.write_bytes(issued.bundle_pem)
    postfix.set(smtpd_tls_chain_files=str(bundle))

    postfix.reload()

    # A process from before may take one more client until the master has told it.
    wanted = dict.fromkeys(SERVICES, issued.leaf)
    wait_until(
        lambda: {name: postfix.served(name) for name in SERVICES} == wanted,
        "all services show it",
    )


@pytest.mark.postfix
def test_a_stopped_postfix_is_gone_and_can_be_started_again(postfix):
    postfix.stop()
    assert not postfix.running
    assert postfix.command("postfix", "status").returncode != 0

    postfix.start()
    assert postfix.running
    assert postfix.command("postfix", "status").returncode == 0


@pytest.mark.postfix
def test_postfix_finds_no_fault_with_its_configuration(postfix):
    done = postfix.command("postfix", "check")

    assert done.returncode == 0
    # Debian 14's own main.cf has a btree.
    usual = r".*(hash/btree support is deprecated|NON_BERKELEYDB_README).*\n"
    assert "warning" not in re.sub(usual, "", postfix.log())


@pytest.mark.postfix
def test_running_leaves_the_configuration_as_it_was(stopped_postfix):
    before = stopped_postfix.snapshot()

    stopped_postfix.start()
    stopped_postfix.reload()
    stopped_postfix.stop()

    assert stopped_postfix.snapshot() == before


def test_two_instances_share_no_port(base):
    (base / "one").mkdir()
    (base / "two").mkdir()
    one, two = PrivatePostfix(base / "one"), PrivatePostfix(base / "two")

    assert not set(one.ports.values()) & set(two.ports.values())

    one.close()
    two.close()


def test_a_port_in_use_is_not_handed_out():
    ports = Ports(1)
    (taken,) = ports.numbers

    with pytest.raises(LabError, match="no free ports"):
        Ports(1, range(taken, taken + 1))

    ports.release()


def test_waiting_in_vain_says_for_what():
    with pytest.raises(LabError, match="in vain until pigs fly"):
        wait_until(lambda: False, "pigs fly", seconds=0.05)


@pytest.mark.parametrize("change", ["content", "mode", "link", "addition"])
def test_a_snapshot_notices_a_change_of(change, tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("one")
    link.symlink_to("file")
    before = snapshot(tmp_path)
    assert before == snapshot(tmp_path)

    match change:
        case "content":
            path.write_text("two")
        case "mode":
            path.chmod(0o600)
        case "link":
            link.unlink()
            link.symlink_to("elsewhere")
        case "addition":
            (tmp_path / "new").touch()

    assert snapshot(tmp_path) != before


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_a_key_is_served_with_its_certificate(authority, kind):
    key = pki.generate_key(kind)

    issued = authority.issue("mx.example.org", key=key)

    bundle = Bundle.from_pem(issued.key_pem, issued.fullchain_pem)
    assert bundle.leaf.key_type.lower() == kind


def test_an_expired_certificate_began_before_it_ended(authority):
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)

    issued = authority.issue("mx.example.org", not_after=yesterday)

    leaf = Bundle.from_pem(issued.key_pem, issued.fullchain_pem).leaf
    assert leaf.not_before < leaf.not_after < yesterday
    assert yesterday - leaf.not_after < timedelta(seconds=1)


def test_no_key_is_in_a_repr(issued):
    assert "PRIVATE KEY" not in repr(issued)


def test_certbot_accepts_a_lineage_of_the_lab(base, authority, issued, executable):
    certbot = Certbot(base, executable=executable)
    install_lineage(certbot.config_dir, "mx.example.org", issued)
    renewed = authority.issue("mx.example.org", "mail.example.org")
    renew_lineage(certbot.config_dir, "mx.example.org", renewed)

    listed = certbot("certificates")

    assert listed.returncode == 0
    assert "Certificate Name: mx.example.org" in listed.stdout
    assert "mx.example.org mail.example.org" in listed.stdout
    assert f"{renewed.leaf.serial_number:x}" in listed.stdout


@pytest.mark.postfix
def test_certbot_obtains_a_certificate_from_pebble(base, pebble: Pebble, executable):
    certbot = Certbot(base, executable=executable, pebble=pebble)

    done = certbot("certonly", "-a", "standalone", "-d", "mx.example.org")

    assert done.returncode == 0, done.stderr
    assert (certbot.config_dir / "live/mx.example.org/fullchain.pem").exists()
    assert "Successfully received certificate" in certbot.log


@pytest.mark.postfix
@pytest.mark.parametrize(
    "argv",
    [(NEWEST, "--version"), (NEWEST, "renew", "-x"), (COMMAND, "-h"), (COMMAND, "-x")],
)
def test_a_command_that_is_spared_its_imports_says_the_same_as_one_that_is_not(
    base, argv
):
    usual = {"PATH": "/usr/bin:/bin", "HOME": str(base)}
    spared, started = (
        commands.run(list(map(str, argv)), env=environment)
        for environment in (usual, {**usual, "PYTHONUNBUFFERED": "1"})
    )

    assert vars(spared) == vars(started)
