"""`recordmcount diff`: what changed between two builds, whatever moved."""

import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest

from recordmcount.diff.compare import unnumbered
from recordmcount.folders import Walk
from recordmcount.report.json import schema
from tests.support.command import ROOT, run
from tests.support.compressed import COMPRESSORS
from tests.support.elf_builder import STB_LOCAL, STT_FUNC, X86_64, Elf, Section, Symbol, build
from tests.support.images import tool
from tests.support.objects import AX, CALL, caller, record_file, recorded, text

SCHEMA = schema(ROOT / "recordmcount" / "diff" / "diff.schema.json")


def diff(*words: str | Path) -> tuple[int, list[str]]:
    """Exit status, and the lines on stdout; nothing may be said on stderr."""
    done = run("recordmcount", "diff", *words)
    assert done.stderr == ""
    return done.status, done.stdout.splitlines()


def functions(*names: str, section: str = ".text", callee: str = "__fentry__") -> Elf:
    """An object of functions of 6 bytes that call mcount first, one behind the other."""
    symbols = [
        Symbol(name, section, value=6 * number, size=6, type=STT_FUNC)
        for number, name in enumerate(names)
    ]
    return build(X86_64, [text(section, len(names), callee)], [*symbols, Symbol(callee)])


def test_a_file_is_as_itself(tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.o", functions("f", "g"))
    assert diff(path, path) == (0, [])


def test_a_function_that_lost_its_site_and_one_that_gained_one_are_named(tmp_path: Path) -> None:
    old = recorded(tmp_path / "old.o", functions("first", "kept", "gone"))
    new = recorded(tmp_path / "new.o", functions("kept", "come", "came"))
    assert diff(old, new) == (1, [
        f"{new}: 2 sites gained, 2 lost",
        "  + came   .text, call, call, recorded",
        "  + come   .text, call, call, recorded",
        "  - first  .text, call, call, recorded",
        "  - gone   .text, call, call, recorded",
    ])  # fmt: skip


def test_addresses_and_order_are_no_difference(tmp_path: Path) -> None:
    old = recorded(tmp_path / "old.o", functions("f", "g", "h"))
    new = recorded(tmp_path / "new.o", functions("h", "f", "g"))
    assert diff(old, new) == (0, [])


def test_another_section_is_a_move_and_no_loss(tmp_path: Path) -> None:
    old = recorded(tmp_path / "old.o", functions("f"))
    new = recorded(tmp_path / "new.o", functions("f", section=".text.hot"))
    assert diff(old, new) == (1, [
        f"{new}: 1 site moved", "  > f  .text -> .text.hot, call, call, recorded",
    ])  # fmt: skip


def test_state_and_record_are_compared(tmp_path: Path) -> None:
    old = recorded(tmp_path / "old.o", functions("f", "g"))
    new = functions("f", "g").write(tmp_path / "new.o")
    turned = Path(shutil.copy(old, tmp_path / "turned.o"))
    assert run("patcher", "nop", "--functions", "f", turned).status == 0
    assert diff(old, turned) == (1, [
        f"{turned}: 1 site changed", "  ~ f  .text, call, call -> nop, recorded",
    ])  # fmt: skip
    assert diff(old, new)[1][1:] == [
        f"  ~ {name}  .text, call, call, recorded -> not recorded" for name in "fg"
    ]


@pytest.mark.parametrize(
    ("name", "other"),
    [("f.isra.0", "f.isra.7"), ("f.part.1", "f.part.0"), ("f.constprop.3", "f.constprop.12"),
     ("f.cold.1", "f.cold.2"), ("f.isra.0.cold", "f.isra.4.cold"), ("f.llvm.123", "f.llvm.9")],
)  # fmt: skip
def test_numbers_of_copies_and_parts_are_no_difference(
    name: str, other: str, tmp_path: Path
) -> None:
    assert unnumbered(name) == unnumbered(other) != "f"
    old = recorded(tmp_path / "old.o", functions(name))
    new = recorded(tmp_path / "new.o", functions(other))
    assert diff(old, new) == (0, [])


def test_a_copy_is_not_the_function(tmp_path: Path) -> None:
    old = recorded(tmp_path / "old.o", functions("f"))
    new = recorded(tmp_path / "new.o", functions("f.isra.0"))
    assert diff(old, new)[0] == 1


def test_static_functions_of_one_name_are_counted(tmp_path: Path) -> None:
    def made(count: int) -> Elf:
        symbols = [
            Symbol("f", ".text", value=6 * number, size=6, type=STT_FUNC, bind=STB_LOCAL)
            for number in range(count)
        ]
        return build(X86_64, [text(calls=count)], [*symbols, Symbol("__fentry__")])

    old, new = recorded(tmp_path / "old.o", made(5)), recorded(tmp_path / "new.o", made(2))
    assert diff(old, new) == (1, [
        f"{new}: 3 sites lost", "  - f  .text, call, call, recorded (3 sites)",
    ])  # fmt: skip


def test_sites_that_no_symbol_names_are_counted_by_section(tmp_path: Path) -> None:
    contents = build(X86_64, [text(calls=2)], [Symbol("__fentry__")])
    fewer = build(X86_64, [text(calls=1)], [Symbol("__fentry__")])
    old, new = recorded(tmp_path / "old.o", contents), recorded(tmp_path / "new.o", fewer)
    assert diff(old, new)[1][1:] == ["  - (.text)  .text, call, call, recorded"]


# --- folders, archives ----------------------------------------------------------------------------


def test_folders_are_compared_by_the_names_of_files(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, names in ((old, ("f", "g")), (new, ("f",))):
        (folder / "sub").mkdir(parents=True)
        recorded(folder / "sub" / "x.o", functions(*names))
        recorded(folder / "same.o", functions("f"))
        (folder / "readme").write_text(str(folder))
    recorded(old / "gone.o", functions("f"))
    build(X86_64, [Section(".text", flags=AX, data=b"\xc3")]).write(new / "come.o")
    assert diff(old, new) == (1, [
        "come.o (new): no sites",
        "gone.o (gone): 1 site lost",
        "  - f  .text, call, call, recorded",
        "sub/x.o: 1 site lost",
        "  - g  .text, call, call, recorded",
    ])  # fmt: skip


def a_tree(folder: Path, files: dict[str, tuple[str, ...]]) -> Path:
    """A folder of objects, by their functions; they are compressed as their names say."""
    for name, names in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = recorded(path, functions(*names)).read_bytes()
        how = {".gz": "gzip", ".xz": "xz", ".zst": "zstd", ".bz2": "bzip2", ".lz4": "lz4"}
        path.write_bytes(COMPRESSORS.get(how.get(path.suffix, ""), bytes)(content))
    return folder


@pytest.mark.parametrize("end", [".gz", ".xz", ".zst", ".bz2", ".lz4"])
def test_what_is_compressed_on_one_side_is_compared_with_what_is_not(
    end: str, tmp_path: Path
) -> None:
    built = a_tree(tmp_path / "built", {"fs/a.ko": ("f", "g"), "b.ko": ("f",)})
    installed = a_tree(tmp_path / "installed", {f"fs/a.ko{end}": ("f",), f"b.ko{end}": ("f",)})
    lost = ["  - g  .text, call, call, recorded"]
    assert diff(built, installed) == (1, [f"fs/a.ko{end}: 1 site lost", *lost])
    gained = ["  + g  .text, call, call, recorded"]
    assert diff(installed, built) == (1, ["fs/a.ko: 1 site gained", *gained])
    other = a_tree(tmp_path / "other", {"fs/a.ko.xz": ("f",), "b.ko.gz": ("f",)})
    assert diff(installed, other) == (0, [])


def test_which_of_several_is_meant_is_not_guessed(tmp_path: Path) -> None:
    """A name in full is never ambiguous."""
    both = a_tree(tmp_path / "both", {"a.ko": ("f",), "a.ko.xz": ("f",)})
    plain = a_tree(tmp_path / "plain", {"a.ko": ("f",)})
    other = a_tree(tmp_path / "other", {"a.ko.gz": ("f",)})
    line = "  {} f  .text, call, call, recorded"
    assert diff(both, both) == (0, [])
    assert diff(both, plain) == (1, ["a.ko.xz (gone): 1 site lost", line.format("-")])
    assert diff(plain, both) == (1, ["a.ko.xz (new): 1 site gained", line.format("+")])
    assert diff(both, other) == (1, [
        "a.ko (gone): 1 site lost", line.format("-"),
        "a.ko.gz (new): 1 site gained", line.format("+"),
        "a.ko.xz (gone): 1 site lost", line.format("-"),
    ])  # fmt: skip


def test_members_of_archives_are_compared_by_name(tmp_path: Path) -> None:
    folders = []
    for label, names in (("old", ("f", "g")), ("new", ("g",))):
        folder = tmp_path / label
        folder.mkdir()
        recorded(folder / "x.o", functions(*names))
        recorded(folder / "y.o", functions("f"))
        tool("ar", "qc", folder / "lib.a", folder / "x.o", folder / "y.o")
        folders.append(folder / "lib.a")
    assert diff(*folders) == (1, [
        f"{folders[1]}(x.o): 1 site lost", "  - f  .text, call, call, recorded",
    ])  # fmt: skip


def test_a_walk_ends_and_counts_what_it_passes_over(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    caller().write(tmp_path / "a" / "x.o")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "link.o").symlink_to("a/x.o")
    (tmp_path / "script").write_text("#!/bin/sh\n")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("nowhere")
    walk = Walk(str(tmp_path))
    found = list(map(str, walk))
    assert found == [
        f"{tmp_path}/dangling: No such file or directory",
        f"{tmp_path}/link.o", f"{tmp_path}/a/x.o",
    ]  # fmt: skip
    assert walk.skipped == 3  # the script, the FIFO, and the link to a folder


def test_the_order_is_that_of_the_names(tmp_path: Path) -> None:
    for name in ("b.o", "a.o", "B.o", "é.o", "c/z.o", "a/z.o"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        caller().write(tmp_path / name)
    names = [os.path.relpath(str(path), tmp_path) for path in Walk(str(tmp_path))]
    assert names == ["B.o", "a.o", "b.o", "é.o", "a/z.o", "c/z.o"]


# --- how it is told -------------------------------------------------------------------------------


def test_json_says_the_same_and_is_as_its_schema_has_it(tmp_path: Path) -> None:
    old = recorded(tmp_path / "old.o", functions("f", "g"))
    new = recorded(tmp_path / "new.o", functions("g", section=".text.hot"))
    status, lines = diff("--json", old, new)
    document = json.loads("\n".join(lines))
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    call = {"section": ".text", "kind": "call", "state": "call", "recorded": True}
    assert (status, document) == (1, {"version": 1, "errors": [], "files": [{
        "path": str(new), "only_in": None, "changes": [
            {"what": "lost", "function": "f", "count": 1, "old": call, "new": None},
            {"what": "moved", "function": "g", "count": 1, "old": call,
             "new": call | {"section": ".text.hot"}},
        ]}]})  # fmt: skip


def test_the_schema_is_printed(tmp_path: Path) -> None:
    status, lines = diff("--schema")
    assert (status, json.loads("\n".join(lines))) == (0, SCHEMA)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_what_cannot_be_read_is_trouble_and_no_difference(
    json_too: list[str], tmp_path: Path
) -> None:
    path = recorded(tmp_path / "x.o", functions("f"))
    done = run("recordmcount", "diff", *json_too, path, tmp_path / "missing")
    assert (done.status, done.stderr) == (
        2, f"{tmp_path}/missing: No such file or directory\n",
    )  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 3])
def test_two_paths_are_asked_for(count: int) -> None:
    done = run("recordmcount", "diff", *["x.o"] * count)
    assert done.status == 2
    assert "two paths are compared, OLD and NEW" in done.stderr


def test_a_name_does_not_speak_to_the_terminal(tmp_path: Path) -> None:
    old = recorded(tmp_path / "old.o", functions("f\n\x1b[31m"))
    new = recorded(tmp_path / "new.o", functions("g"))
    _, lines = diff(old, new)
    assert "\x1b" not in "".join(lines)
    assert len(lines) == 3


def test_a_call_through_the_got_is_another_form(tmp_path: Path) -> None:
    source = tmp_path / "x.c"
    source.write_text("int f(int n) { return n + 1; }\n")
    for name, option in (("old.o", "-fno-pic"), ("new.o", "-fPIC")):
        tool("gcc", "-O2", "-pg", "-mfentry", option, "-c", source, "-o", tmp_path / name)
        assert record_file(tmp_path / name).err == []
    status, lines = diff(tmp_path / "old.o", tmp_path / "new.o")
    assert (status, lines[1:]) == (1, ["  ~ f  .text, call -> call-got, call, recorded"])
    assert CALL[:1] == b"\xe8"
