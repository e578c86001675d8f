"""What a switch needs of the sites of a file, beyond what anybody may read of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from patcher.modify import Batch
from recordmcount.sites.site import Site, SiteTable
from recordmcount.sites.state import State


class Switchable(Protocol):
    """The recorded sites of a file, and what changes them. `numbers` ascend everywhere."""

    @property
    def sites(self) -> SiteTable:
        """The sites that a table of the file has an entry for."""

    def site(self, number: int) -> Site:
        """Give the site, and if it cannot be switched back and forth the reason why."""

    def unswitchable(self, numbers: Sequence[int], state: State) -> Sequence[int]:
        """Choose those of `numbers` that cannot be brought to `state` and back."""

    def without_call(self, numbers: Sequence[int]) -> Sequence[int]:
        """Choose the NOPs of which no call is known: other tools made them, and they stay."""

    def batch(self, numbers: Sequence[int], state: State) -> Batch:
        """Plan how these sites, of which none is unswitchable, come to be in `state`."""
