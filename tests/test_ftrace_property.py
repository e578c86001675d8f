"""Random sequences of everything that can happen, against a model that shares no code with ftrace.

Modules come, go live, free their init text, go and come again at the same addresses, or vanish
without a word; where none is, a device's memory spells calls. Users come and go, sites are switched
by hand, others write into sites and elsewhere, reads and writes fault. After every step memory,
records and switch are those of the model, and ftrace has written nothing but sites of modules that
are there.
"""

import inspect
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from errno import EFAULT, EPERM, errorcode
from functools import partial
from typing import NamedTuple

import pytest

from patcher.errors import NoModuleError, NoSiteError, PatchError
from patcher.ftrace import ops
from patcher.ftrace.control import Ftrace
from patcher.ftrace.mappings import Mapping, Range
from patcher.ftrace.modules import Module, Modules, ModuleState
from patcher.ftrace.records import Flags, Record
from patcher.modify import Batch, modify_batch, modify_code
from patcher.protocols import breakpoint as breakpoint_
from patcher.protocols import nmi, stop_machine
from patcher.protocols.machine import Machine
from tests.support.modules import CALL, NOP, SIZE, Memory, loaded_at, mapping_of
from tests.support.reference_model import Model, RefusedError, Site, User

START, SLOTS = 0x40_0000, 3
LIST, TRACER = START + 0x5000, START + 0x6000
# What a module can be: what its sites hold, where its init text begins, its sites.
KINDS: tuple[tuple[bytes, int, tuple[tuple[int, str], ...]], ...] = (
    (CALL, 0x30, ((0x00, "open"), (0x10, "read"), (0x30, "setup"))),
    (CALL, SIZE, ((0x08, "ioctl"), (0x10, "write"), (0x20, "read"))),
    (NOP, 0x18, ((0x00, "open"), (0x0B, "close"), (0x18, "setup"), (0x3B, "read"))),
)
OFFSETS = sorted({at for _, _, sites in KINDS for at, _ in sites})
# Each user as ftrace has it, and the functions it traces as the model has them.
USERS = (
    (ops.Ops("all", START + 0x1000), "open read setup ioctl write close"),
    (ops.Ops("io", START + 0x2000, ("read", "write")), "read write"),
    (ops.Ops("quiet", START + 0x3000, notrace=("*e*",)), "ioctl"),
    (ops.Ops("linked", None, ("*o*",)), "open ioctl close"),
    (ops.Ops("far", 1 << 40, ("close",)), "close"),
)
WEIGHTS = {
    "load": 10, "live": 12, "free_init": 4, "going": 2, "unload": 4, "vanish": 0.5, "register": 14,
    "unregister": 10, "make_call": 14, "make_nop": 10, "write_elsewhere": 8,
    "write_into_a_site": 1.6, "read_fault": 0.8, "write_fault": 1.2, "mend": 1.0,
}  # fmt: skip
EPISODES, STEPS = 250, 100  # of each of four blocks: 100,000 steps in all


class Step(NamedTuple):
    """One thing that happens; `offset` counts from the beginning of the slot."""

    what: str
    slot: int
    number: int
    offset: int

    @property
    def address(self) -> int:
        return START + self.slot * SIZE + self.offset


def steps(seed: int) -> list[Step]:
    """The steps of an episode, which begins with a module in every slot."""
    source = random.Random(seed)
    whats = ["load"] * SLOTS + ["live"] * SLOTS
    whats += source.choices([*WEIGHTS], [*WEIGHTS.values()], k=STEPS - len(whats))
    return [
        Step(
            what,
            number % SLOTS if number < 2 * SLOTS else source.randrange(SLOTS),
            source.randrange(60),
            source.choice(OFFSETS),
        )
        for number, what in enumerate(whats)
    ]


class Deviates(AssertionError):  # noqa: N818
    """Ftrace did not do what the model did."""


