"""What linked code is searched for: the instructions that lead to one of a few addresses."""

from .x86 import CALL, EM_X86_64
from .x86_linked import FROM_END, FROM_GOT, linked_calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


# What may stand before the opcode of a call and belong to it; 67 stands before e8 alone. The next
# change nothing either, but no form of call has them.
CALL_PREFIXES = tuple(bytes((prefix,)) for prefix in (0x67, 0xF2, 0x2E, 0x36, 0x3E))
OTHER_PREFIXES = tuple(bytes((prefix,)) for prefix in (0x26, 0x64, 0x65, *range(0x40, 0x50)))


class Patterns:
    """How instructions look that lead to addresses, the goals.

    `relative` are the goals, by opcode, of a 4-byte operand behind it that counts from its end.
    `fixed` are, by the bytes of an operand that are the same wherever it stands, rows of (what is
    before it, what is behind it, the goal).
    """

    __slots__ = ("relative", "fixed")

    def __init__(self) -> None:
        self.relative: dict[bytes, Sequence[int]] = {}
        self.fixed: dict[bytes, list[tuple[bytes, bytes, int]]] = {}

    def _fix(
        self, prefix: bytes, operand: int, goal: int, width: int = 4, suffix: bytes = b""
    ) -> None:
        field = (operand & (1 << 8 * width) - 1).to_bytes(width, "little")
        self.fixed.setdefault(field, []).append((prefix, suffix, goal))

    @classmethod
    def of_calls(
        cls, machine: int, code: "Sequence[int]", slots: "Sequence[int]", bases: "Sequence[int]"
    ) -> "Patterns":
        """Tell of calls to one of these addresses of code, or through one of the slots.

        `bases` are what i386 code may have in its GOT register. A call behind a prefix or a NOP is
        told by its opcode alone.
        """
        patterns = cls()
        for form in linked_calls(machine):
            goals = slots if form.through_slot else code
            if form.origin == FROM_END:
                if not form.prefix.endswith(CALL.prefix) or form.prefix == CALL.prefix:
                    patterns.relative[form.prefix] = goals
                continue
            for base in bases if form.origin == FROM_GOT else (0,):
                for goal in goals:
                    patterns._fix(form.prefix, goal - base, goal, form.width, form.suffix)
        return patterns

    @classmethod
    def of_jumps(cls, machine: int, slots: "Sequence[int]", bases: "Sequence[int]") -> "Patterns":
        """Tell of jumps through one of the slots, as those of stubs."""
        patterns = cls()
        if machine == EM_X86_64:
            patterns.relative[b"\xff\x25"] = slots  # jmp *disp32(%rip)
            return patterns
        for slot in slots:
            patterns._fix(b"\xff\x25", slot, slot)  # jmp *disp32
            for base in bases:
                patterns._fix(b"\xff\xa3", slot - base, slot)  # jmp *disp32(%ebx)
        return patterns

    @classmethod
    def of_retpolines(
        cls, machine: int, slots: "Sequence[int]", bases: "Sequence[int]"
    ) -> "Patterns":
        """Tell of what may be a stub of lld's -z retpolineplt: it loads a slot first."""
        patterns = cls()
        if machine == EM_X86_64:
            patterns.relative[b"\x4c\x8b\x1d"] = slots  # mov disp32(%rip),%r11
            return patterns
        for slot in slots:
            patterns._fix(b"\x50\xa1", slot, slot)  # push %eax; mov disp32,%eax
            for base in bases:
                patterns._fix(b"\x50\x8b\x83", slot - base, slot)  # push; mov disp32(%ebx),%eax
        return patterns
