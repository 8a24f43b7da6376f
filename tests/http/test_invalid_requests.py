"""No request of a client, however invalid, is answered with 500."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.routing.router import Route
from tests.http.api import OJS_TYPE, Api

NASTY: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    2**31,
    2**63,
    10**30,
    -(10**30),
    "",
    "x",
    "default",
    "\x00",
    "\ud7ff\U0001f4a9",
    "a" * 300,
    "%2F",
    "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee",
    [],
    ["default"],
    [None],
    [["default"]],
    {},
    {"a": {"b": []}},
    {"a": 10**30, "b": [-(10**30)]},
    {"retry": {"max_attempts": 10**20, "initial_interval": "P1Y"}},
    {"queue": None, "unique": {"keys": [1]}, "scheduled_at": "+PT1S", "ttl": "PT-1S"},
]
MEMBERS = [
    *("type", "args", "id", "meta", "options", "jobs", "queues", "count", "worker_id", "lease_id"),
    *("job_id", "result", "error", "requeue", "active_jobs", "active_job_ids", "leases", "state"),
    *("shutdown", "visibility_timeout_ms", "hostname", "pid", "labels", "states", "confirm"),
    *("filter", "since", "until", "cursor", "directive", "worker_ids"),
]
PARAMETERS = [
    *("state", "queue", "type", "cursor", "limit", "offset", "after", "types", "queues"),
    *("job_types", "wait", "timeout", "page", "per_page", "since", "until"),
]
TEXTS = ["", "0", "-1", "9" * 30, "true", "x", "%00", "%ff", "eyJhIjpbXX0", "WzEsMl0", "o5", "null"]


def members_of(route: Route) -> list[str]:
    """Return the members of the route's own body, in all branches of its schema."""
    body = route.body or route.optional_body
    _, components = msgspec.json.schema_components([] if body is None else [body])
    names = {name for schema in components.values() for name in schema.get("properties", ())}
    return sorted(names - {"wait_ms"})  # a fetch would wait as long as it says


def body_of(chance: random.Random, known: list[str], own: list[str]) -> bytes:
    """Return a body that is valid for most routes, with some members damaged."""
    job: dict[str, Any] = {"type": "t", "args": [], "meta": {}, "options": {"queue": "default"}}
    members = {**job, "queues": ["default"], "worker_id": "w", "job_id": chance.choice(known)}
    members |= {"jobs": [job], "confirm": True}
    for name in chance.sample(MEMBERS, chance.randint(0, 4)):
        members[name] = chance.choice(NASTY)
    for name in chance.sample(own, min(len(own), chance.randint(0, 2))):
        members[name] = chance.choice(NASTY)
    raw = json.dumps(members).encode()
    match chance.randint(0, 9):
        case 0:
            return raw[: chance.randint(0, len(raw))]
        case 1:
            return raw.replace(b'"', b'\xf0"', 1)
        case 2:
            return raw.replace(b":", b':1e999999,"x":', 1)
        case _:
            return raw


def target_of(template: str, chance: random.Random, known: list[str]) -> str:
    while "{" in template:
        head, _, rest = template.partition("{")
        value = chance.choice([*known, "%00", "%F0%9F%92%A9", "..", "a%2Fb", "~" * 300, "default"])
        template = head + value + rest.partition("}")[2]
    if chance.random() < 0.5:
        return template
    pairs = [f"{chance.choice(PARAMETERS)}={chance.choice(TEXTS)}" for _ in range(3)]
    return f"{template}?{'&'.join(pairs)}"


@pytest.mark.parametrize(
    "route",
    [route for route in ROUTES if not route.test_hook],
    ids=lambda route: f"{route.method} {route.template}",
)
async def test_an_invalid_request_is_never_a_server_error(api: Api, route: Any) -> None:
    chance, own = random.Random(route.template), members_of(route)
    known = [(await api.enqueue())["id"] for _ in range(3)]
    await api.fetch(count=2, worker_id="w")
    for _ in range(60):
        target, body = target_of(route.template, chance, known), body_of(chance, known, own)
        if "wait=" in target:
            target = target.replace("timeout=", "t=") + "&timeout=0"
        reply = await api.call(route.method, target, body)
        assert reply.status < 500, (target, body, reply.body)
        if reply.headers["content-type"].startswith(OJS_TYPE):
            assert isinstance(reply.json, dict)
        elif reply.response.stream is not None:
            reply.response.stream.close()
        else:
            # These speak to Prometheus, and to viewers of OpenAPI documents.
            assert route.template in ("/metrics", "/ojs/openapi.json")
    for job_id in known:
        assert (await api.get(f"/ojs/v1/jobs/{job_id}")).status in (200, 404)
