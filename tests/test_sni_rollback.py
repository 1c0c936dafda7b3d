"""Rollbacks where several certificates are served."""

import pytest

from tests.lab.clients import everywhere, leaf
from tests.lab.machine import LOOPBACK
from tests.lab.postmap import SUFFIXES, usual_type
from tests.lab.scene import (
    NAME,
    SHOP,
    Scene,
    answered,
    forget,
    newest,
    options,
    succeeded,
    told,
)

pytestmark = pytest.mark.postfix


def test_a_rollback_to_a_lineage_that_was_forgotten_deploys_its_newest_certificate(
    shop,
):
    before = shop.postfix.snapshot()
    shop.lineage("wild", "*.example.com")
    succeeded(shop.install("wild"))
    issued = shop.renew("shop")
    forget(shop, "shop")

    succeeded(shop.certbot("rollback", *options(shop.postfix)))

    assert shop.postfix.snapshot() == before
    assert everywhere(shop.postfix, SHOP[0]) == issued.leaf
    assert everywhere(shop.postfix, "any.example.com") == newest(shop, NAME)


def test_a_rollback_after_the_lineage_was_forgotten_speaks_of_no_accident(shop):
    before = shop.postfix.snapshot()
    shop.lineage("wild", "*.example.com")
    succeeded(shop.install("wild"))
    forget(shop, "wild")

    done = shop.certbot("rollback", *options(shop.postfix))

    succeeded(done)
    assert "unexpectedly" not in told(done)
    assert "Could not be found" not in told(done)
    assert shop.postfix.snapshot() == before


def test_a_rollback_to_a_lineage_that_is_gone_is_refused_before_anything_is_done(shop):
    shop.lineage("wild", "*.example.com")
    succeeded(shop.install("wild"))
    succeeded(shop.certbot("delete", "--cert-name", "shop"))
    forget(shop, "shop")
    before = shop.postfix.snapshot()

    done = shop.certbot("rollback", *options(shop.postfix))

    assert done.returncode == 1
    assert "refers to certificate shop, which no longer exists" in told(done)
    assert shop.postfix.snapshot() == before
    assert everywhere(shop.postfix, "any.example.com") == newest(shop, "wild")


def test_a_rollback_leaves_a_bundle_that_master_cf_names_now(own):
    own.postfix.start()
    succeeded(own.install("own"))
    entry = f"{LOOPBACK}:{own.postfix.ports['submissions']}/inet"
    bundle = own.certbot.bundle("own")
    own.postfix.postconf("-P", f"{entry}/smtpd_tls_chain_files={bundle}")
    own.postfix.settle()
    own.postfix.reload()

    succeeded(own.certbot("rollback", *options(own.postfix)))

    assert bundle.exists()
    assert leaf(own.postfix, service="submissions") == newest(own, "own")
    assert leaf(own.postfix, SHOP[0]) == newest(own, NAME)


@pytest.mark.parametrize("there", ["shop", "both"])
def test_a_rollback_goes_back_past_a_lineage_that_is_gone(request, there):
    shop: Scene = request.getfixturevalue(there)
    before = shop.postfix.snapshot()
    for name in ("gone.example.com", "wild.example.com"):
        shop.lineage(name)
        succeeded(shop.install(name))
    succeeded(shop.certbot("delete", "--cert-name", "gone.example.com"))
    forget(shop, "gone.example.com")
    now = shop.postfix.snapshot()

    done = shop.certbot("rollback", *options(shop.postfix))

    assert done.returncode == 1
    assert "cannot roll back: the previous" in told(done)
    assert shop.postfix.snapshot() == now

    two = ("--checkpoints", "2")
    succeeded(shop.certbot("rollback", *two, *options(shop.postfix)))

    assert shop.postfix.snapshot() == before
    for name in ("gone.example.com", "wild.example.com"):
        assert everywhere(shop.postfix, name) == newest(shop, NAME)


def test_a_rollback_to_a_lineage_that_was_renewed_meanwhile_serves_the_renewed_one(
    scene,
):
    scene.lineage("old", NAME)
    scene.stand("old")
    scene.postfix.start()
    scene.lineage("new", NAME)
    succeeded(scene.install("new"))
    assert scene.default == ["new"]
    issued = scene.renew("old")

    succeeded(scene.certbot("rollback", *options(scene.postfix)))

    assert scene.default == ["old"]
    assert everywhere(scene.postfix) == issued.leaf


def test_a_rollback_of_another_lineage_keeps_the_names_of_a_renewal(shop):
    shop.lineage("wild", "*.example.com")
    succeeded(shop.install("wild"))
    issued = shop.renew("shop", SHOP[0], "more.example.net")
    assert shop.deployment.renew(shop.live("shop"))

    succeeded(shop.certbot("rollback", *options(shop.postfix)))

    names = (SHOP[0], "more.example.net")
    assert shop.table == {NAME: [NAME], **{name: ["shop"] for name in names}}
    for name in names:
        assert everywhere(shop.postfix, name) == issued.leaf


def test_a_rollback_of_a_name_that_the_administrator_s_table_answers_is_proven(
    closed, base
):
    theirs = answered(closed, base)
    closed.lineage("newer", *SHOP)
    closed.postfix.start()
    before = closed.postfix.snapshot()
    succeeded(closed.install("newer"))

    succeeded(closed.certbot("rollback", *options(closed.postfix)))

    assert closed.postfix.snapshot() == before
    assert everywhere(closed.postfix, SHOP[0]) == theirs.leaf
    assert everywhere(closed.postfix, SHOP[1]) == newest(closed, "shop")


def test_a_rollback_takes_the_names_out_of_a_compiled_table(compiled):
    table = compiled.postfix.config_dir / "certbot_sni"
    before = compiled.postfix.snapshot()
    compiled.lineage("wild", "*.example.com")
    succeeded(compiled.install("wild"))
    assert everywhere(compiled.postfix, "any.example.com") == newest(compiled, "wild")

    succeeded(compiled.certbot("rollback", *options(compiled.postfix)))

    after = compiled.postfix.snapshot()
    # What postmap makes of the same names need not be the same, byte by byte.
    database = f"certbot_sni{SUFFIXES[usual_type()]}"
    assert before.pop(database).mode == after.pop(database).mode
    assert after == before
    listed = compiled.postfix.command("postmap", "-s", f"{usual_type()}:{table}").stdout
    assert {line.split()[0] for line in listed.splitlines()} == {NAME, *SHOP}
    assert everywhere(compiled.postfix, SHOP[0]) == newest(compiled, "shop")
    assert everywhere(compiled.postfix, "any.example.com") == newest(compiled, NAME)
