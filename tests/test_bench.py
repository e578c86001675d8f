"""`tools/bench` on a few modules: its table and its JSON. How fast anything is, is not tested."""

import io
import json
import re
import shutil
import statistics
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.command import ROOT
from tools.benchmark import builds, calls
from tools.benchmark.__main__ import main
from tools.benchmark.builds import COMPILED, MAKERS, Build
from tools.benchmark.comparison import Comparison, Pair, Target
from tools.benchmark.comparisons import COMPARISONS
from tools.benchmark.instructions import Counter
from tools.benchmark.measure import BenchmarkError, Command, Copies, Cost, Sample, race
from tools.benchmark.setting import KERNEL
from tools.benchmark.trace import Way, measure

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.xdist_group("bench"),  # measured once for all of them
]


class Told(NamedTuple):
    printed: str
    document: Any


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A copy of the checkout, in the place of what tools/build makes: nothing is compiled."""
    folder = tmp_path_factory.mktemp("compiled")
    for package in ("recordmcount", "patcher"):
        shutil.copytree(ROOT / package, folder / package)
    return Build(COMPILED, folder)


@pytest.fixture(scope="module")
def told(stand_in: Build, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What is told of one round over a few modules, by both builds."""
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.setitem(MAKERS, "both", [builds.pure, lambda: stand_in])
        status = main(["--files", "4", "--rounds", "1", "--json", str(file), "--check"])
    document = json.loads(file.read_text())
    assert status == any(row["met"] is False for row in document["comparisons"])
    return Told(out.getvalue(), document)


def rows(told: Told, name: str) -> list[Any]:
    return [row for row in told.document["comparisons"] if row["subject"].startswith(f"{name}: ")]


def targets(told: Told, name: str, build: str | None) -> list[dict[str, float]]:
    """The targets of a comparison that are for this build, in order."""
    return [row["target"] for row in rows(told, name) if row["build"] == build and row["target"]]


# --- what is told ---------------------------------------------------------------------------------


def test_every_comparison_is_made(told: Told) -> None:
    assert told.document["version"] == 2
    assert all(rows(told, name) for name in COMPARISONS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("batch", [{"at_least": 3}, {"at_most": 1}]),
        ("one-folder", [{"at_least": 5}]),
        ("object", [{"at_most": 1.45}, {"at_least": 4}]),
        ("large", [{"at_least": 3}]),
        (
            "report",
            [
                *[{"at_most": 1}, {"at_least": 10}, {"at_most": 64}],
                *[{"at_most": 1}, {"at_least": 10}],
            ],
        ),
        ("report-large", [{"at_most": 64}] * 2),
        ("lines", [{"at_most": 0.15}]),
        ("switch-linked", [{"at_most": 1.5}, {"at_most": 3}, {"at_most": 3}]),
        ("switch-object", [{"at_most": 1.5}, {"at_most": 4}, {"at_most": 4}]),
        ("switch-tiny", [{"at_most": 8}, {"at_most": 8}]),
    ],
)
def test_the_compiled_build_has_the_targets_of_the_design(
    told: Told, name: str, expected: list[dict[str, float]]
) -> None:
    assert targets(told, name, "compiled") == expected


def test_the_pure_build_is_told_beside_it_and_has_targets_of_its_own(told: Told) -> None:
    for name in COMPARISONS:
        pure, compiled = (
            [row["what"] for row in rows(told, name) if row["build"] == build]
            for build in ("pure", "compiled")
        )
        assert pure == compiled or name in ("off", "running", "tracing")
    assert targets(told, "object", "pure") == [{"at_most": 1.35}, {"at_least": 4}]
    assert targets(told, "report", "pure") == [{"at_least": 10}] * 2
    assert targets(told, "lines", "pure") == [{"at_most": 0.15}]
    for name in ("batch", "one-folder", "large", "report-large", "switch-linked", "switch-tiny"):
        assert targets(told, name, "pure") == []


def test_programs_have_targets_that_are_for_no_build_or_the_pure_one(told: Told) -> None:
    counts = told.document["machine"]["counts_instructions"]
    assert targets(told, "off", None) == [{"at_most": 1.01}] * (4 if counts else 2)
    assert targets(told, "running", "pure") == [*[{"at_most": 2}] * 2, {"at_most": 1}]
    named = [row["what"] for row in rows(told, "tracing")]
    assert targets(told, "tracing", "pure") == [
        *[{"at_most": 12}, {"at_most": 2}],
        {"at_most": 0.167},
        # A machine may have no such uprobes, and a busy one no time for LTTng's daemons.
        *[{"at_most": 0.1}] * sum("LTTng" in each or "optimized uprobe" in each for each in named),
        {"at_most": 1.2},
    ]


