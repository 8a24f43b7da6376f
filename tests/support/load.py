"""Clients that keep a deployment busy, and a ledger of the responses that they received.

Producers enqueue jobs and workers run them, all through the proxy. All repeat a request whose
outcome is unknown, as real clients do. The ledger holds only what a client can know: acknowledged
jobs, leases with their earliest end, and confirmed acks. From this it detects violations: a job
with two leases, a job that runs again after its confirmed completion, and an ack that is refused
during the lease.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import trio

JSON = dict[str, Any]

UNAVAILABLE = (502, 503, 504)
CALL_TIMEOUT_S = 180.0
QUEUES = ("load-a", "load-b", "load-c")
ATTEMPTS = 50
"""A test may kill the process of a job many times; the job must not run out of attempts."""
PRODUCER_PAUSE_S = 0.1
"""Longest pause of a producer between two jobs. Without one, a test takes all processors."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One lease as its worker knows it: it cannot end before ``until`` (trio clock, in seconds)."""

    worker: str
    lease_id: str
    until: float


@dataclass(slots=True)
class Ledger:
    """What the clients of one test know."""

    acknowledged: set[str] = field(default_factory=set)
    completed: set[str] = field(default_factory=set)
    held: dict[str, Hold] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    """Repeated calls, each with the reason."""
    attempts: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    occurrences: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """Per occurrence of each cron job, the ids of the jobs that were fetched."""

    def take(self, job: JSON, worker: str, until: float) -> None:
        """Record that a worker has received a job."""
        id_ = job["id"]
        if job["attempt"] in self.attempts[id_]:
            self.violations.append(f"{id_}: attempt {job['attempt']} was given out twice")
        self.attempts[id_].add(job["attempt"])
        meta = job.get("meta") or {}
        if "cron_name" in meta:
            self.occurrences[meta["cron_name"], meta["cron_triggered_at"]].add(id_)
        now = trio.current_time()
        if now >= until:
            return  # so late a response may be older than the lease of another worker
        before = self.held.get(id_)
        if before is not None and now < before.until:
            self.violations.append(f"{id_}: given to {worker} while {before.worker} holds it")
        if id_ in self.completed:
            self.violations.append(f"{id_}: given to {worker} after it was completed")
        self.held[id_] = Hold(worker, job["lease_id"], until)

    def hold_of(self, job: JSON) -> Hold | None:
        """Return the lease that came with this job; another worker may hold the job by now."""
        hold = self.held.get(job["id"])
        return hold if hold is not None and hold.lease_id == job["lease_id"] else None

    def let_go(self, job: JSON) -> None:
        """Record that the lease of the worker has ended."""
        if self.hold_of(job) is not None:
            del self.held[job["id"]]

    def acked(self, job: JSON, worker: str, answer: httpx.Response) -> None:
        """Record the response to an ack."""
        id_, now = job["id"], trio.current_time()
        known = self.held.get(id_)
        holder = known if known is not None and now < known.until else None
        if answer.status_code == 200:
            self.completed.add(id_)
            if holder is not None and holder is not self.hold_of(job):
                self.violations.append(f"{id_}: ack of {worker} while {holder.worker} holds it")
        elif holder is not None and holder is self.hold_of(job):
            self.violations.append(
                f"{id_}: ack of its holder {worker}: {answer.status_code} {answer.text}"
            )
        self.let_go(job)

    @property
    def unfinished(self) -> set[str]:
        return self.acknowledged - self.completed


async def call(
    client: httpx.AsyncClient, ledger: Ledger, path: str, body: JSON
) -> tuple[httpx.Response, bool]:
    """POST until there is a definite response; also return whether the request was repeated.

    Raises:
        AssertionError: the response is a 500, or there was no definite one within
            ``CALL_TIMEOUT_S``.
    """
    repeated = False
    with trio.move_on_after(CALL_TIMEOUT_S):
        while True:
            try:
                answer = await client.post(path, json=body)
            except httpx.TransportError as error:
                reason = repr(error)
            else:
                assert answer.status_code != 500, f"{path}: {answer.text}"
                if answer.status_code not in UNAVAILABLE:
                    return answer, repeated
                reason = f"{answer.status_code} {answer.text}"
            repeated = True
            ledger.retried.append(f"{path}: {reason}")
            await trio.sleep(random.uniform(0.02, 0.2))
    raise AssertionError(f"{path} had no definite answer in {CALL_TIMEOUT_S} s")


