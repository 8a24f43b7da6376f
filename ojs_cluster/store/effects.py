"""Every kind of effect and its handler (see ``outbox``)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import EffectHandler, Store
from ojs_cluster.store.engine.queues.copied_settings import open_if_used
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.features.rate_limits import rate_tokens
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.workflows import advance


async def _queue_created(store: Store, shard: Shard, payload: bytes) -> None:
    """Register a queue whose hash a script has created, and let workers fetch from the shard.

    A producer with an old partition table may have used a shard from which no worker fetches.
    """
    queue = payload.decode()
    await store.queues.register(store, queue)
    await open_if_used(store, shard, queue)


EFFECTS: Mapping[str, EffectHandler] = MappingProxyType(
    {
        "workflow": advance.on_job_ended,
        "workflow_start": advance.on_created,
        "workflow_cancel": advance.on_cancelled,
        "unlock": unique.unlock,
        "transaction": transactions.finish,
        "token_request": rate_tokens.handle_request,
        "token_answer": rate_tokens.handle_answer,
        "token_start": rate_tokens.handle_start,
        "token_return": rate_tokens.handle_return,
        "limit_declaration": rate_tokens.handle_declaration,
        "queue": _queue_created,
        "unregister_queue": retention.unregister_queue,
    }
)
"""Handlers by the kinds that scripts pass to ``append_effect``."""
