"""The metrics at /metrics, read with the parser of the Prometheus client library."""

from __future__ import annotations

import gzip
import mmap
import threading
from dataclasses import replace
from typing import Any

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from ojs_cluster.http import exposition as http_exposition
from ojs_cluster.http.exposition import exposition
from ojs_cluster.http.messages import Request
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.traffic import BOUNDS_S, Traffic
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.server.http.scheduler_http import scheduler_families
from ojs_cluster.store.engine.outbox.outbox import ATTEMPTS
from ojs_cluster.store.features.webhooks import deliveries
from ojs_cluster.store.operators.dashboard.marks import Mark, add_mark
from ojs_cluster.store.operators.dashboard.problem_records import (
    ProblemDescription,
    record_problems,
)
from ojs_cluster.store.operators.operations import metrics
from ojs_scheduler.stats import Stats
from tests.http.api import Api, Reply, open_app
from tests.store.webhook_jobs import subscribe
from tests.support.servers import observer
from tests.test_docs import ROOT, rows

KEY = "k" * 32
WAIT_BUCKET = "ojs_job_queue_time_seconds_bucket"
OBS_005 = "0.01 0.05 0.1 0.5 1 5 10 30 60 300 600 1800 3600"
"""The bounds that ojs-observability 8.2 recommends for this histogram."""


class Scrape:
    """The samples of one response."""

    def __init__(self, reply: Reply) -> None:
        assert reply.status == 200
        assert reply.headers["content-type"].startswith("text/plain")
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parse(reply.body.decode())
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]

    def labels(self, name: str) -> set[str]:
        """Return the values of a metric's only label."""
        return {v for key, labels in self.samples if key == name for _, v in labels}


async def scrape(api: Api) -> Scrape:
    """Scrape a process without cached metrics."""
    fresh = replace(api.app, traffic=api.app.traffic)
    return Scrape(await Api(fresh).get("/metrics"))


async def test_failed_jobs_are_those_that_were_discarded(any_api: Api) -> None:
    """The meaning of ojs-observability 8.1. Failed attempts have a metric of their own."""
    api = any_api
    for _ in range(2):
        job = await api.active("mail", options={"retry": {"max_attempts": 1}})
        await api.post("/ojs/v1/workers/nack", {"job_id": job["id"], "error": {"message": "no"}})
    stopped = await api.enqueue(options={"queue": "mail"})
    await api.delete(f"/ojs/v1/jobs/{stopped['id']}")
    seen = await scrape(api)
    assert seen("ojs_job_failed_total", queue="mail") == 2
    assert seen("ojs_job_failed_attempts_total", queue="mail") == 2
    assert seen("ojs_job_retried_total", queue="mail") == 0
    assert seen("ojs_job_cancelled_total", queue="mail") == 1
    assert seen("ojs_job_expired_total", queue="mail") == 0


@pytest.fixture
def counted(any_api: Api) -> Api:
    return Api(replace(any_api.app, traffic=Traffic(ROUTES)))


