"""The command as make and people call it: words, lists of files, messages and exit status."""

import gzip
import lzma
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import recordmcount
from fixtures.build import build as compiled
from fixtures.manifest import fixtures
from recordmcount.asked import Options
from recordmcount.grammar import parse as parse_words
from recordmcount.options import declare
from tests.support.command import ROOT, Finished, run
from tests.support.elf_builder import X86_64, Section, Symbol, build
from tests.support.loc_table import table_entries
from tests.support.objects import AX, caller, text

SOUND, IGNORED = caller(), caller(".text", ".exit.text")


BITCODE = "LLVM bitcode, not an object: join the objects with ld.lld -r, and record the result"
COMPRESSED = "compressed: decompress it first, and compress it again afterwards"
LINKED = (
    "record its objects before the link, or this by `recordmcount --image`; `recordmcount report` "
    "shows its sites"
)
TEXT = "text, not an ELF file: compile it first, with -pg -mfentry -c, and name the object"
SCRIPT = "a script, not an ELF file: name the program that it runs; libtool keeps those in .libs"
REPORT = "did you mean 'report'?"
SLIM_LTO = (
    "a slim LTO object without code: join the objects with gcc -flto -flinker-output=nolto-rel -r, "
    "and record the result"
)


def recordmcount_run(*words: str | Path, cwd: Path | None = None) -> Finished:
    return run("recordmcount", *words, cwd=cwd)


def shell(script: str, cwd: Path, stdin: bytes = b"") -> Finished:
    """Run a shell script in which $R is the command."""
    done = subprocess.run(
        ["bash", "-c", script],
        check=False,
        cwd=cwd,
        env={**os.environ, "R": f"{shlex.quote(sys.executable)} -m recordmcount",
             "PYTHONPATH": str(ROOT)},
        capture_output=True,
        input=stdin,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr, done.stderr
    return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())


def parse(words: list[str]) -> Options:
    """What the words ask of the recorder."""
    command, options = declare()
    return parse_words(command, words, options)


