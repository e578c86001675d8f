"""`patcher run`: sites are off before any code of a module runs, and the command is itself."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from patcher.errors import AccessError
from patcher.process.proc import Proc
from patcher.run import program as programs
from tests.support import command, live
from tests.support.command import ROOT
from tests.support.live import CALLS, COUNTER, ask
from tests.support.processes import build_program, started, until
from tests.support.terminal import Terminal

pytestmark = pytest.mark.process

RESULT = 2 * 3 + 1 + 2 * 3  # of work(3)
MODES = {"start": (), "follow": ("--follow",), "children": ("--follow", "--children")}
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)

# Says how many calls of __fentry__ there were, in all of its modules, before main and in work.
TELL = """
QUIET int main(void) {
    unsigned long before = calls;
    int result = work(3);
    printf("%lu before, %d by %lu\\n", before, result, calls - before);
    return 0;
}
"""
QUIET = "\n#define QUIET __attribute__((no_instrument_function))\n"
# A counter of its own, which is called without a relocation.
HIDDEN_COUNTER = f"#pragma GCC visibility push(hidden)\n{COUNTER}#pragma GCC visibility pop\n"


def patcher_run(*words: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "patcher", "run", *words]


def run(*words: str | Path, cwd: Path | None = None, **variables: str) -> command.Finished:
    return command.run("patcher", "run", *words, cwd=cwd, **variables)


def running(*words: str | Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """`patcher run` with a program of tests.support.live, from when it is ready."""
    return started(*patcher_run(*words), PYTHONPATH=str(ROOT))


def tracer_of(pid: int) -> int:
    with Proc(pid) as proc:
        return int(proc.status()["TracerPid"])


# --- before any of its code runs ------------------------------------------------------------------

KINDS = live.KINDS | {"bound at start": ((), ("-Wl,-z,now",))}
EARLY = """
static int (*resolve(void))(int) { return twice; }
int chosen(int) __attribute__((ifunc("resolve")));
__attribute__((constructor)) static void early(void) { work(2); chosen(1); }
"""


@pytest.mark.parametrize("kind", KINDS)
def test_no_call_is_made_even_by_constructors_and_resolvers(kind: str, tmp_path: Path) -> None:
    flags, link = KINDS[kind]
    work = live.WORK + EARLY
    program = live.build(tmp_path, TELL, flags=flags, link=link, work=work)
    assert command.run_program(program) == (0, f"7 before, {RESULT} by {CALLS}\n", "")
    assert run("--", program) == (0, f"0 before, {RESULT} by 0\n", "")


LIBRARY = """
int printf(const char *, ...);
__attribute__((noinline)) int part(int x) { return x + 1; }
__attribute__((constructor)) static void start(void) { part(1); }
__attribute__((destructor)) static void end(void) { part(1); printf("%lu in all\\n", calls); }
static int (*resolve(void))(int) { part(2); return part; }
int chosen(int) __attribute__((ifunc("resolve")));
QUIET int use(void) { return chosen(3); }
"""


def library(folder: Path, name: str, source: str = LIBRARY) -> Path:
    """A library that counts by itself, in which a resolver calls as well."""
    return live.library(folder, name, QUIET + HIDDEN_COUNTER + source, "-O1")


@pytest.mark.parametrize("binding", ["lazy", "now"])
def test_libraries_are_off_before_they_are_relocated(binding: str, tmp_path: Path) -> None:
    made = library(tmp_path, "library")
    main = "int use(void); QUIET int main(void) { use(); return 0; }"
    link: list[str | Path] = ["-Wl,--no-as-needed", made, f"-Wl,-rpath,{tmp_path}"]
    link.append(f"-Wl,-z,{binding}")
    program = live.build(tmp_path, main, link=link)
    assert command.run_program(program) == (0, "7 in all\n", "")
    assert run("--", program) == (0, "0 in all\n", "")
    # By name, and only some: `part` is called by the resolver, by the constructor, ...
    assert run("--call", "part", program).stdout == "4 in all\n"
    assert run("--module", "target", program).stdout == "7 in all\n"
    assert run("--nop", "--module", "lib*.so", program).stdout == "0 in all\n"


def test_what_was_done_is_told_if_that_is_wanted(tmp_path: Path) -> None:
    program = live.build(tmp_path, TELL)
    done = run("-v", "--call", "tw*", program)
    lines = [re.sub(r"process \d+", "process", line) for line in done.stderr.splitlines()]
    assert lines == [
        f"patcher: process (target): {program}: 2 sites turned to nop, 0 already",
        f"patcher: process (target): {program}: 0 sites turned to call, 1 already",
    ]
    assert done.stdout == f"0 before, {RESULT} by 2\n"


def test_calls_that_are_off_in_the_file_can_be_on(tmp_path: Path) -> None:
    program = live.build(tmp_path, TELL)
    assert command.run("patcher", "nop", program).status == 0
    assert run("--call", "*", program) == (0, f"0 before, {RESULT} by {CALLS}\n", "")


def test_only_sites_differ_and_nothing_is_left_behind(tmp_path: Path) -> None:
    made = live.library(tmp_path, "library", "int other(int x) { return x; }")
    link: list[str | Path] = ["-Wl,--no-as-needed", made, f"-Wl,-rpath,{tmp_path}"]
    program = live.build(tmp_path, link=link)
    with running("--", program) as process:
        until(lambda: not tracer_of(process.pid))
        assert ask(process) == (RESULT, 0)
        live.patch("call", process.pid)
        assert ask(process) == (RESULT, CALLS)
        with Proc(process.pid) as proc:
            mappings = [line.split() for line in proc.read("maps").decode().splitlines()]
            memory = proc.open("mem")
            for where, protection, offset, _, inode, *path in mappings:
                if protection == "r-xp" and inode != "0":
                    start, end = (int(each, 16) for each in where.split("-"))
                    size = end - start
                    with open(path[0], "rb") as file:
                        file.seek(int(offset, 16))
                        wanted = file.read(size).ljust(size, b"\0")
                    assert os.pread(memory, size, start) == wanted, path
            os.close(memory)


# --- what is opened later -------------------------------------------------------------------------

CHURN = """
#include <dlfcn.h>
QUIET int main(int count, char **words) {
    int cycles = atoi(words[1]), again = 0, other = 0, bad = 0;
    void *last = NULL;
    const char *last_name = "";
    for (int i = 0; i < cycles; i++) {
        const char *name = words[2 + i * 7 % 3 % (count - 2)];
        void *library = dlopen(name, i & 1 ? RTLD_NOW : RTLD_LAZY);
        if (!library) { puts(dlerror()); return 1; }
        int (*use)(void) = (int (*)(void))dlsym(library, "use");
        unsigned long (*counted)(void) = (unsigned long (*)(void))dlsym(library, "counted");
        again += (void *)use == last && !strcmp(name, last_name);
        other += (void *)use == last && strcmp(name, last_name);
        last = use;
        last_name = name;
        bad += use() != 4 || counted() != 0;
        dlclose(library);
        if (i == 0) ready();
    }
    printf("%d bad; again at the same address: %s, another one there: %s\\n", bad,
           again ? "yes" : "no", other ? "yes" : "no");
    return 0;
}
"""
COUNTED = """
__attribute__((noinline)) int part(int x) { return x + 1; }
__attribute__((constructor)) static void start(void) { part(1); }
static int (*resolve(void))(int) { part(2); return part; }
int chosen(int) __attribute__((ifunc("resolve")));
QUIET __attribute__((visibility("default"))) int use(void) { return chosen(3); }
QUIET __attribute__((visibility("default"))) unsigned long counted(void) { return calls; }
"""
FOUND = "0 bad; again at the same address: yes, another one there: yes\n"


@pytest.fixture(scope="module")
def churn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A program that opens and closes libraries, and two libraries."""
    folder = tmp_path_factory.mktemp("churn")
    made = [library(folder, name, COUNTED) for name in ("one", "two")]
    return [live.build(folder, CHURN, link=["-ldl"]), *made]


