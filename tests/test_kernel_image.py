"""A kernel image gives its vmlinux, and that symbols and a table; or one line says why not."""

import base64
import gzip
import json
import random
import re
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from recordmcount import x86
from recordmcount.elf import kallsyms, kernel_image
from recordmcount.elf.kallsyms import Kallsyms
from recordmcount.elf.segments import LoadView
from recordmcount.errors import FormatError
from recordmcount.sites import kernel_table
from recordmcount.sites.kernel_table import KernelTable
from tests.support import command, kernel, qemu
from tests.support.compressed import COMPRESSORS
from tests.support.kernel import I386, ORDERS, X86_64, Bits, bzimage
from tests.support.kernel_modules import CLOUD
from tests.support.objects import parsed

KERNEL = b"\x7fELF" + random.Random(1).randbytes(5000) + bytes(100_000)


def payload(name: str, content: bytes = KERNEL, size: int | None = None) -> bytes:
    """As the kernel's build makes it: gzip's last field is the size, to all others it is added."""
    told = struct.pack("<I", len(content) if size is None else size)
    packed = COMPRESSORS[name](content)
    return packed[:-4] + told if name == "gzip" else packed + told


def unpacked(image: bytes) -> bytes:
    def read(offset: int, size: int) -> bytes:
        return image[offset : offset + size]

    return kernel_image.vmlinux("bzImage", len(image), read)


def refused(image: bytes) -> str:
    with pytest.raises(FormatError) as error:
        unpacked(image)
    return str(error.value).removeprefix("bzImage: ")


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("sects", [0, 1, 39])
def test_the_kernel_comes_out_of_its_image(name: str, sects: int) -> None:
    image = bzimage(payload(name), sects=sects)
    assert kernel_image.is_image(image[: kernel_image.START])
    assert unpacked(image) == KERNEL


BROKEN = {
    "boot protocol 2.07 does not tell where the kernel is": bzimage(payload("xz"), version=0x207),
    "the kernel inside is compressed in no way that is known": bzimage(b"no magic" * 20),
    "compressed by lzo, which is not supported": bzimage(b"\x89LZO\0\r\n\x1a\n" + bytes(9)),
    f"the kernel inside has {len(KERNEL)} bytes, not {len(KERNEL) + 1}": bzimage(
        payload("xz", size=len(KERNEL) + 1)
    ),
    f"xz: larger than {len(KERNEL) - 1} bytes when decompressed: refused": bzimage(
        payload("xz", size=len(KERNEL) - 1)
    ),
    "a kernel of 4294967295 bytes when decompressed: refused": bzimage(
        payload("zstd", size=0xFFFFFFFF)
    ),
    "the kernel inside, 0x3 bytes at 0xb00, is not in the file": bzimage(b"end"),
    "xz: truncated": bzimage(payload("xz")[:-100] + payload("xz")[-4:]),
}  # fmt: skip


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_image_is_refused_in_one_line(line: str) -> None:
    assert refused(BROKEN[line]) == line


def test_an_image_that_was_cut_is_refused_wherever_that_was() -> None:
    image = bzimage(payload("xz"))
    for end in range(kernel_image.START, len(image) - 100, 97):
        assert "is not in the file" in refused(image[:end])


