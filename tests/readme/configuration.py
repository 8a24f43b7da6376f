"""Write docs/configuration.md from the declarations of the variables.

Run ``python -m tests.readme.configuration``, or ``make docs``.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Final

from ojs_cluster.core.config.variable import Variable
from ojs_cluster.server.config.all_variables import SECTIONS

PAGE: Final = Path(__file__).parents[2] / "docs" / "configuration.md"
_INTRODUCTION: Final = """\
# Configuration

<!-- Generated from the declarations of the variables by `make docs`. -->

Set environment variables. `ojs-cluster config` shows and checks all of them, and every process
names each wrong value before it starts. Durations are written like `30s`, `1m30s` or `500ms`;
retention also in days, `7d`. Sizes are bytes. Keys with scopes and queues are described in
[security](security.md#api-keys).
"""


def page() -> str:
    """Return the page as it should be."""
    parts = [_INTRODUCTION]
    for heading, sections in groupby(SECTIONS, key=lambda section: section.heading):
        variables = [each for section in sections for each in section.variables.values()]
        rows = "\n".join(map(_row, variables))
        parts.append(f"## {heading}\n\n| Variable | Default | Meaning |\n|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def _row(variable: Variable) -> str:
    default = f"`{variable.default}`" if variable.default else ""
    return f"| `{variable.name}` | {default} | {variable.summary} |"


if __name__ == "__main__":
    PAGE.write_text(page())
