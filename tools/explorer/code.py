"""The bytes of the sites: which values each takes, and what a CPU executes that has seen some.

A byte takes few values in all: the old one, the new one, and int3 if it is the first. What stands
there is a mask with one bit, what a CPU may have seen there a mask with several.
"""

from itertools import product
from typing import NamedTuple

from patcher.modify import Batch
from recordmcount.x86 import INT3, NOPS, first_instruction

from .state import Context, Flight, Inside

Masks = tuple[int, ...]


class Outcome(NamedTuple):
    """What a flight can execute: the old or new code, mixes of both, or a breakpoint."""

    whole: tuple[bytes, ...]
    mixes: tuple[bytes, ...]
    traps: bool


class Code:
    """The bytes of all sites of a batch, one after the other: a byte's number is its place."""

    def __init__(self, batch: Batch) -> None:
        self.sites = list(batch)
        self.starts: list[int] = []
        self._values: list[bytes] = []
        for site in self.sites:
            self.starts.append(len(self._values))
            for index, pair in enumerate(zip(site.old, site.new, strict=True)):
                values = (*pair, *INT3) if index == 0 else pair
                self._values.append(bytes(dict.fromkeys(values)))
        self.old = self._masks(b"".join(batch.old))
        self.new = self._masks(b"".join(batch.new))
        self._outcomes: dict[Flight, Outcome] = {}

    def _masks(self, values: bytes) -> Masks:
        return tuple(self.mask(place, value) for place, value in enumerate(values))

    def mask(self, place: int, value: int) -> int:
        """The bit of a value at a place; 0 if it is never to stand there."""
        return 1 << at if (at := self._values[place].find(value)) >= 0 else 0

    def value(self, place: int, mask: int) -> int:
        """The value at a place that has this bit."""
        return self._values[place][mask.bit_length() - 1]

    def is_constant(self, place: int) -> bool:
        """Whether but one value ever stands there."""
        return len(self._values[place]) == 1

    def place(self, address: int) -> int | None:
        """The place of the byte at an address; None if it is in no site."""
        for start, site in zip(self.starts, self.sites, strict=True):
            if 0 <= address - site.address < len(site.old):
                return start + address - site.address
        return None

    def of_site(self, masks: Masks, number: int) -> Masks:
        """The part of the masks that is about one site."""
        start = self.starts[number]
        return masks[start : start + len(self.sites[number].old)]

    def read(self, masks: Masks, address: int, size: int) -> bytes:
        """The bytes at an address, all in one site."""
        start = self.place(address)
        if start is None:
            raise ValueError(f"no site at {address:#x}")
        return bytes(self.value(place, masks[place]) for place in range(start, start + size))

    def is_whole(self, masks: Masks) -> bool:
        """Whether every site is all old or all new."""
        return all(
            self.of_site(masks, number)
            in (self.of_site(self.old, number), self.of_site(self.new, number))
            for number in range(len(self.sites))
        )

    def is_old_call(self, flight: Flight, code: bytes) -> bool:
        """Whether `code` calls what the site called before the change, and not after.

        Of two instructions the second calls.
        """
        site = self.sites[flight.site]
        calls = site.old not in NOPS.values() and not self.behind(flight, code)
        return calls and code == site.old[flight.start :] != site.new[flight.start :]

    def behind(self, flight: Flight, code: bytes) -> Inside | None:
        """Where the CPU stands when it has executed the first instruction of `code`."""
        length = first_instruction(code)
        inside = not flight.start and 0 < length < len(code)
        return Inside(flight.site, length) if inside else None

    def seeing(self, context: Context, place: int, mask: int) -> Context:
        """What a CPU may have seen once the byte at `place` has become `mask`."""
        if not isinstance(context, Flight):
            return context
        index = place - self.starts[context.site] - context.start
        seen = context.seen
        if not 0 <= index < len(seen) or seen[index] & mask:
            return context
        return context._replace(seen=(*seen[:index], seen[index] | mask, *seen[index + 1 :]))

    def outcome(self, flight: Flight) -> Outcome:
        """What the CPU can execute; any choice of what it saw of each byte is possible."""
        if flight not in self._outcomes:
            self._outcomes[flight] = self._outcome(flight)
        return self._outcomes[flight]

    def _outcome(self, flight: Flight) -> Outcome:
        site = self.sites[flight.site]
        start = self.starts[flight.site] + flight.start
        old, new = site.old[flight.start :], site.new[flight.start :]
        known = [
            code
            for code, all_of_it in ((old, site.old), (new, site.new))
            if flight.start in {0, first_instruction(all_of_it)}
        ]
        choices = [
            [value for value in self._values[place] if self.mask(place, value) & seen]
            for place, seen in enumerate(flight.seen, start)
        ]
        codes = [bytes(values) for values in product(*choices)]
        executed = [code for code in codes if not code.startswith(INT3)]
        return Outcome(
            whole=tuple(code for code in executed if code in known),
            mixes=tuple(code for code in executed if code not in known),
            traps=len(executed) < len(codes),
        )
