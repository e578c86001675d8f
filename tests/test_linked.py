"""Sites of linked images: every entry proven, whatever linker made the table."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import capstone
import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from recordmcount import x86, x86_linked
from recordmcount.elf import object as elf
from recordmcount.errors import FormatError, RecordError
from recordmcount.sites import linked as linked_sites
from recordmcount.sites.linked import LinkedSites
from recordmcount.sites.site import Site
from recordmcount.sites.state import STATES, State
from recordmcount.x86 import ENDBR
from recordmcount.x86_object_nops import is_object_nop
from tests.support import command, images, linked
from tests.support.images import WORK, WORK_FUNCTIONS, build
from tests.support.objects import parsed

LINKERS = ("bfd", "gold", "lld", "mold")


def read(path: Path, *names: str) -> LinkedSites:
    return read_bytes(path.read_bytes(), *names)


def read_bytes(data: bytes, *names: str) -> LinkedSites:
    obj = parsed(data, "image")
    return linked_sites.read(obj, names)


# --- which sites ----------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("linker", LINKERS)
@pytest.mark.parametrize(
    ("flags", "link"),
    [
        ("-mfentry -fno-pic", "-no-pie"),
        ("-fno-pic", "-no-pie"),
        ("-mfentry -fpie", "-pie"),
        ("-fPIC", "-shared"),
    ],
)
def test_sites_are_the_calls_a_disassembler_finds(
    linker: str, flags: str, link: str, tmp_path: Path
) -> None:
    built = build(tmp_path, linker=linker, flags=flags.split(), link=link.split())
    found = read(built.image)
    calls = linked.Image(built.image).live_calls()
    assert {site.position: (site.function, site.position + len(site.code)) for site in found} == {
        vaddr: (min(call.functions), call.end) for vaddr, call in calls.items()
    }
    assert {site.function for site in found} == WORK_FUNCTIONS
    assert {site.state for site in found} == {State.CALL}
    assert (found.dead, found.repeated) == (0, 0)
    assert_each_is_as_alone(found)
    data = built.image.read_bytes()
    for site in found:
        assert data[site.file_offset :].startswith(site.code)
        assert site.section == ".text"


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("linker", "option"),
    [
        ("bfd", "-Wl,-z,pack-relative-relocs"),
        ("lld", "-Wl,--pack-dyn-relocs=relr"),
        ("mold", "-Wl,--pack-dyn-relocs=relr"),
    ],
)
def test_a_table_relocated_by_relr_is_read(linker: str, option: str, tmp_path: Path) -> None:
    built = build(
        tmp_path, linker=linker, flags=["-fpie"], link=["-pie", option], work=many_functions(200)
    )
    found = read(built.image)
    assert {site.position for site in found} == set(linked.Image(built.image).live_calls())
    assert len(found) == 201


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("options", "tag"),
    [
        ("--pack-dyn-relocs=android", "DT_ANDROID_RELA"),
        ("--pack-dyn-relocs=relr,--use-android-relr-tags", "DT_ANDROID_RELR"),
    ],
)
def test_relocations_packed_for_android_are_refused(options: str, tag: str, tmp_path: Path) -> None:
    built = build(
        tmp_path, linker="lld", flags=["-fpie"], link=["-pie", f"-Wl,{options}"],
        work=many_functions(200),
    )  # fmt: skip
    with pytest.raises(FormatError) as caught:
        read(built.image)
    assert str(caught.value) == f"image: relocations packed for Android ({tag}) are not supported"


def many_functions(count: int) -> str:
    """Enough for several words of DT_RELR bitmaps."""
    functions = "".join(f"int f{number}(void) {{ return {number}; }}\n" for number in range(count))
    return functions + "int work(int x) { return 2 * x; }\n"


@pytest.mark.matrix
@pytest.mark.parametrize("linker", LINKERS)
def test_code_of_32_bit_images_is_read(linker: str, tmp_path: Path) -> None:
    for flags, link in [(["-m32", "-fno-pic"], "-no-pie"), (["-m32", "-fPIC"], "-shared")]:
        folder = tmp_path / link
        folder.mkdir()
        built = library_or_program(folder, linker, flags, ["-m32", link])
        sites = read(built)
        assert {site.function for site in sites} == WORK_FUNCTIONS
        assert {(site.state, site.target) for site in sites} == {(State.CALL, "mcount")}


@pytest.mark.matrix
@pytest.mark.parametrize("linker", ["bfd", "gold", "lld"])  # mold 1.10 refuses
def test_x32_images_are_read(linker: str, tmp_path: Path) -> None:
    flags = ["-mx32", "-mfentry", "-fno-pic"]
    sites = read(library_or_program(tmp_path, linker, flags, ["-mx32", "-no-pie"]))
    assert {site.function for site in sites} == WORK_FUNCTIONS
    assert {(site.state, site.form) for site in sites} == {(State.CALL, "call")}


def library_or_program(
    folder: Path, linker: str, flags: list[str], link: list[str], compiler: str = "gcc"
) -> Path:
    """An image that is not run."""
    work = images.compile_object(folder, "work", images.WORK, compiler, "-O0", "-pg", *flags)
    pic = ["--pic"] if "-fPIC" in flags else []
    assert command.call("recordmcount", *pic, work).status == 0
    main = images.compile_object(folder, "main", images.MAIN, "gcc", *flags)
    images.tool("gcc", f"-fuse-ld={linker}", "-o", folder / "image", work, main, *link)
    return folder / "image"


def test_a_library_may_have_any_number_of_dynamic_symbols(tmp_path: Path) -> None:
    names = [f"a_function_of_a_library_{number}" for number in range(900)]
    work = "".join(f"int {name}(int x) {{ return x; }}\n" for name in names)
    calls = "".join(f"x = {name}(x);" for name in names)  # each through a slot of its own
    built = build(
        tmp_path, flags=["-fPIC"], link=["-shared"],
        work=f"{work}int work(int x) {{ {calls} return x; }}",
    )  # fmt: skip
    assert {site.function for site in read(built.image)} == {"work", *names}


def test_a_site_says_which_function_it_is_in_or_that_no_symbol_covers_it(tmp_path: Path) -> None:
    built = build(tmp_path, flags=["-fPIC"], link=["-shared"])
    places = {site.place for site in read(built.image)}
    assert places == {f"{name}+{offset}" for name, offset in offsets(built.image)}
    images.tool("strip", built.image)  # .dynsym is left: `twice`, which is static, has no name
    stripped = {site.place for site in read(built.image)}
    assert places - stripped == {place for place in places if place.startswith("twice")}
    (unnamed,) = stripped - places
    assert unnamed.startswith(".text:0x")


def offsets(path: Path) -> set[tuple[str, str]]:
    symbols = {name: images.symbol(path, name) for name in WORK_FUNCTIONS}
    return {
        (name, f"{vaddr - start:#x}")
        for vaddr, call in linked.Image(path).live_calls().items()
        for name, start in symbols.items()
        if name in call.functions
    }


def test_of_a_function_s_names_a_global_one_comes_first_then_the_first(tmp_path: Path) -> None:
    source = """
        static int a(void) __attribute__((alias("first"), used));
        int b(void) __attribute__((alias("first"), weak));
        int first(void) { return 1; }
        int x(void) __attribute__((alias("first")));
    """
    built = build(tmp_path, flags=["-mfentry", "-fno-pic"], work=source + WORK)
    (site,) = [site for site in read(built.image) if "first" in site.aliases]
    with built.image.open("rb") as stream:
        symbols = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(symbols, SymbolTableSection)
        order = [one.name for one in symbols.iter_symbols() if one.name in ("first", "x")]
    assert site.aliases == (*order, "b", "a")
    assert site.place == order[0]


def test_a_site_at_the_first_byte_of_a_function_is_named_by_that_alone(program: Path) -> None:
    assert {site.place for site in read(program)} == WORK_FUNCTIONS


# --- the ways to mcount ---------------------------------------------------------------------------

STUB_OPTIONS = {
    "bfd": ("-z,now", "-z,lazy", "-z,ibtplt", "-z,ibtplt,-z,now", "-z,noseparate-code", "-q"),
    "gold": ("-z,now", "-z,lazy", "-q"),
    "lld": ("-z,now", "-z,force-ibt", "-z,retpolineplt", "-z,retpolineplt,-z,now", "-q"),
    "mold": ("-z,now", "-z,lazy", "-z,ibtplt", "-q"),
}
# An mcount that the image itself chooses when it is loaded.
CHOSEN = """
__attribute__((naked)) void count(void) { __asm__("ret"); }
static void *choose(void) { return count; }
void mcount(void) __attribute__((ifunc("choose")));
"""


@pytest.mark.matrix
@pytest.mark.parametrize("machine", ["-m64", "-m32"])
@pytest.mark.parametrize(
    ("linker", "option"),
    [(linker, option) for linker in STUB_OPTIONS for option in STUB_OPTIONS[linker]],
)
def test_stubs_are_followed_by_what_they_do(
    linker: str, option: str, machine: str, tmp_path: Path
) -> None:
    for pic, kind in (("-fno-pic", "-no-pie"), ("-fPIC", "-shared")):
        folder = tmp_path / kind
        folder.mkdir()
        link = [machine, kind, f"-Wl,{option}"]
        # clang calls through the PLT in PIC code too
        path = library_or_program(folder, linker, [machine, pic], link, compiler="clang")
        assert states(path) == {(State.CALL, "mcount", "")}


def states(path: Path) -> set[tuple[State, str, str]]:
    return {(site.state, site.target, site.reason) for site in read(path)}


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("linker", "machine"),
    [
        (linker, machine)
        for linker in LINKERS
        for machine in ("-m64", "-m32", "-mx32")
        if (linker, machine) != ("mold", "-mx32")  # mold 1.10 refuses
    ],
)
def test_an_mcount_that_is_chosen_at_load_time_is_mcount(
    linker: str, machine: str, tmp_path: Path
) -> None:
    kinds = [("-fno-pic", "-no-pie"), ("-fpie", "-pie"), ("-fPIC", "-shared")]
    for pic, kind in kinds[:1] if machine == "-mx32" else kinds:  # lld refuses x32's others
        folder = tmp_path / kind
        folder.mkdir()
        own = images.compile_object(folder, "own", CHOSEN, "gcc", machine, pic)
        link = [machine, kind, str(own)]
        path = library_or_program(folder, linker, [machine, pic], link)
        assert states(path) == {(State.CALL, "mcount", "")}


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("linker", "kind"),
    [
        (linker, kind)
        for linker in LINKERS
        for kind in ("-static", "-static-pie")
        if (linker, kind) != ("gold", "-static-pie")  # gold refuses
    ],
)
def test_a_static_program_may_choose_its_mcount(linker: str, kind: str, tmp_path: Path) -> None:
    pic = "-fpie" if kind == "-static-pie" else "-fno-pic"
    own = images.compile_object(tmp_path, "own", CHOSEN, "gcc", pic)
    path = library_or_program(tmp_path, linker, [pic], [kind, str(own), "-z", "muldefs"])
    assert states(path) == {(State.CALL, "mcount", "")}


@pytest.mark.matrix
def test_a_call_of_code_that_is_not_understood_is_told_as_that(tmp_path: Path) -> None:
    link = ["-no-pie", "-Wl,-z,retpolineplt"]
    path = library_or_program(tmp_path, "lld", ["-fno-pic"], link)
    offset, vaddr, _ = images.section(path, ".plt")
    site = next(site for site in read(path) if site.function == "twice")
    header = relative(b"\xe8", site.position, vaddr + 2)  # where nobody goes: inside of a `push`
    images.write(path, site.file_offset, header)
    images.write(path, offset + 2, b"\x0f\x0b")  # ud2
    (twice,) = [site for site in read(path) if site.function == "twice"]
    reason = f"a call to {vaddr + 2:#x}, code that is not understood"
    assert (twice.state, twice.reason) == (State.FOREIGN, reason)


@pytest.mark.matrix
@pytest.mark.parametrize("linker", LINKERS)
@pytest.mark.parametrize("option", ["-z,lazy", "-z,now"])
@pytest.mark.parametrize(("compiler", "kind"), [("gcc", "-shared"), ("gcc", "-pie")])
def test_i386_code_counts_from_one_table(
    compiler: str, kind: str, option: str, linker: str, tmp_path: Path
) -> None:
    """Which one is decided by what the code computes, and nothing else: not by symbol or tag."""
    flags = ["-m32", "-fPIC" if kind == "-shared" else "-fpie"]
    path = library_or_program(tmp_path, linker, flags, ["-m32", kind, f"-Wl,{option}"], compiler)
    sites = [site for site in read(path) if site.form == "call-got"]
    assert {site.function for site in sites} == WORK_FUNCTIONS
    assert set(linked.Image(path).live_calls()) == {site.position for site in sites}
    bases = linked.Image(path)
    tables = {images.section(path, name)[1] for name in sections_of(path, ".got", ".got.plt")}
    right = bases._global_offset_table  # noqa: SLF001
    (slot,) = read(path).slots
    for wrong in tables - {right}:
        # The same slot, counted from the other table: a call of something else.
        operand = (slot - wrong).to_bytes(4, "little", signed=True)
        images.write(path, sites[0].file_offset + 2, operand)
        spoilt = next(site for site in read(path) if site.position == sites[0].position)
        assert spoilt.state is State.FOREIGN
        assert "which is no GOT slot of mcount" in spoilt.reason


def sections_of(path: Path, *names: str) -> list[str]:
    """Those of `names` that an image has."""
    with path.open("rb") as stream:
        return [s.name for s in ELFFile(stream).iter_sections() if s.name in names]


@pytest.mark.parametrize("table", [0, 1])
def test_a_nop_that_counts_two_tables_of_i386_is_read_if_it_means_the_right_one(
    table: int, tmp_path: Path
) -> None:
    path = library_or_program(tmp_path, "bfd", ["-m32", "-fPIC"], ["-m32", "-shared"])
    site = read(path)[0]
    assert site.nop is not None
    # One slot, two tables: .got.plt, from which code of GNU ld counts, is the first.
    images.write(path, site.file_offset, site.nop[:-1] + bytes((table << 4 | 2,)))
    old = read(path)[0]
    assert (old.state, old.call) == (
        (State.NOP, site.call) if table == 0 else (State.FOREIGN, None)
    )


# --- tables ---------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """An ET_EXEC: its table holds plain addresses, four of them, which can be edited."""
    return build(tmp_path, flags=["-mfentry", "-fno-pic"]).image


def with_entries(path: Path, *entries: int) -> bytes:
    """The image with the first words of its table replaced."""
    offset, _, _ = images.section(path, "__mcount_loc")
    data = bytearray(path.read_bytes())
    for number, entry in enumerate(entries):
        at = offset + 8 * number
        data[at : at + 8] = (entry & 2**64 - 1).to_bytes(8, "little")
    return bytes(data)


def test_zero_and_minus_one_are_dead_and_no_sites(program: Path) -> None:
    before = read(program)
    found = read_bytes(with_entries(program, 0, -1))
    assert (len(found), found.dead) == (2, 2)
    assert set(found) < set(before)


def test_entries_come_sorted_and_each_once(program: Path) -> None:
    first, second, *_ = [site.position for site in read(program)]
    found = read_bytes(with_entries(program, second, first, first, first))
    assert [site.position for site in found] == [first, second]
    assert found.repeated == 2


@pytest.mark.parametrize("name", [".data", ".bss", ".rodata", ".dynamic"])
def test_an_entry_that_names_no_code_is_an_error(program: Path, name: str) -> None:
    _, vaddr, _ = images.section(program, name)
    with pytest.raises(FormatError) as caught:
        read_bytes(with_entries(program, vaddr))
    assert str(caught.value) == (
        f"image: __mcount_loc: entry {vaddr:#x} is not in an executable section"
    )


@pytest.mark.parametrize("entry", [1, 0x400000, 2**63, -2])
def test_an_entry_that_names_no_memory_is_an_error(program: Path, entry: int) -> None:
    with pytest.raises(FormatError, match="is not in an executable section"):
        read_bytes(with_entries(program, entry))


@pytest.mark.matrix
def test_an_entry_of_a_pie_must_have_a_relocation(tmp_path: Path) -> None:
    built = build(tmp_path, linker="lld", flags=["-fpie"], link=["-pie"])
    data = bytearray(built.image.read_bytes())
    _, vaddr, _ = images.section(built.image, "__mcount_loc")
    offset, _, _ = images.section(built.image, ".rela.dyn")
    at = data.index(vaddr.to_bytes(8, "little"), offset)  # r_offset of the first entry
    data[at + 8 : at + 12] = bytes(4)  # now R_X86_64_NONE; lld left zeros in the word
    found = read_bytes(bytes(data))
    assert (len(found), found.dead) == (3, 1)
    table, _, _ = images.section(built.image, "__mcount_loc")
    data[table : table + 8] = found[0].position.to_bytes(8, "little")
    with pytest.raises(FormatError, match=r"__mcount_loc\+0x0: an entry the loader would not"):
        read_bytes(bytes(data))


def test_an_image_without_a_table_is_an_error(tmp_path: Path) -> None:
    main = images.compile_object(tmp_path, "main", "int main(void) { return 0; }", "gcc")
    images.tool("gcc", "-o", tmp_path / "main", main)
    with pytest.raises(FormatError, match=r"^image: no __mcount_loc table$"):
        read(tmp_path / "main")


def test_an_object_is_no_image(tmp_path: Path) -> None:
    work = images.compile_object(tmp_path, "work", images.WORK, "gcc")
    with pytest.raises(FormatError, match=r"^image: neither an executable nor a shared object$"):
        read(work)


# --- what stands at an entry ----------------------------------------------------------------------


def with_code(path: Path, code: Callable[[int], bytes]) -> bytes:
    """The image with other bytes at `twice`, which is a site; `code` is given its address."""
    (site,) = [site for site in read(path) if site.function == "twice"]
    data = bytearray(path.read_bytes())
    new = code(site.position)
    data[site.file_offset : site.file_offset + len(new)] = new
    return bytes(data)


def state_of_twice(data: bytes) -> tuple[State, str]:
    (site,) = [site for site in read_bytes(data) if site.function == "twice"]
    if site.state is State.FOREIGN:
        assert site.call is site.nop is None
    return site.state, site.reason


def relative(opcode: bytes, vaddr: int, target: int) -> bytes:
    end = vaddr + len(opcode) + 4
    return opcode + (target - end).to_bytes(4, "little", signed=True)


def test_a_genuine_call_of_another_function_is_foreign(program: Path) -> None:
    odd = images.symbol(program, "odd")
    for opcode in (b"\xe8", b"\x67\xe8", b"\x90\xe8"):
        data = with_code(program, partial(relative, opcode, target=odd))
        reason = f"a call to {odd:#x} (odd), which is not mcount (if it is, say --symbol odd)"
        assert state_of_twice(data) == (State.FOREIGN, reason)
        data = with_code(program, partial(relative, opcode, target=odd + 1))
        reason = f"a call to {odd + 1:#x} (odd+0x1), which is not mcount"
        assert state_of_twice(data) == (State.FOREIGN, reason)


def test_a_call_into_the_middle_of_mcount_is_foreign(program: Path) -> None:
    (target,) = read(program).targets
    data = with_code(program, lambda vaddr: relative(b"\xe8", vaddr, target + 1))
    assert state_of_twice(data)[0] is State.FOREIGN


def test_a_call_through_another_slot_is_foreign(program: Path) -> None:
    (slot,) = read(program).slots
    right = with_code(program, lambda vaddr: relative(b"\xff\x15", vaddr, slot))
    wrong = with_code(program, lambda vaddr: relative(b"\xff\x15", vaddr, slot + 8))
    assert state_of_twice(right) == (State.CALL, "")
    reason = f"a call through {slot + 8:#x}, which is no GOT slot of mcount"
    assert state_of_twice(wrong) == (State.FOREIGN, reason)


UNLOADED = 0x7000_0000


def test_a_slot_that_the_loader_would_fill_outside_of_every_segment_is_none(program: Path) -> None:
    (slot,) = read(program).slots
    old, new = (place.to_bytes(8, "little") for place in (slot, UNLOADED))
    offset, _, size = images.section(program, ".rela.plt")
    data = program.read_bytes()
    relocations = data[offset : offset + size].replace(old, new)
    moved = read_bytes(data[:offset] + relocations + data[offset + size :])
    assert moved.slots == {}
    assert {site.state for site in moved} == {State.FOREIGN}


def test_a_got_that_no_segment_loads_is_none(tmp_path: Path) -> None:
    link = ["-static", "-Wl,--no-relax"]
    program = build(tmp_path, flags=["-mfentry", "-fpie"], link=link, own_counter=True).image
    assert {site.form for site in read(program)} == {"call-got"}
    data = bytearray(program.read_bytes())
    obj = parsed(data, "image")
    (got,) = obj.named(b".got")
    at = obj.shoff + got * obj.layout.shdr.size + 16  # sh_addr
    data[at : at + 8] = UNLOADED.to_bytes(8, "little")
    moved = read_bytes(bytes(data))
    assert moved.slots == {}
    assert {site.state for site in moved} == {State.FOREIGN}


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(lambda vaddr, target: relative(b"\xe9", vaddr, target), id="jmp"),
        pytest.param(lambda vaddr, target: relative(b"\x48\xe8", vaddr, target), id="rex call"),
        pytest.param(lambda *_: b"\xcc\x1f\x44\x00\x00", id="int3"),
        pytest.param(lambda *_: b"\x90" * 5, id="five nops"),
        pytest.param(lambda *_: b"\x66\x66\x66\x66\x90", id="another nop"),
        pytest.param(lambda *_: b"\xeb\x03\x0f\x1f\x00", id="short jmp"),
    ],
)
def test_what_is_neither_our_call_nor_our_nop_is_foreign(
    program: Path, code: Callable[[int, int], bytes]
) -> None:
    (target,) = read(program).targets
    data = with_code(program, lambda vaddr: code(vaddr, target))
    assert state_of_twice(data) == (
        State.FOREIGN, "neither a call nor a NOP in the place of one",
    )  # fmt: skip


@pytest.mark.parametrize("code", ["0f1f440801", "660f1f440d01", "66662e0f1f84080000000000"])
def test_a_nop_of_an_object_is_foreign(program: Path, code: str) -> None:
    data = with_code(program, lambda _: bytes.fromhex(code))
    reason = "a NOP that was made in an object file"
    assert state_of_twice(data) == (State.FOREIGN, reason)


def test_a_nop_that_tells_another_number_of_targets_is_foreign(program: Path) -> None:
    plain, first_of_two = bytes.fromhex("0f1f440000"), bytes.fromhex("0f1f440002")
    assert state_of_twice(with_code(program, lambda _: plain)) == (State.NOP, "")
    assert state_of_twice(with_code(program, lambda _: first_of_two)) == (
        State.FOREIGN,
        "a NOP for one of 2 functions and stubs of mcount; there are 1",
    )


PLAIN_NOPS = [form.nop for form in x86_linked.linked_calls(x86.EM_X86_64)]


@pytest.mark.slow
@pytest.mark.parametrize("nop", PLAIN_NOPS, ids=bytes.hex)
@pytest.mark.parametrize(
    ("before", "is_entry"),
    [(b"", True), (ENDBR[0], True), (b"\x55", False), (bytes(4), False)],
    ids=["entry", "endbr64", "push", "other"],
)
def test_a_nop_without_a_mark_is_foreign_but_for_five_bytes_at_an_entry(
    program: Path, nop: bytes, before: bytes, is_entry: bool
) -> None:
    twice = images.symbol(program, "twice")
    program.write_bytes(with_code(program, lambda _: before + nop))
    data = with_entries(program, *[twice + len(before)] * 4)
    (site,) = read_bytes(data)
    if is_entry and nop == x86.NOP5:
        assert (site.state, site.nop) == (State.NOP, nop)
    else:
        reason = "a NOP without a mark, which may be padding"
        assert (site.state, site.call, site.reason) == (State.FOREIGN, None, reason)


def test_code_that_the_loader_relocates_is_foreign(tmp_path: Path) -> None:
    built = build(
        tmp_path,
        flags=["-fno-pic", "-mcmodel=large"],
        record=["--pic"],
        link=["-shared", "-z", "notext"],
    )
    assert {(site.state, site.reason) for site in read(built.image)} == {
        (State.FOREIGN, "code that the loader relocates (DT_TEXTREL)")
    }


def test_every_state_of_every_site_gives_both_states(program: Path) -> None:
    data = bytearray(program.read_bytes())
    calls = read_bytes(bytes(data))
    for site in calls:
        assert (site.code, site.nop) == (site.call, bytes.fromhex("0f1f440001"))
        data[site.file_offset : site.file_offset + 5] = bytes.fromhex("0f1f440001")
    nops = read_bytes(bytes(data))
    assert [(site.state, site.code, site.call) for site in nops] == [
        (State.NOP, site.nop, site.call) for site in calls
    ]


def test_what_is_expected_is_a_call_in_the_form_of_the_other_sites(tmp_path: Path) -> None:
    built = build(tmp_path, flags=["-mfentry", "-fpie"], link=["-pie"], own_counter=True)
    before = read(built.image)[1]
    assert before.code[:2] == b"\x67\xe8"
    for spoilt in (b"\x90\x90", b"\xe8\x00", b"\x0f\x0b"):  # e8: the start of a shorter call
        images.write(built.image, before.file_offset, spoilt)
        site = read(built.image)[1]
        assert site.state is State.FOREIGN
        assert before.code in site.expected
        assert {len(code) for code in (site.code, *site.expected)} == {6}


# --- many at once ---------------------------------------------------------------------------------


def assert_each_is_as_alone(found: LinkedSites) -> None:
    """All sites are decoded in columns; each must be as if it had been looked at by itself."""
    for number, site in enumerate(found):
        alone = found.alone(number)
        way = alone.way
        assert (site.state, site.reason) == (alone.state, alone.reason)
        assert site.code == alone.code or (alone.expected and site.code.startswith(alone.code))
        assert bool(site.expected) == bool(alone.expected)
        assert (site.form, site.target, site.call, site.nop) == (
            (way.form.name, way.name, way.call(site.position), way.nop)
            if way
            else ("", "", None, None)
        )
        assert found.codes[number] == alone.code
    for state in STATES:
        everything = range(len(found))
        chosen = [number for number in everything if found[number].state is state]
        assert list(found.where(everything, state)) == chosen
        assert list(found.where(everything[1:], state)) == [one for one in chosen if one]


@pytest.fixture(scope="module", params=["-fno-pic -no-pie", "-fpie -pie", "-m32 -fPIC -shared"])
def many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An image of 122 sites; a third call `__fentry__`, which i386 PIC code cannot."""
    *flags, link = request.param.split()
    folder = tmp_path_factory.mktemp("many")
    work = many_functions(40).replace(" f", " g").replace("work", "other")
    machine = [flag for flag in flags if flag == "-m32"]
    profile = ["-pg", *([] if machine else ["-mfentry"])]
    other = images.compile_object(folder, "other", work, "gcc", "-O0", *profile, *flags)
    assert command.call("recordmcount", other).status == 0
    built = build(folder, flags=flags, link=[*machine, link, str(other)], work=many_functions(80))
    return built.image.read_bytes()


