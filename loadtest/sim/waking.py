"""Single jobs for waiting workers: the cost of a wake-up in a large cluster.

A job of an empty queue publishes the name of the queue on the channel of its shard. Every API
process with waiting fetches in that shard receives it, and each that waits for this queue requests
the job; one gets it. So the cost of one job grows with the number of API processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Literal

from loadtest.sim.cluster import homes
from loadtest.sim.costs import Costs
from loadtest.sim.engine import Action, Engine
from loadtest.sim.process import Process

Channel = Literal["shard", "queue", "process"]


@dataclass(frozen=True, slots=True)
class Setup:
    """What is simulated.

    Args:
        queues: per shard. ``workers``: that wait for each queue, at processes that chance names.
        jobs_s: in the whole cluster, each of a queue that chance names.
        channel: who hears of a job: the processes that wait for any queue of its shard, as today;
            those that wait for its queue; or one of them.
        work_us: from the response of a fetch to the ack.
    """

    masters: int
    apis: int
    shards: int = 64
    queues: int = 4
    workers: int = 8
    jobs_s: float = 1000.0
    channel: Channel = "shard"
    network_us: float = 100.0
    work_us: float = 1000.0
    seed: int = 1


@dataclass(slots=True)
class Queue:
    """Jobs of a queue by the time they were sent at; and how many wait for it, by process."""

    master: int
    jobs: list[float]
    waiting: dict[int, int]
    hearers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A request, its reply, or a message, at a process of either kind."""

    kind: Literal["enqueue", "fetch", "ack", "job", "none", "done", "message"]
    queue: int
    api: int
    sent_at: float = 0.0


class Waking:
    """All processes of a setup, and what their work was."""

    def __init__(self, setup: Setup, costs: Costs) -> None:
        self.engine, self.setup, self.costs = Engine(), setup, costs
        self.random = Random(setup.seed)
        self.came = self.started = self.acked = self.fetches = self.heard = 0
        self.waits_us: list[float] = []
        self.apis = [
            Process[Step](self.engine, partial(self._api_turn, n)) for n in range(setup.apis)
        ]
        self.masters = [
            Process[Step](self.engine, self._master_turn, costs.redis_wake)
            for _ in range(setup.masters)
        ]
        self.queues = self._place_queues()
        self._gap_us = 1e6 / setup.jobs_s
        self._until = 0.0

    def _place_queues(self) -> list[Queue]:
        setup, queues = self.setup, []
        for home in homes(setup.shards, setup.masters):
            of_shard = []
            for _ in range(setup.queues):
                waiting: dict[int, int] = {}
                for _ in range(setup.workers):
                    api = self.random.randrange(setup.apis)
                    waiting[api] = waiting.get(api, 0) + 1
                of_shard.append(Queue(home, [], waiting, tuple(waiting)))
            if setup.channel == "shard":
                everybody = tuple({api for queue in of_shard for api in queue.hearers})
                for queue in of_shard:
                    queue.hearers = everybody
            queues += of_shard
        return queues

    def run(self, seconds: float) -> None:
        """Let jobs come for so long, and end what was begun."""
        self._until = seconds * 1e6
        self._come()
        self.engine.run(self._until + 10e6)

    def _come(self) -> None:
        if self.engine.now <= self._until:
            queue, api = (self.random.randrange(len(x)) for x in (self.queues, self.apis))
            self.came += 1
            self.apis[api].receive(Step("enqueue", queue, api, self.engine.now))
            gap_us = self.random.expovariate(1 / self._gap_us)
            self.engine.at(self.engine.now + gap_us, self._come)

    def _later(self, process: Process[Step], step: Step) -> None:
        delay_us = self.setup.network_us * self.random.uniform(0.8, 1.2)
        self.engine.at(self.engine.now + delay_us, partial(process.receive, step))

    def _master_turn(self, taken: Sequence[Step]) -> tuple[float, list[tuple[float, Action]]]:
        costs, used = self.costs, self.costs.redis_turn
        sent: list[Step] = []
        for step in taken:
            queue = self.queues[step.queue]
            used += costs.redis_read + costs.redis_slot_check
            if step.kind == "enqueue":
                used += costs.redis_enqueue
                queue.jobs.append(step.sent_at)
                if len(queue.jobs) == 1:
                    hearers = self._hearers(queue)
                    used += costs.redis_publish + costs.redis_message * len(hearers)
                    sent += (Step("message", step.queue, api) for api in hearers)
                sent.append(Step("done", step.queue, step.api))
            elif step.kind == "ack":
                used += costs.redis_ack
                self.acked += 1
                sent.append(Step("done", step.queue, step.api))
            elif queue.jobs:
                used += costs.redis_fetch
                sent.append(Step("job", step.queue, step.api, queue.jobs.pop(0)))
            else:
                used += costs.redis_fetch_empty
                sent.append(Step("none", step.queue, step.api))
        return used, [(used, partial(self._later, self.apis[step.api], step)) for step in sent]

    def _hearers(self, queue: Queue) -> tuple[int, ...]:
        if self.setup.channel != "process":
            return queue.hearers
        waiting = [api for api, count in queue.waiting.items() if count]
        return (self.random.choice(waiting),) if waiting else ()

    def _api_turn(
        self, number: int, taken: Sequence[Step]
    ) -> tuple[float, list[tuple[float, Action]]]:
        costs, used = self.costs, 0.0
        sent: list[tuple[float, Action]] = []

        def ask(step: Step) -> None:
            nonlocal used
            used += costs.api_send
            master = self.masters[self.queues[step.queue].master]
            sent.append((used, partial(self._later, master, step)))

        def look(index: int) -> None:
            """One of the waiting fetches of this process asks for a job."""
            nonlocal used
            queue = self.queues[index]
            if queue.waiting.get(number, 0):
                queue.waiting[number] -= 1
                self.fetches += 1
                used += costs.api_empty_look
                ask(Step("fetch", index, number))

        for step in taken:
            if step.kind == "message":
                self.heard += 1
                used += costs.api_message
                look(step.queue)
            elif step.kind in ("enqueue", "ack", "fetch"):
                used += costs.api_request + costs.api_turn
                ask(step)
            else:
                used += costs.api_read
                if step.kind == "job":
                    used += self._start(step, sent, used)
                    look(step.queue)  # the next of this process's waiters
                elif step.kind == "none":
                    waiting = self.queues[step.queue].waiting
                    waiting[number] = waiting.get(number, 0) + 1
        return used, sent

    def _start(self, step: Step, sent: list[tuple[float, Action]], used: float) -> float:
        """A worker has a job: it acknowledges it later, and fetches again."""
        self.started += 1
        self.waits_us.append(self.engine.now - step.sent_at)
        work_us = used + self.setup.network_us * 2 + self.setup.work_us
        api = self.apis[step.api]
        sent.append((work_us, partial(api.receive, Step("ack", step.queue, step.api))))
        sent.append((work_us, partial(self._fetch_again, step.queue, step.api)))
        return self.costs.api_request - self.costs.api_empty_look

    def _fetch_again(self, index: int, api: int) -> None:
        """The worker's next fetch: it looks once, then waits."""
        self.fetches += 1
        self.apis[api].receive(Step("fetch", index, api))

    def busiest(self) -> tuple[float, float]:
        """The part of the time for which the busiest master, and the busiest API process, work."""
        masters = max(process.busy_us for process in self.masters)
        apis = max(process.busy_us for process in self.apis)
        return masters / self._until, apis / self._until
