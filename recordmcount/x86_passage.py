"""How a site that lies in two pages comes from one code to another, one page at a time.

Whoever writes to another process may be killed between two pages, and the process goes on with
what stands there then. So every code on the way must be harmless to execute: an instruction without
effect but on the flags, which no function keeps over a call, or a read of what the call reads.

    a9 imm32          test $imm32,%eax         any 4 bytes behind it are its operand
    eb rel8           jmp .+length             what is behind it is not executed
    3b 15 rel32       cmp rel32(%rip),%edx     reads the slot of ff 15 rel32, call *rel32(%rip)
    f8                clc                      after 3b: cmp %edi,%eax; after 66: clc

A prefix before a NOP is part of it, whatever it is. (Intel SDM vol. 2.)

A sled becomes a call that no file tells. So what may be on its way is told by its NOPs alone: a
test or a jump as above, whatever their operands are. Only where its first byte is in one page and
five or more are in the next do the other bytes have to be NOPs behind any of the first ones:

    1f 00 90...                behind 0f: nopl (%rax); behind a9: test
    90 90 90...                behind 66, 2e or 90: nop; behind a9: test
"""

from .x86 import CALL
from .x86_nops import NOPS, SHORT_JUMP, nop_ends, parted_nops

TEST = b"\xa9"  # test $imm32,%eax
CALL_INDIRECT = b"\xff"  # call *r/m, with 2 in the reg field of ModRM
COMPARE = b"\x3b"  # cmp r/m,%edx, with the same ModRM
REST = b"\xf8\x90\x90\x90\x90"  # clc; nop; nop; nop; nop
NOPL = b"\x0f\x1f"


def passage(old: bytes, new: bytes, split: int) -> list[bytes]:
    """List the codes to write one after the other so that `old` becomes `new`, the last of them.

    From each to the next only bytes before the index `split` change, or only bytes from there on.
    A code of its own list may be `old`: whoever stopped on the way can go on, or go back.
    """
    codes: list[bytes] = []
    for code in (*_between(old, new, split), new):
        before = codes[-1] if codes else old
        if code[:split] != before[:split] and code[split:] != before[split:]:
            codes.append(before[:split] + code[split:])
        if code != before:
            codes.append(code)
    return codes


def halfway(call: bytes, nop: bytes, split: int) -> list[bytes]:
    """List the codes between a call and its NOP, at which a writer can have been stopped."""
    there, back = passage(call, nop, split), passage(nop, call, split)
    return [code for code in dict.fromkeys((*there, *back)) if code not in (call, nop)]


def is_halfway_to_call(code: bytes, old: bytes, prefix: bytes, split: int) -> bool:
    """Tell whether a writer can have been stopped at `code` between `old` and a call.

    That has this prefix, and may call anything: its operand is not told.
    """
    start = len(prefix)
    middle = max(start, split)
    others = bytes([byte ^ 0xFF for byte in old])  # for the call's, where the old bytes stand
    calls = (
        prefix + code[start:],
        prefix + code[start:middle] + others[middle:],
        prefix + others[start:middle] + code[middle:],
        prefix + others[start:],
    )
    return any(code in halfway(old, call, split) for call in calls)


def is_halfway(code: bytes, sled: bytes, split: int) -> bool:
    """Tell whether a writer can have been stopped at `code` between a sled's NOPs and a call.

    Or between either and NOPs that are parted as the call is.
    """
    length = len(code)
    if length == CALL.length:
        return code.startswith(TEST)
    if split >= 2:
        return code.startswith(_jump_over(length))
    is_behind = code[CALL.length :] == NOPS[length - CALL.length]  # as behind the call
    nops = (sled, parted_nops(length))
    if code.startswith(TEST):
        return is_behind or any(code[1:] == _idle(each) for each in nops)
    return any(code == each[:1] + _idle(each) for each in nops)


def _between(old: bytes, new: bytes, split: int) -> list[bytes]:
    """List harmless codes on the way; if all before the split stays, or all behind, there are none.

    Where both sides change from one to the next, what is behind the split may change first.
    """
    if old[:split] == new[:split] or old[split:] == new[split:]:
        return []
    if len(old) == 5:
        return [TEST + old[1:], TEST + new[1:split] + old[split:], TEST + new[1:]]
    if split >= 2:
        jump = _jump_over(len(old))
        return [jump + old[2:], jump + new[2:split] + old[split:], jump + new[2:]]
    if {old[:1], new[:1]} & {CALL.prefix, TEST} or _are_other_nops(old, new):
        return [*reversed(_from_test(old)), *_from_test(new)]
    if len(old) == 6 and {old[:1], new[:1]} & {CALL_INDIRECT, COMPARE}:
        return _by_compare(old, new)
    return [old[:1] + new[1:] if _is_nop(new) else new[:1] + old[1:]]


def _jump_over(length: int) -> bytes:
    return SHORT_JUMP + bytes((length - 2,))


def _are_other_nops(old: bytes, new: bytes) -> bool:
    """Tell whether both are NOPs, and are none if the first byte of one is before the others'."""
    codes = (old, new, old[:1] + new[1:])
    return [nop_ends(code)[-1:] == [len(code)] for code in codes] == [True, True, False]


def _from_test(code: bytes) -> list[bytes]:
    """List the codes from a test to a sled of more than 5 bytes, or to a call in its place."""
    if code[:1] in (CALL.prefix, TEST):
        return [TEST + code[1:]]
    return [TEST + _idle(code), code[:1] + _idle(code)]


def _idle(sled: bytes) -> bytes:
    """Give what does nothing behind the first byte of a sled, and behind that of a test."""
    begin = b"\x1f\x00" if sled.startswith(NOPL[:1]) else b""
    return begin.ljust(len(sled) - 1, NOPS[1])


def _by_compare(old: bytes, new: bytes) -> list[bytes]:
    """List the codes between `call *r/m` and its NOP if the first page has its first byte alone."""
    codes = [COMPARE + old[1:], COMPARE + REST] if old[:1] == CALL_INDIRECT else [old[:1] + REST]
    if new[:1] == CALL_INDIRECT:
        return [*codes, COMPARE + REST, COMPARE + new[1:]]
    return [*codes, new[:1] + REST]


def _is_nop(code: bytes) -> bool:
    return code.lstrip(b"\x66\x67\x2e\x36\x3e\xf2").startswith(NOPL)