class Subject(NamedTuple):
    """What is tested: an ftrace over the memory, and how its protocol takes a write fault."""

    make: Callable[[Memory], Ftrace]
    takes_back: bool = False  # no site is changed then; else those before it are


def registry(memory: Memory, kind: type[Modules] = Modules) -> Modules:
    return kind(lambda: memory.mappings)


def over(
    protocol: Callable[[Memory, Batch], None] = modify_batch,
    kind: type[Ftrace] = Ftrace,
    modules: type[Modules] = Modules,
    *,
    takes_back: bool = False,
) -> Subject:
    def make(memory: Memory) -> Ftrace:
        return kind(registry(memory, modules), partial(protocol, memory), dispatcher=LIST)

    return Subject(make, takes_back)


def on_machine(modify: Callable[[Machine, Batch], None]) -> Callable[[Memory, Batch], None]:
    return lambda memory, batch: modify(Machine(memory), batch)


Outcome = tuple[int, int]  # the errno that the model ended with, and that of ftrace


class Episode:
    """One ftrace and its model, side by side. `seen` counts (step, errno's name)."""

    def __init__(self, subject: Subject) -> None:
        self.memory = Memory(START, SLOTS * SIZE)
        self.ftrace = subject.make(self.memory)
        self.model = Model(START, SLOTS * SIZE, LIST, subject.takes_back)
        # The module in each slot, or the last that was; the addresses that may be written to.
        self.modules = [loaded_at(START + slot * SIZE) for slot in range(SLOTS)]
        self.sites: list[set[int]] = [set() for _ in range(SLOTS)]
        self.seen: Counter[tuple[str, str]] = Counter()

    def run(self, steps: Sequence[Step]) -> None:
        """Raises Deviates after the first step that is not as the model has it."""
        for number, step in enumerate(steps):
            was_disabled = self.model.disabled
            self.memory.written.clear()
            expected, actual = getattr(self, step.what)(step)
            self.seen[step.what, errorcode.get(expected, "")] += 1
            problem = self.problem(step.slot, was_disabled)
            if actual != expected:
                problem = f"{errorcode.get(actual)} instead of {errorcode.get(expected)}"
            if problem:
                raise Deviates(f"{problem} after step {number}, {step}")

    def problem(self, slot: int, was_disabled: bool) -> str:
        """What is not as it must be, now."""
        sites = set().union(*self.sites)
        for address, size in self.memory.written:
            if not any(site <= address and address + size <= site + 5 for site in sites):
                return f"wrote to {address:#x}, which is no site"
        if was_disabled and self.memory.written:
            return "wrote after a deviation"
        if self.memory.text != self.model.memory:
            return "other bytes"
        if self.ftrace.status().is_disabled != self.model.disabled:
            return "another switch"
        known = {at: site.code for at, site in self.model.sites.items() if self.is_live(site)}
        places = {START + slot * SIZE + offset for offset in OFFSETS} | {*known}
        if self.records(places) != {at: (code, code != NOP) for at, code in known.items()}:
            return "other records"
        return ""

    def is_live(self, site: Site) -> bool:
        return self.model.states[site.slot] == "live"

    def is_known(self, slot: int) -> bool:
        """Whether a module was loaded there of which nobody said that it is gone."""
        return self.model.states.get(slot, "gone") != "gone"

    def records(self, addresses: set[int]) -> dict[int, tuple[bytes, bool]]:
        """What ftrace knows of these addresses."""
        found = {}
        for address in addresses:
            with suppress(NoModuleError, NoSiteError):
                record = self.ftrace.record(address)
                found[address] = (record.code, Flags.ENABLED in record.flags)
        return found

    # --- modules ------------------------------------------------------------------------------

    def load(self, step: Step) -> Outcome:
        code, init, sites = KINDS[step.number % len(KINDS)]
        start = START + step.slot * SIZE
        module = loaded_at(start, sites=sites, code=code, init=init)
        known = {start + at: Site(step.slot, name, at >= init, code) for at, name in sites}
        if not self.is_known(step.slot):  # the loader has room there
            self.model.usurped.discard(step.slot)
            self.memory.take(mapping_of(module))
            self.poke(start, b"\xcc" * SIZE)
            for address in known:
                self.poke(address, code)
            self.modules[step.slot] = module
            self.sites[step.slot] = set(known)
        return outcome(
            lambda: self.model.load(step.slot, known),
            lambda: self.ftrace.load(module),
        )

    def live(self, step: Step) -> Outcome:
        module = self.modules[step.slot]
        return outcome(lambda: self.model.live(step.slot), lambda: self.ftrace.live(module))

    def free_init(self, step: Step) -> Outcome:
        module = self.modules[step.slot]
        ended = self.leave(step, ["live"], "live", self.ftrace.free_init, only_init=True)
        if not ended[0]:
            for init in module.init:
                self.reuse(step.slot, init.start, init.end)
        return ended

    def going(self, step: Step) -> Outcome:
        return self.leave(step, ["coming", "live"], "going", self.ftrace.going)

    def unload(self, step: Step) -> Outcome:
        ended = self.leave(step, ["coming", "live", "going"], "gone", self.ftrace.unload)
        if not ended[0]:
            start = START + step.slot * SIZE
            self.reuse(step.slot, start, start + SIZE)
        return ended

    def vanish(self, step: Step) -> Outcome:
        """Nobody says that the module goes, and it is gone."""
        if self.is_known(step.slot):
            self.model.usurped.add(step.slot)
            start = START + step.slot * SIZE
            self.reuse(step.slot, start, start + SIZE)
        return 0, 0

    def leave(
        self,
        step: Step,
        before: list[str],
        after: str,
        request: Callable[[Module], None],
        *,
        only_init: bool = False,
    ) -> Outcome:
        return outcome(
            lambda: self.model.leave(step.slot, before, after, init=only_init),
            lambda: request(self.modules[step.slot]),
        )

    def reuse(self, slot: int, start: int, end: int) -> None:
        """A device is here now, which spells calls wherever there was a site."""
        self.memory.take(Mapping(Range(start, end), "rw-s", 5, 1033, "/dev/mem"))
        self.sites[slot] = {site for site in self.sites[slot] if not start <= site < end}
        for offset in OFFSETS:
            address = START + slot * SIZE + offset
            if start <= address <= end - len(CALL):
                self.poke(address, CALL)

    # --- users, and by hand -------------------------------------------------------------------

    def register(self, step: Step) -> Outcome:
        user, known = user_of(step)
        return outcome(
            lambda: self.model.toggle(known, on=True), lambda: self.ftrace.register(user)
        )

    def unregister(self, step: Step) -> Outcome:
        user, known = user_of(step)
        return outcome(
            lambda: self.model.toggle(known, on=False), lambda: self.ftrace.unregister(user.name)
        )

    def make_call(self, step: Step) -> Outcome:
        at, ftrace = step.address, self.ftrace
        return outcome(
            lambda: self.model.switch(at, TRACER),
            lambda: ftrace.make_call(ftrace.record(at), TRACER),
        )

    def make_nop(self, step: Step) -> Outcome:
        at, ftrace = step.address, self.ftrace
        return outcome(
            lambda: self.model.switch(at, None), lambda: ftrace.make_nop(ftrace.record(at))
        )

    # --- others -------------------------------------------------------------------------------

    def write_into_a_site(self, step: Step) -> Outcome:
        self.poke(step.address + step.number % len(CALL), bytes((step.number,)))
        return 0, 0

    def write_elsewhere(self, step: Step) -> Outcome:
        """Beside all sites, or into what is no module's any more."""
        address = START + step.slot * SIZE + step.number
        if not any(0 <= address - site < len(CALL) for site in set().union(*self.sites)):
            self.poke(address, bytes((step.number,)))
        return 0, 0

    def read_fault(self, step: Step) -> Outcome:
        return self.fault(step, EFAULT)

    def write_fault(self, step: Step) -> Outcome:
        return self.fault(step, EPERM)

    def fault(self, step: Step, kind: int) -> Outcome:
        self.model.faults[step.address] = kind
        return self.tell_faults()

    def mend(self, _: Step) -> Outcome:
        self.model.faults.clear()
        return self.tell_faults()

    def tell_faults(self) -> Outcome:
        faults = self.model.faults.items()
        self.memory.unreadable = {at for at, kind in faults if kind == EFAULT}
        self.memory.unwritable = {at for at, kind in faults if kind == EPERM}
        return 0, 0

    def poke(self, address: int, data: bytes) -> None:
        self.memory.poke(address, data)
        self.model.memory[address - START : address - START + len(data)] = data


