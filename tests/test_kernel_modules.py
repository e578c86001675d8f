"""All modules of a Debian kernel, their tables removed, get exactly the tables they came with."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.command import run
from tests.support.kernel_modules import CLOUD, Module
from tests.support.peers import Peers

pytestmark = [pytest.mark.kernel, pytest.mark.xdist_group("modules")]  # recorded once


class Recorded(NamedTuple):
    """Folders of the same modules: as Debian ships them, recorded by us and by the C tool."""

    shipped: Path
    ours: Path
    c: Path
    names: list[str]

    def different(self, folder: Path, view: Callable[[Module], object]) -> list[str]:
        """Return the modules of which `view` differs between ours and those of `folder`."""
        return [
            name
            for name in self.names
            if view(Module((self.ours / name).read_bytes()))
            != view(Module((folder / name).read_bytes()))
        ]


@pytest.fixture(scope="module")
def recorded(peers: Peers) -> Iterator[Recorded]:
    bare = CLOUD / "bare"
    names = sorted(path.name for path in bare.iterdir())
    assert len(names) > 500
    # Not pytest's folder, which outlives the test: this is as much as all other tests together.
    with tempfile.TemporaryDirectory() as folder:
        ours, c = (shutil.copytree(bare, Path(folder) / who) for who in ("ours", "c"))
        batch = Path(folder) / "list"
        batch.write_text("".join(f"{ours / name}\n" for name in names))
        assert run("recordmcount", f"@{batch}") == (0, "", "")
        assert peers.c(*(c / name for name in names)) == (0, "", "")
        yield Recorded(CLOUD / "modules", ours, c, names)


def test_every_module_names_the_places_it_was_shipped_with(recorded: Recorded) -> None:
    assert recorded.different(recorded.shipped, lambda module: sorted(module.entries())) == []


def test_every_module_is_what_the_c_tool_makes_of_it(recorded: Recorded) -> None:
    assert recorded.different(recorded.c, Module.parts) == []


def test_old_contents_stay_and_modules_without_calls_are_left_alone(recorded: Recorded) -> None:
    for name in recorded.names:
        bare, ours = ((folder / name).read_bytes() for folder in (CLOUD / "bare", recorded.ours))
        header = 64 if Module(ours).entries() else 0
        assert ours[header : len(bare)] == bare[header:], name
        assert (len(ours) > len(bare)) == (header > 0), name
