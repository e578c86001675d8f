"""Return sites: calls of `__return__` where functions end are recorded, switched and told of.

gcc makes them with -minstrument-return=call, before each `ret` and before the `jmp` of each tail
call. They have a table of their own, `__return_loc`, which is in all else like `__mcount_loc`.
"""

import json
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import capstone
import pytest
from elftools.elf.elffile import ELFFile

from recordmcount.elf.object import Object
from recordmcount.sites import loadable
from recordmcount.sites.site import Site
from tests.support import command, images, returns
from tests.support.live import count, patch
from tests.support.loc_table import table_entries
from tests.support.objects import parsed
from tests.support.oracle import expected_sites
from tests.support.patching import status, status_of
from tests.support.processes import finish, started
from tests.support.program import KINDS as CXX_KINDS
from tests.support.program import SOURCES
from tests.support.returns import CALLS, KINDS, RESULT, ask, calls_of_return, compile_work, run

LINKERS = ("bfd", "gold", "lld", "mold")
ENTRIES, RETURNS = 6, 7  # sites of returns.WORK: `either` has two ways out
SITES = ENTRIES + RETURNS
TABLE = "__return_loc"
BY_GCC = "-mrecord-return"
NOP5 = "-minstrument-return=nop5"
ALLOC, WRITE = 2, 1


def record(*words: str | Path) -> None:
    assert command.call("recordmcount", *words) == (0, "", "")


def sections(path: Path, name: str) -> list[Any]:
    with path.open("rb") as stream:
        return [each for each in ELFFile(stream).iter_sections() if each.name == name]


def has_text_relocations(path: Path) -> bool:
    said = subprocess.run(["readelf", "-dW", path], check=True, capture_output=True, text=True)
    return "TEXTREL" in said.stdout


def told(path: Path, *options: str) -> dict[str, Any]:
    """What `recordmcount report` tells of a file."""
    done = command.call("recordmcount", "report", "--json", *options, path)
    assert (done.status, done.stderr) == (0, "")
    return dict(json.loads(done.stdout)["files"][0])


def verified(path: Path) -> dict[str, Any]:
    done = command.call("recordmcount", "verify", "--json", path)
    (file,) = json.loads(done.stdout)["files"]
    assert done.status == bool(file["findings"])
    return dict(file)


def is_clean(path: Path) -> bool:
    return not verified(path)["findings"]


# --- objects --------------------------------------------------------------------------------------


def assert_recorded(path: Path) -> None:
    """Both tables of an object name their calls, each once."""
    assert len(calls_of_return(path)) == RETURNS
    assert sorted(table_entries(path, TABLE)) == sorted(calls_of_return(path))
    assert sorted(table_entries(path)) == sorted(expected_sites(path))
    assert is_clean(path)


@pytest.mark.parametrize("own", [[], [BY_GCC]], ids=["calls", "a table of gcc's"])
@pytest.mark.parametrize("machine", ["-m64", "-mx32", "-m32"])
def test_every_call_of_return_has_one_entry(tmp_path: Path, machine: str, own: list[str]) -> None:
    path = compile_work(tmp_path, machine, "-fno-pic", *own)
    record(path)
    assert_recorded(path)
    (table,) = sections(path, TABLE)
    word = 8 if machine == "-m64" else 4
    described = table["sh_addralign"], table["sh_size"], table["sh_flags"]
    assert described == (word, RETURNS * word, ALLOC)


@pytest.mark.parametrize("own", [[], [BY_GCC]], ids=["calls", "a table of gcc's"])
@pytest.mark.parametrize("flags", [["-fpie"], ["-fPIC"], ["-fPIC", "-mx32"]], ids=" ".join)
def test_the_table_is_writable_where_calls_tell_that_code_is_pic(
    tmp_path: Path, flags: list[str], own: list[str]
) -> None:
    path = compile_work(tmp_path, *flags, *own)
    record(path)
    assert_recorded(path)
    assert [table["sh_flags"] for table in sections(path, TABLE)] == [ALLOC | WRITE]


def test_the_table_is_writable_where_it_is_asked_for(tmp_path: Path) -> None:
    path = compile_work(tmp_path, "-fno-pic", BY_GCC)
    record("--pic", path)
    assert_recorded(path)
    assert [table["sh_flags"] for table in sections(path, TABLE)] == [ALLOC | WRITE]


