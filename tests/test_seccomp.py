"""What seccomp would do to a call is told before it is made; the kernel says whether that is so."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from struct import pack, unpack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patcher.process import classic_bpf, ptrace
from patcher.process.classic_bpf import Instruction, decode, run
from patcher.process.proc import Proc
from patcher.process.remote_calls import Wanted
from patcher.process.seccomp import SystemCall, verdict, why_not
from patcher.trace.mapping import Call
from tests.support.command import ROOT
from tests.support.processes import build_program, finish, started, wait_for
from tests.support.seccomp import ANSWERS, CALL, build_caller

pytestmark = pytest.mark.process

READ, WRITE, MMAP, GETPID, EXIT = 0, 1, 9, 39, 60
MAP_PRIVATE_ANONYMOUS = 0x22
DATA = (0, 4096, 3, MAP_PRIVATE_ANONYMOUS, (1 << 64) - 1, 0)
CODE = (0, 4096, 5, MAP_PRIVATE_ANONYMOUS, (1 << 64) - 1, 0)
HIGH = (0x7FFF_1234_5000, *DATA[1:])
NAMES = {READ: "read", WRITE: "write", MMAP: "mmap", GETPID: "getpid"}
# Without CAP_SYS_ADMIN the kernel tells nobody what a filter is.
CAPABLE = bool(int(Proc(os.getpid()).status()["CapEff"], 16) >> 21 & 1)
UNREADABLE = (
    "its seccomp filters cannot be read: that takes CAP_SYS_ADMIN, and a patcher that has no "
    "filter itself: run it as root"
)
Arguments = tuple[int, int, int, int, int, int]


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_caller(tmp_path_factory.mktemp("seccomp"))


@contextmanager
def stopped(tid: int) -> Iterator[None]:
    ptrace.seize(tid)
    ptrace.interrupt(tid)
    wait_for(tid)
    try:
        yield
    finally:
        ptrace.detach(tid)


def told_and_done(
    caller: Path, mode: int, filters: Sequence[str], number: int, arguments: Arguments
) -> tuple[str, int]:
    """What is told of a call before it is made, and what came of it: a result, or less a signal."""
    words = map(str, (mode, *([*filters, "--"] if mode == 2 else []), number, *arguments))
    with started(caller, *words) as process:
        assert process.stdout
        behind = int(process.stdout.readline())
        with Proc(process.pid) as proc, stopped(process.pid):
            call = SystemCall(NAMES[number], number, arguments, behind)
            told = why_not(proc, process.pid, [call])
        said, _ = process.communicate("\n")
        if process.returncode:
            assert said == ""
            return told, process.returncode
        return told, int(said)


def filtered(what: str) -> str:
    return f"its seccomp filter {what}" if CAPABLE else UNREADABLE


WHAT_HAPPENS = {  # name of an answer: what is told, and what comes of mmap
    "log": ("", None),
    "allow": ("", None),
    "refuse": ("would refuse mmap (Operation not permitted)", -1),
    "refuse silently": ("would refuse mmap (without an error)", 0),
    "refuse oddly": ("would refuse mmap (Unknown error 4095)", -4095),
    "trap": ("would send it SIGSYS for mmap", -signal.SIGSYS),
    "kill the thread": ("would kill its thread for mmap", -signal.SIGSYS),
    "kill": ("would kill it for mmap", -signal.SIGSYS),
    "trace": ("would leave mmap to a tracer", -38),
    "ask": ("would ask another process about mmap", -38),
    "unknown": ("would kill it for mmap", -signal.SIGSYS),
    "unknown, too": ("would kill it for mmap", -signal.SIGSYS),
    "unknown and negative": ("would kill it for mmap", -signal.SIGSYS),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_a_filter_answers_is_told_before_it_happens(answer: str, caller: Path) -> None:
    words, comes = WHAT_HAPPENS[answer]
    told, done = told_and_done(caller, 2, [answer], MMAP, DATA)
    if comes is None:
        assert done > 0
        assert told == ("" if CAPABLE else UNREADABLE)
    else:
        assert done == comes
        assert told == filtered(words)
    told, done = told_and_done(caller, 2, [answer], GETPID, DATA)
    assert (told, done > 0) == ("" if CAPABLE else UNREADABLE, True)


@pytest.mark.parametrize(("filters", "arguments", "words"), [
    (["a list"], DATA, "would kill it for mmap"),
    (["no code"], DATA, ""),
    (["no code"], CODE, "would refuse mmap (Permission denied)"),
    (["high addresses"], DATA, ""),
    (["high addresses"], HIGH, "would refuse mmap (Cannot allocate memory)"),
    (["only here"], DATA, ""),
    (["not here"], DATA, "would refuse mmap (Operation not permitted)"),
    (["allow", "refuse"], DATA, "would refuse mmap (Operation not permitted)"),
    (["refuse", "allow"], DATA, "would refuse mmap (Operation not permitted)"),
    (["refuse", "log", "trace", "ask"], DATA, "would refuse mmap (Operation not permitted)"),
    (["trace", "ask", "log"], DATA, "would ask another process about mmap"),
    (["refuse", "refuse oddly"], DATA, "would refuse mmap (Unknown error 4095)"),
    (["refuse oddly", "refuse"], DATA, "would refuse mmap (Operation not permitted)"),
    (["kill", "refuse"], DATA, "would kill it for mmap"),
    (["refuse", "trap"], DATA, "would send it SIGSYS for mmap"),
    (["trap", "kill the thread"], DATA, "would kill its thread for mmap"),
    (["kill the thread", "unknown, too"], DATA, "would kill its thread for mmap"),
    (["kill the thread", "unknown and negative"], DATA, "would kill it for mmap"),
    (["allow", "log", "no code", "only here"], DATA, ""),
    (["no code", "only here", "not here"], CODE, "would refuse mmap"),
], ids=str)  # fmt: skip
def test_filters_look_at_all_of_a_call_and_the_strongest_counts(
    filters: list[str], arguments: Arguments, words: str, caller: Path
) -> None:
    told, done = told_and_done(caller, 2, filters, MMAP, arguments)
    assert told.startswith(filtered(words) if words or not CAPABLE else "")
    assert (done > 0) == (not words)
    if CAPABLE and "would refuse" in words:
        assert f"({os.strerror(-done)})" in told
    assert not CAPABLE or bool(told) == bool(words)


@pytest.mark.parametrize(("mode", "number", "words", "is_done"), [
    (0, MMAP, "", True),
    (0, GETPID, "", True),
    (1, MMAP, "its strict seccomp mode would kill it for mmap", False),
    (1, GETPID, "its strict seccomp mode would kill it for getpid", False),
])  # fmt: skip
def test_strict_mode_kills_and_no_mode_does_nothing(
    mode: int, number: int, words: str, is_done: bool, caller: Path
) -> None:
    told, done = told_and_done(caller, mode, [], number, DATA)
    assert told == words
    assert done > 0 if is_done else done == -signal.SIGKILL


def test_strict_mode_allows_what_it_does(caller: Path) -> None:
    nothing = (-1 & (1 << 64) - 1, 0, 0, 0, 0, 0)
    assert told_and_done(caller, 1, [], WRITE, nothing) == ("", -9)  # EBADF


@pytest.mark.parametrize(("kind", "is_let_through"), [
    (10, False), (11, False), (12, True), (13, True),
])  # fmt: skip
def test_a_thread_that_asked_for_signals_in_the_place_of_calls_makes_none(
    kind: int, is_let_through: bool, caller: Path
) -> None:
    told, done = told_and_done(caller, kind, [], GETPID, DATA)
    if is_let_through:
        assert (told, done > 0) == ("", True)
    else:
        said = "it has asked for a signal in the place of system calls"
        assert (told, done) == (said, -signal.SIGSYS)


def test_the_first_of_several_calls_that_is_refused_is_told(caller: Path) -> None:
    with started(caller, "2", "refuse", "--", str(GETPID)) as process:
        calls = [
            SystemCall("getpid", GETPID, DATA, 0),
            SystemCall("mmap", MMAP, DATA, 0),
            SystemCall("mmap of code", MMAP, CODE, 0),
        ]
        with Proc(process.pid) as proc, stopped(process.pid):
            assert why_not(proc, process.pid, calls) == filtered(
                "would refuse mmap (Operation not permitted)"
            )
            assert why_not(proc, process.pid, calls[:1]) == ("" if CAPABLE else UNREADABLE)
            assert why_not(proc, process.pid, []) == ("" if CAPABLE else UNREADABLE)
        finish(process)


def test_the_filters_of_one_thread_are_not_those_of_another(tmp_path: Path) -> None:
    source = (
        CALL
        + """
    static void *filtered(void *nothing) {
        struct sock_filter filter[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
            BPF_STMT(BPF_RET | BPF_K, 0) };
        struct sock_filter no_mmap[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
        unsigned long getpid_[7] = { SYS_getpid };
        if (install(filter, 2) || install(no_mmap, 4) || make_call(getpid_) != getpid()) abort();
        ready();
        until_told();
        exit(0);
    }
    int main(void) {
        pthread_t thread;
        pthread_create(&thread, NULL, filtered, NULL);
        pthread_join(thread, NULL);
    }
    """
    )
    call = SystemCall("mmap", MMAP, DATA, 0)
    with started(build_program(tmp_path, source)) as process, Proc(process.pid) as proc:
        main, other = proc.threads()
        with stopped(main):
            assert why_not(proc, main, [call]) == ""
        with stopped(other):
            assert why_not(proc, other, [call]) == filtered(
                "would refuse mmap (Operation not permitted)"
            )
        finish(process)


LOOK = """
import ctypes, os, sys
from patcher.process import ptrace, waiting
from patcher.process.proc import Proc
from patcher.process.remote_calls import Wanted
from patcher.process.seccomp import SystemCall, why_not
if {filters_itself}:
    allow = ctypes.create_string_buffer(bytes([6, 0, 0, 0, 0, 0, 0xff, 0x7f]))
    program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(allow))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
