"""Everything this project knows about x86 bytes: opcodes, NOPs, relocation types, mcount names.

A profiled function calls `mcount` (after its prologue, `-pg`) or `__fentry__` (as its first
instruction, `-pg -mfentry`). The compiler knows only the name, so the object holds a relocation
that names the symbol, and around the relocated field stand the bytes of one of few instructions:

    e8 rel32                     call  mcount                     no-pic, or through the PLT
    ff 15 rel32                  call  *mcount@GOTPCREL(%rip)     gcc, PIC and PIE
    ff 93 disp32                 call  *mcount@GOT(%ebx)          gcc -m32, PIC
    49 ba imm64  41 ff d2        movabs $mcount, %r10; call *%r10 gcc, large model
    48 b8 imm64  ff d0           movabs $mcount, %rax; call *%rax clang, large model

The relocation lies one or two bytes into the instruction; a site is named by the instruction's
first byte. A relocation alone proves nothing, `lea`, `mov`, `jmp` and plain data name mcount as
well: only a relocation type, its addend and the bytes on both sides together make a call.
(Encodings: Intel SDM vol. 2; relocation types: x86-64 psABI 1.0 table 4.9, i386 psABI 1.1
table 2.3, GOTPCRELX and GOT32X sections B.2 and A.2 there.)
"""

from _operator import add, sub
from _struct import Struct, unpack_from
from itertools import compress, repeat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

EM_386 = 3
EM_X86_64 = 62

R_386_NONE = 0
R_386_32 = 1
R_386_PC32 = 2
R_386_GOT32 = 3
R_386_PLT32 = 4
R_386_GOT32X = 43

R_X86_64_NONE = 0
RELOCATION_NONE = 0  # on both machines
R_X86_64_64 = 1
R_X86_64_PC32 = 2
R_X86_64_PLT32 = 4
R_X86_64_GOTPCREL = 9
R_X86_64_32 = 10
R_X86_64_GOT64 = 27
R_X86_64_GOTPLT64 = 30
R_X86_64_PLTOFF64 = 31
R_X86_64_GOTPCRELX = 41

# The names profiled code calls. For Linux compilers use `mcount` and `__fentry__`; `_mcount` is an
# older alias, `.mcount` FreeBSD's name and `__mcount` that of NetBSD and OpenBSD. Where a function
# returns, or leaves by a tail call, gcc -minstrument-return=call has it call `__return__` before.
# The order of all these is a format, to append to: NOPs of i386 objects have the number of one,
# from 1 on.
FENTRY = "__fentry__"  # what calls it does so at once
RETURN = "__return__"
KNOWN_NAMES = ("mcount", "_mcount", FENTRY, ".mcount", "__mcount", RETURN)
MCOUNT_NAMES = tuple(name for name in KNOWN_NAMES if name != RETURN)
RETURN_NAME = RETURN.encode()  # as string tables have it


def mcount_names(extra_names: "Sequence[str]" = ()) -> list[bytes]:
    """List the names of mcount as string tables have them, the given further ones last."""
    return [name.encode("utf-8", "surrogateescape") for name in (*MCOUNT_NAMES, *extra_names)]


def known_names() -> list[bytes]:
    """List all KNOWN_NAMES in their order, as string tables have them."""
    return [name.encode() for name in KNOWN_NAMES]


# One instruction each, so that no instruction pointer can ever rest inside the site.
# 64-bit: Intel SDM vol. 2B "NOP", table 4-12, then 0x66 and CS prefixes up to the length.
NOP5 = bytes((0x0F, 0x1F, 0x44, 0x00, 0x00))  # nopl 0x0(%rax,%rax,1)
NOP6 = bytes((0x66, 0x0F, 0x1F, 0x44, 0x00, 0x00))  # nopw 0x0(%rax,%rax,1)
NOP12 = bytes((0x66, 0x66, 0x66, 0x2E)) + bytes(
    (0x0F, 0x1F, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00)  # data16 data16 cs nopw 0x0(%rax,%rax,1)
)
NOP13 = bytes((0x66,)) + NOP12
LONGEST_SITE = len(NOP13)
# i386: `nopl` came with the Pentium Pro; a `lea` onto itself runs on every 386.
NOP5_386 = bytes((0x3E, 0x8D, 0x74, 0x26, 0x00))  # lea %ds:0x0(%esi,%eiz,1),%esi
NOP6_386 = bytes((0x8D, 0xB6, 0x00, 0x00, 0x00, 0x00))  # lea 0x0(%esi),%esi

# How many bytes an instruction may have; a site that is one is made one NOP.
LONGEST_INSTRUCTION = 15
INT3 = bytes((0xCC,))  # int3: a breakpoint


ALL_FORMS: "list[CallForm]" = []


