"""Places for what is called: in reach, in nobody's way, and as few as there can be."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from patcher.errors import ReachError
from patcher.ftrace.mappings import Mapping, Range
from patcher.process import maps, places
from patcher.process.proc import Proc
from recordmcount import x86_code
from tests.support import images
from tests.support.processes import build_program, started

pytestmark = pytest.mark.process

PAGE = 4096
MIB, GIB = 1 << 20, 1 << 30


def mapping(start: int, end: int, path: str = "/program") -> Mapping:
    return Mapping(Range(start, end), "rw-p", 0, 0, path)


def chosen(
    mapped: Sequence[Mapping], groups: Sequence[Range], size: int = PAGE, heap: int = 0
) -> list[int]:
    return places.places("process 1", places.gaps(mapped, heap=heap), groups, size)


def whole(mapped: Sequence[Mapping]) -> list[Range]:
    return [each.range for each in mapped]


# --- address spaces as they are -------------------------------------------------------------------


def test_a_place_is_below_the_lowest_module_that_it_is_for() -> None:
    low, high = mapping(1 << 40, (1 << 40) + MIB), mapping((1 << 40) + GIB, (1 << 40) + GIB + MIB)
    below = (1 << 40) - 3 * PAGE
    assert chosen([low, high], whole([high, low]), 2 * PAGE - 1) == [below, below]


def test_a_low_program_has_its_place_below_and_not_behind_its_heap() -> None:
    mapped = [mapping(0x400000, 0x500000), mapping(0x600000, 0x700000, "[heap]")]
    code = [Range(0x401000, 0x500000)]
    assert chosen(mapped, code) == [0x400000 - 2 * PAGE]
    largest = 0x400000 - 0x10000 - 2 * PAGE
    assert chosen(mapped, code, largest) == [0x10000 + PAGE]
    assert chosen(mapped, code, largest + 2 * PAGE) == [0x10000]  # without guards
    with pytest.raises(ReachError, match="process 1: no room for 0x3f1000 bytes within 2 GiB of "):
        chosen(mapped, code, largest + 2 * PAGE + 1)


@pytest.mark.parametrize("heap", [0x500000, 0x500000 + 64 * MIB])
def test_a_heap_that_is_not_there_yet_has_its_room(heap: int) -> None:
    mapped = [mapping(0x10000, 0x500000)]
    if heap == 0x500000:
        with pytest.raises(ReachError):
            chosen(mapped, whole(mapped), heap=heap)
    else:
        assert chosen(mapped, whole(mapped), heap=heap) == [0x500000 + PAGE]
    assert chosen(mapped, whole(mapped)) == [0x500000 + PAGE]  # one without a heap


def test_nothing_is_below_a_stack_whatever_it_is_called() -> None:
    stack = mapping(5 * GIB, 5 * GIB + PAGE, "[stack]")
    other = stack._replace(path="")
    module = mapping(5 * GIB + PAGE, 5 * GIB + 2 * PAGE)
    groups = whole([module])
    for each, stacks in ((stack, ()), (other, {5 * GIB})):
        free = places.gaps([each, module], heap=0, stacks=stacks)
        assert places.places("", free, groups, PAGE) == [4 * GIB - 2 * PAGE]
    assert chosen([other, module], groups) == [5 * GIB - 2 * PAGE]


def test_modules_that_are_far_from_each_other_have_a_place_each() -> None:
    starts = [(1 << 40) + number * 5 * GIB for number in range(3)]
    mapped = [mapping(start, start + MIB) for start in starts]
    assert chosen(mapped, whole(mapped)) == [start - 2 * PAGE for start in starts]


def test_two_that_are_less_than_four_gib_from_each_other_share_what_is_between() -> None:
    starts = [1 << 40, (1 << 40) + 4 * GIB - 16 * MIB]
    mapped = [mapping(start, start + PAGE) for start in starts]
    first, second = chosen(mapped, whole(mapped))
    assert first == second
    assert starts[0] < first < starts[1]


def test_places_of_two_neighbourhoods_do_not_overlap() -> None:
    """Between two walls is room for both, but not for one that both can reach."""
    reach = places.REACH
    low = Range(1 << 40, (1 << 40) + PAGE)
    high = Range(low.start + 2 * reach, low.end + 2 * reach)
    middle = (1 << 40) + reach
    mapped = [
        mapping(low.start - 4 * GIB, middle - 2 * PAGE),
        mapping(middle + 3 * PAGE, high.end + 4 * GIB),
    ]
    first, second = chosen(mapped, [low, high], 2 * PAGE)
    assert (first, second) == (middle - 2 * PAGE, middle + PAGE)
    high = Range(high.start - 2 * PAGE, high.end - 2 * PAGE)  # reaches half of the first
    mapped[1] = mapping(middle + 2 * PAGE, high.end + 4 * GIB)
    assert chosen(mapped, [high, low], 2 * PAGE) == [middle, middle - 2 * PAGE]
    mapped[1] = mapping(middle + PAGE, high.end + 4 * GIB)
    with pytest.raises(ReachError, match=str(high)):
        chosen(mapped, [low, high], 2 * PAGE)


def test_what_no_place_can_reach_is_an_error() -> None:
    everything = [mapping(0, places.USER_LIMIT)]
    with pytest.raises(ReachError, match="of the code at 0x400000-0x401000"):
        chosen(everything, [Range(0x400000, 0x401000)])
    with pytest.raises(ReachError):
        chosen([], [Range(1 << 40, (1 << 40) + 5 * GIB)])  # longer than a call reaches
    assert chosen([], []) == []


def test_addresses_of_the_kernel_are_not_given_out() -> None:
    vsyscall = mapping(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, "[vsyscall]")
    assert places.gaps([vsyscall], heap=0) == [Range(0x10000, 0x7FFFFFFFF000)]
    assert places.gaps([], heap=0, lowest=0) == [Range(0, 0x7FFFFFFFF000)]


# --- real programs --------------------------------------------------------------------------------

# Maps each address and size that it is told, no other; and then needs much heap and stack.
TENANT = """
__attribute__((noinline)) static int deep(int left) {
    volatile char room[1 << 16];
    room[0] = left;
    return left ? deep(left - 1) + room[0] : 0;
}
int main(void) {
    unsigned long address, size;
    ready();
    while (scanf("%lx %lx", &address, &size) == 2) {
        void *place = mmap((void *)address, size, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (place != (void *)address) { perror("mmap"); return 2; }
    }
    if (sbrk(1l << 31) == (void *)-1) { perror("sbrk"); return 3; }
    return deep(100) < 0;
}
"""
KINDS = {
    "PIE": ["-fPIE", "-pie"],
    "executable": ["-fno-pie", "-no-pie"],
    "static": ["-fno-pie", "-static"],
    "static PIE": ["-fPIE", "-static-pie"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_programs_map_what_was_chosen_and_go_on(kind: str, tmp_path: Path) -> None:
    with started(build_program(tmp_path, TENANT, *KINDS[kind])) as process:
        with Proc(process.pid) as proc:
            mapped = maps.parse(proc.read("maps"))
            stacks = maps.growing_down(proc.read("smaps"))
            heap = proc.stat().heap
        code = [each.range for each in mapped if each.protection == "r-xp" and each.inode]
        free = places.gaps(mapped, heap=heap, stacks=stacks)
        found = places.places("", free, code, 16 * PAGE)
        assert len({*found}) == (2 if kind in {"PIE", "executable"} else 1)
        for group, place in zip(code, found, strict=True):
            for site in (group.start, group.end - 5):
                for target in (place, place + 16 * PAGE - 1):
                    assert x86_code.call(site, target)
        process.communicate("".join(f"{place:x} {16 * PAGE:x}\n" for place in {*found}))
        assert process.returncode == 0


def test_a_stack_of_one_s_own_is_known_by_how_it_grows(tmp_path: Path) -> None:
    source = """
    int main(void) {
        ready();
        printf("%p\\n", mmap(NULL, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0));
        fflush(stdout);
        until_told();
    }
    """
    program = build_program(tmp_path, source)
    with started(program) as process, Proc(process.pid) as proc:
        assert process.stdout
        own = int(process.stdout.readline(), 16)
        main = next(each for each in maps.parse(proc.read("maps")) if each.path == "[stack]")
        assert maps.growing_down(proc.read("smaps")) == {own, main.range.start}


# Makes its heap a page larger when it is told to go on: the C library would do so from the start.
WITHOUT_LIBRARY = """
    .globl _start
    _start:
    call ready
    mov $12, %eax; xor %edi, %edi; syscall  # brk
    lea 0x1000(%rax), %rdi
    mov $12, %eax; syscall
    call ready
    mov $60, %eax; xor %edi, %edi; syscall
    ready:
    mov $1, %eax; mov $1, %edi; lea said(%rip), %rsi; mov $6, %edx; syscall
    xor %eax, %eax; xor %edi, %edi; lea byte(%rip), %rsi; mov $1, %edx; syscall
    ret
    .data
    said: .ascii "ready\\n"
    byte: .byte 0
"""


def test_where_a_heap_would_begin_is_known_before_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "bare.S").write_text(WITHOUT_LIBRARY)
    images.tool("gcc", "-nostdlib", "-static", tmp_path / "bare.S", "-o", tmp_path / "bare")
    with started(tmp_path / "bare") as process, Proc(process.pid) as proc:
        assert "[heap]" not in {each.path for each in maps.parse(proc.read("maps"))}
        before = proc.stat().heap
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        heap = next(each for each in maps.parse(proc.read("maps")) if each.path == "[heap]")
        assert before == proc.stat().heap == heap.range.start


# --- a small address space, looked at address by address ------------------------------------------

SMALL = {"PAGE": 4, "REACH": 64, "USER_LIMIT": 480, "STACK_ROOM": 24, "HEAP_ROOM": 88}


@contextmanager
def small() -> Iterator[None]:
    """Make the address space of `places` a small one."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(places, name, value)
        yield


class World:
    """Which addresses are free, and which places can be: each byte is looked at by itself."""

    def __init__(self, mapped: Sequence[Mapping], heap: int, lowest: int, size: int) -> None:
        limit = SMALL["USER_LIMIT"]
        self.size = -(-size // 4) * 4
        owner = [""] * limit
        for each in mapped:
            size_ = each.range.end - each.range.start
            owner[each.range.start : each.range.end] = [each.path] * size_
        self.is_free = [not path for path in owner]
        self._leave(owner, range(limit), "[heap]", SMALL["HEAP_ROOM"], heap)
        self._leave(owner, range(limit - 1, -1, -1), "[stack]", SMALL["STACK_ROOM"], 0)
        self.is_free[:lowest] = [False] * lowest

    def _leave(self, owner: list[str], way: range, path: str, room: int, start: int) -> None:
        """Leave to what has this path, or begins at `start`, its room in the way that it grows."""
        left = 0
        for at in way:
            if owner[at]:
                left = room if owner[at] == path else 0
                continue
            if start and at == start:
                left = room
            if left:
                self.is_free[at] = False
                left -= 1

    def is_room(self, start: int, size: int) -> bool:
        part = self.is_free[max(start, 0) : start + size]
        return len(part) == size and all(part)

    def starts(self, *groups: Range) -> set[int]:
        """Where a place may start that all of them can reach."""
        addresses = {each for group in groups for each in (group.start, group.end - 1)}
        return {
            start
            for start in range(0, len(self.is_free), 4)
            if self.is_room(start, self.size)
            and all(
                -SMALL["REACH"] < byte - address < SMALL["REACH"]
                for byte in range(start, start + self.size)
                for address in addresses
            )
        }

    def has_guards(self, start: int) -> bool:
        return self.is_room(start - 4, self.size + 8)

    def fewest(self, groups: Sequence[Range]) -> int:
        """How few places are enough for all of them, by trying all; 0 if none are."""
        starts = [self.starts(group) for group in groups]
        covers = {
            frozenset(number for number, each in enumerate(starts) if start in each)
            for start in set().union(*starts)
        }
        for count in range(1, len(groups) + 1):
            for some in combinations(covers, count):
                if len(frozenset().union(*some)) == len(groups):
                    return count
        return 0


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Mapping], int]:
    """Mappings, and where the heap begins; a few are as large as most of a call's reach."""
    edges = sorted(draw(st.sets(st.integers(0, 119).map(lambda page: 4 * page), max_size=12)))
    mapped = [mapping(*pair) for pair in zip(edges[::2], edges[1::2], strict=False)]
    heap = 0
    kind = draw(st.sampled_from(("heap", "no heap", "heap to be")))
    if mapped and draw(st.sampled_from((True, False))):
        mapped[-1] = mapped[-1]._replace(path="[stack]")
    if len(mapped) > 1 and kind == "heap":
        number = draw(st.integers(0, len(mapped) - 2))
        mapped[number] = mapped[number]._replace(path="[heap]")
        heap = mapped[number].range.start
    if kind == "heap to be":
        heap = 4 * draw(st.integers(1, 119))
    return mapped, heap


