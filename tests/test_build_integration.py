"""Real projects, built with the Make fragment, the CMake module and the Kbuild recipe."""

import re
import shlex
from itertools import groupby
from pathlib import Path
from signal import SIGKILL

import pytest

from tests.support import building, kbuild
from tests.support.command import ROOT
from tests.support.linked import Image
from tests.support.loc_table import table_entries

pytestmark = pytest.mark.matrix

COMPILERS = {"gcc": ("gcc", "g++"), "clang": ("clang", "clang++")}
BUILD_TOOLS = {"Ninja": "ninja", "Unix Makefiles": "make"}

with_each_compiler = pytest.mark.parametrize("compiler", COMPILERS)
with_each_generator = pytest.mark.parametrize("generator", BUILD_TOOLS)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a fresh copy of the calculator."""
    return building.copy("project", tmp_path / "project")


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """Return a fresh copy of the kernel module."""
    return building.copy("module", tmp_path / "module")


def assert_recorded(*images: Path) -> None:
    """The table of each image names every live call, once, without a text relocation."""
    for image in images:
        linked = Image(image)
        assert linked.live_calls()
        assert sorted(linked.table) == sorted(linked.live_calls())
        assert not linked.has_text_relocations


def assert_module_recorded(folder: Path) -> None:
    building.assert_object_recorded(folder / "tracee.ko")


def assert_calculates(*programs: Path) -> None:
    for program in programs:
        assert building.run(program, "2", "3", "+", "4", "x") == "20\n"


def add_function(source: Path) -> None:
    source.write_text(source.read_text() + "\nvoid one_more(void);\nvoid one_more(void) {}\n")


def objects(folder: Path) -> dict[str, int]:
    """The objects below `folder` -> when each was last written, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.o")}


def written_since(before: dict[str, int], folder: Path) -> set[str]:
    return {name for name, _ in objects(folder).items() - before.items()}


# --- Make ---------------------------------------------------------------------------------------


def make(folder: Path, compiler: str = "gcc") -> str:
    cc, cxx = COMPILERS[compiler]
    return building.run("make", "-j4", f"CC={cc}", f"CXX={cxx}", cwd=folder)


@with_each_compiler
def test_make_records_each_object_or_one_batch(project: Path, compiler: str) -> None:
    make(project, compiler)
    programs = (project / "calc", project / "calc-pie")
    assert_recorded(*programs)
    assert_calculates(*programs)


def test_make_records_again_only_the_object_that_changed(project: Path) -> None:
    make(project)
    assert "Nothing to be done" in make(project)
    before = objects(project)
    calls = len(Image(project / "calc").table)

    add_function(project / "operators.cc")
    make(project)
    assert written_since(before, project) == {"operators.o", "operators.recorded.o"}
    assert (project / "calc-pie.recorded").read_text() == "operators.o\n"
    assert_recorded(project / "calc", project / "calc-pie")
    assert len(Image(project / "calc").table) == calls + 1


def test_a_batch_without_objects_is_refused(project: Path) -> None:
    makefile = project / "Makefile"
    makefile.write_text(makefile.read_text().replace("calc-pie.recorded: $(OBJECTS)\n", ""))
    output = building.run("make", "calc-pie", cwd=project, status=2)
    assert "calc-pie.recorded has no objects" in output


def header_examples() -> list[str]:
    """The makefiles in the header of recordmcount.mk, as they stand there."""
    header = (building.GLUE / "recordmcount.mk").read_text().partition("\n\n")[0]
    prefix = "#   "
    return [
        "".join(line.removeprefix(prefix) for line in lines)
        for indented, lines in groupby(
            header.splitlines(keepends=True), lambda line: line.startswith(prefix)
        )
        if indented
    ]


