"""Several certificates on one server: who is served which after an installation."""

import contextlib
import itertools
import re

import pytest

from certbot_postfix.errors import Error
from tests.lab import (
    PrivatePostfix,
)
from tests.lab.clients import SCREENED, everywhere, leaf
from tests.lab.machine import LOOPBACK
from tests.lab.postfix import SERVICES
from tests.lab.scene import FOREIGN, NAME, SHOP, Scene, newest, private, succeeded, told

pytestmark = pytest.mark.postfix


@pytest.mark.parametrize("there", ["compiled", "both"])
def test_a_lineage_that_is_deployed_needs_no_change(request, there):
    scene: Scene = request.getfixturevalue(there)
    reloads = scene.reloads

    proposals = [scene.deploy(NAME), scene.deploy("rsa" if there == "both" else "shop")]

    assert all(proposal.empty for proposal in proposals)
    assert scene.reloads == reloads


def test_the_first_lineage_takes_the_place_of_a_self_signed_certificate(scene):
    issued = scene.lineage("shop", *SHOP)

    scene.deploy("shop")

    assert (scene.default, scene.table) == (["shop"], {})
    scene.postfix.start()
    assert everywhere(scene.postfix) == issued.leaf


def test_the_lineage_that_covers_the_server_s_name_displaces_another_default(scene):
    shop, issued = scene.lineage("shop", *SHOP), scene.lineage(NAME)
    scene.deploy("shop")

    scene.deploy(NAME)

    assert scene.default == [NAME]
    assert scene.table == {SHOP[0]: ["shop"], SHOP[1]: ["shop"], NAME: [NAME]}
    scene.postfix.start()
    assert everywhere(scene.postfix) == issued.leaf
    assert everywhere(scene.postfix, SHOP[1]) == shop.leaf


def test_a_lineage_with_the_names_of_the_default_and_another_key_joins_it(scene):
    issued = {kind: scene.lineage(kind, NAME, kind=kind) for kind in ("ecdsa", "rsa")}

    for kind in issued:
        scene.deploy(kind)

    assert scene.default == ["ecdsa", "rsa"]
    assert scene.table == {}
    scene.postfix.start()
    for name, kind in itertools.product((None, NAME), issued):
        assert everywhere(scene.postfix, name, kind=kind) == issued[kind].leaf


def test_a_lineage_by_name_is_joined_by_one_with_another_key(scene):
    scene.lineage(NAME)
    issued = {kind: scene.lineage(kind, *SHOP, kind=kind) for kind in ("ecdsa", "rsa")}
    scene.deploy(NAME)

    for kind in issued:
        scene.deploy(kind)

    assert scene.default == [NAME]
    pair = ["ecdsa", "rsa"]
    assert scene.table == {SHOP[0]: pair, SHOP[1]: pair, NAME: [NAME]}
    scene.postfix.start()
    for name, kind in itertools.product(SHOP, issued):
        assert everywhere(scene.postfix, name, kind=kind) == issued[kind].leaf


def test_the_names_of_the_default_are_in_the_table_too(shop):
    """Postfix logs a line for each name that it does not find."""
    for name in (NAME, *SHOP):
        everywhere(shop.postfix, name)

    assert shop.table[NAME] == [NAME]
    assert "not matched" not in shop.postfix.log()


def test_every_name_is_served_on_every_service(base, certbot, authority):
    names = {NAME: [NAME], "shop": [*SHOP, FOREIGN], "wild": ["*.example.com"]}
    with contextlib.closing(PrivatePostfix(base, postscreen=True)) as postfix:
        scene = Scene(postfix, certbot, authority)
        issued = {name: scene.lineage(name, *names[name]) for name in names}
        for name in issued:
            scene.deploy(name)
        postfix.start()

        asked = {
            None: NAME,
            NAME: NAME,
            NAME.upper(): NAME,
            SHOP[0]: "shop",
            SHOP[1]: "shop",
            FOREIGN: "shop",
            "any.example.com": "wild",
            "nobody.example.net": NAME,
            # A wildcard stands for one label, and not for none.
            "example.com": NAME,
        }
        for name, lineage in asked.items():
            shown = everywhere(postfix, name, roads=SCREENED)
            assert shown == issued[lineage].leaf, name


def test_a_name_that_two_lineages_have_goes_to_the_one_deployed_last(shop):
    issued = shop.lineage("newer", SHOP[1], "more.example.net")

    shop.deploy("newer")

    assert shop.table[SHOP[0]] == ["shop"]
    assert shop.table[SHOP[1]] == ["newer"]
    assert everywhere(shop.postfix, SHOP[1]) == issued.leaf