def test_sites_in_many_ways_are_each_as_alone(many: bytes) -> None:
    chance = random.Random(2012)
    sites = list(read_bytes(many))
    for _ in range(60):
        data = bytearray(many)
        for site in sites:
            assert site.nop is not None
            kinds = [site.code] * 5 + [site.nop] * 5 + [_damaged(site.code, chance)]
            code = chance.choice(kinds if chance.random() < 0.9 else [_damaged(site.nop, chance)])
            data[site.file_offset : site.file_offset + len(code)] = code
        assert_each_is_as_alone(read_bytes(bytes(data)))


def _damaged(code: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(code))
    return code[:at] + bytes((chance.randrange(256),)) + code[at + 1 :]


def test_changes_bring_all_sites_or_some_of_them_to_a_state(many: bytes) -> None:
    chance = random.Random(2012)
    data = bytearray(many)
    for state in (State.NOP, State.CALL, State.NOP, State.NOP, State.CALL):
        found = read_bytes(bytes(data))
        numbers = sorted(chance.sample(range(len(found)), chance.choice((1, 40, len(found)))))
        columns = *found.columns(numbers), found.turned(numbers, state)
        for vaddr, old, new in zip(*columns, strict=True):
            offset = found.at(vaddr).file_offset
            assert data[offset : offset + len(old)] == old
            data[offset : offset + len(old)] = new
        after = read_bytes(bytes(data))
        assert {after[number].state for number in numbers} == {state}
    found = read_bytes(bytes(data))
    everything = range(len(found))
    for number, new in zip(everything, found.turned(everything, State.CALL), strict=True):
        offset = found[number].file_offset
        data[offset : offset + len(new)] = new
    assert data == many


