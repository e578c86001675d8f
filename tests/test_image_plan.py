"""What `recordmcount --image` says and refuses, and what it does to the file: as for objects."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from recordmcount.asked import Options
from recordmcount.record import dynamic, image_plan, program_headers
from recordmcount.record.file import record
from tests.support import command, images
from tests.support.command import ROOT
from tests.support.patching import patch
from tests.support.post_link import START, STOP, calls, dynamic_tags, is_loaded, post_link, table

LATE = (ROOT / "fixtures" / "late_table.c").read_text()


def link(folder: Path, *flags: str, source: str = "", pic: str = "-fPIC") -> Path:
    """Link WORK, MAIN, its own counter and a `source`; a library with -shared."""
    machine = [flag for flag in flags if flag == "-m32"]
    objects = [
        images.compile_object(folder, name, text, "gcc", *profiled, "-O0", pic, *machine)
        for name, text, profiled in (
            ("work", images.WORK, ["-pg"]), ("main", images.MAIN, []),
            ("counter", images.COUNTER, []), ("more", source or LATE, []),
        )
    ]  # fmt: skip
    path = folder / "program"
    images.tool("gcc", *flags, "-o", path, *objects)
    return path


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return link(tmp_path, "-pie")


def run(path: Path, *options: str) -> command.Finished:
    return command.call("recordmcount", "--image", *options, path)


def refused(path: Path, *options: str) -> str:
    """Record an image, which must fail in one line and leave it as it was; that line."""
    old = path.read_bytes()
    done = run(path, *options)
    assert (done.status, done.stdout) == (1, "")
    line, failed = done.stderr.splitlines()
    assert failed == f"{path}: failed"
    assert path.read_bytes() == old
    return line.removeprefix(f"{path}: ")


# --- what is written ------------------------------------------------------------------------------


def test_without_lief_nothing_is_written(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, sites = program.read_bytes(), calls(program)
    monkeypatch.setitem(sys.modules, "lief", None)
    result = post_link(program, sites)
    assert result.failed
    why, failed = result.err
    assert why.startswith(f"{program}: import of lief ")
    assert failed == f"{program}: failed"
    assert program.read_bytes() == old


@pytest.mark.parametrize("alloc", [(), ("--alloc",)], ids=["for-tools", "alloc"])
def test_a_second_time_nothing_is_done(program: Path, alloc: tuple[str, ...]) -> None:
    assert run(program, *alloc) == (0, "", "")
    once = program.read_bytes()
    done = run(program, *alloc)
    assert done == (0, "", f"warning: __mcount_loc already exists: {program}\n")
    assert program.read_bytes() == once


def test_a_file_of_its_own_by_output(program: Path, tmp_path: Path) -> None:
    old, out = program.read_bytes(), tmp_path / "out"
    assert run(program, "-o", str(out)) == (0, "", "")
    assert program.read_bytes() == old
    assert table(out) == calls(program)
    assert out.stat().st_mode == program.stat().st_mode


def test_a_dry_run_is_the_plan_printed(program: Path) -> None:
    old, sites = program.read_bytes(), calls(program)
    done = run(program, "-n", "--alloc", "--stats")
    *entries, counts, how = done.stdout.splitlines()
    assert done.status == 0
    assert entries == [f"{program}: {site:#x} -> entry" for site in sites]
    assert counts.startswith(f"{program}: table loaded at 0x")
    assert how == f"{program}: {len(sites)} recorded, 0 made NOPs, 0 other references"
    assert program.read_bytes() == old


def test_a_program_that_runs_goes_on_with_the_old_file(program: Path) -> None:
    inode = program.stat().st_ino
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert run(program) == (0, "", "")
        said, _ = running.communicate(b"3", timeout=20)
    assert said.startswith(b"work 6\n")
    assert program.stat().st_ino != inode
    assert stat.S_IMODE(program.stat().st_mode) & 0o111


def test_other_names_of_the_file_keep_the_old_one(program: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.hardlink_to(program)
    old = other.read_bytes()
    assert run(program) == (0, "", "")
    assert other.read_bytes() == old != program.read_bytes()


def test_the_program_header_of_notes_that_stand_twice_gives_its_slot(program: Path) -> None:
    before, sites = headers(program), calls(program)
    assert before.count("PT_NOTE") == 2
    assert "PT_GNU_PROPERTY" in before
    assert run(program, "--alloc") == (0, "", "")
    after = headers(program)
    assert after.count("PT_NOTE") == 1
    assert after.count("PT_LOAD") == before.count("PT_LOAD") + 1
    assert len(after) == len(before)
    assert entries_seen_by(program) == sites


def headers(path: Path) -> list[str]:
    with path.open("rb") as stream:
        return [str(segment["p_type"]) for segment in ELFFile(stream).iter_segments()]


def entries_seen_by(path: Path) -> list[int]:
    """What the program prints of its table."""
    done = subprocess.run([path], check=True, input="3", capture_output=True, text=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    return [int(value, 16) + base(path) for what, value in rows if what == "entry"]


def base(path: Path) -> int:
    """The link-time virtual address of the ELF header."""
    with path.open("rb") as stream:
        loaded = [one for one in ELFFile(stream).iter_segments() if one["p_type"] == "PT_LOAD"]
        return int(loaded[0]["p_vaddr"])


def test_headers_that_move_keep_their_distance_from_those_that_stay(tmp_path: Path) -> None:
    """Kernels before 5.18 add e_phoff to where file offset 0 is in memory: AT_PHDR."""
    path = link(tmp_path, "-m32", "-pie")
    old = path.read_bytes()
    assert "its program headers had to move" in run(path, "--alloc").stderr
    with path.open("rb") as stream:
        file = ELFFile(stream)
        assert file["e_phoff"] > len(old)
        loaded = [one for one in file.iter_segments() if one["p_type"] == "PT_LOAD"]
        (phdr,) = (one for one in file.iter_segments() if one["p_type"] == "PT_PHDR")
        at_phdr = loaded[0]["p_vaddr"] - loaded[0]["p_offset"] + file["e_phoff"]
        assert phdr["p_vaddr"] == at_phdr
        assert loaded[-1]["p_vaddr"] <= at_phdr < loaded[-1]["p_vaddr"] + loaded[-1]["p_memsz"]
    assert entries_seen_by(path) == calls(path)


def test_the_bounds_take_the_place_of_symbols_that_nobody_defined(program: Path) -> None:
    before = bounds(program)
    assert {name: shndx for name, (_, shndx) in before.items()} == {
        START: "SHN_UNDEF", STOP: "SHN_UNDEF",
    }  # fmt: skip
    assert run(program, "--alloc") == (0, "", "")
    after = bounds(program)
    assert after[STOP][0] - after[START][0] == 8 * len(calls(program))


def bounds(path: Path) -> dict[str, tuple[int, object]]:
    """(st_value, st_shndx) of the bounds' symbols."""
    with path.open("rb") as stream:
        symbols = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(symbols, SymbolTableSection)
        found = [one for one in symbols.iter_symbols() if one.name in (START, STOP)]
        assert len(found) == 2
        return {one.name: (one["st_value"], one["st_shndx"]) for one in found}


