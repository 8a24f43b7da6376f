"""What the documents name is there: tests, files, places to link to."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "examples" / "README.md",
        ROOT / "clients" / "python" / "README.md",
    ]
)
FAULTS = ROOT / "docs" / "reference-faults.md"
GUARANTEES = ROOT / "docs" / "guarantees.md"

PLACES = (ROOT, ROOT / "ojs_cluster", ROOT / "tests")
"""Where a path may start that a document names, beside the document's own folder."""

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(r"^```python\n# (\w+\.py)$", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_TEST = re.compile(r"([\w./-]+\.py)::(\w+)")
_FILE = re.compile(r"(?!/)[\w./*-]+(?:\.(?:py|lua|md|toml)|(?<=\w)/)")
_EXTERNAL = re.compile(r"[a-z][a-z+.-]*:")


def missing_tests(text: str, folder: Path) -> list[str]:
    """Tests named as ``file::test`` that do not exist."""
    missing = []
    for path, name in _TEST.findall(text):
        found = located(path, folder)
        if not found or name not in names_in(found[0]):
            missing.append(f"{path}::{name}")
    return missing


def missing_files(text: str, folder: Path) -> list[str]:
    """Paths written as code that lead nowhere; a ``*`` must match something.

    The reader saves a program that begins with its name.
    """
    saved = set(_PROGRAM.findall(text))
    named = [code.partition("::")[0] for code in _INLINE.findall(_FENCE.sub("", text))]
    paths = [path for path in named if _FILE.fullmatch(path) and path not in saved]
    return [path for path in paths if not located(path, folder)]


def broken_links(text: str, folder: Path) -> list[str]:
    """Relative links to no file, or to a heading that its file does not have."""
    plain = _INLINE.sub("", _FENCE.sub("", text))
    broken = []
    for link in _LINK.findall(plain):
        if _EXTERNAL.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = folder / path
        there = not path or target.exists()
        if there and anchor:
            there = anchor in anchors(target.read_text() if path else text)
        if not there:
            broken.append(link)
    return broken


def located(path: str, folder: Path) -> list[Path]:
    """The files that a path of a document may mean."""
    return [found for place in (folder, *PLACES) for found in place.glob(path.rstrip("/"))]


@cache
def names_in(path: Path) -> frozenset[str]:
    """The names of all tests of a module, those in classes included."""
    body = ast.parse(path.read_text()).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    nodes = [*body, *(node for owner in classes for node in owner.body)]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = [node.name for node in nodes if isinstance(node, functions)]
    return frozenset(name for name in names if name.startswith("test_"))


def anchors(text: str) -> set[str]:
    """The names that headings can be linked to by, as code hosts make them."""
    headings = _HEADING.findall(_FENCE.sub("", text))
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows but headings and rules."""
    found: list[list[str]] = []
    in_body = False
    for line in text.splitlines():
        if not line.startswith("|"):
            in_body = False
        elif re.fullmatch(r"[|: -]+", line):
            in_body = True
        elif in_body:
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


@each_document
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    assert missing_tests(document.read_text(), document.parent) == []


@each_document
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    assert missing_files(document.read_text(), document.parent) == []


@each_document
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    assert broken_links(document.read_text(), document.parent) == []


def test_each_fault_of_the_reference_has_an_answer() -> None:
    faults = rows(FAULTS.read_text())

    assert [row[0] for row in faults] == [str(number) for number in range(1, 38)]
    for number, fault, answer, shown in faults:
        assert fault, number
        assert answer, number
        assert _TEST.search(shown) or "not built yet" in answer.lower(), number


def test_each_guarantee_names_the_test_that_shows_it() -> None:
    guarantees = rows(GUARANTEES.read_text())

    assert len(guarantees) > 20
    for row in guarantees:
        assert _TEST.search(row[-1]), row


# --- these checks themselves ---

SAMPLE = """\
# One `heading`, twice: read
See [a](#one-heading-twice-read), [b](#two), [c](tests/test_docs.py), [d](nowhere.md),
[e](https://example.org/x), `tests/test_docs.py`, `core/no.py`, `store/engine/jobs/*.lua`,
`store/*.no.lua`, `store/`, `none/`, `/ojs/v1/jobs/`, `GET /health`, `[f](gone.md)`,
`test_docs.py::test_no_such_thing`, `tests/test_docs.py::test_damage_is_named`.
```
[(g)](in-a-fence) `also/not.py`
```
Save `saved.py`:
```python
# saved.py
```
"""


def test_damage_is_named() -> None:
    assert missing_tests(SAMPLE, ROOT) == ["test_docs.py::test_no_such_thing"]
    assert missing_files(SAMPLE, ROOT) == ["core/no.py", "store/*.no.lua", "none/"]
    assert broken_links(SAMPLE, ROOT) == ["#two", "nowhere.md"]


def test_rows_are_told_from_headings() -> None:
    assert rows("| A | B |\n|---|:-:|\n| 1 | x |\n| 2 | y |\n\n| no | table |\n") == [
        ["1", "x"],
        ["2", "y"],
    ]
