"""Effects are delivered concurrently; an effect that cannot be delivered now blocks no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.redis import Client, Reply
from ojs_cluster.redis.durability import Durability, require_durability
from ojs_cluster.store.context import EffectHandler, Store
from ojs_cluster.store.engine.outbox import outbox
from ojs_cluster.store.engine.outbox.outbox import deliver, drain, drain_blocked
from ojs_cluster.store.ground.fanout import WIDTH
from ojs_cluster.store.ground.process_state import unreachable_shards
from tests.store.shortcuts import clock_ms, until
from tests.support.lossy import AbsentClient, LossyClient, lossy


def append_effects(db: Any, shard: Shard, *kinds: str) -> Sequence[bytes]:
    """Append effects that are due; return them as a script does."""
    flat = []
    for number, kind in enumerate(kinds, 1):
        db.hset(shard.outbox, str(number), f"{kind} 0 {number}")
        db.zadd(shard.outbox_due, {str(number): number})
        flat += [b"%d" % number, f"{kind} 0 {number}".encode()]
    return flat


def with_effects(store: Store, **effects: EffectHandler) -> Store:
    return replace(store, effects=effects)


async def away(_store: Store, _shard: Shard, _payload: bytes) -> None:
    raise BackendUnavailable("no connection", outcome="not_applied")


async def test_effects_whose_shard_is_unreachable_delay_no_others(store: Store, db: Any) -> None:
    shard = store.keys.shard(3)
    done: list[bytes] = []

    async def near(_store: Store, _shard: Shard, payload: bytes) -> None:
        done.append(payload)

    append_effects(db, shard, "away", "away", "away", "near")
    half = with_effects(store, away=away, near=near)
    for _ in range(2):
        await drain(half, shard, 2)
    assert done == [b"4"]

    whole = with_effects(store, away=near, near=near)
    assert db.hgetall(shard.outbox) == {b"1": b"away 0 1", b"2": b"away 0 2", b"3": b"away 0 3"}
    for number in db.zrange(shard.outbox_due, 0, -1):
        db.zadd(shard.outbox_due, {number: 1})
    await drain(whole, shard, 9)
    assert sorted(done) == [b"1", b"2", b"3", b"4"]
    assert not db.exists(shard.outbox, shard.outbox_due)


async def test_many_effects_for_an_unreachable_shard_do_not_each_wait(
    store: Store, db: Any
) -> None:
    shard, tries = store.keys.shard(3), 0

    async def slow(_store: Store, _shard: Shard, _payload: bytes) -> None:
        nonlocal tries
        tries += 1
        await trio.lowlevel.checkpoint()
        raise BackendUnavailable("no connection", outcome="not_applied")

    entries = append_effects(db, shard, *["slow"] * 200)
    await deliver(with_effects(store, slow=slow), shard, entries)
    assert 1 <= tries <= WIDTH
    assert db.zcard(shard.outbox_due) == 200


async def test_many_unconfirmed_effects_do_not_each_wait(store: Store, db: Any) -> None:
    shard, done = store.keys.shard(3), 0

    async def unsure(_store: Store, _shard: Shard, _payload: bytes) -> None:
        nonlocal done
        done += 1
        await trio.lowlevel.checkpoint()
        work.unconfirmed_reason = "no replica has it"

    entries = append_effects(db, shard, *["unsure"] * 200)
    with require_durability(Durability.ASYNC) as work:
        await deliver(with_effects(store, unsure=unsure), shard, entries)
    assert 1 <= done <= WIDTH
    assert db.zcard(shard.outbox_due) == 200


async def test_effects_of_one_script_are_delivered_concurrently(store: Store, db: Any) -> None:
    shard, here, both = store.keys.shard(3), 0, trio.Event()

    async def meet(_store: Store, _shard: Shard, _payload: bytes) -> None:
        nonlocal here
        here += 1
        if here == 2:
            both.set()
        await both.wait()

    entries = append_effects(db, shard, "meet", "meet")
    with trio.fail_after(60):
        await deliver(with_effects(store, meet=meet), shard, entries)
    assert not db.exists(shard.outbox, shard.outbox_due)


async def fails(_store: Store, _shard: Shard, _payload: bytes) -> None:
    raise RuntimeError("no")


async def test_an_effect_that_fails_is_tried_again_after_half_a_second_then_after_twice_that(
    store: Store, db: Any
) -> None:
    shard = store.keys.shard(3)
    entries = append_effects(db, shard, "fails")
    for attempts, pause_ms in ((1, 500), (2, 1000), (3, 2000)):
        before = await clock_ms(store, shard.slot)
        await deliver(with_effects(store, fails=fails), shard, entries)
        after = await clock_ms(store, shard.slot)
        assert before + pause_ms <= db.zscore(shard.outbox_due, "1") <= after + pause_ms
        assert db.hget(shard.outbox, "1") == b"fails %d 1" % attempts


async def test_a_failure_whose_record_is_not_answered_counts_as_one_attempt(
    store: Store, db: Any
) -> None:
    shard = store.keys.shard(3)
    entries = append_effects(db, shard, "fails")
    flaky, client = lossy(with_effects(store, fails=fails), "outbox_record_attempt")
    await deliver(flaky, shard, entries)

    assert client.lost == ["outbox_record_attempt"]
    assert db.hget(shard.outbox, "1") == b"fails 1 1"


async def test_an_effect_whose_shard_is_unreachable_is_tried_again_after_five_seconds(
    store: Store, db: Any
) -> None:
    shard = store.keys.shard(3)
    append_effects(db, shard, "away")
    before = await clock_ms(store, shard.slot)
    await drain(with_effects(store, away=away), shard, 9)
    after = await clock_ms(store, shard.slot)
    assert before + 5000 <= db.zscore(shard.outbox_due, "1") <= after + 5000
    assert db.hget(shard.outbox, "1") == b"away 0 1"


@pytest.mark.parametrize("first", ["both", "nothing"])
async def test_while_two_shards_are_unreachable_their_entries_are_tried_one_at_a_time(
    store: Store, db: Any, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that another shard blocks, or that needs no shard any more, proves nothing."""
    monkeypatch.setattr(unreachable_shards, "PAUSE_S", 600.0)
    shard, one, other = (store.keys.shard(index) for index in (3, 4, 5))
    asked: list[int] = []

    class Counting(AbsentClient):
        def _ask(self, slot: int) -> None:
            if slot in self.slots:
                asked.append(slot)
            super()._ask(slot)

    async def reach(watched: Store, _shard: Shard, payload: bytes) -> None:
        targets = {b"both": (other, one), b"nothing": (), b"one": (one,)}[payload]
        for target in targets:
            await watched.redis.call(target.slot, "EXISTS", target.outbox)

    for number, target in enumerate([first, *["one"] * 100], 1):
        db.hset(shard.outbox, str(number), f"reach 0 {target}")
        db.zadd(shard.outbox_waiting(one.index), {str(number): number})
    db.zadd(shard.outbox_blocked_shards, {str(one.index): 1})
    absent = replace(
        with_effects(store, reach=reach),
        redis=cast(Client, Counting(store.redis, {one.slot, other.slot})),
    )
    await drain_blocked(absent, shard, 200)

    assert asked.count(one.slot) <= 1 + WIDTH
    assert asked.count(other.slot) == (first == "both")
    assert db.zcard(shard.outbox_waiting(one.index)) == 100
    assert db.zcard(shard.outbox_waiting(other.index)) == (first == "both")
    result = await drain_blocked(absent, shard, 200)
    assert result.next_ms is not None
    assert result.next_ms > result.now_ms, "no try without a pause"
    assert asked.count(one.slot) <= 1 + WIDTH


