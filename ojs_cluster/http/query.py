"""Parse query strings. Invalid values are errors; unknown parameters are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.http import replies

MAX_OFFSET = 100_000
_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no", ""})


def parameters(query: str) -> Mapping[str, str]:
    """Return the decoded parameters of a raw query string; of a repeated one the last value.

    Raises:
        InvalidRequest: it does not decode to UTF-8, or has more than 100 parameters.
    """
    if not query:
        return {}
    try:
        return dict(parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=100))
    except UnicodeDecodeError:
        raise InvalidRequest("the query string is not valid UTF-8") from None
    except ValueError:
        raise InvalidRequest("the query string has too many parameters") from None


def integer(query: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int:
    """Return a whole number; one above ``high`` counts as ``high``.

    Raises:
        InvalidRequest: it is not a whole number of at least ``low``.
    """
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) < low:
        raise InvalidRequest(f"{name} must be a whole number of at least {low}", field=name)
    return min(int(text), high)


def boolean(query: Mapping[str, str], name: str) -> bool:
    """Return a flag, False when absent.

    Raises:
        InvalidRequest: the value is neither true nor false.
    """
    text = query.get(name, "").lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise InvalidRequest(f"{name} must be true or false", field=name)


def names(query: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return a comma-separated list, empty when absent."""
    return tuple(part for part in query.get(name, "").split(",") if part)


@dataclass(frozen=True, slots=True)
class Page:
    """The requested part of a list: ``limit`` entries after the first ``offset``."""

    limit: int
    offset: int


def page(query: Mapping[str, str], *, default: int = 50, most: int = 200) -> Page:
    """Return the page that ``limit`` and ``offset`` ask for.

    The ``cursor`` of an earlier page has priority over ``offset``. It contains an offset: these
    lists are short (queues, dead letters), and concurrent deletes change their order anyway.

    Raises:
        InvalidRequest: a parameter is invalid, or the cursor belongs to another list.
    """
    limit = integer(query, "limit", default, low=1, high=most)
    cursor = query.get("cursor")
    if cursor:
        if not cursor.startswith("o"):
            raise InvalidRequest("this cursor was not made by this list", field="cursor")
        offset = integer({"cursor": cursor[1:]}, "cursor", 0, low=0, high=MAX_OFFSET)
    else:
        offset = integer(query, "offset", 0, low=0, high=MAX_OFFSET)
    return Page(limit, offset)


def numbered_page(query: Mapping[str, str], *, default: int = 20, most: int = 100) -> Page:
    """Return the page that ``per_page`` and ``page`` ask for; pages count from 1.

    Without both of them it returns the same as ``page``.

    Raises:
        InvalidRequest: a parameter is invalid.
    """
    if not query.get("page") and not query.get("per_page"):
        return page(query, default=default, most=most)
    size = integer(query, "per_page", default, low=1, high=most)
    offset = (integer(query, "page", 1, low=1, high=10**9) - 1) * size
    if offset > MAX_OFFSET:
        raise InvalidRequest(f"pages end at entry {MAX_OFFSET}", field="page")
    return Page(size, offset)


def pagination(part: Page, shown: int, total: int) -> dict[str, Any]:
    """Return the ``pagination`` object of a page that shows ``shown`` of ``total`` entries."""
    end = part.offset + shown
    return replies.pagination(
        limit=part.limit,
        shown=shown,
        offset=part.offset,
        total=total,
        cursor=f"o{end}" if shown and end < total else None,
    )
