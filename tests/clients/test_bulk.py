"""The bytes of ojs-cli and the admin UI about many jobs, and what they can decode."""

from __future__ import annotations

import json
from typing import Any

from tests.clients import test_admin_ui, test_cli
from tests.clients.wire import Wire

DEAD = {"max_attempts": 1, "on_exhaustion": "dead_letter"}


async def enqueue(wire: Wire, **options: Any) -> str:
    body = {"type": "t", "args": [], "options": {"queue": "mail", **options}}
    return str((await test_cli.call(wire, "POST", "/jobs", body))["id"])


async def dead(wire: Wire) -> str:
    job_id = await enqueue(wire, retry=DEAD)
    await test_cli.call(wire, "POST", "/workers/fetch", {"queues": ["mail"], "worker_id": "w"})
    await test_cli.call(wire, "POST", "/workers/nack", {"job_id": job_id, "error": {}})
    return job_id


def numbers(found: Any, *names: str) -> list[int]:
    """Go decodes only integers into ``int``."""
    assert all(type(found[name]) is int for name in names), found
    return [found[name] for name in names]


# ojs-cli, cmd/ojs/commands/bulk.go:51 (cancel by ids or by state) and :62 (its struct).
async def test_the_cli_cancels_by_ids_and_by_state(wire: Wire) -> None:
    first, _, _ = [await enqueue(wire) for _ in range(3)]
    found = await test_cli.call(wire, "POST", "/jobs/bulk/cancel", {"job_ids": [first]})
    assert numbers(found, "cancelled", "failed") == [1, 0]
    body = {"filter": {"queue": "mail", "state": "available"}}
    found = await test_cli.call(wire, "POST", "/jobs/bulk/cancel", body)
    assert numbers(found, "cancelled", "failed") == [2, 0]


# ojs-cli, cmd/ojs/commands/bulk.go:92 (retry) and :103 (its struct).
async def test_the_cli_retries_by_ids_and_by_state(wire: Wire) -> None:
    first = await dead(wire)
    found = await test_cli.call(wire, "POST", "/jobs/bulk/retry", {"job_ids": [first]})
    assert numbers(found, "retried", "failed") == [1, 0]
    await test_cli.call(wire, "POST", "/jobs/bulk/cancel", {"job_ids": [first]})
    await dead(wire)
    body = {"filter": {"state": "discarded"}}
    found = await test_cli.call(wire, "POST", "/jobs/bulk/retry", body)
    assert numbers(found, "retried", "failed") == [1, 0]


# ojs-cli, cmd/ojs/commands/bulk.go:170 (delete) and :181 (its struct).
async def test_the_cli_deletes_by_ids_and_by_age(wire: Wire) -> None:
    first, _ = [await enqueue(wire) for _ in range(2)]
    await test_cli.call(wire, "POST", "/jobs/bulk/cancel", {"filter": {"queue": "mail"}})
    found = await test_cli.call(wire, "POST", "/jobs/bulk/delete", {"job_ids": [first]})
    assert numbers(found, "deleted", "failed") == [1, 0]
    body: dict[str, Any] = {"filter": {"older_than": "7d", "queue": "mail", "state": "cancelled"}}
    found = await test_cli.call(wire, "POST", "/jobs/bulk/delete", body)
    assert numbers(found, "deleted", "failed") == [0, 0]
    del body["filter"]["older_than"]
    found = await test_cli.call(wire, "POST", "/jobs/bulk/delete", body)
    assert numbers(found, "deleted", "failed") == [1, 0]


# ojs-cli, cmd/ojs/commands/deadletter.go:145 (purge, without a body) and :156 (its struct).
async def test_the_cli_purges_dead_letters(wire: Wire) -> None:
    await dead(wire)
    found = await test_cli.call(wire, "POST", "/dead-letter/purge?older_than=30d")
    assert numbers(found, "deleted") == [0]
    assert numbers(await test_cli.call(wire, "POST", "/dead-letter/purge"), "deleted") == [1]


# ojs-admin-ui, src/api/client.ts:84 (purgeQueue): a DELETE with a body.
async def test_the_admin_ui_removes_jobs_of_a_queue(wire: Wire) -> None:
    await enqueue(wire)
    body = json.dumps({"states": ["available"], "confirm": True}, separators=(",", ":")).encode()
    path = "/ojs/v1/admin/queues/mail/jobs"
    answer = await test_admin_ui.call(wire, "DELETE", path, body)
    assert (answer.status, answer.json["purged_count"]) == (200, 1)


# ojs-admin-ui, src/api/client.ts:127 (bulkCancel) and src/api/types.ts:160 (BulkResult).
async def test_the_admin_ui_cancels_by_a_filter(wire: Wire) -> None:
    await enqueue(wire)
    body = b'{"filter":{"queue":"mail"},"confirm":true}'
    answer = await test_admin_ui.call(wire, "POST", "/ojs/v1/admin/jobs/bulk/cancel", body)
    found = answer.json
    assert (found["action"], found["errors"]) == ("cancel", [])
    assert numbers(found, "matched", "succeeded", "failed") == [1, 1, 0]


# ojs-cli, cmd/ojs/commands/priority.go:33: the server's priorities end at 100.
async def test_the_cli_changes_a_priority(wire: Wire) -> None:
    job_id = await enqueue(wire)
    await test_cli.call(wire, "PATCH", f"/jobs/{job_id}", {"priority": 10})
    assert (await test_cli.call(wire, "GET", f"/jobs/{job_id}"))["priority"] == 10


# ojs-admin-ui, src/api/client.ts:271 (updateJobPriority).
async def test_the_admin_ui_changes_a_priority(wire: Wire) -> None:
    job_id = await enqueue(wire)
    path = f"/ojs/v1/admin/jobs/{job_id}"
    answer = await test_admin_ui.call(wire, "PATCH", path, b'{"priority":7}')
    assert (answer.status, answer.json["priority"]) == (200, 7)


# ojs-cli, cmd/ojs/commands/retries.go:18 and :29 (its struct): all members are text but attempt.
async def test_the_cli_lists_retries(wire: Wire) -> None:
    job_id = await dead(wire)
    found = await test_cli.call(wire, "GET", f"/jobs/{job_id}/retries")
    [retry] = found["retries"]
    assert type(retry["attempt"]) is int
    for name in ("state", "error", "started_at", "failed_at"):
        assert isinstance(retry[name], str)
    assert type(found["policy"]["max_attempts"]) is int
    assert isinstance(found["policy"]["initial_interval"], str)


# ojs-cli, cmd/ojs/commands/metrics.go:27 and :38 (its struct).
async def test_the_cli_reads_metrics(wire: Wire) -> None:
    await enqueue(wire)
    found = await test_cli.call(wire, "GET", "/metrics")
    numbers(found, "jobs_enqueued_total", "jobs_completed_total", "jobs_failed_total")
    numbers(found, "jobs_active", "queues_active", "workers_active")
    for name in ("uptime_seconds", "avg_latency_ms", "throughput_per_second"):
        assert isinstance(found[name], int | float)
