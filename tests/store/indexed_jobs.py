"""Jobs with values that the index of the search has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ojs_cluster.core.indexed_fields import IndexedField, parse_indexed_fields
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.store.context import Store
from tests.store.shortcuts import QUEUE

FIELDS = parse_indexed_fields("meta.customer_id,tags,meta.order.id")
CUSTOMER, TAG, ORDER = FIELDS


def with_index(store: Store, fields: Sequence[IndexedField] = FIELDS) -> Store:
    """The store of a process with an index of the search."""
    return replace(store, settings=replace(store.settings, search_index=tuple(fields)))


def job_of(
    meta: dict[str, Any] | None = None, queue: str = QUEUE, tags: Any = None, **more: Any
) -> NewJob:
    """A job with meta and tags; further keywords are members of the request."""
    options: dict[str, Any] = {"queue": queue, **({} if tags is None else {"tags": tags})}
    options |= more.pop("options", {})
    body = {"type": "order.ship", "args": [], "meta": meta or {}, "options": options, **more}
    return parse_job(json.dumps(body).encode())
