"""The modules of a process over time: what came, what changed, and what went when."""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .shapes import GoneModule, WatchedModule

    # What a module is known by while it is loaded: its file, and where that is.
    Key = tuple[str, int, str | None, str, int]

MOST_GONE = 100  # that are remembered


class History:
    """What was there at the last look, and the modules that went before, the last first.

    `forgotten` counts those that went too long ago to be remembered.
    """

    def __init__(self) -> None:
        self.gone: deque[GoneModule] = deque(maxlen=MOST_GONE)
        self.forgotten = 0
        self._present: dict[Key, WatchedModule] = {}

    def add(
        self, time: str, modules: Sequence[WatchedModule]
    ) -> tuple[list[WatchedModule], list[WatchedModule], list[GoneModule]]:
        """Add a look; returns the modules that came, those that changed, and those that went."""
        before, self._present = self._present, {_key(module): module for module in modules}
        came = [each for key, each in self._present.items() if key not in before]
        changed = [each for key, each in self._present.items() if before.get(key, each) != each]
        went: list[GoneModule] = [
            {**each, "gone": time} for key, each in before.items() if key not in self._present
        ]
        self.forgotten += max(0, len(self.gone) + len(went) - MOST_GONE)
        self.gone.extendleft(went)
        return came, changed, went


def _key(module: WatchedModule) -> Key:
    return (
        module["path"], module["load_address"], module["build_id"], module["device"],
        module["inode"],
    )  # fmt: skip
