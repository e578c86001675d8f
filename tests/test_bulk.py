"""What is proven in bulk is what a look at each site alone gives, whatever the object."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from patcher import cli
from patcher.files.objects import ObjectSwitch
from recordmcount import columns
from recordmcount.errors import RecordError
from recordmcount.sites import relocatable
from recordmcount.sites.state import STATES, State
from tests.support.elf_builder import STT_FUNC, X86_64, Relocation, Section, Symbol, build
from tests.support.kernel_modules import CLOUD
from tests.support.objects import AX, parsed, recorded
from tests.support.patching import patch
from tests.support.specimens import ELVES

NONE, WIDE, PC32, PLT32 = 0, 1, 2, 4  # R_X86_64_*
GLOBS = (None, "[a-m]*", "*")  # of the functions whose sites are turned off


def everything(data: bytes) -> list[object]:
    """All there is to know of an object: its sites, and what turns them off and on."""
    try:
        obj = parsed(data)
        listing = relocatable.read(obj)
        table = ObjectSwitch(obj, listing)
        said: list[object] = [*listing, listing.has_table, listing.dead, listing.repeated]
        said += map(table.site, range(len(table.sites)))
        return said + [each for state in STATES for each in changes(table, state)]
    except RecordError:  # what is wrong is found in another order
        return ["refused"]


def changes(table: ObjectSwitch, state: State) -> Iterator[object]:
    numbers = range(len(table.sites))
    kept, stuck = table.sites.where(numbers, state), table.unswitchable(numbers, state)
    yield from (list(kept), list(stuck))
    if state is not State.FOREIGN:
        turned = sorted({*numbers}.difference(kept, stuck))
        yield from map(str, table.batch(turned, state))


Compare = Callable[[bytes], list[object]]


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> Compare:
    """`everything`, which must be the same in bulk and without."""

    def compare(data: bytes) -> list[object]:
        in_bulk = everything(data)
        with monkeypatch.context() as patched:
            patched.setattr(columns, "FEW", 1 << 62)
            assert everything(data) == in_bulk
        return in_bulk

    return compare


@pytest.mark.kernel
@pytest.mark.parametrize("glob", GLOBS, ids=["on", "mixed", "off"])
def test_in_modules_of_the_kernel(glob: str | None, tmp_path: Path, alike: Compare) -> None:
    modules = [
        module
        for module in sorted((CLOUD / "modules").iterdir())[::40]
        if b"__mcount_loc" in module.read_bytes()
    ]
    assert len(modules) > 10
    for module in modules:
        path = tmp_path / module.name
        path.write_bytes(module.read_bytes())
        if glob:
            cli.main(["nop", "-q", "--functions", glob, str(path)])
        assert len(alike(path.read_bytes())) > 5


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["call", "nop"])
@pytest.mark.parametrize("name", ELVES)
def test_in_objects_of_every_kind_sound_or_broken(
    name: str, verb: str, tmp_path: Path, alike: Compare
) -> None:
    path = recorded(tmp_path / "object.o", ELVES[name]())
    patch(verb, "-q", path)
    sound = path.read_bytes()
    assert alike(sound) != ["refused"]
    chance = random.Random(name)
    read = 0
    for _ in range(150):
        broken = bytearray(sound)
        for _ in range(chance.choice((1, 2, 8))):
            value = chance.choice((0, 1, 0xFF, chance.randrange(256)))
            broken[chance.randrange(len(broken))] = value
        read += alike(bytes(broken)) != ["refused"]
    assert read > 50


def test_among_other_relocations_of_every_width(tmp_path: Path, alike: Compare) -> None:
    """Beside, before and over the calls; in order of offset and not."""
    chance = random.Random(2008)
    seen: set[int] = set()
    for _ in range(300):
        path = tmp_path / "object.o"
        path.write_bytes(crowded(chance))
        if chance.random() < 0.5:
            cli.main(["nop", "-q", str(path)])
        seen.update(len(each) for each in alike(path.read_bytes()) if isinstance(each, list))
    assert {0, 1, 2, 3, 4} <= seen  # sites that are stuck, for one


def crowded(chance: random.Random) -> bytes:
    """Four calls, and a few relocations anywhere near them."""
    starts = [chance.choice((8, 9, 13)) + 24 * number for number in range(4)]
    code = bytearray(b"\x90" * 110)
    relocations = [
        Relocation(chance.randrange(106), chance.choice((WIDE, PC32, NONE)), "f", 0)
        for _ in range(chance.randrange(6))
    ]
    for start in starts:
        code[start : start + 5] = b"\xe8\0\0\0\0"
        relocations.append(Relocation(start + 1, PLT32, "mcount", -4))
    if chance.random() < 0.8:
        relocations.sort(key=lambda relocation: relocation.offset)
    slots = [Relocation(8 * number, 1, "f", start) for number, start in enumerate(starts)]
    return build(
        X86_64,
        [
            Section(".text", flags=AX, data=bytes(code), relocations=relocations),
            Section("__mcount_loc", flags=2, data=bytes(32), relocations=slots, align=8),
        ],
        [Symbol("f", ".text", size=len(code), type=STT_FUNC), Symbol("mcount")],
    ).data