async def test_jobs_are_counted_through_their_lives(any_api: Api) -> None:
    api = any_api
    for _ in range(3):
        await api.enqueue(options={"queue": "mail"})
    jobs = [{"type": "t", "args": [], "options": {"queue": name}} for name in ("mail", "b")]
    assert (await api.post("/ojs/v1/jobs/batch", {"jobs": jobs})).status == 201
    first, second = await api.fetch("mail", count=2)
    await api.post("/ojs/v1/workers/heartbeat", {"worker_id": "w1", "active_jobs": []})
    assert (await scrape(api))("ojs_jobs_active") == 2
    at_ms = api.app.store.clock.now_ms()
    await add_mark(api.app.store, Mark("m", "v42", at_ms))
    await api.post("/ojs/v1/workers/ack", {"job_id": first["id"]})
    await api.post("/ojs/v1/workers/nack", {"job_id": second["id"], "error": {"message": "no"}})
    await api.app.store.job_counts.flush(api.app.store)

    seen = await scrape(api)

    assert seen("ojs_job_enqueued_total", queue="mail") == 4
    assert seen("ojs_job_completed_total", queue="mail") == 1
    assert seen("ojs_job_failed_attempts_total", queue="mail") == 1
    assert seen("ojs_job_retried_total", queue="mail") == 1
    assert seen("ojs_job_failed_total", queue="mail") == 0
    assert seen("ojs_job_type_enqueued_total", queue="mail", type="test.echo") == 3
    assert seen("ojs_job_type_completed_total", queue="mail", type="test.echo") == 1
    assert seen("ojs_job_duration_seconds_count", queue="mail") == 1
    assert seen("ojs_job_duration_seconds_sum", queue="mail") >= 0
    assert seen("ojs_job_duration_seconds_bucket", queue="mail", le="+Inf") == 1
    assert seen("ojs_job_queue_time_seconds_count", queue="mail") == 2
    bounds = {dict(labels)["le"] for name, labels in seen.samples if name == WAIT_BUCKET}
    assert bounds == {*OBS_005.split(), "+Inf"}
    assert seen("ojs_queue_depth", queue="mail") == 3
    assert seen("ojs_queue_jobs", queue="mail", state="available") == 2
    assert seen("ojs_queue_jobs", queue="mail", state="retryable") == 1
    assert seen("ojs_queue_jobs", queue="mail", state="completed") == 1
    assert seen("ojs_job_enqueued_total", queue="b") == 1
    assert seen("ojs_queues") == 2
    assert seen("ojs_bulk_operations") == 0
    assert seen("ojs_jobs_active") == 0
    assert seen("ojs_workers", status="running") == 1
    assert seen("ojs_mark_timestamp_seconds", label="v42") == pytest.approx(at_ms / 1000)
    for address in api.app.store.redis.topology.masters:
        assert seen("ojs_redis_memory_bytes", master=str(address)) > 1e5
        assert seen("ojs_redis_memory_limit_bytes", master=str(address)) == 0
    assert seen("ojs_redis_up") == seen("ojs_redis_covered") == 1


async def test_the_oldest_job_is_found_whatever_its_priority(any_api: Api) -> None:
    shard = any_api.app.store.keys.shard_of_queue("mail")
    for priority in (100, 0, 7, -100, 0):
        job = await any_api.enqueue(options={"queue": "mail", "priority": priority})
        if priority == -100:
            await any_api.app.store.redis.call(
                shard.slot, "HINCRBY", shard.job(job["id"]), "c", -3_600_000
            )

    age = (await scrape(any_api))("ojs_queue_oldest_available_age_seconds", queue="mail")

    assert 3600 <= age < 7200
    assert len(await any_api.fetch("mail", count=9)) == 5
    after = await scrape(any_api)
    assert after("ojs_queue_oldest_available_age_seconds", queue="mail") == 0


