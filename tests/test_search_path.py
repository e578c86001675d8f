"""No code of the current folder is run, however the program is called."""

import sys
from pathlib import Path

import pytest

from recordmcount import __version__
from tests.support import building
from tests.support.command import ROOT

PACKAGES = ("recordmcount", "patcher")
# What our own packages, Python's library and our dependencies are called by.
STRANGERS = ("os", "struct", "re", "json", "lief", "capstone", "elftools")

each_package = pytest.mark.parametrize("package", PACKAGES)
isolated_or_not = pytest.mark.parametrize("options", [(), ("-I", "-S")], ids=["plain", "isolated"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder in which whatever is imported says so."""
    folder = tmp_path / "current"
    folder.mkdir()
    for name in (*PACKAGES, *STRANGERS):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name}.py was run')\n")
    return folder


def version(*command: str | Path, cwd: Path) -> str:
    return building.run(*command, "--version", cwd=cwd)


@each_package
@isolated_or_not
def test_not_by_its_path(package: str, options: tuple[str, ...], folder: Path) -> None:
    main = ROOT / package / "__main__.py"
    assert version(sys.executable, *options, main, cwd=folder) == f"{package} {__version__}\n"


@each_package
@isolated_or_not
@pytest.mark.parametrize("linked", ["file", "folder"])
@pytest.mark.parametrize("name", ["recordmcount", "patcher", "other"])
def test_not_behind_a_link(
    package: str, options: tuple[str, ...], linked: str, name: str, folder: Path
) -> None:
    target, link = ROOT / package, folder / "links" / name
    link.parent.mkdir()
    if linked == "file":
        link.mkdir()
        (link / "__main__.py").symlink_to(target / "__main__.py")
    else:
        link.symlink_to(target)
    main = Path("links", name, "__main__.py")
    assert version(sys.executable, *options, main, cwd=folder) == f"{package} {__version__}\n"


@each_package
def test_not_from_a_script_in_the_root_folder(package: str, folder: Path) -> None:
    """Pretend to lie there: the package is looked for in `/`, and only there."""
    program = f"""
__file__, __package__ = "/{package}/__main__.py", None
exec(compile(open({str(ROOT / package / "__main__.py")!r}).read(), __file__, "exec"))
"""
    command = (sys.executable, "-I", "-S", "-c", program)
    output = building.run(*command, cwd=folder, status=1)
    assert output.endswith(f"ModuleNotFoundError: No module named '{package}'\n")


@each_package
def test_not_by_the_console_script(package: str, folder: Path) -> None:
    script = Path(sys.executable).with_name(package)
    assert version(script, cwd=folder) == f"{package} {__version__}\n"


@each_package
def test_not_by_the_name_of_the_module(package: str, folder: Path) -> None:
    """But for the module itself: -m means the one of the current folder, if there is one."""
    for each in PACKAGES:
        (folder / f"{each}.py").unlink()
    assert version(sys.executable, "-m", package, cwd=folder) == f"{package} {__version__}\n"
    (folder / "x.o").write_bytes(b"")
    verb = {"recordmcount": "report", "patcher": "status"}[package]
    told = building.run(sys.executable, "-m", package, verb, "x.o", cwd=folder, status=1)
    assert told.startswith("x.o: ")


def test_not_by_what_the_glue_calls(folder: Path) -> None:
    (folder / "f.c").write_text("void f(void) {}\n")
    launcher = building.GLUE / "compile-and-record"
    building.run(launcher, "gcc", "-pg", "-c", "f.c", cwd=folder, RECORDMCOUNT="")
    assert b"__mcount_loc" in (folder / "f.o").read_bytes()