def test_a_comparison_carries_what_its_figures_are_made_of(told: Told) -> None:
    for row in told.document["comparisons"]:
        pairs = [*zip(row["ours"]["values"], row["peer"]["values"], strict=True)]
        if "added" in row:
            unit = 1 << 20 if row["measure"] == "memory" else 1
            assert row["added"]["values"] == [(one - other) / unit for one, other in pairs]
        else:
            assert row["ratio"]["values"] in (
                [one / other for one, other in pairs],
                [other / one for one, other in pairs],
            )
        figures = row["added" if "added" in row else "ratio"]
        assert figures["least"] == min(figures["values"])
        assert figures["median"] == statistics.median(figures["values"])
        assert figures["greatest"] == max(figures["values"])
        assert (row["met"] is None) == (row["target"] is None)


def test_the_modules_twice_have_as_many_sites_when_they_are_linked(told: Told) -> None:
    linked, one_object = (
        re.findall(r"[\d,]+ sites", rows(told, name)[0]["subject"])
        for name in ("switch-linked", "switch-object")
    )
    assert linked == one_object != []


def test_the_table_has_a_line_for_each_comparison(told: Told) -> None:
    assert "\nbatch: 4 modules, " in told.printed
    for row in told.document["comparisons"]:
        assert f"\n{row['subject']}\n" in told.printed
        assert f"\n  {row['what']:56}{row['build'] or ''} " in told.printed
    for peer in (
        "C recordmcount",
        "recordmcount.pl",
        "objtool --mcount",
        "python -I -S -c pass",
        "readelf -rW",
        "plain pyelftools",
        "than without lines",
        "of cp",
        "the same without -pg",
        "a bare read and write",
        "uftrace record -P .",
        "a bare return, ns more than a NOP",
        "uftrace record, entry and return",
        "LTTng, entry and return",
    ):
        assert peer in told.printed


def test_of_few_rounds_or_files_it_is_said_that_targets_mean_nothing(told: Told) -> None:
    assert "what is told of targets means nothing" in told.printed


# --- what is chosen -------------------------------------------------------------------------------


