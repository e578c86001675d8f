"""What a person should hear of an object because its counts do not tell it: calls may be missing.

Each doubt is a clause for a warning. They are asked for only where something is out of the usual.
"""

from recordmcount import x86
from recordmcount.elf import object as elf
from recordmcount.errors import FormatError
from recordmcount.sites import calls

from . import kernel_objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from recordmcount.elf.object import Object
    from recordmcount.sites.calls import Found

    from .plan import Plan

# Of so many functions at most it is asked what they begin with,
_ENOUGH = 64
# in relocation sections of so many bytes at most.
_LARGE = 4 << 20
# Sections where gcc leaves the options it was given (DW_AT_producer; clang leaves none), and how it
# spells the one for profiling there, between blanks or at the end.
_PRODUCERS = (b".debug_str", b".debug_info")
_PROFILING = (b" -p ", b" -pg ", b" -p\0", b" -pg\0")
# Behind these a function's first call may stand; behind the latter only if it is profiled.
_ENTRIES = (b"", *x86.ENDBR)
_FRAMES = (b"\x55\x48\x89\xe5", b"\x55\x89\xe5")  # push %rbp; mov %rsp,%rbp
_CALL_TYPES = {machine: {*forms} for machine, forms in x86.CALL_FORMS.items()}
# What else compilers call there: -fsanitize, -fsanitize-coverage, retpolines.
_OTHERS = ("__sanitizer_", "__asan_", "__tsan_", "__msan_", "__x86_")


def of_plan(obj: "Object", found: "Found", plan: "Plan") -> "list[str]":
    """Tell what is doubtful about an object, of which these calls were found and so planned."""
    try:
        return list(_all(obj, found, plan))
    except FormatError:  # in what recording has no need of
        return []


def _all(obj: "Object", found: "Found", plan: "Plan") -> "Iterator[str]":
    if all(part.are_returns for part in found.sections) and not found.unsupported:
        is_bare = "only returns are recorded" if found.sections else "nothing is recorded"
        yield from _another_name(obj, is_bare)
    yield from _resolved_calls(obj, found)
    if plan.recorded and obj.has_lto:
        yield (
            "a fat LTO object: a link with -flto makes the code anew and drops this table; "
            f"{elf.JOIN_LTO}, and record the result"
        )
    if plan and obj.is_signed:
        yield "its signature is no longer valid: sign the module again"


# --- calls by another name ------------------------------------------------------------------------


def _another_name(obj: "Object", recorded: str) -> "Iterator[str]":
    """Name what all functions begin with a call of: it may be their mcount.

    Compilers say whether they were told to profile. Where they do not, half of at least two
    functions must begin so; in a kernel, which calls much at once, that is no sign.
    """
    is_profiled = _is_profiled(obj)
    callees = list(_first_callees(obj, _FRAMES if is_profiled else ()))
    callee = max(filter(None, callees), key=callees.count, default=0)
    count = callees.count(callee)
    is_usual = count > 1 and 2 * count >= len(callees)
    if not callee or not (is_profiled or (is_usual and not kernel_objects.is_of_kernel(obj))):
        return
    name = elf.string_at(obj.symbol_names, obj.raw_symbol(callee)[elf.ST_NAME]).partition("@")[0]
    if name and not name.startswith(_OTHERS):
        begin = "function begins" if count == 1 else "functions begin"
        yield (
            f"{recorded}, yet {count} {begin} with a call of {name}; if that is its "
            f"mcount, say --symbol {name}"
        )


def _is_profiled(obj: "Object") -> bool:
    for index in [index for name in _PRODUCERS for index in obj.named(name)]:
        if not obj.headers[index][elf.SH_FLAGS] & elf.SHF_COMPRESSED:
            content = obj.content(index)
            if any(option in content for option in _PROFILING):
                return True
    return False


def _first_callees(obj: "Object", frames: "tuple[bytes, ...]") -> "Iterator[int]":
    """Yield for each function the undefined symbol that it calls first; 0 if it calls none so."""
    starts: dict[int, list[int]] = {}
    for _name, value, size, info, _other, shndx in obj.raw_symbols():
        if info & 0xF == elf.STT_FUNC and size >= len(x86.NOP5):
            starts.setdefault(shndx, []).append(value)
    left = _ENOUGH
    for relocations, text in calls.text_relocations(obj):
        if obj.headers[relocations][elf.SH_SIZE] > _LARGE or text not in starts or left <= 0:
            continue
        named = {at: (kind, symbol) for at, kind, symbol, _ in obj.relocations(relocations)}
        code = obj.content(text)
        for start in starts[text][:left]:
            yield _first_callee(obj, code, start, named, (*_ENTRIES, *frames))
        left -= len(starts[text])


def _first_callee(
    obj: "Object",
    code: bytes,
    start: int,
    named: "dict[int, tuple[int, int]]",
    before: "tuple[bytes, ...]",
) -> int:
    for prologue in before:
        call = start + len(prologue)
        if not code.startswith(prologue, start):
            continue
        for prefix in (x86.CALL.prefix, x86.CALL_GOT.prefix, x86.CALL_GOT_386[0].prefix):
            kind, symbol = named.get(call + len(prefix), (0, 0))
            if code.startswith(prefix, call) and kind in _CALL_TYPES[obj.machine]:
                is_defined = obj.raw_symbol(symbol)[elf.ST_SHNDX] != elf.SHN_UNDEF
                return 0 if is_defined else symbol
    return 0


# --- calls without a relocation -------------------------------------------------------------------


def _resolved_calls(obj: "Object", found: "Found") -> "Iterator[str]":
    """Count the calls of an mcount in this very section: for those assemblers leave no relocation.

    They do where the symbol is local: nothing else can ever be meant.
    """
    for symbol in sorted(found.symbols):
        name, value, _size, info, _other, shndx = obj.raw_symbol(symbol)
        if not shndx or info >> 4 != elf.STB_LOCAL:
            continue
        is_text = obj.section(shndx).flags & elf.SHF_EXECINSTR
        number = _count_calls(obj.content(shndx), value) if is_text else 0
        if number:
            word = elf.string_at(obj.symbol_names, name).partition("@")[0]
            yield (
                f"calls of the local {word} without a relocation are not recorded ({number}); make "
                "it a global symbol, or define it in another file"
            )


def _count_calls(code: bytes, target: int) -> int:
    """Count the `call target` in code, the target being an offset in it."""
    number = 0
    at = code.find(x86.CALL.prefix)
    while at >= 0:
        distance = int.from_bytes(code[at + 1 : at + 5], "little", signed=True)
        number += at + x86.CALL.length + distance == target
        at = code.find(x86.CALL.prefix, at + 1)
    return number
