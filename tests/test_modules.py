"""Modules: an address is good only as long as a live module declares it."""

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

from patcher.errors import CompareError, ModuleError, NoModuleError, NoSiteError, StateError
from patcher.ftrace import elf_module
from patcher.ftrace.mappings import Mapping, Range
from patcher.ftrace.modules import Kind, Module, ModuleState
from recordmcount import x86
from recordmcount.errors import FormatError, NotRegularError
from tests.support import command, images
from tests.support.modules import CALL, DEVICE, NOP, SIZE, Space, hook_at, loaded_at, mapping_of

START = 0x7F00_0000_1000
HIGH_32 = 0xF7F0_0000


def loaded(*modules: Module) -> Space:
    """A registry in which all of these are live."""
    registry = Space()
    for module in modules:
        registry.bring(module)
        registry.live(module)
    return registry


# --- what is there, and what was ------------------------------------------------------------------


@pytest.mark.parametrize("start", [START, HIGH_32, 0])
def test_a_live_module_has_the_points_its_file_declares_and_no_others(start: int) -> None:
    module = loaded_at(start)
    registry = loaded(module)
    for point in module.points:
        assert registry.find(point.address) == (module, point)
    for address in (start + 1, start + 0x20, start + SIZE - 1):
        with pytest.raises(NoSiteError, match="no site of this module"):
            registry.find(address)


def test_where_nothing_ever_was_there_is_no_module() -> None:
    with pytest.raises(NoModuleError) as caught:
        loaded(loaded_at(START)).find(START + SIZE)
    assert str(caught.value) == (
        "modules: 0x7f0000001040: in no live module, and none was ever here"
    )
    assert caught.value.errno == errno.ENOENT


def test_a_module_is_not_live_before_its_code_may_run() -> None:
    registry, module = Space(), loaded_at(START)
    registry.bring(module)
    assert registry.states[module] is ModuleState.COMING
    with pytest.raises(NoModuleError, match=r"drv.so: 0x7f0000001000: .* this one is coming"):
        registry.find(START)
    registry.live(module)
    assert registry.find(START)[0] is module


def test_points_are_dropped_while_the_memory_is_still_there() -> None:
    module = loaded_at(START)
    registry = loaded(module)
    registry.going(module)
    assert registry.states[module] is ModuleState.GOING
    for point in module.points:
        assert not registry.has(module, point)
        with pytest.raises(NoModuleError, match="this one is going"):
            registry.find(point.address)


def test_the_refusal_says_which_module_was_there_and_when_it_went() -> None:
    module = loaded_at(START, "e1000e")
    registry = loaded(module)
    registry.going(module)
    registry.unload(module)
    with pytest.raises(NoModuleError) as caught:
        registry.find(START + 0x10)
    assert str(caught.value) == (
        "/lib/e1000e.so: 0x7f0000001010: in no live module: it was here until it went at "
        "2008-10-09 12:01:00 UTC: /lib/e1000e.so (build-id 653130303065, load bias 0x7f0000001000)"
    )
    assert caught.value.address == START + 0x10


def test_of_several_modules_that_were_there_the_last_is_told() -> None:
    registry = Space()
    for name in ("one", "two", "three"):
        module = loaded_at(START, name)
        registry.bring(module)
        registry.unload(module)
    with pytest.raises(NoModuleError, match=r"12:03:00 UTC: /lib/three.so"):
        registry.find(START)


def test_a_module_that_comes_and_goes_all_the_time_does_not_fill_the_memory() -> None:
    registry = Space()

    def after_rounds(number: int) -> int:
        for _ in range(number):
            module = loaded_at(START)
            registry.bring(module)
            registry.unload(module)
        return len(vars(registry)["_freed"])

    assert after_rounds(1) == after_rounds(9)


