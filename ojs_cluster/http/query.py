"""Query strings: strict about values, indifferent to parameters they do not know."""

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
    """The parameters of a raw query string, decoded; of a repeated one the last.

    Raises InvalidRequest when it does not decode to UTF-8 or has more than 100 parameters.
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
    """A whole number of at least ``low``; one above ``high`` counts as ``high``.

    Raises InvalidRequest.
    """
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) < low:
        raise InvalidRequest(f"{name} must be a whole number of at least {low}", field=name)
    return min(int(text), high)


def boolean(query: Mapping[str, str], name: str) -> bool:
    """A flag, false when absent. Raises InvalidRequest."""
    text = query.get(name, "").lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise InvalidRequest(f"{name} must be true or false", field=name)


def names(query: Mapping[str, str], name: str) -> tuple[str, ...]:
    """A comma-separated list, empty when absent."""
    return tuple(part for part in query.get(name, "").split(",") if part)


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted: ``limit`` entries after the first ``offset``."""

    limit: int
    offset: int


def page(query: Mapping[str, str], *, default: int = 50, most: int = 200) -> Page:
    """``limit`` and ``offset``, or the ``cursor`` of an earlier page, which wins over ``offset``.

    The cursor of these lists is their offset in disguise: they are short (queues, dead letters) and
    have no order that survives concurrent deletes anyway.

    Raises InvalidRequest.
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
    """``per_page`` and ``page``, counted from 1; without either of them as ``page`` does.

    Raises InvalidRequest.
    """
    if not query.get("page") and not query.get("per_page"):
        return page(query, default=default, most=most)
    size = integer(query, "per_page", default, low=1, high=most)
    offset = (integer(query, "page", 1, low=1, high=10**9) - 1) * size
    if offset > MAX_OFFSET:
        raise InvalidRequest(f"pages end at entry {MAX_OFFSET}", field="page")
    return Page(size, offset)


def pages(page_: Page, shown: int, total: int) -> dict[str, Any]:
    """The ``pagination`` object of a page of such a list."""
    return replies.pagination(
        limit=page_.limit,
        shown=shown,
        offset=page_.offset,
        total=total,
        cursor=next_cursor(page_, shown, total),
    )


def next_cursor(page_: Page, shown: int, total: int) -> str | None:
    """The cursor of the page after this one, or None on the last."""
    end = page_.offset + shown
    return f"o{end}" if shown and end < total else None
