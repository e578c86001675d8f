"""`patcher nop|call|status FILE...` as its user sees it."""

import os
import random
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from patcher import cli, switch
from patcher.errors import WriteError
from patcher.memory.elffile import ElfFile
from recordmcount.image import State
from tests import command, images
from tests.images import CALLS, Built, build, calls


class Row(NamedTuple):
    """A way to build an image, and the bytes a site in it begins with as call and as NOP."""

    name: str
    call: str
    nop: str
    compiler: str = "gcc"
    linker: str = "bfd"
    flags: str = "-mfentry -fno-pic"
    record: str = ""
    link: str = "-no-pie"
    own_counter: bool = False


PIE = "-mfentry -fpie"
PIC = "-mfentry -fPIC"
CLANG_PIC = {"compiler": "clang", "record": "--pic", "call": "e8", "nop": "0f1f4400"}
LINKERS = ("bfd", "gold", "lld", "mold")
ROWS = [
    *(Row(f"{one}-exe", "e8", "0f1f440001", linker=one) for one in LINKERS),
    *(Row(f"{one}-exe-mcount", "e8", "0f1f440001", linker=one, flags="-fno-pic")
      for one in LINKERS),
    *(Row(f"{one}-pie", "ff15", "660f1f440001", linker=one, flags=PIE, link="-pie")
      for one in LINKERS),
    *(Row(f"{one}-shared", "ff15", "660f1f440001", linker=one, flags=PIC, link="-shared")
      for one in LINKERS),
    *(Row(f"{one}-clang-pie", linker=one, flags=PIE, link="-pie", **CLANG_PIC)  # type: ignore[arg-type]
      for one in LINKERS),
    *(Row(f"{one}-clang-shared", linker=one, flags="-fPIC", link="-shared", **CLANG_PIC)  # type: ignore[arg-type]
      for one in LINKERS),
    # A counter in the image itself: a direct call. It has both functions, the NOP tells which.
    *(Row(f"{one}-direct", "e8", "0f1f440012", linker=one, own_counter=True) for one in LINKERS),
    *(Row(f"{one}-static", "e8", "0f1f440002", linker=one, flags="-fno-pic",
          link="-static -no-pie", own_counter=True) for one in LINKERS),
    *(Row(f"{one}-relaxed", "67e8", "660f1f444012", linker=one, flags=PIE, link="-pie",
          own_counter=True) for one in ("bfd", "gold", "lld")),
    Row("mold-relaxed", "90e8", "660f1f448012", linker="mold", flags=PIE, link="-pie",
        own_counter=True),
    *(Row(f"{one}-static-pie", code, nop, linker=one, flags=PIE, link="-static-pie",
          own_counter=True)
      for one, code, nop in [("bfd", "67e8", "660f1f444012"), ("mold", "90e8", "660f1f448012")]),
    Row("bfd-prefix-nop", "90e8", "660f1f448012", flags=PIE, own_counter=True,
        link="-pie -Wl,-z,call-nop=prefix-0x90"),
    Row("bfd-suffix-nop", "e8", "0f1f440012", flags=PIE, own_counter=True,
        link="-pie -Wl,-z,call-nop=suffix-nop"),
    Row("bfd-unrelaxed", "ff15", "660f1f440001", flags=PIE, own_counter=True,
        link="-pie -Wl,--no-relax"),
    Row("bfd-unrelaxed-static", "ff15", "660f1f440001", flags=PIE, own_counter=True,
        link="-static -Wl,--no-relax"),
    *(Row(f"{one}-ibt", "e8", "0f1f440001", linker=one, flags="-mfentry -fno-pic -fcf-protection",
          link="-no-pie -Wl,-z,ibtplt") for one in ("bfd", "mold")),
    Row("bfd-now", "e8", "0f1f440001", link="-no-pie -Wl,-z,now"),
    Row("bfd-relr", "ff15", "660f1f440001", flags=PIE,
        link="-pie -Wl,-z,pack-relative-relocs"),
    *(Row(f"{one}-large", "49ba", "666666662e0f1f8400010200", linker=one,
          flags="-mfentry -fno-pic -mcmodel=large") for one in LINKERS),
    *(Row(f"{one}-i386", "e8", "0f1f440001", linker=one, flags=f"-m32 {flags}",
          link="-m32 -no-pie")
      for one, flags in zip(LINKERS, ("-mfentry -fno-pic", "-fno-pic") * 2, strict=True)),
    # Linkers differ in what %ebx is to them: .got.plt (the first of two) or, in mold, .got.
    *(Row(f"{one}-i386-{link}", "ff93", nop, linker=one, flags=f"-m32 {flags}",
          link=f"-m32 -{link}")
      for one, nop in zip(LINKERS, ("660f1f44c302",) * 3 + ("660f1f44c312",), strict=True)
      for link, flags in (("pie", "-fpie"), ("shared", "-fPIC"))),
    *(Row(f"{one}-i386-own-slot", "ff93", nop, linker=one, flags="-m32 -fpie",
          link="-m32 -pie", own_counter=True)
      for one, nop in zip(LINKERS[1:], ("660f1f44c302",) * 2 + ("660f1f44c312",), strict=True)),
    Row("bfd-i386-relaxed", "67e8", "660f1f444002", flags="-m32 -fpie", link="-m32 -pie",
        own_counter=True),
    Row("bfd-i386-prefix-nop", "90e8", "660f1f448002", flags="-m32 -fpie", own_counter=True,
        link="-m32 -pie -Wl,-z,call-nop=prefix-0x90"),
    *(Row(f"{one}-i386-static", "e8", "0f1f440002", linker=one, flags="-m32 -fno-pic",
          link="-m32 -static -no-pie", own_counter=True) for one in LINKERS),
    Row("clang-large", "48b8", "6666662e0f1f840001000000", compiler="clang",
        flags="-fno-pic -mcmodel=large"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_sites_are_turned_off_and_back_and_the_program_proves_it(row: Row, tmp_path: Path) -> None:
    built = build(
        tmp_path,
        compiler=row.compiler,
        linker=row.linker,
        flags=row.flags.split(),
        record=row.record.split(),
        link=row.link.split(),
        own_counter=row.own_counter,
    )
    original = built.image.read_bytes()
    assert calls(built) == CALLS
    assert status(built.image) == "4 sites: 4 call, 0 nop, 0 foreign"

    plan = [line.replace(" ", "") for line in patch("nop", "-n", built.image).splitlines()]
    assert len(plan) == 4
    for line in plan:
        assert re.search(rf"\):{row.call}\w*->{row.nop}\w*$", line)
    assert patch("nop", built.image) == f"{built.image}: 4 sites turned to nop, 0 already\n"
    assert calls(built) == 0
    assert status(built.image) == "4 sites: 0 call, 4 nop, 0 foreign"

    assert patch("call", built.image) == f"{built.image}: 4 sites turned to call, 0 already\n"
    assert built.image.read_bytes() == original


def patch(*arguments: str | Path) -> str:
    """Run `patcher`, which must succeed; what it printed."""
    done = command.run("patcher", *arguments)
    assert (done.status, done.stderr) == (0, "")
    return done.stdout


def refused(*arguments: str | Path) -> str:
    """Run `patcher`, which must fail for every file and print nothing; its one line for each."""
    done = command.run("patcher", *arguments)
    assert (done.status, done.stdout) == (1, "")
    return done.stderr


def status(image: Path) -> str:
    """The one line of `patcher status` for an image without foreign sites."""
    (line,) = patch("status", image).splitlines()
    return line.removeprefix(f"{image}: ")


# --- which sites ----------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return build(tmp_path, flags=["-mfentry", "-fno-pic"])


def test_only_functions_that_match_a_glob_are_switched(built: Built) -> None:
    patch("nop", "--functions", "[eo]*", built.image)
    assert calls(built) == 2  # work and twice
    patch("nop", "--functions", "twi?e", "--functions", "work", built.image)
    assert calls(built) == 0
    patch("call", "--functions", "odd", built.image)
    assert calls(built) == 2
    assert status(built.image) == "4 sites: 1 call, 3 nop, 0 foreign"


def test_status_counts_the_selected_functions_only(built: Built) -> None:
    assert patch("status", "--functions", "odd", built.image) == (
        f"{built.image}: 1 site: 1 call, 0 nop, 0 foreign\n"
    )


@pytest.mark.parametrize("more", [[], ["--functions", "odd"]], ids=str)
@pytest.mark.parametrize("verb", ["nop", "status"])
def test_a_glob_that_matches_nothing_is_an_error(built: Built, verb: str, more: list[str]) -> None:
    original = built.image.read_bytes()
    assert refused(verb, "--functions", "main", *more, "--functions", "x*", built.image) == (
        f"{built.image}: no site in a function like main or x*\n"
    )
    assert built.image.read_bytes() == original


@pytest.mark.parametrize("name", ["odd", "alias", "weak"])
def test_a_function_is_found_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    aliases = """
        static int alias(unsigned int n) __attribute__((alias("odd"), used));
        int weak(unsigned int n) __attribute__((alias("odd"), weak));
    """
    built = build(tmp_path, flags=["-mfentry", "-fno-pic"], work=images.WORK + aliases)
    patch("nop", "--functions", name, built.image)
    assert calls(built) == CALLS - 2


def test_calls_of_mcount_and_of_fentry_in_one_image_each_come_back(tmp_path: Path) -> None:
    other = "int other(int x) { return x; }"
    images.compile_object(tmp_path, "other", other, "gcc", "-O0", "-pg", "-fno-pic")
    assert command.run("recordmcount", tmp_path / "other.o").status == 0
    built = build(
        tmp_path, flags=["-mfentry", "-fno-pic"], link=["-no-pie", str(tmp_path / "other.o")]
    )
    original = built.image.read_bytes()
    patch("nop", built.image)
    assert status(built.image) == "5 sites: 0 call, 5 nop, 0 foreign"
    patch("call", built.image)
    assert built.image.read_bytes() == original


def test_another_name_of_mcount_must_be_said(tmp_path: Path) -> None:
    counter = "#define __fentry__ hook\n" + images.COUNTER
    images.compile_object(tmp_path, "hook", counter, "gcc", "-fno-pic")
    built = build(
        tmp_path,
        flags=["-mfentry", "-mfentry-name=hook", "-fno-pic"],
        record=["--symbol", "hook"],
        link=["-no-pie", str(tmp_path / "hook.o")],
    )
    original = built.image.read_bytes()
    assert "foreign: a call to " in refused("nop", built.image)
    assert built.image.read_bytes() == original
    patch("nop", "--symbol", "hook", built.image)
    assert "a NOP for one of" in refused("call", built.image)
    patch("call", "--symbol", "hook", built.image)
    assert built.image.read_bytes() == original


# --- what is not proven is not written ------------------------------------------------------------


def call_other(built: Built) -> tuple[int, bytes]:
    """Turn the call in `twice` into a genuine call of `odd`: the site's address and old bytes."""
    offset, vaddr, _ = images.section(built.image, ".text")
    site = images.symbol(built.image, "twice")
    at = offset + site - vaddr
    old = built.image.read_bytes()[at : at + 5]
    assert old[0] == 0xE8
    distance = images.symbol(built.image, "odd") - (site + 5)
    images.write(built.image, at, b"\xe8" + distance.to_bytes(4, "little", signed=True))
    return site, old


@pytest.mark.parametrize("verb", ["nop", "call"])
def test_one_foreign_site_stops_everything_and_is_reported_exactly(built: Built, verb: str) -> None:
    site, old = call_other(built)
    odd = images.symbol(built.image, "odd")
    altered = built.image.read_bytes()
    new = b"\xe8" + (odd - site - 5).to_bytes(4, "little", signed=True)
    plt = site + 5 + int.from_bytes(old[1:], "little", signed=True)
    assert refused(verb, built.image) == (
        f"{built.image}: twice ({site:#x}): foreign: "
        f"a call to {odd:#x} (odd), which is not mcount (if it is, say --symbol odd): "
        f"{new.hex(' ')} (call {odd:#x}); expected {old.hex(' ')} (call {plt:#x}); "
        "nothing was written\n"
    )
    assert built.image.read_bytes() == altered


def test_status_lists_foreign_sites_and_fails(built: Built) -> None:
    site, _ = call_other(built)
    done = command.run("patcher", "status", built.image)
    first, second = done.stdout.splitlines()
    assert (done.status, done.stderr) == (1, "")
    assert first == f"{built.image}: 4 sites: 3 call, 0 nop, 1 foreign"
    assert second.startswith(f"{built.image}: twice ({site:#x}): foreign: a call to ")


def test_status_counts_dead_and_repeated_entries_as_report_does(built: Built) -> None:
    offset, _, _ = images.section(built.image, "__mcount_loc")
    table = built.image.read_bytes()[offset : offset + 32]
    images.write(built.image, offset, bytes(8) + table[16:24])
    odd_entries = "1 dead entry; 1 repeated entry"
    assert status(built.image) == f"2 sites: 2 call, 0 nop, 0 foreign; {odd_entries}"
    assert command.run("recordmcount", "report", built.image).stdout.endswith(f"; {odd_entries}\n")


def test_a_foreign_site_that_is_not_selected_does_not_matter(built: Built) -> None:
    call_other(built)
    patch("nop", "--functions", "even", built.image)
    assert status_of(built.image, "even") == "1 site: 0 call, 1 nop, 0 foreign"


def status_of(image: Path, function: str) -> str:
    line = patch("status", "--functions", function, image)
    return line.removeprefix(f"{image}: ").rstrip()


def build_static(folder: Path) -> Built:
    return build(folder, flags=["-mfentry", "-fno-pic"], link=["-static"], own_counter=True)


def test_a_call_whose_target_was_stripped_away_is_foreign(tmp_path: Path) -> None:
    built = build_static(tmp_path)
    images.tool("strip", built.image)
    assert "foreign: a call to 0x" in refused("nop", built.image)


def test_a_stripped_image_that_calls_through_its_plt_is_patched(built: Built) -> None:
    images.tool("strip", built.image)
    original = built.image.read_bytes()
    patch("nop", built.image)
    assert calls(built) == 0
    patch("call", built.image)
    assert built.image.read_bytes() == original


def test_nops_of_an_image_that_was_stripped_since_are_not_turned_into_calls(
    tmp_path: Path,
) -> None:
    built = build_static(tmp_path)
    patch("nop", built.image)
    images.tool("strip", built.image)
    assert "a NOP for one of 2 functions and stubs of mcount; there are 0" in refused(
        "call", built.image
    )


NOPS_BY_GCC = ("-mnop-mcount", "-mrecord-mcount")
ONLY_FENTRY = """
__attribute__((naked)) void __fentry__(void) { __asm__("ret"); }
"""


def build_with_nops_by_gcc(
    folder: Path, *flags: str, counter: str = ONLY_FENTRY, machine: str = "-m64"
) -> Path:
    how = (machine, "-fno-pic")
    work = images.compile_object(
        folder, "work", images.WORK, "gcc", "-pg", *NOPS_BY_GCC, *flags, *how
    )
    main = images.compile_object(folder, "main", images.MAIN, "gcc", *how)
    count = images.compile_object(folder, "counter", counter, "gcc", *how)
    images.tool("gcc", machine, "-no-pie", "-o", folder / "program", work, main, count)
    return folder / "program"


@pytest.mark.parametrize("machine", ["-m64", "-m32"])
@pytest.mark.parametrize("protection", ["none", "full"])
def test_nops_by_the_compiler_are_sites(tmp_path: Path, protection: str, machine: str) -> None:
    program = build_with_nops_by_gcc(
        tmp_path, "-mfentry", f"-fcf-protection={protection}", machine=machine
    )
    assert status(program) == "4 sites: 0 call, 4 nop, 0 foreign"
    patch("call", program)
    original = program.read_bytes()
    assert status(program) == "4 sites: 4 call, 0 nop, 0 foreign"
    patch("nop", program)
    patch("call", program)
    assert program.read_bytes() == original


@pytest.mark.parametrize(
    ("flags", "counter", "reason"),
    [
        (["-mfentry"], "", "a NOP for one of 1 functions and stubs of mcount; there are 0"),
        (["-mno-fentry"], ONLY_FENTRY, "a NOP without a mark, which may be padding"),
    ],
    ids=["nothing to call", "behind the prologue"],
)
def test_nops_whose_call_cannot_be_told_are_foreign(
    tmp_path: Path, flags: list[str], counter: str, reason: str
) -> None:
    program = build_with_nops_by_gcc(tmp_path, *flags, counter=counter)
    original = program.read_bytes()
    for verb in ("nop", "call"):
        assert f"foreign: {reason}: 0f 1f 44 00 00" in refused(verb, program)
    assert program.read_bytes() == original
    done = command.run("patcher", "status", program)
    assert done.status == 1
    assert "4 sites: 0 call, 0 nop, 4 foreign\n" in done.stdout


PADDING = """
__asm__(".text; ret; padding: .nops 5; .section __mcount_loc, \\"a\\"; .quad padding; .text");
"""


def test_padding_that_a_wrong_entry_names_is_never_written(tmp_path: Path) -> None:
    images.compile_object(tmp_path, "padding", PADDING, "gcc")
    built = build(
        tmp_path, flags=["-mfentry", "-fno-pic"], link=["-no-pie", str(tmp_path / "padding.o")]
    )
    original = built.image.read_bytes()
    for verb in ("nop", "call"):
        assert "foreign: a NOP without a mark, which may be padding: 0f 1f 44 00 00" in refused(
            verb, built.image
        )
    assert built.image.read_bytes() == original


def test_of_a_broken_file_nothing_but_sites_ever_changes(
    built: Built, capfd: pytest.CaptureFixture[str]
) -> None:
    original = built.image.read_bytes()
    patch("nop", built.image)
    sites = differences(original, built.image.read_bytes())
    headers = int.from_bytes(original[40:48], "little")
    chance = random.Random(2008)
    switched = 0
    for _ in range(400):
        broken = bytearray(original)
        for _ in range(chance.choice((1, 2, 8))):
            place = chance.choice(((0, 0x400), (headers, len(broken))))
            broken[chance.randrange(*place)] = chance.choice((0, 1, 0xFF, chance.randrange(256)))
        built.image.write_bytes(broken)
        failed = cli.main(["nop", str(built.image)])
        if failed:
            assert built.image.read_bytes() == broken
        else:
            switched += 1
            assert differences(bytes(broken), built.image.read_bytes()) <= sites
            assert cli.main(["call", str(built.image)]) == 0
            assert built.image.read_bytes() == broken
    assert 100 < switched < 400
    assert "Traceback" not in "".join(capfd.readouterr())


def differences(one: bytes, other: bytes) -> set[int]:
    """The file offsets at which two files of one size differ."""
    return {at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b}


# --- files ----------------------------------------------------------------------------------------


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
    reasons = {
        tmp_path / "main.o": "no __mcount_loc table",
        archive: "an archive: patch its members before they go in, or what is linked from it",
        other: "not for x86: only such files are patched",
        script: "not an ELF file",
        short: "not an ELF file",
        fifo: "not a regular file",
        tmp_path: "not a regular file",
        tmp_path / "nothing": "No such file or directory",
        tmp_path / "libcounter.so": "no __mcount_loc table",
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
    assert done.stderr.endswith("error: -o wants a file\n")
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
        wanted = switch.plan(file.path, table, range(len(table)), State.NOP)
        change(built.image)
        theirs = built.image.read_bytes()
        with pytest.raises(WriteError) as caught:
            switch.switch(file, wanted, None, dry_run=False)
    assert str(caught.value) == f"{built.image}: was changed by another program meanwhile"
    assert built.image.read_bytes() == theirs
    assert not list(built.image.parent.glob(".*"))


def test_segments_that_share_code_are_refused(built: Built) -> None:
    data = bytearray(built.image.read_bytes())
    headers, size = int.from_bytes(data[32:40], "little"), int.from_bytes(data[54:56], "little")
    first = next(at for at in range(headers, len(data), size) if data[at] == 1)  # PT_LOAD
    data[first + 4] |= 1  # PF_X
    data[first + 32 : first + 40] = (0x1001).to_bytes(8, "little")  # p_filesz
    built.image.write_bytes(data)
    assert refused("nop", built.image) == f"{built.image}: executable segments overlap at 0x1000\n"


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
    "", "nop", "fly x", "nop --no x", "status -n x", "nop -o x y z",
])  # fmt: skip
def test_what_makes_no_sense_is_a_usage_error(words: str) -> None:
    done = command.run("patcher", *words.split())
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: patcher ")


@pytest.mark.parametrize("words", ["--help", "--version", "nop --help"])
@pytest.mark.parametrize("redirection", ["> /dev/full", ">&-"])
def test_what_cannot_be_said_is_one_line_and_status_1(words: str, redirection: str) -> None:
    shell = ["sh", "-c", f'"$0" -m patcher {words} {redirection}', sys.executable]
    done = subprocess.run(shell, check=False, capture_output=True, text=True, cwd=command.ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch("standard output: .+\n", done.stderr)


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
        assert "patcher" not in source.read_text(), source
