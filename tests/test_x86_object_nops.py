"""NOPs in the place of calls in objects: what each tells, to a disassembler too."""

import pytest
from capstone import x86_const

from recordmcount import x86, x86_linked
from recordmcount.x86 import CallForm
from recordmcount.x86_object_nops import is_object_nop, object_nop, object_nops
from tests.support.assembly import MACHINES, only_instruction

OBJECT_NOPS = [
    pytest.param(machine, nop, form, kind, id=f"{machine}-{nop.hex()}")
    for machine in MACHINES
    for nop, (form, kind, _) in object_nops(machine).items()
]


@pytest.mark.parametrize("machine", MACHINES)
def test_a_nop_in_an_object_tells_which_call_and_which_relocation_it_replaced(machine: int) -> None:
    names = range(1 + len(x86.KNOWN_NAMES)) if machine == x86.EM_386 else [0]
    assert list(object_nops(machine).values()) == [
        (form, kind, name)
        for kind, forms in x86.CALL_FORMS[machine].items()
        for form in forms
        for name in names
    ]


@pytest.mark.parametrize(("machine", "nop", "form", "kind"), OBJECT_NOPS)
def test_a_nop_in_an_object_is_one_instruction_as_long_as_the_call(
    machine: int, nop: bytes, form: CallForm, kind: int
) -> None:
    instruction = only_instruction(machine, nop)
    assert instruction.id == x86_const.X86_INS_NOP
    assert len(nop) == form.length
    memory = instruction.operands[0].mem
    assert instruction.reg_name(memory.index) in ("rcx", "ecx")
    assert memory.disp & 0x3F == kind  # above it are bits of the number of a name


@pytest.mark.parametrize("form", x86.CALL_ABS, ids=lambda form: form.prefix.hex())
def test_a_nop_for_movabs_tells_the_register(form: CallForm) -> None:
    nop = only_instruction(x86.EM_X86_64, object_nop(form, x86.R_X86_64_64))
    number = x86.CALL_ABS.index(form) % 8
    assert nop.operands[0].mem.disp == 256 * number + x86.R_X86_64_64


@pytest.mark.parametrize(("machine", "nop", "form", "kind"), OBJECT_NOPS)
def test_a_nop_in_an_object_is_none_of_a_linked_image_nor_padding(
    machine: int, nop: bytes, form: CallForm, kind: int
) -> None:
    assert all(call.selector(nop) is None for call in x86_linked.linked_calls(machine))
    assert nop not in (x86.NOP5, x86.NOP6, x86.NOP12, x86.NOP13)
    assert is_object_nop(nop)
