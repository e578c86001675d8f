"""What Linux tells of a process and lets be done to it: ptrace, waiting, proc, maps, link maps."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack

import pytest

from patcher.errors import ReadError, StateError
from patcher.ftrace.mappings import Range
from patcher.process import auxiliary_vector, maps, ptrace, r_debug, sharers, waiting
from patcher.process.access import name_of
from patcher.process.halt import Halt
from patcher.process.proc import Proc
from patcher.process.tracees import Tracees
from patcher.process.waiting import Stop
from tests.support import images
from tests.support.command import ROOT
from tests.support.processes import (
    build_program,
    finish,
    memory_of,
    started,
    state,
    wait_for,
)

pytestmark = pytest.mark.process

QUIET = "int main(void) { ready(); until_told(); return 0; }"


LEADERLESS = """
static void *other(void *nothing) { ready(); until_told(); exit(0); }
int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, other, NULL);
    pthread_exit(NULL);
}
"""


def halted(pid: int, timeout: float = 10) -> Halt:
    proc = Proc(pid)
    halt = Halt(proc, name_of(proc), timeout)
    halt.stop()
    return halt


# --- ptrace and waiting ---------------------------------------------------------------------------


def test_exitkill_is_never_set() -> None:
    with pytest.raises(ValueError, match="options 0x100000"):
        ptrace.seize(os.getpid(), ptrace.Options(1 << 20))


def test_a_request_that_fails_says_which_and_why() -> None:
    with pytest.raises(ProcessLookupError, match=f"ptrace INTERRUPT of {os.getpid()}: No such"):
        ptrace.interrupt(os.getpid())


def test_a_thread_is_seized_interrupted_and_let_go(tmp_path: Path) -> None:
    with started(build_program(tmp_path, QUIET)) as process:
        ptrace.seize(process.pid)
        assert waiting.look(process.pid) is None
        ptrace.interrupt(process.pid)
        stop = wait_for(process.pid)
        assert stop == Stop(process.pid, signal.SIGTRAP, waiting.STOP)
        assert isinstance(stop, Stop)
        assert (stop.is_group_stop, stop.pending_signal) == (False, 0)
        ptrace.detach(process.pid)
        finish(process)


@pytest.mark.parametrize("flags", ["-m64", "-m32"])
def test_registers_are_read_and_written_in_the_layout_of_the_code_that_runs(
    flags: str, tmp_path: Path
) -> None:
    source = """
        .globl _start
        _start: mov $0x1234, %ebx
        1: pause
        cmp $0x4321, %ebx
        jne 1b
        mov $EXIT, %eax
        #ifdef __x86_64__
        mov $7, %edi
        syscall
        #else
        mov $7, %ebx
        int $0x80
        #endif
    """
    code = {"-m64": "60", "-m32": "1"}[flags]
    path = tmp_path / "spin.S"
    path.write_text(source)
    program = tmp_path / "spin"
    images.tool("gcc", flags, f"-DEXIT={code}", "-nostdlib", "-static", path, "-o", program)
    with subprocess.Popen([program]) as process:
        ptrace.seize(process.pid)
        base = "ebx" if flags == "-m32" else "rbx"
        ptrace.interrupt(process.pid)
        wait_for(process.pid)
        while (registers := ptrace.registers(process.pid)).values[base] != 0x1234:
            ptrace.step(process.pid)
            wait_for(process.pid)
        ptrace.set_registers(process.pid, registers.with_values(**{base: 0x4321}))
        ptrace.detach(process.pid)
        assert process.wait() == 7
    assert registers.instruction_pointer in range(images.symbol(program, "_start"), 1 << 32)
    assert registers.stack_pointer


def test_nobody_waits_for_a_leader_that_was_killed_after_a_look_at_it(tmp_path: Path) -> None:
    source = """
    static void *other(void *nothing) { until_told(); return nothing; }
    int main(void) {
        pthread_t thread;
        pthread_create(&thread, NULL, other, NULL);
        ready();
        for (;;) pause();
    }
    """
    with started(build_program(tmp_path, source)) as process, Proc(process.pid) as proc:
        leader, other = proc.threads()
        for tid in (leader, other):
            ptrace.seize(tid)
        ptrace.interrupt(leader)
        while waiting.look(leader) is None:
            pass
        os.kill(leader, signal.SIGKILL)
        while {proc.stat(tid).state for tid in (leader, other)} != {"Z"}:
            pass
        waiting.take(leader)
        assert waiting.reap(other)
        assert waiting.reap(leader)


def test_a_signal_is_seen_with_its_siginfo_and_given_by_hand(tmp_path: Path) -> None:
    source = """
    static volatile int got;
    static void handle(int number) { got = number; }
    int main(void) {
        signal(SIGUSR2, handle);
        ready();
        until_told();
        printf("%d\\n", got);
        return 0;
    }
    """
    with started(build_program(tmp_path, source)) as process:
        ptrace.seize(process.pid)
        os.kill(process.pid, signal.SIGUSR1)
        stop = wait_for(process.pid)
        assert isinstance(stop, Stop)
        assert stop.pending_signal == signal.SIGUSR1
        info = ptrace.siginfo(process.pid)
        assert int.from_bytes(info[:4], "little") == signal.SIGUSR1
        ptrace.detach(process.pid, signal.SIGUSR2)
        assert finish(process) == f"{signal.SIGUSR2}\n"


HOLD = """
import sys, os
from patcher.process import ptrace, waiting
pid = int(sys.argv[1])
ptrace.seize(pid)
print("seized", flush=True)
while not waiting.look(pid):
    pass
