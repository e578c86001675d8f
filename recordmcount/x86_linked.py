"""Calls in linked files: how linkers spell them, and the NOPs that take their place."""

from _operator import sub
from _struct import Struct
from itertools import repeat

from .x86 import CALL, CALL_ABS, CALL_GOT, CALL_GOT_386, EM_386, NOP5, NOP6, CallForm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


# What the operand of a linked call counts from.
FROM_END, FROM_ZERO, FROM_GOT = range(3)


class LinkedCall:
    """One way a call stands in a linked image, and the one-instruction NOP that takes its place.

    `origin` is what the operand counts from: the end of the field, zero, or the address of the
    GOT in a register. With `through_slot` the result is the address of a GOT slot, else that of
    code. No two forms of one length share a NOP, so a NOP tells which form stood there. The lowest
    byte of its displacement, at index `selector_at`, tells which target was called: a NOP computes
    no address. `idle` is a prefix before the call, the first byte of `prefix`.
    """

    __slots__ = (
        "name", "prefix", "width", "suffix", "origin", "through_slot", "nop", "selector_at",
        "length", "idle",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        prefix: bytes,
        nop: bytes,
        selector_at: int,
        *,
        width: int = 4,
        suffix: bytes = b"",
        origin: int = FROM_END,
        through_slot: bool = False,
        idle: bytes = b"",
    ) -> None:
        self.name = name
        self.prefix = prefix
        self.width = width
        self.suffix = suffix
        self.origin = origin
        self.through_slot = through_slot
        self.nop = nop
        self.selector_at = selector_at
        self.idle = idle
        self.length = len(prefix) + width + len(suffix)

    def operand(self, code: bytes) -> int | None:
        """Return the signed operand, if `code` begins with this call."""
        end = len(self.prefix) + self.width
        if not code.startswith(self.prefix) or not code.startswith(self.suffix, end):
            return None
        if len(code) < self.length:
            return None
        return int.from_bytes(code[len(self.prefix) : end], "little", signed=True)

    def spell(self, operand: int) -> bytes | None:
        """Return the call's bytes; None if the signed operand does not fit."""
        if not -1 << 8 * self.width - 1 <= operand < 1 << 8 * self.width - 1:
            return None
        return self.prefix + self._field(operand) + self.suffix

    def _field(self, operand: int) -> bytes:
        return operand.to_bytes(self.width, "little", signed=True)

    def spell_each(self, target: int, starts: "Sequence[int]") -> "list[bytes]":
        """Return the calls at all `starts`; each must be in reach.

        `target` is what the operand names: relative to the end of each field, or the operand.
        """
        if self.origin != FROM_END:
            return [self.prefix + self._field(target) + self.suffix] * len(starts)
        pack = Struct(f"<{len(self.prefix)}si").pack
        at_zero = target - len(self.prefix) - self.width
        return list(map(pack, repeat(self.prefix), map(sub, repeat(at_zero), starts)))

    def nop_with(self, selector: int) -> bytes:
        """Return the NOP that carries `selector` (0 to 255)."""
        at = self.selector_at
        return self.nop[:at] + bytes((selector,)) + self.nop[at + 1 :]

    def selector(self, code: bytes) -> int | None:
        """Return the selector, if `code` begins with a NOP of this form."""
        if len(code) < self.length:
            return None
        found = code[self.selector_at]
        return found if code.startswith(self.nop_with(found)) else None


def linked_calls(machine: int) -> tuple[LinkedCall, ...]:
    """Return the calls that linkers leave or make.

    bfd, gold and lld relax `ff 15` to a call behind a prefix, mold (and bfd with
    -z call-nop=prefix-0x90) to a NOP and a call, of which the table names the NOP. bfd's
    -z call-nop=suffix-nop gives a plain call; the NOP behind it may stay, so that is no form of
    its own.
    """
    plain = LinkedCall("call", CALL.prefix, NOP5, 4)
    nop_first = LinkedCall("nop-call", b"\x90\xe8", _nop6_with(0x80), 5)
    if machine == EM_386:
        alone = (
            plain,
            LinkedCall("call-addr16", b"\x67\xe8", _nop6_with(0x40), 5),
            nop_first,
            *map(_linked_call_got_386, CALL_GOT_386),
        )
    else:
        alone = (
            plain,
            LinkedCall("call-got", CALL_GOT.prefix, NOP6, 5, through_slot=True),
            LinkedCall("call-addr32", b"\x67\xe8", _nop6_with(0x40), 5),
            nop_first,
            *map(_linked_call_abs, CALL_ABS),
        )
    return (
        *alone,
        *(_linked_behind(idle, form) for form in alone if form.width == 4 for idle in LINKED_IDLE),
    )


# Prefixes that assemblers put before calls: bnd (-madd-bnd-prefix), cs, ss and ds.
LINKED_IDLE = (b"\xf2", b"\x2e", b"\x36", b"\x3e")


def _linked_behind(idle: bytes, form: LinkedCall) -> LinkedCall:
    """Let the NOP have the call's prefix, data16 for bnd; the plain call's then %rcx as base."""
    if idle == b"\xf2":
        nop = _nop6_with(0x01) if form.length == 5 else b"\x66" + form.nop
    else:
        nop = idle + form.nop
    return LinkedCall(
        form.name, idle + form.prefix, nop, form.selector_at + 1, origin=form.origin,
        through_slot=form.through_slot, idle=idle,
    )  # fmt: skip


def _nop6_with(sib: int) -> bytes:
    """Encode NOP6 with other registers, or another scale, in its SIB byte.

    0x40: nopw 0x0(%rax,%rax,2); 0x80: nopw 0x0(%rax,%rax,4).
    """
    return bytes((0x66, 0x0F, 0x1F, 0x44, sib, 0x00))


def _linked_call_got_386(form: CallForm) -> LinkedCall:
    """Let the NOP have the call's register, nopw 0x0(%ebx,%eax,8); %esp is for none."""
    without_base = form.prefix[1] == 0x15
    base = 4 if without_base else form.prefix[1] & 7
    return LinkedCall(
        form.name, form.prefix, _nop6_with(0xC0 | base), 5, through_slot=True,
        origin=FROM_ZERO if without_base else FROM_GOT,
    )  # fmt: skip


def _linked_call_abs(form: CallForm) -> LinkedCall:
    """Let the second byte of the NOP's 4-byte displacement have the register's number."""
    at = form.length - 4
    nop = form.nop[:at] + bytes((0, form.prefix[1] - 0xB8, 0, 0))  # ... nopw 0x200(%rax,%rax,1)
    return LinkedCall(
        form.name, form.prefix, nop, at, width=8, suffix=form.suffix, origin=FROM_ZERO
    )
