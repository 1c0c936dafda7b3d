"""Renewals of certificates that are served by name, or beside others."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from certbot_postfix.errors import CertificateError
from certbot_postfix.inbound import due
from tests.lab.clients import everywhere
from tests.lab.machine import wait_until
from tests.lab.scene import (
    FOREIGN,
    LOST,
    NAME,
    SHOP,
    Scene,
    identity,
    impose,
    private,
    succeeded,
    told,
)

pytestmark = pytest.mark.postfix


def test_names_that_left_the_certificate_leave_the_table_and_are_told(shop, caplog):
    issued = shop.renew("shop", SHOP[0])

    assert shop.deployment.renew(shop.live("shop"))

    assert caplog.messages == [f"shop: no longer covered: {SHOP[1]}"]
    assert shop.table == {NAME: [NAME], SHOP[0]: ["shop"]}
    assert everywhere(shop.postfix, SHOP[0]) == issued.leaf
    assert everywhere(shop.postfix, SHOP[1]) == everywhere(shop.postfix, NAME)


def test_names_that_are_new_in_the_certificate_enter_the_table(shop):
    issued = shop.renew("shop", *SHOP, "*.shop.example.net", FOREIGN)

    assert shop.deployment.renew(shop.live("shop"))

    for name in (*SHOP, "any.shop.example.net", FOREIGN):
        assert everywhere(shop.postfix, name) == issued.leaf


def test_a_new_name_that_another_lineage_has_stays_there(shop):
    shop.renew("shop", *SHOP, NAME)

    assert shop.deployment.renew(shop.live("shop"))

    assert shop.table[NAME] == [NAME]
    assert everywhere(shop.postfix, NAME) == everywhere(shop.postfix)


def test_a_name_that_left_a_certificate_goes_to_the_one_that_has_it_now(shop):
    shop.lineage("heir", "heir.example.net")
    shop.deploy("heir")
    issued = shop.renew("heir", "heir.example.net", SHOP[1])
    assert shop.deployment.renew(shop.live("heir"))
    assert shop.table[SHOP[1]] == ["shop"]
    shop.renew("shop", SHOP[0])

    assert shop.deployment.renew(shop.live("shop"))

    assert shop.table[SHOP[1]] == ["heir"]
    assert everywhere(shop.postfix, SHOP[1]) == issued.leaf


def test_a_renewal_is_undone_if_what_inherits_a_name_is_not_presented_for_it(
    shop, base
):
    shop.lineage("heir", "heir.example.net", SHOP[1])
    shop.stand(NAME, by_name=["heir", "shop"])
    table = shop.postfix.config_dir / "certbot_sni"
    other, old = base / "other", shop.certbot.bundle("shop")
    pair = f"{SHOP[1]} {shop.certbot.bundle('heir')},{old}"
    assert pair in table.read_text()
    table.write_text(table.read_text().replace(pair, f"{SHOP[1]} {old}"))
    other.write_text(f"{SHOP[1]} {private(base / 'old.pem', shop.issue(SHOP[1]))}\n")
    impose(shop, "tls_server_sni_maps", f"texthash:{other}, texthash:{table}")
    before = table.read_bytes(), old.read_bytes()
    shop.renew("shop", SHOP[0])

    done = shop.command("deploy", "--cert-name", "shop", "--verify-timeout", "3")

    assert done.returncode == 1
    assert f"to clients requesting {SHOP[1]}" in told(done)
    assert (table.read_bytes(), old.read_bytes()) == before


@pytest.mark.parametrize("name", ["shop", NAME])
def test_a_key_of_another_type_than_before_is_served_and_told(shop, caplog, name):
    issued = shop.renew(name, kind="rsa")

    assert shop.deployment.renew(shop.live(name))

    assert caplog.messages == [f"{name}: the key is RSA now, it was ECDSA"]
    asked = SHOP[0] if name == "shop" else None
    assert everywhere(shop.postfix, asked) == issued.leaf


def test_a_renewal_is_refused_that_gives_both_certificates_keys_of_one_type(both):
    before = identity(both.certbot.bundle("rsa"))
    shown = [everywhere(both.postfix, kind=kind) for kind in ("rsa", "ecdsa")]
    both.renew("rsa", kind="ecdsa")
    reloads = both.reloads

    with pytest.raises(CertificateError, match="would offer no TLS") as caught:
        both.deployment.renew(both.live("rsa"))

    assert "renew it with the other --key-type" in caught.value.hint
    assert identity(both.certbot.bundle("rsa")) == before
    assert both.reloads == reloads
    assert [everywhere(both.postfix, kind=kind) for kind in ("rsa", "ecdsa")] == shown


def test_a_renewal_is_refused_that_gives_a_name_a_key_that_is_not_safe_there(closed):
    before = identity(closed.certbot.bundle("shop"))
    closed.renew("shop", kind="dsa")

    with pytest.raises(CertificateError, match="a key of type DSA is served via SNI"):
        closed.deployment.renew(closed.live("shop"))

    assert identity(closed.certbot.bundle("shop")) == before


def test_a_default_leaves_the_table_when_it_gets_a_key_that_is_not_safe_there(closed):
    closed.renew(NAME, kind="dsa")

    assert closed.deployment.renew(closed.live(NAME))

    assert closed.default == [NAME]
    assert closed.table == {key: ["shop"] for key in SHOP}


@pytest.mark.parametrize("name", ["shop", NAME])
def test_a_renewal_needs_one_reload(shop, name):
    reloads = shop.reloads
    shop.renew(name)

    shop.deployment.renew(shop.live(name))

    assert shop.reloads == reloads + 1


def test_all_missed_renewals_are_made_up_for_by_one_run_with_one_reload(shop):
    reloads = shop.reloads
    issued = {name: shop.renew(name) for name in (NAME, "shop")}

    succeeded(shop.certbot("renew"))

    assert everywhere(shop.postfix) == issued[NAME].leaf
    assert everywhere(shop.postfix, SHOP[1]) == issued["shop"].leaf
    assert shop.reloads == reloads + 1


def another_installer(scene: Scene) -> None:
    scene.renew("shop")


def failed_hook(scene: Scene) -> None:
    scene.renew("shop")
    key = scene.live("shop").key
    content = key.read_bytes()
    key.write_bytes(scene.issue(*SHOP).key_pem)
    assert scene.command("deploy", "--cert-name", "shop").returncode == 1
    key.write_bytes(content)


def old_bundle(scene: Scene) -> None:
    bundle = scene.certbot.bundle("shop")
    backup = shutil.copy2(bundle, bundle.with_name("backup"))
    scene.renew("shop")
    scene.deployment.renew(scene.live("shop"))
    Path(backup).replace(bundle)
    reloads = scene.reloads
    scene.postfix.reload()
    wait_until(lambda: scene.reloads == reloads + 1, "the mail log tells of the reload")


def deleted_bundle(scene: Scene) -> None:
    scene.certbot.bundle("shop").unlink()


@pytest.mark.parametrize(
    "happen", [another_installer, failed_hook, old_bundle, deleted_bundle]
)
def test_a_renewal_run_makes_up_for(shop, happen):
    happen(shop)
    issued = shop.live("shop").fullchain.read_bytes()
    reloads = shop.reloads

    succeeded(shop.certbot("renew"))

    shown = everywhere(shop.postfix, SHOP[0])
    assert shown == x509.load_pem_x509_certificate(issued)
    assert issued in shop.certbot.bundle("shop").read_bytes()
    assert shop.reloads == reloads + 1


def test_a_renewal_run_makes_up_for_an_old_database_from_a_backup(compiled):
    (database,) = compiled.postfix.config_dir.glob("certbot_sni.*")
    old = everywhere(compiled.postfix, SHOP[0])
    backup = shutil.copy2(database, database.with_name("backup"))
    issued = compiled.renew("shop")
    compiled.deployment.renew(compiled.live("shop"))
    Path(backup).replace(database)
    compiled.postfix.reload()
    assert everywhere(compiled.postfix, SHOP[0]) == old
    reloads = compiled.reloads

    succeeded(compiled.certbot("renew"))

    assert everywhere(compiled.postfix, SHOP[0]) == issued.leaf
    assert everywhere(compiled.postfix, NAME) == everywhere(compiled.postfix)
    assert compiled.reloads == reloads + 1


def test_a_database_that_no_parameter_names_any_more_goes_with_a_renewal(compiled):
    table = compiled.postfix.config_dir / "certbot_sni"
    compiled.postfix.set(tls_server_sni_maps=f"texthash:{table}")
    compiled.postfix.reload()
    issued = compiled.renew("shop")

    assert compiled.deployment.renew(compiled.live("shop"))

    assert list(compiled.postfix.config_dir.glob("certbot_sni.*")) == []
    assert everywhere(compiled.postfix, SHOP[0]) == issued.leaf
    assert due.pending(compiled.deployment.server.read()) == []


@pytest.mark.parametrize("way", ["the hook", "certbot"])
def test_a_lineage_that_is_broken_keeps_no_other_from_being_renewed_by(shop, way):
    shown = everywhere(shop.postfix, SHOP[0])
    issued, _ = shop.renew(NAME), shop.renew("shop")
    key = shop.live("shop").key
    key.unlink()

    if way == "certbot":
        done = shop.certbot("renew")
    else:
        done = shop.command("deploy", "--cert-name", NAME)
        assert done.returncode == 3

    assert f"lineage shop: could not read {key}" in told(done)
    assert everywhere(shop.postfix) == issued.leaf
    assert everywhere(shop.postfix, SHOP[0]) == shown


def test_a_renewal_run_starts_no_program_and_writes_nothing_when_all_is_well(
    compiled, base
):
    scene = compiled
    files = [
        *(path for path in scene.postfix.config_dir.iterdir() if path.is_file()),
        *(scene.certbot.config_dir / "postfix").iterdir(),
    ]
    identities, reloads = list(map(identity, files)), scene.reloads
    trace = base / "trace"
    strace = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", str(trace)]

    done = subprocess.run(
        [*strace, *scene.certbot.argv("renew")],
        check=True,
        capture_output=True,
        text=True,
        env=scene.certbot.environment,
        timeout=60,
    )

    assert "not yet due" in told(done)
    started = set(
        re.findall(r'execve\("([^"]*)".* = 0$', trace.read_text(), re.MULTILINE)
    )
    assert {Path(program).name for program in started} <= {"certbot", "lsb_release"}
    assert list(map(identity, files)) == identities
    assert scene.reloads == reloads


def test_the_default_is_renewed_though_bundles_in_the_table_are_lost(bereft):
    issued, lost = bereft.renew(NAME), everywhere(bereft.postfix, LOST[0])

    done = bereft.command("deploy", "--cert-name", NAME)

    assert done.returncode == 0, done.stderr
    for name in (None, NAME):
        assert everywhere(bereft.postfix, name) == issued.leaf
    assert everywhere(bereft.postfix, LOST[0]) == lost
