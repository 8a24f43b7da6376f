"""Produce or run jobs with Celery: acks after the handler, no results."""

from __future__ import annotations

from typing import Any

from celery import Celery, chain, chord

from loadtest.peers.programs.base import (
    Spec,
    fail_first,
    handle,
    produce,
    read_spec,
    say,
    stay,
    text,
)


def app_of(spec: Spec) -> Any:
    """Return the application. A group with a callback needs the results."""
    is_group = spec.kind == "group"
    app = Celery("bench", broker=spec.url, backend=spec.url if is_group else None)
    app.conf.update(
        task_acks_late=True,
        task_ignore_result=not is_group,
        task_default_queue=spec.queue,
        worker_redirect_stdouts=False,
    )
    if spec.kind == "priority":
        app.conf.broker_transport_options = {"queue_order_strategy": "priority"}
    return app


def task_of(spec: Spec, app: Any) -> Any:
    """Return the task whose jobs are measured."""

    def noop(self: Any, argument: str) -> None:
        if spec.kind != "retry":
            handle(argument)
            return
        try:
            fail_first(argument)
        except ValueError as error:
            raise self.retry(exc=error, countdown=0.1) from error

    limit = {"rate_limit": "1000000/s"} if spec.kind == "rate" else {}
    return app.task(noop, bind=True, name="bench.noop", **limit)


def run_producer(spec: Spec, task: Any) -> None:
    """Enqueue the jobs."""

    def enqueue(argument: str) -> None:
        if spec.kind == "delayed":
            task.apply_async((argument,), countdown=1)
        elif spec.kind == "priority":
            task.apply_async((argument,), priority=int(argument) % 10)
        else:
            task.delay(argument)

    produce(spec, enqueue)


def run_flow(spec: Spec, app: Any, task: Any) -> None:
    """Create a workflow of ``jobs`` jobs; the last one of a group is its callback."""
    with app.connection_for_write() as connection:
        connection.ensure_connection()
    say("began")
    steps = [task.si(text(number)) for number in range(spec.jobs)]
    if spec.kind == "chain":
        chain(*steps).apply_async()
    else:
        chord(steps[1:])(steps[0])
    say("ended")


def main() -> None:
    """Do what the command line describes."""
    spec = read_spec()
    app = app_of(spec)
    task = task_of(spec, app)
    if spec.role == "work":
        # One process is the default pool; more than one job at a time is cheapest in threads.
        pool = "prefork" if spec.tasks == 1 else "threads"
        app.worker_main(
            ["worker", f"--pool={pool}", f"--concurrency={spec.tasks}", "--loglevel=CRITICAL"]
        )
    elif spec.role == "flow":
        run_flow(spec, app, task)
    else:
        run_producer(spec, task)
    stay()


if __name__ == "__main__":
    main()
