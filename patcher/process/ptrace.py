"""The requests of ptrace(2) that patcher makes, each a function; what fails raises OSError.

A thread is seized, never attached to: PTRACE_ATTACH sends a SIGSTOP, which can be lost among the
thread's own. PTRACE_O_EXITKILL is refused, so that a tracer that dies leaves every tracee running;
nor is there a request that changes memory. All requests for a thread must come from the thread of
this process that seized it. (ptrace(2); numbers from linux/ptrace.h.)
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import IntEnum, IntFlag
from struct import Struct
from typing import ClassVar, NamedTuple, Self

from recordmcount.x86 import EM_386, EM_X86_64

NT_PRSTATUS = 1
SIGINFO_SIZE = 128  # bytes of a siginfo_t
BPF_MAXINSNS = 4096  # instructions of the longest filter
_INSTRUCTION_SIZE = 8  # bytes of a struct sock_filter
# Of struct ptrace_syscall_info: op, arch, and the call that begins, or the result of one that ends.
_SYSCALL_ENTRY, _SYSCALL_EXIT = Struct("<BxxxI16x7Q"), Struct("<BxxxI16xq")
_ENTRY, _EXIT = 1, 2  # op
_RSEQ_CONFIGURATION = Struct("<QII8x")  # of struct ptrace_rseq_configuration
_AUDIT_ARCH_I386 = 0x40000003


class Request(IntEnum):
    """What is asked of the kernel."""

    CONT = 7
    SINGLESTEP = 9
    DETACH = 17
    SYSCALL = 24
    SETOPTIONS = 0x4200
    GETEVENTMSG = 0x4201
    GETSIGINFO = 0x4202
    GETREGSET = 0x4204
    SETREGSET = 0x4205
    SEIZE = 0x4206
    INTERRUPT = 0x4207
    LISTEN = 0x4208
    GETSIGMASK = 0x420A
    SETSIGMASK = 0x420B
    SECCOMP_GET_FILTER = 0x420C
    GET_SYSCALL_INFO = 0x420E
    GET_RSEQ_CONFIGURATION = 0x420F
    GET_SYSCALL_USER_DISPATCH_CONFIG = 0x4211  # one less would set it


class Options(IntFlag):
    """What a tracee is to report beside its signals; EXITKILL is not among them."""

    NONE = 0
    TRACESYSGOOD = 1 << 0
    TRACEFORK = 1 << 1
    TRACEVFORK = 1 << 2
    TRACECLONE = 1 << 3
    TRACEEXEC = 1 << 4
    TRACEVFORKDONE = 1 << 5
    TRACEEXIT = 1 << 6
    TRACESECCOMP = 1 << 7


class Registers:
    """The general registers of a stopped thread, by name; both layouts are user_regs_struct's.

    `machine` tells which: EM_386 for a thread that runs 32-bit code now, else EM_X86_64.
    """

    NAMES: ClassVar[dict[int, tuple[str, ...]]] = {
        EM_X86_64: (
            "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx",
            "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base",
            "gs_base", "ds", "es", "fs", "gs",
        ),
        EM_386: (
            "ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", "orig_eax",
            "eip", "cs", "eflags", "esp", "ss",
        ),
    }  # fmt: skip
    FORMATS: ClassVar[dict[int, Struct]] = {EM_X86_64: Struct("<27Q"), EM_386: Struct("<17I")}

    def __init__(self, machine: int, values: dict[str, int]) -> None:
        self.machine = machine
        self.values = values

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Decode what the kernel gives; its length tells the layout."""
        machine = EM_386 if len(content) == cls.FORMATS[EM_386].size else EM_X86_64
        words = cls.FORMATS[machine].unpack(content)
        return cls(machine, dict(zip(cls.NAMES[machine], words, strict=True)))

    def encode(self) -> bytes:
        """Encode them as the kernel takes them."""
        return self.FORMATS[self.machine].pack(*self.values.values())

    def with_values(self, **values: int) -> Registers:
        """Return these registers with other values in some of them."""
        return Registers(self.machine, {**self.values, **values})

    @property
    def instruction_pointer(self) -> int:
        """Run-time address of the next instruction."""
        return self.values["rip" if self.machine == EM_X86_64 else "eip"]

    def going_on_at(self, address: int) -> Registers:
        """Return these registers with a run-time address as that of the next instruction."""
        return self.with_values(**{"rip" if self.machine == EM_X86_64 else "eip": address})

    @property
    def is_in_system_call(self) -> bool:
        """Whether the thread stands in a system call: then its number is not negative."""
        number = self.values["orig_rax" if self.machine == EM_X86_64 else "orig_eax"]
        return not number >> 8 * self.FORMATS[self.machine].size // len(self.values) - 1

    @property
    def stack_pointer(self) -> int:
        """Run-time address of the top of the stack."""
        return self.values["rsp" if self.machine == EM_X86_64 else "esp"]


