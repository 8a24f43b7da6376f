"""Processes read the changes of the partition table, and its number of entries is bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import trio

from ojs_cluster.core.partitions import DRAIN_MS, PartitionLayout
from ojs_cluster.keys import Keyspace
from ojs_cluster.redis import Client, Reply
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues.partition_maintenance import set_partitions
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.ground.process_state import partitions
from ojs_cluster.store.ground.process_state.partitions import DEFAULT, PartitionTable
from tests.store.hot_queues import pass_time, put_into
from tests.store.shortcuts import QUEUE, ack, take
from tests.support.lossy import LossyClient

MANY = 1800


class Recording(LossyClient):
    """A client that records the replies to reads of the table."""

    def __init__(self, client: Client) -> None:
        super().__init__(client, lambda *_: False)
        self.replies: list[Any] = []

    async def script(self, slot: int, script: Any, *args: Any, **kind: Any) -> Reply:
        reply = await super().script(slot, script, *args, **kind)
        if script.name == "read_partitions":
            self.replies.append(reply)
        return reply


def recording(store: Store) -> tuple[Store, list[Any]]:
    """Return another process, and the replies to its reads of the table."""
    client = Recording(store.redis)
    process = replace(store, redis=cast(Client, client), partitions=PartitionTable())
    return process, client.replies


def write_directly(store: Store, db: Any, entries: dict[str, str]) -> None:
    """Change the table as a process of an earlier version does."""
    db.hset(store.keys.meta.partitions, mapping=entries)
    db.hincrby(store.keys.meta.partitions, "#", 1)


def many(store: Store, db: Any) -> None:
    """Give many queues an entry, as the server does."""
    write_directly(store, db, {f"q{number}": "2 0 2 2 0" for number in range(MANY)})


async def test_a_process_reads_only_what_has_changed(store: Store, db: Any) -> None:
    many(store, db)
    process, replies = recording(store)
    await set_partitions(store, "first", 3)
    await process.partitions.read(process)
    replies.clear()

    await set_partitions(store, QUEUE, 4)
    await set_partitions(store, "q5", 3)
    await process.partitions.read(process)

    [reply] = replies
    assert {*reply[3][::2]} == {QUEUE.encode(), b"q5"}
    assert process.partitions.layout(QUEUE).count == 4
    assert process.partitions.layout("q5").count == 3
    assert process.partitions.layout("q6").count == 2
    assert process.partitions.entries() == store.partitions.entries()


async def test_an_entry_that_was_removed_is_not_used_any_more(
    store: Store, other_store: Store, db: Any
) -> None:
    await set_partitions(store, QUEUE, 4)
    await other_store.partitions.read(other_store)
    await store.partitions.update(store, QUEUE, lambda *_: PartitionLayout.of_count(1))
    await other_store.partitions.read(other_store)
    assert other_store.partitions.entries() == {}


async def test_a_large_table_is_read_in_pages(store: Store, db: Any) -> None:
    many(store, db)
    process, replies = recording(store)
    await process.partitions.read(process)
    assert len(process.partitions.entries()) == MANY
    assert len(replies) > 3
    assert max(len(reply[3]) for reply in replies if len(reply) > 2) < 4 * partitions._PAGE


async def test_a_change_between_two_pages_is_read(store: Store, db: Any) -> None:
    many(store, db)
    await set_partitions(store, "first", 3)  # from now on there is a log of changes

    class Late(LossyClient):
        reads = 0

        async def script(self, slot: int, script: Any, *args: Any, **kind: Any) -> Reply:
            reply = await super().script(slot, script, *args, **kind)
            self.reads += 1
            if self.reads == 2:
                await set_partitions(store, "q7", 5)
            return reply

    late = Late(store.redis, lambda *_: False)
    process = replace(store, redis=cast(Client, late), partitions=PartitionTable())
    await process.partitions.read(process)
    assert process.partitions.layout("q7").count == 5


async def test_more_changes_than_one_reply_has_are_all_read(
    store: Store, other_store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_partitions(store, "first", 3)
    await other_store.partitions.read(other_store)
    monkeypatch.setattr(partitions, "_PAGE", 3)
    for number in range(5):
        await set_partitions(store, f"q{number}", 4)
    await other_store.partitions.read(other_store)
    assert other_store.partitions.entries() == store.partitions.entries()


async def test_changes_of_an_earlier_version_are_read(
    store: Store, other_store: Store, db: Any
) -> None:
    await set_partitions(store, "first", 3)
    await other_store.partitions.read(other_store)
    write_directly(store, db, {"second": "5 5 5 5 0"})
    await set_partitions(store, "third", 4)
    await other_store.partitions.read(other_store)
    counts = {name: layout.count for name, layout in other_store.partitions.entries().items()}
    assert counts == {"first": 3, "second": 5, "third": 4}


async def test_a_change_that_a_failover_has_lost_is_dropped_after_a_later_change(
    store: Store, other_store: Store, db: Any
) -> None:
    meta = store.keys.meta
    await set_partitions(store, "first", 3)
    table, changes = (
        db.hgetall(meta.partitions),
        db.zrange(meta.partition_changes, 0, -1, withscores=True),
    )
    await set_partitions(store, "lost", 4)
    await other_store.partitions.read(other_store)
    db.delete(meta.partitions, meta.partition_changes)
    db.hset(meta.partitions, mapping=table)
    db.zadd(meta.partition_changes, dict(changes))
    late = replace(store, partitions=PartitionTable())
    await set_partitions(late, "later", 5)

    await other_store.partitions.read(other_store)
    assert set(other_store.partitions.entries()) == {"first", "later"}


async def test_versions_are_microseconds_so_that_none_is_repeated_after_a_failover(
    store: Store, db: Any
) -> None:
    await set_partitions(store, QUEUE, 4)
    version = int(db.hget(store.keys.meta.partitions, "#"))
    assert abs(version // 1000 - store.partitions.now_ms()) < 3_600_000

    ahead = version + 3600 * 10**6
    db.hset(store.keys.meta.partitions, "#", ahead)
    await set_partitions(store, "other", 4)
    assert ahead < int(db.hget(store.keys.meta.partitions, "#")) <= ahead + 10 * 1000, (
        "some changes later"
    )


async def test_a_change_is_made_although_the_version_of_the_copy_was_used_twice(
    store: Store, other_store: Store, db: Any
) -> None:
    await set_partitions(store, QUEUE, 4)
    await other_store.partitions.read(other_store)
    db.hset(store.keys.meta.partitions, QUEUE, "5 5 5 5 0")  # another change with this version

    with trio.fail_after(60):
        assert (await set_partitions(other_store, QUEUE, 3)).open_count == 5
    await store.partitions.read(store)
    assert store.partitions.layout(QUEUE).count == 3


async def test_a_page_that_lacks_entries_is_read_again(store: Store, db: Any) -> None:
    """The cursor of a page may be of a master that has failed since."""
    many(store, db)

    class FailedOver(LossyClient):
        reads = 0

        async def script(self, slot: int, script: Any, *args: Any, **kind: Any) -> Reply:
            reply: Any = await super().script(slot, script, *args, **kind)
            self.reads += 1
            if self.reads == 2:
                reply[3] = []
            return cast(Reply, reply)

    client = cast(Client, FailedOver(store.redis, lambda *_: False))
    process = replace(store, redis=client, partitions=PartitionTable())
    await process.partitions.read(process)
    assert len(process.partitions.entries()) == MANY


async def test_a_table_that_always_lacks_entries_is_read_a_bounded_number_of_times(
    store: Store, db: Any
) -> None:
    many(store, db)

    class Lacking(LossyClient):
        async def script(self, slot: int, script: Any, *args: Any, **kind: Any) -> Reply:
            reply: Any = await super().script(slot, script, *args, **kind)
            if len(reply) > 3:
                reply[3] = reply[3][2:]
            return cast(Reply, reply)

    client = cast(Client, Lacking(store.redis, lambda *_: False))
    process = replace(store, redis=client, partitions=PartitionTable())
    with trio.fail_after(60):
        await process.partitions.read(process)
    assert process.partitions.entry_count > MANY // 2


async def test_the_log_of_changes_is_bounded(store: Store, other_store: Store, db: Any) -> None:
    meta = store.keys.meta
    await set_partitions(store, QUEUE, 2)
    await other_store.partitions.read(other_store)
    version = int(db.hget(meta.partitions, "#"))
    db.zadd(meta.partition_changes, {f"{n} q{n}": n for n in range(version - 1500, version)})
    await set_partitions(store, "last", 3)
    assert db.zcard(meta.partition_changes) == 1000
    await other_store.partitions.read(other_store)
    assert other_store.partitions.layout("last").count == 3


async def lowered(store: Store, db: Any, queues: int) -> list[str]:
    """Lower the default from 4 to 1, with a job in an old partition of each queue."""
    await store.partitions.update(store, DEFAULT, lambda *_: PartitionLayout.of_count(4))
    names = [f"q{number}" for number in range(queues)]
    for name in names:
        await put_into(store, store.keys.partitions(name, 4)[2], name)
    await store.partitions.update(store, DEFAULT, lambda old, now_ms: old.resized(1, now_ms))
    await pass_time(store, db, DRAIN_MS, DEFAULT)
    return names


async def test_a_lowered_default_stays_open_while_many_queues_have_jobs_in_old_partitions(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "MAX_SEPARATED", 2)
    names = await lowered(store, db, 4)
    version = store.partitions.version

    await retention.retire_queues(store)
    assert store.partitions.version == version, "the table has not changed"
    assert store.partitions.layout("another").open_count == 4

    for name in names[:2]:
        [job] = await take(store, name)
        await ack(store, job)
    await retention.retire_queues(store)
    assert store.partitions.layout("another").open_count == 1
    assert set(store.partitions.entries()) == {DEFAULT, *names[2:]}
    for name in names[2:]:
        assert len(await take(store, name)) == 1


async def test_entries_that_the_server_makes_take_no_place_of_operators(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "MAX_ENTRIES", 2)
    names = await lowered(store, db, 3)
    await retention.retire_queues(store)
    assert set(store.partitions.entries()) == {DEFAULT, *names}
    assert (await set_partitions(store, QUEUE, 3)).count == 3


async def test_groups_follow_the_partition_table(store: Store, db: Any) -> None:
    keys, table = store.keys, store.partitions
    home = keys.shard_of_queue("a")
    other = next(f"o{n}" for n in range(99) if keys.shard_of_queue(f"o{n}") is not home)
    same = next(f"s{n}" for n in range(999) if keys.shard_of_queue(f"s{n}") is home)
    queues = ["a", same, other, "a"]
    expected = [([home], ["a", same]), ([keys.shard_of_queue(other)], [other])]
    assert table.group_queues(keys, queues) == expected
    assert table.group_queues(keys, queues) is table.group_queues(keys, queues)

    await set_partitions(store, same, 2)
    await table.read(store)

    first, second, third = table.group_queues(keys, queues)
    assert first == ([home], ["a"])
    assert (second[0], second[1]) == (keys.partitions(same, 2), [same])
    assert third == expected[1]


def test_the_number_of_kept_groups_is_bounded() -> None:
    keys, table = Keyspace(8), PartitionTable()
    for number in range(3 * partitions._MAX_GROUPS):
        table.group_queues(keys, [f"q{number}"])
        assert len(table._groups) <= partitions._MAX_GROUPS
