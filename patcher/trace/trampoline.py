"""The code that sites call while they are traced: the one source of it, for every kind of site.

A function is entered with its arguments in registers, so all of them survive: RAX, which tells of
vector registers, and R10, the static chain, as well. Only R11 and the flags are free there. At a
function's end R11 may be where it goes on, and is saved too. Nothing is called, no vector register
is touched, and no more than five words of the stack are used, where the call itself uses one.

An event is written by a restartable sequence: the kernel lets a thread that was interrupted between
`begin` and `end` go on at `abort`, and so at `again`. The last instruction commits it. Without such
sequences a slot is taken by a locked instruction, and the time stamp, written last, commits it.

Each way in is where a NOP stands. What was a call before is turned into a call of the byte behind
that: so the site itself tells what it is to become again. (Kernel: Documentation/rseq, rseq(2).)
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .layout import DATA, EVENT_SIZE, LOST, TAIL

RSEQ_SIGNATURE = 0x53053053
RSEQ_CPU, RSEQ_SECTION = 4, 8  # cpu_id and rseq_cs in a struct rseq
MOST_CPUS = 4096  # that RDTSCP tells apart; above is the node
WAS_CALL = 1  # bytes behind a way in


class Threads(NamedTuple):
    """Where a thread of a process has what the code reads: offsets from its thread pointer (%fs).

    `rseq` is that of its registered struct rseq, None where none is registered.
    """

    rseq: int | None
    tid: int


class Way(NamedTuple):
    """A way in, for a kind of site.

    `caller` is the operand that has the address to return to, `stack` the address of where that
    stands. ABOVE is what was on the top of the stack at the way in.
    """

    name: str
    caller: str
    stack: str
    saves_r11: bool = False


WAYS = (
    Way("entry", "qword ptr [rsp + ABOVE+8]", "[rsp + ABOVE+8]"),  # __fentry__
    Way("chained", "qword ptr [rsp + ABOVE+16]", "[rsp + ABOVE+16]"),  # push r10; call __fentry__
    Way("framed", "qword ptr [rbp + 8]", "[rbp + 8]"),  # push rbp; mov rbp, rsp; ...; call mcount
    Way("unframed", "0", "[rsp + ABOVE]"),  # ...; call mcount, and nothing is known of the frame
    Way("exit", "qword ptr [rsp + ABOVE+8]", "[rsp + ABOVE+8]", saves_r11=True),  # __return__
)

# What every way does, whichever way it takes a slot. PUSH and POP are those of R11, where they are
# needed.
_ENTER = """
NAME:
    nop
    cmp byte ptr [rip + gate], 0
    je NAME_out
    push rax
    push rcx
    push rdx
    PUSH
"""
_LEAVE = """
    POP
    pop rdx
    pop rcx
    pop rax
NAME_out:
    ret
"""
# All of an event at RCX but the time stamp.
_FILL = """
    mov rax, qword ptr [rsp + ABOVE]
    mov qword ptr [rcx + 8], rax
    mov rax, CALLER
    mov qword ptr [rcx + 0x10], rax
    mov eax, dword ptr fs:[TID]
    mov dword ptr [rcx + 0x18], eax
    lea rax, STACK
    mov dword ptr [rcx + 0x1c], eax
"""
# The ring to R11; where the processor is not known (-1) there is none, and nothing is counted.
_RING = """
    mov r11d, dword ptr fs:[CPU]
    cmp r11d, dword ptr [rip + cpus]
    jae NAME_leave
    imul r11, qword ptr [rip + stride]
    add r11, qword ptr [rip + rings]
"""
_RESTARTABLE = f"""
{_ENTER}
NAME_again:
    lea rax, [rip + NAME_section]
    mov qword ptr fs:[SECTION], rax
NAME_begin:
{_RING}
    mov rcx, qword ptr [r11]           ; the head
    mov rax, rcx
    sub rax, qword ptr [r11 + TAIL]
    cmp rax, qword ptr [rip + limit]
    jae NAME_full
    and rcx, qword ptr [rip + mask]
    lea rcx, [r11 + rcx + DATA]
    rdtsc
    shl rdx, 0x20
    or rax, rdx
    mov qword ptr [rcx], rax
{_FILL}
    add qword ptr [r11], EVENT
NAME_end:
NAME_leave:
    mov qword ptr fs:[SECTION], 0
{_LEAVE}
NAME_full:                             ; a section of its own: its last instruction counts
    lea rax, [rip + NAME_lost_section]
    mov qword ptr fs:[SECTION], rax