# --- the bytes in x86.py --------------------------------------------------------------------------

MODES = {x86.EM_X86_64: capstone.CS_MODE_64, x86.EM_386: capstone.CS_MODE_32}
FORMS = [
    pytest.param(machine, form, id=f"{machine}-{form.name}-{form.prefix.hex()}")
    for machine in MODES
    for form in x86_linked.linked_calls(machine)
]


def instructions(machine: int, code: bytes) -> list[str]:
    found = list(capstone.Cs(capstone.CS_ARCH_X86, MODES[machine]).disasm(code, 0))
    assert sum(instruction.size for instruction in found) == len(code)
    return [str(instruction.mnemonic).split()[-1] for instruction in found]


@pytest.mark.parametrize(("machine", "form"), FORMS)
def test_every_nop_is_one_instruction_whatever_its_selector(
    machine: int, form: x86_linked.LinkedCall
) -> None:
    for selector in range(256):
        nop = form.nop_with(selector)
        assert len(nop) == form.length
        assert instructions(machine, nop) == ["nop"]


@pytest.mark.parametrize("machine", MODES)
def test_no_two_nops_are_alike_and_none_is_that_of_an_object(machine: int) -> None:
    forms = x86_linked.linked_calls(machine)
    every = [(form, selector) for form in forms for selector in range(256)]
    for form, selector in every:
        nop = form.nop_with(selector)
        assert not is_object_nop(nop)
        padded = nop + bytes(x86.LONGEST_SITE - len(nop))
        assert [
            (one, one.selector(padded)) for one in forms if one.selector(padded) is not None
        ] == [(form, selector)]