@with_each_compiler
@pytest.mark.parametrize("example", header_examples(), ids=["each object", "batch"])
def test_make_header_can_be_followed_literally(tmp_path: Path, example: str, compiler: str) -> None:
    (tmp_path / "main.c").write_text("void util(void);\nint main(void) { util(); }\n")
    (tmp_path / "util.c").write_text("void util(void) {}\n")
    (tmp_path / "Makefile").write_text(f"CFLAGS = -pg -mfentry\n{example}")
    building.run("make", "main.o", "util.o", f"CC={COMPILERS[compiler][0]}", cwd=tmp_path)
    building.run("gcc", "main.o", "util.o", "-o", "prog", cwd=tmp_path)  # before they are recorded
    make(tmp_path, compiler)
    assert_recorded(tmp_path / "prog")
    assert "up to date" in make(tmp_path, compiler)

    add_function(tmp_path / "util.c")
    make(tmp_path, compiler)
    assert_recorded(tmp_path / "prog")
    assert len(Image(tmp_path / "prog").table) == 3


# --- CMake --------------------------------------------------------------------------------------


def cmake(folder: Path, generator: str, *definitions: str, compiler: str = "gcc") -> str:
    """Configure the calculator in its own folder unless that is done, and build it."""
    if not (folder / "CMakeCache.txt").exists():
        cc, cxx = COMPILERS[compiler]
        building.run("cmake", "-G", generator, *definitions, ".", cwd=folder, CC=cc, CXX=cxx)
    return building.run("cmake", "--build", ".", "-j4", cwd=folder)


@pytest.mark.parametrize(("generator", "compiler"), [*zip(BUILD_TOOLS, COMPILERS, strict=True)])
def test_cmake_records_programs_and_libraries(project: Path, generator: str, compiler: str) -> None:
    cmake(project, generator, compiler=compiler)
    programs = (project / "calc", project / "calc-pie")
    assert_recorded(*programs, project / "libstack.so")
    assert_calculates(*programs)


@with_each_generator
def test_cmake_records_again_only_the_object_that_changed(project: Path, generator: str) -> None:
    cmake(project, generator)
    before = objects(project)
    linked = (project / "calc").stat().st_mtime_ns
    cmake(project, generator)
    assert objects(project) == before
    assert (project / "calc").stat().st_mtime_ns == linked

    add_function(project / "operators.cc")
    cmake(project, generator)
    assert written_since(before, project) == {"operators.cc.o"}
    assert_recorded(project / "calc", project / "calc-pie", project / "libstack.so")


@pytest.fixture
def showing_recorder(tmp_path: Path) -> str:
    """Return a recorder that prints the words it is called with, and then records."""
    recorder = tmp_path / "show"
    recorder.write_text('#!/bin/sh\nprintf "%s|" "$@"\nexec recordmcount "$@"\n')
    recorder.chmod(0o755)
    return f"'{recorder}' -w"


@with_each_generator
def test_cmake_passes_options_on_and_keeps_a_compiler_launcher(
    project: Path, generator: str, showing_recorder: str
) -> None:
    lists = project / "CMakeLists.txt"
    call = """(${target} --symbol "my fentry" --symbol it's)"""
    lists.write_text(lists.read_text().replace("(${target})", call))
    (project / "launch").write_text('#!/bin/sh\necho launched >>"$0.log"\nexec "$@"\n')
    (project / "launch").chmod(0o755)
    settings = (
        f"-DRECORDMCOUNT={showing_recorder}",
        f"-DCMAKE_C_COMPILER_LAUNCHER={project}/launch",
    )
    output = cmake(project, generator, *settings)
    assert "-w|--pic|--symbol|my fentry|--symbol|it's|" in output
    assert (project / "launch.log").read_text() == "launched\n"
    assert_recorded(project / "libstack.so")


@with_each_generator
def test_cmake_records_as_the_last_call_says(
    project: Path, generator: str, showing_recorder: str
) -> None:
    lists = project / "CMakeLists.txt"
    calls = "(${target} --all-sections)\n  mcount_record(${target} --gc-sections)"
    lists.write_text(lists.read_text().replace("(${target})", calls))
    settings = (f"-DRECORDMCOUNT={showing_recorder}", "-DCMAKE_C_COMPILER_LAUNCHER=nice")
    output = cmake(project, generator, *settings)
    assert "--all-sections" not in output
    assert output.count("-w|--pic|--gc-sections|") == len(list(project.rglob("*.o")))
    assert_recorded(project / "libstack.so")


