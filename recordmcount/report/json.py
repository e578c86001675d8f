"""A document as JSON, and the schema that describes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

VERSION = 1
SEPARATOR = ",\n    "  # between parts
FOLDER = Path(__file__).parent
# What the documents of both commands have in common.
SHARED = FOLDER / "shared.schema.json"


def dump(document: Mapping[str, Any]) -> str:
    """Render a document as JSON: lists of objects over several lines, one line for a small one."""
    return "".join(_pieces(document, "\n"))


def stream(parts: Iterable[str], rest: Callable[[], Mapping[str, Any]]) -> Iterator[str]:
    """Render the document of a report, in pieces that are to be lines.

    `parts` are rendered by `part`, one file or several; `rest` is asked for what stands behind the
    files when all have come.
    """
    line, comma = f'{{\n  "version": {VERSION},\n  "files": [', ""
    for each in parts:
        yield line + comma
        line, comma = f"    {each}", ","
    if comma:
        yield line
        line = "  "
    yield f"{line}],{dump(rest()).removeprefix('{')}"


def part(file: Mapping[str, Any]) -> str:
    """Render what is told of one file as a part of the document of a report."""
    return "".join(_pieces(file, "\n    "))


def _pieces(value: Any, newline: str) -> Iterator[str]:
    """Render a value; `newline` begins a line at its indentation."""
    inner = f"{newline}  "
    before = inner
    if isinstance(value, Mapping) and (newline == "\n" or _has_objects(value.values())):
        yield "{"
        for name, each in value.items():
            yield f"{before}{json.dumps(name)}: "
            yield from _pieces(each, inner)
            before = f",{inner}"
        yield f"{newline}}}"
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        yield "["
        for each in value:
            yield before
            yield from _pieces(each, inner)
            before = f",{inner}"
        yield f"{newline}]"
    else:
        yield json.dumps(value)


def _has_objects(values: Iterable[Any]) -> bool:
    """Tell whether one of these is a list of objects, or an object with more than plain values."""
    for each in values:
        inner = each.values() if isinstance(each, Mapping) else each
        kinds = (list, Mapping) if isinstance(each, Mapping) else Mapping
        if isinstance(each, list | Mapping) and any(isinstance(one, kinds) for one in inner):
            return True
    return False


def schema(path: str | Path = FOLDER / "report.schema.json") -> dict[str, Any]:
    """Read a JSON Schema and the shared parts that it refers to, as one that stands alone."""
    own, shared = (json.loads(Path(each).read_text("utf-8")) for each in (path, SHARED))
    return {**own, "$defs": {**shared["$defs"], **own["$defs"]}}
