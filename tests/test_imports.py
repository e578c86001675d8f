"""Start-up time is a feature: recording imports next to nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import ROOT
from tests.support.elf_builder import X86_64, Symbol, build, section_symbol
from tests.support.objects import caller, text

MAIN = ROOT / "recordmcount" / "__main__.py"
PATCHER = ROOT / "patcher" / "__main__.py"
# What recording never imports: our dependencies, and what is slow of Python's own library.
DEPENDENCIES = {"demangle", "lief", "capstone", "keystone", "elftools", "tqdm", "backports", "lz4",
                "jinja2", "rich"}  # fmt: skip
SLOW = {"os", "re", "typing", "dataclasses", "argparse", "pathlib", "enum", "subprocess", "json",
        "collections", "signal", "shutil", "tempfile", "multiprocessing", "numpy"}  # fmt: skip


def imported_by(*words: str | Path, main: Path = MAIN) -> set[str]:
    """The modules that have been imported when the command with these words ends."""
    program = f"""
import posix, sys
def end(status):
    if status == 0:
        posix.write(3, "\\n".join(sys.modules).encode())
    exit_(status)
exit_, posix._exit = posix._exit, end
sys.argv[1:] = {[str(word) for word in words]!r}
__file__, __package__ = {str(main)!r}, None
exec(compile(open(__file__).read(), __file__, "exec"))
"""
    command = [sys.executable, "-I", "-S", "-c", program]
    shell = ["sh", "-c", '"$@" 3>&1 >/dev/null', "sh", *command]
    done = subprocess.run(shell, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return caller(".text", ".exit.text").write(tmp_path / "x.o")


@pytest.mark.parametrize(
    "options",
    [["--help"], ["--version"], ["--dry-run"], ["--stats", "-w"], ["-j2", "--gc-sections"]],
    ids=" ".join,
)
def test_the_recording_path_imports_no_slow_module(options: list[str], path: Path) -> None:
    modules = imported_by(*options, path)
    assert "recordmcount.cli" in modules
    assert modules.isdisjoint(DEPENDENCIES | SLOW)


def test_recording_imports_only_itself_and_modules_written_in_c(path: Path) -> None:
    listing = [sys.executable, "-I", "-S", "-c", "import sys; print(*sys.modules)"]
    before = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
    modules = imported_by(path)
    own = {name for name in modules if name.startswith("recordmcount")}
    assert "recordmcount.record.plan" in own
    assert modules - own - {*before} <= {*sys.builtin_module_names, "struct", "_struct"}


def test_what_is_rarely_needed_is_imported_then(tmp_path: Path) -> None:
    symbols = [section_symbol(".text"), Symbol("__fentry__")]
    path = build(X86_64, [text()], symbols).write(tmp_path / "x.o")
    archive = path.with_name("archive.a")
    subprocess.run(["ar", "rcD", archive, path], check=True)
    rare = {"recordmcount.elf.archive", "recordmcount.record.section_symbols"}
    assert imported_by(path).isdisjoint(rare)
    assert imported_by(archive) & rare == {"recordmcount.elf.archive"}
    without_symbol = caller(".text").write(tmp_path / "y.o")
    assert imported_by(without_symbol) & rare == {"recordmcount.record.section_symbols"}


@pytest.mark.parametrize("verb", ["status", "nop", "call"])
def test_what_switches_a_linked_file_imports_no_slow_module(verb: str, tmp_path: Path) -> None:
    program = images.build(tmp_path, flags=["-pg", "-mfentry", "-fno-pic"]).image
    if verb == "call":
        imported_by("nop", program, main=PATCHER)
    modules = imported_by(verb, "-q", program, main=PATCHER)
    assert "recordmcount.sites.linked" in modules
    assert modules.isdisjoint(DEPENDENCIES | SLOW)


def test_a_command_that_is_run_waits_for_no_slow_module() -> None:
    """It waits until all that its tracer needs is imported."""
    command = [
        sys.executable,
        "-I",
        "-S",
        "-X",
        "importtime",
        str(PATCHER),
        "run",
        "-q",
        "--",
        "true",
    ]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    modules = {line.rpartition("|")[2].strip() for line in listing.splitlines()}
    assert "patcher.process.live_sites" in modules
    slow = {"socket", "selectors", "dataclasses", "subprocess", "tempfile", "json", "shutil",
            "patcher.run.notification"}  # fmt: skip
    assert modules.isdisjoint(DEPENDENCIES | slow)


def test_the_package_can_be_imported_without_its_dependencies(tmp_path: Path) -> None:
    """`-S` hides site-packages: the version must be known to build tools all the same."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import recordmcount, json; "
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program + "print(json.dumps(recordmcount.__version__))"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert json.loads(done.stdout).count(".") == 2
