"""The server behaves as the model, for random histories.

Hypothesis generates histories. Each step runs on the model and on a real server, standalone and
cluster, and both must return the same. After every step the jobs and counters are compared, and the
invariants are checked.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.jobs.retry import RetryPolicy
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.ack import ack
from ojs_cluster.store.engine.jobs.activate import activate
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.nack import nack
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues import pauses, queues
from ojs_cluster.store.engine.queues.deadlines import promote, reap
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.features.workflows import read_workflows, workflows
from tests.model.coordination import STEADY, CoordinatedModel, Step
from tests.model.jobs import JobView, outcome
from tests.model.lifecycle import UNIT
from tests.model.threaded_store import ThreadedStore, open_threaded_store
from tests.model.time_travel import pass_time
from tests.support.invariants import check_invariants
from tests.support.servers import flush

SHARDS = 4
QUEUES = ("mail", "reports", "slow")
WORKERS = ("w1", "w2")
UNIQUE_TYPES = ("only.one", "only.other")
_OPTIONS = {
    "delay_ms": "scheduled_at",
    "expires_ms": "expires_at",
    "timeout_ms": "timeout_ms",
    "visibility_ms": "visibility_timeout_ms",
    "pending": "pending",
}
_TIMES = ("started_at", "next_attempt_at", "cancelled_at", "discarded_at", "completed_at")

units = st.integers(1, 4).map(lambda count: count * UNIT)
maybe_units = st.none() | units
some_queues = st.permutations(QUEUES).flatmap(
    lambda names: st.integers(1, len(names)).map(lambda count: names[:count])
)
policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(0, 3),
    initial_ms=units,
    coefficient=st.sampled_from([1.0, 2.0]),
    max_ms=st.just(20 * UNIT),
    jitter=st.just(False),
    strategy=st.sampled_from(["exponential", "linear", "constant", "polynomial"]),
    on_exhaustion=st.sampled_from([None, "discard", "dead_letter"]),
    non_retryable=st.sampled_from(
        [(), ("Fatal",), ("auth.*", "timeout"), ("visibility.*", "worker_lost")]
    ),
)
failures = st.sampled_from(
    [
        b'"boom"',
        b'{"code":"oops","message":"again","retryable":true}',
        b'{"code":"oops","retryable":false}',
        b'{"type":"Fatal","message":"no"}',
        b'{"code":"auth.expired"}',
        b'{"code":"oops","action":"DEAD_LETTER"}',
        b'{"code":"oops","action":"DISCARD"}',
        b'{"code":"busy","retry_delay_ms":%d}' % (3 * UNIT),
        b'{"action":"SNOOZE","retry_delay_ms":%d}' % (2 * UNIT),
    ]
).map(parse_failure)
client_ids = st.integers(0, 5).map(lambda n: f"019461a8-1a2b-7{n:03x}-8e4f-00000000000{n}")
picks = st.integers(0, 1000)


def unique_job(queue: str, kind: str, on_conflict: str) -> NewJob:
    """Return a job that is unique by type, in any queue."""
    retry = json.loads(STEADY.json())
    options = {"queue": queue, "unique": {"on_conflict": on_conflict}, "retry": retry}
    return parse_job(_bytes({"type": kind, "args": [], "options": options}))


class Histories(RuleBasedStateMachine):
    """Model and server side by side."""

    backend: ClassVar[Embedded]
    threaded_store: ClassVar[ThreadedStore]

    def __init__(self) -> None:
        super().__init__()
        flush(self.backend)
        self.model = CoordinatedModel()
        self.leases: list[tuple[str, str, str]] = []
        """(job, worker, lease) of every lease so far, also of ended ones."""

    @initialize(count=st.integers(1, 8), policy=policies)
    def begin_with_some_jobs(self, count: int, policy: RetryPolicy) -> None:
        for number in range(count):
            queue = QUEUES[number % len(QUEUES)]
            self.enqueue_one(queue, 0, policy, {}, None)

    def both(
        self, expected: Callable[[], JobView], actual: Callable[[Store], Awaitable[JobRecord]]
    ) -> None:
        """Run an operation on both; the results or the kinds of error must be equal."""
        wanted = outcome(expected)
        got = outcome(lambda: self.threaded_store.call(actual))
        assert (seen(got) if isinstance(got, JobRecord) else got) == wanted

    def pick(self, number: int) -> str:
        """Return some job id, or one that does not exist."""
        known = [*self.model.jobs, "01900000-0000-7000-8000-000000000000"]
        return known[number % len(known)]

    def pick_lease(self, number: int, how: str) -> tuple[str, str | None, str | None]:
        """Return a job and lease data that a caller may send, sometimes of an earlier lease."""
        held = [
            (job.job_id, job.lease.worker, job.lease.lease_id)
            for job in self.model.jobs.values()
            if job.lease
        ]
        known = self.leases if not held or number % 4 == 0 else held
        if not known:
            return self.pick(number), None, None
        job_id, worker, lease = known[number // 4 % len(known)]
        named = {
            "no one": (None, None),
            "worker": (worker, None),
            "lease": (None, lease),
            "both": (worker, lease),
            "stranger": ("w9", None),
        }
        return (job_id, *named[how])

    @rule(
        queue=st.sampled_from(QUEUES),
        priority=st.sampled_from([-100, -1, 0, 0, 0, 7, 100]),
        policy=policies,
        delay=maybe_units,
        expires=maybe_units,
        timeout=maybe_units,
        visibility=maybe_units,
        pending=st.sampled_from([False, False, True]),
        client_id=st.none() | st.none() | client_ids,
    )
    def enqueue(
        self,
        queue: str,
        priority: int,
        policy: RetryPolicy,
        delay: int | None,
        expires: int | None,
        timeout: int | None,
        visibility: int | None,
        pending: bool,
        client_id: str | None,
    ) -> None:
        times = {"delay_ms": delay, "expires_ms": expires}
        options = {"timeout_ms": timeout, "visibility_ms": visibility, "pending": pending}
        self.enqueue_one(queue, priority, policy, {**times, **options}, client_id)

    def enqueue_one(
        self,
        queue: str,
        priority: int,
        policy: RetryPolicy,
        more: dict[str, Any],
        client_id: str | None,
    ) -> None:
        """Enqueue on both; the server chooses the id unless the client does."""
        more = {name: value for name, value in more.items() if value}
        options: dict[str, Any] = {
            "queue": queue,
            "priority": priority,
            "retry": json.loads(policy.json()),
        }
        for name, value in more.items():
            option = _OPTIONS[name]
            options[option] = f"+PT{value // 1000}S" if option.endswith("_at") else value
        body = {"type": "model.job", "args": [], "options": options}
        if client_id is not None:
            body["id"] = client_id
        got = outcome(
            lambda: self.threaded_store.call(lambda store: enqueue(store, parse_job(_bytes(body))))
        )
        job_id = got.id if isinstance(got, JobRecord) else str(client_id)
        wanted = outcome(
            lambda: self.model.enqueue(job_id, queue, priority=priority, retry=policy, **more)
        )
        assert (seen(got) if isinstance(got, JobRecord) else got) == wanted

    @rule(
        names=some_queues,
        count=st.integers(1, 4),
        worker=st.sampled_from(WORKERS),
        visibility=st.none() | st.none() | units,
    )
    def fetch(self, names: list[str], count: int, worker: str, visibility: int | None) -> None:
        given = self.threaded_store.call(
            lambda store: fetch(
                store,
                names,
                count=count,
                worker_id=worker,
                visibility_timeout_ms=visibility,
            )
        )
        observed = [(job.id, str(job.lease_id)) for job in given]
        expected = self.model.fetch(
            names, count, worker, visibility_ms=visibility, observed=observed
        )
        assert [seen(job) for job in given] == expected
        self.leases += [(job_id, worker, lease) for job_id, lease in observed]

    @rule(number=picks, how=st.sampled_from(["no one", "worker", "lease", "both", "stranger"]))
    def ack(self, number: int, how: str) -> None:
        job_id, worker, lease = self.pick_lease(number, how)
        self.both(
            lambda: self.model.ack(job_id, worker, lease),
            lambda store: ack(store, job_id, worker_id=worker, lease_id=lease, result=b"1"),
        )

    @rule(
        number=picks,
        how=st.sampled_from(["no one", "worker", "lease", "both", "stranger"]),
        failure=failures,
        requeue=st.sampled_from([False, False, False, True]),
    )
    def nack(self, number: int, how: str, failure: Any, requeue: bool) -> None:
        job_id, worker, lease = self.pick_lease(number, how)
        self.both(
            partial(self.model.requeue, job_id, worker, lease)
            if requeue
            else partial(self.model.nack, job_id, failure, worker, lease),
            lambda store: nack(
                store, job_id, worker_id=worker, lease_id=lease, failure=failure, requeue=requeue
            ),
        )

    @rule(worker=st.sampled_from(WORKERS), visibility=maybe_units)
    def heartbeat(self, worker: str, visibility: int | None) -> None:
        ids = list(self.model.jobs)
        reply = self.threaded_store.call(
            lambda store: heartbeat(store, Heartbeat(worker, ids, visibility_timeout_ms=visibility))
        )
        assert reply.extended == self.model.heartbeat(worker, ids, visibility_ms=visibility)

    @rule(number=picks)
    def cancel(self, number: int) -> None:
        job_id = self.pick(number)
        self.both(lambda: self.model.cancel(job_id), lambda store: cancel(store, job_id))

    @rule(number=picks)
    def activate(self, number: int) -> None:
        waiting = [j.job_id for j in self.model.jobs.values() if j.state is State.PENDING]
        job_id = waiting[number % len(waiting)] if waiting else self.pick(number)
        self.both(lambda: self.model.activate(job_id), lambda store: activate(store, job_id))

    @rule(number=picks, delete=st.booleans())
    def revive_or_delete_a_dead_letter(self, number: int, delete: bool) -> None:
        dead = sorted(self.model.dead_letters())
        job_id = dead[number % len(dead)] if dead else self.pick(number)
        if delete:
            wanted = outcome(lambda: self.model.delete_dead(job_id))
            got = outcome(
                lambda: self.threaded_store.call(lambda store: dead_letters.delete(store, job_id))
            )
            assert (None if isinstance(got, JobRecord) else got) == wanted
        else:
            self.both(
                lambda: self.model.retry_dead(job_id),
                lambda store: dead_letters.retry(store, job_id),
            )

    @rule(number=picks, over=st.booleans())
    def retry_a_discarded_job(self, number: int, over: bool) -> None:
        known = [j.job_id for j in self.model.jobs.values() if j.state is State.DISCARDED]
        job_id = known[number % len(known)] if known and over else self.pick(number)
        self.both(
            lambda: self.model.retry_discarded(job_id),
            lambda store: dead_letters.retry_discarded(store, job_id),
        )

    @rule(queue=st.sampled_from(QUEUES), pause=st.booleans())
    def pause_or_resume(self, queue: str, pause: bool) -> None:
        (self.model.pause if pause else self.model.resume)(queue)
        self.threaded_store.call(
            lambda store: pauses.pause_or_resume(store, queue, "pause" if pause else "resume")
        )

    @rule(
        queue=st.sampled_from(QUEUES),
        kind=st.sampled_from(UNIQUE_TYPES),
        on_conflict=st.sampled_from(["reject", "ignore", "replace", "replace_except_schedule"]),
    )
    def enqueue_unique(self, queue: str, kind: str, on_conflict: str) -> None:
        job = unique_job(queue, kind, on_conflict)
        got = outcome(lambda: self.threaded_store.call(lambda store: enqueue(store, job)))
        job_id = got.id if isinstance(got, JobRecord) else "refused"
        wanted = outcome(lambda: self.model.enqueue_unique(job_id, queue, kind, on_conflict))
        assert (seen(got) if isinstance(got, JobRecord) else got) == wanted

    @rule(
        kind=st.sampled_from(["chain", "group"]),
        queues_=st.lists(st.sampled_from(QUEUES), min_size=1, max_size=3),
        policy=policies,
    )
    def create_workflow(
        self, kind: Literal["chain", "group"], queues_: list[str], policy: RetryPolicy
    ) -> None:
        options = {"retry": json.loads(policy.json())}
        steps = [
            {"type": "model.step", "args": [], "options": {"queue": queue, **options}}
            for queue in queues_
        ]
        body = {"type": kind, {"chain": "steps", "group": "jobs"}[kind]: steps}
        new = parse_workflow(_bytes(body))
        made = self.threaded_store.call(lambda store: workflows.create(store, new))
        wanted = [
            Step(node.job_id, queue, policy)
            for node, queue in zip(made.plan.jobs, queues_, strict=True)
        ]
        self.model.create_workflow(made.id, kind, wanted)

    @precondition(lambda self: self.model.workflows)
    @rule(number=picks)
    def cancel_workflow(self, number: int) -> None:
        known = list(self.model.workflows)
        workflow_id = known[number % len(known)]
        wanted = outcome(lambda: self.model.cancel_workflow(workflow_id))
        got = outcome(lambda: self.threaded_store.call(partial(_cancel_workflow, workflow_id)))
        assert got == wanted

    @rule(queue=st.sampled_from(QUEUES), concurrency=st.sampled_from([None, None, 1, 2]))
    def limit(self, queue: str, concurrency: int | None) -> None:
        self.model.limit(queue, concurrency)
        limits = RateLimits(concurrency=concurrency)
        self.threaded_store.call(lambda store: rate_limits.set_queue_limits(store, queue, limits))

    @rule(ms=units)
    def time_passes(self, ms: int) -> None:
        pass_time(self.backend, ms, shards=SHARDS)
        self.threaded_store.call(_tick)
        self.model.advance(ms)

    @invariant()
    def every_job_is_as_the_model_says(self) -> None:
        for job_id in self.model.jobs:
            job = self.threaded_store.call(partial(_get, job_id))
            assert seen(job) == self.model.get(job_id)

    @invariant()
    def workflows_and_locks_are_as_the_model_says(self) -> None:
        for workflow_id, workflow in self.model.workflows.items():
            found = self.threaded_store.call(partial(_workflow, workflow_id))
            assert found.state == workflow.state
        for kind in UNIQUE_TYPES:
            assert self.threaded_store.call(partial(_holder, kind)) == self.model.locks.get(kind)

    @invariant()
    def every_job_is_in_one_place_and_counted(self) -> None:
        report = check_invariants(self.backend, shards=SHARDS)
        assert report.problems == []
        assert report.states.keys() == self.model.jobs.keys()
        for queue in QUEUES:
            found = self.threaded_store.call(partial(_stats, queue))
            assert found.counts == self.model.counts(queue)
            assert found.acked == self.model.acked[queue]
            assert found.dead == len(self.model.dead_letters(queue))
            assert found.paused == (queue in self.model.paused)


def seen(job: JobRecord) -> JobView:
    """Return the server's job as the model's ``JobView``."""
    shown = json.loads(job.json())
    return JobView(
        job_id=shown["id"],
        queue=shown["queue"],
        priority=shown["priority"],
        state=State(shown["state"]),
        attempt=shown["attempt"],
        max_attempts=shown["max_attempts"],
        worker=shown.get("worker_id"),
        errors=tuple(error["type"] for error in shown.get("errors", [])),
        shows_error="error" in shown,
        retry_delay_ms=shown.get("retry_delay_ms") if shown["state"] == "retryable" else None,
        dead=job.dead,
        times=frozenset(name for name in _TIMES if name in shown),
    )


def _bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


async def _get(job_id: str, store: Store) -> JobRecord:
    return await read_jobs.get(store, job_id)


async def _stats(queue: str, store: Store) -> queues.QueueStats:
    return await queues.get_stats(store, queue)


async def _cancel_workflow(workflow_id: str, store: Store) -> None:
    await workflows.cancel(store, workflow_id)


async def _workflow(workflow_id: str, store: Store) -> read_workflows.WorkflowRecord:
    return await read_workflows.get(store, workflow_id)


async def _holder(kind: str, store: Store) -> str | None:
    fingerprint = unique_job(QUEUES[0], kind, "reject").fingerprint
    shard = store.keys.shard_of_fingerprint(fingerprint)
    found = await store.redis.call(shard.slot, "HGET", shard.lock(fingerprint), "holder")
    return found.decode() if isinstance(found, bytes) else None


async def _tick(store: Store) -> None:
    for step in (promote, reap):
        for shard in store.keys:
            await step(store, shard, 1000)


@pytest.fixture
def histories(backend: Embedded) -> Iterator[type[Histories]]:
    with open_threaded_store(backend.url, shards=SHARDS) as threaded_store:
        yield type(
            "Histories", (Histories,), {"backend": backend, "threaded_store": threaded_store}
        )


def _run(histories: type[Histories], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        histories,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_server_and_model_agree(histories: type[Histories]) -> None:
    _run(histories, examples=25, steps=40)


@pytest.mark.soak
def test_server_and_model_agree_for_long(histories: type[Histories]) -> None:
    _run(histories, examples=400, steps=80)


def test_an_error_is_compared_by_its_class() -> None:
    def fails() -> None:
        raise OJSError("no")

    assert outcome(fails) is OJSError
