"""What ftrace must do: judge of the property test, which counts the lines of Model.

Nothing is shared with ftrace.
"""

from collections.abc import Iterable
from errno import EBUSY, EFAULT, EINVAL, ENODEV, ENOENT, ENOEXEC, EPERM, ERANGE
from typing import NamedTuple

LINKED, NOP = bytes.fromhex("e811223344"), bytes.fromhex("0f1f440000")


class Site(NamedTuple):
    """A site of the module in a slot; `code` is what was last known to stand there."""

    slot: int
    name: str
    is_init: bool
    code: bytes


class User(NamedTuple):
    """Who traces the functions of these names. A target of None is that of the linked call."""

    target: int | None
    names: frozenset[str]


class RefusedError(Exception):
    """How a step ends that fails; its one argument is the errno."""


def refuse(errno: int, when: bool) -> None:
    if when:
        raise RefusedError(errno)


def call(address: int, target: int | None) -> bytes:
    if target is None:
        return LINKED
    distance = target - (address + 5)
    refuse(ERANGE, abs(distance) >= 1 << 31)
    return b"\xe8" + distance.to_bytes(4, "little", signed=True)


def code(address: int, targets: list[int | None], dispatcher: int) -> bytes:
    """What must stand at the site that users with these targets trace."""
    target = targets[0] if len(targets) == 1 else dispatcher
    return call(address, target) if targets else NOP


class Model:
    """Each step raises RefusedError or makes of `memory`, which begins at `start`, what it must.

    With `takes_back` a write fault leaves no site changed, else those before it. The test says
    which sites are in `faults`, and in `usurped` the slots whose module went without a word.
    """

    def __init__(self, start: int, size: int, dispatcher: int, takes_back: bool) -> None:
        self.start, self.dispatcher, self.takes_back = start, dispatcher, takes_back
        self.memory = bytearray(size)
        self.states, self.sites = dict[int, str](), dict[int, Site]()
        self.users = frozenset[User]()
        self.faults, self.usurped, self.disabled = dict[int, int](), set[int](), False

    def load(self, slot: int, sites: dict[int, Site]) -> None:
        refuse(ENOEXEC, self.states.get(slot, "gone") != "gone")
        self.states[slot], self.sites = "coming", self.sites | sites
        self.update({} if self.disabled else dict.fromkeys(sites, NOP))

    def live(self, slot: int) -> None:
        refuse(EBUSY, self.states.get(slot) != "coming")
        wanted = {} if self.disabled else self.wanted({slot}, self.users)
        self.states[slot] = "live"
        self.update(wanted)

    def leave(self, slot: int, before: Iterable[str], after: str, *, init: bool) -> None:
        refuse(EBUSY, self.states.get(slot, "gone") not in before)
        self.states[slot] = after
        self.sites = {a: s for a, s in self.sites.items() if s.slot != slot or s.is_init < init}

    def toggle(self, user: User, *, on: bool) -> None:
        refuse(ENODEV, self.disabled)
        refuse(EBUSY, (user in self.users) == on)
        live = {slot for slot, state in self.states.items() if state == "live"}
        self.update(self.wanted(live, self.users ^ {user}))
        self.users ^= {user}

    def switch(self, address: int, target: int | None) -> None:
        site = self.sites.get(address)
        refuse(ENOENT, site is None or self.states[site.slot] != "live")
        refuse(ENODEV, self.disabled)
        refuse(EBUSY, (self.sites[address].code == NOP) == (target is None))
        self.update({address: NOP if target is None else call(address, target)})

    def wanted(self, slots: set[int], users: frozenset[User]) -> dict[int, bytes]:
        sites = {a: s for a, s in self.sites.items() if s.slot in slots}
        targets = {a: [u.target for u in users if s.name in u.names] for a, s in sites.items()}
        return {a: code(a, each, self.dispatcher) for a, each in targets.items()}

    def update(self, wanted: dict[int, bytes]) -> None:
        todo = [a for a in sorted(wanted) if wanted[a] != self.sites[a].code]
        at = {a: slice(a - self.start, a - self.start + 5) for a in todo}
        before, self.disabled = self.disabled, True  # unless all of this goes well
        refuse(EFAULT, any(self.sites[a].slot in self.usurped for a in todo))
        refuse(EFAULT, any(self.faults.get(a) == EFAULT for a in todo))
        refuse(EINVAL, any(self.memory[at[a]] != self.sites[a].code for a in todo))
        refuse(EPERM, self.takes_back and any(a in self.faults for a in todo))
        for a in todo:
            refuse(EPERM, a in self.faults)
            self.memory[at[a]] = wanted[a]
        self.sites |= {a: self.sites[a]._replace(code=wanted[a]) for a in todo}
        self.disabled = before
