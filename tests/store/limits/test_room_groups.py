"""The groups in which writes of a process wait for room in a full queue."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.deadline import start_deadline
from ojs_cluster.store.ground.process_state.room_groups import Drop, RoomGroups

KEY = (3, "mail")


def dropping(asked: list[int], *answers: tuple[bool, bool]) -> Drop:
    """A drop that notes for how many jobs it was asked; the last answer repeats."""

    async def drop(jobs: int) -> tuple[bool, bool]:
        asked.append(jobs)
        return answers[min(len(asked), len(answers)) - 1]

    return drop


async def test_writes_wait_for_a_turn_until_a_drop_finds_room() -> None:
    groups, asked = RoomGroups(), list[int]()
    drop = dropping(asked, (True, True), (True, False))
    first, _ = await groups.join(KEY, 1, 5, drop)
    assert groups.bound_of(KEY) == 5
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            leave, has_room = await groups.join(KEY, 1, 5, drop)
            assert has_room
            # The queue has room again, so a new write does not wait behind this one.
            assert groups.bound_of(KEY) == 0
            leave()

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        first()
    assert asked == [1, 1]
    assert not groups.waiting


async def test_a_write_that_has_gone_needs_no_room() -> None:
    groups, asked = RoomGroups(), list[int]()
    drop = dropping(asked, (True, True))
    first, _ = await groups.join(KEY, 1, 5, drop)

    async def write() -> None:
        leave, _ = await groups.join(KEY, 1, 5, drop)
        leave()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as gone:
            gone.start_soon(write)
            gone.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            gone.cancel_scope.cancel()
        first()
    assert asked == [1, 1]
    assert not groups.waiting


async def test_the_writes_of_a_group_without_room_drop_one_after_the_other() -> None:
    groups, asked, writing = RoomGroups(), list[int](), 0
    drop = dropping(asked, (True, True), (False, False), (True, True))
    first, _ = await groups.join(KEY, 1, 5, drop)

    async def write() -> None:
        nonlocal writing
        leave, has_room = await groups.join(KEY, 1, 5, drop)
        writing += 1
        assert has_room
        assert writing == 1
        await trio.testing.wait_all_tasks_blocked()
        writing -= 1
        leave()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked(0.01)
        first()
    assert asked == [1, 3, 1, 1, 1]
    assert not groups.waiting


async def test_a_write_waits_no_longer_than_its_request(
    autojump_clock: trio.testing.MockClock,
) -> None:
    groups = RoomGroups()
    drop = dropping([], (True, True))
    leave: Callable[[], None]
    leave, _ = await groups.join(KEY, 1, 5, drop)
    start_deadline().at = trio.current_time() + 2
    with pytest.raises(BackendUnavailable) as caught:
        await groups.join(KEY, 1, 5, drop)
    assert caught.value.outcome == "not_applied"
    assert trio.current_time() == 2
    leave()
    assert not groups.waiting
