"""A renewal is verified for each service, name and type of key, or undone."""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.lab import (
    Authority,
    Certbot,
    Issued,
    PrivatePostfix,
)
from tests.lab.clients import SCREENED, everywhere
from tests.lab.machine import LOOPBACK, has_ipv6
from tests.lab.scene import NAME, SHOP, Scene, impose, private, told
from tests.lab.terminal import converse

pytestmark = pytest.mark.postfix

# The cipher suite of TLS 1.2 tells the type of key; in TLS 1.3 it is told beside it.
_SHOWN = re.compile(
    r"postfix/(\S+)\[\d+\]: \w+ TLS connection established from \S*\[(\S+)\](?::\d+)?"
    r"(?: to (\S+))?: TLS\S+ with .*?(ECDSA|RSA)"
)


def handshakes(postfix: PrivatePostfix, since: int) -> set[tuple[str, ...]]:
    """Return service, client, server name and type of key of each handshake."""
    lines = postfix.log()[since:].splitlines()
    found = (_SHOWN.search(line) for line in lines)
    return {(one[1], one[2], one[3] or "", one[4]) for one in found if one}


@pytest.fixture
def manifold(base: Path, certbot: Certbot, authority: Authority) -> Iterator[Scene]:
    """Both types of key, by default and by name, and postscreen serves everybody."""
    with contextlib.closing(PrivatePostfix(base, postscreen=True)) as postfix:
        postfix.set(smtpd_tls_loglevel="1", postscreen_access_list="")
        if has_ipv6():
            with postfix.master_cf.open("a") as file:
                file.write(
                    f"[::1]:{postfix.ports['submission']} inet n - n - - smtpd\n"
                )
                file.write("  -o syslog_name=postfix/six\n")
        scene = Scene(postfix, certbot, authority)
        for kind in ("ecdsa", "rsa"):
            scene.lineage(kind, NAME, kind=kind)
            scene.lineage(f"shop-{kind}", *SHOP, kind=kind)
        scene.stand("ecdsa", "rsa", by_name=["shop-ecdsa", "shop-rsa"])
        yield scene


@pytest.mark.parametrize("protocols", [">=TLSv1", ">=TLSv1.3"])
def test_a_renewal_is_proven_on_every_service_for_every_name_with_every_key(
    manifold, protocols
):
    postfix = manifold.postfix
    postfix.set(smtpd_tls_protocols=protocols, smtpd_tls_mandatory_protocols=protocols)
    postfix.start()
    for kind in ("ecdsa", "rsa"):
        manifold.renew(kind)
        manifold.renew(f"shop-{kind}")
    since = len(postfix.log())

    manifold.deployment.refresh()

    services = {
        ("tlsproxy", LOOPBACK),
        ("submission/smtpd", LOOPBACK),
        ("submissions/smtpd", LOOPBACK),
        *([("six/smtpd", "::1")] if has_ipv6() else []),
    }
    wanted = {
        (*service, name, key)
        for service in services
        for name in ("", NAME, *SHOP)
        for key in ("ECDSA", "RSA")
    }
    shown = handshakes(postfix, since)
    assert wanted - shown == set()


@pytest.mark.parametrize("by_name", [True, False], ids=["one name", "no name"])
def test_a_renewal_is_undone_if_a_service_shows_the_old_one_to_who_asks_for(
    shop, base, by_name
):
    name = "shop" if by_name else NAME
    bundle = shop.certbot.bundle(name)
    old = shutil.copy2(bundle, base / "old.pem")
    table = base / "table"
    table.write_text(f"{SHOP[1]} {old}\n")
    if by_name:
        entry = impose(shop, "tls_server_sni_maps", f"texthash:{table}, $mine")
    else:
        entry = impose(shop, "smtpd_tls_chain_files", str(old))
    before = shop.postfix.snapshot(), bundle.read_bytes()
    shop.renew(name)

    done = shop.command("deploy", "--cert-name", name, "--verify-timeout", "3")

    clients = f" to clients requesting {SHOP[1]}" if by_name else ""
    assert done.returncode == 1
    assert f"{entry.removesuffix('/inet')} presents " in told(done)
    assert f"{clients}; the previous files were restored" in told(done)
    assert "unproven" not in told(done)
    assert (shop.postfix.snapshot(), bundle.read_bytes()) == before
    shown = everywhere(shop.postfix, SHOP[0] if by_name else None)
    assert shown == x509.load_pem_x509_certificate(old.read_bytes())


def test_of_two_renewals_of_which_one_fails_the_other_is_put_into_service(shop, base):
    bundle = shop.certbot.bundle("shop")
    old, table = shutil.copy2(bundle, base / "old.pem"), base / "table"
    table.write_text(f"{SHOP[1]} {old}\n")
    impose(shop, "tls_server_sni_maps", f"texthash:{table}, $mine")
    good, _ = shop.renew(NAME), shop.renew("shop")

    done = shop.command("deploy", "--cert-name", NAME, "--verify-timeout", "2")

    assert f"to clients requesting {SHOP[1]}; the previous files were" in told(done)
    assert everywhere(shop.postfix) == everywhere(shop.postfix, NAME) == good.leaf
    assert bundle.read_bytes() == Path(old).read_bytes()


def test_what_fails_is_seen_on_a_terminal_step_by_step(shop, base):
    bundle = shop.certbot.bundle(NAME)
    old = shutil.copy2(bundle, base / "old.pem")
    entry = impose(shop, "smtpd_tls_chain_files", str(old))
    shop.renew(NAME)
    deploy = ("deploy", "--cert-name", NAME, "--verify-timeout", "3")

    shown, status = converse(shop.argv(*deploy), shop.certbot.environment)

    assert status == 1
    lines = [re.sub(r" \.{3,} ", " ... ", line) for line in shown.splitlines()]
    reloading = f"Reloading Postfix ({shop.postfix.config_dir}) ... done"
    assert lines[:7] == [
        "Checking 3 listeners ... done",
        "Writing files ... done",
        reloading,
        "Verifying 3 listeners ... failed",
        "certbot-postfix: Restored the previous configuration.",
        reloading,
        "Verifying 3 listeners ... done",
    ]
    assert lines[7].startswith("certbot-postfix: Verified on 3 listeners (")
    error, hint = lines[-2:]
    assert error.startswith(f"certbot-postfix: error: {entry.removesuffix('/inet')} ")
    assert error.endswith("; the previous files were restored")
    assert hint.startswith("Hint: ")


def test_a_renewal_is_undone_if_tlsproxy_shows_the_old_certificate(manifold, base):
    old = private(base / "old.pem", Issued(b"", b"", b""))
    old.write_bytes(
        manifold.certbot.bundle("ecdsa").read_bytes()
        + manifold.certbot.bundle("rsa").read_bytes()
    )
    master_cf = manifold.postfix.master_cf
    master_cf.write_text(
        master_cf.read_text().replace(
            " 0 tlsproxy\n", f" 0 tlsproxy\n  -o tlsproxy_tls_chain_files={old}\n"
        )
    )
    manifold.postfix.settle()
    manifold.postfix.start()
    shown = everywhere(manifold.postfix, roads=SCREENED)
    manifold.renew("ecdsa")

    done = manifold.command("deploy", "--cert-name", "ecdsa", "--verify-timeout", "3")

    assert done.returncode == 1
    service = f"{LOOPBACK}:{manifold.postfix.ports['smtp']}"
    assert f"{service} presents {NAME}" in told(done)
    assert "the previous files were restored" in told(done)
    assert everywhere(manifold.postfix, roads=SCREENED) == shown