@pytest.mark.parametrize("own", [[], [BY_GCC], [BY_GCC, NOP5]], ids=" ".join)
def test_an_object_is_recorded_once(tmp_path: Path, own: list[str]) -> None:
    path = compile_work(tmp_path, "-fPIC", *own)
    record(path)
    contents = path.read_bytes()
    again = command.call("recordmcount", path)
    assert again == (0, "", f"warning: __mcount_loc already exists: {path}\n")
    assert path.read_bytes() == contents


ONLY_RETURNS = ("-mfentry-name=enter", "-fno-pic")


@pytest.mark.parametrize("own", [[], [BY_GCC], [BY_GCC, NOP5]], ids=" ".join)
def test_an_object_with_return_sites_alone_is_recorded_once_as_well(
    tmp_path: Path, own: list[str]
) -> None:
    path = compile_work(tmp_path, *ONLY_RETURNS, *own)
    assert command.call("recordmcount", "-q", path) == (0, "", "")
    assert sections(path, "__mcount_loc") == []
    assert len(table_entries(path, TABLE)) == RETURNS
    contents = path.read_bytes()
    assert command.call("recordmcount", "-q", path) == (0, "", "")
    assert path.read_bytes() == contents
    record("--symbol=enter", path)
    assert len(table_entries(path, TABLE)) == RETURNS
    assert len(table_entries(path)) == ENTRIES


def test_that_entries_may_have_another_name_is_said_though_returns_were_recorded(
    tmp_path: Path,
) -> None:
    path = compile_work(tmp_path, *ONLY_RETURNS)
    said = command.call("recordmcount", path).stderr
    assert "only returns are recorded, yet 6 functions begin with a call of enter" in said


def test_a_table_of_gcc_s_that_lacks_a_call_is_completed(tmp_path: Path) -> None:
    path = compile_work(tmp_path, "-fno-pic", BY_GCC)
    (relocations,) = sections(path, f".rela{TABLE}")
    none = bytes(8)  # R_X86_64_NONE of no symbol: the first word names nothing
    images.write(path, relocations["sh_offset"] + 8, none)
    record(path)
    assert_recorded(path)


def test_a_table_of_gcc_s_that_is_not_sound_is_refused_in_one_line(tmp_path: Path) -> None:
    path = compile_work(tmp_path, "-fno-pic", BY_GCC)
    (relocations,) = sections(path, f".rela{TABLE}")
    images.write(path, relocations["sh_offset"] + 8, b"\x02")  # R_X86_64_PC32
    contents = path.read_bytes()
    said = f"{path}: {TABLE}+0x0: unknown relocation\n{path}: failed\n"
    assert command.call("recordmcount", path) == (1, "", said)
    assert path.read_bytes() == contents


def test_what_only_gcc_s_table_tells_stays_in_it(tmp_path: Path) -> None:
    """Of -minstrument-return=nop5: nothing else names the NOPs."""
    path = compile_work(tmp_path, "-fPIC", BY_GCC, NOP5)
    before = sorted(table_entries(path, TABLE))
    record(path)
    assert len(before) == RETURNS
    assert sorted(table_entries(path, TABLE)) == before
    assert [table["sh_flags"] for table in sections(path, TABLE)] == [ALLOC | WRITE]
    states = [(site["state"], site["recorded"]) for site in told(path)["sites"]]
    assert sorted(states) == [("call", True)] * ENTRIES + [("nop", True)] * RETURNS
    assert is_clean(path)


@pytest.mark.parametrize("own", [[], [BY_GCC]], ids=["calls", "a table of gcc's"])
def test_with_gc_sections_each_section_has_its_table(tmp_path: Path, own: list[str]) -> None:
    path = compile_work(tmp_path, "-fno-pic", "-ffunction-sections", *own)
    record("--gc-sections", path)
    assert sorted(table_entries(path, TABLE)) == sorted(calls_of_return(path))
    with path.open("rb") as stream:
        file = ELFFile(stream)
        tied = [file.get_section(each["sh_link"]).name for each in sections(path, TABLE)]
    assert sorted(tied) == sorted({site.section for site in calls_of_return(path)})


@pytest.mark.parametrize("own", [[], [BY_GCC]], ids=["calls", "a table of gcc's"])
def test_where_no_tracer_may_be_calls_of_kernels_become_nops(
    tmp_path: Path, own: list[str]
) -> None:
    work = returns.WORK.replace("int work(", '__attribute__((section(".exit.text"))) int work(')
    path = compile_work(tmp_path, "-fno-pic", *own, work=work)
    (call,) = [each for each in calls_of_return(path) if each.section == ".exit.text"]
    record("--kernel", path)
    offset, _, size = images.section(path, ".exit.text")
    text = path.read_bytes()[offset : offset + size]
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    (nop,) = decoder.disasm(text[call.offset : call.offset + 5], 0)
    assert (nop.mnemonic, nop.size) == ("nop", 5)
    assert sorted(table_entries(path, TABLE)) == sorted(calls_of_return(path))
    assert {site.section for site in table_entries(path, TABLE)} == {".text"}
    assert len(calls_of_return(path)) == RETURNS - 1


