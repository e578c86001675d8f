"""The usual command lines mean the same with and without argparse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patcher.arguments import Arguments, usual
from patcher.parser import parse

WORDS = (
    "nop", "call", "status", "-q", "--quiet", "--json", "-n", "--dry-run", "-o", "--output",
    "--functions", "--notrace", "--symbol", "--functions=a", "--func", "-qn", "-o=x", "--schema",
    "-h", "--", "-", "", "a", "b c", "*", "-x",
)  # fmt: skip


def fields(arguments: Arguments) -> dict[str, object]:
    return {name: getattr(arguments, name) for name in Arguments.__slots__}


@given(st.sampled_from(["nop", "call", "status"]), st.lists(st.sampled_from(WORDS), max_size=6))
def test_what_is_understood_without_argparse_is_understood_alike(
    verb: str, words: list[str]
) -> None:
    found = usual([verb, *words])
    if found is not None:
        assert fields(found) == fields(parse([verb, *words]))


@pytest.mark.parametrize("words", [
    "nop a", "call a b", "status -q a", "nop -n --functions x* --functions y --notrace z a",
    "call -q -o out a", "status --json --symbol hook a b",
])  # fmt: skip
def test_the_usual_words_need_no_argparse(words: str) -> None:
    found = usual(words.split())
    assert found is not None
    assert fields(found) == fields(parse(words.split()))


@pytest.mark.parametrize("words", [
    "", "-h", "fly a", "nop", "nop --help", "nop a -q", "nop -o out a b", "nop -o", "status -n a",
    "nop --functions -x a", "nop --schema", "nop -- a", "status -o out a",
])  # fmt: skip
def test_all_else_is_left_to_argparse(words: str) -> None:
    assert usual(words.split()) is None
