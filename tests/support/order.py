"""In which order the files of the suite run: those that wait for long come first.

Files are given to the processes of a parallel run one after the other. A file that takes minutes
and hardly computes costs nothing while others compute beside it, and its whole length when it is
begun last.
"""

from __future__ import annotations

from typing import Final

import pytest

LONG: Final = ("tests/conformance/test_on_", "tests/chaos/test_chaos.py", "tests/kill/")
"""What names of such files begin with. The first measure times, and leave the machine idle for each
other; the last start so many processes that the first would be late beside them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move long files to the front; the order is otherwise kept."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    return next((n for n, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG))
