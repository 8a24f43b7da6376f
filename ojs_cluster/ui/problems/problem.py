"""One problem of the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        what: what is wrong, in one sentence in the language of the request.
        action: what to do.
        path: the segments of the page that shows more.
        severe: whether jobs are not processed because of it.
        query: the parameters of the page.
    """

    what: str
    action: str
    path: tuple[str, ...] = ()
    severe: bool = False
    query: Mapping[str, str] | None = None
