"""A document of one file -> rows, one for each site and for each function without one.

All forms of output but the text and the JSON document are made of these rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Row = dict[str, Any]

# In the order in which they are shown. Of offset and address a row has one: in objects a section
# offset, in linked files a link-time virtual address.
COLUMNS = (
    "path", "function", "function_offset", "section", "offset", "address", "kind", "bytes", "state",
    "target", "recorded", "evidence", "source", "line", "reason",
)  # fmt: skip


def rows(file: Mapping[str, Any]) -> Iterator[Row]:
    """Give the rows of a file: its sites, then its functions without a site."""
    for site in (*file["sites"], *file.get("untraceable", ())):
        yield {"path": file["path"], **{name: site[name] for name in COLUMNS if name in site}}


def json_line(row: Row) -> str:
    """Spell a row as one line of JSON (JSON Lines)."""
    return json.dumps(row)


def csv_head() -> str:
    """Name the columns."""
    return csv_line(dict(zip(COLUMNS, COLUMNS, strict=True)))


def csv_line(row: Row) -> str:
    """Spell a row as CSV (RFC 4180), numbers in decimal, without the end of the line.

    What a spreadsheet would take for a formula is quoted by an apostrophe.
    """
    line = io.StringIO()
    cells = (row.get(name) for name in COLUMNS)
    csv.writer(line, lineterminator="").writerow(map(_cell, cells))
    return line.getvalue()


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value
