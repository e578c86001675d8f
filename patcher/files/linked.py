"""What changes the sites of a linked file, by link-time virtual address."""

from __future__ import annotations

from patcher.modify import Batch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.sites.image import Tables
    from recordmcount.sites.site import Site
    from recordmcount.sites.state import State


class LinkedSwitch:
    """The Switchable sites of an executable or a shared object."""

    def __init__(self, sites: Tables) -> None:
        self.sites = sites

    def site(self, number: int) -> Site:
        """Give the site, and if it cannot be switched back and forth the reason why."""
        return self.sites[number]

    def unswitchable(self, numbers: Sequence[int], _: State) -> Sequence[int]:
        """Choose those of `numbers` that cannot be brought to the other state and back."""
        return self.sites.irreversible(numbers)

    def without_call(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose the NOPs of gcc's of which the file does not tell what they would call."""
        return self.sites.without_call(numbers)

    def batch(self, numbers: Sequence[int], state: State) -> Batch:
        """Plan how these sites, of which none is unswitchable, come to be in `state`."""
        sites = self.sites
        vaddrs, codes = sites.columns(numbers)
        return Batch(
            vaddrs, codes, sites.turned(numbers, state), lambda vaddr: sites.at(vaddr).place
        )
