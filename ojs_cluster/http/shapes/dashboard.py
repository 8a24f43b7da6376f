"""What the users of the dashboard share, in responses."""

from __future__ import annotations

from typing import TypedDict

from ojs_cluster.http.shapes.common import Count, Moment


class Mark(TypedDict):
    """A mark on the charts."""

    id: str
    label: str
    at: Moment
    created_by: str


class MarkList(TypedDict):
    """Marks, the oldest first."""

    items: list[Mark]
    total: Count


class MarkDeleted(TypedDict):
    """A deleted mark."""

    deleted: bool
    id: str
