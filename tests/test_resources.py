"""Under any limit of the system: one clear line for what is refused, and the next file is done."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from recordmcount import cli, commit
from tests.support.command import RECORDMCOUNT, Finished
from tests.support.loc_table import table_entries
from tests.support.specimens import caller

SMALL = caller(".text")
# No compiled files: where files are limited Python cuts them short, and cannot read them then.
PYTHON, *REST = RECORDMCOUNT
COMMAND = [PYTHON, "-B", *REST]
FILES = [f"{number:02}.o" for number in range(40)]


def limited(folder: Path, limit: str, *words: str, user: int = 0) -> Finished:
    """Run the recorder under a limit, in the words of prlimit; as another user, if that is root."""
    setpriv = ["setpriv", "--reuid", str(user), "--clear-groups"] if user else []
    done = subprocess.run(
        [*setpriv, "prlimit", limit, *COMMAND, *words],
        check=False, capture_output=True, text=True, cwd=folder,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_bytes(SMALL)
    return tmp_path


def recorded(folder: Path) -> list[str]:
    return [name for name in FILES if table_entries(folder / name)]


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", ["-j1", "-j2", "-j7"])
def test_a_limit_on_the_size_of_files_fails_the_files_that_exceed_it_alone(
    folder: Path, jobs: str
) -> None:
    """Not the answers of the processes, which all together are larger."""
    large = FILES[::4]
    for name in large:
        with (folder / name).open("ab") as file:
            file.truncate(8192)
    finished = limited(folder, "--fsize=8192", jobs, "--stats", *FILES)
    assert finished.status == 1
    assert finished.stderr.splitlines() == [
        line for name in large for line in (f"{name}: File too large", f"{name}: failed")
    ]
    assert recorded(folder) == [name for name in FILES if name not in large]
    assert finished.stdout.splitlines()[-1].startswith("total: 30 recorded")


@pytest.mark.parametrize("descriptors", range(4, 24))
def test_with_few_descriptors_as_much_is_done_in_several_processes_as_in_one(
    folder: Path, descriptors: int
) -> None:
    alone = limited(folder, f"--nofile={descriptors}", "-j1", *FILES[:20])
    together = limited(folder, f"--nofile={descriptors}", "-j2", *FILES[20:])
    assert (alone.status, together.status) in {(0, 0), (1, 1)}
    if descriptors >= 6:
        assert recorded(folder) == FILES


def test_without_more_processes_one_does_it_all(folder: Path) -> None:
    """Root is bound by no such limit, so it is another user's."""
    root = os.geteuid() == 0
    if root:
        for path in (folder, *folder.iterdir()):
            path.chmod(0o777)
    finished = limited(folder, "--nproc=1", "-j4", *FILES, user=12345 if root else 0)
    assert finished == (0, "", "")
    assert recorded(folder) == FILES


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_whatever_descriptors_are_closed_every_file_is_recorded(folder: Path, closed: str) -> None:
    """The numbers of those that are closed go to the files that are opened, and to pipes."""
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    done = subprocess.run(
        [*shell, *COMMAND, "-j3", *FILES], check=False, capture_output=True, cwd=folder
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert recorded(folder) == FILES
    assert len({(folder / name).read_bytes() for name in FILES}) == 1


# --- processes that die ---------------------------------------------------------------------------


@pytest.mark.parametrize("dying", [FILES[:1], FILES[7:9], FILES], ids=["one", "two", "all"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_process_had_that_was_killed_is_done_all_the_same(
    folder: Path, dying: list[str], when: str, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """As by the kernel, for want of memory or of processor time."""
    parent, append = os.getpid(), commit.append

    def deadly(path: str, *arguments: object) -> None:
        dies = path in dying and os.getpid() != parent
        if dies and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        append(path, *arguments)  # type: ignore[arg-type]
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(commit, "append", deadly)
    monkeypatch.chdir(folder)
    assert cli.main(["-j2", *FILES]) == 0
    out, err = capfd.readouterr()
    assert recorded(folder) == FILES
    assert len({(folder / name).read_bytes() for name in FILES}) == 1
    assert out == ""
    lines = err.splitlines()
    known = {
        f"{name}: warning: a process died over it: what it did is not counted" for name in dying
    }
    assert len(lines) == (0 if when == "before" else min(len(dying), 2))
    assert known.issuperset(lines)


# --- lists ----------------------------------------------------------------------------------------


def test_the_descriptors_of_lists_are_closed(folder: Path) -> None:
    for name in FILES:
        (folder / f"{name}.list").write_text(f"{name}\n")
    finished = limited(folder, "--nofile=16", *(f"@{name}.list" for name in FILES))
    assert finished == (0, "", "")
    assert recorded(folder) == FILES
