"""The sites of a loaded file as they stand in a process: a SiteTable.

What a site is, and what its call and its NOP are, the file's own table tells. The process only says
which of the two stands there. Anything else is foreign.

Of a sled the file tells the NOPs alone. A call there is one that patcher has made if it is spelled
as patcher does, and leads to where a function of the process begins by its symbol.

Where the call ended inside of one of the file's NOPs, threads may yet have to return there, to
behind the call. So it becomes NOPs that are parted there; the file's own come back once no thread,
and nothing on a stack, leads between the two. (Words that only look so are common: what a call has
left on a stack may stay for long.)
"""

from __future__ import annotations

from _operator import add, and_, ne
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import compress, repeat
from typing import Literal, Protocol

from patcher.errors import ReadError
from patcher.ftrace.mappings import Range
from recordmcount.columns import pick
from recordmcount.sites.site import Site, SiteTable
from recordmcount.sites.state import LIVE_STATES, STATES, State
from recordmcount.x86 import CALL
from recordmcount.x86_code import INT3, RELATIVE_CALLS, first_instruction, sled_target
from recordmcount.x86_nops import parted_nops
from recordmcount.x86_passage import halfway, is_halfway, is_halfway_to_call

from . import regions
from .loaded_file import LoadedFile
from .memory import ProcessMemory
from .pages import MOST, PAGE
from .regions import Region

UPROBES = "[uprobes-trampoline]"
HALF = "a patcher that was killed has written half of it; that is harmless, and can be switched"
PARTED = "not the NOPs of its file yet: a thread may have to return there from the call that stood"
RELOCATED = "the dynamic linker has made this call (a text relocation): its file does not tell it"
NOT_RELOCATED = "the dynamic linker has yet to make this call (a text relocation)"