# --- Kbuild -------------------------------------------------------------------------------------


@pytest.mark.kernel
@pytest.mark.parametrize("variables", [(), kbuild.CLANG], ids=COMPILERS)
def test_kbuild_records_a_module(module: Path, variables: tuple[str, ...]) -> None:
    kbuild.build(module, *variables)
    assert_module_recorded(module)
    assert "-mrecord-mcount" not in (module / ".main.o.cmd").read_text()


@pytest.mark.kernel
def test_kbuild_header_says_how_clang_builds_for_a_kernel_that_gcc_built(module: Path) -> None:
    lines = kbuild.RECIPE.read_text().partition("make CC=clang")[2].partition("\n\n")[0]
    command = shlex.split("CC=clang" + lines.replace("\\\n#", ""))
    assert command == list(kbuild.CLANG)  # with which the test above builds
    alone = building.run("make", f"KDIR={kbuild.KERNEL}/headers", "CC=clang", cwd=module, status=2)
    assert "clang: error: unknown argument" in alone


@pytest.mark.kernel
def test_kbuild_records_a_module_that_does_not_know_of_it(module: Path) -> None:
    building.run(*kbuild.kernel_make(module), MAKEFILES=str(kbuild.RECIPE))
    assert_module_recorded(module)


@pytest.mark.kernel
def test_kbuild_records_again_only_the_object_that_changed(module: Path) -> None:
    kbuild.build(module)
    before = objects(module)
    kbuild.build(module)
    assert objects(module) == before

    add_function(module / "work.c")
    kbuild.build(module)
    assert written_since(before, module) == {"work.o", "tracee.o"}
    assert_module_recorded(module)


# --- what is built into the kernel ----------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return sources as they lie in a kernel's tree: for built-in objects, and for a module."""
    folder = tmp_path / "tree"
    for part, kbuild_file in {
        "": "obj-y := first.o second.o sub/\n",
        "sub": "obj-y := third.o\nobj-m := single.o several.o\nseveral-y := one.o two.o\n",
    }.items():
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "Kbuild").write_text(kbuild_file)
    for source in ("first", "second", "sub/third", "sub/single", "sub/one", "sub/two"):
        name = source.rpartition("/")[2]
        text = f"void {name}(void);\nvoid {name}(void) {{}}\n"
        if name in ("single", "two"):
            text += '#include <linux/module.h>\nMODULE_LICENSE("Dual MIT/GPL");\n'
        (folder / f"{source}.c").write_text(text)
    return folder


def make_built_in(tree: Path, *words: str, status: int = 0, recorder: str = "") -> None:
    """Build what is built in, and then the modules, by the kernel's rules.

    Each call of the recorder is logged, unless another `recorder` is given.
    """
    variables = {
        "MAKEFILES": str(kbuild.RECIPE),
        "RECORDMCOUNT": recorder or str(counting_recorder(tree)),
    }
    *command, modules = kbuild.kernel_make(tree)
    built_in = ("KBUILD_BUILTIN=1", "need-builtin=1", str(tree))
    building.run(*command, *words, *built_in, cwd=tree, status=status, **variables)
    if not status:
        building.run(*command, *words, modules, cwd=tree, status=0, **variables)


def counting_recorder(tree: Path) -> Path:
    recorder = tree / "recorder"
    if not recorder.exists():
        command = building.run("recordmcount", "--print-command").strip()
        recorder.write_text(f'#!/bin/sh\necho "$*" >>{tree}/calls\nexec {command} "$@"\n')
        recorder.chmod(0o755)
    return recorder


def calls_of_the_recorder(tree: Path) -> int:
    log = tree / "calls"
    return len(log.read_text().splitlines()) if log.exists() else 0


