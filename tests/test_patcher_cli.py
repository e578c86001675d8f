"""`patcher` and the files of its user: what is refused, what is kept, what is said."""

import lzma
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from patcher.errors import WriteError
from patcher.files import switch
from patcher.memory.elffile import ElfFile
from recordmcount.sites.state import State
from tests.support import command, images
from tests.support.images import Built, build, calls
from tests.support.patching import call_other, patch, refused


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return build(tmp_path, flags=["-mfentry", "-fno-pic"])


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.matrix
def test_other_files_are_refused_in_one_line_each_and_the_rest_is_patched(
    built: Built, tmp_path: Path
) -> None:
    archive = tmp_path / "libwork.a"
    images.tool("ar", "rc", archive, tmp_path / "work.o")
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    other = tmp_path / "other"
    other.write_bytes(built.image.read_bytes()[:18] + b"\xb7\0" + bytes(44))  # EM_AARCH64
    short = tmp_path / "short"
    short.write_bytes(b"\x7fELF\2\1\1")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    module = tmp_path / "module.ko.xz"
    module.write_bytes(lzma.compress((tmp_path / "work.o").read_bytes()))
    bitcode = tmp_path / "bitcode.o"
    images.tool("clang", "-flto", "-pg", "-c", tmp_path / "work.c", "-o", bitcode)
    slim = tmp_path / "slim.o"
    images.tool("gcc", "-flto", "-pg", "-c", tmp_path / "work.c", "-o", slim)
    arm, wide = tmp_path / "arm.o", tmp_path / "wide.o"  # i386 has no 64-bit class
    header = (tmp_path / "work.o").read_bytes()
    arm.write_bytes(header[:18] + b"\x28\0" + header[20:])
    wide.write_bytes(header[:18] + b"\3\0" + header[20:])
    reasons = {
        tmp_path / "main.o": "no __mcount_loc table: compile with -pg -mfentry, and record then",
        archive: "an archive: patch its members before they go in, or what is linked from it",
        module: "compressed: decompress it first, and compress it again afterwards",
        bitcode: "LLVM bitcode, not an object: patch what is linked from it",
        arm: "not for x86",
        wide: "not for x86",
        slim: "a slim LTO object without code: join the objects with gcc -flto "
        "-flinker-output=nolto-rel -r, and record the result",
        other: "not for x86",
        script: "a script, not an ELF file: name the program that it runs; libtool keeps those in "
        ".libs",
        short: "not an ELF file",
        fifo: "not a regular file",
        tmp_path: "a folder: name the files in it",
        tmp_path / "nothing": "No such file or directory",
        tmp_path / "libcounter.so": "no __mcount_loc table: compile with -pg -mfentry, run "
        "recordmcount on the objects, and link them",
    }
    before = {path: path.read_bytes() for path in reasons if path.is_file()}
    done = command.run("patcher", "nop", *reasons, built.image)
    assert done.stderr == "".join(f"{path}: {reason}\n" for path, reason in reasons.items())
    assert done.stdout == f"{built.image}: 4 sites turned to nop, 0 already\n"
    assert done.status == 1
    assert {path: path.read_bytes() for path in before} == before


def test_a_file_that_has_nothing_to_change_is_not_touched(built: Built) -> None:
    before = built.image.stat()
    assert patch("call", built.image) == f"{built.image}: 0 sites turned to call, 4 already\n"
    after = built.image.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_dry_run_prints_the_plan_and_writes_nothing(built: Built) -> None:
    before = built.image.stat()
    plan = patch("nop", "-n", "--functions", "odd", built.image)
    site = images.symbol(built.image, "odd")
    assert plan.startswith(f"{built.image}: odd ({site:#x}): e8 ")
    assert plan.endswith(" -> 0f 1f 44 00 01\n")
    after = built.image.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_quiet_is_quiet(built: Built) -> None:
    assert patch("nop", "-q", built.image) == ""


def test_output_goes_to_another_file(built: Built, tmp_path: Path) -> None:
    original = built.image.read_bytes()
    other, same = tmp_path / "other", tmp_path / "same"
    patch("nop", "-o", other, built.image)
    patch("call", "-o", same, built.image)  # nothing to change, and yet a copy was asked for
    assert built.image.read_bytes() == same.read_bytes() == original
    assert other.stat().st_mode == built.image.stat().st_mode
    assert calls(built._replace(program=other)) == 0


