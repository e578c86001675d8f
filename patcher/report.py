"""What patcher did to a file, or would do, or found in it, as JSON.

It is described by `patcher.schema.json` beside this file.
"""

import json
from collections.abc import Sequence
from errno import EIO, ENOEXEC, errorcode
from pathlib import Path
from typing import Any

from recordmcount.elf.object import Object
from recordmcount.errors import Error
from recordmcount.report.document import identify
from recordmcount.sites.site import Site
from recordmcount.sites.state import State

from .errors import PatchError
from .files.switch import Plan, count, describe
from .files.switchable import Switchable
from .lines import in_words, relocation_types

JSON_VERSION = 1
SCHEMA = Path(__file__).with_name("patcher.schema.json")


def document(
    verb: str, files: list[dict[str, Any]], errors: list[dict[str, Any]], *, dry_run: bool
) -> str:
    """The JSON of one run, as `patcher.schema.json` has it."""
    heading = {"version": JSON_VERSION, "verb": verb, "dry_run": dry_run}
    return json.dumps({**heading, "files": files, "errors": errors}, indent=2)


def status_json(obj: Object, table: Switchable, selected: Sequence[int]) -> dict[str, Any]:
    """A file of `patcher status`."""
    return {
        **_identity(obj, table),
        "states": {str(state): number for state, number in count(table, selected).items()},
        "sites": [_site(table.site(number)) for number in selected],
    }


def switch_json(obj: Object, plan: Plan) -> dict[str, Any]:
    """A file of `patcher nop` or `patcher call`, of which nothing is written yet."""
    return {
        **_identity(obj, plan.table),
        "written": None,
        "already": plan.already,
        "changes": [_change(site, plan.state) for site in map(plan.table.site, plan.numbers)],
    }


def error_json(path: str, error: Error | OSError) -> dict[str, Any]:
    """What went wrong with the file at `path`; a file that is no sound ELF is ENOEXEC."""
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
    message = in_words(path, error)
    return {"path": path, "errno": errorcode[number], "message": message, **site}


def _identity(obj: Object, table: Switchable) -> dict[str, Any]:
    kind, bits, machine = identify(obj)
    return {
        "path": obj.path,
        "type": kind,
        "bits": bits,
        "machine": machine,
        "dead_entries": table.sites.dead,
        "repeated_entries": table.sites.repeated,
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
    types = relocation_types(site, state)
    return {
        **_place(site),
        "old": site.code.hex(),
        "new": (site.turned(state) or b"").hex(),
        "relocation": {"old": types[0], "new": types[1]} if types else None,
    }
