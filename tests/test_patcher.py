"""`patcher nop|call|status` on linked files: which sites are switched, and which never are."""

import os
import random
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from patcher import cli
from tests.support import command, images
from tests.support.images import CALLS, Built, build, calls
from tests.support.patching import call_other, differences, patch, refused, status, status_of


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
    # Linkers differ in what %ebx is to them: .got.plt or, in mold, .got.
    *(Row(f"{one}-i386-{link}", "ff93", "660f1f44c301", linker=one, flags=f"-m32 {flags}",
          link=f"-m32 -{link}")
      for one in LINKERS for link, flags in (("pie", "-fpie"), ("shared", "-fPIC"))),
    *(Row(f"{one}-i386-own-slot", "ff93", "660f1f44c301", linker=one, flags="-m32 -fpie",
          link="-m32 -pie", own_counter=True) for one in LINKERS[1:]),
    Row("bfd-i386-relaxed", "67e8", "660f1f444002", flags="-m32 -fpie", link="-m32 -pie",
        own_counter=True),
    Row("bfd-i386-prefix-nop", "90e8", "660f1f448002", flags="-m32 -fpie", own_counter=True,
        link="-m32 -pie -Wl,-z,call-nop=prefix-0x90"),
    *(Row(f"{one}-i386-static", "e8", "0f1f440002", linker=one, flags="-m32 -fno-pic",
          link="-m32 -static -no-pie", own_counter=True) for one in LINKERS),
    Row("clang-large", "48b8", "6666662e0f1f840001000000", compiler="clang",
        flags="-fno-pic -mcmodel=large"),
]  # fmt: skip


@pytest.mark.matrix
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
    assert status_of(built.image, "odd") == "1 site: 1 call, 0 nop, 0 foreign"


def test_no_function_like_notrace_is_switched_whatever_functions_says(built: Built) -> None:
    patch("nop", "--functions", "*", "--notrace", "[eo]*", "--notrace", "wo?k", built.image)
    assert calls(built) == CALLS - 1  # twice
    patch("call", built.image)
    patch("nop", "--notrace", "even", "--functions", "even", "--functions", "odd", built.image)
    assert calls(built) == CALLS - 2  # odd


@pytest.mark.parametrize("more", [[], ["--functions", "odd"]], ids=str)
@pytest.mark.parametrize("option", ["--functions", "--notrace"])
@pytest.mark.parametrize("verb", ["nop", "status"])
def test_a_glob_that_matches_nothing_is_an_error(
    built: Built, verb: str, option: str, more: list[str]
) -> None:
    original = built.image.read_bytes()
    assert refused(verb, option, "main", *more, option, "x*", built.image) == (
        f"{built.image}: no site in a function like main or x*\n"
    )
    assert built.image.read_bytes() == original


def test_a_glob_with_an_end_of_line_does_not_break_the_line(built: Built) -> None:
    assert refused("nop", "--functions", "a\nb", built.image) == (
        f"{built.image}: no site in a function like a\\nb\n"
    )


@pytest.mark.parametrize("name", ["odd", "alias", "weak"])
def test_a_function_is_found_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    aliases = """
        static int alias(unsigned int n) __attribute__((alias("odd"), used));
        int weak(unsigned int n) __attribute__((alias("odd"), weak));
    """
    built = build(tmp_path, flags=["-mfentry", "-fno-pic"], work=images.WORK + aliases)
    patch("nop", "--functions", name, built.image)
    assert calls(built) == CALLS - 2


def test_a_function_whose_name_is_not_utf_8_is_found_by_its_bytes(built: Built) -> None:
    renamed = built.image.read_bytes().replace(b"\0twice\0", b"\0tw\xffce\0")
    built.image.write_bytes(renamed)
    patch("nop", "--functions", os.fsdecode(b"tw[\xff]*"), built.image)
    assert calls(built) == CALLS - 1