@pytest.mark.parametrize(("machine", "form"), FORMS)
def test_a_call_reads_back_as_it_was_spelled(machine: int, form: x86_linked.LinkedCall) -> None:
    bound = 1 << 8 * form.width - 1
    for operand in (0, 1, -1, 0x11223344, bound - 1, -bound):
        code = form.spell(operand)
        assert code is not None
        assert form.operand(code + b"\xcc") == operand
        assert instructions(machine, code)[-1] == "call"
    assert form.spell(bound) is form.spell(-bound - 1) is None


def operands_of_nops(machine: int) -> dict[str, str]:
    """Of the forms of six bytes, by their prefix."""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, MODES[machine])
    operands = {}
    for form in x86_linked.linked_calls(machine):
        if form.length == 6:
            (nop,) = decoder.disasm(form.nop_with(0x12), 0)
            operands[form.prefix.hex()] = nop.op_str
    return operands


def test_forms_of_six_bytes_differ_in_prefix_or_registers_of_their_nops() -> None:
    """keystone 0.9.2 is no judge here: it spells `nopw (%rax,%rax,2)` as 0f 18 /4."""
    assert operands_of_nops(x86.EM_X86_64) == {
        "ff15": "word ptr [rax + rax + 0x12]",
        "67e8": "word ptr [rax + rax*2 + 0x12]",
        "90e8": "word ptr [rax + rax*4 + 0x12]",
        "f2e8": "word ptr [rcx + rax + 0x12]",
        "2ee8": "dword ptr cs:[rax + rax + 0x12]",
        "36e8": "dword ptr ss:[rax + rax + 0x12]",
        "3ee8": "dword ptr ds:[rax + rax + 0x12]",
    }