def test_an_image_of_a_kernel_is_told_of_and_neither_recorded_nor_switched(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(
        bzimage(payload("zstd", kernel.vmlinux(tmp_path, X86_64, ORDERS["6.12"]).read_bytes()))
    )
    told = command.run("recordmcount", "report", "vmlinuz", cwd=tmp_path)
    assert (told.status, told.stderr) == (0, "")
    assert told.stdout.startswith("vmlinuz: executable, ELF64 x86-64\n")
    what = "a compressed kernel image"
    done = command.run("recordmcount", "vmlinuz", cwd=tmp_path)
    advice = "record the objects that its vmlinux is linked from"
    assert done.stderr == f"vmlinuz: {what}: {advice}\nvmlinuz: failed\n"
    done = command.run("patcher", "nop", "vmlinuz", cwd=tmp_path)
    assert done.stderr == f"vmlinuz: {what}: patch the vmlinux that it is made from\n"
    done = command.run("patcher", "status", "vmlinuz", cwd=tmp_path)
    assert (done.status, done.stderr) == (0, "")
    count = told.stdout.splitlines()[-1].partition(" ")[0]
    assert done.stdout.startswith(f"vmlinuz: {count} sites: {count} call, ")


# --- the table ------------------------------------------------------------------------------------

BITS = pytest.mark.parametrize("bits", [X86_64, I386], ids=["x86_64", "i386"])


def table(path: Path) -> KernelTable | None:
    view = LoadView(parsed(path.read_bytes(), "vmlinux"))
    symbols = kallsyms.decode(view)
    assert symbols is not None
    return kernel_table.find(view, symbols, x86.mcount_names())


def calls(path: Path) -> list[int]:
    """Where the functions are whose calls are in the table, by nm(1)."""
    names = ("function_", "long_")
    found = [each.vaddr for each in kernel.symbols(path) if each.name.startswith(names)]
    assert len(found) == kernel.FUNCTIONS + 1
    return found


def named(path: Path, name: str) -> int:
    (vaddr,) = [symbol.vaddr for symbol in kernel.symbols(path) if symbol.name == name]
    return vaddr


@BITS
@pytest.mark.parametrize("dead", [0, 5])
def test_the_table_is_where_the_kernel_s_symbols_say(tmp_path: Path, bits: Bits, dead: int) -> None:
    path = kernel.vmlinux(tmp_path, bits, ORDERS["6.12"], dead=dead)
    found = table(path)
    assert found is not None
    assert (found.is_marked, found.vaddr) == (True, named(path, "__start_mcount_loc"))
    assert list(found.entries) == [0] * dead + calls(path)
    assert found.targets == {named(path, "__fentry__"): "__fentry__"}


ONLY_CODE = kernel.without(ORDERS["5.10"], lambda symbol: symbol.type not in "tT")


@BITS
def test_without_these_symbols_it_is_the_longest_run_of_calls(tmp_path: Path, bits: Bits) -> None:
    """A table of functions, each of which begins with its call, is another run."""
    path = kernel.vmlinux(tmp_path, bits, ONLY_CODE, dead=5)
    found = table(path)
    assert found is not None
    start = named(path, "__start_mcount_loc") + 5 * bits.word
    assert (found.is_marked, found.vaddr) == (False, start)
    assert list(found.entries) == calls(path)


def test_a_run_of_less_than_half_of_the_calls_is_no_table(tmp_path: Path) -> None:
    most = kernel.FUNCTIONS + 1
    for others, is_found in ((most - 1, True), (most, False)):
        path = kernel.vmlinux(tmp_path, X86_64, ONLY_CODE, others=others)
        assert (table(path) is not None) is is_found


def test_symbols_that_are_the_wrong_way_round_are_refused(tmp_path: Path) -> None:
    def swapped(symbol: kernel.Symbol) -> kernel.Symbol:
        names = ["__start_mcount_loc", "__stop_mcount_loc"]
        if symbol.name in names:
            return symbol._replace(name=names[1 - names.index(symbol.name)])
        return symbol

    path = kernel.vmlinux(tmp_path, X86_64, kernel.renamed(ORDERS["6.12"], swapped))
    with pytest.raises(FormatError, match="no table from __start_mcount_loc to"):
        table(path)


# --- Debian's kernel ------------------------------------------------------------------------------

# The listing is 4 MiB, and the serial line is slow.
SCRIPT = "gzip -c /proc/kallsyms | base64"


class Booted(NamedTuple):
    """What the kernel says of itself, and what its image does."""

    log: str
    listing: list[kernel.Symbol]
    view: LoadView
    symbols: Kallsyms


@pytest.fixture(scope="module")
def booted() -> Booted:
    session = qemu.run(CLOUD / "vmlinuz", SCRIPT, {})
    text = gzip.decompress(base64.b64decode(session.output)).decode()
    lines = [line.split() for line in text.splitlines() if "\t[" not in line]  # of no module
    listing = [kernel.Symbol(int(vaddr, 16), letter, name) for vaddr, letter, name in lines]
    view = LoadView(parsed(unpacked((CLOUD / "vmlinuz").read_bytes()), "vmlinux"))
    symbols = kallsyms.decode(view)
    assert symbols is not None
    return Booted(session.kernel_log, listing, view, symbols)


@pytest.mark.kernel
@pytest.mark.xdist_group("kernel")
def test_the_symbols_are_those_that_the_running_kernel_lists(booted: Booted) -> None:
    """But for where it was put (KASLR), which moves all but the per-CPU variables at 0."""
    (start,) = booted.symbols.named("_text")
    moved = next(symbol.vaddr for symbol in booted.listing if symbol.name == "_text") - start
    columns = zip(booted.symbols.vaddrs, booted.symbols.types, booted.symbols.names, strict=True)
    found = [
        kernel.Symbol(vaddr + moved if vaddr >= start else vaddr, chr(letter), name)
        for vaddr, letter, name in columns
    ]
    assert len(found) > 80_000
    assert found == booted.listing


@pytest.mark.kernel
@pytest.mark.xdist_group("kernel")
def test_the_table_has_as_many_entries_as_the_booting_kernel_says(booted: Booted) -> None:
    (number,) = re.findall(r"ftrace: allocating (\d+) entries", booted.log)
    found = kernel_table.find(booted.view, booted.symbols, x86.mcount_names())
    assert found is not None
    assert (found.is_marked, len(found.entries)) == (True, int(number))
    # Without its two symbols, as a kernel without CONFIG_KALLSYMS_ALL, it is found all the same.
    names = ["x" if "mcount_loc" in name else name for name in booted.symbols.names]
    less = Kallsyms(booted.symbols.vaddrs, booted.symbols.types, names)
    alone = kernel_table.find(booted.view, less, x86.mcount_names())
    assert alone is not None
    assert (alone.is_marked, alone.vaddr, alone.entries) == (False, found.vaddr, found.entries)


@pytest.mark.kernel
@pytest.mark.xdist_group("kernel")
def test_report_shows_every_site_of_an_image_by_name_and_patcher_switches_its_kernel(
    booted: Booted, tmp_path: Path
) -> None:
    (number,) = map(int, re.findall(r"ftrace: allocating (\d+) entries", booted.log))
    done = command.run("recordmcount", "report", "--json", CLOUD / "vmlinuz")
    (file,) = json.loads(done.stdout)["files"]
    assert {site["state"] for site in file["sites"]} == {"call"}
    assert len(file["sites"]) == number
    named = [site for site in file["sites"] if site["function"] is not None]
    assert 0 < number - len(named) < number // 50  # weak functions that others override
    assert {site["function_offset"] for site in named} <= {0, 4}  # behind an endbr
    assert {site["function"] for site in named} <= {symbol.name for symbol in booted.listing}
    kernel_file = tmp_path / "vmlinux"
    kernel_file.write_bytes(booted.view.obj.read(0, booted.view.obj.size, "the kernel"))
    before = kernel_file.read_bytes()
    off = command.run("patcher", "nop", kernel_file)
    assert off.stdout == f"{kernel_file}: {number} sites turned to nop, 0 already\n"
    assert "do not boot this kernel before `patcher call`" in off.stderr
    assert command.run("patcher", "call", kernel_file).status == 0
    assert kernel_file.read_bytes() == before


@pytest.mark.kernel
@pytest.mark.parametrize(
    "program", ["xz -9", "xz --format=lzma", "gzip", "zstd -19", "zstd --long=27", "lz4 -l"]
)
def test_a_module_is_read_whatever_program_compressed_it(tmp_path: Path, program: str) -> None:
    plain = min(CLOUD.glob("modules/*.ko"))
    packed = tmp_path / "module"
    packed.write_bytes(
        subprocess.run([*program.split(), "-c", plain], check=True, capture_output=True).stdout
    )
    told = command.run("recordmcount", "report", packed)
    assert told.status == 0
    expected = command.run("recordmcount", "report", plain).stdout
    assert told.stdout == expected.replace(str(plain), str(packed))