def is_recorded(path: Path) -> bool:
    return bool(table_entries(path))


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "option", "value"),
    [
        (["-w"], "warn", True),
        (["-n"], "dry_run", True),
        (["--dry-run"], "dry_run", True),
        (["--stats"], "stats", True),
        (["-q"], "quiet", True),
        (["--quiet"], "quiet", True),
        (["--all-sections"], "all_sections", True),
        (["--gc-sections"], "gc_sections", True),
        (["--pic"], "pic", True),
        (["-o", "out"], "output", "out"),
        (["-oout"], "output", "out"),
        (["--output", "out"], "output", "out"),
        (["--output=out"], "output", "out"),
        (["--output=a=b"], "output", "a=b"),
        (["-j", "3"], "jobs", 3),
        (["-j3"], "jobs", 3),
        (["--jobs", "3"], "jobs", 3),
        (["--jobs=3"], "jobs", 3),
        (["--symbol", "f"], "symbols", ("f",)),
        (["--symbol=f", "--symbol", "g"], "symbols", ("f", "g")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_sets_what_it_says_and_nothing_else(
    words: list[str], option: str, value: object
) -> None:
    options = parse([*words, "x.o"])
    assert vars(options) == {"files": ("x.o",), option: value}


def test_options_may_stand_between_and_behind_files() -> None:
    options = parse(["a.o", "-w", "b.o", "-q"])
    assert (options.warn, options.quiet, options.files) == (True, True, ("a.o", "b.o"))


def test_behind_two_dashes_everything_is_a_file() -> None:
    options = parse(["-w", "--", "-q", "--", "-V"])
    assert vars(options) == {"warn": True, "files": ("-q", "--", "-V")}


def test_a_single_dash_is_a_file() -> None:
    assert parse(["-"]).files == ("-",)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "no files"),
        (["-w"], "no files"),
        (["--", "-w"][:1], "no files"),
        (["-x", "x.o"], "unknown option '-x'; see --help"),
        (["-wx", "x.o"], "unknown option '-x' in '-wx'; see --help"),
        (["--foo=1", "x.o"], "unknown option '--foo'; see --help"),
        (["x.o", "-o"], "option '-o' wants a value"),
        (["--output=", "x.o"], "option '--output' wants a value"),
        (["x.o", "--symbol"], "option '--symbol' wants a value"),
        (["-j", "0", "x.o"], "option '-j' wants a number from 1 to 4096, not '0'"),
        (["-j", "-1", "x.o"], "option '-j' wants a value, not '-1'"),
        (["-o", "-n", "x.o"], "option '-o' wants a value, not '-n'"),
        (["-jall", "x.o"], "option '-j' wants a number from 1 to 4096, not 'all'"),
        (["--jobs=99999", "x.o"], "option '--jobs' wants a number from 1 to 4096, not '99999'"),
        (["-o", "out", "a.o", "b.o"], "-o is for one file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_that_make_no_sense_end_with_the_usage_and_status_2(
    words: list[str], why: str
) -> None:
    usage = (
        "usage: recordmcount [-w] [options] FILE... | @LIST\n"
        "       recordmcount report [options] FILE...\n"
        "       recordmcount verify [options] PATH...\n"
        "       recordmcount diff [options] OLD NEW"
    )
    assert recordmcount_run(*words) == (2, "", f"recordmcount: {why}\n{usage}\n")


def test_a_usage_error_is_found_before_any_file_is_touched(tmp_path: Path) -> None:
    path = SOUND.write(tmp_path / "x.o")
    assert recordmcount_run(path, "--nonsense").status == 2
    assert path.read_bytes() == SOUND.data


def test_every_option_of_the_help_is_understood() -> None:
    lines = recordmcount_run("--help").stdout.splitlines()
    columns = [line[:21].replace(",", " ") for line in lines if line.startswith("  -")]
    options = [word for column in columns for word in column.split() if word.startswith("-")]
    assert {"-w", "--output", "-j", "--symbol", "--print-dir"} < {*options}
    for option in options:
        parse([option, "1", "x.o"])  # raises UsageError for what it does not know


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["reprot", "x.o"],
            "no verb 'reprot'; did you mean 'report'? (a file of that name: ./reprot)",
        ),
        (["reports"], "no verb 'reports'; did you mean 'report'? (a file of that name: ./reports)"),
        (["-w", "report", "x.o"], "the verb 'report' must be the first word"),
        (["--all-section=1", "x.o"], "option '--all-section' takes no value"),
        (["--dryrun", "x.o"], "unknown option '--dryrun'; did you mean '--dry-run'?"),
        (["-dry-run", "x.o"], "unknown option '-d' in '-dry-run'; did you mean '--dry-run'?"),
        (["report", "--jsn", "x.o"], "unknown option '--jsn'; did you mean '--json'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_slip_of_the_pen_is_told_from_a_file(words: list[str], why: str, tmp_path: Path) -> None:
    SOUND.write(tmp_path / "x.o")
    done = recordmcount_run(*words, cwd=tmp_path)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0].partition(": ")[2] == why
    assert not is_recorded(tmp_path / "x.o")


@pytest.mark.parametrize("name", ["reprot", "report"])
def test_a_file_may_have_the_name_of_a_verb(name: str, tmp_path: Path) -> None:
    path = SOUND.write(tmp_path / name)
    word = "reprot" if name == "reprot" else "./report"
    assert recordmcount_run(word, cwd=tmp_path) == (0, "", "")
    assert is_recorded(path)


@pytest.mark.parametrize("name", ["x.o", "main", "sub/reprot"])
def test_a_file_that_is_not_there_is_no_verb(name: str, tmp_path: Path) -> None:
    expected = (1, "", f"{name}: No such file or directory\n{name}: failed\n")
    assert recordmcount_run(name, cwd=tmp_path) == expected


# --- information ----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_the_version_is_printed(word: str) -> None:
    assert recordmcount_run(word) == (0, f"recordmcount {recordmcount.__version__}\n", "")


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_the_help_is_printed(word: str) -> None:
    status, stdout, stderr = recordmcount_run(word, "x.o")
    assert (status, stderr) == (0, "")
    assert stdout.startswith("usage: recordmcount [-w] [options] FILE... | @LIST\n")
    assert "exit status: 0 done, 1 a file failed, 2 usage" in stdout
    assert max(map(len, stdout.splitlines())) <= 100


def test_the_printed_folder_has_the_build_files() -> None:
    folder = Path(recordmcount_run("--print-dir").stdout.removesuffix("\n"))
    assert (folder / "Kbuild.recordmcount").is_file()