NAME_lost_begin:
{_RING}
    inc qword ptr [r11 + LOST]
NAME_lost_end:
    jmp NAME_leave
    mov eax, SIGNATURE                 ; what the kernel wants to see before an abort
NAME_lost_abort:
    jmp NAME_full
    mov eax, SIGNATURE
NAME_abort:
    jmp NAME_again
"""
_LOCKED = f"""
{_ENTER}
    rdtscp
    shl rdx, 0x20
    or rdx, rax
    and ecx, CPUS
    cmp ecx, dword ptr [rip + cpus]
    jae NAME_leave
    imul rcx, qword ptr [rip + stride]
    add rcx, qword ptr [rip + rings]
    mov rax, qword ptr [rcx]           ; the head
NAME_again:
    mov r11, rax
    sub r11, qword ptr [rcx + TAIL]
    cmp r11, qword ptr [rip + limit]
    jae NAME_full
    lea r11, [rax + EVENT]
    lock cmpxchg qword ptr [rcx], r11
    jne NAME_again
    and rax, qword ptr [rip + mask]
    lea rcx, [rcx + rax + DATA]
{_FILL}
    mov qword ptr [rcx], rdx
NAME_leave:
{_LEAVE}
NAME_full:
    lock inc qword ptr [rcx + LOST]
    jmp NAME_leave
"""
# A stub has put its number into R11. A closed gate needs no look: then there are 0 processors.
_RESTARTABLE_COUNT = """
count:
    push rax
count_again:
    lea rax, [rip + count_section]
    mov qword ptr fs:[SECTION], rax
count_begin:
    mov eax, dword ptr fs:[CPU]
    cmp eax, dword ptr [rip + cpus]
    jae count_leave
    cmp r11, qword ptr [rip + stubs]
    jae count_leave
    imul rax, qword ptr [rip + counters_stride]
    add rax, qword ptr [rip + counters]
    inc qword ptr [rax + r11*8]
count_end:
count_leave:
    mov qword ptr fs:[SECTION], 0
    pop rax
    ret
    mov eax, SIGNATURE
count_abort:
    jmp count_again
"""
_LOCKED_COUNT = """
count:
    cmp byte ptr [rip + gate], 0
    je count_out
    push rax
    cmp r11, qword ptr [rip + stubs]
    jae count_leave
    mov rax, qword ptr [rip + counters]
    lock inc qword ptr [rax + r11*8]
count_leave:
    pop rax
count_out:
    ret
"""
_STUB = """
    nop
    mov r11d, NUMBER
    jmp COUNT
"""


def sources(threads: Threads) -> list[tuple[str, str]]:
    """Return the assembly of each way in, and of what stubs lead to, by name."""
    way, count = _RESTARTABLE, _RESTARTABLE_COUNT
    if threads.rseq is None:
        way, count = _LOCKED, _LOCKED_COUNT
    found = [(each.name, _filled(way, threads, each)) for each in WAYS]
    return [*found, ("count", _filled(count, threads, WAYS[0]))]


def _filled(source: str, threads: Threads, way: Way) -> str:
    """Put in the words in capitals, and count what is on the stack."""
    for word, value in (("CALLER", way.caller), ("STACK", way.stack), ("NAME", way.name)):
        source = source.replace(word, value)
    numbers = {
        "ABOVE": 32 if way.saves_r11 else 24, "TAIL": TAIL, "LOST": LOST, "DATA": DATA,
        "EVENT": EVENT_SIZE, "SIGNATURE": RSEQ_SIGNATURE, "CPUS": MOST_CPUS - 1,
        "TID": threads.tid, "CPU": (threads.rseq or 0) + RSEQ_CPU,
        "SECTION": (threads.rseq or 0) + RSEQ_SECTION,
    }  # fmt: skip
    source = re.sub(
        r"\b([A-Z]+)(?:\+(\d+))?\b",
        lambda found: _number(numbers[found[1]] + int(found[2] or 0))
        if found[1] in numbers else found[0],
        source,
    )  # fmt: skip
    return source.replace("PUSH", "push r11" * way.saves_r11).replace(
        "POP", "pop r11" * way.saves_r11
    )


def _number(value: int) -> str:
    """Spell a number as capstone does."""
    return f"{value}" if 0 <= value < 10 else f"{value:#x}"


def stub(number: int, count: int) -> str:
    """Return the assembly of a stub, that jumps to what counts at a run-time address."""
    return _STUB.replace("NUMBER", _number(number)).replace("COUNT", _number(count))
