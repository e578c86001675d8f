"""What looks like a call is one only where an instruction begins.

The assembler says what it made; which relocation types it gives to which fields is its own choice.
"""

import itertools
import random
import subprocess
from pathlib import Path

import capstone
import pytest

from recordmcount import x86_length, x86_plain
from recordmcount.elf import object as elf
from recordmcount.sites import calls, opcodes
from tests.support import command, images
from tests.support.elf_builder import (
    I386,
    STT_FUNC,
    STT_NOTYPE,
    STT_OBJECT,
    X86_64,
    Section,
    Symbol,
    Target,
    build,
)
from tests.support.loc_table import table_entries
from tests.support.objects import Read, found, record_file

BITS = pytest.mark.parametrize("bits", [64, 32])


def assembled(folder: Path, source: str, bits: int, *flags: str) -> Path:
    path = folder / f"{bits}.s"
    path.write_text(source)
    images.tool("as", f"--{bits}", *flags, "-o", path.with_suffix(".o"), path)
    return path.with_suffix(".o")


def function(*lines: str) -> str:
    return "\n".join([".text", ".type f, @function", "f: nop", *lines, " ret", ""])


def operands(bits: int) -> list[str]:
    """Memory operands whose last byte, be it ModRM, SIB or displacement, looks like an opcode."""
    base, index, other = ("rbp", "rbp", "rax") if bits == 64 else ("ebp", "ebp", "eax")
    signed = [0xE8112233 - (1 << 32), 0x15FF1122, 0x93FF1122 - (1 << 32)]
    return [
        f"-24(%{base})", f"-24(%{other},%{index},8)", f"(%{other},%{index},8)", "-24(%esp)",
        *(f"{value}(%{other})" for value in signed),
        *(f"{value}(%{other},%{index},8)" for value in signed),
        f"0x15(%{other.replace('ax', 'di')},%{other.replace('ax', 'di')},8)",
        f"-0x6d(%{other.replace('ax', 'di')},%{other.replace('ax', 'di')},8)",
    ]  # fmt: skip


def with_immediates(bits: int) -> list[str]:
    value = "$mcount - 4 - (. + {})"  # of a call at the right distance: the addend of one
    names = ["mov", "cmp", "add", "or", "adc", "sbb", "and", "sub", "xor", "test"]
    lines = [f"{name}l {value}, {place}" for name in names for place in operands(bits)]
    lines += [f"imul {value}, {place}, %ebp" for place in [*operands(bits), "%eax"]]
    lines += [f"{name} {value}, %eax, %ebp" for name in ("imul", "bextr")]
    return [*lines, f"sub {value}, %eax", f"sub {value}, %ebp", f"cmp {value}, %ecx"]


def with_displacements(bits: int) -> list[str]:
    registers = ("%rax,%rbp", "%rdi,%rdi") if bits == 64 else ("%eax,%ebp", "%edi,%edi")
    value = "mcount - 4 - (. + {})"
    return [
        f"{name} {value}({pair},8){rest}"
        for name, rest in (("mov", ",%eax"), ("mov", ",%cl"), ("lea", ",%ecx"), ("incl", ""),
                           ("movups", ",%xmm5"), ("vaddps", ",%xmm1,%xmm2"), ("fld", ""))
        for pair in registers
    ]  # fmt: skip


def fields(path: Path) -> list[tuple[int, int, int]]:
    """(offset, addend, the two bytes before it) of every relocation of mcount."""
    read = Read(path)
    (text,) = read.named(".text")
    code = text.data()
    return [
        (at, row.entry.get("r_addend", int.from_bytes(code[at : at + 4], "little", signed=True)),
         int.from_bytes(code[at - 2 : at], "little"))
        for row in read.relocations_of(text).iter_relocations()
        for at in [row["r_offset"]]
    ]  # fmt: skip


def at_the_distance_of_a_call(folder: Path, lines: list[str], bits: int) -> Path:
    """Assemble each line so that its relocation has the addend that one of a call has."""
    first = assembled(folder, function(*(line.format(0) for line in lines)), bits)
    shifts = [addend + 4 for _, addend, _ in fields(first)]
    assert len(shifts) == len(lines)
    pairs = zip(lines, shifts, strict=True)
    return assembled(folder, function(*(line.format(shift) for line, shift in pairs)), bits)


