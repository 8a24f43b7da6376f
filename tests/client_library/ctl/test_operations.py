"""Workers, cron jobs, workflows, limits, bulk operations, events and webhooks by ``ojsctl``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ojs_client.ctl.frame import SORTS, Picture, frame
from tests.client_library.ctl.conftest import Ctl, Shared
from tests.client_library.ctl.test_connection import OJSCTL, on_terminal
from tests.client_library.ctl.test_jobs import UNKNOWN, dead

# -- errors


def test_the_jobs_of_a_group_of_failures_are_retried(ctl: Ctl) -> None:
    for queue in ("q.error", "q.error.other"):
        dead(ctl, queue, 2, message='host 10.0.0.7 is\n"away"')
    dead(ctl, "q.error", 1, message="host 10.0.0.7 is here")
    group = error_group(ctl, "q.error", '"away"')
    assert (group["count"], group["type"]) == (2, "Broken")

    shown = ctl.json("error", "get", group["group"], "--queue", "q.error")
    assert (shown["message"], shown["count"]) == (group["message"], 2)
    ctl.run("error", "get", "00000000", code=3)
    words = ["error", "retry", group["group"], "--queue", "q.error"]
    for period, matched in ((("--until", "1h"), 0), (("--since", "1h", "--until", "0s"), 2)):
        assert ctl.json(*words, *period, "--dry-run")["matched"] == matched
    counted = ctl.json(*words, "--dry-run")
    assert (counted["dry_run"], counted["matched"], counted["succeeded"]) == (True, 2, 0)
    assert ctl.json(*words, "--since", "1h", "--dry-run")["matched"] == 2
    assert ctl.json(*words, "--since", "0s", "--dry-run")["matched"] == 0
    assert ctl.run(*words, code=2).stdout == ""
    assert ctl.run(*words, "--yes").stdout == "2 jobs retried\n"
    assert len(ctl.names("dead", "ls", "--queue", "q.error")) == 1
    assert len(ctl.names("dead", "ls", "--queue", "q.error.other")) == 2
    ctl.run("error", "retry", "00000000", "--yes", code=3)


def test_the_jobs_of_a_group_of_failures_are_cancelled_and_deleted(ctl: Ctl) -> None:
    [gone] = dead(ctl, "q.group", 1, message="no\x1b host 1")
    [kept] = dead(ctl, "q.group", 1, message="no answer")
    later = {"initial_interval": "PT1H", "max_interval": "PT1H"}
    [waiting] = ctl.enqueue("q.group", options={"retry": later})
    ctl.api.post("/ojs/v1/workers/fetch", {"queues": ["q.group"], "worker_id": "w"})
    error = {"type": "Broken", "message": "no\x1b host 2"}
    ctl.api.post("/ojs/v1/workers/nack", {"job_id": waiting, "error": error})
    words = [error_group(ctl, "q.group", "host *")["group"], "--queue", "q.group", "--yes"]

    shown = on_terminal(["error", "rm", *words[:-1]], ctl.url, typed=b"y\n")
    assert "Delete 1 job that failed with Broken: no\\x1b host *?" in shown
    assert "1 job deleted" in shown
    assert ctl.json("job", "get", waiting)["state"] == "retryable"
    assert ctl.run("error", "cancel", *words).stdout == "1 job cancelled\n"
    assert ctl.json("job", "get", waiting)["state"] == "cancelled"
    assert ctl.run("error", "rm", *words).stdout == "0 jobs deleted\n"
    assert ctl.names("dead", "ls", "--queue", "q.group") == [kept]
    ctl.run("job", "get", gone, code=3)


def test_a_group_that_is_partly_retried_has_an_exit_code_of_its_own(ctl: Ctl) -> None:
    unique = {"keys": ["args"], "period": "PT1H"}
    ids = [
        *dead(ctl, "q.partly", 1, args=["locked"], unique=unique),
        *dead(ctl, "q.partly", 1, args=["free"], unique=unique),
    ]
    ctl.enqueue("q.partly", args=["locked"], options={"unique": unique})  # holds the lock now
    group = error_group(ctl, "q.partly", "no")["group"]

    result = ctl.run("error", "retry", group, "--queue", "q.partly", "--yes", code=6)

    assert result.stdout == "1 job retried\n"
    assert ids[0] in result.stderr
    assert [ctl.json("job", "get", each)["state"] for each in ids] == ["discarded", "available"]


def error_group(ctl: Ctl, queue: str, end: str) -> dict[str, Any]:
    """Return the only group of failures of a queue whose message has this end."""
    groups = ctl.json("error", "ls", "--queue", queue)
    [group] = [each for each in groups if each["message"].endswith(end)]
    return dict(group)


# -- workers, cron jobs, workflows, limits, bulk operations


def test_workers_get_directives(ctl: Ctl) -> None:
    beat = {"queues": ["q"], "active_jobs": []}
    for name in ("w-1", "w-2"):
        ctl.api.post("/ojs/v1/workers/heartbeat", {"worker_id": name, **beat})
    assert ctl.run("worker", "quiet", "w-1").stdout == "quiet sent to 1 worker\n"
    assert ctl.json("worker", "get", "w-1")["directive"] == "quiet"
    assert ctl.json("worker", "resume", "w-1")["affected_workers"] == 1
    assert "--yes" in ctl.run("worker", "terminate", "w-1", code=2).stderr
    assert "unknown: w-9" in ctl.run("worker", "terminate", "w-2", "w-9", "--yes", code=6).stderr
    ctl.run("worker", "quiet", "w-9", code=3)
    ctl.run("worker", "get", "w-9", code=3)
    ctl.run("worker", "quiet", code=2)
    assert ctl.json("worker", "get", "w-2")["directive"] == "terminate"


def test_a_cron_job_is_created_triggered_paused_and_removed(ctl: Ctl) -> None:
    options = ["--queue", "q.cron", "--timezone", "Asia/Tokyo", "--description", "each day"]
    made = ctl.json("cron", "create", "c1", "@daily", "t.a", '{"n": 1}', "x", *options)
    assert made["job_template"]["args"] == [{"n": 1}, "x"]
    assert (made["timezone"], made["queue"]) == ("Asia/Tokyo", "q.cron")
    [job_id] = ctl.names("cron", "trigger", "c1")
    assert ctl.names("job", "ls", "--queue", "q.cron") == [job_id]
    assert ctl.json("cron", "history", "c1")[0]["job_id"] == job_id
    assert ctl.run("cron", "pause", "c1").stdout == "cron job c1 paused\n"
    assert not ctl.json("cron", "get", "c1")["enabled"]
    assert ctl.json("cron", "resume", "c1")["enabled"]
    assert "--yes" in ctl.run("cron", "rm", "c1", code=2).stderr
    assert ctl.run("cron", "rm", "c1", "unknown", "--yes", code=6).stdout == "cron job c1 removed\n"
    ctl.run("cron", "get", "c1", code=3)
    ctl.run("cron", "create", "c1", "never", "t.a", code=4)


def test_past_occurrences_of_a_cron_job_are_enqueued_once(ctl: Ctl) -> None:
    ctl.json("cron", "create", "c2", "0 0 1 * *", "t.a", "--queue", "q.backfill", "--paused")
    words = ["cron", "backfill", "c2", "--from", "2020-01-01T00:00:00Z", "--to"]
    interval = [*words, "2020-03-02T00:00:00Z"]
    assert ctl.json(*interval, "--dry-run")["count"] == 3
    assert ctl.names("job", "ls", "--queue", "q.backfill") == []
    assert "--yes" in ctl.run(*interval, code=2).stderr
    assert ctl.run(*interval, "--yes").stdout == "3 jobs enqueued, 0 jobs existed already\n"
    assert ctl.json(*words, "2020-03-31T22:00:00-04:00", "--yes")["existing"] == 3
    assert len(ctl.names("job", "ls", "--queue", "q.backfill")) == 4
    assert "is no time" in ctl.run(*words, "soon", code=2).stderr
    ctl.json("cron", "create", "c3", "@daily", "t.a", "--paused")
    ages = ["cron", "backfill", "c3", "--from", "10d", "--dry-run"]
    assert ctl.json(*ages)["count"] == 10
    assert ctl.json(*ages, "--to", "0s")["count"] == 10


def test_a_pool_is_set_read_and_removed(ctl: Ctl) -> None:
    made = ctl.json("pool", "set", "p1", "q.p1=70", "q.p2")
    assert (made["strategy"], made["weights"]) == ("weighted", {"q.p1": 70})
    shown = ctl.run("pool", "set", "p1", "q.p1", "q.p2", "--strategy", "strict").stdout
    assert shown == "pool p1 set: strict, 2 queues\n"
    ctl.enqueue("q.p2")
    fetched = ctl.api.post("/ojs/v1/workers/fetch", {"pool": "p1", "worker_id": "w"})
    assert len(fetched["jobs"]) == 1
    assert "q.p2" in ctl.run("pool", "get", "p1").stdout
    assert ctl.json("pool", "get", "p1")["queues"] == ["q.p1", "q.p2"]
    assert "a weight is a number" in ctl.run("pool", "set", "p1", "q.p1=x", code=2).stderr
    ctl.run("pool", "set", "p1", "q.p1=0", code=4)
    assert "p1" in ctl.names("pool", "ls")
    assert "--yes" in ctl.run("pool", "rm", "p1", code=2).stderr
    assert ctl.run("pool", "rm", "p1", "--yes").stdout == "pool p1 removed\n"
    ctl.run("pool", "get", "p1", code=3)


def test_a_tenant_is_limited_weighed_and_removed(ctl: Ctl) -> None:
    words = ("tenant", "limit", "t1")
    limited = ctl.json(*words, "--max-depth", "50", "--rate", "10/m", "--reason", "incident")
    rate = {"limit": 10, "period": "PT1M"}
    assert limited["limits"] == {"max_queue_depth": 50, "max_enqueue_rate": rate}
    assert limited["reason"] == "incident"
    shown = ctl.run(*words, "--max-scheduled", "5").stdout
    assert " ".join(shown.split()) == "Tenant t1 Depth 50 Scheduled 5 New 10 per PT1M"
    assert "such as 100/1m" in ctl.run(*words, "--rate", "x", code=2).stderr
    assert "--clear" in ctl.run(*words, "--max-depth", "1", "--clear", code=2).stderr
    assert ctl.json("tenant", "weight", "t1", "3", "--reason", "vip")["fairness_weight"] == 3
    assert (
        "belongs to a change" in ctl.run("tenant", "weight", "t1", "--reason", "x", code=2).stderr
    )
    ctl.run("tenant", "weight", "t1", "0", code=2)
    assert ctl.run(*words, "--clear").stdout == "tenant t1 has no limit\n"
    found = ctl.json("tenant", "get", "t1")
    assert (found["fairness_weight"], found["stats"]["total_jobs"]) == (3, 0)
    assert found["stats"]["queues"] == 0
    assert "t1" in ctl.names("tenant", "ls")
    assert "Remove t1? " in ctl.run("tenant", "rm", "t1", "t1", code=2).stderr
    assert ctl.run("tenant", "rm", "t1", "--yes").stdout == "tenant t1 removed\n"
    ctl.run("tenant", "get", "t1", code=3)


def test_a_workflow_is_cancelled(ctl: Ctl) -> None:
    body = {"type": "group", "jobs": [{"type": "t.a", "options": {"queue": "q.flow"}}]}
    workflow_id = ctl.api.post("/ojs/v1/workflows", body)["id"]
    assert workflow_id in ctl.names("workflow", "ls", "--state", "running")
    shown = ctl.run("workflow", "cancel", workflow_id).stdout
    assert shown == f"workflow {workflow_id} is cancelled\n"
    assert ctl.json("workflow", "get", workflow_id)["state"] == "cancelled"
    ctl.run("workflow", "get", UNKNOWN, code=3)


def test_the_limits_of_a_key_are_overridden(ctl: Ctl) -> None:
    until = ["--until", "2099-01-01T00:00:00Z"]
    limits = ctl.json(
        "limit", "set", "q:limit", "--throttle", "3/10s", "--concurrency", "0", *until
    )
    assert limits["override"]["throttle"]["period"] == "PT10S"
    assert limits["override"]["expires_at"].startswith("2099")
    for option in ("--until", "--for"):
        soon = ctl.json("limit", "set", "q:limit", "--concurrency", "0", option, "1h")
        left = datetime.fromisoformat(soon["override"]["expires_at"]) - datetime.now(UTC)
        assert timedelta(minutes=30) < left <= timedelta(hours=1)
    wrong = ctl.run("limit", "set", "k", "--concurrency", "0", "--until", "soon", code=2).stderr
    assert "2h from now" in wrong
    assert "Override ends" in ctl.run("limit", "get", "q:limit").stdout
    assert ctl.names("limit", "rm", "q:limit") == ["q:limit"]
    assert "override" not in ctl.json("limit", "get", "q:limit")
    ctl.run("limit", "set", "q:limit", code=2)
    assert "often" in ctl.run("limit", "set", "k", "--rate", "3/often", code=2).stderr


def test_the_holders_of_a_rate_limit_key_are_shown(ctl: Ctl) -> None:
    policy = {"rate_limit": {"key": "q:held", "concurrency": 1}}
    [first, second] = ctl.enqueue("q.held", 2, options=policy)
    ctl.api.post("/ojs/v1/workers/fetch", {"queues": ["q.held"], "worker_id": "w"})
    shown = ctl.run("limit", "get", "q:held").stdout
    assert f"Held by      {first}" in shown
    assert second not in shown


def test_a_bulk_operation_is_shown_and_stopped(ctl: Ctl) -> None:
    ctl.enqueue("q.bulk")
    [operation_id] = ctl.names("job", "cancel", "--queue", "q.bulk", "--yes")
    assert operation_id in ctl.names("bulk", "ls")
    shown = ctl.json("bulk", "get", operation_id)
    assert (shown["state"], shown["succeeded"]) == ("completed", 1)
    assert "Succeeded  1" in ctl.run("bulk", "get", operation_id).stdout
    ctl.run("bulk", "stop", UNKNOWN, code=3)


# -- events


def test_events_are_followed_until_they_are_interrupted(ctl: Ctl) -> None:
    words = [*OJSCTL, "events", "-f", "--queue", "q.events", "-o", "jsonl"]
    env = {**os.environ, "OJS_URL": ctl.url}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as process:
        lines: list[str] = []
        assert process.stdout is not None
        stdout = process.stdout
        reader = threading.Thread(target=lambda: lines.append(stdout.readline()))
        reader.start()

        def arrived() -> bool:
            ctl.enqueue("q.events")
            reader.join(0.2)
            return not reader.is_alive()

        ctl.until(arrived, "an event")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert json.loads(lines[0])["event"] == "job.enqueued"
    page = ctl.run("events", "--queue", "q.events", "-n", "1").stdout
    assert "job.enqueued" in page
    assert len(page.splitlines()) == 1


def test_a_job_is_watched_until_it_has_completed(ctl: Ctl) -> None:
    [job_id] = ctl.enqueue("q.watch")
    env = {**os.environ, "OJS_URL": ctl.url}
    with subprocess.Popen(
        [*OJSCTL, "job", "watch", job_id], stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        ctl.api.post("/ojs/v1/workers/fetch", {"queues": ["q.watch"], "worker_id": "w"})
        ctl.api.post("/ojs/v1/workers/ack", {"job_id": job_id})
        shown, _ = process.communicate(timeout=60)
    *events, last = shown.splitlines()
    assert last == "the job is completed"
    assert len({line.split()[1] for line in events}) == len(events), "each transition once"
    assert process.returncode == 0


@contextmanager
def streaming(*answers: str) -> Iterator[tuple[str, list[str | None]]]:
    """Answer one request after the other with these streams; yields where each client went on."""
    left, positions = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            positions.append(self.headers["Last-Event-ID"])
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(left.pop(0).encode())

        def log_message(self, *_args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", positions
        finally:
            server.shutdown()
            thread.join()


def test_a_stream_goes_on_after_a_server_that_shuts_down() -> None:
    one = "id: 5\nevent: job.failed\ndata: {}\n\nevent: server.shutdown\ndata: {}\n\n"
    two = ': comment\nid: 6\nevent: job.completed\ndata: {"queue":\ndata: "q"}\n\n'
    with streaming(one, two) as (url, positions):
        shown = Ctl(url).run("events", "-f", "-o", "jsonl").stdout
    assert shown == '{}\n{"queue":"q"}\n'
    assert positions == [None, "5"]


# -- schemas


def test_a_schema_is_managed(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"type": "array", "minItems": 1}')
    assert ctl.run("schema", "put", "q.schema", "1.0.0", str(file)).stdout == (
        "schema q.schema@1.0.0 registered\n"
    )
    ctl.run("schema", "put", "q.schema", "1", str(file), code=4)
    file.write_text('{"type": "array", "minItems": 2}')
    refused = ctl.run("schema", "put", "q.schema", "1.1.0", str(file), code=4)
    assert "minItems was raised to 2" in refused.stderr
    made = ctl.json("schema", "put", "q.schema", "2", str(file), "--uri", "urn:q")
    assert (made["version"], made["uri"]) == (2, "urn:q")
    assert ctl.json("schema", "get", "q.schema", "1.0")["schema"]["minItems"] == 1
    assert ctl.run("schema", "set", "q.schema", "--mode", "strict").stdout == (
        "schema q.schema: mode strict, compatibility backward\n"
    )
    ctl.run("job", "enqueue", "q.schema", "1", code=4)
    assert ctl.json("schema", "set", "q.schema", "--mode", "default")["mode"] == "warn"
    ctl.run("schema", "set", "q.schema", code=2)
    ctl.run("schema", "rm", "q.schema", "--yes", code=2)
    assert ctl.names("schema", "rm", "q.schema@1", "q.schema@2.0.0", "--yes") == [
        "q.schema@1",
        "q.schema@2.0.0",
    ]
    file.write_text("{")
    assert "is not JSON" in ctl.run("schema", "put", "q", "1", str(file), code=2).stderr
    ctl.run("schema", "get", "q.schema", code=3)


# -- webhooks


def test_a_webhook_is_managed(ctl: Ctl) -> None:
    words = ["webhook", "create", "https://hooks.example.com/x", "--event", "job.failed"]
    made = ctl.json(*words, "--queue", "q.webhook", "--metadata", "owner=me")
    webhook_id = made["id"]
    assert (made["filter"], made["metadata"]) == ({"queues": ["q.webhook"]}, {"owner": "me"})
    assert made["secret"]
    assert made["secret"] not in ctl.run("webhook", "get", webhook_id, "-o", "json").stdout
    assert ctl.run("webhook", "pause", webhook_id).stdout == f"webhook {webhook_id} paused\n"
    assert ctl.json("webhook", "resume", webhook_id)["active"]
    tested = ctl.run("webhook", "test", webhook_id, "-o", "json", code=1)
    assert json.loads(tested.stdout)["success"] is False, "the address has no receiver"
    ctl.run("webhook", "test", "unknown", code=3)
    assert "--yes" in ctl.run("webhook", "rotate", webhook_id, code=2).stderr
    assert ctl.json("webhook", "rotate", webhook_id, "--yes")["secret"] != made["secret"]
    assert ctl.names("webhook", "deliveries", "--subscription", webhook_id) == []
    ctl.run("webhook", "retry", "unknown", code=3)
    assert ctl.names("webhook", "rm", webhook_id, "--yes") == [webhook_id]
    ctl.run("webhook", "get", webhook_id, code=3)


# -- top and completion


def test_top_shows_the_queues_and_obeys_keys(ctl: Ctl) -> None:
    # Other tests leave queues on this server.
    shown = on_terminal(["top", "--interval", "200ms"], ctl.url, typed=b"n q", LINES="2000")
    assert "Available [" in shown
    assert "seed.reports" in shown


def test_top_fits_every_terminal_and_sorts(ctl: Ctl) -> None:
    queues = [
        {
            "name": f"q{number}" + "長" * (number % 50),
            "paused": number % 3 == 0,
            "counts": {"available": number, "active": 100 - number},
            "dead_letters": number % 7,
            "avg_wait_ms": number * 10,
            "avg_duration_ms": 10**7,
            "now_per_s": number % 5,
        }
        for number in range(100)
    ]
    stats = {"jobs": {"available": 10**7, "active": 1}, "queues": 100}
    picture = Picture("http://a" * 30, stats, {"total": 3, "stale": 3}, queues, error="away " * 50)
    for width in (40, 80, 160, 300):
        for height in (10, 24, 200, None):
            for sort in SORTS:
                lines = frame(picture, width=width, height=height, sort=sort, clock="10:00:00")
                assert height is None or len(lines) < height
                assert width < 80 or all(line.cell_len <= width for line in lines)
    first = frame(picture, width=80, height=None, sort="available", clock="")[8]
    assert first.plain.startswith("q99")


def test_the_script_of_bash_completes_names_of_the_server(ctl: Ctl, tmp_path: Path) -> None:
    ctl.enqueue("q.complete", options={"rate_limit": {"key": "complete.me", "concurrency": 1}})
    program = tmp_path / "ojsctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ojs_client.ctl "$@"\n')
    program.chmod(0o755)
    (tmp_path / "script").write_text(ctl.run("completion", "bash").stdout)
    commands = (
        "source $0\n"
        "for words in 'ojsctl que' 'ojsctl queue get seed' \"ojsctl job ls --query sta\" "
        "'ojsctl job ls --queue seed.m' 'ojsctl limit get complete.m'; do\n"
        "COMP_WORDS=($words) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
        "COMPREPLY=(); _ojsctl_completion ojsctl; echo ${COMPREPLY[@]}; done\n"
    )
    done = subprocess.run(
        ["bash", "-c", commands, str(tmp_path / "script")],  # noqa: S607
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "OJS_URL": ctl.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "queue",
        "seed.mail seed.reports",
        "state:",
        "seed.mail",
        "complete.me",
    ]


@pytest.mark.parametrize(("shell", "start"), [("zsh", "#compdef ojsctl"), ("fish", "function")])
def test_the_scripts_of_other_shells_are_scripts(
    ctl: Ctl, shell: str, start: str, tmp_path: Path
) -> None:
    text = ctl.run("completion", shell).stdout
    assert text.startswith(start)
    assert "_OJSCTL_COMPLETE" in text
    program = shutil.which(shell)
    if program:
        (tmp_path / "script").write_text(text)
        subprocess.run([program, "-n", str(tmp_path / "script")], check=True)


def test_completion_without_a_server_is_empty(shared: Shared) -> None:
    env = {
        "_OJSCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": "ojsctl queue get ",
        "COMP_CWORD": "3",
    }
    assert Ctl("http://127.0.0.1:9", env=env).run().stdout.strip() == ""
    assert "seed.mail" in Ctl(shared.ctl.url, env=env).run().stdout


def test_completion_asks_the_server_that_stands_before_the_noun(shared: Shared) -> None:
    words = f"ojsctl --url {shared.ctl.url} queue get "
    env = {"_OJSCTL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "5"}
    assert "seed.mail" in Ctl("http://127.0.0.1:9", env=env).run().stdout


def test_only_commands_that_show_something_complete_watch(shared: Shared) -> None:
    for words, completed in (("queue ls", "plain,--watch"), ("queue pause", "")):
        env = {"_OJSCTL_COMPLETE": "bash_complete", "COMP_WORDS": f"ojsctl {words} --w"}
        shown = Ctl(shared.ctl.url, env={**env, "COMP_CWORD": "3"}).run().stdout
        assert shown.strip() == completed


# -- problems


def test_a_problem_is_acknowledged_and_muted(ctl: Ctl) -> None:
    ctl.run("queue", "pause", "q.problem", "--yes")
    ctl.until(lambda: "queue_paused" in ctl.names("problem", "ls"), "the problem")

    def state() -> str:
        rows = ctl.json("problem", "ls")
        return next(str(each["state"]) for each in rows if each["id"] == "queue_paused")

    said = ctl.run("problem", "ack", "queue_paused", "--reason", "known").stdout
    assert (said, state()) == ("queue_paused is acknowledged\n", "acknowledged")
    ctl.run("silence", "problem", "queue_paused", "--for", "2h")
    assert state() == "muted"
    checks = {each["check"]: each["status"] for each in ctl.json("doctor", code=None)}
    assert checks["queue_paused"] == "muted"
    assert ctl.run("problem", "unmute", "queue_paused").stdout == "queue_paused is open again\n"
    assert state() == "open"
    ctl.run("problem", "unmute", "queue_paused", code=3)
    ctl.run("problem", "ack", "no-problem", code=3)
    ctl.run("problem", "mute", "queue_paused", code=2)
    ctl.run("queue", "resume", "q.problem", "--yes")
