"""`patcher nop|call|status` on relocatable objects: code and relocation change, and come back."""

import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from elftools.elf.relocation import RelocationSection

from patcher import cli
from patcher.files import overlaps, switch
from recordmcount.elf import object as elf
from recordmcount.sites import calls as site_calls
from tests.support import command, images
from tests.support.elf_builder import (
    I386,
    STB_LOCAL,
    STT_FUNC,
    X32,
    X86_64,
    Elf,
    Relocation,
    Section,
    Symbol,
    Target,
    build,
)
from tests.support.images import CALLS, Built, calls
from tests.support.kernel_modules import CLOUD, Module
from tests.support.objects import AX, Read, recorded, text
from tests.support.patching import differences, patch, refused, status
from tests.support.specimens import ELVES


class Row(NamedTuple):
    """A way to compile and link a program, and a site in its object as call and as NOP."""

    name: str
    call: str
    nop: str
    relocation: str
    compiler: str = "gcc"
    linker: str = "bfd"
    flags: str = "-fno-pic"
    link: str = "-no-pie"


PLT32 = "R_X86_64_PLT32"
GOT = ("ff 15 00 00 00 00", "66 0f 1f 44 0c 29", "R_X86_64_GOTPCRELX")
CALL = ("e8 00 00 00 00", "0f 1f 44 08 04", PLT32)
LINKERS = ("bfd", "gold", "lld", "mold")
ROWS = [
    *(Row(f"{one}-exe", *CALL, linker=one, flags="-mfentry -fno-pic") for one in LINKERS),
    *(Row(f"{one}-pie", *GOT, linker=one, flags="-mfentry -fpie", link="-pie") for one in LINKERS),
    *(Row(f"{one}-static", *CALL, linker=one, link="-static -no-pie") for one in LINKERS),
    Row("got-without-relaxation", "ff 15 00 00 00 00", "66 0f 1f 44 0c 09", "R_X86_64_GOTPCREL",
        flags="-mfentry -fpie -Wa,-mrelax-relocations=no", link="-pie"),
    Row("large", "49 ba 00 00 00 00 00 00 00 00 41 ff d2", "66 66 66 66 2e 0f 1f 84 08 01 02 00 00",
        "R_X86_64_64", flags="-mfentry -fno-pic -mcmodel=large"),
    Row("clang-large", "48 b8 00 00 00 00 00 00 00 00 ff d0", "66 66 66 2e 0f 1f 84 08 01 00 00 00",
        "R_X86_64_64", compiler="clang", flags="-fno-pic -mcmodel=large"),
    Row("clang-pie", *CALL, compiler="clang", flags="-mfentry -fpie", link="-pie"),
    Row("i386", "e8 fc ff ff ff", "0f 1f 44 48 02", "R_386_PC32", flags="-m32 -fno-pic",
        link="-m32 -no-pie"),
    Row("i386-pie", "ff 93 00 00 00 00", "66 0f 1f 44 4b 2b", "R_386_GOT32X", flags="-m32 -fpie",
        link="-m32 -pie"),
    Row("clang-i386", "e8 fc ff ff ff", "0f 1f 44 48 04", "R_386_PLT32", compiler="clang",
        flags="-m32 -fno-pic", link="-m32 -no-pie"),
]  # fmt: skip


def build_program(folder: Path, row: Row) -> Built:
    return images.build(
        folder, compiler=row.compiler, linker=row.linker, flags=row.flags.split(),
        record=["--pic"] if row.link == "-pie" else [], link=row.link.split(), own_counter=True,
    )  # fmt: skip


def link(folder: Path, row: Row, work: Path) -> Built:
    program = folder / "again"
    objects = (work, folder / "main.o", folder / "counter.o")
    images.tool("gcc", f"-fuse-ld={row.linker}", "-o", program, *objects, *row.link.split())
    return Built(program, program, None)


@pytest.mark.matrix
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_object_is_switched_before_the_link_and_the_program_proves_it(
    row: Row, tmp_path: Path
) -> None:
    build_program(tmp_path, row)
    work = tmp_path / "work.o"
    original = work.read_bytes()
    assert status(work) == "4 sites: 4 call, 0 nop, 0 foreign"
    none = f"{row.relocation[: row.relocation.rindex('_')]}_NONE"
    for line in patch("nop", "-n", work).splitlines():
        assert line.endswith(f"): {row.call} -> {row.nop}; {row.relocation} -> {none}")
    assert work.read_bytes() == original

    assert patch("nop", work) == f"{work}: 4 sites turned to nop, 0 already\n"
    assert status(work) == "4 sites: 0 call, 4 nop, 0 foreign"
    assert calls(link(tmp_path, row, work)) == 0
    assert patch("call", work) == f"{work}: 4 sites turned to call, 0 already\n"
    assert work.read_bytes() == original
    assert calls(link(tmp_path, row, work)) == CALLS


