"""Sites of a running process: switched as asked, whatever it does meanwhile, or refused."""

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EMFILE
from pathlib import Path

import jsonschema
import pytest

from patcher.errors import ModuleError, NoProcessError, ReadError, StateError, WriteError
from patcher.process import access, loaded_file, ptrace
from patcher.process.pages import MOST
from patcher.process.proc import Proc
from patcher.process.target import Target
from recordmcount.x86_code import INT3
from tests.support import command, images, live
from tests.support.command import ROOT
from tests.support.live import CALLS, ask, count, forbid_map_files, patch, refused
from tests.support.processes import (
    build_program,
    finish,
    memory_of,
    started,
    state,
    wait_for,
)
from tests.support.strace import Call, Fault, run_with_faults
from tests.support.traced import tracing

pytestmark = pytest.mark.process

RESULT = 2 * 3 + 1 + 2 * 3  # of work(3)
each_method = pytest.mark.parametrize(
    "method", [(), ("--protocol", "breakpoint")], ids=["stop", "breakpoint"]
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return live.build(tmp_path_factory.mktemp("program"))


def site_of(pid: int, function: str) -> tuple[int, bytes]:
    """The run-time address of the first site of a function, and what stands there."""
    done = command.run("patcher", "status", "--json", "--functions", function, "--pid", str(pid))
    site = json.loads(done.stdout)["process"]["modules"][0]["sites"][0]
    return site["address"], bytes.fromhex(site["bytes"])


def put(pid: int, address: int, code: bytes) -> None:
    """Write to a process as a stranger does."""
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(address)
        assert memory.write(code) == len(code)


# --- it does what is asked ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", live.KINDS)
def test_sites_go_off_and_come_back_byte_for_byte(kind: str, tmp_path: Path) -> None:
    flags, link = live.KINDS[kind]
    program = live.build(tmp_path, flags=flags, link=link)
    with started(program) as process, memory_of(process.pid) as memory:
        code = next(each.range for each in memory.mappings() if each.path == str(program)
                    and each.protection == "r-xp")  # fmt: skip
        before = memory.read(code.start, code.end - code.start)
        assert ask(process) == (RESULT, CALLS)
        assert patch("nop", process.pid) == f"{program}: 3 sites turned to nop, 0 already\n"
        assert ask(process) == (RESULT, 0)
        assert count(process.pid) == "3 sites: 0 call, 3 nop, 0 foreign"
        assert patch("call", process.pid) == f"{program}: 3 sites turned to call, 0 already\n"
        assert ask(process) == (RESULT, CALLS)
        assert memory.read(code.start, code.end - code.start) == before
        finish(process)


def test_functions_and_modules_are_chosen(tmp_path: Path) -> None:
    libraries = [
        live.library(tmp_path, name, f"int {name}(int x) {{ return x; }}")
        for name in ("one", "two")
    ]
    work = "int one(int); int two(int); int work(int x) { return one(x) + two(x); }"
    program = live.build(tmp_path, work=work, link=[*libraries, f"-Wl,-rpath,{tmp_path}"])
    with started(program) as process:
        assert ask(process) == (6, 3)
        assert patch("nop", process.pid, "--module", "one.so").splitlines() == [
            f"{libraries[0]}: 1 site turned to nop, 0 already"
        ]
        assert ask(process) == (6, 2)
        patch("nop", process.pid, "--functions", "t*")
        assert ask(process) == (6, 1)
        patch("call", process.pid, "--notrace", "two")
        assert ask(process) == (6, 2)
        patch("nop", process.pid, "--module", str(tmp_path / "t*"))
        assert "did you mean 'one.so'" in refused("nop", process.pid, "--module", "one.sa")
        assert "no site in a function like three" in refused(
            "nop", process.pid, "--functions", "three"
        )


def test_a_dry_run_tells_and_changes_nothing(program: Path) -> None:
    with started(program) as process:
        address, code = site_of(process.pid, "work")
        told = patch("nop", process.pid, "-n", "--functions", "work")
        assert told.startswith(f"{program}: work ({address:#x}): {code.hex(' ')} -> ")
        assert ask(process) == (RESULT, CALLS)


def test_json_is_as_its_schema_has_it(program: Path) -> None:
    schema = json.loads(command.run("patcher", "status", "--schema").stdout)
    with started(program) as process:
        for verb, field in (("status", "sites"), ("nop", "changes")):
            done = command.run("patcher", verb, "--json", "--pid", str(process.pid))
            document = json.loads(done.stdout)
            jsonschema.validate(document, schema)
            (module,) = document["process"]["modules"]
            assert (module["path"], len(module[field])) == (str(program), 3)
            assert document["process"]["pid"] == process.pid
    done = command.run("patcher", "nop", "--json", "--pid", str(process.pid))
    document = json.loads(done.stdout)
    jsonschema.validate(document, schema)
    assert (done.status, document["process"], document["errors"][0]["errno"]) == (1, None, "ESRCH")


@pytest.mark.parametrize("words", [
    "status --pid 1 x", "nop --pid 1 -o x", "nop --module x x", "nop --timeout 3 x", "nop --pid 0",
    "nop --pid self",
])  # fmt: skip
def test_what_makes_no_sense_with_a_process_is_a_usage_error(words: str) -> None:
    assert command.run("patcher", *words.split()).status == 2


def test_a_file_whose_sites_are_off_is_switched_on_in_the_process(tmp_path: Path) -> None:
    program = live.build(tmp_path)
    assert command.run("patcher", "nop", program).status == 0
    with started(program) as process:
        assert ask(process) == (RESULT, 0)
        patch("call", process.pid)
        assert ask(process) == (RESULT, CALLS)


# --- whatever it does meanwhile -------------------------------------------------------------------


@each_method
def test_a_stopped_process_is_switched_and_stays_stopped(
    method: tuple[str, ...], program: Path
) -> None:
    with started(program) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        patch("nop", process.pid, *method)
        while state(process.pid) in "tR":  # on its way
            pass
        assert state(process.pid) == "T"
        os.kill(process.pid, signal.SIGCONT)
        assert ask(process) == (RESULT, 0)


@each_method
def test_a_process_whose_leader_has_ended_is_switched(
    method: tuple[str, ...], tmp_path: Path
) -> None:
    main = """
    QUIET static void *other(void *nothing) { ready(); while (answer()) {} exit(0); }
    QUIET int main(void) {
        pthread_t thread;
        pthread_create(&thread, NULL, other, NULL);
        pthread_exit(NULL);
    }
    """
    with started(live.build(tmp_path, main)) as process:
        while state(process.pid) != "Z":
            pass
        patch("nop", process.pid, *method)
        assert ask(process) == (RESULT, 0)
        finish(process)


def test_a_process_that_shares_the_address_space_executes_sites_meanwhile(tmp_path: Path) -> None:
    main = """
    static char stack[65536];
    QUIET static int child(void *nothing) { for (;;) { work(1); usleep(10); } }
    QUIET int main(void) {
        int pid = clone(child, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
        ready();
        while (answer()) {}
        int status = -1;
        int alive = !waitpid(pid, &status, WNOHANG);
        kill(pid, SIGKILL);
        return !alive;
    }
    """
    with started(live.build(tmp_path, main)) as process:
        for _ in range(8):
            patch("nop", process.pid)
            patch("call", process.pid)
        finish(process)


FILTER = """
#include <linux/filter.h>
#include <linux/seccomp.h>
QUIET int main(void) {
    struct sock_filter only[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {6, only};
    ready();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &filter)) return 1;
    while (answer()) {}
    return 0;
}
"""


def test_a_process_that_may_do_nearly_nothing_is_switched(tmp_path: Path) -> None:
    with started(live.build(tmp_path, FILTER)) as process:
        assert ask(process) == (RESULT, CALLS)
        patch("nop", process.pid)
        assert ask(process) == (RESULT, 0)
        finish(process)


def test_what_a_compiler_makes_at_run_time_is_no_module(tmp_path: Path) -> None:
    main = """
    QUIET int main(void) {
        int memory = syscall(SYS_memfd_create, "code", 0), zero = open("/dev/zero", O_RDWR);
        int gone = open("gone", O_RDWR | O_CREAT, 0700);
        unlink("gone");
        ftruncate(memory, 4096);
        ftruncate(gone, 4096);
        mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, memory, 0);
        mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, memory, 0);
        mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, gone, 0);
        mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, zero, 0);
        ready();
        while (answer()) {}
        return 0;
    }
    """
    program = live.build(tmp_path, main)
    with started(program, cwd=tmp_path) as process:
        assert patch("nop", process.pid) == f"{program}: 3 sites turned to nop, 0 already\n"
        assert ask(process) == (RESULT, 0)


# --- sites of two instructions --------------------------------------------------------------------

# The counter is called by movabs and an indirect call; a thread can stand between the two.
LARGE = ("-mcmodel=large", "-fno-pie")
HANDLER = """
static char other_stack[65536];
QUIET static void handle(int number) { char byte; while (read(0, &byte, 1) < 0) {} }
QUIET int main(int count, char **words) {
    stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
    struct sigaction action = {.sa_handler = handle, .sa_flags = count > 1 ? SA_ONSTACK : 0};
    sigaltstack(&stack, NULL);
    sigaction(SIGUSR1, &action, NULL);
    ready();
    while (answer()) {}
    return 0;
}
"""


def stand_inside(process: subprocess.Popen[str]) -> int:
    """Bring the only thread between the two instructions of a site, stopped; returns where."""
    address, code = site_of(process.pid, "work")
    assert (len(code), code[0]) == (13, 0x49)
    put(process.pid, address, INT3)
    ptrace.seize(process.pid)
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
    assert wait_for(process.pid).signal == signal.SIGTRAP  # type: ignore[union-attr]
    put(process.pid, address, code[:1])
    registers = ptrace.registers(process.pid)
    ptrace.set_registers(process.pid, registers.with_values(rip=address))
    ptrace.step(process.pid)
    wait_for(process.pid)
    inside = ptrace.registers(process.pid).instruction_pointer
    assert address < inside < address + len(code)
    return inside


def test_a_site_in_which_a_thread_stands_is_left_alone(tmp_path: Path) -> None:
    program = live.build(tmp_path, HANDLER, flags=LARGE, link=["-no-pie"])
    with started(program) as process:
        inside = stand_inside(process)
        ptrace.detach(process.pid, signal.SIGSTOP)
        line = refused("nop", process.pid)
        assert f"a CPU stands inside, at {inside:#x}: try again" in line
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout
        assert process.stdout.readline() == f"{RESULT} {CALLS}\n"
        patch("nop", process.pid)
        assert ask(process) == (RESULT, 0)


@pytest.mark.parametrize("stack", [(), ("other",)], ids=["its stack", "another stack"])
def test_a_site_to_which_a_signal_handler_returns_is_left_alone(
    stack: tuple[str, ...], tmp_path: Path
) -> None:
    program = live.build(tmp_path, HANDLER, flags=LARGE, link=["-no-pie"])
    with started(program, *stack) as process:
        inside = stand_inside(process)
        ptrace.detach(process.pid, signal.SIGUSR1)
        while state(process.pid) != "S":
            pass
        assert f"a CPU stands inside, at {inside:#x}" in refused("nop", process.pid)
        assert process.stdin
        assert process.stdout
        process.stdin.write("x")
        process.stdin.flush()
        assert process.stdout.readline() == f"{RESULT} {CALLS}\n"
        patch("nop", process.pid)
        assert ask(process) == (RESULT, 0)


# --- what is refused, and nothing is written ------------------------------------------------------


def test_there_must_be_a_process() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert refused("nop", process.pid) == f"process {process.pid}: there is none"


def test_a_zombie_is_named() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        line = refused("status", process.pid)
        assert line == f"process {process.pid} (true): has ended: it is a zombie"


def test_a_process_that_ends_while_it_is_looked_at_is_named(program: Path) -> None:
    with started(program) as process, Target(process.pid, 2) as target:
        process.kill()
        process.wait()
        with pytest.raises(NoProcessError, match=r"\(target\): has ended"):
            target.modules()


def test_a_kernel_thread_is_named() -> None:
    assert refused("nop", 2) == (
        "process 2 (kthreadd): is a kernel thread, and has no code of its own"
    )


def test_a_process_without_sites_is_named() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        line = refused("nop", process.pid)
        tables = "a table of sites (__mcount_loc, __patchable_function_entries)"
        assert line == f"process {process.pid} (sleep): no live module has {tables}"
        process.kill()


def test_a_process_that_another_one_traces_is_named_with_it(program: Path) -> None:
    with started(program) as process:
        ptrace.seize(process.pid)
        line = refused("nop", process.pid)
        assert f"is traced by process {os.getpid()} (" in line
        ptrace.interrupt(process.pid)
        wait_for(process.pid)
        ptrace.detach(process.pid)
        assert ask(process) == (RESULT, CALLS)


AS_ROOT = os.geteuid() == 0
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


def as_nobody(*words: str) -> str:
    """Run patcher as a user without rights, which fails; its one line."""
    done = subprocess.run(
        [*(NOBODY if AS_ROOT else []), sys.executable, "-m", "patcher", *words],
        check=False, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, ""), done
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_process_of_another_user_is_named_with_the_users() -> None:
    other = str(os.getppid()) if AS_ROOT else "1"
    user = 65534 if AS_ROOT else os.getuid()
    line = as_nobody("nop", "--pid", other)
    assert (
        f"may not be traced: it is of user 0, and patcher is run by user {user}: run it as" in line
    )


def test_a_process_that_is_not_dumpable_is_named(tmp_path: Path) -> None:
    user = "setgid(65534); setuid(65534);" if AS_ROOT else ""
    source = f"int main(void) {{ {user} prctl(PR_SET_DUMPABLE, 0); ready(); until_told(); }}"
    with started(build_program(tmp_path, source)) as process:
        line = as_nobody("nop", "--pid", str(process.pid))
        assert "may not be traced: the kernel protects it, as one that is not dumpable" in line


def test_where_numbers_in_proc_mean_other_processes_nothing_is_touched(program: Path) -> None:
    namespace = ["unshare", "-pf" if AS_ROOT else "-rpf"]
    with started(program) as process:
        for verb in ("status", "nop"):
            done = subprocess.run(
                [*namespace, sys.executable, "-m", "patcher", verb, "--pid", str(process.pid)],
                check=False, capture_output=True, text=True, cwd=ROOT,
            )  # fmt: skip
            assert (done.returncode, done.stdout) == (1, "")
            (line,) = done.stderr.splitlines()
            assert "/proc is that of another PID namespace" in line
        assert ask(process) == (RESULT, CALLS)


def test_a_want_of_descriptors_is_not_taken_for_a_refusal() -> None:
    with Proc(os.getpid()) as proc:
        error = access.no_access(proc, "it", OSError(EMFILE, os.strerror(EMFILE)))
        assert str(error) == "it: cannot be looked at: Too many open files"


@pytest.mark.parametrize(("scope", "what"), [(1, "sysctl"), (2, "as root"), (3, "next boot")])
def test_the_scope_of_yama_is_told_with_what_to_do(scope: int, what: str, tmp_path: Path) -> None:
    # There is no Yama in every kernel, and a test must not change the machine's.
    path = tmp_path / "ptrace_scope"
    path.write_text(f"{scope}\n")
    assert what in access.YAMA_SCOPES[access.yama_scope(str(path))]
    assert access.yama_scope(str(tmp_path / "none")) == 0


@each_method
def test_a_vfork_that_goes_on_is_waited_for_no_longer_than_asked(
    method: tuple[str, ...], tmp_path: Path
) -> None:
    main = """
    QUIET int main(void) {
        ready();
        if (vfork() == 0) { char byte; while (read(0, &byte, 1) < 0) {} _exit(0); }
        while (answer()) {}
        return 0;
    }
    """
    with started(live.build(tmp_path, main)) as process:
        while state(process.pid) != "D":
            pass
        before = count(process.pid)
        line = refused("nop", process.pid, "--timeout", "1", *method)
        assert "did not stop within 1 s: it is in an uninterruptible wait" in line
        assert count(process.pid) == before
        assert process.stdin
        process.stdin.write("x")
        process.stdin.flush()
        assert ask(process) == (RESULT, CALLS)


def test_a_stranger_at_a_site_is_named_and_left_alone(program: Path) -> None:
    with started(program) as process:
        address, code = site_of(process.pid, "twice")
        put(process.pid, address, b"\x0f\x0b" + code[2:])
        line = refused("nop", process.pid)
        assert f"{program}: twice ({address:#x}): foreign: neither the call nor the NOP" in line
        assert line.endswith("; nothing was written")
        assert count(process.pid) == "3 sites: 2 call, 0 nop, 1 foreign"
        put(process.pid, address, code)
        patch("nop", process.pid)
        assert ask(process) == (RESULT, 0)


def test_a_breakpoint_at_a_site_is_named(program: Path) -> None:
    with started(program) as process:
        address, code = site_of(process.pid, "twice")
        put(process.pid, address, INT3)
        assert "foreign: a breakpoint, of a uprobe (perf, bpftrace)" in refused("call", process.pid)
        put(process.pid, address, code)


def test_code_that_somebody_else_changed_stays_as_it_is(program: Path) -> None:
    with started(program) as process, memory_of(process.pid) as memory:
        address, _ = site_of(process.pid, "work")
        put(process.pid, address - 1, INT3)  # in the same page, and nobody comes there
        patch("nop", process.pid)
        assert memory.read(address - 1, 1) == INT3
        assert ask(process) == (RESULT, 0)
        patch("call", process.pid)
        assert memory.read(address - 1, 1) == INT3
        assert ask(process) == (RESULT, CALLS)


def test_text_is_switched_however_long_it_is_and_wherever_its_sites_are(tmp_path: Path) -> None:
    # More than is read at once; many sites are in two pages, and some begin at a page's edge.
    number, distance = MOST // 41 + 1000, 41
    functions = f"""
    __asm__(".text; .globl many, end; .balign 4096; many:"
            ".rept {number}; call __fentry__; .skip {distance - 5}, 0x90; .endr; end:");
    """
    program = live.build(tmp_path, flags=["-no-pie"], link=["-no-pie"], work=live.WORK + functions)
    with started(program) as process, memory_of(process.pid) as memory:
        start = images.symbol(program, "many")
        size = images.symbol(program, "end") - start
        as_built = memory.read(start, size)
        nop = bytes.fromhex("0f1f440001")
        switched = b"".join(
            nop + as_built[at + len(nop) : at + distance] for at in range(0, size, distance)
        )
        patch("nop", process.pid)
        assert memory.read(start, size) == switched
        assert ask(process) == (RESULT, 0)
        patch("call", process.pid)
        assert memory.read(start, size) == as_built
        assert ask(process) == (RESULT, CALLS)


def test_text_that_may_be_executed_and_not_read_is_switched(tmp_path: Path) -> None:
    main = """
    extern char __executable_start, etext;
    QUIET int main(void) {
        long start = (long)&__executable_start, page = 4096;
        for (; start < (long)&etext; start += page)
            if (start <= (long)&main && (long)&main < start + page)
                mprotect((void *)start, page, PROT_EXEC);
        ready();
        while (answer()) {}
        return 0;
    }
    """
    program = live.build(tmp_path, main)
    with started(program) as process:
        assert " --xp " in Path(f"/proc/{process.pid}/maps").read_text()
        patch("nop", process.pid)
        assert ask(process) == (RESULT, 0)
        patch("call", process.pid)
        assert ask(process) == (RESULT, CALLS)


@pytest.mark.slow
def test_who_may_not_read_a_process_by_one_copy_switches_it_all_the_same(program: Path) -> None:
    forbidden = Fault(Call("process_vm_readv", 1, "process_vm_readv"), "error=EPERM", forever=True)
    with started(program) as process:
        words = [sys.executable, "-m", "patcher", "nop", "--pid", str(process.pid)]
        assert run_with_faults(words, ROOT, forbidden).status == 0
        assert ask(process) == (RESULT, 0)


def test_a_replaced_file_is_told_by_what_is_mapped_and_not_by_its_name(tmp_path: Path) -> None:
    program = live.build(tmp_path)
    with started(program) as process:
        other = live.build(tmp_path, name="other", work=WORK_OTHERWISE)
        other.rename(program)
        if AS_ROOT:
            patch("nop", process.pid)
            assert ask(process) == (RESULT, 0)
        else:
            assert "the file was replaced or deleted" in refused("nop", process.pid)
            assert ask(process) == (RESULT, CALLS)


def test_where_another_file_is_mapped_by_now_that_is_said(program: Path) -> None:
    """As where a library went, and another came there, after the mappings were read."""
    with started(program) as process, memory_of(process.pid) as memory:
        read = next(each for each in memory.mappings() if each.protection == "r-xp")
        before = read._replace(inode=read.inode + 1)
        what = "is not mapped any more" if AS_ROOT else "the file was replaced or deleted"
        with Proc(process.pid) as proc, pytest.raises((ModuleError, StateError), match=what):
            loaded_file.OpenedFile(proc, before)


WORK_OTHERWISE = """
int work(int x) { return x; }
"""


@pytest.mark.parametrize("change", ["delete", "replace"])
def test_who_may_not_open_what_is_mapped_is_refused_if_it_has_no_name(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = live.build(tmp_path)
    with started(program) as process:
        with Target(process.pid, 2) as target:
            forbid_map_files(target, monkeypatch)
            assert len(target.modules()) == 1
        program.unlink()
        if change == "replace":
            live.build(tmp_path, work=WORK_OTHERWISE)
        with Target(process.pid, 2) as target:
            forbid_map_files(target, monkeypatch)
            with pytest.raises(ModuleError, match=r"cannot be opened.*root can$"):
                target.modules()


def test_another_build_in_memory_than_in_the_file_is_refused(tmp_path: Path) -> None:
    main = """
    extern char __ehdr_start[];
    QUIET int main(void) {
        mprotect(__ehdr_start, 4096, PROT_READ | PROT_WRITE);
        char *at = memmem(__ehdr_start, 4096, "GNU\\0", 4);
        while (at && at[-4] != 3) at = memmem(at + 1, 4096 - (at - __ehdr_start) - 1, "GNU\\0", 4);
        at[5] ^= 1;
        ready();
        while (answer()) {}
        return 0;
    }
    """
    program = live.build(tmp_path, main, flags=["-fno-pie"], link=["-no-pie", "-Wl,--build-id"])
    with started(program) as process:
        line = refused("nop", process.pid)
        assert f"{program}: what is loaded at 0x0 is another build than its file, which has" in line
        assert ask(process) == (RESULT, CALLS)


REMAP = """
extern char __etext[] __asm__("etext");
QUIET __attribute__((section(".text.own"), aligned(4096))) static void remap(void) {
    char *start = (char *)((uintptr_t)work & -4096), *copy = malloc(4096);
    memcpy(copy, start, 4096);
    MAPPING
    ready();
}
QUIET int main(void) { remap(); while (answer()) {} return 0; }
"""
MAPPINGS = {  # what a program made of the page that has a site, and how it is called
    "anonymous": "mmap(start, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);"
    "memcpy(start, copy, 4096); mprotect(start, 4096, 5);",
    "writable": "mprotect(start, 4096, 7);",
    "a memfd": "int fd = syscall(SYS_memfd_create, \"code\", 0); write(fd, copy, 4096);"
    "mmap(start, 4096, 5, MAP_PRIVATE | MAP_FIXED, fd, 0);",
    "a mapping of another file": "int fd = open(\"code\", O_RDWR | O_CREAT, 0700);"
    "write(fd, copy, 4096); mmap(start, 4096, 5, MAP_PRIVATE | MAP_FIXED, fd, 0);",
    "shared": "int fd = open(\"code\", O_RDWR | O_CREAT, 0700);"
    "write(fd, copy, 4096); mmap(start, 4096, 5, MAP_SHARED | MAP_FIXED, fd, 0);",
}  # fmt: skip


@pytest.mark.parametrize("kind", MAPPINGS)
def test_a_site_outside_of_private_text_of_its_file_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main = REMAP.replace("MAPPING", MAPPINGS[kind])
    work = '#pragma GCC optimize("align-functions=4096")\n' + live.WORK
    program = live.build(tmp_path, main, flags=["-fno-pie"], link=["-no-pie"], work=work)
    with started(program) as process:
        line = refused("nop", process.pid)
        assert f"{program}: 0x" in line
        assert f" is {kind}: " in line
        assert ask(process) == (RESULT, CALLS)


def test_memory_outside_of_text_is_not_written(tmp_path: Path) -> None:
    source = """
    int main(int count, char **words) {
        int file = open(words[0], O_RDONLY);
        char *at = (char *)0x10000000;
        mmap(at, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, file, 0);
        mmap(at + 4096, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        mmap(at + 4 * 4096, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, file, 0);
        ready();
        until_told();
        return 0;
    }
    """
    start, end = 0x10000000, 0x10001000
    with started(build_program(tmp_path, source)) as process, memory_of(process.pid) as memory:
        before = memory.read(start, 8192)
        for address in (end - 3, end, start - 2, start + 5 * 4096 - 2, 1 << 62, (1 << 64) - 2):
            with pytest.raises(WriteError):
                memory.scatter([start, address], [b"never", b"never"])
        assert memory.read(start, 8192) == before
        with pytest.raises(ReadError, match="cannot be read: 5 bytes"):
            memory.read(start + 5 * 4096 - 2, 5)
        memory.write(end - 5, b"whole")
        assert memory.read(end - 5, 5) == b"whole"


def test_what_an_emulator_executes_is_not_taken_for_code(tmp_path: Path) -> None:
    source = """
    int main(int count, char **words) {
        mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, open(words[1], O_RDONLY), 0);
        ready();
        until_told();
        return 0;
    }
    """
    guest = tmp_path / "guest"
    guest.write_bytes(b"\x7fELF\2\1\1".ljust(16, b"\0") + b"\2\0\xb7\0" + bytes(4096))
    with started(build_program(tmp_path, source), guest) as process:
        assert refused("nop", process.pid).endswith(
            f"__patchable_function_entries): it executes AArch64 code by an emulator ({guest})"
        )


# --- others who write code ------------------------------------------------------------------------


@contextmanager
def uprobe(program: Path, offset: int, pid: int) -> Iterator[None]:
    """A uprobe at a file offset, in one process, as perf makes them."""
    name = ctypes.create_string_buffer(bytes(program))
    kind = int(Path("/sys/bus/event_source/devices/uprobe/type").read_text())
    attributes = struct.pack(
        "<II5Q2IQQ", kind, 112, 0, 0, 0, 0, 0, 0, 0, ctypes.addressof(name), offset
    ).ljust(112, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    perf_event_open = 298
    fd = libc.syscall(perf_event_open, attributes, pid, -1, -1, 8)  # PERF_FLAG_FD_CLOEXEC
    if fd < 0:
        raise OSError(ctypes.get_errno(), "perf_event_open")
    try:
        yield
    finally:
        os.close(fd)


def may_probe(program: Path, place: int, pid: int) -> bool:
    """Whether we can make uprobes; nobody but root may."""
    if not AS_ROOT:
        with pytest.raises(PermissionError), uprobe(program, place, pid):
            pass
    return AS_ROOT


def test_a_uprobe_at_a_site_is_named_and_left_alone_whatever_it_looks_like(tmp_path: Path) -> None:
    # A 5-byte NOP in the file: newer kernels make a call of it once it has been hit.
    program = live.build(tmp_path, flags=["-fno-pie"], link=["-no-pie"])
    assert command.run("patcher", "nop", program).status == 0
    section, address, _ = images.section(program, ".text")
    with started(program) as process:
        site, _ = site_of(process.pid, "work")
        place = site - address + section
        if not may_probe(program, place, process.pid):
            return
        with uprobe(program, place, process.pid):
            for _ in range(3):
                line = refused("call", process.pid)
                assert f"work ({site:#x}): foreign: a " in line
                assert "uprobe (perf, bpftrace)" in line
                assert count(process.pid) == "3 sites: 0 call, 2 nop, 1 foreign"
                assert ask(process) == (RESULT, 0)
        patch("call", process.pid)
        assert ask(process) == (RESULT, CALLS)


@pytest.mark.parametrize("is_hit", [True, False])
@pytest.mark.parametrize("end", ["trace first", "uprobe first"])
def test_a_uprobe_that_comes_while_a_site_is_traced_does_no_harm_when_it_goes(
    end: str, is_hit: bool, tmp_path: Path
) -> None:
    """Once it was hit the kernel may make it a call, and put back all of the file's bytes."""
    program = live.build(tmp_path, flags=["-fno-pie"], link=["-no-pie"])
    assert command.run("patcher", "nop", program).status == 0
    section, address, _ = images.section(program, ".text")
    with started(program) as process:
        site, code = site_of(process.pid, "work")
        place = site - address + section
        if not may_probe(program, place, process.pid):
            return
        with tracing(process.pid) as trace:
            with uprobe(program, place, process.pid):
                if is_hit:
                    assert ask(process) == (RESULT, 0)
                if end == "trace first":
                    trace.stop()
                    assert not is_hit or ask(process) == (RESULT, 0)
            if end == "uprobe first":
                trace.stop()
        with memory_of(process.pid) as memory:
            assert memory.read(site, len(code)) == code
        assert ask(process) == (RESULT, 0)


# --- files ----------------------------------------------------------------------------------------


def test_a_file_that_was_cut_short_since_is_refused(tmp_path: Path) -> None:
    library = live.library(tmp_path, "one", "int one(int x) { return x; }")
    program = live.build(tmp_path, link=[library, f"-Wl,-rpath,{tmp_path}", "-Wl,--no-as-needed"])
    with started(program) as process:
        whole = library.read_bytes()
        for size in (0, 64, 4096, len(whole) // 2, len(whole) - 1):
            os.truncate(library, size)
            done = command.run("patcher", "nop", "--pid", str(process.pid))
            assert len(done.stderr.splitlines()) == done.status
            library.write_bytes(whole)
        os.truncate(library, 4096)
        patch("nop", process.pid, "--module", "target")
        assert ask(process) == (RESULT, 0)


def test_on_an_overlay_what_is_mapped_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {name: tmp_path / name for name in ("lower", "upper", "work", "both")}
    for folder in folders.values():
        folder.mkdir()
    program = live.build(folders["lower"])
    mount = (
        f"mount -t overlay -o lowerdir={folders['lower']},upperdir={folders['upper']},"
        f"workdir={folders['work']} none {folders['both']} && exec {folders['both']}/{program.name}"
    )
    words = ["unshare", "-m" if AS_ROOT else "-rm", "sh", "-c", mount]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        patch("nop", process.pid)
        assert ask(process) == (RESULT, 0)
        with Target(process.pid, 2) as target:
            forbid_map_files(target, monkeypatch)
            (module,) = target.modules()
            assert len(module) == 3
        finish(process)


def test_a_file_has_the_numbers_in_our_mappings_that_it_has_in_those_of_others(
    program: Path,
) -> None:
    with started(program) as process, memory_of(process.pid) as memory, program.open("rb") as file:
        mapping = next(each for each in memory.mappings() if each.path == str(program))
        numbers = loaded_file.mapped_identity(file.fileno())
        assert numbers == (mapping.device, mapping.inode)


BY_THE_LINKER = "if (!dlopen(words[1], RTLD_NOW)) { puts(dlerror()); return 1; }"
BY_HAND = """
    int file = open(words[1], O_RDONLY);
    char *base = mmap(NULL, 4 * 4096, PROT_READ, MAP_PRIVATE, file, 0);
    mmap(base + 4096, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, file, 4096);
"""


@pytest.mark.parametrize(("load", "what"), [
    (BY_THE_LINKER, "the dynamic linker has made this call (a text relocation)"),
    (BY_HAND, "the dynamic linker has yet to make this call (a text relocation)"),
])  # fmt: skip
def test_a_call_that_the_dynamic_linker_makes_is_left_alone(
    load: str, what: str, tmp_path: Path
) -> None:
    main = f"""
    #include <dlfcn.h>
    QUIET int main(int count, char **words) {{
        {load}
        ready();
        while (answer()) {{}}
        return 0;
    }}
    """
    flags = ("-m32", "-fno-pie")
    compiled = live.compile_and_record(tmp_path, "one", "int one(int x) { return x; }", *flags)
    library = tmp_path / "one.so"
    images.tool("gcc", "-m32", "-shared", "-Wl,-z,notext", compiled, "-o", library)
    program = live.build(tmp_path, main, flags=flags, link=["-no-pie", "-ldl"])
    with started(program, library) as process:
        line = refused("nop", process.pid)
        assert f"{library}: one (0x" in line
        assert f": foreign: {what}" in line
        patch("nop", process.pid, "--module", "target")
        assert ask(process) == (RESULT, 0)