class CallForm:
    """One way to spell the call: `prefix`, the relocated field, `suffix`; and the NOP in its place.

    `addend` is what the relocation must carry for the target to be the function's first byte.
    `pic` marks the forms that only position-independent code contains. `width` is the field's
    size in bytes, `length` that of the whole site, `number` the place in ALL_FORMS. `idle` are
    prefixes before the instruction, as `behind` puts them there: the first bytes of `prefix`.
    `opcode` is the index of the first opcode in it, behind them and a REX.
    """

    __slots__ = (
        "number", "name", "prefix", "width", "suffix", "addend", "pic", "nop", "length", "idle",
        "opcode",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        prefix: bytes,
        nop: bytes,
        *,
        width: int = 4,
        suffix: bytes = b"",
        addend: int = -4,
        pic: bool = False,
        idle: bytes = b"",
        number: int = -1,
    ) -> None:
        self.number = len(ALL_FORMS) if number < 0 else number
        self.name = name
        self.prefix = prefix
        self.width = width
        self.suffix = suffix
        self.addend = addend
        self.pic = pic
        self.nop = nop
        self.length = len(prefix) + width + len(suffix)
        self.idle = idle
        self.opcode = len(idle) + (prefix[len(idle)] & 0xF0 == 0x40)
        if number < 0:
            ALL_FORMS.append(self)

    def matches(self, code: bytes, field: int) -> bool:
        """Tell whether `code` spells this call around the relocated field at index `field`."""
        return (
            field >= len(self.prefix)
            and field + self.width + len(self.suffix) <= len(code)
            and code.startswith(self.prefix, field - len(self.prefix))
            and code.startswith(self.suffix, field + self.width)
        )


CALL = CallForm("call", b"\xe8", NOP5)
CALL_386 = CallForm("call", b"\xe8", NOP5_386)
CALL_GOT = CallForm("call-got", b"\xff\x15", NOP6, pic=True)
# ModRM 0x90 + base register; %esp (0x94) would need a SIB byte. 0x15 is the form without a base.
CALL_GOT_386 = tuple(
    CallForm("call-got", bytes((0xFF, modrm)), NOP6_386, addend=0, pic=True)
    for modrm in (0x93, 0x90, 0x91, 0x92, 0x95, 0x96, 0x97, 0x15)
)
# movabs $mcount, %reg; call *%reg: the same register in both; gcc takes %r10, clang mostly %rax.
CALL_ABS = tuple(
    CallForm(
        "call-abs",
        bytes((rex, 0xB8 + register)),
        nop,
        width=8,
        suffix=call + bytes((0xD0 + register,)),
        addend=0,
    )
    for rex, call, nop in ((0x49, b"\x41\xff", NOP13), (0x48, b"\xff", NOP12))
    for register in range(8)
)


def behind(idle: bytes, form: CallForm) -> CallForm:
    """Give the form of a call behind prefixes that do not change it; its number is that of `form`.

    In its NOP they become cs, for behind another `lea` may not be one.
    """
    if not idle:
        return form
    return CallForm(
        form.name, idle + form.prefix, b"\x2e" * len(idle) + form.nop, width=form.width,
        suffix=form.suffix, addend=form.addend, pic=form.pic, idle=idle, number=form.number,
    )  # fmt: skip


def can_be_behind(idle: bytes, form: CallForm) -> bool:
    """Tell whether a call is the same behind these prefixes, and a NOP can be as long.

    A call through memory is not where they say of another segment (fs, gs), or in 32-bit code that
    its address has 16 bits: then the field is cut short (Intel SDM vol. 2, 2.1.1 and 2.1.5).
    """
    changing = b"\x64\x65" if form is CALL_GOT else b"\x64\x65\x67" if form.pic else b""
    return len(idle) + form.length <= LONGEST_INSTRUCTION and not {*changing}.intersection(idle)


# Relocation type -> the forms it may stand in.
CALL_FORMS: dict[int, dict[int, tuple[CallForm, ...]]] = {
    EM_X86_64: {
        R_X86_64_PC32: (CALL,),
        R_X86_64_PLT32: (CALL,),
        R_X86_64_GOTPCREL: (CALL_GOT,),
        R_X86_64_GOTPCRELX: (CALL_GOT,),
        R_X86_64_64: CALL_ABS,
    },
    EM_386: {
        R_386_PC32: (CALL_386,),
        R_386_PLT32: (CALL_386,),
        R_386_GOT32: CALL_GOT_386,
        R_386_GOT32X: CALL_GOT_386,
    },
}

# The plain 5-byte call of each machine, and its relocation types: nearly every site there is.
PLAIN_CALL: dict[int, tuple[CallForm, frozenset[int]]] = {
    EM_X86_64: (CALL, frozenset((R_X86_64_PC32, R_X86_64_PLT32))),
    EM_386: (CALL_386, frozenset((R_386_PC32, R_386_PLT32))),
}

# These relocations prove that the bytes before them are an opcode: PLT32 is that of a branch, the
# psABIs list the instructions of GOTPCRELX and GOT32X, and what has 8 bytes to fill is a movabs.
# Any other may be that of a displacement or an immediate behind a byte that looks like an opcode:
# movl $mcount-7-., -24(%rbp) is c7 45 e8 and then the field.
PROVING_TYPES = {
    EM_X86_64: frozenset((R_X86_64_PLT32, R_X86_64_GOTPCRELX, R_X86_64_64)),
    EM_386: frozenset((R_386_PLT32, R_386_GOT32X)),
}

# Bytes that belong to the instruction behind them (Intel SDM vol. 2, 2.1.1): es cs ss ds fs gs,
# data16, addr32, lock, repne (bnd), rep; and in 64-bit code REX (2.2.1).
PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))
REX = frozenset(range(0x40, 0x50))
MAY_BE_PREFIXES = {EM_X86_64: PREFIXES | REX, EM_386: PREFIXES}
# Those with which a call is the same call. Not data16: in 16-bit code it makes the operand one of
# 4 bytes, and what stands there instead of the call would have 2.
IDLE_PREFIXES = {
    EM_X86_64: MAY_BE_PREFIXES[EM_X86_64] - {0x66, 0xF0, 0xF3},
    EM_386: PREFIXES - {0x65, 0x66, 0xF0, 0xF3},
}


