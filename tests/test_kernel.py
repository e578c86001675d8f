"""Debian's kernel, in a virtual machine, traces modules that the Kbuild recipe recorded."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from tests.support import building, command, kbuild, qemu

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.xdist_group("kernel"),  # one boot for all of them
]

RECORDED = {"tracee_parse", "tracee_set", "tracee_get", "tracee_square", "tracee_sum"}
ON_LOAD = ["tracee_prepare", "tracee_sum"]
ON_WORK = ["tracee_set", "tracee_parse", "tracee_sum", *["tracee_square"] * 5]
COMPLAINTS = ("WARNING", "BUG", "Oops", "Call Trace", "ftrace bug")

# The filter is set before the module is loaded, so that its init function is traced as well. A
# filter that then matches nothing means every function of the kernel, even those which read the
# trace: hence tracing_on and grep.
SCRIPT = """\
cd /sys/kernel/tracing
for module in gcc clang own bare; do
    echo "@$module trace"
    echo '*:mod:tracee' > set_ftrace_filter
    echo function > current_tracer
    echo 1 > tracing_on
    insmod /$module.ko
    echo 5 > /sys/module/tracee/parameters/work
    echo 0 > tracing_on
    grep -F tracee_ trace || true
    echo nop > current_tracer
    echo "@$module functions"
    grep -F '[tracee]' available_filter_functions || true
    echo "@$module work"
    echo 5 > /sys/module/tracee/parameters/work
    cat /sys/module/tracee/parameters/work
    rmmod tracee
done
echo "@kernel tainted"
cat /proc/sys/kernel/tainted
"""


@dataclass(frozen=True)
class Machine:
    """What one boot of the kernel had to say of every module."""

    kernel_log: str
    answers: dict[str, str]
    """Of each part of SCRIPT: "gcc trace", "gcc functions", ..."""

    def traced(self, module: str) -> list[str]:
        """The functions of the module in the order in which they were traced.

        Without tracee_init, which has a second name: clang's objects list init_module first.
        """
        trace = self.answers[f"{module} trace"]
        calls = [line.split()[-2] for line in trace.splitlines()]  # ... FUNCTION <-CALLER
        return [name for name in calls if name.startswith("tracee_") and name != "tracee_init"]

    def traceable(self, module: str) -> set[str]:
        """The functions of the module in available_filter_functions."""
        return {line.split()[0] for line in self.answers[f"{module} functions"].splitlines()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("modules")


@pytest.fixture(scope="module")
def machine(folder: Path) -> Machine:
    modules = {
        name: building.copy("module", folder / name) / "tracee.ko"
        for name in ("gcc", "clang", "own")
    }
    kbuild.build(folder / "gcc")
    kbuild.build(folder / "clang", *kbuild.CLANG)
    building.run(*kbuild.kernel_make(folder / "own"))
    modules["bare"] = without_table(modules["gcc"], folder / "bare.ko")
    files = {f"/{name}.ko": module.read_bytes() for name, module in modules.items()}
    session = qemu.run(kbuild.KERNEL / "vmlinuz", SCRIPT, files)
    parts = [part.partition("\n") for part in session.output.split("@")[1:]]
    return Machine(session.kernel_log, {name: answer for name, _, answer in parts})


def without_table(module: Path, out: Path) -> Path:
    remove = ["-R", "__mcount_loc", "-R", ".rela__mcount_loc"]
    subprocess.run(["objcopy", *remove, module, out], check=True)
    return out


def with_an_entry_one_byte_off(module: Path, out: Path) -> Path:
    content = bytearray(module.read_bytes())
    with module.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".rela__mcount_loc")
        assert table is not None
        r_addend = table["sh_offset"] + 16  # in the first Elf64_Rela; little-endian
    content[r_addend] += 1
    out.write_bytes(content)
    return out


recorded_by_us = pytest.mark.parametrize("compiler", ["gcc", "clang"])


@recorded_by_us
def test_recorded_functions_can_be_traced_and_no_others(machine: Machine, compiler: str) -> None:
    assert machine.traceable(compiler) == RECORDED


@recorded_by_us
def test_the_function_tracer_sees_every_call_from_the_init_function_on(
    machine: Machine, compiler: str
) -> None:
    assert machine.traced(compiler) == ON_LOAD + ON_WORK


@pytest.mark.parametrize("module", ["gcc", "clang", "own", "bare"])
def test_the_module_still_computes_once_its_calls_are_nops_again(
    machine: Machine, module: str
) -> None:
    assert machine.answers[f"{module} work"] == "505030\n"


def test_the_compiler_s_own_table_adds_only_the_section_that_is_not_traced(
    machine: Machine,
) -> None:
    assert machine.traceable("own") == RECORDED | {"tracee_elsewhere"}


def test_without_its_table_nothing_of_the_module_can_be_traced(machine: Machine) -> None:
    assert machine.traceable("bare") == set()
    assert machine.traced("bare") == []


def test_the_kernel_does_not_complain(machine: Machine) -> None:
    lines = machine.kernel_log.splitlines()
    assert [line for line in lines if any(each in line for each in COMPLAINTS)] == []
    out_of_tree, unsigned = 1 << 12, 1 << 13
    assert machine.answers["kernel tainted"] == f"{out_of_tree | unsigned}\n"


def test_the_kernel_complains_of_a_single_entry_that_is_one_byte_off(
    machine: Machine, folder: Path
) -> None:
    module = with_an_entry_one_byte_off(folder / "gcc" / "tracee.ko", folder / "off.ko")
    files = {"/off.ko": module.read_bytes()}
    session = qemu.run(kbuild.KERNEL / "vmlinuz", "insmod /off.ko", files)
    for complaint in ("WARNING", "Call Trace", "ftrace bug"):
        assert complaint in session.kernel_log


def test_the_kernel_s_ftrace_stops_for_a_module_whose_calls_are_turned_off(
    machine: Machine, folder: Path
) -> None:
    off = folder / "turned-off.ko"
    done = command.run("patcher", "nop", "-o", off, folder / "gcc" / "tracee.ko")
    assert (done.status, "do not load this module" in done.stderr) == (0, True)
    session = qemu.run(kbuild.KERNEL / "vmlinuz", "insmod /off.ko", {"/off.ko": off.read_bytes()})
    assert "ftrace failed to modify" in session.kernel_log
    assert command.run("patcher", "call", off).status == 0
    assert off.read_bytes() == (folder / "gcc" / "tracee.ko").read_bytes()
