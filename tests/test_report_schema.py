"""The schema of `report --json`: sound itself, wide enough for every file, and no wider."""

import copy
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from fixtures.build import build
from fixtures.manifest import Fixture
from recordmcount.errors import Error
from recordmcount.report.asked import Asked
from recordmcount.report.examine import examine
from recordmcount.report.json import VERSION, dump, part, schema, stream
from recordmcount.sites import evidence
from tests.support.matrix import each_fixture

SCHEMA_JSON = schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA_JSON)

SITE = {
    "function": "f",
    "function_offset": 0,
    "section": ".text",
    "offset": 4,
    "kind": "call",
    "bytes": "e800000000",
    "state": "call",
    "target": "__fentry__",
    "recorded": True,
    "evidence": "table",
    "reason": None,
}
LINKED_SITE = {key: value for key, value in SITE.items() if key != "offset"} | {"address": 4198}
FILE = {
    "path": "x.o",
    "type": "object",
    "bits": 64,
    "machine": "x86-64",
    "has_table": True,
    "no_evidence": None,
    "dead_entries": 0,
    "repeated_entries": 0,
    "sites": [SITE],
}
LINKED_FILE = FILE | {"type": "PIE", "sites": [LINKED_SITE]}
ERROR = {"path": "y.o", "message": "y.o: No such file or directory"}
DOCUMENT = {"version": 1, "files": [FILE, LINKED_FILE], "errors": [ERROR], "skipped": 0}


def test_the_schema_is_one_of_draft_2020_12() -> None:
    assert SCHEMA_JSON["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(SCHEMA_JSON)
    assert SCHEMA_JSON["properties"]["version"]["const"] == VERSION


@each_fixture()
def test_every_report_is_valid(fixture: Fixture) -> None:
    results = list(examine(str(build(fixture)), Asked(tuple(fixture.names))))
    files = [result for result in results if not isinstance(result, Error)]
    errors = [result for result in results if isinstance(result, Error)]
    assert len(results) == 1
    told = [{"path": error.path, "message": str(error)} for error in errors]
    lines = stream(map(part, files), lambda: {"errors": told, "skipped": 0})
    document = json.loads("\n".join(lines))
    VALIDATOR.validate(document)
    assert document["files"] == files


def test_a_document_is_the_same_in_pieces_as_in_one() -> None:
    rest = {"errors": [ERROR], "skipped": 3}
    for files in ([], [FILE], [FILE, LINKED_FILE]):
        whole = dump({"version": VERSION, "files": files, **rest})
        assert "\n".join(stream(map(part, files), lambda: rest)) == whole


def test_the_documents_below_start_from_a_valid_one() -> None:
    VALIDATOR.validate(DOCUMENT)


OBJECTS: dict[str, Callable[[Any], Any]] = {
    "document": lambda document: document,
    "error": lambda document: document["errors"][0],
    "object": lambda document: document["files"][0],
    "site": lambda document: document["files"][0]["sites"][0],
    "linked file": lambda document: document["files"][1],
    "linked site": lambda document: document["files"][1]["sites"][0],
}


@pytest.mark.parametrize("where", OBJECTS)
def test_every_field_is_needed_and_has_a_type(where: str) -> None:
    for key in OBJECTS[where](DOCUMENT):
        document = copy.deepcopy(DOCUMENT)
        del OBJECTS[where](document)[key]
        assert not VALIDATOR.is_valid(document), f"{key} is missing"
        OBJECTS[where](document)[key] = {}
        assert not VALIDATOR.is_valid(document), f"{key} is an object"


@pytest.mark.parametrize("where", OBJECTS)
def test_no_other_field_is_valid(where: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    OBJECTS[where](document)["other"] = None
    assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("document", {"version": 2}),
        ("object", {"type": "ET_REL"}),
        ("object", {"type": "PIE"}),
        ("object", {"bits": 16}),
        ("object", {"machine": "arm"}),
        ("object", {"dead_entries": -1}),
        ("linked file", {"type": "object"}),
        ("site", {"bytes": "e8 00"}),
        ("site", {"bytes": "E8"}),
        ("site", {"bytes": "e80"}),
        ("site", {"state": "none"}),
        ("site", {"function": None}),
        ("site", {"function_offset": None}),
        ("site", {"kind": None}),
        ("site", {"state": "foreign"}),
        ("site", {"address": 4198}),
        ("linked site", {"offset": 4}),
        ("linked site", {"address": -1}),
        ("linked site", {"recorded": False}),
        ("linked site", {"evidence": "GOT"}),
        ("linked file", {"no_evidence": "no symbols"}),
        ("linked file", {"has_table": False}),
        ("site", {"evidence": "guess"}),
    ],
    ids=str,
)
def test_what_a_report_never_says_is_not_valid(where: str, changes: dict[str, Any]) -> None:
    document = copy.deepcopy(DOCUMENT)
    OBJECTS[where](document).update(changes)
    assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize("how", [how for how in evidence.ALL if how not in ("table", "relocation")])
def test_of_a_linked_file_without_a_table_each_site_says_how_it_is_known(how: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    OBJECTS["linked file"](document)["has_table"] = False
    OBJECTS["linked site"](document).update({"recorded": False, "evidence": how})
    VALIDATOR.validate(document)
    OBJECTS["linked site"](document)["recorded"] = True
    assert not VALIDATOR.is_valid(document)


def test_the_schema_lists_each_kind_of_evidence() -> None:
    listed = SCHEMA_JSON["$defs"]["site"]["properties"]["evidence"]["enum"]
    assert listed == list(evidence.ALL)


@pytest.mark.parametrize(
    "changes",
    [
        {"function": None, "function_offset": None},
        {"state": "foreign", "kind": None, "reason": "outside the section", "bytes": ""},
        {"state": "foreign", "reason": "the target is out of reach"},
        {"offset": -1, "state": "foreign", "kind": None, "reason": "outside the section"},
        {"state": "nop", "recorded": False, "target": None},
    ],
    ids=str,
)
def test_what_a_report_may_say_is_valid(changes: dict[str, Any]) -> None:
    document = copy.deepcopy(DOCUMENT)
    OBJECTS["site"](document).update(changes)
    VALIDATOR.validate(document)