class SyscallStop(NamedTuple):
    """Where a system call begins, or ends.

    `number` and `arguments` are those of a call that begins, `result` that of one that has ended,
    negative for an errno. `machine` is EM_386 for a call of 32-bit code, else EM_X86_64.
    """

    is_entry: bool
    machine: int
    number: int
    arguments: tuple[int, ...]
    result: int


class Sequences(NamedTuple):
    """Where a thread has told the kernel that its struct rseq is: run-time address and size."""

    address: int
    size: int
    signature: int


class _Buffer(ctypes.Structure):
    """A struct iovec."""

    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def seize(tid: int, options: Options = Options.NONE) -> None:
    """Become the tracer of a thread, which runs on. Raises ValueError for an unknown option."""
    known = sum(Options)
    if options & ~known:  # EXITKILL above all
        raise ValueError(f"options {options & ~known:#x} are not to be set")
    _ask(Request.SEIZE, tid, 0, int(options))


def set_options(tid: int, options: Options) -> None:
    """Have a stopped thread report what it is to beside its signals."""
    _ask(Request.SETOPTIONS, tid, 0, int(options))


def interrupt(tid: int) -> None:
    """Have a seized thread stop; it reports when it has."""
    _ask(Request.INTERRUPT, tid)


def listen(tid: int) -> None:
    """Leave a thread in its group-stop, and have it report what ends that."""
    _ask(Request.LISTEN, tid)


def cont(tid: int, signal: int = 0) -> None:
    """Let a stopped thread go on, with a signal if one is given."""
    _ask(Request.CONT, tid, 0, signal)


def step(tid: int, signal: int = 0) -> None:
    """Let a stopped thread execute one instruction."""
    _ask(Request.SINGLESTEP, tid, 0, signal)


def go_to_syscall(tid: int, signal: int = 0) -> None:
    """Let a stopped thread go on to where a system call begins or ends."""
    _ask(Request.SYSCALL, tid, 0, signal)


def detach(tid: int, signal: int = 0) -> None:
    """Let a stopped thread go on, with a signal if one is given, and trace it no longer.

    A thread whose group is stopped goes back to that stop.
    """
    _ask(Request.DETACH, tid, 0, signal)


def event_message(tid: int) -> int:
    """Return what comes with the event at which the thread stopped: a PID, or an exit status."""
    message = ctypes.c_ulong()
    _ask(Request.GETEVENTMSG, tid, 0, ctypes.addressof(message))
    return message.value


def siginfo(tid: int) -> bytes:
    """Return the siginfo_t of the signal at which the thread stopped; EINVAL at a group-stop."""
    buffer = ctypes.create_string_buffer(SIGINFO_SIZE)
    _ask(Request.GETSIGINFO, tid, 0, ctypes.addressof(buffer))
    return buffer.raw


def signal_mask(tid: int) -> int:
    """Return the blocked signals of a stopped thread: bit `n - 1` is signal `n`."""
    mask = ctypes.c_uint64()
    _ask(Request.GETSIGMASK, tid, 8, ctypes.addressof(mask))
    return mask.value


def set_signal_mask(tid: int, mask: int) -> None:
    """Change the blocked signals of a stopped thread."""
    content = ctypes.c_uint64(mask)
    _ask(Request.SETSIGMASK, tid, 8, ctypes.addressof(content))


