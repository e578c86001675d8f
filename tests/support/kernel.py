"""Small kernels: code that calls __fentry__, a table of the calls, and kallsyms, in a vmlinux.

They are linked twice, as kernels are: what nm(1) finds the first time goes into kallsyms.
"""

import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.kernel_modules import CLOUD

FUNCTIONS = 700  # so that there are several markers, and one more name than a multiple of 256 has
LONG_NAME = "long_" + "Xy" * 120  # its length, though compressed, has two bytes
TOKENS = {0x80: b"function_", 0x81: b"tfunction_", 0x82: b"__", 0xFF: b"_mcount_loc"}


class Symbol(NamedTuple):
    """A line of nm(1)."""

    vaddr: int
    type: str
    name: str


class Bits(NamedTuple):
    """How kernels of one machine are linked: the words' directive, and where sections are put."""

    word: int
    directive: str
    flags: tuple[str, ...]
    emulation: str
    text: int
    percpu: int

    @property
    def sections(self) -> dict[str, int]:
        """Addresses of sections; none moves when kallsyms, which is in .rodata, grows."""
        apart = 0x1000000
        data, rodata = self.text + apart, self.text + 2 * apart
        return {".text": self.text, ".data": data, ".rodata": rodata, ".percpu": self.percpu}


X86_64 = Bits(8, ".quad", ("-m64",), "elf_x86_64", 0xFFFFFFFF81000000, 0)
I386 = Bits(4, ".long", ("-m32",), "elf_i386", 0xC1000000, 0xC2800000)

Encode = Callable[[list[Symbol], Bits], str]


def vmlinux(folder: Path, bits: Bits, encode: Encode, *, dead: int = 0, others: int = 0) -> Path:
    """Build `folder`/vmlinux; `encode` makes the assembly of its kallsyms.

    The table begins with `dead` zeros. `others` functions call __fentry__ and are not in it.
    """
    path = folder / "vmlinux"
    _link(folder, bits, path, _source(bits, dead, others), "")
    _link(folder, bits, path, _source(bits, dead, others), encode(symbols(path), bits))
    return path


def symbols(path: Path) -> list[Symbol]:
    """What nm(1) finds, in order of addresses, without kallsyms itself."""
    listing = subprocess.run(["nm", "-n", path], check=True, capture_output=True, text=True).stdout
    lines = [line.split() for line in listing.splitlines()]
    found = [Symbol(int(vaddr, 16), letter, name) for vaddr, letter, name in lines]
    return [symbol for symbol in found if not symbol.name.startswith("kallsyms_")]


def place(path: Path, name: str) -> int:
    """The file offset of a symbol in .rodata."""
    listing = subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout
    (vaddr,) = [
        int(line.split()[0], 16) for line in listing.splitlines() if line.endswith(f" {name}")
    ]
    return vaddr - _rodata(path)


def _rodata(path: Path) -> int:
    """The address of .rodata less its file offset."""
    command: list[str | Path] = ["readelf", "-SW", path]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (line,) = [line for line in listing.splitlines() if " .rodata " in line]
    address, offset = line.partition("PROGBITS")[2].split()[:2]
    return int(address, 16) - int(offset, 16)


def _link(folder: Path, bits: Bits, path: Path, source: str, kallsyms: str) -> None:
    (folder / "kernel.S").write_text(source)
    (folder / "kallsyms.S").write_text(kallsyms)
    for name in ("kernel", "kallsyms"):
        command: list[str | Path] = [
            "gcc",
            *bits.flags,
            "-c",
            folder / f"{name}.S",
            "-o",
            folder / f"{name}.o",
        ]
        subprocess.run(command, check=True)
    starts = [f"--section-start={name}={vaddr:#x}" for name, vaddr in bits.sections.items()]
    objects = [folder / "kernel.o", folder / "kallsyms.o"]
    link: list[str | Path] = [
        "ld",
        "-m",
        bits.emulation,
        *starts,
        "-e",
        "_text",
        "-o",
        path,
        *objects,
    ]
    subprocess.run(link, check=True, capture_output=True)


def _source(bits: Bits, dead: int, others: int) -> str:
    names = [LONG_NAME, *(f"function_{number}" for number in range(FUNCTIONS))]
    lines = [".globl _text, _stext, _etext, __fentry__", ".text", "_text:", "_stext:"]
    lines += ["__fentry__: ret"]
    for name in names + [f"other_{number}" for number in range(others)]:
        lines += [f"{name}: call __fentry__", "ret"]
    lines += [
        "_etext:",
        '.section .init.text, "ax"',
        ".balign 16",
        "_sinittext: nop",
        "_einittext:",
        ".data",
    ]
    # As that of system calls: functions, each of them where a call is.
    lines += ["functions:", *(f"{bits.directive} function_{number}" for number in range(50, 300))]
    lines += [f"{bits.directive} 1", "__start_mcount_loc:", *[f"{bits.directive} 0"] * dead]
    lines += [f"{bits.directive} {name}" for name in names]
    lines += ["__stop_mcount_loc:", f"{bits.directive} -1"]
    lines += [
        '.section .percpu, "aw"',
        "__per_cpu_start: .skip 64",
        "a_variable: .skip 64",
        "__per_cpu_end:",
    ]
    lines += ['.section .note.GNU-stack, "", @progbits']
    return "\n".join(lines) + "\n"


# --- kallsyms -------------------------------------------------------------------------------------


