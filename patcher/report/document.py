"""What patcher found in files, did to them or would do, as plain values.

They are made of the parts of `recordmcount.report.document`, and described by `patcher.schema.json`
beside this file.
"""

from __future__ import annotations

from errno import EIO, ENOEXEC, errorcode

from patcher.errors import PatchError
from patcher.ftrace.mappings import device_in_words
from recordmcount import x86
from recordmcount.console import spelled
from recordmcount.errors import reason
from recordmcount.report.document import identity, paid, place
from recordmcount.sites.state import State
from recordmcount.x86_relocations import RELOCATION_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from patcher.files.switch import Plan
    from patcher.files.switchable import Switchable
    from patcher.process.live_sites import LiveSites
    from patcher.process.traces import Trace
    from recordmcount.elf.object import Object
    from recordmcount.errors import Error
    from recordmcount.sites.site import Site

    from .shapes import (
        ChangedSite,
        Examined,
        ExaminedModule,
        FoundSite,
        Loaded,
        Process,
        Switched,
        SwitchedModule,
        TraceOfProcess,
        Types,
        WatchedModule,
        WatchedProcess,
    )

VERSION = 1
SCHEMA = __file__.rpartition("/")[0] + "/patcher.schema.json"


def run(
    verb: str,
    files: Sequence[Mapping[str, Any]],
    errors: Sequence[Mapping[str, Any]],
    *,
    dry_run: bool,
) -> dict[str, Any]:
    """Make the document of one run."""
    heading = {"version": VERSION, "verb": verb, "dry_run": dry_run}
    return {**heading, "files": files, "errors": errors}


def of_process(
    verb: str, process: Process | None, errors: Sequence[Mapping[str, Any]], *, dry_run: bool
) -> dict[str, Any]:
    """Make the document of one run for a process; None if it could not be looked at."""
    return {**run(verb, [], errors, dry_run=dry_run), "process": process}


def of_look(
    time: str, process: WatchedProcess | None, errors: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Make the document of one look of a watch; None if the process has ended, or with an error."""
    return {**run("status", [], errors, dry_run=False), "time": time, "process": process}


def loaded(module: LiveSites) -> Loaded:
    """Tell of a file that a process has loaded."""
    return {
        **identity(module.file.obj),
        "dead_entries": module.dead,
        "repeated_entries": module.repeated,
        "build_id": module.file.build_id.hex() or None,
        "device": device_in_words(module.file.device),
        "inode": module.file.inode,
        "load_address": module.file.load_address,
        "load_bias": module.file.bias,
    }


def traced(trace: Trace | None) -> TraceOfProcess | None:
    """Tell whose trace sites of a process are in; None if they are in none."""
    if trace is None:
        return None
    return {
        "sites": trace.sites,
        "state": trace.state,
        "pid": trace.owner.pid or None,
        "name": trace.owner.name or None,
    }


def watched_module(module: LiveSites, states: Mapping[State, int]) -> WatchedModule:
    """Tell of a loaded file that is watched; `states` counts the selected sites."""
    return {**loaded(module), "states": {str(state): states[state] for state in states}}


def examined_module(
    module: LiveSites, selected: Sequence[int], states: Mapping[State, int]
) -> ExaminedModule:
    """Tell of a loaded file that was looked at; `states` counts the selected sites."""
    return {
        **loaded(module),
        "states": {str(state): number for state, number in states.items()},
        "sites": list(map(_found, map(module.__getitem__, selected))),
    }


def switched_module(module: LiveSites, plan: Plan) -> SwitchedModule:
    """Tell of a loaded file whose sites were changed."""
    changes = [_change(module[number], plan.state) for number in plan.numbers]
    for change, code in zip(changes, plan.batch.new, strict=True):
        change["new"] = code.hex()
    return {**loaded(module), "already": plan.already, "changes": changes}


def examined(
    obj: Object, table: Switchable, selected: Sequence[int], states: Mapping[State, int]
) -> Examined:
    """Tell of a file that was looked at; `states` counts the selected sites."""
    return {
        **identity(obj),
        "dead_entries": table.sites.dead,
        "repeated_entries": table.sites.repeated,
        "states": {str(state): number for state, number in states.items()},
        "sites": list(map(_found, paid(obj, map(table.site, selected)))),
    }


def switched(obj: Object, plan: Plan) -> Switched:
    """Tell of a file that is to be changed, of which nothing is written yet."""
    table = plan.table
    return {
        **identity(obj),
        "dead_entries": table.sites.dead,
        "repeated_entries": table.sites.repeated,
        "written": None,
        "already": plan.already,
        "changes": [_change(site, plan.state) for site in paid(obj, map(table.site, plan.numbers))],
    }


def failed(path: str, error: Error | OSError) -> dict[str, Any]:
    """Tell what went wrong with the file at `path`; one that is no sound ELF file is ENOEXEC."""
    number = ENOEXEC
    site: dict[str, Any] = {"address": None, "symbol": None, "actual": None, "expected": []}
    if isinstance(error, OSError):
        number = error.errno or EIO
    elif isinstance(error, PatchError):
        number = error.errno
        site["address"] = error.address
        site["symbol"] = error.symbol or None
        site["actual"] = error.actual.hex() or None
        site["expected"] = [code.hex() for code in error.expected]
    return {"path": path, "errno": errorcode[number], "message": in_words(path, error), **site}


def in_words(path: str, error: Error | OSError) -> str:
    """Return the one line that a person reads."""
    return spelled(f"{path}: {reason(error)}" if isinstance(error, OSError) else str(error))


def _found(site: Site) -> FoundSite:
    decoded = None
    if site.state is State.FOREIGN:
        from patcher.disassembly import describe  # slow to import, rarely needed

        decoded = describe(site)
    return {
        **place(site),
        "bytes": site.code.hex(),
        "state": site.state,
        "reason": site.reason or None,
        "expected": [code.hex() for code in site.expected],
        "decoded": decoded,
    }


def _change(site: Site, state: State) -> ChangedSite:
    return {
        **place(site),
        "old": site.code.hex(),
        "new": (site.turned(state) or b"").hex(),
        "relocation": _types(site, state),
    }


def _types(site: Site, state: State) -> Types | None:
    """Return the type of the relocation before and after a switch to `state`; None if linked."""
    if not site.relocation:
        return None
    none = RELOCATION_NAMES[site.machine][x86.RELOCATION_NONE]
    old, new = (site.relocation, none) if state is State.NOP else (none, site.relocation)
    return {"old": old, "new": new}
