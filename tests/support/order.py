"""Which test files run in what order, and which variants of the store's tests.

A parallel run assigns files to its processes one after the other. A file that waits for minutes
costs nothing while other files use the processor, but adds its whole length when it starts last.
"""

from __future__ import annotations

import os
from typing import Final

import pytest

LONG: Final = (
    "tests/conformance/test_on_",
    "tests/chaos/test_chaos.py",
    "tests/kill/",
    "tests/upgrade/",
)
"""Prefixes of files with long waits, which come first. The first measure times, so they need an
idle machine beside them. The last start enough processes that the first would be late.
"""

STORE: Final = "OJS_TEST_STORE"
"""Variable with the only variant of the tests in ``tests/store``: ``cluster`` or ``standalone``."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out unwanted variants, move long files to the front, and otherwise keep the order."""
    left_out = _left_out(os.environ.get(STORE, ""))
    if left_out:
        dropped = [item for item in items if _is_variant(item, left_out)]
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if not _is_variant(item, left_out)]
    items.sort(key=_rank)


def _left_out(wanted: str) -> str:
    if wanted not in ("", "cluster", "standalone"):
        raise pytest.UsageError(f"{STORE} must be cluster or standalone, not {wanted!r}")
    return {"cluster": "[standalone", "standalone": "[cluster"}.get(wanted, "")


def _is_variant(item: pytest.Item, variant: str) -> bool:
    return item.nodeid.startswith("tests/store/") and variant in item.nodeid


def _rank(item: pytest.Item) -> int:
    return next((n for n, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG))
