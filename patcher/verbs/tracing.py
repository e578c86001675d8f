"""A trace from its options to its end: what is traced, who is shown it, and what is told of it."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Sequence

from patcher.options import STOP_WITHIN, TraceOptions
from patcher.process.live_sites import LiveSites
from patcher.process.switch import select
from patcher.process.target import Target
from patcher.trace.clock import Clock
from patcher.trace.detach import Left, detach
from patcher.trace.formats.writer import writer
from patcher.trace.naming import LiveNames
from patcher.trace.session import Session
from patcher.trace.stream import Stream
from patcher.trace.views import Counts, Events, Output, View
from patcher.trace.ways import Chosen, choose
from recordmcount.console import say
from recordmcount.errors import Error, reason

from .pause import Pause

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
NO_RETURNS = (
    "no function has a return site, so durations are not told: build with gcc's "
    "-minstrument-return=call, and record that"
)


def trace(options: TraceOptions) -> int:
    """Trace a process; returns the exit status."""
    gc.enable()  # this may last for days
    name = f"process {options.pid}"
    timeout = options.timeout or STOP_WITHIN
    try:
        with Target(options.pid, timeout, options.symbols) as target:
            name = target.name
            if options.detach:
                return 0 if say(1, [f"{name}: {detach(target, timeout)}"]) else 1
            Trace(options, target, timeout).run()
            return 0
    except Error as error:
        say(2, [str(error)])
    except OSError as error:
        say(2, [f"{options.output or name}: {reason(error)}"])
    return 1


class Trace:
    """A trace of the target, as the options ask for it; `timeout` is in seconds."""

    def __init__(self, options: TraceOptions, target: Target, timeout: float) -> None:
        self._options = options
        self._target = target
        self._timeout = timeout
        self._session = Session(
            target, timeout, data=options.buffer_size(),
            counts=options.count or options.top, overwrites=options.flight_recorder,
        )  # fmt: skip

    def run(self) -> None:
        """Trace until it is to end. Raises PatchError, and OSError where nothing can be written."""
        options, target = self._options, self._target
        if (left := detach(target, self._timeout)).is_something:
            self._tell(f"a patcher that is gone had traced it: {left}")
        chosen, total = self._choose()
        reader = None if options.output else 1
        with (
            Output(options.output) as output,
            Pause(target.proc.pid, ENDING, reader) as pause,
            self._session,
        ):
            view: View | None = None
            began = time.monotonic()
            try:
                self._session.start(chosen, total)
                view = self._view(output)
                self._follow(view, pause, began)
            finally:
                left = detach(target, self._timeout)
            view.show(is_last=True)
            view.end()
            self._sum_up(view, time.monotonic() - began, left)

    def _choose(self) -> tuple[list[Chosen], int]:
        """Choose sites, and tell how many there are in all."""
        options, target = self._options, self._target
        modules = target.settled_modules(options.modules)
        selected = select(
            target.name, modules, options.functions, options.notrace, parts=options.parts
        )  # fmt: skip
        chosen = [
            choose(target.name, module, numbers, exits=options.graph)
            for module, numbers in zip(modules, selected, strict=True)
        ]
        self._warn(modules, chosen)
        return chosen, sum(map(len, modules))

    def _warn(self, modules: Sequence[LiveSites], chosen: Sequence[Chosen]) -> None:
        for each in chosen:
            for why, count in each.left.items():
                self._tell(
                    f"warning: {each.module.file.path}: {count} sites are left out: they {why}"
                )
        if self._options.graph and not any(each.returns(range(len(each))) for each in modules):
            self._tell(f"warning: {NO_RETURNS}")

    def _view(self, output: Output) -> View:
        options, session = self._options, self._session
        names = LiveNames(self._target, {site.address: site for site in session.sites.values()})
        form = options.format or "text"
        if options.count:
            return Counts(output, session, names, form)
        clock = Clock()
        if clock.warning:
            self._tell(f"warning: {clock.warning}")
        addresses = {end: site.address for end, site in session.sites.items()}
        rings = session.rings
        if rings is None:
            raise AssertionError
        stream = Stream(rings, clock, addresses, names.numbers, [*map(int, options.tid)])
        written = writer(form, names, graph=options.graph)
        return Events(output, names, stream, written, options.events)

    def _follow(self, view: View, pause: Pause, began: float) -> None:
        """Show what happens until there is a reason to end."""
        options, target = self._options, self._target
        end = began + options.duration if options.duration else float("inf")
        while options.flight_recorder or view.show(is_last=False):
            left = end - time.monotonic()
            if left <= 0 or target.proc.has_ended:
                return
            signals = pause.wait(min(view.wait, left))
            if signals is None or any(each in ENDING for each in signals):
                return

    def _sum_up(self, view: View, seconds: float, left: Left) -> None:
        what = "calls" if self._options.count else "events"
        lost = f", {view.lost:,} lost" if view.lost else ""
        self._tell(f"{view.events:,} {what}{lost} in {seconds:.1f} s; {left}")

    def _tell(self, line: str) -> None:
        if not self._options.quiet:
            say(2, [f"{self._target.name}: {line}"])