@dataclass(slots=True)
class Load:
    """Producers and workers over one set of queues.

    Args:
        client: sends the requests.
        ledger: records the responses.
        queues: where jobs go, and which the workers serve.
        lease_ms: visibility timeout that workers request, in milliseconds. A job whose fetch
            response
            was lost becomes available after it.
        lossy: whether the backend may lose acknowledged writes (failover of a master under
            asynchronous
            replication). Then the test decides what to do with ``ledger.violations``.
    """

    client: httpx.AsyncClient
    ledger: Ledger = field(default_factory=Ledger)
    queues: tuple[str, ...] = QUEUES
    lease_ms: int = 3000
    lossy: bool = False
    _stop_producing: trio.Event = field(default_factory=trio.Event)
    _stop_working: trio.Event = field(default_factory=trio.Event)

    async def produce(self) -> None:
        """Enqueue one job after the other until ``stop_producing``."""
        while not self._stop_producing.is_set():
            body = self._new_job()
            answer, repeated = await call(self.client, self.ledger, "/ojs/v1/jobs", body)
            if answer.status_code == 201:
                self.ledger.acknowledged.add(answer.json()["job"]["id"])
            elif answer.status_code == 409 and repeated and "id" in body:
                self.ledger.acknowledged.add(body["id"])  # an earlier try had arrived
            else:
                self.ledger.violations.append(f"enqueue: {answer.status_code} {answer.text}")
            await trio.sleep(random.uniform(0, PRODUCER_PAUSE_S))

    def _new_job(self) -> JSON:
        retry = {"max_attempts": ATTEMPTS, "initial_interval": "PT0.2S", "jitter": False}
        retry |= {"backoff_coefficient": 1.0}
        options: JSON = {"queue": random.choice(self.queues), "retry": retry}
        if random.random() < 0.2:
            options["scheduled_at"] = "+PT0.5S"
        body: JSON = {"type": "kill.test", "args": [random.random()], "options": options}
        if random.random() < 0.7:
            body["id"] = new_id()
        return body

    async def work(self, name: str) -> None:
        """Fetch, run and finish jobs until ``drain``."""
        lease_s = self.lease_ms / 1000
        body = {"queues": list(self.queues), "worker_id": name, "count": 5, "wait_ms": 300}
        body |= {"visibility_timeout_ms": self.lease_ms}
        while not self._stop_working.is_set():
            sent = trio.current_time()
            answer, repeated = await call(self.client, self.ledger, "/ojs/v1/workers/fetch", body)
            assert answer.status_code == 200, answer.text
            # Of a repeated fetch only the last request can have returned these jobs. The clock
            # starts at the first one, so the recorded lease is too short at worst, and no violation
            # is reported wrongly.
            del repeated
            jobs = answer.json()["jobs"]
            for job in jobs:
                self.ledger.take(job, name, sent + lease_s)
            await trio.sleep(random.uniform(0, 0.02))
            for job in jobs:
                await self._finish(job, name)

    async def _finish(self, job: JSON, worker: str) -> None:
        body: JSON = {"job_id": job["id"], "worker_id": worker, "lease_id": job["lease_id"]}
        if random.random() < 0.1:
            # Another worker may fetch the job as soon as the request is sent.
            self.ledger.let_go(job)
            body["error"] = {"code": "handler_error", "message": "now and then", "retryable": True}
            await call(self.client, self.ledger, "/ojs/v1/workers/nack", body)
            return
        answer, _ = await call(self.client, self.ledger, "/ojs/v1/workers/ack", body)
        self.ledger.acked(job, worker, answer)

    async def progress(self, count: int, timeout_s: float = 120.0) -> None:
        """Return when ``count`` more jobs were acknowledged and as many completed."""
        acknowledged = len(self.ledger.acknowledged) + count
        completed = len(self.ledger.completed) + count
        await eventually(
            lambda: (
                len(self.ledger.acknowledged) >= acknowledged
                and len(self.ledger.completed) >= completed
            ),
            timeout_s=timeout_s,
            what=f"{count} more jobs went through",
        )

    def stop_producing(self) -> None:
        """Stop the producers."""
        self._stop_producing.set()

    async def drain(self, timeout_s: float = 120.0) -> set[str]:
        """Stop the producers, wait until every acknowledged job is completed, then stop the
        workers.

        Returns:
            Ids of acknowledged jobs that the server does not know. Only a ``lossy`` load looks for
            them.

        Raises:
            AssertionError: jobs remain unfinished.
        """
        self.stop_producing()
        deadline = time.monotonic() + timeout_s
        gone: set[str] = set()
        while left := self.ledger.unfinished - gone:
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{len(left)} acknowledged jobs never ended: {sorted(left)[:5]}"
                )
            await trio.sleep(0.2)
            if self.lossy and len(left) < 100:
                gone |= {id_ for id_ in left if await self._is_gone(id_)}
        self._stop_working.set()
        return gone

    async def _is_gone(self, id_: str) -> bool:
        try:
            answer = await self.client.get(f"/ojs/v1/jobs/{id_}")
        except httpx.TransportError:
            return False
        if answer.status_code == 200 and answer.json()["job"]["state"] == "completed":
            self.ledger.completed.add(id_)
        return answer.status_code == 404


@asynccontextmanager
async def running_load(
    url: str,
    *,
    producers: int = 4,
    workers: int = 4,
    lossy: bool = False,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30,
    queues: tuple[str, ...] = QUEUES,
) -> AsyncIterator[Load]:
    """Run a load while the block runs; call ``drain`` before its end.

    Args:
        url: the base URL of the API.
        producers: number of producers.
        workers: number of workers.
        lossy: see ``Load``.
        headers: sent with every request, such as a key.
        timeout_s: timeout of a request, in seconds.
        queues: where jobs go, and which the workers serve.
    """
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(
        base_url=url, timeout=timeout_s, limits=limits, headers=headers
    ) as client:
        load = Load(client, queues=queues, lossy=lossy)
        async with trio.open_nursery() as nursery:
            for _ in range(producers):
                nursery.start_soon(load.produce)
            for number in range(workers):
                nursery.start_soon(load.work, f"worker-{number}")
            yield load


async def eventually(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Poll until a cheap condition holds.

    Raises:
        AssertionError: it did not hold in time.
    """
    with trio.move_on_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is asked lies outside this process
            await trio.sleep(0.02)
        return
    raise AssertionError(f"not reached in {timeout_s} s: {what}")


def new_id() -> str:
    """Return a new UUIDv7, as a client creates one."""
    value = bytearray(int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10))
    value[6] = 0x70 | value[6] & 0x0F
    value[8] = 0x80 | value[8] & 0x3F
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
