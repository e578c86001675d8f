"""What the files of a report have in all."""

from __future__ import annotations

from collections import Counter
from itertools import product

from recordmcount.sites.state import STATES, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .shapes import ReportedFile

_SORTS = tuple(product(STATES, (False, True)))


class Tally:
    """Numbers of files and of their sites, by (state, whether it has an entry).

    `sites` are those that are shown, of `total`; `failed` is how many could not be read.
    """

    def __init__(self) -> None:
        self.files = 0
        self.failed = 0
        self.total = 0
        self.sites: Counter[tuple[State, bool]] = Counter()

    def add(self, file: ReportedFile) -> None:
        """Count a file."""
        self.files += 1
        self.sites.update((site["state"], site["recorded"]) for site in file["sites"])
        self.total += file.get("total_sites", len(file["sites"]))

    def numbers(self) -> tuple[int, ...]:
        """Give all numbers, as `add_numbers` takes them."""
        return self.files, self.failed, self.total, *(self.sites[sort] for sort in _SORTS)

    def add_numbers(self, numbers: Iterable[int]) -> None:
        """Count what another one has counted."""
        files, failed, total, *sites = numbers
        self.files += files
        self.failed += failed
        self.total += total
        self.sites.update(dict(zip(_SORTS, sites, strict=True)))
