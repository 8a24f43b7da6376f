"""The counter of code lines counts code, and nothing else."""

from __future__ import annotations

import pytest

from tests.support.code_lines import COUNTERS

PYTHON = '''"""Module.

More.
"""

# a comment
x = [
    1,  # counts

    2,
]
text = """two
lines"""


def f() -> None:
    """Do nothing."""
'''


@pytest.mark.parametrize(
    ("suffix", "text", "lines"),
    [
        (".py", PYTHON, 7),
        (".lua", "-- about\n\nlocal x = 1 -- one\n    -- more\nreturn x\n", 2),
        (".html", "{# about\nthis #}\n<p>\n\n</p>\n", 2),
        (".yaml", "{{- /*\nabout\n*/ -}}\nkind: Pod\n# note\n", 1),
    ],
)
def test_only_lines_with_code_count(suffix: str, text: str, lines: int) -> None:
    assert COUNTERS[suffix](text) == lines
