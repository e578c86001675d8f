"""A section whose bytes are a packing of its contents (SHF_COMPRESSED) is refused by its name."""

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from tests.support import objects
from tests.support.command import call
from tests.support.elf_builder import X86_64, Section, Symbol, Target, build, section_symbol
from tests.support.images import build as linked
from tests.support.objects import TARGETS, text
from tests.support.patching import patch

SHF_COMPRESSED = 0x800
RELA = {True: ".rela", False: ".rel"}


def compressed(path: Path, name: str) -> bytes:
    """The file, in which the header of a section says so; its bytes stay what they are."""
    data = bytearray(path.read_bytes())
    with path.open("rb") as file:
        elf = ELFFile(file)
        index = elf.get_section_index(name)
        assert index
        at = elf["e_shoff"] + index * elf["e_shentsize"] + 8
        word = elf.elfclass // 8
    flags = int.from_bytes(data[at : at + word], "little") | SHF_COMPRESSED
    data[at : at + word] = flags.to_bytes(word, "little")
    path.write_bytes(data)
    return bytes(data)


def refused(path: Path, name: str, *words: str) -> None:
    """A command says of the file which section it is, and leaves it alone."""
    before = path.read_bytes()
    finished = call(*words, path)
    assert finished.status == 1
    assert finished.stderr.splitlines()[0] == f"{path}: {name}: compressed: decompress it first"
    assert path.read_bytes() == before


@TARGETS
@pytest.mark.parametrize("name", [".text", ".rela.text", ".symtab", ".strtab", ".shstrtab"])
def test_an_object_is_neither_recorded_nor_reported(
    target: Target, name: str, tmp_path: Path
) -> None:
    path = objects.caller(target=target).write(tmp_path / "x.o")
    name = name.replace(".rela", RELA[target.rela])
    compressed(path, name)
    called = "section 5" if name == ".shstrtab" else name  # which has the names
    refused(path, called, "recordmcount")
    refused(path, called, "recordmcount", "report")


@pytest.mark.parametrize("name", [".text", ".rela.text", "__mcount_loc", ".rela__mcount_loc"])
@pytest.mark.parametrize("verb", ["nop", "call", "status"])
def test_an_object_is_not_switched(name: str, verb: str, tmp_path: Path) -> None:
    path = objects.recorded(tmp_path / "x.o", objects.caller())
    compressed(path, name)
    refused(path, name, "patcher", verb)


@pytest.mark.parametrize("name", [".text", "__mcount_loc"])
def test_a_program_is_neither_reported_nor_switched(name: str, tmp_path: Path) -> None:
    program = linked(tmp_path, flags=["-mfentry", "-fno-pic"]).image
    patch("nop", program)
    compressed(program, name)
    refused(program, name, "recordmcount", "report")
    for verb in ("nop", "call", "status"):
        refused(program, name, "patcher", verb)


def test_compressed_debug_information_is_nobodys_business(tmp_path: Path) -> None:
    debug = Section(".debug_info", flags=SHF_COMPRESSED, data=bytes(40))
    symbols = [section_symbol(".text"), Symbol("__fentry__")]
    path = build(X86_64, [text(), debug], symbols).write(tmp_path / "x.o")
    assert call("recordmcount", path) == (0, "", "")
    assert call("recordmcount", "report", path).status == 0
    assert call("patcher", "nop", path).status == 0
