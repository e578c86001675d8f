"""A command that stands still before any code of its own has run, so that it is traced from there.

Its first thread has what the trampoline reads by then: the C library has told the kernel of it
(set_tid_address(2), set_robust_list(2), rseq(2)). With glibc its libraries are mapped as well, and
constructors run next. It stands as by SIGSTOP, untraced, and its parent is patcher.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum
from signal import SIG_DFL, SIGCHLD, SIGCONT, SIGKILL, SIGSTOP, signal
from typing import NoReturn

from patcher.closing import Closing
from patcher.errors import StateError
from patcher.process import waiting
from patcher.process.ptrace import (
    Options,
    cont,
    detach,
    go_to_syscall,
    registers,
    seize,
    step,
    syscall_stop,
)
from patcher.process.tracing_thread import TracingThread
from patcher.process.waiting import End, Stop
from patcher.run import program
from patcher.run.program import NoCommandError
from recordmcount.x86_code import SYSCALL

STEPS = 64  # instructions, from one system call of glibc's to the next
BY_SIGNAL = 128  # an exit status, as that of shells
TRACE = Options.TRACEEXEC | Options.TRACESYSGOOD


class Call(IntEnum):
    """System calls by which a C library begins, by their numbers on x86-64."""

    SET_TID_ADDRESS = 218
    SET_ROBUST_LIST = 273
    RSEQ = 334


class Command(Closing):
    """A command, started and stopped during its `with`; it is killed if it has not gone on.

    `is_going`: it is as any other process. Raises NoCommandError and AccessError before anything is
    started, and StateError if it ended.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        variables = program.environment()
        path = program.find(words[0], variables)
        program.refuse_set_id(path)
        told, telling = os.pipe2(os.O_CLOEXEC)
        failed, failing = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if not self.pid:
            os.close(telling)
            _become(path, words, variables, told, failing)
        signal(SIGCHLD, SIG_DFL)  # where it is ignored, nobody is told how a child ended
        os.close(told)
        os.close(failing)
        self.is_going = False
        self._status: int | None = None
        try:
            self._begin(telling, failed)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(failed)

    def close(self) -> None:
        """End it, if it stands yet."""
        if not self.is_going and self._status is None:
            os.kill(self.pid, SIGKILL)
            self.wait()

    def go_on(self) -> None:
        """Let it go on."""
        self.is_going = True
        with suppress(ProcessLookupError):
            os.kill(self.pid, SIGCONT)

    def wait(self) -> int:
        """Return its exit status once it has ended, as shells tell it."""
        while self._status is None:
            _, status = os.waitpid(self.pid, 0)
            code = os.waitstatus_to_exitcode(status)
            self._status = BY_SIGNAL - code if code < 0 else code
        return self._status

    def _begin(self, telling: int, failed: int) -> None:
        """Have it execute the program, up to where it is to stand."""
        tracer = TracingThread()
        try:
            try:
                tracer.do(lambda: seize(self.pid, TRACE))
            finally:
                os.close(telling)  # it goes on when it reads that there is nothing to be read
            tracer.do(self._go_to_start)
        except StateError:
            if content := os.read(failed, 1 << 16):
                word, what, status = content.decode("utf-8", "surrogateescape").split("\0")
                raise NoCommandError(word, what, int(status)) from None
            raise
        finally:
            tracer.end()

    def _go_to_start(self) -> None:
        """Follow its system calls, and leave it in a group-stop."""
        number = -1  # of the call that it is in
        begun = False
        while True:
            stop = self._next()
            if stop.signal == waiting.STOPPED_AT_SYSCALL and not stop.event:
                call = syscall_stop(self.pid)
                is_entry = call is not None and call.is_entry
                number = call.number if call is not None and is_entry else number
                if begun and is_entry and number not in {*Call}:
                    break
                if number == Call.SET_TID_ADDRESS and not is_entry:
                    begun = self._begins_as_glibc()
                    if not begun:
                        break
            go_to_syscall(self.pid, stop.pending_signal)
        os.kill(self.pid, SIGSTOP)
        cont(self.pid)
        while not (stop := self._next()).is_group_stop:
            cont(self.pid, stop.pending_signal)
        detach(self.pid)

    def _begins_as_glibc(self) -> bool:
        """Tell whether the next system call is soon made, and that by which glibc goes on.

        Another C library may go on to constructors without any.
        """
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            for _ in range(STEPS):
                here = registers(self.pid)
                memory.seek(here.instruction_pointer)
                if memory.read(len(SYSCALL)) == SYSCALL:
                    return here.values["rax"] == Call.SET_ROBUST_LIST
                step(self.pid)
                self._next()
        return False

    def _next(self) -> Stop:
        report = waiting.wait(self.pid)
        if isinstance(report, End):
            raise StateError(self._words[0], "has ended before it could be traced")
        return report


def _become(
    path: bytes, words: Sequence[str], variables: Sequence[bytes], told: int, failing: int
) -> NoReturn:
    """Be the child: wait until patcher traces it, and become the program."""
    try:
        os.read(told, 1)
        error = program.execute(path, words, variables)
        content = f"{error.path}\0{error.what}\0{error.status}"
        os.write(failing, content.encode("utf-8", "surrogateescape"))
    finally:
        os._exit(program.NOT_EXECUTABLE)
