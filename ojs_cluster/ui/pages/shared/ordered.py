"""Sort and filter lists as the addresses of their pages say, so that a link shows the same list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import orjson

from ojs_cluster.ui import raw
from ojs_cluster.ui.formats import epoch_s
from ojs_cluster.ui.visit import Visit

T = TypeVar("T")
_PER_READ: Final = 100
Sorts = Mapping[str, Callable[[Any], Any]]
"""The keys by which a list is sorted, by the names that addresses have. Numbers are negative, so
that the largest comes first."""


@dataclass(frozen=True, slots=True)
class Order:
    """How a user has sorted and filtered a list.

    Attributes:
        path: the first segment of the address of the page.
        sorts: the keys by which the list can be sorted.
        sort: the name of the chosen one; empty for the order of the page itself.
        filters: what the list is to contain, by the names of the parameters.
        kept: what else the address of the page has.
    """

    path: str
    sorts: Sorts
    sort: str
    filters: Mapping[str, str]
    kept: Mapping[str, str]

    @property
    def is_given(self) -> bool:
        """Whether the user has sorted or filtered."""
        return bool(self.sort or any(self.filters.values()))

    @property
    def chosen(self) -> dict[str, str]:
        """The parameters of all links of the page but the order."""
        return {**self.kept, **self.filters}

    @property
    def address(self) -> dict[str, str]:
        """The parameters that show the same list."""
        return {**self.chosen, "sort": self.sort}

    def finds(self, *texts: str) -> bool:
        """Return whether one of the texts contains what the user wants to find."""
        return any(self.filters["find"].lower() in text.lower() for text in texts)

    def sorted(self, items: Iterable[T]) -> list[T]:
        """Return items in the chosen order. Equal ones stay in theirs."""
        return sorted(items, key=self.sorts[self.sort]) if self.sort else list(items)


def order_of(
    visit: Visit,
    path: str,
    sorts: Sorts,
    filters: Iterable[str] = ("find",),
    kept: Mapping[str, str] | None = None,
) -> Order:
    """Return how the address of a page sorts and filters its list.

    Args:
        visit: the request.
        path: the first segment of the address.
        sorts: the keys by which the list can be sorted. Any other key is ignored.
        filters: the names of the filters.
        kept: further parameters that the links of the page keep, with their values.
    """
    sort = visit.query.get("sort", "")
    given = {name: visit.query.get(name, "").strip() for name in filters}
    return Order(path, sorts, sort if sort in sorts else "", given, kept or {})


def by_number(name: str) -> Callable[[Any], float]:
    """Return a key that sorts by a member that is a number or None, the highest first."""
    return lambda each: -(each[name] or 0)


def by_time(name: str) -> Callable[[Any], float]:
    """Return a key that sorts by a member that is a time or empty, the latest first."""
    return lambda each: -(epoch_s(each[name] or "") or 0)


async def read_list(visit: Visit, *path: str, most: int) -> tuple[list[raw.Members], int]:
    """Return the first entries of a list of the API, and the number of all.

    Args:
        visit: the request.
        *path: the segments of the path of the list.
        most: maximum number of entries that are read, a multiple of 100.
    """
    items: list[raw.Members] = []
    cursor = ""
    while True:
        found = raw.members(await visit.get(*path, cursor=cursor, limit=_PER_READ))
        items += raw.objects(found, "items")
        pages = orjson.loads(bytes(found["pagination"]))
        cursor = pages.get("next_cursor") or ""
        if not cursor or len(items) >= most:
            return items, max(pages["total"], len(items))