@pytest.mark.parametrize("machine", ["-m64", "-mx32", "-m32"])
def test_calls_of_an_object_are_turned_off_and_come_back_byte_for_byte(
    tmp_path: Path, machine: str
) -> None:
    path = compile_work(tmp_path, machine, "-fno-pic")
    record(path)
    contents = path.read_bytes()
    command.call("patcher", "nop", path)
    assert calls_of_return(path) == expected_sites(path) == set()
    assert status(path) == f"{SITES} sites: 0 call, {SITES} nop, 0 foreign"
    command.call("patcher", "call", path)
    assert path.read_bytes() == contents


def test_an_object_whose_calls_are_off_becomes_a_program_that_makes_none(tmp_path: Path) -> None:
    path = compile_work(tmp_path, "-fpie")
    record(path)
    command.call("patcher", "nop", path)
    assert run(returns.link(tmp_path, [path], "pie")) == (RESULT, 0, 0)


# --- linked files ---------------------------------------------------------------------------------


def comes_and_goes(folder: Path, kind: str, linker: str, *own: str) -> None:
    """All sites of a linked file are turned off, and come back byte for byte."""
    path = compile_work(folder, *KINDS[kind], *own)
    record(path)
    program = returns.link(folder, [path], kind, linker)
    contents = program.image.read_bytes()
    assert not has_text_relocations(program.image)
    assert run(program) == (RESULT, CALLS, CALLS)
    assert status(program.image) == f"{SITES} sites: {SITES} call, 0 nop, 0 foreign"
    assert is_clean(program.image)
    command.call("patcher", "nop", program.image)
    assert run(program) == (RESULT, 0, 0)
    assert is_clean(program.image)
    command.call("patcher", "call", program.image)
    assert run(program) == (RESULT, CALLS, CALLS)
    assert program.image.read_bytes() == contents


@pytest.mark.parametrize("kind", KINDS)
def test_sites_of_a_linked_file_come_and_go(tmp_path: Path, kind: str) -> None:
    comes_and_goes(tmp_path, kind, "bfd")


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("kind", "linker"),
    [each for each in product(KINDS, LINKERS[1:]) if each != ("static-pie", "gold")],
)
def test_so_they_do_by_every_linker(tmp_path: Path, kind: str, linker: str) -> None:
    comes_and_goes(tmp_path, kind, linker, BY_GCC)


@pytest.mark.parametrize("kind", ["pie", "shared"])
def test_gcc_s_own_table_links_where_code_is_pic_once_it_is_recorded(
    tmp_path: Path, kind: str
) -> None:
    path = compile_work(tmp_path, *KINDS[kind], BY_GCC)
    assert has_text_relocations(returns.link(tmp_path, [path], kind).image)
    record(path)
    assert not has_text_relocations(returns.link(tmp_path, [path], kind).image)


@pytest.mark.matrix
@pytest.mark.parametrize("collected", [False, True], ids=["all kept", "collected"])
@pytest.mark.parametrize("linker", LINKERS)
@pytest.mark.parametrize("kind", CXX_KINDS)
def test_inline_functions_of_several_objects_link_and_have_entries_once(
    tmp_path: Path, kind: str, linker: str, *, collected: bool
) -> None:
    """Gcc's own table, which is of no section group, would refer to code that is discarded."""
    how, options, link = CXX_KINDS[kind]
    flags = ("-O2", how, "-pg", "-mfentry", "-minstrument-return=call", BY_GCC)
    objects = []
    for name in SOURCES:
        source = Path("fixtures", name)
        objects.append(tmp_path / f"{source.stem}.o")
        images.tool("g++", *flags, "-ffunction-sections", "-c", source, "-o", objects[-1])
    record(*options, *(["--gc-sections"] if collected else []), *objects)
    quiet = "__attribute__((no_caller_saved_registers)) void"
    own = f"{quiet} __fentry__(void) {{}} {quiet} __return__(void) {{}}"
    for start in ("__start___mcount_loc", "__start___return_loc"):  # or gold collects the tables
        own += (
            f' extern char {start}[] __attribute__((visibility("hidden"))); char *of{start}(void)'
        )
        own += f" {{ return {start}; }}"
    runtime = images.compile_object(tmp_path, "own", own, "gcc", "-fPIC", "-mgeneral-regs-only")
    collect = ["-Wl,--gc-sections", *(["-Wl,-z,start-stop-gc"] if linker == "bfd" else [])]
    image = tmp_path / "image"
    keep = collect if collected else []
    images.tool("g++", f"-fuse-ld={linker}", link, *keep, "-o", image, *objects, runtime)
    assert not has_text_relocations(image)
    file = verified(image)
    assert file["findings"] == []
    assert file["entries"] == file["sites"]
    if not collected:
        assert_all_are_named(image)


