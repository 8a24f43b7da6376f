"""Remove the record of a worker that is silent (spec: ojs-admin-api 9.4)."""

from __future__ import annotations

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.store.context import Store
from ojs_cluster.store.workers.touch import MISSED_HEARTBEATS


async def deregister(store: Store, worker_id: str) -> None:
    """Remove a silent worker. The scheduler makes its active jobs available within ten seconds.

    Raises:
        NotFound: there is no such worker.
        Conflict: the worker has sent a heartbeat or a fetch recently.
        BackendUnavailable: Redis did not answer in time. The worker may be gone.
    """
    shard = store.keys.shard_of_worker(worker_id)
    status, *silences_ms = await store.run(
        shard,
        "deregister_worker",
        [shard.worker(worker_id), shard.workers, shard.watched, shard.lost_workers],
        [worker_id, MISSED_HEARTBEATS * store.settings.heartbeat_interval_ms],
    )
    if status == b"missing":
        raise NotFound("worker", worker_id)
    if status == b"alive":
        raise Conflict(
            f"worker '{worker_id}' was seen {silences_ms[0]} ms ago: only a worker that has missed "
            "three heartbeats can be removed",
            worker_id=worker_id,
        )
