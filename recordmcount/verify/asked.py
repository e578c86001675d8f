"""What is asked of files."""

from __future__ import annotations

from typing import NamedTuple


class Asked(NamedTuple):
    """Further names of mcount (`symbols`), and by which rule objects are to be recorded.

    `kernel` and `all_sections` are those of the recorder's options. Relative paths are those from
    `folder`, where that is not "".
    """

    symbols: tuple[str, ...] = ()
    kernel: bool = False
    all_sections: bool = False
    folder: str = ""


NOTHING_MORE = Asked()
