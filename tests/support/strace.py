"""Run a command under strace: list its system calls, and make any one of them fail or kill."""

import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple


class Call(NamedTuple):
    """The system call `name` as it came for the `ordinal`th time, from 1; `text` is its line."""

    name: str
    ordinal: int
    text: str


class Fault(NamedTuple):
    """What to inject at a call: `signal=SIGKILL`, `error=ENOSPC`; in strace's own words.

    With `forever`, it also strikes every later call of the same name.
    """

    call: Call
    effect: str
    forever: bool = False

    def __str__(self) -> str:
        return f"{self.effect} at {self.call.text}{' and ever after' if self.forever else ''}"


class Outcome(NamedTuple):
    """`status` is as in `subprocess`: negative for a signal."""

    status: int
    stdout: str
    stderr: str


def system_calls(command: Sequence[str | Path], cwd: Path) -> list[Call]:
    """Run `command`, which must succeed, and return its system calls, from the first of its own.

    That is the one after execve. File descriptors are followed by the paths they stand for.
    """
    outcome, lines = _strace(["-y"], command, cwd)
    assert outcome.status == 0, outcome.stderr
    seen: Counter[str] = Counter()
    calls = []
    for line in lines:
        if match := re.match(r"(\w+)\(", line):
            seen[match[1]] += 1
            calls.append(Call(match[1], seen[match[1]], line))
    return calls[1:]


def run_with_faults(command: Sequence[str | Path], cwd: Path, *faults: Fault) -> Outcome:
    """Run `command` with `faults`; the test fails where the first of them never struck.

    A signal comes as the call is entered: of SIGKILL the call sees nothing, any other signal
    waits for its end.
    """
    names = ",".join(fault.call.name for fault in faults)
    injections = [
        f"--inject={call.name}:{effect}:when={call.ordinal}{'+' if forever else ''}"
        for call, effect, forever in faults
    ]
    # Where the kernel filters (which wants -f), only the calls named stop for strace, and it is
    # twice as fast; but of injected signals strace 6.1 then loses every one.
    fast = [] if "signal" in faults[0].effect else ["-f", "--seccomp-bpf"]
    outcome, log = _strace([*fast, f"--trace={names}", *injections], command, cwd)
    struck = re.compile(r"\(INJECTED\)|^--- SIG|^\+\+\+ killed")
    assert any(map(struck.search, log)), f"{faults[0]}: this call never came"
    return outcome


def _strace(
    options: Sequence[str], command: Sequence[str | Path], cwd: Path
) -> tuple[Outcome, list[str]]:
    """How the command ended, and the lines of the log."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        done = subprocess.run(
            ["strace", "-o", log, *options, "--", *command],
            cwd=cwd,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        lines = log.read_text(errors="replace").splitlines()
    return Outcome(done.returncode, done.stdout, done.stderr), lines
