"""What is asked of files."""

from __future__ import annotations

from typing import NamedTuple


class Asked(NamedTuple):
    """Further names of mcount (`symbols`), what debug information tells, and what is shown.

    Shown are the sites, and functions without one, that are like any of `functions` and in any of
    `sections`, which are globs, and with `unrecorded` only the sites without an entry. Relative
    paths are those from `folder`, where that is not "".
    """

    symbols: tuple[str, ...] = ()
    lines: bool = False
    untraceable: bool = False
    demangle: bool = False
    functions: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    unrecorded: bool = False
    folder: str = ""

    @property
    def is_filtered(self) -> bool:
        """Whether not all is shown."""
        return bool(self.functions or self.sections or self.unrecorded)


NOTHING_MORE = Asked()