class FileSites(SiteTable, Protocol):
    """The sites that the tables of a linked file name, as recordmcount.sites.loadable reads them.

    A site without call is a sled: its call is not told by the file.
    """

    def returns(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose those that stand at a function's end: calls of `__return__`."""

    def offset(self, number: int) -> int | None:
        """Return how many bytes from its function's start a site is; None if it is in none."""

    def without_call(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose the sleds."""

    def irreversible(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose those that cannot be turned to the other state and back."""

    def columns(self, numbers: Sequence[int]) -> tuple[Sequence[int], Sequence[bytes]]:
        """Return (link-time virtual addresses, bytes that stand there)."""

    def turned(self, numbers: Sequence[int], state: State) -> Sequence[bytes]:
        """Return the bytes in `state`; of a sled its NOPs."""


class LiveSites:
    """The SiteTable of a loaded file, by run-time address; states are those in the process.

    `called` names the function that begins at a run-time address. `halves` are sites that a killed
    patcher left half written. They do nothing, as NOPs. `parted` are sleds with other NOPs than in
    the file. `traced` are the sites that call what writes events, or would if they were not left
    half written, and the state each had before. `covered` are foreign: behind the first byte of a
    breakpoint is such a call.
    """

    in_object: Literal[False] = False
    has_table = True
    no_evidence = ""
    loose: Mapping[int, str] = {}

    def __init__(
        self,
        file: LoadedFile,
        sites: FileSites,
        memory: ProcessMemory,
        called: Callable[[int], str],
    ) -> None:
        self.file = file
        self.sites = sites
        self.dead = sites.dead
        self.repeated = sites.repeated
        numbers = range(len(sites))
        vaddrs, self._linked = sites.columns(numbers)
        highest = file.highest
        self.addresses = list(map(add, vaddrs, repeat(file.bias)) if file.bias else vaddrs)
        if self.addresses and not 0 <= self.addresses[0] <= self.addresses[-1] <= highest:
            self.addresses = list(map(and_, self.addresses, repeat(highest)))
        sizes = list(map(len, self._linked))
        file.refuse_outside_of_text(memory, self.addresses, sizes)
        is_as_linked = self._is_as_linked(memory, sizes)
        self.codes = self._linked if is_as_linked else memory.gather(self.addresses, sizes)
        self._column = bytearray(len(sites))
        for value, state in enumerate(STATES):
            some = sites.where(numbers, state)
            if len(some) == len(numbers):
                self._column = bytearray((value,)) * len(numbers)
                break
            for number in some:
                self._column[number] = value
        self.halves: set[int] = set()
        self.parted: set[int] = set()
        self.traced: dict[int, State] = {}
        self.covered: set[int] = set()
        self._regions: Sequence[Region] | None = None
        self._reasons: dict[int, str] = {}
        self._called = cache(called)
        self.switched: list[int] = []
        if not is_as_linked:
            self.switched += compress(numbers, map(ne, self.codes, self._linked))
        self._decide(memory)
        self._switched_addresses = pick(self.addresses, self.switched)

    def _is_as_linked(self, memory: ProcessMemory, sizes: Sequence[int]) -> bool:
        """Tell whether all text with sites is as in the file, if that is faster than site by site.

        `sizes` are those of the sites.
        """
        for mapping in self.file.mappings:
            first, last = (bisect_left(self.addresses, each) for each in mapping.range)
            if first == last:
                continue
            start, end = self.addresses[first], self.addresses[last - 1] + sizes[last - 1]
            if end - start > PAGE * (last - first):
                return False
            for at in range(start, end, MOST):
                try:
                    if not memory.stands(at, self.file.content(at, min(MOST, end - at))):
                        return False
                except ReadError:  # of which site, is told by a look at each
                    return False
        return True

    def ranges(self) -> list[Range]:
        """Return the run-time addresses of each site."""
        ends = map(add, self.addresses, map(len, self._linked))
        return list(map(Range, self.addresses, ends))

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Iterator[Site]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> Site:
        state = LIVE_STATES[self._column[number]]
        site = self.sites[number]._replace(position=self.addresses[number % len(self)])
        if self.codes[number] == self._linked[number]:
            is_pending = state is State.FOREIGN and self._is_relocated(number)
            return site._replace(reason=NOT_RELOCATED) if is_pending else site
        site = site._replace(code=self.codes[number], state=state)
        if state is State.FOREIGN:
            expected = (site.call,) if site.call else site.expected
            reason = self._reasons.get(number, "neither the call nor the NOP of its file")
            return site._replace(call=None, nop=None, reason=reason, expected=expected)
        if number in self.traced:
            return site._replace(call=None, nop=None, reason=f"a {self.traced[number]} before")
        if number in self.halves or number in self.parted:
            return site._replace(reason=HALF if number in self.halves else PARTED)
        if state is State.CALL and (name := self._name_called(number)):
            return site._replace(target=name, reason=f"calls {name}")
        return site

    def is_of(self, file: LoadedFile, sites: FileSites) -> bool:
        """Tell whether these are the sites of a file that is loaded as this one is.

        Its name may be another one by now, or have gone.
        """
        if self.sites is not sites or self.file.bias != file.bias:
            return False
        mine, others = ([each._replace(path="") for each in one.mappings]
                        for one in (self.file, file))  # fmt: skip
        return mine == others

    def stands(self, memory: ProcessMemory) -> bool:
        """Tell whether each site is as it was read. Raises ReadError.

        Whether what a sled calls is still a function, its bytes do not tell.
        """
        if self.without_call(self.switched):
            return False
        return self.codes == memory.gather(self.addresses, list(map(len, self._linked)))

    def names(self, number: int) -> tuple[str, ...]:
        """Give all names of the function that a site is in, the best first."""
        return self.sites.names(number)

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Choose those of ascending `numbers` whose sites are in `state`."""
        wanted = LIVE_STATES.index(state)
        count = self._column.count(wanted)
        if count in (0, len(self._column)):
            return numbers if count else []
        return [number for number in numbers if self._column[number] == wanted]

    def returns(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose those of `numbers` that stand at a function's end: calls of `__return__`."""
        return self.sites.returns(numbers)

    def without_call(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose those of `numbers` that are sleds: their file does not tell what they call."""
        return self.sites.without_call(numbers)

    def place_at(self, address: int) -> str:
        """Name the place of the site at a run-time address in words; "" if none is there."""
        number = bisect_left(self.addresses, address)
        is_one = number < len(self) and self.addresses[number] == address
        return self[number].place if is_one else ""

    @property
    def may_be_parted(self) -> bool:
        """Whether there are sleds that are longer than a call, and not as in their file."""
        long = [each for each in self.switched if len(self.codes[each]) > CALL.length]
        return bool(self.without_call(long))

    def text(self, address: int, size: int) -> bytes:
        """Return what stands at pages of one mapping of the file, if nothing but sites is changed.

        Foreign sites are as in the file.
        """
        content = bytearray(self.file.content(address, size))
        addresses = self._switched_addresses
        # One site may begin in the page before.
        first = max(0, bisect_left(addresses, address) - 1)
        for at, number in enumerate(self.switched[first:], first):
            place, code = addresses[at] - address, self.codes[number]
            if place >= size:
                break
            part = code[max(0, -place) : size - place]
            content[max(0, place) : max(0, place) + len(part)] = part
        return bytes(content)

    # --- what stands there --------------------------------------------------------------------

    def _decide(self, memory: ProcessMemory) -> None:
        """Decide about the sites that are not as in the file."""
        differing, self.switched = self.switched, []
        sleds = self.without_call(differing)
        known = set(differing) - {*self.sites.irreversible(differing), *sleds}
        both = sorted(number for number in known if self._column[number] != 2)
        calls = self.sites.turned(both, State.CALL)
        nops = self.sites.turned(both, State.NOP)
        decided = set()
        states = list(map(self._state, both, calls, nops, repeat(memory)))
        states += map(self._sled_state, sleds)
        for number, state in zip((*both, *sleds), states, strict=True):
            if state is not State.FOREIGN:
                self._column[number] = LIVE_STATES.index(state)
                decided.add(number)
                self.switched.append(number)
        self.switched.sort()
        for number in differing:
            if number in decided:
                continue
            if (before := self._state_before(number, memory)) is not None:
                self.traced[number] = before
                self._column[number] = LIVE_STATES.index(State.TRACED)
            else:
                if self._is_covered(number, memory):
                    self.covered.add(number)
                self._reasons[number] = self._foreign(number, memory)
                self._column[number] = STATES.index(State.FOREIGN)
        if self.traced:
            self.switched = sorted({*self.switched, *self.traced})

    def _state(self, number: int, call: bytes, nop: bytes, memory: ProcessMemory) -> State:
        code = self.codes[number]
        if code in (call, nop):
            return State.CALL if code == call else State.NOP
        split = -self.addresses[number] % PAGE
        if not 0 < split < len(code):
            return State.FOREIGN
        if (before := self._half_before(number, call, nop, split, memory)) is not None:
            self.traced[number] = before
            return State.TRACED
        if code in halfway(call, nop, split):
            self.halves.add(number)
            return State.NOP
        return State.FOREIGN

    def _sled_state(self, number: int) -> State:
        """Tell the state of a sled that is not as in the file."""
        code, nop = self.codes[number], self._linked[number]
        if self._name_called(number):
            return State.CALL
        if code == parted_nops(len(code)):
            self.parted.add(number)
            return State.NOP
        split = -self.addresses[number] % PAGE
        if 0 < split < len(code) and is_halfway(code, nop, split):
            self.halves.add(number)
            return State.NOP
        return State.FOREIGN

    def _name_called(self, number: int) -> str:
        """Name the function that a sled calls; "" if it calls none."""
        address = self.addresses[number]
        target = sled_target(self.codes[number], address, self.file.obj.machine)
        is_call = target is not None and self.without_call([number])
        return self._called(target) if target is not None and is_call else ""

    def _state_before(self, number: int, memory: ProcessMemory) -> State | None:
        """Tell what a site is to become again that is traced; None if it is not.

        A uprobe that has gone leaves the first byte of the file on such a call.
        """
        code = self.codes[number]
        if code[:1] == self._linked[number][:1]:
            code = RELATIVE_CALLS.get(len(code), code)[:1] + code[1:]
        return self._before(number, code, memory)

    def _half_before(
        self, number: int, call: bytes, nop: bytes, split: int, memory: ProcessMemory
    ) -> State | None:
        """Tell what a site is to become again that who traced it left half written.

        Its first `split` bytes are in one page, the others in the next. None if it is none, or if
        that cannot be told.
        """
        code, prefix = self.codes[number], RELATIVE_CALLS.get(len(self.codes[number]))
        if prefix is None:
            return None
        both = {State.CALL: call, State.NOP: nop}
        states = [
            state for state, each in both.items() if is_halfway_to_call(code, each, prefix, split)
        ]
        if not states or all(each.owner == regions.NOBODY for each in self._all_regions(memory)):
            return None  # no trace is left: who switched it was stopped
        if len(states) == 2:  # in most, one of the pages still has the bytes of what it was
            parts = [part for part in (slice(len(prefix), split), slice(split, None)) if code[part]]
            states = [
                state
                for state, each in both.items()
                if any(code[part] == each[part] for part in parts)
            ]
        if len(states) == 1:
            return states[0]
        return self._before(number, prefix + code[len(prefix) :], memory)

    def _all_regions(self, memory: ProcessMemory) -> Sequence[Region]:
        """Find what traces have mapped, once."""
        if self._regions is None:
            self._regions = regions.find(memory)
        return self._regions

    def _before(self, number: int, code: bytes, memory: ProcessMemory) -> State | None:
        return regions.state_before(code, self.addresses[number], self._all_regions(memory))

    def _is_covered(self, number: int, memory: ProcessMemory) -> bool:
        """Tell whether a breakpoint stands on a call of what writes events."""
        code, prefix = self.codes[number], RELATIVE_CALLS.get(len(self.codes[number]))
        if prefix is None or not code.startswith(INT3):
            return False
        return self._before(number, prefix[:1] + code[1:], memory) is not None

    def uncovered(self, number: int) -> bytes:
        """Return what a covered site is to be: the breakpoint, and the file's bytes behind it.

        The kernel puts back the first byte alone when a uprobe goes, and that from the file.
        (kernel/events/uprobes.c, set_orig_insn.)
        """
        return INT3 + self._linked[number][len(INT3) :]

    def _foreign(self, number: int, memory: ProcessMemory) -> str:
        """Say what stands at a site that is neither of its two codes."""
        code, address = self.codes[number], self.addresses[number]
        if code.startswith(INT3):
            return "a breakpoint, of a uprobe (perf, bpftrace) or of a debugger"
        if code.startswith(b"\xe8") and first_instruction(code) == len(code) == 5:
            target = address + 5 + int.from_bytes(code[1:], "little", signed=True)
            for mapping in memory.mappings():
                if mapping.range.holds(target) and mapping.path == UPROBES:
                    return "a uprobe (perf, bpftrace): a call into [uprobes-trampoline]"
        if self._is_relocated(number):
            return RELOCATED
        return "neither the call nor the NOP of its file"

    def _is_relocated(self, number: int) -> bool:
        address = self.addresses[number] - self.file.bias & self.file.highest
        return self.file.is_relocated(address, len(self._linked[number]))
