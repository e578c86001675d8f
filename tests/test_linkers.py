"""After any linker, a table names every live call to mcount once, and nothing else.

Three C++ objects that share inline functions become a program. It prints at its end the table it
has in memory and, where it has its own __fentry__, to where the calls it made returned.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest

from fixtures.manifest import fixtures
from tests.support.linked import Image
from tests.support.program import (
    FENTRY,
    KINDS,
    MCOUNT,
    NO_UNWIND,
    OWN_MCOUNT,
    Flavour,
    Program,
    tool,
)

pytestmark = pytest.mark.matrix

COMPILERS = ("g++", "clang++")
LINKERS = ("bfd", "gold", "lld", "mold")
FLAVOURS = {"fentry": FENTRY, "mcount": MCOUNT}
UNREFERENCED = Flavour(FENTRY.flags, ("tracer.c",))

USED = {*fixtures()["gcc-first"].functions, *fixtures()["gcc-second"].functions}
UNUSED = {"_Z6unusedi", "_ZL13unused_statici"}

# A program that reads its table refers to all of it. Then bfd collects nothing unless it is told
# to, gold and mold nothing at all: to them it is enough that the program may look at the section.
COLLECT = {
    "bfd": ("-Wl,--gc-sections", "-Wl,-z,start-stop-gc"),
    "gold": ("-Wl,--gc-sections",),
    "lld": ("-Wl,--gc-sections",),
    "mold": ("-Wl,--gc-sections",),
}
COLLECTING = ("bfd", "lld")


def functions_of_exact_table(program: Program, path: Path) -> set[str]:
    """Return the names of the functions with calls, all of them in the table and in the program."""
    image = Image(path)
    calls = image.live_calls()
    assert sorted(image.table) == sorted(calls)
    assert not image.has_text_relocations
    said = program.run(path)
    assert [image.base + entry for entry in said.entries] == image.table
    assert {image.base + end for end in said.returns} <= {call.end for call in calls.values()}
    assert bool(said.returns) == ("tracer.c" in program.flavour.runtime)
    return set().union(*(call.functions for call in calls.values()))


@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=FLAVOURS)
@pytest.mark.parametrize("linker", LINKERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiler", COMPILERS)
class TestEveryLinker:
    def test_all_sections_kept(
        self, tmp_path: Path, compiler: str, kind: str, linker: str, flavour: Flavour
    ) -> None:
        program = Program(tmp_path, compiler, kind, flavour)
        objects = program.compile()
        program.record(objects)
        image = program.link(linker, objects)
        assert functions_of_exact_table(program, image) >= USED | UNUSED

    def test_unused_sections_collected(
        self, tmp_path: Path, compiler: str, kind: str, linker: str, flavour: Flavour
    ) -> None:
        program = Program(tmp_path, compiler, kind, flavour)
        objects = program.compile()
        program.record(objects, "--gc-sections")
        image = program.link(linker, objects, *COLLECT[linker])
        functions = functions_of_exact_table(program, image)
        assert functions >= USED
        assert functions.isdisjoint(UNUSED) == (linker in COLLECTING)


# How two of the three objects are joined by `ld -r` into one. (Recorded or not, bfd complains of
# the unwind tables that gold -r makes, so there are none.)
JOIN = {
    "bfd": ("ld.bfd",),
    "bfd-unique": ("ld.bfd", "--unique=__mcount_loc"),
    "gold": ("ld.gold",),
    "lld": ("ld.lld",),
}


def spread(*axes: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of the axes, with one (compiler, kind) each, in turns."""
    programs = list(product(COMPILERS, KINDS))
    count = len(programs)
    return [
        (*combination, *programs[(number + number // count) % count])
        for number, combination in enumerate(product(*axes))
    ]


def link_joined(program: Program, linker: str, joiner: str, when: str, *options: str) -> Path:
    """Join two of the program's objects before or after they are recorded, and link all."""
    *first, last = program.compile()
    if when == "recorded-first":
        program.record(first, *options)
    joined = program.join(JOIN[joiner], first)
    program.record([last] if when == "recorded-first" else [joined, last], *options)
    return program.link(linker, [joined, last], *(COLLECT[linker] if options else ()))


@pytest.mark.parametrize(
    ("linker", "joiner", "when", "compiler", "kind"),
    spread(LINKERS, ("bfd", "gold", "lld"), ("recorded-first", "joined-first")),
)
def test_joined_by_ld_r(
    tmp_path: Path, linker: str, joiner: str, when: str, compiler: str, kind: str
) -> None:
    program = Program(tmp_path, compiler, kind, NO_UNWIND)
    image = link_joined(program, linker, joiner, when)
    assert functions_of_exact_table(program, image) >= USED | UNUSED


# bfd -r and gold -r make one table of several, so that it can no longer follow each section:
# record what they have joined, or have bfd keep the tables apart.
@pytest.mark.parametrize(
    ("linker", "joiner", "when", "compiler", "kind"),
    [
        *spread(LINKERS, ("bfd", "gold", "lld"), ["joined-first"]),
        *spread(LINKERS, ("bfd-unique", "lld"), ["recorded-first"]),
    ],
)
def test_joined_by_ld_r_and_unused_sections_collected(
    tmp_path: Path, linker: str, joiner: str, when: str, compiler: str, kind: str
) -> None:
    program = Program(tmp_path, compiler, kind, NO_UNWIND)
    image = link_joined(program, linker, joiner, when, "--gc-sections")
    functions = functions_of_exact_table(program, image)
    assert functions >= USED
    assert functions.isdisjoint(UNUSED) == (linker in COLLECTING)


@pytest.mark.parametrize("linker", ["bfd", "lld"])
def test_a_table_nothing_refers_to_stays_with_its_code(tmp_path: Path, linker: str) -> None:
    program = Program(tmp_path, "g++", "pie", UNREFERENCED)
    objects = program.compile()
    program.record(objects, "--gc-sections")
    image = Image(program.link(linker, objects, "-Wl,--gc-sections"))
    calls = image.live_calls()
    assert sorted(image.table) == sorted(calls)
    assert UNUSED.isdisjoint(name for call in calls.values() for name in call.functions)


def test_gold_collects_all_of_a_table_nothing_refers_to(tmp_path: Path) -> None:
    program = Program(tmp_path, "g++", "pie", UNREFERENCED)
    objects = program.compile()
    program.record(objects, "--gc-sections")
    image = Image(program.link("gold", objects, "-Wl,--gc-sections"))
    assert not image.has_table


@pytest.mark.parametrize("linker", ["bfd", "lld"])
def test_without_our_gc_sections_the_linker_s_takes_live_entries(
    tmp_path: Path, linker: str
) -> None:
    program = Program(tmp_path, "g++", "pie")
    objects = program.compile()
    program.record(objects)
    image = Image(program.link(linker, objects, *COLLECT[linker]))
    assert set(image.table) < set(image.live_calls())


@pytest.mark.parametrize(("linker", "compiler", "kind"), spread(LINKERS))
def test_static_library(tmp_path: Path, linker: str, compiler: str, kind: str) -> None:
    program = Program(tmp_path, compiler, kind)
    first, *others = program.compile()
    library = tmp_path / "library.a"
    tool(["ar", "rc", library, *others])
    program.record([first, library])
    # Nothing asks for unused.o.
    image = program.link(linker, [first, library])
    functions = functions_of_exact_table(program, image)
    assert functions >= USED
    assert functions.isdisjoint(UNUSED)


# gcc has no -mfentry for 32-bit PIC.
@pytest.mark.parametrize("flavour", [MCOUNT, OWN_MCOUNT], ids=["mcount", "own-mcount"])
@pytest.mark.parametrize("linker", LINKERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_i386(tmp_path: Path, compiler: str, kind: str, linker: str, flavour: Flavour) -> None:
    program = Program(tmp_path, compiler, kind, flavour, machine="-m32")
    objects = program.compile()
    program.record(objects)
    image = program.link(linker, objects)
    assert functions_of_exact_table(program, image) >= USED | UNUSED


@pytest.mark.parametrize(
    ("linker", "flags", "spelling"),
    [
        ("bfd", (), "67 e8"),  # addr32 call
        ("gold", (), "67 e8"),
        ("lld", (), "67 e8"),
        ("mold", (), "90 e8"),  # nop, call
        ("bfd", ("-Wl,-z,call-nop=prefix-0x90",), "90 e8"),
        ("bfd", ("-Wl,-z,call-nop=suffix-nop",), "e8"),  # and a nop behind it
        ("bfd", ("-Wl,--no-relax",), "ff 15"),  # call *mcount@GOTPCREL(%rip), as gcc has it
        ("lld", ("-Wl,--no-relax",), "ff 15"),
    ],
)
def test_entries_name_the_first_byte_however_the_linker_spells_the_call(
    tmp_path: Path, linker: str, flags: Sequence[str], spelling: str
) -> None:
    program = Program(tmp_path, "g++", "pie")
    objects = program.compile()
    program.record(objects)
    path = program.link(linker, objects, *flags)
    assert functions_of_exact_table(program, path) >= USED | UNUSED
    image = Image(path)
    code = bytes.fromhex(spelling)
    assert {image.read(entry, len(code)) for entry in image.table} == {code}


def test_packed_relocations(tmp_path: Path) -> None:
    program = Program(tmp_path, "g++", "pie")
    objects = program.compile()
    program.record(objects)
    image = program.link("bfd", objects, "-Wl,-z,pack-relative-relocs")  # DT_RELR
    assert functions_of_exact_table(program, image) >= USED | UNUSED


@pytest.mark.parametrize("linker", LINKERS)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_an_overridden_weak_function_is_called_nothing_else(
    tmp_path: Path, compiler: str, linker: str
) -> None:
    # Without unwind tables there is no symbol but the weak one, which is the other function's.
    flags = ("-pg", "-mfentry", "-fno-asynchronous-unwind-tables")
    program = Program(tmp_path, compiler, "exe", Flavour(flags, FENTRY.runtime))
    objects = program.compile(["weak.c", "strong.c"])
    program.record(objects)
    path = program.link(linker, objects)
    image = Image(path)
    calls = image.live_calls()
    assert set().union(*(call.functions for call in calls.values())) == {
        "first_weak", "second_weak", "main"
    }  # fmt: skip
    (overridden,) = set(image.table) - set(calls)
    assert sorted(image.table) == sorted([*calls, overridden])
    assert image.is_call_at(overridden)
    assert image.function_at(overridden) is None
    program.run(path)
