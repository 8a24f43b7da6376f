"""The bytes of ojs-cli, and what its structs can decode.

``tests.clients.sources`` reads the comments that name lines of ojs-cli, at the commit in README.md.
"""

from __future__ import annotations

import json
from typing import Any

from tests.clients.wire import Wire

_TYPE = "application/openjobspec+json"
CRON = {
    "name": "nightly",
    "expression": "0 3 * * *",
    "job_template": {"type": "report.build", "options": {"queue": "reports"}},
}


# ojs-cli, internal/client/client.go:56: the headers of every request, sorted by net/http.
async def call(wire: Wire, method: str, path: str, body: Any = None) -> Any:
    """Send a request as the client does, and return the body of a successful response.

    ``Request.from_cli`` recognises the client by these headers.
    """
    headers = {
        "User-Agent": "Go-http-client/1.1",
        "Accept": _TYPE,
        "Content-Type": _TYPE,
        "Accept-Encoding": "gzip",
    }
    encoded = None
    if body is not None:
        encoded = json.dumps(body, separators=(",", ":")).encode()
    elif method == "POST":
        encoded = b""
    answer = await wire.send(method, "/ojs/v1" + path, headers, encoded)
    assert answer.status < 400, answer.body
    return answer.json


# ojs-cli, cmd/ojs/commands/cron.go:93 (register), :240 (detail) and :251 (its struct).
async def test_the_detail_of_a_cron_job_is_flat(wire: Wire) -> None:
    await call(wire, "POST", "/cron", CRON)
    found = await call(wire, "GET", "/cron/nightly")
    assert (found["name"], found["expression"], found["enabled"]) == ("nightly", "0 3 * * *", True)
    assert found["job_template"]["type"] == "report.build"
    assert found["job_template"]["options"]["queue"] == "reports"
    assert type(found["run_count"]) is int
    assert isinstance(found["next_run_at"], str)
    assert isinstance(found["created_at"], str)
    assert found["cron"]["name"] == found["cron_job"]["name"] == "nightly"


# ojs-cli, cmd/ojs/commands/cron.go:157 (trigger), :175 (history) and :186 (its struct).
async def test_the_history_of_a_cron_job_has_executions(wire: Wire) -> None:
    await call(wire, "POST", "/cron", CRON)
    triggered = await call(wire, "POST", "/cron/nightly/trigger")
    found = await call(wire, "GET", "/cron/nightly/history?limit=10")
    [execution] = found["executions"]
    assert (execution["job_id"], execution["state"]) == (triggered["job_id"], "triggered")
    assert execution["scheduled_at"] == execution["scheduled_time"]
    assert execution["started_at"] == execution["actual_time"]
    assert found["history"] == found["executions"]


# ojs-cli, cmd/ojs/commands/status.go:29 and cmd/ojs/commands/debug.go:70 (inspect): maps with flat
# members.
async def test_a_job_is_flat(wire: Wire) -> None:
    job = {"type": "mail.send", "args": ["a"], "options": {"priority": 7, "max_attempts": 4}}
    job_id = (await call(wire, "POST", "/jobs", job))["job"]["id"]
    found = await call(wire, "GET", f"/jobs/{job_id}")
    shown = (found["id"], found["type"], found["state"], found["queue"], found["args"])
    assert shown == (job_id, "mail.send", "available", "default", ["a"])
    assert (found["attempt"], found["priority"], found["max_attempts"]) == (0, 7, 4)
    # cmd/ojs/commands/status.go:100 (--detail)
    assert (await call(wire, "GET", f"/admin/jobs/{job_id}"))["errors"] == []


# ojs-cli, cmd/ojs/commands/debug.go:326 (queue).
async def test_a_queue_has_its_depth(wire: Wire) -> None:
    for _ in range(3):
        await call(wire, "POST", "/jobs", {"type": "t", "args": []})
    await call(wire, "POST", "/workers/fetch", {"queues": ["default"]})
    found = await call(wire, "GET", "/queues/default")
    assert (found["depth"], found["running"], found["paused"]) == (2, 1, False)


# ojs-cli, cmd/ojs/commands/debug.go:285 (bottleneck): queues is a list with this parameter only.
async def test_the_slowest_queues_are_listed(wire: Wire) -> None:
    await call(wire, "POST", "/jobs", {"type": "t", "args": []})
    found = await call(wire, "GET", "/admin/stats?detail=true&limit=10")
    [queue] = found["queues"]
    assert (queue["name"], queue["depth"], queue["error_rate"]) == ("default", 1, 0)
    assert isinstance(queue["avg_duration_ms"], int | float)


# ojs-cli, cmd/ojs/commands/stats.go:34 and :66 (Throughput): int members refuse a fraction.
async def test_the_statistics_have_whole_numbers(wire: Wire) -> None:
    await call(wire, "POST", "/jobs", {"type": "t", "args": []})
    found = await call(wire, "GET", "/admin/stats")
    assert found["jobs"]["available"] == 1
    throughput = found["throughput"]
    assert type(throughput["completed_per_min"]) is type(throughput["failed_per_min"]) is int