def encoder(
    *order: str, seqs: bool = False, percpu: bool = False, wide_markers: bool = False
) -> Encode:
    """Make a function that encodes kallsyms, its parts in this order.

    With `percpu` offsets are as kernels have them that link per-CPU variables to 0.
    """

    def encode(listing: list[Symbol], bits: Bits) -> str:
        if not percpu:
            listing = [symbol for symbol in listing if symbol.vaddr >= bits.text]
        base = bits.text
        offsets = [
            symbol.vaddr
            if symbol.vaddr < base
            else base - 1 - symbol.vaddr
            if percpu
            else symbol.vaddr - base
            for symbol in listing
        ]
        parts = {
            "offsets": [f".long {offset}" for offset in offsets],
            "addresses": [f"{bits.directive} {symbol.vaddr:#x}" for symbol in listing],
            "relative_base": [f"{bits.directive} _text"],
            "num_syms": [f".long {len(listing)}"],
            "seqs_of_names": [".byte 0, 1, 2"] * len(listing) if seqs else [],
            **_names(listing, bits.directive if wide_markers else ".long"),
        }
        lines = ['.section .rodata, "a"', f"{bits.directive} 0x5a5a5a5a"]
        for part in order:
            lines += [f".balign {bits.word}", f"kallsyms_{part}:", *parts[part]]
        return "\n".join([*lines, f".balign {bits.word}", ".long 0x5a5a5a5a, 0x5a5a5a5a", ""])

    return encode


def _names(listing: Sequence[Symbol], marker: str) -> dict[str, list[str]]:
    rows = []
    for symbol in listing:
        row = f"{symbol.type}{symbol.name}".encode()
        for code, token in TOKENS.items():
            row = row.replace(token, bytes((code,)))
        size = len(row)
        rows.append(bytes([size] if size < 128 else [size & 127 | 128, size >> 7]) + row)
    used = {*b"".join(f"{symbol.type}{symbol.name}".encode() for symbol in listing)}
    tokens = [TOKENS.get(code, bytes((code,)) if code in used else b"") for code in range(256)]
    sizes = [len(b"".join(rows[:number])) for number in range(0, len(rows), 256)]
    starts = [sum(len(token) + 1 for token in tokens[:code]) for code in range(256)]
    return {
        "names": [f".byte {', '.join(map(str, row))}" for row in rows],
        "markers": [f"{marker} {size}" for size in sizes],
        "token_table": [f'.asciz "{token.decode()}"' for token in tokens],
        "token_index": [f".short {start}" for start in starts],
    }


NAMES = ("num_syms", "names", "markers")
TOKEN_PARTS = ("token_table", "token_index")
OFFSETS = ("offsets", "relative_base")
# As kernels have them, by the version that the order is of.
ORDERS = {
    "4.1": encoder("addresses", *NAMES, *TOKEN_PARTS, wide_markers=True),
    "4.19": encoder(*OFFSETS, *NAMES, *TOKEN_PARTS, wide_markers=True),
    "5.10": encoder(*OFFSETS, *NAMES, *TOKEN_PARTS),
    "5.10-percpu": encoder(*OFFSETS, *NAMES, *TOKEN_PARTS, percpu=True),
    "6.1": encoder(*OFFSETS, *NAMES, "seqs_of_names", *TOKEN_PARTS, seqs=True),
    "6.1-percpu": encoder(*OFFSETS, *NAMES, "seqs_of_names", *TOKEN_PARTS, seqs=True, percpu=True),
    "6.12": encoder(*NAMES, *TOKEN_PARTS, *OFFSETS, "seqs_of_names", seqs=True),
    "6.12-percpu": encoder(*NAMES, *TOKEN_PARTS, *OFFSETS, "seqs_of_names", seqs=True, percpu=True),
}  # fmt: skip


def by_kbuild(folder: Path, listing: list[Symbol], options: Sequence[str]) -> str:
    """Encode by the program that the kernel's build does it with (linux-kbuild)."""
    path = folder / "System.map"
    path.write_text("".join(f"{vaddr:x} {letter} {name}\n" for vaddr, letter, name in listing))
    program = CLOUD / "kbuild" / "scripts" / "kallsyms"
    done = subprocess.run([program, *options, path], check=True, capture_output=True, text=True)
    bits_per_long = (
        "#ifdef __i386__\n#define BITS_PER_LONG 32\n#else\n#define BITS_PER_LONG 64\n#endif"
    )
    return done.stdout.replace("#include <asm/bitsperlong.h>", bits_per_long)


def without(encode: Encode, unwanted: Callable[[Symbol], bool]) -> Encode:
    """Encode all symbols but these."""
    return lambda listing, bits: encode([each for each in listing if not unwanted(each)], bits)


def renamed(encode: Encode, new: Callable[[Symbol], Symbol]) -> Encode:
    """Encode what `new` makes of each symbol."""
    return lambda listing, bits: encode(sorted(map(new, listing)), bits)


# --- images ---------------------------------------------------------------------------------------


def bzimage(payload: bytes, *, sects: int = 4, offset: int = 0x100, version: int = 0x020F) -> bytes:
    """A kernel image with this payload, by the header of Documentation/arch/x86/boot.rst."""
    setup = bytearray(512 * ((sects or 4) + 1))
    setup[0x1F1] = sects
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    setup[0x206:0x208] = struct.pack("<H", version)
    setup[0x248:0x250] = struct.pack("<II", offset, len(payload))
    return bytes(setup) + b"\x90" * offset + payload + b"\x90" * 100
