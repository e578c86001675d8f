"""A site of a linked file stands where an instruction begins, in a section of its own."""

import random
import subprocess
import sys
from itertools import product
from pathlib import Path

import capstone
import pytest
from elftools.elf.elffile import ELFFile

from recordmcount import x86
from recordmcount.errors import FormatError
from recordmcount.sites import boundaries
from recordmcount.sites import linked as linked_sites
from recordmcount.sites.site import Site
from recordmcount.sites.state import State
from recordmcount.x86_functions import is_prologue
from tests.support import command, images
from tests.support.objects import parsed

INSIDE = "not where an instruction begins"
NO_START = "no symbol or unwind entry tells where its function begins"


def sites_of(path: Path) -> list[Site]:
    return list(linked_sites.read(parsed(path.read_bytes(), "image")))


# --- what compilers put before a call -------------------------------------------------------------

# Frames of every sort: none, large, of variable size, realigned; many and variable arguments.
SOURCE = """
#include <stdarg.h>
extern int printf(const char *, ...);
void use(void *);
int leaf(int x) { return x; }
int large(int x) { char b[200000]; use(b); return b[x]; }
int small(int x) { char b[40]; use(b); return b[x]; }
int variable(int x) { char b[x]; use(b); return b[0]; }
int aligned(int x) { int b[16] __attribute__((aligned(64))); use(b); return b[x]; }
int many(int a, int b, int c, int d, int e, int f, int g, long long h, double i) {
    return a + b + c + d + e + f + g + h + i;
}
int varargs(int n, ...) { va_list v; va_start(v, n); int x = va_arg(v, int); va_end(v); return x; }
struct s { long a[9]; };
struct s by_value(struct s x) { x.a[1]++; return x; }
int says(int x) { return printf("%d", x); }
int cases(int x) { switch (x) { case 1: return 4; case 2: return leaf(x); case 3: return says(x);
    case 4: return small(x); case 5: return 9; default: return large(x); } }
__attribute__((cold, noinline)) int cold(int x) { if (x) __builtin_trap(); return 1; }
void use(void *x) { *(char *)x = cold(0); }
int work(int x) { return cases(x) + aligned(x) + variable(x + 1); }
"""
FLAGS = [
    "-fno-pic", "-fPIC", "-fno-pic -mfentry", "-fno-pic -fcf-protection", "-fno-pic -mstackrealign",
    "-fPIC -fstack-protector-all", "-fno-pic -fstack-clash-protection", "-fPIC -mno-red-zone",
    "-fno-pic -mcmodel=large", "-fno-pic -mfentry -fcf-protection", "-fno-pic -mavx",
    "-fno-pic -mno-omit-leaf-frame-pointer", "-fno-pic -Os",
]  # fmt: skip


