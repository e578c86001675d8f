"""`patcher --json`: its schema is sound, wide enough for every file and no wider."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from patcher.report.document import SCHEMA, VERSION
from recordmcount.report.json import schema
from tests.support import command, images
from tests.support.images import Built, build
from tests.support.objects import parsed, recorded
from tests.support.patching import call_other
from tests.support.specimens import ELVES

SCHEMA_JSON = schema(SCHEMA)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA_JSON)


def run(status: int, *words: str | Path) -> dict[str, Any]:
    """What `patcher` prints, which must be valid, and each error of it on stderr as well."""
    done = command.run("patcher", *words, "--json")
    document = json.loads(done.stdout)
    VALIDATOR.validate(document)
    assert done.stderr == "".join(f"{error['message']}\n" for error in document["errors"])
    assert done.status == status
    assert isinstance(document, dict)
    return document


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return build(tmp_path, flags=["-mfentry", "-fno-pic"])


# --- what is said ---------------------------------------------------------------------------------


def test_status_tells_every_site(built: Built) -> None:
    odd = images.symbol(built.image, "odd")
    (file,) = run(0, "status", "--functions", "odd", built.image)["files"]
    (site,) = file.pop("sites")
    assert file == {
        "path": str(built.image),
        "type": "executable",
        "bits": 64,
        "machine": "x86-64",
        "dead_entries": 0,
        "repeated_entries": 0,
        "states": {"call": 1, "nop": 0, "foreign": 0},
    }
    assert site.pop("bytes").startswith("e8")
    assert site == {
        "function": "odd",
        "function_offset": 0,
        "section": ".text",
        "address": odd,
        "kind": "call",
        "state": "call",
        "reason": None,
        "expected": [],
        "decoded": None,
    }


def test_status_decodes_foreign_sites_and_fails_without_an_error(built: Built) -> None:
    site, old = call_other(built)
    document = run(1, "status", built.image)
    assert document["errors"] == []
    (file,) = document["files"]
    assert file["states"] == {"call": 3, "nop": 0, "foreign": 1}
    (foreign,) = [each for each in file["sites"] if each["state"] == "foreign"]
    assert (foreign["address"], foreign["expected"]) == (site, [old.hex()])
    assert foreign["reason"].startswith("a call to 0x")
    assert foreign["decoded"].startswith(f"{foreign['reason']}: e8 ")
    assert foreign["decoded"].endswith(")")


def test_a_switch_tells_every_change_and_where_it_went(built: Built, tmp_path: Path) -> None:
    path, out = built.image, tmp_path / "out"
    site = images.symbol(path, "odd")
    words = ("nop", "--functions", "odd", path)
    plan = run(0, *words, "-n")
    elsewhere = run(0, *words, "-o", out)
    done = run(0, *words)
    assert [each["files"][0].pop("written") for each in (plan, elsewhere, done)] == [
        None, str(out), str(path),
    ]  # fmt: skip
    assert (plan.pop("dry_run"), elsewhere.pop("dry_run"), done.pop("dry_run")) == (
        True,
        False,
        False,
    )
    assert plan == elsewhere == done
    (change,) = done["files"][0]["changes"]
    assert change.pop("old").startswith("e8")
    assert change == {
        "function": "odd",
        "function_offset": 0,
        "section": ".text",
        "address": site,
        "kind": "call",
        "new": "0f1f440001",
        "relocation": None,
    }
    (again,) = run(0, "nop", path)["files"]
    assert (again["already"], len(again["changes"])) == (1, 3)
    (nothing,) = run(0, "nop", path)["files"]
    assert (nothing["already"], nothing["changes"], nothing["written"]) == (4, [], None)


@pytest.mark.parametrize("name", ELVES)
def test_every_kind_of_object_can_be_told(name: str, tmp_path: Path) -> None:
    path = recorded(tmp_path / "object.o", ELVES[name]())
    for verb, none in (("nop", "new"), ("call", "old")):
        (file,) = run(0, verb, path)["files"]
        (examined,) = run(0, "status", path)["files"]
        assert file["changes"]
        for change, site in zip(file["changes"], examined["sites"], strict=True):
            is_none = {key: name.endswith("_NONE") for key, name in change["relocation"].items()}
            assert is_none == {"old": none == "old", "new": none == "new"}
            assert change["new"] == site["bytes"]
            assert change["offset"] == site["offset"]


def test_errors_have_an_errno_and_the_other_files_are_done(built: Built, tmp_path: Path) -> None:
    broken, other = tmp_path / "broken", tmp_path / "main.o"
    broken.write_bytes(built.image.read_bytes()[:100])
    document = run(1, "nop", tmp_path / "nothing", broken, other, built.image)
    assert [file["path"] for file in document["files"]] == [str(built.image)]
    numbers = [(error["path"], error["errno"]) for error in document["errors"]]
    assert numbers == [
        (str(tmp_path / "nothing"), "ENOENT"),
        (str(broken), "ENOEXEC"),
        (str(other), "ENOENT"),
    ]


def test_an_error_at_a_site_tells_what_stands_there_and_what_should(built: Built) -> None:
    site, old = call_other(built)
    (error,) = run(1, "nop", built.image)["errors"]
    assert error.pop("message").endswith("; nothing was written")
    assert error.pop("actual").startswith("e8")
    assert error == {
        "path": str(built.image),
        "errno": "EINVAL",
        "symbol": "twice",
        "address": site,
        "expected": [old.hex()],
    }


def test_what_cannot_be_written_is_eperm(built: Built, tmp_path: Path) -> None:
    (error,) = run(1, "nop", "-o", tmp_path / "no" / "where", built.image)["errors"]
    assert (error["path"], error["errno"]) == (str(built.image), "EPERM")


@pytest.mark.parametrize("verb", ["nop", "call", "status"])
def test_every_verb_prints_the_schema_and_asks_for_no_file(verb: str) -> None:
    done = command.run("patcher", verb, "--schema")
    assert (done.status, json.loads(done.stdout), done.stderr) == (0, SCHEMA_JSON, "")


# --- the schema -----------------------------------------------------------------------------------

IDENTITY = {
    "path": "x",
    "type": "PIE",
    "bits": 64,
    "machine": "x86-64",
    "dead_entries": 0,
    "repeated_entries": 0,
}
PLACE = {
    "function": "f",
    "function_offset": 0,
    "section": ".text",
    "address": 4198,
    "kind": "call",
}
OBJECT_PLACE = {key: value for key, value in PLACE.items() if key != "address"} | {"offset": 4}
STATE: dict[str, Any] = {
    "bytes": "e800000000",
    "state": "call",
    "reason": None,
    "expected": [],
    "decoded": None,
}
CHANGE = {"old": "e800000000", "new": "0f1f440001", "relocation": None}
RELOCATION = {"old": "R_X86_64_PLT32", "new": "R_X86_64_NONE"}
COUNTS = {"call": 1, "nop": 0, "foreign": 0}
ERROR = {
    "path": "y", "errno": "EINVAL", "message": "y: f (0x4): no",
    "symbol": "f", "address": 4, "actual": "90", "expected": ["e800000000"],
}  # fmt: skip
HEADING = {"version": 1, "dry_run": False, "errors": [ERROR]}
STATUS = HEADING | {
    "verb": "status",
    "files": [
        IDENTITY | {"states": COUNTS, "sites": [PLACE | STATE]},
        IDENTITY | {"type": "object", "states": COUNTS, "sites": [OBJECT_PLACE | STATE]},
    ],
}
SWITCHED = {"written": "x", "already": 0}
NOP = HEADING | {
    "verb": "nop",
    "files": [
        IDENTITY | SWITCHED | {"changes": [PLACE | CHANGE]},
        IDENTITY
        | SWITCHED
        | {"type": "object", "changes": [OBJECT_PLACE | CHANGE | {"relocation": RELOCATION}]},
    ],
}
TRACE = {"sites": 1, "state": "running", "pid": 12, "name": "x"}
LOADED = {
    "build_id": "0a", "device": "08:01", "inode": 1, "load_address": 4096, "load_bias": 4096,
}  # fmt: skip
LIVE = IDENTITY | LOADED | {"states": COUNTS | {"traced": 1}}
LIVE_SITE = PLACE | STATE | {"state": "traced", "reason": "a nop before"}
PROCESS = {"pid": 1, "name": "x", "trace": TRACE}
HEADING_OF_PROCESS = HEADING | {"verb": "status", "files": []}
LOOK = HEADING_OF_PROCESS | {"process": PROCESS | {"modules": [LIVE | {"sites": [LIVE_SITE]}]}}
WATCH = HEADING_OF_PROCESS | {
    "time": "2026-01-01T00:00:00+00:00",
    "process": PROCESS | {"modules": [LIVE], "gone": [], "forgotten": 0},
}
VERBS: dict[str, dict[str, Any]] = {"status": STATUS, "nop": NOP, "look": LOOK, "watch": WATCH}


def test_the_schema_is_one_of_draft_2020_12() -> None:
    assert SCHEMA_JSON["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(SCHEMA_JSON)
    assert SCHEMA_JSON["properties"]["version"]["const"] == VERSION


@pytest.mark.parametrize("document", VERBS.values(), ids=VERBS)
def test_the_documents_below_start_from_a_valid_one(document: dict[str, Any]) -> None:
    VALIDATOR.validate(document)


Part = Callable[[Any], Any]
PARTS: dict[str, tuple[str, Part]] = {
    "document": ("status", lambda document: document),
    "error": ("status", lambda document: document["errors"][0]),
    "examined": ("status", lambda document: document["files"][0]),
    "states": ("status", lambda document: document["files"][0]["states"]),
    "site": ("status", lambda document: document["files"][0]["sites"][0]),
    "object site": ("status", lambda document: document["files"][1]["sites"][0]),
    "process": ("look", lambda document: document["process"]),
    "trace": ("look", lambda document: document["process"]["trace"]),
    "live": ("look", lambda document: document["process"]["modules"][0]),
    "live states": ("look", lambda document: document["process"]["modules"][0]["states"]),
    "live site": ("look", lambda document: document["process"]["modules"][0]["sites"][0]),
    "watched process": ("watch", lambda document: document["process"]),
    "watched": ("watch", lambda document: document["process"]["modules"][0]),
    "watched states": ("watch", lambda document: document["process"]["modules"][0]["states"]),
    "switch": ("nop", lambda document: document),
    "switched": ("nop", lambda document: document["files"][0]),
    "change": ("nop", lambda document: document["files"][0]["changes"][0]),
    "object change": ("nop", lambda document: document["files"][1]["changes"][0]),
    "relocation": ("nop", lambda document: document["files"][1]["changes"][0]["relocation"]),
}


def part(where: str) -> tuple[Any, Any]:
    """A valid document, and the part of it."""
    verb, select = PARTS[where]
    document = copy.deepcopy(VERBS[verb])
    return document, select(document)


@pytest.mark.parametrize("where", PARTS)
def test_every_field_is_needed_and_has_a_type(where: str) -> None:
    for key in part(where)[1]:
        document, changed = part(where)
        del changed[key]
        assert not VALIDATOR.is_valid(document), f"{key} is missing"
        changed[key] = {}
        assert not VALIDATOR.is_valid(document), f"{key} is an object"


@pytest.mark.parametrize("where", PARTS)
def test_no_other_field_is_valid(where: str) -> None:
    document, changed = part(where)
    changed["other"] = None
    assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("document", {"version": 2}),
        ("document", {"verb": "nop"}),
        ("document", {"dry_run": True}),
        ("switch", {"verb": "status"}),
        ("error", {"errno": "einval"}),
        ("examined", {"type": "object"}),
        ("examined", {"machine": "arm"}),
        ("states", {"call": -1}),
        ("site", {"state": "foreign"}),
        ("site", {"state": "none"}),
        ("site", {"state": "traced", "reason": "a nop before"}),
        ("states", {"traced": 0}),
        ("trace", {"sites": 0}),
        ("trace", {"state": "inherited"}),
        ("trace", {"pid": None, "name": None}),
        ("live site", {"decoded": "nop"}),
        ("site", {"kind": None}),
        ("site", {"decoded": "nop"}),
        ("site", {"expected": ["e800000000"]}),
        ("site", {"function": None}),
        ("site", {"offset": 4}),
        ("site", {"address": -1}),
        ("object site", {"address": 4}),
        ("switched", {"already": -1}),
        ("change", {"relocation": RELOCATION}),
        ("change", {"new": "0F"}),
        ("object change", {"relocation": None}),
        ("relocation", {"old": "PLT32"}),
    ],
    ids=str,
)
def test_what_is_never_said_is_not_valid(where: str, changes: dict[str, Any]) -> None:
    document, changed = part(where)
    changed.update(changes)
    assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("switch", {"verb": "call"}),
        ("switch", {"dry_run": True}),
        ("error", {"symbol": None, "address": None, "actual": None, "expected": []}),
        ("site", {"function": None, "function_offset": None}),
        ("site", {"state": "nop", "reason": "which call it was is not known"}),
        ("site", {"state": "foreign", "kind": None, "reason": "no", "decoded": "no: 90 (nop)",
                  "expected": ["e800000000"]}),
        ("object site", {"offset": -1}),
        ("process", {"trace": None}),
        ("trace", {"state": "left", "name": None}),
        ("trace", {"state": "inherited", "pid": None, "name": None}),
        ("live site", {"state": "nop", "reason": None}),
        ("switched", {"written": None, "changes": []}),
    ],
    ids=str,
)  # fmt: skip
def test_what_may_be_said_is_valid(where: str, changes: dict[str, Any]) -> None:
    document, changed = part(where)
    changed.update(changes)
    VALIDATOR.validate(document)


def test_what_json_could_not_tell_is_not_done(tmp_path: Path) -> None:
    path = images.compile_object(tmp_path, "work", images.WORK, "gcc", "-pg", "-mfentry")
    assert command.run("recordmcount", path).status == 0
    data = bytearray(path.read_bytes())
    obj = parsed(data, "work.o")
    (symbol,) = obj.symbols_named([b"work"])
    at = obj.section(obj.symtab or 0).offset + symbol * obj.layout.sym.size + 6  # st_shndx
    data[at : at + 2] = b"\xff\xff"  # SHN_XINDEX, without a table of such indices
    path.write_bytes(data)
    done = command.run("patcher", "nop", "--json", path)
    assert done.status == 1
    assert f"the section of symbol {symbol} is nowhere named" in done.stderr
    assert path.read_bytes() == data
