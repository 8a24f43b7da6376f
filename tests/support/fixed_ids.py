"""Jobs whose ids were fixed in advance."""

from __future__ import annotations

from collections.abc import Sequence

from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_with_ids


async def enqueue_with_id(
    store: Store,
    job_id: str,
    job: NewJob,
    fields: Sequence[bytes] = (),
    *,
    store_before_ms: int = 0,
) -> bool:
    """Store one job as ``enqueue_with_ids``; return whether this call has stored it."""
    shard = store.keys.shard_of_id(job_id)
    return await enqueue_with_ids(store, shard, [(job_id, job, fields)], store_before_ms) > 0
