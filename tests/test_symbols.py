"""Which function is at a place of code: the same in an object and in what is linked of it."""

from pathlib import Path

import pytest

from recordmcount.elf import object as elf
from recordmcount.elf.symbols import Functions, named
from recordmcount.sites import image
from tests.support import command, images
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
    .type data_in_code, @object
    .type tagged, @gnu_unique_object
data_in_code:
    .nops 4
tagged:
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
    (64, "typed", 0), (67, "typed", 3), (68, "data_in_code", 0),
    (72, "tagged", 0), (75, "tagged", 3),
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


# --- a weak function that is overridden -----------------------------------------------------------

# `before` stands for frame_dummy of crtbegin.o: it has no size, and the weak `hook` is linked
# behind it. Its body stays, without a symbol.
BEFORE = ".text\n.type before, @function\nbefore: ret\n.p2align 4\n"
WEAK = "__attribute__((weak)) int hook(int x) { return x + 1; }"
STRONG = """
int hook(int x) { return x + 2; }
int main(void) { return hook(-2); }
__asm__(".text; .globl __fentry__, mcount; __fentry__: ret; mcount: ret");
"""
UNNAMED = "no symbol names this function; a weak one that is overridden?"


def overridden(folder: Path, kind: str, *flags: str, compiler: str = "gcc") -> Path:
    """WEAK and STRONG, recorded and linked behind BEFORE, as a program or by `ld -r`."""
    (folder / "before.s").write_text(BEFORE)
    machine = [flag for flag in flags if flag == "-m32"]
    images.tool("gcc", *machine, "-c", folder / "before.s", "-o", folder / "before.o")
    objects = [
        images.compile_object(folder, name, source, compiler, "-O2", "-pg", "-fno-pic", *flags)
        for name, source in (("weak", WEAK), ("strong", STRONG))
    ]
    assert command.call("recordmcount", *objects) == (0, "", "")
    link = ["-no-pie"] if kind == "linked" else ["-r"]
    path = folder / kind
    images.tool("gcc", *machine, *link, "-o", path, folder / "before.o", *objects)
    return path


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["linked", "joined"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["-mfentry"], id="both"),
        pytest.param(["-mfentry", "-fno-asynchronous-unwind-tables"], id="call"),
        pytest.param(
            ["-mfentry", "-fno-asynchronous-unwind-tables", "-fcf-protection"], id="endbr"
        ),
        pytest.param([], id="unwind entry"),
        pytest.param(["-m32"], id="i386"),
    ],
)
def test_a_weak_function_that_is_overridden_is_no_part_of_what_is_before_it(
    flags: list[str], compiler: str, kind: str, tmp_path: Path
) -> None:
    path = overridden(tmp_path, kind, *flags, compiler=compiler)
    sites = image.read(parsed(path.read_bytes()))
    assert sites is not None
    assert sorted((site.function or "", site.reason) for site in sites) == [
        ("", UNNAMED), ("hook", ""), ("main", ""),
    ]  # fmt: skip
    before = path.read_bytes()
    done = command.call("patcher", "nop", "--functions", "before", path)
    assert (done.status, path.read_bytes()) == (1, before)
    assert "no site in a function like before" in done.stderr


def test_of_a_stripped_file_it_is_not_said_that_no_symbol_names_a_function(tmp_path: Path) -> None:
    built = images.build(tmp_path, flags=["-fPIC"], link=["-shared"])
    images.tool("strip", built.image)
    sites = image.read(parsed(built.image.read_bytes()))
    assert sites is not None
    assert {site.reason for site in sites if site.function is None} == {""}


# --- functions of assembly ------------------------------------------------------------------------

GAS = """
    .globl plain, typed, twin
    .type typed, @function
    .type odd_type, @object
    .text
plain:
    call mcount
    ret
typed:
    call mcount
    ret
odd_type:
twin:
    endbr64
    call mcount
    ret
    .section .note.GNU-stack, "", @progbits
"""
NASM = """
    global plain, typed:function, twin
    extern mcount
    section .text
plain:
    call mcount
    ret
typed:
    call mcount
    ret
odd_type:
twin:
    endbr64
    call mcount
    ret
    section .note.GNU-stack noalloc noexec nowrite progbits
"""
ASSEMBLERS = {"gcc": GAS, "clang": GAS, "nasm": NASM}


@pytest.mark.matrix
@pytest.mark.parametrize("assembler", ASSEMBLERS)
@pytest.mark.parametrize("linked", [False, True], ids=["object", "linked"])
def test_functions_of_assembly_are_found_by_their_names(
    linked: bool, assembler: str, tmp_path: Path
) -> None:
    source, path = tmp_path / "code.s", tmp_path / "code.o"
    source.write_text(ASSEMBLERS[assembler])
    words = ["nasm", "-f", "elf64"] if assembler == "nasm" else [assembler, "-c"]
    images.tool(*words, source, "-o", path)
    assert command.call("recordmcount", path) == (0, "", "")
    if linked:
        main = images.compile_object(tmp_path, "main", "int main(void) { return 0; }", "gcc")
        images.tool("gcc", "-no-pie", "-o", tmp_path / "program", path, main)
        path = tmp_path / "program"
    sites = image.read(parsed(path.read_bytes()))
    assert sites is not None
    assert [site.place for site in sites] == ["plain", "typed", "twin+0x4"]
    for number, name in enumerate(("plain", "typed", "odd_type")):
        done = command.call("patcher", "nop", "--functions", name, path)
        assert (done.status, done.stderr) == (0, "")
        sites = image.read(parsed(path.read_bytes()))
        assert sites is not None
        assert [site.state for site in sites] == ["nop"] * (number + 1) + ["call"] * (2 - number)
