"""compile-and-record goes before the compiler in any build, and breaks none."""

import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from stat import S_IFCHR

import pytest

from tests.support import building
from tests.support.building import assert_object_recorded
from tests.support.linked import Image

pytestmark = pytest.mark.matrix

LAUNCHER = building.GLUE / "compile-and-record"
SAYS = "compile-and-record: "
IN_ONE_STEP = (
    f"{SAYS}compiled and linked in one step: nothing is recorded; compile with -c, and link then\n"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a fresh copy of the calculator, in a folder whose name has a blank."""
    return building.copy("project", tmp_path / "my project")


def launch(
    *command: str | Path, cwd: Path, status: int = 0, recorder: str = "false", flags: str = ""
) -> str:
    variables = {"RECORDMCOUNT": recorder, "RECORDMCOUNT_FLAGS": flags}
    return building.run(LAUNCHER, *command, cwd=cwd, status=status, **variables)


def record(command: str, cwd: Path, flags: str = "") -> str:
    return launch(*shlex.split(command), cwd=cwd, recorder="recordmcount", flags=flags)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- the environment ------------------------------------------------------------------------------


def test_a_compiler_variable_may_be_split_into_words(project: Path) -> None:
    """As autoconf does: it runs $CC unquoted."""
    script = 'CC="$(recordmcount --print-dir)/compile-and-record gcc"; $CC -pg -c stack.c -o a.o'
    building.run("sh", "-c", script, cwd=project)
    assert_object_recorded(project / "a.o")


def test_the_environment_says_how_to_record(project: Path) -> None:
    (project / "my recorder").write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    (project / "my recorder").chmod(0o755)
    recorder, flags = "'./my recorder' -w", "--symbol 'my fentry'"
    output = launch(
        "gcc", "-c", "stack.c", "-o", "a.o", cwd=project, recorder=recorder, flags=flags
    )
    assert output == "-w|--pic|--symbol|my fentry|a.o.unrecorded|"


def test_without_a_recorder_nothing_is_compiled(project: Path) -> None:
    before = files(project)
    command = ("env", "PATH=/usr/bin:/bin", LAUNCHER, "gcc", "-c", "stack.c", "-o", "stack.o")
    output = building.run(*command, cwd=project, status=1, RECORDMCOUNT="")
    assert f"{SAYS}recordmcount is not in PATH: set RECORDMCOUNT to its command line\n" in output
    assert files(project) == before


def test_without_a_compiler_the_usage_is_told(tmp_path: Path) -> None:
    output = launch(cwd=tmp_path, status=2)
    assert output == f"{SAYS}usage: compile-and-record COMPILER ARGUMENT...\n"


@pytest.mark.parametrize("flags", ["-n", "-V", "--help", "--print-dir"])
def test_an_object_stays_where_the_recorder_is_asked_for_something_else(
    project: Path, flags: str
) -> None:
    building.run("gcc", "-pg", "-c", "stack.c", "-o", "alone.o", cwd=project)
    assert record("gcc -pg -c stack.c -o stack.o", project, flags) != ""
    assert (project / "stack.o").read_bytes() == (project / "alone.o").read_bytes()


def test_no_file_of_the_user_is_overwritten(project: Path) -> None:
    (project / "stack.o.unrecorded").write_text("mine")
    record("gcc -pg -c stack.c -o stack.o", project)
    assert_object_recorded(project / "stack.o")
    assert (project / "stack.o.unrecorded").read_text() == "mine"
    assert [name for name in files(project) if "unrecorded" in name] == ["stack.o.unrecorded"]


# --- what is recorded -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "results"),
    [
        ("gcc -pg -c '../my project/stack.c'", "stack.o"),
        ("gcc -pg -c stack.c two.words.c 'a blank.c'", "stack.o two.words.o 'a blank.o'"),
        ("gcc -pg -o -c -c stack.c", "-c"),
        ("gcc -pg -o-stack.o -c stack.c", "-stack.o"),
        ("gcc -pg -c -DNAME=other.c -Wa,-W -Wl,-E stack.c", "stack.o"),
        ("gcc -pg --compile stack.c --output=long.o", "long.o"),
        ("clang -pg --compile stack.c --output long.o", "long.o"),
        ("gcc -pg -c stack.c -MD -MF deps -MT x.c -include stack.h", "stack.o"),
        ("gcc -pg -c stack.c -save-temps", "stack.o"),
        ("gcc -pg -c -x c source", "source.o"),
        ("gcc -pg -c -x c -o from-header.o stack.h -DX -include two.words.c", "from-header.o"),
        ("gcc -pg -c -v stack.c", "stack.o"),
        ("gcc -pg -flto -ffat-lto-objects -c stack.c", "stack.o"),
        ("gcc -pg -c @flags stack.c -o listed.o", "listed.o"),
        ("gcc -pg @all", "'a blank.o'"),
        ("gcc -pg @nested -o nested.o", "nested.o"),
        ("clang -pg -c stack.c", "stack.o"),
        ("ccache gcc -pg -c stack.c", "stack.o"),
        ("/usr/bin/env gcc -pg -c stack.c", "stack.o"),
        ("as stack.s -o assembled.o", "assembled.o"),
        ("as stack.s", "a.out"),
    ],
)
def test_an_object_is_recorded_wherever_it_is_named(
    project: Path, command: str, results: str
) -> None:
    for name in ("two.words.c", "a blank.c", "source"):
        (project / name).write_text(f"void {name[0]}(void) {{}}\n")
    building.run("gcc", "-pg", "-S", "stack.c", cwd=project)
    (project / "flags").write_text("-O2")
    (project / "all").write_text("-c 'a blank.c'")
    (project / "nested").write_text('@flags\n"-c"\nstack.c\n')
    assert SAYS not in record(command, project)
    for result in shlex.split(results):
        assert_object_recorded(project / result)


SOURCES = {
    ("gcc", "c"): "void f(void) {}",
    ("gcc", "i"): "void f(void) {}",
    ("gcc", "s"): "f: call mcount",
    ("gcc", "S"): "f: call mcount",
    ("gcc", "sx"): "f: call mcount",
    ("gcc", "m"): "void f(void) {}",
    ("gcc", "mi"): "void f(void) {}",
    ("g++", "mm"): "void f() {}",
    ("g++", "mii"): "void f() {}",
    **{
        ("g++", suffix): "void f() {}"
        for suffix in ("C", "cc", "cp", "cpp", "CPP", "cxx", "c++", "ii")
    },
    **{
        ("gfortran", suffix): "      subroutine f()\n      end subroutine"
        for suffix in ("f", "for", "ftn", "F", "f90", "F90", "f95", "f03", "F08")
    },
    ("clang", "c"): "void f(void) {}",
    ("clang", "m"): "void f(void) {}",
    ("clang++", "CPP"): "void f() {}",
}


@pytest.mark.parametrize("compiler", dict.fromkeys(compiler for compiler, _ in SOURCES))
def test_every_language_of_the_compiler_is_recorded(tmp_path: Path, compiler: str) -> None:
    """Without -o, as autoconf calls it."""
    for suffix in (suffix for name, suffix in SOURCES if name == compiler):
        source = tmp_path / f"conftest.{suffix}"
        source.write_text(SOURCES[compiler, suffix] + "\n")
        assert record(f"{compiler} -pg -c {source.name}", tmp_path) == ""
        assert_object_recorded(tmp_path / "conftest.o")
        (tmp_path / "conftest.o").unlink()


def test_a_source_from_standard_input_is_recorded(project: Path) -> None:
    """gcc calls its object `-.o`."""
    script = f"'{LAUNCHER}' gcc -pg -x c -c - <stack.c"
    building.run("sh", "-c", script, cwd=project)
    assert_object_recorded(project / "-.o")


def test_an_object_behind_a_link_is_recorded_where_the_compiler_wrote_it(project: Path) -> None:
    (project / "stack.o").symlink_to("real.o")
    compiler = ("sh", "-c", "gcc -pg -c stack.c -o other.o && cat other.o >stack.o", "-c")
    launch(*compiler, "-o", "stack.o", cwd=project, recorder="recordmcount")
    assert (project / "stack.o").is_symlink()
    assert_object_recorded(project / "real.o")


# --- what is not ----------------------------------------------------------------------------------


def test_an_object_that_cannot_be_recorded_is_not_left_behind(project: Path) -> None:
    before = files(project)
    launch("gcc", "-c", "stack.c", "-o", "stack.o", cwd=project, status=1)
    assert files(project) == before


def test_of_several_objects_only_those_that_fail_are_not_left_behind(project: Path) -> None:
    (project / "other.c").write_text("void other(void) {}\n")
    recorder = "sh -c 'case $2 in stack*) exit 7; esac' sh"
    launch("gcc", "-c", "stack.c", "other.c", cwd=project, status=7, recorder=recorder)
    assert {name for name in files(project) if name.endswith("o")} == {"other.o"}


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("gcc -pg -flto -frandom-seed=1 -c stack.c", "a slim LTO object"),
        ("clang -pg -flto -c stack.c", "LLVM bitcode"),
        ("clang -pg -target aarch64-linux-gnu -c stack.c", "unrecognized e_machine 183"),
        ("clang -pg -emit-llvm -c stack.c -o stack.o", "LLVM bitcode"),
    ],
)
def test_an_object_that_can_hold_no_table_stays_and_is_told(
    project: Path, command: str, why: str
) -> None:
    building.run(*shlex.split(command), cwd=project)
    before = (project / "stack.o").read_bytes()
    output = record(command, project)
    assert why in output
    assert f"{SAYS}stack.o can hold no table: it stays as it was compiled\n" in output
    assert (project / "stack.o").read_bytes() == before


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("gcc -shared -fPIC -o stack.so stack.c", "stack.so"),
        ("gcc -pg -shared -fPIC -o stack.so @list-common", "stack.so"),
        ("gcc -pg -shared -fPIC other.o stack.c", "a.out"),
    ],
)
def test_what_is_compiled_and_linked_in_one_step_is_said_not_to_be_recorded(
    project: Path, command: str, result: str
) -> None:
    (project / "list-common").write_text("stack.c")
    (project / "other.c").touch()
    building.run("gcc", "-c", "other.c", cwd=project)
    assert record(command, project) == IN_ONE_STEP
    assert (project / result).exists()


def test_a_list_that_cannot_be_read_is_said(project: Path) -> None:
    (project / "list").write_text("-c stack.c 'without an end\n")
    output = record("true @list", project)
    assert output.startswith(
        f"{SAYS}@list cannot be read as words: what it asks for may not be recorded\n"
    )


def test_an_object_that_is_not_where_it_should_be_is_said(project: Path) -> None:
    output = record("true -c stack.c", project)
    assert output == (
        f"{SAYS}no object of this command was found: nothing is recorded: true -c stack.c\n"
    )


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("gcc -w -x c-header -c stack.h -o stack.h.gch", "stack.h.gch"),
        ("gcc -w -c stack.h", "stack.h.gch"),
        ("gcc -S stack.c -o stack.s", "stack.s"),
        ("gcc -c -S stack.c -o stack.s", "stack.s"),
        ("gcc -c -E stack.c -o stack.i", "stack.i"),
        ("gcc -c -MM stack.c -o stack.d", "stack.d"),
        ("gcc -c -fsyntax-only stack.c", "stack.c"),
        ("gcc -c stack.c -o /dev/null", "stack.c"),
        ("gcc -shared -o lib.so other.o", "lib.so"),
    ],
)
def test_what_makes_no_object_is_run_as_it_is(project: Path, command: str, result: str) -> None:
    (project / "other.c").touch()
    building.run("gcc", "-c", "other.c", cwd=project)
    assert launch(*command.split(), cwd=project) == ""
    assert (project / result).exists()


@pytest.mark.parametrize(
    "query", ["--version", "-v", "-dumpmachine", "-c -###", "-print-prog-name=as", "-c --help"]
)
def test_a_question_is_answered_as_by_the_compiler(project: Path, query: str) -> None:
    alone = building.run("gcc", *query.split(), cwd=project)
    assert launch("gcc", *query.split(), cwd=project) == alone


@pytest.mark.parametrize(
    "arguments",
    ["-c", "-c absent.c", "-c broken.c", "-c broken.c -o x.o", "-c stack.c -o absent/",
     "-c stack.c -o .", "-c stack.c broken.c -o two.o", "absent.c -o prog"],
)  # fmt: skip
def test_a_compiler_that_fails_fails_as_ever(project: Path, arguments: str) -> None:
    (project / "broken.c").write_text("int f(void) { return }\n")
    before = files(project)
    alone = subprocess.run(
        ["gcc", *arguments.split()], cwd=project, check=False, capture_output=True, text=True
    )
    assert alone.returncode != 0
    output = launch("gcc", *arguments.split(), cwd=project, status=alone.returncode)
    assert output == alone.stderr
    assert files(project) == before


def make_node(path: Path) -> None:
    """A private /dev/null, which only root can make; for anyone else it is a pipe."""
    if os.geteuid() == 0:
        os.mknod(path, S_IFCHR | 0o600, os.stat("/dev/null").st_rdev)
    else:
        os.mkfifo(path)


@pytest.mark.parametrize("make_output", [make_node, os.mkfifo], ids=["device", "pipe"])
def test_an_output_that_is_no_plain_file_is_left_to_the_compiler(
    project: Path, make_output: Callable[[Path], None]
) -> None:
    output = project / "stack.o"
    make_output(output)
    before = output.lstat()
    compiler = ("true", "-c", "stack.c", "-o", "stack.o")
    assert launch(*compiler, cwd=project) == ""
    assert launch("false", *compiler[1:], cwd=project, status=1) == ""
    assert (output.lstat().st_ino, output.lstat().st_mode) == (before.st_ino, before.st_mode)


# --- interrupts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("interrupted", ["compiler", "recorder"])
def test_an_interrupted_command_leaves_no_object_and_no_compiler(
    project: Path, number: signal.Signals, interrupted: str
) -> None:
    """The signal comes while one of the two runs, which is told nothing and ends well."""
    stop = f"kill -s {number.name.removeprefix('SIG')} $PPID; sleep 0.1; echo ended"
    compiler, recorder = "gcc -c stack.c -o stack.o", "true"
    if interrupted == "compiler":
        compiler = f"{compiler}; {stop}"
    else:
        recorder = stop
    before = files(project)
    words = ("sh", "-c", compiler, "-c", "-o", "stack.o")
    output = launch(*words, cwd=project, status=-number, recorder=f"sh -c '{recorder}' sh")
    assert output == "ended\n"
    assert files(project) == before


# --- build systems --------------------------------------------------------------------------------


def test_an_autoconf_project_is_recorded(tmp_path: Path) -> None:
    """Configured with what autoconf itself makes of it, and built with the rules of make."""
    (tmp_path / "configure.ac").write_text(
        "AC_INIT([calc], [1])\nAC_CONFIG_SRCDIR([main.c])\nAC_PROG_CC\nAC_PROG_FC\n"
        "AC_CHECK_HEADERS([unistd.h])\nAC_CHECK_FUNCS([getpid no_such_function])\n"
        "AC_CHECK_SIZEOF([long])\nAC_CONFIG_FILES([Makefile])\nAC_OUTPUT\n"
    )
    (tmp_path / "Makefile.in").write_text(
        "CC = @CC@\nCFLAGS = @CFLAGS@\nFC = @FC@\nFCFLAGS = @FCFLAGS@\n"
        "prog: main.o util.o sub.o\n\t$(FC) -pg -o $@ $^\n"
        ".SUFFIXES: .f90\n.c.o:\n\t$(CC) $(CFLAGS) -c $<\n.f90.o:\n\t$(FC) $(FCFLAGS) -c $<\n"
    )
    (tmp_path / "main.c").write_text(
        "void util(void); void sub_(void);\nint main(void) { util(); sub_(); }\n"
    )
    (tmp_path / "util.c").write_text("void util(void) {}\n")
    (tmp_path / "sub.f90").write_text("subroutine sub()\nend subroutine\n")
    building.run("autoconf", cwd=tmp_path)
    flags = ("CFLAGS=-pg", "FCFLAGS=-pg")
    alone = building.run("./configure", "CC=gcc", "FC=gfortran", *flags, cwd=tmp_path)
    compilers = (f"CC={LAUNCHER} gcc", f"FC={LAUNCHER} gfortran")
    told = building.run("./configure", *compilers, *flags, cwd=tmp_path)
    assert told.replace(f"{LAUNCHER} ", "") == alone
    building.run("make", cwd=tmp_path)
    linked = Image(tmp_path / "prog")
    assert len(linked.table) == 4 - 1  # gfortran's main is main.c's
    assert sorted(linked.table) == sorted(linked.live_calls())


def test_a_meson_project_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "meson.build").write_text(
        "project('calc', 'c', 'cpp', default_options: ['b_pie=true'])\n"
        "executable('calc', 'main.c', 'util.cpp')\n"
    )
    (tmp_path / "main.c").write_text("void util(void);\nint main(void) { util(); }\n")
    (tmp_path / "util.cpp").write_text('extern "C" void util(void) {}\n')
    variables = {
        "CC": f"{LAUNCHER} gcc", "CXX": f"{LAUNCHER} g++", "CFLAGS": "-pg", "CXXFLAGS": "-pg",
        "LDFLAGS": "-pg",
    }  # fmt: skip
    building.run("meson", "setup", "build", cwd=tmp_path, status=0, **variables)
    building.run("ninja", "-C", "build", cwd=tmp_path)
    linked = Image(tmp_path / "build" / "calc")
    assert len(linked.table) == 2
    assert sorted(linked.table) == sorted(linked.live_calls())


@pytest.mark.parametrize(
    ("prefix", "command"),
    [
        ("", ("ccache", str(LAUNCHER), "gcc")),
        ("", (str(LAUNCHER), "ccache", "gcc")),
        (str(LAUNCHER), ("ccache", "gcc")),
    ],
    ids=["ccache outside", "ccache inside", "CCACHE_PREFIX"],
)
@pytest.mark.parametrize("hard_link", ["hardlink", "nohardlink"])
def test_what_comes_from_ccache_is_recorded(
    project: Path, prefix: str, command: tuple[str, ...], hard_link: str
) -> None:
    """At the first time, and when it is kept; a hard link into the cache is broken."""
    variables = {"CCACHE_DIR": str(project / "cache"), "RECORDMCOUNT": "recordmcount"}
    variables[f"CCACHE_{hard_link.upper()}"] = "1"
    if prefix:
        variables["CCACHE_PREFIX"] = prefix
    recorded = []
    for _ in range(2):
        building.run(
            *command, "-pg", "-c", "stack.c", "-o", "stack.o", cwd=project, status=0, **variables
        )
        assert_object_recorded(project / "stack.o")
        recorded.append((project / "stack.o").read_bytes())
        (project / "stack.o").unlink()
    assert recorded[0] == recorded[1]
    statistics = building.run("ccache", "--print-stats", cwd=project, status=0, **variables)
    assert "direct_cache_hit\t1\n" in statistics