def test_of_modules_that_were_there_in_part_the_last_is_told_for_each_address() -> None:
    registry = Space()
    for at, name in ((0, "one"), (0x20, "two")):
        module = loaded_at(START + at, name, ())
        registry.bring(module)
        registry.unload(module)
    for at, name in ((0x1F, "one"), (0x20, "two"), (0x3F, "two"), (0x5F, "two")):
        with pytest.raises(NoModuleError, match=f"UTC: /lib/{name}.so"):
            registry.find(START + at)


def test_freed_init_text_has_no_points_and_says_when_it_was_freed() -> None:
    module = loaded_at(START)
    registry = loaded(module)
    registry.free_init(module)
    with pytest.raises(NoModuleError, match="init text was here until it was freed at 2008-10-09"):
        registry.find(START + 0x30)
    assert registry.find(START + 0x10)[0] is module
    registry.free_init(module)  # twice is once
    assert registry.find(START + 0x10)[0] is module


def test_what_takes_the_place_of_freed_init_text_keeps_its_points_when_the_module_goes() -> None:
    first = loaded_at(START)
    registry = loaded(first)
    registry.free_init(first)
    second = loaded_at(START + 0x30, "second", ((0x00, "open"),), init=SIZE)
    registry.bring(second)
    registry.live(second)
    registry.going(first)
    registry.unload(first)
    assert registry.find(START + 0x30)[0] is second


def test_a_new_module_at_reused_addresses_has_nothing_of_the_old_one() -> None:
    old = loaded_at(START, "old")
    registry = loaded(old)
    registry.going(old)
    registry.unload(old)
    new = loaded_at(START, "new", ((0x10, "write"),))
    registry.bring(new)
    registry.live(new)
    assert registry.find(START + 0x10) == (new, new.points[0])
    assert not any(registry.has(old, point) for point in old.points)
    with pytest.raises(NoSiteError, match=r"new.so: .* no site"):
        registry.find(START)


def test_the_same_file_loaded_again_is_another_module() -> None:
    first, second = loaded_at(START), loaded_at(START)
    registry = loaded(first)
    registry.unload(first)
    registry.bring(second)
    assert not registry.has(first, first.points[0])
    assert registry.has(second, second.points[0])


# --- states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "then", "what"),
    [
        ("", "live", "not coming, but not loaded"),
        ("", "free_init", "not live, but not loaded"),
        ("", "going", "cannot go: not loaded"),
        ("", "unload", "is not loaded"),
        ("load", "free_init", "not live, but coming"),
        ("load live", "live", "not coming, but live"),
        ("load going", "live", "not coming, but going"),
        ("load live going", "free_init", "not live, but going"),
        ("load live going", "going", "cannot go: going"),
        ("load live", "load", "loaded already, and live"),
        ("load live going unload", "unload", "is not loaded"),
    ],
)
def test_what_does_not_fit_the_state_is_refused(before: str, then: str, what: str) -> None:
    registry, module = Space(), loaded_at(START)
    steps: dict[str, Callable[[], None]] = {
        "load": lambda: registry.bring(module),
        "live": lambda: registry.live(module),
        "free_init": lambda: registry.free_init(module),
        "going": lambda: registry.going(module),
        "unload": lambda: registry.unload(module),
    }
    for step in before.split():
        steps[step]()
    states = dict(registry.states)
    with pytest.raises(StateError, match=what) as caught:
        steps[then]()
    assert caught.value.errno == errno.EBUSY
    assert registry.states == states


# --- what is refused at load ----------------------------------------------------------------------