def test_libraries_come_and_go_and_no_call_is_ever_made(churn: list[Path]) -> None:
    program, *made = churn
    done = run("--follow", "--", program, "2000", *made)
    assert done == (0, f"ready\n{FOUND}", "")


def test_without_follow_what_is_opened_later_is_as_it_was_built(churn: list[Path]) -> None:
    program, *made = churn
    assert run("--", program, "9", *made).stdout.startswith("ready\n9 bad")


# A container often forbids perf_event_open like this.
NO_PERF = """
#include <linux/filter.h>
#include <linux/seccomp.h>
int main(int count, char **words) {
    struct sock_filter only[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_perf_event_open, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {4, only};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &filter)) return 1;
    execvp(words[1], words + 1);
    return 1;
}
"""


def test_without_breakpoints_of_the_processor_all_system_calls_are_watched(
    churn: list[Path], tmp_path: Path
) -> None:
    program, *made = churn
    wrapper = build_program(tmp_path, NO_PERF, name="wrapper")
    done = command.run_program(
        wrapper, *patcher_run("--follow", "--", program, "40", *made), PYTHONPATH=str(ROOT)
    )
    assert (done.status, done.stdout) == (0, f"ready\n{FOUND}")
    assert "every system call of the command is watched instead" in done.stderr


