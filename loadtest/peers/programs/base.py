"""What the programs of all libraries share: the arguments, the handler, and what they print.

A program produces or runs the jobs of one measurement: ``python -m loadtest.peers.programs.NAME
SPEC``. It prints ``began TIME`` and ``ended TIME RESULT``, by a clock that all processes share, and
waits until it is killed, or its input ends. It runs with the packages of its library and imports
nothing that needs others.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

BATCH = 100
SIZE = 200
"""Bytes of a job's argument."""


@dataclass(frozen=True)
class Spec:
    """One measurement.

    Args:
        role: ``produce``, ``work`` or ``flow``, which creates a workflow.
        url: the server, or the database.
        queue: the name of the queue.
        kind: ``single``, ``batch``, an option, or a type of workflow.
        jobs: their number.
        tasks: how many enqueue or run at the same time.
        rate: jobs per second in an open loop; 0 for as fast as possible.
    """

    role: str
    url: str
    queue: str
    kind: str
    jobs: int
    tasks: int
    rate: float = 0.0


def warm_up(jobs: int) -> int:
    """Return how many of the first jobs are not measured: Node.js compiles while it runs them."""
    return jobs // 4


# Processes that a worker forks share these.
_left = multiprocessing.Value("q", 0)
_total = multiprocessing.Value("q", 0)
_failed: set[str] = set()
_delays: list[float] = []


def text(number: int) -> str:
    """Return the argument of a job."""
    return f"{number:0{SIZE}d}"


def read_spec() -> Spec:
    """Return the measurement that the command line describes."""
    logging.disable(logging.CRITICAL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    spec = Spec(**json.loads(sys.argv[1]))
    _left.value = _total.value = spec.jobs
    return spec


def _end_with_parent() -> None:
    """End this process and its children when the process that measures has ended."""
    os.read(0, 1)  # without the lock of ``sys.stdin``, which a forked child would find taken
    os.killpg(0, signal.SIGKILL)


def say(what: str, **result: float) -> None:
    """Print a line for the process that measures."""
    print(what, time.monotonic(), json.dumps(result), flush=True)


def stay() -> None:
    """Wait for the end of this process, which others measure until then."""
    threading.Event().wait()


def handle(argument: str) -> None:
    """Do the work of a job: count it.

    An argument that is a time is when the job had to be enqueued.
    """
    now = time.monotonic()
    with _left.get_lock():
        first = _left.value == _total.value - warm_up(_total.value)
        last = _left.value == 1
        _left.value -= 1
    if first:
        say("began")
    if len(argument) < SIZE:
        _delays.append(now - float(argument))
    if last:
        say("ended", **_percentiles())


def fail_first(argument: str) -> None:
    """Fail at the first attempt."""
    if argument not in _failed:
        _failed.add(argument)
        raise ValueError("the first attempt fails")
    handle(argument)


def _percentiles() -> dict[str, float]:
    """Return percentiles in ms; the first fifth of the jobs finds a cold worker."""
    times = sorted(_delays[len(_delays) // 5 :])
    if not times:
        return {}
    return {"p50": times[len(times) // 2] * 1000, "p99": times[int(len(times) * 0.99)] * 1000}


async def produce_async(spec: Spec, enqueue: Callable[[str], Awaitable[object]]) -> None:
    """Enqueue the jobs by several tasks of asyncio."""
    numbers, began = iter(range(spec.jobs)), time.monotonic()

    async def loop() -> None:
        for number in numbers:
            if number == warm_up(spec.jobs):
                say("began")
            argument = text(number)
            if spec.rate:
                due = began + number / spec.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                argument = str(due)
            await enqueue(argument)

    await asyncio.gather(*(loop() for _ in range(spec.tasks)))
    say("ended")


def produce(spec: Spec, enqueue: Callable[[str], object]) -> None:
    """Enqueue the jobs by several threads."""
    numbers, began = itertools.count(), time.monotonic()

    def loop() -> None:
        while (number := next(numbers)) < spec.jobs:
            if number == warm_up(spec.jobs):
                say("began")
            argument = text(number)
            if spec.rate:
                due = began + number / spec.rate
                time.sleep(max(0.0, due - time.monotonic()))
                argument = str(due)
            enqueue(argument)

    ended = threading.Semaphore(0)

    def run() -> None:
        loop()
        ended.release()
        stay()  # the kernel forgets the processor time of a thread that ends

    for _ in range(spec.tasks):
        threading.Thread(target=run, daemon=True).start()
    for _ in range(spec.tasks):
        ended.acquire()
    say("ended")


async def produce_batches(spec: Spec, enqueue: Callable[[list[str]], Awaitable[object]]) -> None:
    """Enqueue the jobs by one task, ``BATCH`` with a request."""
    first = warm_up(spec.jobs)
    for begin, end in ((0, first), (first, spec.jobs)):
        if begin == first:
            say("began")
        for start in range(begin, end, BATCH):
            await enqueue([text(number) for number in range(start, min(start + BATCH, end))])
    say("ended")
