"""Which function is at a place of code: the same in an object and in what is linked of it."""

import pytest

from recordmcount.elf import object as elf
from recordmcount.elf.symbols import Functions, named
from tests.support import images
from tests.support.objects import parsed

# The places below are distances from `start`.
SOURCE = """
    .text
    .global start, global_alias
    .type start, @function
    .type sized, @function
    .type outer, @function
    .type inner, @function
    .type typed, @function
start:      # no size: it reaches to the next symbol
    .nops 8
untyped:    # neither type nor size
    .nops 8
sized:
    .nops 8
    .size sized, 8
    .nops 8     # nobody's
outer:
    .nops 8
inner:
    .nops 4
    .size inner, 4
label:      # in outer, whose extent is known
    .nops 12
    .size outer, 24
    .nops 8     # nobody's: `label` is in outer, and no longer than it
typed:
untyped_alias:
global_alias:
    .nops 4
    .section .text.other, "ax", @progbits
    .nops 8     # what `typed` covers ends with its section
    .global versioned
    .type versioned, @function
versioned:
    .nops 4
    .symver versioned, visible@@VERSION
    .section .data
data:
    .quad 0
"""
SCRIPT = "SECTIONS { .text : { *(.text) } .text.other : { *(.text.other) } }"
PLACES = [
    (0, "start", 0), (7, "start", 7),
    (8, "untyped", 0), (15, "untyped", 7),
    (16, "sized", 0), (23, "sized", 7), (24, None, 0), (31, None, 0),
    (32, "outer", 0), (39, "outer", 7), (40, "inner", 0), (43, "inner", 3),
    (44, "label", 0), (45, "outer", 13), (55, "outer", 23), (56, None, 0), (63, None, 0),
    (64, "typed", 0), (67, "typed", 3),
]  # fmt: skip


MACHINES = {"x86-64": ("--64", "elf_x86_64"), "i386": ("--32", "elf_i386")}


@pytest.fixture(
    scope="module", params=[(k, m) for k in ("object", "linked") for m in MACHINES], ids=" ".join
)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The code above, for each machine, before and after the link."""
    kind, machine = request.param
    assembler, emulation = MACHINES[machine]
    folder = tmp_path_factory.mktemp("symbols")
    for name, content in (("code.s", SOURCE), ("versions", "VERSION { };"), ("script", SCRIPT)):
        (folder / name).write_text(content)
    path = folder / "code.o"
    images.tool("as", assembler, folder / "code.s", "-o", path)
    if kind == "linked":
        path = folder / "code"
        images.tool(
            "ld", "-m", emulation, "-shared", "-T", folder / "script",
            f"--version-script={folder / 'versions'}", "-o", path, folder / "code.o",
        )  # fmt: skip
    return path.read_bytes()


@pytest.fixture
def obj(built: bytes) -> elf.Object:
    return parsed(built, "code")


def placed(obj: elf.Object, name: str) -> tuple[int, int]:
    """(section, place) of a symbol."""
    ((shndx, value),) = {(shndx, value) for _, value, _, shndx in named(obj, [name.encode()])}
    return shndx, value


@pytest.mark.parametrize(("distance", "name", "function_offset"), PLACES)
def test_a_place_has_the_function_that_stands_there_or_reaches_there(
    distance: int, name: str | None, function_offset: int, obj: elf.Object
) -> None:
    section, start = placed(obj, "start")
    assert Functions(obj).at(section, start + distance) == (name, function_offset)


def test_before_the_first_symbol_and_in_another_section_there_is_none(obj: elf.Object) -> None:
    section, start = placed(obj, "start")
    other, versioned = placed(obj, "versioned")
    functions = Functions(obj)
    assert functions.at(section, start - 1) == (None, 0)
    assert functions.at(other, versioned - 8) == (None, 0)
    assert functions.at(len(obj.headers), 0) == (None, 0)


def test_a_function_has_all_its_names_the_best_first(obj: elf.Object) -> None:
    section, typed = placed(obj, "typed")
    functions = Functions(obj)
    assert functions.names(section, typed) == ("typed", "global_alias", "untyped_alias")
    assert functions.names(section, typed + 1) == ()


def test_names_are_without_their_versions(obj: elf.Object) -> None:
    section, versioned = placed(obj, "versioned")
    names = Functions(obj).names(section, versioned)
    assert {"versioned", "visible"} <= {*names}
    assert not any("@" in name for name in names)


def test_only_a_typed_symbol_proves_that_a_function_begins(obj: elf.Object) -> None:
    section, start = placed(obj, "start")
    functions = Functions(obj)
    begins = [distance for distance in range(72) if functions.begins(section, start + distance)]
    assert begins == [0, 16, 32, 40, 64]