def assert_all_are_named(image: Path) -> None:
    """By disassembly: the table names all that calls __return__ directly."""
    target = images.symbol(image, "__return__")
    offset, vaddr, size = images.section(image, ".text")
    code = image.read_bytes()[offset : offset + size]
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.skipdata = True
    called = {each.address for each in decoder.disasm(code, vaddr)
              if each.mnemonic == "call" and each.op_str == f"{target:#x}"}  # fmt: skip
    sites = told(image)["sites"]
    ends = {site["address"] for site in sites if site["target"] == returns.NAME}
    assert called <= ends
    assert ends


@pytest.mark.matrix
@pytest.mark.parametrize("joiner", ["bfd", "gold", "lld", "mold"])
@pytest.mark.parametrize("own", [[], [BY_GCC], [BY_GCC, NOP5]], ids=" ".join)
@pytest.mark.parametrize("when", ["before", "after"])
def test_objects_are_joined_before_or_after_they_are_recorded(
    tmp_path: Path, joiner: str, own: list[str], when: str
) -> None:
    tool = f"ld.{joiner}" if joiner != "mold" else joiner
    flags = ("-fPIC", "-fno-asynchronous-unwind-tables", *own)
    first = compile_work(tmp_path, *flags)
    second = compile_work(tmp_path, *flags, name="second", work="int alone(int x) { return x; }")
    joined = tmp_path / "joined.o"
    if when == "after":
        record(first, second)
    images.tool(tool, "-r", "-o", joined, first, second)
    if when == "before":
        record(joined)
    assert len({*table_entries(joined, TABLE)}) == len(table_entries(joined, TABLE)) == RETURNS + 1
    program = returns.link(tmp_path, [joined], "pie")
    assert not has_text_relocations(program.image)
    assert run(program) == (RESULT, CALLS, 0 if NOP5 in own else CALLS)
    assert status(program.image).startswith(f"{SITES + 2} sites: ")


def test_a_program_may_have_one_function_for_both(tmp_path: Path) -> None:
    path = compile_work(tmp_path, "-fpie")
    record(path)
    both = """
    #include <stdio.h>
    static unsigned long calls __attribute__((used));
    __attribute__((naked)) void __fentry__(void) { __asm__("lock incq calls(%rip); ret"); }
    extern void __return__(void) __attribute__((alias("__fentry__")));
    int work(int);
    int main(void) { work(3); printf("%lu\\n", calls); return 0; }
    """
    main = images.compile_object(tmp_path, "main", both, "gcc", "-O1", "-fpie")
    program = tmp_path / "program"
    images.tool("gcc", "-pie", "-o", program, path, main)
    contents = program.read_bytes()
    assert command.run_program(program).stdout == f"{2 * CALLS}\n"
    assert is_clean(program)
    targets = [site["target"] for site in told(program)["sites"]]
    assert sorted(targets) == ["__fentry__"] * ENTRIES + ["__return__"] * RETURNS
    command.call("patcher", "nop", program)
    assert command.run_program(program).stdout == "0\n"
    assert is_clean(program)
    assert told(program, "--unrecorded")["sites"] == []
    command.call("patcher", "call", program)
    assert program.read_bytes() == contents


BOTH = """
    .globl f, main
    .type f, @function
    .type main, @function
f:  call __fentry__
.Lr: call __return__
    ret
    .size f, . - f
main: call f
    xor %eax, %eax
    ret
    .section __mcount_loc, "a"
    .balign 8
    .quad f, .Lr
    .section __return_loc, "a"
    .balign 8
    .quad f, .Lr
    .section .note.GNU-stack, ""
"""