# Types that only a call through the large PIC model's GOT arithmetic uses: 36 bytes of lea,
# movabs, add and `call *%r10`, which no table entry can name as one instruction.
UNSUPPORTED_TYPES: dict[int, frozenset[int]] = {
    EM_X86_64: frozenset((R_X86_64_GOT64, R_X86_64_GOTPLT64, R_X86_64_PLTOFF64)),
    EM_386: frozenset(),
}


def decode(
    machine: int, relocation_type: int, addend: int, code: bytes, field: int
) -> CallForm | None:
    """Return the form of the call whose relocated field is at index `field` of `code`, or None."""
    for form in CALL_FORMS[machine].get(relocation_type, ()):
        if addend == form.addend and form.matches(code, field):
            return form
    return None


def is_unsupported_call(machine: int, relocation_type: int, code: bytes, field: int) -> bool:
    """Tell whether the field belongs to a call of mcount in a form that no table entry can name.

    Besides the types above: clang's large model with -mretpoline loads the address and calls a
    thunk, `movabs $mcount, %r11; call __llvm_retpoline_r11`.
    """
    if relocation_type in UNSUPPORTED_TYPES[machine]:
        return True
    movabs = code[max(0, field - 2) : field]
    return (
        machine == EM_X86_64
        and relocation_type == R_X86_64_64
        and movabs[:1] in (b"\x48", b"\x49")
        and movabs[1:] in [form.prefix[1:] for form in CALL_ABS]
        and code.startswith(CALL.prefix, field + 8)
    )


# --- turned off in an object --------------------------------------------------------------------

# The relocation types of calls, and of none, by name; the same tables of the psABIs as above.
RELOCATION_NAMES = {
    EM_X86_64: {
        R_X86_64_NONE: "R_X86_64_NONE",
        R_X86_64_64: "R_X86_64_64",
        R_X86_64_PC32: "R_X86_64_PC32",
        R_X86_64_PLT32: "R_X86_64_PLT32",
        R_X86_64_GOTPCREL: "R_X86_64_GOTPCREL",
        R_X86_64_GOTPCRELX: "R_X86_64_GOTPCRELX",
    },
    EM_386: {
        R_386_NONE: "R_386_NONE",
        R_386_PC32: "R_386_PC32",
        R_386_GOT32: "R_386_GOT32",
        R_386_PLT32: "R_386_PLT32",
        R_386_GOT32X: "R_386_GOT32X",
    },
}
# Relocations that fill 8 bytes; no other fills more than 4.
WIDE_TYPES = frozenset(
    (R_X86_64_64, 16, 17, 18, 24, 25, R_X86_64_GOT64, 28, 29, R_X86_64_GOTPLT64,
     R_X86_64_PLTOFF64, 33)  # DTPMOD64 DTPOFF64 TPOFF64 PC64 GOTOFF64; GOTPCREL64 GOTPC64; SIZE64
)  # fmt: skip
WIDEST_FIELD = 8


def field_size(machine: int, relocation_type: int) -> int:
    """Tell how many bytes a relocation can touch, at most."""
    wide = machine == EM_X86_64 and relocation_type in WIDE_TYPES
    return WIDEST_FIELD if wide else 4


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


def name_hash(name: bytes) -> int:
    """Hash a symbol's name to 32 bits, as the dynamic linker does in DT_GNU_HASH."""
    value = 5381
    for byte in name:
        value = value * 33 + byte & 0xFFFFFFFF
    return value


# --- after the link ---------------------------------------------------------------------------

# What may stand behind a call of `__return__`: ret, jmp, `jmp *`, as gcc spells them.
_RETURNS = (b"\xc3", b"\xc2", b"\xf3\xc3")  # ret; ret $imm16; rep ret
_TAIL_CALLS = (b"\xe9", b"\xeb", b"\xff\x25")  # jmp near; short; *disp32
_TAIL_CALLS_BY_REGISTER = tuple(bytes((0xFF, modrm)) for modrm in range(0xE0, 0xE8))
_PREFIXES_OF_ENDS = b"\xf2\x3e\x41"  # bnd; notrack; REX.B


def ends_function(code: bytes) -> bool:
    """Tell whether `code` begins with what a function is left by: a return, or a tail call."""
    bare = code.lstrip(_PREFIXES_OF_ENDS)
    return bare.startswith((*_RETURNS, *_TAIL_CALLS, *_TAIL_CALLS_BY_REGISTER))


# What may stand before the first instruction of a function: endbr64, endbr32.
ENDBR = (b"\xf3\x0f\x1e\xfa", b"\xf3\x0f\x1e\xfb")

PUSH_CHAIN = b"\x41\x52"  # push %r10: where gcc keeps the static chain of a nested function
SET_FRAME = bytes((0x55, 0x48, 0x89, 0xE5))  # push %rbp; mov %rsp,%rbp
LONGEST_BEFORE_FENTRY = len(ENDBR[0]) + len(PUSH_CHAIN)


def before_fentry(code: bytes) -> int:
    """Measure what of the bytes before a call of __fentry__ may belong to its function."""
    bare = code.removesuffix(PUSH_CHAIN)
    return len(code) - len(bare) + (4 if bare.endswith(ENDBR) else 0)


