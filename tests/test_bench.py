"""`tools/bench` on a few modules: its table and its JSON. How fast anything is, is not tested."""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.benchmark import calls
from tools.benchmark.__main__ import main
from tools.benchmark.comparison import Target
from tools.benchmark.instructions import Counter
from tools.benchmark.measure import BenchmarkError, Command, Copies, race
from tools.benchmark.trace import Way, measure

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The JSON of one round over a few modules."""
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    status = main(["--files", "4", "--rounds", "1", "--json", str(file), "--check"])
    document = json.loads(file.read_text())
    assert status == any(row["met"] is False for row in document["comparisons"])
    return document


def test_every_design_target_is_among_the_comparisons(document: Any) -> None:
    assert document["version"] == 1
    told = [row["what"] for row in document["comparisons"]]
    targets = [row["target"] for row in document["comparisons"] if row["target"]]
    assert targets == [
        {"at_least": 3},
        {"at_most": 0.75},
        {"at_most": 1.4},
        {"at_least": 4},
        *[{"at_most": 1}, {"at_least": 10}] * 2,
        {"at_most": 0.15},
        {"at_least": 3},
        *[{"at_most": 3}] * 9,
        *[{"at_most": 1.01}] * (4 if document["machine"]["counts_instructions"] else 2),
        *[{"at_most": 2}] * 2,
        {"at_most": 1},
        *[{"at_most": 12}, {"at_most": 2}],
        {"at_most": 0.167},
        # A machine may have no such uprobes, and a busy one no time for LTTng's daemons.
        *[{"at_most": 0.1}] * sum("LTTng" in each or "optimized uprobe" in each for each in told),
        {"at_most": 1.2},
    ]


def test_a_comparison_carries_what_its_ratio_is_made_of(document: Any) -> None:
    for row in document["comparisons"]:
        ours, peer = row["ours"]["least"], row["peer"]["least"]
        pairs = [(ours, peer)]
        if row["paired"]:
            pairs = list(zip(row["ours"]["values"], row["peer"]["values"], strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        assert row["ratio"] in (ratio, statistics.median(other / one for one, other in pairs))
        assert row["added"] in (None, ours - peer)
        assert min(row["ours"]["values"]) == ours > 0
        assert (row["met"] is None) == (row["target"] is None)


def test_the_table_has_a_line_for_each_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--files", "4", "--rounds", "1"])
    out = capsys.readouterr().out
    assert "\n4 modules, " in out
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
        assert peer in out


@pytest.mark.parametrize(
    ("bound", "met"), [("at least", [False, True, True]), ("at most", [True, True, False])]
)
def test_a_target_is_met_at_its_bound_and_on_one_side_of_it(bound: str, met: list[bool]) -> None:
    assert [Target(bound, 3).met(ratio) for ratio in (2.9, 3, 3.1)] == met


def test_a_command_that_fails_is_not_compared(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="false failed"):
        race([Command(["false"])], Copies([], tmp_path), 1)


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
        race([Command(["true"])], Copies([], tmp_path), 1)


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