@BITS
@pytest.mark.parametrize("make", [with_immediates, with_displacements])
def test_an_instruction_that_ends_like_a_call_is_a_reference(
    make: object, bits: int, tmp_path: Path
) -> None:
    assert callable(make)
    lines = make(bits)
    path = at_the_distance_of_a_call(tmp_path, lines, bits)
    rows = fields(path)
    assert {addend for _, addend, _ in rows} == {-4}
    assert sum(before >> 8 == 0xE8 for _, _, before in rows) >= len(lines) // 4
    result = found(path.read_bytes())
    assert [(site.offset) for site in result] == []
    assert (result.references, result.unsupported) == (len(lines), [])
    before = path.read_bytes()
    assert record_file(path, all_sections=True).err == []
    assert path.read_bytes() == before


@BITS
def test_the_calls_between_them_are_found(bits: int, tmp_path: Path) -> None:
    """Those with a relocation that proves nothing too: i386 assemblers give calls PC32."""
    lines = [*with_immediates(bits), *with_displacements(bits)]
    both = list(itertools.chain(*((line, "call mcount; call mcount") for line in lines)))
    path = assembled(tmp_path, function(*(line.format(0) for line in both)), bits)
    said = subprocess.run(["objdump", "-d", path], check=True, capture_output=True, text=True)
    expected = [
        int(line.split(":")[0], 16)
        for line in said.stdout.splitlines()
        if "\tcall " in line and "\te8 " in line
    ]
    assert len(expected) == 2 * len(lines)
    assert [site.offset for site in found(path.read_bytes())] == expected


@pytest.mark.parametrize(
    ("bits", "line"),
    [(32, "ud0 mcount@GOT(%ebx), %edx"), (32, "movl $mcount@GOT, -0x6d(%edi,%edi,8)"),
     (32, "addl $mcount@GOT, -1828388608(%eax)"), (64, "ud0 mcount@GOTPCREL(%rip), %edx")],
)  # fmt: skip
def test_what_ends_like_a_call_through_the_got_is_a_reference(
    bits: int, line: str, tmp_path: Path
) -> None:
    path = assembled(tmp_path, function(line), bits)
    result = found(path.read_bytes())
    assert (list(result), result.references, result.unsupported) == ([], 1, [])


def test_what_cannot_be_decoded_is_a_warning(tmp_path: Path) -> None:
    path = assembled(tmp_path, function(".byte 0x0f, 0x04", "call mcount"), 32)
    result = found(path.read_bytes())
    assert (list(result), [what for _, _, what in result.unsupported]) == ([], [calls.UNPROVEN])


# --- prefixes -------------------------------------------------------------------------------------

IDLE = {
    64: ["bnd", "cs", "ds", "cs; cs; cs; cs; cs", "addr32", "rex", "rex64", "cs; bnd"],
    32: ["bnd", "cs", "ds", "ss", "ds; ds; ds; ds; ds", "cs; bnd"],
}
PREFIXED = [(bits, each) for bits, prefixes in IDLE.items() for each in prefixes]
CODES = {"bnd": 0xF2, "cs": 0x2E, "ds": 0x3E, "ss": 0x36, "addr32": 0x67, "rex": 0x40,
         "rex64": 0x48}  # fmt: skip


def prefixed(prefixes: str) -> str:
    return "; ".join(f".byte {CODES[each]}" for each in prefixes.split("; "))


