"""Calls of mcount in images without a table: all that a recorder would have found, and no others.

Images are linked with a recorded table, which is then ignored, and must be found again. It is read
by pyelftools.
"""

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from recordmcount.errors import Error
from recordmcount.sites import evidence, scan
from recordmcount.sites.scan import FoundSites
from recordmcount.sites.state import State
from tests.support import command, images
from tests.support.linked import Image
from tests.support.objects import parsed
from tests.support.program import FENTRY, MCOUNT, OWN_MCOUNT, Flavour, Program

NO_TABLE = (
    "no __mcount_loc table: compile with -pg -mfentry, run recordmcount on the objects, and link "
    "them"
)

LINKERS = ("bfd", "gold", "lld", "mold")
COMPILERS = ("g++", "clang++")
FLAVOURS = {"fentry": FENTRY, "mcount": MCOUNT, "own-mcount": OWN_MCOUNT}


def in_turns(*flavours: str) -> list[ParameterSet]:
    """Every flavour as every kind of file by every linker, the compilers taking turns.

    So each compiler meets each linker, each kind and each flavour; how an image looks, which is
    what is searched, is a linker's doing.
    """
    every = product(enumerate(flavours), enumerate(LINKERS), enumerate(("exe", "pie", "shared")))
    return [
        pytest.param(
            compiler, kind, linker, FLAVOURS[flavour], id=f"{compiler}-{kind}-{linker}-{flavour}"
        )
        for (one, flavour), (two, linker), (three, kind) in every
        for compiler in [COMPILERS[(one + two + three) % 2]]
    ]


def find(path: Path, *names: str) -> FoundSites:
    return scan.read(parsed(path.read_bytes(), "image"), names)


def bared(path: Path) -> Iterator[Path]:
    """The image, the same without symbols, and without section headers."""
    yield path
    stripped, headless = path.with_name("stripped"), path.with_name("headless")
    shutil.copy(path, stripped)
    images.tool("strip", stripped)
    yield stripped
    shutil.copy(path, headless)
    images.without_section_headers(headless)
    yield headless


def assert_found_again(path: Path) -> None:
    """All entries of the table are found as proven calls, and nothing else, however bare it is."""
    table = sorted(Image(path).table)
    assert table
    for image in bared(path):
        found = find(image)
        assert (image.name, found.vaddrs) == (image.name, table)
        assert found.proven == table
        assert {(site.state, site.recorded) for site in found} == {(State.CALL, False)}
        assert [site.position for site in found] == table


# --- the matrix -----------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize(("compiler", "kind", "linker", "flavour"), in_turns(*FLAVOURS))
def test_the_calls_of_a_dynamic_image_are_those_of_its_table(
    tmp_path: Path, compiler: str, kind: str, linker: str, flavour: Flavour
) -> None:
    program = Program(tmp_path, compiler, kind, flavour)
    objects = program.compile()
    program.record(objects)
    assert_found_again(program.link(linker, objects))


# gcc has no -mfentry for 32-bit PIC.
@pytest.mark.matrix
@pytest.mark.parametrize(
    ("compiler", "kind", "linker", "flavour"), in_turns("mcount", "own-mcount")
)
def test_i386(tmp_path: Path, compiler: str, kind: str, linker: str, flavour: Flavour) -> None:
    program = Program(tmp_path, compiler, kind, flavour, machine="-m32")
    objects = program.compile()
    program.record(objects)
    assert_found_again(program.link(linker, objects))


