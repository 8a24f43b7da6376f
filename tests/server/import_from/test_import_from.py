"""`ojs-cluster import --from` with data that the other systems have written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import redis

from ojs_cluster.core.payload_limits import DEFAULT_LIMITS
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.server.commands.import_from import ImportOptions, import_from
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.engine.queues.partition_maintenance import set_partitions
from tests.server.import_from.recorded import everything, load
from tests.server.programs import clean_environment
from tests.store.archives import content, emptied, export_text
from tests.support.invariants import check_invariants

FOREIGN = ["bullmq", "celery", "ojs-redis", "sidekiq"]


async def imported(
    store: Store, source: Embedded, system: str, **options: Any
) -> tuple[list[str], list[dict[str, Any]]]:
    """Import the recording of a system; return the report and the exported jobs."""
    if not everything(source.url):
        load(source.url, system)
    report = await import_from(ImportOptions(system, source.url, **options), DEFAULT_LIMITS, store)
    jobs = [line for (kind, _), line in content(await export_text(store)).items() if kind == "job"]
    return list(report.lines()), jobs


def brief(jobs: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Return queue, state, type and args of jobs, sorted."""
    return sorted(
        (job["queue"], job["state"], job["type"], json.dumps(job["envelope"]["args"]))
        for job in jobs
    )


async def fetched(store: Store, queue: str) -> list[Any]:
    """Return the args of all jobs of a queue in the order in which workers get them."""
    jobs: list[JobRecord] = await fetch(store, [queue], worker_id="w", count=20)
    return [json.loads(job.envelope() + b"}")["args"] for job in jobs]


@pytest.fixture
async def target(cluster: Embedded) -> Any:
    async with emptied(cluster) as store:
        yield store


async def test_celery(target: Store, standalone: Embedded) -> None:
    lines, jobs = await imported(target, standalone, "celery")

    assert brief(jobs) == [
        ("billing-eu", "discarded", "shop.tasks.charge", "[7]"),
        ("celery", "available", "shop.tasks.add", "[1, 1152921504606846976]"),
        ("late", "scheduled", "shop.tasks.send_email", '["f@example.com"]'),
        (
            "mail",
            "available",
            "shop.tasks.send_email",
            '["a@example.com", {"subject": "Gr\\u00f6\\u00dfe"}]',
        ),
        ("mail", "available", "shop.tasks.send_email", '["b@example.com"]'),
        ("mail", "available", "shop.tasks.send_email", '["d@example.com"]'),
        ("mail", "scheduled", "shop.tasks.send_email", '["c@example.com"]'),
    ]
    by_args = {json.dumps(job["envelope"]["args"]): job for job in jobs}
    assert by_args['["c@example.com"]']["due_ms"] == 2209086245000
    assert by_args['["d@example.com"]']["expires_ms"] == 2240611200000
    assert by_args['["b@example.com"]']["timeout_ms"] == 90_000
    failed = by_args["[7]"]
    assert failed["dead_letter"] == failed["attempt"] == 1
    [error] = failed["errors"]
    assert error["error"]["type"] == "ValueError"
    assert error["error"]["message"] == "card of order 7 refused"
    assert error["error"]["backtrace"][-1] == "ValueError: card of order 7 refused"
    origin = failed["envelope"]["meta"]["imported_from"]
    assert (origin["system"], origin["type"], origin["queue"]) == (
        "celery",
        "shop.tasks.Charge",
        "Billing_EU",
    )
    assert [line.partition(" (")[0] for line in lines if "left out" in line] == [
        "celery: 1 left out: is part of a chain, group or chord: create a workflow instead",
        "mail: 1 left out: is serialised as application/x-python-serialize, which only Python"
        " code can read",
    ]
    # A lower number comes first in Celery on Redis.
    assert (await fetched(target, "mail"))[-1] == ["b@example.com"]


