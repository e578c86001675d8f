"""Stacks and numbers, a line each, of which flame graphs are drawn: `main;read;parse 120`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patcher.trace.graph import Ended, Graph
from patcher.trace.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patcher.trace.events import Event, Names

    from .writer import Writer

DEEPEST = 1000  # calls inside of each other; those of a recursion would fill disks with its name
DEEPER = "[deeper]"
# What would end a function's name, or its line, for those who read this.
SPELLED = {ord(";"): ":", 0x7F: "\\x7f", **{code: f"\\x{code:02x}" for code in range(32)}}


def writer(names: Names, *, graph: bool) -> Writer:
    """Make what folds stacks."""
    return Folded(names, graph=graph)


class _Node(dict[str, "_Node"]):
    """A function where it was called from; those it called are its items, by name."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __missing__(self, function: str) -> _Node:
        node = self[function] = _Node()
        return node


class _Track:
    """The open calls of a track: where each is in the tree, and when it began.

    `time` is that of the last event, at which they all were going on.
    """

    __slots__ = ("calls", "time")

    def __init__(self) -> None:
        self.calls: list[tuple[_Node, int]] = []
        self.time = 0

    def begun(self, root: _Node, function: str) -> _Node:
        """Find where in the tree a call is that begins now."""
        depth = len(self.calls)
        node = self.calls[-1][0] if depth else root
        if depth < DEEPEST:
            node = node[function]
        elif depth == DEEPEST:
            node = node[DEEPER]
        self.calls.append((node, self.time))
        return node

    def over(self) -> None:
        """Count the time of the innermost call, which was not in the one around it."""
        node, began = self.calls.pop()
        node.total += self.time - began
        if self.calls:
            self.calls[-1][0].total -= self.time - began


class Folded:
    """Adds up: calls, or with `graph` the nanoseconds in a function itself.

    Only time that was measured is counted. A call without a return was going on at the last event
    before it was known to be over, and counts until then.
    """

    def __init__(self, names: Names, *, graph: bool) -> None:
        self._functions: Kept[int, str] = Kept(lambda site: names.function(site).translate(SPELLED))
        self._graph = Graph(names)
        self._is_timed = graph
        self._root = _Node()
        self._tracks: Kept[int, _Track] = Kept(lambda _: _Track())

    def begin(self) -> bytes:
        """Give nothing: there is no header."""
        return b""

    def events(self, batch: Sequence[Event]) -> bytes:
        """Add events up."""
        tracks, functions, root, is_timed = (
            self._tracks, self._functions, self._root, self._is_timed,
        )  # fmt: skip
        for entry, end, _, number, ended, _ in self._graph.events(batch):
            track = tracks[number]
            if end is None and entry:
                track.time = entry.time
                node = track.begun(root, functions[entry.site])
                if not is_timed:
                    node.total += 1
                continue
            if end and ended is not Ended.ABANDONED:
                track.time = end.time
            if entry and is_timed:
                track.over()
            elif entry:
                track.calls.pop()
        return b""

    def lost(self, cpu: int, count: int, time: int) -> bytes:  # noqa: ARG002 - there is no place for it
        """Give nothing: readers know no other lines."""
        self._graph.lost()
        return b""

    def end(self) -> bytes:
        """Give all lines, sorted."""
        for track in self._tracks.values():
            while track.calls and self._is_timed:
                track.over()
        lines, inside = [], [("", self._root)]
        while inside:
            path, node = inside.pop()
            if node.total:
                lines.append(f"{path} {node.total}\n")
            inside += [(f"{path};{name}" if path else name, each) for name, each in node.items()]
        return "".join(sorted(lines)).encode(errors="surrogateescape")
