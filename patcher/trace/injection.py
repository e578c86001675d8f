"""A process of patcher's, for the moment in which a thread of the target is away from its place.

If patcher were killed then, the thread would go on where it was never to be. So all that moves one
is done by a child that no signal to patcher, its group or its terminal reaches, and that carries on
to its end whatever becomes of patcher: either nothing is mapped, or all of it.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from socket import recv_fds, send_fds, socket, socketpair
from time import monotonic, sleep
from typing import NamedTuple

from patcher.errors import HaltError, NoProcessError, PatchError, StateError
from patcher.process import remote_calls
from patcher.process.halt import Halt
from patcher.process.proc import is_missing
from patcher.process.remote_calls import RemoteCalls, Wanted
from patcher.process.signals import signals_later
from patcher.process.target import Target
from patcher.process.waiting import Stop

MOST = 1 << 16  # bytes that are received at once
PAUSE = 0.001  # seconds, until another thread may be found
KILLED = "what maps memory into it was killed; `patcher trace --detach` tells what is left"


class Done(NamedTuple):
    """What a child has to say: a value, and a descriptor, -1 for none."""

    value: object = None
    descriptor: int = -1


def apart(name: str, action: Callable[[], Done]) -> Done:
    """Do something in a child of its own; what it returns, and its descriptor, are ours then.

    Raises the PatchError that it raises, and StateError where there can be no child, or it died.
    """
    ours, theirs = socketpair()
    with ours, theirs, signals_later():
        try:
            child = os.fork()
        except OSError as error:
            raise StateError(name, f"no process to trace with: {error.strerror}") from error
        if not child:
            try:
                ours.close()
                os.setsid()
                _answer(theirs, action)
            finally:
                os._exit(0)
        theirs.close()
        content, descriptors = _received(ours)
        with suppress(ChildProcessError):  # where SIGCHLD is ignored
            os.waitpid(child, 0)
    if not content:
        raise StateError(name, KILLED)
    value = pickle.loads(content)  # noqa: S301  of our own child
    if isinstance(value, BaseException):
        raise value
    return Done(value, descriptors[0] if descriptors else -1)


def _answer(to: socket, action: Callable[[], Done]) -> None:
    descriptor = -1
    try:
        value, descriptor = action()
    except (PatchError, OSError) as error:
        value = error
    content = pickle.dumps(value)
    send_fds(to, [content], [descriptor] if descriptor >= 0 else [])


def _received(by: socket) -> tuple[bytes, list[int]]:
    content, descriptors, _, _ = recv_fds(by, MOST, 1)
    while more := by.recv(MOST):
        content += more
    return content, descriptors


@contextmanager
def halted(target: Target, timeout: float) -> Iterator[Halt]:
    """Have all threads of the target stand, and its mappings stay as they are."""
    halt = Halt(target.proc, target.name, timeout)
    halt.stop()
    try:
        target.machine.memory.hold()
        yield halt
    finally:
        target.machine.memory.let_go()
        halt.release()


def by_a_thread(
    target: Target,
    timeout: float,
    wanted: Sequence[Wanted],
    action: Callable[[RemoteCalls, Halt], None],
) -> None:
    """Have a thread of the target make the system calls of `action`, in a halt.

    They are among the `wanted` ones. Raises StateError if no thread may make them, and HaltError if
    in time none could.
    """
    deadline = monotonic() + timeout
    memory = target.machine.memory
    while True:
        with halted(target, timeout) as halt:

            def borrow(stops: Mapping[int, Stop], halt: Halt = halt) -> bool:
                def act(calls: RemoteCalls) -> None:
                    action(calls, halt)

                return remote_calls.borrow(stops, target.proc, memory, wanted, act)

            try:
                if halt.do(borrow):
                    return
            except OSError as error:
                if not is_missing(error):
                    raise
                raise NoProcessError(target.name, "has ended") from error
        if monotonic() > deadline:
            what = f"no thread of it could make a system call within {timeout:g} s"
            raise HaltError(target.name, f"{what}; nothing was changed")
        sleep(PAUSE)
