"""Directories that moved, and have a link in their place now."""

from pathlib import Path

import pytest

from tests.lab.clients import everywhere
from tests.lab.scene import NAME, SHOP, by_hand, newest, succeeded

pytestmark = pytest.mark.postfix


def moved(path: Path) -> None:
    """Move a directory to another place, as to another volume."""
    path.symlink_to(path.rename(path.with_name(f"{path.name}-moved")))


@pytest.mark.parametrize("name", [NAME, "shop"])
def test_a_renewal_is_deployed_after_certbot_s_directory_moved(shop, name):
    moved(shop.certbot.config_dir)
    issued = shop.renew(name)

    succeeded(shop.command("deploy", "--cert-name", name))

    asked = SHOP[0] if name == "shop" else None
    assert everywhere(shop.postfix, asked) == issued.leaf


@pytest.mark.parametrize("name", [NAME, "shop"])
def test_a_lineage_is_forgotten_after_certbot_s_directory_moved(shop, name):
    moved(shop.certbot.config_dir)

    done = shop.command("forget", name)
    assert done.returncode == (3 if name == NAME else 0), done.stderr
    shop.postfix.reload()

    assert everywhere(shop.postfix) == newest(shop, NAME)
    wanted = newest(shop, NAME if name == "shop" else "shop")
    assert everywhere(shop.postfix, SHOP[0]) == wanted


def test_files_that_a_table_names_by_hand_are_proven_after_they_moved(own, base):
    moved(own.certbot.config_dir)
    table = base / "own"
    table.write_text(f"{SHOP[0]} {by_hand(own, 'own')}\n")
    own.postfix.set(tls_server_sni_maps=f"texthash:{table}")
    own.postfix.start()
    issued = own.renew("own")

    assert own.deployment.renew(own.live("own"))

    assert everywhere(own.postfix, SHOP[0]) == issued.leaf


def test_no_name_is_lost_after_the_directory_of_postfix_moved(closed):
    moved(closed.postfix.config_dir)
    named = closed.parameter("tls_server_sni_maps")
    closed.lineage("more", "more.example.net")

    succeeded(closed.install("more", "--postfix-verify-timeout", "0"))

    assert closed.parameter("tls_server_sni_maps") == named
    assert closed.table.keys() == {NAME, *SHOP, "more.example.net"}
