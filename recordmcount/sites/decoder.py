"""What stands at an address: a call of mcount, a NOP that was one, or neither.

Each address can be decoded alone and exactly. But a file has a hundred thousand sites, and nearly
all of them stand in one or two ways: the same form of call to the same target, or the same NOP. So
whatever way the first site is found to stand in, all others are compared with, whole columns at
once; only those that stand otherwise are decoded themselves.
"""

from __future__ import annotations

from _bisect import bisect_left

from recordmcount import x86, x86_linked
from recordmcount.x86 import ENDBR
from recordmcount.x86_functions import ends_function
from recordmcount.x86_object_nops import is_object_nop

from .state import State
from .words import in_function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from recordmcount.elf.object import Object
    from recordmcount.x86_linked import LinkedCall

    from .linked_code import LinkedCode
    from .targets import Targets

# How many targets one byte can tell apart: the high half is the number, the low half how many.
MOST_TARGETS = 15
UNMARKED = "a NOP without a mark, which may be padding"
NEITHER = "neither a call nor a NOP in the place of one"
OF_AN_OBJECT = "a NOP that was made in an object file"
RELOCATED = "code that the loader relocates (DT_TEXTREL)"


class Way:
    """One way to stand, but for the address: a call of a form and target, or the NOP of that.

    `address` is that of mcount or of its slot; `base` is what the operand of a call through the
    GOT register of i386 counts from, else 0. `name` is the function that is called. `nop` is
    None where a NOP could not tell this call from others.
    """

    __slots__ = ("state", "form", "base", "address", "name", "nop")

    def __init__(
        self,
        state: State,
        form: LinkedCall,
        base: int,
        address: int,
        name: str,
        nop: bytes | None,
    ) -> None:
        self.state = state
        self.form = form
        self.base = base
        self.address = address
        self.name = name
        self.nop = nop

    def call(self, vaddr: int) -> bytes | None:
        """Return the call at `vaddr`, None where the target is out of reach."""
        return self.form.spell(self.address - _origin(self.form, vaddr, self.base))

    def reaches(self, vaddrs: Sequence[int]) -> bool:
        """Tell whether there is a call from each of ascending `vaddrs`."""
        return all(self.call(vaddr) is not None for vaddr in (*vaddrs[:1], *vaddrs[-1:]))

    def turned(self, vaddrs: Sequence[int], state: State) -> list[bytes]:
        """Return the bytes in `state` at each of `vaddrs`; there must be some."""
        if state is State.CALL:
            return self.form.spell_each(self.address - self.base, vaddrs)
        return [self.nop] * len(vaddrs) if self.nop is not None else []


class Found:
    """What stands at one address, `code`: in a `way`, or foreign, for this `reason`.

    A call whose way has no NOP has a reason as well. `expected` are the calls that could stand at
    a foreign site.
    """

    __slots__ = ("code", "way", "reason", "expected", "is_marked")

    def __init__(
        self,
        code: bytes,
        way: Way | None = None,
        reason: str = "",
        *,
        expected: tuple[bytes, ...] = (),
        is_marked: bool = True,
    ) -> None:
        self.code = code
        self.way = way
        self.reason = reason
        self.expected = expected
        self.is_marked = is_marked

    @property
    def state(self) -> State:
        """State.FOREIGN without a way."""
        return self.way.state if self.way else State.FOREIGN


