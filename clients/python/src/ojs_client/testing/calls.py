"""The requests and responses of the fake server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

Reply = tuple[int, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Call:
    """A request.

    Attributes:
        id: the id or name in the path; empty without one.
        body: the decoded body; None without one.
        query: the query.
    """

    id: str
    body: Any
    query: Mapping[str, str]


Route = tuple[str, str, Callable[[Call], Awaitable[Reply]]]
"""Method, path with ``ID``, and the function that answers."""
