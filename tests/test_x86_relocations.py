"""Names and widths of relocation types, against those that pyelftools has."""

import pytest
from elftools.elf import enums

from recordmcount import x86
from recordmcount.x86_relocations import RELOCATION_NAMES, field_size
from tests.support.assembly import MACHINES


def test_the_name_of_a_relocation_type_is_the_one_of_its_number() -> None:
    for names in RELOCATION_NAMES.values():
        assert {getattr(x86, name): name for name in names.values()} == names


@pytest.mark.parametrize("machine", MACHINES)
def test_every_relocation_type_of_a_call_has_a_name(machine: int) -> None:
    assert RELOCATION_NAMES[machine].keys() == {0, *x86.CALL_FORMS[machine]}


def test_only_relocations_that_say_so_fill_8_bytes() -> None:
    wide = {
        name
        for name, number in enums.ENUM_RELOC_TYPE_x64.items()
        if name != "_default_" and field_size(x86.EM_X86_64, number) == 8
    }
    named_so = {
        name
        for name in enums.ENUM_RELOC_TYPE_x64
        if name.removeprefix("R_X86_64_").endswith("64") and "RELATIVE" not in name
    }
    assert wide == named_so
    assert field_size(x86.EM_386, x86.R_386_32) == 4