@pytest.mark.matrix
@pytest.mark.parametrize("linker", ["bfd", "gold"])  # lld and mold refuse
@pytest.mark.parametrize("kind", ["exe", "pie", "shared"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_x32(tmp_path: Path, compiler: str, kind: str, linker: str) -> None:
    program = Program(tmp_path, compiler, kind, MCOUNT, machine="-mx32")
    objects = program.compile()
    program.record(objects)
    assert_found_again(program.link(linker, objects))


@pytest.mark.matrix
@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=FLAVOURS)
@pytest.mark.parametrize(
    ("kind", "linker", "flag"),
    [
        *(("exe", linker, "-static") for linker in LINKERS),
        *(("pie", linker, "-static-pie") for linker in ("bfd", "lld", "mold")),  # gold refuses
    ],
)
def test_the_calls_of_a_static_image_are_known_as_long_as_it_has_symbols(
    tmp_path: Path, kind: str, linker: str, flag: str, flavour: Flavour
) -> None:
    program = Program(tmp_path, "g++", kind, flavour)
    objects = program.compile()
    program.record(objects)
    whole, *bare = bared(program.link(linker, objects, flag))
    found = find(whole)
    assert found.proven == sorted(Image(whole).table)
    assert {*found.evidence} == {evidence.DIRECT}
    assert found.no_evidence == ""
    for image in bare:
        assert (len(find(image)), find(image).no_evidence) == (0, scan.NO_SYMBOLS)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("linker", "flags", "form"),
    [
        ("bfd", ["-Wl,-z,call-nop=prefix-0x90"], "nop-call"),
        ("bfd", ["-Wl,-z,call-nop=suffix-nop"], "call"),
        ("bfd", ["-Wl,-z,ibt"], "call-addr32"),
        ("bfd", ["-Wl,--no-relax"], "call-got"),
        ("lld", ["-Wl,--no-relax"], "call-got"),
        ("mold", [], "nop-call"),
    ],
)
def test_however_the_linker_spells_the_call(
    tmp_path: Path, linker: str, flags: Sequence[str], form: str
) -> None:
    program = Program(tmp_path, "g++", "pie", FENTRY)
    objects = program.compile()
    program.record(objects)
    image = program.link(linker, objects, *flags)
    assert_found_again(image)
    assert {site.form for site in find(image)} == {form}


@pytest.mark.matrix
@pytest.mark.parametrize("machine", ["-m64", "-m32"])
@pytest.mark.parametrize(("flags", "link"), [("-fno-pic", "-no-pie"), ("-fPIC", "-shared")])
@pytest.mark.parametrize(
    ("linker", "how"),
    [
        ("lld", "-Wl,-z,retpolineplt"), ("lld", "-Wl,-z,retpolineplt,-z,now"),
        ("lld", "-Wl,-z,force-ibt"), ("lld", "-Wl,--pack-dyn-relocs=relr"),
        ("lld", "-Wl,--icf=all"), ("gold", "-Wl,--icf=all"), ("mold", "-Wl,--icf=all"),
        ("bfd", "-Wl,-z,ibtplt"), ("bfd", "-Wl,-z,now"), ("bfd", "-Wl,-z,noseparate-code"),
        ("bfd", "-Wl,-z,pack-relative-relocs"),
    ],
)  # fmt: skip
def test_whatever_stubs_and_relocations_the_linker_makes(
    tmp_path: Path, linker: str, how: str, flags: str, link: str, machine: str
) -> None:
    built = images.build(
        tmp_path,
        linker=linker,
        flags=[flags, machine, "-fplt", "-fcf-protection"],
        link=[link, machine, how],
    )
    assert_found_again(built.image)


@pytest.mark.matrix
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("linker", LINKERS)
def test_the_large_model(tmp_path: Path, compiler: str, linker: str) -> None:
    flags = ["-fno-pic", "-mcmodel=large"]
    image = images.build(tmp_path, compiler=compiler, linker=linker, flags=flags).image
    assert_found_again(image)
    assert {site.form for site in find(image)} == {"call-abs"}


# --- evidence -------------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("linker", LINKERS)
@pytest.mark.parametrize(
    ("flags", "link"),
    [(["-fno-pic"], "-no-pie"), (["-fpie"], "-pie"), (["-m32", "-fPIC"], "-shared")],
)
def test_relocations_that_the_linker_kept_name_the_calls(
    tmp_path: Path, linker: str, flags: Sequence[str], link: str
) -> None:
    machine = [flag for flag in flags if flag == "-m32"]
    options = [link, "-Wl,--emit-relocs", *machine]
    image = images.build(tmp_path, linker=linker, flags=flags, link=options).image
    found = find(image)
    assert found.proven == sorted(Image(image).table)
    assert {*found.evidence} == {evidence.EMITTED_RELOCATION}