@pytest.mark.parametrize("option", [("-o", ""), ("--output=",)])
def test_an_output_without_a_name_is_a_usage_error(built: Built, option: tuple[str, ...]) -> None:
    original = built.image.read_bytes()
    done = command.run("patcher", "nop", *option, built.image)
    assert (done.status, done.stdout) == (2, "")
    assert re.match(r"patcher nop: option '(-o|--output)' wants a value\n", done.stderr)
    assert built.image.read_bytes() == original


def test_no_name_to_commit_to_is_not_the_file_itself(built: Built) -> None:
    original = built.image.read_bytes()
    with ElfFile(str(built.image)) as file, pytest.raises(WriteError):
        file.commit("")
    assert built.image.read_bytes() == original


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    other.rename(path)


def overwrite(path: Path) -> None:
    old = path.stat()
    images.write(path, old.st_size - 1, b"!")
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 1))  # the clock may not have ticked


def extend(path: Path) -> None:
    old = path.stat()
    images.write(path, old.st_size, b"!")
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))


@pytest.mark.parametrize("change", [replace, overwrite, extend])
def test_what_another_program_wrote_meanwhile_is_not_lost(
    built: Built, change: Callable[[Path], None]
) -> None:
    with ElfFile(str(built.image)) as file:
        table = switch.read(file, ())
        wanted = switch.plan(file.path, table, range(len(table.sites)), State.NOP)
        change(built.image)
        theirs = built.image.read_bytes()
        with pytest.raises(WriteError) as caught:
            switch.switch(file, wanted, None, dry_run=False)
    assert str(caught.value) == f"{built.image}: was changed by another program meanwhile"
    assert built.image.read_bytes() == theirs
    assert not list(built.image.parent.glob(".*"))


@pytest.mark.parametrize("flags", [0, 1], ids=["data", "code"])  # PF_X
def test_segments_that_share_code_are_refused(built: Built, flags: int) -> None:
    data = bytearray(built.image.read_bytes())
    headers, size = int.from_bytes(data[32:40], "little"), int.from_bytes(data[54:56], "little")
    first = next(at for at in range(headers, len(data), size) if data[at] == 1)  # PT_LOAD
    data[first + 4] |= flags
    data[first + 16 : first + 24] = (0x700000).to_bytes(8, "little")  # p_vaddr
    data[first + 32 : first + 40] = (0x1001).to_bytes(8, "little")  # p_filesz
    built.image.write_bytes(data)
    assert refused("nop", built.image) == f"{built.image}: code is in two segments at 0x1000\n"


def test_a_file_that_cannot_be_written_is_an_error(built: Built, tmp_path: Path) -> None:
    out = tmp_path / "no" / "where"
    assert refused("nop", "-o", out, built.image) == f"{out}: No such file or directory\n"


