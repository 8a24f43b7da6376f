"""The configuration of the process that answers, and the layout of the data."""

from __future__ import annotations

from ojs_cluster.store.operators.migrations.layout import report
from tests.http.api import Api


async def test_the_layout_of_the_data_is_shown(any_api: Api) -> None:
    reply = await any_api.get("/ojs/v1/admin/config")
    assert reply.status == 200
    assert reply.json["layout"] == {
        "version": 1,
        "oldest": 1,
        "migration": None,
        "supported": [1, 1],
    }


async def test_a_running_migration_is_shown(any_api: Api) -> None:
    store = any_api.app.store
    schema, slot = store.keys.meta.schema, store.keys.meta.slot
    half = (len(store.keys) + 2) // 2
    running: list[str | int] = ["version", 2, "oldest", 1, "position", half, "changed", 7]
    running += ["started", 5]
    await store.redis.call(slot, "HSET", schema, *running)
    await report(store)
    shown = (await any_api.get("/ojs/v1/admin/config")).json["layout"]
    assert (shown["version"], shown["oldest"]) == (2, 1)
    assert shown["migration"] == {
        "state": "running",
        "layout": 2,
        "changed": 7,
        "progress": 0.5,
        "started_at": "1970-01-01T00:00:00.005Z",
        "finished_at": None,
    }
