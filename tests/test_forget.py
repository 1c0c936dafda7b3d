"""A certificate is taken out of service: `certbot-postfix forget`."""

import socket

import pytest

from certbot_postfix.inbound import sni
from certbot_postfix.postfix import databases
from certbot_postfix.system import files
from tests.lab.clients import everywhere
from tests.lab.machine import LOOPBACK
from tests.lab.scene import (
    LOST,
    NAME,
    SHOP,
    Scene,
    answered,
    configuration,
    forget,
    identity,
    impose,
    newest,
    private,
    succeeded,
    told,
)
from tests.lab.terminal import converse

pytestmark = pytest.mark.postfix


def test_a_lineage_that_certbot_deletes_stays_in_service(shop):
    shown = everywhere(shop.postfix, SHOP[0])

    succeeded(shop.certbot("delete", "--cert-name", "shop"))

    shop.postfix.reload()
    assert everywhere(shop.postfix, SHOP[0]) == shown
    issued = shop.renew(NAME)
    succeeded(shop.certbot("renew"))
    assert everywhere(shop.postfix) == issued.leaf
    assert everywhere(shop.postfix, SHOP[0]) == shown


def test_a_lineage_by_name_is_forgotten(wild):
    reloads, before = wild.reloads, configuration(wild)

    diff = forget(wild, "shop")

    for name in SHOP:
        assert f"\n-{name} {wild.certbot.bundle('shop')}\n" in diff
        assert everywhere(wild.postfix, name) == newest(wild, NAME)
    assert wild.table == {NAME: [NAME], ".example.com": ["wild"]}
    assert everywhere(wild.postfix, "any.example.com") == newest(wild, "wild")
    assert wild.reloads == reloads + 1
    assert configuration(wild) == before


@pytest.mark.parametrize("there", ["shop", "compiled"])
def test_the_table_goes_with_the_last_lineage_by_name(request, there):
    scene: Scene = request.getfixturevalue(there)
    left = databases.build_directory(scene.postfix.config_dir / sni.NAME)
    left.mkdir(mode=0o700)  # by a killed run

    diff = forget(scene, "shop")

    assert "\n-tls_server_sni_maps = " in diff
    assert scene.parameter("tls_server_sni_maps") == ""
    assert list(scene.postfix.config_dir.glob("*certbot_sni*")) == []
    assert everywhere(scene.postfix, SHOP[0]) == newest(scene, NAME)


def test_a_lineage_that_a_table_of_ones_own_lists_is_not_forgotten(own):
    bundle = private(own.certbot.bundle("own"), own.issue(*SHOP))
    table = own.postfix.config_dir / "own_sni"
    table.write_text(f"{SHOP[0]} {bundle}\n")
    own.postfix.set(tls_server_sni_maps=f"texthash:{table}")

    done = own.command("forget", "own")

    assert done.returncode == 1
    assert f"an SNI map of your own lists {bundle}; no changes were made" in told(done)
    assert "Hint: remove it there first" in told(done)
    assert bundle.exists()


def test_one_of_two_default_certificates_is_forgotten(both):
    forget(both, NAME)

    assert both.default == ["rsa"]
    assert everywhere(both.postfix) == newest(both, "rsa")


def test_the_only_default_certificate_is_replaced_by_certbot_s_own_files(shop):
    shown = everywhere(shop.postfix)

    done = shop.command("forget", NAME)

    lineage, diff = shop.live(NAME), done.stdout
    assert done.returncode == 3
    assert f"read certbot's own files in {lineage.fullchain.parent}" in done.stderr
    assert "certbot reconfigure --cert-name" in done.stderr
    assert f"\n+smtpd_tls_chain_files = {lineage.key}, {lineage.fullchain}\n" in diff
    assert NAME not in shop.table
    assert everywhere(shop.postfix) == everywhere(shop.postfix, NAME) == shown
    issued = shop.renew(NAME)
    assert shop.command("deploy", "--cert-name", NAME).returncode == 0
    assert everywhere(shop.postfix) == issued.leaf
    assert everywhere(shop.postfix, SHOP[0]) == newest(shop, "shop")