async def test_pauses_dead_letters_and_late_work_are_seen(any_api: Api) -> None:
    options = {"queue": "mail", "max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}
    job = await any_api.active("mail", options=options)
    await any_api.post("/ojs/v1/workers/nack", {"job_id": job["id"], "error": {"message": "no"}})
    await any_api.post("/ojs/v1/queues/mail/pause")
    shard = any_api.app.store.keys.shard_of_queue("mail")
    await any_api.app.store.redis.call(shard.slot, "ZADD", shard.due, 1, "x")

    seen = await scrape(any_api)

    assert seen("ojs_queue_paused", queue="mail") == 1
    assert seen("ojs_queue_dead_letters", queue="mail") == 1
    assert seen("ojs_scheduler_late_seconds", loop="promote") > 1e6
    assert seen("ojs_scheduler_late_seconds", loop="reap") == 0


async def test_outbox_entries_and_dead_letters_are_counted_over_all_shards(any_api: Api) -> None:
    store = any_api.app.store
    for index in (1, 5):
        shard = store.keys.shard(index)
        for number in (1, 2, 3):
            await store.redis.call(shard.slot, "HSET", shard.outbox, number, f"k {ATTEMPTS} p")
            key = shard.outbox_dead_letters if number == 3 else shard.outbox_due
            await store.redis.call(shard.slot, "ZADD", key, 1, number)

    seen = await scrape(any_api)

    assert (seen("ojs_outbox_waiting"), seen("ojs_outbox_dead_letters")) == (4, 2)
    assert seen("ojs_scheduler_late_seconds", loop="outbox") > 1e6


async def test_the_number_of_shown_queues_is_bounded_and_all_are_counted(
    standalone: Embedded,
) -> None:
    async with open_app(standalone, metrics_queues=60) as app:
        jobs = [{"type": "t", "args": [], "options": {"queue": f"q{n:03}"}} for n in range(70)]
        assert (await Api(app).post("/ojs/v1/jobs/batch", {"jobs": jobs})).status == 201
        seen = await scrape(Api(app))
    assert seen.labels("ojs_queue_depth") == {f"q{n:03}" for n in range(60)}
    assert seen("ojs_queues") == 70


async def test_stuck_queues_have_gauges_beyond_the_shown_ones(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_MAX_WAITING", 2)
    async with open_app(standalone, metrics_queues=1) as app:
        api, keys = Api(app), app.store.keys
        for queue, waits_ms in (("a", 0), ("busy", 0), ("y", 7_200_000), ("z", 3_600_000)):
            job = await api.enqueue(options={"queue": queue})
            shard = keys.shard_of_queue(queue)
            await app.store.redis.call(shard.slot, "HINCRBY", shard.job(job["id"]), "c", -waits_ms)
        await api.post("/ojs/v1/queues/y/pause")
        seen = await scrape(api)
        assert seen.labels("ojs_job_enqueued_total") == {"a"}
        assert seen.labels("ojs_queue_oldest_available_age_seconds") == {"a", "y", "z"}
        assert 3600 <= seen("ojs_queue_oldest_available_age_seconds", queue="z") < 7200
        assert seen("ojs_queue_paused", queue="y") == 1
        assert seen("ojs_queue_paused", queue="z") == 0
        assert seen("ojs_queues_unwatched") == 0
        await api.enqueue(options={"queue": "busy"})
        await api.post("/ojs/v1/queues/busy/pause")
    async with open_app(standalone, metrics_queues=1) as app:
        seen = await scrape(Api(app))
    assert seen.labels("ojs_queue_paused") == {"a", "y", "z"}
    assert seen("ojs_queues_unwatched") == 1


async def test_a_large_scrape_is_compressed_for_clients_that_accept_it(
    standalone: Embedded,
) -> None:
    async with open_app(standalone) as app:
        jobs = [{"type": "t", "args": [], "options": {"queue": f"q{n:03}"}} for n in range(60)]
        await Api(app).post("/ojs/v1/jobs/batch", {"jobs": jobs})
        plain = await Api(app).get("/metrics")
        refused = await Api(app).get("/metrics", headers={"accept-encoding": "gzip;q=0, br"})
        small = await Api(app).get("/metrics", headers={"accept-encoding": "br, gzip;q=0.5"})
    assert "content-encoding" not in plain.headers.keys() | refused.headers.keys()
    assert small.headers["content-encoding"] == "gzip"
    assert len(small.body) < len(plain.body) / 10
    assert b'ojs_queue_depth{queue="q059"} 1.0' in gzip.decompress(small.body)


async def test_tenants_with_settings_have_metrics_up_to_a_number(standalone: Embedded) -> None:
    async with open_app(standalone, metrics_tenants=2) as app:
        api = Api(app)
        for tenant in ("a", "b", "c", "unset"):
            if tenant != "unset":
                await api.call("PUT", f"/ojs/v1/admin/tenants/{tenant}", {})
            job = {"type": "t", "args": [], "options": {"queue": f"q-{tenant}"}}
            await api.post("/ojs/v1/jobs", job, headers={"X-OJS-Tenant": tenant})
        fetched = await api.post("/ojs/v1/workers/fetch", {"queues": ["q-a"], "worker_id": "w"})
        await api.post("/ojs/v1/workers/ack", {"job_id": fetched.json["jobs"][0]["id"]})
        seen = await scrape(api)
    assert seen.labels("ojs_tenant_jobs_enqueued_total") == {"a", "b"}
    assert seen("ojs_tenant_jobs", tenant_id="a", state="completed") == 1
    assert seen("ojs_tenant_jobs", tenant_id="b", state="available") == 1
    assert seen("ojs_tenant_jobs_processed_total", tenant_id="a") == 1
    assert seen("ojs_tenant_jobs_failed_total", tenant_id="b") == 0


async def test_concurrent_scrapes_share_one_read_of_redis(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    original = metrics.collect

    async def collect(store: Any, most: int, **options: Any) -> Any:
        asked.append(most)
        return await original(store, most, **options)

    monkeypatch.setattr(metrics, "collect", collect)
    monkeypatch.setattr(metrics, "CACHED_S", 3600.0)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(api.get, "/metrics")
    assert len(asked) == 1


async def test_a_scrape_succeeds_while_redis_is_unavailable(api: Api, standalone: Embedded) -> None:
    with observer(standalone) as db:
        db.flushall()
        db.set(api.app.store.keys.meta.queues, "not a sorted set")
        assert (await api.get("/metrics")).status == 503  # wrong data is told, not hidden
    async with open_app(standalone, health_timeout_s=0.0) as app:
        seen = await scrape(Api(app))
    assert seen("ojs_redis_up") == 0
    assert not seen.labels("ojs_queue_depth")


async def test_a_scraper_needs_the_key_unless_the_metrics_are_open(standalone: Embedded) -> None:
    bearer = {"authorization": f"Bearer {KEY}"}
    for open_, headers, status in ((False, {}, 401), (False, bearer, 200), (True, {}, 200)):
        async with open_app(standalone, api_keys=(KEY,), metrics_open=open_) as app:
            assert (await Api(app).get("/metrics", headers=headers)).status == status
            assert (await Api(app).get("/ojs/v1/queues")).status == 401


async def test_openmetrics_is_served_on_request(api: Api) -> None:
    await api.enqueue()
    accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    reply = await api.get("/metrics", headers={"accept": accept})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    names = {
        family.name
        for family in parse_open(  # type: ignore[no-untyped-call]
            reply.body.decode()
        )
    }
    assert {"ojs_job_enqueued", "ojs_queue_depth", "ojs_http_requests"} <= names


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("text/plain", "text/plain"),
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=abc", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain; version=1.é", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
async def test_the_format_is_named_as_the_scraper_wants_it(
    api: Api, accept: str, content_type: str
) -> None:
    reply = await api.get("/metrics", headers={"accept": accept})
    assert reply.headers["content-type"] == content_type
    assert Scrape(reply).samples["ojs_redis_up", frozenset()] == 1


async def test_requests_are_counted_by_route_never_by_path(counted: Api) -> None:
    job = await counted.enqueue()
    await counted.get(f"/ojs/v1/jobs/{job['id']}")
    await counted.get("/ojs/v1/jobs/01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee")
    for number in range(3):
        await counted.get(f"/nowhere/{number}")
    seen = Scrape(await counted.get("/metrics"))

    route = {"method": "GET", "route": "/ojs/v1/jobs/{id}"}
    assert seen("ojs_http_requests_total", **route, status="2xx") == 1
    assert seen("ojs_http_requests_total", **route, status="4xx") == 1
    other = {"method": "other", "route": "other"}
    assert seen("ojs_http_requests_total", **other, status="4xx") == 3
    assert seen("ojs_http_request_duration_seconds_count", **route) == 2
    assert seen("ojs_http_request_duration_seconds_bucket", **route, le="+Inf") == 2


def test_processes_are_summed_and_a_replacement_continues_the_counters() -> None:
    get, post = ROUTES[0], ROUTES[7]
    shared = memoryview(mmap.mmap(-1, Traffic.size(ROUTES, 3)))
    one, two = Traffic(ROUTES, shared, 0), Traffic(ROUTES, shared, 2)
    one.count(get, 200, 0.0001)
    two.count(get, 503, 1000.0)
    Traffic(ROUTES, shared, 2).count(get, 200, 0.02)
    two.count(post, 201, 0.3)

    rows = {(row.method, row.template): row for row in one.rows()}

    assert rows.keys() == {(r.method, r.template) for r in (get, post)}
    row = rows[get.method, get.template]
    assert row.statuses == {"2xx": 2, "5xx": 1}
    assert (row.buckets[0], row.buckets[-1], sum(row.buckets)) == (1, 1, 3)
    assert len(row.buckets) == len(BOUNDS_S) + 1
    assert row.seconds == pytest.approx(1000.0201)


async def test_a_thread_builds_the_text_of_the_queues_once_for_each_read_and_format(
    counted: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await counted.enqueue()
    built_in: list[int] = []

    def build(*args: Any) -> bytes:
        built_in.append(threading.get_ident())
        return encode_numbers(*args)

    encode_numbers = http_exposition._encoded_numbers
    monkeypatch.setattr(http_exposition, "_encoded_numbers", build)
    replies = []

    async def get(accept: str) -> None:
        replies.append((await counted.get("/metrics", headers={"accept": accept})).body.decode())

    async with trio.open_nursery() as nursery:
        for accept in ("text/plain", "application/openmetrics-text;version=1.0.0") * 3:
            nursery.start_soon(get, accept)
    assert len(built_in) == 2
    assert threading.get_ident() not in built_in
    for reply in replies:
        families = list((parse_open if reply.endswith("# EOF\n") else parse)(reply))
        names = [family.name for family in families]
        assert len(names) == len(set(names))
        assert {"ojs_http_requests", "ojs_queue_depth", "ojs_redis_up"} <= set(names)
    assert sum(reply.count("# EOF\n") for reply in replies) == 3


async def test_the_document_lists_what_is_served_with_its_labels(counted: Api) -> None:
    await counted.enqueue()
    await counted.call("PUT", "/ojs/v1/admin/tenants/acme", {})
    await counted.app.store.job_counts.flush(counted.app.store)
    problem = ProblemDescription("old_jobs", "critical", "Old jobs")
    await record_problems(counted.app.store, "x", {"old_jobs": (1, problem)}, is_complete=True)
    await add_mark(counted.app.store, Mark("m", "v42", counted.app.store.clock.now_ms()))
    await counted.get("/ojs/v1/queues")
    text = (await counted.get("/metrics")).body.decode()
    stats = Stats()
    stats.loop("promote")
    own = (await exposition(Request("GET", "/metrics"), scheduler_families(stats))).body.decode()
    served = {
        family.name + ("_total" if family.type == "counter" else ""): {
            frozenset(sample.labels) - {"le"} for sample in family.samples
        }
        for family in (*parse(text), *parse(own))
    }
    listed = {
        name.strip("`"): {frozenset(labels.replace("`", "").replace(",", " ").split())}
        for name, labels, *_ in rows((ROOT / "docs" / "metrics.md").read_text())
    }
    assert served == listed


async def test_deliveries_of_webhooks_are_counted_by_their_status(any_api: Api) -> None:
    store = any_api.app.store
    made = await subscribe(store, "job.enqueued")
    await store.webhooks.read(store)
    for _ in range(5):
        await any_api.enqueue()
    [shard] = store.keys.partitions("default", 1)
    batch = await deliveries.next_due(store, shard, made.id, 4)
    outcomes: tuple[Any, ...] = ("delivered", "delivered", "failed", "dead")
    for each, outcome in zip(batch.deliveries, outcomes, strict=True):
        await deliveries.record(store, shard, made.id, each.number, outcome, wait_ms=60_000)
    seen = await scrape(any_api)
    found = {
        status: seen("ojs_webhook_deliveries_total", status=status)
        for status in ("delivered", "failed", "dead", "dropped")
    }
    assert found == {"delivered": 2, "failed": 1, "dead": 1, "dropped": 0}
    assert seen("ojs_webhook_pending") == 2
