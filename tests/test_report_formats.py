"""`recordmcount report` in other forms: rows, a page, source lines, functions without a site."""

import csv
import io
import json
import re
from pathlib import Path

import jsonschema
import pytest

from recordmcount.report.json import schema
from recordmcount.report.reasons import Reason
from tests.support.command import run
from tests.support.elf_builder import STT_FUNC, X86_64, Symbol, build
from tests.support.images import tool
from tests.support.objects import caller, recorded, text

SOURCE = """static inline __attribute__((always_inline)) int inlined(int n) { return n + 1; }
int traced(int n)
{
    return inlined(n);
}
__attribute__((no_instrument_function)) int untraced(int n) { return n; }
int main(void) { return traced(untraced(1)) - 2; }
"""
TRACER = """
    .globl __fentry__
    .type __fentry__, @function
__fentry__: ret
    .size __fentry__, . - __fentry__
    .section .note.GNU-stack, "", @progbits
"""


def report(*words: str | Path) -> str:
    done = run("recordmcount", "report", *words)
    assert (done.status, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program of profiled, unprofiled and assembled code, with debug information."""
    (tmp_path / "x.c").write_text(SOURCE)
    (tmp_path / "plain.c").write_text("int plain(int n) { return n; }\n")
    (tmp_path / "tracer.S").write_text(TRACER)
    tool("gcc", "-O1", "-g", "-pg", "-mfentry", "-c", tmp_path / "x.c", "-o", tmp_path / "x.o")
    tool("gcc", "-O1", "-g", "-c", tmp_path / "plain.c", "-o", tmp_path / "plain.o")
    tool("gcc", "-g", "-c", tmp_path / "tracer.S", "-o", tmp_path / "tracer.o")
    assert run("recordmcount", tmp_path / "x.o").status == 0
    objects = [tmp_path / name for name in ("x.o", "plain.o", "tracer.o")]
    tool("gcc", *objects, "-o", tmp_path / "program")
    return tmp_path / "program"


# --- rows -----------------------------------------------------------------------------------------


def test_a_row_of_csv_and_of_json_lines_says_what_the_document_does(program: Path) -> None:
    (file,) = json.loads(report("--json", program))["files"]
    lines = [json.loads(line) for line in report("--format", "jsonl", program).splitlines()]
    assert lines == [{"path": str(program), **site} for site in file["sites"]]
    rows = [*csv.DictReader(io.StringIO(report("--format=csv", program)))]
    assert [row["function"] for row in rows] == [site["function"] for site in file["sites"]]
    assert [int(row["address"]) for row in rows] == [site["address"] for site in file["sites"]]
    assert {row["recorded"] for row in rows} == {"yes"}


def test_a_name_is_no_formula_and_no_other_cell(tmp_path: Path) -> None:
    names = ["=1+1", "a,b", 'a"b', "-x", "+x"]
    symbols = [
        Symbol(name, ".text", value=6 * number, size=6, type=STT_FUNC)
        for number, name in enumerate(names)
    ]
    path = build(X86_64, [text(calls=5)], [*symbols, Symbol("__fentry__")]).write(tmp_path / "x.o")
    rows = [*csv.DictReader(io.StringIO(report("--format=csv", path)))]
    assert [row["function"] for row in rows] == ["'=1+1", "a,b", 'a"b', "'-x", "'+x"]


def test_json_is_format_json_and_a_format_must_be_known(program: Path) -> None:
    assert report("--format", "json", program) == report("--json", program)
    for words in (["--format", "yaml"], ["--json", "--format", "csv"]):
        done = run("recordmcount", "report", *words, program)
        assert (done.status, done.stdout) == (2, "")


def test_the_files_of_a_folder_are_told_of(tmp_path: Path) -> None:
    for name in ("b.o", "sub/a.o"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        recorded(tmp_path / name, caller())
    (tmp_path / "readme").write_text("no object\n")
    headings = re.findall(r"^(\S+): object", report(tmp_path), re.MULTILINE)
    assert headings == [f"{tmp_path}/b.o", f"{tmp_path}/sub/a.o"]


# --- debug information ----------------------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True])
def test_lines_are_those_of_the_source(split: bool, program: Path) -> None:
    if split:
        tool("objcopy", "--only-keep-debug", program, f"{program}.debug")
        tool("objcopy", "--strip-debug", f"--add-gnu-debuglink={program}.debug", program)
    (file,) = json.loads(report("--json", "--lines", program))["files"]
    jsonschema.Draft202012Validator(schema()).validate(
        {"version": 1, "files": [file], "errors": [], "skipped": 0}
    )
    told = {(site["function"], Path(site["source"]).name, site["line"]) for site in file["sites"]}
    assert told == {("traced", "x.c", 3), ("main", "x.c", 7)}
    assert re.search(r"traced\s+\S*x\.c:3$", report("--lines", program), re.MULTILINE)


def test_of_an_object_each_section_has_its_own_lines(program: Path) -> None:
    (file,) = json.loads(report("--json", "--lines", program.parent / "x.o"))["files"]
    assert {site["function"]: site["line"] for site in file["sites"]} == {"traced": 3, "main": 7}


def test_what_has_no_debug_information_has_no_lines(tmp_path: Path) -> None:
    (file,) = json.loads(report("--json", "--lines", caller().write(tmp_path / "x.o")))["files"]
    assert [(site["source"], site["line"]) for site in file["sites"]] == [(None, None)]


def test_a_function_without_a_site_has_its_reason(program: Path) -> None:
    (file,) = json.loads(report("--json", "--untraceable", program))["files"]
    reasons = {each["function"]: each["reason"] for each in file["untraceable"]}
    expected = {
        "untraced": Reason.ATTRIBUTE,
        "plain": Reason.NOT_PROFILED,
        "__fentry__": Reason.TRACER,
        "inlined": Reason.INLINED,
        "_start": Reason.START_UP,
    }
    assert reasons.items() >= expected.items()
    assert reasons.keys().isdisjoint({"traced", "main"})
    jsonschema.Draft202012Validator(schema()).validate(
        {"version": 1, "files": [file], "errors": [], "skipped": 0}
    )
    assert "without a site: its unit was compiled without -pg\n    plain (0x" in report(
        "--untraceable", program
    )


def test_what_nothing_is_known_of_is_unknown(tmp_path: Path) -> None:
    symbols = [
        Symbol("f", ".text", size=6, type=STT_FUNC),
        Symbol("g", ".text", value=6, size=1, type=STT_FUNC),
        Symbol("g.cold", ".text", value=7, size=1, type=STT_FUNC),
        Symbol("_ZThn8_N1A1fEv", ".text", value=8, size=1, type=STT_FUNC),
        Symbol("__fentry__"),
    ]
    section = text()
    code = type(section)(
        section.name, flags=section.flags, data=section.data + b"\xc3" * 3,
        relocations=section.relocations,
    )  # fmt: skip
    path = build(X86_64, [code], symbols).write(tmp_path / "x.o")
    (file,) = json.loads(report("--json", "--untraceable", path))["files"]
    assert [(each["function"], each["offset"], each["reason"]) for each in file["untraceable"]] == [
        ("g", 6, Reason.UNKNOWN), ("g.cold", 7, Reason.COLD), ("_ZThn8_N1A1fEv", 8, Reason.THUNK),
    ]  # fmt: skip


# --- the page -------------------------------------------------------------------------------------

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'"


def hostile(folder: Path) -> Path:
    symbols = [Symbol(HOSTILE, ".text", size=6, type=STT_FUNC), Symbol("__fentry__")]
    return build(X86_64, [text()], symbols).write(folder / "x.o")


def test_a_name_is_no_markup(tmp_path: Path) -> None:
    page = report("--format", "html", hostile(tmp_path))
    assert "<img" not in page
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    columns = {column["title"]: column for column in json.loads(data[1])["columns"]}
    assert columns["function"]["value"] == HOSTILE


def test_nothing_is_loaded_and_no_other_script_can_run(tmp_path: Path) -> None:
    page = report("--format", "html", hostile(tmp_path))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; style-src 'sha256-")
    markup = re.sub(r'(id="data">).*?(</script>)', r"\1\2", page, flags=re.DOTALL)
    assert not re.search(r"(?:src|href)=|url\(|@import|https?:", markup)