def user_of(step: Step) -> tuple[ops.Ops, User]:
    user, names = USERS[step.number % len(USERS)]
    return user, User(user.target, frozenset(names.split()))


def outcome(model: Callable[[], None], ftrace: Callable[[], None]) -> Outcome:
    expected = actual = 0
    try:
        model()
    except RefusedError as error:
        (expected,) = error.args
    try:
        ftrace()
    except PatchError as error:
        actual = error.errno
    return expected, actual


# --- the property ---------------------------------------------------------------------------------


def failure(subject: Subject, steps: Sequence[Step]) -> str:
    """Why these steps fail; empty if they do not."""
    try:
        Episode(subject).run(steps)
    except Deviates as error:
        return str(error)
    return ""


def shrunk(subject: Subject, steps: list[Step]) -> list[Step]:
    """Failing steps, each of which is needed for the failure."""
    size = len(steps)
    while size:
        size //= 2
        for at in range(len(steps) - size, -1, -max(size, 1)):
            fewer = steps[:at] + steps[at + max(size, 1) :]
            if failure(subject, fewer):
                steps = fewer
    return steps


def explain(subject: Subject, seed: int) -> str:
    """The seed of a failing episode, its shortest steps, and why they fail."""
    fewer = shrunk(subject, steps(seed))
    return "\n".join((f"seed {seed}: {failure(subject, fewer)}", *map(str, fewer)))


