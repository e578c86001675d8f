"""The kernel's recorders run here, and are right where everybody is: the ground to compare on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.loc_table import table_entries
from tests.support.oracle import expected_sites
from tests.support.peers import Peers, need

pytestmark = pytest.mark.kernel

NOT_RECORDED = {".foo.text", ".exit.text", ".noinstr.text"}


def test_the_c_tool_records_plain_calls(
    fixture_object: Callable[[str], Path], peers: Peers
) -> None:
    path = fixture_object("gcc-fentry")
    expected = {site for site in expected_sites(path) if site.section not in NOT_RECORDED}
    assert peers.c(path) == (0, "", "")
    assert set(table_entries(path)) == expected


def test_the_perl_tool_records_plain_calls(
    fixture_object: Callable[[str], Path], peers: Peers
) -> None:
    path = fixture_object("gcc-fentry")
    expected = {site for site in expected_sites(path) if site.section not in NOT_RECORDED}
    assert peers.perl(path).status == 0
    assert {(site.section, site.offset) for site in table_entries(path)} == {
        (site.section, site.offset) for site in expected
    }


def test_objtool_records_plain_calls_in_every_section(
    fixture_object: Callable[[str], Path], peers: Peers
) -> None:
    path = fixture_object("gcc-fentry")
    expected = expected_sites(path)
    assert peers.objtool(path).status == 0
    assert set(table_entries(path)) == expected


def test_a_missing_program_is_a_failure() -> None:
    with pytest.raises(pytest.fail.Exception, match="no-such-program is not installed"):
        need("no-such-program")