def test_without_a_table_of_names_a_further_lineage_is_refused(scene):
    scene.lineage(NAME)
    scene.lineage("shop", *SHOP)
    scene.deploy(NAME)
    before = scene.postfix.snapshot()

    done = scene.install("shop", "--postfix-sni", "never")

    assert done.returncode == 1
    assert "shop was not installed: it covers" in told(done)
    assert "--postfix-sni never rules out serving it via SNI" in told(done)
    assert f"obtain a certificate that covers {NAME}, or use --postfix-sni auto" in (
        told(done)
    )
    assert scene.postfix.snapshot() == before
    assert not scene.certbot.bundle("shop").exists()


def test_a_new_default_is_shown_to_who_asks_for_it_in_a_table_that_is_there(shop):
    shown = everywhere(shop.postfix, SHOP[0])
    issued = shop.lineage("new", NAME, "mail.example.org")

    succeeded(shop.install("new", "--postfix-sni", "never"))

    assert shop.default == ["new"]
    for name in (None, NAME, "mail.example.org"):
        assert everywhere(shop.postfix, name) == issued.leaf
    assert everywhere(shop.postfix, SHOP[0]) == shown


@pytest.mark.parametrize("form", ["texthash", "hash", "regexp"])
def test_a_table_of_the_administrator_s_stays_in_front(own, base, form):
    theirs = own.issue(SHOP[0])
    table, bundle = base / "own", private(base / "own.pem", theirs)
    key = SHOP[0] if form != "regexp" else f"/^{re.escape(SHOP[0])}$/"
    table.write_text(f"{key} {bundle}\n")
    if form == "hash":
        own.postfix.command("postmap", "-F", f"hash:{table}")
    own.postfix.set(tls_server_sni_maps=f"{form}:{table}")
    own.postfix.start()

    proposal = own.deploy("own")

    ours = own.postfix.config_dir / "certbot_sni"
    assert own.parameter("tls_server_sni_maps") == f"{form}:{table}, texthash:{ours}"
    (warning,) = proposal.warnings
    assert f"{form}:{table} in main.cf already has an entry for {SHOP[0]}" in warning
    assert everywhere(own.postfix, SHOP[0]) == theirs.leaf
    assert everywhere(own.postfix, SHOP[1]) == newest(own, "own")

    newer = own.renew("own")
    assert own.deployment.renew(own.live("own"))
    assert everywhere(own.postfix, SHOP[0]) == theirs.leaf
    assert everywhere(own.postfix, SHOP[1]) == newer.leaf


def test_a_file_in_place_of_the_table_that_is_not_ours_is_not_overwritten(own):
    (own.postfix.config_dir / "certbot_sni").write_text("mine\n")
    before = own.postfix.snapshot()

    with pytest.raises(Error, match="certbot_sni was not written by this plugin"):
        own.deploy("own")

    assert own.postfix.snapshot() == before
    assert not own.certbot.bundle("own").exists()


@pytest.mark.parametrize("name", [NAME, "shop"])
def test_a_table_that_is_not_there_is_warned_of(shop, name):
    table = shop.postfix.config_dir / "certbot_sni"
    table.unlink()
    shop.renew(name)

    done = shop.command("deploy", "--cert-name", name)

    assert (done.returncode, done.stdout) == (3, "")
    assert f"{table}, which main.cf refers to, is missing" in told(done)
    assert everywhere(shop.postfix) == newest(shop, NAME)


def test_a_service_with_a_table_of_its_own_keeps_it(own, base):
    theirs = own.issue(SHOP[0])
    table = base / "own"
    table.write_text(f"{SHOP[0]} {private(base / 'own.pem', theirs)}\n")
    entry = f"{LOOPBACK}:{own.postfix.ports['submission']}/inet"
    own.postfix.postconf("-P", f"{entry}/tls_server_sni_maps=texthash:{table}")
    own.postfix.settle()
    own.postfix.start()

    proposal = own.deploy("own")

    overrides = map(str, proposal.overrides)
    assert any(
        f"overrides tls_server_sni_maps for {entry}" in each for each in overrides
    )
    shown = {
        service: leaf(own.postfix, SHOP[0], service=service) for service in SERVICES
    }
    expected = dict.fromkeys(SERVICES, newest(own, "own"))
    assert shown == {**expected, "submission": theirs.leaf}
    assert leaf(own.postfix, service="submission") == newest(own, NAME)


def test_the_directory_of_an_instance_may_be_spelled_in_two_ways(shop, base):
    link = base / "link"
    link.symlink_to(shop.postfix.config_dir)
    named = shop.parameter("tls_server_sni_maps")
    issued = shop.renew("shop"), shop.lineage("more", "more.example.net")

    succeeded(
        shop.command("--postfix-config-dir", str(link), "deploy", "--cert-name", "shop")
    )
    assert everywhere(shop.postfix, SHOP[0]) == issued[0].leaf
    succeeded(shop.install("more", "--postfix-config-dir", str(link)))

    assert shop.parameter("tls_server_sni_maps") == named
    assert shop.table.keys() == {NAME, *SHOP, "more.example.net"}
    assert everywhere(shop.postfix, SHOP[1]) == issued[0].leaf
    assert everywhere(shop.postfix, "more.example.net") == issued[1].leaf
