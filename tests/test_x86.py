"""The bytes of `recordmcount.x86` against assemblers, disassemblers and others' tables."""

import re
import subprocess
from pathlib import Path

import pytest
from capstone import x86_const
from elftools.elf import enums

from recordmcount import x86
from recordmcount.x86 import CallForm
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
        (x86.object_nop(x86.CALL, x86.R_X86_64_PLT32), "x86-64", "nopl 0x4(%rax,%rcx,1)"),
        (x86.object_nop(x86.CALL_GOT, x86.R_X86_64_GOTPCRELX), "x86-64", "nopw 0x29(%rsp,%rcx,1)"),
        *(
            (x86.object_nop(form, x86.R_386_GOT32X), "i386", f"nopw 0x2b(%{base},%ecx,1)")
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


RELOCATION_NAMES = [name for name in vars(x86) if name.startswith("R_")]


@pytest.mark.parametrize("name", [*RELOCATION_NAMES, "EM_386", "EM_X86_64"])
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


# --- turned off in an object ----------------------------------------------------------------------

OBJECT_NOPS = [
    pytest.param(machine, nop, form, kind, id=f"{machine}-{nop.hex()}")
    for machine in MACHINES
    for nop, (form, kind, _) in x86.object_nops(machine).items()
]


@pytest.mark.parametrize("machine", MACHINES)
def test_a_nop_in_an_object_tells_which_call_and_which_relocation_it_replaced(machine: int) -> None:
    names = range(1 + len(x86.KNOWN_NAMES)) if machine == x86.EM_386 else [0]
    assert list(x86.object_nops(machine).values()) == [
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
    nop = only_instruction(x86.EM_X86_64, x86.object_nop(form, x86.R_X86_64_64))
    number = x86.CALL_ABS.index(form) % 8
    assert nop.operands[0].mem.disp == 256 * number + x86.R_X86_64_64


@pytest.mark.parametrize(("machine", "nop", "form", "kind"), OBJECT_NOPS)
def test_a_nop_in_an_object_is_none_of_a_linked_image_nor_padding(
    machine: int, nop: bytes, form: CallForm, kind: int
) -> None:
    assert all(call.selector(nop) is None for call in x86.linked_calls(machine))
    assert nop not in (x86.NOP5, x86.NOP6, x86.NOP12, x86.NOP13)
    assert x86.is_object_nop(nop)


def test_the_name_of_a_relocation_type_is_the_one_of_its_number() -> None:
    for names in x86.RELOCATION_NAMES.values():
        assert {getattr(x86, name): name for name in names.values()} == names


@pytest.mark.parametrize("machine", MACHINES)
def test_every_relocation_type_of_a_call_has_a_name(machine: int) -> None:
    assert x86.RELOCATION_NAMES[machine].keys() == {0, *x86.CALL_FORMS[machine]}


def test_only_relocations_that_say_so_fill_8_bytes() -> None:
    wide = {
        name
        for name, number in enums.ENUM_RELOC_TYPE_x64.items()
        if name != "_default_" and x86.field_size(x86.EM_X86_64, number) == 8
    }
    named_so = {
        name
        for name in enums.ENUM_RELOC_TYPE_x64
        if name.removeprefix("R_X86_64_").endswith("64") and "RELATIVE" not in name
    }
    assert wide == named_so
    assert x86.field_size(x86.EM_386, x86.R_386_32) == 4


def test_no_site_is_longer_than_the_longest() -> None:
    linked = [form for machine in MACHINES for form in x86.linked_calls(machine)]
    lengths = [form.length for form in x86.ALL_FORMS] + [form.length for form in linked]
    assert max(lengths) == x86.LONGEST_SITE


def test_the_counter_is_read_by_what_the_assembler_makes_of_its_text() -> None:
    text = "rdtsc; shl $0x20, %rdx; or %rdx, %rax; ret"
    assert assembled(x86.EM_X86_64, text) == x86.READ_COUNTER


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
    assert x86.ends_function(bytes.fromhex(code)) == (code in ENDS)


def test_where_code_ends_nothing_leaves_a_function() -> None:
    assert not x86.ends_function(b"")
