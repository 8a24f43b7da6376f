"""Collect which line of which client each test of this folder stands for.

The comment above a test names it. ``python -m tests.clients.sources`` writes README.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
README: Final = FOLDER / "README.md"
_LINE_OF_A_CLIENT: Final = re.compile(r"[\w./-]+\.(?:py|go|tsx?|js|rb|md):\d+")
_OTHER: Final = (
    *("No client: ", "Spec: ", "checkpoint-", "Conformance suites "),
    "ojs-k8s-operator: ",
)
"""How the comment of a test begins that stands for no line of a client."""
_HEAD: Final = """# Which line of which client each test stands for

The tests send the bytes that the official clients send. The lines are those of these commits in
the repositories of github.com/openjobspec: `ojs-python-sdk` 372bce6d, `ojs-js-sdk` 3fb1e320,
`ojs-go-sdk` 7528da5a, `ojs-ruby-sdk` cd16a044, `ojs-cli` 49bf70ea, `ojs-admin-ui` 098f3682. A test
without a line of a client says what it stands for instead.

`python -m tests.clients.sources` writes this page from the comments above the tests.

| Test | Stands for |
|---|---|
"""


@dataclass(frozen=True, slots=True)
class Source:
    """A test with the comment above it, in one line; '' for none."""

    module: str
    test: str
    comment: str

    @property
    def is_named(self) -> bool:
        """Whether the comment says what the test stands for."""
        return bool(_LINE_OF_A_CLIENT.search(self.comment)) or self.comment.startswith(_OTHER)


def sources() -> Iterator[Source]:
    """Yield the tests in the order of the files."""
    for path in sorted(FOLDER.glob("test_*.py")):
        if path.name == "test_sources.py":
            continue
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and node.name.startswith(
                "test_"
            ):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
                yield Source(path.name, node.name, _comment_above(lines, first))


def _comment_above(lines: list[str], first: int) -> str:
    start = first
    while start and lines[start - 1].startswith("#"):
        start -= 1
    return " ".join(line.lstrip("#").strip() for line in lines[start:first])


def page() -> str:
    """Return the text of README.md."""
    rows = []
    for source in sources():
        comment = source.comment.replace("|", "\\|")
        rows.append(f"| `{source.module}::{source.test}` | {comment} |\n")
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    README.write_text(page())