def test_an_output_that_is_no_regular_file_is_an_error(built: Built, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for out in (tmp_path, tmp_path / "fifo"):
        assert refused("nop", "-o", out, built.image) == f"{out}: not a regular file\n"


def test_links_and_attributes_are_kept_as_any_editor_would(built: Built, tmp_path: Path) -> None:
    hard, soft = tmp_path / "hard", tmp_path / "soft"
    original = built.image.read_bytes()
    hard.hardlink_to(built.image)
    soft.symlink_to(built.image)
    built.image.chmod(0o2750)
    os.setxattr(built.image, "user.origin", b"a test")
    patch("nop", soft)
    assert soft.is_symlink()
    assert hard.read_bytes() == original != built.image.read_bytes()
    assert stat.S_IMODE(built.image.stat().st_mode) == 0o2750
    assert os.getxattr(built.image, "user.origin") == b"a test"
    assert not list(tmp_path.glob(".*"))


def test_a_program_that_runs_keeps_its_file(built: Built) -> None:
    with subprocess.Popen([built.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        patch("nop", built.image)
        said, _ = run.communicate(b"3")
    assert (run.returncode, said) == (0, b"work 6\n")
    assert calls(built) == 0


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [
    "", "nop", "nop --json", "fly x", "nop --no x", "status -n x", "nop -o x y z",
    "nop --symbol -n x", "nop -o --json x", "nop -o=x y", "status --functions -- x",
])  # fmt: skip
def test_what_makes_no_sense_is_a_usage_error(words: str) -> None:
    done = command.run("patcher", *words.split())
    assert (done.status, done.stdout) == (2, "")
    assert re.fullmatch(
        r"(patcher[a-z ]*): .+\nusage: \1 .*FILE\.\.\.(?: \| --pid PID)?\n", done.stderr
    )


@pytest.mark.parametrize("words", ["--help", "--version", "nop --help"])
@pytest.mark.parametrize("redirection", ["> /dev/full", ">&-"])
def test_what_cannot_be_said_is_one_line_and_status_1(words: str, redirection: str) -> None:
    shell = ["sh", "-c", f'"$0" -m patcher {words} {redirection}', sys.executable]
    done = subprocess.run(shell, check=False, capture_output=True, text=True, cwd=command.ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch("standard output: .+\n", done.stderr)


def test_ctrl_c_ends_it_as_any_signal_does(built: Built) -> None:
    many = [str(built.image)] * 5000  # more lines than a pipe holds
    words = [sys.executable, "-m", "patcher", "status", *many]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=command.ROOT
    ) as run:
        assert run.stdout
        assert run.stderr
        assert run.stdout.readline()
        run.send_signal(signal.SIGINT)
        assert (run.stderr.read(), run.wait()) == (b"", -signal.SIGINT)


@pytest.mark.parametrize("words", [[], ["fly"], ["fly\nhigh"]], ids=str)
def test_without_a_verb_all_are_named_in_one_line(words: list[str]) -> None:
    done = command.run("patcher", *words)
    first, usage = done.stderr.splitlines()
    assert first.endswith(": say nop, call, status, run, trace")
    assert usage == "usage: patcher VERB [options] FILE..."


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("statsu x", "unknown verb 'statsu'; did you mean 'status'?"),
        ("report x", "unknown verb 'report'; it is one of recordmcount: recordmcount report"),
        ("nop --dryrun x", "unknown option '--dryrun'; did you mean '--dry-run'?"),
        ("--versoin", "unknown option '--versoin'; did you mean '--version'?"),
    ],
)
def test_of_a_slip_of_the_pen_the_nearest_is_named(words: str, why: str) -> None:
    done = command.run("patcher", *words.split())
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0].partition(": ")[2] == why


def test_help_says_what_a_verb_does() -> None:
    assert "\n\nTurn calls to mcount into NOPs.\n\n" in patch("nop", "--help")


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, patcher.cli\n"
        "try: patcher.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("usage: patcher ")
    assert not {"lief", "capstone", "keystone", "elftools"} & set(done.stderr.split())


def test_recordmcount_never_imports_patcher() -> None:
    for source in (Path(command.ROOT) / "recordmcount").rglob("*.py"):
        assert not re.search(r"^ *(from|import) +patcher\b", source.read_text(), re.MULTILINE), (
            source
        )


@pytest.mark.parametrize("options", [["-I"], ["-I", "-S"]], ids=" ".join)
def test_a_foreign_site_is_decoded_however_python_was_started(
    built: Built, options: list[str]
) -> None:
    call_other(built)
    main = command.ROOT / "patcher" / "__main__.py"
    done = subprocess.run(
        [sys.executable, *options, main, "status", built.image],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r"foreign: a call to .* \(call 0x\w+\); expected", done.stdout)


def test_a_foreign_site_is_told_without_a_disassembler(built: Built, tmp_path: Path) -> None:
    call_other(built)
    (tmp_path / "capstone.py").write_text("raise ImportError\n")
    main = f"import sys; sys.path[:0] = {[str(tmp_path), str(command.ROOT)]}; "
    words = ["status", str(built.image)]
    program = main + f"from patcher.cli import main; sys.exit(main({words}))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r"foreign: a call to .* \(\?\?\); expected", done.stdout)
