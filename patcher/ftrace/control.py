"""Controls the sites of all modules: which ops trace what, one verified batch for each update.

Whatever goes wrong while code is changed is a bug: our own, or that of someone who wrote where only
we may. It is reported once, nothing is undone, and the switch is thrown for good: no code is
touched any more. Modules come and go as before, since that is bookkeeping. (As the kernel's
ftrace_bug and ftrace_kill; text is not restored on unloading either.)

A wrong request, such as an address that is no site or a target out of reach, is refused before
anything is read or written. It does not throw the switch, for it says nothing about the code.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType

from patcher.errors import DisabledError, NoModuleError, NoSiteError, ReadError, StateError
from patcher.modify import Batch

from . import mappings as maps
from . import records
from .bug import Bug
from .mappings import Range
from .modules import Kind, Module, Modules, ModuleState
from .ops import Ops
from .records import Flags, Record, Update, Verb


@dataclass(frozen=True, slots=True)
class ModuleStatus:
    """One module: how many of its sites are calls, are NOPs, and may not be touched yet."""

    path: str
    build_id: bytes
    state: ModuleState
    calls: int
    nops: int
    disabled: int


@dataclass(frozen=True, slots=True)
class Status:
    """The status of all of it. `bug` is why the switch was thrown, None if it was not.

    `ops` are the names of the registered ops. `calls`, `nops` and `disabled` count the sites of all
    modules; `updates` the batches that were made, `changes` the changes in them, `nmi_wait_count`
    how often a writer waited for an NMI, `nmi_update_count` how often an NMI wrote in its stead.
    """

    bug: Bug | None
    modules: tuple[ModuleStatus, ...]
    ops: tuple[str, ...]
    calls: int
    nops: int
    disabled: int
    updates: int
    changes: int
    nmi_wait_count: int
    nmi_update_count: int

    @property
    def is_disabled(self) -> bool:
        """Whether the switch was thrown."""
        return self.bug is not None


class Ftrace:
    """The sites of one address space.

    `protocol` makes all changes of a batch or raises a PatchError. Before it compares, the mappings
    are checked again: what is not text any more is not even read. (Between that check and the write
    nothing can be unmapped if all CPUs are stopped. If they run, behind breakpoints, it can, so
    then all unloading must be announced.) Modules must be loaded and unloaded here, not through
    `modules`.

    A site that several ops trace calls `dispatcher`, a run-time address; None leaves its call as
    linked. `nops` has NOPs by length in bytes that the processor prefers to those of the files, as
    `x86_nops.NOP_FAMILIES[nop_family.at_hand()]`. `report` is called with the one bug;
    `statistics` is what the protocol's machine counts under the kernel's names.

    What is switched by hand stays so until ops come or go, which decide again. For one thread at a
    time.

    Everything that touches code raises DisabledError once the switch is thrown. Until then it
    raises what the protocol raises, which throws the switch, except a StateError: then a CPU stands
    inside a site, nothing was changed, and the caller may try again. Once the switch is thrown,
    assume that any target that was ever asked for is still called.
    """

    def __init__(
        self,
        modules: Modules,
        protocol: Callable[[Batch], None],
        *,
        dispatcher: int | None = None,
        nops: Mapping[int, bytes] = records.NO_PREFERRED_NOPS,
        report: Callable[[Bug], None] = lambda _: None,
        statistics: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.modules = modules
        self._protocol = protocol
        self._dispatcher = dispatcher
        self._nops = nops
        self._report = report
        self._statistics = statistics
        self._bug: Bug | None = None
        self._records: dict[Module, dict[int, Record]] = {}
        self._ops: dict[str, Ops] = {}
        self._updates = self._changes = 0

    # --- modules ------------------------------------------------------------------------------

    def load(self, module: Module) -> None:
        """Make the module COMING: its records appear DISABLED, and its calls are turned to NOPs.

        The file's NOPs are replaced where the processor prefers others. Raises what `Modules.load`
        raises, and StateError if a CPU stands inside a site; the module is not loaded then. If its
        code deviates, the module is loaded all the same. Once the switch is thrown, its code stays
        as it was linked.
        """
        self.modules.load(module)
        here = {point.address: Record(module, point, self._nops) for point in module.points}
        self._records[module] = here
        if self._bug is not None:
            return
        updates = [
            records.change(record, Verb.MAKE_NOP, None, flags=record.flags, users=0)
            for record in here.values()
            if record.is_site or Flags.ENABLED not in record.flags
        ]
        try:
            self._apply(updates)
        except StateError:  # nothing was changed
            self.unload(module)
            raise

    def live(self, module: Module) -> None:
        """Make the module LIVE: its records are DISABLED no longer, traced sites get their calls.

        Raises StateError if it is not COMING or a CPU stands inside a site, ReachError if a target
        is out of reach; its state is then unchanged. Once the switch is thrown, even by this call,
        the module is LIVE and its records stay DISABLED.
        """
        updates: list[Update] = []
        if self._bug is None and self.modules.states.get(module) is ModuleState.COMING:
            here = self._records[module].values()
            updates = list(self._plan(here, self._ops.values(), clear=Flags.DISABLED))
        try:
            self._apply(updates)
        except BaseException:
            if self._bug is not None:
                self.modules.live(module)
            raise
        self.modules.live(module)

    def free_init(self, module: Module) -> None:
        """Drop the records of init text about to be freed. Raises StateError if not LIVE."""
        self.modules.free_init(module)
        self._drop_unregistered(module)

    def going(self, module: Module) -> None:
        """Make the module GOING, its memory still there: drop its records, leave its code as it is.

        Raises StateError if it is not loaded or is GOING already.
        """
        self.modules.going(module)
        self._drop_unregistered(module)

    def unload(self, module: Module) -> None:
        """Forget the module: its memory is gone. Raises StateError if it was not loaded."""
        self.modules.unload(module)
        del self._records[module]

    # --- ops ----------------------------------------------------------------------------------

    def register(self, ops: Ops) -> None:
        """Let `ops` trace the functions it selects, in modules that come later as well.

        Raises StateError if ops of that name are registered, ReachError if the target is out of
        reach; nothing has changed then.
        """
        self._refuse_if_disabled()
        if ops.name in self._ops:
            raise StateError(ops.name, "is registered already")
        self._set_ops({**self._ops, ops.name: ops})

    def unregister(self, name: str) -> None:
        """Let the ops of this name trace nothing any more. Raises StateError if there are none."""
        self._refuse_if_disabled()
        if name not in self._ops:
            raise StateError(name, "is not registered")
        self._set_ops({key: ops for key, ops in self._ops.items() if key != name})

    # --- by hand ------------------------------------------------------------------------------

    def record(self, address: int) -> Record:
        """Find the record at run-time address `address`.

        Raises NoModuleError if no live module is there, NoSiteError if it has no site there.
        """
        module, _ = self.modules.find(address)
        return self._records[module][address]

    def make_nop(self, record: Record) -> None:
        """Turn the site's call into a NOP. Raises StateError if it is a NOP."""
        self._check_request(record, Kind.SITE, is_call=True)
        self._change(record, Verb.MAKE_NOP, None)

    def make_call(self, record: Record, target: int | None) -> None:
        """Turn the site's NOP into a call of `target`. Raises StateError if it is a call."""
        self._check_request(record, Kind.SITE, is_call=False)
        self._change(record, Verb.MAKE_CALL, target)

    def modify_call(self, record: Record, old_target: int | None, new_target: int | None) -> None:
        """Let the site call `new_target`. Raises StateError if it does not call `old_target`."""
        self._check_request(record, Kind.SITE, is_call=True)
        if record.target != old_target:
            actual, expected = _target_name(record.target), _target_name(old_target)
            raise _state_error(record, f"calls {actual}, not {expected}")
        self._change(record, Verb.MODIFY_CALL, new_target)

    def update_func(self, record: Record, target: int | None) -> None:
        """Let the call inside a trampoline call `target`; None: what it was linked for."""
        self._check_request(record, Kind.TRAMPOLINE, is_call=True)
        self._change(record, Verb.UPDATE_FUNC, target)

    def modify_jump(self, record: Record, target: int | None) -> None:
        """Let the hook of a trampoline jump to `target`; None makes it a NOP."""
        self._check_request(record, Kind.HOOK)
        self._change(record, Verb.MODIFY_JUMP, target)

    # --- status -------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return the status of all modules, ops and sites."""
        modules = [self._module_status(*each) for each in self.modules.states.items()]
        return Status(
            self._bug,
            tuple(modules),
            tuple(self._ops),
            sum(module.calls for module in modules),
            sum(module.nops for module in modules),
            sum(module.disabled for module in modules),
            self._updates,
            self._changes,
            self._statistics.get("nmi_wait_count", 0),
            self._statistics.get("nmi_update_count", 0),
        )

    def _module_status(self, module: Module, state: ModuleState) -> ModuleStatus:
        flags = [each.flags for each in self._records[module].values() if each.is_site]
        calls = sum(Flags.ENABLED in each for each in flags)
        disabled = sum(Flags.DISABLED in each for each in flags)
        identity = module.identity
        return ModuleStatus(
            identity.path, identity.build_id, state, calls, len(flags) - calls, disabled
        )

    # --- updates ------------------------------------------------------------------------------

    def _set_ops(self, registered: dict[str, Ops]) -> None:
        all_records = (record for here in self._records.values() for record in here.values())
        self._apply(list(self._plan(all_records, registered.values())))
        self._ops = registered

    def _plan(
        self, to_update: Iterable[Record], registered: Iterable[Ops], clear: Flags = Flags.NONE
    ) -> Iterator[Update]:
        """Plan the update of records for these ops, once the flags `clear` are cleared.

        Which ops trace a function depends on its names alone: it is found once for all its sites.
        """
        tracing: dict[tuple[str, ...], list[Ops]] = {}
        registered = list(registered)
        for record in to_update:
            flags = record.flags & ~clear
            if not record.is_site:
                yield Update(record, Verb.IGNORE, flags, 0, record.code, record.target)
                continue
            names = record.point.names
            if names not in tracing:
                tracing[names] = [ops for ops in registered if ops.traces(names)]
            yield records.plan(record, tracing[names], self._dispatcher, flags)

    def _apply(self, updates: Sequence[Update]) -> None:
        """Make all the updates, or none if the protocol finds a deviation."""
        changes = [each for each in updates if each.code != each.record.code]
        if changes:
            changes.sort(key=attrgetter("record.address"))
            try:
                self._protocol(self._batch(changes))
            except StateError:  # nothing deviates, and nothing was changed
                raise
            except BaseException as error:  # after an interrupt too, nobody knows what stands there
                self._bug = Bug.of(error, changes)
                self._report(self._bug)
                raise
            self._updates += 1
            self._changes += len(changes)
        for each in updates:
            each.settle()

    def _batch(self, changes: Sequence[Update]) -> Batch:
        """Make a batch of the changes, which ascend. Raises NoModuleError if a module is unknown.

        That would be a bug of our own, the one of 2008, so this check is the last before the batch.
        """
        touched: dict[Range, Record] = {}
        text = Range(0, 0)
        for record in (each.record for each in changes):
            if not self.modules.has(record.module, record.point):
                self.modules.find(record.address)  # says what was there, and when it went
                raise _module_gone_error(record)
            if not text.holds(record.address):
                text = self.modules.text_at(record.address)
                touched[text] = record
        symbols = {each.record.address: each.record.point.symbol for each in changes}
        return Batch(
            list(symbols),
            [each.record.code for each in changes],
            [each.code for each in changes],
            lambda address: symbols.get(address, ""),
            lambda: self._check_text(touched),
        )

    def _check_text(self, touched: Mapping[Range, Record]) -> None:
        """Raise ReadError if a module went unannounced, and something else has its addresses.

        `touched` are ranges of modules, each with its first record that is about to be changed.
        """
        mappings = self.modules.mappings()
        for text, record in touched.items():
            identity = record.module.identity
            if why := maps.why_not_text(text, mappings, identity.device, identity.inode):
                raise ReadError(
                    identity.path, f"no longer text: {text} {why}",
                    address=record.address, symbol=record.point.symbol,
                )  # fmt: skip

    def _check_request(self, record: Record, kind: Kind, *, is_call: bool | None = None) -> None:
        """Raise if the record may not be changed by hand, or is not of the `kind` and state wanted.

        A record kept from a module that has gone says nothing about what is there now.
        """
        self._refuse_if_disabled()
        if self.record(record.address) is not record:
            raise _module_gone_error(record)
        if record.point.kind is not kind:
            raise NoSiteError(
                record.module.path, f"a {record.point.kind}, not a {kind}",
                address=record.address, symbol=record.point.symbol,
            )  # fmt: skip
        if is_call not in (None, Flags.ENABLED in record.flags):
            raise _state_error(record, "is a NOP already" if is_call else "is a call already")

    def _change(self, record: Record, what: Verb, target: int | None) -> None:
        self._apply([records.change(record, what, target, flags=record.flags, users=record.users)])

    def _drop_unregistered(self, module: Module) -> None:
        here = self._records[module]
        self._records[module] = {
            address: record
            for address, record in here.items()
            if self.modules.has(module, record.point)
        }

    def _refuse_if_disabled(self) -> None:
        if self._bug is not None:
            raise DisabledError("ftrace", f"disabled for good after: {self._bug.what}")


def _module_gone_error(record: Record) -> NoModuleError:
    return NoModuleError(
        record.module.path, "the record is of a module that has gone; another is there now",
        address=record.address, symbol=record.point.symbol,
    )  # fmt: skip


def _state_error(record: Record, what: str) -> StateError:
    return StateError(record.module.path, what, address=record.address, symbol=record.point.symbol)


def _target_name(target: int | None) -> str:
    return "what it was linked for" if target is None else f"{target:#x}"
