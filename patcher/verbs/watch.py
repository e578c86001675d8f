"""The verb `status --watch`: a process is looked at again and again, until it ends."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Sequence
from datetime import datetime
from json import dumps
from typing import NamedTuple

from patcher.closing import Closing
from patcher.errors import AccessError, NoModuleError, NoProcessError
from patcher.options import LOOK_EVERY, STOP_WITHIN, PatcherOptions
from patcher.process.looks import Looks
from patcher.process.target import Target
from patcher.process.traces import Trace, are_good, in_words
from patcher.report import document
from patcher.report.history import History
from patcher.report.screen import Screen, is_drawn_on
from patcher.report.text import loaded_line, states_line, when
from patcher.report.watched import Watched
from recordmcount.console import put, say
from recordmcount.errors import Error

from .pause import Pause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from patcher.report.shapes import GoneModule, WatchedModule, WatchedProcess

# What ends a watch: the terminal is given back first.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Look(NamedTuple):
    """A look at `time`: what there is, and what is new of that.

    `trouble` says why there is nothing, `error` is what went wrong; then the modules are those of
    the look before.
    """

    time: str
    name: str
    process: WatchedProcess
    came: Sequence[WatchedModule] = ()
    changed: Sequence[WatchedModule] = ()
    went: Sequence[GoneModule] = ()
    trouble: str = ""
    error: Error | OSError | None = None
    trace: Trace | None = None

    @property
    def is_good(self) -> bool:
        """Whether no site is foreign, nor left by a trace, and nothing went wrong."""
        modules = self.process["modules"]
        return self.error is None and all(
            are_good(each["states"], self.trace) for each in modules
        )  # fmt: skip


class View(Closing):
    """Who is shown what is watched, and the signals that are taken for that."""

    signals: Sequence[signal.Signals] = ()

    def show(self, look: Look) -> bool:
        """Show a look; False where nobody can see it."""
        raise NotImplementedError

    def end(self, time: str) -> None:
        """Show that the process has ended."""

    def suspend(self) -> None:
        """Stop, as Ctrl-Z asks for."""

    def close(self) -> None:
        """Leave."""


class Drawing(View):
    """A terminal."""

    signals = (*ENDING, signal.SIGTSTP, signal.SIGWINCH)

    def __init__(self, seconds: int) -> None:
        every = f"every {seconds} seconds" if seconds > 1 else "every second"
        self._footer = f"looked at {every}; Ctrl-C ends"
        self._screen = Screen("--watch")

    def show(self, look: Look) -> bool:
        """Draw all of it."""
        try:
            self._screen.show(Watched(
                look.time, look.name, look.process, look.trace, look.trouble, self._footer
            ))  # fmt: skip
        except OSError:
            return False
        return True

    def suspend(self) -> None:
        """Stop, with the terminal given back."""
        self._screen.suspend()

    def close(self) -> None:
        """Give the terminal back."""
        self._screen.close()


class Lines(View):
    """A pipe or a file that people read: a line for each change."""

    def __init__(self) -> None:
        self._trouble = ""
        self._trace: Trace | None = None

    def show(self, look: Look) -> bool:
        """Tell what has changed."""
        time = when(look.time)
        lines = [] if look.trace == self._trace else [f"{time} {look.name}: {in_words(look.trace)}"]
        self._trace = look.trace
        lines += [
            f"{time} {each['path']}: gone from {each['load_address']:#x}" for each in look.went
        ]
        lines += [f"{time} {each['path']}: {loaded_line(each)}: {_count(each)}"
                  for each in look.came]  # fmt: skip
        lines += [f"{time} {each['path']}: at {each['load_address']:#x}: {_count(each)}"
                  for each in look.changed]  # fmt: skip
        if look.trouble and look.trouble != self._trouble:
            say(2, [f"{time} {look.trouble}"])
        self._trouble = look.trouble
        return say(1, lines)


class Documents(View):
    """A program: a document in a line whenever something has changed."""

    def __init__(self) -> None:
        self._last: object = None

    def show(self, look: Look) -> bool:
        """Tell all of it, if it is not as it was."""
        error = look.error and document.failed(look.name, look.error)
        if error:
            say(2, [error["message"]] if error != self._last else [])
        told = error or look.process
        if told == self._last:
            return True
        self._last = told
        process = None if error else look.process
        return put(dumps(document.of_look(look.time, process, [error] if error else [])))

    def end(self, time: str) -> None:
        """Tell that there is no process any more."""
        put(dumps(document.of_look(time, None, [])))


def watch(options: PatcherOptions) -> int:
    """Watch the process until it ends; returns the exit status that `status` would have had last.

    A signal that ends the watch ends this process, too, once the terminal is given back.
    """
    gc.enable()  # this may last for days
    name = f"process {options.pid}"
    good, ending = False, 0
    try:
        with Target(options.pid, STOP_WITHIN, options.symbols, to_read=True) as target:
            name = target.name
            view = _view(options)
            with Pause(options.pid, view.signals) as pause, view:
                good, ending = _watch(options, target, view, pause)
            name = target.name
            if not ending and target.proc.has_ended:
                say(2, [f"{name}: has ended"])
    except (Error, OSError) as error:
        failed = document.failed(name, error)
        say(2, [failed["message"]])
        if options.json:
            put(dumps(document.of_look(_now(), None, [failed])))
        return 1
    if ending:
        signal.signal(ending, signal.SIG_DFL)
        os.kill(os.getpid(), ending)
    return 0 if good else 1


def _view(options: PatcherOptions) -> View:
    if options.json:
        return Documents()
    return Drawing(options.interval or LOOK_EVERY) if is_drawn_on(1) else Lines()


def _watch(options: PatcherOptions, target: Target, view: View, pause: Pause) -> tuple[bool, int]:
    """Look until the process ends; whether all was good then, and the signal that came instead."""
    looks = Looks(target, options.modules, options.functions, options.notrace, parts=options.parts)
    history = History()
    last: Look | None = None
    while True:
        try:
            last = _look(options.pid, target, looks, history)
        except (Error, OSError) as error:
            if last is None:
                raise
            if target.proc.has_ended:
                view.end(_now())
                return last.is_good, 0
            if isinstance(error, AccessError):
                raise
            what = document.in_words(target.name, error)
            last = last._replace(
                time=_now(), name=target.name, came=(), changed=(), went=(), trouble=what,
                error=error,
            )  # fmt: skip
        if not view.show(last):
            return False, 0
        signals = pause.wait(options.interval or LOOK_EVERY)
        if signals is None:
            return False, 0
        if ending := [each for each in signals if each in ENDING]:
            return last.is_good, ending[0]
        if signal.SIGTSTP in signals:
            view.suspend()


def _look(pid: int, target: Target, looks: Looks, history: History) -> Look:
    """Look once. What an ended process has not any more did not go: then NoProcessError is raised.

    That there is no module is no error: some may come.
    """
    trouble = ""
    try:
        modules = [document.watched_module(*each) for each in looks.look()]
    except NoModuleError as error:
        modules, trouble = [], str(error)
    time, process_name = _now(), target.proc.stat().name
    if target.proc.has_ended:
        raise NoProcessError(target.name, "has ended")
    came, changed, went = history.add(time, modules)
    process: WatchedProcess = {
        "pid": pid, "name": process_name, "trace": document.traced(looks.trace),
        "modules": modules, "gone": [*history.gone], "forgotten": history.forgotten,
    }  # fmt: skip
    return Look(
        time, target.name, process, came, changed, went, trouble, trace=looks.trace
    )  # fmt: skip


def _now() -> str:
    """Tell the local time, as RFC 3339 has it."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _count(module: WatchedModule) -> str:
    return states_line(module["states"], module["dead_entries"], module["repeated_entries"])