pid = int(sys.argv[1])
ptrace.seize(pid)
ptrace.interrupt(pid)
while not waiting.look(pid): pass
print(why_not(Proc(pid), pid, [SystemCall("mmap", 9, (0, 4096, 3, 0x22, 0, 0), 0)]), end="")
"""


@pytest.mark.parametrize("filters_itself", [False, True])
def test_filters_that_cannot_be_read_allow_nothing(filters_itself: bool, caller: Path) -> None:
    drop = ["setpriv", "--bounding-set", "-sys_admin"] if not os.geteuid() else []
    with started(caller, "2", "allow", "--", str(GETPID)) as process:
        done = subprocess.run(
            [*([] if filters_itself else drop), sys.executable, "-c",
             LOOK.format(filters_itself=filters_itself), str(process.pid)],
            check=False, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert (done.stdout, done.stderr) == (UNREADABLE, "")
        finish(process)


def test_the_longest_stack_of_filters_is_read(tmp_path: Path) -> None:
    """The kernel takes 32,768 instructions, four of them for each filter itself."""
    source = (
        CALL
        + """
    int main(void) {
        static struct sock_filter filter[BPF_MAXINSNS];
        for (int n = 0; n < BPF_MAXINSNS; n++)
            filter[n] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        while (!install(filter, BPF_MAXINSNS)) {}
        while (!install(filter, 1)) {}
        ready();
        until_told();
    }
    """
    )
    with started(build_program(tmp_path, source)) as process, Proc(process.pid) as proc:
        call = SystemCall("mmap", MMAP, DATA, 0)
        with stopped(process.pid):
            assert why_not(proc, process.pid, [call]) == ("" if CAPABLE else UNREADABLE)
        finish(process)


# --- programs, without a process ------------------------------------------------------------------

LOAD_NUMBER = Instruction(0x20, 0, 0, 0)
ALLOW = Instruction(0x06, 0, 0, 0x7FFF_0000)


def encoded(*program: Instruction) -> bytes:
    return b"".join(map(classic_bpf.INSTRUCTION.pack, *zip(*program, strict=True)))


@pytest.mark.parametrize(("program", "why"), [
    (b"", "no program has 0 bytes"),
    (bytes(9), "no program has 9 bytes"),
    (encoded(LOAD_NUMBER), "the last instruction does not return"),
    (encoded(Instruction(0x28, 0, 0, 0), ALLOW), r"instruction 0 \(0x28, 0x0\) is unknown"),
    (encoded(Instruction(0x20, 0, 0, 2), ALLOW), "loads what is no word of the data"),
    (encoded(Instruction(0x20, 0, 0, 64), ALLOW), "loads what is no word of the data"),
    (encoded(Instruction(0x60, 0, 0, 16), ALLOW), "is for a word that is not there"),
    (encoded(Instruction(0x03, 0, 0, 16), ALLOW), "is for a word that is not there"),
    (encoded(Instruction(0x05, 0, 0, 1), ALLOW), "jumps behind the end"),
    (encoded(Instruction(0x15, 0, 1, 1), ALLOW), "jumps behind the end"),
    (encoded(Instruction(0x05, 0, 0, 0xFFFF_FFFF), ALLOW), "jumps behind the end"),
    (encoded(Instruction(0x34, 0, 0, 0), ALLOW), "divides by 0"),
    (encoded(Instruction(0x64, 0, 0, 32), ALLOW), "shifts by more than there is"),
])  # fmt: skip
def test_what_seccomp_never_took_is_no_program(program: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode(program)


def test_a_call_that_is_to_be_made_has_its_own_name_and_is_counted_from_its_end() -> None:
    wanted = Wanted("to unmap", Call.MUNMAP, (-1, 4096))
    arguments = ((1 << 64) - 1, 4096, 0, 0, 0, 0)
    assert wanted.at(0x1000) == SystemCall("munmap", 11, arguments, 0x1002)


def test_without_filters_everything_is_allowed() -> None:
    assert verdict([], SystemCall("mmap", MMAP, DATA, 0)) == ""


# --- the interpreter against the kernel's ---------------------------------------------------------

# For each request (filter, words of a call) a child installs the filter and makes the call. What
# came of it: 1 and its result, 2 and the signal that killed it, or 0 if the filter was refused.
SERVER = (
    CALL
    + """
