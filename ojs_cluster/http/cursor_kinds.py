"""Which entry the cursors of each list name. Two lists with the same order share a kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class CursorKind:
    """A list whose cursors name its last shown entry, by the key that the list is sorted by.

    Args:
        name: the name of the list. A cursor of another list is refused.
        types: the types of the parts of a position, in their order.
    """

    name: str
    types: tuple[type[str] | type[int], ...]


QUEUES: Final = CursorKind("queues", (str,))
"""Queues by name."""