async def test_entries_that_are_delivered_one_after_the_other_are_removed_together(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "RECORD_DELAY_S", 0.2)
    shard = store.keys.shard(3)

    async def near(_store: Store, _shard: Shard, _payload: bytes) -> None:
        pass

    seen, client = lossy(with_effects(store, near=near))
    flat = append_effects(db, shard, *["near"] * 4)
    for number in range(4):
        await deliver(seen, shard, flat[2 * number : 2 * number + 2])
    assert client.calls.get("outbox_record_delivered", 0) < 4

    async def left() -> int:
        return int(db.exists(shard.outbox, shard.outbox_due))

    await until(left, lambda number: number == 0)
    assert seen.delivered_entries == {}


async def test_numbers_that_a_master_lost_remove_no_entries_of_the_next_master(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover takes longer than ``DELIVER_S``. It may lose entries, and then their numbers."""
    monkeypatch.setattr(outbox, "RECORD_DELAY_S", 0.01)
    monkeypatch.setattr(outbox, "DELIVER_S", 0.5)
    shard, sent, promoted, ended = store.keys.shard(3), trio.Event(), trio.Event(), trio.Event()

    class Failover(LossyClient):
        async def script(self, *args: Any, **kind: Any) -> Reply:
            if args[1].name != "outbox_record_delivered":
                return await super().script(*args, **kind)
            sent.set()
            try:
                await promoted.wait()  # as a client that asks until a master answers
                return await super().script(*args, **kind)
            finally:
                ended.set()

    async def near(_store: Store, _shard: Shard, _payload: bytes) -> None:
        pass

    client = Failover(store.redis, lambda *_: False)
    seen = with_effects(replace(store, redis=cast(Client, client)), near=near)
    await deliver(seen, shard, append_effects(db, shard, "near"))
    with trio.fail_after(60):
        await sent.wait()
    await deliver(seen, shard, [b"2", b"near 0 2"])
    with trio.move_on_after(5):
        await ended.wait()
    db.delete(shard.outbox, shard.outbox_due)
    append_effects(db, shard, "lost", "lost")
    promoted.set()
    with trio.fail_after(60):
        await ended.wait()
        purpose = ("delivered entries", shard.index)  # waits for the task of this purpose
        await store.background.once(purpose, trio.lowlevel.checkpoint, 60)

    assert db.hgetall(shard.outbox) == {b"1": b"lost 0 1", b"2": b"lost 0 2"}
    assert seen.delivered_entries == {}
