"""Names of C++ and Rust: shown as they stand in the source where asked, and known by them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from patcher.report import document as patcher_document
from recordmcount.report.json import schema
from recordmcount.sites.mangling import demangled, spellings
from tests.support import command, images
from tests.support.command import ROOT
from tests.support.elf_builder import STT_FUNC, X86_64, Symbol, build
from tests.support.objects import recorded, text
from tests.support.patching import patch, refused

# Of C++; c++filt, which shares no code with the product, knows them.
CXX = [
    "_ZN3foo3barEi", "_ZNSt6vectorIiSaIiEE9push_backEOi", "_ZZ4mainENKUlT_E_clIiEEDaS_",
    "_Z1fIXadL_Z1gvEEEvv", "_ZTv0_n24_N1A1fEv", "_ZN1SC2Ev", "_ZNKSt3mapIiSsE4findERKi",
    "_Z3foov.isra.0", "_Z3foov.cold", "_Z3foov.constprop.0.isra.2", "_Z5applyPFviE",
    "_ZN9__gnu_cxxeqIPKcSsEEbRKNS_17__normal_iteratorIT_T0_EESA_", "main", "i", "_Z", "_R",
    "f.cold",
]  # fmt: skip
DROP = "_$LT$a..P$LT$T$GT$$u20$as$u20$core..ops..drop..Drop$GT$"
# Of Rust, in its old and its new scheme: rustc gave them for `a::run` and its like.
RUST = {
    "_ZN4core3fmt9Formatter3pad17h0123456789abcdefE": "core::fmt::Formatter::pad",
    f"_ZN{len(DROP)}{DROP}4drop17h0123456789abcdefE": "<a::P<T> as core::ops::drop::Drop>::drop",
    "_RNvCs1234_7mycrate3foo": "mycrate::foo",
    "_RNCNvCs1234_7mycrate4main0B3_": "mycrate::main::{closure#0}",
    "_RINvNtCskHXnuoaeZCL_4core3ptr13drop_in_placeINtNtCs4fqI2P2rA04_5alloc3vec3VechEE"
    "Cs1234_7mycrate": "core::ptr::drop_in_place::<alloc::vec::Vec<u8>>",
}  # fmt: skip


@pytest.mark.parametrize("name", CXX)
def test_names_of_cxx_are_those_of_cxxfilt(name: str) -> None:
    done = subprocess.run(["c++filt", name], check=True, capture_output=True, text=True)
    assert demangled(name) == done.stdout.rstrip("\n")


@pytest.mark.parametrize("name", RUST)
def test_names_of_rust_are_paths(name: str) -> None:
    assert demangled(name) == RUST[name]


def hostile(levels: int) -> str:
    """A name in which each type has the one before it twice."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    pairs = "".join(f"S_I{2 * f'S{digits[level + 1]}_'}E" for level in range(levels))
    return f"_Z1f1AI1B1BE{pairs}"


def test_a_name_cannot_cost_more_than_it_should() -> None:
    small = demangled(hostile(8))
    assert small.count("A<") > 8
    for name in (hostile(33), "_Z1f" + "P" * 900_000 + "i", "_R" + "NC" * 9000, "_Z" + "N" * 9000):
        assert demangled(name) == name
        assert spellings(name) == {name}


COLD = "ns::f(int) [clone .cold]"


@pytest.mark.parametrize(
    ("name", "parts", "others"),
    [
        ("main", True, set()),
        ("f.isra.0", False, set()),
        ("f.isra.0", True, {"f"}),
        ("f.part.0.cold", True, {"f"}),
        ("f.constprop.1.isra.0", True, {"f"}),
        ("f.cold.1", True, {"f"}),
        ("f.other", True, set()),
        ("_ZN2ns1fEi", False, {"ns::f(int)", "ns::f"}),
        ("_ZN2ns1fEi.cold", False, {COLD}),
        ("_ZN2ns1fEi.cold", True, {COLD, "_ZN2ns1fEi", "ns::f(int)", "ns::f"}),
        ("_RNvCs1234_7mycrate3foo", False, {"mycrate::foo"}),
    ],
)  # fmt: skip
def test_a_function_is_called_by_these_names(name: str, parts: bool, others: set[str]) -> None:
    assert spellings(name, parts=parts) == {name} | others


# --- at work --------------------------------------------------------------------------------------

