"""The routes of cron jobs of the fake server."""

from __future__ import annotations

from typing import Any

from ojs_client.testing.calls import Call, Reply, Route
from ojs_client.testing.fake_crons import CronStore, FakeCron


def cron_routes(crons: CronStore) -> list[Route]:
    """Return the routes of cron jobs."""

    async def register(call: Call) -> Reply:
        return 201, _json(crons.register(call.body))

    async def listed(call: Call) -> Reply:
        offset, limit = int(call.query.get("offset", 0)), int(call.query.get("limit", 50))
        page, cursor, total = crons.page(call.query.get("cursor", ""), offset, limit)
        pagination: dict[str, Any] = {
            "limit": limit,
            "total": total,
            "has_more": cursor is not None,
        }
        if cursor is not None:
            pagination["next_cursor"] = cursor
        shown = [cron.json() for cron in page]
        return 200, {
            "crons": shown,
            "count": len(page),
            "total": total,
            "pagination": pagination,
        }

    async def get(call: Call) -> Reply:
        return 200, _json(crons.get(call.id))

    async def change(call: Call) -> Reply:
        return 200, _json(crons.change(call.id, call.body))

    async def pause(call: Call) -> Reply:
        return 200, _json(crons.change(call.id, {"enabled": False}))

    async def resume(call: Call) -> Reply:
        return 200, _json(crons.change(call.id, {"enabled": True}))

    async def trigger(call: Call) -> Reply:
        cron, job, deduplicated = crons.trigger(call.id)
        reply = {**_json(cron), "job": job.json(), "job_id": job.id}
        return (200, {**reply, "deduplicated": True}) if deduplicated else (201, reply)

    async def history(call: Call) -> Reply:
        entries = crons.get(call.id).history[: int(call.query.get("limit", 50))]
        return 200, {"name": call.id, "history": entries, "count": len(entries)}

    async def delete(call: Call) -> Reply:
        return 200, {**_json(crons.delete(call.id)), "deleted": True, "name": call.id}

    return [
        ("POST", "/cron", register),
        ("GET", "/cron", listed),
        ("GET", "/cron/ID", get),
        ("PATCH", "/cron/ID", change),
        ("DELETE", "/cron/ID", delete),
        ("POST", "/cron/ID/pause", pause),
        ("POST", "/cron/ID/resume", resume),
        ("POST", "/cron/ID/trigger", trigger),
        ("GET", "/cron/ID/history", history),
    ]


def _json(cron: FakeCron) -> dict[str, Any]:
    return {"cron": cron.json()}
