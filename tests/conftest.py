"""The lab's parts as fixtures."""

import os
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.lab import (
    COMMAND,
    NEWEST,
    OLDEST,
    Authority,
    Certbot,
    Pebble,
    PrivatePostfix,
    base_directory,
    commands,
)
from tests.lab.postmap import needs

# There is no package yet where the tests of a distribution begin.
if find_spec("certbot_postfix"):
    pytest_plugins = ("tests.lab.scenes",)

with suppress(ModuleNotFoundError):  # the tests of the Debian package have none
    from hypothesis import HealthCheck, settings

    # How long an example takes says how busy the machine is.
    settings.register_profile(
        "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("tests")

# A machine's own programs may be upgraded meanwhile; who says so knows that none is.
if sys.prefix != sys.base_prefix or "SPARE_IMPORTS" in os.environ:
    commands.spare_imports(NEWEST, OLDEST, COMMAND, OLDEST.with_name(COMMAND.name))

# The files whose tests take longest, so that none of them begins when all others ended.
LONGEST = (
    *("test_tlsa_mail", "test_faults", "test_outbound_mail", "test_baseline"),
    *("test_instances", "test_outbound_policies", "test_table_faults", "test_kill"),
    *("test_tlsa_roll", "test_story", "test_secrets", "test_routes"),
    *("test_recipients", "test_resolver_daemons", "test_sni_story", "test_status"),
)

# Letters of a mail log that are shown where a test failed.
LOGGED = 20_000


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


@pytest.hookimpl(hookwrapper=True)  # pytest 7 of Debian 12 has no other
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, Any, None]:
    """Show what Postfix logged where a test failed."""
    outcome = yield
    if (report := outcome.get_result()).failed:
        parts = [getattr(value, "postfix", value) for value in item.funcargs.values()]
        there = {part.maillog for part in parts if isinstance(part, PrivatePostfix)}
        for path in filter(Path.exists, there):
            text = path.read_text(errors="replace")[-LOGGED:]
            report.sections.append(("mail log", text))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what is about a type of database that this Postfix does not have."""
    if item.get_closest_marker("postfix") and hasattr(item, "callspec"):
        for value in item.callspec.params.values():
            needs(value)


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


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """Tell what tests counted."""
    _tell_points(terminalreporter)
    _tell_load(terminalreporter)
    _tell_flows(terminalreporter)


def _tell_flows(terminalreporter: "pytest.TerminalReporter") -> None:
    """Say what the runs of certbot started and read."""
    flows = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if name == "flow"
    ]
    if flows:
        terminalreporter.section("programs started and files read by the plugin")
    for call, programs, reads, repeated in flows:
        terminalreporter.write_line(
            f"{call}: {programs} programs, {reads} files, {repeated} of them again"
        )


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