def refused(module: Module, mappings: list[Mapping], registry: Space | None = None) -> str:
    """The refusal of this module, of which nothing is registered then."""
    registry = registry or Space()
    before = dict(registry.states)
    with pytest.raises(ModuleError) as caught:
        registry.bring(module, mappings)
    assert caught.value.errno == errno.ENOEXEC
    assert registry.states == before
    assert not any(registry.has(module, point) for point in module.points)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"protection": "rwxp"}, "writable"),
        ({"protection": "r-xs"}, "shared"),
        ({"protection": "r--p"}, "not executable"),
        ({"protection": "---p"}, "not executable"),
        ({"inode": 0, "path": ""}, "anonymous"),
        ({"inode": 0, "path": "[heap]"}, "anonymous"),
        ({"inode": 99, "path": "/lib/other.so"}, "a mapping of another file"),
        ({"device": 0x802}, "a mapping of another file"),
        ({"device": 5, "inode": 7, "path": "/dev/mem", "protection": "rwxs"}, "a device"),
    ],
)
def test_only_a_private_executable_unwritable_mapping_of_the_own_file_is_text(
    changes: dict[str, Any], why: str
) -> None:
    module = loaded_at(START)
    mapping = mapping_of(module)._replace(**changes)
    text = "/lib/drv.so: 0x7f0000001000-0x7f0000001030"
    assert refused(module, [mapping]) == f"{text} is {why}: {mapping}"


def test_the_refused_mapping_is_told_as_the_kernel_tells_it() -> None:
    module = loaded_at(START)
    device = Mapping(Range(START, START + 0x1000), "rw-s", os.makedev(0, 5), 7, "/dev/mem")
    assert refused(module, [device]).endswith(
        " is a device: 0x7f0000001000-0x7f0000002000 rw-s 00:05 7 /dev/mem"
    )


def test_a_library_in_shared_memory_is_no_device() -> None:
    module = loaded_at(START)
    Space().bring(module, [mapping_of(module)._replace(path="/dev/shm/drv.so")])


def test_text_must_lie_wholly_inside_one_mapping() -> None:
    module = loaded_at(START)
    whole = mapping_of(module)
    cut = START + 0x20
    low = whole._replace(range=Range(START, cut))
    high = whole._replace(range=Range(cut, START + 0x1000))
    assert "is not mapped" in refused(module, [])
    assert "is not mapped" in refused(module, [whole._replace(range=Range(START - 1, START))])
    for mappings in ([low], [high], [low, high]):
        assert "is not inside one mapping" in refused(module, mappings)
    Space().bring(module, [whole])


def test_init_text_must_be_text_as_well() -> None:
    module = loaded_at(START)
    short = mapping_of(module)._replace(range=Range(START, START + 0x30))
    rest = mapping_of(module, "rwxp")._replace(range=Range(START + 0x30, START + SIZE))
    assert "0x7f0000001030-0x7f0000001040 is writable" in refused(module, [short, rest])


@pytest.mark.parametrize("distance", [-SIZE + 1, -8, 0, 8, SIZE - 1])
def test_two_modules_over_one_range_are_refused(distance: int) -> None:
    first = loaded_at(START)
    second = loaded_at(START + distance, "second")
    registry = loaded(first)
    assert "which is /lib/drv.so (build-id" in refused(second, [mapping_of(second)], registry)
    registry.going(first)  # its memory is still there
    refused(second, [mapping_of(second)], registry)
    registry.unload(first)
    registry.bring(second)


def test_modules_may_lie_side_by_side() -> None:
    modules = [loaded_at(START + at, f"m{at}") for at in (SIZE, 0, 2 * SIZE)]
    registry = loaded(*modules)
    assert [registry.find(module.points[0].address)[0] for module in modules] == modules


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ((Range(START, START + 0x31),), "overlaps 0x7f0000001000-0x7f0000001031 of the same"),
        ((Range(START, START + 0x30), Range(START, START + 0x10)), "of the same module"),
        ((Range(START + 0x30, START),), "is no range"),
        ((Range(START, START),), "is no range"),
        ((Range(-1, START),), "is no range"),
    ],
)
def test_ranges_that_are_none_or_overlap_are_refused(text: tuple[Range, ...], what: str) -> None:
    module = replace(loaded_at(START), text=text)
    assert what in refused(module, [mapping_of(module)])