THREADS = """
#include <dlfcn.h>
static char **names;
QUIET static void *idle(void *nothing) { return nothing; }
QUIET static void *open_some(void *number) {
    long bad = 0;
    for (int i = 0; i < 20; i++) {
        pthread_t other;
        pthread_create(&other, NULL, idle, NULL);
        void *library = dlopen(names[(long)number], RTLD_NOW);
        unsigned long (*counted)(void) = (unsigned long (*)(void))dlsym(library, "counted");
        bad += counted() != 0;
        dlclose(library);
        pthread_join(other, NULL);
    }
    return (void *)bad;
}
QUIET int main(int count, char **words) {
    pthread_t threads[2];
    names = words + 1;
    for (long i = 0; i < 2; i++) pthread_create(&threads[i], NULL, open_some, (void *)i);
    long bad = 0;
    for (int i = 0; i < 2; i++) {
        void *result;
        pthread_join(threads[i], &result);
        bad += (long)result;
    }
    printf("%ld bad\\n", bad);
    return 0;
}
"""


def test_whichever_thread_opens_a_library(churn: list[Path], tmp_path: Path) -> None:
    _, *made = churn
    program = live.build(tmp_path, THREADS, link=["-ldl"])
    assert run("--follow", "--", program, *made) == (0, "0 bad\n", "")


def test_a_tracer_that_is_killed_leaves_the_command_alive(churn: list[Path]) -> None:
    program, *made = churn
    for delay in (0.0, 0.002, 0.003, 0.005, 0.007, 0.011):
        with running("--follow", "--", program, "60", *made) as process:
            time.sleep(delay)
            os.kill(tracer_of(process.pid), signal.SIGKILL)
            said, _ = process.communicate(timeout=60)
        assert (process.returncode, "bad" in said) == (0, True)


def test_a_tracer_that_is_asked_to_end_lets_the_command_go(tmp_path: Path) -> None:
    program = live.build(tmp_path)
    with running("--follow", "--", program) as process:
        assert ask(process) == (RESULT, 0)
        os.kill(tracer_of(process.pid), signal.SIGTERM)
        until(lambda: not tracer_of(process.pid))
        assert ask(process) == (RESULT, 0)


# --- child processes ------------------------------------------------------------------------------

