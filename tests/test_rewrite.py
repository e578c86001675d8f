"""A file is rewritten as a whole or not at all, and differs in the sites alone."""

import errno
import os
from pathlib import Path

import pytest

from patcher.errors import CompareError, ReadError
from patcher.files.rewrite import rewrite
from patcher.memory.elffile import ElfFile
from patcher.memory.spans import Span
from patcher.modify import Batch, Change
from recordmcount.errors import FormatError
from tests.support.images import build


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return build(tmp_path, flags=["-mfentry", "-fno-pic"]).image


def text_of(file: ElfFile) -> Span:
    (span,) = file.spans
    return span


def flipped(file: ElfFile, *places: int, size: int = 5) -> Batch:
    """Changes of the `size` bytes at these distances from the first byte of code: all bits."""
    start = text_of(file).address
    olds = {start + place: file.read(start + place, size) for place in places}
    return Batch.of(
        Change(vaddr, old, bytes(byte ^ 0xFF for byte in old)) for vaddr, old in olds.items()
    )


@pytest.mark.parametrize("piece", [1, 5, 16, 1 << 18])
def test_only_the_sites_change_wherever_the_file_is_cut(
    program: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patcher.files.rewrite.PIECE", piece)
    original = program.read_bytes()
    with ElfFile(str(program)) as file:
        text = text_of(file)
        places = [0, 5, 17, 100, text.size - 5]
        rewrite(file, flipped(file, *places))
        expected = bytearray(original)
        for place in places:
            for at in range(text.offset + place, text.offset + place + 5):
                expected[at] ^= 0xFF
    assert program.read_bytes() == expected


def test_sites_of_different_sizes_are_rewritten(program: Path) -> None:
    original = program.read_bytes()
    with ElfFile(str(program)) as file:
        start = text_of(file)
        rewrite(file, Batch.of([*flipped(file, 3, size=5), *flipped(file, 8, 40, size=13)]))
    changed = program.read_bytes()
    different = [
        at for at, pair in enumerate(zip(original, changed, strict=True)) if len({*pair}) > 1
    ]
    assert different == [start.offset + at for at in (*range(3, 8), *range(8, 21), *range(40, 53))]


@pytest.mark.parametrize("out", [None, "out"])
def test_one_site_with_other_bytes_and_no_file_is_written(
    program: Path, tmp_path: Path, out: str | None
) -> None:
    original = program.read_bytes()
    names = set(os.listdir(tmp_path))
    with ElfFile(str(program)) as file:
        batch = flipped(file, 0, 32, 64)
        batch.old = [batch.old[0], batch.old[1], b"other"]
        with pytest.raises(CompareError) as caught:
            rewrite(file, batch, out and str(tmp_path / out))
        assert caught.value.address == text_of(file).address + 64
        assert caught.value.actual == file.read(caught.value.address, 5)
    assert caught.value.errno == errno.EINVAL
    assert program.read_bytes() == original
    assert set(os.listdir(tmp_path)) == names


@pytest.mark.parametrize("distance", [-5, -1, 0x100000])
def test_what_is_not_code_of_the_file_is_efault(program: Path, distance: int) -> None:
    original = program.read_bytes()
    with ElfFile(str(program)) as file:
        outside = text_of(file).address + distance
        batch = Batch.of([*flipped(file, 64), Change(outside, bytes(5), b"other")])
        with pytest.raises(ReadError) as caught:
            rewrite(file, batch)
    assert (caught.value.errno, caught.value.address) == (errno.EFAULT, outside)
    assert program.read_bytes() == original


def test_a_site_that_ends_behind_the_code_is_refused(program: Path) -> None:
    original = program.read_bytes()
    with ElfFile(str(program)) as file:
        text = text_of(file)
        old = original[text.offset + text.size - 2 :][:5]
        batch = Batch.of([Change(text.address + text.size - 2, old, b"other")])
        with pytest.raises(ReadError):
            rewrite(file, batch)
    assert program.read_bytes() == original


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the file into many, as large files are."""
    monkeypatch.setattr("patcher.files.rewrite.PIECE", 64)
    monkeypatch.setattr("patcher.files.rewrite.LARGE_PIECE", 1000)


@pytest.mark.usefixtures("pieces")
def test_a_file_of_many_pieces_is_the_same_but_for_the_sites(program: Path) -> None:
    expected = bytearray(program.read_bytes())
    with ElfFile(str(program)) as file:
        places = range(0, 200, 10)
        rewrite(file, flipped(file, *places))
        for place in places:
            at = text_of(file).offset + place
            expected[at : at + 5] = bytes(byte ^ 0xFF for byte in expected[at : at + 5])
    assert program.read_bytes() == expected


@pytest.mark.usefixtures("pieces")
def test_a_site_of_a_later_piece_with_other_bytes_is_told(program: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ElfFile(str(program)) as file:
        batch = flipped(file, *range(0, 200, 10))
        batch.old = [*batch.old[:15], b"other", *batch.old[16:]]
        with pytest.raises(CompareError) as caught:
            rewrite(file, batch, str(out))
        assert caught.value.address == batch.addresses[15]
    assert not out.exists()


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("kept", [0x80, 0x2000], ids=["in the code", "behind the code"])
def test_a_file_cut_short_meanwhile_is_an_error_and_no_result(
    program: Path, tmp_path: Path, kept: int
) -> None:
    out = tmp_path / "out"
    with ElfFile(str(program)) as file:
        batch = flipped(file, 64)
        os.truncate(program, text_of(file).offset + kept)
        with pytest.raises(FormatError, match="the file shrank while it was read"):
            rewrite(file, batch, str(out))
    assert not out.exists()
