"""The symbols that a kernel carries for itself are those of nm(1), or none are told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recordmcount.elf import kallsyms
from recordmcount.elf.kallsyms import Kallsyms, KernelFunctions
from recordmcount.elf.segments import LoadView
from tests.support import kernel
from tests.support.kernel import I386, ORDERS, X86_64, Bits, Symbol
from tests.support.objects import parsed

KERNELS = pytest.mark.parametrize(
    ("bits", "order"),
    [(X86_64, order) for order in ORDERS]
    + [(I386, order) for order in ORDERS if not order.endswith("percpu")],
    ids=lambda value: value if isinstance(value, str) else value.emulation,
)


def decoded(content: bytes) -> Kallsyms | None:
    return kallsyms.decode(LoadView(parsed(content, "vmlinux")))


def listing(found: Kallsyms | None) -> list[Symbol]:
    assert found is not None
    return [*map(Symbol, found.vaddrs, map(chr, found.types), found.names)]


@KERNELS
def test_the_symbols_are_those_of_nm(tmp_path: Path, bits: Bits, order: str) -> None:
    path = kernel.vmlinux(tmp_path, bits, ORDERS[order])
    expected = kernel.symbols(path)
    if not order.endswith("percpu"):
        expected = [symbol for symbol in expected if symbol.vaddr >= bits.text]
    assert len(expected) > 2 * kallsyms.STRIDE
    assert listing(decoded(path.read_bytes())) == expected


@pytest.mark.parametrize("number", range(6))
def test_alignment_makes_no_difference(tmp_path: Path, number: int) -> None:
    """With each symbol less all tables that follow have another size."""
    encode = kernel.without(
        ORDERS["6.1-percpu"], lambda symbol: symbol.name in {f"function_{n}" for n in range(number)}
    )
    path = kernel.vmlinux(tmp_path, X86_64, encode)
    assert len(listing(decoded(path.read_bytes()))) == len(kernel.symbols(path)) - number


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kernel.vmlinux(tmp_path_factory.mktemp("kernel"), X86_64, ORDERS["6.1-percpu"])


def test_a_function_is_found_by_any_address_in_it(path: Path) -> None:
    found = decoded(path.read_bytes())
    assert found is not None
    functions = KernelFunctions(found)
    (start,) = found.named("function_7")
    assert functions.at(1, start) == ("function_7", 0)
    assert functions.at(1, start + 5) == ("function_7", 5)
    assert (functions.begins(1, start), functions.begins(1, start + 5)) == (True, False)
    assert functions.names(1, X86_64.text) == ("__fentry__", "_stext", "_text")
    assert functions.at(1, X86_64.text) == ("__fentry__", 0)
    (variable,) = found.named("a_variable")
    assert functions.at(1, variable) == (None, 0)
    assert functions.at(1, X86_64.sections[".data"]) == (None, 0)
    assert found.named("nothing") == []


def test_a_file_without_kallsyms_has_none(tmp_path: Path) -> None:
    path = kernel.vmlinux(tmp_path, X86_64, lambda *_: "")
    assert decoded(path.read_bytes()) is None


def changed(path: Path, name: str, offset: int, data: bytes) -> bytes:
    content = bytearray(path.read_bytes())
    at = kernel.place(path, f"kallsyms_{name}") + offset
    assert content[at : at + len(data)] != data
    content[at : at + len(data)] = data
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "offset", "data"),
    [
        ("num_syms", 0, b"\1"),
        ("num_syms", 2, b"\1"),
        ("markers", 0, b"\1"),
        ("markers", 4, b"\1"),
        ("names", 0, b"\1"),
        ("names", 1, b"\0"),  # a token that stands for nothing
        ("token_table", 0, b"x"),
        ("token_index", 100, b"\1"),
        ("offsets", 4 * 100, b"\1"),  # no longer ascending
        ("relative_base", 1, b"\x77"),  # code would be where none is loaded
        ("relative_base", 7, b"\0"),
        ("relative_base", 1, b"\1"),  # all of it is loaded, but begins elsewhere
    ],
)
def test_nothing_is_told_of_what_does_not_fit_together(
    path: Path, name: str, offset: int, data: bytes
) -> None:
    assert decoded(path.read_bytes()) is not None
    assert decoded(changed(path, name, offset, data)) is None


@pytest.mark.parametrize(
    "new",
    [
        lambda symbol: symbol._replace(
            name=symbol.name.replace("_text", "_test").replace("_stext", "x")
        ),
        lambda symbol: symbol._replace(name=symbol.name.replace("function_9", "function\t9")),
        lambda symbol: symbol._replace(name=symbol.name.replace("long_", "long_" * 60)),
    ],
    ids=["no beginning", "a name that cannot be printed", "a name longer than the kernel has"],
)
def test_nothing_is_told_of_symbols_that_are_no_kernel_s(
    tmp_path: Path, new: Callable[[Symbol], Symbol]
) -> None:
    path = kernel.vmlinux(tmp_path, X86_64, kernel.renamed(ORDERS["6.12"], new))
    assert decoded(path.read_bytes()) is None


def test_code_that_no_segment_loads_is_not_told(tmp_path: Path) -> None:
    def far(symbol: Symbol) -> Symbol:
        return symbol._replace(vaddr=symbol.vaddr + (symbol.name == "_einittext") * 0x10000000)

    path = kernel.vmlinux(tmp_path, X86_64, kernel.renamed(ORDERS["6.12"], far))
    assert decoded(path.read_bytes()) is None


@pytest.mark.slow
def test_whatever_byte_is_changed_there_are_symbols_in_order_or_none(path: Path) -> None:
    content = path.read_bytes()
    start = kernel.place(path, "kallsyms_offsets")
    end = kernel.place(path, "kallsyms_token_index") + 512
    for at in range(start, end, 7):
        found = decoded(content[:at] + bytes((content[at] ^ 0x55,)) + content[at + 1 :])
        if found is not None:
            assert list(found.vaddrs) == sorted(found.vaddrs)
            assert all(map(str.isprintable, found.names))


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("bits", "options"),
    [
        (X86_64, ["--all-symbols", "--absolute-percpu", "--base-relative"]),
        (X86_64, ["--all-symbols", "--base-relative"]),
        (X86_64, ["--all-symbols"]),
        (X86_64, ["--base-relative"]),
        (I386, ["--all-symbols", "--base-relative"]),
        (I386, ["--base-relative"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value.emulation,
)
def test_the_tables_of_the_kernel_s_own_program_are_decoded(
    tmp_path: Path, bits: Bits, options: list[str]
) -> None:
    def encode(listing: list[Symbol], bits: Bits) -> str:
        if "--absolute-percpu" not in options:
            listing = [symbol for symbol in listing if symbol.vaddr >= bits.text]
        return kernel.by_kbuild(tmp_path, listing, options)

    path = kernel.vmlinux(tmp_path, bits, encode)
    expected = {symbol for symbol in kernel.symbols(path) if symbol.vaddr >= bits.text}
    if "--all-symbols" not in options:
        expected = {symbol for symbol in expected if symbol.type in "tT"}
    found = set(listing(decoded(path.read_bytes())))
    if "--absolute-percpu" in options:
        expected |= {
            Symbol(0, "A", "__per_cpu_start"),
            Symbol(64, "A", "a_variable"),
            Symbol(128, "A", "__per_cpu_end"),
        }
    assert found == expected
