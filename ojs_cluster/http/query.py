"""Parse query strings. Invalid values are errors; unknown parameters are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.http import replies

MAX_OFFSET = 100_000
_MAX_DIGITS = 18  # such numbers fit into 64 bits
_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no", ""})


def parameters(query: str) -> Mapping[str, str]:
    """Return the decoded parameters of a raw query string. The last value of a parameter counts.

    Raises:
        InvalidRequest: the query does not decode to UTF-8, or has more than 100 parameters.
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
    """Return the parameter ``name`` as a whole number; ``default`` if it is absent or empty.

    A number above ``high`` counts as ``high``.

    Raises:
        InvalidRequest: the value is not a whole number of at least ``low``.
    """
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS or int(text) < low:
        raise InvalidRequest(f"{name} must be a whole number of at least {low}", field=name)
    return min(int(text), high)


def boolean(query: Mapping[str, str], name: str) -> bool:
    """Return the parameter ``name`` as a flag; False if it is absent or empty.

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
    """Return the names in the comma-separated parameter ``name``; none if it is absent."""
    return tuple(text for text in query.get(name, "").split(",") if text)


@dataclass(frozen=True, slots=True)
class Page:
    """The requested part of a list: ``limit`` entries after the first ``offset``."""

    limit: int
    offset: int


def page(query: Mapping[str, str], *, default: int = 50, max_limit: int = 200) -> Page:
    """Return the page that the parameters ``limit`` and ``offset`` ask for.

    The parameter ``cursor``, which an earlier page returned, has priority over ``offset``. A cursor
    contains an offset, so a page may skip entries if others are deleted between two requests. A
    cursor without this flaw was refused, because these lists are short (queues, dead letters).

    Raises:
        InvalidRequest: a parameter is invalid, or the cursor belongs to another list.
    """
    limit = integer(query, "limit", default, low=1, high=max_limit)
    cursor = query.get("cursor")
    if cursor:
        if not cursor.startswith("o"):
            raise InvalidRequest("this cursor belongs to another list", field="cursor")
        offset = integer({"cursor": cursor[1:]}, "cursor", 0, low=0, high=MAX_OFFSET)
    else:
        offset = integer(query, "offset", 0, low=0, high=MAX_OFFSET)
    return Page(limit, offset)


def numbered_page(query: Mapping[str, str], *, default: int = 20, max_limit: int = 100) -> Page:
    """Return the page that the parameters ``per_page`` and ``page`` ask for.

    The first page has the number 1. If both parameters are absent, this function returns the same
    as ``page``.

    Raises:
        InvalidRequest: a parameter is invalid.
    """
    if not query.get("page") and not query.get("per_page"):
        return page(query, default=default, max_limit=max_limit)
    size = integer(query, "per_page", default, low=1, high=max_limit)
    offset = (integer(query, "page", 1, low=1, high=10**9) - 1) * size
    if offset > MAX_OFFSET:
        raise InvalidRequest(f"pages end at entry {MAX_OFFSET}", field="page")
    return Page(size, offset)


def pagination(requested: Page, shown: int, total: int) -> dict[str, Any]:
    """Return the ``pagination`` object of a page that shows ``shown`` of ``total`` entries."""
    end = requested.offset + shown
    return replies.pagination(
        limit=requested.limit,
        shown=shown,
        offset=requested.offset,
        total=total,
        cursor=f"o{end}" if shown and end < total else None,
    )