def test_the_only_default_certificate_stays_if_certbot_has_its_files_no_more(shop):
    succeeded(shop.certbot("delete", "--cert-name", NAME))
    before, reloads = shop.postfix.snapshot(), shop.reloads

    done = shop.command("forget", NAME)

    assert done.returncode == 1
    assert "is the only certificate that Postfix has left" in told(done)
    assert "Hint: install another certificate in its place" in told(done)
    assert shop.postfix.snapshot() == before
    assert shop.certbot.bundle(NAME).exists()
    assert shop.reloads == reloads


def test_a_bundle_that_nothing_names_is_removed_without_a_reload(shop):
    issued = shop.issue("old.example.org")
    bundle = private(shop.certbot.bundle("old"), issued)
    left = private(files.backup_name(bundle), issued)  # by a run that was killed
    before, reloads = configuration(shop), shop.reloads

    assert forget(shop, "old") == ""

    assert not left.exists()
    assert configuration(shop) == before
    assert shop.reloads == reloads


def test_a_bundle_that_a_service_names_by_hand_is_not_forgotten(own):
    entry = f"{LOOPBACK}:{own.postfix.ports['submissions']}/inet"
    bundle = own.certbot.bundle(NAME)
    own.postfix.postconf("-P", f"{entry}/smtpd_tls_chain_files={bundle}")
    before = own.postfix.snapshot()

    done = own.command("forget", NAME)

    assert (done.returncode, done.stdout) == (1, "")
    assert f"{bundle} is named by {entry} in master.cf" in told(done)
    assert own.postfix.snapshot() == before
    assert bundle.exists()


# At a terminal


def at_a_terminal(
    scene: Scene, *words: str, answers: tuple[str, ...]
) -> tuple[str, int]:
    """Run ``certbot-postfix WORDS``; return what is shown, and the exit status."""
    return converse(scene.argv(*words), scene.certbot.environment, *answers)


CTRL_D = "\x04"


def test_what_would_be_forgotten_is_shown_and_asked_for(shop):
    before, reloads = shop.postfix.snapshot(), shop.reloads
    bundle = shop.certbot.bundle("shop")

    shown, status = at_a_terminal(shop, "forget", "shop", answers=("what?", CTRL_D))

    assert status == 1
    question = "Apply these changes and reload Postfix? (Y)es/(N)o: "
    diff, again, end = shown.split(question)
    assert f"\n-{SHOP[0]} {bundle}\n" in diff
    assert again == "what?\n"
    # The lab ends each answer with a newline, of which this one needs none.
    assert end == "\n\ncertbot-postfix: Cancelled. No changes were made.\n"
    assert shop.postfix.snapshot() == before
    assert bundle.exists()
    assert shop.reloads == reloads

    shown, status = at_a_terminal(shop, "forget", "shop", answers=("y",))

    assert status == 0
    assert diff[diff.index("--- ") :] + question in shown  # after steps that took long
    assert not bundle.exists()


def test_nothing_is_asked_at_a_terminal_with_n(shop):
    shown, status = at_a_terminal(shop, "forget", "-n", "shop", answers=())

    assert status == 0
    assert "(Y)es/(N)o" not in shown
    assert not shop.certbot.bundle("shop").exists()


def other_names(scene: Scene) -> None:
    scene.renew(NAME, "other.example.org")


def missing_key(scene: Scene) -> None:
    scene.live(NAME).key.unlink()


@pytest.mark.parametrize(
    ("happen", "words"),
    [
        pytest.param(other_names, f"no longer covers {NAME}", id="other names"),
        pytest.param(missing_key, "could not read", id="no key"),
    ],
)
def test_the_only_default_certificate_stays_if_certbot_s_own_files_have(
    closed, happen, words
):
    happen(closed)
    before = closed.postfix.snapshot(), identity(closed.certbot.bundle(NAME))

    done = closed.command("forget", NAME)

    assert done.returncode == 1
    assert words in told(done)
    assert (
        closed.postfix.snapshot(),
        identity(closed.certbot.bundle(NAME)),
    ) == before


