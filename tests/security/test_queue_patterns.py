"""A key that is restricted to some queues accesses no job of another queue on any route."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from ojs_cluster.core.access.scopes import Keyring, Principal, QueuePatterns, digest
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.routing.router import QueueAccess
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import OJS_TYPE, Api, Reply, open_app, serving

OTHER, OWN = "secret", "mail-1"
MARK = "TOPSECRET"
ACCESS = {
    digest("root"): Principal("root"),
    digest("mail"): Principal("mail", queues=QueuePatterns(["mail-*"])),
}


@dataclass(frozen=True, slots=True)
class Client:
    """Calls with one key."""

    api: Api
    secret: str

    async def call(self, method: str, target: str, body: Any = None) -> Reply:
        headers = {"Authorization": f"Bearer {self.secret}"}
        return await self.api.call(method, target, body, headers=headers)

    async def post(self, target: str, body: Any = None, *, status: int | None = None) -> Any:
        reply = await self.call("POST", f"/ojs/v1{target}", body)
        assert status is None or reply.status == status, reply.body
        return reply.json

    async def get(self, target: str) -> Any:
        reply = await self.call("GET", f"/ojs/v1{target}")
        assert reply.status == 200, reply.body
        return reply.json


@pytest.fixture
async def clients(backend: Embedded) -> AsyncIterator[tuple[Client, Client]]:
    """Two clients: one with a key for every queue, and one that may access ``mail-*``."""
    async with open_app(backend, access=AccessControl(Keyring(ACCESS, {}))) as app:
        yield Client(Api(app), "root"), Client(Api(app), "mail")


def job(queue: str, **members: Any) -> dict[str, Any]:
    options = {"queue": queue, **members.pop("options", {})}
    return {"type": "t", "args": [MARK], "options": options, **members}


@dataclass(frozen=True, slots=True)
class Victims:
    """The objects in the inaccessible queue."""

    jobs: dict[str, str]
    workflow: str

    async def seen_by(self, root: Client) -> dict[str, Any]:
        """All of it as it is now."""
        seen: dict[str, Any] = {
            name: (await root.get(f"/jobs/{job_id}"))["job"] for name, job_id in self.jobs.items()
        }
        seen["dead letter"] = await root.get(f"/dead-letter/{self.jobs['dead']}")
        seen["workflow"] = await root.get(f"/workflows/{self.workflow}")
        seen["cron"] = await root.get("/cron/secret-cron")
        seen["paused"] = (await root.get(f"/queues/{OTHER}"))["paused"]
        stats = (await root.get(f"/queues/{OTHER}/stats"))["stats"]
        seen["counts"] = {name: stats[name] for name in ("available", "active", "dead", "depth")}
        for what in ("config", "rate-limit"):
            seen[what] = await root.get(f"/admin/queues/{OTHER}/{what}")
        return seen


async def victims(root: Client) -> Victims:
    """Fill the inaccessible queue with jobs of all kinds."""

    async def settled(how: str, report: dict[str, Any], **options: Any) -> str:
        await root.post("/jobs", job(OTHER, options=options), status=201)
        body = {"queues": [OTHER], "worker_id": "w"}
        job_id = str((await root.post("/workers/fetch", body))["jobs"][0]["id"])
        if how:
            await root.post(f"/workers/{how}", {"job_id": job_id, **report}, status=200)
        return job_id

    found = {
        "active": await settled("", {}),
        "completed": await settled("ack", {"result": MARK}),
        "dead": await settled(
            "nack",
            {"error": {"code": "x", "message": MARK}},
            retry={"max_attempts": 1, "on_exhaustion": "dead_letter"},
        ),
    }
    later = {"scheduled_at": "2099-01-01T00:00:00Z"}
    found["scheduled"] = (await root.post("/jobs", job(OTHER, options=later)))["job"]["id"]
    found["pending"] = (await root.post("/jobs", job(OTHER, options={"pending": True})))["job"][
        "id"
    ]
    found["available"] = (await root.post("/jobs", job(OTHER)))["job"]["id"]
    cron = {"name": "secret-cron", "expression": "0 0 1 1 *", **job(OTHER)}
    await root.post("/cron", cron, status=201)
    steps = {"type": "chain", "name": MARK, "steps": [job(OTHER), job(OTHER)]}
    workflow = str((await root.post("/workflows", steps, status=201))["workflow"]["id"])
    await root.post("/jobs", job(OWN), status=201)
    return Victims(found, workflow)


def bodies(template: str, found: Victims) -> list[Any]:
    """Return bodies with which a route would access the victims."""
    ids = list(found.jobs.values())
    active = found.jobs["active"]
    each: dict[str, list[Any]] = {
        "/jobs": [job(OTHER), job(OWN, options={"unique": {"keys": ["type"]}})],
        "/jobs/batch": [{"jobs": [job(OWN), job(OTHER)]}],
        "/jobs/bulk": [{"jobs": [job(OWN), job(OTHER)]}],
        "/jobs/fetch": [{"queues": [OWN, OTHER], "worker_id": "v"}, {"queues": [OTHER]}],
        "/workers/ack": [{"job_id": job_id} for job_id in ids] + [{"id": active}],
        "/workers/nack": [{"job_id": i, "error": {"message": "x"}} for i in ids] + [{"id": active}],
        "/workers/ack/batch": [{"acks": [{"job_id": job_id} for job_id in ids]}],
        "/workers/nack/batch": [{"nacks": [{"id": job_id} for job_id in ids]}],
        "/workers/progress": [
            {"job_id": job_id, "worker_id": "w", "percentage": 50} for job_id in ids
        ],
        "/workers/heartbeat": [
            {"worker_id": "w", "active_jobs": ids, "visibility_timeout_ms": 3_600_000}
        ],
        "/workflows": [
            {"type": "chain", "name": "n", "steps": [job(OWN), job(OTHER)]},
            {
                "type": "batch",
                "name": "n",
                "jobs": [job(OWN)],
                "callbacks": {"on_complete": job(OTHER)},
            },
        ],
        "/queues": [
            {"name": OTHER, "config": {"max_size": 1}},
            {"name": f"{OTHER}-new"},
        ],
        "/cron": [
            {"name": "new-cron", "expression": "0 0 1 1 *", **job(OTHER)},
            {"name": "secret-cron", "expression": "0 0 1 1 *", **job(OWN)},
        ],
        "/cron/{name}": [{"enabled": False}, {"expression": "1 1 1 1 *"}, {"queue": OWN}],
        "/queues/{name}/purge": [{"confirm": True}],
        "/admin/jobs/bulk/retry": [{"confirm": True}, {"confirm": True, "queue": OTHER}],
        "/admin/dead-letter/retry": [{"confirm": True}, {"confirm": True, "queue": OTHER}],
        "/admin/bulk": [
            {"action": action, "filter": given, "confirm": True}
            for action in ("cancel", "retry", "delete")
            for given in ({}, {"queue": OTHER})
        ]
        + [{"action": "cancel", "filter": {"state": "active"}, "ids": ids, "confirm": True}],
        "/admin/workers/directive": [{"directive": "quiet", "worker_ids": ["w"]}],
        "/admin/queues/{name}/rate-limit": [{"concurrency": 1}],
        "/admin/queues/{name}/config": [{"partitions": 2}],
        "/admin/outbox/retry": [{"all": True}],
        "/rate-limits/{key}": [{"concurrency": 1}],
    }
    for path in ("/jobs/{id}/checkpoint", "/checkpoints/{id}", "/ojs/v1/checkpoints/{id}"):
        each[path] = [{"state": MARK}]
    each["/admin/bulk/{id}/stop"] = [{}]
    each["/jobs/{id}"] = each["/admin/jobs/{id}"] = [{"priority": 9}]
    each["/admin/jobs/{id}/move"] = [{"queue": OWN}, {"queue": OTHER}]
    each["/admin/queues"] = each["/queues"]
    each["/admin/pools/{name}"] = [{"queues": [OWN, OTHER]}, {"queues": {OTHER: {"weight": 1}}}]
    for action in ("cancel", "retry", "delete"):
        each[f"/jobs/bulk/{action}"] = [
            {"job_ids": ids},
            {"filter": {"queue": OTHER}},
            {"filter": {"type": "*"}},
            {"filter": {"type": "*", "state": "active"}},
        ]
        each[f"/admin/jobs/bulk/{action}"] = each.get(f"/admin/jobs/bulk/{action}") or [
            {**body, "confirm": True} for body in each[f"/jobs/bulk/{action}"]
        ]
    each["/dead-letter/retry"] = each["/admin/dead-letter/retry"]
    for path in ("/dead-letter", "/admin/dead-letter"):
        each[path] = [{"confirm": True}, {"confirm": True, "queue": OTHER}]
    each["/dead-letter/purge"] = [{}]
    each["/admin/queues/{name}/jobs"] = [{"states": ["available"], "confirm": True}]
    each["/workers/fetch"] = each["/jobs/fetch"]
    each["/workers/beat"] = each["/workers/heartbeat"]
    each["/crons"] = each["/cron"]
    each["/crons/{name}"] = each["/cron/{name}"]
    each["/rate-limits/{key}/override"] = each["/rate-limits/{key}"]
    return each.get(template.removeprefix("/ojs/v1"), [None])


def targets(method: str, template: str, found: Victims) -> list[str]:
    """The paths of a route that name the victims."""
    names = [OTHER] if "queues/" in template else ["secret-cron"]
    paths, ids = [template], list(found.jobs.values())
    if "{id}" in template:
        ids = [*found.jobs.values(), found.workflow, "w"]
        paths = [template.replace("{id}", job_id) for job_id in ids]
    paths = [re.sub(r"{(name|key)}", name, path) for path in paths for name in names]
    if method == "GET" and "{" not in template:
        paths += [
            f"{path}?{query}"
            for path in paths
            for query in (
                *(f"queue={OTHER}", f"queues={OTHER}", f"queues={OWN},{OTHER}", "limit=200"),
                *(f"query=queue:{OTHER}", "query=args.0:*", f"query=id:{','.join(ids)}"),
            )
        ]
    return paths


async def walk(client: Client, found: Victims) -> list[tuple[str, Reply]]:
    """Call every route with all paths and bodies that name the victims."""
    replies = []
    # Those that change many jobs come last, so that the others find the victims.
    for route in sorted(ROUTES, key=lambda route: "/bulk" in route.template):
        if route.test_hook or route.open:
            continue
        for target in targets(route.method, route.template, found):
            for body in bodies(route.template, found) if route.method != "GET" else [None]:
                reply = await client.call(route.method, target, body)
                replies.append((f"{route.method} {target} {json.dumps(body)}", reply))
    return replies


async def test_no_route_reads_or_changes_a_job_of_another_queue(
    clients: tuple[Client, Client],
) -> None:
    root, mail = clients
    found = await victims(root)
    await mail.post("/workers/fetch", {"queues": [OWN], "worker_id": "own"}, status=200)
    before = await found.seen_by(root)
    for call, reply in await walk(mail, found):
        assert reply.status < 500, (call, reply.body)
        assert reply.status != 401, call
        for job_ in _jobs_in(reply):
            assert job_["queue"].startswith("mail-"), call
        for name in ("active", "completed", "dead", "scheduled", "pending"):
            assert not _tells(reply, found.jobs[name]), call
        if reply.status < 400:
            for hidden in (found.workflow, "secret-cron"):
                assert hidden not in reply.body.decode(), call
    assert await found.seen_by(root) == before
    assert (await root.call("GET", "/ojs/v1/cron/new-cron")).status == 404
    assert (await root.get(f"/queues/{OTHER}"))["available"] == before["counts"]["available"]


def _jobs_in(reply: Reply) -> list[dict[str, Any]]:
    """Every object in a response that looks like a job."""
    found: list[dict[str, Any]] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            # The OpenAPI document has schemas with members of these names.
            if isinstance(value.get("queue"), str) and "type" in value:
                found.append(value)
            for member in value.values():
                look(member)
        elif isinstance(value, list):
            for item in value:
                look(item)

    if reply.body and reply.status < 400:
        look(reply.json)
    return found


def _tells(reply: Reply, job_id: str) -> bool:
    """Return whether a response says more about a job than that it does not exist."""
    if not reply.body or job_id not in reply.body.decode():
        return False
    value = reply.json
    if "error" in value:
        return bool(value["error"]["code"] != "not_found")
    if "total_matched" in value:  # of many ids
        told = {each["reason"] for each in value["items"] if each["job_id"] == job_id}
        return told != {f"job '{job_id}' does not exist"}
    return (
        not all(
            result["status"] == 404
            for result in value.get("results", [])
            if result["job_id"] == job_id
        )
        or "results" not in value
    )


async def test_the_walk_finds_the_effects_of_an_unrestricted_key(
    clients: tuple[Client, Client],
) -> None:
    root, _ = clients
    found = await victims(root)
    before = await found.seen_by(root)
    told = [call for call, reply in await walk(root, found) if MARK in reply.body.decode()]
    for route in ("GET /ojs/v1/jobs", "POST /ojs/v1/workers/fetch", "GET /ojs/v1/dead-letter"):
        assert any(call.startswith(route) for call in told), route
    changed = [name for name, value in before.items() if (await _now(root, found, name)) != value]
    assert {"active", "scheduled", "paused", "config", "rate-limit"} & set(changed)


async def _now(root: Client, found: Victims, name: str) -> Any:
    try:
        return (await found.seen_by(root))[name]
    except AssertionError:
        return None


def test_every_route_checked_by_its_handler_is_walked_with_valid_bodies() -> None:
    dummy = Victims({"active": "x"}, "y")
    for route in ROUTES:
        if route.queue_access is QueueAccess.HANDLER and route.method != "GET":
            assert bodies(route.template, dummy) != [None], route


async def test_a_restricted_key_can_do_its_own_work(clients: tuple[Client, Client]) -> None:
    root, mail = clients
    await victims(root)
    unique = {"unique": {"keys": ["type", "queue"]}}
    own = (await mail.post("/jobs", job("mail-2", options=unique), status=201))["job"]["id"]
    await mail.post("/jobs/batch", {"jobs": [job("mail-2")] * 2}, status=201)
    (held,) = (await mail.post("/workers/fetch", {"queues": ["mail-2"], "worker_id": "m"}))["jobs"]
    assert held["id"] == own
    beat = await mail.post("/workers/heartbeat", {"worker_id": "m", "active_jobs": [own]})
    assert beat["jobs_extended"] == [own] or beat["jobs_extended"] == 1
    acked = await mail.post("/workers/ack/batch", {"acks": [{"job_id": own}]}, status=200)
    assert acked["succeeded"] == 1
    assert (await mail.get(f"/jobs/{own}/result"))["state"] == "completed"
    listed = await mail.get("/jobs?limit=200")
    assert {each["queue"] for each in listed["jobs"]} == {OWN, "mail-2"}
    assert "total" not in listed or listed["total"] == len(listed["jobs"]) == 4
    queues = await mail.get("/queues")
    assert [each["name"] for each in queues["queues"]] == [OWN, "mail-2"]
    assert queues["total"] == 2
    events = (await mail.get("/events?limit=1000"))["events"]
    assert events
    assert MARK not in json.dumps(events)
    assert OTHER not in json.dumps(events)
    steps = {"type": "chain", "name": "n", "steps": [job(OWN), job("mail-2")]}
    workflow = (await mail.post("/workflows", steps, status=201))["workflow"]["id"]
    assert (await mail.get(f"/workflows/{workflow}/progress"))["total"] == 2
    cron = {"name": "own-cron", "expression": "0 0 1 1 *", **job(OWN)}
    for _ in range(2):
        await mail.post("/cron", cron, status=201)
    await mail.post("/cron/own-cron/trigger", status=201)
    await mail.post(f"/queues/{OWN}/pause", status=200)


async def test_lists_show_only_accessible_objects_page_by_page(
    clients: tuple[Client, Client],
) -> None:
    root, mail = clients
    await victims(root)
    own: dict[str, list[str]] = {"workflows": [], "cron": [], "dead-letter": []}
    for number in range(5):
        for queue, client in ((OTHER, root), (f"mail-{number % 2}", mail)):
            steps = [job(queue), job(queue)]
            chain = {"type": "chain", "name": "n", "steps": steps}
            workflow = (await client.post("/workflows", chain, status=201))["workflow"]
            name = f"{queue}.{number}"
            cron = {"name": name, "expression": "0 0 1 1 *", **job(queue)}
            await client.post("/cron", cron, status=201)
            dead = await _dead_letter(client, queue)
            if client is mail:
                own["workflows"].insert(0, workflow["id"])
                own["cron"].append(name)
                own["dead-letter"].append(dead)
    mixed = {"type": "chain", "name": "n", "steps": [job(OWN), job(OTHER)]}
    await root.post("/workflows", mixed, status=201)
    for path, member, key in (
        ("workflows", "workflows", "id"),
        ("cron", "crons", "name"),
        ("crons", "items", "name"),
        ("dead-letter", "jobs", "id"),
        ("admin/dead-letter", "items", "id"),
    ):
        wanted = own[path.removeprefix("admin/").replace("crons", "cron")]
        found: list[str] = []
        cursor = ""
        for _ in range(100):
            page = await mail.get(f"/{path}?limit=2&per_page=2{cursor}")
            found += [entry[key] for entry in page[member]]
            total = page.get("total", page["pagination"].get("total", 0))
            assert total <= len(wanted), path
            following = page["pagination"].get("next_cursor")
            if following is None:
                break
            cursor = f"&cursor={following}"
        assert sorted(found) == sorted(wanted), path
        if path in ("workflows", "cron"):  # the others are sorted in each shard
            assert found == (wanted if path == "workflows" else sorted(wanted)), path


async def _dead_letter(client: Client, queue: str) -> str:
    policy = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    options = {"retry": policy, "priority": 100}
    own = (await client.post("/jobs", job(queue, options=options), status=201))["job"]["id"]
    fetched = await client.post("/workers/fetch", {"queues": [queue], "worker_id": "w"})
    assert [each["id"] for each in fetched["jobs"]] == [own]
    failure = {"job_id": own, "error": {"code": "x", "message": MARK}}
    await client.post("/workers/nack", failure, status=200)
    return str(own)


async def test_sums_count_only_accessible_queues(clients: tuple[Client, Client]) -> None:
    root, mail = clients
    await victims(root)
    await _dead_letter(mail, OWN)
    for path in ("/dead-letter/stats", "/admin/dead-letter/stats"):
        dead = await mail.get(path)
        assert (dead["total"], dead["by_queue"], dead["by_type"]) == (1, {OWN: 1}, {"t": 1})
        assert dead["oldest"] == dead["newest"]
        assert (await root.get(path))["by_queue"] == {OTHER: 1, OWN: 1}
    for query in ("", f"?queue={OWN}"):
        sums = await mail.get(f"/admin/stats{query}")
        assert (sums["queues"], sums["queues_counted"], sums["dead_letters"]) == (1, 1, 1)
        assert (sums["jobs"]["available"], sums["jobs"]["active"]) == (1, 0)
        assert "workers" not in sums
    assert (await mail.call("GET", f"/ojs/v1/admin/stats?queue={OTHER}")).status == 403
    assert (await root.get("/admin/stats"))["workers"] >= 1
    history = "/ojs/v1/admin/stats/history"
    assert (await mail.get(f"/admin/stats/history?queue={OWN}"))["queue"] == OWN
    assert (await mail.call("GET", history)).status == 400
    assert (await mail.call("GET", f"{history}?queue={OTHER}")).status == 403


async def test_a_bulk_retry_skips_inaccessible_jobs(clients: tuple[Client, Client]) -> None:
    root, mail = clients
    found = await victims(root)
    for path in ("/admin/jobs/bulk/retry", "/admin/dead-letter/retry"):
        own = await _dead_letter(mail, OWN)
        named = await mail.call("POST", f"/ojs/v1{path}", {"confirm": True, "queue": OTHER})
        assert named.status == 403
        done = await mail.post(path, {"confirm": True}, status=200)
        assert (done["matched"], done["retried"], done["errors"]) == (1, 1, [])
        assert (await mail.get(f"/jobs/{own}"))["job"]["state"] == "available"
        await mail.post(f"/jobs/{own}/cancel", status=200)
    assert (await root.get(f"/dead-letter/{found.jobs['dead']}"))["job"]["state"] == "discarded"


async def test_a_restricted_key_moves_jobs_between_its_queues_only(
    clients: tuple[Client, Client],
) -> None:
    root, mail = clients
    own = (await mail.post("/jobs", job(OWN), status=201))["job"]["id"]
    other = (await root.post("/jobs", job(OTHER), status=201))["job"]["id"]
    assert (await mail.post(f"/admin/jobs/{own}/move", {"queue": "mail-2"}))["queue"] == "mail-2"
    await mail.post(f"/admin/jobs/{own}/move", {"queue": OTHER}, status=403)
    await mail.post(f"/admin/jobs/{other}/move", {"queue": OWN}, status=404)
    assert (await root.get(f"/jobs/{own}"))["job"]["queue"] == "mail-2"
    assert (await root.get(f"/jobs/{other}"))["job"]["queue"] == OTHER


async def test_refusals_name_the_queue_and_hide_its_jobs(
    clients: tuple[Client, Client],
) -> None:
    root, mail = clients
    found = await victims(root)
    refused = await mail.post("/jobs", job(OTHER), status=403)
    assert refused["error"]["code"] == "permission_denied"
    assert f"'{OTHER}'" in refused["error"]["message"]
    spans = await mail.post("/jobs", job(OWN, options={"unique": {"key": "k"}}), status=403)
    assert "unique.keys" in spans["error"]["message"]
    there = await mail.call("GET", f"/ojs/v1/jobs/{found.jobs['active']}")
    absent_id = found.jobs["active"][:-12] + "0" * 12
    absent = await mail.call("GET", f"/ojs/v1/jobs/{absent_id}")
    assert there.status == absent.status == 404
    assert (
        there.error["message"].replace(found.jobs["active"], absent_id) == absent.error["message"]
    )


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_both_entry_points_enforce_the_queues_of_a_key(
    standalone: Embedded, lane: bool
) -> None:
    async with (
        open_app(standalone, access=AccessControl(Keyring(ACCESS, {}))) as app,
        serving(app, lane=lane) as port,
    ):
        root = Client(Api(app), "root")
        job_id = (await root.post("/jobs", job(OTHER), status=201))["job"]["id"]
        own_id = (await root.post("/jobs", job(OWN), status=201))["job"]["id"]

        async def status(method: str, path: str, body: Any = None) -> int:
            raw = b"" if body is None else json.dumps(body).encode()
            head = (
                f"{method} /ojs/v1{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                f"Authorization: Bearer mail\r\nContent-Type: {OJS_TYPE}\r\n"
                f"Content-Length: {len(raw)}\r\n\r\n"
            )
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(head.encode() + raw)
                with trio.fail_after(30):
                    return int((await stream.receive_some()).split()[1])

        assert await status("POST", "/jobs", job(OTHER)) == 403
        assert await status("POST", "/workers/fetch", {"queues": [OTHER]}) == 403
        assert await status("GET", f"/jobs/{job_id}") == 404
        assert await status("POST", f"/jobs/{job_id}/ack") == 404
        assert await status("POST", "/workers/ack", {"job_id": job_id}) == 404
        assert await status("GET", f"/jobs/{own_id}") == 200
        assert await status("POST", "/workers/fetch", {"queues": [OWN]}) == 200