static long wide[2];
static int get(void *to, size_t size) { return fread(to, 1, size, stdin) == size; }
int main(void) {
    static struct sock_filter filter[BPF_MAXINSNS];
    unsigned long words[7];
    unsigned count;
    long *outcome = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    wide[0] = (long)behind;
    fwrite(wide, 8, 1, stdout);
    fflush(stdout);
    while (get(&count, sizeof count) && get(filter, count * sizeof *filter)
           && get(words, sizeof words)) {
        int status;
        outcome[0] = outcome[1] = 0;
        pid_t child = fork();
        if (!child) {
            if (!install(filter, count)) {
                outcome[0] = 1;
                outcome[1] = make_call(words);
            }
            _exit(0);
        }
        waitpid(child, &status, 0);
        if (WIFSIGNALED(status)) {
            outcome[0] = 2;
            outcome[1] = WTERMSIG(status);
        }
        fwrite(outcome, 8, 2, stdout);
        fflush(stdout);
    }
}
"""
)
REFUSED, DONE, KILLED = range(3)
Kernel = Callable[[bytes, Arguments], tuple[int, int]]


class Asked:
    """The kernel, asked by a server; `behind` is as in SystemCall."""

    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        self._server = server
        assert server.stdout
        self.behind = int.from_bytes(server.stdout.read(8), "little")

    def __call__(self, program: bytes, arguments: Arguments) -> tuple[int, int]:
        assert self._server.stdin
        assert self._server.stdout
        words = pack("<7Q", GETPID, *arguments)
        self._server.stdin.write(pack("<I", len(program) // 8) + program + words)
        self._server.stdin.flush()
        kind, value = unpack("<2q", self._server.stdout.read(16))
        return kind, value


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    path = build_program(tmp_path_factory.mktemp("kernel"), SERVER)
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        yield Asked(server)


# Before each: only getpid is looked at, which has no arguments of its own; and all of the memory is
# written, for seccomp refuses what reads a word that may not be.
BEGINNING = (
    LOAD_NUMBER,
    Instruction(0x15, 1, 0, GETPID),
    ALLOW,
    *(Instruction(0x02, 0, 0, word) for word in range(classic_bpf.WORDS)),
)


def refusal(number: int) -> Instruction:
    return Instruction(0x06, 0, 0, 0x0005_0000 | number)


def what_comes_of(value: int) -> tuple[int, int]:
    """What the kernel makes of what a filter returns here."""
    return (DONE, -(value & 0xFFFF)) if value >> 16 == 5 else (KILLED, signal.SIGSYS)


WORDS32 = st.sampled_from((0, 1, 31, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)) | st.integers(
    0, 0xFFFF_FFFF
)
SHIFTS = st.integers(0, 31)


@st.composite
def bodies(draw: st.DrawFn) -> list[Instruction]:
    """Instructions of every kind that do not return; those that jump stay inside."""
    size = draw(st.integers(1, 24))
    codes = sorted(code for code in classic_bpf.OPCODES if code & 7 != classic_bpf.RET)
    body = []
    for left in range(size - 1, -1, -1):
        code = draw(st.sampled_from(codes))
        jump_if, jump_else = (draw(st.integers(0, left)) for _ in range(2))
        k = draw(WORDS32)
        if code == 0x05:
            k = jump_if
        elif code == 0x20:
            k = 4 * draw(st.integers(0, 15))
        elif code in (0x02, 0x03, 0x60, 0x61):
            k = draw(st.integers(0, 15))
        elif code in (0x64, 0x74):
            k = draw(SHIFTS)
        elif code == 0x34:
            k = k or 1
        body.append(Instruction(code, jump_if, jump_else, k))
    return body


@settings(max_examples=150, deadline=None)
@given(body=bodies(), arguments=st.tuples(*[st.integers(0, (1 << 64) - 1)] * 6))
def test_a_program_computes_what_the_kernel_computes(
    kernel: Asked, body: list[Instruction], arguments: Arguments
) -> None:
    """The kernel compares: the program ends with whether it has what was computed here."""
    data = SystemCall("getpid", GETPID, arguments, kernel.behind).encode()
    returns = Instruction(0x16, 0, 0, 0)
    value = run(decode(encoded(*BEGINNING, *body, returns)), data)
    ending = (Instruction(0x15, 0, 1, value), refusal(1), refusal(2))
    program = encoded(*BEGINNING, *body, *ending)
    answer = run(decode(program), data)
    assert answer in (0, 0x0005_0001)
    assert kernel(program, arguments) == what_comes_of(answer)


@pytest.mark.slow
@pytest.mark.parametrize("k", [0, 4, 16, 32, 64])
def test_what_the_kernel_takes_is_a_program_and_nothing_else_is(k: int, kernel: Asked) -> None:
    for code in (*range(0x100), 0x106, 0x8006):
        for program in (
            encoded(*BEGINNING, Instruction(code, 0, 0, k), ALLOW),
            encoded(*BEGINNING, Instruction(code, k, 1, 1), ALLOW, ALLOW),
        ):
            try:
                decode(program)
            except ValueError:
                is_one = False
            else:
                is_one = True
            kind, _ = kernel(program, DATA)
            assert (kind != REFUSED) == is_one, (hex(code), k)