# ojs-cli, cmd/ojs/commands/stats.go:46 (Queues, Workers). The admin document, the suites and the
# admin UI read numbers there.
async def test_the_statistics_count_queues_and_workers_by_state(wire: Wire) -> None:
    for queue in ("a", "b"):
        await call(wire, "POST", "/jobs", {"type": "t", "args": [], "options": {"queue": queue}})
    await call(wire, "POST", "/queues/b/pause")
    await call(wire, "POST", "/workers/fetch", {"queues": ["a"], "worker_id": "w1"})
    found = await call(wire, "GET", "/admin/stats")
    assert found["queues"] == {"total": 2, "active": 1, "paused": 1}
    workers = found["workers"]
    assert (workers["total"], workers["running"], workers["quiet"]) == (1, 1, 0)
    assert workers["stale"] == 0
    found = await call(wire, "GET", "/admin/stats?queue=b")
    assert found["queues"] == {"total": 1, "active": 0, "paused": 1}
    other = await wire.send("GET", "/ojs/v1/admin/stats", {"Accept": _TYPE})
    assert (type(other.json["queues"]), type(other.json["workers"])) == (int, int)


# ojs-cli, cmd/ojs/commands/stats.go:31: the request with one queue.
async def test_the_detail_of_one_queue_names_no_other(wire: Wire) -> None:
    for queue in ("a", "b"):
        await call(wire, "POST", "/jobs", {"type": "t", "args": [], "options": {"queue": queue}})
    found = await call(wire, "GET", "/admin/stats?queue=b&detail=true")
    assert [(queue["name"], queue["depth"]) for queue in found["queues"]] == [("b", 1)]


# ojs-cli, cmd/ojs/commands/queues.go:104 (stats): Queue is a string. The suites read an object.
async def test_the_statistics_of_a_queue_name_it(wire: Wire) -> None:
    found = await call(wire, "GET", "/queues/default/stats")
    assert (found["queue"], found["status"]) == ("default", "active")
    other = await wire.send("GET", "/ojs/v1/queues/default/stats", {"Accept": _TYPE})
    assert other.json["queue"]["name"] == "default"


# ojs-cli, cmd/ojs/commands/debug.go:355 (failures): Error is a string. The spec has an object.
async def test_failures_show_the_message_of_the_last_error(wire: Wire) -> None:
    job = {"type": "t", "args": [], "options": {"max_attempts": 1}}
    job_id = (await call(wire, "POST", "/jobs", job))["job"]["id"]
    await call(wire, "POST", "/workers/fetch", {"queues": ["default"]})
    error = {"type": "SmtpError", "message": 'no "such" host'}
    await call(wire, "POST", "/workers/nack", {"job_id": job_id, "error": error})
    path = "/jobs?state=discarded&limit=20"
    [shown] = (await call(wire, "GET", path))["jobs"]
    assert (shown["id"], shown["error"]) == (job_id, 'no "such" host')
    assert shown["errors"][0]["type"] == "SmtpError"
    other = await wire.send("GET", "/ojs/v1" + path, {"Accept": _TYPE})
    assert other.json["jobs"][0]["error"]["type"] == "SmtpError"


# ojs-cli, cmd/ojs/commands/stats.go:131 (statsHistory): it reads data_points.
async def test_the_history_has_a_list_of_data_points(wire: Wire) -> None:
    await call(wire, "POST", "/jobs", {"type": "t", "args": []})
    found = await call(wire, "GET", "/admin/stats/history?period=1h&since=24h")
    assert (found["period"], found["data_points"]) == ("1h", [])


# ojs-cli, cmd/ojs/commands/debug.go:130 (trace) and :151 (its struct): all members are strings.
async def test_the_trace_of_a_job_has_snapshots(wire: Wire) -> None:
    job = await call(wire, "POST", "/jobs", {"type": "t", "args": [], "queue": "mail"})
    job_id = job["job"]["id"]
    await call(wire, "POST", "/workers/fetch", {"queues": ["mail"], "worker_id": "w"})
    error = {"code": "smtp", "message": "no host"}
    await call(wire, "POST", "/workers/nack", {"job_id": job_id, "error": error})
    snapshots = (await call(wire, "GET", f"/admin/jobs/{job_id}/trace"))["snapshots"]
    shown = [[snap[name] for name in ("state", "phase", "error")] for snap in snapshots]
    assert shown == [
        ["available", "created", ""],
        ["active", "attempt 1", ""],
        ["retryable", "attempt 1 failed", "no host"],
    ]
    assert all(snap["duration"].endswith("s") for snap in snapshots)


# ojs-cli, cmd/ojs/commands/system.go:98 (config): it prints the JSON of the response.
async def test_the_configuration_is_json(wire: Wire) -> None:
    found = await call(wire, "GET", "/admin/config")
    assert list(found) == ["version", "layout", "items"]
    assert found["items"] == []  # no variables in this test
