"""A site in two pages is written one page at a time; all that stands there meanwhile is harmless.

Capstone judges what a processor would do with each code on the way.
"""

from itertools import chain, pairwise, permutations

import capstone
import pytest
from capstone import x86

from recordmcount.x86 import EM_X86_64
from recordmcount.x86_code import RELATIVE_CALLS, sled_call
from recordmcount.x86_nops import nop_ends, parted_nops
from recordmcount.x86_passage import halfway, is_halfway, is_halfway_to_call, passage

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


# --- sleds ----------------------------------------------------------------------------------------

# What gcc and clang leave, up to the end of the NOP in which a call ends.
SLEDS = {
    "gcc": "90 90 90 90 90",
    "clang, 5": "0f 1f 44 00 08",
    "clang, 6": "66 0f 1f 44 00 08",
    "clang, 7": "0f 1f 80 00 02 00 00",
    "clang, 8": "0f 1f 84 00 00 02 00 00",
    "clang, 9": "66 0f 1f 84 00 00 02 00 00",
    "clang, 10": "2e 66 0f 1f 84 00 00 02 00 00",
    "clang, i386": "66 90 66 90 90",
    "clang, i386, 6": "66 90 66 90 66 90",
    "by hand": "90 0f 1f 80 00 00 00 00",
}
CALLS = [0x1000, 0x7FFF0000, 0x3E84002]  # their operands look like anything
WAYS = [
    (bytes.fromhex(sled), made, split)
    for sled in SLEDS.values()
    for target in CALLS
    if (made := sled_call(0x2000, target, len(bytes.fromhex(sled)), EM_X86_64))
    for split in range(1, len(bytes.fromhex(sled)))
]


@pytest.mark.parametrize("sled", SLEDS.values())
def test_a_sled_is_whole_nops_and_so_is_what_is_behind_its_call(sled: str) -> None:
    code = bytes.fromhex(sled)
    assert nop_ends(code)[-1] == len(code)
    made = sled_call(0x2000, 0x1000, len(code), EM_X86_64)
    assert made
    assert next(disassembler.disasm(made, 0x2000)).operands[0].imm == 0x1000
    assert is_harmless(made[5:])


@pytest.mark.parametrize(("sled", "call", "split"), WAYS)
def test_what_is_between_a_sled_and_a_call_is_harmless_and_known_by_the_sled_alone(
    sled: bytes, call: bytes, split: int
) -> None:
    parted = parted_nops(len(sled))
    for old, new in permutations((sled, call, parted), 2):
        way = passage(old, new, split)
        assert way[-1:] == [new] or old == new
        for before, code in pairwise([old, *way]):
            assert (before[:split] == code[:split]) != (before[split:] == code[split:])
        assert all(map(is_harmless, way[:-1])), [each.hex(" ") for each in way]
        assert all(is_halfway(code, sled, split) for code in way[:-1])
    assert not is_halfway(call, sled, split)


@pytest.mark.parametrize(("sled", "call", "split"), WAYS)
def test_who_was_stopped_between_a_sled_and_a_call_can_come_to_any_call_or_back(
    sled: bytes, call: bytes, split: int
) -> None:
    other = sled_call(0x2000, 0x4000, len(sled), EM_X86_64)
    assert other
    codes = (sled, call, parted_nops(len(sled)))
    ways = [passage(*pair, split)[:-1] for pair in permutations(codes, 2)]
    for start in dict.fromkeys(chain.from_iterable(ways)):
        for goal in (*codes, other):
            way = passage(start, goal, split)
            assert way[-1:] == [goal] or start == goal
            for before, code in pairwise([start, *way]):
                assert (before[:split] == code[:split]) != (before[split:] == code[split:])
            assert all(map(is_harmless, way[:-1])), [start.hex(" "), *(c.hex(" ") for c in way)]
            assert all(is_halfway(code, sled, split) for code in way[:-1])


@pytest.mark.parametrize("split", range(1, 8))
def test_a_call_becomes_another_one_by_way_of_what_is_harmless(split: int) -> None:
    one, other = (sled_call(0x2000, target, 8, EM_X86_64) for target in (0x1000, 0x3E84002))
    assert one
    assert other
    way = passage(one, other, split)
    assert way[-1] == other
    assert all(map(is_harmless, way[:-1]))


@pytest.mark.parametrize("target", [b"\x11\x22\x33\x44", b"\x00\x00\x00\x00", b"\xf8\x90\x90\x90"])
@pytest.mark.parametrize(("old", "new", "split"), PAIRS)
def test_who_was_stopped_before_a_call_of_anything_can_be_told(
    old: bytes, new: bytes, split: int, target: bytes
) -> None:
    prefix = RELATIVE_CALLS.get(len(old))
    if prefix is None:
        return
    for each in (old, new):
        for code in halfway(each, prefix + target, split):
            assert is_halfway_to_call(code, each, prefix, split)
        assert not is_halfway_to_call(each, each, prefix, split)
