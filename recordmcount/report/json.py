"""A report as JSON, which `report.schema.json` beside this file describes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from recordmcount.errors import RecordError

from .document import FileReport, Row

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
        "sites": [_json_site(report.position, row) for row in report.rows],
    }


def _json_site(position: str, row: Row) -> dict[str, object]:
    return {
        "function": row.function,
        "function_offset": None if row.function is None else row.function_offset,
        "section": row.section,
        position: row.position,
        "kind": row.kind or None,
        "bytes": row.code.hex(),
        "state": row.state,
        "recorded": row.recorded,
        "reason": row.reason or None,
    }
