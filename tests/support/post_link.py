"""Tables written into images after the link, and what else of the image may have changed."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from recordmcount.asked import Options
from recordmcount.record import image
from recordmcount.record.file import Result, record
from tests.support.linked import Image

TABLE = "__mcount_loc"
PAGE = 1 << 12
START, STOP = f"__start_{TABLE}", f"__stop_{TABLE}"


def post_link(path: Path, addresses: list[int] | None = None, **options: object) -> Result:
    """Run `recordmcount --image` in this process; the sites are `addresses`, if they are given."""
    with pytest.MonkeyPatch.context() as patch:
        if addresses is not None:
            patch.setattr(image, "find", lambda *_: (addresses, []))
        return record(str(path), Options(image=True, **options))


def calls(path: Path) -> list[int]:
    """The link-time virtual addresses of all calls to mcount, ascending."""
    return sorted(Image(path).live_calls())


def table(path: Path) -> list[int]:
    """The words of the table, as the file has them."""
    with path.open("rb") as stream:
        file = ELFFile(stream)
        found = [section for section in file.iter_sections() if section.name == TABLE]
        assert len(found) == 1
        content, word = found[0].data(), file.elfclass // 8
    return [
        int.from_bytes(content[at : at + word], "little") for at in range(0, len(content), word)
    ]


def is_loaded(path: Path) -> bool:
    """Whether the table has an address."""
    with path.open("rb") as stream:
        found = ELFFile(stream).get_section_by_name(TABLE)
        assert found is not None
        return bool(found["sh_flags"] & 2)


def changed(path: Path, old: bytes) -> set[str]:
    """The names of what has changed of the `old` image: its headers, sections, or `?`."""
    new = path.read_bytes()[: len(old)]
    assert len(new) == len(old)
    places = [
        at
        for page in range(0, len(old), PAGE)
        if old[page : page + PAGE] != new[page : page + PAGE]  # most are equal, and large
        for at in range(page, min(page + PAGE, len(old)))
        if old[at] != new[at]
    ]
    parts = list(_parts(path, old))
    return {
        next((name for name, start, end in parts if start <= at < end), "?") for at in places
    }  # fmt: skip


def _parts(path: Path, old: bytes) -> Iterator[tuple[str, int, int]]:
    """(name, start, end), in file offsets, of what an image is made of."""
    before = path.with_name("before")
    before.write_bytes(old)
    with before.open("rb") as stream:
        file = ELFFile(stream)
        yield "ELF header", 0, file["e_ehsize"]
        start = file["e_phoff"]
        # One more may fit in.
        yield "program headers", start, start + (file["e_phnum"] + 1) * file["e_phentsize"]
        for section in file.iter_sections():
            if section["sh_type"] != "SHT_NOBITS":
                at = section["sh_offset"]
                yield section.name, at, at + section["sh_size"]


def addresses(path: Path) -> dict[str, tuple[int, int]]:
    """(link-time virtual address, size) of what is loaded but relocations, by section."""
    with path.open("rb") as stream:
        return {
            section.name: (section["sh_addr"], section["sh_size"])
            for section in ELFFile(stream).iter_sections()
            if section["sh_flags"] & 2 and not section.name.startswith(".rel")
        }


def dynamic_tags(path: Path) -> dict[str, int]:
    """The tags of the dynamic segment, and their values."""
    with path.open("rb") as stream:
        dynamic = ELFFile(stream).get_section_by_name(".dynamic")
        assert isinstance(dynamic, DynamicSection)
        return {tag.entry.d_tag: tag.entry.d_val for tag in dynamic.iter_tags()}


def complaints(path: Path) -> set[str]:
    """What eu-elflint has to say."""
    done = subprocess.run(
        ["eu-elflint", "--gnu-ld", path], check=False, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done
    return {*done.stdout.splitlines()} - {"No errors"}