async def test_bullmq(target: Store, standalone: Embedded) -> None:
    lines, jobs = await imported(target, standalone, "bullmq")

    assert brief(jobs) == [
        ("billing-eu", "discarded", "charge", '[{"order": 7}]'),
        ("billing-eu", "retryable", "charge", '[{"order": 8}]'),
        (
            "mail",
            "available",
            "send-email",
            '[{"to": "a@example.com", "subject": "Gr\\u00f6\\u00dfe"}]',
        ),
        ("mail", "available", "send-email", '[{"to": "b@example.com"}]'),
        ("mail", "available", "send_digest", '[{"big": 1}]'),
        ("mail", "available", "send_digest", '[{"big": 2}]'),
        ("mail", "scheduled", "later", "[[1, 2]]"),
        ("paused-queue", "available", "waits", "[{}]"),
    ]
    by_args = {json.dumps(job["envelope"]["args"]): job for job in jobs}
    policy = by_args['[{"to": "b@example.com"}]']["envelope"]["retry"]
    assert (policy["max_attempts"], policy["initial_interval"]) == (5, "PT2S")
    failed = by_args['[{"order": 7}]']
    assert [error["attempt"] for error in failed["errors"]] == [1, 2]
    assert failed["errors"][1]["error"]["message"] == "card of order 7 refused"
    retried = by_args['[{"order": 8}]']
    assert (retried["attempt"], retried["max_attempts"]) == (1, 3)
    assert retried["due_ms"] - retried["created_ms"] > 300_000_000_000
    assert (await queues.get_stats(target, "paused-queue")).paused
    assert [line.partition(" (")[0] for line in lines if "left out" in line] == [
        "flow: 2 left out: is part of a flow: create a workflow instead",
        "mail: 1 left out: is a job scheduler: create a cron job instead",
    ]
    # First the jobs without a priority, then those with the lowest number.
    assert [args[0] for args in await fetched(target, "mail")] == [
        {"to": "a@example.com", "subject": "Größe"},
        {"to": "b@example.com"},
        {"big": 2},
        {"big": 1},
    ]


async def test_sidekiq(target: Store, standalone: Embedded) -> None:
    _, jobs = await imported(target, standalone, "sidekiq")

    assert brief(jobs) == [
        ("billing-eu", "available", "billing.charge_job", "[7]"),
        ("billing-eu", "discarded", "billing.charge_job", "[9]"),
        ("billing-eu", "retryable", "billing.charge_job", "[8]"),
        ("mail", "available", "send_email", '["a@example.com", {"subject": "Gr\\u00f6\\u00dfe"}]'),
        ("mail", "available", "send_email", '["b@example.com", {}]'),
        ("mail", "available", "welcome_job", '["d@example.com", 3]'),
        ("mail", "scheduled", "send_email", '["c@example.com", {}]'),
    ]
    by_args = {json.dumps(job["envelope"]["args"]): job for job in jobs}
    assert by_args["[7]"]["max_attempts"] == 1
    assert (by_args["[8]"]["attempt"], by_args["[8]"]["max_attempts"]) == (1, 26)
    assert (by_args["[9]"]["attempt"], by_args["[9]"]["max_attempts"]) == (4, 4)
    [error] = by_args["[9]"]["errors"]
    assert error["error"]["type"] == "ArgumentError"
    assert "sidekiq_jobs.rb" in error["error"]["backtrace"][0]
    assert by_args["[8]"]["created_ms"] == 1_790_000_000_250
    assert by_args['["b@example.com", {}]']["envelope"]["tags"] == ["eu"]
    # The order in which Sidekiq would have run them.
    assert [args[0][:1] for args in await fetched(target, "mail")] == ["a", "b", "d"]


async def test_times_of_sidekiq_8_are_in_milliseconds(target: Store, standalone: Embedded) -> None:
    created_ms = 1_790_000_123_456
    load(standalone.url, "sidekiq")
    with redis.Redis.from_url(standalone.url) as client:
        job = json.loads(client.lindex("queue:mail", 0))
        client.lset("queue:mail", 0, json.dumps({**job, "created_at": created_ms}))

    _, jobs = await imported(target, standalone, "sidekiq")

    assert created_ms in {job["created_ms"] for job in jobs}