def test_only_the_comparisons_that_are_asked_for_are_made(
    stand_in: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(MAKERS, "compiled", [lambda: stand_in])
    words = ["--files", "2", "--rounds", "7", "--build", "compiled", "--json", f"{tmp_path}/json"]
    main([*words, "--only", "switch-t*", "--only", "batch"])
    document = json.loads((tmp_path / "json").read_text())
    made = [(row["subject"].partition(": ")[0], row["build"]) for row in document["comparisons"]]
    assert {*made} == {("batch", "compiled"), ("switch-tiny", "compiled")}
    assert all(len(row["ours"]["values"]) == 7 for row in document["comparisons"])
    assert "pure" not in capsys.readouterr().out


def test_a_name_that_no_comparison_has_is_a_wrong_usage_and_told_with_the_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--only", "report-*", "--only", "batches"])
    assert ended.value.code == 2
    assert "no comparison is named batches" in capsys.readouterr().err


def test_a_build_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tools").mkdir()
    tool = tmp_path / "tools" / "build"
    tool.write_text("#!/bin/sh\necho no compiler >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setattr(builds, "ROOT", tmp_path)
    assert main(["--only", "batch"]) == 1
    assert capsys.readouterr().err == f"tools/bench: {tool} tree failed: no compiler\n"


def test_a_build_is_run_from_its_own_folder(stand_in: Build, tmp_path: Path) -> None:
    for words in (stand_in.recorder, stand_in.command("patcher")):
        assert Path(words[-1]).is_relative_to(stand_in.folder)
    with pytest.raises(BenchmarkError, match="is not of the compiled build"):
        assert Build(COMPILED, tmp_path).recorder  # which has no packages


# --- what is judged -------------------------------------------------------------------------------


def test_the_usual_round_is_judged() -> None:
    ours, peer = ([Cost(wall, 0, 0, 0) for wall in walls] for walls in ((1, 2, 4), (9, 4, 4)))
    row = Pair("", "", ours, peer).faster("", Target("at least", 2))
    figures = row.figures
    assert (figures.least, figures.median, figures.greatest, row.met) == (1, 2, 9, True)
    row = Pair("", "", ours, peer).part("", target=Target("at most", 0.4))
    assert (row.figures.median, row.met) == (0.5, False)


def test_memory_that_is_added_is_judged_in_mib() -> None:
    ours, peer = Sample([3 << 20]), Sample([1 << 20])
    target = Target("at most", 1)
    row = Comparison("", "", "", "memory", ours, peer, added=True, target=target)
    assert (row.figures.values, row.met) == ([2], False)


def test_instructions_are_told_where_they_are_counted() -> None:
    counted, uncounted = Cost(1, 1, 1, 5), Cost(1, 1, 1, 0)
    (row,) = Pair("", "", [counted], [counted]).instructions("nop, ")
    assert (row.what, row.measure) == ("nop, instructions of the same", "instructions")
    assert not [*Pair("", "", [counted], [uncounted]).instructions("")]


@pytest.mark.parametrize(
    ("bound", "met"), [("at least", [False, True, True]), ("at most", [True, True, False])]
)
def test_a_target_is_met_at_its_bound_and_on_one_side_of_it(bound: str, met: list[bool]) -> None:
    assert [Target(bound, 3).met(ratio) for ratio in (2.9, 3, 3.1)] == met


# --- how it is measured ---------------------------------------------------------------------------


def copies_of_modules(folder: Path) -> Copies:
    modules = sorted((KERNEL / "bare").glob("*.ko"), key=lambda path: path.stat().st_size)
    calling = [path for path in modules if b"\0__fentry__\0" in path.read_bytes()]
    return Copies(calling[:2], folder)


def test_a_command_that_fails_is_not_compared(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="false failed"):
        race([Command(["false"], Copies([], tmp_path / "copies"))], 1)


def test_what_a_command_does_is_counted_and_what_we_do_is_not() -> None:
    page_faults = (1, 2)  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS: every machine has these
    with Counter(page_faults) as counter:
        assert not counter.why_not
        bytearray(1 << 24)
        assert counter.read() == 0
        subprocess.run(["true"], check=True)
        few = counter.read()
        subprocess.run([sys.executable, "-c", "bytearray(1 << 24)"], check=True)
        assert counter.read() - few > 4096 > few > 0


def test_what_cannot_be_counted_is_said() -> None:
    with Counter((1, 1 << 30)) as counter:
        assert counter.why_not.startswith("perf_event_open: ")
        assert counter.read() == 0


def test_a_command_that_records_nothing_is_not_compared(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="true recorded 0 files"):
        race([Command(["true"], copies_of_modules(tmp_path / "copies"))], 1)


def test_commands_that_record_different_files_are_not_compared(tmp_path: Path) -> None:
    one, other = (copies_of_modules(tmp_path / name) for name in ("one", "other"))
    words = [sys.executable, "-m", "recordmcount"]
    commands = [Command([*words, *one.paths], one), Command([*words, other.paths[0]], other)]
    with pytest.raises(BenchmarkError, match="recorded 1 files, and not the same 2 as another"):
        race(commands, 1)


def test_each_run_of_a_command_has_fresh_copies(tmp_path: Path) -> None:
    copies = copies_of_modules(tmp_path / "copies")
    words = [sys.executable, "-m", "recordmcount", *copies.paths]
    look = ["sh", "-c", f"ls {copies.folder}; {' '.join(words)}; touch {copies.folder}/left"]
    command = Command(look, copies)
    (costs,) = race([command], 2)
    assert len(costs) == 2
    assert "left" not in command.output.read_text()
    assert not copies.folder.exists()


def test_each_way_to_trace_is_measured_in_every_round_and_one_that_fails_is_told(
    tmp_path: Path,
) -> None:
    programs = calls.build(tmp_path)
    starts = []

    def start(name: str) -> calls.Calls:
        starts.append(name)
        return calls.Calls(programs["call"])

    def fail() -> calls.Calls:
        starts.append("bad")
        return calls.Calls(Path("/bin/true"))

    ways = [
        Way("one", lambda: start("one"), 100),
        Way("bad", fail, 100),
        Way("two", lambda: start("two"), 100, threads=2),
    ]
    samples, why_not = measure(ways, 3)
    assert starts == ["two", "bad", "one", "one", "two", "two", "one"]
    assert {name: len(sample.values) for name, sample in samples.items()} == {"one": 3, "two": 3}
    assert why_not == {"bad": "true has ended: "}