def test_sites_turned_off_before_the_link_are_foreign_after_it(tmp_path: Path) -> None:
    """A linker drops the relocation: what stood there cannot be known."""
    row = ROWS[0]
    build_program(tmp_path, row)
    patch("nop", "--functions", "odd", tmp_path / "work.o")
    built = link(tmp_path, row, tmp_path / "work.o")
    original = built.image.read_bytes()
    for verb in ("nop", "call"):
        assert "odd" in refused(verb, built.image)
        assert built.image.read_bytes() == original
    patch("nop", "--notrace", "odd", built.image)
    patch("call", "--notrace", "odd", built.image)
    assert built.image.read_bytes() == original


TOOLS = {
    "bfd": "gcc {machine} -fuse-ld=bfd -nostdlib -r {} -o {}",
    "lld": "ld.lld -r {} -o {}",
    "mold": "ld.mold -r {} -o {}",
    "strip": "strip -g {} -o {}",
    "objcopy": "objcopy --rename-section .text=.text.new {} {}",
    "llvm-objcopy": "llvm-objcopy -g {} {}",
}


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("tool", "flags"),
    [
        (tool, flags)
        for tool in TOOLS
        for flags in ("-fno-pic", "-mx32 -fno-pic", "-fPIC", "-m32 -fPIC")
        if (tool, flags) != ("mold", "-mx32 -fno-pic")  # mold does not link x32
    ],
)
def test_calls_come_back_in_objects_that_went_through_other_tools(
    tool: str, flags: str, tmp_path: Path
) -> None:
    """Symbols are renumbered meanwhile: the name is what is kept."""
    work = images.compile_object(tmp_path, "work", images.WORK, "gcc", "-g", "-pg", *flags.split())
    assert command.call("recordmcount", work) == (0, "", "")
    through, expected = tmp_path / "through.o", tmp_path / "expected.o"
    machine = " ".join(flag for flag in flags.split() if flag.startswith("-m"))
    images.tool(*TOOLS[tool].format(work, expected, machine=machine).split())
    patch("nop", work)
    images.tool(*TOOLS[tool].format(work, through, machine=machine).split())
    assert status(through) == "4 sites: 0 call, 4 nop, 0 foreign"
    patch("call", through)
    assert calls_in(through) == calls_in(expected)


def calls_in(path: Path) -> list[tuple[object, ...]]:
    """Where mcount is called, by section, place, type, symbol and addend of the relocation."""
    read = Read(path)
    return [
        (section.name, each["r_offset"], each["r_info_type"], read.symbol_name(each["r_info_sym"]),
         each.entry.get("r_addend"))
        for section in read.sections
        if isinstance(section, RelocationSection)
        for each in section.iter_relocations()
        if each["r_info_sym"] and read.symbol_name(each["r_info_sym"]) == "mcount"
    ]  # fmt: skip


@pytest.mark.parametrize("flags", ["-fno-pic", "-m32 -fno-pic"])
def test_where_strip_has_dropped_the_function_s_symbol_that_is_said(
    flags: str, tmp_path: Path
) -> None:
    work = images.compile_object(tmp_path, "work", images.WORK, "gcc", "-pg", *flags.split())
    assert command.call("recordmcount", work) == (0, "", "")
    patch("nop", work)
    images.tool("strip", "--strip-unneeded", work)
    assert "mcount, which is no symbol here any more" in refused("call", work)


@pytest.mark.matrix
def test_gold_drops_the_way_back_and_that_is_said(tmp_path: Path) -> None:
    row = ROWS[0]
    build_program(tmp_path, row)
    work, joined = tmp_path / "work.o", tmp_path / "joined.o"
    patch("nop", work)
    images.tool("ld.gold", "-r", "-o", joined, work)
    assert "a NOP in the place of a call whose relocation is gone" in refused("call", joined)
    assert calls(link(tmp_path, row, joined)) == 0


# --- which function was called --------------------------------------------------------------------


