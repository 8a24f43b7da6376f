"""Requests to every route, whose handlers then reach Redis."""

from __future__ import annotations

import re
from typing import Any, Final

from ojs_cluster.http.routing.router import Route
from tests.http.api import Api

NAMES: Final = {"queue": "q", "cron": "nightly", "key": "api", "worker": "w1"}
DEFINITION: Final = {"type": "t", "args": [], "options": {"queue": "q"}}


async def prepared(api: Api) -> dict[str, str]:
    """Have one thing of each kind; returns what to put into the paths of the routes."""
    limit = {"key": NAMES["key"], "concurrency": 1}
    job = await api.active(NAMES["queue"], options={"rate_limit": limit})
    dead = await api.active("dead", options={"retry": {"max_attempts": 1}})
    error = {"code": "c", "message": "m"}
    await api.post("/ojs/v1/workers/nack", {"job_id": dead["id"], "error": error})
    flow = await api.post("/ojs/v1/workflows", {"type": "chain", "steps": [DEFINITION]})
    schedule = {"name": NAMES["cron"], "cron": "0 3 * * *", "job_template": DEFINITION}
    made = await api.post("/ojs/v1/cron", schedule)
    assert (flow.status, made.status) == (201, 201), made.body
    return {"job": job["id"], "flow": flow.json["workflow"]["id"]}


def body_of(route: Route, job_id: str) -> dict[str, Any]:
    """A body with which the route's handler reaches Redis."""
    job = {"job_id": job_id, "error": {"code": "c", "message": "m"}}
    unique = {**DEFINITION, "options": {"queue": "q", "unique": {"keys": ["type"]}}}
    bodies: dict[str, dict[str, Any]] = {
        "/ojs/v1/queues": {"name": "other"},
        "/ojs/v1/queues/{name}": {"partitions": 2},
        "/ojs/v1/queues/{name}/config": {"partitions": 2},
        "/ojs/v1/queues/{name}/purge": {"states": ["available"]},
        "/ojs/v1/jobs": DEFINITION,
        "/ojs/v1/jobs/batch": {"jobs": [DEFINITION, unique]},
        "/ojs/v1/jobs/bulk": {"jobs": [DEFINITION, unique]},
        "/ojs/v1/workflows": {"type": "group", "jobs": [DEFINITION, DEFINITION]},
        "/ojs/v1/workers/heartbeat": {"worker_id": "w1", "active_jobs": [job_id]},
        "/ojs/v1/workers/ack/batch": {"acks": [job]},
        "/ojs/v1/workers/nack/batch": {"nacks": [job]},
        "/ojs/v1/workers/beat": {"worker_id": "w1", "state": "running", "active_jobs": 0},
        "/ojs/v1/admin/workers/directive": {"directive": "quiet"},
        "/ojs/v1/admin/marks": {"label": "v1"},
        "/ojs/v1/admin/problems/{id}/mute": {},
        "/ojs/v1/admin/jobs/{id}/move": {"queue": "other"},
    }
    if route.template.endswith("/admin/bulk"):
        return {"action": "cancel", "filter": {}, "confirm": True}
    if "maintenance" in route.template:
        return {"enabled": False}
    if route.method == "PATCH" and "/jobs/" in route.template:
        return {"priority": 5}
    if "/bulk/" in route.template and "admin/jobs/bulk/retry" not in route.template:
        return {"job_ids": [job_id], "confirm": True}
    if route.template.endswith("/admin/queues/{name}/jobs"):
        return {"states": ["available"], "confirm": True}
    if route.template.endswith("/dead-letter"):
        return {"confirm": True}
    if route.template.endswith("/merge"):
        return {"branch_a": "a", "branch_b": "b"}
    if route.template.endswith("/tool-retry"):
        return {"tool_call_id": "c"}
    if route.template.endswith(("/tenants/{id}", "/tenants/{id}/limits")):
        return {"max_scheduled": 5} if route.template.endswith("limits") else {"limits": {}}
    if "/pools/" in route.template:
        return {"queues": ["q"]}
    if "fetch" in route.template:
        return {"queues": ["q"], "worker_id": "w1"}
    if route.template.endswith("/backfill"):
        return {"from": "2024-01-01T00:00:00Z", "to": "2024-01-02T00:00:00Z", "confirm": True}
    if "cron" in route.template:
        return {"name": "other", "cron": "0 4 * * *", "job_template": DEFINITION}
    if "rate-limit" in route.template:
        return {"concurrency": 3}
    if "progress" in route.template:
        return {**job, "progress": 0.5}
    if "checkpoint" in route.template:
        return {"state": {"row": 1}}
    if "webhooks" in route.template:
        return {"url": "https://a.example/", "events": ["job.completed"]}
    if route.template.endswith("/schemas/{type}"):
        return {"mode": "warn"}
    if "schemas" in route.template and route.method in ("POST", "PUT"):
        return {"type": "a.b", "version": "1.0.0", "schema": {"type": "array"}}
    if "retry" in route.template:
        return {"all": True} if "outbox" in route.template else {"confirm": True}
    return bodies.get(route.template.replace("/admin/queues", "/queues"), {**job, "confirm": True})


def path_of(route: Route, ids: dict[str, str]) -> str:
    """The route's path, which names things that exist."""

    def name(match: re.Match[str]) -> str:
        template, kind = route.template, match[1]
        if kind == "id" and "workflows" in template:
            return ids["flow"]
        if kind == "id" and "problems" in template:
            return "queue_paused"
        if kind == "id" and "deliveries" in template:
            return "del_1-0"
        if kind == "id":
            return NAMES["worker"] if "workers" in template else ids["job"]
        if kind == "name":
            return NAMES["cron"] if "cron" in template else NAMES["queue"]
        if kind in ("type", "version"):
            return {"type": "a.b", "version": "1.0.0"}[kind]
        return NAMES["key"]

    return re.sub(r"\{(\w+)\}", name, route.template)
