"""Produce or run jobs with Huey, in threads, no results. It has no acks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from huey import PriorityRedisHuey, RedisHuey
from huey.api import group

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


def task_of(spec: Spec, huey: Any) -> Any:
    """Return the task whose jobs are measured."""
    act = fail_first if spec.kind == "retry" else handle
    if spec.kind == "rate":
        limit = huey.rate_limit("bench", 1_000_000, per=1)

        def noop(argument: str, *_: object) -> None:
            with limit:
                act(argument)
    else:

        def noop(argument: str, *_: object) -> None:
            act(argument)

    return huey.task(name="noop", retries=1)(noop)


def run_producer(spec: Spec, task: Any) -> None:
    """Enqueue the jobs."""

    def enqueue(argument: str) -> None:
        if spec.kind == "delayed":
            task.schedule((argument,), delay=1)
        elif spec.kind == "priority":
            task(argument, priority=int(argument) % 10)
        else:
            task(argument)

    produce(spec, enqueue)


def run_flow(spec: Spec, huey: Any, task: Any) -> None:
    """Create a workflow of ``jobs`` jobs; the last one of a group is its callback."""
    huey.storage.conn.ping()
    say("began")
    steps = [task.s(text(number)) for number in range(spec.jobs)]
    if spec.kind == "chain":
        for step, following in pairwise(steps):
            step.on_complete = following  # ``then`` goes through all steps before
        huey.enqueue(steps[0])
    else:
        huey.enqueue(group(steps[1:]).then(steps[0]))
    say("ended")


def main() -> None:
    """Do what the command line describes."""
    spec = read_spec()
    kind = PriorityRedisHuey if spec.kind == "priority" else RedisHuey
    # The callback of a group gets the results, which have to be stored.
    huey = kind(spec.queue, url=spec.url, results=spec.kind == "group", store_none=True)
    task = task_of(spec, huey)
    if spec.role == "work":
        huey.create_consumer(workers=spec.tasks, worker_type="thread").run()
    elif spec.role == "flow":
        run_flow(spec, huey, task)
    else:
        run_producer(spec, task)
    stay()


if __name__ == "__main__":
    main()
