"""Write the manual pages and the shells' completion of both programs: see tools/manual.

Two libraries make them, of an `argparse` parser. Ours is made of the grammar, and parses nothing.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from patcher import cli as patcher_cli
from patcher import options as patcher_options
from recordmcount import __version__
from recordmcount import cli as recorder_cli
from recordmcount import options as recorder_options
from recordmcount.grammar import Command

# Values that are paths; no other is completed.
PATHS = ("OUT", "DIR", "PATH")
WIDTH = "80"  # columns, of which argparse makes lines

# Where each shell looks for what completes `{}`.
PLACES = {
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/site-functions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}
# The first word of recordmcount is a verb or a file, for which argparse has no words, and behind a
# file come files and options. What is changed in a script of shtab, and into what.
ZSH_FILES = '_arguments -C -s "${{(@)_shtab_{0}_options[1,-3]}}" "*:FILE:_files"'
FISH_FILES = 'complete -c {0} -n _shtab_{0}_using -ka "(__fish_complete_path (commandline -ct))"'
FILES_OR_VERBS = {
    "bash": [
        ("\n# $1=COMP_WORDS[1]\n", "\n_shtab_{0}_pos_0_COMPGEN=_shtab_compgen_files{found}"),
    ],
    "zsh": [
        ("  _describe '{0} commands' _commands\n", "{found}  _files\n"),
        (
            "      esac\n  esac\n",
            f"        *) {ZSH_FILES} ;;\n{{found}}",
        ),
    ],
    "fish": [
        (
            "\ncomplete -c {0} -f\n",
            f"{{found}}{FISH_FILES}\n",
        ),
    ],
}


def main(folder: Path) -> None:
    """Write all files of both programs below `folder`."""
    os.environ["COLUMNS"] = WIDTH
    verbs = {verb: recorder_cli.module_of(verb).declare()[0] for verb in recorder_cli.VERBS}
    _write(folder, recorder_options.declare()[0], verbs, takes_files=True)
    verbs = {verb: patcher_cli.module_of(verb).declare(verb)[0] for verb in patcher_options.VERBS}
    _write(folder, patcher_options.declare()[0], verbs, takes_files=False)


def _write(
    folder: Path, command: Command, verbs: Mapping[str, Command], *, takes_files: bool
) -> None:
    texts = {f"man/man1/{command.name}.1": manual(command, verbs)}
    for shell, place in PLACES.items():
        texts[place.format(command.name)] = completion(shell, command, verbs, takes_files)
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def manual(command: Command, verbs: Mapping[str, Command]) -> str:
    """Make the page of a command, and of its verbs."""
    parser = _parser(command, verbs, _add_arguments)
    data = {"project_name": command.name, "version": __version__, "manual_title": "User Commands"}
    page = Manpage(parser, data, format="single-commands-section")
    page.date = ""  # the same whenever it is made
    page.description = command.description.partition(".")[0]
    usages = [f"\\fB{command.name}\\fR {usage}" for usage in command.usages]
    if verbs and command.arguments:
        page.add_section("arguments", "=", "\n".join(map(_item, command.arguments)))
    page.add_section("synopsis", "=", _roff("\n.br\n".join(usages)))
    page.add_section("comments", "=", _roff(command.epilog.replace("\n", "\n.PP\n")))
    return str(page).replace(".SH COMMENTS", ".SH NOTES")


def _item(row: tuple[str, str]) -> str:
    name, text = row
    return f".TP\n\\fB{name}\\fR\n{_roff(text)}"


def _roff(text: str) -> str:
    """Have dashes be those that people type."""
    return text.replace("-", r"\-")


def completion(
    shell: str, command: Command, verbs: Mapping[str, Command], takes_files: bool
) -> str:
    """Make what completes a command in a shell."""
    text = shtab.complete(_parser(command, verbs, _add_files), shell)
    if takes_files:
        for pattern, new in FILES_OR_VERBS[shell]:
            found = pattern.format(command.name)
            if found not in text:
                raise ValueError(f"shtab's {shell} has no {found!r} any more")
            text = text.replace(found, new.format(command.name, found=found), 1)
    return text.rstrip("\n") + "\n"


def _parser(
    command: Command,
    verbs: Mapping[str, Command],
    add_arguments: Callable[[ArgumentParser, Command], None],
) -> ArgumentParser:
    parser = ArgumentParser(command.name, add_help=False)
    _fill(parser, command)
    if not verbs:
        add_arguments(parser, command)
        return parser
    added = parser.add_subparsers(title="verbs", metavar="VERB", required=False)
    helps = dict(command.verbs)
    for verb, each in verbs.items():
        inner = added.add_parser(verb, help=_plain(helps[verb]), add_help=False)
        _fill(inner, each)
        add_arguments(inner, each)
    return parser


def _fill(parser: ArgumentParser, command: Command) -> None:
    """Give a parser the description and options of a command."""
    parser.usage = "\n       ".join(f"{command.name} {usage}" for usage in command.usages)
    parser.description = command.description
    for option in command.options:
        names, text = option.names, _plain(option.help)
        to = f"option_{option.attribute}"  # one that is `help` would not be told of
        if not option.value:
            parser.add_argument(*names, help=text, dest=to, action="store_true")
            continue
        action = "append" if option.repeatable else "store"
        added = parser.add_argument(*names, help=text, dest=to, action=action, metavar=option.value)
        if option.value in PATHS:
            added.complete = shtab.FILE  # type: ignore[attr-defined]


def _add_arguments(parser: ArgumentParser, command: Command) -> None:
    for name, text in command.arguments:
        parser.add_argument(name, help=_plain(text), nargs="*", metavar=name)


def _add_files(parser: ArgumentParser, command: Command) -> None:
    del command
    added = parser.add_argument("files", help="files", nargs="*", metavar="FILE")
    added.complete = shtab.FILE  # type: ignore[attr-defined]


def _plain(text: str) -> str:
    """Spell a text so that argparse has nothing to fill in."""
    return text.replace("%", "%%") if text else SUPPRESS


if __name__ == "__main__":
    main(Path(sys.argv[1]))