@pytest.mark.parametrize("offset", [-1, 0x2C, 0x3C, 0x40])
def test_a_site_that_is_not_wholly_inside_a_range_is_refused(offset: int) -> None:
    module = loaded_at(START, sites=((offset, "stray"),))
    assert refused(module, [mapping_of(module)]) == (
        f"/lib/drv.so: stray ({START + offset:#x}): not inside the module's text"
    )


@pytest.mark.parametrize("distance", [0, 1, 4])
def test_sites_that_overlap_are_refused(distance: int) -> None:
    module = loaded_at(START, sites=((0x10, "one"), (0x10 + distance, "two")))
    assert "overlaps one (0x7f0000001010)" in refused(module, [mapping_of(module)])


def test_trampolines_and_hooks_are_points_like_sites_and_overlap_none() -> None:
    trampoline, hook = hook_at(START + 0x20, Kind.TRAMPOLINE), hook_at(START + 0x25, Kind.HOOK)
    module = loaded_at(START, extra=(trampoline, hook))
    registry = loaded(module)
    assert registry.find(START + 0x20) == (module, trampoline)
    assert registry.find(START + 0x25) == (module, hook)
    module = loaded_at(START, extra=(hook_at(START + 0x14, Kind.HOOK),))
    assert "overlaps read" in refused(module, [mapping_of(module)])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"code": b"\x90" * 5}, "neither its call nor its NOP stands there"),
        ({"nop": NOP + b"\x90"}, "its call and its NOP differ in length"),
        ({"code": b"", "call": b"", "nop": b""}, "no site is 0 bytes long"),
        ({"code": NOP[:2], "call": NOP[:2], "nop": NOP[:2]}, "no site is 2 bytes long"),
        ({"call": CALL + b"\x90", "nop": NOP + b"\x90", "kind": Kind.HOOK}, "no hook is 6 bytes"),
    ],
)
def test_a_point_whose_code_makes_no_sense_is_refused(changes: dict[str, Any], what: str) -> None:
    module = loaded_at(START)
    first, *others = module.points
    module = replace(module, points=(first._replace(**changes), *others))
    assert what in refused(module, [mapping_of(module)])


# --- from a file ----------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path) -> Path:
    link = ("-shared", "-Wl,--build-id")
    return images.build(tmp_path, flags=("-mfentry", "-fPIC"), link=link).image


def test_a_module_is_read_from_its_file_and_moved_by_its_bias(library: Path) -> None:
    module = elf_module.read(str(library), START)
    at_zero = elf_module.read(str(library))
    assert [point.address for point in module.points] == [
        point.address + START for point in at_zero.points
    ]
    assert {point.symbol for point in module.points} == images.WORK_FUNCTIONS
    assert {point.names for point in module.points} == {(name,) for name in images.WORK_FUNCTIONS}
    assert all(point.code == point.call != point.nop for point in module.points)
    assert module.machine == x86.EM_X86_64


def test_a_bias_is_added_as_the_processor_adds(library: Path) -> None:
    down, up = (elf_module.read(str(library), bias) for bias in (START - (1 << 64), START))
    assert (down.points, down.text) == (up.points, up.text)


def test_the_build_id_is_found_behind_notes_of_any_size(library: Path) -> None:
    with library.open("rb") as stream:
        file = ELFFile(stream)
        kinds = [segment["p_type"] for segment in file.iter_segments()]
        header = file["e_phoff"] + kinds.index("PT_NOTE") * file["e_phentsize"]
        offset, size = file.stream_len, 20 + 4 + 20
    odd = struct.pack("<3I5s3x3sx", 5, 3, 3, b"none", b"odd")
    gnu = struct.pack("<3I4s4s", 4, 4, 3, b"GNU", b"\x12\x34\x56\x78")
    assert len(odd + gnu) == size
    images.write(library, offset, odd + gnu)
    images.write(library, header + 8, struct.pack("<Q", offset))  # p_offset
    images.write(library, header + 32, struct.pack("<Q", size))  # p_filesz
    assert elf_module.read(str(library)).identity.build_id.hex() == "12345678"


