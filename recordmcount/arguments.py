"""A command line for the verbs that can afford `argparse`; recording cannot."""

import sys
from argparse import ArgumentParser

from .console import say


class Parser(ArgumentParser):
    """An ArgumentParser whose help, version and errors are one line at most where nobody reads."""

    def _print_message(self, message: str, file: object = None) -> None:
        """Raise SystemExit(1) if this is for a stdout that is closed or full."""
        to_stderr = file is not None and file is sys.stderr  # closed, both are None
        if not say(2 if to_stderr else 1, [message.removesuffix("\n")]) and not to_stderr:
            raise SystemExit(1)
