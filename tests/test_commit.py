"""What a file is besides its bytes stays what it was: mode, owner, attributes, names, kind."""

import fcntl
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recordmcount import replacement
from recordmcount.errors import OutputError
from tests.support.command import RECORDMCOUNT, Finished, run
from tests.support.specimens import caller

APPENDED = caller(".text")
REPLACED = caller(".text", ".exit.text")  # a call becomes a NOP, so the file is written anew


def recordmcount(*words: str | Path, cwd: Path | None = None) -> Finished:
    return run("recordmcount", *words, cwd=cwd)


def recorded(content: bytes, folder: Path) -> bytes:
    """What recording makes of an object that stands alone."""
    path = folder / "alone.o"
    path.write_bytes(content)
    assert recordmcount(path) == (0, "", "")
    new = path.read_bytes()
    path.unlink()
    assert new != content
    return new


@pytest.fixture(params=[APPENDED, REPLACED], ids=["appended", "replaced"])
def old(request: pytest.FixtureRequest) -> bytes:
    """An object of either way to commit."""
    content: bytes = request.param
    return content


@pytest.fixture
def new(old: bytes, tmp_path: Path) -> bytes:
    return recorded(old, tmp_path)


@pytest.fixture
def path(old: bytes, tmp_path: Path) -> Path:
    file = tmp_path / "object.o"
    file.write_bytes(old)
    return file


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o755, 0o444, 0o4755, 0o2755, 0o666])
def test_the_mode_is_kept(path: Path, new: bytes, mode: int) -> None:
    path.chmod(mode)
    assert recordmcount(path).status == 0
    assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (mode, new)


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_the_mode_does_not_depend_on_the_umask(path: Path, mask: int) -> None:
    path.chmod(0o664)
    subprocess.run(
        ["sh", "-c", f'umask {mask:o}; exec "$@"', "sh", *RECORDMCOUNT, path], check=True
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


def test_the_owner_is_kept(path: Path, new: bytes) -> None:
    """For root, who records what others own; nobody else can give a file away."""
    owner = (12345, 54321) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(path, *owner)
    path.chmod(0o4755)  # which chown would take away
    assert recordmcount(path).status == 0
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (*owner, 0o4755)
    assert path.read_bytes() == new


def test_extended_attributes_are_kept(path: Path, new: bytes) -> None:
    attributes = {"user.note": b"made by hand", "user.empty": b"", "user.binary": bytes(range(256))}
    for name, value in attributes.items():
        os.setxattr(path, name, value)
    assert recordmcount(path).status == 0
    assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == attributes
    assert path.read_bytes() == new


def test_a_symlink_is_followed_and_stays(path: Path, new: bytes, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.o"
    link.symlink_to("../object.o")
    chain = tmp_path / "chain.o"
    chain.symlink_to(link)
    assert recordmcount(chain).status == 0
    assert (chain.readlink(), link.readlink()) == (link, Path("../object.o"))
    assert path.read_bytes() == new


def test_a_hard_link_is_broken(path: Path, old: bytes, new: bytes, tmp_path: Path) -> None:
    """The other name may be that of a compiler cache."""
    cache = tmp_path / "cache.o"
    cache.hardlink_to(path)
    assert recordmcount(path).status == 0
    assert (path.read_bytes(), cache.read_bytes()) == (new, old)
    assert (path.stat().st_nlink, cache.stat().st_nlink) == (1, 1)


def test_appending_keeps_the_inode(tmp_path: Path) -> None:
    path = tmp_path / "object.o"
    path.write_bytes(APPENDED)
    inode = path.stat().st_ino
    assert recordmcount(path).status == 0
    assert path.stat().st_ino == inode


def test_a_second_run_changes_nothing(path: Path, new: bytes) -> None:
    assert recordmcount(path).status == 0
    before = path.stat()
    warning = f"warning: __mcount_loc already exists: {path}\n"
    assert recordmcount(path) == (0, "", warning)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert path.read_bytes() == new


def test_an_object_without_calls_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "object.o"
    path.write_bytes(caller())
    before = path.stat()
    assert recordmcount(path) == (0, "", "")
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_dry_run_changes_nothing(path: Path, old: bytes) -> None:
    before = path.stat()
    assert recordmcount("-n", path).status == 0
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.read_bytes() == old


# --- another output --------------------------------------------------------------------------


def test_with_output_the_input_is_left_alone(
    path: Path, old: bytes, new: bytes, tmp_path: Path
) -> None:
    path.chmod(0o640)
    out = tmp_path / "out.o"
    assert recordmcount("-o", out, path) == (0, "", "")
    assert (path.read_bytes(), out.read_bytes()) == (old, new)
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


def test_a_file_of_ones_own_does_not_run_as_the_owner_of_the_old(
    path: Path, tmp_path: Path
) -> None:
    path.chmod(0o6755)
    out = tmp_path / "out.o"
    assert recordmcount("-o", out, path) == (0, "", "")
    assert stat.S_IMODE(out.stat().st_mode) == 0o755


def test_with_output_there_is_an_output_even_where_nothing_is_to_be_done(tmp_path: Path) -> None:
    path, out = tmp_path / "object.o", tmp_path / "out.o"
    path.write_bytes(caller())
    assert recordmcount("-o", out, path) == (0, "", "")
    assert out.read_bytes() == path.read_bytes()


def test_output_through_a_symlink_goes_to_its_target(
    path: Path, new: bytes, tmp_path: Path
) -> None:
    link = tmp_path / "link.o"
    link.symlink_to("out.o")
    assert recordmcount("-o", link, path).status == 0
    assert link.is_symlink()
    assert (tmp_path / "out.o").read_bytes() == new


def test_output_may_be_the_input(path: Path, new: bytes) -> None:
    assert recordmcount("-o", path, path).status == 0
    assert path.read_bytes() == new


def test_output_to_a_device_or_pipe_is_refused(path: Path, tmp_path: Path) -> None:
    """A rename would put a regular file in the place of, say, /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    finished = recordmcount("-o", pipe, path)
    assert finished == (1, "", f"not a regular file: {pipe}\n{path}: failed\n")
    assert pipe.is_fifo()


def test_output_to_a_folder_is_refused(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    finished = recordmcount("-o", folder, path)
    assert finished == (1, "", f"not a regular file: {folder}\n{path}: failed\n")
    assert sorted(tmp_path.iterdir()) == [folder, path]


def test_output_into_a_missing_folder(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "missing" / "out.o"
    finished = recordmcount("-o", out, path)
    assert finished == (1, "", f"{out}: No such file or directory\n{path}: failed\n")


# --- what is no regular file -----------------------------------------------------------------


def a_fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def a_folder(path: Path) -> Path:
    path.mkdir()
    return path


def a_device(_: Path) -> Path:
    return Path("/dev/zero")


def a_link_to_a_folder(path: Path) -> Path:
    path.symlink_to(".")
    return path


@pytest.mark.parametrize("make", [a_fifo, a_folder, a_device, a_link_to_a_folder])
@pytest.mark.parametrize("words", [(), ("-n",), ("-o", "out")], ids=" ".join)
def test_what_is_no_regular_file_is_refused_at_once(
    make: Callable[[Path], Path], words: tuple[str, ...], tmp_path: Path
) -> None:
    path = make(tmp_path / "object.o")
    advice = f"{path}: a folder: name the files in it\n" if path.is_dir() else ""
    finished = recordmcount(*words, path, cwd=tmp_path)
    assert finished == (1, "", f"not a regular file: {path}\n{advice}{path}: failed\n")
    assert not (tmp_path / "out").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    finished = recordmcount("missing.o", cwd=tmp_path)
    assert finished == (1, "", "missing.o: No such file or directory\nmissing.o: failed\n")


def test_a_symlink_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop.o").symlink_to("loop.o")
    finished = recordmcount("loop.o", cwd=tmp_path)
    assert finished == (1, "", f"loop.o: {os.strerror(40)}\nloop.o: failed\n")


def test_others_are_still_processed(path: Path, new: bytes, tmp_path: Path) -> None:
    finished = recordmcount("missing.o", path, tmp_path, cwd=tmp_path)
    assert finished.status == 1
    assert path.read_bytes() == new


# --- without permission ----------------------------------------------------------------------


def without_privileges(*words: str | Path) -> Finished:
    """Run as this user; if that is root, without its right to pass over permissions."""
    capabilities = "-dac_override,-dac_read_search"
    setpriv = ["setpriv", "--inh-caps", capabilities, "--bounding-set", capabilities]
    done = subprocess.run(
        [*(setpriv if os.geteuid() == 0 else []), *RECORDMCOUNT, *words],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    return Finished(done.returncode, done.stdout, done.stderr)


def test_a_file_that_may_only_be_read_is_replaced(path: Path, new: bytes) -> None:
    path.chmod(0o444)
    assert without_privileges(path) == (0, "", "")
    assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (0o444, new)


def test_a_file_that_may_not_be_read(path: Path, old: bytes) -> None:
    path.chmod(0)
    assert without_privileges(path) == (1, "", f"{path}: Permission denied\n{path}: failed\n")
    path.chmod(0o600)
    assert path.read_bytes() == old


def test_a_folder_that_may_not_be_written(path: Path, tmp_path: Path) -> None:
    """Appending needs no right to the folder; a temporary does, and a read-only file needs one."""
    before = path.read_bytes()
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        finished = without_privileges(path)
    finally:
        tmp_path.chmod(0o755)
    assert finished == (1, "", f"{path}: Permission denied\n{path}: failed\n")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


def test_appending_needs_no_right_to_the_folder(tmp_path: Path) -> None:
    new = recorded(APPENDED, tmp_path)
    path = tmp_path / "object.o"
    path.write_bytes(APPENDED)
    tmp_path.chmod(0o555)
    try:
        assert without_privileges(path) == (0, "", "")
    finally:
        tmp_path.chmod(0o755)
    assert path.read_bytes() == new


# --- reproducible ----------------------------------------------------------------------------


def test_the_output_depends_on_nothing_but_the_object(old: bytes, tmp_path: Path) -> None:
    """Not on path, time, job count, neighbours or way to commit."""
    new = recorded(old, tmp_path)
    paths = [tmp_path / f"{'long' * (number % 9)}{number}.o" for number in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(old)
        os.utime(path, (number, number))
        if number % 3 == 0:
            (tmp_path / f"link{number}").hardlink_to(path)
    assert recordmcount("-j3", *paths[:20]).status == 0
    assert recordmcount("-j1", *paths[20:]).status == 0
    assert {path.read_bytes() for path in paths} == {new}


def test_a_run_waits_for_another_on_the_same_file_and_then_sees_its_work(
    path: Path, new: bytes
) -> None:
    """Whatever the second has read before the first is done would be out of date."""
    status, said = after_a_wait(path, lambda: path.write_bytes(new))
    assert (status, path.read_bytes()) == (0, new)
    assert said == f"warning: __mcount_loc already exists: {path}\n"


def test_a_file_that_another_program_put_there_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "object.o"
    path.write_bytes(b"what was read")

    def fill(target: int) -> None:
        os.write(target, b"what was made")
        (tmp_path / "theirs").write_bytes(b"what they made")
        (tmp_path / "theirs").rename(path)

    with path.open("rb") as file, pytest.raises(OutputError, match="changed by another program"):
        replacement.replace(str(path), file.fileno(), fill)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {
        "object.o": b"what they made"
    }


def test_a_run_that_waited_for_another_takes_the_file_that_stands_there_then(
    path: Path, new: bytes
) -> None:
    status, said = after_a_wait(path, lambda: put_in_place_of(path, new))
    assert (status, path.read_bytes()) == (0, new)
    assert said == f"warning: __mcount_loc already exists: {path}\n"


def test_a_run_that_waited_does_not_change_what_was_there_under_its_other_name(
    path: Path, new: bytes
) -> None:
    """As ccache has it: the old file lives on by a second name when a new one takes its place."""
    old = path.read_bytes()
    other = path.with_name("other name.o")
    other.hardlink_to(path)
    assert after_a_wait(path, lambda: put_in_place_of(path, old)) == (0, "")
    assert path.read_bytes() == new
    assert other.read_bytes() == old


def test_a_file_that_is_gone_after_the_wait_is_said_to_be(path: Path) -> None:
    other = path.with_name("other name.o")
    other.hardlink_to(path)
    old = path.read_bytes()
    status, said = after_a_wait(path, path.unlink)
    assert status == 1
    assert said == f"{path}: No such file or directory\n{path}: failed\n"
    assert other.read_bytes() == old


def after_a_wait(path: Path, meanwhile: Callable[[], object]) -> tuple[int, str]:
    """Status and stderr of a run that has to wait for the file's lock until `meanwhile` is done."""
    with path.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = subprocess.Popen([*RECORDMCOUNT, path], stderr=subprocess.PIPE, text=True)
        wait_until_blocked(second.pid)
        meanwhile()
    _, said = second.communicate(timeout=60)
    return second.returncode, said


def put_in_place_of(path: Path, content: bytes) -> None:
    """Another file takes its place."""
    replacement = path.with_name("new.o")
    replacement.write_bytes(content)
    replacement.rename(path)


def wait_until_blocked(process: int) -> None:
    """Wait until another process stands in /proc/locks as one that waits for a lock."""
    for _ in range(6000):
        waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        if any(words[1] == "->" and words[5] == str(process) for words in waiting):
            return
        time.sleep(0.01)
    pytest.fail("the second run does not wait")
