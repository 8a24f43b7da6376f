"""Each change by an administrator, each refusal and each reload of keys is a line and an entry."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.bulk.selection import BulkAction, Selection
from ojs_cluster.core.errors import Duplicate
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.webhooks import Secret, Subscription
from ojs_cluster.http.access import audit as http_audit
from ojs_cluster.http.access.audit import Audit
from ojs_cluster.http.app import App
from ojs_cluster.http.handlers.bulk.operations import new_operation_id
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.routing.router import Route
from ojs_cluster.http.traffic import Traffic
from ojs_cluster.server.api_keys import ApiKeys
from ojs_cluster.server.config.settings import AccessSettings
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.bulk_records import operations as bulks
from ojs_cluster.store.features.retention.lifecycle import create_queue
from ojs_cluster.store.features.webhooks import deliveries
from ojs_cluster.store.ground.process_state import subscriptions
from ojs_cluster.store.operators.dashboard.marks import Mark, add_mark
from ojs_cluster.store.operators.dashboard.problem_records import Mute, MuteDetails, mute_problem
from ojs_cluster.store.operators.operations import audit as store_audit
from ojs_cluster.store.operators.operations.audit import AuditStream
from tests.http.api import Api, open_app, serving, until
from tests.http.audits import access, await_entries, capture_audit_lines, entries, lines_of, send
from tests.http.test_metrics import scrape
from tests.server.test_api_keys_file import ONE, TWO, write
from tests.store.pools.shortcuts import make_pool
from tests.store.registered_schemas import register
from tests.store.tenants.shortcuts import limit
from tests.store.test_master_away import names_on, owner
from tests.support.access import accepts
from tests.support.servers import observer, own_server

BULK_CANCEL = "/ojs/v1/jobs/bulk/cancel"
AUDITED = [route for route in ROUTES if route.action]
OPEN = accepts((), allow_insecure=True)
ROOT = {"Authorization": "Bearer root-key"}
BODIES: dict[str, Any] = {
    "queue.purge": {"confirm": True},
    "rate_limit.override": {"concurrency": 1},
    "job.retry_many": {"confirm": True, "filter": {"queue": "none", "type": "t"}},
    "dead_letter.retry_many": {"confirm": True},
    "worker.direct": {"directive": "quiet", "worker_ids": ["w"]},
    "queue.limit": {"concurrency": 1},
    "outbox.retry": {"all": True},
    "queue.configure": {"partitions": 1},
    "job.edit": {"priority": 7},
    "job.move": {"queue": "other"},
    "system.maintenance": {"enabled": False},
    "bulk.retry": {"filter": {"queue": "none", "type": "t"}},
    "bulk.delete": {"filter": {"queue": "none"}, "confirm": True},
    "bulk.cancel": {"filter": {"queue": "none"}, "confirm": True},
    "queue.purge_states": {"states": ["completed"], "confirm": True},
    "dead_letter.purge": {"confirm": True},
    "bulk.create": {"action": "retry", "filter": {"queue": "none", "type": "t"}, "confirm": True},
    "webhook.create": {"url": "https://localhost:1/", "events": ["job.completed"]},
    "webhook.change": {"active": False},
    "schema.register": {"type": "t", "version": "9", "schema": {}},
    "schema.configure": {"mode": "strict"},
    "pool.set": {"queues": ["mail"]},
    "tenant.set": {"limits": {"max_scheduled": 1}},
    "tenant.set_limits": {"max_scheduled": 1},
    "mark.add": {"label": "v1"},
    "problem.mute": {"duration": "PT1H"},
    "search.save": {"query": "state:active"},
}
ABOUT = {
    "job.retry_many": "queue=none type=t",
    "dead_letter.retry_many": "all queues",
    "worker.direct": "quiet: w",
    "outbox.retry": "all",
    "queue.create": "made-*",
    "data.reset": "",
    "system.maintenance": "off",
    "bulk.retry": "retry queue=none type=t",
    "bulk.delete": "delete queue=none",
    "bulk.cancel": "cancel queue=none",
    "queue.purge_states": "purge queue=mail",
    "dead_letter.purge": "delete",
    "bulk.create": "retry queue=none type=t",
    "webhook.create": "sub_*",
    "mark.add": "v1",
    "mark.delete": "v2",
    "schema.register": "t@*",
    "schema.delete": "t@1",
}


def test_every_change_by_an_administrator_has_an_action_and_nothing_else_has() -> None:
    for route in ROUTES:
        changes = route.scope in (Scope.ADMIN_WRITE, Scope.ADMIN_PURGE)
        changes |= route.template == BULK_CANCEL  # a filter may cancel all jobs of a queue
        assert bool(route.action) is changes, route
        assert not (changes and route.method == "GET"), route
        assert not (changes and route.fast), route


async def registered_schema(api: Api, route: Route) -> str:
    """Register version 1 of a schema; return its name in the path of the route."""
    with suppress(Duplicate):
        await register(api.app.store, "t", "1", uri="urn:t")
    return "urn:t" if route.template.endswith("/{name}") else "t"


async def subject_of(api: Api, route: Route) -> str:
    """Make what a call of the route changes, and return its name in the path."""
    if route.action == "queue.delete":
        await create_queue(api.app.store, "spare", accept_existing=True)
        return "spare"
    if "/queues/" in route.template:
        return "mail"
    if "/problems/" in route.template:
        await mute_problem(api.app.store, "queue_paused", Mute(None, MuteDetails()))
        return "queue_paused"
    if "/marks/" in route.template:
        await add_mark(api.app.store, Mark("m", "v2", time.time_ns() // 1_000_000))
        return "m"
    if "/pools/" in route.template:
        await make_pool(api.app.store, a=1)
        return "p"
    if "/tenants/" in route.template:
        await limit(api.app.store, "acme", max_scheduled=9)
        return "acme"
    if "/schemas/" in route.template:
        return await registered_schema(api, route)
    if "/rate-limits/" in route.template:
        await api.enqueue(
            options={"queue": "limited", "rate_limit": {"key": "k", "concurrency": 5}}
        )
        if route.method == "DELETE":
            headers = {**ROOT, "X-Request-Id": "set-up"}
            await api.call("PUT", "/ojs/v1/rate-limits/k", {"concurrency": 1}, headers=headers)
        return "k"
    if route.action == "worker.deregister":
        shard = api.app.store.keys.shard_of_worker("silent")
        key = shard.worker("silent")
        await api.app.store.redis.call(shard.slot, "HSET", key, "last_seen", 1)
        return "silent"
    if "/workers/" in route.template:
        await api.post("/ojs/v1/workers/heartbeat", {"worker_id": "w"}, headers=ROOT)
        return "w"
    if "/bulk/{id}" in route.template:
        operation_id = new_operation_id(api.app)
        selection = Selection((State.DISCARDED,))
        await bulks.create(api.app.store, operation_id, BulkAction.RETRY, selection)
        return operation_id
    if route.action == "webhook.retry_delivery":
        return await dead_delivery(api)
    if "/webhooks/" in route.template:
        return (await subscriptions.create(api.app.store, subscription)).id
    if route.action == "job.cancel_run":
        job_id = str((await api.enqueue(options={"queue": "running"}))["id"])
        fetch = {"queues": ["running"], "worker_id": "not-quiet"}
        reply = await api.post("/ojs/v1/workers/fetch", fetch, headers=ROOT)
        assert reply.json["jobs"][0]["id"] == job_id
        return job_id
    if route.action in ("job.cancel", "job.edit", "job.move"):
        return str((await api.enqueue())["id"])
    retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    await api.enqueue(options={"queue": "dying", "retry": retry})
    fetch = {"queues": ["dying"], "worker_id": "not-quiet"}
    [job] = (await api.post("/ojs/v1/workers/fetch", fetch, headers=ROOT)).json["jobs"]
    nack = {"job_id": job["id"], "error": {"message": "no"}}
    assert (await api.post("/ojs/v1/workers/nack", nack, headers=ROOT)).status == 200
    return str(job["id"])


def subscription(subscription_id: str, now_ms: int) -> Subscription:
    return Subscription(
        id=subscription_id,
        url="https://localhost:1/",
        events=("job.enqueued",),
        secrets=(Secret("x" * 16),),
        created_ms=now_ms,
        updated_ms=now_ms,
    )


async def dead_delivery(api: Api) -> str:
    """Make a delivery of a webhook that has failed for good; return its id."""
    store = api.app.store
    made = await subscriptions.create(store, subscription)
    await store.webhooks.read(store)
    await api.enqueue(options={"queue": "hooks"})
    shard = store.keys.partitions("hooks", 1)[0]
    found = await deliveries.next_due(store, shard, made.id, 1)
    [first] = found.deliveries
    await deliveries.record(store, shard, made.id, first.number, "dead")
    return first.id


class Keyed(Api):
    """Calls with the key that may do everything."""

    async def enqueue(self, **members: Any) -> dict[str, Any]:
        body = {"type": "t", "args": [], **members}
        reply = await self.post("/ojs/v1/jobs", body, headers=ROOT)
        assert reply.status == 201, reply.body
        job: dict[str, Any] = reply.json["job"]
        return job


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_each_route_that_changes_leaves_one_entry_for_success_and_one_for_refusal(
    standalone: Embedded,
    caplog: pytest.LogCaptureFixture,
    lane: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capture_audit_lines(caplog)
    async with (
        open_app(standalone, access=access(), test_hooks=True) as app,
        serving(app, lane=lane) as port,
    ):
        # Each refusal has an entry of its own.
        monkeypatch.setattr(app.audit._forbidden, "_max_sources", 2 * len(AUDITED))
        expected: dict[str, tuple[str, str, str, int, str | None]] = {}
        # The one that deletes everything, the audit included, comes first.
        for number, route in enumerate(sorted(AUDITED, key=lambda route: not route.test_hook)):
            subject = "" if "{" not in route.template else await subject_of(Keyed(app), route)
            path = route.template.removeprefix("/ojs/v1").replace("{id}", subject)
            for parameter in ("{name}", "{key}", "{type}"):
                path = path.replace(parameter, subject)
            path = path.replace("{version}", "2" if route.method == "PUT" else "1")
            body = BODIES.get(route.action)
            if route.action == "queue.create":
                body = {"name": f"made-{number}"}
            calls = (("viewer-key", f"refused-{number}"), ("root-key", f"done-{number}"))
            for key, name in calls:
                status = await send(port, route.method, path, body, key=key, request_id=name)
                if key == "viewer-key":
                    assert status == 403, route
                    assert route.scope is not None
                    scope = route.scope.value
                    expected[name] = (route.action, subject, "permission_denied", status, scope)
                else:
                    assert 200 <= status < 300, route
                    about = ABOUT.get(route.action, subject)
                    expected[name] = (route.action, about, "ok", status, None)
        # Of what came before it, the line is left, and not always the entry.
        del expected["refused-0"]
        apart = {"refused-0", "set-up"}

        async def all_there() -> bool:
            return expected.keys() <= {each["request_id"] for each in await entries(app)}

        await until(all_there)
        stored = [each for each in await entries(app) if each["request_id"] not in apart]
    found = {each["request_id"]: each for each in stored}
    seen = Counter(each["request_id"] for each in stored)
    assert found.keys() == expected.keys()
    assert set(seen.values()) == {1}
    told = Counter(line["request_id"] for line in lines_of(caplog))
    assert told == Counter([*expected, *apart])
    lines = {line["request_id"]: line for line in lines_of(caplog)}
    for name, (action, about, outcome, status, missing) in expected.items():
        for each in (found[name], lines[name]):
            assert each["action"] == action
            assert fnmatchcase(each["object"], about)
            assert (each["outcome"], each["status"]) == (outcome, status)
            assert each.get("missing_scope") == missing
            assert each["principal"] == ("viewer" if missing else "root")
            assert each["address"] == "127.0.0.1"
        assert found[name]["time"].endswith("Z")
        assert found[name]["id"].startswith("r-" if missing else "c-")


@pytest.mark.parametrize(
    ("target", "body", "headers", "outcome", "status"),
    [
        ("/ojs/v1/admin/jobs/x/retry", None, {}, "not_found", 404),
        ("/ojs/v1/queues/q/purge", b"{", {}, "invalid_payload", 400),
        ("/ojs/v1/queues/q/pause", b"x" * 3_000_000, {}, "payload_too_large", 413),
        ("/ojs/v1/queues/q/pause", None, {"OJS-Version": "7"}, "unsupported", 422),
        ("/ojs/v1/queues/q/pause", None, {"OJS-Durability": "x"}, "invalid_request", 400),
    ],
)
async def test_a_change_that_fails_leaves_its_error(
    standalone: Embedded, target: str, body: Any, headers: Any, outcome: str, status: int
) -> None:
    async with open_app(standalone, access=access()) as app:
        reply = await Api(app).post(target, body, headers={**ROOT, **headers})
        assert reply.status == status
        [entry] = await await_entries(app, 1)
        assert (entry["outcome"], entry["status"]) == (outcome, status)
        assert (entry["principal"], entry["object"]) == ("root", target.split("/")[-2])


async def test_a_queue_out_of_reach_and_a_used_up_rate_are_refusals(standalone: Embedded) -> None:
    async with open_app(standalone, access=access()) as app:
        api = Api(app)
        for _ in range(3):
            headers = {"Authorization": "Bearer mail-key"}
            assert (await api.post("/ojs/v1/queues/other/pause", headers=headers)).status == 403
        headers = {"Authorization": "Bearer slow-key"}
        assert (await api.post("/ojs/v1/queues/q/pause", headers=headers)).status == 200
        assert (await api.post("/ojs/v1/queues/q/pause", headers=headers)).status == 429
        found = await await_entries(app, 3)
        told = [(each["principal"], each["outcome"], each.get("count")) for each in found]
        assert sorted(told, key=str) == [
            ("mail", "permission_denied", 1),
            ("slow", "ok", None),
            ("slow", "rate_limited", 1),
        ]


async def test_a_cancellation_by_filter_leaves_an_entry_and_one_by_ids_does_not(
    standalone: Embedded,
) -> None:
    async with open_app(standalone, access=access()) as app:
        api = Keyed(app)
        job_id = (await api.enqueue())["id"]
        bodies: list[dict[str, Any]] = [
            {"job_ids": [job_id]},
            {"filter": {"queue": "q", "type": "t"}},
            {"filter": {"states": []}},
        ]
        for body in bodies:
            await api.post(BULK_CANCEL, body, headers=ROOT)
        found = await await_entries(app, 2)
        told = [(each["action"], each["object"], each["status"]) for each in found]
        assert sorted(told) == [
            ("bulk.cancel", "", 400),
            ("bulk.cancel", "cancel queue=q type=t", 200),
        ]


async def test_a_refused_read_names_the_scope_that_is_missing(standalone: Embedded) -> None:
    async with open_app(standalone, access=access()) as app:
        headers = {"Authorization": "Bearer viewer-key"}
        assert (await Api(app).post("/ojs/v1/workers/fetch", {}, headers=headers)).status == 403
        [entry] = await await_entries(app, 1)
        assert entry["action"] == "POST /ojs/v1/workers/fetch"
        assert entry["missing_scope"] == "ojs:worker"


async def test_producers_and_workers_leave_nothing(
    standalone: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    capture_audit_lines(caplog)
    async with open_app(standalone, access=access()) as app:
        api = Keyed(app)
        await api.enqueue()
        body = {"queues": ["default"], "worker_id": "w"}
        [job] = (await api.post("/ojs/v1/workers/fetch", body, headers=ROOT)).json["jobs"]
        await api.post("/ojs/v1/workers/ack", {"job_id": job["id"]}, headers=ROOT)
        await api.get("/ojs/v1/admin/stats", headers=ROOT)
        await api.get("/ojs/v1/jobs/nowhere", headers=ROOT)
        await api.call("OPTIONS", "/ojs/v1/queues/q/pause", headers=ROOT)
        await api.post("/ojs/v1/queues/q/pause", headers=ROOT)
        assert [each["action"] for each in await await_entries(app, 1)] == ["queue.pause"]
    assert len(lines_of(caplog)) == 1


async def test_without_keys_changes_are_those_of_anonymous(standalone: Embedded) -> None:
    async with open_app(standalone) as app:
        await Api(app).post("/ojs/v1/queues/q/pause")
        assert [each["principal"] for each in await await_entries(app, 1)] == ["anonymous"]


async def test_names_are_one_short_line(
    standalone: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    capture_audit_lines(caplog)
    async with open_app(standalone) as app:
        api = Api(app)
        await api.call("PUT", "/ojs/v1/rate-limits/a%0Aroot:%20ok%00", {"concurrency": 1})
        await api.call("PUT", f"/ojs/v1/rate-limits/{'x' * 5000}", {"concurrency": 1})
        found = await await_entries(app, 2)
    assert found[0]["object"] == r"a\nroot: ok\x00"
    assert len(found[1]["object"]) == 256
    assert [line["object"] for line in lines_of(caplog)] == [each["object"] for each in found]


async def test_a_handler_that_is_cut_off_leaves_an_entry(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_app(standalone) as app:
        waits = trio.Event()

        async def hang(*_: Any, **__: Any) -> Any:
            waits.set()
            await trio.sleep_forever()

        monkeypatch.setattr("ojs_cluster.store.engine.queues.pauses.pause_or_resume", hang)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Api(app).post, "/ojs/v1/queues/q/pause")
            await waits.wait()
            nursery.cancel_scope.cancel()
        [entry] = await await_entries(app, 1)
        assert (entry["outcome"], entry["object"]) == ("interrupted", "q")


# -- what the endpoint answers ------------------------------------------------------------------


async def test_the_endpoint_gives_pages_and_filters(any_api: Api) -> None:
    api, path = any_api, "/ojs/v1/admin/audit"
    for number in range(6):
        verb = ("pause", "resume")[number % 2]
        await api.post(f"/ojs/v1/queues/q{number}/{verb}")
    await await_entries(api.app, 6)
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await api.get(f"{path}?limit=4&cursor={cursor}")).json
        seen += [entry["object"] for entry in page["entries"]]
        if not page["pagination"]["has_more"]:
            break
        cursor = page["pagination"]["next_cursor"]
    assert seen == ["q5", "q4", "q3", "q2", "q1", "q0"]

    async def objects(query: str) -> list[str]:
        return [entry["object"] for entry in (await api.get(f"{path}?{query}")).json["entries"]]

    assert await objects("action=queue.resume") == ["q5", "q3", "q1"]
    assert await objects("principal=anonymous&limit=1") == ["q5"]
    assert await objects("object=q3") == ["q3"]
    assert await objects("principal=root") == []
    assert await objects("since=2001-01-01T00:00:00Z&limit=2") == ["q5", "q4"]
    assert await objects("since=2999-01-01T00:00:00Z") == []
    for wrong in ("limit=0", "limit=x", "cursor=x", "since=yesterday", "since=%2BPT1H"):
        reply = await api.get(f"{path}?{wrong}")
        assert (reply.status, reply.error["code"]) == (400, "invalid_request"), wrong


async def test_reading_needs_the_scope_and_every_queue(standalone: Embedded) -> None:
    async with open_app(standalone, access=access()) as app:
        for key, status in (("viewer-key", 200), ("mail-key", 403), ("none", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            reply = await Api(app).get("/ojs/v1/admin/audit", headers=headers)
            assert reply.status == status


# -- Redis is away ------------------------------------------------------------------------------


def counted_appends(monkeypatch: pytest.MonkeyPatch) -> list[tuple[AuditStream, int, float]]:
    """Return a list that gets stream, number of entries and time of each call to Redis."""
    calls: list[tuple[AuditStream, int, float]] = []
    append = store_audit.append_entries

    async def counted(store: Any, stream: AuditStream, given: Any, *args: Any, **more: Any) -> None:
        calls.append((stream, len(given), time.monotonic()))
        await append(store, stream, given, *args, **more)

    monkeypatch.setattr(http_audit, "append_entries", counted)
    return calls


async def test_while_redis_is_away_lines_are_written_and_entries_wait_in_a_bounded_queue(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_audit, "MAX_QUEUED", 8)
    monkeypatch.setattr(http_audit, "_UNAVAILABLE_PAUSE_S", 0.05)
    calls = counted_appends(monkeypatch)

    async def tried_twice() -> bool:  # a call has been given up, and is made again
        return len([stream for stream, _, _ in calls if stream is AuditStream.CHANGES]) >= 2

    capture_audit_lines(caplog)
    redis = {"call_timeout_s": 0.5, "reply_timeout_s": 0.3, "connect_timeout_s": 0.3}
    async with open_app(standalone, access=access(), redis=redis) as app:
        api = Api(app)
        standalone.pause(standalone.nodes[0])
        try:
            for number in range(20):
                app.audit.record_reload("ok", {"added": [f"key-{number}"]})
            for _ in range(20):  # needs nothing of Redis
                assert (await api.get("/ojs/manifest")).status == 401
            assert len(lines_of(caplog)) == 21
            assert app.traffic.total("audit_dropped") == 12
            await until(tried_twice)
            assert app.traffic.total("audit_written") == 0
        finally:
            standalone.resume(standalone.nodes[0])
        found = await await_entries(app, 9)
        kept = [each["added"] for each in found if each["action"] == "keys.reload"]
        assert kept == [[f"key-{number}"] for number in range(8)]

        async def written() -> bool:
            return app.traffic.total("audit_written") == 9

        await until(written)
        assert len(await entries(app)) == 9
        count = await scrape(Api(App(app.store, app.settings, OPEN, traffic=app.traffic)))
        assert count("ojs_audit_entries_total", outcome="written") == 9
        assert count("ojs_audit_entries_total", outcome="dropped") == 12


@pytest.mark.usefixtures("usual_times")
async def test_a_change_does_not_wait_for_the_master_of_the_audit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    capture_audit_lines(caplog)
    waits_long = dict.fromkeys(("call_timeout_s", "reply_timeout_s"), 120.0)
    with own_server(tmp_path, node_timeout_ms=120_000) as server:
        async with open_app(server, redis=waits_long) as app:
            api, store = Api(app), app.store
            master = owner(server, store, store.keys.meta.slot)
            queue = next(names_on(server, store, master, here=False))
            assert (await api.post(f"/ojs/v1/queues/{queue}/resume")).status == 200
            await await_entries(app, 1)
            server.pause(master)
            try:
                with trio.fail_after(60):
                    for _ in range(10):
                        assert (await api.post(f"/ojs/v1/queues/{queue}/pause")).status == 200
            finally:
                server.resume(master)
            assert len(lines_of(caplog)) == 11
            assert len(await await_entries(app, 11)) == 11


async def test_the_writer_makes_few_calls_however_much_there_is(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted_appends(monkeypatch)
    async with open_app(standalone) as app:
        for _ in range(250):
            app.audit.record_reload("ok", {})
        await await_entries(app, 250)
    assert [size for _, size, _ in calls] == [100, 100, 50]
    times = [at for _, _, at in calls]
    assert all(later - earlier >= 0.2 for earlier, later in pairwise(times))


async def test_remaining_entries_are_written_when_the_process_ends(standalone: Embedded) -> None:
    audit = Audit()
    async with open_app(standalone, access=access()) as app:
        other = App(app.store, app.settings, app.access, audit=audit)
        for _ in range(3):
            assert (await Api(other).get("/ojs/manifest")).status == 401
        await audit.finish(app.store)
        assert [each["count"] for each in await entries(app)] == [1, 2]


async def test_an_audit_stream_of_another_type_fails_no_request(standalone: Embedded) -> None:
    async with open_app(standalone) as app:
        with observer(standalone) as db:
            db.set(app.store.keys.meta.audit, "x")
            assert (await Api(app).post("/ojs/v1/queues/q/pause")).status == 200

            async def dropped() -> bool:
                return app.traffic.total("audit_dropped") == 1

            await until(dropped)
            db.delete(app.store.keys.meta.audit)
        assert (await Api(app).post("/ojs/v1/queues/q/pause")).status == 200
        assert len(await await_entries(app, 1)) == 1


# -- key reloads, access lines --------------------------------------------------------------------


async def test_each_reload_of_the_keys_names_what_has_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    capture_audit_lines(caplog)
    file = tmp_path / "keys.toml"
    write(file, ONE)
    settings = AccessSettings(api_key="k", keys_file=str(file))
    traffic = Traffic()
    keys = ApiKeys(settings, {}, Audit(traffic=traffic))
    await keys.load(trio.Event())
    assert lines_of(caplog) == []  # the first load is none
    for change in (
        lambda: None,
        lambda: write(file, TWO),
        lambda: write(file, TWO, preset="viewer"),
        lambda: file.write_text(file.read_text().replace('"ci"', '"cd"')),
        lambda: file.write_text("["),
        lambda: write(file, ONE),
    ):
        change()
        await keys._reload()
    told = [
        (line["outcome"], *(line.get(how) for how in ("added", "removed", "changed")))
        for line in lines_of(caplog)
    ]
    assert told == [
        ("ok", None, None, None),
        ("ok", None, None, ["ci"]),
        ("ok", None, None, ["ci"]),
        ("ok", ["cd"], ["ci"], None),
        ("invalid_key_file", None, None, None),
        ("ok", ["ci"], ["cd"], None),
    ]
    assert {line["action"] for line in lines_of(caplog)} == {"keys.reload"}
    assert ONE not in caplog.text
    assert TWO not in caplog.text


async def test_access_lines_name_the_principal_and_the_address(
    standalone: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ojs.http")
    async with open_app(standalone, access=access()) as app, serving(app, lane=True) as port:
        await send(port, "POST", "/jobs", {"type": "t", "args": []})
        await send(port, "POST", "/jobs", {"type": "t", "args": []}, key="wrong")
        await send(port, "GET", "/queues", key="viewer-key")
    told = [
        (vars(record)["status"], vars(record)["principal"], vars(record)["address"])
        for record in caplog.records
        if record.name == "ojs.http"
        and record.levelno == logging.DEBUG
        and "status" in vars(record)
    ]
    assert told == [
        (201, "root", "127.0.0.1"),
        (401, None, "127.0.0.1"),
        (200, "viewer", "127.0.0.1"),
    ]
