"""The oracle against what is known by construction, so that it cannot err with the product."""

from collections import Counter

import pytest
from elftools.elf.elffile import ELFFile

from fixtures.build import build
from fixtures.manifest import Fixture, fixtures
from tests.support.loc_table import table_entries
from tests.support.matrix import each_fixture
from tests.support.oracle import (
    call_forms,
    expected_sites,
    functions,
    references,
    unsupported_calls,
)


@each_fixture(lambda fixture: fixture.content == "object")
def test_sites_are_those_the_source_has(fixture: Fixture) -> None:
    path = build(fixture)
    forms = call_forms(path, fixture.names)
    located = functions(path, forms)
    assert Counter(name for name, _ in located) == Counter(fixture.functions)
    if fixture.at is not None:
        assert {offset for _, offset in located} == fixture.at
    assert set(forms.values()) == fixture.forms
    assert len(unsupported_calls(path, fixture.names)) == fixture.unsupported
    assert len(references(path, fixture.names)) == fixture.references


@each_fixture(lambda fixture: fixture.table is not None and not fixture.nops)
def test_sites_are_those_the_compiler_lists(fixture: Fixture) -> None:
    path = build(fixture)
    assert fixture.table
    listed = table_entries(path, fixture.table)
    assert len(listed) == len(set(listed))
    assert set(listed) == expected_sites(path, fixture.names)


@each_fixture(lambda fixture: fixture.nops > 0)
def test_tables_of_nops_are_read(fixture: Fixture) -> None:
    path = build(fixture)
    assert fixture.table
    listed = table_entries(path, fixture.table)
    assert len(set(listed)) == len(listed) == fixture.nops
    with path.open("rb") as stream:
        file = ELFFile(stream)
        for site in listed:
            code = file.get_section(site.section_index).data()
            assert code.startswith((b"\x90", b"\x66\x90", b"\x0f\x1f\x44\x00"), site.offset)


def test_a_name_that_is_not_asked_for_is_not_found() -> None:
    path = build(fixtures()["as-names"])
    everything = expected_sites(path)
    by_name = [expected_sites(path, [name]) for name in ("mcount", "_mcount", "__fentry__")]
    assert [len(sites) for sites in by_name] == [2, 1, 3]
    assert set().union(*by_name) == everything
    assert expected_sites(path, ["elsewhere"]).isdisjoint(everything)


@pytest.mark.slow
def test_seventy_thousand_sections() -> None:
    sites = expected_sites(build(fixtures()["as-many-sections"]))
    assert max(site.section_index for site in sites) > 0xFF00
    assert {(site.section, site.offset) for site in sites} == {
        (f".text.f{n}", 0) for n in range(35_000)
    }