def syscall_stop(tid: int) -> SyscallStop | None:
    """Tell of the system call at which a thread stopped; None if it stands at none."""
    content = ctypes.create_string_buffer(_SYSCALL_ENTRY.size)
    _ask(Request.GET_SYSCALL_INFO, tid, len(content), ctypes.addressof(content))
    operation, architecture, number, *arguments = _SYSCALL_ENTRY.unpack(content.raw)
    machine = EM_386 if architecture == _AUDIT_ARCH_I386 else EM_X86_64
    if operation == _ENTRY:
        return SyscallStop(True, machine, number, tuple(arguments), 0)
    if operation == _EXIT:
        result = _SYSCALL_EXIT.unpack_from(content.raw)[2]
        return SyscallStop(False, machine, 0, (), result)
    return None


def sequences(tid: int) -> Sequences | None:
    """Return the registered struct rseq of a stopped thread; None if it has none.

    OSError where the kernel cannot tell (before Linux 5.13).
    """
    content = ctypes.create_string_buffer(_RSEQ_CONFIGURATION.size)
    _ask(Request.GET_RSEQ_CONFIGURATION, tid, len(content), ctypes.addressof(content))
    found = Sequences(*_RSEQ_CONFIGURATION.unpack(content.raw))
    return found if found.address else None


def registers(tid: int) -> Registers:
    """Return the general registers of a stopped thread."""
    content = ctypes.create_string_buffer(Registers.FORMATS[EM_X86_64].size)
    buffer = _Buffer(ctypes.addressof(content), len(content))
    _ask(Request.GETREGSET, tid, NT_PRSTATUS, ctypes.addressof(buffer))
    return Registers.decode(content.raw[: buffer.length])


def all_registers(tids: Iterable[int]) -> list[Registers]:
    """Return the registers of stopped threads; of one that has been killed none."""
    found = []
    for tid in tids:
        with suppress(ProcessLookupError):
            found.append(registers(tid))
    return found


def set_registers(tid: int, values: Registers) -> None:
    """Change the general registers of a stopped thread."""
    encoded = values.encode()
    content = ctypes.create_string_buffer(encoded, len(encoded))
    buffer = _Buffer(ctypes.addressof(content), len(content))
    _ask(Request.SETREGSET, tid, NT_PRSTATUS, ctypes.addressof(buffer))


def step_out(tids: Iterable[int], to: Callable[[int], int]) -> int:
    """Have stopped threads go on where `to` says, by where each would go on; how many it moves.

    One that has been killed is left out, and so is one in a system call, which may have to be made
    again: the kernel counts its address from where the thread goes on.
    """
    moved = 0
    for tid in tids:
        with suppress(ProcessLookupError):
            before = registers(tid)
            goal = to(before.instruction_pointer)
            if goal != before.instruction_pointer and not before.is_in_system_call:
                set_registers(tid, before.going_on_at(goal))
                moved += 1
    return moved


def seccomp_filter(tid: int, number: int) -> bytes | None:
    """Return the program of a seccomp filter of a stopped thread; None if there are no more.

    The oldest has number 0. There is room for the longest: the kernel is told no size, and another
    thread may install a filter meanwhile.
    """
    content = ctypes.create_string_buffer(BPF_MAXINSNS * _INSTRUCTION_SIZE)
    try:
        count = _ask(Request.SECCOMP_GET_FILTER, tid, number, ctypes.addressof(content))
    except FileNotFoundError:
        return None
    return content.raw[: count * _INSTRUCTION_SIZE]


def user_dispatch(tid: int) -> tuple[int, int, int, int]:
    """Return how a stopped thread has its system calls dispatched, as prctl(2) was told.

    That is whether it has (0 if not), the address of its selector, and where the range of code
    whose calls are let through begins, and its size. OSError before Linux 6.4.
    """
    content = (ctypes.c_uint64 * 4)()
    size, address = ctypes.sizeof(content), ctypes.addressof(content)
    _ask(Request.GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, address)
    mode, selector, start, length = content
    return mode, selector, start, length


def _ask(request: Request, tid: int, address: int = 0, data: int = 0) -> int:
    result = int(_libc.ptrace(request, tid, address, data))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request.name} of {tid}: {os.strerror(number)}")
    return result
