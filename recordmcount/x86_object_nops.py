"""Calls that are off in an object: the NOP that tells what it replaced, and the call it becomes."""

from .x86 import CALL_FORMS, EM_386, KNOWN_NAMES, CallForm


def known_names() -> list[bytes]:
    """List all KNOWN_NAMES in their order, as string tables have them."""
    return [name.encode() for name in KNOWN_NAMES]


def object_call(form: CallForm, *, in_place: bool) -> bytes:
    """Spell the call as compilers do: the field is the addend if that is in place, else 0."""
    field = (form.addend if in_place else 0).to_bytes(form.width, "little", signed=True)
    return form.prefix + field + form.suffix


def object_nop(form: CallForm, relocation_type: int, name: int = 0) -> bytes:
    """Spell the NOP in the place of a call in an object; its relocation is R_*_NONE meanwhile.

    It tells what it replaced: the relocation's type in the lowest byte of the displacement; for
    `call *disp32(%reg)` the register as base (%rsp: there is none); for `movabs` the register's
    number in the next byte. Its index is %rcx, and %rax in every other NOP of this project, so
    that none of a linked image is taken for one of these.

    Where the relocation cannot tell which function was called, it has REL's `name`: the number of
    one of KNOWN_NAMES counted from 1, up to 15. The scale is its low half; the high half stands
    above the type, for no type of a call has these two bits.
    """
    scale, type_and_name = name % 4 << 6, name >> 2 << 6 | relocation_type
    if form.length == 5:
        return bytes((0x0F, 0x1F, 0x44, scale | 0x08, type_and_name))  # nopl TYPE(%rax,%rcx,1)
    if form.length == 6:
        modrm = form.prefix[1]
        base = 4 if modrm == 0x15 else modrm & 7
        # nopw TYPE(%reg,%rcx,1)
        return bytes((0x66, 0x0F, 0x1F, 0x44, scale | 0x08 | base, type_and_name))
    # ... nopw TYPE+REGISTER*256(%rax,%rcx,1)
    return form.nop[:-5] + bytes((0x08, relocation_type, form.prefix[1] - 0xB8, 0, 0))


def object_nops(machine: int) -> dict[bytes, tuple[CallForm, int, int]]:
    """Map every NOP that `object_nop` gives to the (form, type of relocation, name) it tells."""
    names = range(1 + len(KNOWN_NAMES)) if machine == EM_386 else (0,)
    return {
        object_nop(form, relocation_type, name): (form, relocation_type, name)
        for relocation_type, forms in CALL_FORMS[machine].items()
        for form in forms
        for name in names
    }


def is_object_nop(code: bytes) -> bool:
    """Tell whether `code` begins with a NOP of `object_nop`: by its index register, %rcx."""
    at = code.find(b"\x0f\x1f")  # nopl, behind prefixes only
    if at < 0 or code[:at].strip(b"\x66\x2e") or len(code) < at + 4:
        return False
    modrm, sib = code[at + 2 : at + 4]
    return modrm in (0x44, 0x84) and sib & 0x38 == 0x08


def name_hash(name: bytes) -> int:
    """Hash a symbol's name to 32 bits, as the dynamic linker does in DT_GNU_HASH."""
    value = 5381
    for byte in name:
        value = value * 33 + byte & 0xFFFFFFFF
    return value