def test_on_i386_the_nop_has_the_base_register_of_the_call() -> None:
    assert operands_of_nops(x86.EM_386) == {
        "67e8": "word ptr [eax + eax*2 + 0x12]",
        "90e8": "word ptr [eax + eax*4 + 0x12]",
        "f2e8": "word ptr [ecx + eax + 0x12]",
        "2ee8": "dword ptr cs:[eax + eax + 0x12]",
        "36e8": "dword ptr ss:[eax + eax + 0x12]",
        "3ee8": "dword ptr ds:[eax + eax + 0x12]",
        "ff90": "word ptr [eax + eax*8 + 0x12]",
        "ff91": "word ptr [ecx + eax*8 + 0x12]",
        "ff92": "word ptr [edx + eax*8 + 0x12]",
        "ff93": "word ptr [ebx + eax*8 + 0x12]",
        "ff95": "word ptr [ebp + eax*8 + 0x12]",
        "ff96": "word ptr [esi + eax*8 + 0x12]",
        "ff97": "word ptr [edi + eax*8 + 0x12]",
        "ff15": "word ptr [esp + eax*8 + 0x12]",
    }


# --- broken files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ((54, 2), 57, "e_phentsize is 57, not 56"),
        ((56, 2), 0, "no program headers"),
        ((32, 8), 1 << 40, "the program header table at 0x10000000000, "),
        ((40, 8), 0, "no section headers, by which a table is found"),
        ((58, 2), 63, "e_shentsize is 63, not 64"),
    ],
)
def test_a_broken_elf_header_is_named(
    program: Path, field: tuple[int, int], value: int, message: str
) -> None:
    (at, size), data = field, bytearray(program.read_bytes())
    data[at : at + size] = value.to_bytes(size, "little")
    with pytest.raises(FormatError) as caught:
        read_bytes(bytes(data))
    assert str(caught.value).startswith(f"image: {message}")


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        (7, 1 << 40, "the dynamic relocations at address 0x10000000000, "),  # DT_RELA
        (8, 25, "dynamic tag 8: a size of 0x19"),  # DT_RELASZ
        (6, 1 << 40, "the dynamic symbols at address 0x1000000"),  # DT_SYMTAB
        (10, 0, "dynamic symbol "),  # DT_STRSZ
        (23, 0x10, "the dynamic relocations at address 0x10, "),  # DT_JMPREL
    ],
)
def test_a_broken_dynamic_segment_is_named(
    program: Path, tag: int, value: int, message: str
) -> None:
    data = bytearray(program.read_bytes())
    offset, _, size = images.section(program, ".dynamic")
    (at,) = [
        at
        for at in range(offset, offset + size, 16)
        if int.from_bytes(data[at : at + 8], "little") == tag
    ]
    data[at + 8 : at + 16] = value.to_bytes(8, "little")
    with pytest.raises(FormatError) as caught:
        read_bytes(bytes(data))
    assert str(caught.value).startswith(f"image: {message}")