def test_the_printed_command_records_an_object_from_any_folder(tmp_path: Path) -> None:
    command = shlex.split(recordmcount_run("--print-command").stdout)
    path = SOUND.write(tmp_path / "x.o")
    clean = {"PATH": os.environ["PATH"]}
    subprocess.run([*command, "x.o"], check=True, cwd=tmp_path, env=clean)
    assert is_recorded(path)
    assert command[1:3] == ["-I", "-S"]


def test_the_console_script_is_installed(tmp_path: Path) -> None:
    path = SOUND.write(tmp_path / "x.o")
    subprocess.run([Path(sys.executable).with_name("recordmcount"), path], check=True)
    assert is_recorded(path)


# --- files ----------------------------------------------------------------------------------------


def test_recording_says_nothing(tmp_path: Path) -> None:
    path = IGNORED.write(tmp_path / "x.o")
    assert recordmcount_run(path) == (0, "", "")
    assert is_recorded(path)


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_file_that_fails_leaves_the_others_to_be_recorded(jobs: str, tmp_path: Path) -> None:
    good = [SOUND.write(tmp_path / f"{number}.o") for number in range(4)]
    bad = tmp_path / "bad.o"
    bad.write_bytes(SOUND.patch("e_machine", 40))
    missing = tmp_path / "missing.o"
    status, stdout, stderr = recordmcount_run("-j", jobs, good[0], bad, good[1], missing, *good[2:])
    assert (status, stdout) == (1, "")
    assert stderr.splitlines() == [
        f"unrecognized e_machine 40 {bad}",
        f"{bad}: failed",
        f"{missing}: No such file or directory",
        f"{missing}: failed",
    ]
    assert all(map(is_recorded, good))
    assert bad.read_bytes() == SOUND.patch("e_machine", 40)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize("make", [make_folder, make_link_to_a_device, os.mkfifo])
def test_what_is_no_regular_file_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    make(path)
    advice = f"{path}: a folder: name the files in it\n" if make is make_folder else ""
    expected = f"not a regular file: {path}\n{advice}{path}: failed\n"
    assert recordmcount_run(path) == (1, "", expected)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "unrecognized ELF data encoding 0: PATH\nPATH: an empty file: build it again"),
        (b"text\n", f"unrecognized ELF data encoding 0: PATH\nPATH: {TEXT}"),
        (b"int main;\n", f"unrecognized ELF data encoding 97: PATH\nPATH: {TEXT}"),
        ("// grüße\n".encode(), f"unrecognized ELF data encoding 195: PATH\nPATH: {TEXT}"),
        (b"#!/bin/sh\n", f"unrecognized ELF data encoding 110: PATH\nPATH: {SCRIPT}"),
        (b"\0\1\2\3\4\5\6", "unrecognized ELF data encoding 5: PATH"),
        (SOUND.patch("EI_DATA", 2), "unrecognized ELF data encoding 2: PATH"),
        (SOUND.patch("EI_MAG", 1), "unrecognized ET_REL file PATH"),
        (SOUND.patch("e_type", 2), f"unrecognized ET_REL file PATH\nPATH: an executable: {LINKED}"),
        (SOUND.patch("e_type", 4), "unrecognized ET_REL file PATH"),
        (SOUND.patch("e_machine", 183), "unrecognized e_machine 183 PATH"),
        (b"BC\xc0\xde" + bytes(60), f"PATH: {BITCODE}"),
        (lzma.compress(SOUND.data), f"PATH: {COMPRESSED}"),
        (gzip.compress(SOUND.data, mtime=0), f"PATH: {COMPRESSED}"),
    ],
)  # fmt: skip
def test_what_cannot_be_recorded_is_called_by_its_name(
    contents: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(contents)
    expected = message.replace("PATH", str(path))
    assert recordmcount_run(path) == (1, "", f"{expected}\n{path}: failed\n")
    assert path.read_bytes() == contents


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("fixture", "what"),
    [("gcc-lto-slim", SLIM_LTO), ("clang-lto", BITCODE), ("clang-lto-thin", BITCODE)],
)
def test_objects_without_code_are_named_as_what_they_are(
    fixture: str, what: str, fixture_object: Callable[[str], Path]
) -> None:
    path = fixture_object(fixture)
    before = path.read_bytes()
    assert recordmcount_run(path) == (1, "", f"{path}: {what}\n{path}: failed\n")
    assert path.read_bytes() == before


