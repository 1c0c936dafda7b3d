"""Scenes as fixtures: what is deployed when a test begins."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.lab import Authority, Certbot, PrivatePostfix, base_directory
from tests.lab.dane import DOMAIN
from tests.lab.network import Network
from tests.lab.postmap import usual_type
from tests.lab.scene import LOST, NAME, SHOP, Scene, succeeded
from tests.lab.zone import Zone


@pytest.fixture
def scene(
    stopped_postfix: PrivatePostfix, certbot: Certbot, authority: Authority
) -> Scene:
    """Nothing is deployed, and Postfix does not run."""
    return Scene(stopped_postfix, certbot, authority)


@pytest.fixture
def shop(scene: Scene) -> Scene:
    """Postfix runs with a default, and with a lineage that is served by name."""
    scene.lineage(NAME)
    scene.lineage("shop", *SHOP)
    scene.stand(NAME, by_name=["shop"])
    scene.postfix.start()
    return scene


@pytest.fixture
def compiled(scene: Scene) -> Scene:
    """As `shop`, with a database, as a larger table would have."""
    scene.lineage(NAME)
    scene.lineage("shop", *SHOP)
    scene.stand(NAME, by_name=["shop"], form=usual_type())
    scene.postfix.start()
    return scene


@pytest.fixture
def own(scene: Scene) -> Scene:
    """Postfix does not run yet; a lineage is not deployed, beside a default that is."""
    scene.lineage(NAME)
    scene.lineage("own", *SHOP)
    scene.stand(NAME)
    return scene


@pytest.fixture
def both(scene: Scene) -> Scene:
    """Postfix runs with a default that has keys of both types."""
    scene.lineage(NAME)
    scene.lineage("rsa", NAME, kind="rsa")
    scene.stand(NAME, "rsa")
    scene.postfix.start()
    return scene


@pytest.fixture
def closed(scene: Scene) -> Scene:
    """As `shop`, but Postfix does not run."""
    scene.lineage(NAME)
    scene.lineage("shop", *SHOP)
    scene.stand(NAME, by_name=["shop"])
    return scene


@pytest.fixture(params=["texthash", "hash"])
def wild(scene: Scene, request: pytest.FixtureRequest) -> Scene:
    """Postfix runs with a default, and two lineages that are served by name."""
    scene.lineage(NAME)
    scene.lineage("shop", *SHOP)
    scene.lineage("wild", "*.example.com")
    scene.stand(NAME, by_name=["shop", "wild"], form=request.param)
    scene.postfix.start()
    return scene


@pytest.fixture(params=[(1, ""), (20, ""), (1, "cdb")], ids=["1", "20", "cdb"])
def bereft(scene: Scene, request: pytest.FixtureRequest) -> Scene:
    """Postfix runs with a database; two lineages are lost, and their bundles, too."""
    scene.lineage(NAME)
    count, form = request.param
    scene.lineage("shop", *(f"{number}.example.net" for number in range(count)))
    for name in LOST:
        scene.lineage(name)
    if form:  # or it would be reported that another one is usual
        scene.postfix.set(default_database_type=form)
    scene.stand(NAME, by_name=["shop", *LOST], form=form or usual_type())
    scene.postfix.start()
    for name in LOST:
        succeeded(scene.certbot("delete", "--cert-name", name))
        scene.certbot.bundle(name).unlink()
    return scene


@pytest.fixture(scope="module")
def zone() -> Iterator[Zone]:
    """A signed zone that takes updates, and a resolver that keeps records as it may."""
    with base_directory() as base, ExitStack() as stack:
        network = Network(base, Authority(), cache=3600)
        stack.callback(network.close)
        yield Zone(network, DOMAIN, updates=True)
