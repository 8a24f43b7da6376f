"""Remove the record of a worker that has ended or is silent (spec: ojs-admin-api 9.4)."""

from __future__ import annotations

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.process_state.touch import MISSED_HEARTBEATS


async def deregister(store: Store, worker_id: str) -> None:
    """Remove a worker that has terminated or is silent.

    The scheduler makes the active jobs of a silent worker available within ten seconds.

    Raises:
        NotFound: there is no such worker.
        Conflict: the worker has sent a heartbeat or a fetch recently.
        BackendUnavailable: Redis did not answer in time. The worker may be gone.
    """
    silence_ms = MISSED_HEARTBEATS * store.settings.heartbeat_interval_ms
    seen_ms = await _remove(store, worker_id, silence_ms)
    if seen_ms is not None:
        raise Conflict(
            f"worker '{worker_id}' was seen {seen_ms} ms ago: only a worker that has missed "
            "three heartbeats, or has terminated, can be removed",
            worker_id=worker_id,
        )


async def deregister_terminated(store: Store, worker_id: str) -> None:
    """Remove a worker whose last heartbeat said that it terminates and has no active job.

    Raises:
        NotFound: there is no such worker.
        Conflict: the worker has not said so.
        BackendUnavailable: Redis did not answer in time. The worker may be gone.
    """
    if await _remove(store, worker_id, None) is not None:
        raise Conflict(
            f"worker '{worker_id}' has not terminated: it first sends a heartbeat with the state "
            "'terminate' and no active jobs",
            worker_id=worker_id,
        )


async def _remove(store: Store, worker_id: str, silence_ms: int | None) -> int | None:
    """Remove a worker; return how many ms ago a live worker was seen, and None after a removal."""
    shard = store.keys.shard_of_worker(worker_id)
    status, *seen_ms = await store.run(
        shard,
        "deregister_worker",
        [shard.worker(worker_id), shard.workers, shard.watched, shard.lost_workers],
        [worker_id, "" if silence_ms is None else silence_ms],
    )
    if status == b"missing":
        raise NotFound("worker", worker_id)
    return int(seen_ms[0]) if status == b"alive" else None