def test_its_identity_is_that_of_the_file(library: Path) -> None:
    with library.open("rb") as stream:
        note = ELFFile(stream).get_section_by_name(".note.gnu.build-id")
        assert isinstance(note, NoteSection)
        (build_id,) = (each["n_desc"] for each in note.iter_notes())
    identity = elf_module.read(str(library), START).identity
    status = library.stat()
    assert identity.build_id.hex() == build_id
    assert (identity.device, identity.inode, identity.bias) == (
        status.st_dev, status.st_ino, START,
    )  # fmt: skip
    images.tool("objcopy", "--remove-section=.note.gnu.build-id", library)
    assert elf_module.read(str(library)).identity.build_id == b""


def test_its_text_is_what_the_loader_maps_executable(library: Path) -> None:
    with library.open("rb") as stream:
        expected = [
            Range(START + each["p_vaddr"], START + each["p_vaddr"] + each["p_filesz"])
            for each in ELFFile(stream).iter_segments("PT_LOAD")
            if each["p_flags"] & 1
        ]
    assert list(elf_module.read(str(library), START).text) == expected


def test_it_can_be_loaded_where_the_loader_mapped_it(library: Path) -> None:
    module = elf_module.read(str(library), START)
    registry = Space()
    start, end = module.text[0]
    mapping = Mapping(
        Range(start & ~0xFFF, (end + 0xFFF) & ~0xFFF), "r-xp",
        module.identity.device, module.identity.inode, str(library),
    )  # fmt: skip
    assert mapping.device != DEVICE  # it is the file that decides
    registry.bring(module, [mapping])
    registry.live(module)
    assert registry.find(module.points[0].address) == (module, module.points[0])


@pytest.mark.parametrize("flags", [("-m32", "-fno-pic"), ("-m32", "-fPIC")])
def test_an_i386_program_is_a_module_too(flags: tuple[str, ...], tmp_path: Path) -> None:
    link = ("-m32", "-shared" if "-fPIC" in flags else "-no-pie")
    work = images.compile_object(tmp_path, "work", images.WORK, "gcc", "-pg", *flags)
    assert command.run("recordmcount", work).status == 0
    main = images.compile_object(tmp_path, "main", images.MAIN, "gcc", *flags)
    images.tool("gcc", "-o", tmp_path / "image", work, main, *link)
    module = elf_module.read(str(tmp_path / "image"))
    assert module.machine == x86.EM_386
    assert {name for point in module.points for name in point.names} == images.WORK_FUNCTIONS


def test_a_file_with_a_foreign_site_is_no_module(library: Path) -> None:
    offset, vaddr, _ = images.section(library, ".text")
    site = elf_module.read(str(library)).points[0].address
    images.write(library, site - vaddr + offset, b"\xcc")
    with pytest.raises(CompareError, match="neither a call nor a NOP"):
        elf_module.read(str(library))


def test_a_site_turned_off_in_the_file_is_a_nop_that_knows_its_call(library: Path) -> None:
    module = elf_module.read(str(library))
    offset, vaddr, _ = images.section(library, ".text")
    for point in module.points:
        images.write(library, point.address - vaddr + offset, point.nop)
    assert elf_module.read(str(library)).points == tuple(
        point._replace(code=point.nop) for point in module.points
    )


def test_what_is_no_file_or_has_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotRegularError, match="a folder"):
        elf_module.read(str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotRegularError, match="not a regular file"):
        elf_module.read(str(tmp_path / "fifo"))
    with pytest.raises(FormatError, match="no __mcount_loc table"):
        elf_module.read("/bin/true")
    with pytest.raises(FileNotFoundError):
        elf_module.read(str(tmp_path / "missing"))


def test_the_bytes_of_the_examples_are_what_they_say() -> None:
    assert CALL[:1] == x86.CALL.prefix
    assert NOP == x86.NOP5
