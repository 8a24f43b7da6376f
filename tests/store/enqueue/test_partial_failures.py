"""An operation of several steps fails between them: the outcome that its error reports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, cast

import pytest

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.redis.client import Client
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.features.workflows import workflows
from tests.store.hot_queues import spread
from tests.store.shortcuts import QUEUE, active, home_id, nack, new_job, put, take
from tests.store.workflow_jobs import chain, step
from tests.support.lossy import LossyClient


def breaking_off(store: Store, name: str, *, after: int, lose: int = 0) -> Store:
    """A store whose first ``lose`` replies of one script are lost, and which reaches Redis no more
    after some calls of that script.

    Calls of plain commands fail with those of scripts.
    """

    class BreakingOff(LossyClient):
        async def script(self, slot: int, script: Any, keys: Any, args: Any, **kind: Any) -> Any:
            self.refuse()
            return await super().script(slot, script, keys, args, **kind)

        async def call(self, *args: Any, **kind: Any) -> Any:
            self.refuse()
            return await self._client.call(*args, **kind)

        def refuse(self) -> None:
            if self.calls.get(name, 0) >= after:
                raise BackendUnavailable("no connection", outcome="not_applied")

    client = BreakingOff(store.redis, lambda script, before: script == name and before < lose)
    return replace(store, redis=cast(Client, client))


async def test_an_enqueue_that_may_have_happened_is_never_called_not_applied(store: Store) -> None:
    """The first try was applied, its reply was lost, and Redis was away for the second."""
    await put(store)  # the first job of a queue takes the full script
    flaky = breaking_off(store, "enqueue_one", after=1, lose=1)
    job = new_job(id=home_id(store))

    with pytest.raises(BackendUnavailable) as caught:
        await enqueue(flaky, job)

    assert (await read_jobs.get(store, str(job.id))).state is State.AVAILABLE
    assert caught.value.outcome == "unknown"


async def test_a_stored_job_that_cannot_be_read_back_is_not_called_not_applied(
    store: Store,
) -> None:
    flaky = breaking_off(store, "enqueue_one", after=2, lose=1)

    with pytest.raises(BackendUnavailable) as caught:
        await enqueue(flaky, new_job(id=home_id(store)))

    assert caught.value.outcome == "unknown"


@pytest.mark.parametrize("options", [{}, {"unique": {"keys": ["type"]}}], ids=["plain", "unique"])
async def test_a_full_queue_after_a_lost_reply_is_not_called_certain(
    store: Store, options: dict[str, Any]
) -> None:
    """The first try has stored the job. The job has run and is deleted, and the queue is full."""

    class Slow(LossyClient):
        async def script(self, *args: Any, **kind: Any) -> Any:
            try:
                return await super().script(*args, **kind)
            except BackendUnavailable:
                [stored] = await take(store, QUEUE)
                await dead_letters.delete(store, (await nack(store, stored)).id)
                await put(store, type="other")
                raise

    await depth_bounds.set_bound(store, QUEUE, 1)
    client = Slow(store.redis, lambda script, before: script == "enqueue" and before == 0)
    flaky = replace(store, redis=cast(Client, client))
    retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}

    with pytest.raises(BackendUnavailable) as caught:
        await enqueue(flaky, new_job(id=home_id(store), retry=retry, **options))

    assert client.lost == ["enqueue"]
    assert caught.value.outcome == "unknown"


Operation = Callable[[Store, str], Awaitable[Any]]

OPERATIONS: Final[dict[str, tuple[str, Operation]]] = {
    "cancel a workflow": ("workflow_end", workflows.cancel),
    "pause a queue": (
        "pause_queue",
        lambda store, _: pauses.pause_or_resume(store, QUEUE, "pause"),
    ),
    "purge a queue": ("purge_queue", lambda store, _: purges.purge(store, QUEUE)),
    "retry a dead letter": ("retry_dead", dead_letters.retry),
    "delete a dead letter": ("delete_dead", dead_letters.delete),
    "limit a queue": (
        "limit_queue",
        lambda store, _: rate_limits.set_queue_limits(store, QUEUE, RateLimits(2)),
    ),
    "clear the limits of a queue": (
        "limit_queue",
        lambda store, _: rate_limits.clear_queue_limits(store, QUEUE),
    ),
    "limit a key": (
        "limit_set",
        lambda store, _: rate_limits.override_key(store, "key", RateLimits(2), None),
    ),
    "direct a worker": (
        "touch_worker",
        lambda store, _: workers.send_directive(store, "w", "quiet"),
    ),
}
"""Name, the script of its first write, and the operation with the id of what it is about."""


@pytest.mark.parametrize("name", OPERATIONS)
async def test_what_was_written_in_part_is_never_called_not_applied(
    store: Store, db: Any, name: str
) -> None:
    """Redis is away after the first write of an operation that takes several steps."""
    await spread(store, db, 2)
    subject = ""
    if name == "cancel a workflow":
        subject = (await chain(store, step(), step())).id
    if name.endswith("a dead letter"):
        retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
        subject = (await nack(store, await active(store, retry=retry))).id
    await put(store, rate_limit={"key": "key", "concurrency": 1})
    await heartbeat(store, Heartbeat(worker_id="w"))
    first_write, operation = OPERATIONS[name]

    with pytest.raises(BackendUnavailable) as caught:
        await operation(breaking_off(store, first_write, after=1), subject)

    assert caught.value.outcome == "unknown"