LONGEST_INSTRUCTION = 15
# What compilers put before the call of mcount, as instructions of known length: most of it is this.
_PROLOGUES = {
    EM_X86_64: (
        rb"\xf3\x0f\x1e\xfa",  # endbr64
        rb"[\x50-\x57]|\x41[\x50-\x57]",  # push
        rb"\x48\x89\xe5",  # mov %rsp,%rbp
        rb"\x48\x83\xec.|\x48\x81\xec.{4}",  # sub $imm,%rsp
        rb"\x4c\x8d\x54\x24\x08|\x48\x83\xe4.|\x41\xff\x72\xf8",  # the stack is realigned
    ),
    EM_386: (
        rb"\xf3\x0f\x1e\xfb",  # endbr32
        rb"[\x50-\x57]|[\x58-\x5f]",  # push, pop
        rb"\x89\xe5",  # mov %esp,%ebp
        rb"\x83\xec.|\x81\xec.{4}",  # sub $imm,%esp
        rb"\x8d\x4c\x24\x04|\x83\xe4.|\xff\x71\xfc",  # the stack is realigned
        rb"\xe8.{4}|\x81[\xc0-\xc7].{4}|\x05.{4}",  # call of a thunk; add $imm,%reg: the GOT
    ),
}


def is_prologue(machine: int, code: bytes) -> bool:
    """Tell whether `code` is whole instructions, all of them such as stand before most sites."""
    import re

    pattern = b"(?:" + b"|".join(_PROLOGUES[machine]) + b")*"
    return re.fullmatch(pattern, code, re.DOTALL) is not None  # `re` keeps what it compiled


# What the operand of a linked call counts from.
FROM_END, FROM_ZERO, FROM_GOT = range(3)


class LinkedCall:
    """One way a call stands in a linked image, and the one-instruction NOP that takes its place.

    `origin` is what the operand counts from: the end of the field, zero, or the address of the
    GOT in a register. With `through_slot` the result is the address of a GOT slot, else that of
    code. No two forms of one length share a NOP, so a NOP tells which form stood there. The lowest
    byte of its displacement, at index `selector_at`, tells which target was called: a NOP computes
    no address. `idle` is a prefix before the call, the first byte of `prefix`.
    """

    __slots__ = (
        "name", "prefix", "width", "suffix", "origin", "through_slot", "nop", "selector_at",
        "length", "idle",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        prefix: bytes,
        nop: bytes,
        selector_at: int,
        *,
        width: int = 4,
        suffix: bytes = b"",
        origin: int = FROM_END,
        through_slot: bool = False,
        idle: bytes = b"",
    ) -> None:
        self.name = name
        self.prefix = prefix
        self.width = width
        self.suffix = suffix
        self.origin = origin
        self.through_slot = through_slot
        self.nop = nop
        self.selector_at = selector_at
        self.idle = idle
        self.length = len(prefix) + width + len(suffix)

    def operand(self, code: bytes) -> int | None:
        """Return the signed operand, if `code` begins with this call."""
        end = len(self.prefix) + self.width
        if not code.startswith(self.prefix) or not code.startswith(self.suffix, end):
            return None
        if len(code) < self.length:
            return None
        return int.from_bytes(code[len(self.prefix) : end], "little", signed=True)

    def spell(self, operand: int) -> bytes | None:
        """Return the call's bytes; None if the signed operand does not fit."""
        if not -1 << 8 * self.width - 1 <= operand < 1 << 8 * self.width - 1:
            return None
        return self.prefix + self._field(operand) + self.suffix

    def _field(self, operand: int) -> bytes:
        return operand.to_bytes(self.width, "little", signed=True)

    def spell_each(self, target: int, starts: "Sequence[int]") -> "list[bytes]":
        """Return the calls at all `starts`; each must be in reach.

        `target` is what the operand names: relative to the end of each field, or the operand.
        """
        if self.origin != FROM_END:
            return [self.prefix + self._field(target) + self.suffix] * len(starts)
        pack = Struct(f"<{len(self.prefix)}si").pack
        at_zero = target - len(self.prefix) - self.width
        return list(map(pack, repeat(self.prefix), map(sub, repeat(at_zero), starts)))

    def nop_with(self, selector: int) -> bytes:
        """Return the NOP that carries `selector` (0 to 255)."""
        at = self.selector_at
        return self.nop[:at] + bytes((selector,)) + self.nop[at + 1 :]

    def selector(self, code: bytes) -> int | None:
        """Return the selector, if `code` begins with a NOP of this form."""
        if len(code) < self.length:
            return None
        found = code[self.selector_at]
        return found if code.startswith(self.nop_with(found)) else None


