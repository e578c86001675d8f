"""Names that speak to the terminal: whatever a name is made of, no message passes it on raw.

The names are those of files, lists, members, sections, symbols, options and values. Each message
that can have one is provoked with one.
"""

import ast
import os
from pathlib import Path

import pytest

from recordmcount.console import LONGEST, printable, spelled
from tests.support import images
from tests.support.command import ROOT, call
from tests.support.elf_builder import (
    SHF_ALLOC,
    STB_LOCAL,
    STT_FUNC,
    X86_64,
    Elf,
    Relocation,
    Section,
    Symbol,
    build,
    section_symbol,
)
from tests.support.objects import AX, CALL, R_PLT32, caller, text

R_X86_64_64 = 1
# Clears the screen, sets the title, begins a line, rings, turns the direction; a C1 control; and
# QQ is replaced by two bytes that are no UTF-8, of which a terminal may take one for a control.
BAD = "x\x1b[2J\x1b]0;t\x07\r\nSPOOF\u202eQQ\u0085\u200b\x7f"
BYTES = b"\xff\x9b"
# The same as a word of a command line, or as the name of a file.
WORD = os.fsdecode(BAD.encode().replace(b"QQ", BYTES))
LONG = WORD + "l" * (2 * LONGEST)


def write(elf: Elf | bytes, path: Path) -> Path:
    data = elf if isinstance(elf, bytes) else elf.data
    path.write_bytes(data.replace(b"QQ", BYTES))
    return path


def said(package: str, *words: str | Path, cwd: Path) -> list[str]:
    """The lines that a command prints, each of which must be fit for a terminal."""
    done = call(package, *words, cwd=cwd)
    printed = os.fsencode(done.stdout + done.stderr).decode(
        "utf-8"
    )  # strict: a raw byte fails here
    lines = printed.split("\n")
    assert lines.pop() == ""
    for line in lines:
        assert line.isprintable(), repr(line)
        assert not line.startswith("SPOOF")
        assert len(line) <= LONGEST
    return lines


def shows_it(lines: list[str]) -> bool:
    return any(
        "\\x1b[2J\\x1b]0;t\\x07\\r\\nSPOOF\\u202e\\xff\\x9b\\u0085" in line for line in lines
    )


# --- objects with such names ----------------------------------------------------------------------


def sections_and_symbols() -> Elf:
    """Calls in a section that is not recorded, which a symbol of such a name is at."""
    name = f".{BAD}"
    symbols = [Symbol("f", ".text"), Symbol(BAD, name, type=STT_FUNC), Symbol("__fentry__")]
    return build(X86_64, [text(), text(name)], symbols)


def a_call_in_disguise() -> Elf:
    """What may be an `imul` as well as a call, in a section of such a name."""
    section = Section(
        f".text.{BAD}", flags=AX, data=b"\x90" * 8 + b"\x69" + CALL,
        relocations=[Relocation(10, 2, "__fentry__", -4)],
    )  # fmt: skip
    return build(X86_64, [section], [section_symbol(section.name), Symbol("__fentry__")])


def another_name() -> Elf:
    """Functions that begin with a call of a symbol of such a name."""
    functions = [Symbol(f"f{at}", ".text", 6 * at, 6, type=STT_FUNC) for at in range(2)]
    return build(X86_64, [text(calls=2, callee=BAD)], [*functions, Symbol(BAD)])


def a_relocation_outside() -> Elf:
    section = Section(
        f".text.{BAD}", flags=AX, data=CALL,
        relocations=[Relocation(1 << 20, R_PLT32, "__fentry__", -4)],
    )  # fmt: skip
    return build(X86_64, [section], [Symbol("__fentry__")])


def recorded_code(symbol: str = BAD, section: str = ".text", code: bytes = CALL) -> Elf:
    """A function of such a name that a table has an entry for, counted from that symbol."""
    calls = [Relocation(1, R_PLT32, "__fentry__", -4)] if code == CALL else []
    entry = Relocation(0, R_X86_64_64, symbol, 0)
    return build(
        X86_64,
        [
            Section(section, flags=AX, data=code, relocations=calls),
            Section("__mcount_loc", flags=SHF_ALLOC, data=bytes(8), relocations=[entry]),
        ],
        [Symbol(symbol, section, type=STT_FUNC, size=len(code)), Symbol("__fentry__")],
    )


def a_table_of_another_kind() -> Elf:
    entry = Relocation(0, R_PLT32, BAD, 0)
    table = Section("__mcount_loc", flags=SHF_ALLOC, data=bytes(8), relocations=[entry])
    symbols = [Symbol(BAD, ".text", bind=STB_LOCAL), Symbol("__fentry__")]
    return build(X86_64, [text(), table], symbols)


