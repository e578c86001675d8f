"""A trace from its options to its end: who is shown it, and when it ends."""

from __future__ import annotations

import gc
import signal
import time
from contextlib import nullcontext

from patcher.errors import PatchError
from patcher.options import STOP_WITHIN, TraceOptions
from patcher.process.access import refuse_other_numbers
from patcher.process.target import Target
from patcher.report.screen import Screen, is_drawn_on
from patcher.run.program import NOT_EXECUTABLE, NoCommandError
from patcher.trace.clock import Clock
from patcher.trace.command import Command
from patcher.trace.counts import Counts, DrawnTop, Top
from patcher.trace.detach import detach
from patcher.trace.family import Family
from patcher.trace.formats.writer import writer
from patcher.trace.traced import Asked, Traced
from patcher.trace.views import Events, Output, View
from recordmcount.console import say
from recordmcount.errors import Error, reason

from .pause import Pause

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
LOOK_EVERY = 0.5  # seconds: for what was loaded


def trace(options: TraceOptions) -> int:
    """Trace a process, or a command; returns the exit status."""
    gc.enable()  # this may last for days
    if options.files:
        return _run(options)
    try:
        if options.detach:
            return _detach(options)
        Trace(options, options.pid).run()
        return 0
    except (Error, OSError) as error:
        return _failed(options, error)


def _failed(options: TraceOptions, error: Error | OSError) -> int:
    line = str(error)
    if isinstance(error, OSError):
        name = options.files[0] if options.files else f"process {options.pid}"
        line = f"{error.filename or name}: {reason(error)}"
    say(2, [line])
    return 1


def _detach(options: TraceOptions) -> int:
    timeout = options.timeout or STOP_WITHIN
    with Target(options.pid, timeout, options.symbols) as target:
        return 0 if say(1, [f"{target.name}: {detach(target, timeout)}"]) else 1


def _run(options: TraceOptions) -> int:
    """Trace a command; returns its exit status."""
    try:
        refuse_other_numbers(options.files[0])
        with Command(options.files) as command:
            try:
                Trace(options, command.pid, command).run()
            except (Error, OSError) as error:
                if not command.is_going:
                    raise
                _failed(options, error)  # the command goes on all the same
            return command.wait()
    except NoCommandError as error:
        say(2, [str(error)])
        return error.status
    except (Error, OSError) as error:
        _failed(options, error)
        return NOT_EXECUTABLE


class Trace:
    """A trace of process `pid`, as the options ask for it; a `command` goes on once that begins."""

    def __init__(self, options: TraceOptions, pid: int, command: Command | None = None) -> None:
        self._options = options
        self._pid = pid
        self._command = command
        self._view: View | None = None
        self._warned: set[str] = set()

    def run(self) -> None:
        """Trace until it is to end. Raises PatchError, and OSError where nothing can be written."""
        options = self._options
        clock = Clock()
        if warning := clock.warning:
            self._tell(f"warning: {warning}")
        is_drawn = options.top and is_drawn_on(1)
        signals = (*ENDING, signal.SIGTSTP, signal.SIGWINCH) if is_drawn else ENDING
        with (
            Output(options.output) as output,
            Pause(self._pid, signals, None if options.output else 1) as pause,
            Screen("--top") if is_drawn else nullcontext() as screen,
            Traced(self._pid, self._asked(), clock, self._tell) as traced,
            Family(traced, self._tell, follows=options.follow_fork) as family,
        ):
            began = time.monotonic()
            try:
                traced.start()
                self._warn_of_threads(traced)
                view = self._view = self._view_of(output, family, screen)
                if self._command:
                    self._command.go_on()
                self._follow(traced, view, pause, began)
            finally:
                told = family.end()
            view.show(is_last=True)
            view.end()
            what = "call" if options.count or options.top else "event"
            what += "s" * (view.events != 1)
            lost = f", {view.lost:,} lost" if view.lost else ""
            seconds = time.monotonic() - began
            self._tell(f"{traced.name}: {view.events:,} {what}{lost} in {seconds:.1f} s; {told}")

    def _warn_of_threads(self, traced: Traced) -> None:
        traced.names.look()
        for tid in map(int, self._options.tid):
            if not traced.names.has(tid):
                self._tell(f"warning: {traced.name} has no thread {tid}")

    def _asked(self) -> Asked:
        options = self._options
        return Asked(
            options.modules, options.functions, options.notrace, options.symbols,
            options.parts, options.graph, [*map(int, options.tid)],
            options.timeout or STOP_WITHIN, options.buffer_size(), options.count or options.top,
            options.flight_recorder,
        )  # fmt: skip

    def _view_of(self, output: Output, family: Family, screen: Screen | None) -> View:
        options = self._options
        form = options.format or "text"
        if options.top:
            return DrawnTop(output, family, screen) if screen else Top(output, family)
        if options.count:
            return Counts(output, family, form)
        written = writer(form, family, graph=options.graph)
        return Events(output, family, written, options.events)

    def _follow(self, traced: Traced, view: View, pause: Pause, began: float) -> None:
        """Show what happens until there is a reason to end."""
        options = self._options
        end = began + options.duration if options.duration else float("inf")
        looked = began
        while options.flight_recorder or view.show(is_last=False):
            now = time.monotonic()
            if now >= end:
                return
            if now - looked >= LOOK_EVERY:
                looked = now
                if traced.why_over():
                    return
                self._refresh(traced)
            signals = pause.wait(min(view.wait, end - now))
            if signals is None or any(each in ENDING for each in signals):
                return
            if signals:
                view.take(signals)
            if traced.target.proc.has_ended:
                return

    def _refresh(self, traced: Traced) -> None:
        try:
            traced.refresh()
        except PatchError as error:
            if not traced.why_over() and f"{error}" not in self._warned:
                self._warned.add(f"{error}")
                self._tell(f"warning: {error}")

    def _tell(self, line: str) -> None:
        if not self._options.quiet and not (self._view and self._view.tell(line)):
            say(2, [line])
