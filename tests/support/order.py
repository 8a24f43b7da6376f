"""The order in which test files run: files with long waits come first.

A parallel run assigns files to its processes one after the other. A file that waits for minutes
costs nothing while other files use the processor, but adds its whole length when it starts last.
"""

from __future__ import annotations

from typing import Final

import pytest

LONG: Final = (
    "tests/conformance/test_on_",
    "tests/chaos/test_chaos.py",
    "tests/kill/",
    "tests/upgrade/",
)
"""Prefixes of such files. The first measure times, so they need an idle machine beside them. The
last start enough processes that the first would be late.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move long files to the front, and otherwise keep the order."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    return next((n for n, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG))
