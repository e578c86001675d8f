"""Parametrise a test over the objects of `fixtures/manifest.toml`."""

from collections.abc import Callable

import pytest

from fixtures.manifest import Fixture, fixtures


def each_fixture(wanted: Callable[[Fixture], bool] = lambda _: True) -> pytest.MarkDecorator:
    """Run the test, which takes `fixture`, once for each row that is `wanted` and not huge."""
    rows = [row for row in fixtures().values() if not row.huge and wanted(row)]
    assert rows, "no row of the manifest is wanted"
    return pytest.mark.parametrize("fixture", rows, ids=[row.name for row in rows])
