"""Sleds: NOPs of the compiler's become calls in a process, of a function that the user chooses."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from patcher.process import ptrace
from patcher.process.proc import Proc
from patcher.process.switch import make, select
from patcher.process.target import Target
from recordmcount.sites.state import State
from recordmcount.x86_nops import NOPS, parted_nops
from tests.support import command, images, live, sleds
from tests.support.live import CALLS, ask, count, patch, refused
from tests.support.processes import finish, started, wait_for

pytestmark = pytest.mark.process

RESULT = 2 * 3 + 1 + 2 * 3  # of work(3)
SITES = sleds.SITES


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sleds.build(tmp_path_factory.mktemp("program"))


def text_of(pid: int, program: Path) -> tuple[int, bytes]:
    """The code of a program in a process, and its run-time address."""
    with Proc(pid) as proc:
        lines = proc.read_by_thread("maps").decode().splitlines()
    line = next(each for each in lines if str(program) in each and " r-xp " in each)
    start, end = (int(each, 16) for each in line.split()[0].split("-"))
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(start)
        return start, memory.read(end - start)


def sites(pid: int, *options: str) -> list[dict[str, Any]]:
    """What `patcher status` says of each site of the first module."""
    done = command.run("patcher", "status", "--json", "--pid", str(pid), *options)
    return list(json.loads(done.stdout)["process"]["modules"][0]["sites"])


def site_of(pid: int, function: str) -> tuple[int, bytes]:
    site = sites(pid, "--functions", function)[0]
    return site["address"], bytes.fromhex(site["bytes"])


def put(pid: int, address: int, code: bytes) -> None:
    """Write to a process as a stranger does."""
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(address)
        assert memory.write(code) == len(code)


def nm(program: Path) -> str:
    words = ["nm", "--defined-only", str(program)]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


# --- compilers ------------------------------------------------------------------------------------

FENTRY_NOPS = ("-pg", "-mfentry", "-mnop-mcount", "-mrecord-mcount", "-fno-pie")
BY_GCC = {
    "5": (("-fpatchable-function-entry=5",), ()),
    "16": (("-fpatchable-function-entry=16", "-fcf-protection=full"), ()),
    "8,3": (("-fpatchable-function-entry=8,3", "-fcf-protection=full"), ()),
    "11,2 without endbr": (("-fpatchable-function-entry=11,2", "-fcf-protection=none"), ()),
    "executable": (("-fpatchable-function-entry=5", "-fno-pie"), ("-no-pie",)),
    "static PIE": (("-fpatchable-function-entry=5", "-fPIE"), ("-static-pie",)),
    "stripped": (("-fpatchable-function-entry=8,3",), ("-s",)),
    "i386": (("-fpatchable-function-entry=5", "-m32", "-fno-pie"), ("-no-pie",)),
    "mcount": (FENTRY_NOPS, ("-no-pie",)),
    "mcount, endbr": ((*FENTRY_NOPS, "-fcf-protection=full"), ("-no-pie",)),
}
BY_CLANG = {
    "5": (("-fpatchable-function-entry=5",), ()),
    "6, endbr": (("-fpatchable-function-entry=6", "-fcf-protection=full"), ()),
    "8": (("-fpatchable-function-entry=8",), ()),
    "9": (("-fpatchable-function-entry=9",), ()),
    "16,4": (("-fpatchable-function-entry=16,4", "-fcf-protection=full"), ()),
    "lld": (("-fpatchable-function-entry=8,2",), ("-fuse-ld=lld",)),
    "i386": (("-fpatchable-function-entry=8", "-m32", "-fno-pie"), ("-no-pie",)),
}


def comes_and_goes(folder: Path, compiler: str, flags: Sequence[str], link: Sequence[str]) -> None:
    """Sleds become calls of the counter and NOPs again, and all text is then as it was."""
    program = sleds.build(folder, flags=flags, link=link, compiler=compiler)
    with started(program) as process:
        _, before = text_of(process.pid, program)
        codes = [each["bytes"] for each in sites(process.pid)]
        assert ask(process) == (RESULT, 0)
        assert count(process.pid) == f"{SITES} sites: 0 call, {SITES} nop, 0 foreign"
        told = patch("call", process.pid, "--target", "counter")
        assert told == f"{program}: {SITES} sites turned to call, 0 already\n"
        assert ask(process) == (RESULT, CALLS)
        assert count(process.pid) == f"{SITES} sites: {SITES} call, 0 nop, 0 foreign"
        assert {each["reason"] for each in sites(process.pid)} == {f"calls counter of {program}"}
        told = patch("nop", process.pid)
        assert told == f"{program}: {SITES} sites turned to nop, 0 already\n"
        assert ask(process) == (RESULT, 0)
        start, content = text_of(process.pid, program)
        after = bytearray(content)
        for site, code in zip(sites(process.pid), codes, strict=True):
            if site["reason"]:  # a word on the stack looks as if it led between the two
                nops = bytes.fromhex(code)
                assert len(nops) > 5
                assert site["bytes"] == parted_nops(len(nops)).hex()
                place = site["address"] - start
                after[place : place + len(nops)] = nops
        assert after == before
        finish(process)


@pytest.mark.parametrize("kind", BY_GCC)
def test_nops_of_gcc_become_calls_and_come_back_byte_for_byte(kind: str, tmp_path: Path) -> None:
    comes_and_goes(tmp_path, "gcc", *BY_GCC[kind])


@pytest.mark.matrix
@pytest.mark.parametrize("kind", BY_CLANG)
def test_nops_of_clang_become_calls_and_come_back_byte_for_byte(kind: str, tmp_path: Path) -> None:
    comes_and_goes(tmp_path, "clang", *BY_CLANG[kind])


def test_a_file_with_both_tables_has_sites_of_both_sorts(tmp_path: Path) -> None:
    mfentry = "__attribute__((naked)) QUIET void __fentry__(void) { __asm__(COUNT); }\n"
    flags = ("-fpatchable-function-entry=5", "-pg", "-mfentry", "-mrecord-mcount", "-fno-pie")
    program = sleds.build(tmp_path, flags=flags, link=["-no-pie"], work=mfentry + live.WORK)
    with started(program) as process:
        patch("nop", process.pid)
        assert ask(process) == (RESULT, 0)
        before = text_of(process.pid, program)
        patch("call", process.pid, "--functions", "work", "--functions", "more")
        assert ask(process) == (RESULT, 2)
        patch("call", process.pid, "--target", "counter", "--functions", "twice")
        assert ask(process) == (RESULT, 4)
        patch("nop", process.pid)
        assert ask(process) == (RESULT, 0)
        assert text_of(process.pid, program) == before


def test_calls_go_to_another_function_when_it_is_asked_for(program: Path) -> None:
    with started(program) as process:
        patch("call", process.pid, "--target", "counter")
        told = patch("call", process.pid, "--target", "idle", "--functions", "twice")
        assert told == f"{program}: 1 site turned to call, 0 already\n"
        assert ask(process) == (RESULT, CALLS - 2)
        link_time = {
            name: int(value, 16) for value, _, name in map(str.split, nm(program).splitlines())
        }
        address = site_of(process.pid, "work")[0] - link_time["work"] + link_time["counter"]
        patch("call", process.pid, "--target", f"{address:#x}")
        assert ask(process) == (RESULT, CALLS)
        told = patch("call", process.pid, "--target", "target:counter")
        assert told == f"{program}: 0 sites turned to call, {SITES} already\n"


def test_a_library_may_have_the_function(tmp_path: Path) -> None:
    source = tmp_path / "far.c"
    source.write_text('__attribute__((naked)) void far(void) { __asm__("ret"); }')
    images.tool("gcc", "-shared", "-fPIC", "-Wl,--no-as-needed", source, "-o", tmp_path / "far.so")
    sledded = tmp_path / "near.c"
    sledded.write_text("int near(int x) { return x + 1; }")
    flags = ["-shared", "-fPIC", "-fpatchable-function-entry=5"]
    images.tool("gcc", *flags, sledded, "-o", tmp_path / "near.so")
    link: list[str | Path] = ["-Wl,--no-as-needed", tmp_path / "far.so", tmp_path / "near.so"]
    work = "int near(int); int work(int x) { return near(x); }"
    program = sleds.build(tmp_path, work=work, link=[*link, f"-Wl,-rpath,{tmp_path}"])
    with started(program) as process:
        patch("call", process.pid, "--module", "near.so", "--target", "far.so:far")
        (site,) = sites(process.pid, "--module", "near.so")
        assert site["reason"] == f"calls far of {tmp_path / 'far.so'}"
        assert ask(process) == (4, 0)
        patch("nop", process.pid)
        assert ask(process) == (4, 0)


def test_a_command_with_sleds_is_run_as_it_is(program: Path) -> None:
    done = command.run("patcher", "run", "-v", "--", program)
    assert done.status == 0
    assert f"0 sites turned to nop, {SITES} already" in done.stderr


def test_json_is_as_its_schema_has_it(program: Path) -> None:
    schema = json.loads(command.run("patcher", "status", "--schema").stdout)
    with started(program) as process:
        for words in ("call --target counter", "status", "nop", "status"):
            done = command.run("patcher", *words.split(), "--json", "--pid", str(process.pid))
            document = json.loads(done.stdout)
            jsonschema.validate(document, schema)
            (module,) = document["process"]["modules"]
            told = module.get("changes") or module["sites"]
            assert {each["kind"] for each in told} == {"patchable"}


# --- threads --------------------------------------------------------------------------------------

THREADS = 16
TOGGLES = 200
STORM = """
static volatile int go = 1;
QUIET static void *call(void *nothing) {
    while (go) if (work(3) != 13 || work(4) != 17) abort();
    return NULL;
}
QUIET int main(void) {
    pthread_t threads[THREADS];
    nice(19);  // whoever switches comes first
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, call, NULL);
    ready();
    while (answer()) {}
    go = 0;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    return 0;
}
""".replace("THREADS", str(THREADS))


def test_threads_in_sleds_step_out_of_them_and_never_execute_a_part_of_a_call(
    tmp_path: Path,
) -> None:
    program = sleds.build(tmp_path, STORM)
    stepped_out = 0
    with started(program) as process:
        for number in range(TOGGLES):
            with Target(process.pid, 30) as target:
                state, goal = ((State.CALL, "counter"), (State.NOP, ""))[number % 2]
                every = partial(select, "storm")
                make(target, (), every, state, goal=goal)
                stepped_out += target.machine.statistics["stepped_out"]
                assert target.machine.statistics["stepped_out"] == 0 or state is State.CALL
            if number % 25 < 2:
                assert ask(process) == (RESULT, CALLS if state is State.CALL else 0)
        finish(process)
    assert stepped_out > 0


# --- a thread inside ------------------------------------------------------------------------------

HANDLER = """
QUIET static void handle(int number) { char byte; while (read(0, &byte, 1) < 0) {} }
QUIET int main(void) {
    struct sigaction action = {.sa_handler = handle};
    sigaction(SIGUSR1, &action, NULL);
    ready();
    while (answer()) {}
    return 0;
}
"""


def write_line(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def stand(process: subprocess.Popen[str], function: str, distance: int) -> int:
    """Bring the only thread into the site of a function, stopped; returns where it stands."""
    address, code = site_of(process.pid, function)
    put(process.pid, address, b"\xcc")
    ptrace.seize(process.pid)
    write_line(process)
    assert wait_for(process.pid).signal == signal.SIGTRAP  # type: ignore[union-attr]
    put(process.pid, address, code[:1])
    registers = ptrace.registers(process.pid)
    inside = address + distance
    ptrace.set_registers(process.pid, registers.going_on_at(inside))
    return inside


@pytest.mark.parametrize("machine", ["-m64", "-m32"])
@pytest.mark.parametrize("distance", [1, 4])
def test_a_thread_between_the_nops_goes_on_behind_them(
    machine: str, distance: int, tmp_path: Path
) -> None:
    flags = ("-fpatchable-function-entry=5", machine, "-fno-pie")
    program = sleds.build(tmp_path, HANDLER, flags=flags, link=["-no-pie"])
    with started(program) as process:
        inside = stand(process, "more", distance)
        ptrace.detach(process.pid, signal.SIGSTOP)
        patch("call", process.pid, "--target", "counter")
        ptrace.seize(process.pid)
        ptrace.interrupt(process.pid)
        wait_for(process.pid)
        assert ptrace.registers(process.pid).instruction_pointer == inside - distance + 5
        ptrace.detach(process.pid)
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout
        assert process.stdout.readline() == f"{RESULT} 2\n"  # twice, twice: the others are past
        assert ask(process) == (RESULT, CALLS)
        finish(process)


def test_a_sled_into_which_a_signal_handler_returns_is_left_alone(tmp_path: Path) -> None:
    program = sleds.build(tmp_path, HANDLER)
    with started(program) as process:
        inside = stand(process, "more", 2)
        ptrace.detach(process.pid, signal.SIGUSR1)
        while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "S":
            pass
        line = refused("call", process.pid, "--target", "counter")
        assert f"a CPU stands inside, at {inside:#x}: try again" in line
        write_line(process)
        assert process.stdout
        assert process.stdout.readline() == f"{RESULT} 0\n"
        patch("call", process.pid, "--target", "counter")
        assert ask(process) == (RESULT, CALLS)


CUT = """
__asm__(".text; .globl work; .type work, @function; work: BYTES\\n"
        "lea 1(%rdi), %eax; ret; .size work, . - work\\n"
        ".section __patchable_function_entries, \\"awo\\", @progbits, .text; .quad work; .text");
