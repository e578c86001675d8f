"""What is assembled for another process is what was meant, or an error."""

from itertools import product

import pytest

from patcher.trace.assembly import assemble
from recordmcount import x86
from tests.support.assembly import assembled, instructions

SOURCE = """
entry:
    cmp byte ptr [rip + gate], 0    ; an operand stands behind the distance
    je out
    mov rax, qword ptr [rip + gate]
    add qword ptr [rip + count], 0x12345
out:
    ret
"""
ADDRESS = 0x7F00_0000_1000


@pytest.mark.parametrize(("gate", "count"), [*product((-0x2000, 0x2000, 0x30_0000), repeat=2)])
def test_names_of_data_are_distances_from_the_ends_of_instructions(gate: int, count: int) -> None:
    """Whatever was assembled before: keystone is wrong, sometimes, after code of another mode."""
    for before in (x86.EM_386, x86.EM_X86_64) * 3:
        assembled(before, "nop")
        code = assemble(SOURCE, ADDRESS, {"gate": ADDRESS + gate, "count": ADDRESS + count})
        first, branch, load, addition, _ = instructions(x86.EM_X86_64, code.content)
        assert first.address + first.size + first.disp == gate
        assert load.address + load.size + load.disp == gate
        assert addition.address + addition.size + addition.disp == count
        assert code.labels == {"entry": ADDRESS, "out": ADDRESS + branch.operands[0].imm}


@pytest.mark.parametrize(
    ("source", "data", "message"),
    [
        ("mov rax, qword ptr [rip + nowhere]", {}, "cannot be assembled"),
        ("mov eax, dword ptr [rip + far]", {"far": ADDRESS + (1 << 40)}, "assembled"),
        ("mov rax, [rbx]", {}, "was assembled as"),  # capstone spells it another way
        ("no such instruction", {}, "cannot be assembled"),
    ],
)
def test_what_does_not_read_as_what_was_meant_is_an_error(
    source: str, data: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        assemble(source, ADDRESS, data)
