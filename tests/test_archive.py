"""Static libraries: members grow, and everything that counts their places follows."""

import posix
import subprocess
from pathlib import Path

import pytest

from recordmcount.elf import archive
from recordmcount.errors import Error, FormatError
from recordmcount.report.examine import examine
from tests.support.elf_builder import STB_WEAK, X86_64, Symbol, build
from tests.support.loc_table import table_entries
from tests.support.objects import caller, record_file, text

MAGIC = b"!<arch>\n"


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, check=False, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def object_of(function: str, calls: int) -> bytes:
    symbols = [Symbol(function, ".text"), Symbol("__fentry__")]
    return build(X86_64, [text(calls=calls)], symbols).data


def member(name: bytes, contents: bytes) -> bytes:
    header = b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (name, 0, 0, 0, 0o644, len(contents))
    return header + contents + b"\n" * (len(contents) % 2)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """An archive with an index, long and short names, odd sizes and a member that is no object."""
    members = {
        "first.o": object_of("first", 1),
        "a-name-longer-than-a-header-has-room-for.o": object_of("second", 2),
        "README": b"odd",
        "another-name-longer-than-a-header-has-room-for.o": object_of("third", 3) + b"\0",
        "last.o": object_of("last", 4),
    }
    for name, contents in members.items():
        (tmp_path / name).write_bytes(contents)
    run("ar", "rcsD", "lib.a", *members, cwd=tmp_path)
    return tmp_path / "lib.a"


def extracted(library: Path, folder: str) -> dict[str, Path]:
    """The members by name, unpacked into a new folder."""
    into = library.parent / folder
    into.mkdir()
    run("ar", "x", library, cwd=into)
    return {path.name: path for path in into.iterdir()}


