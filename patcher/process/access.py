"""Why a process cannot be traced, in a plain sentence, and what to do about it."""

from __future__ import annotations

import os
from errno import EACCES, EPERM

from patcher.errors import AccessError, HaltError, NoProcessError, PatchError

from .proc import Proc, is_missing

YAMA = "/proc/sys/kernel/yama/ptrace_scope"
# What a value of it forbids to a user without CAP_SYS_PTRACE (Documentation/admin-guide/LSM/Yama).
YAMA_SCOPES = {
    1: "tracing any but one's own descendants (kernel.yama.ptrace_scope is 1): run patcher as "
    "root, start the program by patcher, or set it to 0 by `sysctl kernel.yama.ptrace_scope=0`",
    2: "tracing to all but root (kernel.yama.ptrace_scope is 2): run patcher as root",
    3: "all tracing until the next boot (kernel.yama.ptrace_scope is 3)",
}


def name_of(proc: Proc) -> str:
    """Name a process in messages: `process 12 (sleep)`."""
    try:
        return f"process {proc.pid} ({proc.stat().name})"
    except OSError:
        return f"process {proc.pid}"


def refuse_other_numbers(name: str) -> None:
    """Raise AccessError where a PID means one process in /proc and another one to ptrace.

    That is so in a PID namespace that has no /proc of its own.
    """
    try:
        with open("/proc/self/status", "rb") as stream:
            numbers = [row.split()[1:] for row in stream if row.startswith(b"NSpid:")]
    except OSError:
        numbers = [[]]
    # One number for each namespace, from that of /proc to that of patcher.
    if any(len(each) != 1 for each in numbers):
        what = "/proc is that of another PID namespace, where numbers mean other processes"
        raise AccessError(name, f"{what}: mount the own one (mount -t proc proc /proc)")


def refuse_untraceable(proc: Proc, name: str, *, to_read: bool = False) -> None:
    """Raise NoProcessError, or HaltError if another one traces it, before anything is tried.

    `to_read` tells that it is only read, which another tracer does not prevent.
    """
    try:
        stat, status = proc.stat(), proc.status()
    except OSError as error:
        raise no_access(proc, name, error) from error
    if stat.is_kernel_thread:
        raise NoProcessError(name, "is a kernel thread, and has no code of its own")
    if stat.is_ended and stat.threads <= 1:
        raise NoProcessError(name, "has ended: it is a zombie")
    if proc.pid == os.getpid():
        raise HaltError(name, "is patcher itself")
    tracer = int(status["TracerPid"])
    if tracer and not to_read:
        raise traced(name, tracer)


def traced(name: str, tracer: int) -> HaltError:
    """Make the error for a process that another one traces."""
    with_name = f"{tracer}"
    try:
        with Proc(tracer) as proc:
            with_name = f"{tracer} ({proc.stat().name})"
    except OSError:  # it has ended, or cannot be seen
        pass
    return HaltError(name, f"is traced by process {with_name}: try again when that has let it go")


def no_access(proc: Proc, name: str, error: OSError) -> PatchError:
    """Make the error for what the kernel refused, by what it looks at."""
    if is_missing(error):
        return NoProcessError(name, "has ended")
    try:
        status = proc.status()
    except OSError as second:
        if is_missing(second):
            return NoProcessError(name, "has ended")
        return AccessError(name, f"cannot be looked at: {second.strerror}")
    if tracer := int(status["TracerPid"]):
        return traced(name, tracer)
    if error.errno not in (EPERM, EACCES):  # as for want of memory, or of descriptors
        return AccessError(name, f"cannot be looked at: {error.strerror}")
    return AccessError(name, f"may not be traced: {_why_not(status, error)}")


def _why_not(status: dict[str, str], error: OSError) -> str:
    owners = {*map(int, (*status["Uid"].split()[:3], *status["Gid"].split()[:3]))}
    if int(status["Uid"].split()[0]) != os.getuid():
        return (
            f"it is of user {status['Uid'].split()[0]}, and patcher is run by user {os.getuid()}: "
            "run it as that user, or as root"
        )
    if owners - {os.getuid(), os.getgid()}:
        return "it has other rights than its user (set-user-ID or -group-ID): run patcher as root"
    scope = yama_scope()
    if scope in YAMA_SCOPES:
        return f"Yama forbids {YAMA_SCOPES[scope]}"
    if not os.getuid():
        return f"a security module or a user namespace is in the way ({error.strerror})"
    return (
        "the kernel protects it, as one that is not dumpable (PR_SET_DUMPABLE, or a program that "
        f"its user may not read) or has more capabilities: run patcher as root ({error.strerror})"
    )


def yama_scope(path: str = YAMA) -> int:
    """Return the scope that Yama leaves to tracing; 0, no limits, where there is no Yama."""
    try:
        with open(path, encoding="ascii") as stream:
            return int(stream.read())
    except (OSError, ValueError):
        return 0
