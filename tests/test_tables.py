"""Tables of linked files that stand in a section of another name: found by the symbols around."""

from pathlib import Path

import pytest

from recordmcount.errors import FormatError
from recordmcount.sites import image
from tests.support import command, images
from tests.support.images import WORK_FUNCTIONS
from tests.support.objects import parsed

# The kernel's layout: the entries are in a section of something else, between two symbols.
SCRIPT = """
SECTIONS {
    .init.data : {
        QUAD(0x1234)
        __start_mcount_loc = .;
        KEEP(*(__mcount_loc))
        __stop_mcount_loc = .;
        QUAD(0x5678)
    }
}
INSERT AFTER .data;
"""


def linked(folder: Path, linker: str = "bfd", *, pie: bool = False, script: str = SCRIPT) -> Path:
    """WORK by a linker script of that layout."""
    (folder / "layout.ld").write_text(script)
    option = f"-Wl,-T,{folder / 'layout.ld'}"
    kind = ("-fpie", "-pie") if pie else ("-fno-pic", "-no-pie")
    return images.build(folder, linker=linker, flags=[kind[0]], link=[kind[1], option]).image


def sites_of(path: Path) -> set[str | None]:
    sites = image.recorded(parsed(path.read_bytes(), "image"))
    return set() if sites is None else {site.function for site in sites}


@pytest.mark.matrix
@pytest.mark.parametrize("pie", [False, True], ids=["exe", "pie"])
@pytest.mark.parametrize("linker", ["bfd", "lld"])  # the others take no such scripts
def test_a_table_between_symbols_is_found(linker: str, pie: bool, tmp_path: Path) -> None:
    path = linked(tmp_path, linker, pie=pie)
    assert sites_of(path) == WORK_FUNCTIONS
    before = path.read_bytes()
    assert command.run("patcher", "nop", "-q", path) == (0, "", "")
    assert path.read_bytes() != before
    assert command.run("patcher", "call", "-q", path) == (0, "", "")
    assert path.read_bytes() == before


@pytest.mark.parametrize("ends", ["__start___mcount_loc", "__start_mcount_loc"])
def test_what_section_and_symbols_both_name_counts_once(ends: str, tmp_path: Path) -> None:
    stop = ends.replace("start", "stop")
    program = f"extern long {ends}[], {stop}[]; long *a = {ends}, *b = {stop};"
    script = """
    SECTIONS {
        __mcount_loc : {
            __start_mcount_loc = .; KEEP(*(__mcount_loc)) __stop_mcount_loc = .;
        }
    }
    INSERT AFTER .data;
    """
    (tmp_path / "layout.ld").write_text(script)
    reader = images.compile_object(tmp_path, "reader", program, "gcc", "-fno-pic")
    link = ["-no-pie", str(reader), f"-Wl,-T,{tmp_path / 'layout.ld'}"]
    path = images.build(tmp_path, flags=["-fno-pic"], link=link).image
    sites = image.recorded(parsed(path.read_bytes(), "image"))
    assert sites is not None
    assert (len(sites), sites.repeated) == (len(WORK_FUNCTIONS), 0)


def test_a_section_that_was_renamed_is_found_by_the_linker_s_symbols(tmp_path: Path) -> None:
    program = "extern long __start___mcount_loc[], __stop___mcount_loc[];"
    program += "long *a = __start___mcount_loc, *b = __stop___mcount_loc;"
    reader = images.compile_object(tmp_path, "reader", program, "gcc", "-fno-pic")
    link = ["-no-pie", str(reader)]
    path = images.build(tmp_path, flags=["-fno-pic"], link=link).image
    images.tool("objcopy", "--rename-section", "__mcount_loc=.another", path)
    assert sites_of(path) == WORK_FUNCTIONS


def test_between_symbols_of_one_place_is_an_empty_table(tmp_path: Path) -> None:
    source = "int main(void) { return 0; }"
    main = images.compile_object(tmp_path, "main", source, "gcc", "-fno-pic")
    ends = [f"-Wl,--defsym={name}=0x404000" for name in ("__start_mcount_loc", "__stop_mcount_loc")]
    images.tool("gcc", "-no-pie", "-o", tmp_path / "main", main, *ends)
    sites = image.read(parsed((tmp_path / "main").read_bytes()))
    assert sites is not None
    assert (len(sites), sites.dead) == (0, 0)


@pytest.mark.parametrize(
    ("start", "stop", "message"),
    [
        (0x404010, 0x404000, "__start_mcount_loc: 0x404010 is behind __stop_mcount_loc, 0x404000"),
        (0x404001, 0x404009, "__start_mcount_loc: no table of addresses is from 0x404001 to "),
        (0x404000, 0x404004, "__start_mcount_loc: no table of addresses is from 0x404000 to "),
        (0x7000_0000, 0x7000_0008, "what begins at __start_mcount_loc at address 0x70000000, "),
        (0x401000, 1 << 62, "what begins at __start_mcount_loc at address 0x401000, "),
        (
            0x401000,
            0x8000_0000_0040_1008,
            "what begins at __start_mcount_loc at address 0x401000, ",
        ),
        (0x401000, 0x401008, "__mcount_loc: entry 0x"),  # code
    ],
)
def test_symbols_that_embrace_no_table_are_refused_in_one_line(
    start: int, stop: int, message: str, tmp_path: Path
) -> None:
    source = "int main(void) { return 0; }"
    main = images.compile_object(tmp_path, "main", source, "gcc", "-fno-pic")
    ends = [f"-Wl,--defsym=__start_mcount_loc={start}", f"-Wl,--defsym=__stop_mcount_loc={stop}"]
    images.tool("gcc", "-no-pie", "-o", tmp_path / "main", main, *ends)
    with pytest.raises(FormatError) as caught:
        image.read(parsed((tmp_path / "main").read_bytes(), "image"))
    assert str(caught.value).startswith(f"image: {message}")
    done = command.run("patcher", "nop", tmp_path / "main")
    assert (done.status, done.stdout, done.stderr.count("\n")) == (1, "", 1)
