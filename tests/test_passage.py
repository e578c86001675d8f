"""A site in two pages is written one page at a time; all that stands there meanwhile is harmless.

Capstone judges what a processor would do with each code on the way.
"""

from itertools import pairwise

import capstone
import pytest
from capstone import x86

from recordmcount.x86_passage import halfway, passage

RIP_RELATIVE = "ff 15 f0 2f 00 00"
SITES = {
    "call": ("e8 11 22 33 44", "0f 1f 44 00 01"),
    "call behind addr32": ("67 e8 11 22 33 44", "66 0f 1f 44 00 01"),
    "call behind bnd": ("f2 e8 11 22 33 44", "66 0f 1f 44 01 01"),
    "call through a slot": (RIP_RELATIVE, "66 0f 1f 44 00 01"),
    "call through a slot, large": ("ff 15 e8 ff ff ff", "66 0f 1f 44 00 7f"),
    "call behind cs": ("2e ff 15 f0 2f 00 00", "2e 66 0f 1f 44 00 01"),
    "movabs": ("49 ba 11 22 33 44 55 66 77 88 41 ff d2", "66 66 66 66 2e 0f 1f 84 00 01 02 00 00"),
}
PAIRS = [
    (bytes.fromhex(one), bytes.fromhex(other), split)
    for call, nop in SITES.values()
    for one, other in ((call, nop), (nop, call))
    for split in range(1, len(bytes.fromhex(call)))
]
# What writes nothing but flags.
HARMLESS = {"nop", "test", "cmp", "clc"}
disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
disassembler.detail = True


def is_harmless(code: bytes) -> bool:
    """Whether execution of `code` comes to its end without effect on anything but flags.

    What is read must be what the call reads: the slot behind the instruction pointer.
    """
    at = 0
    while at < len(code):
        instruction = next(disassembler.disasm(code[at:], 0), None)
        if instruction is None:
            return False
        if instruction.mnemonic == "jmp":
            return int(instruction.operands[0].imm) == len(code)
        reads = [each for each in instruction.operands if each.type == x86.X86_OP_MEM]
        is_nop = instruction.mnemonic.removeprefix("data16 ") == "nop"
        if instruction.mnemonic.split()[-1] not in HARMLESS:
            return False
        if reads and not is_nop and any(each.mem.base != x86.X86_REG_RIP for each in reads):
            return False
        at += instruction.size
    return True


@pytest.mark.parametrize(("old", "new", "split"), PAIRS)
def test_every_code_on_the_way_is_harmless_and_changes_one_page(
    old: bytes, new: bytes, split: int
) -> None:
    way = passage(old, new, split)
    assert way[-1] == new
    for before, code in pairwise([old, *way]):
        assert len(code) == len(old)
        assert (before[:split] == code[:split]) != (before[split:] == code[split:])
    assert all(map(is_harmless, way[:-1])), [each.hex(" ") for each in way]


@pytest.mark.parametrize(("old", "new", "split"), PAIRS)
def test_who_was_stopped_on_the_way_can_go_on_or_back(old: bytes, new: bytes, split: int) -> None:
    for code in halfway(old, new, split):
        for goal in (old, new):
            way = passage(code, goal, split)
            assert way[-1] == goal
            for before, each in pairwise([code, *way]):
                assert (before[:split] == each[:split]) != (before[split:] == each[split:])
            assert all(map(is_harmless, way[:-1]))


def test_what_changes_in_one_page_is_written_at_once() -> None:
    assert passage(b"\xe8\x01\x02\x03\x04", b"\xe8\x01\x02\x03\x05", 2) == [b"\xe8\x01\x02\x03\x05"]
    assert passage(b"same!", b"same!", 2) == []
