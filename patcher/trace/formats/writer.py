"""What writes a trace in a format, and which formats there are."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.trace.events import Event, Names

# Each module has a function `writer`: names, and whether events are paired -> a Writer.
FORMATS = {
    "text": "patcher.trace.formats.text",
    "json": "patcher.trace.formats.chrome",
    "perfetto": "patcher.trace.formats.perfetto",
    "fxt": "patcher.trace.formats.fxt",
    "folded": "patcher.trace.formats.folded",
}


class Writer(Protocol):
    """Bytes out of events; those of `begin`, of all that happens, and of `end` are one file.

    Each answer is to be written at once: nothing that was called is held back until the end, but by
    `folded`, which adds up.
    """

    def begin(self) -> bytes:
        """Give what stands at the start of a file."""

    def events(self, batch: Sequence[Event]) -> bytes:
        """Tell of events, in order for each thread."""

    def lost(self, cpu: int, count: int, time: int) -> bytes:
        """Tell that so many events of a CPU were lost before `time`."""

    def end(self) -> bytes:
        """Give what stands at the end of a file."""


def writer(name: str, names: Names, *, graph: bool) -> Writer:
    """Make what writes a format; with `graph` returns are paired with entries.

    Without it all events are entries. The module of the format is imported now.
    """
    return cast("Writer", import_module(FORMATS[name]).writer(names, graph=graph))