@pytest.mark.parametrize("name", ["nobody", "../mx.example.org"])
def test_a_name_that_nobody_knows_is_not_forgotten(own, name):
    before = own.postfix.snapshot()

    done = own.command("forget", name)

    assert (done.returncode, done.stdout) == (1, "")
    assert name in told(done)
    assert own.postfix.snapshot() == before


def test_a_lineage_is_forgotten_whose_name_the_administrator_s_table_answers(
    closed, base
):
    theirs = answered(closed, base)
    closed.postfix.start()

    done = closed.command("forget", "shop", "--verify-timeout", "3")

    assert done.returncode == 0, done.stderr
    assert not closed.certbot.bundle("shop").exists()
    assert everywhere(closed.postfix, SHOP[0]) == theirs.leaf
    assert everywhere(closed.postfix, SHOP[1]) == newest(closed, NAME)


def test_a_lineage_whose_bundle_is_lost_is_forgotten_with_others_that_are(bereft):
    done = bereft.command("forget", LOST[0])

    assert done.returncode == 3, done.stderr
    gone = bereft.certbot.bundle(LOST[1])
    assert f"{gone} and its lineage no longer exist" in told(done)
    assert bereft.table.keys().isdisjoint(LOST)
    assert everywhere(bereft.postfix, LOST[0]) == newest(bereft, NAME)
    assert everywhere(bereft.postfix, "0.example.net") == newest(bereft, "shop")


def test_a_removal_that_is_not_proven_is_undone(wild, base):
    table, other = base / "other", private(base / "other.pem", wild.issue(*SHOP))
    table.write_text(f"{SHOP[1]} {other}\n")
    entry = impose(wild, "tls_server_sni_maps", f"$mine, texthash:{table}")
    before = wild.postfix.snapshot(), identity(wild.certbot.bundle("shop"))

    done = wild.command("forget", "shop", "--verify-timeout", "3")

    assert done.returncode == 1
    assert f"{entry.removesuffix('/inet')} presents " in told(done)
    assert f" to clients requesting {SHOP[1]}" in told(done)
    assert "the previous files were restored" in told(done)
    assert (
        wild.postfix.snapshot(),
        identity(wild.certbot.bundle("shop")),
    ) == before
    for name in SHOP:
        assert everywhere(wild.postfix, name) == newest(wild, "shop")


def test_a_removal_is_refused_if_postfix_would_die_of_the_reload(shop):
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with shop.postfix.master_cf.open("a") as file:
            file.write(f"{LOOPBACK}:{port} inet n - n - - smtpd\n")
        shop.postfix.settle()
        before, master = shop.postfix.snapshot(), shop.postfix.master_pid

        done = shop.command("forget", "shop")

        assert done.returncode == 1
        assert f"port {port} of {LOOPBACK} in " in told(done)
        assert (shop.postfix.snapshot(), shop.postfix.master_pid) == (before, master)
    assert shop.certbot.bundle("shop").exists()


def test_a_name_that_the_default_has_too_falls_back_to_it(scene):
    scene.lineage(NAME, NAME, "alias.example.org")
    scene.lineage("wild", "*.example.com")
    scene.lineage("alias", "alias.example.org", "more.example.org")
    scene.stand(NAME, by_name=["wild"])
    scene.postfix.start()
    scene.deploy("alias")
    assert scene.table["alias.example.org"] == ["alias"]

    forget(scene, "alias")

    assert scene.table["alias.example.org"] == [NAME]
    assert "more.example.org" not in scene.table
    assert everywhere(scene.postfix, "alias.example.org") == newest(scene, NAME)


def test_a_name_that_another_lineage_has_too_falls_to_that(shop):
    shown = everywhere(shop.postfix, SHOP[1])
    shop.lineage("newer", SHOP[1], "more.example.net")
    shop.deploy("newer")

    forget(shop, "newer")

    assert shop.table == {NAME: [NAME], SHOP[0]: ["shop"], SHOP[1]: ["shop"]}
    assert everywhere(shop.postfix, SHOP[1]) == shown