@pytest.mark.parametrize("quiet", [False, True])
def test_a_second_run_warns_and_changes_nothing(quiet: bool, tmp_path: Path) -> None:
    path = IGNORED.write(tmp_path / "x.o")
    recordmcount_run(path)
    once, status = path.read_bytes(), path.stat()
    warning = "" if quiet else f"warning: __mcount_loc already exists: {path}\n"
    assert recordmcount_run(*["-q"] * quiet, path) == (0, "", warning)
    assert path.read_bytes() == once
    assert path.stat().st_mtime_ns == status.st_mtime_ns


def test_a_file_that_is_named_twice_is_recorded_once_and_in_silence(tmp_path: Path) -> None:
    path = SOUND.write(tmp_path / "x.o")
    (tmp_path / "link.o").symlink_to("x.o")
    (tmp_path / "list").write_text("x.o\n")
    words = ("x.o", "./x.o", "link.o", path, "@list", "x.o")
    counts = "1 recorded, 0 made NOPs, 0 other references"
    assert recordmcount_run(*words, "--stats", cwd=tmp_path) == (0, f"x.o: {counts}\n", "")
    assert is_recorded(path)


def test_of_a_file_with_two_names_each_is_recorded(tmp_path: Path) -> None:
    first = SOUND.write(tmp_path / "x.o")
    second = tmp_path / "y.o"
    second.hardlink_to(first)
    assert recordmcount_run(first, second) == (0, "", "")
    assert is_recorded(first)
    assert is_recorded(second)


TRACER = caller(".text", ".init.text")  # the latter section is a kernel's


def test_the_tracer_of_a_kernel_is_not_recorded_and_that_is_said(tmp_path: Path) -> None:
    tracer = TRACER.write(tmp_path / "ftrace.o")
    other = TRACER.write(tmp_path / "noftrace.o")
    said = f"{tracer}: warning: the kernel's tracer, not recorded\n"
    assert recordmcount_run(tracer, other) == (0, "", said)
    assert recordmcount_run("-q", tracer) == (0, "", "")
    assert tracer.read_bytes() == TRACER.data
    assert is_recorded(other)


def test_a_tracer_that_calls_no_tracer_is_nothing_to_talk_about(tmp_path: Path) -> None:
    path = build(X86_64, [text(calls=0), text(".init.text", calls=0)]).write(tmp_path / "ftrace.o")
    assert recordmcount_run(path) == (0, "", "")


def test_in_any_other_project_ftrace_o_is_an_object_as_others(tmp_path: Path) -> None:
    path = SOUND.write(tmp_path / "ftrace.o")
    assert recordmcount_run("--kernel", path) == (
        0, "", f"{path}: warning: the kernel's tracer, not recorded\n",
    )  # fmt: skip
    assert recordmcount_run(path) == (0, "", "")
    assert is_recorded(path)


def test_only_a_path_with_a_folder_can_be_the_tracer(tmp_path: Path) -> None:
    path = TRACER.write(tmp_path / "ftrace.o")
    assert recordmcount_run("ftrace.o", cwd=tmp_path) == (0, "", "")
    assert is_recorded(path)


def test_an_output_file_of_the_tracer_is_a_copy(tmp_path: Path) -> None:
    tracer = TRACER.write(tmp_path / "ftrace.o")
    output = tmp_path / "out.o"
    assert recordmcount_run("-q", "-o", output, tracer) == (0, "", "")
    assert output.read_bytes() == TRACER.data