@pytest.mark.matrix
@pytest.mark.parametrize("linker", ["bfd", "gold", "lld"])  # mold makes stubs
@pytest.mark.parametrize("link", ["-shared", "-pie"])
def test_relocations_left_to_the_loader_name_the_calls(
    tmp_path: Path, linker: str, link: str
) -> None:
    built = images.build(
        tmp_path, compiler="clang", linker=linker, flags=["-m32", "-mfentry", "-fno-pic"],
        link=["-m32", link, "-Wl,-z,notext"], record=["--pic"],
    )  # fmt: skip
    table = sorted(Image(built.image).table)
    for image in bared(built.image):
        found = find(image)
        assert found.proven == table
        assert {*found.evidence} == {evidence.TEXT_RELOCATION}
        assert {(site.state, site.target, site.code.hex()) for site in found} == {
            (State.CALL, "__fentry__", "e8fcffffff")
        }
        assert found.no_evidence == ""


PATCHABLE = [
    ("gcc", ["-fpatchable-function-entry=5"], 0, "90" * 5),
    ("gcc", ["-fpatchable-function-entry=7,2"], 2, "90" * 2),  # the rest is behind the symbol
    ("clang", ["-fpatchable-function-entry=5"], 0, "0f1f440008"),
    ("clang", ["-m32", "-fpatchable-function-entry=5"], 0, "6690669090"),
]


@pytest.mark.matrix
@pytest.mark.parametrize(("compiler", "flags", "before", "code"), PATCHABLE)
@pytest.mark.parametrize("link", ["-no-pie", "-pie"])
def test_areas_for_patches_are_known_by_their_table(
    tmp_path: Path, compiler: str, flags: Sequence[str], before: int, code: str, link: str
) -> None:
    machine = [flag for flag in flags if flag == "-m32"]
    pic = "-fpie" if link == "-pie" else "-fno-pic"
    flags = ["-O2", pic, "-fcf-protection=none", *flags]
    work = images.compile_object(tmp_path, "work", images.WORK, compiler, *flags)
    main = images.compile_object(tmp_path, "main", images.MAIN, "gcc", pic, *machine)
    images.tool("gcc", *machine, link, "-o", tmp_path / "image", work, main)
    found = find(tmp_path / "image")
    starts = {images.symbol(tmp_path / "image", name) for name in images.WORK_FUNCTIONS}
    assert {*found.vaddrs} == {start - before for start in starts}
    assert {*found.evidence} == {evidence.PATCHABLE_ENTRY}
    assert found.proven == []
    assert {(site.state, site.form, site.code.hex()) for site in found} == {
        (State.NOP, "patchable", code)
    }


def test_an_area_without_nops_is_foreign(tmp_path: Path) -> None:
    flags = ["-O2", "-fno-pic", "-fcf-protection=none", "-fpatchable-function-entry=5"]
    work = images.compile_object(tmp_path, "work", images.WORK, "gcc", *flags)
    main = images.compile_object(tmp_path, "main", images.MAIN, "gcc", "-fno-pic")
    image = tmp_path / "image"
    images.tool("gcc", "-no-pie", "-o", image, work, main)
    offset, start, _ = images.section(image, ".text")
    odd = images.symbol(image, "odd")
    images.write(image, offset + odd - start, b"\xcc")
    (site,) = [site for site in find(image) if site.state is State.FOREIGN]
    assert (site.position, site.reason) == (
        odd,
        "no NOP at an entry of __patchable_function_entries",
    )


@pytest.mark.parametrize("entry", [1, 1 << 63])
def test_an_area_that_is_no_code_is_an_error(tmp_path: Path, entry: int) -> None:
    flags = ["-fno-pic", "-fpatchable-function-entry=5"]
    work = images.compile_object(tmp_path, "work", images.WORK, "gcc", *flags)
    main = images.compile_object(tmp_path, "main", images.MAIN, "gcc", "-fno-pic")
    image = tmp_path / "image"
    images.tool("gcc", "-no-pie", "-o", image, work, main)
    offset, _, _ = images.section(image, "__patchable_function_entries")
    images.write(image, offset, entry.to_bytes(8, "little"))
    reason = f"entry {entry:#x} is not in code that is loaded from the file"
    with pytest.raises(Error, match=rf"^image: __patchable_function_entries: {reason}$"):
        find(image)


