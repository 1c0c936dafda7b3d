"""The lab's parts as fixtures."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.lab import (
    NEWEST,
    OLDEST,
    Authority,
    Certbot,
    Pebble,
    PrivatePostfix,
    base_directory,
)
from tests.lab.scene import LOST, NAME, SHOP, Scene, succeeded

with suppress(ModuleNotFoundError):  # the tests of the Debian package have none
    from hypothesis import HealthCheck, settings

    # How long an example takes says how busy the machine is.
    settings.register_profile(
        "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("tests")

# The files whose tests take longest, so that none of them begins when all others ended.
LONGEST = (
    *("test_kill", "test_sni_story", "test_load", "test_policy_faults"),
    *("test_table_faults", "test_baseline", "test_secrets"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, and end with what starts no server."""
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.stem)
            if item.path.stem in LONGEST
            else len(LONGEST),
            item.get_closest_marker("postfix") is None,
        )
    )


@pytest.fixture
def base() -> Iterator[Path]:
    """A short directory that every user may enter."""
    with base_directory() as path:
        yield path


@pytest.fixture(
    params=[
        pytest.param(NEWEST, id="newest certbot"),
        pytest.param(
            OLDEST,
            id="oldest certbot",
            marks=pytest.mark.skipif(
                not OLDEST.exists(), reason="there is no .venv-oldest: run make test"
            ),
        ),
    ]
)
def executable(request: pytest.FixtureRequest) -> Path:
    """Each certbot that has to work."""
    return request.param


@pytest.fixture
def stopped_postfix(base: Path) -> Iterator[PrivatePostfix]:
    """A configured Postfix that does not run, unless the test starts it."""
    with closing(PrivatePostfix(base)) as postfix:
        yield postfix


@pytest.fixture
def postfix(stopped_postfix: PrivatePostfix) -> PrivatePostfix:
    """A running Postfix."""
    stopped_postfix.start()
    return stopped_postfix


@pytest.fixture(scope="session")
def authority() -> Authority:
    """An authority that issues certificates at once."""
    return Authority()


@pytest.fixture(scope="session")
def pebble() -> Iterator[Pebble]:
    """An ACME server."""
    with base_directory() as path, Pebble(path) as server:
        yield server


@pytest.fixture
def certbot(base: Path, pebble: Pebble) -> Certbot:
    """The newest certbot, which obtains certificates from Pebble."""
    return Certbot(base, pebble=pebble)


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
    scene.stand(NAME, by_name=["shop"], form="hash")
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


@pytest.fixture(params=[1, 20])
def bereft(scene: Scene, request: pytest.FixtureRequest) -> Scene:
    """Postfix runs with a database; two lineages are lost, and their bundles, too."""
    scene.lineage(NAME)
    scene.lineage("shop", *(f"{each}.example.net" for each in range(request.param)))
    for name in LOST:
        scene.lineage(name)
    scene.stand(NAME, by_name=["shop", *LOST], form="hash")
    scene.postfix.start()
    for name in LOST:
        succeeded(scene.certbot("delete", "--cert-name", name))
        scene.certbot.bundle(name).unlink()
    return scene


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """Tell what tests counted."""
    _tell_points(terminalreporter)
    _tell_load(terminalreporter)


def _tell_points(terminalreporter: "pytest.TerminalReporter") -> None:
    """Say at how many points certbot was killed, and how many there are."""
    tried, there = Counter[str](), dict[str, int]()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == "killed at":
                    thing, count, there[thing] = value
                    tried[thing] += count
    if there:
        terminalreporter.section("points at which certbot was killed")
    for thing, count in sorted(tried.items()):
        terminalreporter.write_line(f"{thing}: {count} of {there[thing]}")


def _tell_load(terminalreporter: "pytest.TerminalReporter") -> None:
    """Say what became of the clients that came while certificates were renewed."""
    told = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if name == "load"
    ]
    if told:
        terminalreporter.section("connections while certificates were renewed")
    for title, *lines in told:
        terminalreporter.write_line(f"{title}:")
        for line in lines:
            terminalreporter.write_line(f"  {line}")
