"""What every test gets: fixtures to ask for, and the tools that its markers announce."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.build import build
from fixtures.manifest import fixtures
from tests.support.markers import HiddenTools
from tests.support.peers import Peers, find_peers


def pytest_configure(config: pytest.Config) -> None:
    """Hide from each test what its markers do not announce."""
    config.pluginmanager.register(HiddenTools())


@pytest.fixture
def fixture_object(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function: the name of a row of the manifest -> a fresh copy of its object."""

    def copy(name: str) -> Path:
        return Path(shutil.copyfile(build(fixtures()[name]), tmp_path / f"{name}.o"))

    return copy


@pytest.fixture(scope="session")
def peers() -> Peers:
    """Return the kernel's own recorders."""
    return find_peers()