def test_without_symbols_and_unwind_entries_a_call_is_only_likely(tmp_path: Path) -> None:
    flags = ["-fpie", "-fno-asynchronous-unwind-tables"]
    image = images.build(tmp_path, flags=flags, link=["-pie"]).image
    whole, *bare = bared(image)
    table = sorted(Image(whole).table)
    assert find(whole).proven == table
    for each in bare:
        found = find(each)
        assert (found.vaddrs, found.proven) == (table, [])
        assert {*found.evidence} == {evidence.likely(evidence.GOT)}


@pytest.mark.matrix
def test_retpolines_are_followed_with_and_without_section_headers(tmp_path: Path) -> None:
    link = ["-no-pie", "-Wl,-z,retpolineplt"]
    image = images.build(tmp_path, linker="lld", flags=["-fno-pic"], link=link).image
    table = sorted(Image(image).table)
    assert [find(path).proven for path in bared(image)] == [table] * 3


def test_an_import_that_no_call_can_be_followed_to_is_told_of(tmp_path: Path) -> None:
    """Its address is taken, and what is done with that nobody knows."""
    source = "extern void mcount(void); void *get(void) { return mcount; }\n"
    images.compile_object(tmp_path, "get", source, "gcc", "-O1", "-fPIC")
    library = tmp_path / "libget.so"
    images.tool("gcc", "-shared", "-o", library, tmp_path / "get.o")
    for path in bared(library):
        assert (len(find(path)), find(path).no_evidence) == (0, scan.NO_CALLS)


def test_a_further_name_is_looked_for(tmp_path: Path) -> None:
    image = images.build(tmp_path, flags=["-fno-pic"]).image
    assert {site.target for site in find(image, "getchar")} == {"mcount", "getchar"}


# --- what only looks like a call ------------------------------------------------------------------

FRAME = """
    .globl main, mcount
    .type main, @function
    .type mcount, @function
mcount: ret
    .size mcount, .-mcount
main:
{body}
    xor %eax, %eax
    ret
    .size main, .-main
    .section .note.GNU-stack,"",@progbits
"""


def assembled(folder: Path, body: str) -> FoundSites:
    (folder / "main.s").write_text(FRAME.format(body=body))
    images.tool("gcc", "-no-pie", "-o", folder / "main", folder / "main.s")
    return find(folder / "main")


@pytest.mark.parametrize(
    ("body", "sites"),
    [
        pytest.param("call mcount", [(0, "call")], id="call"),
        pytest.param("endbr64; call mcount", [(4, "call")], id="endbr"),
        pytest.param(".byte 0x67; call mcount", [(0, "call-addr32")], id="prefix"),
        # je with a displacement that would be a prefix
        pytest.param(".byte 0x74, 0x67; call mcount; .skip 0x62, 0x90", [(2, "call")], id="je"),
        pytest.param(".byte 0x3c, 0x90; call mcount", [(2, "call")], id="immediate nop"),
        # movabs whose operand looks like a call
        pytest.param(".byte 0x48, 0xb8, 0xe8; .long mcount - . - 4; .skip 3", [], id="movabs"),
        pytest.param("jmp mcount", [], id="jmp"),
        pytest.param(".byte 0x0f, 0x84; .long mcount - . - 4", [], id="jcc"),
        pytest.param("call mcount + 1", [], id="into the middle"),
        pytest.param("nop; nop; call mcount", [(2, "call")], id="an area"),
        pytest.param("nop; call mcount; call mcount; ret; call mcount",
                     [(1, "call"), (6, "call"), (12, "call")], id="padding"),
        pytest.param("nop; call mcount", [(0, "nop-call")], id="nop"),
    ],
)  # fmt: skip
def test_a_call_begins_where_an_instruction_does(
    tmp_path: Path, body: str, sites: list[tuple[int, str]]
) -> None:
    found = assembled(tmp_path, body)
    assert [(site.function_offset, site.form) for site in found] == sites
    assert {site.function for site in found} <= {"main"}


def test_a_call_behind_a_prefix_that_no_entry_can_name_is_told_of(tmp_path: Path) -> None:
    (site,) = assembled(tmp_path, ".byte 0x40; call mcount")
    assert (site.function_offset, site.state) == (0, State.FOREIGN)
    assert site.reason == "a call behind a prefix, which cannot be recorded"
    assert site.code[:2] == b"\x40\xe8"