CODE = {
    "sections": sections_and_symbols(),
    "disguise": a_call_in_disguise(),
    "another name": another_name(),
    "outside": a_relocation_outside(),
    "loose": recorded_code(),
    "in a section": recorded_code(section=f".text.{BAD}"),
    "foreign": recorded_code(code=b"\x90" * 6),
    "another table": a_table_of_another_kind(),
}
COMMANDS = [
    ["recordmcount", "--kernel", "-n", "-w", "--stats"],
    ["recordmcount", "-w", "--all-sections", "-o", "out"],
    ["recordmcount", "report"],
    ["recordmcount", "verify"],
    ["recordmcount", "verify", "--format", "github"],
    ["recordmcount", "diff", "/dev/null"],
    ["patcher", "status"],
    ["patcher", "nop", "-n"],
    ["patcher", "nop", "-o", "out"],
    ["patcher", "call", "--functions", "*SPOOF*", "-o", "out"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("code", CODE)
def test_what_is_in_an_object_is_spelled(code: str, command: list[str], tmp_path: Path) -> None:
    write(CODE[code], tmp_path / "x.o")
    said(*command, "x.o", cwd=tmp_path)


@pytest.mark.parametrize(
    ("code", "command"),
    [
        ("sections", ["recordmcount", "-n"]), ("sections", ["recordmcount", "--kernel", "-w"]),
        ("sections", ["recordmcount", "report"]), ("disguise", ["recordmcount"]),
        ("another name", ["recordmcount"]), ("outside", ["recordmcount"]),
        ("outside", ["recordmcount", "report"]), ("loose", ["recordmcount", "report"]),
        ("loose", ["patcher", "nop", "-n"]), ("loose", ["patcher", "status"]),
        ("in a section", ["patcher", "nop", "-n"]), ("foreign", ["patcher", "nop"]),
        ("foreign", ["patcher", "status"]), ("foreign", ["recordmcount", "report"]),
    ],
)  # fmt: skip
def test_the_messages_that_name_it_do(code: str, command: list[str], tmp_path: Path) -> None:
    write(CODE[code], tmp_path / "x.o")
    assert shows_it(said(*command, "x.o", cwd=tmp_path))


def test_a_name_of_any_length_leaves_the_reason_to_be_read(tmp_path: Path) -> None:
    name = f"{BAD}{'l' * (2 * LONGEST)}"
    write(recorded_code(name, code=b"\x90" * 6), tmp_path / "x.o")
    (line,) = said("patcher", "nop", "x.o", cwd=tmp_path)
    assert line.startswith("x.o: x\\x1b[2J")
    assert line.endswith("; nothing was written")


# --- members --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [*COMMANDS[:1], ["recordmcount", "report"]], ids=" ".join)
def test_the_names_of_members_are_spelled(command: list[str], tmp_path: Path) -> None:
    members = {
        BAD: sections_and_symbols().data, f"broken{BAD}": caller().data[:100],
        f"bitcode{BAD}": b"BC\xc0\xde" + bytes(60),
    }  # fmt: skip
    for number in range(len(members)):
        some = list(members.items())[: number + 1]
        offsets = [len("/\n".join([*dict(some[:at]), ""])) for at in range(len(some))]
        names = "".join(f"{name.replace(chr(10), '')}/\n" for name, _ in some).encode()
        parts = [(b"//", names)]
        parts += [(b"/%d" % at, content) for at, (_, content) in zip(offsets, some, strict=True)]
        archive = b"!<arch>\n"
        for name, content in parts:
            archive += b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (name, 0, 0, 0, 0o644, len(content))
            archive += content + b"\n" * (len(content) % 2)
        write(archive, tmp_path / "x.a")
        lines = said(*command, "x.a", cwd=tmp_path)
        assert any("\\x1b[2J\\x1b]0;t\\x07\\r" in line for line in lines)


# --- paths ----------------------------------------------------------------------------------------


def test_paths_of_every_sort_are_spelled(tmp_path: Path) -> None:
    sound = write(caller(), tmp_path / f"{WORD}.o").name
    broken = write(caller().data[:100], tmp_path / f"{WORD}.broken").name
    source = write(b"int main;\n", tmp_path / f"{WORD}.c").name
    folder = tmp_path / f"{WORD}.d"
    folder.mkdir()
    for path in (broken, source, folder.name, f"{WORD}.missing", LONG):
        assert shows_it(said("recordmcount", path, cwd=tmp_path))
        if path != folder.name:  # in which nothing is to be told of
            assert shows_it(said("recordmcount", "report", path, cwd=tmp_path))
        assert shows_it(said("patcher", "status", path, cwd=tmp_path))
    assert shows_it(said("recordmcount", "-o", f"{folder.name}/no/x", sound, cwd=tmp_path))
    assert shows_it(said("recordmcount", "--stats", "-n", sound, cwd=tmp_path))
    assert shows_it(said("recordmcount", "report", sound, cwd=tmp_path))
    assert shows_it(said("patcher", "status", sound, cwd=tmp_path))
    said("recordmcount", sound, cwd=tmp_path)
    assert shows_it(said("recordmcount", sound, cwd=tmp_path))  # it has a table already
    assert shows_it(said("patcher", "nop", "-n", sound, cwd=tmp_path))
    assert shows_it(said("patcher", "nop", "-o", f"{folder.name}/no/x", sound, cwd=tmp_path))
    assert shows_it(said("patcher", "nop", sound, cwd=tmp_path))


def test_lists_and_what_they_list_are_spelled(tmp_path: Path) -> None:
    assert shows_it(said("recordmcount", f"@{WORD}", cwd=tmp_path))
    (tmp_path / "list").write_bytes(os.fsencode(WORD) + b"\0")
    assert shows_it(said("recordmcount", "@list", cwd=tmp_path))
    assert shows_it(said("recordmcount", "-j2", "@list", "@list", cwd=tmp_path))


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [WORD, LONG], ids=["short", "long"])
@pytest.mark.parametrize(
    "words",
    [
        ["recordmcount", "--{}"], ["recordmcount", "-{}"], ["recordmcount", "-o", "-{}"],
        ["recordmcount", "--jobs={}"], ["recordmcount", "--quiet={}"], ["recordmcount", "{}"],
        ["recordmcount", "--out{}=x"], ["recordmcount", "report", "--{}"],
        ["recordmcount", "report", "{}"], ["recordmcount", "--symbol", "{}", "x"],
        ["patcher", "{}"], ["patcher", "-{}"], ["patcher", "--{}"], ["patcher", "nop", "--{}"],
        ["patcher", "nop", "-o-{}", "{}"], ["patcher", "call", "--functions", "{}", "x.o"],
        ["patcher", "status", "--notrace", "{}", "x.o"], ["patcher", "status", "-{}"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_words_of_a_command_line_are_spelled(words: list[str], word: str, tmp_path: Path) -> None:
    write(recorded_code("f"), tmp_path / "x.o")
    lines = said(*(each.replace("{}", word) for each in words), cwd=tmp_path)
    assert lines
    if words[-1] not in ("x", "--quiet={}", "-{}"):  # not all of a word is named, nor each
        assert any("\\x1b[2J" in line for line in lines)


# --- linked files ---------------------------------------------------------------------------------


def test_what_is_in_a_linked_file_is_spelled(tmp_path: Path) -> None:
    built = images.build(tmp_path, flags=["-mfentry", "-fno-pic"])
    strange = tmp_path / "strange"
    images.tool("objcopy", "--redefine-sym", f"twice={WORD}", built.image, strange)
    for command in (["recordmcount", "report"], ["patcher", "status"], ["patcher", "nop", "-n"]):
        assert shows_it(said(*command, "strange", cwd=tmp_path))
    site = images.symbol(built.image, "twice")
    offset, vaddr, _ = images.section(strange, ".text")
    images.write(strange, offset + site - vaddr, b"\xe8\xfb\xff\xff\xff")  # a call of itself
    for command in (["patcher", "nop"], ["patcher", "status"], ["recordmcount", "report"]):
        assert shows_it(said(*command, "strange", cwd=tmp_path))


# --- by construction ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain", "plain"), ("ünï 漢字", "ünï 漢字"), ("a\nb", "a\\nb"), ("\x1b[0m", "\\x1b[0m"),
        ("\udcff", "\\xff"), ("\u009b", "\\u009b"), ("\u202e", "\\u202e"), ("ü\n", "ü\\n"),
        ("\U000e0001", "\\U000e0001"), ("", ""),
    ],
)  # fmt: skip
def test_what_is_not_printable_is_spelled_and_nothing_else(name: str, shown: str) -> None:
    assert printable(name) == spelled(name) == shown


def test_a_line_is_never_longer_than_the_longest() -> None:
    for line in ("a" * LONGEST, "a" * (LONGEST + 1), "\x1b" * LONGEST, "\x1b" * 9 * LONGEST):
        assert len(spelled(line)) <= LONGEST
    assert spelled("a" * LONGEST) == "a" * LONGEST
    assert spelled("a" + "b" * LONGEST + "c").startswith("ab")
    assert spelled("a" + "b" * LONGEST + "c").endswith("bc")


def writers(source: str) -> set[str]:
    """What a module calls that writes to stdout or stderr."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    called = [(ast.unparse(call.func), *map(ast.unparse, call.args[:1])) for call in calls]
    return {
        name
        for name, *to in called
        if name == "print" or name.startswith(("sys.stdout.write", "sys.stderr.write"))
        or (name.endswith(".write") and to in (["1"], ["2"]))
        or (name == "write_all" and to == ["fd"])
    }  # fmt: skip


@pytest.mark.parametrize("call", ["print(1)", "sys.stderr.write(x)", "posix.write(2, x)"])
def test_another_way_to_print_would_be_seen(call: str) -> None:
    assert writers(call)


def test_only_the_console_prints() -> None:
    sources = [path for each in ("recordmcount", "patcher") for path in (ROOT / each).rglob("*.py")]
    printing = {path.name: found for path in sources if (found := writers(path.read_text()))}
    # To try an instruction a child runs, whose stdout is a pipe.
    assert printing == {"console.py": {"write_all"}, "trial.py": {"os.write"}}