@pytest.mark.parametrize("form", ["call mcount", "call *mcount@GOT{}"])
@pytest.mark.parametrize(("bits", "prefixes"), PREFIXED)
def test_an_entry_names_the_first_prefix_of_its_call(
    bits: int, prefixes: str, form: str, tmp_path: Path
) -> None:
    call = form.format("PCREL(%rip)" if bits == 64 else "(%ebx)")
    source = function(f"mov $0x{'2e' * 4},%ecx", f"{prefixed(prefixes)}; {call}", call)
    path = assembled(tmp_path, source, bits)
    assert record_file(path).err == []
    sites = [site.offset for site in table_entries(path)]
    length = (5 if "GOT" not in call else 6) + len(prefixes.split("; "))
    assert sites == [6, 6 + length]
    other = assembled(tmp_path, source.replace(".text", '.section .exit.text,"ax"'), bits)
    assert record_file(other).err == []
    code = Read(other).named(".exit.text")[0].data()
    mode = capstone.CS_MODE_64 if bits == 64 else capstone.CS_MODE_32
    decoded = [*capstone.Cs(capstone.CS_ARCH_X86, mode).disasm(code, 0)]
    assert [each.size for each in decoded] == [1, 5, length, length - len(prefixes.split("; ")), 1]
    assert {each.mnemonic for each in decoded[2:4]} <= {"nop", "lea"}


@pytest.mark.parametrize(
    ("bits", "prefix"), [(64, 0x64), (64, 0x65), (32, 0x64), (32, 0x65), (32, 0x67)]
)
@pytest.mark.parametrize("unknown", ["", ".byte 0x0f, 0x04"])
def test_a_call_whose_operand_a_prefix_moves_is_a_warning(
    unknown: str, bits: int, prefix: int, tmp_path: Path
) -> None:
    """`call *%fs:mcount@GOTPCREL(%rip)` reads another word than the one in the GOT."""
    call = f"call *mcount@GOT{'PCREL(%rip)' if bits == 64 else '(%ebx)'}"
    path = assembled(tmp_path, function(unknown, f".byte {prefix}; {call}"), bits)
    result = found(path.read_bytes())
    expected = calls.UNPROVEN if unknown else calls.CHANGED
    assert ([*result], [what for _, _, what in result.unsupported]) == ([], [expected])


@pytest.mark.parametrize("last", ["$0x2e2e2e2e", "$0x48484848", "$0xf2f2f2f2", "$0x66666666"])
@BITS
def test_the_end_of_the_instruction_before_is_no_prefix(
    bits: int, last: str, tmp_path: Path
) -> None:
    path = assembled(tmp_path, function(f"mov {last}, %ecx", "call mcount"), bits)
    result = found(path.read_bytes())
    if (bits, last) == (32, "$0x66666666"):  # as 16-bit code the same bytes are otherwise
        assert [what for _, _, what in result.unsupported] == [calls.UNPROVEN]
    else:
        assert [site.offset for site in result] == [6]


@pytest.mark.parametrize("register", ["rax", "r10"])
@pytest.mark.parametrize("last", range(0x40, 0x50))
def test_a_call_of_the_large_model_begins_behind_what_looks_like_a_prefix(
    last: int, register: str, tmp_path: Path
) -> None:
    """Its own REX is no prefix before it, whatever the instruction before ends with."""
    call = f"movabs $mcount, %{register}; call *%{register}"
    lines = [f"sub ${last}, %rsp", call, f".byte 0x2e; {call}"]
    path = assembled(tmp_path, function(*lines), 64)
    assert record_file(path).err == []
    length = 12 if register == "rax" else 13
    assert [site.offset for site in table_entries(path)] == [5, 5 + length]


@pytest.mark.matrix
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("flags", ["-mfentry", "", "-O0"])
@pytest.mark.parametrize("section", [".text", ".exit.text"])
def test_calls_of_16_bit_code_are_left_alone(
    section: str, flags: str, compiler: str, tmp_path: Path
) -> None:
    source = f'__attribute__((section("{section}"))) int f(int x) {{ return x; }}'
    path = images.compile_object(
        tmp_path, "real", source, compiler, "-O2", "-m16", "-pg", "-fno-pic", *flags.split()
    )
    before = path.read_bytes()
    done = command.run("recordmcount", path)
    assert (done.status, done.stdout) == (0, "")
    assert calls.CHANGED in done.stderr
    assert path.read_bytes() == before


# --- lengths --------------------------------------------------------------------------------------

