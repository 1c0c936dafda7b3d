"""Files of certbot's that the administrator names, without this plugin."""

import shlex

import pytest

from tests.lab.clients import everywhere, leaf
from tests.lab.machine import LOOPBACK, wait_until
from tests.lab.scene import (
    NAME,
    SHOP,
    STANDALONE,
    Scene,
    answered,
    by_hand,
    configuration,
    impose,
    newest,
    options,
    private,
    succeeded,
    told,
)

pytestmark = pytest.mark.postfix


def obtain(scene: Scene, *args: str) -> str:
    """Have certbot obtain a certificate without deploying it."""
    return succeeded(scene.certbot("certonly", *STANDALONE, "-d", NAME, *args))


def test_certonly_and_its_renewals_leave_a_postfix_alone_that_does_not_use_them(scene):
    scene.postfix.start()
    before = configuration(scene), scene.postfix.snapshot()

    obtained = obtain(scene, *options(scene.postfix))
    renewed = succeeded(scene.certbot("renew", "--force-renewal"))

    assert "Postfix uses no certificate of certbot's; no changes were made." in obtained
    assert f"{NAME} was renewed, but is not installed in Postfix" in renewed
    assert (configuration(scene), scene.postfix.snapshot()) == before
    assert scene.reloads == 0


@pytest.mark.parametrize("way", ["installer", "deploy hook"])
def test_files_that_main_cf_names_by_hand_are_put_into_service_by_an(scene, way):
    scene.postfix.start()
    if way == "installer":
        obtain(scene, *options(scene.postfix))
        scene.postfix.set(smtpd_tls_chain_files=by_hand(scene, NAME))
    else:
        hook = shlex.join(scene.argv("deploy", directory=False))
        obtain(scene, "--deploy-hook", hook)
        scene.postfix.set(
            smtpd_tls_cert_file=str(scene.live(NAME).fullchain),
            smtpd_tls_key_file=str(scene.live(NAME).key),
        )
    scene.postfix.reload()
    wait_until(lambda: scene.reloads == 1, "the log tells of the reload")
    before, old = configuration(scene), newest(scene, NAME)

    done = scene.certbot("-q", "renew", "--force-renewal")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert newest(scene, NAME) != old
    assert everywhere(scene.postfix) == newest(scene, NAME)
    assert scene.reloads == 2
    assert configuration(scene) == before


def by_bundle(scene: Scene, name: str) -> str:
    """Return the value that names our bundle of a lineage that is deployed nowhere."""
    return str(private(scene.certbot.bundle(name), scene.renew(name)))


HANDS = pytest.mark.parametrize("value", [by_hand, by_bundle])


@HANDS
def test_what_master_cf_names_by_hand_is_renewed_and_proven_for_that_service(
    own, value
):
    entry = f"{LOOPBACK}:{own.postfix.ports['submissions']}/inet"
    named = value(own, "own")
    own.postfix.postconf("-P", f"{entry}/smtpd_tls_chain_files={named}")
    own.postfix.settle()
    own.postfix.start()
    before, issued = configuration(own), own.renew("own")

    assert own.deployment.renew(own.live("own"))

    assert own.said[-1].startswith("Verified on ")
    assert entry.removesuffix("/inet") in own.said[-1]
    assert f"{SHOP[0]} and {SHOP[1]} (ECDSA, expires " in own.said[-1]
    assert leaf(own.postfix, service="submissions") == issued.leaf
    assert leaf(own.postfix) == newest(own, NAME)
    assert configuration(own) == before


@HANDS
def test_what_a_table_names_by_hand_is_renewed_and_proven_for_the_name(
    own, base, value
):
    table = base / "own"
    table.write_text(f"{SHOP[0]} {value(own, 'own')}\n")
    own.postfix.set(tls_server_sni_maps=f"texthash:{table}")
    own.postfix.start()
    before, issued = configuration(own), own.renew("own")

    assert own.deployment.renew(own.live("own"))

    assert own.said[-1].startswith("Verified on ")
    assert f"{SHOP[0]} and {SHOP[1]} (ECDSA, expires " in own.said[-1]
    assert everywhere(own.postfix, SHOP[0]) == issued.leaf
    assert everywhere(own.postfix, SHOP[1]) == newest(own, NAME)
    assert configuration(own) == before


def test_files_that_are_named_by_hand_and_that_a_service_does_not_show_are_an_error(
    own, base
):
    table, other = base / "own", base / "other"
    table.write_text(f"{SHOP[0]} {by_hand(own, 'own')}\n")
    other.write_text(f"{SHOP[0]} {private(base / 'old.pem', own.issue(*SHOP))}\n")
    own.postfix.set(tls_server_sni_maps=f"texthash:{table}")
    entry = impose(own, "tls_server_sni_maps", f"texthash:{other}")
    own.postfix.start()
    own.renew("own")

    done = own.command("deploy", "--cert-name", "own", "--verify-timeout", "3")

    assert done.returncode == 1
    assert f"{entry.removesuffix('/inet')} presents " in told(done)
    assert f" to clients requesting {SHOP[0]}" in told(done)
    assert "restored" not in told(done)


def test_a_broken_lineage_that_a_table_names_by_hand_keeps_no_other_from_renewal(
    own, base
):
    own.stand(NAME, "own")
    own.postfix.set(smtpd_tls_chain_files=str(own.certbot.bundle(NAME)))
    table = base / "own"
    table.write_text(f"{SHOP[0]} {own.certbot.bundle('own')}\n")
    own.postfix.set(tls_server_sni_maps=f"texthash:{table}")
    own.postfix.start()
    shown = everywhere(own.postfix, SHOP[0])
    own.renew("own")
    issued = own.renew(NAME)
    own.live("own").key.write_bytes(own.live(NAME).key.read_bytes())

    done = own.command("deploy", "--cert-name", NAME, "--verify-timeout", "3")

    assert "lineage own: the private key does not belong" in told(done)
    assert everywhere(own.postfix) == issued.leaf
    assert everywhere(own.postfix, SHOP[0]) == shown


def test_files_that_two_tables_name_by_hand_are_proven_where_the_first_has_the_name(
    own, base
):
    theirs = answered(own, base)
    table = base / "second"
    table.write_text("".join(f"{name} {by_hand(own, 'own')}\n" for name in SHOP))
    tables = f"{own.parameter('tls_server_sni_maps')}, texthash:{table}"
    own.postfix.set(tls_server_sni_maps=tables)
    own.postfix.start()
    issued = own.renew("own")

    done = own.command("deploy", "--cert-name", "own", "--verify-timeout", "3")

    assert done.returncode == 0, done.stderr
    assert everywhere(own.postfix, SHOP[0]) == theirs.leaf
    assert everywhere(own.postfix, SHOP[1]) == issued.leaf


def test_a_compiled_table_with_an_old_copy_is_warned_of(own, base):
    table = base / "own"
    table.write_text(f"{SHOP[0]} {by_hand(own, 'own')}\n")
    own.postfix.command("postmap", "-F", f"hash:{table}")
    own.postfix.set(tls_server_sni_maps=f"hash:{table}")
    own.postfix.start()
    own.renew("own")

    done = own.command("deploy", "--cert-name", "own")

    assert done.returncode == 3
    assert (
        f"warning: hash:{table} has a copy of an older certificate for {SHOP[0]}"
        f" Hint: postmap -F hash:{table}"
    ) in told(done)