def test_new_relocations_are_counted(program: Path) -> None:
    before = dynamic_tags(program)
    assert run(program, "--alloc") == (0, "", "")
    after = dynamic_tags(program)
    count = len(calls(program))
    assert after["DT_RELACOUNT"] == before["DT_RELACOUNT"] + count
    assert after["DT_RELASZ"] == before["DT_RELASZ"] + 24 * count
    assert {tag for tag in before if before[tag] != after[tag]} == {
        "DT_RELA", "DT_RELASZ", "DT_RELACOUNT",
    }  # fmt: skip


def test_a_table_that_is_not_loaded_is_switched_at_once(program: Path) -> None:
    sites = calls(program)
    assert run(program) == (0, "", "")
    assert not is_loaded(program)
    recorded = program.read_bytes()
    assert patch("nop", program).startswith(f"{program}: {len(sites)} sites turned to nop")
    assert patch("call", program).startswith(f"{program}: {len(sites)} sites turned to call")
    assert program.read_bytes() == recorded


# --- what is refused ------------------------------------------------------------------------------


def test_an_object_is_recorded_before_its_link(tmp_path: Path) -> None:
    path = images.compile_object(tmp_path, "work", images.WORK, "gcc", "-pg")
    assert refused(path) == "an object: record it without --image, and link it then"


def test_an_archive_is_no_image(tmp_path: Path) -> None:
    path = images.compile_object(tmp_path, "work", images.WORK, "gcc", "-pg")
    archive = tmp_path / "library.a"
    subprocess.run(["ar", "rc", archive, path], check=True)
    assert refused(archive) == "an archive of objects, not a linked image"


def test_without_image_a_program_is_still_refused(program: Path) -> None:
    done = command.call("recordmcount", program)
    first, advice, last = done.stderr.splitlines()
    assert (done.status, first, last) == (
        1, f"unrecognized ET_REL file {program}", f"{program}: failed",
    )  # fmt: skip
    assert "recordmcount --image" in advice


def test_alloc_alone_means_nothing(program: Path) -> None:
    done = command.call("recordmcount", "--alloc", program)
    assert (done.status, done.stdout) == (2, "")
    assert "--alloc is for --image" in done.stderr


@pytest.mark.parametrize("option", ["--gc-sections", "--pic", "--kernel", "--all-sections"])
def test_what_only_a_linker_can_do_is_for_objects(program: Path, option: str) -> None:
    done = run(program, option)
    assert (done.status, done.stdout) == (2, "")
    assert "--gc-sections, --pic, --kernel and --all-sections are for objects" in done.stderr