class Decoder:
    """Tells what stands at a link-time virtual address.

    `code` tells which function is at an address, `relocated` are the sorted addresses of what the
    loader changes in code. `are_returns` tells that the targets are ways to `__return__`.
    """

    def __init__(
        self,
        obj: Object,
        targets: Targets,
        code: LinkedCode,
        relocated: Sequence[int],
        *,
        are_returns: bool = False,
    ) -> None:
        self.are_returns = are_returns
        self._callee = x86.RETURN if are_returns else "mcount"
        self._forms = x86_linked.linked_calls(obj.machine)
        self._calls = _by_first_byte(self._forms, lambda form: form.prefix)
        self._nops = _by_first_byte(self._forms, lambda form: form.nop)
        first = {form.name: form for form in reversed(self._forms)}
        self._usual = [first[name] for name in ("call", "call-got")]
        self._targets = targets
        self._code = code
        self._reached = {form: _reached(form, targets) for form in self._forms}
        self._relocated = relocated
        self._highest = obj.layout.highest

    def decode(self, vaddr: int, before: bytes, text: bytes) -> Found:
        """Tell what `text` is, which stands at `vaddr`, and `before` in front of it.

        `text` should be x86.LONGEST_SITE bytes, and `before` an endbr's; less where code ends.
        """
        found = self._decode(vaddr, before, text)
        if self._is_relocated(vaddr, len(found.code)):
            return Found(found.code, reason=RELOCATED)
        return found

    def _decode(self, vaddr: int, before: bytes, text: bytes) -> Found:
        reason = NEITHER
        length = 5
        for form in self._calls.get(text[:1], ()):
            operand = form.operand(text)
            if operand is not None:
                found = self._call(form, vaddr, text[: form.length], operand)
                if found is not None:
                    return found
                reason = self._other_call(form, vaddr, operand)
                length = form.length
        for form in self._nops.get(text[:1], ()):
            selector = form.selector(text)
            if selector is not None:
                if not selector and not self._is_bare_site(vaddr, before, form, text):
                    return Found(text[: form.length], reason=UNMARKED)
                return self._nop(form, vaddr, text[: form.length], selector)
        if is_object_nop(text):
            reason = OF_AN_OBJECT
        return Found(text[:length], reason=reason, expected=self.expected(vaddr, text))

    def _call(self, form: LinkedCall, vaddr: int, code: bytes, operand: int) -> Found | None:
        for number, (base, address, name) in enumerate(self._reached[form]):
            if _origin(form, vaddr, base) + operand & self._highest == address:
                nop = self._nop_for(form, number)
                if nop is not None and self._restored(vaddr, nop) == code:
                    return Found(code, Way(State.CALL, form, base, address, name, nop))
                way = Way(State.CALL, form, base, address, name, None)
                return Found(code, way, "a NOP could not tell which call it replaced")
        return None

    def _other_call(self, form: LinkedCall, vaddr: int, operand: int) -> str:
        base = (self._targets.got_base or 0) if form.origin == x86_linked.FROM_GOT else 0
        address = _origin(form, vaddr, base) + operand & self._highest
        if form.through_slot:
            return f"a call through {address:#x}, which is no GOT slot of {self._callee}"
        name, distance = self._code.function_at(address)
        if name is None:
            is_known = self._targets.follow(address) is not None
            what = f"which is not {self._callee}" if is_known else "code that is not understood"
            return f"a call to {address:#x}, {what}"
        hint = "" if distance or self.are_returns else f" (if it is, say --symbol {name})"
        where = in_function(name, distance)
        return f"a call to {address:#x} ({where}), which is not {self._callee}{hint}"

    def expected(
        self, vaddr: int, text: bytes, forms: Sequence[LinkedCall] = ()
    ) -> tuple[bytes, ...]:
        """Return the calls that could stand at a foreign site, where `text` does.

        Of one of these forms, in which other sites of the image stand, if there are any; and of
        those that `text` begins with, if it does.
        """
        begun = [
            form
            for form in self._calls.get(text[:1], ())
            if text.startswith(form.prefix) and (not forms or form in forms)
        ]
        return (
            self._spelled(vaddr, begun)
            or self._spelled(vaddr, forms)
            or self._spelled(vaddr, self._usual)
        )

    def _spelled(self, vaddr: int, forms: Iterable[LinkedCall]) -> tuple[bytes, ...]:
        calls = [
            form.spell(address - _origin(form, vaddr, base))
            for form in forms
            for base, address, _ in self._reached[form]
        ]
        return tuple(call for call in calls if call is not None)

    def _nop(self, form: LinkedCall, vaddr: int, code: bytes, selector: int) -> Found:
        way, reason = self._selected(form, selector, code)
        if way is None:  # not one of ours, or the image is no longer what it was
            return Found(code, reason=reason)
        if way.call(vaddr) is None:
            return Found(code, reason="a NOP whose target is out of reach")
        return Found(code, way, is_marked=bool(selector))

    def _is_bare_site(self, vaddr: int, before: bytes, form: LinkedCall, text: bytes) -> bool:
        """Tell whether a NOP without a mark is where gcc leaves one, and no padding is.

        -mnop-mcount does at a function's entry, -minstrument-return=nop5 before what ends one.
        """
        if text[: form.length] != x86.NOP5:
            return False
        if self.are_returns:
            return ends_function(text[form.length :])
        return self._is_entry(vaddr, before)

    def _is_entry(self, vaddr: int, before: bytes) -> bool:
        """Tell whether a function's first instruction but for an endbr is at `vaddr`."""
        name, distance = self._code.function_at(vaddr)
        distances = (0, len(before)) if before in ENDBR else (0,)
        is_first = name is not None and distance in distances
        return is_first and self._code.begins_function(vaddr - distance)

    def _restored(self, vaddr: int, nop: bytes) -> bytes | None:
        """Return the call that a NOP, read back, would be turned into."""
        for other in self._forms:
            selector = other.selector(nop)
            if selector is not None:
                way, _ = self._selected(other, selector, nop)
                return way.call(vaddr) if way else None
        return None

    def _nop_for(self, form: LinkedCall, number: int) -> bytes | None:
        """Return the marked NOP for a call of that target; None if it has no room for that."""
        count = len(self._reached[form])
        return form.nop_with(number << 4 | count) if count <= MOST_TARGETS else None

    def _selected(self, form: LinkedCall, selector: int, nop: bytes) -> tuple[Way | None, str]:
        """Return (the way, "") that the selector of a NOP means, or (None, why there is none)."""
        reached = self._reached[form]
        number, count = divmod(selector, 16)
        if form.origin == x86_linked.FROM_GOT and reached:
            number, count = self._of_one_base(number, count, len(reached))
        what = "slots" if form.through_slot else "functions and stubs"
        if len(reached) != (count or 1) or number >= len(reached):
            which = f"one of {count or 1} {what} of {self._callee}"
            return None, f"a NOP for {which}; there are {len(reached)}"
        return Way(State.NOP, form, *reached[number], nop), ""

    def _of_one_base(self, number: int, count: int, slots: int) -> tuple[int, int]:
        """Read the selector of a NOP that counts each slot once for each table of i386.

        Patcher made such before it knew from which table code counts. A call that counts from any
        other is none.
        """
        tables = self._targets.got_tables
        table, slot = divmod(number, slots)
        is_old = count == slots * len(tables) and table < len(tables)
        if is_old and tables[table] == self._targets.got_base:
            return slot, slots
        return number, count

    def _is_relocated(self, vaddr: int, length: int) -> bool:
        """Tell whether a relocation of up to 8 bytes touches the `length` bytes at `vaddr`."""
        number = bisect_left(self._relocated, vaddr - 7)
        return number < len(self._relocated) and self._relocated[number] < vaddr + length

    # --- many at once -------------------------------------------------------------------------

    def way_for_many(self, found: Found) -> Way | None:
        """Return the way that `found` stands in, if others can be compared with it."""
        way = found.way
        can = way is not None and way.nop is not None and found.is_marked and not self._relocated
        return way if can else None


def _by_first_byte(
    forms: Iterable[LinkedCall], code: Callable[[LinkedCall], bytes]
) -> dict[bytes, list[LinkedCall]]:
    """Sort forms by how their code begins, which tells most of them apart; the order stays."""
    found: dict[bytes, list[LinkedCall]] = {}
    for form in forms:
        found.setdefault(code(form)[:1], []).append(form)
    return found


def _reached(form: LinkedCall, targets: Targets) -> list[tuple[int, int, str]]:
    """Return (base, address, name) of all that a call of this form can reach mcount by.

    The base is that of the GOT in the register of an i386 call, and 0 for all others.
    """
    rows = (targets.slots if form.through_slot else targets.code).items()
    base = targets.got_base if form.origin == x86_linked.FROM_GOT else 0
    return [(base, address, name) for address, name in rows if base is not None]


def _origin(form: LinkedCall, vaddr: int, base: int) -> int:
    """Tell what the operand of a call at `vaddr` counts from, as a link-time virtual address."""
    if form.origin == x86_linked.FROM_END:
        return vaddr + len(form.prefix) + form.width
    return base
