"""The bytes of `recordmcount.x86` against assemblers, disassemblers and others' tables."""

import re
import subprocess
from pathlib import Path

import pytest
from capstone import x86_const
from elftools.elf import enums

from recordmcount import x86, x86_linked
from recordmcount.x86 import CallForm
from recordmcount.x86_object_nops import object_nop
from tests.support.assembly import MACHINES, assembled, instructions, only_instruction

EVERY_FORM = [
    pytest.param(machine, form, id=f"{machine}-{form.prefix.hex()}")
    for machine, by_type in x86.CALL_FORMS.items()
    for form in dict.fromkeys(form for forms in by_type.values() for form in forms)
]
X64_REGISTERS = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"]
X64_REGISTERS_REX = [f"r{number}" for number in range(8, 16)]


def spelled(form: CallForm, field: bytes) -> bytes:
    return form.prefix + field + form.suffix


FIELD4, FIELD8 = bytes.fromhex("44332211"), bytes.fromhex("8877665544332211")
SPELLINGS = [
    (x86.EM_X86_64, x86.CALL, FIELD4, "call 0x11223349"),  # 5 bytes further than the operand
    (x86.EM_386, x86.CALL_386, FIELD4, "call 0x11223349"),
    (x86.EM_X86_64, x86.CALL_GOT, FIELD4, "call *0x11223344(%rip)"),
    *(
        (x86.EM_386, form, FIELD4, f"call *0x11223344{base}")
        for form, base in zip(
            x86.CALL_GOT_386,
            ["(%ebx)", "(%eax)", "(%ecx)", "(%edx)", "(%ebp)", "(%esi)", "(%edi)", ""],
            strict=True,
        )
    ),
    *(
        (x86.EM_X86_64, form, FIELD8, f"movabs $0x1122334455667788, %{name}; call *%{name}")
        for form, name in zip(x86.CALL_ABS, X64_REGISTERS_REX + X64_REGISTERS, strict=True)
    ),
]


@pytest.mark.parametrize(("machine", "form", "field", "text"), SPELLINGS)
def test_a_call_form_is_what_the_assembler_makes_of_its_text(
    machine: int, form: CallForm, field: bytes, text: str
) -> None:
    assert assembled(machine, text) == spelled(form, field)


def test_every_call_form_is_spelled_out_above() -> None:
    assert {form for _, form, _, _ in SPELLINGS} == {form.values[1] for form in EVERY_FORM}


@pytest.mark.parametrize(("machine", "form"), EVERY_FORM)
def test_a_call_form_decodes_to_a_call_and_nothing_behind_it(machine: int, form: CallForm) -> None:
    *loads, call = instructions(machine, spelled(form, bytes(form.width)))
    assert call.id == x86_const.X86_INS_CALL
    assert [load.id for load in loads] == [x86_const.X86_INS_MOVABS] * (form.width == 8)


@pytest.mark.parametrize("form", x86.CALL_ABS, ids=lambda form: form.prefix.hex())
def test_an_absolute_call_goes_through_the_register_it_loads(form: CallForm) -> None:
    load, call = instructions(x86.EM_X86_64, spelled(form, FIELD8))
    assert load.operands[0].reg == call.operands[0].reg
    assert load.operands[1].imm == int.from_bytes(FIELD8, "little")


@pytest.mark.parametrize(("machine", "form"), EVERY_FORM)
def test_the_nop_in_place_of_a_call_is_as_long_as_the_call(machine: int, form: CallForm) -> None:
    assert len(form.nop) == form.length == len(spelled(form, bytes(form.width)))


@pytest.mark.parametrize(("machine", "form"), EVERY_FORM)
def test_the_nop_in_place_of_a_call_is_one_instruction_that_does_nothing(
    machine: int, form: CallForm
) -> None:
    nop = only_instruction(machine, form.nop)
    if nop.id == x86_const.X86_INS_LEA:  # a register onto itself, flags as they were
        target, source = nop.operands
        assert (source.mem.base, source.mem.index, source.mem.disp) == (target.reg, 0, 0)
    else:
        assert nop.id == x86_const.X86_INS_NOP