NAMES = [
    "_ZN2ns3addEi", "_ZN2ns3addEd", "_ZN2ns5SolveIiEclEv", "_RNvCs1234_7mycrate3run", "plain",
    "plain.isra.0", "plain.part.1.cold", "_ZN2ns3addEi.constprop.0", "_ZNK2ns4ListixEi",
]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A recorded object with a function of each name."""
    symbols = [Symbol(name, ".text", 6 * at, 6, type=STT_FUNC) for at, name in enumerate(NAMES)]
    elf = build(X86_64, [text(calls=len(NAMES))], [*symbols, Symbol("__fentry__")])
    return recorded(tmp_path / "x.o", elf)


def chosen(path: Path, *options: str) -> list[str]:
    """The functions that options choose, by their symbols."""
    done = json.loads(patch("status", "--json", *options, path))
    jsonschema.validate(done, schema(patcher_document.SCHEMA))
    return [site["function"] for site in done["files"][0]["sites"]]


@pytest.mark.parametrize(
    ("words", "functions"),
    [
        ("--functions _ZN2ns3addEi", "_ZN2ns3addEi"),
        ("--functions ns::add(int)", "_ZN2ns3addEi"),
        ("--functions ns::add", "_ZN2ns3addEi _ZN2ns3addEd"),
        ("--functions ns::add* --notrace ns::add(double)", "_ZN2ns3addEi _ZN2ns3addEi.constprop.0"),
        ("--functions mycrate::*", "_RNvCs1234_7mycrate3run"),
        ("--functions ns::List::operator[]", "_ZNK2ns4ListixEi"),
        ("--functions plain", "plain"),
        ("--functions plain --parts", "plain plain.isra.0 plain.part.1.cold"),
        ("--functions ns::add(int) --parts", "_ZN2ns3addEi _ZN2ns3addEi.constprop.0"),
        ("--functions *plain* --notrace plain --parts", ""),
    ],
)  # fmt: skip
def test_functions_are_chosen_by_either_spelling(words: str, functions: str, path: Path) -> None:
    assert chosen(path, *words.split()) == functions.split()


@pytest.mark.parametrize(
    ("glob", "advice"),
    [
        ("plane", "; did you mean 'plain'?"),
        ("nothing_like_it", ""),
    ],
)
def test_of_a_slip_of_the_pen_the_nearest_name_is_told(glob: str, advice: str, path: Path) -> None:
    said = refused("nop", "--functions", glob, path)
    assert said == f"{path}: no site in a function like {glob}{advice}\n"


def test_that_there_are_parts_is_told(tmp_path: Path) -> None:
    symbols = [Symbol("part.isra.0", ".text", 0, 6, type=STT_FUNC), Symbol("__fentry__")]
    path = recorded(tmp_path / "x.o", build(X86_64, [text()], symbols))
    said = refused("nop", "--functions", "part", path)
    assert said == f"{path}: no site in a function like part; with --parts there is\n"
    assert patch("nop", "--functions", "part", "--parts", path).startswith(f"{path}: 1 site turned")


@pytest.mark.parametrize("words", [("recordmcount", "report"), ("patcher", "status"),
                                   ("patcher", "nop", "-n")], ids=" ".join)  # fmt: skip
def test_names_are_shown_as_they_stand_in_the_source_where_asked(
    words: tuple[str, ...], path: Path
) -> None:
    plain = command.call(*words, path).stdout
    shown = command.call(*words, "--demangle", path).stdout
    for name in NAMES:
        assert re.search(rf"{re.escape(name)}( |:|$)", plain, re.MULTILINE)
        assert demangled(name) in shown
    assert "_ZN" not in shown


def test_json_has_both_spellings_where_asked(path: Path) -> None:
    for options in ([], ["--demangle"]):
        words = ["report", "--json", *options]
        document = json.loads(command.call("recordmcount", *words, path).stdout)
        jsonschema.validate(document, schema())
        for site in document["files"][0]["sites"]:
            expected = {"demangled": demangled(site["function"])} if options else {}
            assert {key: site[key] for key in site if key == "demangled"} == expected


def test_names_are_read_however_python_was_started(path: Path) -> None:
    main = ROOT / "recordmcount" / "__main__.py"
    words: list[str | Path] = [sys.executable, "-I", "-S", main, "report", "--demangle", path]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert "ns::add(int)" in done.stdout


def test_without_the_library_names_are_those_of_the_symbol_table(path: Path) -> None:
    hidden = f"import sys; sys.modules['demangle'] = None; sys.path.insert(0, {str(ROOT)!r}); "
    words = ["report", "--demangle", str(path)]
    program = hidden + f"from recordmcount.cli import main; sys.exit(main({words}))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True
    )
    assert "_ZN2ns3addEi" in done.stdout


@pytest.mark.matrix
def test_functions_of_a_program_in_cxx_are_switched_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "x.cc").write_text(
        "namespace ns { template <class T> struct Box { T value; __attribute__((noinline)) T "
        "get() { return value; } };\n__attribute__((noinline)) int add(int a) { return a + 1; } }\n"
        'extern "C" __attribute__((no_instrument_function)) void __fentry__(void) {}\n'
        "int main() { ns::Box<int> box{1}; return ns::add(box.get()); }\n"
    )
    source, made, program = tmp_path / "x.cc", tmp_path / "x.o", tmp_path / "x"
    images.tool("g++", "-O1", "-pg", "-mfentry", "-fno-pie", "-c", source, "-o", made)
    assert command.call("recordmcount", made) == (0, "", "")
    images.tool("g++", "-no-pie", made, "-o", program)
    said = patch("nop", "--functions", "ns::Box<int>::get()", "--functions", "ns::add", program)
    assert said == f"{program}: 2 sites turned to nop, 0 already\n"
    assert "ns::add(int)" in patch("status", "--demangle", program)
