"""The page of a workflow: why it waits, how it ended, and when each step ran."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import httpx
import pytest

from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.workflow import STATUS_ENQUEUED, Plan, WorkflowNode, evaluate
from ojs_cluster.store.engine.queues.queues import QueueStats
from ojs_cluster.store.features.workflows.read_workflows import (
    JobOutcome,
    WaitingJob,
    WorkflowRecord,
)
from ojs_cluster.ui import workers_by_queue
from ojs_cluster.ui.formats import NONE
from ojs_cluster.ui.pages import workflows
from ojs_cluster.ui.pages.timelines.workflow_waits import Queues, wait_of
from ojs_cluster.ui.workers_by_queue import WorkersByQueue
from tests.support.servers import wait_until
from tests.ui.dashboard import Running
from tests.ui.demo import Demo
from tests.ui.html import parse
from tests.ui.test_pages import act, page

V1 = "/ojs/v1"


def chain(api: httpx.Client, queue: str, count: int) -> str:
    once = {"queue": queue, "retry": {"max_attempts": 1}}
    steps = [{"type": f"step.n{number}", "args": [], "options": once} for number in range(count)]
    body: dict[str, Any] = {"type": "chain", "name": queue, "steps": steps}
    answer = api.post(f"{V1}/workflows", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def run_next(api: httpx.Client, queue: str, error: str = "") -> dict[str, Any]:
    """Run the next job of a queue; return it."""
    jobs: list[Any] = []

    def fetch() -> bool:
        answer = api.post(f"{V1}/workers/fetch", json={"queues": [queue], "worker_id": "w"})
        jobs.extend(answer.json()["jobs"])
        return bool(jobs)

    wait_until(fetch, what="the step is available")
    sent: dict[str, Any] = {"job_id": jobs[0]["id"]}
    if error:
        sent["error"] = {"type": "Broken", "message": error}
    answer = api.post(f"{V1}/workers/{'nack' if error else 'ack'}", json=sent)
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = jobs[0]
    return job


def test_a_paused_queue_of_a_waiting_step_is_named(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        workflow = chain(api, "flow-paused", 2)
        assert "paused queue" not in page(admin, f"/ui/workflows/{workflow}")
        api.post(f"{V1}/queues/flow-paused/pause")
        text = page(admin, f"/ui/workflows/{workflow}")
        assert "Steps wait for a paused queue" in text
        assert 'href="../queues/flow-paused"' in text
        api.post(f"{V1}/queues/flow-paused/resume")
        assert "paused queue" not in page(admin, f"/ui/workflows/{workflow}")
        api.delete(f"{V1}/workflows/{workflow}")


@pytest.mark.parametrize("served", [True, False])
def test_the_list_finds_workflows_and_says_which_are_stuck(
    running: Running, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch, served: bool
) -> None:
    async def by_queue(_visit: object) -> WorkersByQueue:
        return WorkersByQueue({"flow-list-b": 1} if served else {}, is_complete=True)

    monkeypatch.setattr(workers_by_queue, "UNSERVED_MS", 0)
    monkeypatch.setattr(workflows, "read_workers_by_queue", by_queue)

    def row(name: str) -> str:
        shown = page(admin, f"/ui/workflows?find={name.upper()}&state=running")
        assert shown.count('<th scope="row"') == 1, "no other has this in its name"
        cell = shown.partition('<th scope="row"')[2].partition("</th>")[0]
        return " ".join(parse(f"<th{cell}".replace("<p", " <p")).text.split())

    with running.api() as api:
        made = {name: chain(api, name, 2) for name in ("flow-list-a", "flow-list-b")}
        listed = api.get(f"{V1}/workflows").json()["items"]
        queues = {each["id"]: each["metadata"].get("queues") for each in listed}
        assert [queues[each] for each in made.values()] == [[name] for name in made]
        api.post(f"{V1}/queues/flow-list-a/pause")
        paused = "flow-list-a the queue flow-list-a, which is paused"
        wait_until(lambda: row("flow-list-a") == paused, what="the metrics are read again")
        lacks = "flow-list-b no worker fetches from the queue flow-list-b"
        expected = "flow-list-b" if served else lacks
        wait_until(lambda: row("flow-list-b") == expected, what="the metrics are read again")
        api.post(f"{V1}/queues/flow-list-a/resume")
        assert "No workflow matches" in page(admin, "/ui/workflows?find=no-such-flow")
        answer = admin.get(f"/ui/workflows?find={made['flow-list-a']}")
        assert answer.headers["location"].endswith(f"/workflows/{made['flow-list-a']}")
        for workflow in made.values():
            api.delete(f"{V1}/workflows/{workflow}")
        listed = api.get(f"{V1}/workflows").json()["items"]
        assert not any("queues" in each["metadata"] for each in listed if each["id"] in made)


def test_each_waiting_step_says_what_it_waits_for(running: Running, admin: httpx.Client) -> None:
    def waits(workflow: str) -> list[str]:
        """Return what the table of steps says, in the order of the steps."""
        table = page(admin, f"/ui/workflows/{workflow}").partition("Table of steps")[2]
        cells = re.findall(r'<td class="wrap waits">(.*?)</td>', table, re.DOTALL)
        return [" ".join(parse(cell).text.split()) for cell in cells]

    def head(workflow: str) -> str:
        shown = page(admin, f"/ui/workflows/{workflow}").partition('class="facts')[0]
        return " ".join(parse(shown).text.split())

    with running.api() as api:
        first = chain(api, "flow-waits", 2)
        available = ["a worker of flow-waits", "step.n0"]
        wait_until(lambda: waits(first) == available, what="the first step is enqueued")
        assert "Step step.n0 waits for a worker of flow-waits" in head(first)
        table = page(admin, f"/ui/workflows/{first}").partition("Table of steps")[2]
        job = api.get(f"{V1}/workflows/{first}").json()["steps"][0]["job_id"]
        cells = re.findall(r'<td class="wrap waits">(.*?)</td>', table, re.DOTALL)
        assert f'href="../jobs/{job}"' in cells[1], "the step that it waits for"
        limits = f"{V1}/admin/queues/flow-waits/rate-limit"
        api.put(limits, json={"concurrency": 0}).raise_for_status()
        assert waits(first)[0] == "the limit of flow-waits, which lets no job start"
        assert "Step step.n0 does not start: the limit of flow-waits" in head(first)
        assert '<span class="warn">the limit of' in page(admin, f"/ui/workflows/{first}")
        api.delete(limits).raise_for_status()
        api.post(f"{V1}/queues/flow-waits/pause")
        assert waits(first)[0] == "the queue flow-waits, which is paused"
        api.post(f"{V1}/queues/flow-waits/resume")
        limited = {"key": "flow:key", "concurrency": 1}
        options = {"queue": "flow-limited"}
        jobs = [
            {
                "type": "a",
                "args": [],
                "options": {**options, "delay_until": "2099-01-01T00:00:00Z"},
            },
            {"type": "b", "args": [], "options": {**options, "rate_limit": limited}},
        ]
        back = {"type": "undo", "args": [], "options": options}
        body: dict[str, Any] = {"type": "batch", "jobs": jobs, "callbacks": {"on_failure": back}}
        made = api.post(f"{V1}/workflows", json=body)
        second = made.raise_for_status().json()["id"]
        free = "a worker of flow-limited"
        wait_until(lambda: waits(second)[1] == free, what="no fetch has requested a token")
        override = f"{V1}/rate-limits/flow:key/override"
        api.put(override, json={"concurrency": 0}).raise_for_status()
        fetch = {"queues": ["flow-limited"], "worker_id": "w"}
        assert api.post(f"{V1}/workers/fetch", json=fetch).json()["jobs"] == []
        started, limit, undo = waits(second)
        assert started.startswith("its start time, in ")
        assert limit == "the rate limit key flow:key"
        assert undo == "a failure of a, b"
        for workflow in (first, second):
            api.delete(f"{V1}/workflows/{workflow}")
            assert set(waits(workflow)) == {NONE}
            assert "does not start" not in head(workflow)


@pytest.mark.parametrize("served", [True, False])
def test_the_page_says_first_that_no_worker_fetches_from_the_queue(
    running: Running, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch, served: bool
) -> None:
    async def by_queue(_visit: object) -> WorkersByQueue:
        return WorkersByQueue({"flow-served": 1} if served else {}, is_complete=True)

    monkeypatch.setattr(workers_by_queue, "UNSERVED_MS", 0)
    monkeypatch.setattr(workflows, "read_workers_by_queue", by_queue)
    with running.api() as api:
        workflow = chain(api, "flow-served", 2)
        text = page(admin, f"/ui/workflows/{workflow}").partition('class="facts')[0]
        words = " ".join(parse(text).text.split())
        stuck = "Step step.n0 does not start: no worker fetches from the queue flow-served"
        assert (stuck in words) != served
        api.delete(f"{V1}/workflows/{workflow}")


def test_a_step_whose_job_was_moved_waits_for_the_other_queue(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        workflow = chain(api, "flow-left", 1)

        def waits_for(words: str) -> bool:
            text = page(admin, f"/ui/workflows/{workflow}").partition("Table of steps")[2]
            return words in " ".join(parse(text).text.split())

        wait_until(lambda: waits_for("a worker of flow-left"), what="the step is enqueued")
        body = {"strategy": "move", "target_queue": "flow-taken"}
        api.request("DELETE", f"{V1}/queues/flow-left", json=body).raise_for_status()
        wait_until(lambda: waits_for("a worker of flow-taken"), what="the job is moved")
        api.delete(f"{V1}/workflows/{workflow}")


@pytest.mark.parametrize(
    ("waiting", "words"),
    [
        (WaitingJob(State.AVAILABLE, "read"), "a worker of read"),
        (WaitingJob(State.AVAILABLE, "open"), "a worker or a limit of open"),
        (
            WaitingJob(State.AVAILABLE, "silent"),
            "its queue silent, of which nothing is known now",
        ),
        (WaitingJob(State.AVAILABLE, "theirs"), "a queue that your API key may not access"),
        (WaitingJob(State.SCHEDULED, "read", 1), "the scheduler, which enqueues it now"),
        (WaitingJob(State.RETRYABLE, "read", 1), "the scheduler, which enqueues it now"),
    ],
)
def test_what_is_not_known_of_a_step_is_not_stated(waiting: WaitingJob, words: str) -> None:
    node = WorkflowNode("job", 0, queue="planned", job=0)
    plan = Plan([WorkflowNode("group", -1), node])
    job = JobOutcome("pending", waiting=waiting)
    evaluation = evaluate(plan, STATUS_ENQUEUED)
    found = WorkflowRecord("w", "group", "", "running", 1, None, plan, evaluation, {}, [job])
    stats = {
        name: QueueStats(name, Counter(), 0, 0, 1, None, None, 1, 0, 0, 0, 0)
        for name in ("read", "open")
    }
    queues = Queues(stats, {"read": ""}, frozenset({"theirs"}))
    wait = wait_of(found, node, [], queues, now_ms=2)
    assert wait is not None
    assert f"{wait.text}{wait.queue}{wait.end}" == words


def test_a_failed_workflow_does_not_look_as_if_it_ran(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        workflow = chain(api, "flow-failed", 3)
        run_next(api, "flow-failed")
        text = page(admin, f"/ui/workflows/{workflow}")
        assert "1 of 3 jobs ended" in text
        assert "<progress" in text
        run_next(api, "flow-failed", "disk <full>")

        def has_failed() -> bool:
            return bool(api.get(f"{V1}/workflows/{workflow}").json()["state"] == "failed")

        wait_until(has_failed, what="the workflow has failed")
        text = page(admin, f"/ui/workflows/{workflow}")
        assert "<progress" not in text
        assert "Ended failed: 1 of 3 jobs completed" in text
        assert "1 failed" in text
        assert "disk &lt;full&gt;" in text, "the error of the step"
        assert "%" not in text.partition("<main")[2].partition("</main>")[0]
        listed = page(admin, "/ui/workflows?state=failed")
        row = listed.partition("flow-failed</a>")[2].partition("</tr>")[0]
        assert "<progress" not in row
        assert "1 of 3" in row


def test_a_retried_step_does_not_continue_its_workflow_and_the_pages_say_so(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        workflow = chain(api, "flow-retried", 2)
        run_next(api, "flow-retried", "no network")

        def state() -> str:
            return str(api.get(f"{V1}/workflows/{workflow}").json()["state"])

        wait_until(lambda: state() == "failed", what="the workflow has failed")
        job = api.get(f"{V1}/workflows/{workflow}").json()["steps"][0]["job_id"]
        shown = page(admin, f"/ui/jobs/{job}")
        assert "but its workflow does not continue" in shown
        assert "Retry this job only" in shown, "the confirmation"
        retried = act(admin, f"/ui/jobs/{job}/retry", f"jobs/{job}")
        assert "available again. Its workflow does not continue" in retried
        assert "An operator has retried this step by hand" in retried
        run_next(api, "flow-retried")
        assert api.get(f"{V1}/jobs/{job}").json()["job"]["state"] == "completed"
        text = page(admin, f"/ui/workflows/{workflow}")
        assert state() == "failed", "the outcome of the step stays"
        assert "the workflow does not continue" in text
        row = text.partition("Table of steps")[2].partition("step.n1")[0]
        assert "retried by hand, now" in row
        assert "completed</span>" in row.partition("retried by hand")[2]


def test_a_copy_of_a_workflow_runs_all_its_steps(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        workflow = chain(api, "flow-copied", 2)
        assert "/copy" not in page(admin, f"/ui/workflows/{workflow}"), "it runs"
        api.delete(f"{V1}/workflows/{workflow}")
        shown = act(admin, f"/ui/workflows/{workflow}/copy")
        assert "This is the copy" in shown
        (made,) = set(re.findall(r"<code>([0-9a-f-]{36})</code>", shown)) - {workflow}
        copied = api.get(f"{V1}/workflows/{made}").json()
        assert (copied["state"], copied["name"], copied["type"]) == (
            "running",
            "flow-copied",
            "chain",
        )
        for name in ("step.n0", "step.n1"):
            job = run_next(api, "flow-copied")
            assert job["type"] == name
            assert job["max_attempts"] == 1


@pytest.mark.parametrize(
    ("key", "refusal"), [("viewer-key", "You may not do this"), ("email-key", "does not exist")]
)
def test_a_copy_of_a_workflow_needs_its_scope_and_queues(
    running: Running, demo: Demo, key: str, refusal: str
) -> None:
    with running.api() as api:
        before = api.get(f"{V1}/workflows").json()["total"]
        with running.browser(key) as client:
            answer = client.post(f"/ui/workflows/{demo.workflow}/copy")
            if answer.next_request is not None:
                answer = client.send(answer.next_request)
            assert refusal in answer.text
        assert api.get(f"{V1}/workflows").json()["total"] == before


def test_the_table_says_when_each_step_ran(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        workflow = chain(api, "flow-times", 2)
        run_next(api, "flow-times")
        text = page(admin, f"/ui/workflows/{workflow}")
        table = text.partition("Table of steps")[2]
        rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]
        assert [row.count("<time") for row in rows] == [2, 0], "started and ended, or not yet"
        assert '<td class="num">1</td></tr>' in rows[0] + "</tr>", "the attempts"
        api.post(f"{V1}/workflows/{workflow}/cancel")


def test_the_steps_of_a_large_workflow_are_shown_table_by_table(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        jobs = [{"type": f"large.n{number}", "args": []} for number in range(201)]
        made = api.post(f"{V1}/workflows", json={"type": "group", "name": "large", "jobs": jobs})
        workflow = made.raise_for_status().json()["id"]
        first = page(admin, f"/ui/workflows/{workflow}")
        last = page(admin, f"/ui/workflows/{workflow}?page=2")
        assert ("<td>large.n199</td>" in first, "<td>large.n200</td>" in first) == (True, False)
        assert ("<td>large.n199</td>" in last, "<td>large.n200</td>" in last) == (False, True)
        assert f'href="../workflows/{workflow}?page=2"' in first
        api.delete(f"{V1}/workflows/{workflow}")