def test_names_that_together_are_longer_than_the_file_are_refused(program: Path) -> None:
    data = program.read_bytes()
    obj = parsed(data, "image")
    assert obj.symtab is not None
    symtab = obj.section(obj.symtab)
    strings = obj.section(symtab.link)
    site, text = read_bytes(data)[0], next(iter(obj.named(b".text")))
    many, size = 2000, obj.layout.sym.size
    aliases = b"".join(  # of tails of one long name
        obj.layout.sym.pack(1 + number, elf.STT_FUNC, 0, text, site.position, 0)
        for number in range(many)
    )
    broken = bytearray(data) + aliases + b"\0" + b"n" * 100_000 + b"\0"
    for section, offset, length in (
        (symtab, len(data), many * size),
        (strings, len(data) + many * size, 100_002),
    ):
        at = obj.shoff + section.index * obj.layout.shdr.size + 24  # sh_offset, sh_size
        broken[at : at + 16] = offset.to_bytes(8, "little") + length.to_bytes(8, "little")
    sites = read_bytes(bytes(broken))
    with pytest.raises(FormatError, match="names of symbols overlap"):
        sites.names(0)


def test_segments_that_are_loaded_over_each_other_are_refused(program: Path) -> None:
    data = bytearray(program.read_bytes())
    headers, size = int.from_bytes(data[32:40], "little"), int.from_bytes(data[54:56], "little")
    first = next(at for at in range(headers, len(data), size) if data[at] == 1)  # PT_LOAD
    data[first + 40 : first + 48] = (0x1001).to_bytes(8, "little")  # p_memsz
    with pytest.raises(FormatError, match=r"segments are loaded over each other at 0x401000$"):
        read_bytes(bytes(data))