@pytest.mark.parametrize(
    ("nop", "mode", "text"),
    [
        (x86.NOP5, "x86-64", "nopl 0x0(%rax,%rax,1)"),
        (x86.NOP6, "x86-64", "nopw 0x0(%rax,%rax,1)"),
        (x86.NOP12, "x86-64", "data16 data16 cs nopw 0x0(%rax,%rax,1)"),
        (x86.NOP13, "x86-64", "data16 data16 data16 cs nopw 0x0(%rax,%rax,1)"),
        (x86.NOP5_386, "i386", "lea %ds:0x0(%esi,%eiz,1),%esi"),
        (x86.NOP6_386, "i386", "lea 0x0(%esi),%esi"),
        (
            object_nop(x86.CALL, x86.R_X86_64_PLT32),
            "x86-64",
            "nopl 0x4(%rax,%rcx,1)",
        ),
        (
            object_nop(x86.CALL_GOT, x86.R_X86_64_GOTPCRELX),
            "x86-64",
            "nopw 0x29(%rsp,%rcx,1)",
        ),
        *(
            (
                object_nop(form, x86.R_386_GOT32X),
                "i386",
                f"nopw 0x2b(%{base},%ecx,1)",
            )
            for form, base in zip(
                x86.CALL_GOT_386,
                ("ebx", "eax", "ecx", "edx", "ebp", "esi", "edi", "esp"),  # esp: without a base
                strict=True,
            )
        ),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else "",
)
def test_a_nop_reads_as_the_text_beside_it(
    nop: bytes, mode: str, text: str, tmp_path: Path
) -> None:
    binary = tmp_path / "nop"
    binary.write_bytes(nop)
    listing = subprocess.run(
        ["objdump", "-D", "-b", "binary", "-m", "i386", "-M", mode, "--no-show-raw-insn", binary],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    lines = re.findall(r"^ +[0-9a-f]+:\s+(.*)$", listing, re.MULTILINE)
    assert [" ".join(line.split()) for line in lines] == [text]


TYPES = [name for name in vars(x86) if name.startswith("R_")]


@pytest.mark.parametrize("name", [*TYPES, "EM_386", "EM_X86_64"])
def test_a_number_is_that_of_the_c_library(name: str) -> None:
    header = Path("/usr/include/elf.h").read_text()
    defined = re.findall(rf"^#define\s+{name}\s+(\d+)\b", header, re.MULTILINE)
    assert defined == [str(getattr(x86, name))]


def test_a_number_is_that_of_pyelftools_where_it_knows_the_name() -> None:
    known = {
        **enums.ENUM_RELOC_TYPE_x64,
        **enums.ENUM_RELOC_TYPE_i386,
        **enums.ENUM_E_MACHINE,
    }
    names = [name for name in vars(x86) if name in known]
    assert len(names) >= 14
    assert {name: getattr(x86, name) for name in names} == {name: known[name] for name in names}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_plain_call_is_one_of_the_forms_of_its_relocation_types(machine: int) -> None:
    form, types = x86.PLAIN_CALL[machine]
    assert types
    assert all(x86.CALL_FORMS[machine][kind] == (form,) for kind in types)


@pytest.mark.parametrize("machine", MACHINES)
def test_no_relocation_type_is_both_supported_and_unsupported(machine: int) -> None:
    assert x86.CALL_FORMS[machine].keys().isdisjoint(x86.UNSUPPORTED_TYPES[machine])


@pytest.mark.parametrize(
    ("machine", "form", "kind"),
    [
        pytest.param(machine, form, kind, id=f"{machine}-{kind}-{form.prefix.hex()}")
        for machine, by_type in x86.CALL_FORMS.items()
        for kind, forms in by_type.items()
        for form in forms
    ],
)
def test_a_call_is_decoded_only_if_every_byte_around_the_field_fits(
    machine: int, form: CallForm, kind: int
) -> None:
    code = spelled(form, bytes(form.width))
    field = len(form.prefix)
    decode = x86.decode
    assert decode(machine, kind, form.addend, code, field) is form
    assert decode(machine, kind, form.addend, b"\x90" * 3 + code, field + 3) is form
    assert decode(machine, kind, form.addend + 1, code, field) is None
    assert decode(machine, 0, form.addend, code, field) is None
    assert decode(machine, kind, form.addend, code[:-1], field) is None
    assert decode(machine, kind, form.addend, code[1:], field - 1) is None
    for at in [*range(field), *range(field + form.width, len(code))]:
        changed = bytearray(code)
        changed[at] ^= 0x20
        assert decode(machine, kind, form.addend, bytes(changed), field) is None


def test_no_site_is_longer_than_the_longest() -> None:
    linked = [form for machine in MACHINES for form in x86_linked.linked_calls(machine)]
    lengths = [form.length for form in x86.ALL_FORMS] + [form.length for form in linked]
    assert max(lengths) == x86.LONGEST_SITE
