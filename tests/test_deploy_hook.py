"""The deploy hook, and who waits for whom."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.clients import everywhere
from tests.lab.machine import wait_until
from tests.lab.scene import (
    NAME,
    SHOP,
    STANDALONE,
    Scene,
    configuration,
    identity,
    newest,
    options,
    succeeded,
    told,
)

pytestmark = pytest.mark.postfix


@pytest.mark.parametrize("way", ["--cert-name", "$RENEWED_LINEAGE"])
def test_the_hook_deploys_the_lineage_of_its(shop, way):
    issued, before = shop.renew("shop"), configuration(shop)

    if way == "--cert-name":
        done = shop.command("deploy", way, "shop")
    else:
        live = shop.live("shop").fullchain.parent
        done = shop.run(shop.argv("deploy", directory=False), RENEWED_LINEAGE=str(live))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert everywhere(shop.postfix, SHOP[0]) == issued.leaf
    assert configuration(shop) == before


def test_the_hook_deploys_a_lineage_though_its_path_is_spelled_otherwise(shop, base):
    link = base / "link"
    link.symlink_to(shop.certbot.config_dir)
    issued = shop.renew("shop")

    live = str(link / "live/shop")
    done = shop.run(shop.argv("deploy", directory=False), RENEWED_LINEAGE=live)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert everywhere(shop.postfix, SHOP[0]) == issued.leaf


def test_the_hook_does_nothing_for_what_postfix_serves_already(shop):
    files = [shop.certbot.bundle("shop"), *configuration_files(shop)]
    identities, reloads = list(map(identity, files)), shop.reloads

    done = shop.command("deploy", "--cert-name", "shop")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(map(identity, files)) == identities
    assert shop.reloads == reloads


def configuration_files(scene: Scene) -> list[Path]:
    return [path for path in scene.postfix.config_dir.iterdir() if path.is_file()]


def test_the_hook_does_nothing_for_what_postfix_does_not_use(own):
    own.postfix.start()

    done = own.command("deploy", "--cert-name", "own")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not own.certbot.bundle("own").exists()
    assert own.reloads == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 2, "--cert-name is needed, or $RENEWED_LINEAGE"),
        (("--cert-name", "nobody"), 1, "no certificate named nobody in"),
        (("--cert-name", "../own"), 1, "'../own' is not the name of a certificate"),
    ],
)
def test_the_hook_tells_by_its_exit_status_that_it_did_nothing(
    own, arguments, status, words
):
    done = own.command("deploy", *arguments)

    assert (done.returncode, done.stdout) == (status, "")
    assert words in told(done)


def test_the_hook_tells_by_its_exit_status_that_there_is_something_to_know(shop):
    issued = shop.renew("shop", SHOP[0])

    done = shop.command("deploy", "--cert-name", "shop")

    assert (done.returncode, done.stdout) == (3, "")
    assert f"shop: no longer covered: {SHOP[1]}" in told(done)
    assert everywhere(shop.postfix, SHOP[0]) == issued.leaf


def test_a_hook_for_all_lineages_deploys_what_certbot_does_not_deploy_itself(scene):
    scene.postfix.start()
    succeeded(scene.certbot("run", *STANDALONE, "-d", NAME, *options(scene.postfix)))
    only = ("certonly", *STANDALONE, "-d", SHOP[0], "--cert-name", "shop")
    succeeded(scene.certbot(*only))
    scene.deploy("shop")
    hook = scene.certbot.config_dir / "renewal-hooks/deploy/postfix"
    command = shlex.join(scene.argv("deploy", directory=False))
    hook.write_text(f"#!/bin/sh\nexec {command}\n")
    hook.chmod(0o755)
    old = {newest(scene, NAME), newest(scene, "shop")}
    reloads = scene.reloads

    # The lineage with the installer comes first, and certbot keeps its lock.
    done = scene.certbot("-q", "renew", "--force-renewal", timeout=100)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not {newest(scene, NAME), newest(scene, "shop")} & old
    assert everywhere(scene.postfix) == newest(scene, NAME)
    assert everywhere(scene.postfix, SHOP[0]) == newest(scene, "shop")
    assert scene.reloads == reloads + 2


_HOLD = """
import sys
from certbot import util
util.lock_dir_until_exit(sys.argv[1])
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("who", "held"),
    [("the hook", "postfix"), ("the hook", "bundles"), ("certbot", "bundles")],
)
def test_each_waits_while_another_one_works_on_the_same_files(shop, base, who, held):
    """Postfix's configuration, or the bundles that instances share."""
    locked = {
        "postfix": shop.postfix.config_dir,
        "bundles": shop.certbot.bundle("shop").parent,
    }
    command = {
        "the hook": shop.argv("deploy", "--cert-name", "shop"),
        "certbot": shop.certbot.argv(
            "install", "--cert-name", "shop", *options(shop.postfix)
        ),
    }
    issued, bundle = shop.renew("shop"), identity(shop.certbot.bundle("shop"))
    trace = base / "trace"
    strace = ["strace", "-f", "-qq", "-e", "trace=fcntl", "-o", str(trace)]
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(locked[held])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with subprocess.Popen(
            [*strace, *command[who]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=shop.certbot.environment,
        ) as waiting:
            wait_until(
                lambda: (
                    waiting.poll() is not None
                    or (trace.exists() and trace.read_text().count("EAGAIN") > 1)
                ),
                f"{who} has tried twice to get the lock",
            )
            assert waiting.poll() is None
            assert identity(shop.certbot.bundle("shop")) == bundle
            other.communicate()
            assert waiting.wait(60) == 0

    assert everywhere(shop.postfix, SHOP[0]) == issued.leaf
