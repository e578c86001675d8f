"""What patcher did to a file, or would do, or found in it: as lines for people and as JSON.

The JSON is described by `patcher.schema.json` beside this file.
"""

import json
from collections.abc import Iterator, Sequence
from errno import EIO, ENOEXEC, errorcode
from pathlib import Path
from typing import Any

from recordmcount import relocatable, x86
from recordmcount.elf import Object
from recordmcount.errors import RecordError
from recordmcount.image import odd_entries
from recordmcount.report import identify
from recordmcount.state import STATES, State

from .errors import PatchError
from .sites import Site, SiteTable
from .switch import Plan, count, describe, sites_in_words

JSON_VERSION = 1
SCHEMA = Path(__file__).with_name("patcher.schema.json")


# --- lines ----------------------------------------------------------------------------------------


def status_lines(table: SiteTable, selected: Sequence[int], *, listed: bool) -> Iterator[str]:
    """How many sites are in each state; then, if they shall be `listed`, all sites by state."""
    numbers = [f"{number} {state}" for state, number in count(table, selected).items()]
    counted = f"{sites_in_words(len(selected))}: {', '.join(numbers)}"
    yield "; ".join([counted, *odd_entries(table.dead, table.repeated)])
    for state in STATES if listed else ():
        for site in map(table.site, table.where(selected, state)):
            what = f": {describe(site)}" if state is State.FOREIGN else ""
            yield f"{site.label}: {state}{what}"


def plan_lines(plan: Plan) -> Iterator[str]:
    """Each site that would change: bytes, and in an object the type of its relocation."""
    for site in map(plan.table.site, plan.numbers):
        new = site.turned(plan.state) or b""
        types = " -> ".join(_types(site, plan.state))
        yield f"{site.label}: {site.code.hex(' ')} -> {new.hex(' ')}" + (types and f"; {types}")


def _types(site: Site, state: State) -> list[str]:
    """The names of the relocation's types before and after a switch to `state`; none if linked."""
    if not site.relocation:
        return []
    types = [site.relocation, x86.RELOCATION_NAMES[site.machine][relocatable.R_NONE]]
    return types if state is State.NOP else types[::-1]


# --- JSON -----------------------------------------------------------------------------------------


def document(
    verb: str, files: list[dict[str, Any]], errors: list[dict[str, Any]], *, dry_run: bool
) -> str:
    """The JSON of one run, as `patcher.schema.json` has it."""
    heading = {"version": JSON_VERSION, "verb": verb, "dry_run": dry_run}
    return json.dumps({**heading, "files": files, "errors": errors}, indent=2)


def status_json(obj: Object, table: SiteTable, selected: Sequence[int]) -> dict[str, Any]:
    """A file of `patcher status`."""
    return {
        **_identity(obj, table),
        "states": {str(state): number for state, number in count(table, selected).items()},
        "sites": [_site(table.site(number)) for number in selected],
    }


def switch_json(obj: Object, plan: Plan, written: str | None) -> dict[str, Any]:
    """A file of `patcher nop` or `patcher call`; `written` is the path that has the result."""
    return {
        **_identity(obj, plan.table),
        "written": written,
        "already": plan.already,
        "changes": [_change(site, plan.state) for site in map(plan.table.site, plan.numbers)],
    }


def error_json(path: str, error: PatchError | RecordError | OSError) -> dict[str, Any]:
    """What went wrong with the file at `path`; a file that is no sound ELF is ENOEXEC."""
    number = ENOEXEC if isinstance(error, RecordError) else error.errno or EIO
    site: dict[str, Any] = {"address": None, "symbol": None, "actual": None, "expected": []}
    if isinstance(error, PatchError):
        site["address"] = error.address
        site["symbol"] = error.symbol or None
        site["actual"] = error.actual.hex() or None
        site["expected"] = [code.hex() for code in error.expected]
    message = in_words(path, error)
    return {"path": path, "errno": errorcode[number], "message": message, **site}


def in_words(path: str, error: PatchError | RecordError | OSError) -> str:
    """The one line that a person reads."""
    return f"{path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)


def _identity(obj: Object, table: SiteTable) -> dict[str, Any]:
    kind, bits, machine = identify(obj)
    return {
        "path": obj.path,
        "type": kind,
        "bits": bits,
        "machine": machine,
        "dead_entries": table.dead,
        "repeated_entries": table.repeated,
    }


def _place(site: Site) -> dict[str, Any]:
    return {
        "function": site.function,
        "function_offset": None if site.function is None else site.function_offset,
        "section": site.section,
        "offset" if site.in_object else "address": site.position,
        "kind": site.form or None,
    }


def _site(site: Site) -> dict[str, Any]:
    is_foreign = site.state is State.FOREIGN
    return {
        **_place(site),
        "bytes": site.code.hex(),
        "state": site.state,
        "reason": site.reason or None,
        "expected": [code.hex() for code in site.expected],
        "decoded": describe(site) if is_foreign else None,
    }


def _change(site: Site, state: State) -> dict[str, Any]:
    types = _types(site, state)
    return {
        **_place(site),
        "old": site.code.hex(),
        "new": (site.turned(state) or b"").hex(),
        "relocation": {"old": types[0], "new": types[1]} if types else None,
    }