# Processors differ about these, and capstone and GNU as: whether ModRM follows; operand sizes.
DISPUTED = ("ud0", "ud1")


@pytest.mark.parametrize(
    ("bits", "mode"),
    [(64, capstone.CS_MODE_64), (32, capstone.CS_MODE_32), (16, capstone.CS_MODE_16)],
)
def test_a_length_is_that_of_a_disassembler_or_unknown(bits: int, mode: int) -> None:
    decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
    chance = random.Random(bits)
    known = unknown = 0
    for _ in range(60_000):
        code = bytearray(chance.randbytes(16))
        code[0] = chance.choice((code[0], code[0], 0x0F, 0x66, 0xC4, 0xC5, 0x62, 0x67, 0x48))
        instruction = next(decoder.disasm(bytes(code), 0, 1), None)
        if instruction is None or instruction.mnemonic in DISPUTED:
            continue
        measured = x86_length.length(bytes(code), 0, bits)
        assert measured in (0, instruction.size), (code.hex(), str(instruction))
        known += measured > 0
        unknown += measured == 0
    assert unknown * 200 < known


PREFIXES = [
    "",
    "2e",
    "3e",
    "64",
    "65",
    "66",
    "67",
    "f0",
    "f2",
    "f3",
    "66f2",
    "f366",
    "662e",
    "66662e",
]


@pytest.mark.parametrize(
    ("bits", "mode"), [(64, capstone.CS_MODE_64), (32, capstone.CS_MODE_32)], ids=["64", "32"]
)
@pytest.mark.parametrize("prefixes", PREFIXES)
def test_what_is_plain_is_an_instruction(prefixes: str, bits: int, mode: int) -> None:
    """Whatever ModRM says: what no processor executes is none, though it could be measured."""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
    chance = random.Random(prefixes)
    plain = 0
    for rex, escape in itertools.product(["", "40", "41", "48", "4c48"], ["", "0f"]):
        for opcode, modrm in itertools.product(range(256), range(0, 256, 8)):
            before = bytes.fromhex(prefixes + rex + escape)
            before += bytes((opcode, modrm + chance.randrange(8)))
            code = before + chance.randbytes(15 - len(before))
            if x86_plain.is_plain(code, 0, bits):
                sizes = [size for _, size, _, _ in decoder.disasm_lite(code, 0, 1)]
                assert x86_length.length(code, 0, bits) in (0, *sizes), code.hex()
                plain += 1
    assert (plain > 20_000) is (prefixes not in ("67", "f0", "66f2", "f366", "662e", "66662e"))
    assert (plain > 0) is (prefixes not in ("67", "66f2", "f366"))


@pytest.mark.parametrize("target", [X86_64, I386], ids=["x86_64", "i386"])
@pytest.mark.parametrize("blocks", [0, 1, 64, 1000], ids="{} blocks".format)
def test_functions_are_found_alike_one_by_one_and_all_at_once(
    blocks: int, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(blocks)
    starts = sorted(chance.sample(range(0, 1 << 17, 16), 60))
    starts += [1 << 18, (1 << 18) + 1, 1 << 24]
    symbols = [Symbol(f"f{start}", ".text", start, type=STT_FUNC) for start in starts]
    other = [
        Symbol("data", ".text", 8, type=STT_OBJECT),
        Symbol("cold", ".text.cold", 24, type=STT_FUNC),
        Symbol("label", ".text", 40, type=STT_NOTYPE),
    ]
    sections = [Section(".text", data=bytes(16)), Section(".text.cold", data=bytes(16))]
    data = build(target, sections, [*symbols, *other]).data
    monkeypatch.setattr(opcodes, "_MOST_BLOCKS", blocks)
    obj = elf.Object("o", len(data), lambda at, size: data[at : at + size])
    known = opcodes.FunctionStarts(obj)
    places = [0, 8, 24, 40, *starts, *(start + chance.randrange(1, 9000) for start in starts)]
    for place in chance.sample(places, len(places)):
        before = [start for start in starts if start <= place]
        assert known.begins(1, place) is (place in starts)
        assert known.last(1, place) == max(before, default=-1)
