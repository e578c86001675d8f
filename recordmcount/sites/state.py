"""What can stand at a site, and which of many sites stand so."""

from __future__ import annotations

from recordmcount.columns import positions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import ClassVar


class State(str):
    """`call`, `nop` or `foreign`: a string, one object for each (`enum` imports slowly).

    In a process also `traced`: it calls what `patcher trace` has put there.
    """

    __slots__ = ()
    CALL: ClassVar[State]
    NOP: ClassVar[State]
    FOREIGN: ClassVar[State]
    TRACED: ClassVar[State]


STATES = State.CALL, State.NOP, State.FOREIGN = State("call"), State("nop"), State("foreign")
State.TRACED = State("traced")
LIVE_STATES = (*STATES, State.TRACED)  # of sites in a process


def in_state(
    state: State,
    numbers: Sequence[int],
    column: bytes,
    ways: Sequence[State],
    single: Callable[[int], State],
) -> Sequence[int]:
    """Choose those of ascending `numbers` whose sites are in `state`.

    `column` tells for each of `numbers` the way its site stands in, and `ways` the state of those
    with number 1, 2, ...; 0 is for a site that was decided alone: `single` gives its state.
    """
    wanted = {way for way, each in enumerate(ways, 1) if each is state}
    if not column.strip(column[:1]) and 0 not in column:  # nearly always: all alike
        return numbers if column[:1] and column[0] in wanted else []
    return [
        numbers[at]
        for at in positions(column, {*wanted, 0})
        if column[at] or single(numbers[at]) is state
    ]
