"""The tasks of the shop."""

from __future__ import annotations

from typing import Any

from django.db import connection, connections
from django.tasks import TaskContext, task
from django.tasks.signals import task_finished, task_started

from ojs_client import Discard, RetryPolicy, Snooze
from ojs_client.django import Context, job_options

from .models import Order

PRICES: dict[str, int] = {}
told: list[str] = []
"""What the signals have told."""
runs: list[str] = []
"""The runs of ``grouped`` that were snoozed."""
used: list[Any] = []
"""The connection of the last payment."""


def _tell(sender: Any, task_result: Any, **kwargs: Any) -> None:
    told.append(f"{sender.__name__} {task_result.task.name} {task_result.status}")


def _raise(sender: Any, task_result: Any, **kwargs: Any) -> None:
    if task_result.task.name == "touchy":
        raise ValueError("of a receiver")


def _tell_errors(sender: Any, task_result: Any, **kwargs: Any) -> None:
    kinds = [error.exception_class.__name__ for error in task_result.errors]
    told.append(f"{task_result.task.name} ended after {kinds}")


task_finished.connect(_tell_errors)
for receiver in (_raise, _tell):
    task_started.connect(receiver)
    task_finished.connect(receiver)


@task(queue_name="django")
def pay(order_id: int, *, by: str = "card") -> dict[str, Any]:
    """Pay an order; the connections of an earlier run must be closed."""
    closed = [each.connection is None for each in used]
    Order.objects.filter(pk=order_id).update(paid=True)
    used[:] = [connections["default"]]
    return {"by": by, "closed": closed, "open": connection.connection is not None}


@task(queue_name="mail", priority=5)
async def write(name: str) -> str:
    """Use the database in an event loop."""
    count = await Order.objects.filter(name=name).acount()
    await echo.aenqueue(f"{count} from {name}")
    return f"{count} orders of {name}"


@task(queue_name="django")
def echo(value: Any) -> Any:
    """Return a value."""
    return value


@task(queue_name="django", takes_context=True)
def fail(context: TaskContext[..., Any], kind: str) -> Any:
    """Fail at each attempt."""
    assert isinstance(context, Context)
    context.job.progress(0.5, f"attempt {context.attempt}")
    match kind:
        case "discard":
            raise Discard("no such order")
        case "exit":
            raise SystemExit("stop")
        case "text":
            raise NotPaid("\udc80")
        case "result":
            return {kind}
    try:
        PRICES[kind]
    except KeyError as error:
        raise NotPaid(f"order {kind}") from error


@task(queue_name="django")
@job_options(retry=RetryPolicy(max_attempts=3, non_retryable_errors=["Key.*"]))
def price(name: str) -> int:
    """Return a price; a wrong name is not tried again."""
    return PRICES[name]


class NotPaid(Exception):
    """An order is not paid."""


@task(queue_name="django", takes_context=True)
def second(context: TaskContext[..., Any]) -> list[Any]:
    """Complete at the second attempt, and return what its context tells."""
    result = context.task_result
    assert all(result.worker_ids), "the workers are known"
    if context.attempt == 1:
        raise NotPaid
    return [context.attempt, len(result.worker_ids), len(result.errors), str(result.status)]


@task(queue_name="django", takes_context=True)
def pair(context: TaskContext[..., Any]) -> int:
    """Complete at the second attempt."""
    if context.attempt == 1:
        raise NotPaid
    return 2


@task(queue_name="django")
def signals() -> list[str]:
    """Return what the signals have told since the last call."""
    found, told[:] = list(told), []
    return found


@task(queue_name="django")
@job_options(timeout="1m", tags=["slow"])
def tagged() -> None:
    """Have options of its own."""


@task(queue_name="django", takes_context=True)
def touchy(context: TaskContext[..., Any]) -> int:
    """Return the attempt, although receivers of its signals raise."""
    return context.attempt


@task(queue_name="django")
@job_options(retry=RetryPolicy(max_attempts=1))
async def grouped(kind: str) -> None:
    """Fail as a task in a task group does; snooze at the first run only."""
    if kind != "snooze":
        raise ExceptionGroup("of a task group", [NotPaid(kind)])
    if kind not in runs:
        runs.append(kind)
        raise ExceptionGroup("of a task group", [Snooze("100ms")])


def plain() -> None:
    """Return; no task."""


also_dummy = task(backend="dummy")(plain)
