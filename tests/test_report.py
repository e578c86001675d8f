"""`recordmcount report` as its user sees it: text, JSON, errors, exit status."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from recordmcount.report.json import schema
from tests.support import command, images
from tests.support.command import ROOT, Finished
from tests.support.elf_builder import (
    I386,
    STT_FUNC,
    X32,
    X86_64,
    Symbol,
    Target,
    build,
)
from tests.support.linked import Image
from tests.support.objects import caller, recorded, text
from tests.test_relocatable import odd

VALIDATOR = jsonschema.Draft202012Validator(schema())


def report(*words: str | Path, cwd: Path | None = None, **variables: str) -> Finished:
    return command.run("recordmcount", "report", *words, cwd=cwd, **variables)


def document(*words: str | Path, status: int = 0) -> Any:
    """What `--json` prints, which is valid whatever happened."""
    done = report("--json", *words)
    assert done.status == status
    parsed = json.loads(done.stdout)
    VALIDATOR.validate(parsed)
    assert [error["message"] for error in parsed["errors"]] == done.stderr.splitlines()
    return parsed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one.o, recorded: a call, and one that was turned off; and plain.o."""
    recorded(tmp_path / "one.o", caller(".text", ".exit.text"))
    caller(".text").write(tmp_path / "plain.o")
    return tmp_path


ONE = """\
one.o: object, ELF64 x86-64
    offset  site  entry  bytes       function
  .text
       0x0  call  yes    e800000000  in.text
  .exit.text
       0x0  nop   no     0f1f440000  in.exit.text
2 sites: 1 call, 1 nop; 1 recorded
"""
PLAIN = """\
plain.o: object, ELF64 x86-64
    offset  site  entry  bytes       function
  .text
       0x0  call  no     e800000000  in.text
1 site: 1 call; 0 recorded; no __mcount_loc table: recordmcount writes one
"""
NO_SITES = "no sites; no __mcount_loc table: compile with -pg -mfentry, and record then"
NO_TABLE = (
    "no __mcount_loc table: compile with -pg -mfentry, run recordmcount on the objects, and link "
    "them"
)
TOTAL = "total: 2 files; 3 sites: 2 call, 1 nop; 1 recorded\n"


# --- text -----------------------------------------------------------------------------------------


def test_a_file_is_a_heading_aligned_rows_and_a_summary(folder: Path) -> None:
    assert report("one.o", cwd=folder) == (0, ONE, "")


def test_several_files_end_with_a_total(folder: Path) -> None:
    done = report("one.o", "plain.o", cwd=folder)
    assert done == (0, f"{ONE}\n{PLAIN}\n{TOTAL}", "")


@pytest.mark.parametrize(
    ("target", "heading"),
    [(X86_64, "ELF64 x86-64"), (X32, "ELF32 x32"), (I386, "ELF32 i386")],
    ids=["x86_64", "x32", "i386"],
)
def test_the_heading_names_class_and_machine(target: Target, heading: str, tmp_path: Path) -> None:
    caller(target=target).write(tmp_path / "x.o")
    assert report("x.o", cwd=tmp_path).stdout.startswith(f"x.o: object, {heading}\n")


def test_a_file_without_sites_says_so(tmp_path: Path) -> None:
    build(X86_64, [], [Symbol("__fentry__")]).write(tmp_path / "x.o")
    done = report("x.o", cwd=tmp_path)
    assert (done.status, done.stderr) == (0, "")
    assert command.words(done.stdout) == f"x.o: object, ELF64 x86-64 {NO_SITES}"


