"""The bytes of the sites: which values each takes, and what a CPU executes that has seen some.

A byte takes few values in all: the old one, the new one, and int3 if it is the first of a site. The
value that stands there is a mask with one bit; those that a CPU may have seen, one with several.
"""

from itertools import product
from typing import NamedTuple

from patcher.modify import Batch
from recordmcount.x86_code import INT3, first_instruction
from recordmcount.x86_nops import NOPS

from .state import Context, Flight, Inside

Masks = tuple[int, ...]


class Outcome(NamedTuple):
    """What a CPU can execute of a flight: old or new code as a whole, mixes, or a breakpoint."""

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
        """Return the bit of a value at a place; 0 if the value must never stand there."""
        return 1 << at if (at := self._values[place].find(value)) >= 0 else 0

    def value(self, place: int, mask: int) -> int:
        """Return the value at a place that has this bit."""
        return self._values[place][mask.bit_length() - 1]

    def is_constant(self, place: int) -> bool:
        """Tell whether only one value ever stands at a place."""
        return len(self._values[place]) == 1

    def place(self, address: int) -> int | None:
        """Return the place of the byte at an address; None if it is in no site."""
        for start, site in zip(self.starts, self.sites, strict=True):
            if 0 <= address - site.address < len(site.old):
                return start + address - site.address
        return None

    def of_site(self, masks: Masks, number: int) -> Masks:
        """Return the masks of one site."""
        start = self.starts[number]
        return masks[start : start + len(self.sites[number].old)]

    def read(self, masks: Masks, address: int, size: int) -> bytes:
        """Return the bytes at an address, all in one site."""
        start = self.place(address)
        if start is None:
            raise ValueError(f"no site at {address:#x}")
        return bytes(self.value(place, masks[place]) for place in range(start, start + size))

    def is_whole(self, masks: Masks) -> bool:
        """Tell whether every site is all old or all new."""
        return all(
            self.of_site(masks, number)
            in (self.of_site(self.old, number), self.of_site(self.new, number))
            for number in range(len(self.sites))
        )

    def is_old_call(self, flight: Flight, code: bytes) -> bool:
        """Tell whether `code` calls what the site called before the change, and not after.

        Of a site's two instructions the second is the call.
        """
        site = self.sites[flight.site]
        calls = site.old not in NOPS.values() and not self.inside_after(flight, code)
        return calls and code == site.old[flight.start :] != site.new[flight.start :]

    def inside_after(self, flight: Flight, code: bytes) -> Inside | None:
        """Return where the CPU stands inside the site after the first instruction of `code`."""
        length = first_instruction(code)
        inside = not flight.start and 0 < length < len(code)
        return Inside(flight.site, length) if inside else None

    def after_store(self, context: Context, place: int, mask: int) -> Context:
        """Add to what a CPU may have seen: the byte at `place` has become `mask`."""
        if not isinstance(context, Flight):
            return context
        index = place - self.starts[context.site] - context.start
        seen = context.seen
        if not 0 <= index < len(seen) or seen[index] & mask:
            return context
        return context._replace(seen=(*seen[:index], seen[index] | mask, *seen[index + 1 :]))

    def outcome(self, flight: Flight) -> Outcome:
        """Return what the CPU can execute: any choice from the values it saw of each byte."""
        if flight not in self._outcomes:
            self._outcomes[flight] = self._outcome(flight)
        return self._outcomes[flight]

    def _outcome(self, flight: Flight) -> Outcome:
        site = self.sites[flight.site]
        start = self.starts[flight.site] + flight.start
        old, new = site.old[flight.start :], site.new[flight.start :]
        whole = [
            code
            for code, site_code in ((old, site.old), (new, site.new))
            if flight.start in {0, first_instruction(site_code)}
        ]
        choices = [
            [value for value in self._values[place] if self.mask(place, value) & seen]
            for place, seen in enumerate(flight.seen, start)
        ]
        codes = [bytes(values) for values in product(*choices)]
        executed = [code for code in codes if not code.startswith(INT3)]
        return Outcome(
            whole=tuple(code for code in executed if code in whole),
            mixes=tuple(code for code in executed if code not in whole),
            traps=len(executed) < len(codes),
        )
