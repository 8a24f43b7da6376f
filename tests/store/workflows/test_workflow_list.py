"""Listing workflows for a reader of some queues: a bounded look per page, and nothing twice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.workflows import visible_workflows, workflows
from ojs_cluster.store.features.workflows.visible_workflows import list_visible

OWN = QueuePatterns(["mail-*"])


async def _create(store: Store, *queues: str) -> str:
    steps = [{"type": "t", "args": [], "options": {"queue": queue}} for queue in queues]
    body = {"type": "chain", "name": "n", "steps": steps}
    return (await workflows.create(store, parse_workflow(json.dumps(body).encode()))).id


async def _pages(store: Store, limit: int) -> list[list[str]]:
    pages: list[list[str]] = []
    cursor: str | None = None
    while True:
        found, cursor = await list_visible(store, OWN, limit=limit, cursor=cursor)
        pages.append([workflow.id for workflow in found])
        if cursor is None:
            return pages


async def test_each_visible_workflow_is_listed_once_though_all_are_of_one_millisecond(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visible_workflows, "WIDTH", 2)
    own = [await _create(store, "mail-1", "mail-2") for _ in range(6)]
    for _ in range(6):
        await _create(store, "secret")
        await _create(store, "mail-1", "secret")
    for shard in store.keys:
        for name in db.zrange(shard.workflows, 0, -1):
            db.zadd(shard.workflows, {name: 1_700_000_000_000})

    pages = await _pages(store, 1)

    assert [job_id for page in pages for job_id in page] == sorted(own, reverse=True)


async def test_a_page_reads_a_bounded_number_and_the_next_one_continues(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visible_workflows, "MAX_WORKFLOWS_READ", 3)
    own = [await _create(store, "mail-1")]
    for _ in range(7):
        await _create(store, "secret")

    pages = await _pages(store, 50)

    assert pages == [[], [], own]


@pytest.mark.parametrize("cursor", ["x", "o2", "W10", "WzEsIngiXQ", "WzEuNSwieCJd"])
async def test_a_cursor_of_another_server_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        await list_visible(store, OWN, limit=5, cursor=cursor)
