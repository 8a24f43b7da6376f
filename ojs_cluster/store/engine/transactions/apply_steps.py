"""The steps that apply a committed cross-shard transaction."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.history_entries import Cause, history_arg
from ojs_cluster.store.engine.jobs.record import JobRecord, record
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.engine.placement import (
    PlacedJob,
    deliver_effects,
    enqueue_command,
    read_back,
    stored_records,
)
from ojs_cluster.store.engine.queues.copied_settings import ensure_open
from ojs_cluster.store.engine.transactions.contents import ManualRetry, Replacement, Transaction
from ojs_cluster.store.ground.runtime import Arg

_APPLY_MS = 300_000
"""Time limit in ms for storing jobs, from the moment a process has read their transaction. It is
half of ``purge_notes.KEEP_NOTES_MS``, so no process stores a portion whose note is gone."""
# Properties of ``Shard``: the keys that a script takes after the keys of jobs, in this order.
RETRY_KEYS = ("finished", "dead", "expiring", "events", "references")
_PUBLISH_KEYS = (
    "due",
    "active",
    "execution_deadlines",
    "expiring",
    "pending",
    "finished",
    "events",
    "alias_claims",
)


@dataclass(frozen=True, slots=True)
class Application:
    """The steps that apply a committed transaction. Each is idempotent.

    Args:
        store: the store.
        transaction: what was committed.
        now_ms: Unix time in ms of the commit, or when the record was read.
        records: jobs that were stored or retried, by id. Each step adds its jobs.
    """

    store: Store
    transaction: Transaction
    now_ms: int
    records: dict[str, JobRecord] = field(default_factory=dict)

    async def store_part(self, shard: Shard) -> None:
        """Store the jobs of one shard."""
        for position, portion in enumerate(self.transaction.parts[shard]):
            await self._store_portion(shard, portion, position)

    async def _store_portion(
        self, shard: Shard, portion: Sequence[PlacedJob], position: int
    ) -> None:
        store, transaction_id = self.store, self.transaction.id
        await ensure_open(store, shard, {job.queue for job in portion})
        keys, args = enqueue_command(
            store,
            shard,
            portion,
            store_before_ms=self.now_ms + _APPLY_MS,
            transaction=transaction_id,
            portion=position,
        )
        reply = await store.run(shard, "enqueue_part", keys, args, idempotent=True)
        if reply[0] == b"ok":
            stored = stored_records(portion, reply)
            await deliver_effects(store, shard, reply)
        elif reply[0] in (b"already", b"exists"):
            # Only this transaction can store jobs under these ids, so an earlier call has stored
            # them. After ``exists``, a failover has lost the note of the portion.
            stored = await read_back(store, shard, portion)
        else:
            raise Conflict(f"transaction {transaction_id} cannot be applied: {reply[0].decode()}")
        self.records.update((job.id, job) for job in stored)

    async def replace(self, replacement: Replacement, shard: Shard) -> None:
        """Cancel a job, and publish the prepared job of ``shard`` that replaces it."""
        store = self.store
        same_shard = shard.index == replacement.old_shard
        cause = Cause("system", why=f"replaced by {replacement.new_id}")
        if not same_shard:
            with suppress(NotFound, Conflict):  # the old job has ended, which is enough
                await cancel(store, replacement.old_id, repeatable=True, cause=cause)
        keys = [shard.job(replacement.new_id), *(getattr(shard, name) for name in _PUBLISH_KEYS)]
        if same_shard:
            keys.append(shard.job(replacement.old_id))
        args: list[Arg] = [store.events_arg, self.transaction.id]
        args += [store.settings.retention_cancelled_ms, history_arg(store, cause)]
        reply = await store.run(shard, "publish_job", keys, args, idempotent=True)
        if reply[0]:
            self.records[replacement.new_id] = record(replacement.new_id, reply[0])
        await deliver(store, shard, reply[1])

    async def retry(self, retry: ManualRetry) -> None:
        """Retry an ended job."""
        store, shard = self.store, self.store.keys.shard(retry.shard)
        await ensure_open(store, shard, [retry.queue])
        reply = await store.run(
            shard,
            "retry_dead",
            [shard.job(retry.job_id), *(getattr(shard, name) for name in RETRY_KEYS)],
            [
                *(store.events_arg, retry.required_kind, retry.retries),
                history_arg(store, retry.cause),
            ],
            idempotent=True,
        )
        if reply[0] == b"ok":  # any other reply: it was retried before, or the job was removed
            self.records[retry.job_id] = record(retry.job_id, reply[1])

    async def end(self) -> None:
        """Remove the record and its outbox entry."""
        owner = self.store.keys.shard_of_id(self.transaction.id)
        keys = [
            owner.transaction(self.transaction.id),
            owner.outbox_due,
            owner.outbox,
            owner.outbox_dead_letters,
            owner.applied_transactions,
        ]
        args: list[Arg] = [self.transaction.id]
        await self.store.run(owner, "transaction_end", keys, args, idempotent=True)
