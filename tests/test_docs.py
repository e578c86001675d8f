"""The pages for people: what they link to exists, the map is the tree, and commands can be run."""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from recordmcount import x86, x86_linked
from recordmcount.x86_object_nops import object_nop
from tests.support.command import ROOT, run
from tests.test_layers import ALL, IMPORTS, LAYERS

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# A path of the tree in code font.
NAMED = re.compile(r"`((?:recordmcount|patcher|tests|tools|fixtures|docs)/[\w./-]*)`")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages."""
    return [text for language, text in FENCE.findall(page.read_text()) if language in languages]


# --- links ----------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """(file, anchor) of each link of a page into the tree."""
    for target in LINK.findall(prose(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


@each_page
def test_what_a_page_links_to_exists(page: Path) -> None:
    for path, anchor in links(page):
        assert path.exists(), path
        assert path.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(path), anchor


@each_page
def test_a_path_that_a_page_names_exists(page: Path) -> None:
    missing = [name for name in NAMED.findall(prose(page)) if not (ROOT / name).exists()]
    assert missing == []


def test_every_page_can_be_found_from_the_readme() -> None:
    assert {path for path, _ in links(ROOT / "README.md")} >= {*PAGES} - {ROOT / "README.md"}


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_a_page_begins_with_its_sections(page: Path) -> None:
    if sections := re.findall(r"^## (.+)$", prose(page), re.MULTILINE):
        listed = re.findall(r"^- \[(.+)\]\(#.*\)$", prose(page), re.MULTILINE)
        assert listed == sections or len(sections) < 3


# --- the readme -----------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def commands(page: Path) -> Iterator[list[str]]:
    """The command lines that a page shows, as words, without what the shell makes of them."""
    for block in blocks(page, "console"):
        for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
            yield from map(str.split, re.split(r"&&|\|", line))
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            yield from ([*line.partition("#")[0].split()],) if line.strip() else ()
    yield from map(str.split, re.findall(r"`((?:recordmcount|patcher) [^`]*)`", prose(page)))


def test_what_is_wrong_on_a_page_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`patcher/gone.py` `recordmcount --inline x`\n"
        "```console\n$ patcher nop --shown x && recordmcount y\n```\n"
        "```sh\npatcher fly x  # never\n```\n"
    )
    assert NAMED.findall(prose(page)) == ["patcher/gone.py"]
    assert [*commands(page)] == [
        ["patcher", "nop", "--shown", "x"], ["recordmcount", "y"],
        ["patcher", "fly", "x"], ["recordmcount", "--inline", "x"],
    ]  # fmt: skip
    with pytest.raises(AssertionError):
        test_commands_have_the_verbs_and_options_that_are_shown(page)


@cache
def helped(*command: str) -> str:
    """What a command says of its options."""
    return run(*command, "--help").stdout


@each_page
def test_commands_have_the_verbs_and_options_that_are_shown(page: Path) -> None:
    for words in commands(page):
        if words[:1] not in (["recordmcount"], ["patcher"]):
            continue
        for verb in words[1].split("|") if "|" in words[1] else words[1:2]:
            is_verb = re.fullmatch(r"[a-z]+", verb) and len(words) > 1
            command = [words[0], verb] if is_verb else words[:1]
            if is_verb:
                assert re.search(rf"\b{verb}\b", helped(words[0])), words
            for option in re.findall(r"(?<= )--?[a-z][a-z-]*", " ".join(words)):
                assert re.search(rf"(?<![\w-]){option}\b", helped(*command)), words


@each_page
def test_tools_that_are_shown_can_be_run(page: Path) -> None:
    for name in re.findall(r"(?<![\w/.])(?:\./)?(tools/\w+)(?![\w/])", page.read_text()):
        path = ROOT / name
        assert path.is_dir() or os.access(path, os.X_OK), name


# --- the map --------------------------------------------------------------------------------------


def mapped() -> list[str]:
    """The dotted names of the modules in the map of docs/design.md, from its top to its bottom."""
    names = []
    for block in blocks(ROOT / "docs" / "design.md", ""):
        package, *lines = block.splitlines()
        if package.removesuffix("/") not in LAYERS:
            continue
        room = ""
        for line in lines:
            indent, name, caption = re.fullmatch(r"( +)(\S+?) +(\S.*)", line).groups()  # type: ignore[union-attr]
            assert caption
            if name.endswith("/"):
                room = name.replace("/", ".")
            else:
                inside = room if len(indent) == 4 else ""
                names.append(package.replace("/", ".") + inside + name.replace("/", "."))
    return names


def test_every_module_stands_once_in_the_map() -> None:
    modules = {name for name, path in ALL.items() if path.name != "__init__.py"}
    shown = mapped()
    assert modules - {*shown} == set(), "not in the map"
    assert {*shown} - modules == set(), "in the map only"
    assert len(shown) == len({*shown})


def test_a_module_stands_above_those_it_imports() -> None:
    places = {name: place for place, name in enumerate(mapped())}
    wrong = [
        f"{name} below {other}"
        for name, others in IMPORTS.items()
        for other in others
        if name in places and other in places
        and name.partition(".")[0] == other.partition(".")[0]
        and places[name] > places[other]
    ]  # fmt: skip
    assert wrong == []


# --- bytes ----------------------------------------------------------------------------------------

FORMATS = (ROOT / "docs" / "formats.md").read_text()


@pytest.mark.parametrize("form", x86.ALL_FORMS, ids=lambda form: f"{form.name}-{form.number}")
def test_the_nops_of_the_recorder_are_those_of_the_page(form: x86.CallForm) -> None:
    assert f"`{form.nop.hex(' ')}`" in FORMATS
    assert f"`{form.name}`" in FORMATS


@pytest.mark.parametrize("machine", [x86.EM_X86_64, x86.EM_386])
def test_the_nops_of_linked_files_are_those_of_the_page(machine: int) -> None:
    for form in x86_linked.linked_calls(machine):
        assert f"| `{form.name}`" in FORMATS
        if form.idle:
            continue
        nop = form.nop_with(0xAA).hex(" ").replace("aa", "SS")
        if machine == x86.EM_386 and form.name == "call-got":
            assert nop[12] == "c"
            nop = f"{nop[:12]}Cx{nop[14:]}"
        if form.length < 12:
            assert nop in FORMATS
        else:
            assert nop.endswith(f"SS 0{form.prefix[1] - 0xB8} 00 00")


@pytest.mark.parametrize("machine", [x86.EM_X86_64, x86.EM_386])
def test_the_nops_of_linked_calls_with_a_prefix_have_it_or_data16(machine: int) -> None:
    alone = {form.prefix: form for form in x86_linked.linked_calls(machine) if not form.idle}
    for form in x86_linked.linked_calls(machine):
        if form.idle == b"\xf2" and form.length == 6:
            assert form.nop_with(0xAA).hex(" ").replace("aa", "SS") in FORMATS
        elif form.idle:
            before = form.idle.replace(b"\xf2", b"\x66")
            assert form.nop_with(7) == before + alone[form.prefix[1:]].nop_with(7)


@pytest.mark.parametrize("machine", [x86.EM_X86_64, x86.EM_386])
def test_the_nops_of_objects_are_those_of_the_page(machine: int) -> None:
    for kind, forms in x86.CALL_FORMS[machine].items():
        for form in forms:
            nop = object_nop(form, kind)
            text = nop.hex(" ")
            if form.length == 5:
                assert text == f"0f 1f 44 08 {kind:02x}"
            elif form.length == 6:
                assert nop[4] & 0xF8 == 0x08
                assert machine == x86.EM_386 or text == f"66 0f 1f 44 0c {kind:02x}"
            else:
                assert text.endswith(f"08 {kind:02x} 0{form.prefix[1] - 0xB8} 00 00")
    for shown in ("0f 1f 44 08 TT", "66 0f 1f 44 0c TT", "08 TT RR 00 00"):
        assert f"`{shown}`" in FORMATS


# --- promises -------------------------------------------------------------------------------------

PROMISES = re.findall(r"`(tests/\w+\.py)::(\w+)`", (ROOT / "docs" / "promises.md").read_text())


@pytest.mark.parametrize(("path", "name"), PROMISES)
def test_every_promise_is_held_by_a_test_that_there_is(path: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_every_row_of_the_promises_names_a_test() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "promises.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| promise")
    ]
    assert len(rows) == len(PROMISES) > 25
