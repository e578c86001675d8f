"""The tracer of a command: it hands on every signal, switches what is loaded, and lets go.

Reports are looked at and left with the kernel, which gives a thread its signal if the tracer dies
meanwhile. Only the report of our own breakpoint is taken: that signal is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from signal import SIG_BLOCK, SIGCHLD, SIGTERM, SIGTRAP, pthread_sigmask, sigwait

from patcher.errors import NoProcessError
from patcher.process import waiting
from patcher.process.proc import Proc
from patcher.process.ptrace import (
    Options,
    SyscallStop,
    cont,
    detach,
    go_to_syscall,
    interrupt,
    listen,
    seize,
    siginfo,
    syscall_stop,
)
from patcher.process.waiting import End, Stop
from recordmcount.console import say
from recordmcount.errors import Error, reason

from . import loading
from .image import Execution, Image
from .policy import Policy
from .standing import Standing


class Thread:
    """A thread that is traced; `image` is None as long as the command is not executed.

    `is_loading`: the dynamic linker is at work in it. `call` is the system call that it is in, if
    they are looked at. `waits`: for a child that it has made by vfork.
    """

    def __init__(self, tid: int, image: Image | None) -> None:
        self.tid = tid
        self.image = image
        self.is_loading = False
        self.call: SyscallStop | None = None
        self.waits = False

    @property
    def is_watched(self) -> bool:
        """Whether its system calls are looked at."""
        image = self.image
        return image is not None and (image.watches_all or self.is_loading)


class Tracer:
    """Traces process `pid`, which is about to execute the command, and all that is followed.

    Unless `is_quiet` it warns of what was not there to be switched; if `is_verbose` it tells what
    was.
    """

    def __init__(self, pid: int, policy: Policy, *, is_quiet: bool, is_verbose: bool) -> None:
        self._policy = policy
        self._is_quiet = is_quiet
        self._is_verbose = is_verbose
        self._threads = {pid: Thread(pid, None)}
        self._images: dict[int, Image] = {}
        self._was_executed = self._has_sites = self._has_reported = False
        self._handled = 0  # the TID of the thread whose report is being handled
        pthread_sigmask(SIG_BLOCK, {SIGCHLD, SIGTERM})

    def seize(self) -> None:
        """Become its tracer. Raises OSError."""
        options = Options.TRACESYSGOOD | Options.TRACEEXEC | Options.TRACECLONE
        if self._policy.children:
            options |= Options.TRACEFORK | Options.TRACEVFORK | Options.TRACEVFORKDONE
        for tid in self._threads:
            seize(tid, options)

    def run(self) -> None:
        """Handle all reports, until nothing is traced any more. SIGTERM has it let go of all."""
        self._handle_all()
        self._warn()

    def _handle_all(self) -> None:
        is_asked_to_end = False
        with suppress(ChildProcessError):
            while True:
                if (report := waiting.look_for_any()) is not None:
                    self._handle(report)
                elif sigwait({SIGCHLD, SIGTERM}) == SIGTERM:
                    if is_asked_to_end:
                        return
                    is_asked_to_end, self._handled = True, 0
                    for image in self._images.values():
                        self._leave(image)

    # --- reports ------------------------------------------------------------------------------

    def _handle(self, report: Stop | End) -> None:
        self._handled = report.tid
        if isinstance(report, End):
            self._end(report.tid)
            return
        try:
            thread = self._threads.get(report.tid) or self._adopt(report)
            if thread is not None:
                self._go_on(thread, report, self._look_at(thread, report))
        except ProcessLookupError:  # it has been killed, and that is reported next
            pass

    def _end(self, tid: int) -> None:
        waiting.reap(tid)
        thread = self._threads.pop(tid, None)
        if thread is not None and thread.image is not None and thread.image.pid == tid:
            self._drop(thread.image)

    def _drop(self, image: Image) -> None:
        for tid in [each.tid for each in self._threads.values() if each.image is image]:
            del self._threads[tid]
        if self._images.get(image.pid) is image:
            del self._images[image.pid]
        image.close()

    def _look_at(self, thread: Thread, stop: Stop) -> int:
        """Do what is to be done at a stop; returns the signal with which the thread goes on."""
        thread.waits = stop.event == waiting.VFORK
        image = thread.image
        if stop.event == waiting.EXEC:
            self._was_executed = True
            self._execute(thread)
        elif image is None:
            pass
        elif stop.signal == waiting.STOPPED_AT_SYSCALL and not stop.event:
            self._at_syscall(thread, image)
        elif self._is_notification(thread, stop):
            waiting.take(stop.tid)  # taken: it is not given to the thread if we are killed
            self._notified(thread, image)
            return 0
        return stop.pending_signal

    def _go_on(self, thread: Thread, stop: Stop, signal: int) -> None:
        if thread.image is None and self._was_executed:  # it could not be looked at
            detach(stop.tid, signal)
            del self._threads[stop.tid]
        elif thread.image is not None and thread.image.is_leaving:
            detach(stop.tid, signal)
            del self._threads[stop.tid]
            if not any(each.image is thread.image for each in self._threads.values()):
                self._drop(thread.image)
        elif stop.is_group_stop:
            listen(stop.tid)
        elif thread.is_watched:
            go_to_syscall(stop.tid, signal)
        else:
            cont(stop.tid, signal)

    # --- threads and processes ----------------------------------------------------------------

    def _adopt(self, stop: Stop) -> Thread | None:
        """Find out what a new thread is; None for a process that is not followed: it is let go."""
        with Proc(stop.tid) as proc:
            status = proc.status()
        pid, parent = int(status["Tgid"]), self._images.get(int(status["PPid"]))
        image = self._images.get(pid)
        if image is None and pid == stop.tid and self._policy.children and parent is not None:
            image = self._open(pid, parent.execution.forked())
            if image is not None and self._policy.follows and not image.execution.is_starting:
                image.arm([pid])
        if image is None:
            detach(stop.tid, stop.pending_signal)
            return None
        thread = self._threads[stop.tid] = Thread(stop.tid, image)
        return thread

    def _execute(self, thread: Thread) -> None:
        """Start with a program that is about to execute its first instruction."""
        if thread.image is not None:
            self._drop(thread.image)
        self._threads[thread.tid] = thread
        thread.call, thread.is_loading = None, False
        thread.image = image = self._open(thread.tid, None)
        if image is None:
            return
        self._do(image, image.update)
        if not image.execution.is_starting:
            self._start(image)

    def _open(self, pid: int, execution: Execution | None) -> Image | None:
        """Look at a process, or report why that cannot be."""

        def halt(proc: Proc, name: str, timeout: float) -> Standing:
            return Standing(proc, name, timeout, self._stands)

        tell = self._tell if self._is_verbose else _ignore
        try:
            image = Image(pid, self._policy, halt, self._report, tell, execution)
        except ProcessLookupError:
            raise
        except (Error, OSError) as error:
            self._report(f"{_in_words(error)}; it runs as it is")
            return None
        self._images[pid] = image
        return image

    def _stands(self, tid: int) -> bool:
        thread = self._threads.get(tid)
        return tid == self._handled or (thread is not None and thread.waits)

    def _leave(self, image: Image) -> None:
        """Trace a process no longer: each of its threads is let go when it is stopped."""
        image.is_leaving = True
        image.disarm()
        for thread in self._threads.values():
            if thread.image is image and thread.tid != self._handled:
                with suppress(ProcessLookupError):
                    interrupt(thread.tid)

    # --- what is loaded -----------------------------------------------------------------------

    def _at_syscall(self, thread: Thread, image: Image) -> None:
        stop = syscall_stop(thread.tid)
        if stop is None:
            return
        call, thread.call = thread.call, stop if stop.is_entry else None
        if stop.is_entry:
            if (gone := loading.unmapped(stop)) is not None:
                image.forget(gone)
        elif call is not None and stop.result >= 0 and loading.brings_code(call):
            self._do(image, image.update)
        if image.execution.is_starting and image.is_at_rest():
            self._start(image)
        elif image.has_failed and image.is_at_rest():
            self._do(image, image.settle)

    def _start(self, image: Image) -> None:
        """Go over to what is wanted of a program once all is there that it starts with."""
        image.execution.is_starting = False
        self._do(image, image.settle)
        if not self._policy.stays:
            self._leave(image)
        elif self._policy.follows and not image.is_leaving:
            image.arm([each.tid for each in self._threads.values() if each.image is image])

    def _is_notification(self, thread: Thread, stop: Stop) -> bool:
        is_trap = stop.signal == SIGTRAP and not stop.event
        return (
            is_trap and thread.image is not None
            and thread.image.is_notification(siginfo(stop.tid))
        )  # fmt: skip

    def _notified(self, thread: Thread, image: Image) -> None:
        thread.is_loading = not image.is_at_rest()
        self._do(image, image.update if thread.is_loading else image.settle)

    def _do(self, image: Image, action: Callable[[], None]) -> None:
        """Look for modules; a process that cannot be looked at any more is let go."""
        try:
            action()
        except (ProcessLookupError, NoProcessError):  # it was killed, and that is reported next
            pass
        except (Error, OSError) as error:
            self._report(f"{_in_words(error)}; it is left alone from now on")
            self._leave(image)
        self._has_sites |= image.execution.has_sites

    # --- messages -----------------------------------------------------------------------------

    def _report(self, line: str) -> None:
        self._has_reported = True
        say(2, [f"patcher: {line}"])

    def _tell(self, line: str) -> None:
        say(2, [f"patcher: {line}"])

    def _warn(self) -> None:
        """Tell of what was not there to be switched, if that was not told already."""
        if self._is_quiet or self._has_reported or not self._was_executed:
            return
        if not self._has_sites:
            say(2, ["patcher: warning: nothing that was loaded has a __mcount_loc table: no sites"])
        elif self._policy.idle:
            globs = " or ".join(sorted(self._policy.idle))
            say(2, [f"patcher: warning: no site in a function like {globs}"])


def _ignore(_: str) -> None:
    """Tell nothing."""


def _in_words(error: Error | OSError) -> str:
    return reason(error) if isinstance(error, OSError) else str(error)
