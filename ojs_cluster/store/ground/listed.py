"""A page of a list that has an order, with the position at which the next page continues."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")
Position = tuple[str | int, ...]
"""The place of an entry in the order of its list, also after the entry has been removed."""


class Listed(NamedTuple, Generic[T]):
    """A page of a list.

    Args:
        entries: the entries of the page.
        total: the number of entries of the list.
        last: the position of the last entry that was read for the page, also if the page does not
            show it. None if no others follow.
    """

    entries: list[T]
    total: int
    last: Position | None


def cut(
    ordered: Sequence[T],
    key: Callable[[T], Any],
    *,
    limit: int,
    offset: int = 0,
    after: Any | None = None,
) -> tuple[Sequence[T], bool]:
    """Return a part of a sorted list, and whether other entries follow.

    Args:
        ordered: the list.
        key: returns the key by which the list is sorted.
        limit: the maximum number of entries.
        offset: the number of entries before the part, unless ``after`` is given.
        after: the key of the last entry before the part, which may be missing; None for ``offset``.
    """
    start = offset if after is None else bisect_right(ordered, after, key=key)
    return ordered[start : start + limit], len(ordered) > start + limit


def scored_names(flat: Iterable[bytes]) -> list[tuple[int, str]]:
    """Return scores and names of a reply of Redis, in which each name is followed by its score.

    Another program may have stored a name that is not UTF-8. It is not found later, and the others
    are served.
    """
    items = iter(flat)
    return [
        (int(float(score)), name.decode(errors="replace"))
        for name, score in zip(items, items, strict=True)
    ]
