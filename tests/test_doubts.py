"""What the recorder says when calls may be missing from the table, and that its advice works."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.command import run
from tests.support.elf_builder import (
    I386,
    STT_FUNC,
    X86_64,
    Relocation,
    Section,
    Symbol,
    Target,
    build,
)
from tests.support.images import tool
from tests.support.loc_table import table_entries
from tests.support.objects import AX, R_PLT32, TARGETS, caller, record_file, text

FUNCTIONS = (
    "__attribute__((noinline)) int one(int n) { return *(volatile int *)&n + 1; }\n"
    "__attribute__((noinline)) int two(int n) { return *(volatile int *)&n + 2; }\n"
)
COUNTING = """
#include <stdio.h>
static int calls;
#define TRACER __attribute__((no_instrument_function)) void
%s
int one(int), two(int);
extern char *__start___mcount_loc[], *__stop___mcount_loc[];
__attribute__((no_instrument_function)) int main(void)
{
    one(two(1));
    printf("%%d calls, %%d entries\\n", calls, (int)(__stop___mcount_loc - __start___mcount_loc));
}
"""


def doubts(path: Path, **options: object) -> list[str]:
    """The warnings for a file, which is recorded, without what stands before each."""
    result = record_file(path, **options)
    assert not result.failed
    before = f"{path}: warning: "
    assert all(line.startswith(before) for line in result.err)
    return [line.removeprefix(before) for line in result.err]


def compiled(folder: Path, source: str, *options: str, compiler: str = "gcc") -> Path:
    (folder / "x.c").write_text(source)
    tool(compiler, "-O2", "-c", *options, folder / "x.c", "-o", folder / "x.o")
    return folder / "x.o"


# --- calls that are removed -----------------------------------------------------------------------


def test_calls_that_become_nops_in_a_program_are_said(tmp_path: Path) -> None:
    path = caller(".text", ".foo.text").write(tmp_path / "x.o")
    said = (
        ".foo.text: its calls become NOPs, as in a kernel; with --all-sections they are recorded, "
        "and --kernel says that it is one"
    )
    assert doubts(path) == [said]


@pytest.mark.parametrize("option", ["kernel", "all_sections", "quiet"])
def test_who_says_what_he_wants_hears_nothing_of_it(option: str, tmp_path: Path) -> None:
    path = caller(".text", ".foo.text").write(tmp_path / "x.o")
    assert doubts(path, **{option: True}) == []


def test_what_is_never_loaded_loses_nothing(tmp_path: Path) -> None:
    sound = caller(".text", "notes")
    path = tmp_path / "x.o"
    path.write_bytes(sound.patch("sections[notes].sh_flags", 4))
    assert doubts(path) == []


# --- calls by another name ------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["@GLIBC_2.13", "@@GLIBC_2.2.5", "@@@X"])
@TARGETS
def test_a_versioned_name_is_the_name(target: Target, version: str, tmp_path: Path) -> None:
    name = f"__fentry__{version}"
    sections = [text(callee=name)]
    path = build(target, sections, [Symbol("f", ".text"), Symbol(name)]).write(tmp_path / "x.o")
    assert doubts(path) == []
    assert len(table_entries(path)) == 1


@pytest.mark.parametrize("name", ["mcount", "_mcount", "__mcount", ".mcount", "__fentry__"])
@TARGETS
def test_the_names_of_all_platforms_are_known(target: Target, name: str, tmp_path: Path) -> None:
    symbols = [Symbol("f", ".text"), Symbol(name)]
    path = build(target, [text(callee=name)], symbols).write(tmp_path / "x.o")
    assert doubts(path) == []
    assert len(table_entries(path)) == 1


@pytest.mark.parametrize("name", ["mcounts", "a_mcount", "___fentry__", "fentry__", "x@mcount"])
def test_a_name_that_is_only_like_one_is_none(name: str, tmp_path: Path) -> None:
    symbols = [Symbol("f", ".text"), Symbol(name)]
    path = build(X86_64, [text(callee=name)], symbols).write(tmp_path / "x.o")
    record_file(path)
    assert table_entries(path) == []


@pytest.mark.parametrize(
    "options",
    [["-fno-pic"], ["-fPIC"], ["-fcf-protection=full"], ["-m32", "-fno-pic"]],
    ids=" ".join,
)
def test_an_mcount_by_another_name_is_named(options: list[str], tmp_path: Path) -> None:
    options = ["-pg", "-mfentry", "-mfentry-name=my_hook", *options]
    path = compiled(tmp_path, FUNCTIONS, *options)
    (said,) = doubts(path)
    assert said == (
        "nothing is recorded, yet 2 functions begin with a call of my_hook; if that is its mcount, "
        "say --symbol my_hook"
    )
    assert doubts(path, symbols=("my_hook",)) == []
    assert len(table_entries(path)) == 2


def test_of_one_function_it_is_said_where_the_compiler_tells_that_it_profiles(
    tmp_path: Path,
) -> None:
    options = "-pg", "-mfentry", "-mfentry-name=my_hook"
    one = FUNCTIONS.partition("\n")[0]
    assert doubts(compiled(tmp_path, one, *options)) == []
    (said,) = doubts(compiled(tmp_path, one, *options, "-g"))
    assert said.startswith("nothing is recorded, yet 1 function begins with a call of my_hook")


def test_a_renamed_mcount_is_named(tmp_path: Path) -> None:
    path = compiled(tmp_path, FUNCTIONS, "-pg", "-mno-fentry", "-g", "-fno-pic")
    tool("objcopy", "--redefine-sym", "mcount=tracer", path)
    (said,) = doubts(path)
    assert said.startswith("nothing is recorded, yet 2 functions begin with a call of tracer")


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (FUNCTIONS, []),
        ("void log_it(void);\nvoid a(void) { log_it(); }\nvoid b(void) { log_it(); }\n", ["-O0"]),
        ("void die(void) __attribute__((noreturn));\nvoid a(void) { die(); }\n", []),
        (FUNCTIONS, ["-fsanitize-coverage=trace-pc"]),
        (FUNCTIONS, ["-finstrument-functions"]),
        (FUNCTIONS, ["-pg", "-DQUIET", "-g", "-mrecord-mcount", "-mnop-mcount", "-mfentry",
                     "-fno-pic"]),
        ("int only_data = 1;\n", ["-pg", "-g"]),
    ],
    ids=["plain", "O0", "one", "coverage", "instrument-functions", "nop-mcount", "data"],
)  # fmt: skip
def test_nothing_is_said_of_what_is_not_profiled(
    source: str, options: Sequence[str], tmp_path: Path
) -> None:
    path = compiled(tmp_path, source, *options)
    if "-mrecord-mcount" in options:
        tool("objcopy", "-R", "__mcount_loc", path)
    assert doubts(path) == []


# --- calls without a relocation -------------------------------------------------------------------


@pytest.mark.parametrize("machine", [X86_64, I386])
def test_calls_that_the_assembler_resolved_are_said(machine: Target, tmp_path: Path) -> None:
    code = b"\xc3" + b"\x90" * 15 + b"\xe8" + (-21).to_bytes(4, "little", signed=True) + b"\xc3"
    symbols = [
        Symbol("mcount", ".text", bind=0, type=STT_FUNC),
        Symbol("f", ".text", value=16, size=6, type=STT_FUNC),
        Symbol("__fentry__"),
    ]
    sections = [Section(".text", flags=AX, data=code), text(".text.other")]
    path = build(machine, sections, symbols).write(tmp_path / "x.o")
    (said,) = doubts(path)
    assert said == (
        "calls of the local mcount without a relocation are not recorded (1); make it a global "
        "symbol, or define it in another file"
    )
    assert [site.section for site in table_entries(path)] == [".text.other"]


@pytest.mark.matrix
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_a_tracer_in_the_same_file_works_as_the_warning_says(compiler: str, tmp_path: Path) -> None:
    tracer = "%s __attribute__((used, no_instrument_function)) void __fentry__(void) { calls++; }"
    options = ["-pg", "-mfentry", "-fno-pic"]
    local = COUNTING % (tracer % "static") + FUNCTIONS
    (said,) = doubts(compiled(tmp_path, local, *options, compiler=compiler))
    assert "local __fentry__ without a relocation are not recorded (2)" in said
    assert ran(tmp_path, compiled(tmp_path, COUNTING % (tracer % "") + FUNCTIONS, *options,
                                  compiler=compiler)) == "2 calls, 2 entries\n"  # fmt: skip


def ran(folder: Path, *objects: Path) -> str:
    """What a program says that is made of these objects, the first of which is recorded now."""
    assert doubts(objects[0]) == []
    tool("gcc", "-no-pie", *objects, "-o", folder / "program")
    return subprocess.run([folder / "program"], check=True, capture_output=True, text=True).stdout


# --- tables that are there already ----------------------------------------------------------------


def test_an_object_recorded_in_part_is_completed_as_the_warning_says(tmp_path: Path) -> None:
    recorded_part, other = tmp_path / "one.o", tmp_path / "two.o"
    assert doubts(caller().write(recorded_part)) == []
    caller(".text.other").write(other)
    joined = tmp_path / "joined.o"
    tool("ld", "-r", recorded_part, other, "-o", joined)
    exists, said = record_file(joined).err
    assert exists == f"warning: __mcount_loc already exists: {joined}"
    assert said == (
        f"{joined}: warning: 1 of 2 calls have no entry: remove that table with "
        "objcopy -R __mcount_loc, and record the object again"
    )
    tool("objcopy", "-R", "__mcount_loc", joined)
    assert doubts(joined) == []
    assert len(table_entries(joined)) == 2


def test_of_a_whole_table_no_more_is_said_than_that_it_is_there(tmp_path: Path) -> None:
    path = caller(".text", ".init.text", ".exit.text").write(tmp_path / "x.o")
    assert doubts(path) == []
    assert record_file(path).err == [f"warning: __mcount_loc already exists: {path}"]
    assert record_file(path, quiet=True).err == []


# --- files without code ---------------------------------------------------------------------------

DEBUG = "a file of debug information alone: the code is in the file it was taken from"


@pytest.mark.parametrize("command", ["recordmcount", "recordmcount report", "patcher nop"])
def test_a_file_of_debug_information_is_named_as_that(command: str, tmp_path: Path) -> None:
    path = compiled(tmp_path, FUNCTIONS, "-pg", "-g")
    tool("objcopy", "--only-keep-debug", path)
    before = path.read_bytes()
    done = run(*command.split(), path)
    assert done.status == 1
    assert done.stderr.splitlines()[0] == f"{path}: {DEBUG}"
    assert path.read_bytes() == before


def test_so_is_that_of_a_program(tmp_path: Path) -> None:
    path = compiled(tmp_path, "int main(void) { return 0; }\n", "-pg", "-g")
    assert doubts(path) == []
    debug = tmp_path / "program.debug"
    tool("gcc", "-pg", path, "-o", tmp_path / "program")
    tool("objcopy", "--only-keep-debug", tmp_path / "program", debug)
    for words in (["recordmcount", "report"], ["patcher", "status"]):
        assert run(*words, debug)[0::2] == (1, f"{debug}: {DEBUG}\n")


# --- link-time optimization -----------------------------------------------------------------------

TRACER = COUNTING % "TRACER __fentry__(void) { calls++; }"


def test_a_fat_lto_object_is_recorded_with_a_warning(
    fixture_object: Callable[[str], Path],
) -> None:
    path = fixture_object("gcc-lto-fat")
    (said,) = doubts(path)
    assert said == (
        "a fat LTO object: a link with -flto makes the code anew and drops this table; join the "
        "objects with gcc -flto -flinker-output=nolto-rel -r, and record the result"
    )
    assert table_entries(path)


@pytest.mark.matrix
@pytest.mark.parametrize("fat", ["-ffat-lto-objects", "-fno-fat-lto-objects"])
def test_gcc_joins_lto_objects_to_one_that_can_be_recorded(fat: str, tmp_path: Path) -> None:
    options = ["-pg", "-mfentry", "-fno-pic"]
    path = compiled(tmp_path, FUNCTIONS, *options, "-flto", fat)
    joined = tmp_path / "joined.o"
    tool("gcc", "-O2", *options, "-flto", "-flinker-output=nolto-rel", "-r", path, "-o", joined)
    (tmp_path / "tracer.c").write_text(TRACER)
    tool("gcc", "-c", tmp_path / "tracer.c", "-o", tmp_path / "tracer.o")
    assert ran(tmp_path, joined, tmp_path / "tracer.o") == "2 calls, 2 entries\n"


@pytest.mark.matrix
def test_lld_joins_bitcode_to_an_object_that_can_be_recorded(tmp_path: Path) -> None:
    options = ["-pg", "-mfentry", "-fno-pic"]
    path = compiled(tmp_path, FUNCTIONS, *options, "-flto", compiler="clang")
    (said, _) = record_file(path).err
    assert said.endswith("not an object: join the objects with ld.lld -r, and record the result")
    joined = tmp_path / "joined.o"
    tool("ld.lld", "-r", path, "-o", joined)
    (tmp_path / "tracer.c").write_text(TRACER)
    tool("gcc", "-c", tmp_path / "tracer.c", "-o", tmp_path / "tracer.o")
    assert ran(tmp_path, joined, tmp_path / "tracer.o") == "2 calls, 2 entries\n"


# --- signatures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [b"", b"~Module signature appended~"])
def test_a_module_that_is_not_signed_loses_no_signature(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.ko"
    path.write_bytes(caller().data + tail)
    assert doubts(path) == []


def test_a_signed_module_loses_its_signature_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.ko"
    path.write_bytes(caller().data + b"signature~Module signature appended~\n")
    assert doubts(path) == ["its signature is no longer valid: sign the module again"]
    assert len(table_entries(path)) == 1


def test_one_with_nothing_to_record_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "x.ko"
    contents = build(X86_64, [Section(".text", flags=AX, data=b"\xc3")]).data
    path.write_bytes(contents + b"signature~Module signature appended~\n")
    assert doubts(path) == []
    assert path.read_bytes().endswith(b"appended~\n")


def test_relocations_of_other_things_are_no_calls(tmp_path: Path) -> None:
    """A function that begins with `push` and a call behind it does not begin with a call."""
    code = b"\x53\xe8\0\0\0\0\x5b\xc3"
    section = Section(".text", flags=AX, data=code * 2, relocations=[
        Relocation(2, R_PLT32, "other", -4), Relocation(10, R_PLT32, "other", -4)])  # fmt: skip
    symbols = [
        *(
            Symbol(name, ".text", value=at, size=8, type=STT_FUNC)
            for name, at in (("f", 0), ("g", 8))
        ),
        Symbol("other"),
    ]
    assert doubts(build(X86_64, [section], symbols).write(tmp_path / "x.o")) == []