def linked_calls(machine: int) -> tuple[LinkedCall, ...]:
    """Return the calls that linkers leave or make.

    bfd, gold and lld relax `ff 15` to a call behind a prefix, mold (and bfd with
    -z call-nop=prefix-0x90) to a NOP and a call, of which the table names the NOP. bfd's
    -z call-nop=suffix-nop gives a plain call; the NOP behind it may stay, so that is no form of
    its own.
    """
    plain = LinkedCall("call", CALL.prefix, NOP5, 4)
    nop_first = LinkedCall("nop-call", b"\x90\xe8", _nop6_with(0x80), 5)
    if machine == EM_386:
        alone = (
            plain,
            LinkedCall("call-addr16", b"\x67\xe8", _nop6_with(0x40), 5),
            nop_first,
            *map(_linked_call_got_386, CALL_GOT_386),
        )
    else:
        alone = (
            plain,
            LinkedCall("call-got", CALL_GOT.prefix, NOP6, 5, through_slot=True),
            LinkedCall("call-addr32", b"\x67\xe8", _nop6_with(0x40), 5),
            nop_first,
            *map(_linked_call_abs, CALL_ABS),
        )
    return (
        *alone,
        *(_linked_behind(idle, form) for form in alone if form.width == 4 for idle in LINKED_IDLE),
    )


# Prefixes that assemblers put before calls: bnd (-madd-bnd-prefix), cs, ss and ds.
LINKED_IDLE = (b"\xf2", b"\x2e", b"\x36", b"\x3e")


def _linked_behind(idle: bytes, form: LinkedCall) -> LinkedCall:
    """Let the NOP have the call's prefix, data16 for bnd; the plain call's then %rcx as base."""
    if idle == b"\xf2":
        nop = _nop6_with(0x01) if form.length == 5 else b"\x66" + form.nop
    else:
        nop = idle + form.nop
    return LinkedCall(
        form.name, idle + form.prefix, nop, form.selector_at + 1, origin=form.origin,
        through_slot=form.through_slot, idle=idle,
    )  # fmt: skip


def _nop6_with(sib: int) -> bytes:
    """Encode NOP6 with other registers, or another scale, in its SIB byte.

    0x40: nopw 0x0(%rax,%rax,2); 0x80: nopw 0x0(%rax,%rax,4).
    """
    return bytes((0x66, 0x0F, 0x1F, 0x44, sib, 0x00))


def _linked_call_got_386(form: CallForm) -> LinkedCall:
    """Let the NOP have the call's register, nopw 0x0(%ebx,%eax,8); %esp is for none."""
    without_base = form.prefix[1] == 0x15
    base = 4 if without_base else form.prefix[1] & 7
    return LinkedCall(
        form.name, form.prefix, _nop6_with(0xC0 | base), 5, through_slot=True,
        origin=FROM_ZERO if without_base else FROM_GOT,
    )  # fmt: skip


def _linked_call_abs(form: CallForm) -> LinkedCall:
    """Let the second byte of the NOP's 4-byte displacement have the register's number."""
    at = form.length - 4
    nop = form.nop[:at] + bytes((0, form.prefix[1] - 0xB8, 0, 0))  # ... nopw 0x200(%rax,%rax,1)
    return LinkedCall(
        form.name, form.prefix, nop, at, width=8, suffix=form.suffix, origin=FROM_ZERO
    )


def is_object_nop(code: bytes) -> bool:
    """Tell whether `code` begins with a NOP of `object_nop`: by its index register, %rcx."""
    at = code.find(b"\x0f\x1f")  # nopl, behind prefixes only
    if at < 0 or code[:at].strip(b"\x66\x2e") or len(code) < at + 4:
        return False
    modrm, sib = code[at + 2 : at + 4]
    return modrm in (0x44, 0x84) and sib & 0x38 == 0x08


_STUB_BEGINS = {
    EM_X86_64: (b"\xf3\x0f\x1e\xfa", b"\x41\xbb"),  # endbr64; mov $index,%r11d (mold)
    EM_386: (b"\xf3\x0f\x1e\xfb", b"\xb9"),  # endbr32; mov $index,%ecx (mold)
}
_BND = b"\xf2"  # prefix, in 64-bit code
_JUMP_SLOT = b"\xff\x25"  # jmp *disp32, in 64-bit code jmp *disp32(%rip)
_JUMP_SLOT_OF_GOT = b"\xff\xa3"  # jmp *disp32(%ebx)


def plt_slot(machine: int, code: bytes, vaddr: int, got_base: "int | None") -> "int | None":
    """Tell through which slot the PLT stub `code` jumps, which is at `vaddr`; None if it is none.

    Of one in .plt, .plt.sec or .plt.got: [endbr] [mov] [bnd] jmp *disp32. All are link-time
    virtual addresses; `got_base` is what %ebx holds.
    """
    endbr, mov = _STUB_BEGINS[machine]
    at = len(endbr) if code.startswith(endbr) else 0
    if code.startswith(mov, at):
        at += len(mov) + 4
    if machine == EM_X86_64 and code.startswith(_BND, at):
        at += 1
    end = at + 6
    displacement = int.from_bytes(code[at + 2 : end], "little", signed=True)
    if len(code) < end:
        return None
    if code.startswith(_JUMP_SLOT, at):
        return vaddr + end + displacement if machine == EM_X86_64 else displacement & 0xFFFFFFFF
    if got_base is not None and code.startswith(_JUMP_SLOT_OF_GOT, at) and machine == EM_386:
        return got_base + displacement & 0xFFFFFFFF
    return None


