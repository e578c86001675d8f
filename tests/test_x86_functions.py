"""How functions end, to a disassembler too."""

import pytest

from recordmcount import x86
from recordmcount.x86_functions import ends_function
from tests.support.assembly import instructions

# What capstone calls each.
ENDS = {
    "c3": "ret", "c21000": "ret", "f3c3": "repz ret", "f2c3": "bnd ret", "eb40": "jmp",
    "e900010000": "jmp", "f2e900010000": "bnd jmp", "ffe0": "jmp", "41ffe3": "jmp",
    "3effe2": "notrack jmp", "ff2508000000": "jmp",
}  # fmt: skip
NO_ENDS = {
    "90": "nop", "e800000000": "call", "ffd0": "call", "50": "push", "4150": "push", "7404": "je",
    "cc": "int3", "c9": "leave",
}  # fmt: skip


@pytest.mark.parametrize("code", [*ENDS, *NO_ENDS])
def test_a_function_is_left_by_a_return_or_a_jump(code: str) -> None:
    (instruction,) = instructions(x86.EM_X86_64, bytes.fromhex(code))
    assert instruction.mnemonic == {**ENDS, **NO_ENDS}[code]
    assert ends_function(bytes.fromhex(code)) == (code in ENDS)


def test_where_code_ends_nothing_leaves_a_function() -> None:
    assert not ends_function(b"")
