"""Tasks that a request starts without being given one itself."""

from __future__ import annotations

import pytest
import trio

from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.process_state.partitions import PartitionTable
from tests.store.shortcuts import until
from tests.support.driven import driven


async def test_a_read_that_is_due_takes_no_task_from_the_request(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[float] = []
    read = PartitionTable.read

    async def seen(self: PartitionTable, runtime: Store) -> None:
        await read(self, runtime)
        reads.append(trio.current_time())

    monkeypatch.setattr(PartitionTable, "read", seen)
    await store.partitions.try_read(store)
    monkeypatch.setattr(store.partitions, "_next_read_at", float("-inf"))
    monkeypatch.setattr(store.partitions, "_read_at", trio.current_time())
    moved: list[None] = []

    for _ in range(3):  # who comes before the task has run starts no other
        await driven(store.partitions.refresh_if_stale(store), lambda: moved.append(None))

    async def number() -> int:
        return len(reads)

    assert await until(number, lambda found: found >= 2) == 2
    assert moved == []
