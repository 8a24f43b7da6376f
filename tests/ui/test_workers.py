"""The workers: rows that stay in place, directives, and hidden members of heartbeats."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.engine.queues.queues import QueueStats
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.operators.operations.metrics import ClusterMetrics, QueueMetrics
from ojs_cluster.ui import serving, workers_by_queue
from ojs_cluster.ui.pages.queues import lists
from ojs_cluster.ui.pages.shared import held_jobs
from ojs_cluster.ui.problems.of_jobs import problems_of_metrics
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.workers_by_queue import WorkersByQueue
from tests.support.servers import wait_until
from tests.ui.conftest import FULL
from tests.ui.dashboard import Running, dashboard
from tests.ui.html import parse
from tests.ui.test_pages import act, page
from tests.ui.test_queues import send

BEAT = {
    "hostname": "host-9",
    "memory_bytes": 89_128_960,
    "pid": 4711,
    "concurrency": 12,
    "queues": ["held"],
}


def beat(api: httpx.Client, name: str) -> str:
    answer = api.post("/ojs/v1/workers/heartbeat", json={**BEAT, "worker_id": name})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["state"])


# Other tests leave more workers than a page shows. The names below come first.
def rows(text: str) -> list[str]:
    links = [each.attributes["href"] for each in parse(text).all("a")]
    return [link for link in links if link.startswith("./workers/a-sorted-")]


def test_rows_stay_in_place_whoever_was_seen_last(running: Running, admin: httpx.Client) -> None:
    names = ["a-sorted-a", "a-sorted-b", "a-sorted-c"]
    with running.api() as api:
        for last in names:
            for name in (*reversed(names), last):
                beat(api, name)
            assert rows(page(admin, "/ui/workers")) == [f"./workers/{name}" for name in names]
    text = page(admin, "/ui/workers")
    assert ' class="host">host-9</td>' in text
    assert '<span class="quiet"> / 12</span></td>' in text
    assert ">4711</td>" in text
    assert ">85 MiB</td>" in text
    assert "<b>85 MiB</b> of memory" in page(admin, "/ui/workers/a-sorted-a")


def test_the_jobs_of_a_worker_are_linked(running: Running, admin: httpx.Client) -> None:
    name = 'a with "quotes" and \\'
    with running.api() as api:
        body = {"type": "a.held", "args": [], "options": {"queue": "held"}}
        job_id = api.post("/ojs/v1/jobs", json=body).json()["id"]
        fetched = api.post("/ojs/v1/workers/fetch", json={"queues": ["held"], "worker_id": name})
        assert [job["id"] for job in fetched.json()["jobs"]] == [job_id]
        api.post(
            "/ojs/v1/workers/heartbeat",
            json={**BEAT, "worker_id": name, "active_jobs": [job_id]},
        )
        links = [e.attributes["href"] for e in parse(page(admin, "/ui/workers")).all("a")]
        (link,) = [each for each in links if "quotes" in each and "jobs?" in each]
        assert job_id in page(admin, "/ui/" + link)
        api.post("/ojs/v1/workers/ack", json={"job_id": job_id, "worker_id": name})


def test_the_list_counts_jobs_that_a_worker_has_not_reported(
    running: Running, admin: httpx.Client
) -> None:
    name = "a-sorted-i"
    path = f"/ui/workers/{name}"

    def is_listed_with(count: str) -> bool:
        row = page(admin, "/ui/workers").partition(f">{name}</a>")[2].partition("</tr>")[0]
        return f"running {count} / 12 " in " ".join(parse(row).text.split())

    with running.api() as api:
        body = {"type": "a.held", "args": [], "options": {"queue": "held-unreported"}}
        job_id = api.post("/ojs/v1/jobs", json=body).json()["id"]
        beat(api, name)
        fetch = {"queues": ["held-unreported"], "worker_id": name}
        assert api.post("/ojs/v1/workers/fetch", json=fetch).json()["jobs"]
        wait_until(lambda: is_listed_with("1"), what="viewers share the numbers for two seconds")
        assert "can be stopped" not in act(admin, f"{path}/direct/quiet", f"workers/{name}")
        api.post("/ojs/v1/workers/ack", json={"job_id": job_id, "worker_id": name})
        assert "can be stopped" in page(admin, path)


def test_workers_are_found_by_the_oldest_job_that_they_hold(
    running: Running, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: dict[str, str] = {}
    with running.api() as api:
        for name in ("a-sorted-y", "a-sorted-x", "a-sorted-y"):
            body = {"type": "a.held", "args": [], "options": {"queue": "held-for-long"}}
            job_id = api.post("/ojs/v1/jobs", json=body).json()["id"]
            beat(api, name)
            fetch = {"queues": ["held-for-long"], "worker_id": name}
            assert api.post("/ojs/v1/workers/fetch", json=fetch).json()["jobs"]
            held.setdefault(name, job_id)
        both = ["./workers/a-sorted-y", "./workers/a-sorted-x"]

        def found() -> list[str]:
            shown = rows(page(admin, "/ui/workers?sort=oldest"))
            return [link for link in shown if link in both]

        wait_until(lambda: found() == both, what="viewers share the jobs for two seconds")
        store = running.app.store

        first = held["a-sorted-y"]
        shard = store.keys.shard_of_id(first)

        async def set_started(text: str) -> None:
            key, field = shard.job(first), f.STARTED
            was.append(await store.redis.call(shard.slot, "HGET", key, field))
            await store.redis.call(shard.slot, "HSET", key, field, text)

        was: list[Any] = []
        running.run(partial(set_started, "damaged"))
        wait_until(lambda: found() == both[::-1], what="only the damaged job is left out")
        running.run(partial(set_started, was[0].decode()))
        wait_until(lambda: found() == both, what="the job is there again")
        by_id = page(admin, "/ui/workers")
        assert [link for link in rows(by_id) if link in both] == both[::-1]
        for name, job_id in held.items():
            row = by_id.partition(f">{name}</a>")[2].partition("</tr>")[0]
            assert f"./jobs/{job_id}" in row, "of two jobs, the one that has started first"
        assert "leases end first" not in by_id
        assert "No worker holds a job" not in page(admin, "/ui/workers?sort=oldest&page=9")
        monkeypatch.setattr(held_jobs, "MAX_ACTIVE", 1)

        def is_cut() -> bool:
            return "leases end first" in page(admin, "/ui/workers")

        wait_until(is_cut, what="there are more active jobs than are read")
        with running.browser("email-key") as team:
            denied = team.get("/ui/workers?sort=oldest")
            assert all(job_id not in denied.text for job_id in held.values())
        for job in api.get("/ojs/v1/admin/jobs?queue=held-for-long").json()["items"]:
            ack = {"job_id": job["id"], "worker_id": job["worker_id"]}
            api.post("/ojs/v1/workers/ack", json=ack).raise_for_status()


def test_the_page_of_a_queue_names_the_workers_that_report_it(
    running: Running, admin: httpx.Client
) -> None:
    name = "a-sorted-s"

    def is_shown(words: str) -> bool:
        return words in " ".join(parse(page(admin, "/ui/queues/served")).text.split())

    with running.api() as api:
        body = {"type": "a.b", "args": [], "options": {"queue": "served"}}
        api.post("/ojs/v1/jobs", json=body).raise_for_status()
        warning = "that reports this queue takes jobs"
        assert is_shown(warning)
        worker = {**BEAT, "worker_id": name, "queues": ["served", "held"]}
        api.post("/ojs/v1/workers/heartbeat", json=worker).raise_for_status()
        wait_until(lambda: is_shown(f"report this queue: {name}"), what="the list is shared")
        assert not is_shown(warning)
        with running.browser("email-key") as team:
            told = re.compile("reports? this queue")
            assert told.search(page(admin, "/ui/queues/email"))
            assert not told.search(page(team, "/ui/queues/email")), "workers have any queues"


def test_a_queue_whose_jobs_wait_without_a_worker_is_marked(
    running: Running, ui_redis: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests leave workers that do not report queues, and jobs wait for ten seconds first.
    monkeypatch.setattr(serving, "_UNKNOWN_MS", -1)
    monkeypatch.setattr(workers_by_queue, "UNSERVED_MS", 0)
    with running.api() as api:
        for queue in ("a-lonely", "a-lonely", "a-served", "a-nameless", "a-nameless"):
            body = {"type": "a.b", "args": [], "options": {"queue": queue}}
            api.post("/ojs/v1/jobs", json=body).raise_for_status()
        for number in (1, 2):
            worker = {"worker_id": f"w-served-{number}", "queues": ["a-served", "a-served"]}
            api.post("/ojs/v1/workers/heartbeat", json=worker).raise_for_status()
        fetched = api.post("/ojs/v1/workers/fetch", json={"queues": ["a-nameless"]}).json()
        api.post("/ojs/v1/workers/ack", json={"job_id": fetched["jobs"][0]["id"]})
    told = "2 jobs wait, and no worker fetches from this queue"
    with dashboard(ui_redis, FULL) as server, server.browser() as client:
        assert told in page(client, "/ui/queues/a-lonely")
        assert "no worker fetches" not in page(client, "/ui/queues/a-served")
        assert "no worker fetches" not in page(client, "/ui/queues/a-nameless")
        rows = dict(re.findall(r"queues/(a-[a-z]*)\"(.*?)</tr>", page(client, "/ui/queues"), re.S))
        assert told in rows["a-lonely"]
        assert "no worker fetches" not in rows["a-served"]
        assert '<td class="num">2</td>' in rows["a-served"]
        shown = " ".join(parse(page(client, "/ui/")).text.split())
        named = re.search(r"Jobs wait in the queues? (\S.*?), and no worker fetches", shown)
        assert named is not None
        assert "a-served" not in named[1]
        assert "a-nameless" not in named[1]
    redacted = UiSettings(mode="full", redact=frozenset({"queues"}))
    with dashboard(ui_redis, redacted) as server, server.browser() as client:
        assert "no worker fetches" not in page(client, "/ui/queues"), "the operator hides them"


@pytest.mark.parametrize(
    ("counts", "is_complete", "queue", "oldest_ms", "lacks"),
    [
        ({}, True, {}, 10_000, True),
        ({"q": 1}, True, {}, 10_000, False),
        ({}, False, {}, 10_000, False),
        ({}, True, {"paused": True}, 10_000, False),
        ({}, True, {"counts": {"available": 1, "active": 1}}, 10_000, False),
        ({}, True, {"has_run": True}, 10_000, False),
        ({}, True, {"counts": {"available": 0, "active": 0}}, 10_000, False),
        ({}, True, {}, 9_999, False),
    ],
)
def test_only_a_queue_that_surely_has_no_worker_is_marked(
    counts: dict[str, int], is_complete: bool, queue: dict[str, Any], oldest_ms: int, lacks: bool
) -> None:
    shown = {"name": "q", "paused": False, "counts": {"available": 1, "active": 0}, **queue}
    has_run = shown.pop("has_run", False)
    assert WorkersByQueue(counts, is_complete).lacks(shown, oldest_ms, has_run) is lacks


def test_a_queue_has_run_if_an_attempt_has_ended_in_the_last_minutes() -> None:
    idle, busy = [[0, 0]] * 60, [[0, 0]] * 60
    idle[-7], busy[-6] = [1, 0], [0, 1]
    minutes = {"idle": idle, "busy": busy}
    assert [lists._has_run(minutes, name) for name in ("idle", "busy", "unknown")] == [
        *(False, True, True)
    ]
    stats = QueueStats("q", {}, 0, 0, 1, None, None, 10 * 60_000, 0, 0, 0, 0)
    assert replace(stats, ended_minute=5).has_run_since(5)
    assert not replace(stats, ended_minute=4).has_run_since(5)


def test_a_type_that_no_worker_runs_is_a_problem(
    running: Running, ui_redis: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests leave workers that do not report queues, and jobs wait for a minute first.
    monkeypatch.setattr(serving, "_UNKNOWN_MS", -1)
    monkeypatch.setattr(serving, "_UNRUN_MS", 0)
    with running.api() as api:
        for job_type in ("t.new", "t.new", "t.busy", "t.old"):
            body: Any = {"type": job_type, "args": [], "options": {"queue": "a-typed"}}
            api.post("/ojs/v1/jobs", json=body).raise_for_status()
        for name, types in (("w-old", ["t.old"]), ("w-busy", ["t.busy", "t.old"])):
            worker = {"worker_id": name, "queues": ["a-typed"], "types": types}
            api.post("/ojs/v1/workers/heartbeat", json=worker).raise_for_status()
        fetched = api.post(
            "/ojs/v1/workers/fetch", json={"queues": ["a-typed"], "types": ["t.old"]}
        ).json()
        assert [job["type"] for job in fetched["jobs"]] == ["t.old"]
    told = "No worker runs the type t.new: 2 jobs wait in the queue a-typed"
    with dashboard(ui_redis, FULL) as server, server.browser() as client:
        shown = " ".join(parse(page(client, "/ui/")).text.split())
        assert told in shown
        assert "runs the type t.busy" not in shown
        assert "t.new" in page(client, "/ui/jobs?state=available&queue=a-typed&type=t.new")
        with server.api() as again:
            listed = again.get("/ojs/v1/admin/problems").json()["items"]
        [problem] = [each for each in listed if each["rule"] == "type_without_worker"]
        assert problem["id"] == "type_without_worker:a-typed/t.new"
        assert told == problem["text"]
        assert problem["link"] == "ui/jobs?state=available&queue=a-typed&type=t.new"
        assert problem["since"].endswith("Z")
    with running.api() as api:
        worker = {"worker_id": "w-any", "queues": ["a-typed"]}
        api.post("/ojs/v1/workers/heartbeat", json=worker).raise_for_status()
    with dashboard(ui_redis, FULL) as server, server.browser() as client:
        assert "runs the type" not in page(client, "/ui/")


def test_few_partitions_are_read_to_find_queues_without_workers() -> None:
    partitions = {"a": 60, "b": 4, "c": 1, "large": 256}
    for given, read in (("abc", ["a", "b"]), (("large", "c"), ["large"])):
        assert serving._with_few_partitions(list(given), partitions.__getitem__) == read


NOW_MS = 1_800_000_000_000


def test_the_overview_names_three_queues_without_workers_and_why_their_jobs_are_old() -> None:
    ages = {"a": 299_999, "b": 10_000, "c": 10_000, "d": 10_000, "slow": 600_000}
    old = {name: QueueMetrics(oldest_ms=age) for name, age in ages.items()}
    metrics = ClusterMetrics(old, len(old))
    found = [
        *problems_of_metrics(
            metrics, now_ms=NOW_MS, is_explained=False, unserved=["a", "b", "c", "d"]
        )
    ]
    assert [(problem.what, problem.path) for problem in found] == [
        ("Jobs wait in the queues a, b, c …, and no worker fetches from them", ("queues", "a")),
        ("Jobs of the queue slow have waited for up to 10 min", ("queues", "slow")),
    ]
    assert [problem.severe for problem in found] == [False, True]
    assert [NOW_MS - (problem.since_ms or 0) for problem in found] == [299_999, 600_000]
    old["d"].oldest_ms = 300_000
    first, *_ = problems_of_metrics(
        metrics, now_ms=NOW_MS, is_explained=False, unserved=["a", "b", "c", "d"]
    )
    assert first.severe, "jobs that have waited for five minutes are severe"


def test_the_overview_names_a_stale_worker_while_it_holds_jobs(
    running: Running, ui_redis: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "MISSED_HEARTBEATS", 0)
    monkeypatch.setattr(serving, "_KEPT_S", 0.0)
    monkeypatch.setattr(serving, "_MAX_ACTIVE", 50)
    name = "0-stale"
    with running.api() as api:
        body = {"type": "a.b", "args": [], "options": {"queue": "held-stale"}}
        job_id = api.post("/ojs/v1/jobs", json=body).json()["job"]["id"]
        api.post("/ojs/v1/workers/fetch", json={"queues": ["held-stale"], "worker_id": name})
        beat(api, name)
        many = [{"type": "a.b", "args": [], "options": {"queue": "held-later"}}] * 50
        api.post("/ojs/v1/jobs/batch", json={"jobs": many}).raise_for_status()
        fetch = {"queues": ["held-later"], "worker_id": "later", "count": 50}
        later = api.post("/ojs/v1/workers/fetch", json=fetch).json()["jobs"]
        assert len(later) == 50, "their leases end later, so they are not read"
        told = re.compile(
            rf"workers? {name}\b.* missed (its|their) heartbeats and still holds? jobs"
        )
        with dashboard(ui_redis, FULL) as server, server.browser() as client:

            def is_told() -> bool:
                return bool(told.search(" ".join(parse(page(client, "/ui/")).text.split())))

            wait_until(is_told, what="the worker has missed its heartbeats")
            api.post("/ojs/v1/workers/ack", json={"job_id": job_id}).raise_for_status()
            wait_until(lambda: not is_told(), what="it holds no job")
        for job in later:
            api.post("/ojs/v1/workers/ack", json={"job_id": job["id"]}).raise_for_status()


def test_a_worker_is_terminated_after_a_question(running: Running, admin: httpx.Client) -> None:
    path = "/ui/workers/a-sorted-t/direct"
    with running.api() as api:
        beat(api, "a-sorted-t")
        assert "gets no new jobs" in act(admin, f"{path}/quiet", "workers")
        assert beat(api, "a-sorted-t") == "quiet"
        assert "gets jobs again" in act(admin, f"{path}/resume", "workers")
        asked = admin.post(f"{path}/terminate", data={"back": "workers"})
        assert asked.status_code == 200
        assert "its process ends" in asked.text
        assert beat(api, "a-sorted-t") == "running", "nothing has happened yet"
        send(admin, f"{path}/terminate", {"back": "workers", "confirmed": "1"})
        assert beat(api, "a-sorted-t") == "terminate"


def test_members_of_heartbeats_are_hidden(running: Running, ui_redis: Embedded) -> None:
    redact = frozenset({"hostname", "pid", "token", "queues", "state"})
    with running.api() as api:
        labels = {"worker_id": "a-sorted-h", **BEAT, "labels": {"Token": "s3cret"}}
        labels |= {"hostname": "secret-host", "pid": 1234321, "queues": ["secret-queue"]}
        assert api.post("/ojs/v1/workers/heartbeat", json=labels).status_code == 200
    settings = UiSettings(mode="full", redact=redact)
    with dashboard(ui_redis, settings) as server, server.browser() as client:
        for path in ("/ui/workers", "/ui/workers/a-sorted-h"):
            text = page(client, path)
            assert "a-sorted-h" in text
            for hidden in ("s3cret", "secret-host", "1234321", "secret-queue"):
                assert hidden not in text, path
            assert "running" in text, "the server itself says so"
