"""What words of a command line mean, and that --help tells of all that is understood."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patcher import options as patcher_options
from patcher.verbs import status, switch
from recordmcount import options as recorder_options
from recordmcount.asked import Values
from recordmcount.diff import command as diff_command
from recordmcount.errors import UsageError
from recordmcount.grammar import Command, Option, parse
from recordmcount.help import WIDTH, help_of, refusal
from recordmcount.report import command as report_command


class Asked(Values):
    """What the command below can be asked."""

    all = False
    long_name = False
    output = ""
    names: tuple[str, ...] = ()
    jobs = 0


COMMAND = Command(
    "program",
    ["[options] FILE...", "verb FILE..."],
    "Do it.",
    [
        Option("-a --all", "all of it"),
        Option("--long-name", "a switch"),
        Option("-o --output", "where to", value="OUT"),
        Option("-n --name", "who; repeatable", "names", value="NAME", repeatable=True),
        Option("-j", "how many", "jobs", value="N", number=range(1, 100)),
        Option("-h --help", "this", information=True),
    ],
    arguments=[("FILE", "a file")],
    verbs=[("verb", "something else")],
    epilog="The end.",
)


def asked(*words: str) -> dict[str, object]:
    """What the words set, but for no files."""
    found = vars(parse(COMMAND, words, Asked()))
    return {name: value for name, value in found.items() if value != ()}


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("", {}),
        ("a b", {"files": ("a", "b")}),
        ("-", {"files": ("-",)}),
        ("-a x", {"all": True, "files": ("x",)}),
        ("x --all y", {"all": True, "files": ("x", "y")}),
        ("-a -- -a -- x", {"all": True, "files": ("-a", "--", "x")}),
        ("-o out", {"output": "out"}),
        ("-oout", {"output": "out"}),
        ("--output out", {"output": "out"}),
        ("--output=out", {"output": "out"}),
        ("--output=a=b", {"output": "a=b"}),
        ("-o -", {"output": "-"}),
        ("--output=-a", {"output": "-a"}),
        ("-o-a", {"output": "-a"}),
        ("-o a -o b", {"output": "b"}),
        ("-ao out", {"all": True, "output": "out"}),
        ("-aoa", {"all": True, "output": "a"}),
        ("-n a --name b -nc", {"names": ("a", "b", "c")}),
        ("-j 7", {"jobs": 7}),
        ("--lo", {"long_name": True}),
        ("--out x", {"output": "x"}),
        ("-a --help -x", {"all": True, "information": "help"}),
        ("-ah -x", {"all": True, "information": "help"}),
    ],
)
def test_words_have_the_meaning_that_getopt_gives_them(
    words: str, meaning: dict[str, object]
) -> None:
    assert asked(*words.split()) == meaning


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("-x", "unknown option '-x'; see --help"),
        ("-ax", "unknown option '-x' in '-ax'; see --help"),
        ("--unknown", "unknown option '--unknown'; see --help"),
        ("--unknown=1", "unknown option '--unknown'; see --help"),
        ("--", ""),
        ("--all=1", "option '--all' takes no value"),
        ("-o", "option '-o' wants a value"),
        ("--output", "option '--output' wants a value"),
        ("--output=", "option '--output' wants a value"),
        ("-o -a", "option '-o' wants a value, not '-a'"),
        ("--output -- x", "option '--output' wants a value, not '--'"),
        ("-o=out", "option '-o' takes its value without '='"),
        ("--=x", "unknown option '--'; see --help"),
        ("-j 0", "option '-j' wants a number from 1 to 99, not '0'"),
        ("-j100", "option '-j' wants a number from 1 to 99, not '100'"),
        ("-j-1", "option '-j' wants a number from 1 to 99, not '-1'"),
        (f"-j{'9' * 5000}", f"option '-j' wants a number from 1 to 99, not '{'9' * 5000}'"),
        ("-j²", "option '-j' wants a number from 1 to 99, not '²'"),
        ("-jx", "option '-j' wants a number from 1 to 99, not 'x'"),
    ],
)
def test_words_that_make_no_sense_are_named(words: str, why: str) -> None:
    if why:
        with pytest.raises(UsageError) as caught:
            asked(*words.split())
        assert str(caught.value) == why
    else:
        assert asked(*words.split()) == {}


def test_a_name_cut_short_must_be_clear() -> None:
    command = Command("x", [""], "", [Option("--one-a", ""), Option("--one-b", "")])
    with pytest.raises(UsageError, match=r"'--one' is not clear: --one-a, --one-b$"):
        parse(command, ["--one"], Values())


VALUES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1
).filter(lambda value: value[0] not in "-=")


@given(VALUES)
def test_a_value_is_the_same_however_it_is_given(value: str) -> None:
    ways = [["-o", value], [f"-o{value}"], ["--output", value], [f"--output={value}"]]
    assert [asked(*words) for words in ways] == [{"output": value}] * 4


@given(st.lists(st.sampled_from(["-a", "--long-name", "-nx", "-ob", "--name=y"])), st.data())
def test_files_may_stand_anywhere_between_options(words: list[str], data: st.DataObject) -> None:
    mixed, files = list(words), []
    for number in range(data.draw(st.integers(0, 3))):
        mixed.insert(data.draw(st.integers(0, len(mixed))), f"file{number}")
    files = [word for word in mixed if word.startswith("file")]
    expected = asked(*words) | ({"files": tuple(files)} if files else {})
    assert asked(*mixed) == expected


# --- help -----------------------------------------------------------------------------------------


def test_behind_a_command_that_is_handed_on_there_are_no_options() -> None:
    hands_on = Command("program", [], "", COMMAND.options, passes_on=True)
    for words in (["-a", "ls", "-a", "--", "--name"], ["-a", "--", "ls", "-a", "--", "--name"]):
        found = parse(hands_on, words, Asked())
        assert (found.all, found.files) == (True, ("ls", "-a", "--", "--name"))


def test_help_has_everything_in_order() -> None:
    assert help_of(COMMAND) == [
        "usage: program [options] FILE...",
        "       program verb FILE...",
        "",
        "Do it.",
        "",
        "  FILE              a file",
        "  -a, --all         all of it",
        "  --long-name       a switch",
        "  -o, --output OUT  where to",
        "  -n, --name NAME   who; repeatable",
        "  -j N              how many",
        "  -h, --help        this",
        "",
        "verbs:",
        "  verb              something else",
        "",
        "The end.",
    ]


def test_a_refusal_says_what_is_wrong_and_how_it_should_be() -> None:
    assert refusal(COMMAND, UsageError("no files")) == [
        "program: no files",
        "usage: program [options] FILE...",
        "       program verb FILE...",
    ]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--outptu=x", "--output"), ("--long_name", "--long-name"),
        ("--mane", "--name"),
    ],
)  # fmt: skip
def test_of_an_unknown_option_the_nearest_is_named(words: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked(words, "x")
    assert str(caught.value).endswith(f"; did you mean '{meant}'?")


DECLARED = {
    command.name: (command, values)
    for command, values in (
        recorder_options.declare(), report_command.declare(), diff_command.declare(),
        patcher_options.declare(),
        status.declare("status"), switch.declare("nop"), switch.declare("call"),
    )
}  # fmt: skip


@pytest.mark.parametrize("name", DECLARED)
def test_what_a_command_declares_it_tells_and_can_be_asked(name: str) -> None:
    command, values = DECLARED[name]
    told = help_of(command)
    assert max(map(len, told)) <= WIDTH
    spelled = {line[2:].partition("  ")[0] for line in told}
    assert spelled >= {str(option) for option in command.options}
    names = [each for option in command.options for each in option.names]
    assert len(names) == len({*names})
    for option in command.options:
        default = getattr(type(values), option.attribute, None)
        if option.information:
            assert option.attribute not in vars(type(values))
        elif option.repeatable:
            assert default == ()
        elif option.number:
            assert default == 0
        else:
            assert default is (None if option.value else False)


@pytest.mark.parametrize("name", DECLARED)
def test_every_name_of_an_option_sets_its_attribute(name: str) -> None:
    command, _ = DECLARED[name]
    for option in command.options:
        for spelling in option.names:
            fresh = Values(**{option.attribute: ()} if option.repeatable else {})
            words = [spelling, *(["1"] if option.value else [])]
            found = vars(parse(command, words, fresh))
            expected = ("1",) if option.repeatable else 1 if option.number else "1"
            if option.information:
                assert found == {"information": option.attribute}
            else:
                assert found[option.attribute] == (expected if option.value else True)