int work(int x);
QUIET void pause_there(void) { char byte; read(0, &byte, 1); }
QUIET __attribute__((naked)) void wait_there(void) {
    __asm__("push %rdi; push %rsi; push %rdx; push %rcx; push %r8; push %r9; push %r10\\n"
            "push %rax; call pause_there; pop %rax\\n"
            "pop %r10; pop %r9; pop %r8; pop %rcx; pop %rdx; pop %rsi; pop %rdi; ret");
}
"""
NOP8 = "0f 1f 84 00 00 02 00 00"  # clang -fpatchable-function-entry=8


def reads(pid: int, size: int) -> bool:
    """Whether a process waits for so many bytes of its standard input."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[:4:3] == ["0", f"{size:#x}"]


def cut(*codes: str) -> str:
    values = ", ".join(f"0x{byte}" for code in codes for byte in code.split())
    return CUT.replace("BYTES", f".byte {values}")


def test_a_nop_of_which_a_call_is_a_part_comes_back_when_nobody_returns_into_it(
    tmp_path: Path,
) -> None:
    program = sleds.build(tmp_path, work=cut(NOP8), flags=())
    with started(program) as process:
        _, code = site_of(process.pid, "work")
        assert code == bytes.fromhex(NOP8)
        patch("call", process.pid, "--target", "wait_there")
        assert site_of(process.pid, "work")[1][5:] == NOPS[3]
        write_line(process)
        while not reads(process.pid, 1):
            pass
        patch("call", process.pid, "--target", "counter")  # returns behind 5 bytes as well
        patch("call", process.pid, "--target", "wait_there")
        for _ in range(2):
            patch("nop", process.pid)
            (site,) = sites(process.pid)
            assert (site["state"], site["bytes"]) == ("nop", (NOPS[5] + NOPS[3]).hex())
            assert "not the NOPs of its file yet" in site["reason"]
        write_line(process)
        assert process.stdout
        assert process.stdout.readline() == "4 0\n"
        assert ask(process) == (4, 0)
        patch("nop", process.pid)
        assert site_of(process.pid, "work")[1] == code
        assert ask(process) == (4, 0)


def test_without_a_halt_only_a_sled_of_one_nop_becomes_a_call(
    program: Path, tmp_path: Path
) -> None:
    words = ["--protocol", "breakpoint"]
    with started(program) as process:
        line = refused("call", process.pid, "--target", "counter", *words)
        assert "is more than one instruction, which only the stop method switches" in line
        assert ask(process) == (RESULT, 0)
    flags, link = BY_GCC["mcount"]
    with started(sleds.build(tmp_path, flags=flags, link=link)) as process:
        patch("call", process.pid, "--target", "counter", *words)
        assert ask(process) == (RESULT, CALLS)
        patch("nop", process.pid, *words)
        assert ask(process) == (RESULT, 0)


# --- what is refused ------------------------------------------------------------------------------

REFUSED = """
static int twin(void) { return 1; }
static int (*chosen(void))(void) { return twin; }
int resolved(void) __attribute__((ifunc("chosen")));
int variable = 1;
int (*uses)(void) = resolved;
"""


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with functions that must not be called from sleds."""
    folder = tmp_path_factory.mktemp("strange")
    other = folder / "other.c"
    other.write_text("int counter(void) { return 1; }")
    images.tool("gcc", "-shared", "-fPIC", other, "-o", folder / "other.so")
    return sleds.build(
        folder, work=live.WORK + REFUSED.replace("static int", "QUIET static int"),
        link=["-Wl,--no-as-needed", folder / "other.so", f"-Wl,-rpath,{folder}"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("target", "why", "number"),
    [
        ("nothing", "no live module has a function nothing by its symbol tables", "EINVAL"),
        ("counter", "there are 2 functions counter, at 0x", "EINVAL"),
        ("other.so:counter", "more than 2 GiB away; nothing was written", "ERANGE"),
        ("other.so:idle", "no live module has a function idle by its symbol tables", "EINVAL"),
        ("another.so:counter", "no live module like another.so", "EINVAL"),
        ("resolved", "resolved is an IFUNC: only the dynamic linker knows", "EINVAL"),
        ("variable", "variable is no function by its symbol", "EINVAL"),
        ("work", "has a site of its own among these, and would call itself for ever", "EINVAL"),
        ("0x10", "nothing is mapped there", "EINVAL"),
        ("0xfffg", "no hexadecimal address", "EINVAL"),
    ],
)
def test_what_must_not_be_called_is_refused_and_why(
    target: str, why: str, number: str, strange: Path
) -> None:
    with started(strange) as process:
        words = ["call", "--json", "--target", target, "--pid", str(process.pid)]
        done = command.run("patcher", *words)
        (error,) = json.loads(done.stdout)["errors"]
        assert (done.status, error["errno"]) == (1, number)
        assert why in error["message"]
        assert why in done.stderr
        assert ask(process) == (RESULT, 0)


def test_an_address_at_which_no_function_begins_is_refused(program: Path) -> None:
    with started(program) as process:
        address, _ = site_of(process.pid, "twice")
        line = refused("call", process.pid, "--target", f"{address + 1:#x}")
        assert "no symbol says that a function begins there" in line
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        stack = next(line for line in maps.splitlines() if line.endswith("[stack]")).split("-")[0]
        assert "what is mapped there is anonymous" in refused(
            "call", process.pid, "--target", f"0x{stack}"
        )


def test_two_functions_are_not_made_to_call_each_other(program: Path) -> None:
    with started(program) as process:
        patch("call", process.pid, "--target", "twice", "--functions", "more")
        line = refused("call", process.pid, "--target", "more", "--functions", "twice")
        assert "has a site of its own that is a call: turn that off first" in line
        patch("nop", process.pid)
        assert ask(process) == (RESULT, 0)


def test_without_a_function_to_call_sleds_stay(program: Path, tmp_path: Path) -> None:
    with started(program) as process:
        line = refused("call", process.pid)
        assert "no file tells what they are to call: say --target SYMBOL" in line
        assert ask(process) == (RESULT, 0)
    with started(live.build(tmp_path)) as process:
        line = refused("call", process.pid, "--target", "target:__fentry__")
        assert "none of these sites is a NOP of the compiler's" in line


@pytest.mark.parametrize(
    "words", ["call --target f x.o", "nop --pid 1 --target f", "status --target f --pid 1"]
)
def test_only_calls_in_a_process_have_a_target(words: str) -> None:
    assert command.run("patcher", *words.split()).status == 2


TWO = "-fpatchable-function-entry=2"
BEFORE = "-fpatchable-function-entry=8,3"
UNSWITCHABLE = {
    "short": ((TWO,), (), "the sled has 2 bytes there, and a call 5"),
    "no begin": (
        (BEFORE, "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"), ("-s",),
        "no symbol or unwind entry tells where its function is entered",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNSWITCHABLE)
def test_a_sled_that_cannot_become_a_call_says_why(kind: str, tmp_path: Path) -> None:
    flags, link, why = UNSWITCHABLE[kind]
    work = live.WORK.replace("int work", '__attribute__((visibility("hidden"))) int work')
    program = sleds.build(tmp_path, flags=flags, link=link, work=work)
    with started(program) as process:
        assert {each["reason"] for each in sites(process.pid)} == {why}
        assert why in refused("call", process.pid, "--target", "counter")
        patch("nop", process.pid)
        assert ask(process) == (RESULT, 0)


def test_a_shorter_sled_makes_all_of_its_file_doubtful(tmp_path: Path) -> None:
    short = "__attribute__((patchable_function_entry(1))) int tiny(int x) { return x; }\n"
    program = sleds.build(tmp_path, work=short + live.WORK)
    with started(program) as process:
        line = refused("call", process.pid, "--target", "counter", "--functions", "work")
        assert "the file's shortest sled has 1 byte there, and a call 5" in line


STRANGERS = {
    "a breakpoint": ("cc 90 90 90 90", "a breakpoint, of a uprobe"),
    "a jump": ("e9 00 00 00 00", "neither the call nor the NOP of its file"),
    "a call into a function": ("e8 01 00 00 00", "neither the call nor the NOP of its file"),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_what_others_write_into_a_sled_is_left_alone(kind: str, program: Path) -> None:
    code, why = STRANGERS[kind]
    with started(program) as process:
        address, _ = site_of(process.pid, "work")
        put(process.pid, address, bytes.fromhex(code))
        for words in (["nop"], ["call", "--target", "counter"]):
            assert why in refused(words[0], process.pid, *words[1:])
        assert site_of(process.pid, "work") == (address, bytes.fromhex(code))
        patch("call", process.pid, "--target", "counter", "--notrace", "work")


IN_TWO_PAGES = '__asm__(".balign 4096; .skip 4094");\n'


def test_a_sled_that_a_killed_patcher_left_half_written_is_completed(tmp_path: Path) -> None:
    flags = ("-fpatchable-function-entry=5", "-falign-functions=1", "-fno-toplevel-reorder")
    program = sleds.build(tmp_path, flags=flags, work=IN_TWO_PAGES + live.WORK)
    with started(program) as process:
        address, _ = site_of(process.pid, "twice")
        assert address % 4096 == 4094
        for verb, *words in (["nop"], ["call", "--target", "counter"]):
            put(process.pid, address, b"\xa9\x11\x22\x33\x44")  # test $0x44332211,%eax
            assert "killed has written half of it" in sites(process.pid)[0]["reason"]
            result, _ = ask(process)
            assert result == RESULT
            patch(verb, process.pid, *words)
            assert ask(process) == (RESULT, CALLS if words else 0)
        patch("nop", process.pid)
        assert site_of(process.pid, "twice")[1] == 5 * NOPS[1]