def run_block(subject: Subject, block: int) -> Counter[tuple[str, str]]:
    """What was seen in the episodes of a block. AssertionError says how one failed."""
    seen: Counter[tuple[str, str]] = Counter()
    for seed in range(block * EPISODES, (block + 1) * EPISODES):
        episode = Episode(subject)
        try:
            episode.run(steps(seed))
        except Deviates:
            raise AssertionError(explain(subject, seed)) from None
        seen += episode.seen
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "subject"),
    [
        pytest.param(0, over(modify_batch), id="direct"),
        pytest.param(1, over(on_machine(stop_machine.modify)), id="stop_machine"),
        pytest.param(2, over(on_machine(nmi.modify)), id="nmi"),
        pytest.param(3, over(on_machine(breakpoint_.modify), takes_back=True), id="breakpoint"),
    ],
)
def test_only_sites_of_live_modules_change_and_after_a_deviation_nothing_does(
    block: int, subject: Subject
) -> None:
    seen = run_block(subject, block)
    assert seen.total() == EPISODES * STEPS
    assert_everything_occurs(seen)


def assert_everything_occurs(seen: Counter[tuple[str, str]]) -> None:
    """Every step done and refused, every errno, deviations of every kind: many times in a block."""
    refusals = [
        ("load", "ENOEXEC"), ("live", "EBUSY"), ("free_init", "EBUSY"), ("going", "EBUSY"),
        ("unload", "EBUSY"), ("register", "EBUSY"), ("unregister", "EBUSY"), ("make_call", "EBUSY"),
        ("make_nop", "EBUSY"), ("make_call", "ENOENT"), ("make_nop", "ENOENT"),
        ("register", "ENODEV"), ("unregister", "ENODEV"), ("make_call", "ENODEV"),
        ("make_nop", "ENODEV"), ("register", "ERANGE"),
    ]  # fmt: skip
    for step in [*((what, "") for what in WEIGHTS), *refusals]:
        assert seen[step] >= 25, (step, seen)
    assert seen["live", "ERANGE"] > 0
    for error in ("EFAULT", "EINVAL", "EPERM"):
        assert sum(number for step, number in seen.items() if step[1] == error) >= 25, (error, seen)
    for what in ("load", "live", "register"):
        assert sum(seen[what, error] for error in ("EFAULT", "EINVAL", "EPERM")) >= 5, (what, seen)


