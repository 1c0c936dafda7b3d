"""The lab's parts as fixtures."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.lab import Authority, Pebble, PrivatePostfix, base_directory


@pytest.fixture
def base() -> Iterator[Path]:
    """A short directory that every user may enter."""
    with base_directory() as path:
        yield path


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
