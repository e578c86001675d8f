"""Objects whose calls were made NOPs link by every linker, in every kind, and call nothing.

What is linked is run with a counter of calls preloaded, so mcount comes from a shared object: where
a relocation still names it, bfd links no PIE and no shared object.
"""

import itertools
from pathlib import Path

import pytest

from recordmcount.sites import relocatable
from tests.support import command, images
from tests.support.elf_builder import STT_FUNC, X86_64, Relocation, Section, Symbol, build
from tests.support.images import CALLS, Built, calls
from tests.support.objects import AX, CALL, parsed
from tests.support.patching import patch

LINKERS = ("bfd", "gold", "lld", "mold")
# Flags of the object, and the kinds in which it can be linked.
OBJECTS = {
    "gcc -pg -fno-pic": ["-no-pie"],
    "gcc -pg -mfentry -fno-pic": ["-no-pie"],
    "gcc -pg -fpie": ["-no-pie", "-pie"],
    "gcc -pg -mfentry -fPIC": ["-no-pie", "-pie", "-shared"],
    "gcc -pg -fno-pic -mcmodel=large": ["-no-pie"],
    "clang -pg -fno-pic -mcmodel=large": ["-no-pie"],
    "clang -pg -fPIC": ["-no-pie", "-pie", "-shared"],
    "clang -pg -mfentry -fPIC": ["-no-pie", "-pie", "-shared"],
    "gcc -pg -m32 -fno-pic": ["-no-pie"],
    "gcc -pg -m32 -fPIC": ["-no-pie", "-pie", "-shared"],
    "clang -pg -m32 -fPIC": ["-no-pie", "-pie", "-shared"],
}
# Flags, linkers and kinds. mold links no x32, lld none that is PIC.
X32_OBJECTS = {
    "gcc -pg -mx32 -fno-pic": (("bfd", "gold", "lld"), ["-no-pie"]),
    "gcc -pg -mx32 -fPIC": (("bfd", "gold"), ["-pie", "-shared"]),
}


def by_recorder(work: Path) -> None:
    """Its sections are none that are recorded."""
    images.tool("objcopy", "--rename-section", ".text=.noinstr.text", work)
    assert command.call("recordmcount", work) == (0, "", "")


def by_patcher(work: Path) -> None:
    assert command.call("recordmcount", "--pic", work) == (0, "", "")
    patch("nop", "-q", work)


MAKERS = pytest.mark.parametrize("make", [by_recorder, by_patcher])


def compiled(folder: Path, words: str) -> tuple[Path, Path, Path]:
    """The instrumented object, one that uses it, and a counter of calls."""
    compiler, *flags = words.split()
    work = images.compile_object(folder, "work", images.WORK, compiler, "-O0", *flags)
    machine = [flag for flag in flags if flag in ("-m32", "-mx32")]
    main = images.compile_object(folder, "main", images.MAIN, "gcc", "-fPIE", *machine)
    counter = images.compile_object(folder, "count", images.COUNTER, "gcc", "-fPIC", *machine)
    images.tool("gcc", *machine, "-shared", "-o", folder / "libcount.so", counter)
    return work, main, folder / "libcount.so"


def linked(folder: Path, work: Path, main: Path, words: str, linker: str, kind: str) -> Path:
    machine = [flag for flag in words.split() if flag in ("-m32", "-mx32")]
    program, by = folder / "program", f"-fuse-ld={linker}"
    if kind != "-shared":
        images.tool("gcc", by, *machine, kind, "-o", program, main, work)
        return program
    library = folder / "libwork.so"
    images.tool("gcc", by, *machine, "-shared", "-o", library, work)
    images.tool("gcc", *machine, "-o", program, main, library)
    return program


@pytest.mark.matrix
@MAKERS
@pytest.mark.parametrize("words", OBJECTS)
def test_they_link_in_every_kind_run_and_call_nothing(
    words: str, make: object, tmp_path: Path
) -> None:
    assert callable(make)
    work, main, counter = compiled(tmp_path, words)
    kinds = [*itertools.product(LINKERS, OBJECTS[words])]
    with_calls = linked(tmp_path, work, main, words, *kinds[-1])
    assert calls(Built(with_calls, with_calls, counter)) == CALLS
    make(work)
    for linker, kind in kinds:
        program = linked(tmp_path, work, main, words, linker, kind)
        assert calls(Built(program, program, counter)) == 0, (linker, kind)


@pytest.mark.matrix
@MAKERS
@pytest.mark.parametrize("words", X32_OBJECTS)
def test_those_of_x32_link_in_every_kind(words: str, make: object, tmp_path: Path) -> None:
    """They are not run: few kernels do."""
    assert callable(make)
    work, main, _ = compiled(tmp_path, words)
    make(work)
    for linker, kind in itertools.product(*X32_OBJECTS[words]):
        linked(tmp_path, work, main, words, linker, kind)


# --- relocations that name no symbol --------------------------------------------------------------


def with_nameless(code: bytes, offset: int, addend: int) -> bytes:
    relocations = [Relocation(1, 4, "mcount", -4), Relocation(offset, 0, 0, addend)]
    section = Section(".text", flags=AX, data=CALL + code, relocations=relocations)
    return build(X86_64, [section], [Symbol("f", ".text", type=STT_FUNC), Symbol("mcount")]).data


@pytest.mark.parametrize(
    ("code", "offset", "addend", "seen"),
    [
        ("0f1f440000c3", 7, -4, 1),  # as this recorder leaves it
        ("0f1f440000c3", 7, 0, 0),  # no addend of a call
        ("0f1f440000c3", 8, -4, 0),  # elsewhere
        ("9090909090c3", 7, -4, 0),  # no such NOP
        ("0f1f440000c3", 1 << 40, -4, 0),  # outside of the section
        ("0f1f440000c3", -3, -4, 0),
    ],
)
def test_where_no_nop_stands_they_are_nobody_s_business(
    code: str, offset: int, addend: int, seen: int
) -> None:
    sites = [*relocatable.read(parsed(with_nameless(bytes.fromhex(code), offset, addend)))]
    assert [(site.position, site.state) for site in sites] == [
        (0, "call"), *[(6, "nop")] * seen
    ]  # fmt: skip