@pytest.fixture(scope="module", params=[("-fno-pic", "-no-pie"), ("-fpie", "-pie")], ids="".join)
def specimen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    flags, link = request.param
    return build(tmp_path_factory.mktemp("image"), flags=[flags], link=[link]).image.read_bytes()


def test_a_truncated_image_is_refused_or_has_lost_nothing(specimen: bytes) -> None:
    whole = sites_unless_refused(specimen)
    assert whole
    for size in (*range(0, 0x400, 7), *range(0x400, len(specimen), 211)):
        assert sites_unless_refused(specimen[:size]) in (None, whole)


def test_a_mutated_image_is_refused_or_its_sites_are_what_the_file_holds(specimen: bytes) -> None:
    chance = random.Random(2008)
    headers = int.from_bytes(specimen[40:48], "little")
    read = 0
    for _ in range(2000):
        data = bytearray(specimen)
        for _ in range(chance.choice((1, 1, 2, 8))):
            place = chance.choice(((0, 0x400), (headers, len(data)), (0, len(data))))
            data[chance.randrange(*place)] = chance.choice((0, 1, 0xFF, chance.randrange(256)))
        sites = sites_unless_refused(bytes(data))
        read += sites is not None
        for site in sites or ():
            assert data[site.file_offset :].startswith(site.code)
            assert site.code in (site.call, site.nop) or site.state is State.FOREIGN
    assert read > 1000


def sites_unless_refused(data: bytes) -> tuple[Site, ...] | None:
    try:
        return tuple(read_bytes(data))
    except RecordError:
        return None
