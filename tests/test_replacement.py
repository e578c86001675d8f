"""A new file takes an old one's place: the kernel says which, and nobody may read more of it."""

import fcntl
import os
import posix
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from recordmcount import commit, replacement
from tests.support.acls import ACCESS, DEFAULT, granting, readers
from tests.support.command import RECORDMCOUNT, Finished, run
from tests.support.objects import record_file
from tests.support.specimens import caller

AS_ROOT = os.geteuid() == 0
ANOTHER = 12345  # a user and group that nobody is
# What goes before a command for him to run it; without root's rights it is oneself.
ANOTHER_USER = (
    ["setpriv", "--reuid", str(ANOTHER), "--regid", str(ANOTHER), "--clear-groups"]
    if AS_ROOT
    else []
)
KERNEL = Path("/proc/sys/fs")
RECORDED = caller(".text")


def recordmcount(*words: str | Path, cwd: Path | None = None) -> Finished:
    return run("recordmcount", *words, cwd=cwd)


def patcher(*words: str | Path, cwd: Path | None = None) -> Finished:
    return run("patcher", "nop", "--quiet", *words, cwd=cwd)


def content_for(program: Callable[..., Finished], folder: Path) -> bytes:
    """An object that the program changes by putting a new file in its place."""
    path = folder / "made.o"
    path.write_bytes(caller(".text", ".exit.text"))
    if program is patcher:
        assert recordmcount(path) == (0, "", "")
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.fixture(params=[recordmcount, patcher])
def program(request: pytest.FixtureRequest) -> Callable[..., Finished]:
    found: Callable[..., Finished] = request.param
    return found


@pytest.fixture
def path(program: Callable[..., Finished], tmp_path: Path) -> Path:
    file = tmp_path / "object.o"
    file.write_bytes(content_for(program, tmp_path))
    return file


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """An object for the recorder alone."""
    file = tmp_path / "object.o"
    file.write_bytes(content_for(recordmcount, tmp_path))
    return file


@pytest.fixture
def new(program: Callable[..., Finished], path: Path, tmp_path: Path) -> bytes:
    """What the program makes of the object."""
    alone = tmp_path / "alone.o"
    alone.write_bytes(path.read_bytes())
    assert program(alone) == (0, "", "")
    content = alone.read_bytes()
    alone.unlink()
    assert content != path.read_bytes()
    return content


# --- which file that is ---------------------------------------------------------------------------


@pytest.fixture
def guarded() -> Iterator[Callable[[str], None]]:
    """Have the kernel guard sticky folders, by the sysctl of this name: root may.

    It holds for all of the machine, so one test has it at a time.
    """
    with ExitStack() as stack:

        def guard(name: str) -> None:
            setting = stack.enter_context((KERNEL / name).open("r+" if AS_ROOT else "r"))
            fcntl.flock(setting, fcntl.LOCK_EX)
            before = setting.read()
            if AS_ROOT:
                (KERNEL / name).write_text("1\n")
                stack.callback((KERNEL / name).write_text, before)

        yield guard


@pytest.fixture
def sticky(tmp_path: Path) -> Path:
    """A folder like /tmp."""
    folder = tmp_path / "sticky"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def link_of_another(link: Path, target: Path) -> None:
    """Make a link that is another user's: root can; anybody else makes one of his own."""
    link.symlink_to(target)
    if AS_ROOT:
        os.chown(link, ANOTHER, ANOTHER, follow_symlinks=False)


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "dangling"])
def test_output_does_not_follow_a_link_that_the_kernel_does_not_follow(
    program: Callable[..., Finished], path: Path, new: bytes, there: bool,
    sticky: Path, guarded: Callable[[str], None],
) -> None:  # fmt: skip
    """`cp` is refused likewise. One's own link is followed."""
    guarded("protected_symlinks")
    victim = path.with_name("victim")
    if there:
        victim.write_bytes(b"of the user")
    link_of_another(sticky / "out.o", victim)
    finished = program("-o", sticky / "out.o", path)
    copied = subprocess.run(["cp", path, sticky / "out.o"], check=False, capture_output=True)
    if AS_ROOT:
        assert copied.returncode == 1
        assert finished.status == 1
        assert f"{sticky / 'out.o'}: Permission denied\n" in finished.stderr
        assert (victim.read_bytes() == b"of the user") if there else not victim.exists()
    else:
        assert finished == (0, "", "")
        assert victim.read_bytes() == new