def test_a_place_that_both_tables_name_is_a_site_of_the_one_that_it_is_a_call_by(
    tmp_path: Path,
) -> None:
    (tmp_path / "both.S").write_text(BOTH)
    counter = images.compile_object(tmp_path, "counter", returns.COUNTER, "gcc", "-fno-pic")
    program = tmp_path / "program"
    images.tool("gcc", "-no-pie", "-o", program, tmp_path / "both.S", counter)
    ends, others = loaded(program)
    assert [(site.label.split()[0], site.target) for site in others] == [("f", "__fentry__")]
    assert [(site.label.split()[0], site.target) for site in ends] == [("f+0x5", "__return__")]
    assert status(program) == "2 sites: 2 call, 0 nop, 0 foreign"


def test_a_function_that_is_chosen_is_entered_and_left_without_a_call(tmp_path: Path) -> None:
    path = compile_work(tmp_path, "-fpie")
    record(path)
    program = returns.link(tmp_path, [path], "pie")
    command.call("patcher", "nop", program.image, "--functions", "either")
    assert status_of(program.image, "either") == "3 sites: 0 call, 3 nop, 0 foreign"
    assert run(program) == (RESULT, CALLS - 2, CALLS - 2)


def test_a_call_of_something_else_is_foreign(tmp_path: Path) -> None:
    path = compile_work(tmp_path, "-fno-pic")
    record(path)
    program = returns.link(tmp_path, [path], "exe")
    site = next(site for site in told(program.image)["sites"] if site["target"] == returns.NAME)
    offset, vaddr, _ = images.section(program.image, ".text")
    distance = images.symbol(program.image, "work") - site["address"] - 5
    call = b"\xe8" + distance.to_bytes(4, "little", signed=True)
    images.write(program.image, offset + site["address"] - vaddr, call)
    contents = program.image.read_bytes()
    done = command.call("patcher", "nop", program.image)
    assert done.status == 1
    assert "which is not __return__" in done.stderr
    assert "--symbol" not in done.stderr
    assert program.image.read_bytes() == contents
    assert [each["rule"] for each in verified(program.image)["findings"]] == ["no-site"]


def test_a_return_without_an_entry_is_found(tmp_path: Path) -> None:
    recorded = compile_work(tmp_path, "-fpie")
    record(recorded)
    alone = "__attribute__((noinline)) int alone(int x) { return x; }"
    other = compile_work(tmp_path, "-fpie", name="other", work=alone)
    program = returns.link(tmp_path, [recorded, other], "pie")
    found = [(each["rule"], each["function"], each["function_offset"] > 0)
             for each in verified(program.image)["findings"]]  # fmt: skip
    assert sorted(found) == [("missing-entry", "alone", False), ("missing-entry", "alone", True)]


def test_the_table_is_found_between_the_linker_s_symbols_as_well(tmp_path: Path) -> None:
    path = compile_work(tmp_path, "-fno-pic")
    record(path)
    bounds = "extern char __start___return_loc[], __stop___return_loc[];"
    bounds += "char *a = __start___return_loc, *b = __stop___return_loc;"
    reader = images.compile_object(tmp_path, "reader", bounds, "gcc", "-fno-pic")
    program = returns.link(tmp_path, [path, reader], "exe")
    images.tool("objcopy", "--rename-section", f"{TABLE}=.another", program.image)
    assert status(program.image).startswith(f"{SITES} sites: ")


# --- reports --------------------------------------------------------------------------------------


def test_a_report_tells_which_sites_are_returns(tmp_path: Path) -> None:
    path = compile_work(tmp_path, "-fpie")
    record(path)
    program = returns.link(tmp_path, [path], "pie").image
    for file in (path, program):
        sites = told(file)["sites"]
        ends = [site for site in sites if site["target"] == returns.NAME]
        assert (len(sites), len(ends)) == (SITES, RETURNS)
        assert {(site["kind"], site["recorded"]) for site in ends} == {("call", True)}
        text = command.call("recordmcount", "report", file).stdout
        assert text.count("(where it returns)") == RETURNS
        assert f"{SITES} sites: {SITES} call" in text


def test_a_function_with_return_sites_alone_cannot_be_traced(tmp_path: Path) -> None:
    path = compile_work(tmp_path, "-fpie", *ONLY_RETURNS[:1])
    assert command.call("recordmcount", "-q", path).status == 0
    names = {each["function"] for each in told(path, "--untraceable")["untraceable"]}
    assert {"work", "either", "real"} <= names


