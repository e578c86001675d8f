"""A process that is traced from beginning to end, whatever it loads meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from patcher.closing import Closing
from patcher.errors import (
    CompareError,
    NoModuleError,
    NoProcessError,
    PatchError,
    ReadError,
)
from patcher.process.live_sites import LiveSites
from patcher.process.switch import select
from patcher.process.target import Target
from recordmcount.sites import select as by_name

from .clock import Clock
from .detach import detach
from .installation import Installation
from .naming import LiveNames
from .session import Session
from .stream import Stream
from .ways import Chosen, choose

ATTEMPTS = 10  # to start while none of the modules comes or goes
GONE = "executes another program, and its sites went with the one before"
ENDED = "has ended"
NO_RETURNS = (
    "no function has a return site, so durations are not told: build with gcc's -pg -mfentry "
    "-minstrument-return=call, and record that"
)


class Asked(NamedTuple):
    """What is asked of a trace: which sites, as sites.select has it, and what is told of them.

    `exits`: of functions' ends as well; `tids`: of these threads only, if there are any. The rest
    is as for Installation.
    """

    modules: Sequence[str]
    functions: Sequence[str]
    notrace: Sequence[str]
    symbols: Sequence[str]
    parts: bool
    exits: bool
    tids: Sequence[int]
    timeout: float
    data: int
    counts: bool
    overwrites: bool


class Traced(Closing):
    """Process `pid`, traced from `start` to `end`; `tell` is told what is worth a line."""

    def __init__(self, pid: int, asked: Asked, clock: Clock, tell: Callable[[str], None]) -> None:
        self._asked = asked
        self._clock = clock
        self._tell = tell
        self.target = Target(pid, asked.timeout, asked.symbols)
        self._begin_anew()
        self._modules: list[LiveSites] = []
        self._files: object = None
        self._stream: Stream | None = None

    def _begin_anew(self) -> None:
        asked = self._asked
        installation = Installation(
            self.target, asked.timeout, data=asked.data, counts=asked.counts,
            overwrites=asked.overwrites,
        )  # fmt: skip
        self.session = Session(installation)
        self.names = LiveNames(self.target, self.session.sites)

    def close(self) -> None:
        """Let go of the process."""
        self.session.close()
        self.target.close()

    def child(self, pid: int) -> Traced:
        """Return a child of it, to be traced as it is, but told of in silence."""
        return Traced(pid, self._asked, self._clock, lambda _: None)

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.target.name

    def start(self) -> None:
        """Trace what is loaded now. Raises PatchError, with no site changed but for WriteError.

        Modules may come and go meanwhile: then it begins again.
        """
        left = detach(self.target, self._asked.timeout)
        if left.is_something:
            self._tell(f"{self.name}: a trace that nobody ended has left sites: {left}")
        for _ in range(ATTEMPTS - 1):
            try:
                return self._start()
            except (CompareError, ReadError):
                if self.target.files() == self._files:
                    raise
            detach(self.target, self._asked.timeout)  # there may be rings already
            self.session.close()
            self._begin_anew()
        return self._start()

    def _start(self) -> None:
        self._files = self.target.files()
        self._modules = self.target.settled_modules(self._asked.modules)
        asked = self._asked
        selected = select(
            self.name, self._modules, asked.functions, asked.notrace, parts=asked.parts
        )  # fmt: skip
        if asked.exits and not any(each.returns(range(len(each))) for each in self._modules):
            self._tell(f"warning: {NO_RETURNS}")
        self.names.look_at_code()
        self.session.start(self._chosen(self._modules, selected), sum(map(len, self._modules)))

    def stream(self) -> Stream:
        """Return what reads its events."""
        if self._stream is None:
            rings = self.session.rings
            if rings is None:
                raise AssertionError("a trace that has begun has rings")
            self._stream = Stream(
                rings, self._clock, self.session.ends, self.names.numbers, self._asked.tids
            )  # fmt: skip
        return self._stream

    def why_over(self) -> str:
        """Say why there is nothing more to be traced; empty if there is."""
        if self.target.proc.has_ended:
            return ENDED
        return "" if self.session.is_there else GONE

    def refresh(self) -> None:
        """Trace what has been loaded since as well. Raises PatchError."""
        files = self.target.files()
        if not self.session.forget_gone() and files == self._files:
            return
        self._files = files
        asked = self._asked
        try:
            self._modules = self.target.settled_modules(asked.modules, self._modules)
        except NoModuleError:
            return
        self.names.look_at_code()
        new = [each for each in self._modules if not each.traced]
        selected = [
            by_name.select(each, asked.functions, asked.notrace, parts=asked.parts)[0]
            for each in new
        ]
        self.session.add(self._chosen(new, selected))

    def _chosen(
        self, modules: Sequence[LiveSites], selected: Sequence[Sequence[int]]
    ) -> list[Chosen]:
        found = [
            choose(self.name, module, numbers, exits=self._asked.exits)
            for module, numbers in zip(modules, selected, strict=True)
        ]
        for each in found:
            for why, count in each.left.items():
                path = each.module.file.path
                self._tell(f"warning: {path}: {count} sites are left out, as they {why}")
        return found

    def end(self) -> str:
        """Bring its sites back, and tell how that went. Raises PatchError."""
        why = self.why_over()
        try:
            left = self.session.stop()
        except NoProcessError:  # it may be about to end yet by what /proc tells
            return ENDED
        except PatchError:
            if why := why or self.why_over():
                return why
            raise
        return why or f"{left}"