def test_a_library_is_read_whole_however_little_the_system_gives_at_once(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One system call gives at most 2 GiB."""
    pread = posix.pread
    monkeypatch.setattr(posix, "pread", lambda fd, size, at: pread(fd, min(size, 100), at))
    result = record_file(library)
    assert (result.err, result.counts) == ([], (10, 0, 0))
    told = [each for each in examine(str(library)) if not isinstance(each, Error)]
    assert [len(each["sites"]) for each in told] == [1, 2, 3, 4]


def test_every_member_is_recorded_as_if_alone(library: Path) -> None:
    alone = extracted(library, "before")
    result = record_file(library)
    assert (result.err, result.counts) == ([], (10, 0, 0))
    members = extracted(library, "after")
    assert members.keys() == alone.keys()
    for name, path in alone.items():
        if name.endswith(".o"):
            record_file(path)
        assert members[name].read_bytes() == path.read_bytes()
    assert len(table_entries(members["last.o"])) == 4


def test_names_order_dates_owners_and_modes_stay(library: Path) -> None:
    run("ar", "rcU", library, "first.o", cwd=library.parent)  # with its own date, owner and mode
    run("ranlib", "-U", library, cwd=library.parent)
    before = run("ar", "tv", library, cwd=library.parent)
    record_file(library)
    after = run("ar", "tv", library, cwd=library.parent)
    without_size = [line.split()[:2] + line.split()[3:] for line in before.splitlines()]
    assert [line.split()[:2] + line.split()[3:] for line in after.splitlines()] == without_size
    assert before != after


@pytest.mark.matrix
@pytest.mark.parametrize("tool", ["ranlib", "llvm-ranlib"])
def test_the_symbol_index_is_the_one_ranlib_would_make(library: Path, tool: str) -> None:
    run(tool, "-D", library, cwd=library.parent)
    record_file(library)
    ours = library.read_bytes()
    assert "first in first.o" in run("nm", "-s", library, cwd=library.parent)
    run(tool, "-D", library, cwd=library.parent)
    assert library.read_bytes() == ours


def test_a_symbol_index_of_8_byte_words_follows(library: Path) -> None:
    small = library.read_bytes()
    count = int.from_bytes(small[68:72], "big")
    size = int(small[8 + 48 : 8 + 58])
    words = [int.from_bytes(small[68 + 4 * i : 72 + 4 * i], "big") for i in range(count + 1)]
    names = small[68 + 4 * (count + 1) : 68 + size]
    grown = 4 * (count + 1)
    index = b"".join(word.to_bytes(8, "big") for word in [count, *(w + grown for w in words[1:])])
    header = b"%-16s" % b"/SYM64/" + small[24:56] + b"%-10d" % (size + grown) + b"`\n"
    library.write_bytes(MAGIC + header + index + names + small[68 + size :])
    before = run("nm", "-s", library, cwd=library.parent)
    assert record_file(library).err == []
    assert run("nm", "-s", library, cwd=library.parent) == before
    # Each word of the index is where its member's header begins.
    after = library.read_bytes()
    for at in range(76, 76 + 8 * count, 8):
        member = int.from_bytes(after[at : at + 8], "big")
        assert after[member + 58 : member + 60] == b"`\n"


@pytest.mark.matrix
@pytest.mark.parametrize("linker", ["bfd", "gold", "lld", "mold"])
def test_a_recorded_archive_is_linked_by_name(library: Path, linker: str) -> None:
    folder = library.parent
    (folder / "main.c").write_text(
        "void __fentry__(void) {}\n"
        "extern char __start___mcount_loc[], __stop___mcount_loc[];\n"
        "void second(void); void last(void);\n"
        "int main(void) { second(); last();\n"
        "    return __stop___mcount_loc - __start___mcount_loc == 6 * 8 ? 0 : 1; }\n"
    )
    record_file(library)
    run("gcc", "-no-pie", f"-fuse-ld={linker}", "main.c", "-L.", "-l:lib.a", "-o", "program",
        cwd=folder)  # fmt: skip
    run("./program", cwd=folder)


def test_a_second_run_changes_nothing(library: Path) -> None:
    record_file(library)
    once = library.read_bytes()
    result = record_file(library)
    assert not result.failed
    assert f"warning: __mcount_loc already exists: {library}(first.o)" in result.err
    assert library.read_bytes() == once


def test_an_archive_without_calls_is_left_as_it_is(tmp_path: Path) -> None:
    """Also one whose last member of odd size is not padded, as `ar` always does."""
    (tmp_path / "notes").write_bytes(b"odd")
    run("ar", "rcD", "lib.a", "notes", cwd=tmp_path)
    contents = (tmp_path / "lib.a").read_bytes().removesuffix(b"\n")
    (tmp_path / "lib.a").write_bytes(contents)
    assert not record_file(tmp_path / "lib.a").failed
    assert (tmp_path / "lib.a").read_bytes() == contents


def test_members_of_the_same_name_are_each_recorded(tmp_path: Path) -> None:
    for folder, calls in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.o").write_bytes(object_of(folder, calls))
    run("ar", "qcsD", "lib.a", "one/same.o", "two/same.o", cwd=tmp_path)
    assert record_file(tmp_path / "lib.a").counts == (3, 0, 0)
    for number, calls in (("1", 1), ("2", 2)):
        run("ar", "xN", number, "lib.a", "same.o", cwd=tmp_path)
        assert len(table_entries(tmp_path / "same.o")) == calls


def test_a_member_with_weak_symbols_only_gets_a_section_symbol(tmp_path: Path) -> None:
    weak = build(X86_64, [text()], [Symbol("f", ".text", bind=STB_WEAK), Symbol("__fentry__")])
    weak.write(tmp_path / "weak.o")
    run("ar", "rcsD", "lib.a", "weak.o", cwd=tmp_path)
    assert record_file(tmp_path / "lib.a").err == []
    run("ar", "x", "lib.a", cwd=tmp_path)
    assert [site.offset for site in table_entries(tmp_path / "weak.o")] == [0]


@pytest.mark.parametrize("name", ["first.o", "a-name-longer-than-a-header-has-room-for.o"])
def test_one_broken_member_leaves_the_whole_archive_untouched(library: Path, name: str) -> None:
    sound = caller()
    (library.parent / name).write_bytes(sound.patch("e_shentsize", 7))
    run("ar", "rD", library, name, cwd=library.parent)
    before = library.read_bytes()
    assert record_file(library).err == [
        f"{library}({name}): e_shentsize is 7, not 64",
        f"{library}: failed",
    ]
    assert library.read_bytes() == before


@pytest.mark.matrix
def test_a_bsd_archive_is_refused(library: Path) -> None:
    run("llvm-ar", "--format=bsd", "rcsD", "bsd.a", "first.o", cwd=library.parent)
    bsd = library.with_name("bsd.a")
    before = bsd.read_bytes()
    what = "a BSD archive: make it again in the GNU format, as `llvm-ar --format=gnu` does"
    assert record_file(bsd).err == [f"{bsd}: {what}", f"{bsd}: failed"]
    assert bsd.read_bytes() == before


@pytest.mark.matrix
def test_an_archive_of_llvm_is_read(library: Path) -> None:
    run("llvm-ar", "--format=gnu", "rcsD", "llvm.a", "first.o", "last.o", cwd=library.parent)
    assert record_file(library.with_name("llvm.a")).counts == (5, 0, 0)


def test_an_empty_archive_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "empty.a"
    path.write_bytes(MAGIC)
    assert not record_file(path).failed
    assert path.read_bytes() == MAGIC


def test_recording_to_another_file_leaves_the_archive_alone(library: Path) -> None:
    before = library.read_bytes()
    output = library.with_name("new.a")
    assert not record_file(library, output=str(output)).failed
    assert library.read_bytes() == before
    record_file(library)
    assert output.read_bytes() == library.read_bytes()


# --- thin archives -------------------------------------------------------------------------------


@pytest.fixture
def thin(tmp_path: Path) -> Path:
    """A thin archive in a folder: of objects beside it, below it, and of what is no object."""
    folder = tmp_path / "lib"
    (folder / "sub").mkdir(parents=True)
    (folder / "one.o").write_bytes(object_of("one", 1))
    (folder / "sub" / "two.o").write_bytes(object_of("two", 2))
    (folder / "README").write_bytes(b"odd")
    run("ar", "rcsTD", "lib/thin.a", "lib/one.o", "lib/sub/two.o", "lib/README", cwd=tmp_path)
    return folder / "thin.a"


def test_of_a_thin_archive_the_files_are_recorded_and_it_is_not_changed(thin: Path) -> None:
    """Its paths begin in its folder, wherever we are."""
    before = thin.read_bytes()
    result = record_file(thin)
    assert (result.err, result.counts) == ([], (3, 0, 0))
    assert len(table_entries(thin.with_name("one.o"))) == 1
    assert len(table_entries(thin.parent / "sub" / "two.o")) == 2
    assert thin.with_name("README").read_bytes() == b"odd"
    assert thin.read_bytes() == before


@pytest.mark.matrix
@pytest.mark.parametrize("linker", ["bfd", "gold", "lld", "mold"])
def test_a_thin_archive_links_after_its_files_were_recorded(thin: Path, linker: str) -> None:
    folder = thin.parent
    (folder / "main.c").write_text(
        "void __fentry__(void) {}\n"
        "extern char __start___mcount_loc[], __stop___mcount_loc[];\n"
        "void one(void); void two(void);\n"
        "int main(void) { one(); two();\n"
        "    return __stop___mcount_loc - __start___mcount_loc == 3 * 8 ? 0 : 1; }\n"
    )
    record_file(thin)
    assert "one in one.o" in run("nm", "-s", "thin.a", cwd=folder)
    run("gcc", "-no-pie", f"-fuse-ld={linker}", "main.c", "thin.a", "-o", "program", cwd=folder)
    run("./program", cwd=folder)


@pytest.mark.matrix
def test_a_thin_archive_of_llvm_is_read(thin: Path) -> None:
    run("llvm-ar", "rcsT", "llvm.a", "one.o", "sub/two.o", cwd=thin.parent)
    assert record_file(thin.with_name("llvm.a")).counts == (3, 0, 0)


def test_a_file_of_a_thin_archive_that_fails_leaves_the_others_to_be_recorded(thin: Path) -> None:
    broken, missing = thin.with_name("one.o"), thin.with_name("missing.o")
    missing.write_bytes(object_of("missing", 1))
    run("ar", "qTD", "thin.a", "missing.o", cwd=thin.parent)
    missing.unlink()
    broken.write_bytes(caller().patch("e_shentsize", 7))
    before = broken.read_bytes()
    assert record_file(thin).err == [
        f"{broken}: e_shentsize is 7, not 64",
        f"{broken}: failed",
        f"{missing}: No such file or directory",
        f"{missing}: failed",
        f"{thin}: failed",
    ]
    assert broken.read_bytes() == before
    assert len(table_entries(thin.parent / "sub" / "two.o")) == 2


def test_a_thin_archive_has_no_other_output(thin: Path) -> None:
    what = "a thin archive has no objects in it: -o is not for it"
    assert record_file(thin, output="new.a").err == [f"{thin}: {what}", f"{thin}: failed"]


def test_the_files_of_a_thin_archive_are_planned_and_reported(thin: Path) -> None:
    assert len(record_file(thin, dry_run=True).out) == 3 + 2
    told = [each for each in examine(str(thin)) if not isinstance(each, Error)]
    folder = thin.parent
    assert [each["path"] for each in told] == [f"{folder}/one.o", f"{folder}/sub/two.o"]
    assert [len(each["sites"]) for each in told] == [1, 2]


def named_by(*names: bytes) -> bytes:
    """A thin archive of these names."""
    table = b"".join(name + b"/\n" for name in names)
    starts = [sum(len(name) + 2 for name in names[:number]) for number in range(len(names))]
    header = b"%-16s%-12d%-6d%-6d%-8o%-10d`\n"
    return (
        b"!<thin>\n" + member(b"//", table)
        + b"".join(header % (b"/%d" % start, 0, 0, 0, 0o644, 9) for start in starts)
    )  # fmt: skip


@pytest.mark.parametrize("name", [b"../x.o", b"sub/../../x.o", b"/x.o", b"..", b"x\0.o", b""])
def test_a_thin_archive_does_not_reach_beyond_its_folder(thin: Path, name: bytes) -> None:
    """It may come from anywhere, and must not choose which files of the user's are changed."""
    one = thin.with_name("one.o")
    before = one.read_bytes()
    thin.write_bytes(named_by(b"one.o", name))
    what = f"{name.decode()} is not in its folder: name that file yourself"
    assert record_file(thin).err == [f"{thin}: {what}", f"{thin}: failed"]
    assert one.read_bytes() == before
    assert [str(each) for each in examine(str(thin))] == [f"{thin}: {what}"]


def test_a_thin_archive_that_names_archives_ends(thin: Path) -> None:
    """Even itself, whose lock would be waited for."""
    thin.write_bytes(named_by(b"thin.a", b"lib.a"))
    thin.with_name("lib.a").write_bytes(MAGIC)
    ours, other = thin, thin.with_name("lib.a")
    assert record_file(thin).err == [
        f"{ours}: a thin archive in {thin}: record it by itself",
        f"{ours}: failed",
        f"{other}: an archive in {thin}: record it by itself",
        f"{other}: failed",
        f"{thin}: failed",
    ]
    assert [str(each) for each in examine(str(thin))] == [
        f"{ours}: a thin archive in {thin}: name it by itself",
        f"{other}: an archive in {thin}: name it by itself",
    ]


def test_a_thin_archive_of_another_archives_members_is_refused(thin: Path) -> None:
    run("ar", "rcD", "fat.a", "one.o", cwd=thin.parent)
    run("ar", "rcTD", "nested.a", "fat.a", cwd=thin.parent)
    nested = thin.with_name("nested.a")
    what = "it names members of other archives: record those instead"
    assert record_file(nested).err == [f"{nested}: {what}", f"{nested}: failed"]


def test_a_name_that_a_thin_archive_has_twice_is_one_file(thin: Path) -> None:
    run("ar", "qTD", "thin.a", "one.o", cwd=thin.parent)
    result = record_file(thin)
    assert (result.err, result.counts) == ([], (3, 0, 0))


def test_names_of_a_thin_archive_do_not_overlap() -> None:
    """Else a small table makes a great many long ones."""
    contents = b"!<thin>\n" + member(b"//", b"long.o/\n") + named_by(b"")[-60:]
    contents = contents[:-60] + b"%-16s" % b"/3" + contents[-44:]
    with pytest.raises(FormatError, match="archive member name 3 begins inside another"):
        archive.files("x.a", len(contents), lambda at, size: contents[at : at + size])


# --- the format -----------------------------------------------------------------------------------


def rebuilt(contents: bytes, appended: bytes, names: list[str] | None = None) -> bytes:
    """The archive when so much is appended to each member; the `names` they were called by."""

    def change(name: str, _: archive.Member) -> tuple[list[tuple[int, bytes]], bytes] | None:
        if names is not None:
            names.append(name)
        return ([], appended) if appended else None

    def read(offset: int, size: int) -> bytes:
        return contents[offset : offset + size]

    new = archive.rebuild("x.a", len(contents), read, change)
    if new is None:
        return contents
    made = b"".join(
        part if isinstance(part, bytes) else contents[slice(*part)] for part in new.parts
    )
    assert len(made) == new.size
    return made


INDEX = (1).to_bytes(4, "big") + (8 + 60 + 10).to_bytes(4, "big") + b"f\0"


@pytest.mark.parametrize(
    ("contents", "what"),
    [
        (member(b"a/", b"x")[:40], "no archive member header at 0x8"),
        (member(b"a/", b"x").replace(b"`\n", b"``"), "no archive member header at 0x8"),
        (member(b"a/", b"x").replace(b"1 ", b"-1"), "no archive member header at 0x8"),
        (member(b"a/", b"xxxx")[:-1], "the archive member at 0x8 is truncated"),
        (member(b"//", b"x/\n") + member(b"/7", b""),
         "archive member name 7 is not in the table of names"),
        (member(b"/0", b""), "archive member name 0 is not in the table of names"),
        (member(b"/", b"\0\0\0\1"), "the archive's symbol index is truncated"),
        (member(b"/", b"\0\0"), "the archive's symbol index is truncated"),
        (member(b"/", INDEX[:7] + b"\x08f\0") + member(b"a/", b""), None),
        (member(b"/", INDEX[:7] + b"\x09f\0") + member(b"a/", b""),
         "the symbol index names no member at 0x9"),
    ],
)  # fmt: skip
def test_a_broken_archive_is_refused(contents: bytes, what: str | None) -> None:
    if what is None:
        assert rebuilt(MAGIC + contents, b"") == MAGIC + contents
    else:
        with pytest.raises(FormatError) as error:
            rebuilt(MAGIC + contents, b"")
        assert str(error.value) == f"x.a: {what}"


@pytest.mark.parametrize("size", [0, 1, 2, 59, 60])
def test_members_are_padded_to_an_even_place(size: int) -> None:
    contents = MAGIC + member(b"/", INDEX) + member(b"a/", bytes(size)) + member(b"b/", b"x")
    grown = MAGIC + member(b"/", INDEX) + member(b"a/", bytes(size) + b".") + member(b"b/", b"x.")
    assert rebuilt(contents, b".") == grown
    assert rebuilt(contents, b"") == contents


def test_members_are_called_by_their_full_names() -> None:
    names: list[str] = []
    long_names = member(b"//", b"sub/longer-than-sixteen.o/\nthe-other-long-name.o/\n")
    parts = [long_names, *(member(name, b"") for name in (b"/27", b"/0", b"a b.o/", b"\xff.o/"))]
    rebuilt(MAGIC + b"".join(parts), b"", names)
    assert names == ["the-other-long-name.o", "sub/longer-than-sixteen.o", "a b.o", "\\xff.o"]


@pytest.mark.parametrize("appended", [b"", b"."])
def test_special_members_are_not_taken_for_objects(appended: bytes) -> None:
    special = MAGIC + member(b"/", INDEX) + member(b"//", b"a-very-long-name.o/\n")
    names: list[str] = []
    assert rebuilt(special, appended, names) == special
    rebuilt(special + member(b"/0", b""), appended, names)
    assert names == ["a-very-long-name.o"]


INDEX_64 = (1).to_bytes(8, "big") + (8 + 60 + 18).to_bytes(8, "big") + b"f\0"
TWO = "two symbol indexes: make the archive anew, with ar"


@pytest.mark.parametrize("appended", [b"", b"."])
@pytest.mark.parametrize(
    ("indexes", "what"),
    [
        ((member(b"/", INDEX), member(b"/", INDEX)), TWO),
        ((member(b"/", INDEX), member(b"/SYM64/", INDEX_64)), TWO),
        ((member(b"/SYM64/", INDEX_64), member(b"/", INDEX)), TWO),
        ((member(b"/SYM64/", INDEX_64), member(b"/SYM64/", INDEX_64)), TWO),
        ((member(b"/", INDEX), member(b"a/", b""), member(b"/", INDEX)), TWO),
        ((member(b"a/", b""), member(b"/", INDEX)), "the symbol index is not the first member"),
        ((member(b"//", b"x/\n"), member(b"/SYM64/", INDEX_64)),
         "the symbol index is not the first member"),
        ((member(b"//", b"x/\n"), member(b"//", b"y/\n")), "two tables of names"),
    ],
)  # fmt: skip
def test_what_readers_may_take_for_one_thing_or_another_is_refused(
    indexes: tuple[bytes, ...], what: str, appended: bytes
) -> None:
    """One of two indexes would go stale; and not every reader looks for one behind the first."""
    contents = MAGIC + b"".join(indexes) + member(b"b/", b"")
    with pytest.raises(FormatError) as error:
        rebuilt(contents, appended)
    assert str(error.value) == f"x.a: {what}"


@pytest.mark.parametrize("size", [0, 1, 7, 100])
def test_what_no_program_of_ours_reads_of_a_header_stays(size: int) -> None:
    """Dates, owners and modes may be anything."""
    front = MAGIC + b"a/".ljust(16) + bytes(range(32, 64))  # date, owner, group and mode
    odd = b"\n" * (size % 2)
    contents = front + b"%-10d`\n" % size + bytes(size) + odd
    assert rebuilt(contents, b"..") == front + b"%-10d`\n" % (size + 2) + bytes(size) + b".." + odd


def test_offsets_that_the_index_has_no_room_for_are_refused() -> None:
    """A member before the last becomes larger than 4 GiB, by numbers alone: nothing is read."""
    large = (1 << 32) - 200
    places = [8 + 60 + 16, 8 + 60 + 16 + 60 + large]
    index = b"".join(word.to_bytes(4, "big") for word in (2, *places)) + b"f\0g\0"
    head = MAGIC + member(b"/", index)
    header = b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (b"a/", 0, 0, 0, 0o644, large)
    last = member(b"b/", b"")

    def read(offset: int, size: int) -> bytes:
        if offset >= len(head) + 60 + large:
            return last[offset - len(head) - 60 - large :][:size]
        return (head + header)[offset : offset + size]

    size = len(head) + 60 + large + len(last)
    assert archive.rebuild("x.a", size, read, lambda *_: ([], bytes(40))) is not None
    with pytest.raises(FormatError, match="the archive grows beyond its symbol index"):
        archive.rebuild("x.a", size, read, lambda *_: ([], bytes(200)))
