"""Which code has unwind entries: as pyelftools reads them, before a link and after it."""

from pathlib import Path

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from recordmcount.elf import frames
from tests.support import images
from tests.support.objects import parsed

FLAGS = {
    "": "",
    "pic": "-fPIC",
    "large": "-mcmodel=large",
    "large-pic": "-mcmodel=large -fPIC",
    "i386": "-m32",
    "i386-pic": "-m32 -fPIC",
    "x32": "-mx32",
}
# Two kinds of CIE: one with a personality, whose FDEs point to tables of their own.
SOURCE = """
int first(int x) { return x; }
__attribute__((section(".text.other"))) int other(int x) { return x + 1; }
extern "C" void call();
void safe(void (*end)()) { try { call(); } catch (...) { end(); } }
"""
FUNCTIONS = ("_Z5firsti", "_Z5otheri", "_Z4safePFvvE")


def by_pyelftools(path: Path) -> set[tuple[int, int]]:
    """(start, size) of what is covered in a linked file."""
    with path.open("rb") as stream:
        file = ELFFile(stream)
        entries = file.get_dwarf_info().EH_CFI_entries()
        code = [s for s in file.iter_sections() if s["sh_flags"] & 4]
        highest = (1 << file.elfclass) - 1
        found = {
            (entry["initial_location"] & highest, entry["address_range"])
            for entry in entries
            if isinstance(entry, FDE)
        }
        return {
            (start, size)
            for start, size in found
            if any(s["sh_addr"] <= start < s["sh_addr"] + s["sh_size"] for s in code)
        }


def by_product(path: Path) -> set[tuple[int, int]]:
    found = frames.ranges(parsed(path.read_bytes(), "image"))
    return {(start, end - start) for each in found.values() for start, end in each}


@pytest.mark.matrix
@pytest.mark.parametrize("linker", ["bfd", "gold", "lld", "mold"])
@pytest.mark.parametrize("kind", ["-no-pie", "-shared", "-static"])
def test_ranges_of_linked_files(linker: str, kind: str, tmp_path: Path) -> None:
    for machine in ("-m64", "-m32"):
        pic = [machine, *(["-fPIC"] if kind == "-shared" else ["-fno-pic"])]
        work = images.compile_object(tmp_path, "work", images.WORK, "gcc", *pic)
        main = images.compile_object(tmp_path, "main", images.MAIN, "gcc", *pic)
        image = tmp_path / "image"
        images.tool("gcc", f"-fuse-ld={linker}", machine, kind, "-o", image, work, main)
        found = by_product(image)
        assert found == by_pyelftools(image)
        assert images.symbol(image, "odd") in {start for start, _ in found}


@pytest.mark.matrix
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_ranges_of_objects_are_where_the_compiler_s_functions_are(
    flags: str, compiler: str, tmp_path: Path
) -> None:
    source = tmp_path / "code.cc"
    source.write_text(SOURCE)
    path = tmp_path / "code.o"
    images.tool(compiler, *flags.split(), "-O1", "-c", source, "-o", path)
    with path.open("rb") as stream:
        file = ELFFile(stream)
        symbols = file.get_section_by_name(".symtab")
        assert isinstance(symbols, SymbolTableSection)
        sized = {
            (one["st_shndx"], one["st_value"], one["st_value"] + one["st_size"])
            for one in symbols.iter_symbols()
            if one.name in FUNCTIONS
        }
    found = frames.ranges(parsed(path.read_bytes()))
    ranges = {(section, *each) for section, every in found.items() for each in every}
    assert len(sized) == len(FUNCTIONS)
    assert sized <= ranges


def cie(letters: bytes, data: bytes = b"", version: int = 1) -> bytes:
    """The body of a CIE: alignment factors of 1, register 16 for the return address."""
    size = bytes((len(data),)) if letters.startswith(b"z") else b""
    return bytes(4) + bytes((version,)) + letters + b"\0\1\1\x10" + size + data


def section(*bodies: bytes) -> bytes:
    content = b""
    for body in bodies:
        content += len(body).to_bytes(4, "little") + body
    return content


def wide(*words: int) -> bytes:
    return b"".join(word.to_bytes(8, "little") for word in words)


def narrow(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def entry(at: int, fields: bytes) -> bytes:
    """The body of an FDE at that index of the section, whose CIE is at its start."""
    return (at + 4).to_bytes(4, "little") + fields


@pytest.mark.parametrize(
    ("letters", "data", "fields"),
    [
        pytest.param(b"", b"", wide(0x40_1000, 8), id="absptr"),
        pytest.param(b"zR", b"\x03", narrow(0x40_1000, 8), id="udata4"),
        pytest.param(b"zR", b"\x0c", wide(0x40_1000, 8), id="sdata8"),
        pytest.param(b"zPLR", b"\x9b\0\0\0\0\x1b\x03", narrow(0x40_1000, 8), id="personality"),
        pytest.param(b"zRS", b"\x03", narrow(0x40_1000, 8), id="signal"),
    ],
)
def test_every_encoding_is_read(letters: bytes, data: bytes, fields: bytes, tmp_path: Path) -> None:
    first = cie(letters, data)
    content = section(first, entry(4 + len(first), fields))
    assert ranges_of(tmp_path, content) == {(0x40_1000, 0x40_1008)}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xff" * 64, id="a length of 64 bits"),
        pytest.param(b"\xf0\0\0\0" + bytes(60), id="a length beyond the end"),
        pytest.param(section(cie(b"zX", b"\3")) + section(entry(18, bytes(8))), id="a letter"),
        pytest.param(section(cie(b"zR", b"\x8b")) + section(entry(18, bytes(8))), id="indirect"),
        pytest.param(section(b"\1\0\0\0" * 8), id="a CIE outside"),
        pytest.param(
            section(bytes(4) + b"\1" + b"z" * 40, entry(49, bytes(8))), id="no end of letters"
        ),
        pytest.param(
            section(bytes(4) + b"\1\0" + b"\x80" * 40, entry(50, bytes(16))), id="no end, number"
        ),
    ],
)  # fmt: skip
def test_what_is_broken_proves_nothing(content: bytes, tmp_path: Path) -> None:
    assert ranges_of(tmp_path, content) == set()


def ranges_of(folder: Path, content: bytes) -> set[tuple[int, int]]:
    """The ranges of an executable with this `.eh_frame` and code at 0x401000."""
    source = '.text\n.globl _start\n_start: .nops 64\n.section .eh_frame,"a",@unwind\n'
    source += "".join(f".byte {byte}\n" for byte in content)
    (folder / "code.s").write_text(source)
    images.tool("as", folder / "code.s", "-o", folder / "code.o")
    flags = ("-z", "noseparate-code", "--no-ld-generated-unwind-info", "-Ttext=0x401000")
    images.tool("ld", *flags, "-o", folder / "code", folder / "code.o")
    found = frames.ranges(parsed((folder / "code").read_bytes(), "code"))
    return {each for every in found.values() for each in every}