def test_where_nothing_names_mcount_nothing_is_guessed(tmp_path: Path) -> None:
    path = link(tmp_path, "-static", pic="-fno-pic")
    subprocess.run(["strip", path], check=True)
    old = path.read_bytes()
    done = run(path)
    assert (done.status, done.stdout) == (0, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{path}: warning: nothing tells which calls are of mcount: ")
    assert path.read_bytes() == old


def test_what_stands_behind_an_image_must_stay_at_the_end(program: Path) -> None:
    """Self-extracting archives, and programs with a zip file behind them."""
    with program.open("ab") as stream:
        stream.write(b"PK\5\6")
    assert refused(program) == "4 bytes stand behind the image, and must stay at the end"


def test_a_program_with_bounds_of_its_own_has_no_others(tmp_path: Path) -> None:
    path = link(tmp_path, "-pie", source=f"char {START}[8] = {{1}}, {STOP}[8] = {{1}};")
    assert refused(path, "--alloc") == f"{START} is defined, but there is no table"
    assert run(path) == (0, "", "")


def test_headers_do_not_move_behind_a_hole_that_is_larger_than_any_table(tmp_path: Path) -> None:
    """Kernels before 5.18 want them where the file's offset says, so memory must be in the file."""
    path = link(tmp_path, "-m32", "-pie", source="char large[100 << 20];")
    line = refused(path, "--alloc")
    assert line.startswith("no room for a program header, and they cannot be moved: it needs 0x")
    assert run(path) == (0, "", "")


def test_no_section_headers_no_table_by_name(program: Path) -> None:
    content = bytearray(program.read_bytes())
    content[0x28:0x30] = bytes(8)  # e_shoff
    content[0x3C:0x40] = bytes(4)  # e_shnum, e_shstrndx
    program.write_bytes(content)
    assert refused(program) == "there are no section headers, by which a table is found"


def test_a_program_without_calls_stays_as_it_is(tmp_path: Path) -> None:
    main = images.compile_object(tmp_path, "main", images.MAIN + "int work(int x) { return x; }",
                                 "gcc")  # fmt: skip
    path = tmp_path / "program"
    images.tool("gcc", "-o", path, main)
    old = path.read_bytes()
    done = run(path)
    assert done == (0, "", f"{path}: warning: no call of mcount was found\n")
    assert run(path, "-q") == (0, "", "")
    assert path.read_bytes() == old


def test_one_that_fails_stops_no_other(program: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no ELF")
    done = command.call("recordmcount", "--image", text, program)
    assert done.status == 1
    assert done.stderr.splitlines()[-1] == f"{text}: failed"
    assert len(table(program)) == len(images.WORK_FUNCTIONS)


# --- read back before it is written ---------------------------------------------------------------


add = program_headers.ProgramHeaders.add


def shifted(headers: program_headers.ProgramHeaders, size: int, flags: int) -> tuple[int, bytes]:
    """Add a segment, but load it from a page behind."""
    headers.start += 0x1000
    result = add(headers, size, flags)
    headers.start -= 0x1000
    return result


@pytest.mark.parametrize("wrong", ["entries", "address", "bounds", "relocations"])
def test_what_reads_back_otherwise_is_not_written(
    program: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Faults of our own, one of each kind, are seen by lief."""
    if wrong == "entries":
        monkeypatch.setattr(image_plan, "pack", lambda *_: bytes(32))
    elif wrong == "address":
        monkeypatch.setattr(program_headers.ProgramHeaders, "add", shifted)
    elif wrong == "bounds":
        monkeypatch.setattr(image_plan, "STOP", b"__stop_something")
    else:
        monkeypatch.setattr(dynamic.NewRelocations, "_relative", lambda *_: b"")
    old = program.read_bytes()
    result = record(str(program), Options(image=True, alloc=True))
    assert result.failed
    assert result.err[0].startswith(f"{program}: not written, for read back by lief ")
    assert program.read_bytes() == old


def test_every_byte_of_the_headers_may_be_wrong(program: Path) -> None:
    """One line, or a table that lief reads as it was meant; nothing else is raised."""
    sites, good = calls(program), program.read_bytes()
    dynamic, _, size = images.section(program, ".dynamic")
    places = [*range(4, 64), *range(64, 64 + 56 * 13, 3), *range(dynamic, dynamic + size, 5)]
    for place in places:
        for value in (0, 0x7F, 0xFF):
            content = bytearray(good)
            content[place] = value
            program.write_bytes(content)
            result = post_link(program, sites, alloc=True, dry_run=True)
            if result.failed:
                assert len(result.err) == 2
                assert "\n" not in result.err[0]
    os.truncate(program, len(good) // 2)
    assert post_link(program, sites, alloc=True).failed
