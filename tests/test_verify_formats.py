"""Findings as annotations, SARIF and JSON: valid, and whole whatever names are in them."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from recordmcount.verify import sarif
from recordmcount.verify.rules import RULES
from tests.support.command import ROOT, run
from tests.support.elf_builder import (
    STT_FUNC,
    X86_64,
    Relocation,
    Section,
    Symbol,
    build,
    section_symbol,
)
from tests.support.objects import AX, R_PLT32, caller, recorded, text
from tests.support.verifying import (
    SCHEMA,
    entries,
    functions,
    linked,
    table,
    verify,
    with_words,
    words,
)

HOSTILE = "f\n::error::%0Aowned\x1b[2J,:\u202e"


def hostile(folder: Path) -> Path:
    """An object with one finding, of whose names each would break a line or an annotation."""
    symbols = [
        section_symbol(".text"),
        Symbol(HOSTILE, ".text", 0, 6, type=STT_FUNC),
        Symbol("__fentry__"),
    ]
    folder = folder / "a,b:c%0A"
    folder.mkdir()
    made = build(X86_64, [text(".text", 1), table(entries(1))], symbols)
    return made.write(folder / "x\n::warning::.o")


def test_an_annotation_is_one_line_whatever_names_are_in_it(tmp_path: Path) -> None:
    path = hostile(tmp_path)
    status, stdout, _ = run("recordmcount", "verify", "--format", "github", path)
    assert status == 1
    (line,) = stdout.splitlines()
    assert line.isprintable()
    head, _, message = line.removeprefix("::error ").partition("::")
    assert line.startswith("::error file=")
    file, title = head.split(",")
    assert title == "title=entry-off"
    escaped = str(path).replace("%", "%25").replace("\n", "\\n")
    assert file == f"file={escaped.replace(':', '%3A').replace(',', '%2C')}"
    assert "%250Aowned\\x1b[2J" in message
    assert "objcopy -R __mcount_loc" in message  # what to do


def test_what_cannot_be_read_is_an_annotation_as_well(tmp_path: Path) -> None:
    status, stdout, _ = run("recordmcount", "verify", "--format", "github", tmp_path / "gone.o")
    assert status == 1
    path = tmp_path / "gone.o"
    assert stdout == f"::error file={path},title=unreadable::{path}: No such file or directory\n"


def test_where_all_is_clean_there_are_no_annotations(tmp_path: Path) -> None:
    path = recorded(tmp_path / "x.o", caller())
    assert run("recordmcount", "verify", "--format", "github", path) == (0, "", "")


def an_object(required: dict[str, object], **optional: object) -> dict[str, object]:
    return {
        "type": "object", "properties": {**required, **optional}, "required": [*required],
        "additionalProperties": False,
    }  # fmt: skip


STRING = {"type": "string"}
MESSAGE = an_object({"text": STRING})
ARTIFACT = an_object({"uri": {"type": "string", "pattern": "^(file:///)?[A-Za-z0-9_.~/%-]+$"}})
# What SARIF 2.1.0 requires and allows of the objects that are in our logs (errata 01; the whole
# schema was compared with once). Nothing else may be in them.
SARIF = an_object(
    {
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": an_object(
                {
                    "tool": an_object({
                        "driver": an_object(
                            {"name": STRING},
                            version=STRING,
                            rules={"type": "array", "uniqueItems": True, "items": an_object(
                                {"id": STRING}, shortDescription=MESSAGE, fullDescription=MESSAGE,
                                help=MESSAGE,
                                defaultConfiguration=an_object({}, level={"enum": ["error"]}),
                            )},
                        ),
                    }),
                },
                columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                invocations={"type": "array", "items": an_object(
                    {"executionSuccessful": {"type": "boolean"}},
                    toolExecutionNotifications={"type": "array", "items": an_object(
                        {"message": MESSAGE}, level={"enum": ["error"]},
                        locations={"type": "array", "items": an_object(
                            {}, physicalLocation=an_object({}, artifactLocation=ARTIFACT)
                        )},
                    )},
                )},
                results={"type": "array", "items": an_object(
                    {"message": MESSAGE},
                    ruleId=STRING, ruleIndex={"type": "integer", "minimum": 0},
                    level={"enum": ["error"]},
                    partialFingerprints={"type": "object", "additionalProperties": STRING},
                    locations={"type": "array", "items": an_object(
                        {},
                        physicalLocation=an_object(
                            {}, artifactLocation=ARTIFACT,
                            address=an_object(
                                {}, absoluteAddress={"type": "integer", "minimum": 0},
                                fullyQualifiedName=STRING,
                            ),
                        ),
                        logicalLocations={"type": "array", "items": an_object(
                            {}, fullyQualifiedName=STRING, kind=STRING
                        )},
                    )},
                )},
            ),
        },
    },
    **{"$schema": STRING},
)  # fmt: skip


def logged(*words: str | Path) -> dict[str, Any]:
    """The one run of `--format sarif`, which must be valid."""
    log = json.loads(run("recordmcount", "verify", "--format", "sarif", *words).stdout)
    jsonschema.validate(log, SARIF)
    (only,) = log["runs"]
    return only  # type: ignore[no-any-return]


def test_sarif_has_a_rule_for_each_kind_and_a_result_for_each_finding(tmp_path: Path) -> None:
    path = hostile(tmp_path)
    run_ = logged(path, linked(tmp_path), tmp_path / "gone.o")
    told = run_["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in told] == [rule.id for rule in RULES]
    assert all(rule["help"]["text"] for rule in told)
    (result,) = run_["results"]
    assert told[result["ruleIndex"]]["id"] == result["ruleId"] == "entry-off"
    assert result["message"]["text"].isprintable()
    (location,) = result["locations"]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": sarif.uri(str(path))},
        "address": {"fullyQualifiedName": ".text+0x1"},
    }
    (invocation,) = run_["invocations"]
    assert invocation["executionSuccessful"] is False
    assert len(invocation["toolExecutionNotifications"]) == 1


def test_a_sarif_location_in_a_linked_file_is_an_address(tmp_path: Path) -> None:
    path = linked(tmp_path)
    _, (a, b, c, d) = words(path)
    (result,) = logged(with_words(path, a, 0, c, d))["results"]
    address = result["locations"][0]["physicalLocation"]["address"]
    assert address == {"absoluteAddress": b, "fullyQualifiedName": f".text:{b:#x}"}


def test_a_fingerprint_stays_when_the_function_moves(tmp_path: Path) -> None:
    found: list[Any] = []
    for before in (0, 16):
        code = Section(
            ".text", flags=AX, data=b"\x90" * before + b"\xe8\0\0\0\0\xc3",
            relocations=[Relocation(before + 1, R_PLT32, "__fentry__", -4)],
        )  # fmt: skip
        symbols = [section_symbol(".text"), Symbol("f", ".text", before, 6, type=STT_FUNC),
                   Symbol("__fentry__")]  # fmt: skip
        path = build(X86_64, [code, table(entries(before + 1))], symbols).write(tmp_path / "x.o")
        found += logged(path)["results"]
    one, other = (result["partialFingerprints"] for result in found)
    assert one == other


def test_no_more_results_than_readers_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "MOST_RESULTS", 1)
    path = functions(*entries(0)).write(tmp_path / "x.o")
    log = sarif.log(verify(path)["files"], [])
    jsonschema.validate(log, SARIF)
    assert len(log["runs"][0]["results"]) == 1
    (told,) = log["runs"][0]["invocations"][0]["toolExecutionNotifications"]
    assert told["message"]["text"] == "2 findings, of which the first 1 are told"


@pytest.mark.parametrize(
    ("path", "uri"),
    [("a b/x.o", "a%20b/x.o"), ("/x:1.o", "file:///x%3A1.o"), ("\udcff.o", "%FF.o"), ("\n", "%0A")],
)
def test_paths_are_uris(path: str, uri: str) -> None:
    assert sarif.uri(path) == uri


def test_the_schema_is_sound_and_lists_all_rules() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    told = SCHEMA["$defs"]["finding"]["properties"]["rule"]["enum"]
    assert told == [rule.id for rule in RULES]
    printed = run("recordmcount", "verify", "--schema")
    assert json.loads(printed.stdout) == SCHEMA


def test_the_page_tells_of_all_rules() -> None:
    page = (ROOT / "docs" / "verifying.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE) == [rule.id for rule in RULES]