def slot_fields(
    machine: int, code: bytes, vaddr: int, slots: "Container[int]", got_base: "int | None"
) -> "list[int]":
    """Find the 4-byte fields by which `code`, which is at `vaddr`, may name a slot: their indices.

    They are relative to their end in 64-bit code, else addresses or relative to the GOT.
    """
    found: list[int] = []
    for first in range(min(4, len(code))):
        count = (len(code) - first) // 4
        places = range(first, first + 4 * count, 4)
        if machine == EM_X86_64:
            fields = unpack_from(f"<{count}i", code, first)
            origins: list[Iterable[int]] = [range(vaddr + first + 4, vaddr + len(code) + 4, 4)]
        else:
            fields = unpack_from(f"<{count}I", code, first)
            bases = [0, *([got_base, got_base - (1 << 32)] if got_base else [])]
            origins = list(map(repeat, bases))
        for origin in origins:
            found += compress(places, map(slots.__contains__, map(add, fields, origin)))
    return sorted(found)


def got_bases(code: bytes, vaddr: int) -> "Iterator[int]":
    """Find what 32-bit code, which is at `vaddr`, adds to its own address: that of the GOT, mostly.

    call thunk; add $imm32,%reg (gcc), or call .+5; pop %reg; add $imm32,%reg (clang): what is added
    counts from the end of the call.
    """
    import re

    computed = rb"\xe8.{4}[\x58-\x5f]?(?:\x81[\xc0-\xc3\xc5-\xc7]|\x05)(.{4})"
    for match in re.finditer(computed, code, re.DOTALL):
        end = vaddr + match.start() + 5
        yield end + int.from_bytes(match[1], "little") & 0xFFFFFFFF


# --- what is searched for -----------------------------------------------------------------------

# What may stand before the opcode of a call and belong to it; 67 stands before e8 alone. The next
# change nothing either, but no form of call has them.
CALL_PREFIXES = tuple(bytes((prefix,)) for prefix in (0x67, 0xF2, 0x2E, 0x36, 0x3E))
OTHER_PREFIXES = tuple(bytes((prefix,)) for prefix in (0x26, 0x64, 0x65, *range(0x40, 0x50)))


class Patterns:
    """How instructions look that lead to addresses, the goals.

    `relative` are the goals, by opcode, of a 4-byte operand behind it that counts from its end.
    `fixed` are, by the bytes of an operand that are the same wherever it stands, rows of (what is
    before it, what is behind it, the goal).
    """

    __slots__ = ("relative", "fixed")

    def __init__(self) -> None:
        self.relative: dict[bytes, Sequence[int]] = {}
        self.fixed: dict[bytes, list[tuple[bytes, bytes, int]]] = {}

    def _fix(
        self, prefix: bytes, operand: int, goal: int, width: int = 4, suffix: bytes = b""
    ) -> None:
        field = (operand & (1 << 8 * width) - 1).to_bytes(width, "little")
        self.fixed.setdefault(field, []).append((prefix, suffix, goal))

    @classmethod
    def of_calls(
        cls, machine: int, code: "Sequence[int]", slots: "Sequence[int]", bases: "Sequence[int]"
    ) -> "Patterns":
        """Tell of calls to one of these addresses of code, or through one of the slots.

        `bases` are what i386 code may have in its GOT register. A call behind a prefix or a NOP is
        told by its opcode alone.
        """
        patterns = cls()
        for form in linked_calls(machine):
            goals = slots if form.through_slot else code
            if form.origin == FROM_END:
                if not form.prefix.endswith(CALL.prefix) or form.prefix == CALL.prefix:
                    patterns.relative[form.prefix] = goals
                continue
            for base in bases if form.origin == FROM_GOT else (0,):
                for goal in goals:
                    patterns._fix(form.prefix, goal - base, goal, form.width, form.suffix)
        return patterns

    @classmethod
    def of_jumps(cls, machine: int, slots: "Sequence[int]", bases: "Sequence[int]") -> "Patterns":
        """Tell of jumps through one of the slots, as those of stubs."""
        patterns = cls()
        if machine == EM_X86_64:
            patterns.relative[b"\xff\x25"] = slots  # jmp *disp32(%rip)
            return patterns
        for slot in slots:
            patterns._fix(b"\xff\x25", slot, slot)  # jmp *disp32
            for base in bases:
                patterns._fix(b"\xff\xa3", slot - base, slot)  # jmp *disp32(%ebx)
        return patterns

    @classmethod
    def of_retpolines(
        cls, machine: int, slots: "Sequence[int]", bases: "Sequence[int]"
    ) -> "Patterns":
        """Tell of what may be a stub of lld's -z retpolineplt: it loads a slot first."""
        patterns = cls()
        if machine == EM_X86_64:
            patterns.relative[b"\x4c\x8b\x1d"] = slots  # mov disp32(%rip),%r11
            return patterns
        for slot in slots:
            patterns._fix(b"\x50\xa1", slot, slot)  # push %eax; mov disp32,%eax
            for base in bases:
                patterns._fix(b"\x50\x8b\x83", slot - base, slot)  # push; mov disp32(%ebx),%eax
        return patterns


def stub_begins(machine: int) -> "Sequence[tuple[int, bytes]]":
    """List (size in bytes, opcode) of what may stand before the jump of a stub, the nearest first.

    [endbr] [mov $index,%reg (mold)] [bnd] jmp
    """
    if machine == EM_386:
        return (5, b"\xb9"), (4, ENDBR[1])
    return (1, b"\xf2"), (6, b"\x41\xbb"), (4, ENDBR[0])


LONGEST_STUB_BEGIN = 11
NOP_INSTRUCTIONS = ("nop", "xchg ax, ax")  # as capstone spells those of `NOPS`


# --- code that is written ---------------------------------------------------------------------