async def test_the_reference_server(target: Store, standalone: Embedded) -> None:
    lines, jobs = await imported(target, standalone, "ojs-redis")

    prefix = "019a0000-0000-7000-8000-00000000000"
    states = {job["id"].removeprefix(prefix): job["state"] for job in jobs}
    assert states == {
        "1": "available",
        "2": "available",
        "3": "scheduled",
        "4": "retryable",
        "6": "discarded",
        "7": "available",
    }
    by_id = {job["id"].removeprefix(prefix): job for job in jobs}
    assert by_id["1"]["holds_lock"]
    assert by_id["2"]["envelope"]["customer"] == {"id": 7}
    assert (by_id["2"]["priority"], by_id["2"]["timeout_ms"]) == (5, 90_000)
    failures = {
        number: [
            (error["attempt"], format_ms(error["at_ms"]), error["error"]["message"])
            for error in job["errors"]
        ]
        for number, job in by_id.items()
        if job.get("errors")
    }
    assert failures == {
        "4": [
            (1, b"2026-11-01T10:01:00.000Z", "no"),
            (2, b"2026-11-01T10:01:00.000Z", "still no"),
        ],
        "6": [
            (1, b"2026-11-27T02:02:32.000Z", "away"),
            (2, b"2026-11-27T02:02:32.000Z", "away"),
            (3, b"2026-11-27T02:02:32.000Z", "gone"),
        ],
        "7": [(1, b"2026-11-01T10:02:00.000Z", "no")],
    }
    assert by_id["4"]["errors"][0]["error"]["type"] == "Refused"
    assert by_id["6"]["dead_letter"] == 1
    assert (await queues.get_stats(target, "reports")).paused
    assert [line.partition(" (")[0] for line in lines if "left out" in line] == [
        "all queues: 1 left out: is a cron job: register it again",
        "mail: 1 left out: is active: stop its worker, then import again",
        "reports: 1 left out: is part of a workflow: start the workflow again",
    ]


@pytest.mark.parametrize("system", FOREIGN)
async def test_a_second_import_stores_nothing_and_the_source_does_not_change(
    target: Store, cluster: Embedded, standalone: Embedded, system: str
) -> None:
    _, first = await imported(target, standalone, system)
    before = everything(standalone.url)

    lines, second = await imported(target, standalone, system)

    assert brief(second) == brief(first)
    assert not any(line.endswith(" imported") for line in lines)
    assert everything(standalone.url) == before
    check_invariants(cluster)


async def test_an_interrupted_import_can_be_repeated_with_more_partitions(
    target: Store, standalone: Embedded
) -> None:
    _, first = await imported(target, standalone, "sidekiq")
    await set_partitions(target, "mail", 4)

    _, second = await imported(target, standalone, "sidekiq")

    assert sorted(job["id"] for job in second) == sorted(job["id"] for job in first)


async def test_other_names_do_not_import_a_job_twice(target: Store, standalone: Embedded) -> None:
    _, first = await imported(target, standalone, "sidekiq")

    _, second = await imported(target, standalone, "sidekiq", queues={"mail": "outbox"})

    assert brief(second) == brief(first)


async def test_a_task_that_a_worker_of_celery_runs_is_left_out(
    target: Store, standalone: Embedded
) -> None:
    load(standalone.url, "celery")
    with redis.Redis.from_url(standalone.url) as client:
        [(tag, held)] = client.hgetall("unacked").items()
        client.hset("unacked", tag, held.replace(b"2040-01-02", b"2020-01-02"))

    report = await import_from(ImportOptions("celery", standalone.url), DEFAULT_LIMITS, target)

    assert any("late: 1 left out: is running" in line for line in report.lines())


async def test_celery_s_routing_keys_lead_to_queues(target: Store, standalone: Embedded) -> None:
    load(standalone.url, "celery")
    with redis.Redis.from_url(standalone.url) as client:
        client.sadd("_kombu.binding.mails", "late\x06\x16\x06\x16slow")

    await import_from(ImportOptions("celery", standalone.url), DEFAULT_LIMITS, target)

    jobs = content(await export_text(target)).values()
    assert [job["state"] for job in jobs if job.get("queue") == "slow"] == ["scheduled"]


async def test_a_paused_queue_without_a_valid_name_is_left_out(
    target: Store, standalone: Embedded
) -> None:
    with redis.Redis.from_url(standalone.url) as client:
        client.hset("bull:\u65e5\u672c:meta", "paused", 1)

    report = await import_from(ImportOptions("bullmq", standalone.url), DEFAULT_LIMITS, target)

    assert list(report.lines())[1:] == [
        "\u65e5\u672c: 1 left out: has a name that needs --rename-queue"
    ]


