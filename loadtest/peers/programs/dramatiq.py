"""Produce or run jobs with Dramatiq, the worker in threads of one process."""

from __future__ import annotations

from typing import Any

from dramatiq import Worker, actor, group, pipeline, set_broker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits import BucketRateLimiter, ConcurrentRateLimiter
from dramatiq.rate_limits.backends import RedisBackend

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

MANY = 1_000_000


def actor_of(spec: Spec) -> Any:
    """Return the actor whose jobs are measured."""
    broker = RedisBroker(url=spec.url)
    set_broker(broker)
    backend = RedisBackend(url=spec.url)
    if spec.kind == "group":
        broker.add_middleware(GroupCallbacks(backend))
    limiter: Any = None
    if spec.kind == "rate":
        limiter = BucketRateLimiter(backend, "bench", limit=MANY, bucket=1000)
    elif spec.kind == "concurrency":
        limiter = ConcurrentRateLimiter(backend, "bench", limit=MANY)

    def noop(argument: str) -> None:
        if limiter is None:
            act(argument)
        else:
            with limiter.acquire():
                act(argument)

    act = fail_first if spec.kind == "retry" else handle
    return actor(noop, actor_name="noop", queue_name=spec.queue, min_backoff=100)


def run_producer(spec: Spec, noop: Any) -> None:
    """Enqueue the jobs."""

    def enqueue(argument: str) -> None:
        if spec.kind == "delayed":
            noop.send_with_options(args=(argument,), delay=1000)
        else:
            noop.send(argument)

    produce(spec, enqueue)


def run_flow(spec: Spec, noop: Any) -> None:
    """Create a workflow of ``jobs`` jobs; the last one of a group is its callback."""
    noop.broker.client.ping()
    say("began")
    steps = [
        noop.message_with_options(args=(text(number),), pipe_ignore=True)
        for number in range(spec.jobs)
    ]
    if spec.kind == "chain":
        pipeline(steps).run()
    else:
        whole = group(steps[1:])
        whole.add_completion_callback(steps[0])
        whole.run()
    say("ended")


def main() -> None:
    """Do what the command line describes."""
    spec = read_spec()
    noop = actor_of(spec)
    if spec.role == "work":
        Worker(noop.broker, worker_threads=spec.tasks).start()
    elif spec.role == "flow":
        run_flow(spec, noop)
    else:
        run_producer(spec, noop)
    stay()


if __name__ == "__main__":
    main()