GROUPS = st.lists(
    st.tuples(st.integers(0, 460), st.integers(1, 24)).map(
        lambda each: Range(each[0], each[0] + each[1])
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=250, deadline=None)
@given(
    world=worlds(), groups=GROUPS, size=st.integers(1, 30), lowest=st.sampled_from((0, 4, 32, 100))
)
def test_places_are_free_in_reach_and_as_few_as_can_be(
    world: tuple[list[Mapping], int], groups: list[Range], size: int, lowest: int
) -> None:
    mapped, heap = world
    assume(not heap or heap >= lowest)  # no kernel has a heap where nothing may be mapped
    seen = World(mapped, heap, lowest, size)
    fewest = seen.fewest(groups)
    try:
        with small():
            free = places.gaps(mapped, heap=heap, lowest=lowest)
            found = places.places("", free, groups, size)
    except ReachError:
        event("no room")
        assert fewest != 1  # none, or one neighbourhood's place is in the way of another's
        return
    assert len({*found}) == fewest
    for one, other in combinations({*found}, 2):
        assert abs(one - other) >= seen.size
    for place in {*found}:
        members = [group for group, its in zip(groups, found, strict=True) if its == place]
        can_be = seen.starts(*members)
        assert place in can_be
        if fewest == 1:
            event("one neighbourhood")
            assert place == preferred(seen, can_be, min(group.start for group in members))


def preferred(seen: World, can_be: set[int], lowest: int) -> int:
    """The place next below the code, else the next above where it begins; with guards, else not."""
    for some in ({start for start in can_be if seen.has_guards(start)}, can_be):
        below = [start for start in some if start + seen.size <= lowest]
        if below or some:
            return max(below) if below else min(some)
    raise AssertionError("no place")
