"""The sites of a loaded file as what is switched: which bytes bring each to which state."""

from __future__ import annotations

from collections.abc import Sequence

from patcher.errors import ReachError
from patcher.modify import Batch
from recordmcount.columns import pick
from recordmcount.sites.site import Site
from recordmcount.sites.state import State
from recordmcount.x86 import CALL
from recordmcount.x86_code import sled_call
from recordmcount.x86_nops import parted_nops

from .functions import Goal
from .live_sites import LiveSites


class LiveSwitch:
    """The Switchable sites of a loaded file; with a `goal` that is what calls lead to."""

    def __init__(self, sites: LiveSites, goal: Goal | None = None) -> None:
        self.sites = sites
        self._goal = goal

    def site(self, number: int) -> Site:
        """Give the site, and if it cannot be switched back and forth the reason why."""
        return self.sites[number]

    def unswitchable(self, numbers: Sequence[int], _: State) -> Sequence[int]:
        """Choose those of `numbers` that cannot be brought to the other state and back."""
        return self.sites.sites.irreversible(numbers)

    def without_call(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose the sleds, if there is no goal: nobody knows what they are to call."""
        return [] if self._goal else self.sites.without_call(numbers)

    def batch(self, numbers: Sequence[int], state: State) -> Batch:
        """Plan how these sites, of which none is unswitchable, come to be in `state`.

        Raises ReachError if the goal is too far away from one.
        """
        live, goal = self.sites, self._goal
        if goal and state is State.CALL:
            new = [self._call(goal, number) for number in numbers]
        else:
            new = list(live.sites.turned(numbers, state))
        if state is State.NOP and (sleds := {*live.without_call(numbers)}):
            rows = zip(numbers, new, strict=True)
            new = [self._nop(number, code) if number in sleds else code for number, code in rows]

        return Batch(
            pick(live.addresses, numbers), pick(live.codes, numbers), new, live.place_at,
            goal.check if goal else lambda: None,
        )  # fmt: skip

    def calling_else(self, numbers: Sequence[int]) -> list[int]:
        """Choose those of `numbers` that are calls of something else than the goal."""
        calls = self.sites.where(numbers, State.CALL) if self._goal else []
        goal = f"{self._goal}"
        return [number for number in calls if self.sites[number].target != goal]

    def _nop(self, number: int, code: bytes) -> bytes:
        """Give what takes the place of a sled's call; `code` is what its file has."""
        is_whole = len(code) == CALL.length or number in self.sites.parted
        return code if is_whole else parted_nops(len(code))

    def _call(self, goal: Goal, number: int) -> bytes:
        live = self.sites
        address, machine = live.addresses[number], live.file.obj.machine
        made = sled_call(address, goal.address, len(live.codes[number]), machine)
        if made is None:
            what = f"{goal}, at {goal.address:#x}, is more than 2 GiB away; nothing was written"
            raise ReachError(live.file.path, what, address=address, symbol=live[number].place)
        return made
