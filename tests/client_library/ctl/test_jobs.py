"""Jobs, queues and dead letters by ``ojsctl``, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.client_library.ctl.conftest import Ctl, Shared
from tests.client_library.ctl.test_connection import answering

UNKNOWN = "019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f"


def test_an_enqueued_job_is_what_the_command_line_says(ctl: Ctl) -> None:
    words = ["job", "enqueue", "email.send", '{"n": 18446744073709551617}', "plain", "7"]
    options = ["--queue", "q.enqueue", "--priority", "3", "--tag", "a", "--tag", "b"]
    more = ["--meta", "user=7", "--attempts", "5", "--delay", "1h", "--run-timeout", "90s"]

    job = ctl.json(*words, *options, *more)

    assert job["args"] == [{"n": 18446744073709551617}, "plain", 7]
    assert (job["queue"], job["priority"], job["tags"]) == ("q.enqueue", 3, ["a", "b"])
    assert (job["meta"], job["state"], job["max_attempts"]) == ({"user": 7}, "scheduled", 5)
    assert ctl.json("job", "get", job["id"])["args"] == job["args"]


def test_the_run_of_an_active_job_is_cancelled(ctl: Ctl) -> None:
    [job_id] = ctl.enqueue("q.run", options={"retry": {"initial_interval": "PT5M"}})
    assert "available" in ctl.run("job", "cancel-run", job_id, code=4).stderr
    fetch = {"queues": ["q.run"], "worker_id": "w-run"}
    [fetched] = ctl.api.post("/ojs/v1/workers/fetch", fetch)["jobs"]
    assert fetched["id"] == job_id

    ended = ctl.run("job", "kill-run", job_id)

    assert ended.stdout == f"the run of job {job_id} is cancelled, the job is retryable\n"
    [error] = ctl.json("job", "get", job_id)["errors"]
    assert (error["code"], error["attempt"]) == ("run_cancelled", 1)
    assert "does not exist" in ctl.run("job", "cancel-run", UNKNOWN, code=3).stderr


def test_a_file_of_jobs_is_enqueued_in_batches(ctl: Ctl, tmp_path: Path) -> None:
    line = json.dumps({"type": "t.a", "args": [1], "options": {"queue": "q.file"}})
    file = tmp_path / "jobs.jsonl"
    file.write_text(f"{line}\n" * 150)

    assert ctl.run("job", "enqueue", "--file", str(file)).stdout == "150 jobs enqueued\n"
    assert len(ctl.names("job", "enqueue", "--file", "-", text=line)) == 1
    assert len(ctl.names("job", "ls", "--queue", "q.file", "--all")) == 151
    assert len(ctl.names("job", "ls", "--queue", "q.file", "--limit", "120")) == 120


def test_an_option_that_the_server_ignores_is_named_with_its_job(ctl: Ctl, tmp_path: Path) -> None:
    lines = [{"type": "t.a", "args": []}, {"type": "t.a", "args": [], "options": {"prioritty": 9}}]
    file = tmp_path / "jobs.jsonl"
    file.write_text("".join(f"{json.dumps(each)}\n" for each in lines))

    result = ctl.run("job", "enqueue", "--file", str(file), "-o", "name")

    expected = "options.prioritty is not known, so it is ignored"
    assert result.stderr == f"Warning: job {result.stdout.split()[1]}: {expected}\n"


def test_a_file_that_breaks_off_says_what_was_enqueued(ctl: Ctl, tmp_path: Path) -> None:
    line = json.dumps({"type": "t.a", "args": [], "options": {"queue": "q.broken"}})
    file = tmp_path / "jobs.jsonl"
    file.write_text(f"{line}\n" * 100 + '{"type": "not a type"}\n')

    result = ctl.run("job", "enqueue", "--file", str(file), code=6)

    assert "100 jobs are enqueued" in result.stderr
    assert "lines 101 to 101" in result.stderr
    assert len(ctl.names("job", "ls", "--queue", "q.broken", "--all")) == 100


def test_values_without_a_json_form_are_refused(ctl: Ctl, tmp_path: Path) -> None:
    """Python reads and writes some of them as if they were JSON."""
    [job_id] = ctl.names("job", "enqueue", "t.a", "NaN", "--queue", "q.values")
    assert ctl.json("job", "get", job_id)["args"] == ["NaN"]
    for text in ("\udcff", '"\\ud800"'):
        assert "UTF-8" in ctl.run("job", "enqueue", "t.a", text, code=2).stderr
    assert "UTF-8" in ctl.run("job", "ls", "--query", "\udcff", code=2).stderr
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"type": "t.a", "args": [NaN]}\n')
    assert "line 1 is no JSON" in ctl.run("job", "enqueue", "--file", str(file), code=2).stderr
    file.write_bytes(b"\xff\n")
    assert "UTF-8" in ctl.run("job", "enqueue", "--file", str(file), code=2).stderr


def test_characters_that_the_output_lacks_are_escaped(ctl: Ctl) -> None:
    [job_id] = ctl.names("job", "enqueue", "t.a", "5 €", "--queue", "q.escaped")
    run = [sys.executable, "-m", "ojs_client.ctl"]
    for form in ("json", "table"):
        done = subprocess.run(
            [*run, "--url", ctl.url, "job", "get", job_id, "-o", form],
            env={**os.environ, "PYTHONIOENCODING": "latin-1"},
            capture_output=True,
            check=True,
        )
        assert b"5 \\u20ac" in done.stdout


def test_an_argument_that_is_nearly_json_is_refused(ctl: Ctl) -> None:
    words = ["job", "enqueue", "t.a", "--queue", "q.nearly"]
    for text in ('{"a":1,}', "[1", " {'a': 1}", '"open', "[" * 100_000, "[1e999]"):
        assert "is no JSON" in ctl.run(*words, text, code=2).stderr
    wrong = ["--meta", "user={1}"]
    assert "is no JSON" in ctl.run(*words, *wrong, code=2).stderr
    create = ["cron", "create", "c.nearly", "@daily", "t.a", "[1,]"]
    assert "is no JSON" in ctl.run(*create, code=2).stderr
    assert ctl.names("job", "ls", "--queue", "q.nearly") == []
    texts = ["tru", "01", "a{}", "1e999"]
    assert ctl.json(*words, '"[a] b"', *texts)["args"] == ["[a] b", *texts]


def test_a_search_finds_jobs(ctl: Ctl, shared: Shared) -> None:
    query = 'queue:seed.mail error:"no such host"*'
    assert ctl.names("job", "ls", "--query", query) == [shared.seeded["dead"]]
    assert ctl.names("dead", "ls", "--query", query) == [shared.seeded["dead"]]
    assert ctl.names("dead", "ls", "--queue", "seed.mail", "--query", "error:other") == []
    assert "unknown field" in ctl.run("job", "ls", "--query", "colour:red", code=4).stderr
    assert "no field" in ctl.run("job", "ls", "--query", "queue=seed.mail", code=4).stderr


def test_a_search_lists_the_jobs_that_a_change_would_choose(ctl: Ctl) -> None:
    """The index of the search lacks a job with so much meta."""
    meta = {"customer_id": "c 1"}
    [indexed] = ctl.enqueue("q.index", meta=meta)
    [large] = ctl.enqueue("q.index", meta={**meta, "more": "x" * 20_000})
    query = 'meta.customer_id:"c 1"'
    by_index = ctl.api.get("/ojs/v1/jobs", query=query)
    assert [job["id"] for job in by_index["jobs"]] == [indexed]
    assert sorted(ctl.names("job", "ls", "--query", query)) == sorted([indexed, large])
    counted = ctl.json("job", "cancel", "--query", query, "--dry-run")
    assert counted["matched"] == 2


def test_jobs_are_sorted_as_the_server_can(ctl: Ctl) -> None:
    for priority in (1, 3, 2):
        ctl.enqueue("q.sort", options={"priority": priority})
    words = ["job", "ls", "--queue", "q.sort", "--state", "available", "--sort", "priority"]
    assert [job["priority"] for job in ctl.json(*words, "--order", "desc")] == [3, 2, 1]
    assert [job["priority"] for job in ctl.json(*words, "--order", "asc")] == [1, 2, 3]


def test_one_job_per_line_is_json(ctl: Ctl) -> None:
    lines = ctl.run("job", "ls", "--queue", "seed.mail", "-o", "jsonl").stdout.splitlines()
    assert sorted(json.loads(line)["state"] for line in lines) == (
        ["active", "available", "completed", "discarded", "discarded"]
    )


def test_control_characters_of_clients_do_not_reach_the_terminal(ctl: Ctl, shared: Shared) -> None:
    job_id = shared.seeded["discarded"]
    ctl.enqueue("q.control", args=["\x9b31m\x7f\u202e"])
    for form in ("table", "wide", "json", "jsonl"):
        for words in (["job", "ls", "--queue", "q.control"], ["job", "get", job_id]):
            assert not set("\x1b\x9b\x7f\u202e") & set(ctl.run(*words, "-o", form).stdout)


def test_the_result_of_a_job_is_printed_or_its_failure(ctl: Ctl, shared: Shared) -> None:
    ids = shared.seeded
    assert ctl.run("job", "result", ids["completed"]).stdout == '{"status":"delivered"}\n'
    assert "no such host" in ctl.run("job", "result", ids["dead"], code=1).stderr
    waited = ctl.run("job", "result", ids["available"], "--wait", "1s", code=1)
    assert "the job is available" in waited.stderr


def test_a_short_wait_for_a_result_is_no_lookup(ctl: Ctl) -> None:
    paths: list[str] = []
    with answering(200, {"state": "completed", "result": 7}, paths) as (url, _):
        assert Ctl(url).run("job", "result", "some-id", "--wait", "500ms").stdout == "7\n"
    assert paths == ["/ojs/v1/jobs/some-id/result?wait=true&timeout=1"]
    [job_id] = ctl.enqueue("q.result")
    assert "available" in ctl.run("job", "result", job_id, "--wait", "1ms", code=1).stderr
    ctl.api.post("/ojs/v1/workers/fetch", {"queues": ["q.result"], "worker_id": "w"})
    ctl.api.post("/ojs/v1/workers/ack", {"job_id": job_id, "result": 7})
    assert ctl.run("job", "result", job_id, "--wait", "1m").stdout == "7\n"


def test_a_job_that_has_ended_is_watched_to_its_end(ctl: Ctl, shared: Shared) -> None:
    assert ctl.run("job", "watch", shared.seeded["completed"]).stdout.splitlines()[-1] == (
        "the job is completed"
    )
    ctl.run("job", "watch", shared.seeded["cancelled"], code=1)
    ctl.run("job", "watch", UNKNOWN, code=3)


def test_jobs_are_cancelled_by_ids_by_a_search_and_by_filters(ctl: Ctl) -> None:
    one, two, *_ = ctl.enqueue("q.cancel", 6)
    assert ctl.run("job", "cancel", one).stdout == f"job {one} is cancelled\n"
    refused = ctl.run("job", "cancel", one, code=4)
    assert refused.stdout == ""
    partly = ctl.run("job", "cancel", one, two, code=6)
    assert f"job {two} is cancelled" in partly.stdout
    assert one in partly.stderr

    query = ["--query", "queue:q.cancel"]
    assert ctl.json("job", "cancel", *query, "--dry-run")["matched"] == 4
    assert "--yes" in ctl.run("job", "cancel", *query, code=2).stderr
    assert ctl.run("job", "cancel", *query, "--yes").stdout == "4 jobs cancelled\n"

    ctl.enqueue("q.cancel", 3)
    filters = ["--queue", "q.cancel", "--type", "t.*"]
    shown = ctl.run("job", "cancel", *filters, "--dry-run").stdout
    assert shown == "3 jobs would be cancelled\n"
    assert "--yes" in ctl.run("job", "cancel", *filters, code=2).stderr
    assert len(ctl.names("job", "ls", "--queue", "q.cancel", "--state", "available")) == 3
    assert ctl.run("job", "cancel", *filters, "--yes").stdout == "3 jobs cancelled\n"


def test_jobs_are_found_by_a_member_of_an_argument(ctl: Ctl) -> None:
    for number in (1, 12):
        ctl.run("job", "enqueue", "t.a", f'{{"customer": {number}}}', "--queue", "q.arg")
    words = ("job", "ls", "--queue", "q.arg", "--arg")
    [found] = ctl.json(*words, "customer=12")
    assert found["args"] == [{"customer": 12}]
    assert ctl.names(*words, "customer=2") == []
    for wrong in ("customer", "customer=", "=12"):
        assert "NAME=VALUE" in ctl.run(*words, wrong, code=2).stderr


def test_the_list_of_dead_letters_counts_the_discarded_jobs_that_are_none(ctl: Ctl) -> None:
    for _ in range(2):
        [job_id] = ctl.enqueue("q.unkept", options={"retry": {"max_attempts": 1}})
        ctl.api.post("/ojs/v1/workers/fetch", {"queues": ["q.unkept"], "worker_id": "w"})
        ctl.api.post("/ojs/v1/workers/nack", {"job_id": job_id, "error": {"message": "no"}})
    shown = ctl.run("dead", "ls", "--queue", "q.unkept")
    assert "Not listed: 2 discarded jobs without a dead letter" in shown.stderr
    assert "queue config q.unkept --set on_exhaustion=dead_letter" in shown.stderr
    assert ctl.run("dead", "ls", "--queue", "q.unkept", "--json").stderr == ""
    assert ctl.run("dead", "ls", "--queue", "q.nosuch").stderr == ""
    ctl.run("queue", "config", "q.unkept", "--set", "on_exhaustion=dead_letter")
    [job_id] = ctl.enqueue("q.unkept", options={"retry": {"max_attempts": 1}})
    ctl.api.post("/ojs/v1/workers/fetch", {"queues": ["q.unkept"], "worker_id": "w"})
    ctl.api.post("/ojs/v1/workers/nack", {"job_id": job_id, "error": {"message": "no"}})
    shown = ctl.run("dead", "ls", "--queue", "q.unkept")
    assert job_id in shown.stdout
    assert "Not listed: 2 discarded" in shown.stderr


def test_dead_letters_are_retried_and_removed(ctl: Ctl) -> None:
    ids = dead(ctl, "q.dead", 5)
    assert ctl.run("dead", "get", ids[0]).stdout == ctl.run("job", "get", ids[0]).stdout
    assert ctl.run("dead", "retry", ids[0]).stdout == f"job {ids[0]} is available\n"
    assert ctl.run("dead", "retry", ids[0], code=3).stdout == ""
    assert "does not exist" in ctl.run("dead", "get", ids[0], code=3).stderr
    query = ["--query", f"queue:q.dead id:{ids[1]}"]
    assert ctl.run("dead", "retry", *query, "--yes").stdout == "1 dead letter retried\n"
    purge = ["dead", "rm", "--queue", "q.dead", "--dry-run"]
    assert ctl.json(*purge)["matched"] == 3
    assert ctl.json(*purge, "--since", "1h")["matched"] == 3
    assert ctl.json(*purge, "--until", "1h")["matched"] == 0
    assert "2h ago" in ctl.run(*purge, "--until", "2026", code=2).stderr
    assert "--yes" in ctl.run("dead", "rm", ids[2], code=2).stderr
    assert ctl.run("dead", "rm", ids[2], "--yes").stdout == f"dead letter {ids[2]} deleted\n"
    done = ctl.run("dead", "retry", "--queue", "q.dead", "--type", "t.a", "--yes").stdout
    assert done == "2 dead letters retried\n"
    assert ctl.names("dead", "ls", "--queue", "q.dead") == []
    assert ctl.run("dead", "rm", "--queue", "q.dead", "--yes").stdout == (
        "0 dead letters deleted\n"
    )


def test_discarded_jobs_are_retried(ctl: Ctl) -> None:
    ids = dead(ctl, "q.retry", 3)
    assert ctl.run("job", "retry", ids[0]).stdout == f"job {ids[0]} is available\n"
    assert ctl.json("job", "retry", "--query", "queue:q.retry", "--dry-run")["matched"] == 2
    words = ["job", "retry", "--queue", "q.retry"]
    assert ctl.json(*words, "--state", "discarded", "--since", "1h", "--dry-run")["matched"] == 2
    assert "discarded" in ctl.run(*words, "--state", "active", "--yes", code=4).stderr
    assert ctl.run(*words, "--yes").stdout == "2 jobs retried\n"


def test_a_bulk_operation_need_not_be_waited_for(ctl: Ctl) -> None:
    ctl.enqueue("q.nowait", 2)
    words = ["job", "cancel", "--queue", "q.nowait", "--yes", "--no-wait"]
    assert "ojsctl bulk get" in ctl.run(*words).stdout
    ctl.until(
        lambda: not ctl.names("job", "ls", "--queue", "q.nowait", "--state", "available"),
        what="the end of the operation",
    )


@pytest.mark.parametrize("words", [["job", "cancel"], ["dead", "rm"], ["job", "retry"]])
def test_jobs_are_chosen_in_one_way(ctl: Ctl, words: list[str]) -> None:
    assert "one way" in ctl.run(*words, code=2).stderr
    assert "one way" in ctl.run(*words, UNKNOWN, "--queue", "q", code=2).stderr
    assert "one way" in ctl.run(*words, "--all", "--query", "type:a", code=2).stderr


@pytest.mark.parametrize(
    "line",
    [
        "job cancel --queue= --older-than 7d --yes",
        "dead rm --queue= --older-than 7d --yes",
        "job rm --queue= --older-than 7d --yes",
        "job rm --queue q --query= --yes",
        "job cancel --queue q --query= --yes",
        "queue purge q.unset --older-than= --yes",
        "queue purge q.unset --state= --yes",
        "error retry g --queue= --yes",
        "error delete g --since= --yes",
        "limit set k --concurrency 1 --until=",
        "job ls --state=",
    ],
)
def test_an_unset_variable_of_a_shell_widens_nothing(ctl: Ctl, line: str) -> None:
    words = line.split()
    (empty,) = (word.rstrip("=") for word in words if word.endswith("="))
    said = ctl.run(*words, code=2).stderr
    assert f"{empty} is empty" in said or f"Invalid value for '{empty}'" in said


def test_a_queue_is_paused_limited_spread_and_purged(ctl: Ctl) -> None:
    ctl.enqueue("q.queue", 3)
    assert ctl.run("queue", "pause", "q.queue").stdout == "queue q.queue paused\n"
    assert ctl.json("queue", "get", "q.queue")["paused"]
    assert ctl.names("queue", "resume", "q.queue") == ["q.queue"]
    assert ctl.run("queue", "drain", "q.queue").stdout == "queue q.queue draining\n"
    assert ctl.names("queue", "resume", "q.queue") == ["q.queue"]
    limits = ctl.json("queue", "limit", "q.queue", "--concurrency", "2", "--rate", "10/1m")
    assert (limits["concurrency"]["limit"], limits["rate"]["period"]) == (2, "PT1M")
    assert "has no limit" in ctl.run("queue", "limit", "q.queue", "--clear").stdout
    assert ctl.json("queue", "partitions", "q.queue", "4")["config"]["partitions"] == 4
    assert ctl.run("queue", "purge", "q.queue", "--dry-run").stdout == "3 jobs would be purged\n"
    assert ctl.run("queue", "purge", "q.queue", "--yes").stdout == "3 jobs purged\n"
    assert ctl.names("job", "ls", "--queue", "q.queue") == []
    ctl.run("queue", "get", "q.unknown", code=3)
    assert ctl.run("queue", "limit", "q.queue", "--rate", "fast", code=2).stdout == ""


def test_a_queue_is_created_and_deleted(ctl: Ctl) -> None:
    words = ("queue", "create", "q.created", "--max-size", "9", "--concurrency", "2")
    assert ctl.run(*words).stdout == "queue q.created created\n"
    shown = ctl.json("queue", "partitions", "q.created")["config"]
    assert (shown["backpressure"]["max_depth"], shown["concurrency"]) == (9, 2)
    assert "exists" in ctl.run(*words, code=4).stderr
    ctl.enqueue("q.created", 1)
    assert "1 waiting or active" in ctl.run("queue", "rm", "q.created", "--yes", code=4).stderr
    ctl.run("queue", "rm", "q.created", "--discard", "--move-to", "q.moved", "--yes", code=2)
    for options in (("--move-to", "q.moved"), ("--discard",)):
        name = "q.created" if "--move-to" in options else "q.moved"
        out = ctl.run("queue", "rm", name, *options, "--yes").stdout
        assert out == f"queue {name} deleted\n"
    ctl.run("queue", "rm", "q.created", "--yes", code=3)


def test_the_numbers_of_a_queue_and_of_all(ctl: Ctl) -> None:
    assert ctl.json("stats", "--queue", "seed.mail")["jobs"]["available"] == 1
    assert "Completed" in ctl.run("stats").stdout
    assert isinstance(ctl.json("stats", "--period", "1m"), list)


def test_doctor_checks_the_server_and_lists_its_problems(ctl: Ctl) -> None:
    checks = {each["check"]: each for each in ctl.json("doctor", code=None)}
    for name in ("connection", "backend", "key", "clock"):
        assert checks[name]["status"] == "ok", checks[name]
    assert "ojs:admin:purge" in checks["key"]["detail"]
    assert checks["queue_paused"]["status"] == "warning"
    assert "paused" in checks["queue_paused"]["detail"]
    assert checks["durability"]["detail"].startswith("async")
    assert checks["persistence"]["status"] == "skipped"
    listed = ctl.api.get("/ojs/v1/admin/problems")["items"]
    assert {each["id"] for each in listed} & checks.keys()


def dead(
    ctl: Ctl,
    queue: str,
    count: int,
    message: str = "no",
    args: Sequence[Any] = (),
    **options: Any,
) -> list[str]:
    """Enqueue jobs, let them become dead letters, and return their ids."""
    policy = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    ids = ctl.enqueue(queue, count, args=list(args), options={"retry": policy, **options})
    body = {"queues": [queue], "worker_id": "w", "count": count}
    for job in ctl.api.post("/ojs/v1/workers/fetch", body)["jobs"]:
        error = {"type": "Broken", "message": message}
        ctl.api.post("/ojs/v1/workers/nack", {"job_id": job["id"], "error": error})
    assert set(ids) <= set(ctl.names("dead", "ls", "--queue", queue))
    return ids
