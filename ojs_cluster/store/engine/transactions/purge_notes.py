"""Remove the notes that shards keep about old cross-shard transactions."""

from __future__ import annotations

from collections.abc import Iterable

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.runtime import Arg

KEEP_NOTES_MS = 600_000
"""Time in ms for which a shard keeps the notes of stored portions and of aborted transactions."""


async def purge_old(store: Store, shard: Shard, limit: int) -> int:
    """Remove a shard's notes of old transactions; return how many notes were checked.

    A note of a stored portion is kept until its transaction has been applied in all shards, however
    long another shard does not answer.

    Args:
        store: the store.
        shard: the shard.
        limit: maximum number of aborted transactions, and of notes of stored portions.
    """
    aborted, notes = await store.run(
        shard,
        "transaction_purge_aborted",
        [shard.aborted_transactions, shard.applied_transactions],
        [KEEP_NOTES_MS, limit],
        idempotent=True,
    )
    if notes:
        # A note is the id of the transaction, followed by "." and the position of the portion if
        # that is not 0 (see ``placement.enqueue_command``).
        id_by_note = {note.decode(): note.decode().partition(".")[0] for note in notes}
        unapplied = await _unapplied(store, dict.fromkeys(id_by_note.values()))
        args: list[Arg] = [KEEP_NOTES_MS]
        for note, transaction_id in id_by_note.items():
            args += (note, "1" if transaction_id in unapplied else "")
        await store.run(
            shard,
            "transaction_purge_applied",
            [shard.applied_transactions],
            args,
            idempotent=True,
        )
    return int(aborted) + len(notes)


async def _unapplied(store: Store, transaction_ids: Iterable[str]) -> set[str]:
    """Return the ids of those transactions that are committed and not yet applied.

    A transaction whose shard does not answer counts as unapplied; the janitor checks it again.
    """
    unapplied: set[str] = set()
    by_owner: dict[Shard, list[str]] = {}
    for transaction_id in transaction_ids:
        by_owner.setdefault(store.keys.shard_of_id(transaction_id), []).append(transaction_id)

    async def read(owner: Shard) -> None:
        ids = by_owner[owner]
        try:
            keys = [owner.transaction(transaction_id) for transaction_id in ids]
            answers = await store.run(owner, "transactions_unapplied", keys, idempotent=True)
        except BackendUnavailable:
            answers = [1] * len(ids)
        unapplied.update(id_ for id_, answer in zip(ids, answers, strict=True) if answer)

    await run_concurrently(by_owner, read)
    return unapplied
