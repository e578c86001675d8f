"""What a table leaves out is one thing: `verify` and `report --unrecorded` find the same sites."""

from pathlib import Path

import pytest

from recordmcount.errors import Error
from recordmcount.report.asked import Asked as AskedOfReport
from recordmcount.report.examine import examine as report
from recordmcount.verify.asked import Asked
from recordmcount.verify.examine import examine as verify
from tests.support import images, kernel
from tests.support.command import run
from tests.support.linked import Image
from tests.support.program import KINDS, Program

MATRIX = [pytest.param(each, marks=pytest.mark.matrix) for each in ("gold", "lld", "mold")]
LINKERS = pytest.mark.parametrize("linker", ["bfd", *MATRIX])


def by_verify(path: Path) -> list[int]:
    """The addresses of sites without an entry."""
    (file,) = verify(str(path), Asked())
    assert not isinstance(file, Error)
    assert {each["rule"] for each in file["findings"]} <= {"missing-entry"}
    return sorted(each["address"] for each in file["findings"])


def by_report(path: Path) -> list[int]:
    (file,) = report(str(path), AskedOfReport(unrecorded=True))
    assert not isinstance(file, Error)
    assert not any(site["recorded"] for site in file["sites"])
    return [site["address"] for site in file["sites"]]


def file_offset(path: Path, vaddr: int) -> int:
    offset, start, _ = images.section(path, ".text")
    return offset + vaddr - start


def strip_entries(path: Path) -> list[int]:
    """Make every third entry of a table of absolute addresses 0; the addresses it named."""
    table, taken = Image(path).table, []
    offset, _, _ = images.section(path, "__mcount_loc")
    for number in range(0, len(table), 3):
        taken.append(table[number])
        images.write(path, offset + 8 * number, bytes(8))
    return sorted(taken)


@LINKERS
@pytest.mark.parametrize("flag", ["-fno-pic", "-fPIC"])
def test_both_find_the_entries_that_were_taken_of_calls_and_of_nops_in_their_place(
    tmp_path: Path, linker: str, flag: str
) -> None:
    built = images.build(tmp_path, linker=linker, flags=("-mfentry", flag), own_counter=True)
    path = built.program
    assert by_verify(path) == by_report(path) == []
    content = path.read_bytes()
    assert run("patcher", "nop", "-q", path).status == 0
    taken = strip_entries(path)
    assert by_verify(path) == by_report(path) == taken
    path.write_bytes(content)
    assert strip_entries(path) == taken
    assert by_verify(path) == by_report(path) == taken


@pytest.mark.matrix
@LINKERS
@pytest.mark.parametrize("kind", KINDS)
def test_both_find_the_calls_of_an_object_that_was_not_recorded(
    tmp_path: Path, linker: str, kind: str
) -> None:
    program = Program(tmp_path, "g++", kind)
    objects = program.compile()
    program.record(objects[:1])
    path = program.link(linker, objects)
    left_out = by_verify(path)
    assert left_out
    assert by_report(path) == left_out
    assert {*left_out} == {*Image(path).live_calls()} - {*Image(path).table}


@pytest.mark.matrix
def test_an_entry_may_name_the_nop_that_mold_puts_before_a_call_or_the_call(tmp_path: Path) -> None:
    built = images.build(tmp_path, linker="mold", flags=("-mfentry", "-fPIC"), own_counter=True)
    path, (first, *_) = built.program, Image(built.program).table
    assert path.read_bytes()[file_offset(path, first) :][:2] == b"\x90\xe8"
    offset, _, _ = images.section(path, "__mcount_loc")
    images.write(path, offset, (first + 1).to_bytes(8, "little"))
    assert by_verify(path) == by_report(path) == []


def test_an_entry_that_is_off_does_not_name_the_call(tmp_path: Path) -> None:
    """To verify, that is one fault and not two."""
    path = images.build(tmp_path, own_counter=True).program
    first, *_ = Image(path).table
    offset, _, _ = images.section(path, "__mcount_loc")
    images.write(path, offset, (first + 1).to_bytes(8, "little"))
    (file,) = verify(str(path), Asked())
    assert not isinstance(file, Error)
    assert [each["rule"] for each in file["findings"]] == ["entry-off"]
    assert by_report(path) == [first]


def test_both_find_the_calls_of_a_kernel_without_a_symbol_table(tmp_path: Path) -> None:
    path = kernel.vmlinux(tmp_path, kernel.X86_64, kernel.ORDERS["6.12"], others=3)
    images.tool("strip", path)
    left_out = by_verify(path)
    assert len(left_out) == 3
    assert by_report(path) == left_out