def test_what_no_disassembler_knows_leaves_a_call_likely(tmp_path: Path) -> None:
    unknown = ".byte 0x62, 0, 0, 0; .skip 64, 0x90; push %rbx"
    assert assembled(tmp_path, f"{unknown}; call mcount").evidence == ["likely direct"]


HUGE = 24 << 20  # bytes: a browser and compilers take longer than all others


def elf_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted(files_below(folder)) if is_linked(path)]


def files_below(folder: str) -> Iterator[Path]:
    """All files but links; by os.walk, for rglob takes longer than all that is done with them."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = f"{parent}/{name}"
            if not os.path.islink(path) and os.access(path, os.R_OK):
                yield Path(path)


def is_linked(path: Path) -> bool:
    """Whether it is a program or library for x86."""
    with path.open("rb") as stream:
        head = stream.read(20)
    return (
        head.startswith(b"\x7fELF")
        and head[16:17] in (b"\2", b"\3")
        and head[18:20] in (b"\x3e\0", b"\3\0")
    )


@pytest.mark.matrix
def test_what_is_not_instrumented_has_no_sites() -> None:
    """All that the machine has, but for a few that are huge, and for debug information alone."""
    files = [
        path
        for path in elf_files("/usr/bin", "/usr/lib")
        if path.suffix != ".debug" and path.stat().st_size < HUGE
    ]
    assert len(files) > 500
    assert [str(path) for path in files if len(find(path))] == []


@pytest.mark.matrix
def test_calls_of_any_other_function_are_those_a_disassembler_finds() -> None:
    names = ("malloc", "free", "memcpy", "strlen", "abort", "__stack_chk_fail")
    small = [
        path
        for path in elf_files("/usr/bin")
        if path.stat().st_size < 400_000 and path.read_bytes()[4:5] == b"\2"
    ]
    files = random.Random(0).sample(small, 12)
    total = 0
    for path in files:
        found = find(path, *names)
        code, slots = (
            " ".join(f"{each:x}" for each in one) for one in (found.targets, found.slots)
        )
        assert (path, {*found.vaddrs}) == (path, disassembled(path, code.split(), slots.split()))
        total += len(found)
    assert total > 100


def disassembled(path: Path, code: Sequence[str], slots: Sequence[str]) -> set[int]:
    """Where objdump sees a call of one of these addresses, or through one of the slots."""
    told = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", path], check=True, capture_output=True, text=True
    ).stdout
    found = set()
    for line in told.splitlines():
        vaddr, _, instruction = line.partition(":\t")
        mnemonic, _, operand = instruction.removeprefix("bnd ").partition(" ")
        named = operand.partition("# ")[2] if "(%rip)" in operand else operand
        goal = named.strip().partition(" ")[0]
        if mnemonic == "call" and goal in (slots if "(%rip)" in operand else code):
            found.add(int(vaddr, 16))
    return found


# --- hostile images -------------------------------------------------------------------------------


def outcome(data: bytes) -> str:
    """The error, or what is found, every site of which is looked at."""
    try:
        sites = scan.read(parsed(data, "image"))
        return f"{len(list(sites))} sites"
    except Error as error:
        return str(error)


PARTS = (
    ".plt", ".plt.got", ".plt.sec", ".got", ".eh_frame", ".eh_frame_hdr", ".dynamic", ".dynsym",
    ".rela.dyn", ".rela.plt", ".rel.dyn", ".rel.plt", ".gnu.hash", ".text",
)  # fmt: skip


def mutations(path: Path, seed: int, number: int) -> Iterator[bytes]:
    """The image with bytes, words or runs changed in what the search depends on.

    Half of them have no section headers.
    """
    original = path.read_bytes()
    headless = path.with_name("headless")
    shutil.copy(path, headless)
    images.without_section_headers(headless)
    obj = parsed(original, "image")
    sections = [obj.section(index) for index in range(len(obj.headers))]
    extents = [(one.offset, one.size) for one in sections if one.name in PARTS and one.size]
    extents += [(0, 64), (64, 56 * 12), (obj.shoff, len(obj.header_table))]
    chosen = random.Random(seed)
    for turn in range(number):
        data = bytearray(headless.read_bytes() if turn % 2 else original)
        for _ in range(chosen.choice((1, 1, 2, 8))):
            offset, size = chosen.choice(extents)
            at = offset + chosen.randrange(size)
            value = chosen.choice((bytes(8), b"\xff" * 8, chosen.randbytes(8)))
            width = min(chosen.choice((1, 1, 4, 8)), len(data) - at)
            data[at : at + width] = value[:width]
        yield bytes(data)


@pytest.fixture
def targets(tmp_path: Path) -> list[Path]:
    """A stripped PIE, a shared object, and one with tables of -fpatchable-function-entry."""
    pie = images.build(tmp_path, flags=["-fpie"], link=["-pie"]).image
    images.tool("strip", pie)
    built = [pie]
    for name, flags in (
        ("shared", ["-fPIC"]),
        ("areas", ["-fPIC", "-fpatchable-function-entry=5"]),
    ):
        (tmp_path / name).mkdir()
        built.append(images.build(tmp_path / name, flags=flags, link=["-shared"]).image)
    return built


def test_a_mutated_image_gives_one_line_or_sites(targets: list[Path]) -> None:
    told = Counter(
        outcome(data) for seed, path in enumerate(targets) for data in mutations(path, seed, 200)
    )
    assert told["4 sites"] > 0
    assert len(told) > 10
    assert [line for line in told if "\n" in line] == []


@pytest.mark.parametrize("size", [0, 1, 63, 200, 0x1010])
def test_a_truncated_image_gives_one_line(targets: list[Path], size: int) -> None:
    assert "sites" not in outcome(targets[0].read_bytes()[:size])


def test_more_ways_to_mcount_than_any_linker_makes_are_refused(tmp_path: Path) -> None:
    names = "".join(f".globl f{i}\n.type f{i}, @function\nf{i}: nop\n" for i in range(2000))
    with pytest.raises(Error, match="ways to name mcount are too many to look for"):
        scan.read(
            parsed(assemble(tmp_path, names).read_bytes(), "image"), [f"f{i}" for i in range(2000)]
        )


def assemble(folder: Path, text: str) -> Path:
    (folder / "library.s").write_text(text)
    images.tool("gcc", "-shared", "-nostdlib", "-o", folder / "library.so", folder / "library.s")
    return folder / "library.so"


def test_without_capstone_what_needs_it_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = images.build(tmp_path, flags=["-mfentry", "-fno-pic"]).image
    (tmp_path / "later").mkdir()
    later = images.build(tmp_path / "later", flags=["-fno-pic"]).image
    monkeypatch.setitem(sys.modules, "recordmcount.sites.disassembler", None)
    assert len(find(first).proven) == len(images.WORK_FUNCTIONS)
    with pytest.raises(Error, match="capstone, which is not installed"):
        find(later)


# --- as its user sees it --------------------------------------------------------------------------


def without_table(folder: Path, *link: str) -> Path:
    """A program whose objects nobody recorded."""
    work = images.compile_object(folder, "work", images.WORK, "gcc", "-pg", "-mfentry", "-fno-pic")
    main = images.compile_object(folder, "main", images.MAIN, "gcc", "-fno-pic")
    images.tool("gcc", "-o", folder / "program", work, main, *(link or ["-no-pie"]))
    return folder / "program"


def test_report_shows_the_calls_and_how_they_are_known(tmp_path: Path) -> None:
    image = without_table(tmp_path)
    done = command.call("recordmcount", "report", image)
    assert done.status == 0
    rows = [line for line in done.stdout.splitlines() if line.startswith("    0x")]
    assert {row.split()[-1] for row in rows} == images.WORK_FUNCTIONS
    summary = f" 4 sites: 4 call; 0 recorded; found by PLT (4); {NO_TABLE}"
    assert command.words(done.stdout).endswith(summary)


def test_report_says_where_nothing_can_be_known(tmp_path: Path) -> None:
    image = without_table(tmp_path, "-static")
    images.tool("strip", image)
    said = command.words(command.call("recordmcount", "report", image).stdout)
    assert said.endswith(
        f" no sites; no evidence: no symbols, and nothing that is imported is mcount; {NO_TABLE}"
    )


def test_without_a_table_nothing_is_switched(tmp_path: Path) -> None:
    image = without_table(tmp_path)
    before = image.read_bytes()
    for verb in ("nop", "call", "status"):
        done = command.call("patcher", verb, image)
        assert done == (1, "", f"{image}: {NO_TABLE}\n")
    assert image.read_bytes() == before