@pytest.mark.matrix
@pytest.mark.parametrize("machine", ["-m64", "-m32"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("flags", FLAGS)
def test_whatever_compilers_put_before_a_call_it_is_a_site(
    flags: str, compiler: str, machine: str, tmp_path: Path
) -> None:
    if machine == "-m32":  # gcc -m32 has no large model; without it the flags are others' again
        flags = flags.replace("-mcmodel=large", "-mregparm=2")
    objects = []
    for level in ("-O0", "-O1", "-O2", "-O3"):
        source = SOURCE.replace("work", f"work_{level[2]}")
        words = [machine, "-pg", level, *flags.split()]
        one = images.compile_object(tmp_path, f"code{level}", source, compiler, *words)
        objects.append(one)
    assert command.call("recordmcount", *objects).status == 0
    main = images.compile_object(tmp_path, "main", "int main(void) { return 0; }", "gcc", machine)
    own = images.compile_object(tmp_path, "own", images.COUNTER, "gcc", machine, "-fPIC")
    program = tmp_path / "program"
    link = [machine, "-no-pie", "-z", "muldefs"]
    images.tool("gcc", *link, "-o", program, main, own, *objects)
    assert_all_are_sites(program, 4 * 13)
    # Then unwind entries alone tell where functions begin.
    images.tool("objcopy", "-w", "--strip-symbol=!m*count", "--strip-symbol=!__f*", program)
    assert_all_are_sites(program, 4 * 13)


def assert_all_are_sites(program: Path, least: int) -> None:
    sites = sites_of(program)
    assert len(sites) >= least
    assert {site.state for site in sites} == {State.CALL}
    before = program.read_bytes()
    assert command.call("patcher", "nop", "-q", program) == (0, "", "")
    assert {site.state for site in sites_of(program)} == {State.NOP}
    assert command.call("patcher", "call", "-q", program) == (0, "", "")
    assert program.read_bytes() == before


MODES = {x86.EM_X86_64: capstone.CS_MODE_64, x86.EM_386: capstone.CS_MODE_32}


@pytest.mark.parametrize("machine", MODES)
def test_prologues_that_are_known_are_whole_instructions(machine: int) -> None:
    chance = random.Random(2012)
    decoder = capstone.Cs(capstone.CS_ARCH_X86, MODES[machine])
    known = 0
    for first, second in product(range(256), repeat=2):
        rest = bytes(chance.randrange(256) for _ in range(8))
        for length in range(1, 8):
            code = (bytes((first, second)) + rest)[:length]
            if is_prologue(machine, code):
                known += 1
                assert sum(size for _, size, _, _ in decoder.disasm_lite(code, 0)) == length
    assert known > 256


# What stands before a function's calls: nothing, what compilers put there, and other code: the last
# is movabs $imm64, %rax, with the bytes of a call as far from the start as behind an endbr64.
BEFORE = (
    "", "endbr64", "push %rbp; mov %rsp, %rbp", "push %rbx", "xor %eax, %eax",
    ".byte 0x48, 0xb8, 0, 0, 0xe8; .long mcount - . - 4; .byte 0",
)  # fmt: skip
MANY = """
    .globl f{number}
    .type f{number}, @function
f{number}:
    {before}
    call mcount
    cmp $5, %edi
    call mcount
    .byte 0x48, 0xb8    # movabs $imm64, %rax
    .byte 0x53, 0xe8    # as if there were a push before the call
    .long mcount - . - 4
    .byte 0, 0
    ret
    .size f{number}, . - f{number}
"""


def test_of_many_sites_each_is_proven_by_what_is_before_it(tmp_path: Path) -> None:
    """Those behind the usual prologues are proven together, and the others one by one."""
    functions = [MANY.format(number=n, before=BEFORE[n % 6]) for n in range(198)]
    mcount = "    .globl mcount\n    .type mcount, @function\nmcount:\n    ret\n"
    source = f'.text\n{mcount}{"".join(functions)}.section .note.GNU-stack, "", @progbits\n'
    (tmp_path / "many.s").write_text(source)
    images.tool("gcc", "-c", tmp_path / "many.s", "-o", tmp_path / "many.o")
    assert command.call("recordmcount", tmp_path / "many.o") == (0, "", "")
    main = images.compile_object(tmp_path, "main", "int main(void) { return 0; }", "gcc")
    program = tmp_path / "many"
    images.tool("gcc", "-no-pie", "-o", program, tmp_path / "many.o", main)
    before = [site.position for site in sites_of(program)]
    assert (len(before), {site.state for site in sites_of(program)}) == (396, {State.CALL})
    # Instead of some calls the constants' are named: of the last sort, and behind second calls.
    moved = [{10: -6, 1: 8, 7: 8}.get(number % 12, 0) for number in range(len(before))]
    forged = {place + by: bool(by) for place, by in zip(before, moved, strict=True)}
    offset, _, _ = images.section(program, "__mcount_loc")
    images.write(program, offset, b"".join(place.to_bytes(8, "little") for place in forged))
    assert {site.position: site.reason for site in sites_of(program)} == {
        place: INSIDE if is_forged else "" for place, is_forged in forged.items()
    }


def test_a_prologue_in_which_another_function_begins_proves_nothing(tmp_path: Path) -> None:
    """Neither alone, nor where others like it are proven together: to the other one it is data."""
    before = ".byte 0x48, 0x81, 0xec, 0x90, 0x90, 0x90, 0xb8    # sub $0xb8909090, %rsp"
    code = [MANY.format(number=number, before=before) for number in range(9)]
    code[5] += "    .type inside, @function\n    .set inside, f5 + 3    # nops; mov $imm32, %eax\n"
    mcount = "    .globl mcount\n    .type mcount, @function\nmcount:\n    ret\n"
    source = f'.text\n{mcount}{"".join(code)}.section .note.GNU-stack, "", @progbits\n'
    path = forge(tmp_path, source)
    first = [site.reason for site in sites_of(path)][::2]
    assert first == [INSIDE if number == 5 else "" for number in range(9)]


# --- forged files ---------------------------------------------------------------------------------

# A constant whose bytes are those of a call of mcount, and one in data that nothing executes.
CONSTANT = """
    .text
    .globl work, mcount
    .type work, @function
    .type mcount, @function
work:
    push %rbp
    mov %rsp, %rbp
    call mcount
    .byte 0x48, 0xb8    # movabs $imm64, %rax
constant_at = .
    .byte 0xe8
    .long mcount - . - 4
    .byte 0, 0, 0
    pop %rbp
    ret
    .size work, . - work
mcount:
    ret
    .size mcount, . - mcount
    .globl constant
    .set constant, constant_at
    .section .rodata, "a", @progbits
    .byte 0, 0, 0, 0, 0, 0, 0, 0
    .byte 0xe8
    .long mcount - . - 4
    .byte 0, 0, 0
    .section .note.GNU-stack, "", @progbits
"""


@pytest.fixture
def forged(tmp_path: Path) -> Path:
    return forge(tmp_path, CONSTANT)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """It has an instruction before the constant that only a disassembler knows."""
    movabs = "    .byte 0x48"
    return forge(tmp_path, CONSTANT.replace(movabs, f"    vmread %rbx, %rbp\n{movabs}"))


def forge(tmp_path: Path, source: str) -> Path:
    """A program with such constants; its table has one entry, that of `work`."""
    (tmp_path / "code.s").write_text(source.replace(".globl constant", ".local constant"))
    images.tool("gcc", "-c", tmp_path / "code.s", "-o", tmp_path / "code.o")
    assert command.call("recordmcount", tmp_path / "code.o") == (0, "", "")
    main = images.compile_object(tmp_path, "main", "int main(void) { return 0; }", "gcc")
    link = [
        "-no-pie",
        "-Wl,-z,noseparate-code",
    ]  # .rodata and the headers are in the code's segment
    images.tool("gcc", *link, "-o", tmp_path / "forged", tmp_path / "code.o", main)
    images.tool("objcopy", "-N", "constant", "-N", "constant_at", tmp_path / "forged")
    return tmp_path / "forged"


def name(path: Path, vaddr: int) -> None:
    """Have the table name another address."""
    offset, _, size = images.section(path, "__mcount_loc")
    assert size == 8
    images.write(path, offset, vaddr.to_bytes(8, "little"))


def header(path: Path, section: str) -> int:
    """The file offset of a section's header."""
    with path.open("rb") as stream:
        file = ELFFile(stream)
        (index,) = [i for i, s in enumerate(file.iter_sections()) if s.name == section]
        return int(file["e_shoff"] + index * file["e_shentsize"])


def assert_refused(path: Path, reason: str) -> None:
    before = path.read_bytes()
    (site,) = sites_of(path)
    assert (site.state, site.reason, site.call) == (State.FOREIGN, reason, None)
    done = command.call("patcher", "nop", path)
    assert (done.status, done.stderr.count("\n")) == (1, 1)
    assert path.read_bytes() == before


@pytest.mark.parametrize("few", [0, 2, boundaries.FEW])
@pytest.mark.parametrize("stripped", [False, True])
def test_a_call_inside_of_a_constant_is_no_site(
    stripped: bool, few: int, forged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever decodes the instructions before it: capstone those behind the first few."""
    monkeypatch.setattr(boundaries, "FEW", few)
    (site,) = sites_of(forged)
    assert site.state is State.CALL
    name(forged, site.position + 7)
    if stripped:
        images.tool("objcopy", "-N", "work", forged)
    assert_refused(forged, INSIDE)


# Bytes that could be measured as instructions, of which no processor executes one: lea and far call
# of a register, mov with a reg field that is not 0, x87, 0f, lock, VEX, EVEX, XOP.
NONE = [
    "8dc0", "ffd8", "c6f900", "d9d1", "0f36c0", "0f71c000", "f090", "f00fafc0", "c5f836c0",
    "62f17c0836c0", "8fe978fec0",
]  # fmt: skip


@pytest.mark.parametrize("code", NONE)
def test_a_call_in_data_behind_what_is_no_instruction_is_no_site(code: str, tmp_path: Path) -> None:
    data = ", ".join(f"{each:#04x}" for each in bytes.fromhex(code))
    before = "    .byte 0x48, 0xb8    # movabs $imm64, %rax\n"
    path = forge(tmp_path, CONSTANT.replace(before, f"    pop %rbp\n    ret\n    .byte {data}\n"))
    (site,) = sites_of(path)
    name(path, site.position + 7 + len(code) // 2)
    assert_refused(path, INSIDE)


@pytest.mark.parametrize("code", ["0x0f, 0xff", "0x0f, 0xb9"])
def test_a_site_behind_an_undefined_instruction_is_one(code: str, tmp_path: Path) -> None:
    """As Linux 4.12 to 4.15 spells it, without ModRM."""
    call = "    call mcount\n"
    path = forge(tmp_path, CONSTANT.replace(call, f"    .byte {code}\n{call}"))
    (site,) = sites_of(path)
    assert site.state is State.CALL


PROGRAMS = [("patcher", "status"), ("recordmcount", "report")]


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_a_site_is_decoded_however_python_was_started(program: tuple[str, str], odd: Path) -> None:
    """With -S it has not looked for what is installed."""
    (site,) = sites_of(odd)
    name(odd, site.position + 10)
    main = command.ROOT / program[0] / "__main__.py"
    words = [sys.executable, "-I", "-S", str(main), program[1], str(odd)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.stderr == ""
    assert INSIDE in done.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_without_a_disassembler_a_file_in_doubt_is_an_error(
    program: tuple[str, str], odd: Path, tmp_path: Path
) -> None:
    (site,) = sites_of(odd)
    name(odd, site.position + 10)
    (tmp_path / "capstone.py").write_text("raise ImportError('no capstone')\n")
    start = f"import sys; sys.path[:0] = {[str(tmp_path), str(command.ROOT)]}; "
    start += f"from {program[0]}.cli import main; sys.exit(main({[program[1], str(odd)]}))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", start], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{odd}: no capstone\n"


def test_data_in_a_section_that_is_called_code_is_no_site(forged: Path) -> None:
    offset, vaddr, size = images.section(forged, ".rodata")
    name(forged, vaddr + forged.read_bytes()[offset : offset + size].index(b"\xe8"))
    with pytest.raises(FormatError, match="is not in an executable section"):
        sites_of(forged)
    images.write(forged, header(forged, ".rodata") + 8, b"\x06")  # SHF_ALLOC, SHF_EXECINSTR
    assert_refused(forged, NO_START)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ((0x40_0000, 0, 64), "the ELF header and section "),
        ((0x40_0040, 64, 56), "the program headers and section "),
    ],
)
def test_a_section_over_the_headers_is_refused(
    over: tuple[int, int, int], message: str, forged: Path
) -> None:
    place = b"".join(each.to_bytes(8, "little") for each in over)
    images.write(forged, header(forged, ".init") + 16, place)
    before = forged.read_bytes()
    with pytest.raises(FormatError, match=f"^image: {message}[0-9]+ overlap at file offset 0x"):
        sites_of(forged)
    done = command.call("patcher", "nop", forged)
    assert (done.status, done.stderr.count("\n"), forged.read_bytes()) == (1, 1, before)


@pytest.mark.parametrize(("field", "where"), [(16, "address"), (24, "file offset")])
def test_sections_over_each_other_are_refused(field: int, where: str, forged: Path) -> None:
    offset, vaddr, _ = images.section(forged, ".text")
    value = vaddr if where == "address" else offset
    images.write(forged, header(forged, ".fini") + field, (value + 2).to_bytes(8, "little"))
    with pytest.raises(FormatError, match=rf"overlap at {where} 0x[0-9a-f]+$"):
        sites_of(forged)


def test_a_site_in_a_file_that_tells_of_no_function_is_doubtful(tmp_path: Path) -> None:
    """Neither symbols nor unwind entries: nothing is known to be an instruction."""
    flags = ["-pg", "-fPIC", "-fno-asynchronous-unwind-tables", "-fvisibility=hidden"]
    work = images.compile_object(tmp_path, "work", images.WORK, "gcc", *flags)
    assert command.call("recordmcount", "--pic", work) == (0, "", "")
    library = tmp_path / "library.so"
    images.tool("gcc", "-shared", "-nostdlib", "-o", library, work, "-lc")
    assert {site.state for site in sites_of(library)} == {State.CALL}
    images.tool("strip", "-R", ".eh_frame", library)
    assert {(site.state, site.reason) for site in sites_of(library)} == {(State.FOREIGN, NO_START)}