def test_calls_of_mcount_and_of_fentry_in_one_image_each_come_back(tmp_path: Path) -> None:
    other = "int other(int x) { return x; }"
    images.compile_object(tmp_path, "other", other, "gcc", "-O0", "-pg", "-fno-pic")
    assert command.call("recordmcount", tmp_path / "other.o").status == 0
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

    renamed = original.replace(b"\0hook\0", b"\0\xffook\0")  # no name in UTF-8
    built.image.write_bytes(renamed)
    name = os.fsdecode(b"\xffook")
    patch("nop", "--symbol", name, built.image)
    assert status(built.image, "--symbol", name) == "4 sites: 0 call, 4 nop, 0 foreign"
    patch("call", "--symbol", name, built.image)
    assert built.image.read_bytes() == renamed


# --- what is not proven is not written ------------------------------------------------------------


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


def test_status_lists_the_sites_in_each_state_and_fails_if_one_is_foreign(built: Built) -> None:
    patch("nop", "--functions", "odd", built.image)
    site, _ = call_other(built)
    done = command.call("patcher", "status", built.image)
    assert (done.status, done.stderr) == (1, "")
    lines = [line.removeprefix(f"{built.image}: ") for line in done.stdout.splitlines()]
    assert lines[0] == "4 sites: 2 call, 1 nop, 1 foreign"
    even, odd, work = (images.symbol(built.image, name) for name in ("even", "odd", "work"))
    calls = [f"even ({even:#x}): call", f"work ({work:#x}): call"]
    assert lines[1:4] == [*calls, f"odd ({odd:#x}): nop"]
    assert lines[4].startswith(f"twice ({site:#x}): foreign: a call to ")
    assert len(lines) == 5


def test_a_quiet_status_counts_only_and_fails_as_well(built: Built) -> None:
    call_other(built)
    counted = f"{built.image}: 4 sites: 3 call, 0 nop, 1 foreign\n"
    assert command.call("patcher", "status", "-q", built.image) == (1, counted, "")


def test_status_counts_dead_and_repeated_entries_as_report_does(built: Built) -> None:
    offset, _, _ = images.section(built.image, "__mcount_loc")
    table = built.image.read_bytes()[offset : offset + 32]
    images.write(built.image, offset, bytes(8) + table[16:24])
    odd_entries = "1 dead entry; 1 repeated entry"
    assert status(built.image) == f"2 sites: 2 call, 0 nop, 0 foreign; {odd_entries}"
    assert command.call("recordmcount", "report", built.image).stdout.endswith(f"; {odd_entries}\n")


def test_a_foreign_site_that_is_not_selected_does_not_matter(built: Built) -> None:
    call_other(built)
    patch("nop", "--functions", "even", built.image)
    assert status_of(built.image, "even") == "1 site: 0 call, 1 nop, 0 foreign"


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
    done = command.call("patcher", "status", program)
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


@pytest.mark.matrix
@pytest.mark.parametrize("linker", ["bfd", "gold", "lld", "mold"])
@pytest.mark.parametrize(
    ("flags", "link"),
    [("-fno-pic", "-no-pie"), ("-mfentry -fpie", "-pie"), ("-m32 -fno-pic", "-m32 -no-pie"),
     ("-m32 -fpie", "-m32 -pie")],
)  # fmt: skip
def test_calls_behind_a_bnd_prefix_are_sites_with_it(
    flags: str, link: str, linker: str, tmp_path: Path
) -> None:
    built = images.build(
        tmp_path, linker=linker, flags=["-Wa,-madd-bnd-prefix", *flags.split()],
        record=["--pic"] if "-pie" in link.split() else [], link=link.split(), own_counter=True,
    )  # fmt: skip
    original = built.image.read_bytes()
    assert status(built.image) == "4 sites: 4 call, 0 nop, 0 foreign"
    assert calls(built) == CALLS
    for line in patch("nop", "-n", built.image).splitlines():
        assert "): f2 " in line
    patch("nop", built.image)
    assert status(built.image) == "4 sites: 0 call, 4 nop, 0 foreign"
    assert calls(built) == 0
    patch("call", built.image)
    assert built.image.read_bytes() == original