print("stopped", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(pid: int) -> Iterator[subprocess.Popen[str]]:
    """A tracer that has seized a process and looks at the next report, whatever it is."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(pid)], cwd=ROOT, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as tracer:  # fmt: skip
        assert tracer.stdout
        assert tracer.stdout.readline() == "seized\n"
        yield tracer


def test_a_signal_is_not_lost_if_its_tracer_is_killed_after_a_look_at_it(tmp_path: Path) -> None:
    source = """
    static volatile int got;
    static void handle(int number) { got++; }
    int main(void) {
        signal(SIGUSR1, handle);
        ready();
        until_told();
        printf("%d\\n", got);
        return 0;
    }
    """
    with started(build_program(tmp_path, source)) as process:
        with holding(process.pid) as tracer:
            os.kill(process.pid, signal.SIGUSR1)
            assert tracer.stdout
            assert tracer.stdout.readline() == "stopped\n"
            tracer.kill()
        assert finish(process) == "1\n"


# --- proc -----------------------------------------------------------------------------------------


def test_a_process_is_never_taken_for_another_one_that_has_its_number() -> None:
    with subprocess.Popen(["sleep", "60"]) as process, Proc(process.pid) as proc:
        assert proc.stat().name == "sleep"
        assert proc.threads() == [process.pid]
        process.kill()
        process.wait()
        for look in (proc.stat, proc.status, proc.threads, lambda: proc.read("maps")):
            with pytest.raises(ProcessLookupError):
                look()
    with pytest.raises(ProcessLookupError, match="there is no process"):
        Proc(process.pid)


@pytest.mark.parametrize("name", ["a) R 1 (b", "two words", "new\nline", "tab\there", "\\"])
def test_a_process_may_have_any_name(name: str, tmp_path: Path) -> None:
    source = "int main(void) { prctl(PR_SET_NAME, NAME); ready(); until_told(); return 0; }"
    quoted = '"' + "".join(f"\\{ord(each):03o}" for each in name) + '"'
    program = build_program(tmp_path, f"#define NAME {quoted}\n{source}")
    with started(program) as process, Proc(process.pid) as proc:
        stat = proc.stat()
        assert (stat.name, stat.parent, stat.threads) == (name, os.getpid(), 1)
        assert stat.state in "RS"
        assert not stat.is_kernel_thread
        assert int(proc.status()["Tgid"]) == process.pid


# --- maps -----------------------------------------------------------------------------------------


def test_every_field_of_a_mapping_is_read(tmp_path: Path) -> None:
    name = "white  space\nand (deleted"
    source = """
    int main(int count, char **words) {
        int file = open(words[1], O_RDWR);
        mmap((void *)0x10000000, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, file, 4096);
        mmap((void *)0x20000000, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
        ready();
        until_told();
        return 0;
    }
    """
    mapped = tmp_path / name
    mapped.write_bytes(bytes(3 * 4096))
    with started(build_program(tmp_path, source), mapped) as process, Proc(process.pid) as proc:
        found = {each.range.start: each for each in maps.parse(proc.read("maps"))}
        status = mapped.stat()
        one, other = found[0x10000000], found[0x20000000]
        assert one == (
            Range(0x10000000, 0x10002000), "r-xp", status.st_dev, status.st_ino, str(mapped), 4096
        )  # fmt: skip
        assert (other.protection, other.offset) == ("rw-s", 0)
        assert not one.path.endswith(maps.DELETED)
        mapped.unlink()
        found = {each.range.start: each for each in maps.parse(proc.read("maps"))}
        assert found[0x10000000].path.endswith(maps.DELETED)
        stacks = [each for each in found.values() if each.path == "[stack]"]
        assert [(each.device, each.inode) for each in stacks] == [(0, 0)]


@pytest.mark.parametrize("line", [b"nonsense", b"1000-2000 r-xp 0 8:1 5 a", b"1-2 rwxq 0 8:1 5"])
def test_what_the_kernel_does_not_write_is_no_mapping(line: bytes) -> None:
    if line.startswith(b"1000"):  # nearly right is right
        assert maps.parse(line)[0].path == "a"
        return
    with pytest.raises(ValueError, match="no line of maps"):
        maps.parse(line)


# --- the dynamic linker's list --------------------------------------------------------------------


@pytest.mark.parametrize("flags", [("-pie",), ("-no-pie",), ("-m32",)])
def test_of_a_program_that_has_started_the_notification_is_known(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    is_64 = "-m32" not in flags
    with (
        started(build_program(tmp_path, QUIET, *flags)) as process,
        memory_of(process.pid) as memory,
    ):
        auxiliary = auxiliary_vector.parse(memory.proc.read("auxv"), is_64=is_64)
        found = r_debug.find(memory.read, auxiliary, is_64=is_64)
        notify = r_debug.at_rest(memory.read, found, is_64=is_64)
        (mapping,) = [each for each in memory.mappings() if each.range.holds(notify)]
        assert mapping.protection[2] == "x"
        assert os.path.basename(mapping.path).startswith("ld-linux")


@pytest.mark.parametrize("flags", [("-static",), ("-static-pie",)])
def test_a_static_program_has_no_such_list(flags: tuple[str, ...], tmp_path: Path) -> None:
    with (
        started(build_program(tmp_path, QUIET, *flags)) as process,
        memory_of(process.pid) as memory,
    ):
        auxiliary = auxiliary_vector.parse(memory.proc.read("auxv"), is_64=True)
        assert r_debug.find(memory.read, auxiliary, is_64=True) == 0


def hostile(content: dict[int, bytes]) -> r_debug.Read:
    """Memory that has these pieces and nothing else."""

    def read(address: int, size: int) -> bytes:
        for start, piece in content.items():
            if start <= address and address + size <= start + len(piece):
                return piece[address - start :][:size]
        raise ReadError("hostile", "nothing here", address=address)

    return read


def an_r_debug(version: int, state: int, following: int = 0) -> bytes:
    return pack("<i4xQQi4xQQ", version, 0, 0x99, state, 0, following)


def test_namespaces_that_never_end_end() -> None:
    read = hostile({0x500: an_r_debug(2, 0, 0x600), 0x600: an_r_debug(2, 0, 0x500)})
    assert r_debug.at_rest(read, 0x500, is_64=True) == 0x99


def test_before_version_2_there_is_no_next_namespace() -> None:
    short = an_r_debug(1, 0)[:-8]
    assert r_debug.at_rest(hostile({0x500: short}), 0x500, is_64=True) == 0x99
    behind = hostile({0x500: an_r_debug(1, 0, 0x600), 0x600: an_r_debug(1, 1)})
    assert r_debug.at_rest(behind, 0x500, is_64=True) == 0x99


def test_it_is_at_rest_when_all_lists_are_there_and_consistent() -> None:
    consistent, adding, deleting = 0, 1, 2
    for states, expected in (
        ([consistent], 0x99), ([consistent, consistent], 0x99), ([adding], 0), ([deleting], 0),
        ([consistent, adding], 0), ([7], 0),
    ):  # fmt: skip
        read = hostile({
            0x500 + number * 0x100: an_r_debug(2, state, 0x600 if number + 1 < len(states) else 0)
            for number, state in enumerate(states)
        })  # fmt: skip
        assert r_debug.at_rest(read, 0x500, is_64=True) == expected
    not_filled_in = hostile({0x500: an_r_debug(0, consistent)})
    assert r_debug.at_rest(not_filled_in, 0x500, is_64=True) == 0
    assert r_debug.at_rest(not_filled_in, 0x666, is_64=True) == 0


# --- who shares an address space ------------------------------------------------------------------


SHARER = """
static char stack[65536];
static int child(void *nothing) { for (;;) pause(); }
int main(void) {
    int pid = clone(child, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
    ready();
    printf("%d\\n", pid);
    fflush(stdout);
    until_told();
    kill(pid, SIGKILL);
    return 0;
}
"""


def test_a_process_that_shares_the_address_space_is_found_and_halted(tmp_path: Path) -> None:
    with started(build_program(tmp_path, SHARER)) as process:
        assert process.stdout
        other = int(process.stdout.readline())
        assert list(sharers.sharers(process.pid, {process.pid})) == [other]
        assert list(sharers.sharers(other, {other})) == [process.pid]
        halt = halted(process.pid)
        assert halt.processes == [process.pid, other]
        assert (state(process.pid), state(other)) == ("t", "t")
        halt.release()
        for each in (process.pid, other):
            while state(each) != "S":
                pass
        finish(process)


def test_a_thread_that_has_ended_shares_nothing_with_the_threads_of_the_kernel(
    tmp_path: Path,
) -> None:
    with started(build_program(tmp_path, LEADERLESS)) as process, Proc(process.pid) as proc:
        while state(process.pid) != "Z":
            pass
        tracees = Tracees(proc, name_of(proc))
        tracees.seized[process.pid] = proc
        with pytest.raises(ProcessLookupError):
            tracees.sharers_of(process.pid)
        finish(process)


# --- a halt ---------------------------------------------------------------------------------------


STORM = """
static volatile int go = 1;
static volatile long born;
static void *leaf(void *nothing) { __atomic_add_fetch(&born, 1, __ATOMIC_RELAXED); return NULL; }
static void *parent(void *nothing) {
    while (go) {
        pthread_t thread;
        if (!pthread_create(&thread, NULL, leaf, NULL)) pthread_join(thread, NULL);
    }
    return NULL;
}
int main(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, parent, NULL);
    ready();
    until_told();
    go = 0;
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    puts(born > 100 ? "many" : "few");
    return 0;
}
"""


def test_no_thread_runs_in_a_halt_however_many_are_born(tmp_path: Path) -> None:
    with started(build_program(tmp_path, STORM)) as process, Proc(process.pid) as proc:
        for _ in range(100):
            halt = halted(process.pid)
            alive = [tid for tid in proc.threads() if not proc.stat(tid).is_ended]
            assert sorted(halt.stops) == alive
            assert {proc.stat(tid).state for tid in alive} == {"t"}
            assert len(halt.registers()) == len(alive)
            halt.release()
            assert int(proc.status()["TracerPid"]) == 0
        assert finish(process) == "many\n"


EXEC = """
static char **words;
static void *again(void *nothing) {
    char number[16];
    snprintf(number, sizeof number, "%d", atoi(words[1]) + 1);
    execl("/proc/self/exe", "target", number, NULL);
    abort();
}
int main(int count, char **arguments) {
    words = arguments;
    if (atoi(words[1]) == 0) ready();
    struct pollfd end = {.fd = 0, .events = POLLIN};
    if (poll(&end, 1, 0)) { puts(atoi(words[1]) > 100 ? "many" : "few"); return 0; }
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, i == 2 ? again : idle, NULL);
    for (;;) pause();
}
"""


def test_no_thread_runs_in_a_halt_though_one_executes_another_program(tmp_path: Path) -> None:
    source = "#include <poll.h>\nstatic void *idle(void *nothing) { for (;;) pause(); }\n" + EXEC
    with started(build_program(tmp_path, source), "0") as process, Proc(process.pid) as proc:
        for _ in range(200):
            halt = halted(process.pid)
            alive = [tid for tid in proc.threads() if not proc.stat(tid).is_ended]
            assert sorted(halt.stops) == alive
            assert {proc.stat(tid).state for tid in alive} == {"t"}
            halt.release()
        assert finish(process) == "many\n"


def test_a_process_whose_leader_has_ended_is_halted(tmp_path: Path) -> None:
    with started(build_program(tmp_path, LEADERLESS)) as process:
        while state(process.pid) != "Z":
            pass
        with memory_of(process.pid) as memory:
            assert memory.mappings()
            halt = halted(process.pid)
            assert [*halt.stops] != [process.pid]
            assert len(halt.stops) == 1
            halt.release()
        finish(process)


def test_a_stopped_process_stays_stopped(tmp_path: Path) -> None:
    with started(build_program(tmp_path, QUIET)) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        for _ in range(3):
            halt = halted(process.pid)
            (stop,) = halt.stops.values()
            assert (stop.is_group_stop, stop.pending_signal) == (True, 0)
            halt.release()
            while state(process.pid) in "tR":  # on its way
                pass
            assert state(process.pid) == "T"
        os.kill(process.pid, signal.SIGCONT)
        finish(process)


def test_no_signal_is_lost(tmp_path: Path) -> None:
    source = """
    static volatile int sent;
    static void handle(int number) { sent++; }
    int main(void) {
        signal(SIGRTMIN, handle);
        for (int i = 0; i < 20000; i++) {
            if (i == 0) ready();
            if (sigqueue(getpid(), SIGRTMIN, (union sigval){0})) i--;
        }
        until_told();
        printf("%d\\n", sent);
        return 0;
    }
    """
    with started(build_program(tmp_path, source)) as process:
        for _ in range(300):
            halted(process.pid).release()
        assert finish(process) == "20000\n"


VFORK = """
int main(void) {
    ready();
    if (vfork() == 0) {
        char byte;
        while (read(0, &byte, 1) < 0) {}
        _exit(0);
    }
    return 0;
}
"""


def test_a_thread_that_does_not_stop_is_named_and_all_are_let_go(tmp_path: Path) -> None:
    with started(build_program(tmp_path, VFORK)) as process:
        while state(process.pid) != "D":
            pass
        with pytest.raises(StateError) as caught:
            halted(process.pid, 0.05)
        assert str(caught.value) == (
            f"process {process.pid} (target): thread {process.pid} (target) did not stop within "
            "0.05 s: it is in an uninterruptible wait; nothing was written, and all threads run"
        )
        with Proc(process.pid) as proc:
            assert int(proc.status()["TracerPid"]) == 0
        finish(process)  # and does not stop when it can


def test_a_process_that_another_one_traces_is_left_alone(tmp_path: Path) -> None:
    with started(build_program(tmp_path, QUIET)) as process, holding(process.pid) as tracer:
        with pytest.raises(StateError, match=rf"is traced by process {tracer.pid} \(python"):
            halted(process.pid)
        tracer.kill()
