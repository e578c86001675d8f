"""Rows as one page of HTML that needs nothing else: a table to search and sort, and plots.

Names of symbols are hostile input. The template escapes whatever it is given, the data stands apart
from the markup as JSON, the script makes text of it and nothing else, and a content security policy
lets no other script or style run and nothing be loaded. Only the rows in sight are in the document,
so that 50,000 of them open at once.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

from .rows import COLUMNS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from .rows import Row

FOLDER = Path(__file__).parent / "page"
MOST_BARS = 10
# A column whose values repeat at least so often has each of them once, and numbers.
REPEATED = 4
# What a search looks at, and how values are shown that are not plain text.
SEARCHED = {"path", "function", "section", "source", "reason"}
TYPES = {"address": "address", "offset": "address", "bytes": "code", "state": "state"}


class Bar(NamedTuple):
    """One bar of a plot; `share` is its length in parts of the longest."""

    name: str
    number: int
    share: float
    kind: str = "bar"


class Plot(NamedTuple):
    """Bars under a title, the longest first."""

    title: str
    bars: list[Bar]


def page(rows: Sequence[Row], title: str, summary: str) -> str:
    """Render the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, loader=FileSystemLoader(FOLDER), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style, script = ((FOLDER / name).read_text("utf-8") for name in ("page.css", "page.js"))
    used = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    if {row["path"] for row in rows} == {summary}:  # which stands above the table
        used.remove("path")
    return environment.get_template("page.html").render(
        title=title,
        summary=summary,
        plots=list(plots(rows)),
        columns=used,
        data=Markup(_data(rows, used)),  # noqa: S704 - of JSON, all that is markup is escaped
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    """Spell a source expression of a content security policy (CSP level 3, section 2.3.1)."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _data(rows: Sequence[Row], used: Sequence[str]) -> str:
    """Spell the rows as JSON in columns, without a character that could end the script element."""
    columns = [
        {
            "title": name,
            "type": TYPES.get(name, "text"),
            "search": name in SEARCHED,
            **_column(name, [row.get(name) for row in rows]),
        }
        for name in used
    ]
    text = json.dumps({"length": len(rows), "columns": columns}, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _column(name: str, values: list[Any]) -> dict[str, Any]:
    if TYPES.get(name) == "address":
        return _addresses(values)
    distinct = dict.fromkeys(values)
    if len(distinct) == 1:
        return {"value": values[0]}
    if len(distinct) * REPEATED > len(values):
        return {"values": values}
    numbers = {value: number for number, value in enumerate(distinct)}
    index = [numbers[value] for value in values]
    runs = [(number, len(list(run))) for number, run in groupby(index)]
    if 2 * len(runs) < len(index):
        return {"values": list(distinct), "runs": list(chain.from_iterable(runs))}
    return {"values": list(distinct), "index": index}


def _addresses(values: list[Any]) -> dict[str, Any]:
    """Count from the least: the numbers of a script are exact up to 2**53, and that is shorter."""
    known = [value for value in values if value is not None]
    base = min(known, default=0)
    if max(known, default=0) - base >= 1 << 53:
        return {"base": "0", "values": [None if value is None else str(value) for value in values]}
    shifted = [None if value is None else value - base for value in values]
    return {"base": str(base), "values": shifted}


# --- plots ----------------------------------------------------------------------------------------


def plots(rows: Sequence[Row]) -> Iterable[Plot]:
    """Plot the sites by section and by folder of their source, and how many have an entry."""
    sites = [row for row in rows if row.get("state") in ("call", "nop")]
    without = len({(row["path"], row["function"]) for row in rows if row.get("state") is None})
    recorded = sum(bool(row.get("recorded")) for row in sites)
    numbers = {"recorded": recorded, "unrecorded": len(sites) - recorded, "without": without}
    words = {"recorded": "sites with an entry", "unrecorded": "sites without an entry",
             "without": "functions without a site"}  # fmt: skip
    most = max(numbers.values(), default=0) or 1
    yield Plot(
        "Sites and functions",
        [Bar(words[kind], each, each / most, kind) for kind, each in numbers.items() if each],
    )
    yield _plot("Sites by section", (row["section"] for row in sites))
    sources = (row.get("source") for row in sites)
    yield _plot("Sites by source folder", (_folder(str(one)) for one in sources if one))


def _plot(title: str, values: Iterable[Any]) -> Plot:
    counted = Counter(map(str, values)).most_common()
    shown, rest = counted[:MOST_BARS], counted[MOST_BARS:]
    if rest:
        shown.append((f"{len(rest)} others", sum(number for _, number in rest)))
    most = max((number for _, number in shown), default=1)
    return Plot(title, [Bar(name, number, number / most) for name, number in shown])


def _folder(source: str) -> str:
    return source.rpartition("/")[0] or "."
