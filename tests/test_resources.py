"""Under any limit of the system: one clear line for what is refused, and the next file is done."""

import gc
import os
import posix
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recordmcount import cli, commit
from recordmcount.elf import object as elf
from recordmcount.elf.open import reader
from recordmcount.report.examine import examine as reported
from recordmcount.verify.examine import examine as verified
from tests.support import images, objects
from tests.support.command import RECORDMCOUNT, ROOT, Finished
from tests.support.elf_builder import I386, STT_FUNC, X32, X86_64, Symbol, Target, build
from tests.support.loc_table import table_entries
from tests.support.specimens import caller

SMALL = caller(".text")
FILES = [f"{number:02}.o" for number in range(40)]


def limited(folder: Path, limit: str, *words: str, user: int = 0) -> Finished:
    """Run the recorder under a limit, in the words of prlimit; as another user, if that is root."""
    setpriv = ["setpriv", "--reuid", str(user), "--clear-groups"] if user else []
    done = subprocess.run(
        [*setpriv, "prlimit", limit, *RECORDMCOUNT, *words],
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
        [*shell, *RECORDMCOUNT, "-j3", *FILES], check=False, capture_output=True, cwd=folder
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert recorded(folder) == FILES
    assert len({(folder / name).read_bytes() for name in FILES}) == 1


@pytest.mark.parametrize("closed", ["", "<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_has_the_number_of_a_stream_that_is_closed(closed: str) -> None:
    """What is said would be written into it. As a stream it cannot be written, as if closed."""
    script = (
        "import os; from recordmcount.console import say; from recordmcount.elf.open import "
        "keep_standard_streams; keep_standard_streams()\n"
        "os._exit(10 * os.open('/dev/null', os.O_RDWR) + say(2, ['a line']))"
    )
    command = [sys.executable, "-c", script]
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
    done = subprocess.run(words, check=False, cwd=ROOT, capture_output=True)
    is_heard = "2" not in closed
    assert (done.returncode, done.stderr) == (30 + is_heard, b"a line\n" if is_heard else b"")


@pytest.mark.parametrize("package", ["recordmcount", "patcher"])
def test_a_limit_on_the_size_of_files_does_not_spoil_what_python_compiles(
    package: str, tmp_path: Path
) -> None:
    """It would cut short the compiled files of a program not run before, and fail next time."""
    for each in ("recordmcount", "patcher"):
        shutil.copytree(ROOT / each, tmp_path / each, ignore=shutil.ignore_patterns("*.pyc"))
    python, *options, _ = RECORDMCOUNT
    words = [python, *options, tmp_path / package / "__main__.py", "--version"]
    for limit in (["prlimit", "--fsize=1000"], []):
        done = subprocess.run([*limit, *words], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


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
        f"{name}: warning: a process that had it died: what was done is not counted"
        for name in dying
    }
    assert len(lines) == (0 if when == "before" else len(dying))
    assert known.issuperset(lines)


# --- lists ----------------------------------------------------------------------------------------


def test_the_descriptors_of_lists_are_closed(folder: Path) -> None:
    for name in FILES:
        (folder / f"{name}.list").write_text(f"{name}\n")
    finished = limited(folder, "--nofile=16", *(f"@{name}.list" for name in FILES))
    assert finished == (0, "", "")
    assert recorded(folder) == FILES


# --- sizes ----------------------------------------------------------------------------------------

GIB = 1 << 30


def record_beside_another(path: Path, *words: str) -> Finished:
    """Record a file, and one behind it that must be recorded whatever becomes of the first."""
    behind = path.with_name("behind.o")
    behind.write_bytes(SMALL)
    done = subprocess.run(
        [*RECORDMCOUNT, *words, path.name, behind.name],
        check=False, capture_output=True, text=True, cwd=path.parent,
    )  # fmt: skip
    assert table_entries(behind)
    return Finished(done.returncode, done.stdout, done.stderr)


def readelf(path: Path, *words: str) -> str:
    done = subprocess.run(
        ["readelf", "-W", *words, path], check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.mark.parametrize("target", [I386, X32], ids=["i386", "x32"])
@pytest.mark.parametrize("names", [(".text",), (".text", ".exit.text")], ids=["append", "replace"])
@pytest.mark.parametrize("size", [4 * GIB - 300, 4 * GIB - 1, 4 * GIB, 4 * GIB + 1, 6 * GIB])
def test_what_would_be_larger_than_elf32_allows_is_refused(
    target: Target, names: tuple[str, ...], size: int, tmp_path: Path
) -> None:
    path = objects.caller(*names, target=target).write(tmp_path / "x.o")
    os.truncate(path, size)
    before = path.stat()
    status, _, said = record_beside_another(path)
    assert status == 1
    what, failed = said.splitlines()
    assert what.startswith("x.o: the recorded object would be larger than ELF32 allows: 0x1")
    assert failed == "x.o: failed"
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        before.st_ino, size, before.st_mtime_ns
    )  # fmt: skip


@pytest.mark.parametrize("target", [I386, X32, X86_64], ids=["i386", "x32", "x86-64"])
def test_what_just_fits_is_recorded(target: Target, tmp_path: Path) -> None:
    path = objects.caller(".text", ".exit.text", target=target).write(tmp_path / "x.o")
    os.truncate(path, 4 * GIB - 4096)
    assert record_beside_another(path) == (0, "", "")
    assert 4 * GIB - 4096 < path.stat().st_size < 4 * GIB
    assert path.stat().st_blocks * 512 < 1 << 20
    assert "__mcount_loc' at offset 0xffff" in readelf(path, "--relocs")


def test_an_object_beyond_four_gib_is_recorded_where_its_format_can_hold_it(tmp_path: Path) -> None:
    path = objects.caller(".text", ".exit.text").write(tmp_path / "x.o")
    os.truncate(path, 5 * GIB)
    assert record_beside_another(path) == (0, "", "")
    assert "__mcount_loc' at offset 0x1400" in readelf(path, "--relocs")


def test_an_archive_beyond_four_gib_is_recorded(tmp_path: Path) -> None:
    def member(name: str, size: int) -> bytes:
        return f"{name + '/':<16}{0:<12}{0:<6}{0:<6}{644:<8}{size:<10}`\n".encode()

    path = tmp_path / "x.a"
    with path.open("wb") as file:
        file.write(b"!<arch>\n" + member("hole", 5 * GIB))
        file.seek(5 * GIB, os.SEEK_CUR)
        file.write(member("last.o", len(SMALL)) + SMALL)
    assert record_beside_another(path) == (0, "", "")
    assert path.stat().st_blocks * 512 < 1 << 20
    with (tmp_path / "last.o").open("wb") as extracted:
        subprocess.run(["ar", "p", path, "last.o"], check=True, stdout=extracted)
    assert (tmp_path / "last.o").read_bytes() == (tmp_path / "behind.o").read_bytes()


@pytest.mark.parametrize("size", [1 << 61, (1 << 63) - 4097])
def test_more_than_any_memory_holds_is_out_of_memory(size: int) -> None:
    """Some file systems have files so large, of nothing but a hole."""
    fd = os.memfd_create("hole")
    try:
        os.ftruncate(fd, size)
        with pytest.raises(MemoryError):
            reader(fd)(0, size + 4096)
    finally:
        os.close(fd)


@pytest.mark.parametrize("most", [1, 100, 4096])
def test_a_file_is_read_whole_however_little_a_system_call_gives(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives at most 2 GiB, and moves at most so much when it writes."""
    path, other = tmp_path / "x.o", tmp_path / "y.o"
    for each in (path, other):
        each.write_bytes(objects.caller(".text", ".exit.text").data)
    assert not objects.record_file(other).failed
    pread, pwrite, write = posix.pread, posix.pwrite, posix.write
    monkeypatch.setattr(posix, "pread", lambda fd, size, at: pread(fd, min(size, most), at))
    monkeypatch.setattr(posix, "pwrite", lambda fd, data, at: pwrite(fd, data[:most], at))
    monkeypatch.setattr(posix, "write", lambda fd, data: write(fd, data[:most]))
    assert objects.record_file(path).err == []
    assert path.read_bytes() == other.read_bytes()


# --- symbols that relocations of ELF32 cannot name ------------------------------------------------


@pytest.mark.parametrize("target", [I386, X32], ids=["i386", "x32"])
@pytest.mark.parametrize("last", [3, 7])
def test_an_object_that_is_full_of_symbols_gets_no_more(
    target: Target, last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relocations have 24 bits for a symbol; here fewer, for a test cannot make so many.

    A section symbol has to be added, and a global one would move behind the last.
    """
    monkeypatch.setattr(elf.ELF32, "last_symbol", last)
    symbols = [Symbol("f", ".text"), Symbol("g", ".text"), Symbol("__fentry__")]
    path = build(target, [objects.text()], symbols).write(tmp_path / "x.o")
    before = path.read_bytes()
    result = objects.record_file(path)
    if last == 7:
        assert (result.failed, len(table_entries(path))) == (False, 1)
    else:
        what = "symbol 4 would have to be named, and relocations of ELF32 name none beyond 3"
        assert result.err == [f"{path}: {what}", f"{path}: failed"]
        assert path.read_bytes() == before


@pytest.mark.slow
def test_an_object_of_all_the_symbols_that_can_be_named_is_refused(tmp_path: Path) -> None:
    """16 million symbols, nearly all of them in a hole."""
    contents, count, size = objects.caller(target=I386), 1 << 24, 16
    at = len(contents.data) + -len(contents.data) % size
    old = contents.value("sections[.symtab].sh_offset")
    path = tmp_path / "x.o"
    path.write_bytes(
        contents.patch_all(
            {
                "sections[.symtab].sh_offset": at,
                "sections[.symtab].sh_size": count * size,
                "sections[.symtab].sh_info": count - 2,
                "relocations[.text][0].r_sym": count - 1,
            }
        )
    )
    with path.open("r+b") as file:  # the two global symbols, behind local ones of zeros
        file.seek(at + (count - 2) * size)
        file.write(contents.data[old + size : old + 3 * size])
    status, _, said = record_beside_another(path)
    assert status == 1
    what = f"symbol {count} would have to be named, and relocations of ELF32 name none beyond"
    assert said == f"x.o: {what} {count - 1}\nx.o: failed\n"


# --- memory ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An object of so many sites that to tell them takes 100 MB and more."""
    symbols = [Symbol("f", ".text", type=STT_FUNC), Symbol("__fentry__")]
    path = tmp_path_factory.mktemp("many") / "many.o"
    return build(X86_64, [objects.text(calls=100_000)], symbols).write(path)


@pytest.fixture(scope="module")
def left_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of so many calls, of which its table names one."""
    folder = tmp_path_factory.mktemp("left_out")
    source = folder / "x.S"
    source.write_text(
        ".macro function\n.type f\\@, @function\nf\\@: call mcount\nret\n.endm\n"
        ".globl _start, mcount\n.type mcount, @function\nmcount: ret\n_start: call mcount\nret\n"
        ".rept 100000\nfunction\n.endr\n"
        '.section __mcount_loc, "a"\n.quad _start\n'
    )
    images.tool("gcc", "-nostdlib", "-static", "-no-pie", source, "-o", folder / "x")
    return folder / "x"


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [40, 60, 100, 200])
@pytest.mark.parametrize(
    "words",
    [("recordmcount", "-n"), ("recordmcount", "report", "--json"), ("recordmcount", "report"),
     ("patcher", "nop", "-n")],
    ids=" ".join,
)  # fmt: skip
def test_without_memory_there_is_a_line_and_no_traceback(
    many: Path, megabytes: int, words: tuple[str, ...]
) -> None:
    without_memory(megabytes, *words, many)


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [100, 180])
@pytest.mark.parametrize("format_", ["text", "json"])
def test_so_it_is_for_the_calls_that_a_table_leaves_out(
    left_out: Path, megabytes: int, format_: str
) -> None:
    words = ("recordmcount", "report", "--unrecorded", "--format", format_)
    without_memory(megabytes, *words, left_out)


def without_memory(megabytes: int, *words: str | Path) -> None:
    """Run a command that ends well, or with a line that says why not."""
    done = subprocess.run(
        ["prlimit", f"--as={megabytes << 20}", sys.executable, "-m", *words],
        check=False, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr  # an exception that Python loses
    assert done.returncode in {0, 1}
    assert (done.returncode == 1) is bool(done.stderr)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("examine", [reported, verified], ids=["report", "verify"])
@pytest.mark.parametrize("kind", ["object", "linked", "stripped"])
def test_of_a_file_that_was_told_of_nothing_is_kept(
    examine: Callable[[str], Iterator[object]], kind: str, tmp_path: Path
) -> None:
    """Python's collector of circles does not run: what is in one stays, file after file."""
    if kind == "object":
        path = images.compile_object(tmp_path, "work", images.WORK, "gcc", "-pg", "-fPIC")
    else:
        path = images.build(tmp_path, flags=["-pg", "-fPIC"]).image
    if kind == "stripped":
        images.tool("strip", path)
    gc.collect()
    gc.disable()
    before = models()  # of other tests' files
    try:
        told = [*examine(str(path))]
        assert [each for each in models() if each not in before] == []
    finally:
        gc.enable()
    assert len(told) == 1


def models() -> list[elf.Object]:
    return [each for each in gc.get_objects() if isinstance(each, elf.Object)]
