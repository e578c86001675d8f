"""What can stand at a site."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class State(str):
    """`call`, `nop` or `foreign`: a string, one object for each (`enum` imports slowly)."""

    __slots__ = ()
    CALL: "ClassVar[State]"
    NOP: "ClassVar[State]"
    FOREIGN: "ClassVar[State]"


STATES = State.CALL, State.NOP, State.FOREIGN = State("call"), State("nop"), State("foreign")