PARENT = """
#include <spawn.h>
extern char **environ;
static char stack[65536];
QUIET static int forked(void *nothing) { _exit(work(3) == 13 && !calls ? 0 : 9); }
QUIET static int wait_for(int pid) {
    int status;
    while (waitpid(pid, &status, 0) < 0) {}
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}
QUIET int main(int count, char **words) {
    char *other[] = {words[1], NULL};
    int pid = fork();
    if (!pid) forked(NULL);
    printf("forked %d\\n", wait_for(pid));
    pid = clone(forked, stack + sizeof stack, SIGCHLD, NULL);
    printf("cloned %d\\n", wait_for(pid));
    fflush(stdout);
    pid = vfork();
    if (!pid) { execv(other[0], other); _exit(8); }
    printf("%d\\n", wait_for(pid));
    fflush(stdout);
    if (posix_spawn(&pid, other[0], NULL, NULL, other, environ)) return 7;
    printf("%d\\n", wait_for(pid));
    fflush(stdout);
    execv(other[0], other);
    return 6;
}
"""


def test_children_are_left_alone_or_followed(tmp_path: Path) -> None:
    parent = live.build(tmp_path, PARENT, name="parent")
    child = live.build(tmp_path, TELL, name="child")
    on, off = f"0 before, {RESULT} by {CALLS}\n", f"0 before, {RESULT} by 0\n"
    alone = f"forked 0\ncloned 0\n{on}0\n{on}0\n"
    assert run("--", parent, child) == (0, alone + on, "")
    assert run("--follow", "--", parent, child) == (0, alone + off, "")
    followed = f"forked 0\ncloned 0\n{off}0\n{off}0\n{off}"
    assert run("--children", "--", parent, child) == (0, followed, "")
    assert run("--children", "--follow", "--", parent, child) == (0, followed, "")


def test_a_script_and_what_it_starts(tmp_path: Path) -> None:
    child = live.build(tmp_path, TELL, name="child")
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\n{child}\n({child})\n{child} | cat\nexit 3\n")
    script.chmod(0o755)
    done = run("--children", "--", script)
    assert done == (3, f"0 before, {RESULT} by 0\n" * 3, "")


# --- the command is itself ------------------------------------------------------------------------


@each_mode
@pytest.mark.parametrize("ending", ["exit 0", "exit 1", "exit 77", "exit 255", "kill -TERM $$",
                                    "kill -KILL $$", "kill -SEGV $$", "kill -HUP $$"])  # fmt: skip
def test_it_ends_as_it_ends_without_patcher(mode: Sequence[str], ending: str) -> None:
    alone = command.run_program("/bin/sh", "-c", ending)
    assert run("-q", *mode, "--", "/bin/sh", "-c", ending) == alone


# All that a program inherits; what cannot be the same is left out.
INHERITED = """
extern char **environ;
int main(int count, char **words) {
    for (int i = 0; i < count; i++) printf("%s\\n", words[i]);
    for (char **each = environ; *each; each++) printf("%s\\n", *each);
    for (int fd = 0; fd < 64; fd++) if (fcntl(fd, F_GETFD) >= 0) printf("fd %d\\n", fd);
    printf("%d %d %d %d\\n", getppid(), getpid() == getpgrp(), getsid(0), umask(0));
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status))
        if (strncmp(line, "SigQ", 4) && (!strncmp(line, "Sig", 3) || !strncmp(line, "Shd", 3)
            || !strncmp(line, "Cap", 3) || !strncmp(line, "NoNew", 5)))
            printf("%s", line);
    printf("%d children\\n", waitpid(-1, NULL, WNOHANG));
    return 0;
}
"""
PREPARE = "trap '' HUP USR1; umask 027; exec 7</dev/null; exec"


@pytest.mark.parametrize("mode", [(), ("--children",)], ids=["start", "children"])
def test_all_that_it_inherits_is_the_same(mode: Sequence[str], tmp_path: Path) -> None:
    program = build_program(tmp_path, INHERITED)
    words: list[str | Path] = [program, "a b", "", "\udcff\xe9", "--", "-q"]
    variables = {"PYTHONPATH": str(ROOT), "ODD": "\udcfe=", "LC_ALL": "C"}

    def inherited(*started: str | Path) -> str:
        done = command.run_program("/bin/sh", "-c", f'{PREPARE} "$@"', "sh", *started, **variables)
        assert (done.status, done.stderr) == (0, "")
        return done.stdout

    assert inherited(*patcher_run("-q", *mode, "--", *words)) == inherited(*words)


