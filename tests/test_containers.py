"""Compressed files are decompressed whole and within bounds, or refused in one line."""

import lzma
import random
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import pytest

from recordmcount.elf import containers
from recordmcount.errors import FormatError
from tests.support import command
from tests.support.compressed import COMPRESSORS, zstd_frame, zstd_with_dictionary
from tests.support.objects import caller, recorded

MIB = 1 << 20
# More than is read, and more than is decompressed, at once; some of it cannot be compressed.
NUMBERS = random.Random(1)
CONTENT = NUMBERS.randbytes(300_000) + b"".join(b"%d " % n for n in range(150_000)) + bytes(2 * MIB)
SMALL = b"mcount" * 50 + NUMBERS.randbytes(2000)

EVERY_FORMAT = pytest.mark.parametrize("name", COMPRESSORS)
CHECKED = pytest.mark.parametrize("name", ["gzip", "xz", "zstd", "bzip2"])  # by a checksum
CHAINED = pytest.mark.parametrize("name", ["gzip", "xz", "zstd", "bzip2", "lz4"])


class Reader:
    """A file in memory that remembers how far it has been read."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.end = 0

    def __call__(self, offset: int, size: int) -> bytes:
        self.end = max(self.end, offset + size)
        return self.content[offset : offset + size]


def decompressed(content: bytes, most: int = 100 * MIB) -> bytes:
    return containers.decompress("m.ko", Reader(content), 0, len(content), most)


def refused(content: bytes, most: int = 100 * MIB) -> str:
    with pytest.raises(FormatError) as error:
        decompressed(content, most)
    line = str(error.value)
    assert line.startswith("m.ko: ")
    assert line.isprintable()
    return line.removeprefix("m.ko: ")


@EVERY_FORMAT
@pytest.mark.parametrize("content", [CONTENT, SMALL, b"x"], ids=["large", "small", "a-byte"])
def test_what_was_compressed_comes_back(name: str, content: bytes) -> None:
    data = COMPRESSORS[name](content)
    assert containers.format_of(data[: containers.START]) == name
    assert decompressed(data) == content


@EVERY_FORMAT
def test_a_range_of_a_file_is_decompressed_and_nothing_around_it_is_read(name: str) -> None:
    data = COMPRESSORS[name](SMALL)
    read = Reader(b"before" + data + b"behind")
    found = containers.decompress("image", read, 6, 6 + len(data), len(SMALL))
    assert found == SMALL
    assert read.end <= 6 + max(len(data), containers.START)


@CHAINED
def test_streams_one_behind_another_are_one_file(name: str) -> None:
    compress = COMPRESSORS[name]
    streams = [compress(CONTENT), compress(b"and "), compress(b""), *[compress(b"more ")] * 3]
    assert decompressed(b"".join(streams)) == CONTENT + b"and more more more "


@pytest.mark.parametrize("name", ["gzip", "xz"])
@pytest.mark.parametrize("size", [4, 100_000])
def test_zeros_behind_gzip_and_xz_are_padding(name: str, size: int) -> None:
    compress = COMPRESSORS[name]
    assert decompressed(compress(SMALL) + bytes(size)) == SMALL
    assert decompressed(compress(SMALL) + bytes(size) + compress(SMALL)) == SMALL * 2


def test_frames_that_zstd_leaves_out_are_left_out() -> None:
    skippable = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"words"
    compress = COMPRESSORS["zstd"]
    assert decompressed(compress(SMALL) + skippable + compress(SMALL)) == SMALL * 2


@EVERY_FORMAT
def test_garbage_behind_the_end_is_refused(name: str) -> None:
    data = COMPRESSORS[name](SMALL)
    for garbage in (b"\xffgarbage of any kind", b"\xff" * 200_000):
        assert refused(data + garbage) == f"{name}: garbage behind its end"


@pytest.mark.parametrize("name", ["bzip2", "lzma", "zstd"])
def test_zeros_behind_the_end_of_others_are_garbage(name: str) -> None:
    assert refused(COMPRESSORS[name](SMALL) + bytes(20)) == f"{name}: garbage behind its end"


@EVERY_FORMAT
def test_a_truncated_file_is_refused_wherever_it_ends(name: str) -> None:
    data = COMPRESSORS[name](SMALL)
    for end in [*range(containers.START, len(data), 7), len(data) - 1]:
        assert refused(data[:end]).startswith(f"{name}: ")
    assert refused(data[:-1]) == f"{name}: truncated"


@CHECKED
def test_no_changed_byte_gives_other_contents(name: str) -> None:
    data = COMPRESSORS[name](SMALL)
    for at in range(4 if name == "gzip" else 0, len(data)):
        for changed in (data[at] ^ 1, data[at] ^ 0x80, 0xFF):
            try:
                found = decompressed(data[:at] + bytes((changed,)) + data[at + 1 :])
            except FormatError as error:
                assert str(error).isprintable()  # noqa: PT017  many, and some are no errors
            else:
                assert found == SMALL


@pytest.mark.parametrize("name", ["lzma", "lz4"])
def test_no_changed_byte_does_worse_than_change_the_contents(name: str) -> None:
    data = COMPRESSORS[name](SMALL)
    for at in range(len(data)):
        for changed in (data[at] ^ 1, data[at] ^ 0x80, 0xFF):
            try:
                found = decompressed(data[:at] + bytes((changed,)) + data[at + 1 :], MIB)
            except FormatError as error:
                assert str(error).isprintable()  # noqa: PT017
            else:
                assert len(found) <= MIB


# --- bombs ----------------------------------------------------------------------------------------


@EVERY_FORMAT
def test_what_becomes_too_large_is_refused_before_it_is_held(name: str) -> None:
    data = COMPRESSORS[name](bytes(16 * MIB))
    tracemalloc.start()
    try:
        line = refused(data, 4 * MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert line == f"{name}: larger than {4 * MIB} bytes when decompressed: refused"
    assert peak < 32 * MIB  # a block of LZ4 has 8 MiB, and more than one is never held


@CHAINED
def test_many_small_streams_are_no_way_around_the_limit(name: str) -> None:
    stream = COMPRESSORS[name](bytes(MIB))
    read = Reader(stream * 1000)
    with pytest.raises(FormatError, match="refused"):
        containers.decompress("m.ko", read, 0, len(read.content), 4 * MIB)
    assert read.end <= 6 * len(stream) + 2 * containers.PIECE


def test_exactly_the_limit_is_not_too_large() -> None:
    for compress in COMPRESSORS.values():
        assert decompressed(compress(SMALL), len(SMALL)) == SMALL
        assert "refused" in refused(compress(SMALL), len(SMALL) - 1)


def test_a_small_file_may_become_64_mib_and_a_large_one_64_times_its_size() -> None:
    assert [containers.limit(size) for size in (0, 1000, MIB, 2 * MIB, 10 * MIB, 1 << 40)] == [
        64 * MIB, 64 * MIB, 64 * MIB, 128 * MIB, 640 * MIB, 1024 * MIB,
    ]  # fmt: skip


def test_a_dictionary_larger_than_that_of_kernels_is_refused() -> None:
    """To make one by lzma would take gigabytes: the header of a small one is changed."""
    data = bytearray(lzma.compress(SMALL, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]))
    block_header = slice(12, 20)  # "The .xz File Format", 3.1; then its CRC32
    assert data[block_header] == bytes.fromhex("02 00 21 01 00 00 00 00")
    data[16] = 2 * (28 - 12)  # 5.3.1: of 2**28 bytes
    data[20:24] = zlib.crc32(data[block_header]).to_bytes(4, "little")
    assert refused(bytes(data)) == "xz: memory usage limit exceeded"


def test_the_largest_dictionary_of_kernels_is_not_too_large() -> None:
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 27}]
    assert decompressed(lzma.compress(SMALL, filters=filters)) == SMALL


def test_a_window_larger_than_that_of_kernels_is_refused() -> None:
    assert decompressed(zstd_frame(SMALL, 27)) == SMALL
    assert refused(zstd_frame(SMALL, 28)) == "zstd: frame requires too much memory for decoding"


def test_what_needs_a_dictionary_is_refused() -> None:
    assert refused(zstd_with_dictionary(SMALL)) == "zstd: dictionary mismatch"


# --- what is what ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"]",
        b"]\0\0",
        b"]\0\0\x80\0 and text",
        b"] " * 20,
        b"\x7fELF" + bytes(20),
        b"BC\xc0\xde",
    ],
)
def test_other_files_are_not_taken_for_compressed_ones(content: bytes) -> None:
    assert containers.format_of(content) is None


def test_lzo_is_refused_by_its_name() -> None:
    data = b"\x89LZO\0\r\n\x1a\n" + bytes(100)
    assert refused(data) == "compressed by lzo, which is not supported"


def test_a_library_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lz4", None)
    assert refused(COMPRESSORS["lz4"](SMALL)).startswith("lz4: import of lz4 halted")


# --- the commands ---------------------------------------------------------------------------------

SUFFIXES = {"gzip": "gz", "xz": "xz", "zstd": "zst", "bzip2": "bz2", "lzma": "lzma", "lz4": "lz4"}


@EVERY_FORMAT
def test_report_tells_of_a_compressed_object_what_it_tells_of_the_object(
    name: str, tmp_path: Path
) -> None:
    plain = caller(".text", ".exit.text").write(tmp_path / "x.ko")
    packed = tmp_path / f"x.ko.{SUFFIXES[name]}"
    packed.write_bytes(COMPRESSORS[name](plain.read_bytes()))
    misnamed = tmp_path / "misnamed.ko"
    misnamed.write_bytes(packed.read_bytes())
    expected = command.call("recordmcount", "report", plain)
    assert expected.status == 0
    for path in (packed, misnamed):
        told = command.call("recordmcount", "report", path)
        assert told == expected._replace(stdout=expected.stdout.replace(str(plain), str(path)))


def test_members_of_a_compressed_library_are_told_of(tmp_path: Path) -> None:
    member = caller(".text").write(tmp_path / "x.o")
    library = tmp_path / "lib.a"
    subprocess.run(["ar", "rcD", library, member], check=True)
    (tmp_path / "lib.a.zst").write_bytes(COMPRESSORS["zstd"](library.read_bytes()))
    told = command.call("recordmcount", "report", "lib.a.zst", cwd=tmp_path)
    assert told.stdout.startswith("lib.a.zst(x.o): object, ELF64 x86-64\n")


def test_what_cannot_be_read_is_one_line_and_the_rest_is_told(tmp_path: Path) -> None:
    good = caller(".text").write(tmp_path / "good.ko")
    compress = COMPRESSORS["gzip"]
    contents = {
        "bomb.gz": compress(bytes(100 * MIB)),
        "cut.gz": compress(good.read_bytes())[:-9],
        "twice.gz": compress(compress(good.read_bytes())),
        "text.gz": compress(b"no object"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    told = command.call("recordmcount", "report", *contents, "good.ko", cwd=tmp_path)
    assert told.status == 1
    text = "text, not an ELF file: compile it first, with -pg -mfentry -c, and name the object"
    assert told.stderr.splitlines() == [
        f"bomb.gz: gzip: larger than {64 * MIB} bytes when decompressed: refused",
        "cut.gz: gzip: truncated",
        "twice.gz: compressed: decompress it first, and compress it again afterwards",
        f"text.gz: {text}",
    ]
    assert told.stdout.startswith("good.ko: object")


@EVERY_FORMAT
@pytest.mark.parametrize(
    "words",
    [("recordmcount",), ("patcher", "nop"), ("patcher", "call")],
    ids=" ".join,
)
def test_nothing_compressed_is_recorded_or_switched_and_advice_is_given(
    name: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    packed = tmp_path / "x.ko"
    content = COMPRESSORS[name](caller(".text").data)
    packed.write_bytes(content)
    done = command.call(*words, packed)
    advice = f"{packed}: compressed: decompress it first, and compress it again afterwards"
    assert (done.status, done.stderr.splitlines()[0]) == (1, advice)
    assert packed.read_bytes() == content


@EVERY_FORMAT
def test_the_status_of_a_compressed_object_is_that_of_the_object(name: str, tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.ko", caller())
    told = command.call("patcher", "status", path)
    assert told.status == 0
    path.write_bytes(COMPRESSORS[name](path.read_bytes()))
    assert command.call("patcher", "status", path) == told