def test_calls_that_no_table_names_are_told_beside_the_returns_of_gcc_s(tmp_path: Path) -> None:
    path = compile_work(tmp_path, "-fno-pic", BY_GCC)
    program = returns.link(tmp_path, [path], "exe").image
    file = told(program)
    assert not file["has_table"]
    sites = [(site["target"], site["recorded"]) for site in file["sites"]]
    assert sorted(sites) == [("__fentry__", False)] * ENTRIES + [("__return__", True)] * RETURNS
    rules = {each["rule"] for each in verified(program)["findings"]}
    assert rules <= {"no-table", "table-alignment"}


# --- what is loaded -------------------------------------------------------------------------------


def loaded(path: Path) -> tuple[list[Site], list[Site]]:
    """The sites of a file as a process is read: (those that are returns, the others)."""
    obj: Object = parsed(path.read_bytes(), str(path))
    table = loadable.read(obj)
    assert table is not None
    every = range(len(table))
    ends = table.returns(every)
    return [table[each] for each in ends], [table[each] for each in every if each not in ends]


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_tells_which_of_its_sites_are_returns(tmp_path: Path, kind: str) -> None:
    path = compile_work(tmp_path, *KINDS[kind])
    record(path)
    ends, others = loaded(returns.link(tmp_path, [path], kind).image)
    assert (len(ends), len(others)) == (RETURNS, ENTRIES)
    assert {site.target for site in ends} == {"__return__"}
    assert {site.target for site in others} == {"__fentry__"}


def test_a_file_without_such_a_table_has_no_returns(tmp_path: Path) -> None:
    built = images.build(tmp_path)
    ends, others = loaded(built.image)
    assert (len(ends), len(others)) == (0, 4)


def test_sites_of_a_process_come_and_go(tmp_path: Path) -> None:
    path = compile_work(tmp_path, "-fpie")
    record(path)
    program = returns.link(tmp_path, [path], "pie")
    with started(program.path) as process:
        assert ask(process) == (RESULT, CALLS, CALLS)
        assert count(process.pid) == f"{SITES} sites: {SITES} call, 0 nop, 0 foreign"
        patch("nop", process.pid)
        assert ask(process) == (RESULT, 0, 0)
        patch("call", process.pid, "--functions", "either")
        assert ask(process) == (RESULT, 2, 2)
        patch("call", process.pid)
        assert ask(process) == (RESULT, CALLS, CALLS)
        finish(process)


# --- NOPs of gcc's --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exe", "pie", "i386"])
def test_nops_become_calls_where_the_file_tells_of_what(tmp_path: Path, kind: str) -> None:
    path = compile_work(tmp_path, *KINDS[kind], BY_GCC, NOP5)
    record(path)
    program = returns.link(tmp_path, [path], kind)
    assert run(program) == (RESULT, CALLS, 0)
    assert status(program.image) == f"{SITES} sites: {ENTRIES} call, {RETURNS} nop, 0 foreign"
    assert is_clean(program.image)
    command.call("patcher", "call", program.image)
    assert run(program) == (RESULT, CALLS, CALLS)
    command.call("patcher", "nop", program.image)
    assert run(program) == (RESULT, 0, 0)


def test_where_no_file_tells_they_stay_nops(tmp_path: Path) -> None:
    path = compile_work(tmp_path, "-fPIC", BY_GCC, NOP5)
    record(path)
    program = returns.link(tmp_path, [path], "shared")
    ends, others = loaded(program.image)
    assert (len(ends), len(others)) == (RETURNS, ENTRIES)
    assert {(site.target, site.state) for site in ends} == {("__return__", "nop")}
    assert verified(program.image)["unproven_entries"] == RETURNS
    contents = program.image.read_bytes()
    command.call("patcher", "nop", program.image)
    assert run(program) == (RESULT, 0, 0)
    done = command.call("patcher", "call", program.image)
    assert done.status == 0
    assert "nobody knows its call" in done.stderr
    assert program.image.read_bytes() == contents


def test_what_is_for_entries_is_not_called_where_functions_return(tmp_path: Path) -> None:
    """It may change what a function returns."""
    path = compile_work(tmp_path, "-fpie", BY_GCC, NOP5, "-fpatchable-function-entry=5")
    record(path)
    program = returns.link(tmp_path, [path], "pie")
    images.tool("objcopy", "--redefine-sym", "__return__=counter", program.path)
    with started(program.path) as process:
        patch("nop", process.pid)
        said = patch("call", process.pid, "--target", "counter")
        assert said == f"{program.path}: {ENTRIES} sites turned to call, 0 already\n"
        assert ask(process) == (RESULT, 0, CALLS)
        finish(process)