def test_the_environment_may_be_what_no_python_program_could_make(tmp_path: Path) -> None:
    program = build_program(tmp_path, INHERITED)
    main = """
    extern char **environ;
    int main(int count, char **words) {
        char *odd[] = {"A=1", "A=2", "no equals sign", "=x", NULL};
        environ = odd;
        execv(words[1], words + 1);
    }
    """
    wrapper = build_program(tmp_path, main, name="wrapper")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from patcher.__main__ import main; main()"
    )
    with_patcher = command.run_program(
        wrapper, sys.executable, "-c", code, "run", "-q", "--", program
    )
    assert with_patcher == command.run_program(wrapper, program)


def test_what_cannot_be_executed_has_the_exit_status_of_shells(tmp_path: Path) -> None:
    made = {"plain": "text\n", "missing": "#!/nowhere/at/all\n", "shell": "echo $0 $1; exit 5\n"}
    for name, content in made.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o644 if name == "plain" else 0o755)
    assert run("--", "/nowhere/it") == (127, "", "/nowhere/it: No such file or directory\n")
    assert run("such-a-command") == (127, "", "such-a-command: command not found\n")
    assert run("such", PATH="").status == 127
    assert run("./plain", cwd=tmp_path) == (
        126, "", "./plain: cannot be executed: Permission denied\n"
    )  # fmt: skip
    assert run("plain", PATH=str(tmp_path)).stderr == (
        "plain: cannot be executed: permission denied\n"
    )
    assert run(tmp_path) == (126, "", f"{tmp_path}: cannot be executed: it is a folder\n")
    done = run("./missing", cwd=tmp_path)
    assert (done.status, done.stderr) == (
        126, "./missing: cannot be executed: the interpreter that it names is missing\n"
    )  # fmt: skip
    assert run("-q", "shell", "x", PATH=str(tmp_path)) == (5, f"{tmp_path}/shell x\n", "")
    assert run()[0] == 2
    assert run("-q", "-v", "true").status == 2


def test_a_program_with_rights_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    owner = program.stat().st_uid
    programs.refuse_set_id(os.fsencode(program))
    program.chmod(0o4755)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(AccessError, match="is set-user-ID, and would run without these rights"):
        programs.refuse_set_id(os.fsencode(program))
    program.chmod(0o2755)
    monkeypatch.setattr(os, "getegid", lambda: program.stat().st_gid + 1)
    with pytest.raises(AccessError, match="is set-group-ID"):
        programs.refuse_set_id(os.fsencode(program))
    program.chmod(0o755)
    programs.refuse_set_id(os.fsencode(program))


# --- signals and the terminal ---------------------------------------------------------------------


@each_mode
def test_it_can_be_stopped_and_continued(mode: Sequence[str], tmp_path: Path) -> None:
    program = live.build(tmp_path)
    with running(*mode, "--", program) as process:
        for _ in range(3):
            os.kill(process.pid, signal.SIGSTOP)
            assert os.waitpid(process.pid, os.WUNTRACED)[1] == signal.SIGSTOP << 8 | 0x7F
            os.kill(process.pid, signal.SIGCONT)
            assert os.WIFCONTINUED(os.waitpid(process.pid, os.WCONTINUED)[1])
            assert ask(process) == (RESULT, 0)


TIMER = """
#include <sys/time.h>
static volatile int ticks, queued;
static void tick(int signal) { ticks++; }
static void queue(int signal, siginfo_t *information, void *context) {
    queued += information->si_value.sival_int;
}
int main(void) {
    struct sigaction action = {.sa_sigaction = queue, .sa_flags = SA_SIGINFO};
    struct itimerval often = {{0, 1000}, {0, 1000}};
    signal(SIGALRM, tick);
    sigaction(SIGRTMIN, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < 1000; i++)
        while (sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 3})) {}
    while (ticks < 50) {}
    printf("%d\\n", queued);
    fflush(stdout);
    raise(SIGTRAP);
    return 0;
}
"""


