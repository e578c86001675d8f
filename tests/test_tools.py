"""The tools of the project agree: what tools/check leaves out is what markers say, and no more."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support import markers
from tests.support.command import ROOT

STAGE = re.compile(r"^stage (\"[^\"]+\"|\S+) (.*)$", re.MULTILINE)
# What has a part of Debian's kernel, or needs it.
OF_THE_KERNEL = re.compile(
    r"^from tests\.support(?:\.| import .*\b)(?:kbuild|kernel_modules|peers|qemu)\b"
    r"|^from tools\.benchmark",
    re.MULTILINE,
)


def stages(tool: str) -> dict[str, str]:
    """The stages of a tool in order: name -> command."""
    return dict(STAGE.findall((ROOT / "tools" / tool).read_text()))


def modules() -> list[Path]:
    return sorted((ROOT / "tests").rglob("*.py"))


# --- tools/check ----------------------------------------------------------------------------------


def test_what_check_does_test_does_in_the_same_order() -> None:
    check, test = stages("check"), stages("test")
    assert [name for name in test if name in check] == [*check]
    differ = {name: (command, test[name]) for name, command in check.items()
              if command != test[name]}  # fmt: skip
    assert differ.keys() == {"set-up", "pytest"}
    assert differ["set-up"] == ("tools/setup check", "tools/setup test")


def test_check_runs_the_tests_without_a_marker() -> None:
    assert f'-m "not ({" or ".join(markers.NAMES)})"' in stages("check")["pytest"]
    assert " -m pytest " in stages("test")["pytest"]
    assert " -m " not in stages("test")["pytest"].partition(" -m pytest")[2]


def test_the_compiled_build_passes_what_check_runs() -> None:
    _, _, chosen = stages("check")["pytest"].removesuffix(' "$@"').partition(" -m pytest ")
    assert f"$python -m pytest {chosen}" in (ROOT / "tools" / "test").read_text()


def test_pre_commit_runs_check() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    hook = dict(re.findall(r"^ {8}(\w+): (.+)$", text, re.MULTILINE))
    assert (hook["entry"], hook["language"]) == ("tools/check", "script")
    assert os.access(ROOT / hook["entry"], os.X_OK)
    assert hook["pass_filenames"] == "false"


# --- processes ------------------------------------------------------------------------------------

IN_A_GROUP = """
import os
from pathlib import Path

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(6))
def test_one_of_a_group(number: int) -> None:
    Path(str(number)).write_text(str(os.getpid()))
"""


def test_the_tests_of_a_group_run_in_one_process(tmp_path: Path) -> None:
    """Else each process boots a kernel of its own, and nothing but the clock tells of it."""
    _, _, options = stages("test")["pytest"].partition(" -m pytest ")
    (tmp_path / "test_group.py").write_text(IN_A_GROUP)
    words = [sys.executable, "-m", "pytest", *options.removesuffix(' "$@"').split()]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    assert len({(tmp_path / str(number)).read_text() for number in range(6)}) == 1


# --- markers --------------------------------------------------------------------------------------


def test_the_markers_are_those_that_are_registered() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    registered = settings["tool"]["pytest"]["ini_options"]["markers"]
    assert tuple(line.partition(":")[0] for line in registered) == markers.NAMES


@pytest.mark.parametrize("name", markers.NAMES)
def test_every_marker_is_used(name: str) -> None:
    assert any(f"pytest.mark.{name}\n" in path.read_text() for path in modules())


def test_what_has_to_do_with_the_kernel_is_marked() -> None:
    concerned = {path for path in modules() if OF_THE_KERNEL.search(path.read_text())}
    support = {path for path in concerned if path.name == "conftest.py" or "support" in path.parts}
    assert len(concerned - support) > 5
    unmarked = [
        path.name for path in concerned - support if "pytest.mark.kernel" not in path.read_text()
    ]
    assert unmarked == []


@pytest.mark.parametrize("tool", markers.HIDDEN)
def test_a_tool_that_check_does_not_install_is_hidden_from_tests_without_a_marker(
    tool: str,
) -> None:
    done = subprocess.run([tool, "--version"], check=False, capture_output=True, text=True)
    message = f"{tool}: hidden from tests without a marker, see CONTRIBUTING.md\n"
    assert (done.returncode, done.stdout, done.stderr) == (127, "", message)


@pytest.mark.matrix
@pytest.mark.parametrize("tool", markers.HIDDEN)
def test_no_tool_is_hidden_from_tests_with_a_marker(tool: str) -> None:
    path = shutil.which(tool)
    assert path is not None
    assert Path(path).read_bytes() != markers.STAND_IN.encode()
