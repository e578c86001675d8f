"""Calls of mcount in objects: their opcodes, relocation types and names, and the NOPs for them.

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

Recording an object needs this and no more. What else the project knows about bytes stands in the
modules beside it, `x86_*`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

EM_386 = 3
EM_X86_64 = 62
ADDRESS_BITS = {EM_386: 32, EM_X86_64: 64}

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
# As string tables have them.
MCOUNT_NAMES = tuple([name.encode() for name in KNOWN_NAMES if name != RETURN])
RETURN_NAME = RETURN.encode()


def mcount_names(extra_names: "Sequence[str]" = ()) -> list[bytes]:
    """List the names of mcount as string tables have them, the given further ones last."""
    return [*MCOUNT_NAMES, *[name.encode("utf-8", "surrogateescape") for name in extra_names]]


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

# What may stand before the first instruction of a function: endbr64, endbr32.
ENDBR = (b"\xf3\x0f\x1e\xfa", b"\xf3\x0f\x1e\xfb")
# How many bytes an instruction may have; a site that is one is made one NOP.
LONGEST_INSTRUCTION = 15


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