async def test_a_dry_run_stores_nothing(target: Store, standalone: Embedded) -> None:
    load(standalone.url, "sidekiq")

    options = ImportOptions("sidekiq", standalone.url, dry_run=True)
    report = await import_from(options, DEFAULT_LIMITS, None)

    assert "mail: 3 available to import" in list(report.lines())
    assert content(await export_text(target)) == {}


async def test_names_can_be_chosen(target: Store, standalone: Embedded) -> None:
    types, names = {"SendEmail": "email.send"}, {"mail": "outbox"}

    lines, jobs = await imported(target, standalone, "sidekiq", types=types, queues=names)

    assert {job["type"] for job in jobs if job["queue"] == "outbox"} == {
        "email.send",
        "welcome_job",
    }
    assert "type SendEmail is called email.send here" in lines


async def test_a_job_that_is_not_valid_here_is_named(target: Store, standalone: Embedded) -> None:
    load(standalone.url, "sidekiq")
    limits = replace(DEFAULT_LIMITS, envelope_bytes=200)

    report = await import_from(ImportOptions("sidekiq", standalone.url), limits, target)

    assert report.refused
    assert any("a job envelope has at most 200 bytes" in line for line in report.lines())


@pytest.mark.parametrize("system", FOREIGN)
async def test_hostile_data_is_left_out(target: Store, standalone: Embedded, system: str) -> None:
    keys: dict[str, list[tuple[str, ...]]] = {
        "celery": [("list", "mail"), ("set", "_kombu.binding.mail", "\x06\x16\x06\x16mail")],
        "bullmq": [("list", "bull:mail:wait"), ("hash", "bull:mail:meta"), ("hash", "bull:mail:x")],
        "sidekiq": [("list", "queue:mail"), ("set", "queues", "mail"), ("zset", "dead")],
        "ojs-redis": [("set", "ojs:queues", "mail"), ("zset", "ojs:retry"), ("hash", "ojs:job:x")],
    }
    values = [
        "x",
        "{}",
        "[]",
        "null",
        '{"jid":1,"class":null,"args":{}}',
        '{"headers":[]}',
        '{"headers":{"id":1,"task":"t"},"properties":{"body_encoding":"base64"},'
        '"content-type":"application/json","body":5}',
        b"\xff",
        "\ud7ff",
    ]
    with redis.Redis.from_url(standalone.url) as client:
        for kind, key, *members in keys[system]:
            for value in members or values:
                if kind == "list":
                    client.rpush(key, value)
                elif kind == "set":
                    client.sadd(key, value)
                elif kind == "zset":
                    client.zadd(key, {value: 1})
                else:
                    client.hset(key, value, value)

    report = await import_from(ImportOptions(system, standalone.url), DEFAULT_LIMITS, target)

    assert any("left out" in line for line in report.lines())
    assert content(await export_text(target)) == {}


def test_the_command_prints_a_report(cluster: Embedded, standalone: Embedded) -> None:
    load(standalone.url, "sidekiq")

    command = ["import", "--from", "sidekiq", "--rename-queue", "mail=outbox", standalone.url]
    done = subprocess.run(
        [sys.executable, "-m", "ojs_cluster.cli", *command],
        env=clean_environment({"REDIS_URL": cluster.url}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    assert "outbox: 3 available imported" in done.stdout.splitlines()
    assert "queue mail is called outbox here" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--dry-run"], "need --from"),
        (["--from", "sidekiq"], "needs the URL"),
        (["--from", "sidekiq", "--rename-type", "x", "redis://127.0.0.1:1"], "OLD=NEW"),
        (["--from", "resque", "redis://127.0.0.1:1"], "'resque' is not one of"),
        (["--from", "sidekiq", "--dry-run", "redis://:secret@127.0.0.1:1"], "sidekiq: "),
        (["--from", "sidekiq", "--dry-run", "http://127.0.0.1:1"], "the URL is not valid"),
        (["--from", "sidekiq", "--dry-run", "redis://u:secret#x@127.0.0.1:1"], "is not valid"),
        (["--from", "sidekiq", "--prefix", "x", "redis://127.0.0.1:1"], "--prefix needs"),
    ],
)
def test_a_wrong_command_line_is_explained(command: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ojs_cluster.cli", "import", *command],
        env=clean_environment({}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
