"""helm/README.md, made from the comments of values.yaml.

    python -m tests.helm.values_table

writes it; a test says when it is not current.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.helm.chart import CHART

README = CHART.parent / "README.md"
MARK = "<!-- The rest is made from values.yaml by `make chart-readme`. -->"

_KEY = re.compile(r"^( *)([A-Za-z]+):")


def readme() -> str:
    """What the file should hold: what was written by hand, then the table."""
    by_hand, mark, _ = README.read_text().partition(MARK)
    assert mark, f"{README} has lost its mark"
    return f"{by_hand}{MARK}\n\n{table()}"


def table() -> str:
    """One row per value that has a comment, which is every value.

    Raises AssertionError for a value without one.
    """
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    described = comments((CHART / "values.yaml").read_text())
    undescribed = leaves(values, "") - set(described)
    assert not undescribed, f"values without a comment: {sorted(undescribed)}"
    rows = ["| Value | Default | Meaning |", "|---|---|---|"]
    for path, text in described.items():
        value: Any = values
        for name in path.split("."):
            value = value[name]
        rows.append(f"| `{path}` | `{json.dumps(value)}` | {text} |")
    return "\n".join(rows) + "\n"


def comments(text: str) -> dict[str, str]:
    """Text after `# --` and its continuation lines, by the path of the key that follows."""
    found: dict[str, str] = {}
    path: list[str] = []
    pending: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            pending = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("#") and pending:
            pending.append(stripped.removeprefix("#").strip())
        elif key := _KEY.match(line):
            path = [*path[: len(key[1]) // 2], key[2]]
            if pending:
                found[".".join(path)] = " ".join(pending)
                pending = []
    return found


def leaves(values: Any, prefix: str) -> set[str]:
    """Paths that need a description; below a described object nothing does."""
    described = comments((CHART / "values.yaml").read_text())
    found: set[str] = set()
    for name, value in values.items():
        path = f"{prefix}{name}"
        if path in described or not isinstance(value, dict):
            found.add(path)
        else:
            found |= leaves(value, f"{path}.")
    return found


def write(path: Path = README) -> None:
    """Make the file current."""
    path.write_text(readme())


if __name__ == "__main__":
    write()
