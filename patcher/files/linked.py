"""The sites of a linked file. Their changes are by link-time virtual address."""

from patcher.modify import Batch
from recordmcount.sites import linked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recordmcount.elf.object import Object
    from recordmcount.sites.state import State

    from .sites import Site


class LinkedSites:
    """A SiteTable of an executable or a shared object.

    Raises FormatError where the table is not sound.
    """

    def __init__(self, obj: "Object", names: "Sequence[str]") -> None:
        self._image = linked.read(obj, names)

    @property
    def dead(self) -> int:
        """How many entries linkers left for code they dropped."""
        return self._image.dead

    @property
    def repeated(self) -> int:
        """How many entries there are beyond the first for one address."""
        return self._image.repeated

    def __len__(self) -> int:
        return len(self._image.sites)

    def names(self, number: int) -> tuple[str, ...]:
        """All names of the function that a site is in."""
        return self._image.sites.names(number)

    def where(self, numbers: "Sequence[int]", state: "State") -> "Sequence[int]":
        """Those of `numbers` whose sites are in `state`."""
        return self._image.sites.where(numbers, state)

    def site(self, number: int) -> "Site":
        """What there is to know of one site."""
        from .sites import Site

        site = self._image.sites[number]
        return Site(
            site.vaddr, site.section, site.function, site.function_offset, site.code, site.state,
            site.form, site.call, site.nop, site.reason, self._image.machine, False, site.expected,
        )  # fmt: skip

    def stuck(self, numbers: "Sequence[int]", _: "State") -> "Sequence[int]":
        """Those of `numbers` that cannot be brought to `state` and back."""
        return self._image.sites.stuck(numbers)

    def batch(self, numbers: "Sequence[int]", state: "State") -> Batch:
        """What must change so that these sites, of which none is stuck, are in `state`."""
        sites = self._image.sites
        return Batch(*sites.changes(numbers, state), lambda vaddr: sites.at(vaddr).place)
