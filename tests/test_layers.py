"""Who may import whom: no circle, and no arrow upward, in each package and between the two.

Every import counts: at the top of a module, in a function, and for types alone.
"""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.command import ROOT

# From the bottom up. A module imports from rows below its own, and from its own room.
LAYERS = {
    "recordmcount": [
        ["__init__", "errors", "x86", "columns", "packages"],
        [
            "asked",
            "x86_functions",
            "x86_length",
            "x86_linked",
            "x86_nops",
            "x86_object_nops",
            "x86_relocations",
        ],
        ["x86_code", "x86_passage", "x86_patterns", "x86_plain", "x86_stubs"],
        ["elf"],
        ["commit", "folders"],
        ["replacement"],
        ["console", "jobs", "mcount_loc", "named_files", "nearest", "progress"],
        ["cluster", "grammar"],
        ["spread"],
        ["help", "options", "reading"],
        ["verb"],
        ["sites"],
        ["record"],
        ["report"],
        ["diff", "verify"],
        ["cli"],
        ["__main__"],
    ],
    "patcher": [
        ["__init__", "closing", "errors", "options"],
        ["memory"],
        ["modify"],
        ["disassembly", "protocols", "cpu"],
        ["files", "ftrace"],
        ["process"],
        ["report", "run"],
        ["trace"],
        ["verbs"],
        ["cli"],
        ["__main__"],
    ],
}


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """(dotted name, source) of every module of a package; a room's `__init__` has the room's."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


ALL = {name: path for package in LAYERS for name, path in modules(package)}


def imported(name: str, path: Path) -> Iterator[str]:
    """The modules of the project that a module imports, wherever it does so."""
    parents = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if inner in ALL else module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_of_every_sort_are_read(tmp_path: Path) -> None:
    source = tmp_path / "switch.py"
    source.write_text(
        "import recordmcount.x86\nfrom recordmcount.elf import object as elf\n"
        "from . import linked\nfrom .rewrite import rewrite\nfrom ..modify import Batch\n"
        "if TYPE_CHECKING:\n    from patcher.memory.elffile import ElfFile\n"
        "def late():\n    from .objects import ObjectSwitch\n"
    )
    assert {*imported("patcher.files.switch", source)} == {
        "recordmcount.x86", "recordmcount.elf.object", "patcher.files.linked",
        "patcher.files.rewrite", "patcher.modify", "patcher.memory.elffile",
        "patcher.files.objects",
    }  # fmt: skip


IMPORTS = {
    name: {other for other in imported(name, path) if other in ALL} - {name}
    for name, path in ALL.items()
}


def room(name: str) -> tuple[str, str]:
    """(package, room) of a module; a module that stands in no room is one itself."""
    package, _, rest = name.partition(".")
    return package, rest.partition(".")[0] or "__init__"


def row(name: str) -> int:
    package, inside = room(name)
    return next(number for number, rooms in enumerate(LAYERS[package]) if inside in rooms)


def goes_up(name: str, other: str) -> bool:
    """Whether an import goes up, sideways to another room, or from the recorder to the patcher."""
    (package, inside), (other_package, other_inside) = room(name), room(other)
    if package != other_package:
        return package == "recordmcount"
    return inside != other_inside and row(other) >= row(name)


def upward(imports: Mapping[str, set[str]]) -> list[str]:
    return sorted(
        f"{name} imports {other}"
        for name, others in imports.items()
        for other in others
        if goes_up(name, other)
    )


@pytest.mark.parametrize("package", LAYERS)
def test_every_module_is_in_one_row(package: str) -> None:
    rooms = {room(name)[1] for name, _ in modules(package)} | {"__init__"}
    assert sorted(rooms) == sorted(each for rooms in LAYERS[package] for each in rooms)


def test_no_import_goes_upward() -> None:
    assert upward(IMPORTS) == []


def test_no_imports_make_a_circle() -> None:
    tuple(TopologicalSorter(IMPORTS).static_order())  # raises CycleError


@pytest.mark.parametrize("arrow", [
    ("recordmcount.elf.object", "recordmcount.sites.calls"),
    ("recordmcount.x86", "patcher.errors"),
    ("recordmcount.columns", "recordmcount.x86"),
    ("patcher.modify", "patcher.files.rewrite"),
])  # fmt: skip
def test_an_arrow_upward_would_be_seen(arrow: tuple[str, str]) -> None:
    name, other = arrow
    assert upward({name: {other}}) == [f"{name} imports {other}"]


def test_a_circle_would_be_seen() -> None:
    circle = {**IMPORTS, "recordmcount.x86": {"recordmcount.elf.object"}}
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(circle).static_order())


def test_every_room_says_in_one_line_what_lives_there() -> None:
    for name, path in ALL.items():
        if path.name == "__init__.py":
            source = ast.parse(path.read_text())
            said = ast.get_docstring(source)
            assert said, name
            assert "\n" not in said, name
            if "." in name:
                assert len(source.body) == 1, name
