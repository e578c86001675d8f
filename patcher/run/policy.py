"""What is wanted of a command that is run: which sites are calls, and what is followed."""

from __future__ import annotations

from collections.abc import Sequence

from patcher.files.switch import Plan
from patcher.process.live_sites import LiveSites
from patcher.process.maps import is_like
from patcher.process.switch import plan
from patcher.process.target import Target
from recordmcount.sites.state import State


class Policy:
    """All sites are to be NOPs but those in functions like `calls`, which are to be calls.

    With `modules`, only the sites of files whose path or name is like one of these. `parts` and
    `symbols` are as the other verbs have them. `follows` tells that modules which are opened later
    count as well, `children` that child processes do. `idle` are the globs of `calls` that were
    like no function of a site so far.
    """

    def __init__(
        self,
        calls: Sequence[str] = (),
        modules: Sequence[str] = (),
        symbols: Sequence[str] = (),
        *,
        parts: bool = False,
        follows: bool = False,
        children: bool = False,
    ) -> None:
        self.calls = calls
        self.modules = modules
        self.symbols = symbols
        self.parts = parts
        self.follows = follows
        self.children = children
        self.idle = set(calls)

    @property
    def stays(self) -> bool:
        """Whether the command is traced until it ends."""
        return self.follows or self.children

    def concerns(self, path: str) -> bool:
        """Tell whether the sites of this file are to be switched."""
        return not self.modules or any(is_like(path, glob) for glob in self.modules)

    def plans(self, target: Target, module: LiveSites) -> list[Plan]:
        """Plan what must change in a module. Raises CompareError if any of its sites is foreign."""
        calls: Sequence[int] = ()
        if self.calls:
            from recordmcount.sites import select  # slow to import, and not always needed

            calls, idle = select.select(module, self.calls, parts=self.parts)
            self.idle.intersection_update(idle)
        nops = sorted({*range(len(module))}.difference(calls)) if calls else range(len(module))
        return [
            *plan(target, [module], [nops], State.NOP),
            *(plan(target, [module], [calls], State.CALL) if calls else ()),
        ]
