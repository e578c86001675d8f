"""`patcher.cpu.trial` on the processor that runs this test."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from patcher.cpu import trial
from recordmcount import x86, x86_nops
from tests.support import command
from tests.support.assembly import assembled


def executes(text: str) -> bool:
    return trial.executes([assembled(x86.EM_X86_64, text)])


@pytest.mark.parametrize("family", x86_nops.NOP_FAMILIES)
def test_every_nop_of_every_family_is_executed_without_effect(family: str) -> None:
    assert trial.executes(x86_nops.NOP_FAMILIES[family].values())


@pytest.mark.parametrize("form", [x86.CALL, x86.CALL_GOT, *x86.CALL_ABS[::8]])
def test_what_takes_the_place_of_a_call_is_executed_without_effect(form: x86.CallForm) -> None:
    assert trial.executes([form.nop])


@pytest.mark.parametrize("text", ["mov %rsp, %rsp", "xchg %rbx, %rbx", "jmp 2"])
def test_what_happens_to_have_no_effect_is_a_nop_as_well(text: str) -> None:
    assert executes(text)


@pytest.mark.parametrize("text", [
    "ud2", "hlt", "int3", ".byte 0xf1", "int $0x80", "syscall", "in %dx, %al", "lock; nop",
    ".byte 6", "mov %rax, %cr3",
])  # fmt: skip
def test_what_the_processor_refuses_or_traps_is_no_nop(text: str) -> None:
    assert not executes(text)


@pytest.mark.parametrize("name", [*trial.REGISTERS, "rsp"])
def test_what_changes_a_register_is_no_nop(name: str) -> None:
    assert not executes(f"inc %{name}")
    assert not executes(f"lea 8(%{name}), %{name}")


@pytest.mark.parametrize("text", ["mov %eax, %eax", "lea (%esi), %esi", "mov $1, %r15b"])
def test_what_changes_a_part_of_a_register_is_no_nop(text: str) -> None:
    assert not executes(text)


@pytest.mark.parametrize("text", [
    "clc", "stc", "cld", "std", "or %rax, %rax", "cmp %rax, %rcx", "popfq", "sahf",
])  # fmt: skip
def test_what_changes_a_flag_is_no_nop(text: str) -> None:
    assert not executes(text)


@pytest.mark.parametrize("text", [
    "mov (%rax), %rax", "testb $0, (%r13)", "mov %r9, (%r9)", "call *(%r10)",
    "push %rax", "pop %rax", "push 0(%rsp)", "call 5",
])  # fmt: skip
def test_what_uses_memory_is_no_nop(text: str) -> None:
    assert not executes(text)


@pytest.mark.parametrize("code", [
    b"", b"\x90\x90", x86.NOP5[:-1], x86.NOP5 + b"\x90", x86_nops.JUMP_NOPS[5][:-1],
    b"\x66" * 15 + b"\x90", b"\x90" * 5000, b"\x0f", b"\x66", b"\xeb\xfd", b"\xeb\x01",
], ids=lambda code: code[:16].hex())  # fmt: skip
def test_what_is_not_exactly_one_instruction_is_no_nop(code: bytes) -> None:
    assert not trial.executes([code])


def test_one_that_is_none_spoils_all() -> None:
    assert not trial.executes([x86_nops.NOPS[5], bytes.fromhex("0f0b"), x86_nops.NOPS[6]])


def test_a_loop_without_end_is_no_nop_and_gets_little_processor_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert not executes("jmp 0")
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert after - before < trial.CHILD_SECONDS / 2


def test_a_child_that_does_not_answer_in_time_is_no_yes() -> None:
    assert not trial.executes([x86_nops.NOPS[1]], seconds=0)


def test_nothing_is_left_behind_by_a_child_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = children()
    for seconds in (trial.CHILD_SECONDS, 0):
        assert not trial.executes([bytes.fromhex("0f0b")], seconds)
    assert children() == before
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def children() -> set[str]:
    """The process ids of this process's children, dead ones included."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {process for task in tasks for process in task.read_text().split()}


# A seccomp filter, as hardened services have one: no mapping both writable and executable.
UNDER_A_STRICT_SYSTEM = """
import ctypes, struct
from patcher.cpu import nop_family, trial
load, alu_and, jump_equal, answer = 0x20, 0x54, 0x15, 0x06
nr, third_argument = 0, 32
mmap, write_and_exec, allow, refuse_eacces = 9, 6, 0x7FFF0000, 0x0005000D
program = b"".join(struct.pack("HBBI", *each) for each in (
    (load, 0, 0, nr), (jump_equal, 0, 4, mmap),
    (load, 0, 0, third_argument), (alu_and, 0, 0, write_and_exec),
    (jump_equal, 0, 1, write_and_exec), (answer, 0, 0, refuse_eacces), (answer, 0, 0, allow),
))
buffer = ctypes.create_string_buffer(program)
header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
prctl = ctypes.CDLL(None).prctl
assert prctl(no_new_privileges, 1, 0, 0, 0) == 0
assert prctl(set_seccomp, filter_mode, header, 0, 0) == 0
print(nop_family.at_hand())
trial.executes([b"\\x90"])
"""


def test_a_system_without_writable_code_is_said_to_be_one_and_gets_the_jump() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNDER_A_STRICT_SYSTEM],
        check=False, capture_output=True, text=True, cwd=command.ROOT,
    )  # fmt: skip
    assert done.stdout == "jump\n"
    assert done.stderr.endswith(
        "\nPermissionError: [Errno 13] instructions cannot be tried: Permission denied\n"
    )
