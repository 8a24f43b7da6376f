"""docs/conformance.md claims what the tests run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance import scope

_PAGE = Path(__file__).parents[2] / "docs/conformance.md"


def documented() -> dict[str, tuple[int, int]]:
    """Return the files that pass and all files, by each cell of folders in the tables."""
    rows = re.findall(r"^\| (`.+?`) \| (\d+) of (\d+) \|", _PAGE.read_text(), re.MULTILINE)
    return {folders: (int(passing), int(total)) for folders, passing, total in rows}


def test_the_folders_that_run_are_documented_in_their_order() -> None:
    assert [f"`{folder}`" for folder in scope.DEFAULT_FOLDERS] == list(documented())[
        : len(scope.DEFAULT_FOLDERS)
    ]


def test_every_file_of_a_folder_that_runs_passes_except_the_impossible() -> None:
    for folder in scope.DEFAULT_FOLDERS:
        passing, total = documented()[f"`{folder}`"]
        impossible = [file for file in scope.IMPOSSIBLE if file.startswith(f"{folder}/")]
        assert passing == total - len(impossible), folder


def test_the_tables_name_every_file_of_the_suites() -> None:
    root = scope.suites_root()
    if root is None:
        pytest.skip(scope.HOW_TO_GET_SUITES)
    for cell, (_, total) in documented().items():
        folders = re.findall(r"`(.+?)`", cell)
        assert total == sum(len(list((root / name).rglob("*.json"))) for name in folders), cell
    named = {name for cell in documented() for name in re.findall(r"`(.+?)`", cell)}
    assert named == {folder.name for folder in root.iterdir() if folder.is_dir()}