BUILT_IN = ("first.o", "second.o", "sub/third.o")
IN_MODULES = ("sub/single.o", "sub/one.o", "sub/two.o", "sub/single.ko", "sub/several.ko")


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("words", "calls"), [((), 6), (("RECORDMCOUNT_BATCH=y",), 2 + 3)], ids=["each", "batch"]
)
def test_kbuild_records_what_is_built_in(tree: Path, words: tuple[str, ...], calls: int) -> None:
    """In a batch: one call for each folder's `ar`, and one for each object of a module."""
    make_built_in(tree, *words)
    for name in (*BUILT_IN, *IN_MODULES):
        building.assert_object_recorded(tree / name)
    assert calls_of_the_recorder(tree) == calls

    before = objects(tree)
    make_built_in(tree, *words)
    assert objects(tree) == before
    assert calls_of_the_recorder(tree) == calls

    add_function(tree / "sub" / "third.c")
    make_built_in(tree, *words)
    assert written_since(before, tree) == {"third.o"}
    building.assert_object_recorded(tree / "sub" / "third.o")


@pytest.mark.kernel
def test_kbuild_repeats_a_batch_that_failed(tree: Path) -> None:
    make_built_in(tree, "RECORDMCOUNT_BATCH=y", status=2, recorder="false")
    make_built_in(tree, "RECORDMCOUNT_BATCH=y")
    for name in BUILT_IN:
        building.assert_object_recorded(tree / name)


OBJTOOL_RECORDS = "CONFIG_FTRACE_MCOUNT_USE_OBJTOOL"
SAYS_OBJTOOL = (
    "objtool records this kernel, so nothing is recorded here; to have it recorded here: "
    f"make {OBJTOOL_RECORDS}=\n"
)


def configured(folder: Path, *settings: str) -> Path:
    """A build with a configuration, one object, and rules that are named as the kernel's."""
    (folder / "include" / "config").mkdir(parents=True)
    (folder / "include" / "config" / "auto.conf").write_text("".join(f"{s}=y\n" for s in settings))
    (folder / "f.c").write_text("void f(void) {}\n")
    (folder / "Makefile").write_text(
        "include include/config/auto.conf\n_c_flags := -pg\ncmd_ld_single_m =\n"
        "sub_cmd_record_mcount = false;\n"
        "all:\n\t$(MAKE) f.o\n\t$(MAKE) done\ndone:\n"
        "f.o: f.c\n\tgcc -pg -fno-pie -c -o $@ $< $(cmd_ld_single_m)\n"
        "\t$(if $(CONFIG_FTRACE_MCOUNT_USE_RECORDMCOUNT),$(sub_cmd_record_mcount))\n"
    )
    return folder


def make_configured(folder: Path, *words: str, **variables: str) -> str:
    variables.setdefault("MAKEFILES", str(kbuild.RECIPE))
    variables.setdefault("RECORDMCOUNT", "recordmcount")
    return building.run("make", *words, cwd=folder, status=0, **variables)


def test_kbuild_says_once_that_objtool_records(tmp_path: Path) -> None:
    folder = configured(tmp_path / "build", OBJTOOL_RECORDS)
    output = make_configured(folder)
    assert output.count(SAYS_OBJTOOL) == 1
    assert table_entries(folder / "f.o") == []


def test_kbuild_records_where_objtool_is_told_not_to(tmp_path: Path) -> None:
    folder = configured(tmp_path / "build", OBJTOOL_RECORDS)
    assert "objtool" not in make_configured(folder, f"{OBJTOOL_RECORDS}=").replace(
        f"{OBJTOOL_RECORDS}=", ""
    )
    building.assert_object_recorded(folder / "f.o")


def test_kbuild_takes_the_place_of_a_recorder_that_the_kernel_calls(tmp_path: Path) -> None:
    folder = configured(tmp_path / "build", "CONFIG_FTRACE_MCOUNT_USE_RECORDMCOUNT")
    assert "already exists" not in make_configured(folder)
    building.assert_object_recorded(folder / "f.o")


