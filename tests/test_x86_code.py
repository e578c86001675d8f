"""The code that patcher writes: to assemblers, to disassemblers, and to the processor."""

import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from capstone import x86_const
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from recordmcount import x86, x86_code, x86_linked, x86_nops
from recordmcount.x86_object_nops import object_nops
from tests.support import images
from tests.support.assembly import MACHINES, assembled, instructions, only_instruction

LENGTHS = range(1, 16)


# --- NOPs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", x86_nops.NOP_FAMILIES)
def test_there_is_a_nop_of_every_length_an_instruction_can_have(family: str) -> None:
    nops = x86_nops.NOP_FAMILIES[family]
    assert {length: len(nop) for length, nop in nops.items()} == {n: n for n in LENGTHS}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("family", ["p6", "k8"])
def test_a_nop_is_one_instruction_without_effect(family: str, length: int, machine: int) -> None:
    nop = only_instruction(machine, x86_nops.NOP_FAMILIES[family][length])
    assert nop.id == x86_const.X86_INS_NOP
    _, written = nop.regs_access()
    assert written == []


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("length", LENGTHS[1:])
def test_a_jump_in_place_of_a_nop_leads_behind_bytes_that_keep_a_decoder_in_step(
    length: int, machine: int
) -> None:
    jump, *skipped = instructions(machine, x86_nops.JUMP_NOPS[length])
    assert (jump.id, jump.operands[0].imm) == (x86_const.X86_INS_JMP, length)
    assert [each.id for each in skipped] == [x86_const.X86_INS_NOP] * (length - 2)


RECOMMENDED = {
    1: "nop",
    2: "xchg %ax,%ax",
    3: "nopl (%rax)",
    4: "nopl 0x0(%rax)",
    5: "nopl 0x0(%rax,%rax,1)",
    6: "nopw 0x0(%rax,%rax,1)",
    7: "nopl 0x0(%rax)",
    8: "nopl 0x0(%rax,%rax,1)",
    9: "nopw 0x0(%rax,%rax,1)",
    **{length: "data16 " * (length - 10) + "cs nopw 0x0(%rax,%rax,1)" for length in LENGTHS[9:]},
}


@pytest.mark.parametrize("length", LENGTHS)
def test_a_recommended_nop_reads_as_its_assembly(length: int, tmp_path: Path) -> None:
    """By objdump: keystone 0.9.2 makes `0f 18 /4` of `nopl`, and drops a displacement of zero."""
    assert listed(x86_nops.NOPS[length], tmp_path) == [RECOMMENDED[length]]


