"""Which system calls seccomp would refuse to a thread, or end it for: told before any is made.

A thread that is stopped and traced can be made to call the kernel, and its filters look at that as
at any call of its own. So they are read, and run here. What is not plainly allowed is refused: a
filter may also ask another process, or a tracer, and what these answer nobody knows. What a thread
has asked for itself comes before its filters (`user_dispatch`).
(seccomp(2); kernel/seccomp.c: all filters run, and of what they return the action with the least
value counts, compared as signed numbers.)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from errno import EACCES, EINVAL, EIO, EMEDIUMTYPE
from typing import NamedTuple

from .classic_bpf import AUDIT_ARCH_X86_64, DATA, Instruction, decode, run
from .proc import Proc
from .ptrace import seccomp_filter
from .user_dispatch import is_dispatched

NONE, STRICT, FILTER = range(3)  # of `Seccomp:` in /proc/PID/status
STRICTLY_ALLOWED = {0, 1, 15, 60}  # read, write, rt_sigreturn and exit of x86-64
# What a filter returns is an action, and in the low half a number that belongs to it.
_ACTION, _NUMBER = 0xFFFF_0000, 0xFFFF
KILL_THREAD, TRAP, ERRNO = 0, 0x0003_0000, 0x0005_0000
ASK, TRACE, LOG, ALLOW = 0x7FC0_0000, 0x7FF0_0000, 0x7FFC_0000, 0x7FFF_0000
HIGHEST_ERRNO = 4095
# What happens to a call, in words. An action that the kernel does not know kills, too.
_KILLS = "would kill it for {}"
_WORDS = {
    KILL_THREAD: "would kill its thread for {}",
    TRAP: "would send it SIGSYS for {}",
    ASK: "would ask another process about {}",
    TRACE: "would leave {} to a tracer",
}
_UNREADABLE = {
    EACCES: "that takes CAP_SYS_ADMIN, and a patcher that has no filter itself: run it as root",
    EIO: "this kernel does not tell them (CONFIG_CHECKPOINT_RESTORE)",
    EINVAL: "this kernel does not tell them (CONFIG_CHECKPOINT_RESTORE)",
    EMEDIUMTYPE: "one is no program of classic BPF",
}


class SystemCall(NamedTuple):
    """A call of the x86-64 ABI. `name` is for people.

    `instruction_pointer` is the run-time address behind the `syscall` instruction.
    """

    name: str
    number: int
    arguments: tuple[int, int, int, int, int, int]
    instruction_pointer: int

    def encode(self) -> bytes:
        """Encode it as a filter sees it: a `struct seccomp_data`."""
        return DATA.pack(self.number, AUDIT_ARCH_X86_64, self.instruction_pointer, *self.arguments)


def why_not(proc: Proc, tid: int, calls: Iterable[SystemCall]) -> str:
    """Say why one of the calls would do harm to a thread, or nothing; empty if all are allowed.

    The thread of process `proc` is stopped, and traced by who calls this. Raises OSError if it has
    ended.
    """
    calls = list(calls)
    for call in calls:
        if is_dispatched(proc, tid, call.instruction_pointer):
            return "it has asked for a signal in the place of system calls"
    mode = int(proc.status(tid).get("Seccomp", NONE))  # a kernel without seccomp has no such row
    if mode == NONE:
        return ""
    if mode == STRICT:
        refused = [call for call in calls if call.number not in STRICTLY_ALLOWED]
        return f"its strict seccomp mode {_KILLS.format(refused[0].name)}" if refused else ""
    if mode != FILTER:
        return f"its seccomp mode is {mode}, which is unknown"
    try:
        filters = _filters(tid)
    except ValueError as error:
        return f"its seccomp filters cannot be read: {error}"
    verdicts = (verdict(filters, call) for call in calls)
    return next(filter(None, verdicts), "")


def verdict(filters: Sequence[Sequence[Instruction]], call: SystemCall) -> str:
    """Say what the filters do to a call other than to allow it; empty if they allow it.

    They run from the latest to the oldest: of equal actions the first counts.
    """
    data = call.encode()
    value = min((run(each, data) for each in filters), key=_precedence, default=ALLOW)
    action = value & _ACTION
    if action in (ALLOW, LOG):
        return ""
    if action == ERRNO:
        number = min(value & _NUMBER, HIGHEST_ERRNO)
        reason = os.strerror(number) if number else "without an error"
        return f"its seccomp filter would refuse {call.name} ({reason})"
    return f"its seccomp filter {_WORDS.get(action, _KILLS).format(call.name)}"


def _precedence(value: int) -> int:
    """Return the action as a signed number: the least of all counts."""
    action = value & _ACTION
    return action - (1 << 32) if action >> 31 else action


def _filters(tid: int) -> list[list[Instruction]]:
    """Read all filters of a stopped thread, the latest first. Raises ValueError if it cannot."""
    programs: list[list[Instruction]] = []
    try:
        while (content := seccomp_filter(tid, len(programs))) is not None:
            programs.append(decode(content))
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        raise ValueError(_UNREADABLE[error.errno]) from error
    return programs[::-1]
