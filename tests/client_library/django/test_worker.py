"""``manage.py ojs_worker`` runs the tasks of a project."""

from __future__ import annotations

import signal
from functools import partial
from typing import Any

import pytest
from django.tasks import TaskResultStatus, default_task_backend
from django.test import Client

from ojs_client import Job, JobCancelled, JobFailed, SyncClient
from tests.client_library.django.conftest import ended, manage

FAILED = TaskResultStatus.FAILED
OTHER_FAILURES = {"exit": "SystemExit", "text": "NotPaid", "result": "TypeError"}
ONE = ("ojs_worker", "--concurrency", "1")


def test_a_view_enqueues_what_it_commits(project: dict[str, str]) -> None:
    browser = Client()
    paid = browser.get("/order/Ada").json()
    gone = browser.get("/order/Bob?cancel=1").json()
    assert (paid["early"], gone["early"]) == (False, False)
    with manage(project, *ONE) as worker:
        result = ended(default_task_backend.get_result(paid["id"]))
        worker.signal(signal.SIGTERM)
        assert worker.wait_exit() == 0
    shown = browser.get(f"/result/{paid['id']}").json()
    assert shown["status"] == "SUCCESSFUL"
    assert shown["value"] == {"by": "cash", "closed": [], "open": True}
    assert shown["workers"] == result.worker_ids
    assert len(result.worker_ids[0]) > 12
    assert result.enqueued_at <= result.started_at == result.last_attempted_at
    assert result.started_at <= result.finished_at
    with SyncClient(project["SHOP_OJS_URL"]) as client:
        jobs = {job.id for job in client.run(partial(_jobs, queue="django"))}
    assert paid["id"] in jobs
    assert gone["id"] not in jobs
    from tests.client_library.django.project.shop.models import Order

    assert list(Order.objects.values_list("name", "paid")) == [("Ada", True)]


async def _jobs(client: Any, **search: str) -> list[Job]:
    return [job async for job in client.jobs.find(**search)]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_tasks_run_as_in_django(project: dict[str, str], tasks: Any, loop: str) -> None:
    tasks.signals.enqueue()
    with manage(project, *ONE, "--backend", loop):
        first, again = tasks.pay.enqueue(-1), tasks.pay.enqueue(-2)
        assert ended(again).return_value == {"by": "card", "closed": [True], "open": True}
        assert ended(first).return_value["by"] == "card"
        assert ended(tasks.echo.enqueue({"a": [1, None]})).return_value == {"a": [1, None]}
        written = ended(tasks.write.enqueue("eve"))
        assert written.return_value == "0 orders of eve"
        assert written.task.priority == 5
        told = ended(tasks.signals.enqueue()).return_value
        assert "Backend write SUCCESSFUL" in told
        assert told[-1] == "Backend signals RUNNING"
        with SyncClient(project["SHOP_OJS_URL"]) as client:
            found = client.run(partial(_jobs, type=tasks.echo.module_path))
            assert any("0 from eve" in str(job.args) for job in found)


def test_failures_tell_class_and_traceback(project: dict[str, str], tasks: Any) -> None:
    with manage(project, *ONE):
        result = ended(tasks.fail.enqueue("missing"))
        assert (result.status, result.attempts, len(result.errors)) == (FAILED, 2, 2)
        assert result.started_at < result.last_attempted_at <= result.finished_at
        with pytest.raises(ValueError, match="Task failed"):
            _ = result.return_value
        error = result.errors[0]
        assert error.exception_class is tasks.NotPaid
        assert error.traceback.startswith("Traceback (most recent call last):")
        assert "PRICES[kind]" in error.traceback
        assert error.traceback.endswith("NotPaid: order missing\n")
        discarded = ended(tasks.fail.enqueue("discard"))
        assert (discarded.attempts, discarded.errors[0].exception_class_path) == (
            1,
            "ojs_client.errors.Discard",
        )
        for kind, name in OTHER_FAILURES.items():
            error = ended(tasks.fail.enqueue(kind)).errors[-1]
            assert (kind, error.exception_class.__name__) == (kind, name)
            assert f"{name}: " in error.traceback
        assert ended(tasks.price.enqueue("missing")).attempts == 1
        again = ended(tasks.second.enqueue())
        assert again.return_value == [2, 2, 1, "RUNNING"]
        assert again.errors[0].exception_class is tasks.NotPaid
        told = ended(tasks.signals.enqueue()).return_value
        assert told.count("Backend fail RUNNING") == 9
        assert told.count("Backend fail FAILED") == 5
        assert told.count("Backend price FAILED") == 1
        assert told.count("Backend second SUCCESSFUL") == 1
        assert told.count("fail ended after ['NotPaid', 'NotPaid']") == 2
        assert told.count("fail ended after ['Discard']") == 1
        assert told.count("second ended after ['NotPaid']") == 1


