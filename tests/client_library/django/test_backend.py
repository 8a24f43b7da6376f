"""The backend keeps the contract of Django's own backends."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import django
import pytest
from django.core.checks import run_checks
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.tasks import TaskResultStatus, default_task_backend, task, task_backends
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist, TaskResultMismatch
from django.tasks.signals import task_enqueued
from django.test import override_settings

from ojs_client import ApiError, Conflict, Job, RetryPolicy, SyncClient, Unique
from ojs_client.django import job_options
from ojs_client.django import worker as worker_module
from ojs_client.testing import Clock, FakeServer

BACKEND = "ojs_client.django.Backend"


@contextmanager
def options(
    project: dict[str, str], queues: Sequence[str] = ("django", "mail"), **changes: Any
) -> Iterator[None]:
    """Change the backend ``default``."""
    changes = {"url": project["SHOP_OJS_URL"], **changes}
    default = {"BACKEND": BACKEND, "QUEUES": queues, "OPTIONS": changes}
    with override_settings(TASKS={"default": default}):
        yield


def job_of(project: dict[str, str], id: str) -> Job:
    with SyncClient(project["SHOP_OJS_URL"]) as client:
        return client.get(id)


def test_a_call_becomes_a_job(project: dict[str, str], tasks: Any) -> None:
    told: list[Any] = []

    def tell(task_result: Any, **kwargs: Any) -> None:
        told.append(task_result.id)

    task_enqueued.connect(tell)
    try:
        result = tasks.echo.enqueue((1, "two"))
    finally:
        task_enqueued.disconnect(tell)
    assert told == [result.id]
    assert (result.status, result.attempts) == (TaskResultStatus.READY, 0)
    assert (result.args, result.kwargs, result.errors) == ([[1, "two"]], {}, [])
    assert result.enqueued_at is not None
    assert result.started_at is result.finished_at is result.last_attempted_at is None
    with pytest.raises(ValueError, match="has not finished yet"):
        _ = result.return_value
    job = job_of(project, result.id)
    assert (job.type, job.args) == (tasks.echo.module_path, [[[1, "two"]], {}])
    assert tasks.echo.get_result(result.id) == result
    assert default_task_backend.get_result(result.id) == result


def test_async_programs_enqueue_and_read(tasks: Any) -> None:
    async def scenario() -> None:
        result = await tasks.write.aenqueue(name="Ada")
        assert await tasks.write.aget_result(result.id) == result
        await result.arefresh()
        assert (result.args, result.kwargs) == ([], {"name": "Ada"})
        with pytest.raises(SynchronousOnlyOperation):
            tasks.write.enqueue(name="Ada")

    asyncio.run(scenario())


def test_a_call_chooses_queue_priority_and_time(project: dict[str, str], tasks: Any) -> None:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    chosen = tasks.echo.using(priority=-7.0, queue_name="mail", run_after=at)
    result = chosen.enqueue(1)
    job = job_of(project, result.id)
    assert (job.queue, job.priority, job.state) == ("mail", -7, "scheduled")
    read = tasks.echo.get_result(result.id)
    assert read.status == TaskResultStatus.READY
    assert read.task == chosen
    assert read.task.run_after == at


def test_a_naive_time_is_in_the_zone_of_the_project(project: dict[str, str], tasks: Any) -> None:
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        at = datetime(2090, 1, 1, 9)
        result = tasks.echo.using(run_after=at).enqueue(1)
        read = tasks.echo.get_result(result.id)
        assert read.task.run_after == at
        assert read == result
        assert read.enqueued_at.tzinfo is None
    scheduled = job_of(project, result.id).members["scheduled_at"]
    assert datetime.fromisoformat(scheduled) == datetime(2090, 1, 1, tzinfo=UTC)


def test_options_of_jobs_come_from_settings_and_task(project: dict[str, str], tasks: Any) -> None:
    job = job_of(project, tasks.tagged.enqueue().id)
    assert job.tags == ["slow"]
    assert job.members["timeout_ms"] == 60_000
    assert job.max_attempts == 2


def test_a_result_belongs_to_its_task(project: dict[str, str], tasks: Any) -> None:
    result = tasks.echo.enqueue(1)
    with pytest.raises(TaskResultMismatch):
        tasks.tagged.get_result(result.id)
    for unknown in ("018f0000-0000-7000-8000-000000000000", "no id", "../queues"):
        with pytest.raises(TaskResultDoesNotExist):
            default_task_backend.get_result(unknown)
    with SyncClient(project["SHOP_OJS_URL"]) as client:
        job = client.enqueue("this.zen", queue="elsewhere")
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(job.id)
    assert "this" not in sys.modules, "a job imports no module"


def test_it_says_what_it_supports() -> None:
    from ojs_client.django import Backend

    assert Backend.supports_defer
    assert Backend.supports_async_task
    assert Backend.supports_get_result
    assert Backend.supports_priority


def sendMail() -> None: ...


def send_mail() -> None: ...


def test_wrong_tasks_are_refused_where_they_are_declared(tasks: Any) -> None:
    with pytest.raises(InvalidTask, match="module level"):
        task(lambda: None)
    with pytest.raises(InvalidTask, match="Queue 'other'"):
        tasks.echo.using(queue_name="other")
    for priority in (101, -101, 1.5):
        with pytest.raises(InvalidTask, match="priority"):
            tasks.echo.using(priority=priority)
    with pytest.raises(InvalidTask, match="aware"):
        tasks.echo.using(run_after=datetime(2090, 1, 1))
    with pytest.raises(InvalidTask, match="sendMail' is no job type"):
        task(sendMail, queue_name="django")
    with pytest.raises(InvalidTask, match="context"):
        task(tasks.plain, queue_name="django", takes_context=True)
    wrong: Any
    for wrong in ({"colour": "red"}, {"timeout": "long"}, {"tags": "slow"}):
        with pytest.raises(InvalidTask, match="options of the job"):
            task(job_options(**wrong)(send_mail), queue_name="django")


def test_arguments_without_a_json_form_are_refused(tasks: Any) -> None:
    with pytest.raises(TypeError, match="Unsupported type"):
        tasks.echo.enqueue(datetime.now(UTC))
    with pytest.raises(TypeError, match="Unsupported type"):
        tasks.echo.enqueue(value={1})


def test_tasks_and_results_can_be_copied(tasks: Any) -> None:
    result = tasks.echo.enqueue(1)
    assert copy.deepcopy(result) == result
    if django.VERSION >= (6, 1):
        assert pickle.loads(pickle.dumps(tasks.tagged)) == tasks.tagged  # noqa: S301 - its own


def exists(result: Any) -> bool:
    try:
        default_task_backend.get_result(result.id)
    except TaskResultDoesNotExist:
        return False
    return True


def test_a_transaction_enqueues_when_it_is_committed(tasks: Any) -> None:
    with transaction.atomic():
        with transaction.atomic():
            kept = tasks.echo.enqueue("kept")
        with transaction.atomic():
            gone = tasks.echo.enqueue("gone")
            transaction.set_rollback(True)
        other = tasks.echo.enqueue("other")
        assert not exists(kept)
        assert kept.enqueued_at is None
        with transaction.atomic(using="other"):
            assert not exists(kept)
    assert exists(kept)
    assert exists(other)
    assert not exists(gone)
    assert kept.enqueued_at is not None
    kept.refresh()


def test_on_commit_names_a_database_or_none(project: dict[str, str], tasks: Any) -> None:
    with options(project, on_commit="other"):
        with transaction.atomic(), transaction.atomic(using="other"):
            result = tasks.echo.enqueue(1)
            assert not exists(result)
            transaction.set_rollback(True)
        assert exists(result)
        with transaction.atomic(using="other"):
            gone = tasks.echo.enqueue(1)
            transaction.set_rollback(True, using="other")
        assert not exists(gone)
    with options(project, on_commit=False), transaction.atomic():
        assert exists(tasks.echo.enqueue(1))


def test_an_enqueue_that_fails_at_the_commit_keeps_no_other_from_it(
    project: dict[str, str], tasks: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with options(project, job={"unique": Unique(keys=["type", "args"])}):
        tasks.echo.enqueue("taken")
        with transaction.atomic():
            refused, other = tasks.echo.enqueue("taken"), tasks.echo.enqueue("another")
        assert exists(other)
        assert not exists(refused)
    [record] = [each for each in caplog.records if each.levelname == "ERROR"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Conflict)


def test_a_receiver_that_raises_does_not_hide_the_job(tasks: Any) -> None:
    def fail(**kwargs: Any) -> None:
        raise ValueError("of a receiver")

    task_enqueued.connect(fail)
    try:
        assert exists(tasks.echo.enqueue("told"))
    finally:
        task_enqueued.disconnect(fail)


def test_a_unique_task_returns_the_earlier_result(project: dict[str, str], tasks: Any) -> None:
    unique = Unique(keys=["type", "args"], on_conflict="ignore")
    with options(project, job={"unique": unique}):
        first = tasks.echo.enqueue("once")
        with transaction.atomic():
            second = tasks.echo.enqueue("once")
            assert second.id != first.id
        assert second.id == first.id
    with options(project, job={"unique": Unique(keys=["type", "args"])}), pytest.raises(Conflict):
        tasks.echo.enqueue("once")


def test_the_check_finds_wrong_settings(project: dict[str, str]) -> None:
    assert run_checks() == []
    wrong = {"url": "ftp://x", "colour": "red"}
    found = {"default": {"BACKEND": BACKEND, "QUEUES": ["A_B"], "OPTIONS": wrong}}
    found |= {"second": {"BACKEND": BACKEND, "OPTIONS": {"job": {"timeout": "x"}}}}
    with override_settings(TASKS=found):
        text = "\n".join(f"{each.id} {each.msg}" for each in run_checks())
    assert "ojs.E001 TASKS['default']: OPTIONS has no 'colour'." in text
    assert "TASKS['default']: 'A_B' is no queue name." in text
    assert "ftp://x" in text
    assert "TASKS['second']: a duration is a text" in text
    assert text.count("ojs.E001") == 4


def test_threads_share_the_connections_of_a_backend(project: dict[str, str]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def producer() -> Any:
        return task_backends["default"].producer  # type: ignore[attr-defined]

    together = threading.Barrier(3, timeout=30)

    def producer_of_thread(_: int) -> Any:
        together.wait()  # so no thread takes two calls
        return producer()

    with ThreadPoolExecutor(3) as pool:
        assert len({id(each) for each in pool.map(producer_of_thread, range(3))}) == 1
    with options(project, timeout_s=7.0):
        changed = producer()
    assert changed is not producer()


def test_a_test_runs_tasks_on_the_fake_server(project: dict[str, str], tasks: Any) -> None:
    fake = FakeServer()
    clock = Clock(fake)
    before = open_clients()
    server = {"url": fake.url, "transport": fake.transport}
    with options(project, **server, job={"retry": RetryPolicy(jitter=False)}):
        results = [tasks.second.enqueue(), tasks.echo.using(queue_name="mail").enqueue("now")]
        worker = worker_module.project_worker()
        clock.advance(0, worker)
        for result in results:
            result.refresh()
        assert [each.status for each in results] == ["READY", "SUCCESSFUL"]
        clock.advance("1m", worker)
        results[0].refresh()
        # Its attempt, its workers, its errors, and its status while it ran.
        assert results[0].return_value == [2, 2, 1, "RUNNING"]
        assert len(set(results[0].worker_ids)) == 2  # each advance runs other workers
    assert task_backends["default"].alias == "default"
    assert open_clients() <= before, "the client of the settings before is closed"


def open_clients() -> int:
    return [thread.name for thread in threading.enumerate()].count("ojs-client")


def test_a_worker_whose_key_may_not_read_jobs_repeats_them(
    project: dict[str, str], tasks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(client: Any, job: Any) -> Any:
        raise ApiError(403, "forbidden", "the key lacks the scope ojs:data:read")

    monkeypatch.setattr(worker_module, "starts_of", refuse)
    fake = FakeServer()
    server = {"url": fake.url, "transport": fake.transport}
    with options(project, **server, job={"retry": RetryPolicy(jitter=False)}):
        result = tasks.pair.enqueue()
        Clock(fake).advance("1m", worker_module.project_worker())
        result.refresh()
    assert result.return_value == 2


def test_a_worker_has_the_queues_of_the_settings_or_of_the_tasks(
    project: dict[str, str], tasks: Any
) -> None:
    with options(project, ["mail", "django"]):
        assert worker_module.project_worker().queues == ("mail", "django")
        assert worker_module.project_worker(queues=["mail"]).queues == ("mail",)
        assert worker_module.project_worker(pool="all").queues == ()
    with options(project, []):
        worker = worker_module.project_worker()
        assert sorted(worker.queues) == ["django", "mail"]
        assert tasks.echo.using(queue_name="any").queue_name == "any"
    assert tasks.echo.module_path in (worker.types or ())
    assert tasks.plain.__name__ not in str(worker.types)
