"""A document as JSON, and the schema that describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
# What the documents of both commands have in common.
SHARED = FOLDER / "shared.schema.json"


def dump(document: Mapping[str, Any]) -> str:
    """Render a document as JSON."""
    return json.dumps(document, indent=2)


def schema(path: str | Path = FOLDER / "report.schema.json") -> dict[str, Any]:
    """Read a JSON Schema and the shared parts that it refers to, as one that stands alone."""
    own, shared = (json.loads(Path(each).read_text("utf-8")) for each in (path, SHARED))
    return {**own, "$defs": {**shared["$defs"], **own["$defs"]}}
