"""The sites of a loaded file as they stand in a process: a SiteTable, and what switches it.

What a site is, and what its call and its NOP are, the file's own table tells. The process only says
which of the two stands there. Anything else is foreign.
"""

from __future__ import annotations

from _operator import add, and_, ne
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress, repeat
from typing import Literal

from patcher.errors import ReadError
from patcher.ftrace.mappings import Range
from patcher.modify import Batch
from recordmcount.columns import pick
from recordmcount.sites.linked import LinkedSites
from recordmcount.sites.site import Site
from recordmcount.sites.state import STATES, State
from recordmcount.x86 import INT3, first_instruction
from recordmcount.x86_passage import halfway

from .loaded_file import LoadedFile
from .memory import PIECE, ProcessMemory
from .pages import PAGE

UPROBES = "[uprobes-trampoline]"
HALF = "a patcher that was killed has written half of it; that is harmless, and can be switched"
RELOCATED = "the dynamic linker has made this call (a text relocation): its file does not tell it"
NOT_RELOCATED = "the dynamic linker has yet to make this call (a text relocation)"


class LiveSites:
    """The SiteTable of a loaded file, by run-time address; states are those in the process.

    `halves` are sites that a killed patcher left half written. They do nothing, as NOPs.
    """

    in_object: Literal[False] = False
    has_table = True
    no_evidence = ""
    loose: Mapping[int, str] = {}

    def __init__(self, file: LoadedFile, sites: LinkedSites, memory: ProcessMemory) -> None:
        self.file = file
        self.sites = sites
        self.dead = sites.dead
        self.repeated = sites.repeated
        numbers = range(len(sites))
        vaddrs, self._linked = sites.columns(numbers)
        highest = file.highest
        self.addresses = list(map(add, vaddrs, repeat(file.bias)))
        if self.addresses and not 0 <= self.addresses[0] <= self.addresses[-1] <= highest:
            self.addresses = list(map(and_, self.addresses, repeat(highest)))
        sizes = list(map(len, self._linked))
        ends = list(map(add, self.addresses, sizes))
        file.refuse_outside_of_text(memory, self.addresses, ends)
        is_as_linked = self._is_as_linked(memory, ends)
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
        self._reasons: dict[int, str] = {}
        self.switched: list[int] = []
        if not is_as_linked:
            self.switched += compress(numbers, map(ne, self.codes, self._linked))
        self._decide(memory)
        self._switched_addresses = pick(self.addresses, self.switched)

    def _is_as_linked(self, memory: ProcessMemory, ends: Sequence[int]) -> bool:
        """Tell whether all text with sites is as in the file, if that is faster than site by site.

        `ends` are those of the sites.
        """
        for mapping in self.file.mappings:
            first, last = (bisect_left(self.addresses, each) for each in mapping.range)
            if first == last:
                continue
            start, end = self.addresses[first], ends[last - 1]
            if end - start > PAGE * (last - first):
                return False
            for at in range(start, end, PIECE):
                size = min(PIECE, end - at)
                try:
                    if memory.read(at, size) != self.file.content(at, size):
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
        state = STATES[self._column[number]]
        site = self.sites[number]._replace(position=self.addresses[number % len(self)])
        if self.codes[number] == self._linked[number]:
            is_pending = state is State.FOREIGN and self._is_relocated(number)
            return site._replace(reason=NOT_RELOCATED) if is_pending else site
        site = site._replace(code=self.codes[number], state=state)
        if state is State.FOREIGN:
            expected = (site.call,) if site.call else site.expected
            reason = self._reasons.get(number, "neither the call nor the NOP of its file")
            return site._replace(call=None, nop=None, reason=reason, expected=expected)
        return site._replace(reason=HALF) if number in self.halves else site

    def is_of(self, file: LoadedFile, sites: LinkedSites) -> bool:
        """Tell whether these are the sites of a file that is loaded as this one is.

        Its name may be another one by now, or have gone.
        """
        if self.sites is not sites or self.file.bias != file.bias:
            return False
        mine, others = ([each._replace(path="") for each in one.mappings]
                        for one in (self.file, file))  # fmt: skip
        return mine == others

    def stands(self, memory: ProcessMemory) -> bool:
        """Tell whether each site is as it was read. Raises ReadError."""
        return self.codes == memory.gather(self.addresses, list(map(len, self._linked)))

    def names(self, number: int) -> tuple[str, ...]:
        """Give all names of the function that a site is in, the best first."""
        return self.sites.names(number)

    def where(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Choose those of ascending `numbers` whose sites are in `state`."""
        wanted = STATES.index(state)
        count = self._column.count(wanted)
        if count in (0, len(self._column)):
            return numbers if count else []
        return [number for number in numbers if self._column[number] == wanted]

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
        known = set(differing) - {*self.sites.irreversible(differing)}
        both = sorted(number for number in known if self._column[number] != 2)
        calls = self.sites.turned(both, State.CALL)
        nops = self.sites.turned(both, State.NOP)
        decided = set()
        for number, call, nop in zip(both, calls, nops, strict=True):
            state = self._state(number, call, nop)
            if state is not State.FOREIGN:
                self._column[number] = STATES.index(state)
                decided.add(number)
                self.switched.append(number)
        for number in differing:
            if number not in decided:
                self._column[number] = STATES.index(State.FOREIGN)
                self._reasons[number] = self._foreign(number, memory)

    def _state(self, number: int, call: bytes, nop: bytes) -> State:
        code = self.codes[number]
        if code in (call, nop):
            return State.CALL if code == call else State.NOP
        split = -self.addresses[number] % PAGE
        if 0 < split < len(code) and code in halfway(call, nop, split):
            self.halves.add(number)
            return State.NOP
        return State.FOREIGN

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


class LiveSwitch:
    """The Switchable sites of a loaded file."""

    def __init__(self, sites: LiveSites) -> None:
        self.sites = sites

    def site(self, number: int) -> Site:
        """Give the site, and if it cannot be switched back and forth the reason why."""
        return self.sites[number]

    def unswitchable(self, numbers: Sequence[int], _: State) -> Sequence[int]:
        """Choose those of `numbers` that cannot be brought to the other state and back."""
        return self.sites.sites.irreversible(numbers)

    def without_call(self, _: Sequence[int]) -> Sequence[int]:
        """Choose none: what a NOP of a linked file would call is known."""
        return []

    def batch(self, numbers: Sequence[int], state: State) -> Batch:
        """Plan how these sites, of which none is unswitchable, come to be in `state`."""
        live = self.sites

        def symbol(address: int) -> str:
            number = bisect_left(live.addresses, address)
            is_one = number < len(live) and live.addresses[number] == address
            return live[number].place if is_one else ""

        return Batch(
            pick(live.addresses, numbers), pick(live.codes, numbers),
            list(live.sites.turned(numbers, state)), symbol,
        )  # fmt: skip
