"""Many linked files in one command: without calls, and then as they were linked."""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.patching import patch
from tests.support.program import FENTRY, OWN_MCOUNT, Flavour, Program

pytestmark = pytest.mark.matrix


class Kind(NamedTuple):
    """A way to build the C++ program of fixtures/; its file is the program, or the library."""

    name: str
    kind: str = "pie"
    compiler: str = "g++"
    flavour: Flavour = FENTRY
    machine: str = "-m64"
    linker: str = "bfd"
    flags: tuple[str, ...] = ()


KINDS = [
    Kind("exe", "exe"),
    Kind("exe-mcount", "exe", flavour=OWN_MCOUNT, linker="gold"),
    Kind("pie", linker="lld"),
    Kind("pie-clang", compiler="clang++", linker="mold"),
    Kind("static", "exe", flags=("-static",)),
    Kind("static-mcount", "exe", flavour=OWN_MCOUNT, flags=("-static",)),
    Kind("static-pie", flags=("-static-pie",)),
    Kind("library", "shared"),
    Kind("library-clang", "shared", compiler="clang++", linker="lld"),
    Kind("library-mold", "shared", linker="mold"),
    Kind("i386", "exe", machine="-m32"),
    Kind("i386-mcount", flavour=OWN_MCOUNT, machine="-m32"),
    Kind("i386-library", "shared", flavour=OWN_MCOUNT, machine="-m32"),
    Kind("i386-static", "exe", machine="-m32", flags=("-static",)),
]


@pytest.fixture
def programs(tmp_path: Path) -> dict[Path, Program]:
    """The linked files, each with its program."""
    built = {}
    for row in KINDS:
        folder = tmp_path / row.name
        folder.mkdir()
        program = Program(folder, row.compiler, row.kind, row.flavour, row.machine)
        objects = program.compile()
        program.record(objects)
        built[program.link(row.linker, objects, *row.flags)] = program
    return built


def test_every_file_of_a_set_runs_without_calls_and_comes_back_bit_for_bit(
    programs: dict[Path, Program],
) -> None:
    originals = {path: path.read_bytes() for path in programs}
    said = {path: program.run(path) for path, program in programs.items()}
    assert all(each.returns for each in said.values())

    lines = patch("nop", *programs).splitlines()
    assert all(line.endswith(" sites turned to nop, 0 already") for line in lines)
    assert len(lines) == len(programs)
    for path, program in programs.items():
        assert program.run(path).returns == set(), path

    patch("call", *programs)
    assert [path for path in programs if path.read_bytes() != originals[path]] == []
    for path, program in programs.items():
        assert program.run(path) == said[path], path
