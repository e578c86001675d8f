"""One small object of every kind the recorder treats in a way of its own, and an archive of two."""

from collections.abc import Callable, Mapping

from tests.support.elf_builder import (
    I386,
    SHF_ALLOC,
    SHF_EXECINSTR,
    STB_WEAK,
    STT_FUNC,
    X32,
    X86_64,
    Elf,
    Group,
    Relocation,
    Section,
    Symbol,
    Target,
    build,
    section_symbol,
)

SHT_LLVM_ADDRSIG = 0x6FFF4C03
PC32, PLT32, GOT32X, GOTPCRELX, ABS64 = 2, 4, 43, 41, 1  # psABI numbers; PC32, PLT32 of both

PROLOGUE = b"\x55"  # push %rbp
CALL = (b"\xe8\0\0\0\0", 1, PLT32, -4)
CALL_GOT = (b"\xff\x15\0\0\0\0", 2, GOTPCRELX, -4)
CALL_GOT_386 = (b"\xff\x93\0\0\0\0", 2, GOT32X, 0)
CALL_ABS = (b"\x49\xba" + bytes(8) + b"\x41\xff\xd2", 2, ABS64, 0)
LEA = (b"\x48\x8d\x05\0\0\0\0", 3, PC32, -4)  # of mcount: names it, and calls nothing


def text(name: str, *pieces: tuple[bytes, int, int, int]) -> Section:
    """A text section of `pieces`: instruction, where its field is, relocation type, addend."""
    code = bytearray()
    relocations = []
    for instruction, field, kind, addend in pieces:
        code += PROLOGUE
        relocations.append(Relocation(len(code) + field, kind, "mcount", addend))
        code += instruction
    flags = SHF_ALLOC | SHF_EXECINSTR
    return Section(name, flags=flags, align=16, data=bytes(code), relocations=relocations)


def functions(*sections: Section, weak: bool = False) -> list[Symbol]:
    bind = {"bind": STB_WEAK} if weak else {}
    return [
        Symbol(f"in{section.name}", section.name, 1, 8, type=STT_FUNC, **bind)
        for section in sections
    ]


def caller(*sections: str) -> bytes:
    """An object with one call in each of `sections`, in a global function."""
    texts = [text(name, CALL) for name in sections]
    return build(X86_64, texts, [*functions(*texts), Symbol("mcount")]).data


def plain(target: Target = X86_64, *, extended_numbering: bool = False) -> Elf:
    sections = [text(".text", CALL, CALL), text(".init.text", CALL)]
    return build(
        target,
        [*sections, Section(".comment", data=b"made by hand\0")],
        [section_symbol(".text"), *functions(*sections), Symbol("mcount")],
        extended_numbering=extended_numbering,
    )


def of_forms(target: Target, *forms: tuple[bytes, int, int, int]) -> Elf:
    section = text(".text", *forms)
    return build(target, [section], [*functions(section), Symbol("mcount")])


def comdat() -> Elf:
    sections = [text(".text", CALL), text(".text.inline", CALL), text(".text.other", CALL)]
    return build(
        X86_64,
        sections,
        [*map(section_symbol, [".text", ".text.inline"]), *functions(*sections), Symbol("mcount")],
        [Group("in.text.inline", [".text.inline"]), Group("in.text.other", [".text.other"])],
    )


def without_base(target: Target, *, extended_numbering: bool = False) -> Elf:
    """Only weak symbols: a section symbol must be added, and every symbol index must follow."""
    sections = [text(".text", CALL, CALL), text(".text.group", CALL), text(".exit.text", CALL)]
    return build(
        target,
        [*sections, Section(".llvm_addrsig", SHT_LLVM_ADDRSIG, data=b"\1\3", link=".symtab")],
        [*functions(*sections, weak=True), Symbol("mcount")],
        [Group("in.text.group", [".text.group"])],
        extended_numbering=extended_numbering,
    )


def with_nops(target: Target, form: tuple[bytes, int, int, int]) -> Elf:
    sections = [text(".text", form), text(".exit.text", form, form)]
    return build(target, sections, [*functions(*sections), Symbol("mcount")])


ELVES: Mapping[str, Callable[[], Elf]] = {
    "x86-64": plain,
    "i386": lambda: plain(I386),
    "x32": lambda: plain(X32),
    "extended-numbering": lambda: plain(extended_numbering=True),
    "pic-and-large": lambda: of_forms(X86_64, CALL, CALL_GOT, CALL_ABS, LEA),
    "i386-pic": lambda: of_forms(I386, CALL, CALL_GOT_386),
    "comdat": comdat,
    "no-base-symbol": lambda: without_base(X86_64),
    "no-base-symbol-i386": lambda: without_base(I386),
    "no-base-symbol-extended": lambda: without_base(X86_64, extended_numbering=True),
    "nops": lambda: with_nops(X86_64, CALL_GOT),
    "nops-large": lambda: with_nops(X86_64, CALL_ABS),
    "nops-i386": lambda: with_nops(I386, CALL_GOT_386),
}


def archive() -> bytes:
    """Two objects, one with a long name, and text; with a symbol index, as `ar rcs` makes it."""
    members = [
        ("first.o/", plain().data),
        ("/0", with_nops(I386, CALL_GOT_386).data),
        ("readme/", b"no object"),
    ]
    symbols = b"in.text\0in.init.text\0in.text\0in.exit.text\0"
    index_size = 4 * 5 + len(symbols)
    places, at = [], 8 + 60 + index_size + index_size % 2
    body = _member("//", b"a-name-of-more-than-sixteen-bytes.o/\n")
    for name, content in members:
        places.append(at + len(body))
        body += _member(name, content)
    words = [4, places[0], places[0], places[1], places[1]]
    index = b"".join(word.to_bytes(4, "big") for word in words) + symbols
    return b"!<arch>\n" + _member("/", index) + body


def _member(name: str, content: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(content):<10}`\n"
    return header.encode() + content + b"\n" * (len(content) % 2)