# NOPs by length in bytes: one instruction each, in 32- and 64-bit code, up to the longest there is.
# Intel SDM vol. 2B "NOP", table 4-12; beyond 9 bytes the prefixes that GNU as puts there.
NOP8 = bytes((0x0F, 0x1F, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00))  # nopl 0x0(%rax,%rax,1)
NOPS = {
    1: bytes((0x90,)),  # nop
    2: bytes((0x66, 0x90)),  # xchg %ax,%ax
    3: bytes((0x0F, 0x1F, 0x00)),  # nopl (%rax)
    4: bytes((0x0F, 0x1F, 0x40, 0x00)),  # nopl 0x0(%rax)
    5: NOP5,  # nopl 0x0(%rax,%rax,1)
    6: NOP6,  # nopw 0x0(%rax,%rax,1)
    7: bytes((0x0F, 0x1F, 0x80, 0x00, 0x00, 0x00, 0x00)),  # nopl 0x0(%rax)
    8: NOP8,  # nopl 0x0(%rax,%rax,1)
    9: bytes((0x66,)) + NOP8,  # nopw 0x0(%rax,%rax,1)
    10: bytes((0x66, 0x2E)) + NOP8,  # cs nopw 0x0(%rax,%rax,1)
    11: bytes((0x66, 0x66, 0x2E)) + NOP8,  # data16 cs nopw 0x0(%rax,%rax,1)
    12: NOP12,  # data16 data16 cs nopw 0x0(%rax,%rax,1)
    13: NOP13,  # data16 data16 data16 cs nopw 0x0(%rax,%rax,1)
    14: bytes((0x66,)) + NOP13,  # data16 data16 data16 data16 cs nopw 0x0(%rax,%rax,1)
    15: bytes((0x66, 0x66)) + NOP13,  # data16 data16 data16 data16 data16 cs nopw 0x0(%rax,%rax,1)
}
# For the K8: prefixes before the one-byte nop, which is xchg %ax,%ax behind the first of them.
K8_NOPS = {length: b"\x66" * (length - 1) + b"\x90" for length in range(1, 16)}
# A short jump to the end, jmp .+length: no processor is without it. What it skips is never
# executed, yet consists of one-byte nops: a decoder that ignores the jump is in step behind them.
JUMP_NOPS = {length: bytes((0xEB, length - 2)) + b"\x90" * (length - 2) for length in range(2, 16)}
JUMP_NOPS[1] = NOPS[1]  # shorter than any jump
NOP_FAMILIES = {"p6": NOPS, "k8": K8_NOPS, "jump": JUMP_NOPS}

# How to call an address, by the length of the site in bytes.
RELATIVE_CALLS = {
    5: CALL.prefix,  # call target
    6: b"\x67\xe8",  # addr32 call target: the prefix means nothing here, linkers pad with it
}
ABSOLUTE_CALLS = {
    12: CALL_ABS[8],  # movabs $target, %rax; call *%rax
    13: CALL_ABS[2],  # movabs $target, %r10; call *%r10
}
CALL_LENGTHS = {EM_386: {*RELATIVE_CALLS}, EM_X86_64: {*RELATIVE_CALLS, *ABSOLUTE_CALLS}}
JUMP = b"\xe9"  # jmp target
JUMP_LENGTH = 5
SHORT_JUMP = b"\xeb"  # jmp target, of which only NOPs are made
# A function without arguments that returns the processor's time stamp counter, in 64-bit code.
READ_COUNTER = (
    b"\x0f\x31"  # rdtsc
    b"\x48\xc1\xe2\x20"  # shl $0x20,%rdx
    b"\x48\x09\xd0"  # or %rdx,%rax
    b"\xc3"  # ret
)

ADDRESS_BITS = {EM_386: 32, EM_X86_64: 64}
# 64-bit addresses are canonical, with 48 bits: a jump to another one is a fault. Those that 5-level
# paging adds, for processes that ask for them, are refused as well.
ADDRESSES = {
    EM_386: (range(1 << 32),),
    EM_X86_64: (range(1 << 47), range((1 << 64) - (1 << 47), 1 << 64)),
}


def call(address: int, target: int, length: int = 5, machine: int = EM_X86_64) -> bytes | None:
    """Spell the call of `target`, `length` bytes long, at `address`; None if out of reach.

    Both addresses are link-time virtual ones, or both run-time ones. Lengths 5 and 6 reach 2 GiB
    from the end of the site; in 32-bit code, whose addresses wrap around, everything. Lengths 12
    and 13 exist in 64-bit code only, reach everything and overwrite %rax or %r10. They are two
    instructions, and a thread may rest between them: whoever changes code that runs has to know
    that none does. What is no address of the machine (see `is_address`) is out of reach, too.
    Raises ValueError for a length that no call has.
    """
    if length in RELATIVE_CALLS:
        return _branch(RELATIVE_CALLS[length], address, target, machine)
    if length not in ABSOLUTE_CALLS or machine != EM_X86_64:
        raise ValueError(f"no call is {length} bytes long")
    if not is_address(machine, address, length) or not is_address(machine, target):
        return None
    form = ABSOLUTE_CALLS[length]
    return form.prefix + target.to_bytes(8, "little") + form.suffix


def call_like(code: bytes, address: int, target: int, machine: int = EM_X86_64) -> bytes | None:
    """Spell it as `call` does, by the register of the call `code`, which is known to be free."""
    made = call(address, target, len(code), machine)
    if made is None or len(code) not in ABSOLUTE_CALLS:
        return made
    return code[:2] + made[2:10] + code[10:]