def test_a_kernel_that_calls_a_recorder_can_be_given_this_one(tmp_path: Path) -> None:
    """As docs/kernel.md says it."""
    folder = configured(tmp_path / "build", "CONFIG_FTRACE_MCOUNT_USE_RECORDMCOUNT")
    words = re.search(
        r"^make ('sub_cmd_record_mcount=.*') ", (ROOT / "docs/kernel.md").read_text(), re.MULTILINE
    )
    assert words
    make_configured(folder, *shlex.split(words[1]), MAKEFILES="")
    building.assert_object_recorded(folder / "f.o")


@pytest.mark.parametrize(
    ("words", "archiver"),
    [
        ((), "ar"),
        (("CROSS_COMPILE=x86_64-linux-gnu-",), "x86_64-linux-gnu-ar"),
        (("LLVM=1",), "llvm-ar"),
        (("LLVM=-14",), "llvm-ar-14"),
        (("LLVM=/opt/llvm/",), "/opt/llvm/llvm-ar"),
        (("AR=my-ar",), "my-ar"),
    ],
)
def test_the_batch_goes_before_the_ar_that_the_kernel_would_call(
    tmp_path: Path, words: tuple[str, ...], archiver: str
) -> None:
    """Once, however many makes are between."""
    folder = configured(tmp_path / "build", "CONFIG_FUNCTION_TRACER")
    with (folder / "Makefile").open("a") as makefile:
        makefile.write("export AR = ar\nouter:\n\t$(MAKE) inner\ninner:\n\t@echo 'AR is' $(AR)\n")
    output = make_configured(folder, "outer", "RECORDMCOUNT_BATCH=y", *words)
    assert f"AR is {building.GLUE}/record-and-archive {archiver}\n" in output


# --- builds that are killed -----------------------------------------------------------------------


@pytest.fixture
def deadly_recorder(tmp_path: Path) -> str:
    """Return a recorder that, the first time, kills the build that calls it, and itself."""
    recorder, fuse = tmp_path / "recorder", tmp_path / "fuse"
    command = building.run("recordmcount", "--print-command").strip()
    recorder.write_text(
        f'#!/bin/sh\nrm {fuse} 2>/dev/null && kill -9 $BUILD_PID 0\nexec {command} "$@"\n'
    )
    recorder.chmod(0o755)
    fuse.touch()
    return str(recorder)


def run_until_killed(*command: str, cwd: Path, **variables: str) -> None:
    announce = ("sh", "-c", 'BUILD_PID=$$ exec "$@"', "sh")
    building.run(*announce, *command, cwd=cwd, status=-SIGKILL, **variables)


@pytest.mark.parametrize("program", ["calc", "calc-pie"])
def test_make_completes_a_build_that_was_killed(
    project: Path, program: str, deadly_recorder: str
) -> None:
    run_until_killed("make", program, cwd=project, RECORDMCOUNT=deadly_recorder)
    make(project)
    assert_recorded(project / program)


@with_each_generator
def test_cmake_completes_a_build_that_was_killed(
    project: Path, generator: str, deadly_recorder: str
) -> None:
    building.run("cmake", "-G", generator, f"-DRECORDMCOUNT={deadly_recorder}", ".", cwd=project)
    run_until_killed(BUILD_TOOLS[generator], cwd=project)
    cmake(project, generator)
    assert_recorded(project / "calc", project / "calc-pie", project / "libstack.so")


@pytest.mark.kernel
def test_kbuild_completes_a_build_that_was_killed(module: Path, deadly_recorder: str) -> None:
    recipe = {"MAKEFILES": str(kbuild.RECIPE), "RECORDMCOUNT": deadly_recorder}
    run_until_killed(*kbuild.kernel_make(module), cwd=module, **recipe)
    kbuild.build(module)
    assert_module_recorded(module)
