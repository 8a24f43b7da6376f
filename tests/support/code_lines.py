"""Count the code lines of the server: ``python -m tests.support.code_lines [ROOT]``.

A line counts if it has a token of code: no blank line, no comment, no docstring. Python, Lua, and
the templates of the dashboard and of the chart count; translations and tests do not.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

_FOLDERS: Final = ("ojs_cluster", "scheduler", "helm/ojs-cluster/templates")
_NO_CODE: Final = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def python_lines(text: str) -> int:
    """Return the number of lines of a module that have code."""
    documents = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            found.update(range(token.start[0], token.end[0] + 1))
    return len(found - documents)


def _lines_without(comment: str) -> Callable[[str], int]:
    pattern = re.compile(comment, re.DOTALL | re.MULTILINE)
    return lambda text: sum(1 for line in pattern.sub("", text).splitlines() if line.strip())


_BRACES: Final = _lines_without(r"\{\{-?\s*/\*.*?\*/\s*-?\}\}|^\s*#.*?$")
COUNTERS: Final[Mapping[str, Callable[[str], int]]] = MappingProxyType(
    {
        ".py": python_lines,
        ".lua": _lines_without(r"^\s*--.*?$"),
        ".html": _lines_without(r"\{#.*?#\}"),
        ".tpl": _BRACES,
        ".yaml": _BRACES,
    }
)


def count(root: Path) -> Counter[str]:
    """Return the number of code lines below ``root``, by the suffix of the files."""
    found: Counter[str] = Counter()
    for folder in _FOLDERS:
        for path in (root / folder).rglob("*"):
            if path.suffix in COUNTERS and path.is_file():
                found[path.suffix] += COUNTERS[path.suffix](path.read_text())
    return found


if __name__ == "__main__":
    lines = count(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    for suffix, number in sorted(lines.items()):
        print(f"{suffix:6} {number:7}")
    print(f"{'all':6} {lines.total():7}")
