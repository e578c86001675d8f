"""Findings as SARIF 2.1.0, the static analysis format of OASIS, for code scanning.

A result is a finding. What is wrong is in a binary, so a location is an address in an artifact
(section 3.32): a number in linked files; in objects, where sections have none, a name.
"""

from __future__ import annotations

import os
from hashlib import sha256
from urllib.parse import quote

from recordmcount import __version__
from recordmcount.console import spelled

from .rules import RULES
from .text import place, sentence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .shapes import Unreadable, VerifiedFile, VerifiedFinding

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
# So many results are taken by those who read SARIF (GitHub, for a run).
MOST_RESULTS = 25_000
NUMBERS = {rule.id: number for number, rule in enumerate(RULES)}


def log(files: Sequence[VerifiedFile], errors: Sequence[Unreadable]) -> dict[str, Any]:
    """Make the log of one run."""
    results = [_result(file, finding) for file in files for finding in file["findings"]]
    told = [_notification(error["message"], error["path"]) for error in errors]
    if len(results) > MOST_RESULTS:
        what = f"{len(results)} findings, of which the first {MOST_RESULTS} are told"
        told.append(_notification(what))
    run = {
        "tool": {"driver": _driver()},
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {"executionSuccessful": not errors, "toolExecutionNotifications": told},
        ],
        "results": results[:MOST_RESULTS],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _driver() -> dict[str, Any]:
    return {
        "name": "recordmcount verify",
        "version": __version__,
        "rules": [
            {
                "id": rule.id,
                "shortDescription": {"text": _sentence(rule.what)},
                "fullDescription": {"text": _sentence(rule.what)},
                "help": {"text": rule.fix},
                "defaultConfiguration": {"level": "error"},
            }
            for rule in RULES
        ],
    }


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _result(file: VerifiedFile, finding: VerifiedFinding) -> dict[str, Any]:
    message = sentence(finding)
    if file["path"] != file["file"]:
        message = f"{file['path']}: {message}"
    location: dict[str, Any] = {"physicalLocation": _physical(file["file"], finding)}
    if finding["function"]:
        name = spelled(finding["function"])
        location["logicalLocations"] = [{"fullyQualifiedName": name, "kind": "function"}]
    return {
        "ruleId": finding["rule"],
        "ruleIndex": NUMBERS[finding["rule"]],
        "level": "error",
        "message": {"text": spelled(message)},
        "locations": [location],
        "partialFingerprints": {"finding/v1": _fingerprint(file, finding)},
    }


def _physical(path: str, finding: VerifiedFinding) -> dict[str, Any]:
    address: dict[str, Any] = {}
    if "address" in finding:
        address["absoluteAddress"] = finding["address"]
    if "address" in finding or "offset" in finding:
        address["fullyQualifiedName"] = spelled(place(finding))
    return {
        "artifactLocation": {"uri": uri(path)},
        **({"address": address} if address else {}),
    }


def _fingerprint(file: VerifiedFile, finding: VerifiedFinding) -> str:
    """Hash what stays when the code around changes: not the address of a known function."""
    where = [finding["function"], finding["function_offset"]]
    if finding["function"] is None:
        where = [finding.get("address"), finding.get("offset")]
    parts = [file["path"], finding["rule"], finding["section"], *where]
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogateescape")
    return sha256(text).hexdigest()[:32]


def _notification(message: str, path: str = "") -> dict[str, Any]:
    told: dict[str, Any] = {"level": "error", "message": {"text": spelled(message)}}
    if path:
        told["locations"] = [{"physicalLocation": {"artifactLocation": {"uri": uri(path)}}}]
    return told


def uri(path: str) -> str:
    """Spell a path as a URI reference (RFC 3986); an absolute one as `file://`."""
    spelled_path = quote(os.fsencode(path), safe="/")
    return f"file://{spelled_path}" if path.startswith("/") else spelled_path
