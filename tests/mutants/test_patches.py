"""Every mutant of the kept list still applies, and the tests that it names exist."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.patches import ROOMS, ROOT, Mutant, is_test, load_all, rooms_of, sample

MUTANTS = load_all()
FEWEST = 30

# A change need not follow the texts of mutants: the nightly run says which no longer apply.
nightly = pytest.mark.soak


@nightly
def test_every_mutant_applies_to_exactly_one_place() -> None:
    texts = {file: (ROOT / file).read_text() for file in {mutant.file for mutant in MUTANTS}}
    for mutant in MUTANTS:
        mutated = mutant.mutated(texts[mutant.file])
        assert mutated != texts[mutant.file], mutant.name
        if mutant.file.endswith(".py"):
            ast.parse(mutated, mutant.file)


@nightly
def test_no_mutant_uses_an_undefined_name(tmp_path: Path) -> None:
    """It would fail by itself, whatever the tests check."""
    for number, mutant in enumerate(MUTANTS):
        if mutant.file.endswith(".py"):
            mutated = mutant.mutated((ROOT / mutant.file).read_text())
            (tmp_path / f"m{number}.py").write_text(mutated)
    ruff = str(Path(sys.executable).with_name("ruff"))
    command = [ruff, "check", "--isolated", "--no-cache", "--select", "F821", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@nightly
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


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_its_share_of_mutants(room: str) -> None:
    assert sum(room in rooms_of(mutant.file) for mutant in MUTANTS) >= FEWEST


def test_a_sample_is_spread_over_the_rooms_and_depends_on_its_seed() -> None:
    drawn = sample(MUTANTS, 200, seed=1)
    rooms = Counter(room for mutant in drawn for room in rooms_of(mutant.file))
    assert len({mutant.name for mutant in drawn}) == 200
    assert all(rooms[room] >= 8 for room in ROOMS)
    assert drawn == sample(MUTANTS, 200, seed=1) != sample(MUTANTS, 200, seed=2)
    assert set(sample(MUTANTS, len(MUTANTS), seed=1)) == set(MUTANTS)


def test_a_text_that_occurs_twice_is_an_error() -> None:
    mutant = Mutant("core", "n", "f", "a", "b", ())
    for text in ("", "a a"):
        with pytest.raises(Exception, match=r"occurs (0|2) times in f"):
            mutant.mutated(text)
