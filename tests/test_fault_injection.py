"""Whatever is killed or fails at whatever moment: the whole old object or the whole new one.

strace makes each system call of a run fail or die, one run for each, on every way to commit.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from errno import EFBIG, EINTR, EIO, ENOSPC, errorcode
from functools import cache
from io import BytesIO
from itertools import cycle
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from tests.support.command import RECORDMCOUNT, ROOT
from tests.support.loc_table import table_entries
from tests.support.specimens import caller
from tests.support.strace import Call, Fault, Outcome, run_with_faults, system_calls

pytestmark = pytest.mark.slow

# What is imported only when it is needed, and may then not be there.
LATE_IMPORTS = ("archive", "filetype", "holes", "kernel_objects", "replacement", "section_symbols")
PACKAGE = str(ROOT / "recordmcount")
# No file is behind these; and without memory the interpreter ends as it likes.
OF_THE_PROCESS = frozenset(
    ("execve", "exit_group", "brk", "mmap", "munmap", "mremap", "mprotect", "madvise",
     "rt_sigprocmask", "rt_sigaction")
)  # fmt: skip


# The ways to commit: each sets a folder up and returns the words of a run that changes `target`.


def append_and_flip(folder: Path) -> list[str]:
    (folder / "target").write_bytes(caller(".text"))
    return ["target"]


def break_a_hard_link(folder: Path) -> list[str]:
    append_and_flip(folder)
    (folder / "other name").hardlink_to(folder / "target")
    return ["target"]


def turn_calls_into_nops(folder: Path) -> list[str]:
    (folder / "target").write_bytes(caller(".text", ".exit.text"))
    return ["target"]


def replace_the_output(folder: Path) -> list[str]:
    (folder / "input").write_bytes(caller(".text"))
    (folder / "target").write_bytes(b"what stood there before")
    return ["-o", "target", "input"]


def replace_an_output_of_another_kind(folder: Path) -> list[str]:
    """What is there has an attribute, the input a hole."""
    replace_the_output(folder)
    os.setxattr(folder / "target", "user.note", b"made by hand")
    os.truncate(folder / "input", 1 << 18)
    return ["-o", "target", "input"]


def rebuild_an_archive(folder: Path) -> list[str]:
    member = caller(".text")
    header = f"{'member.o/':16}{0:<12}{0:<6}{0:<6}{644:<8}{len(member):<10}`\n"
    (folder / "target").write_bytes(b"!<arch>\n" + header.encode() + member)
    return ["target"]


Way = Callable[[Path], list[str]]
WAYS: tuple[Way, ...] = (
    append_and_flip, break_a_hard_link, turn_calls_into_nops, replace_the_output,
    replace_an_output_of_another_kind, rebuild_an_archive,
)  # fmt: skip


class Scene:
    """A run that can be played again and again, each time on a folder set up anew.

    `before` and `after` are the files of that folder, `old` and `new` the target among them,
    `calls` the run's system calls.
    """

    def __init__(self, way: Way, folder: Path) -> None:
        self.way = way
        self.folder = folder
        self.target = folder / "target"
        self._set_up()
        self.before = self.files()
        self.play()  # leaves the interpreter's compiled files behind: later runs are all alike
        self._set_up()
        self.calls = system_calls([*RECORDMCOUNT, *self.words], folder)
        self.after = self.files()
        self.old, self.new = self.before["target"], self.after["target"]
        assert self.before != self.after == self.before | {"target": self.new}

    def _set_up(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.words = self.way(self.folder)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def play(self, *faults: Fault, start: Sequence[str] = ()) -> Outcome:
        """Run anew: with `faults` under strace, without them behind the words of `start`."""
        self._set_up()
        if faults:
            return run_with_faults([*RECORDMCOUNT, *self.words], self.folder, *faults)
        done = subprocess.run(
            [*start, *RECORDMCOUNT, *self.words],
            cwd=self.folder,
            check=False,
            capture_output=True,
            text=True,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def calls_from(self, text: str) -> list[Call]:
        """The calls about files from the first on that contains `text`."""
        first = next(i for i, call in enumerate(self.calls) if text in call.text)
        return [call for call in self.calls[first:] if call.name not in OF_THE_PROCESS]

    def work(self) -> list[Call]:
        """The calls from the one on that opens the object; before, the program itself is read."""
        return self.calls_from(f'"{self.words[-1]}", O_')

    def moments(self) -> list[Call]:
        """`work` without what changes nothing of any file: a module is read, by a dozen calls."""
        return [call for call in self.work() if call.name == "openat" or PACKAGE not in call.text]

    def failed_because(self, outcome: Outcome, reason: str) -> bool:
        """Whether the run said which file it failed for and why, and the verdict; no more.

        Where a module that is imported late could not be read, that is why.
        """
        verdict = f"{self.words[-1]}: failed\n"
        reasons = (reason, *(f"cannot import name '{name}' from" for name in LATE_IMPORTS))
        return outcome.status == 1 and any(
            outcome.stderr.startswith(f"{word}: {why}") and outcome.stderr.endswith(verdict)
            for word in self.words
            for why in reasons
        )


@pytest.fixture(scope="module")
def scene_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Way], Scene]:
    """Return a function: a way -> its scene, for it takes a while to list what a run calls."""
    return cache(lambda way: Scene(way, tmp_path_factory.mktemp(way.__name__) / "scene"))


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def scene(request: pytest.FixtureRequest, scene_of: Callable[[Way], Scene]) -> Scene:
    return scene_of(request.param)


@pytest.fixture
def appending(scene_of: Callable[[Way], Scene]) -> Scene:
    return scene_of(append_and_flip)


def test_killed_at_any_call_it_leaves_the_old_object_or_the_new_one(scene: Scene) -> None:
    wrong = []
    # Before the object is opened nothing can be half done, by whatever call of one name.
    start = {call.name: call for call in scene.calls[::-1]} if scene.way is append_and_flip else {}
    for call in (*start.values(), *scene.moments()):
        outcome = scene.play(fault := Fault(call, "signal=SIGKILL"))
        files = scene.files()
        target = files["target"]
        whole = target in (scene.old, scene.new) or (
            scene.way is append_and_flip and target.startswith(scene.old)
        )
        others = files.items() >= (scene.before | {"target": target}).items()
        if not (whole and others and outcome.status == -signal.SIGKILL):
            wrong.append(f"{fault}: {outcome}")
    assert not wrong, "\n".join(wrong)


def test_killed_while_it_appends_the_next_run_completes_the_work(appending: Scene) -> None:
    left_behind = 0
    for call in appending.work():
        appending.play(fault := Fault(call, "signal=SIGKILL"))
        left_behind += appending.target.read_bytes() not in (appending.old, appending.new)
        subprocess.run([*RECORDMCOUNT, appending.target], check=True, capture_output=True)
        assert [entry.offset for entry in table_entries(appending.target)] == [1], fault
    assert left_behind, "no run was killed between appending and publishing"


def test_ended_by_a_signal_at_any_call_it_leaves_no_trace(scene: Scene) -> None:
    """Signals in turns: the program holds back all of them or none."""
    wrong = []
    for call, number in zip(
        scene.moments(), cycle((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)), strict=False
    ):
        outcome = scene.play(fault := Fault(call, f"signal={number.name}"))
        whole = scene.files() in (scene.before, scene.after)
        if not whole or (outcome.status, outcome.stderr) != (-number, ""):
            wrong.append(f"{fault}: {outcome}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("error", "forever"),
    # To try for ever what is interrupted for ever is right.
    [(ENOSPC, False), (ENOSPC, True), (EIO, False), (EIO, True), (EINTR, False)],
    ids=["full-disk-once", "full-disk", "io-error-once", "io-error", "interrupted-once"],
)
def test_an_error_at_any_call_is_one_line_and_no_change(
    scene: Scene, error: int, forever: bool
) -> None:
    wrong = []
    failed = 0
    # These two import all there is; and for lack of space no import fails.
    imports = error != ENOSPC and scene.way in (turn_calls_into_nops, rebuild_an_archive)
    for call in scene.work() if imports else scene.moments():
        outcome = scene.play(fault := Fault(call, f"error={errorcode[error]}", forever))
        if outcome.status == 0:
            well = (scene.files(), outcome.stderr) == (scene.after, "")
        elif call.name == "write" and forever:
            well = scene.files() == scene.before  # and nothing can be said
        else:
            failed += 1
            well = scene.files() == scene.before and scene.failed_because(
                outcome, os.strerror(error)
            )
        if not well:
            wrong.append(f"{fault}: {outcome}")
    assert not wrong, "\n".join(wrong)
    assert failed, "no call failed"


@pytest.mark.parametrize("undoing", ["pwrite64", "ftruncate"])
def test_what_cannot_be_undone_still_leaves_a_whole_object(appending: Scene, undoing: str) -> None:
    """Bytes that could not be cut off stay behind it, as do new ones that may be in use."""
    published = sum(call.name == undoing for call in appending.calls)
    undo = Fault(Call(undoing, published + 1, undoing), "error=EIO", forever=True)
    wrong = []
    for call in appending.calls_from("pwrite64("):
        if call.name == undoing:
            continue  # strace keeps one fault for each name
        outcome = appending.play(fault := Fault(call, "error=ENOSPC"), undo)
        target = appending.target.read_bytes()
        whole = target == appending.new or target.startswith(appending.old)
        if not whole or "Traceback" in outcome.stderr:
            wrong.append(f"{fault}: {outcome}")
    assert not wrong, "\n".join(wrong)


def test_a_temporary_that_cannot_be_removed_changes_nothing_else(
    scene_of: Callable[[Way], Scene],
) -> None:
    scene = scene_of(break_a_hard_link)
    unlink = Fault(Call("unlink", 1, "unlink"), "error=EIO", forever=True)
    wrong = []
    for call in scene.calls_from("O_CREAT"):
        outcome = scene.play(fault := Fault(call, "error=ENOSPC"), unlink)
        untouched = scene.files().items() >= scene.before.items()
        if not (untouched or outcome.status == 0) or "Traceback" in outcome.stderr:
            wrong.append(f"{fault}: {outcome}")
    assert not wrong, "\n".join(wrong)


def full_at(scene: Scene) -> set[int]:
    """Sizes at which the disk is full: around every place where something begins or ends.

    And some between, in even steps: 89 bytes in a small file, 40 of them in a large one.
    """
    size = len(scene.new)
    edges = {0, len(scene.old), size}
    if scene.new.startswith(b"\x7fELF"):
        elf = ELFFile(BytesIO(scene.new))
        headers = [section.header for section in elf.iter_sections()]
        edges |= {elf.header.e_ehsize, elf.header.e_shoff}
        for header in headers:
            if header.sh_type not in ("SHT_NULL", "SHT_NOBITS"):
                edges |= {header.sh_offset, header.sh_offset + header.sh_size}
    around = {edge + by for edge in edges for by in (-1, 0, 1)}
    return {place for place in around if 0 <= place < size} | {*range(0, size, max(89, size // 40))}


def test_a_disk_that_fills_up_at_any_byte_is_one_line_and_no_change(scene: Scene) -> None:
    """With RLIMIT_FSIZE the kernel itself writes what fits and refuses the rest."""
    wrong = []
    for limit in sorted(full_at(scene)):
        outcome = scene.play(start=["prlimit", f"--fsize={limit}"])
        if scene.files() != scene.before or not scene.failed_because(outcome, os.strerror(EFBIG)):
            wrong.append(f"{limit} bytes: {outcome}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_results_that_cannot_be_printed_are_one_line(appending: Scene, redirection: str) -> None:
    shell = ["sh", "-c", f'exec "$@" --stats {redirection}', "sh"]
    outcome = appending.play(start=shell)
    assert outcome.status == 1
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert appending.target.read_bytes() == appending.new
