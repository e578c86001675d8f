"""The command line: its first word is a verb, and the rest is for that."""

from __future__ import annotations

from recordmcount import __version__
from recordmcount.elf.open import keep_standard_streams
from recordmcount.errors import UsageError
from recordmcount.grammar import parse
from recordmcount.verb import inform, run

from .options import VERBS, declare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def main(words: Sequence[str]) -> int:
    """Run `patcher` with these words; returns the exit status."""
    keep_standard_streams()
    if words and words[0] in VERBS:
        module = module_of(words[0])
        return run(module.declare(words[0]), module.execute, words[1:])
    command, asked = declare()
    try:
        parse(command, words[:1], asked)
        if not asked.information:
            raise UsageError(_no_verb(words))
    except UsageError as error:
        from recordmcount.help import refuse

        return refuse(command, error)
    if asked.information == "version":
        return inform([f"patcher {__version__}"])
    from recordmcount.help import help_of

    return inform(help_of(command))


def module_of(verb: str) -> Any:
    """Import what a verb is made of: `declare` and `execute`, as recordmcount.verb has them."""
    if verb == "status":
        from .verbs import status

        return status
    if verb == "run":
        from .verbs import run as run_verb

        return run_verb
    if verb == "trace":
        from .verbs import trace

        return trace
    from .verbs import switch

    return switch


def _no_verb(words: Sequence[str]) -> str:
    """Say what is wrong where there should be a verb."""
    from recordmcount.cli import VERBS as RECORDER_VERBS
    from recordmcount.nearest import question

    all_verbs = f": say {', '.join(VERBS)}"
    if not words:
        return f"no verb{all_verbs}"
    if words[0] in RECORDER_VERBS:
        return f"unknown verb '{words[0]}'; it is one of recordmcount: recordmcount {words[0]}"
    return f"unknown verb '{words[0]}'{question(words[0], VERBS) or all_verbs}"
