"""A report as JSON, which `report.schema.json` beside this file describes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from recordmcount.errors import RecordError
from recordmcount.sites.site import Site

from .document import FileReport

JSON_VERSION = 1
SCHEMA = Path(__file__).with_name("report.schema.json")


def as_json(reports: Iterable[FileReport], errors: Iterable[RecordError]) -> str:
    """The JSON form, as `report.schema.json` has it."""
    document = {
        "version": JSON_VERSION,
        "files": [_json_file(report) for report in reports],
        "errors": [{"path": error.path, "message": str(error)} for error in errors],
    }
    return json.dumps(document, indent=2)


def _json_file(report: FileReport) -> dict[str, object]:
    return {
        "path": report.path,
        "type": report.type,
        "bits": report.bits,
        "machine": report.machine,
        "has_table": report.has_table,
        "dead_entries": report.dead,
        "repeated_entries": report.repeated,
        "sites": list(map(_json_site, report.sites)),
    }


def _json_site(site: Site) -> dict[str, object]:
    return {
        "function": site.function,
        "function_offset": None if site.function is None else site.function_offset,
        "section": site.section,
        "offset" if site.in_object else "address": site.position,
        "kind": site.form or None,
        "bytes": site.code.hex(),
        "state": site.state,
        "recorded": site.recorded,
        "reason": site.reason or None,
    }
