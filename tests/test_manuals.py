"""The manual pages and the shells' completion: made of the grammar, sound, and installed."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from patcher import cli as patcher_cli
from patcher import options as patcher_options
from recordmcount import cli as recorder_cli
from recordmcount import options as recorder_options
from recordmcount.grammar import Command
from tests.support.command import ROOT

SHARE = ROOT / "share"
PAGES = ["recordmcount", "patcher"]
DECLARED = {
    "recordmcount": recorder_options.declare()[0],
    **{
        f"recordmcount {verb}": recorder_cli.module_of(verb).declare()[0]
        for verb in recorder_cli.VERBS
    },
    "patcher": patcher_options.declare()[0],
    **{
        f"patcher {verb}": patcher_cli.module_of(verb).declare(verb)[0]
        for verb in patcher_options.VERBS
    },
}
# What is typed, and what is then on the line.
COMPLETED = [
    ("recordmcount rep", "recordmcount report"),
    ("recordmcount unu", "recordmcount unusual.o"),
    ("recordmcount --st", "recordmcount --stats"),
    ("recordmcount unusual.o --dr", "recordmcount unusual.o --dry-run"),
    ("recordmcount report --js", "recordmcount report --json"),
    ("recordmcount report unu", "recordmcount report unusual.o"),
    ("patcher sta", "patcher status"),
    ("patcher nop --notr", "patcher nop --notrace"),
    ("patcher call unu", "patcher call unusual.o"),
]


def files(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unusual.o").write_bytes(b"")
    return tmp_path


# --- what they say --------------------------------------------------------------------------------


def test_they_are_what_the_grammar_makes_them(tmp_path: Path) -> None:
    """If not, run tools/manual."""
    subprocess.run([sys.executable, "-m", "tools.manuals", tmp_path], check=True, cwd=ROOT)
    assert files(SHARE) == files(tmp_path)


def told(name: str) -> str:
    """The part of a page that tells of a command, as it would be typed."""
    program, _, verb = name.partition(" ")
    text = (SHARE / "man" / "man1" / f"{program}.1").read_text().replace(r"\-", "-")
    parts = re.split(r"^\.SS \\fB(.*)\\fR$", text, flags=re.MULTILINE)
    return dict(zip([program, *parts[1::2]], parts[::2], strict=True))[name if verb else program]


@pytest.mark.parametrize("name", DECLARED)
def test_a_page_tells_of_every_option_and_argument(name: str) -> None:
    command: Command = DECLARED[name]
    page = told(name)
    for option in command.options:
        for spelling in option.names:
            if option.attribute != "help":  # argparse-manpage leaves it out
                assert rf"\fB{spelling}\fR" in page, spelling
    whole = (SHARE / "man" / "man1" / f"{name.partition(' ')[0]}.1").read_text()
    for argument, _ in command.arguments:
        assert rf"\fB{argument}\fR" in (page if " " in name else whole)


@pytest.mark.matrix
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_sound(page: str) -> None:
    path = SHARE / "man" / "man1" / f"{page}.1"
    groff = subprocess.run(
        ["groff", "-ww", "-man", "-Tutf8", path], check=True, capture_output=True, text=True
    )
    assert groff.stderr == ""
    lint = subprocess.run(["mandoc", "-Tlint", "-Wwarning", path], check=False, capture_output=True)
    complaints = lint.stdout.decode().splitlines()
    assert [line for line in complaints if "missing date" not in line] == []
    shown = subprocess.run(["man", "-l", path], check=True, capture_output=True, text=True).stdout
    assert f"{page.upper()}(1)" in shown


# --- what they complete ---------------------------------------------------------------------------

BASH = """
source "$1"; read -ra COMP_WORDS <<<"$2"; COMP_LINE=$2 COMP_POINT=${#2}
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
spec=$(complete -p "${COMP_WORDS[0]}"); [[ $spec =~ -F\\ ([^ ]+) ]]
"${BASH_REMATCH[1]}" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(("typed", "line"), COMPLETED, ids=str)
def test_bash_completes(typed: str, line: str, folder: Path) -> None:
    script = SHARE / "bash-completion" / "completions" / typed.partition(" ")[0]
    command: list[str | Path] = ["bash", "-c", BASH, "bash", script, typed]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    assert done.stdout.split() == [line.rpartition(" ")[2]]
    assert done.stderr == ""


def test_bash_offers_files_and_verbs_where_there_may_be_either(folder: Path) -> None:
    for name in ("report.o", "reporting"):
        (folder / name).touch()
    script = SHARE / "bash-completion" / "completions" / "recordmcount"
    command: list[str | Path] = ["bash", "-c", BASH, "bash", script, "recordmcount rep"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    assert sorted(done.stdout.split()) == ["report", "report.o", "reporting"]


@pytest.mark.matrix
@pytest.mark.parametrize(("typed", "line"), COMPLETED, ids=str)
def test_fish_completes(typed: str, line: str, folder: Path) -> None:
    script = SHARE / "fish" / "vendor_completions.d" / f"{typed.partition(' ')[0]}.fish"
    command: list[str | Path] = [
        "fish",
        "-N",
        "-c",
        "source $argv[1]; complete -C $argv[2]",
        script,
        typed,
    ]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=folder,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert [offer.split("\t")[0] for offer in done.stdout.splitlines()] == [line.rpartition(" ")[2]]
    assert done.stderr == ""


ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1=; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D; echo READ''Y"
zpty -r -m shell text '*READY*'
zpty -w -n shell "$2"$'\t'
zpty -r -m shell text "*$3*" && echo found
zpty -d shell
"""


@pytest.mark.matrix
@pytest.mark.parametrize(("typed", "line"), COMPLETED, ids=str)
def test_zsh_completes(typed: str, line: str, folder: Path) -> None:
    command: list[str | Path] = [
        "zsh",
        "-f",
        "-c",
        ZSH,
        "zsh",
        SHARE / "zsh" / "site-functions",
        typed,
        line,
    ]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=folder, timeout=60
    )
    assert done.stdout == "found\n"


# --- installed ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_wheel_of_what_is_in_the_repository_installs_them(tmp_path: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], check=True, capture_output=True, text=True, cwd=ROOT
    )
    for name in filter(None, tracked.stdout.split("\0")):
        target = tmp_path / "clone" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "-w",
        tmp_path,
    ]
    subprocess.run([*pip, tmp_path / "clone"], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = [name for name in content.namelist() if ".data/data/share/" in name]
        shared = {name.partition(".data/data/share/")[2]: content.read(name) for name in names}
    assert shared == {name: text.encode() for name, text in files(SHARE).items()}
