"""`recordmcount verify`: what is wrong with a table is found, and nothing else.

Objects are made field by field or by gcc, and then one thing is changed.
"""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from recordmcount.errors import Error
from recordmcount.verify.examine import examine
from tests.support import building, images
from tests.support.command import call
from tests.support.elf_builder import (
    SHF_ALLOC,
    STB_LOCAL,
    STT_FUNC,
    X86_64,
    Elf,
    Group,
    Section,
    Symbol,
    Target,
    build,
    section_symbol,
)
from tests.support.loc_table import table_entries
from tests.support.objects import AX, R_PLT32, TARGETS, caller, record_file, recorded, text
from tests.support.verifying import (
    entries,
    findings,
    functions,
    linked,
    table,
    verify,
    with_words,
    words,
)

NOP5 = bytes.fromhex("0f1f440000")

# --- what is right --------------------------------------------------------------------------------


@TARGETS
def test_what_the_recorder_wrote_is_clean(tmp_path: Path, target: Target) -> None:
    path = recorded(tmp_path / "x.o", caller(".text", ".text.f", target=target))
    assert call("recordmcount", "verify", path) == (0, f"{path}: clean: 2 sites, 2 entries\n", "")


@pytest.mark.parametrize("order", [(0, 6, 12), (12, 0, 6)])
def test_the_order_of_entries_does_not_matter(tmp_path: Path, order: tuple[int, ...]) -> None:
    path = functions(*entries(*order)).write(tmp_path / "x.o")
    assert findings(path) == []