def two_callees(*names: str, target: Target = X86_64) -> Elf:
    """An object whose table names one call of each of these functions."""
    word, kind = (8, 1) if target == X86_64 else (4, 10 if target == X32 else 1)
    code = b"\xe8\0\0\0\0\xc3" * len(names)
    at = range(0, len(code), 6)
    slots = [Relocation(word * i, kind, "f", start) for i, start in enumerate(at)]
    return build(
        target,
        [
            Section(".text", flags=AX, data=code, relocations=[
                Relocation(start + 1, 4, name, -4) for start, name in zip(at, names, strict=True)
            ]),
            Section("__mcount_loc", flags=2, data=bytes(word * len(names)), align=word,
                    relocations=slots),
        ],
        [
            Symbol("f", ".text", size=len(code), type=STT_FUNC, bind=STB_LOCAL),
            *map(Symbol, dict.fromkeys(names)),
        ],
    )  # fmt: skip


@pytest.mark.parametrize("target", [X86_64, X32, I386], ids=["x86-64", "x32", "i386"])
def test_each_call_comes_back_to_the_function_that_it_called(
    target: Target, tmp_path: Path
) -> None:
    path = two_callees("mcount", "__fentry__", "_mcount", "mcount", target=target).write(
        tmp_path / "several.o"
    )
    original = path.read_bytes()
    patch("nop", path)
    patch("call", "--functions", "f", path)
    assert path.read_bytes() == original


@pytest.mark.parametrize("target", [X86_64, X32], ids=["x86-64", "x32"])
def test_another_symbol_than_the_call_had_is_never_put_there(
    target: Target, tmp_path: Path
) -> None:
    path = two_callees("foo", "bar", target=target).write(tmp_path / "two.o")
    original = path.read_bytes()
    patch("nop", "--symbol", "foo", "--symbol", "bar", path)
    off = path.read_bytes()
    for names in (["--symbol", "bar"], ["--symbol", "other"], []):
        assert "a function that is not known: say its name" in refused("call", *names, path)
        assert path.read_bytes() == off
    patch("call", "--symbol", "bar", "--symbol", "foo", path)
    assert path.read_bytes() == original


def test_an_i386_call_of_a_name_that_a_nop_cannot_keep_is_left_alone(tmp_path: Path) -> None:
    path = two_callees("foo", target=I386).write(tmp_path / "foo.o")
    original = path.read_bytes()
    assert "a NOP has no room for the name of foo" in refused("nop", "--symbol", "foo", path)
    assert path.read_bytes() == original
    assert patch("call", "--symbol", "foo", path) == f"{path}: 0 sites turned to call, 1 already\n"


def test_a_call_of_one_of_two_symbols_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    path = two_callees("mcount", "mcounT").write(tmp_path / "two.o")
    path.write_bytes(path.read_bytes().replace(b"\0mcounT\0", b"\0mcount\0"))
    original = path.read_bytes()
    assert "two symbols are named mcount" in refused("nop", path)
    assert path.read_bytes() == original


@pytest.mark.parametrize("target", [X86_64, X32, I386], ids=["x86-64", "x32", "i386"])
def test_what_older_versions_turned_off_comes_back(target: Target, tmp_path: Path) -> None:
    """They changed the relocation's type alone."""
    path = two_callees("mcount", target=target).write(tmp_path / "old.o")
    original = path.read_bytes()
    off = two_callees("mcount", target=target).patch("relocations[.text][0].r_type", 0)
    call = bytes.fromhex("e8fcffffff" if target == I386 else "e800000000")
    path.write_bytes(off.replace(call, bytes.fromhex("0f1f440804")))
    assert status(path) == "1 site: 0 call, 1 nop, 0 foreign"
    patch("call", path)
    assert path.read_bytes() == original


# --- beside NOPs by others ------------------------------------------------------------------------