def relative_target(code: bytes, address: int) -> int | None:
    """Return what `code`, which stands at `address`, calls as `call` spells it; None if nothing."""
    if RELATIVE_CALLS.get(len(code)) != code[:-4]:
        return None
    end = address + len(code)
    return end + int.from_bytes(code[-4:], "little", signed=True) & (1 << 64) - 1


def jump(address: int, target: int, machine: int = EM_X86_64) -> bytes | None:
    """Spell the 5-byte jump to `target` at `address`; None if out of reach as in `call`."""
    return _branch(JUMP, address, target, machine)


# The first instruction of a site that is none of the NOPs: its first bytes -> its length in bytes.
_FIRST_INSTRUCTIONS = {
    CALL.prefix: 5,
    JUMP: JUMP_LENGTH,
    RELATIVE_CALLS[6]: 6,
    **{form.prefix: 6 for form in (CALL_GOT, *CALL_GOT_386)},  # call *disp32(...)
    **{form.prefix: 10 for form in CALL_ABS},  # movabs
}
_NOPL_LENGTHS = {NOPS[length][2:3]: length for length in (3, 4, 5, 7, 8)}  # by their ModRM byte


def first_instruction(code: bytes) -> int:
    """Measure the first instruction of what stands at a site, in bytes; 0 if it is unknown.

    Known are the calls, jumps and NOPs of this module. What a short jump skips counts as its own.
    """
    branch = code.lstrip(b"".join(LINKED_IDLE))
    if length := _FIRST_INSTRUCTIONS.get(branch[:1]) or _FIRST_INSTRUCTIONS.get(branch[:2]):
        return len(code) - len(branch) + length
    if code.startswith(SHORT_JUMP) and len(code) > 1:
        return 2 + code[1]
    return nop_length(code)


def nop_length(code: bytes) -> int:
    """Measure the NOP that `code` begins with, in bytes; 0 if it is none of this module's."""
    bare = code.lstrip(b"\x66\x2e\x36\x3e\xf2")
    prefixes = len(code) - len(bare)
    if bare.startswith(NOPS[1]):
        return prefixes + 1
    if bare.startswith(NOPS[3][:2]) and (length := _NOPL_LENGTHS.get(bare[2:3])):
        return prefixes + length
    return 0


def nop_ends(code: bytes) -> "list[int]":
    """List where the NOPs that `code` begins with end, each as bytes from its start."""
    ends = [0]
    while (length := nop_length(code[ends[-1] :])) and ends[-1] + length <= len(code):
        ends.append(ends[-1] + length)
    return ends[1:]


# What names thread-local data by its distance from %fs: the bytes before disp32, and behind it.
# A SIB byte without base and index says that the distance is not counted from %rip.
FS_ACCESSES = {
    "mov eax, dword ptr fs:[]": (bytes((0x64, 0x8B, 0x04, 0x25)), b""),
    "mov r11d, dword ptr fs:[]": (bytes((0x64, 0x44, 0x8B, 0x1C, 0x25)), b""),
    "mov qword ptr fs:[], rax": (bytes((0x64, 0x48, 0x89, 0x04, 0x25)), b""),
    "mov qword ptr fs:[], 0": (bytes((0x64, 0x48, 0xC7, 0x04, 0x25)), bytes(4)),
}


SYSCALL = bytes((0x0F, 0x05))  # syscall
LOAD_R11D = bytes((0x41, 0xBB))  # mov $imm32, %r11d


def sled_call(address: int, target: int, length: int, machine: int) -> bytes | None:
    """Spell what calls `target` in the place of NOPs that are `length` bytes long; else as `call`.

    Behind the 5 bytes of the call is one NOP: every byte is of a whole instruction.
    """
    made = call(address, target, CALL.length, machine)
    return made + NOPS.get(length - CALL.length, b"") if made else None


def parted_nops(length: int) -> bytes:
    """Spell `length` bytes of NOPs that are parted where `sled_call` is: behind 5 bytes."""
    return NOP5 + NOPS.get(length - CALL.length, b"")


def sled_target(code: bytes, address: int, machine: int) -> int | None:
    """Return what `code`, which stands at `address`, calls; None if `sled_call` spells no such."""
    distance = int.from_bytes(code[1 : CALL.length], "little", signed=True)
    target = address + CALL.length + distance & (1 << ADDRESS_BITS[machine]) - 1
    return target if code == sled_call(address, target, len(code), machine) else None


def is_address(machine: int, address: int, size: int = 1) -> bool:
    """Tell whether the machine can have `size` bytes at `address`, without wrapping around."""
    return any(address in part and address + size - 1 in part for part in ADDRESSES[machine])


def _branch(opcode: bytes, address: int, target: int, machine: int) -> bytes | None:
    """Return the branch whose operand of 4 bytes counts from its end."""
    length = len(opcode) + 4
    if not is_address(machine, address, length) or not is_address(machine, target):
        return None
    distance = target - (address + length)
    if machine == EM_386:  # modulo 1 << 32, as the processor counts
        distance = (distance + (1 << 31)) % (1 << 32) - (1 << 31)
    if not -1 << 31 <= distance < 1 << 31:
        return None
    return opcode + distance.to_bytes(4, "little", signed=True)