@each_mode
def test_no_signal_is_lost_nor_what_it_carries(mode: Sequence[str], tmp_path: Path) -> None:
    program = build_program(tmp_path, TIMER)
    done = run("-q", *mode, "--", program)
    assert done.stdout == "3000\n"
    # With --follow, SIGTRAP is ignored to begin with.
    assert done.status == (0 if mode else -signal.SIGTRAP)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


@each_mode
def test_the_keys_of_a_terminal_mean_what_they_mean(
    mode: Sequence[str], terminal: Terminal, tmp_path: Path
) -> None:
    program = live.build(tmp_path)
    words = " ".join(map(str, patcher_run(*mode, "--", program)))
    terminal.type(f"{words}\n")
    terminal.until("ready")
    for _ in range(2):
        terminal.type("\n")
        terminal.until(f"{RESULT} 0")
        terminal.type("\x1a")  # Ctrl-Z
        assert "Stopped" in terminal.until("prompt> ")
        terminal.type("fg\n")
        terminal.until(f"{program}\r\n")
    terminal.type("\n")
    terminal.until(f"{RESULT} 0")
    terminal.type("\x03")  # Ctrl-C
    terminal.until("prompt> ")
    terminal.type("echo it=$?\n")
    terminal.until("it=130")
    terminal.type(f"{words} </dev/null; echo it=$?\n")
    terminal.until("it=0")


# --- what cannot be switched ----------------------------------------------------------------------


def test_a_module_that_deviates_is_told_and_runs_as_it_is(tmp_path: Path) -> None:
    made = live.library(tmp_path, "library", "int other(int x) { return x; }")
    link: list[str | Path] = ["-Wl,--no-as-needed", made, f"-Wl,-rpath,{tmp_path}"]
    work = live.WORK + "int other(int); QUIET int both(int x) { return other(x); }"
    main = TELL.replace("return 0", "return both(4)").replace("work(3)", "work(3) + both(0)")
    program = live.build(tmp_path, main, link=link, work=work)
    assert run("--", program) == (4, f"0 before, {RESULT} by 0\n", "")
    told = command.run("patcher", "status", "--json", "--functions", "more", program).stdout
    code = bytes.fromhex(json.loads(told)["files"][0]["sites"][0]["bytes"])
    content = program.read_bytes()
    assert content.count(code) == 1
    program.write_bytes(content.replace(code, bytes.fromhex("900f1f440001")[-len(code) :]))
    done = run("--", program)
    assert (done.status, done.stdout) == (4, f"0 before, {RESULT} by 3\n")
    (line,) = done.stderr.splitlines()
    assert "more" in line
    assert "nothing was written; this module runs as it was loaded" in line


def test_that_there_is_no_site_is_told() -> None:
    warning = "patcher: warning: nothing that was loaded has a __mcount_loc table: no sites\n"
    assert run("--", "true") == (0, "", warning)
    assert run("-q", "true") == (0, "", "")
    assert run("--follow", "--children", "true") == (0, "", warning)


def test_a_glob_that_is_like_no_function_is_told(tmp_path: Path) -> None:
    program = live.build(tmp_path, TELL)
    done = run("--call", "mroe", program)
    assert done.stderr == "patcher: warning: no site in a function like mroe\n"


def test_a_command_that_may_not_be_traced_runs_as_it_is(tmp_path: Path) -> None:
    program = live.build(tmp_path, TELL)
    inner = patcher_run("-q", "--module", "none", "--", program)
    done = run("-q", "--follow", "--module", "none", "--", *inner)
    assert (done.status, done.stdout) == (0, f"0 before, {RESULT} by {CALLS}\n")
    assert re.search(r"patcher: is traced by process \d+ \(.*\).*; the command runs as it is\n",
                     done.stderr)  # fmt: skip