def test_padding_by_gas_is_these_nops(tmp_path: Path) -> None:
    source, binary = tmp_path / "nops.s", tmp_path / "nops.o"
    longest = 11  # of what gas makes one instruction of
    source.write_text("".join(f".nops {length}; ret\n" for length in range(1, longest + 1)))
    subprocess.run(["as", "--64", "-o", binary, source], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", binary], check=True)
    nops = [x86_nops.NOPS[length] for length in range(1, longest + 1)]
    assert binary.read_bytes() == b"".join(nop + b"\xc3" for nop in nops)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_assembler_makes_the_nops_that_are_older_than_nopl(length: int, machine: int) -> None:
    assert assembled(machine, "data16; " * (length - 1) + "nop") == x86_nops.K8_NOPS[length]
    jump = f"jmp {length:#x}; " + "nop; " * (length - 2) if length > 1 else "nop"
    assert assembled(machine, jump) == x86_nops.JUMP_NOPS[length]


def test_sites_are_turned_into_recommended_nops() -> None:
    sites = {form.length: form.nop for form in (x86.CALL, x86.CALL_GOT, *x86.CALL_ABS)}
    assert sites == {length: x86_nops.NOPS[length] for length in (5, 6, 12, 13)}


def listed(code: bytes, folder: Path) -> list[str]:
    """The instructions of 64-bit code, as objdump has them."""
    binary = folder / "code"
    binary.write_bytes(code)
    listing = subprocess.run(
        ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "--no-show-raw-insn", binary],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    lines = re.findall(r"^ +[0-9a-f]+:\s+(.*)$", listing, re.MULTILINE)
    return [" ".join(line.split()) for line in lines]


# --- calls and jumps ------------------------------------------------------------------------------

BITS = {x86.EM_386: 32, x86.EM_X86_64: 64}
USER_END, KERNEL_START = 1 << 47, (1 << 64) - (1 << 47)  # of canonical addresses
PLACES = {
    x86.EM_386: st.integers(0, (1 << 32) - 13),
    x86.EM_X86_64: st.integers(0, USER_END - 13) | st.integers(KERNEL_START, (1 << 64) - 13),
}
EDGES = st.integers(-20, 20).flatmap(
    lambda more: st.sampled_from([0, 1 << 31, -1 << 31]).map(more.__add__)
)


@st.composite
def branches(draw: st.DrawFn) -> tuple[int, int, int]:
    """(machine, address, target), the latter often about as far away as a branch can reach."""
    machine = draw(st.sampled_from(MACHINES))
    address = draw(PLACES[machine])
    target = draw(PLACES[machine] | EDGES.map(address.__add__).filter(partial(holds, machine)))
    return machine, address, target


def holds(machine: int, address: int) -> bool:
    """Whether the machine has this address."""
    if machine == x86.EM_386:
        return 0 <= address < 1 << 32
    return 0 <= address < USER_END or KERNEL_START <= address < 1 << 64


def reaches(machine: int, end: int, target: int) -> bool:
    """Whether a signed operand of 32 bits, which counts from `end`, can name the target."""
    return machine == x86.EM_386 or -1 << 31 <= target - end < 1 << 31


def target_by_capstone(machine: int, address: int, code: bytes) -> int:
    """Where `code` leads: a branch, or a load of a register and a call of the same one."""
    *loads, branch = instructions(machine, code, address)
    if not loads:
        return int(branch.operands[0].imm) % (1 << BITS[machine])
    (load,) = loads
    assert load.operands[0].reg == branch.operands[0].reg
    return int(load.operands[1].imm) % (1 << 64)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_call_can_be_as_long_as_any_site(machine: int) -> None:
    forms = [form for by_type in x86.CALL_FORMS[machine].values() for form in by_type]
    assert {form.length for form in forms} == x86_code.CALL_LENGTHS[machine]


@given(branches())
def test_a_call_is_made_if_it_reaches_and_leads_to_its_target(branch: tuple[int, int, int]) -> None:
    machine, address, target = branch
    for length in x86_code.CALL_LENGTHS[machine]:
        code = x86_code.call(address, target, length, machine)
        reached = length > 6 or reaches(machine, address + length, target)
        assert (code is not None) == reached
        if code is not None:
            assert len(code) == length
            assert instructions(machine, code)[-1].id == x86_const.X86_INS_CALL
            assert target_by_capstone(machine, address, code) == target


@given(branches())
def test_a_jump_is_made_if_it_reaches_and_leads_to_its_target(branch: tuple[int, int, int]) -> None:
    machine, address, target = branch
    code = x86_code.jump(address, target, machine)
    assert (code is not None) == reaches(machine, address + x86_code.JUMP_LENGTH, target)
    if code is not None:
        assert len(code) == x86_code.JUMP_LENGTH
        assert only_instruction(machine, code).id == x86_const.X86_INS_JMP
        assert target_by_capstone(machine, address, code) == target


@given(branches())
def test_the_assembler_makes_the_same_calls_and_jumps(branch: tuple[int, int, int]) -> None:
    machine, address, target = branch
    spellings = [
        (x86_code.call(address, target, 5, machine), f"call {target:#x}"),
        (x86_code.call(address, target, 6, machine), f".byte 0x67; call {target:#x}"),
    ]
    if abs(target - address) > 1 << 8:  # or it may take the short jump
        spellings.append((x86_code.jump(address, target, machine), f"jmp {target:#x}"))
    if machine == x86.EM_X86_64:
        for length, name in ((12, "rax"), (13, "r10")):
            text = f"movabs ${target:#x}, %{name}; call *%{name}"
            spellings.append((x86_code.call(address, target, length), text))
    for code, text in spellings:
        if code is not None:
            assert assembled(machine, text, address) == code


SITE = 0x7F00_0000_0000


@pytest.mark.parametrize(
    ("make", "first", "last"),
    [
        (partial(x86_code.call, length=5), SITE + 5 - (1 << 31), SITE + 5 + (1 << 31) - 1),
        (partial(x86_code.call, length=6), SITE + 6 - (1 << 31), SITE + 6 + (1 << 31) - 1),
        (partial(x86_code.call, length=12), 0, USER_END - 1),
        (partial(x86_code.call, length=13), 0, USER_END - 1),
        (x86_code.jump, SITE + 5 - (1 << 31), SITE + 5 + (1 << 31) - 1),
    ],
    ids=["call 5", "call 6", "call 12", "call 13", "jump"],
)
def test_the_first_and_the_last_target_in_reach(
    make: Callable[[int, int], bytes | None], first: int, last: int
) -> None:
    assert make(SITE, first - 1) is None
    assert make(SITE, first) is not None
    assert make(SITE, last) is not None
    assert make(SITE, last + 1) is None


def test_32_bit_code_reaches_everything_by_wrapping_around() -> None:
    top = (1 << 32) - 16
    assert x86_code.call(top, 0, machine=x86.EM_386) == bytes.fromhex("e80b000000")
    assert x86_code.call(0, top, machine=x86.EM_386) == bytes.fromhex("e8ebffffff")
    assert x86_code.call(5, 1 << 31, machine=x86.EM_386) == bytes.fromhex("e8f6ffff7f")
    assert x86_code.call(5, (1 << 31) + 10, machine=x86.EM_386) == bytes.fromhex("e800000080")


@pytest.mark.parametrize(
    ("machine", "wrong"),
    [
        (x86.EM_386, -1),
        (x86.EM_386, 1 << 32),
        (x86.EM_X86_64, -1),
        (x86.EM_X86_64, USER_END),
        (x86.EM_X86_64, KERNEL_START - 1),
        (x86.EM_X86_64, 1 << 64),
    ],
)
def test_what_is_no_address_is_out_of_reach_from_everywhere(machine: int, wrong: int) -> None:
    for place in {0, 1 << 31, wrong - 13, wrong + 13}:
        for length in x86_code.CALL_LENGTHS[machine]:
            assert x86_code.call(place, wrong, length, machine) is None
            assert x86_code.call(wrong, place, length, machine) is None
        assert x86_code.jump(place, wrong, machine) is None
        assert x86_code.jump(wrong, place, machine) is None


@pytest.mark.parametrize("end", [1 << 47, 1 << 64])
def test_a_site_that_does_not_end_among_addresses_has_no_call(end: int) -> None:
    for length in x86_code.CALL_LENGTHS[x86.EM_X86_64]:
        assert x86_code.call(end - length, end - 64, length) is not None
        assert x86_code.call(end - length + 1, end - 64, length) is None


@pytest.mark.parametrize("machine", MACHINES)
def test_a_length_that_no_call_has_is_a_mistake_of_the_caller(machine: int) -> None:
    for length in {*range(20)} - {*x86_code.CALL_LENGTHS[machine]}:
        with pytest.raises(ValueError, match=f"no call is {length} bytes long"):
            x86_code.call(0, 0, length, machine)


@pytest.mark.parametrize("form", x86.CALL_ABS, ids=lambda form: form.prefix.hex())
def test_another_absolute_call_goes_through_the_register_of_the_one_before(
    form: x86.CallForm,
) -> None:
    old = form.prefix + (0x1234).to_bytes(8, "little") + form.suffix
    new = form.prefix + (0x5678).to_bytes(8, "little") + form.suffix
    assert x86_code.call_like(old, SITE, 0x5678) == new
    assert x86_code.call_like(old, SITE, USER_END) is None


@pytest.mark.parametrize("old", ["e800000000", "67e800000000", "90e800000000", "ff1500000000"])
def test_any_other_call_is_made_anew_in_as_many_bytes(old: str) -> None:
    code = bytes.fromhex(old)
    assert x86_code.call_like(code, SITE, SITE + 99) == x86_code.call(SITE, SITE + 99, len(code))
    assert x86_code.call_like(code, SITE, 0) is None


def site_codes(machine: int) -> list[bytes]:
    """Everything that may stand at a site, with some operand."""
    linked = x86_linked.linked_calls(machine)
    calls = [call for form in linked if (call := form.spell(0x11223344))]
    nops = [nop for family in x86_nops.NOP_FAMILIES.values() for nop in family.values()]
    jumps = [x86_code.JUMP + bytes(4), x86_nops.SHORT_JUMP + bytes(1)]
    return [
        *calls,
        *nops,
        *jumps,
        *[form.nop_with(7) for form in linked],
        *object_nops(machine),
    ]


@pytest.mark.parametrize("machine", MACHINES)
def test_the_first_instruction_of_a_site_is_as_long_as_a_disassembler_says(machine: int) -> None:
    for code in site_codes(machine):
        first = instructions(machine, code)[0]
        skipped = code[1] if code.startswith(x86_nops.SHORT_JUMP) else 0
        assert x86_code.first_instruction(code) == first.size + skipped, code.hex()


@pytest.mark.parametrize("code", ["", "66", "cc00000000", "0f1fff", "660f", "eb", "c3", "4889e5"])
def test_what_never_stands_at_a_site_has_no_known_first_instruction(code: str) -> None:
    assert x86_code.first_instruction(bytes.fromhex(code)) == 0


def test_the_counter_is_read_by_what_the_assembler_makes_of_its_text() -> None:
    text = "rdtsc; shl $0x20, %rdx; or %rdx, %rax; ret"
    assert assembled(x86.EM_X86_64, text) == x86_code.READ_COUNTER


# --- executed -------------------------------------------------------------------------------------

PROGRAM = """
    .globl main
    near: mov $43, %eax
          ret
    .zero 32
    main: mov $1, %eax
    site: .skip 128, 0x90
          ret
    far:  mov $42, %eax
          ret
    .section .note.GNU-stack
"""
FLAGS = {x86.EM_386: "-m32", x86.EM_X86_64: "-m64"}


class Executable:
    """A program that returns 1 unless code at `site` says otherwise: `far` returns 42, `near` 43.

    Its addresses are link-time virtual ones, and as it is position-dependent, run-time ones too.
    """

    def __init__(self, folder: Path, machine: int) -> None:
        source, self.path = folder / "program.S", folder / "program"
        source.write_text(PROGRAM)
        images.tool("gcc", FLAGS[machine], "-no-pie", "-o", self.path, source)
        self.machine = machine
        self.site, self.far, self.near = (
            images.symbol(self.path, name) for name in ("site", "far", "near")
        )

    def run(self, code: bytes | None) -> int:
        """The exit status with this code at the site."""
        assert code is not None
        with self.path.open("rb") as stream:
            (offset,) = ELFFile(stream).address_offsets(self.site, len(code))
        images.write(self.path, offset, code)
        return subprocess.run([self.path], check=False).returncode


@pytest.fixture(params=MACHINES)
def executable(request: pytest.FixtureRequest, tmp_path: Path) -> Executable:
    return Executable(tmp_path, request.param)


@pytest.mark.parametrize("family", x86_nops.NOP_FAMILIES)
def test_all_nops_of_a_family_one_after_another_are_executed_as_nothing(
    executable: Executable, family: str
) -> None:
    assert executable.run(b"".join(x86_nops.NOP_FAMILIES[family].values())) == 1


def test_a_call_of_any_length_is_executed_as_one(executable: Executable) -> None:
    site, machine = executable.site, executable.machine
    for length in x86_code.CALL_LENGTHS[machine]:
        nops = b"\x90" * (13 - length)  # in place of what is left of a longer one
        for target, status in ((executable.near, 43), (executable.far, 42)):
            code = x86_code.call(site, target, length, machine)
            assert code is not None
            assert executable.run(code + nops) == status


def test_a_jump_is_executed_as_one(executable: Executable) -> None:
    site, machine = executable.site, executable.machine
    assert executable.run(x86_code.jump(site, executable.far, machine)) == 42
    assert executable.run(x86_code.jump(site, executable.near, machine)) == 43
