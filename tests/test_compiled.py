"""The modules that setup.py has mypyc compile, in either build: `tools/test` runs both."""

import ast
import importlib
import os
import pkgutil
import runpy
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import resolve_name

import pytest

from recordmcount.elf.object import in_place
from tests.support.command import ROOT

IS_COMPILED = os.environ.get("RECORDMCOUNT_COMPILED") == "1"


@pytest.fixture(scope="module")
def names() -> list[str]:
    """Read them in setup.py, without setting anything up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **_: None)
        patch.setattr("sys.argv", ["setup.py", "egg_info"])
        settings = runpy.run_path(str(ROOT / "setup.py"))
    words = settings["MODULES"].split()
    return [f"recordmcount.{word.replace('/', '.')}" for word in words]


def test_all_of_them_are_compiled_or_none(names: list[str]) -> None:
    files = [str(importlib.import_module(name).__file__) for name in names]
    suffix = EXTENSION_SUFFIXES[0] if IS_COMPILED else ".py"
    assert [file for file in files if not file.endswith(suffix)] == []


def test_each_is_named_once(names: list[str]) -> None:
    assert len({*names}) == len(names)


def test_what_others_use_stands_behind_them(names: list[str]) -> None:
    """Or mypy, which looks at the last of a group first, cannot tell the types of its constants."""
    behind = [name for at, name in enumerate(names) for used in _used(name) if used in names[:at]]
    assert behind == []


def _used(name: str) -> list[str]:
    """The modules that a module imports as it is loaded, by its source."""
    source = (ROOT / f"{name.replace('.', '/')}.py").read_text()
    package = name.rpartition(".")[0]
    modules = []
    for each in ast.parse(source).body:
        if isinstance(each, ast.ImportFrom):
            start = resolve_name(f"{'.' * each.level}{each.module or ''}", package)
            modules += [start, *(f"{start}.{alias.name}" for alias in each.names)]
    return modules


def test_every_module_can_be_imported() -> None:
    """A class that is not compiled cannot inherit from one that is, and Python says so then."""
    packages = [importlib.import_module(name) for name in ("recordmcount", "patcher")]
    for package in packages:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith(("__main__", "__mypyc")):
                importlib.import_module(found.name)


def test_a_slice_that_ends_before_it_starts_is_empty() -> None:
    """By mypyc's own function it would be a SystemError: tools/mypyc has another."""
    assert in_place(bytes(8), -2) == 0
