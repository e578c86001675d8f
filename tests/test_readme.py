"""What the README and the page on tracing show is what happens."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from tests.support import images
from tests.support.command import ROOT, run

README = (ROOT / "README.md").read_text()
LIBRARY = (ROOT / "docs" / "library.md").read_text()
CALLS = re.compile(r"(\d+) calls of __fentry__")


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """The program of the first screen: recorded and linked."""
    objects = []
    for source in (ROOT / "fixtures" / "demo").glob("*.c"):
        objects.append(tmp_path / f"{source.stem}.o")
        images.tool("gcc", "-O2", "-pg", "-mfentry", "-c", source, "-o", objects[-1])
    assert run("recordmcount", *objects).status == 0
    images.tool("gcc", "-o", tmp_path / "words", *objects)
    return tmp_path / "words"


def calls(words: Path) -> int:
    """How often an instrumented function is called when the program counts words."""
    text = ROOT / "fixtures" / "demo" / "dictionary.c"
    done = subprocess.run([words, text], check=True, capture_output=True, text=True)
    found = CALLS.search(done.stdout)
    assert found, done.stdout
    return int(found[1])


def test_the_numbers_of_the_first_screen_are_those_of_the_program(words: Path) -> None:
    first_screen, _ = README.split("## Why at build time")
    shown = [int(number) for number in CALLS.findall(first_screen)]
    measured = [calls(words)]
    assert run("patcher", "nop", words).stdout == f"{words}: 6 sites turned to nop, 0 already\n"
    measured.append(calls(words))
    assert measured == shown


def test_the_program_of_the_first_screen_verifies_as_it_is_shown(words: Path) -> None:
    (shown,) = re.findall(r"^\$ recordmcount verify words\n(.*)$", README, re.MULTILINE)
    done = run("recordmcount", "verify", "words", cwd=words.parent)
    assert done == (0, f"{shown}\n", "")


TRACE = re.compile(r"^\$ patcher (trace .*) \| tail -4\n((?:.*\n){4})```", re.MULTILINE)
EVENT = re.compile(r" +words-(\d+) +\[\d{3}\] +\d+\.\d{6}: add_word <-(main|add_word)")


@contextmanager
def fed(words: Path) -> Iterator[int]:
    """The PID of the program while it counts the words of a text without end; calls are off."""
    text = (ROOT / "fixtures" / "demo" / "dictionary.c").read_bytes()
    assert run("patcher", "nop", words).status == 0
    with subprocess.Popen(
        [words, "/dev/stdin"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0
    ) as process:
        assert process.stdin is not None
        feeding = threading.Thread(target=feed, args=(process.stdin, text))
        feeding.start()
        try:
            yield process.pid
        finally:
            process.kill()
            feeding.join()


def feed(stream: IO[bytes], text: bytes) -> None:
    """Write the text again and again until nobody reads it any more."""
    with suppress(OSError):
        while True:
            stream.write(text)


def test_the_trace_of_the_first_screen_is_as_it_is_printed(words: Path) -> None:
    ((asked, lines),) = TRACE.findall(README)
    assert all(EVENT.fullmatch(line) for line in lines.splitlines())
    with fed(words) as pid:
        done = run("patcher", *asked.replace("$(pidof words)", str(pid)).split())
    assert (done.status, done.stderr) == (0, "")
    found = [EVENT.fullmatch(line) for line in done.stdout.splitlines()[-4:]]
    assert [each and each[1] for each in found] == [str(pid)] * 4


def test_the_kernels_words_trace_a_process(words: Path) -> None:
    page = (ROOT / "docs" / "trace.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (printed,) = re.findall(r"^It prints `(.*)`\.$", page, re.MULTILINE)
    with fed(words) as pid:
        assert run_example(f"PID = {pid}\n{example}", words) == f"{printed}\n"


def test_what_is_shown_of_processes_is_what_is_printed(words: Path) -> None:
    _, rest = README.split("## Run with the calls off, or switch what runs already")
    shown = re.findall(r"^\$ (.*)\n(?!\$)(.*)$", rest.partition("```\n")[0], re.MULTILINE)
    (started, line), *switched = shown
    text = ROOT / "fixtures" / "demo" / "dictionary.c"
    done = run("patcher", *started.partition(" |")[0].split()[1:3], words, text)
    assert (done.status, done.stdout.splitlines()[-1]) == (0, line)
    with subprocess.Popen(
        [words, "/dev/stdin"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        try:
            for switching, line in switched:
                asked = switching.replace("'", "").replace("$(pidof words)", str(process.pid))
                done = run("patcher", *asked.split()[1:])
                assert done == (0, f"{words.parent}/{line.rpartition('/')[2]}\n", "")
        finally:
            process.kill()


def run_example(example: str, words: Path) -> str:
    """What an example of a page prints, beside the program."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{example}"],
        check=False, capture_output=True, text=True, cwd=words.parent,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


def test_the_example_of_the_library_runs(words: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", LIBRARY, re.DOTALL)
    every = calls(words)
    assert run_example(example, words) == "5 of 6 sites call\n"
    assert 0 < calls(words) < every
