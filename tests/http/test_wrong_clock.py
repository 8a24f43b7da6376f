"""The clock of an API process is ten minutes wrong, and every decision is that of Redis's clock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import pytest

from ojs_cluster.core.access.scopes import PRESETS, Keyring, Principal, digest
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.statistics.record_minutes import MinuteRecorder
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.webhooks.settings import WebhookSettings
from tests.http.api import SHARDS, Api, open_app
from tests.http.handlers.admin.test_bulk_retry import DEADLY
from tests.http.handlers.admin.test_jobs import discarded
from tests.support.receiver import Receiver, receiving
from tests.support.servers import observer

WRONG_S = 600.0
ADMIN = "/ojs/v1/admin"
real_s = time.time


def text(seconds: float) -> str:
    """Return the right time so many seconds from now."""
    return datetime.fromtimestamp(real_s() + seconds, UTC).isoformat()


def off_s(shown: str) -> float:
    """Return how far a time is from the right time, in seconds."""
    return abs(datetime.fromisoformat(shown).timestamp() - real_s())


@pytest.fixture(params=[WRONG_S, -WRONG_S], ids=["ahead", "behind"])
def wrong(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Let the clock of this process be wrong from the start of the server."""
    wrong_s: float = request.param
    real_ns = time.time_ns
    monkeypatch.setattr("time.time", lambda: real_s() + wrong_s)
    monkeypatch.setattr("time.time_ns", lambda: real_ns() + int(wrong_s * 1e9))
    return wrong_s


@pytest.fixture
async def late(wrong: float, standalone: Embedded) -> AsyncIterator[Api]:
    """Open an API whose process has a wrong clock."""
    async with open_app(standalone, test_hooks=True) as app:
        yield Api(app)


async def count(api: Api, query: str) -> int:
    found: list[Any] = (await api.get(f"/ojs/v1/jobs?{query}")).json["jobs"]
    return len(found)


async def test_only_dead_letters_of_the_age_are_purged(late: Api) -> None:
    await discarded(late, **DEADLY)
    for older_than, purged in (("5m", 0), ("0s", 1)):
        reply = await late.post(f"/ojs/v1/dead-letter/purge?older_than={older_than}")
        assert (reply.status, reply.json["purged_count"]) == (200, purged), older_than


async def test_only_jobs_of_the_age_are_cancelled(late: Api) -> None:
    await late.enqueue()
    for chosen, changed in (
        ({"older_than": "5m"}, 0),
        ({"query": "since:1h until:5m"}, 0),
        ({"query": "since:5m"}, 1),
    ):
        reply = await late.post("/ojs/v1/jobs/bulk/cancel", {"filter": chosen})
        assert (reply.status, reply.json["succeeded"]) == (200, changed), chosen


async def test_only_jobs_of_the_age_of_their_error_are_retried(late: Api) -> None:
    await discarded(late, **DEADLY)
    chosen = {"error": {"since": "5m"}, "dead": True}
    body = {"action": "retry", "filter": chosen, "confirm": True, "dry_run": True}
    operation = (await late.post(f"{ADMIN}/bulk", body)).json
    assert off_s(operation["filter"]["error"]["since"]) == pytest.approx(300, abs=120)


async def test_a_search_finds_the_jobs_of_the_last_minutes(late: Api) -> None:
    await late.enqueue()
    assert await count(late, "query=since:5m") == 1
    assert await count(late, "query=until:5m") == 0


async def test_maintenance_ends_when_the_operator_expects_it(late: Api) -> None:
    body = {"enabled": True, "estimated_duration": "PT1S"}
    shown = (await late.post(f"{ADMIN}/maintenance", body)).json
    assert off_s(shown["ends_at"]) < 120


async def test_a_worker_that_sends_heartbeats_is_live(late: Api) -> None:
    await late.post("/ojs/v1/workers/heartbeat", {"worker_id": "w1", "active_jobs": []})
    health = await late.get("/ojs/v1/workers/w1/health")
    assert (health.status, health.json["stale"]) == (200, False)
    assert (await late.get(f"{ADMIN}/workers/w1")).json["state"] == "running"


async def test_a_silent_worker_is_stale(late: Api, standalone: Embedded) -> None:
    await late.post("/ojs/v1/workers/heartbeat", {"worker_id": "w1", "active_jobs": []})
    key = late.app.store.keys.shard_of_worker("w1").worker("w1")
    with observer(standalone) as db:
        for name in ("last_seen", "last_heartbeat"):
            db.hincrby(key, name, -300_000)
    health = await late.get("/ojs/v1/workers/w1/health")
    assert (health.status, health.json["stale"]) == (503, True)


async def test_audit_entries_have_the_right_time(late: Api) -> None:
    await late.post("/ojs/v1/queues/mail/pause")
    entries: list[Any] = []
    while not entries:  # until the process has written it
        entries = (await late.get(f"{ADMIN}/audit")).json["entries"]
    assert off_s(entries[0]["time"]) < 120


async def test_a_mark_has_the_right_time(late: Api) -> None:
    made = await late.post(f"{ADMIN}/marks", {"label": "now"})
    assert off_s(made.json["at"]) < 120
    assert (await late.post(f"{ADMIN}/marks", {"label": "a", "at": text(0)})).status == 201
    assert (await late.post(f"{ADMIN}/marks", {"label": "b", "at": text(300)})).status == 400
    assert len((await late.get(f"{ADMIN}/marks?since=5m")).json["items"]) == 2