def test_calls_that_are_off_are_sites(tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.o", caller())
    assert call("patcher", "nop", "-q", path).status == 0
    assert findings(path) == []


def test_a_file_without_calls_and_table_is_nothing_to_verify(tmp_path: Path) -> None:
    path = build(X86_64, [Section(".text", flags=AX, data=b"\xc3")], []).write(tmp_path / "x.o")
    told = f"{path}: no call of mcount and no table: nothing to verify\n"
    assert call("recordmcount", "verify", path) == (0, told, "")


def test_calls_that_the_recorder_made_nops_need_no_entry(tmp_path: Path) -> None:
    path = caller(".text", ".exit.text", ".init.text").write(tmp_path / "x.o")
    assert not record_file(path).failed
    assert findings(path) == []


@pytest.mark.parametrize("option", ["kernel", "all_sections"])
def test_what_is_recorded_by_an_option_is_clean_by_the_same(tmp_path: Path, option: str) -> None:
    path = caller(".text", ".exit.text", "mine").write(tmp_path / "x.o")
    assert not record_file(path, **{option: True}).failed
    assert findings(path, f"--{option.replace('_', '-')}") == []


def test_words_of_zero_are_what_linkers_leave(tmp_path: Path) -> None:
    path = functions(*entries(0, 6, 12), rest=bytes(16)).write(tmp_path / "x.o")
    told = f"{path}: clean: 3 sites, 5 entries, 2 dead\n"
    assert call("recordmcount", "verify", path) == (0, told, "")


def test_entries_are_right_that_count_from_any_symbol(tmp_path: Path) -> None:
    path = functions(("f", 0), ("g", 0), ("h", 0)).write(tmp_path / "x.o")
    assert findings(path) == []


# --- what is wrong --------------------------------------------------------------------------------


@TARGETS
@pytest.mark.parametrize("by", [1, 2, 4, -1, -4])
def test_an_entry_that_is_off_is_the_one_finding(tmp_path: Path, target: Target, by: int) -> None:
    path = functions(*entries(0, 6 + by, 12), target=target).write(tmp_path / "x.o")
    # 2 and -4 are the same byte, and nearer to the first byte of the call that follows.
    assert findings(path) == [("entry-off", ".text", 6 + by, "g" if by > 0 else "f")]


def test_where_the_site_is_that_was_meant_is_told(tmp_path: Path) -> None:
    path = functions(*entries(0, 7, 12)).write(tmp_path / "x.o")
    told = verify(path)["files"][0]["findings"][0]
    assert told["message"] == "1 byte into the call at .text+0x6"
    assert told["entry"] == {"table": "__mcount_loc", "offset": 8}


@TARGETS
def test_a_site_without_entry(tmp_path: Path, target: Target) -> None:
    path = functions(*entries(0, 12), target=target).write(tmp_path / "x.o")
    assert findings(path) == [("missing-entry", ".text", 6, "g")]


def test_an_entry_whose_relocation_was_taken_away(tmp_path: Path) -> None:
    elf = functions(*entries(0, 6, 12))
    path = tmp_path / "x.o"
    gone = {f"relocations[__mcount_loc][1].{field}": 0 for field in ("r_type", "r_sym", "r_addend")}
    path.write_bytes(elf.patch_all(gone))
    assert findings(path) == [("missing-entry", ".text", 6, "g")]


@TARGETS
def test_an_entry_that_is_doubled(tmp_path: Path, target: Target) -> None:
    path = functions(*entries(0, 6, 6, 12), target=target).write(tmp_path / "x.o")
    assert findings(path) == [("repeated-entry", ".text", 6, "g")]
    word = 8 if target is X86_64 else 4
    assert verify(path)["files"][0]["findings"][0]["entry"]["offset"] == 2 * word


def overwritten(elf: Elf, code: bytes) -> bytes:
    """The object with other bytes at the second call."""
    at = elf.value("sections[.text].sh_offset") + 6
    return elf.data[:at] + code + elf.data[at + len(code) :]


@pytest.mark.parametrize("code", [b"\xcc", b"\xe9", b"\x90" * 5], ids=["int3", "jmp", "nops"])
def test_a_site_that_was_overwritten(tmp_path: Path, code: bytes) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(overwritten(functions(*entries(0, 6, 12)), code))
    assert findings(path) == [("no-site", ".text", 6, "g")]


def test_a_nop_over_which_a_relocation_will_write(tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(overwritten(functions(*entries(0, 6, 12)), NOP5))
    assert findings(path) == [("nop-with-relocation", ".text", 6, "g")]


def test_a_call_of_something_else(tmp_path: Path) -> None:
    elf = functions(*entries(0, 6, 12))
    path = tmp_path / "x.o"
    h = elf.symbol_names.index("h")
    path.write_bytes(elf.patch("relocations[.text][1].r_sym", h))
    assert findings(path) == [("no-site", ".text", 6, "g")]


@pytest.mark.parametrize("offset", [18, 1 << 20, -1])
def test_an_entry_outside_of_its_section(tmp_path: Path, offset: int) -> None:
    path = functions(*entries(0, 6, 12, offset)).write(tmp_path / "x.o")
    assert [each[:3] for each in findings(path)] == [("not-code", ".text", offset)]


@pytest.mark.parametrize(
    ("name", "flags"), [(".data", SHF_ALLOC), (".discard.text", 4)], ids=["data", "not loaded"]
)
def test_an_entry_in_a_section_that_is_no_loaded_code(
    tmp_path: Path, name: str, flags: int
) -> None:
    more = [Section(name, flags=flags, data=bytes(8))]
    path = functions(*entries(0, 6, 12), (name, 4), more=more).write(tmp_path / "x.o")
    assert findings(path) == [("not-code", name, 4, None)]


def test_an_entry_of_code_that_a_kernel_discards(tmp_path: Path) -> None:
    elf = functions(*entries(0, 6, 12, section=".exit.text"), section=".exit.text")
    path = elf.write(tmp_path / "x.o")
    assert findings(path) == [("untraced-section", ".exit.text", at, f) for at, f in (
        (0, "f"), (6, "g"), (12, "h"))]  # fmt: skip
    assert findings(path, "--all-sections") == []


def test_a_call_that_was_left_where_none_may_be(tmp_path: Path) -> None:
    more = [text(".exit.text")]
    path = functions(*entries(0, 6, 12), more=more).write(tmp_path / "x.o")
    assert findings(path) == [("call-left", ".exit.text", 0, None)]


def test_a_word_that_no_relocation_makes_an_address(tmp_path: Path) -> None:
    path = functions(*entries(0, 6, 12), rest=b"\x10" + bytes(7)).write(tmp_path / "x.o")
    assert findings(path) == [("not-relocated", None, None, None)]


def test_a_relocation_that_makes_no_entry(tmp_path: Path) -> None:
    elf = functions(*entries(0, 6, 12))
    path = tmp_path / "x.o"
    path.write_bytes(elf.patch("relocations[__mcount_loc][1].r_type", R_PLT32))
    assert findings(path) == [
        ("not-relocated", None, None, None), ("missing-entry", ".text", 6, "g"),
    ]  # fmt: skip


def test_a_table_that_ends_inside_of_an_entry(tmp_path: Path) -> None:
    path = functions(*entries(0, 6, 12), rest=b"\0\0\0").write(tmp_path / "x.o")
    assert findings(path) == [("table-size", "__mcount_loc", 27, None)]


def test_calls_without_any_table_are_one_finding(tmp_path: Path) -> None:
    path = caller(".text", ".text.f").write(tmp_path / "x.o")
    assert findings(path) == [("no-table", ".text", 0, "in.text")]


def test_code_that_no_symbol_names_where_local_functions_have_one(tmp_path: Path) -> None:
    symbols = [
        section_symbol(".text"), Symbol("f", ".text", 0, 6, type=STT_FUNC, bind=STB_LOCAL),
        Symbol("h", ".text", 12, 6, type=STT_FUNC), Symbol("__fentry__"),
    ]  # fmt: skip
    made = build(X86_64, [text(".text", 3), table(entries(0, 6, 12))], symbols)
    path = made.write(tmp_path / "x.o")
    assert findings(path) == [("overridden-function", ".text", 6, None)]


def test_where_local_symbols_were_stripped_nothing_tells_what_lost_its_name(tmp_path: Path) -> None:
    symbols = [section_symbol(".text"), Symbol("h", ".text", 12, 6, type=STT_FUNC),
               Symbol("__fentry__")]  # fmt: skip
    made = build(X86_64, [text(".text", 3), table(entries(0, 6, 12))], symbols)
    assert findings(made.write(tmp_path / "x.o")) == []


def test_a_table_outside_of_the_group_of_its_code(tmp_path: Path) -> None:
    made = build(
        X86_64, [text(".text.f"), table([(".text.f", 0)])],
        [section_symbol(".text.f"), Symbol("f", ".text.f", type=STT_FUNC), Symbol("__fentry__")],
        [Group("f", [".text.f"])],
    )  # fmt: skip
    path = made.write(tmp_path / "x.o")
    assert findings(path) == [("group", ".text.f", 0, "f")]
    bare = shutil.copy(path, tmp_path / "bare.o")
    images.tool("objcopy", "-R", "__mcount_loc", bare)
    assert not record_file(Path(bare)).failed
    assert findings(Path(bare)) == []


def test_several_things_are_each_told(tmp_path: Path) -> None:
    path = functions(*entries(1, 12, 12)).write(tmp_path / "x.o")
    assert sorted(findings(path)) == [
        ("entry-off", ".text", 1, "f"), ("missing-entry", ".text", 6, "g"),
        ("repeated-entry", ".text", 12, "h"),
    ]  # fmt: skip


# --- linked files ---------------------------------------------------------------------------------


def test_a_linked_program_is_clean_and_stays_so_when_it_is_switched(tmp_path: Path) -> None:
    path = linked(tmp_path)
    told = f"{path}: clean: 4 sites, 4 entries\n"
    assert call("recordmcount", "verify", path) == (0, told, "")
    assert call("patcher", "nop", "-q", path).status == 0
    assert call("recordmcount", "verify", path) == (0, told, "")


def test_one_word_of_a_linked_table_changed_is_the_one_finding(tmp_path: Path) -> None:
    path = linked(tmp_path)
    _, (a, b, c, d) = words(path)
    names = {
        address: function for _, _, address, function in findings(with_words(path, 0, 0, 0, 0))
    }
    assert set(names) == {a, b, c, d}
    assert set(names.values()) == images.WORK_FUNCTIONS
    for new, expected in (
        ((a, b + 1, c, d), [("entry-off", ".text", b + 1, names[b])]),
        ((a, b - 1, c, d), [("entry-off", ".text", b - 1, names[b])]),
        ((a, 0, c, d), [("missing-entry", ".text", b, names[b])]),
        (
            (a, b, b, d),
            [("missing-entry", ".text", c, names[c]), ("repeated-entry", ".text", b, names[b])],
        ),
        (
            (a, 8, c, d),
            [("not-code", None, 8, None), ("missing-entry", ".text", b, names[b])],
        ),
        ((d, c, b, a), []),
        ((a, b, c, d), []),
    ):
        assert findings(with_words(path, *new)) == expected


def test_a_site_that_is_off_and_has_no_entry(tmp_path: Path) -> None:
    path = linked(tmp_path)
    _, (a, b, c, d) = words(path)
    (name,) = {function for _, _, vaddr, function in findings(with_words(path, a, 0, c, d))}
    assert call("patcher", "nop", "-q", with_words(path, a, b, c, d)).status == 0
    assert findings(with_words(path, a, 0, c, d)) == [("missing-entry", ".text", b, name)]
    # The same bytes inside of an instruction are none.
    offset, start, _ = images.section(path, ".text")
    content = path.read_bytes()
    nop = content[offset + a - start :][:5]
    images.write(path, offset + b - start, b"\x48\xb8" + nop)  # movabs
    assert findings(path) == []


def test_a_site_of_a_linked_file_that_was_overwritten(tmp_path: Path) -> None:
    path = linked(tmp_path)
    _, (_, vaddr, *_) = words(path)
    offset, start, _ = images.section(path, ".text")
    images.write(path, offset + vaddr - start, b"\x90" * 5)
    assert [each[:3] for each in findings(path)] == [("no-site", ".text", vaddr)]


def test_entries_of_a_pie_that_the_loader_would_not_relocate(tmp_path: Path) -> None:
    built = images.build(tmp_path, flags=("-fpie",), link=("-pie",), own_counter=True)
    assert findings(built.program) == []
    offset, _, _ = images.section(built.program, ".rela.dyn")
    content = built.program.read_bytes()
    _, start, _ = images.section(built.program, "__mcount_loc")
    at = content.index(start.to_bytes(8, "little"), offset)
    images.write(built.program, at, bytes(24))  # R_X86_64_NONE
    assert [each[0] for each in findings(built.program)] == ["not-relocated", "missing-entry"]
    table_at, _, _ = images.section(built.program, "__mcount_loc")
    images.write(built.program, table_at, bytes(8))
    assert [each[0] for each in findings(built.program)] == ["missing-entry"]


def test_a_program_with_calls_and_without_table(tmp_path: Path) -> None:
    path = linked(tmp_path)
    images.tool("objcopy", "-R", "__mcount_loc", path)
    (found,) = findings(path)
    assert found[0] == "no-table"
    assert found[3] in images.WORK_FUNCTIONS
    assert call("recordmcount", "--image", path).status == 0
    assert findings(path) == []


def test_of_a_static_program_without_symbols_nothing_is_claimed(tmp_path: Path) -> None:
    path = linked(tmp_path, "-static")
    assert findings(path) == []
    images.tool("strip", path)
    told = "0 sites, 4 entries, 4 unproven: nothing tells what is called there"
    assert call("recordmcount", "verify", path) == (0, f"{path}: clean: {told}\n", "")


def test_an_overridden_weak_function_is_found_and_the_advice_helps(tmp_path: Path) -> None:
    weak = "__attribute__((weak)) int f(int x) { return x; } int main(void) { return f(0); }"
    strong = "int f(int x) { return x + 1; } static __attribute__((used)) int own(void) {return 0;}"
    flags = ("-O1", "-pg", "-mfentry", "-fno-pic", "-ffunction-sections")
    objects = [
        images.compile_object(tmp_path, name, source, "gcc", *flags)
        for name, source in (("weak", weak), ("strong", strong))
    ]
    counter = images.compile_object(tmp_path, "counter", images.COUNTER, "gcc", "-fno-pic")
    program = tmp_path / "program"

    def link(*options: str) -> list[str]:
        images.tool("gcc", "-no-pie", *options, "-o", program, *objects, counter)
        return [each[0] for each in findings(program)]

    bare = [Path(shutil.copy(path, path.with_suffix(".bare.o"))) for path in objects]
    assert call("recordmcount", *objects) == (0, "", "")
    assert link() == ["overridden-function"]
    for path, old in zip(objects, bare, strict=True):
        shutil.copy(old, path)
    assert call("recordmcount", "--gc-sections", *objects) == (0, "", "")
    assert link("-Wl,--gc-sections", "-Wl,-z,start-stop-gc") == []


# --- whatever is changed --------------------------------------------------------------------------


def looked_at(path: Path) -> tuple[set[str], bool]:
    """(rules of the findings, whether it can be read), without a process."""
    told = list(examine(str(path)))
    files = [each for each in told if not isinstance(each, Error)]
    return {finding["rule"] for file in files for finding in file["findings"]}, bool(files)


def flipped(data: bytes, places: range) -> Iterator[bytes]:
    for at in places:
        for bits in (0x01, 0x40, 0xFF):
            yield data[:at] + bytes((data[at] ^ bits,)) + data[at + 1 :]


@TARGETS
def test_any_byte_of_a_tables_relocations_changed_is_found_or_names_the_same_places(
    tmp_path: Path, target: Target
) -> None:
    elf, path = functions(*entries(0, 6, 12), target=target), tmp_path / "x.o"
    path.write_bytes(elf.data)
    places = sorted(table_entries(path))
    name = ".rela__mcount_loc" if target.rela else ".rel__mcount_loc"
    start, size = (elf.value(f"sections[{name}].{it}") for it in ("sh_offset", "sh_size"))
    for changed in flipped(elf.data, range(start, start + size)):
        path.write_bytes(changed)
        rules, is_read = looked_at(path)
        if is_read and not rules:
            assert sorted(table_entries(path)) == places


def test_any_byte_of_a_linked_table_or_of_its_sites_changed_is_found(tmp_path: Path) -> None:
    path = linked(tmp_path)
    data = path.read_bytes()
    offset, vaddrs = words(path)
    text_at, start, _ = images.section(path, ".text")
    places = [range(offset, offset + 8 * len(vaddrs))]
    places += [range(text_at + vaddr - start, text_at + vaddr - start + 5) for vaddr in vaddrs]
    for place in places:
        for changed in flipped(data, place):
            path.write_bytes(changed)
            assert looked_at(path)[0]


def test_whatever_is_damaged_there_is_an_answer(tmp_path: Path) -> None:
    chance = random.Random(1)
    path = tmp_path / "x"
    for made in (functions(*entries(0, 6, 12)).data, linked(tmp_path).read_bytes()):
        for _ in range(300):
            data = bytearray(made)
            for _ in range(chance.choice((1, 2, 8))):
                size = len(data)
                near = chance.choice((range(64), range(max(0, size - 2000), size), range(size)))
                data[chance.choice(near)] = chance.choice((0, 1, 0x7F, 0xFF))
            path.write_bytes(data)
            assert list(examine(str(path)))


# --- archives, folders, files that cannot be read -------------------------------------------------


def test_members_of_archives_are_told_apart(tmp_path: Path) -> None:
    recorded(tmp_path / "good.o", caller())
    functions(*entries(0, 6)).write(tmp_path / "bad.o")
    for options, name in (("rcs", "x.a"), ("rcsT", "thin.a")):
        building.run("ar", options, name, "good.o", "bad.o", cwd=tmp_path)
    fat, thin = verify(tmp_path / "x.a")["files"], verify(tmp_path / "thin.a")["files"]
    for files in (fat, thin):
        assert [len(file["findings"]) for file in files] == [0, 1]
    archive = str(tmp_path / "x.a")
    assert [(file["path"], file["file"]) for file in fat] == [
        (f"{archive}(good.o)", archive), (f"{archive}(bad.o)", archive),
    ]  # fmt: skip
    assert [file["file"] for file in thin] == [str(tmp_path / "good.o"), str(tmp_path / "bad.o")]


def test_of_folders_what_is_wrong_is_told_and_the_rest_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.o", "b.o"):
        recorded(tmp_path / "in" / name, caller())
    (tmp_path / "in" / "note.txt").write_text("nothing")
    told = "total: 2 files: 2 clean; 2 sites, 2 entries; 1 of other sorts skipped\n"
    assert call("recordmcount", "verify", tmp_path / "in") == (0, told, "")
    functions(*entries(0, 12)).write(tmp_path / "in" / "b.o")
    status, stdout, stderr = call("recordmcount", "verify", tmp_path / "in")
    assert (status, stderr) == (1, "")
    first, *_, last = stdout.splitlines()
    assert first == f"{tmp_path}/in/b.o: 1 finding; 3 sites, 2 entries"
    assert (
        last
        == "total: 2 files: 1 with findings, 1 clean; 4 sites, 3 entries; 1 of other sorts skipped"
    )
    assert ".text+0x6  g  no entry names it" in stdout


def test_a_file_that_cannot_be_read_is_exit_status_1_and_the_others_are_verified(
    tmp_path: Path,
) -> None:
    path, broken = recorded(tmp_path / "x.o", caller()), tmp_path / "broken.o"
    broken.write_bytes(path.read_bytes()[:100])
    told = verify(tmp_path / "gone.o", broken, path)
    assert [error["path"] for error in told["errors"]] == [
        str(tmp_path / "gone.o"), str(broken),
    ]  # fmt: skip
    assert len(told["files"]) == 1
    status, _, stderr = call("recordmcount", "verify", tmp_path / "gone.o", path)
    assert (status, stderr) == (1, f"{tmp_path}/gone.o: No such file or directory\n")


@pytest.mark.parametrize(
    "words", [[], ["--format", "xml", "x.o"], ["--json", "--format", "sarif", "x"]]
)
def test_words_that_make_no_sense_are_usage(words: list[str]) -> None:
    assert call("recordmcount", "verify", *words).status == 2