def test_the_summary_tells_what_is_odd_about_a_table(tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    odd(("f", 0), ("f", 0), (".text", 5), words=2).write(path)
    *_, summary = report(path).stdout.splitlines()
    counted = "1 site: 1 call; 1 recorded; 1 foreign; 2 dead entries; 1 repeated entry"
    assert summary == counted
    odd(code=b"\xc3").write(path)
    assert report(path).stdout.endswith("no sites; the table is empty\n")
    odd(words=1, code=b"\xc3").write(path)
    assert report(path).stdout.endswith("no sites; 1 dead entry\n")


def test_long_names_move_no_column(tmp_path: Path) -> None:
    name = "_ZN" + 300 * "9container"
    symbols = [Symbol(name, ".text", size=6, type=STT_FUNC), Symbol("__fentry__")]
    sections = [text(calls=2), text(f".text.{name}")]
    path = build(X86_64, sections, symbols).write(tmp_path / "x.o")
    _, heading, *lines, _ = report(path).stdout.splitlines()
    rows = [line for line in lines if line.startswith("     ") and "0x" in line]
    for row, function in zip(rows, (name, "-", "-"), strict=True):
        assert row[heading.index("function") :] == function
        assert row[heading.index("bytes") :].startswith("e800000000  ")
        assert row[: heading.index("site")].split() == [row.split()[0]]
    why = "        (no symbol names this function; a weak one that is overridden?)"
    assert lines.count(why) == 2


def test_names_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    symbols = [Symbol("a\x1b[2J\nb", ".text\r"), Symbol("__fentry__")]
    build(X86_64, [text(".text\r")], symbols).write(tmp_path / "x\x1b.o")
    _, _, section, row, _ = report("x\x1b.o", cwd=tmp_path).stdout.splitlines()
    assert section == "  .text\\r"
    assert row.endswith("  a\\x1b[2J\\nb")
    assert "\x1b" not in report("x\x1b.o", cwd=tmp_path).stdout


def on_a_terminal(path: Path, **variables: str) -> str:
    """What the report prints where stdout is a terminal."""
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    subprocess.run(
        [sys.executable, "-m", "recordmcount", "report", path],
        check=True,
        stdout=theirs,
        env={**environment, "PYTHONPATH": str(ROOT), **variables},
    )
    os.close(theirs)
    said = os.read(ours, 1 << 16)
    os.close(ours)
    return said.decode().replace("\r\n", "\n")


def test_states_have_colours_on_a_terminal_only(folder: Path) -> None:
    said = on_a_terminal(folder / "one.o")
    assert "  \x1b[32mcall\x1b[0m  yes  " in said
    assert "  \x1b[2mnop\x1b[0m   no  " in said
    plain = report(folder / "one.o").stdout
    assert said.replace("\x1b[32m", "").replace("\x1b[2m", "").replace("\x1b[0m", "") == plain
    assert on_a_terminal(folder / "one.o", NO_COLOR="1") == plain


# --- JSON -----------------------------------------------------------------------------------------


def test_json_has_what_the_text_has(folder: Path) -> None:
    assert document(folder / "one.o") == {
        "version": 1,
        "files": [
            {
                "path": str(folder / "one.o"),
                "type": "object",
                "bits": 64,
                "machine": "x86-64",
                "has_table": True,
                "no_evidence": None,
                "dead_entries": 0,
                "repeated_entries": 0,
                "sites": [
                    {
                        "function": "in.text",
                        "function_offset": 0,
                        "section": ".text",
                        "offset": 0,
                        "kind": "call",
                        "bytes": "e800000000",
                        "state": "call",
                        "target": "__fentry__",
                        "recorded": True,
                        "evidence": "table",
                        "reason": None,
                    },
                    {
                        "function": "in.exit.text",
                        "function_offset": 0,
                        "section": ".exit.text",
                        "offset": 0,
                        "kind": "call",
                        "bytes": "0f1f440000",
                        "state": "nop",
                        "target": None,
                        "recorded": False,
                        "evidence": "relocation",
                        "reason": None,
                    },
                ],
            }
        ],
        "errors": [],
        "skipped": 0,
    }


def test_json_names_any_path(folder: Path) -> None:
    path = folder / os.fsdecode(b"\xff.o")
    (folder / "one.o").rename(path)
    (file,) = document(path)["files"]
    assert file["path"] == str(path)
    assert report(path).status == 0


# --- what is asked for ----------------------------------------------------------------------------


def test_further_names_are_asked_for(fixture_object: Callable[[str], Path]) -> None:
    path = fixture_object("gcc-fentry-name")
    none = NO_SITES
    assert command.words(report(path).stdout).endswith(f"x86-64 {none}")
    assert command.words(report("--symbol", "other", path).stdout).endswith(f"x86-64 {none}")
    (file,) = document("--symbol", "other", "--symbol=__enter__", path)["files"]
    assert len(file["sites"]) == 13


def test_the_schema_is_printed() -> None:
    done = report("--schema")
    assert (done.status, json.loads(done.stdout), done.stderr) == (0, schema(), "")


def test_help_is_printed() -> None:
    done = report("--help")
    assert done.status == 0
    assert done.stdout.startswith("usage: recordmcount report")


@pytest.mark.parametrize("redirection", ["> /dev/full", ">&-"])
def test_help_that_cannot_be_said_is_one_line_and_status_1(redirection: str) -> None:
    shell = ["sh", "-c", f'"$0" -m recordmcount report --help {redirection}', sys.executable]
    done = subprocess.run(shell, check=False, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch("standard output: .+\n", done.stderr)


@pytest.mark.parametrize("words", [[], ["--json"], ["--wrong", "x.o"], ["--symbol"]], ids=str)
def test_wrong_usage_is_status_2(words: Sequence[str]) -> None:
    done = report(*words)
    assert (done.status, done.stdout) == (2, "")
    said = r"recordmcount report: .+\nusage: recordmcount report \[options\] PATH\.\.\.\n"
    assert re.fullmatch(said, done.stderr)


# --- archives -------------------------------------------------------------------------------------


def archive(folder: Path, *members: str, options: str = "rcD") -> Path:
    subprocess.run(["ar", options, "lib.a", *members], cwd=folder, check=True)
    return folder / "lib.a"


def test_each_object_of_an_archive_is_a_file(folder: Path) -> None:
    (folder / "a_name_that_is_longer_than_fifteen.o").write_bytes((folder / "one.o").read_bytes())
    (folder / "note.txt").write_text("no object")
    archive(folder, "plain.o", "note.txt", "a_name_that_is_longer_than_fifteen.o")
    one, plain = ONE.split(":", 1)[1], PLAIN.split(":", 1)[1]
    done = report("lib.a", cwd=folder)
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout == "\n".join((
        f"lib.a(plain.o):{plain}",
        f"lib.a(a_name_that_is_longer_than_fifteen.o):{one}",
        TOTAL,
    ))  # fmt: skip


def test_a_broken_member_does_not_hide_the_others(folder: Path) -> None:
    (folder / "short.o").write_bytes((folder / "one.o").read_bytes()[:100])
    path = archive(folder, "one.o", "short.o", "plain.o")
    result = document(path, status=1)
    assert [file["path"] for file in result["files"]] == [f"{path}(one.o)", f"{path}(plain.o)"]
    assert [error["path"] for error in result["errors"]] == [f"{path}(short.o)"]


def test_of_a_thin_archive_each_file_is_told(folder: Path) -> None:
    path = archive(folder, "one.o", "plain.o", options="rcDT")
    paths = [file["path"] for file in document(path)["files"]]
    assert paths == [f"{folder}/one.o", f"{folder}/plain.o"]


# --- linked files ---------------------------------------------------------------------------------

# What it is called, the code's flag, the link's.
LINKED = [("executable", "-fno-pic", "-no-pie"), ("PIE", "-fpie", "-pie"),
          ("shared object", "-fPIC", "-shared")]  # fmt: skip


@pytest.mark.matrix
@pytest.mark.parametrize("linker", ["bfd", "gold", "lld", "mold"])
@pytest.mark.parametrize("linked", LINKED, ids=lambda linked: str(linked[0]))
def test_the_sites_of_a_linked_file_are_those_of_its_table(
    linked: tuple[str, str, str], linker: str, tmp_path: Path
) -> None:
    kind, flag, link = linked
    path = images.build(tmp_path, linker=linker, flags=("-mfentry", flag), link=(link,)).image
    (file,) = document(path)["files"]
    assert (file["type"], file["bits"], file["machine"]) == (kind, 64, "x86-64")
    image = Image(path)
    assert [site["address"] for site in file["sites"]] == sorted(image.table)
    assert {site["function"] for site in file["sites"]} == images.WORK_FUNCTIONS
    for site in file["sites"]:
        code = bytes.fromhex(site["bytes"])
        assert (site["state"], site["recorded"], site["reason"]) == ("call", True, None)
        assert site["target"].partition("@")[0] in ("mcount", "_mcount", "__fentry__")
        assert site["function"] == image.function_at(site["address"])
        assert image.is_call_at(site["address"])
        assert image.read(site["address"], len(code)) == code


def test_an_i386_library_has_sites_too(tmp_path: Path) -> None:
    flags = ("-O1", "-m32", "-fPIC", "-pg")
    work = images.compile_object(tmp_path, "work", images.WORK, "gcc", *flags)
    assert command.run("recordmcount", work).status == 0
    library = tmp_path / "libwork.so"
    images.tool("gcc", "-m32", "-shared", "-nostdlib", "-o", library, work)
    heading, _, _, *rows, summary = report("libwork.so", cwd=tmp_path).stdout.splitlines()
    assert heading == "libwork.so: shared object, ELF32 i386"
    assert [int(row.split()[0], 16) for row in rows] == sorted(Image(library).table)
    assert summary == "4 sites: 4 call; 4 recorded"


def test_what_the_patcher_did_is_shown(tmp_path: Path) -> None:
    path = images.build(tmp_path, flags=("-mfentry", "-fpie"), link=("-pie",)).image
    assert report(path).stdout.endswith("4 sites: 4 call; 4 recorded\n")
    assert command.run("patcher", "nop", path).status == 0
    assert report(path).stdout.endswith("4 sites: 4 nop; 4 recorded\n")
    assert command.run("patcher", "call", "--functions", "odd", path).status == 0
    assert report(path).stdout.endswith("4 sites: 1 call, 3 nop; 4 recorded\n")
    (file,) = document(path)["files"]
    states = {site["function"]: site["state"] for site in file["sites"]}
    assert states == dict.fromkeys(images.WORK_FUNCTIONS, "nop") | {"odd": "call"}


def test_an_entry_that_names_no_call_is_shown(tmp_path: Path) -> None:
    path = images.build(tmp_path, flags=("-mfentry", "-fno-pic")).image
    offset, start, _ = images.section(path, ".text")
    odd = images.symbol(path, "odd")
    images.write(path, offset + odd - start, b"\x90")
    foreign, summary = [line for line in report(path).stdout.splitlines() if "foreign" in line]
    assert foreign.split()[:3] == [f"{odd:#x}", "foreign", "yes"]
    assert summary == "3 sites: 3 call; 3 recorded; 1 foreign"


def test_a_linked_file_without_table_says_so(tmp_path: Path) -> None:
    images.compile_object(tmp_path, "main", "int main(void) { return 0; }", "gcc")
    images.tool("gcc", "-no-pie", "-o", tmp_path / "main", tmp_path / "main.o")
    done = report("main", cwd=tmp_path)
    assert (done.status, done.stderr) == (0, "")
    assert command.words(done.stdout) == f"main: executable, ELF64 x86-64 no sites; {NO_TABLE}"


def test_a_linked_file_without_section_headers_is_reported_and_not_switched(tmp_path: Path) -> None:
    path = images.build(tmp_path, flags=("-mfentry", "-fno-pic")).image
    images.without_section_headers(path)
    summary = f" 4 sites: 4 call; 0 recorded; found by PLT (4); {NO_TABLE}"
    assert command.words(report(path).stdout).endswith(summary)
    reason = f"{path}: no section headers, by which a table is found\n"
    assert command.run("patcher", "status", path) == (1, "", reason)


def test_a_stripped_file_has_no_functions(tmp_path: Path) -> None:
    path = images.build(tmp_path, flags=("-mfentry", "-fno-pic")).image
    images.tool("strip", path)
    (file,) = document(path)["files"]
    assert len(file["sites"]) == 4
    assert {(site["function"], site["function_offset"]) for site in file["sites"]} == {(None, None)}


# --- what cannot be read --------------------------------------------------------------------------


ONE_LINE = {
    "absent": "{path}: No such file or directory",
    "fifo": "{path}: not a regular file",
    "empty": "{path}: an empty file: build it again",
    "text": "{path}: text, not an ELF file: compile it first, ",
    "bitcode": "{path}: LLVM bitcode, not an object: ",
    "truncated": "{path}: the section header table at ",
    "arm": "{path}: not for x86",
    "core": "{path}: a core dump: name the program it is of",
    "bare": "{path}: no program headers",
}


def make_unreadable(path: Path) -> None:
    """Put there what the path's name says."""
    contents = {
        "empty": b"",
        "text": b"no object at all",
        "bitcode": b"BC\xc0\xde",
        "truncated": caller().data[:-1],
        "arm": caller().patch("e_machine", 183),
        "core": caller().patch("e_type", 4),
        "bare": caller().patch("e_type", 3),
    }
    if path.name == "fifo":
        os.mkfifo(path)
    elif path.name != "absent":
        path.write_bytes(contents[path.name])


@pytest.mark.parametrize("kind", ONE_LINE)
def test_what_cannot_be_read_is_one_line_and_hides_nothing(kind: str, folder: Path) -> None:
    path = folder / kind
    make_unreadable(path)
    result = document(folder / "one.o", path, folder / "plain.o", status=1)
    assert [Path(file["path"]).name for file in result["files"]] == ["one.o", "plain.o"]
    (error,) = result["errors"]
    assert error["path"] == str(path)
    assert error["message"].startswith(ONE_LINE[kind].format(path=path))


def test_slim_lto_is_named_as_what_it_is(fixture_object: Callable[[str], Path]) -> None:
    path = fixture_object("gcc-lto-slim")
    (error,) = document(path, status=1)["errors"]
    assert error["message"].startswith(f"{path}: a slim LTO object without code")


def test_nothing_but_errors_is_valid_json(tmp_path: Path) -> None:
    assert document(tmp_path / "absent", status=1)["files"] == []
    assert report(tmp_path / "absent").stdout == ""


def test_a_reader_that_went_away_is_status_1(folder: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "recordmcount", "report", folder / "one.o"],
        check=False,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")