@pytest.mark.parametrize("flags", ["-fno-pic", "-m32 -fno-pic", "-mx32 -fno-pic"])
def test_what_nop_did_call_undoes_beside_the_nops_of_gcc(flags: str, tmp_path: Path) -> None:
    plain = ["-O2", "-pg", "-mfentry", *flags.split()]
    ours = images.compile_object(tmp_path, "work", images.WORK, "gcc", *plain)
    assert command.call("recordmcount", ours) == (0, "", "")
    gccs = images.compile_object(
        tmp_path, "gcc", "int other(int x) { return x; }", "gcc", *plain,
        "-mrecord-mcount", "-mnop-mcount",
    )  # fmt: skip
    mixed = tmp_path / "mixed.o"
    machine = [flag for flag in flags.split() if flag.startswith("-m")]
    images.tool("gcc", *machine, "-nostdlib", "-r", "-o", mixed, ours, gccs)
    original = mixed.read_bytes()
    sites = sum(map(int, re.findall(r"(\d+) call, (\d+) nop", status(mixed))[0]))
    patch("nop", mixed)
    assert mixed.read_bytes() != original
    for turned in (sites - 1, 0):
        done = command.call("patcher", "call", mixed)
        said = f"{mixed}: {turned} sites turned to call, {sites - 1 - turned} already\n"
        assert (done.status, done.stdout) == (0, said)
        assert "other" in done.stderr
        assert "a NOP by another tool, which stays: nobody knows its call" in done.stderr
        assert mixed.read_bytes() == original
    assert "other" in refused("call", "--functions", "other", mixed)


# --- what an object may hold ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ELVES)
def test_objects_of_every_kind_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    path = recorded(tmp_path / "object.o", ELVES[name]())
    original = path.read_bytes()
    patch("nop", path)
    changed = path.read_bytes()
    assert changed != original
    assert differences(original, changed) <= switchable(path)
    patch("call", path)
    assert path.read_bytes() == original


def switchable(path: Path) -> set[int]:
    """The file offsets of executable sections and, but for r_offset, of their relocations."""
    read = Read(path)
    offsets: set[int] = set()
    word = read.file.elfclass // 8
    for section in read.sections:
        start, size, flags = section["sh_offset"], section["sh_size"], section["sh_flags"]
        if flags & AX == AX:
            offsets.update(range(start, start + size))
        if section["sh_type"] in ("SHT_RELA", "SHT_REL"):
            if read.sections[section["sh_info"]]["sh_flags"] & AX != AX:
                continue
            for entry in range(start, start + size, section["sh_entsize"]):
                offsets.update(range(entry + word, entry + section["sh_entsize"]))
    return offsets


def with_site(
    code: bytes, *relocations: Relocation, target: Target = X86_64, entry: int = 0
) -> Elf:
    """An object whose table, as some compiler wrote it, names offset `entry` of `code`."""
    word, kind = (8, 1) if target == X86_64 else (4, 10 if target == X32 else 1)
    slot = Relocation(0, kind, "f", entry)
    return build(
        target,
        [
            Section(".text", flags=AX, data=code, relocations=relocations),
            Section("__mcount_loc", flags=2, data=bytes(word), relocations=[slot], align=word),
        ],
        [
            Symbol("f", ".text", size=len(code), type=STT_FUNC, bind=STB_LOCAL),
            Symbol("mcount"),
        ],
    )


PLAIN = Relocation(1, 4, "mcount", -4)


def test_a_nop_by_another_tool_counts_and_is_never_turned_into_a_call(tmp_path: Path) -> None:
    path = tmp_path / "nop.o"
    for relocation in (PLAIN, None):  # as objtool leaves it, and as gcc -mnop-mcount does
        off = [replace(relocation, type=0)] if relocation else []
        path.write_bytes(with_site(bytes.fromhex("0f1f440000c3"), *off).data)
        original = path.read_bytes()
        assert status(path) == "1 site: 0 call, 1 nop, 0 foreign"
        assert patch("nop", path) == f"{path}: 0 sites turned to nop, 1 already\n"
        assert refused("call", path) == (
            f"{path}: f (.text+0x0): a NOP by another tool, which does not tell the relocation of "
            "its call; nothing was written\n"
        )
        assert path.read_bytes() == original