def test_an_error_in_a_task_group_counts_as_the_error(project: dict[str, str], tasks: Any) -> None:
    with manage(project, *ONE):
        assert ended(tasks.grouped.enqueue("snooze")).status == TaskResultStatus.SUCCESSFUL
        assert ended(tasks.grouped.enqueue("fail")).errors[0].exception_class is tasks.NotPaid
        told = ended(tasks.signals.enqueue()).return_value
    assert told[told.index("Backend grouped RUNNING") : -1] == [
        "Backend grouped RUNNING",
        "Backend grouped RUNNING",
        "grouped ended after []",
        "Backend grouped SUCCESSFUL",
        "Backend grouped RUNNING",
        "grouped ended after ['NotPaid']",
        "Backend grouped FAILED",
    ]


def test_jobs_of_other_programs_run_or_fail_with_a_reason(
    project: dict[str, str], tasks: Any
) -> None:
    with SyncClient(project["SHOP_OJS_URL"]) as client, manage(project, *ONE):
        path = tasks.echo.module_path
        job = client.enqueue(path, ["go"], {}, queue="django")
        assert client.result(job.id, wait=120) == "go"
        wrong = client.enqueue(path, "go", queue="django")
        wrong = _until_failed(client, wrong.id)
        assert wrong.errors[0].code == "invalid_arguments"
        with pytest.raises(ValueError, match="a list and an object"):
            default_task_backend.get_result(wrong.id)
        unknown = client.enqueue("shop.tasks.unknown", [], {}, queue="django")
        ended(tasks.echo.enqueue(1))
        assert client.get(unknown.id).state == "available"


def test_a_receiver_that_raises_changes_no_task(project: dict[str, str], tasks: Any) -> None:
    with manage(project, *ONE) as worker:
        result = ended(tasks.touchy.enqueue())
        assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, 1)
        worker.wait_line("of a receiver")


def test_the_worker_logs_although_the_project_disables_loggers(
    project: dict[str, str], tasks: Any
) -> None:
    """As Django does unless ``disable_existing_loggers`` is False."""
    with manage({**project, "SHOP_LOGGING": "1"}, *ONE) as worker:
        ended(tasks.fail.enqueue("discard"))
        worker.signal(signal.SIGTERM)
        assert worker.wait_exit() == 0
        assert "no such order" in worker.output
        assert "has stopped" in worker.output


def _until_failed(client: SyncClient, id: str) -> Any:
    with pytest.raises(JobFailed):
        client.result(id, wait=120)
    return client.get(id)


def test_a_cancelled_task_has_failed(project: dict[str, str], tasks: Any) -> None:
    result = tasks.echo.enqueue(1)
    with SyncClient(project["SHOP_OJS_URL"]) as client:
        client.cancel(result.id)
    result.refresh()
    assert (result.status, result.attempts) == (FAILED, 0)
    assert [error.exception_class for error in result.errors] == [JobCancelled]
    assert result.finished_at is not None


def test_a_wrong_alias_is_named(project: dict[str, str]) -> None:
    with manage(project, "ojs_worker", "--alias", "dummy") as worker:
        assert worker.wait_exit() == 1
        assert "TASKS['dummy'] is a DummyBackend, not ojs_client.django" in worker.output
    with manage(project, "ojs_worker", "--help") as worker:
        assert worker.wait_exit() == 0
        assert "--max-memory" in worker.output
