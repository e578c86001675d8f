"""Parametrise a test over the objects of `fixtures/manifest.toml`."""

from collections.abc import Callable
from typing import TypeVar

import pytest

from fixtures.manifest import Fixture, fixtures

Test = TypeVar("Test", bound=Callable[..., object])


def each_fixture(wanted: Callable[[Fixture], bool] = lambda _: True) -> Callable[[Test], Test]:
    """Run the test, which takes `fixture`, once for each row that is `wanted` and not huge."""
    rows = [row for row in fixtures().values() if not row.huge and wanted(row)]
    assert rows, "no row of the manifest is wanted"
    each = pytest.mark.parametrize("fixture", rows, ids=[row.name for row in rows])

    def decorate(test: Test) -> Test:
        decorated: Test = pytest.mark.matrix(each(test))
        return decorated

    return decorate