REFUSED = {
    "field": ("e801000000c3", [PLAIN], "the relocated field is not zero, and would not come back"),
    "behind": ("e800000000c3", [PLAIN, Relocation(4, 4, "f", 0)], "another relocation touches it"),
    "before": ("e800000000c3", [PLAIN, Relocation(0, 4, "f", 0)], "another relocation touches it"),
    "wide": (
        "90" * 7 + "e800000000c3",
        [Relocation(0, 1, "f", 0), Relocation(8, 4, "mcount", -4)],
        "another relocation touches it",
    ),
    "off": ("e800000000c3", [PLAIN, Relocation(2, 0, "f", 0)], "another relocation touches it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_call_that_would_not_come_back_bit_for_bit_is_left_alone(
    name: str, tmp_path: Path
) -> None:
    code, relocations, reason = REFUSED[name]
    path = tmp_path / "odd.o"
    entry = code.index("e8") // 2
    path.write_bytes(with_site(bytes.fromhex(code), *relocations, entry=entry).data)
    original = path.read_bytes()
    assert reason in refused("nop", path)
    assert path.read_bytes() == original
    assert patch("call", path) == f"{path}: 0 sites turned to call, 1 already\n"


def test_a_relocation_that_ends_where_the_call_begins_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "two.o"
    code = bytes.fromhex("e800000000e800000000c3")
    before, own = Relocation(1, 4, "f", -4), Relocation(6, 4, "mcount", -4)
    path.write_bytes(with_site(code, before, own, entry=5).data)
    original = path.read_bytes()
    patch("nop", path)
    patch("call", path)
    assert path.read_bytes() == original


@pytest.mark.parametrize(
    ("code", "relocation"),
    [
        ("0f1f440804c3", replace(PLAIN, type=0, addend=0)),  # another addend than a call's
        ("0f1f440805c3", replace(PLAIN, type=0)),  # no type of a call
        ("660f1f440804c3", replace(PLAIN, type=0, offset=2)),  # of a call in this form
        ("0f1f440804c3", None),  # nothing that names mcount
    ],
    ids=["addend", "type", "form", "relocation"],
)
def test_a_mark_that_does_not_fit_its_relocation_is_none(
    code: str, relocation: Relocation | None, tmp_path: Path
) -> None:
    path = tmp_path / "odd.o"
    path.write_bytes(with_site(bytes.fromhex(code), *([relocation] if relocation else [])).data)
    original = path.read_bytes()
    for verb in ("nop", "call"):
        assert "f (.text+0x0): foreign: " in refused(verb, path)
    assert path.read_bytes() == original


def test_calls_without_an_entry_are_no_sites(tmp_path: Path) -> None:
    path = tmp_path / "two.o"
    second = Relocation(6, 4, "mcount", -4)
    path.write_bytes(with_site(bytes.fromhex("e800000000e800000000c3"), PLAIN, second).data)
    assert status(path) == "1 site: 1 call, 0 nop, 0 foreign"


def test_a_foreign_site_of_an_object_is_decoded_and_stops_everything(tmp_path: Path) -> None:
    path = tmp_path / "odd.o"
    path.write_bytes(with_site(b"\x90" + bytes.fromhex("e800000000c3"), target=I386).data)
    original = path.read_bytes()
    said = (
        f"{path}: f (.text+0x0): foreign: neither a call of mcount nor a NOP of one: "
        "90 e8 00 00 00 (nop; ??)"
    )
    assert refused("nop", path) == f"{said}; nothing was written\n"
    done = command.call("patcher", "status", path)
    assert done == (1, f"{path}: 1 site: 0 call, 0 nop, 1 foreign\n{said}\n", "")
    assert path.read_bytes() == original


def test_an_entry_outside_of_the_code_is_foreign_and_has_no_bytes(tmp_path: Path) -> None:
    path = tmp_path / "odd.o"
    path.write_bytes(with_site(bytes.fromhex("e800000000c3"), PLAIN, entry=0x60).data)
    assert refused("nop", path) == (
        f"{path}: .text+0x60: foreign: outside the section; nothing was written\n"
    )


def test_a_name_cannot_move_the_cursor(tmp_path: Path) -> None:
    path = tmp_path / "odd.o"
    data = with_site(bytes.fromhex("e800000000c3"), PLAIN).data
    path.write_bytes(data.replace(b"\0f\0", b"\0\7\0"))
    assert patch("status", path).splitlines()[1] == f"{path}: \\x07 (.text+0x0): call"


def test_sections_that_share_bytes_are_refused(tmp_path: Path) -> None:
    elf = with_site(bytes.fromhex("e800000000c3"), PLAIN)
    path = tmp_path / "odd.o"
    path.write_bytes(elf.patch("sections[.strtab].sh_offset", 0x41))
    original = path.read_bytes()
    said = refused("nop", path).rstrip()
    assert re.search(r": section \d and section \d overlap at file offset 0x41$", said)
    assert path.read_bytes() == original


def test_of_a_broken_object_nothing_but_sites_and_their_relocations_ever_changes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = recorded(tmp_path / "object.o", ELVES["pic-and-large"]())
    original = path.read_bytes()
    patch("nop", path)
    off = path.read_bytes()
    allowed = differences(original, off)
    chance = random.Random(2008)
    outcomes = {"nop": 0, "call": 0}
    for _ in range(600):
        verb, sound, back = chance.choice((("nop", original, "call"), ("call", off, "nop")))
        broken = bytearray(sound)
        for _ in range(chance.choice((1, 2, 8))):
            value = chance.choice((0, 1, 0xFF, chance.randrange(256)))
            broken[chance.randrange(len(broken))] = value
        path.write_bytes(broken)
        if cli.main([verb, str(path)]):
            assert path.read_bytes() == broken
        else:
            outcomes[verb] += 1
            assert differences(bytes(broken), path.read_bytes()) <= allowed
            assert cli.main([back, str(path)]) == 0
            assert path.read_bytes() == broken
    assert 50 < outcomes["nop"] < 300
    assert 50 < outcomes["call"] < 300
    assert "Traceback" not in "".join(capfd.readouterr())


# --- the kernel's modules -------------------------------------------------------------------------


@pytest.fixture
def modules() -> Iterator[list[Path]]:
    """Copies of Debian's modules that have a table."""
    with tempfile.TemporaryDirectory() as folder:
        copies = [
            Path(shutil.copy(module, folder))
            for module in sorted((CLOUD / "modules").iterdir())
            if b"__mcount_loc" in module.read_bytes()
        ]
        assert len(copies) > 500
        yield copies


@pytest.mark.kernel
def test_every_module_of_a_kernel_is_switched_off_and_comes_back(
    modules: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    originals = {path: path.read_bytes() for path in modules}
    assert cli.main(["nop", *map(str, modules)]) == 0
    said = capfd.readouterr()
    assert all(line.endswith(" turned to nop, 0 already") for line in said.out.splitlines())
    assert [line.partition("warning: ")[::2] for line in said.err.splitlines()] == [
        (f"{path}: ", words) for path in modules for words in warnings_of(path)
    ]
    for path in modules:
        assert {site[:4] for site in sites_of(path)} == {b"\x0f\x1f\x44\x08"}
    assert cli.main(["call", *map(str, modules)]) == 0
    assert [path.name for path in modules if path.read_bytes() != originals[path]] == []
    assert capfd.readouterr().err == ""


def warnings_of(module: Path) -> list[str]:
    """What has to be said of a module that was turned off."""
    words = [switch.NOT_TO_LOAD]
    if module.read_bytes().endswith(b"~Module signature appended~\n"):
        words.append("its signature is not valid before `patcher call`, or signing it again")
    return words


def sites_of(path: Path) -> list[bytes]:
    """The five bytes that each entry of a module names."""
    module = Module(path.read_bytes())
    texts = dict(zip(module.names, map(module.content, range(len(module.names))), strict=True))
    return [texts[section][offset : offset + 5] for section, offset in module.entries()]


# --- many sections --------------------------------------------------------------------------------


def test_however_many_sections_there_are_their_relocations_are_sorted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at all of them for each would take minutes for the sections of one large file."""
    looks = []

    def look(obj: elf.Object) -> list[tuple[int, int]]:
        looks.append(obj.path)
        return site_calls.text_relocations(obj)

    sections = [text(f".text.f{number}") for number in range(50)]
    symbols = [Symbol(f"f{number}", f".text.f{number}") for number in range(50)]
    path = recorded(tmp_path / "x.o", build(X86_64, sections, [*symbols, Symbol("__fentry__")]))
    before = path.read_bytes()
    monkeypatch.setattr(overlaps, "calls", SimpleNamespace(text_relocations=look))
    assert cli.main(["nop", "-q", str(path)]) == 0
    assert len(looks) == 1
    assert cli.main(["call", "-q", str(path)]) == 0
    assert path.read_bytes() == before


@pytest.mark.matrix
@pytest.mark.slow
def test_seventy_thousand_sections_are_switched_off_and_on(
    fixture_object: Callable[[str], Path],
) -> None:
    path = fixture_object("as-many-sections")
    assert command.call("recordmcount", path) == (0, "", "")
    before = path.read_bytes()
    assert patch("nop", path) == f"{path}: 35000 sites turned to nop, 0 already\n"
    assert patch("call", path) == f"{path}: 35000 sites turned to call, 0 already\n"
    assert path.read_bytes() == before