def test_a_path_may_be_any_bytes(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    good, bad = folder + b"/\xff\xfe \xc3.o", folder + b"/b\xff.o"
    Path(os.fsdecode(good)).write_bytes(SOUND.data)
    Path(os.fsdecode(bad)).write_bytes(b"")
    command = [os.fsencode(sys.executable), b"-m", b"recordmcount", b"--stats", good, bad]
    done = subprocess.run(command, check=False, capture_output=True, cwd=ROOT)
    assert done.returncode == 1
    first, *_ = done.stdout.splitlines()
    assert first.endswith(rb"/\xff\xfe \xc3.o: 1 recorded, 0 made NOPs, 0 other references")
    assert done.stderr.endswith(rb"/b\xff.o: failed" + b"\n")
    assert is_recorded(Path(os.fsdecode(good)))


# --- lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "separator"])
@pytest.mark.parametrize("separator", ["\n", "\0"], ids=["newlines", "NULs"])
def test_a_list_names_one_file_a_line(separator: str, end: str, tmp_path: Path) -> None:
    names = ["a.o", "with space.o", "ünïcode.o"]
    paths = [SOUND.write(tmp_path / name) for name in names]
    (tmp_path / "list").write_text(separator.join(names) + (separator if end else ""))
    assert recordmcount_run("@list", cwd=tmp_path) == (0, "", "")
    assert all(map(is_recorded, paths))


def test_with_nuls_a_name_may_have_a_newline(tmp_path: Path) -> None:
    path = SOUND.write(tmp_path / "a\nb.o")
    (tmp_path / "list").write_text("a\nb.o\0")
    assert recordmcount_run("@list", cwd=tmp_path) == (0, "", "")
    assert is_recorded(path)


def test_lists_and_files_may_be_mixed(tmp_path: Path) -> None:
    paths = [SOUND.write(tmp_path / f"{name}.o") for name in "abcd"]
    (tmp_path / "one").write_text("a.o\n\n")
    (tmp_path / "two").write_text("c.o\nd.o\n")
    status, stdout, _ = recordmcount_run("--stats", "@one", "b.o", "@two", cwd=tmp_path)
    assert status == 0
    assert [line.partition(":")[0] for line in stdout.splitlines()] == [
        "a.o", "b.o", "c.o", "d.o", "total",
    ]  # fmt: skip
    assert all(map(is_recorded, paths))


def test_a_list_may_come_from_stdin(tmp_path: Path) -> None:
    paths = [SOUND.write(tmp_path / f"{number}.o") for number in range(3)]
    assert shell("$R @-", tmp_path, b"0.o\n1.o\n2.o\n") == (0, "", "")
    assert all(map(is_recorded, paths))


def test_a_list_may_have_names_of_any_bytes(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.o"))
    path.write_bytes(SOUND.data)
    assert shell("$R @-", tmp_path, b"\xff.o\n") == (0, "", "")
    assert is_recorded(path)


def test_an_empty_list_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("\n")
    assert recordmcount_run("@list", cwd=tmp_path) == (0, "", "")


def test_a_list_that_cannot_be_read_fails_before_any_file_is_touched(tmp_path: Path) -> None:
    path = SOUND.write(tmp_path / "x.o")
    expected = (1, "", "missing: No such file or directory\n")
    assert recordmcount_run("x.o", "@missing", cwd=tmp_path) == expected
    assert recordmcount_run("@.", cwd=tmp_path) == (1, "", ".: Is a directory\n")
    assert path.read_bytes() == SOUND.data


# --- options at work ------------------------------------------------------------------------------


def test_w_names_each_section_whose_calls_are_ignored_once(tmp_path: Path) -> None:
    symbols = [Symbol("f", ".exit.text"), Symbol("__fentry__")]
    path = build(X86_64, [text(".exit.text", 3), text(), text(".fixup")], symbols).write(
        tmp_path / "x.o"
    )
    lines = [f"Section {name} has mcount callers being ignored\n" for name in (
        ".exit.text", ".fixup")]  # fmt: skip
    assert recordmcount_run("-w", path) == (0, "".join(lines), "")


def test_a_dry_run_prints_the_plan_and_changes_nothing(tmp_path: Path) -> None:
    path = IGNORED.write(tmp_path / "x.o")
    before = path.stat()
    for option in ("-n", "--dry-run"):
        status, stdout, stderr = recordmcount_run(option, path)
        assert (status, stderr) == (0, "")
        *sites, changes = stdout.splitlines()
        assert sites == [
            f"{path}: .text+0x0: call -> entry",
            f"{path}: .exit.text+0x0: call -> nop",
        ]
        assert changes.startswith(f"{path}: 2 edits, ")
    assert path.read_bytes() == IGNORED.data
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert os.listdir(tmp_path) == ["x.o"]


def test_a_dry_run_needs_no_permission_to_write(tmp_path: Path) -> None:
    path = SOUND.write(tmp_path / "x.o")
    output = tmp_path / "out.o"
    assert recordmcount_run("-n", "-o", output, path).status == 0
    assert not output.exists()


def test_stats_counts_entries_nops_and_other_references(
    fixture_object: Callable[[str], Path], tmp_path: Path
) -> None:
    ignored = IGNORED.write(tmp_path / "ignored.o")
    references = fixture_object("as-references")
    _, stdout, stderr = recordmcount_run("--stats", ignored, references)
    in_text = 18 - 3  # three are in data
    assert stdout.splitlines() == [
        f"{ignored}: 1 recorded, 1 made NOPs, 0 other references",
        f"{references}: 1 recorded, 0 made NOPs, {in_text} other references",
        f"total: 2 recorded, 1 made NOPs, {in_text} other references",
    ]
    assert stderr == ""


def test_output_goes_to_another_file_with_the_mode_of_the_old(tmp_path: Path) -> None:
    path = SOUND.write(tmp_path / "x.o")
    path.chmod(0o640)
    output = tmp_path / "out.o"
    assert recordmcount_run("-o", output, path) == (0, "", "")
    assert path.read_bytes() == SOUND.data
    assert output.stat().st_mode & 0o7777 == 0o640
    recordmcount_run(path)
    assert output.read_bytes() == path.read_bytes()


def test_output_is_a_copy_where_there_is_nothing_to_do(tmp_path: Path) -> None:
    plain = build(X86_64, [Section(".text", flags=AX, data=b"\xc3")]).write(tmp_path / "x.o")
    output = tmp_path / "out.o"
    assert recordmcount_run("-o", output, plain) == (0, "", "")
    assert output.read_bytes() == plain.read_bytes()


def test_without_a_result_there_is_no_output_file(tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(b"")
    assert recordmcount_run("-o", tmp_path / "out.o", path).status == 1
    assert os.listdir(tmp_path) == ["x.o"]


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = SOUND.write(tmp_path / "x.o")
    output = tmp_path / "missing" / "out.o"
    stderr = f"{output}: No such file or directory\n{path}: failed\n"
    assert recordmcount_run("-o", output, path) == (1, "", stderr)


def test_a_further_symbol_is_looked_for(fixture_object: Callable[[str], Path]) -> None:
    path = fixture_object("gcc-fentry-name")
    before = path.read_bytes()
    recordmcount_run(path)
    assert path.read_bytes() == before
    recordmcount_run("--symbol", "__enter__", path)
    assert is_recorded(path)


@pytest.mark.matrix
@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_the_result_does_not_depend_on_the_number_of_jobs(jobs: int, tmp_path: Path) -> None:
    names = [name for name in fixtures() if name.startswith(("gcc-fentry", "clang-weak"))]
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        folder.mkdir()
        for name in names:
            shutil.copyfile(compiled(fixtures()[name]), folder / f"{name}.o")
    for name in names:
        assert recordmcount_run("-q", f"{name}.o", cwd=alone).status == 0
    files = [f"{name}.o" for name in names]
    status, stdout, _ = recordmcount_run("-q", "--stats", f"-j{jobs}", *files, cwd=together)
    assert status == 0
    assert [line.partition(":")[0] for line in stdout.splitlines()] == [*files, "total"]
    for file in files:
        assert (alone / file).read_bytes() == (together / file).read_bytes()


# --- where nobody reads ---------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", ["-j1", "-j2"])
@pytest.mark.parametrize("stdout", [">&-", "> /dev/full", "| true", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stdout_leaves_no_file_undone(stdout: str, jobs: str, tmp_path: Path) -> None:
    paths = [IGNORED.write(tmp_path / f"{number}.o") for number in range(20)]
    shell(f"$R {jobs} -w --stats *.o {stdout}", tmp_path)
    reference = IGNORED.write(tmp_path / "reference.o")
    recordmcount_run(reference)
    assert [path.read_bytes() for path in paths] == [reference.read_bytes()] * 20


@pytest.mark.parametrize("word", ["--help", "--version", "--stats x.o", "-w x.o"])
def test_what_cannot_be_said_is_a_failure(word: str, tmp_path: Path) -> None:
    IGNORED.write(tmp_path / "x.o")
    assert shell(f"$R {word} > /dev/full", tmp_path).status == 1