def test_no_file_is_changed_through_a_link_that_the_kernel_does_not_follow(
    program: Callable[..., Finished], path: Path, new: bytes, sticky: Path,
    guarded: Callable[[str], None],
) -> None:  # fmt: skip
    guarded("protected_symlinks")
    old = path.read_bytes()
    link_of_another(sticky / "link.o", path)
    assert program(sticky / "link.o").status == AS_ROOT
    assert path.read_bytes() == (old if AS_ROOT else new)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("-o", "link.o", "object.o"), ("link.o",)], ids=" ".join)
def test_what_the_kernel_says_of_a_link_holds_for_every_user(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    """It refuses wherever the link would be followed; to read where it leads it never refuses."""
    (tmp_path / "object.o").write_bytes(caller(".text", ".exit.text"))
    (tmp_path / "target.o").write_bytes((tmp_path / "object.o").read_bytes())
    (tmp_path / "link.o").symlink_to("target.o")
    old = (tmp_path / "target.o").read_bytes()
    following = ["--inject=newfstatat,openat:error=EACCES", "--trace=newfstatat,openat"]
    done = subprocess.run(
        ["strace", "-o", "log", "-P", "link.o", *following, *RECORDMCOUNT, *words],
        check=False, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert "(INJECTED)" in (tmp_path / "log").read_text()
    assert done.returncode == 1
    assert done.stderr.endswith(f"link.o: Permission denied\n{words[-1]}: failed\n")
    assert (tmp_path / "target.o").read_bytes() == old


def test_output_does_not_take_over_a_file_that_another_has_put_into_a_sticky_folder(
    program: Callable[..., Finished], path: Path, new: bytes, sticky: Path,
    guarded: Callable[[str], None],
) -> None:  # fmt: skip
    """The shell's `>` is refused likewise (fs.protected_regular); one's own file is replaced."""
    guarded("protected_regular")
    out = sticky / "out.o"
    out.write_bytes(b"waiting")
    if AS_ROOT:
        os.chown(out, ANOTHER, ANOTHER)
    assert program("-o", out, path).status == AS_ROOT
    assert out.read_bytes() == (b"waiting" if AS_ROOT else new)


def test_output_to_a_hard_link_of_anothers_file_leaves_that_file_alone(
    program: Callable[..., Finished], path: Path, new: bytes, tmp_path: Path
) -> None:
    theirs, out = tmp_path / "theirs", tmp_path / "out.o"
    theirs.write_bytes(b"theirs")
    out.hardlink_to(theirs)
    assert program("-o", out, path) == (0, "", "")
    assert (theirs.read_bytes(), out.read_bytes()) == (b"theirs", new)


def test_output_behind_dangling_links_is_made_where_they_lead(
    program: Callable[..., Finished], path: Path, new: bytes, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "first").symlink_to("elsewhere/second")
    (tmp_path / "elsewhere/second").symlink_to("third")
    assert program("-o", tmp_path / "first", path) == (0, "", "")
    assert sorted(one.name for one in (tmp_path / "elsewhere").iterdir()) == ["second", "third"]
    assert (tmp_path / "elsewhere/third").read_bytes() == new


def test_a_failure_leaves_nothing_behind_a_dangling_link(tmp_path: Path) -> None:
    path, out = tmp_path / "object.o", tmp_path / "out.o"
    path.write_bytes(RECORDED)
    out.symlink_to("target")
    done = subprocess.run(
        ["prlimit", "--fsize=100", *RECORDMCOUNT, "-o", out, path], check=False, capture_output=True
    )
    assert done.returncode == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["object.o", "out.o"]
    assert not out.exists()


@pytest.mark.parametrize(
    ("link", "what"), [("loop", os.strerror(40)), ("nowhere/out.o", "No such file or directory")]
)
def test_output_behind_a_link_that_leads_nowhere_is_refused(
    plain: Path, link: str, what: str, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    out = tmp_path / "out.o"
    out.symlink_to(link)
    finished = recordmcount("-o", out, plain)
    assert finished == (1, "", f"{out}: {what}\n{plain}: failed\n")


def test_output_to_a_descriptor_goes_to_the_file_that_is_open(
    path: Path, new: bytes, program: Callable[..., Finished], tmp_path: Path
) -> None:
    out = tmp_path / "out.o"
    words = {recordmcount: ["recordmcount"], patcher: ["patcher", "nop", "--quiet"]}[program]
    for name in ("/dev/stdout", "/proc/self/fd/1"):
        with out.open("wb") as stdout:
            subprocess.run(
                [sys.executable, "-m", *words, "-o", name, path], check=True, stdout=stdout
            )
        assert out.read_bytes() == new


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "/dev/null", "/dev/full"])
def test_output_to_what_is_no_file_is_refused(plain: Path, name: str) -> None:
    """Here stdout is a pipe."""
    assert recordmcount("-o", name, plain) == (
        1, "", f"not a regular file: {name}\n{plain}: failed\n"
    )  # fmt: skip


def test_output_to_a_file_that_was_deleted_is_refused(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.o"
    with out.open("wb") as stdout:
        out.unlink()
        done = subprocess.run(
            [*RECORDMCOUNT, "-o", "/dev/stdout", plain],
            check=False, stdout=stdout, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"/dev/stdout: No such file or directory\n{plain}: failed\n"
    assert [one.name for one in tmp_path.iterdir()] == ["object.o"]


def test_what_changed_while_it_was_copied_is_no_output(tmp_path: Path) -> None:
    path, out = tmp_path / "object.o", tmp_path / "out.o"
    path.write_bytes(b"what was read")

    def fill(target: int) -> None:
        os.write(target, b"half old")
        path.write_bytes(b"what was written meanwhile")

    with path.open("rb") as file, pytest.raises(Exception, match="changed by another program"):
        replacement.output(str(out), file.fileno(), fill)
    assert not out.exists()


# --- who may read it ------------------------------------------------------------------------------


def test_a_default_acl_of_the_folder_lets_nobody_read_what_takes_a_files_place(
    program: Callable[..., Finished], path: Path, new: bytes, tmp_path: Path
) -> None:
    path.chmod(0o640)
    os.setxattr(tmp_path, DEFAULT, granting(6, others=4))
    (tmp_path / "probe").touch()
    assert "named" in readers(tmp_path / "probe")  # so it would be with a new file
    assert program(path) == (0, "", "")
    assert path.read_bytes() == new
    assert ACCESS not in os.listxattr(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_an_acl_of_the_file_is_kept(
    program: Callable[..., Finished], path: Path, new: bytes, tmp_path: Path
) -> None:
    own = granting(4)
    os.setxattr(path, ACCESS, own)
    os.setxattr(tmp_path, DEFAULT, granting(6, others=4))
    assert program(path) == (0, "", "")
    assert (path.read_bytes(), os.getxattr(path, ACCESS)) == (new, own)


@pytest.mark.parametrize("own", [None, granting(0), granting(4)], ids=["mode", "denies", "grants"])
def test_at_no_time_may_anybody_read_more_than_before(
    own: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "object.o"
    path.write_bytes(RECORDED)
    path.chmod(0o640)
    if own is not None:
        os.setxattr(path, ACCESS, own)
    os.setxattr(tmp_path, DEFAULT, granting(6, others=4))
    before = readers(path)
    seen = []

    def watched(name: str) -> None:
        real = getattr(posix, name)

        def call(fd: int, *arguments: object) -> object:
            result = real(fd, *arguments)
            seen.append((name, readers(fd) - before))
            return result

        monkeypatch.setattr(posix, name, call)

    for name in ("fchmod", "fchown", "setxattr", "removexattr", "write"):
        watched(name)
    with path.open("rb") as file:
        replacement.replace(str(path), file.fileno(), lambda fd: posix.write(fd, b"new"))
    assert {name for name, _ in seen} >= {"write", "fchmod"}
    assert [each for each in seen if each[1]] == []
    assert readers(path) == before


def test_a_new_output_has_what_the_folder_gives(plain: Path, tmp_path: Path) -> None:
    """As `cp`: the default ACL, or else the umask, takes from the permissions of the source."""
    folder = tmp_path / "folder"
    folder.mkdir()
    os.setxattr(folder, DEFAULT, granting(6, others=4))
    plain.chmod(0o664)
    subprocess.run(["cp", plain, folder / "copy.o"], check=True)
    assert recordmcount("-o", folder / "out.o", plain) == (0, "", "")
    ours, theirs = folder / "out.o", folder / "copy.o"
    assert os.getxattr(ours, ACCESS) == os.getxattr(theirs, ACCESS)
    assert ours.stat().st_mode == theirs.stat().st_mode


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o644, 0o666, 0o444, 0o755, 0o4755])
def test_a_new_output_has_the_permissions_of_the_source_less_the_umask(
    plain: Path, mask: int, mode: int, tmp_path: Path
) -> None:
    plain.chmod(mode)
    for words in (["cp", plain, "copy.o"], [*RECORDMCOUNT, "-o", "out.o", plain]):
        subprocess.run(
            ["sh", "-c", f'umask {mask:o}; exec "$@"', "sh", *words], check=True, cwd=tmp_path
        )
    copied = (tmp_path / "copy.o").stat().st_mode
    assert (tmp_path / "out.o").stat().st_mode == copied
    assert stat.S_IMODE(copied) == mode & 0o777 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o444, 0o755])
def test_an_output_that_is_there_stays_whose_it_is(
    program: Callable[..., Finished], path: Path, new: bytes, mode: int, tmp_path: Path
) -> None:
    """As `cp`, `gcc -o`, `ld -o` and `objcopy` have it, whatever the umask and the source."""
    path.chmod(0o640)
    out = tmp_path / "out.o"
    out.write_bytes(b"what stood there")
    os.setxattr(out, "user.note", b"made by hand")
    owner = (ANOTHER, ANOTHER) if AS_ROOT else (os.geteuid(), os.getegid())
    os.chown(out, *owner)
    out.chmod(mode)
    assert program("-o", out, path) == (0, "", "")
    status = out.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (*owner, mode)
    assert (out.read_bytes(), os.getxattr(out, "user.note")) == (new, b"made by hand")


def test_an_output_that_is_there_does_not_run_with_the_rights_of_others(
    plain: Path, tmp_path: Path
) -> None:
    """They were trusted with what stood there: a write takes them away, and so do we."""
    out = tmp_path / "out.o"
    out.write_bytes(b"trusted")
    out.chmod(0o6755)
    if AS_ROOT:
        os.setxattr(out, CAPABILITY, CAPABILITIES)
    assert recordmcount("-o", out, plain) == (0, "", "")
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    assert CAPABILITY not in os.listxattr(out)


def test_an_output_in_the_place_of_a_colleagues_file_is_ones_own(tmp_path: Path) -> None:
    """Nobody but root can give a file away. Whoever is who now, nobody may read more."""
    path, out = tmp_path / "object.o", tmp_path / "out.o"
    path.write_bytes(RECORDED)
    out.write_bytes(b"the colleague's")
    os.setxattr(out, ACCESS, granting(4, others=4))
    os.setxattr(tmp_path, DEFAULT, granting(6, others=4))
    tmp_path.chmod(0o777)
    mode = 0o664
    if AS_ROOT:  # anybody else has no colleague, and keeps the file and its mode
        os.chown(out, ANOTHER + 1, ANOTHER + 1)
        mode = 0o644
    words = [*ANOTHER_USER, *RECORDMCOUNT, "-o", "out.o", "object.o"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    status = out.stat()
    assert status.st_uid == (ANOTHER if AS_ROOT else os.geteuid())
    assert stat.S_IMODE(status.st_mode) == mode
    assert (ACCESS in os.listxattr(out)) is not AS_ROOT
    assert out.read_bytes() != b"the colleague's"


# --- what a write would take away -----------------------------------------------------------------

CAPABILITY = "security.capability"
# Version 2 of the attribute, effective, cap_net_raw (13) permitted.
CAPABILITIES = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


def test_an_object_that_only_grows_keeps_its_capabilities(tmp_path: Path) -> None:
    """The kernel takes them from a file that is written to. Only root can give them."""
    path = tmp_path / "object.o"
    path.write_bytes(RECORDED)
    if AS_ROOT:
        os.setxattr(path, CAPABILITY, CAPABILITIES)
    before = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    assert recordmcount(path) == (0, "", "")
    assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == before
    assert path.read_bytes() != RECORDED


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711])
def test_an_object_that_only_grows_keeps_its_set_user_id(mode: int, tmp_path: Path) -> None:
    """The kernel takes it from a file that anybody but root writes to."""
    path = tmp_path / "object.o"
    path.write_bytes(RECORDED)
    tmp_path.chmod(0o777)
    if AS_ROOT:
        os.chown(path, ANOTHER, ANOTHER)
    path.chmod(mode)
    subprocess.run([*ANOTHER_USER, *RECORDMCOUNT, "object.o"], check=True, cwd=tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() != RECORDED


# --- holes ----------------------------------------------------------------------------------------

HOLE = 64 << 20  # bytes


def test_a_hole_stays_a_hole(
    program: Callable[..., Finished], path: Path, new: bytes, tmp_path: Path
) -> None:
    """In the middle, before what is appended, and at the end."""
    size = path.stat().st_size
    os.truncate(path, size + HOLE)
    with path.open("ab") as file:
        file.write(b"data")
    os.truncate(path, size + 2 * HOLE)
    out = tmp_path / "out.o"
    assert program("-o", out, path) == (0, "", "")
    assert program(path) == (0, "", "")
    for made in (out, path):
        assert made.stat().st_blocks * 512 < 1 << 20
        content = made.read_bytes()
        assert content[size + HOLE :][:4] == b"data"
        assert content[size:][: 2 * HOLE].count(0) == 2 * HOLE - 4
    assert out.read_bytes() == path.read_bytes()


# --- what was left behind -------------------------------------------------------------------------

LEFT = ".recordmcount-0123456789abcdef"
AN_HOUR = 3600


def left_behind(path: Path, age: int = 2 * AN_HOUR) -> Path:
    path.write_bytes(b"left behind")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_what_a_killed_run_left_behind_is_removed_by_the_next(
    program: Callable[..., Finished], path: Path, new: bytes, tmp_path: Path
) -> None:
    left = left_behind(tmp_path / LEFT)
    assert program(path) == (0, "", "")
    assert path.read_bytes() == new
    assert not left.exists()


def test_it_is_removed_by_a_run_that_only_appends(tmp_path: Path) -> None:
    path, left = tmp_path / "object.o", left_behind(tmp_path / LEFT)
    young = left_behind(tmp_path / LEFT.replace("0", "1"), 60)
    path.write_bytes(RECORDED)
    inode = path.stat().st_ino
    assert recordmcount(path) == (0, "", "")
    assert path.stat().st_ino == inode
    assert (left.exists(), young.exists()) == (False, True)


def test_it_is_removed_from_the_folder_of_the_output(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    here, there = left_behind(tmp_path / LEFT), left_behind(tmp_path / "folder" / LEFT)
    assert recordmcount("-o", "folder/out.o", "object.o", cwd=tmp_path) == (0, "", "")
    assert here.exists()
    assert not there.exists()
    assert recordmcount("-o", "out.o", "object.o", cwd=tmp_path) == (0, "", "")
    assert not here.exists()


@pytest.mark.parametrize(
    "name",
    [
        ".recordmcount-0123456789ABCDEF", ".recordmcount-0123456789abcde",
        ".recordmcount-0123456789abcdef0", ".recordmcount-0123456789abcdeg",
        ".recordmcount-0123456789abcdef.o", "recordmcount-0123456789abcdef",
        "x.recordmcount-0123456789abcdef", ".recordmcount-", ".recordmcount_0123456789abcdef",
    ],
)  # fmt: skip
def test_what_only_looks_alike_stays(plain: Path, name: str, tmp_path: Path) -> None:
    left = left_behind(tmp_path / name)
    assert recordmcount(plain).status == 0
    assert left.exists()


def test_what_may_be_of_a_run_that_lives_stays(plain: Path, tmp_path: Path) -> None:
    young = left_behind(tmp_path / LEFT, AN_HOUR - 60)
    locked = left_behind(tmp_path / LEFT.replace("0", "1"))
    link = left_behind(tmp_path / "precious")
    (tmp_path / LEFT.replace("0", "2")).symlink_to(link)
    (tmp_path / LEFT.replace("0", "3")).hardlink_to(link)
    (tmp_path / LEFT.replace("0", "4")).mkdir()
    os.mkfifo(tmp_path / LEFT.replace("0", "5"))
    os.utime(tmp_path / LEFT.replace("0", "5"), (0, 0))
    anothers = left_behind(tmp_path / LEFT.replace("0", "6"))
    if AS_ROOT:
        os.chown(anothers, ANOTHER, ANOTHER)
    else:
        anothers.unlink()
    before = sorted(tmp_path.iterdir())
    with locked.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert recordmcount(plain).status == 0
    assert young.exists()
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_that_sleeps_keeps_its_temporary(
    program: Callable[..., Finished], path: Path, new: bytes, tmp_path: Path
) -> None:
    """It is stopped when its temporary is made, and looks old when another run comes by."""
    other = tmp_path / "other.o"
    other.write_bytes(path.read_bytes())

    def fill(target: int) -> None:
        (temporary,) = tmp_path.glob(".recordmcount-*")
        os.utime(temporary, (0, 0))
        assert program(path) == (0, "", "")
        os.write(target, b"done")

    with other.open("rb") as file:
        replacement.replace(str(other), file.fileno(), fill)
    assert other.read_bytes() == b"done"
    assert path.read_bytes() == new


def test_many_files_of_a_folder_are_replaced_and_it_is_read_once(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a batch would take time by the square of its files."""
    listed: list[str] = []
    listdir = posix.listdir

    def remember(path: str) -> list[str]:
        listed.append(path)
        return listdir(path)

    monkeypatch.setattr(posix, "listdir", remember)
    for number in range(5):
        path = tmp_path / f"{number}.o"
        path.write_bytes(plain.read_bytes())
        assert record_file(path).err == []
    assert [folder for folder in listed if str(tmp_path) in folder] == [f"{tmp_path}/"]


def test_a_killed_run_leaves_what_the_next_takes_for_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "object.o"
    path.write_bytes(RECORDED)

    def fill(_: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        with path.open("rb") as file:
            replacement.replace(str(path), file.fileno(), fill)
    os.waitpid(child, 0)
    (left,) = tmp_path.glob(".recordmcount-*")
    assert commit.is_temporary(left.name)
    assert path.read_bytes() == RECORDED
    os.utime(left, (0, 0))
    path.write_bytes(caller(".text", ".exit.text"))
    assert recordmcount(path) == (0, "", "")
    assert [one.name for one in tmp_path.iterdir()] == ["object.o"]
