"""The command takes the place of patcher; a process beside it traces it.

So the command has the process ID, the parent, the terminal, the streams and the exit status that it
has without patcher: there is nothing between it and whoever started it. The tracer is nobody's
child, in a session of its own, where no key of the terminal reaches it.
"""

from __future__ import annotations

import ctypes
import gc
import os
from _socket import socket, socketpair  # `socket` takes longer to import than all of ours here
from collections.abc import Sequence
from contextlib import suppress
from signal import (
    SIG_BLOCK,
    SIG_DFL,
    SIG_IGN,
    SIGCHLD,
    SIGTRAP,
    pthread_sigmask,
    signal,
    sigtimedwait,
)

from recordmcount.console import say

from . import program
from .policy import Policy
from .program import NoCommandError

PR_SET_PTRACER = 0x59616D61
READY, READY_TO_TRAP = b"r", b"t"
NO_BREAKPOINTS = "the processor's breakpoints may not be used"
SLOW = (
    "every system call of the command is watched instead, which makes it slower; root may use "
    "them, and everybody with `sysctl kernel.perf_event_paranoid=2`"
)

_libc = ctypes.CDLL(None, use_errno=True)


def launch(
    words: Sequence[str], policy: Policy, *, is_quiet: bool, is_verbose: bool
) -> NoCommandError:
    """Execute the command in place of this process, traced; returns only if that cannot be.

    Raises NoCommandError and AccessError before anything is started.
    """
    variables = program.environment()
    path = program.find(words[0], variables)
    program.refuse_set_id(path)
    ours, theirs = socketpair()
    pid = os.getpid()
    if not (child := os.fork()):
        try:
            ours.close()
            os.setsid()
            if not os.fork():
                _trace(pid, theirs, policy, is_quiet=is_quiet, is_verbose=is_verbose)
        finally:
            os._exit(0)
    theirs.close()
    _reap(child)
    _wait_for_tracer(ours)
    return program.execute(path, words, variables)


def _reap(child: int) -> None:
    with suppress(ChildProcessError):  # where SIGCHLD is ignored
        os.waitpid(child, 0)
    if SIGCHLD in pthread_sigmask(SIG_BLOCK, ()):  # the command would find it pending
        sigtimedwait([SIGCHLD], 0)


def _wait_for_tracer(tracer: socket) -> None:
    """Return when this process is traced, or when it is known that it cannot be."""
    with suppress(ConnectionError):
        identity = tracer.recv(4)
        # Yama may allow tracing to ancestors only, and to whom is named.
        _libc.prctl(PR_SET_PTRACER, ctypes.c_long(int.from_bytes(identity, "little")), 0, 0, 0)
        tracer.send(READY)
        if tracer.recv(1) == READY_TO_TRAP:
            signal(SIGTRAP, SIG_IGN)


def _trace(pid: int, command: socket, policy: Policy, *, is_quiet: bool, is_verbose: bool) -> None:
    """Trace the process that becomes the command, which waits; returns when it need not be."""
    from patcher.process.access import no_access
    from patcher.process.proc import Proc

    from .tracer import Tracer

    gc.enable()  # it may live long
    _close_all_but(command.fileno())
    signal(SIGCHLD, SIG_DFL)
    command.send(os.getpid().to_bytes(4, "little"))
    command.recv(1)
    tracer = Tracer(pid, policy, is_quiet=is_quiet, is_verbose=is_verbose)
    try:
        tracer.seize()
    except OSError as error:
        with Proc(pid) as proc:
            refusal = no_access(proc, "patcher", error)
        say(2, [f"{refusal}; the command runs as it is"])
        return
    why_not = _why_no_breakpoints() if policy.follows else ""
    if why_not:
        say(2, [f"patcher: --follow: {NO_BREAKPOINTS} ({why_not}): {SLOW}"])
    command.send(READY_TO_TRAP if policy.follows and not why_not else READY)
    command.close()
    tracer.run()


def _why_no_breakpoints() -> str:
    from .notification import why_not  # needed by those who follow

    return why_not()


def _close_all_but(fd: int) -> None:
    """Close what is the command's: it may wait until nobody else has it open."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    most = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, fd)
    os.closerange(fd + 1, most)