def test_the_model_has_50_lines() -> None:
    """Without its docstring and blank lines."""
    code = inspect.getsource(Model).replace(Model.__doc__ or "", "")
    assert sum(bool(line.strip(' "')) for line in code.splitlines()) <= 50


# --- it can fail ----------------------------------------------------------------------------------


class ForgetsToDrop(Modules):
    """Records of what has gone stay: the mistake of 2008."""

    def _drop_points(self, module: Module, ranges: Sequence[Range]) -> None:
        pass


class ForgetsInit(Modules):
    """Init text that was freed is taken for text."""

    def free_init(self, module: Module) -> None:
        if self.states.get(module) is not ModuleState.LIVE:
            super().free_init(module)


class HasAnOff(Ftrace):
    """The switch goes back by itself."""

    def _refuse_if_disabled(self) -> None:
        self._bug = None


class EnablesTooEarly(Ftrace):
    """Modules are traced before they are live."""

    def load(self, module: Module) -> None:
        super().load(module)
        self.live(module)


class NeverNops(Ftrace):
    """The calls of a coming module stay."""

    def load(self, module: Module) -> None:
        self.modules.load(module)
        self._records[module] = {point.address: Record(module, point) for point in module.points}


class TrustsTheLoad(Ftrace):
    """What was text once is taken for text as long as nobody says that it went."""

    def _check_text(self, touched: object) -> None:
        pass


def compares_nothing(memory: Memory, batch: Batch) -> None:
    batch.check()
    memory.scatter(batch.addresses, batch.new)


def verifies_one_by_one(memory: Memory, batch: Batch) -> None:
    batch.check()
    for change in batch:
        modify_code(memory, change.address, change.old, change.new)


def spills(memory: Memory, batch: Batch) -> None:
    """A byte too much is written behind each site."""
    modify_batch(memory, batch)
    for address, new in zip(batch.addresses, batch.new, strict=True):
        if address + len(new) < START + SLOTS * SIZE:
            memory.text[address - START + len(new)] = 0x90


def without_dispatcher(memory: Memory) -> Ftrace:
    return Ftrace(registry(memory), partial(modify_batch, memory))


@pytest.mark.parametrize(
    ("subject", "why"),
    [
        pytest.param(subject, why, id=name)
        for name, subject, why in (
            ("forgets to drop records", over(modules=ForgetsToDrop), "other records"),
            ("forgets freed init text", over(modules=ForgetsInit), "other records"),
            ("a switch with an off", over(kind=HasAnOff), "instead of ENODEV"),
            ("enables before live", over(kind=EnablesTooEarly), "other records"),
            ("leaves the calls of a coming module", over(kind=NeverNops), "other bytes"),
            ("looks at the mappings at load only", over(kind=TrustsTheLoad), "instead of EFAULT"),
            ("compares nothing", over(compares_nothing), "None instead of EINVAL"),
            ("verifies one by one", over(verifies_one_by_one), "other bytes"),
            ("writes beyond the site", over(spills), "other bytes"),
            ("no dispatcher", Subject(without_dispatcher), "other bytes"),
        )
    ],
)
def test_a_broken_ftrace_is_caught_for_what_it_does_by_few_steps(
    subject: Subject, why: str
) -> None:
    with pytest.raises(AssertionError) as caught:
        run_block(subject, 0)
    reason, *needed = str(caught.value).splitlines()
    assert re.fullmatch(f"seed \\d+: .*{why} after step .*", reason)
    assert 1 <= len(needed) <= 8, caught.value
