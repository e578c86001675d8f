"""A file is copied while it is found out what has to change in it, and only the clock tells.

Whatever becomes of that copy, the result and what is said are what they are without one.
"""

import errno
import os
import posix
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from patcher.memory import early_copy
from patcher.memory.early_copy import LEAST
from patcher.memory.elffile import ElfFile
from recordmcount import replacement
from recordmcount.commit import SignalsHeld, write_at
from tests.support.acls import ACCESS, DEFAULT, granting
from tests.support.command import RECORDMCOUNT, ROOT, call
from tests.support.images import build
from tests.support.strace import Call, Fault, run_with_faults, system_calls

PATCHER = (*RECORDMCOUNT[:-1], str(ROOT / "patcher" / "__main__.py"))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that is large enough, alone in its folder; its last bytes are nobody's."""
    folder = tmp_path / "made"
    folder.mkdir()
    image = build(folder, flags=["-mfentry", "-fno-pic"]).image
    path = tmp_path / "folder" / "program"
    path.parent.mkdir()
    path.write_bytes(image.read_bytes() + os.urandom(LEAST))
    path.chmod(0o750)
    return path


@pytest.fixture
def expected(program: Path) -> bytes:
    """What is made of it without an early copy."""
    out = program.with_name("expected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(early_copy, "LEAST", 1 << 40)
        assert call("patcher", "nop", "-q", "-o", out, program) == (0, "", "")
    content = out.read_bytes()
    out.unlink()
    assert content != program.read_bytes()
    return content


@pytest.fixture
def made(expected: bytes, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each file that is written from now on: whether it was an early copy first."""
    assert expected  # which is made before
    found: list[bool] = []
    before_it_is_filled(monkeypatch, lambda target: found.append(os.fstat(target).st_size > 0))
    return found


def before_it_is_filled(patch: pytest.MonkeyPatch, look: Callable[[int], object]) -> None:
    """Have a look at each file that takes another one's place, when it is about to be filled."""
    replace = ElfFile.replace

    def watched(file: ElfFile, fill: Callable[[int], object], path: str | None = None) -> None:
        def filled(target: int) -> None:
            look(target)
            fill(target)

        replace(file, filled, path)

    patch.setattr(ElfFile, "replace", watched)


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def nop(*words: str | Path, cwd: Path | None = None) -> tuple[int, str, str]:
    return call("patcher", "nop", "-q", *words, cwd=cwd)


def names(program: Path) -> set[str]:
    return set(os.listdir(program.parent))


# --- it is used -----------------------------------------------------------------------------------


def test_a_copy_takes_the_files_place(program: Path, expected: bytes, made: list[bool]) -> None:
    assert nop(program) == (0, "", "")
    assert (program.read_bytes(), made, names(program)) == (expected, [True], {"program"})
    assert stat.S_IMODE(program.stat().st_mode) == 0o750


def test_a_copy_becomes_the_output(program: Path, expected: bytes, made: list[bool]) -> None:
    before = os.umask(0o027)
    assert nop("-o", "out", "program", cwd=program.parent) == (0, "", "")
    os.umask(before)
    out = program.with_name("out")
    assert (out.read_bytes(), made, names(program)) == (expected, [True], {"program", "out"})
    assert stat.S_IMODE(out.stat().st_mode) == 0o750


def test_a_copy_takes_over_from_an_output_that_is_there(
    program: Path, expected: bytes, made: list[bool]
) -> None:
    out = program.with_name("out")
    out.touch()
    out.chmod(0o604)
    assert nop("-o", out, program) == (0, "", "")
    assert (out.read_bytes(), made) == (expected, [True])
    assert stat.S_IMODE(out.stat().st_mode) == 0o604


def test_an_output_has_what_its_folder_gives_to_new_files(
    program: Path, made: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.setxattr(program.parent, DEFAULT, granting(6, others=4))
    before = os.umask(0)
    early, late = (program.with_name(name) for name in ("early", "late"))
    assert nop("-o", early, program) == (0, "", "")
    monkeypatch.setattr(early_copy, "LEAST", 1 << 40)
    assert nop("-o", late, program) == (0, "", "")
    os.umask(before)
    assert made == [True, False]
    assert early.stat().st_mode == late.stat().st_mode
    assert os.getxattr(early, ACCESS) == os.getxattr(late, ACCESS)


def test_only_the_pieces_with_sites_are_written_to_a_copy(
    program: Path, made: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[int, int]] = []

    def watched(target: int, offset: int, data: bytes) -> None:
        written.append((offset, len(data)))
        write_at(target, offset, data)

    monkeypatch.setattr("patcher.files.rewrite.write_at", watched)
    with ElfFile(str(program)) as file:
        (text,) = file.spans
    assert nop(program) == (0, "", "")
    assert made == [True]
    assert written
    assert all(
        text.offset <= offset and offset + size <= text.offset + text.size
        for offset, size in written
    )


def test_one_call_of_the_kernel_copies_what_is_not_huge(
    program: Path, expected: bytes, made: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    copy = posix.copy_file_range

    def watched(source: int, target: int, size: int, *places: int) -> int:
        sizes.append(size)
        return copy(source, target, size, *places)

    monkeypatch.setattr(posix, "copy_file_range", watched)
    assert nop("-o", program.with_name("once"), program) == (0, "", "")
    assert sizes == [program.stat().st_size]
    monkeypatch.setattr(early_copy, "AT_ONCE", 300_000)
    sizes.clear()
    assert nop("-o", program.with_name("pieces"), program) == (0, "", "")
    assert sum(sizes) == program.stat().st_size
    assert max(sizes) == 300_000
    assert made == [True, True]
    assert program.with_name("pieces").read_bytes() == expected


# --- it is not ------------------------------------------------------------------------------------


def test_nothing_stays_of_a_copy_that_nobody_needs(program: Path, made: list[bool]) -> None:
    assert nop(program) == (0, "", "")
    status = program.stat()
    assert nop(program) == (0, "", "")
    assert program.stat() == status
    assert (made, names(program)) == ([True], {"program"})


def test_without_a_table_nothing_is_copied(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_copy, "EarlyCopy", None)
    content = program.read_bytes()
    program.write_bytes(content.replace(b"__mcount_loc", b"__mcount_lox"))
    assert nop(program)[0] == 1
    program.write_bytes(content)
    assert nop("--dry-run", program)[0] == 0


def test_a_small_file_is_copied_when_it_is_written(program: Path, made: list[bool]) -> None:
    os.truncate(program, LEAST - 1)
    assert nop(program) == (0, "", "")
    assert made == [False]


def test_a_file_with_a_hole_keeps_it(program: Path, made: list[bool]) -> None:
    size = program.stat().st_size
    os.truncate(program, size + (1 << 24))
    assert nop(program) == (0, "", "")
    assert program.stat().st_size == size + (1 << 24)
    assert program.stat().st_blocks * 512 < 2 * size
    assert made == [False]


def no_unnamed_files(patch: pytest.MonkeyPatch) -> None:
    """NFS has none, and others."""
    real = posix.open

    def opened(path: str, flags: int, *rest: Any, **named: Any) -> int:
        if flags & posix.O_TMPFILE == posix.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, *rest, **named)

    patch.setattr(posix, "open", opened)


def no_way_to_ask_for_them(patch: pytest.MonkeyPatch) -> None:
    """Python was built with an old C library, as uv's was for years."""
    patch.delattr(posix, "O_TMPFILE")


def no_call_that_copies(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(posix, "copy_file_range")


def no_thread(patch: pytest.MonkeyPatch) -> None:
    def start(*_: Any) -> int:
        raise RuntimeError("can't start new thread")

    patch.setattr(early_copy, "start_new_thread", start)


def no_room(patch: pytest.MonkeyPatch) -> None:
    """It is there again when the file is written."""
    copy = posix.copy_file_range

    def some(source: int, target: int, _: int, at: int, to: int) -> int:
        if at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, target, 1000, at, to)

    patch.setattr(posix, "copy_file_range", some)


def an_end_that_comes_early(patch: pytest.MonkeyPatch) -> None:
    """As of a file that shrank, or that a file system does not copy."""
    patch.setattr(posix, "copy_file_range", lambda *_: 0)


def no_names_for_what_is_open(patch: pytest.MonkeyPatch) -> None:
    """Without /proc."""

    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOENT, "No such file or directory")

    patch.setattr(posix, "link", link)


def no_umask(patch: pytest.MonkeyPatch) -> None:
    """Some kernels forget it."""
    real = posix.open

    def opened(path: str, flags: int, *rest: Any, **named: Any) -> int:
        fd = real(path, flags, *rest, **named)
        if flags & posix.O_TMPFILE == posix.O_TMPFILE:
            posix.fchmod(fd, 0o777)
        return fd

    patch.setattr(posix, "open", opened)


def another_folder(patch: pytest.MonkeyPatch) -> None:
    """One with the same name, since the copy was begun."""
    numbers = iter(range(10))
    patch.setattr(early_copy, "_place", lambda *place: (*place, next(numbers)))


def another_mode(patch: pytest.MonkeyPatch) -> None:
    """The output went, or came, since the copy was begun."""
    patch.setattr(early_copy, "mode_of_output", lambda *_: 0o640)


@pytest.mark.parametrize(
    "obstacle",
    [
        no_unnamed_files, no_way_to_ask_for_them, no_call_that_copies, no_thread, no_room,
        an_end_that_comes_early, no_names_for_what_is_open, no_umask, another_folder, another_mode,
    ],
)  # fmt: skip
def test_where_there_is_no_copy_all_is_written_later(
    obstacle: Callable[[pytest.MonkeyPatch], None], program: Path, expected: bytes,
    made: list[bool], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    obstacle(monkeypatch)
    before_it_is_filled(monkeypatch, lambda _: taking_room.extend(unnamed(program.parent)))
    taking_room: list[str] = []
    out = program.with_name("out")
    assert nop("-o", out, program) == (0, "", "")
    assert (out.read_bytes(), made, names(program)) == (expected, [False], {"program", "out"})
    assert stat.S_IMODE(out.stat().st_mode) == 0o750 & ~umask()
    assert not taking_room


def unnamed(folder: Path) -> list[str]:
    """Which files of a folder are open here that have no name."""
    links = [Path("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
    files = [os.readlink(link) for link in links if link.is_symlink()]  # one was the listing's own
    return [file for file in files if file.startswith(f"{folder}/#")]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_is_behind_a_link_is_made_where_the_link_leads(
    program: Path, expected: bytes, made: list[bool], tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to("folder/program")
    assert nop(link) == (0, "", "")
    assert (program.read_bytes(), made, link.is_symlink()) == (expected, [False], True)


def test_a_folder_that_cannot_be_written_is_told_as_ever(program: Path, tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "out"
    assert nop("-o", out, program) == (1, "", f"{out}: No such file or directory\n")


# --- what fails -----------------------------------------------------------------------------------


def test_what_was_changed_after_it_was_copied_is_not_replaced(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = early_copy.EarlyCopy.take

    def later(copy: early_copy.EarlyCopy, *place: Any) -> int:
        fd = take(copy, *place)
        with program.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"!")
        return fd

    monkeypatch.setattr(early_copy.EarlyCopy, "take", later)
    content = program.read_bytes()
    assert nop(program) == (1, "", f"{program}: {replacement.CHANGED}\n")
    assert program.read_bytes() == content[:-1] + b"!"
    assert names(program) == {"program"}


def test_a_site_that_changed_after_the_plan_leaves_all_as_it_was(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is compared in what is written, and not in what was copied before."""
    with ElfFile(str(program)) as file:
        (text,) = file.spans

    def change(_: int) -> None:
        with program.open("r+b") as file:
            file.seek(text.offset)
            file.write(b"\xcc" * text.size)

    before_it_is_filled(monkeypatch, change)
    status, _, said = nop("-o", program.with_name("out"), program)
    assert status == 1
    assert "cc cc cc cc cc stands here, not e8 " in said
    assert names(program) == {"program"}


def test_a_signal_that_raises_leaves_no_thread_with_what_is_closed(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when the thread has started, and who would close the copy has not got it yet."""
    copy, begun, ended = posix.copy_file_range, threading.Event(), []

    def slowly(*arguments: Any) -> int:
        begun.set()
        time.sleep(0.1)
        ended.append(copy(*arguments))
        return ended[-1]

    class Interrupted(SignalsHeld):
        def __exit__(self, *_: object) -> None:
            super().__exit__(None, None, None)
            begun.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(posix, "copy_file_range", slowly)
    monkeypatch.setattr(early_copy, "SignalsHeld", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        nop(program)
    assert ended == [program.stat().st_size]


@pytest.mark.slow
def test_killed_at_any_call_it_leaves_the_old_file_or_the_new_one(
    program: Path, expected: bytes
) -> None:
    """And nothing else but what has had a name already, which the next run removes."""
    old = program.read_bytes()
    command = [*PATCHER, "nop", "-q", "program"]
    system_calls(command, program.parent)  # leaves compiled files behind: later runs are all alike
    program.write_bytes(old)
    calls = system_calls(command, program.parent)
    assert program.read_bytes() == expected
    first = next(at for at, each in enumerate(calls) if "O_TMPFILE" in each.text)
    named = next(at for at, each in enumerate(calls) if each.name == "linkat")
    for at, each in enumerate(calls[first:], first):
        if each.name in ("exit_group", "futex", "mmap", "munmap", "mprotect", "brk"):
            continue
        program.write_bytes(old)
        outcome = run_with_faults(command, program.parent, Fault(each, "signal=SIGKILL"))
        assert outcome.status == -signal.SIGKILL, each.text
        assert program.read_bytes() in (old, expected), each.text
        left = names(program) - {"program"}
        assert at > named or not left, each.text
        for name in left:
            (program.parent / name).unlink()


@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EINTR", "EXDEV"])
def test_an_error_of_the_copying_thread_is_none(program: Path, expected: bytes, error: str) -> None:
    fault = Fault(Call("copy_file_range", 1, "copy_file_range"), f"error={error}")
    outcome = run_with_faults([*PATCHER, "nop", "-q", "program"], program.parent, fault)
    assert outcome == (0, "", "")
    assert (program.read_bytes(), names(program)) == (expected, {"program"})
