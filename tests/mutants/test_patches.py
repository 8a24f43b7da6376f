"""Every mutant of the kept list still applies, and the tests that it names exist."""

from __future__ import annotations

import ast
from collections import Counter

import pytest

from tests.mutants.patches import ROOT, Mutant, is_test, load_all

MUTANTS = load_all()
FEWEST = {
    "store": 40,
    "lua": 35,
    "redis": 20,
    "scheduler": 15,
    "core": 20,
    "http": 20,
    "client": 10,
    "helm": 10,
}


def test_every_mutant_applies_to_exactly_one_place() -> None:
    texts = {file: (ROOT / file).read_text() for file in {mutant.file for mutant in MUTANTS}}
    for mutant in MUTANTS:
        mutated = mutant.mutated(texts[mutant.file])
        assert mutated != texts[mutant.file], mutant.name
        if mutant.file.endswith(".py"):
            ast.parse(mutated, mutant.file)


def test_every_mutant_names_tests_that_exist() -> None:
    missing = [
        f"'{mutant.name}' names {node_id}"
        for mutant in MUTANTS
        for node_id in mutant.tests
        if not is_test(node_id)
    ]
    assert missing == []
    assert all(mutant.tests for mutant in MUTANTS)


def test_no_mutant_is_listed_twice() -> None:
    names = Counter(mutant.name for mutant in MUTANTS)
    changes = Counter((mutant.file, mutant.before, mutant.after) for mutant in MUTANTS)
    assert [name for name, count in names.items() if count > 1] == []
    assert [change for change, count in changes.items() if count > 1] == []


@pytest.mark.parametrize(("area", "fewest"), FEWEST.items())
def test_every_area_has_its_share_of_mutants(area: str, fewest: int) -> None:
    assert sum(mutant.area == area for mutant in MUTANTS) >= fewest


def test_a_text_that_occurs_twice_is_an_error() -> None:
    mutant = Mutant("core", "n", "f", "a", "b", ())
    for text in ("", "a a"):
        with pytest.raises(Exception, match=r"occurs (0|2) times in f"):
            mutant.mutated(text)