async def test_statistics_end_now(late: Api) -> None:
    minute = int(real_s()) // 60
    recorder = MinuteRecorder(late.app.store)
    for recorded in (minute - 7, minute - 2, minute - 1):
        await late.enqueue()
        await recorder.record(recorded)
    points = (await late.get(f"{ADMIN}/stats/history?period=1m&since=5m")).json["data"]
    assert off_s(points[-1]["timestamp"]) < 240
    assert all(off_s(point["timestamp"]) < 400 for point in points)


async def test_the_present_phase_of_a_job_lasts_until_now(late: Api) -> None:
    job = await late.enqueue()
    trace = (await late.get(f"{ADMIN}/jobs/{job['id']}/trace")).json
    assert 0 <= trace["snapshots"][-1]["duration_ms"] < 120_000


async def test_occurrences_of_the_future_are_not_made_again(late: Api) -> None:
    job = {"type": "report.make", "args": []}
    body = {"name": "hourly", "cron": "0 * * * *", "job_template": job}
    assert (await late.post("/ojs/v1/cron", body)).status == 201
    for to_s, status in ((-1, 200), (300, 400)):
        given = {"from": text(-3600), "to": text(to_s)}
        assert (await late.post("/ojs/v1/cron/hourly/backfill", given)).status == status, to_s


async def test_a_job_of_a_batch_that_is_due_later_is_scheduled(late: Api) -> None:
    unique = {"keys": ["type"], "states": ["scheduled"], "on_conflict": "ignore"}
    jobs = [
        {"type": "a", "args": [number], "options": {"unique": unique, "scheduled_at": text(300)}}
        for number in range(2)
    ]
    reply = await late.post("/ojs/v1/jobs/batch", {"jobs": jobs})
    assert reply.status == 201, reply.body
    assert len({job["id"] for job in reply.json["jobs"]}) == 1, "the second one conflicts"


async def test_a_result_has_expired_after_its_retention(wrong: float, standalone: Embedded) -> None:
    settings = StoreSettings(retention_completed_ms=300_000)
    now_ms = int(real_s() * 1000)
    async with open_app(standalone, store=settings) as app:
        for age_ms, status in ((0, 404), (400_000, 410)):
            job_id = new_job_id(0, SHARDS, now_ms - age_ms)
            assert (await Api(app).get(f"/ojs/v1/jobs/{job_id}/result")).status == status, age_ms


async def test_ids_have_the_right_time(late: Api) -> None:
    chain = {"type": "chain", "steps": [{"type": "a", "args": []}]}
    body = {"action": "cancel", "filter": {"queue": "none"}, "confirm": True}
    made = [
        (await late.enqueue())["id"],
        (await late.enqueue(options={"unique": {"keys": ["type"]}}))["id"],
        *(
            job["id"]
            for job in (
                await late.post("/ojs/v1/jobs/batch", {"jobs": [{"type": "a", "args": []}] * 2})
            ).json["jobs"]
        ),
        (await late.post("/ojs/v1/workflows", chain)).json["workflow"]["id"],
        (await late.post(f"{ADMIN}/bulk", body)).json["id"],
    ]
    for made_id in made:
        made_s = int(made_id.replace("-", "")[:12], 16) / 1000
        assert abs(made_s - real_s()) < 120, made_id


async def test_an_api_key_expires_by_redis_clock(wrong: float, standalone: Embedded) -> None:
    def known(name: str, expires_in_s: float) -> tuple[bytes, Principal]:
        scopes = PRESETS["viewer"]
        return digest(name), Principal(name, scopes, expires_at_s=int(real_s() + expires_in_s))

    keyring = Keyring(dict([known("valid", 300), known("expired", -300)]), {})
    async with open_app(standalone, access=AccessControl(keyring)) as app:
        for name, status in (("valid", 200), ("expired", 401)):
            given = {"Authorization": f"Bearer {name}"}
            assert (await Api(app).get("/ojs/v1/queues", headers=given)).status == status, name


async def test_a_test_delivery_is_signed_with_the_right_time(
    wrong: float, standalone: Embedded
) -> None:
    settings = StoreSettings(
        webhooks=WebhookSettings(allow_http=True, allow_cidrs=(ip_network("127.0.0.0/8"),))
    )
    async with open_app(standalone, store=settings) as app, receiving(Receiver()) as receiver:
        api = Api(app)
        body = {"url": receiver.url(), "events": ["job.completed"]}
        made = await api.post("/ojs/v1/webhooks/subscriptions", body)
        assert made.status == 201, made.body
        await api.post(f"/ojs/v1/webhooks/subscriptions/{made.json['id']}/test", {})
        sent = receiver.received[0]
        assert abs(int(sent.headers["x-ojs-timestamp"]) - real_s()) < 120


async def test_a_process_whose_clock_is_wrong_says_so(late: Api, wrong: float) -> None:
    lines = (await late.get("/metrics")).body.decode().splitlines()
    (ahead,) = (line for line in lines if line.startswith("ojs_clock_ahead_seconds "))
    assert float(ahead.split()[1]) == pytest.approx(wrong, abs=60)
