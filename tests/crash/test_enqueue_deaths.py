"""Producers that die, or lose a reply, at any command."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.crash.enqueues import (
    Batch,
    Claimed,
    Dropping,
    Finishing,
    Indexed,
    Refused,
    TakeOver,
    Unique,
    WithId,
    WithKey,
)
from tests.crash.harness import Operation, World, failing_at_every_command
from tests.support.failing_process import MODES, Mode

Cases = Mapping[str, Operation]

BATCHES: Cases = {
    "plain": Batch("plain"),
    "ids": Batch("ids"),
    "ids of which one is kept out": Refused("ignore", step=-1, batch=True),
    "ids that are all kept out": Refused("reject", step=1, batch=True),
    "replacing": Batch("replacing"),
    "portions": Batch("portions"),
    "indexed": Indexed(),
    "decided": Finishing(),
    "id claimed by a request that died": Claimed(batch=True),
    "idempotency key": WithKey(),
}
SINGLE: Cases = {
    "id": WithId(0),
    "id of a shard before": WithId(-1),
    "id of a shard after": WithId(1),
    "unique with an id of a shard before": WithId(-1, unique=True),
    "unique with an id of a shard after": WithId(1, unique=True),
    "id claimed by a request that died": Claimed(),
    "id taken over": Claimed(expired=True),
    "into a full queue that drops its oldest job": Dropping(),
}
UNIQUE: Cases = {
    "reject": Unique("reject"),
    "ignore": Unique("ignore"),
    "replace": Unique("replace"),
    "replace_except_schedule": Unique("replace_except_schedule"),
    "kept out by reject": Refused("reject"),
    "kept out by ignore": Refused("ignore"),
    "kept out with an id of a shard before": Refused("reject", step=-1),
    "kept out with an id of a shard after": Refused("ignore", step=1),
    "taking over": TakeOver(),
    "taking over from an id that is claimed elsewhere": TakeOver(id_claimed=True),
}
REPLACE: Cases = {
    "in its queue": Unique("replace", "queue"),
    "in its shard": Unique("replace", "shard"),
    "elsewhere": Unique("replace", "elsewhere"),
    "with its schedule": Unique("replace_except_schedule", "elsewhere", scheduled=True),
}


def cases(operations: Cases) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("operation", operations.values(), ids=operations.keys())


modes = pytest.mark.parametrize("mode", MODES)


@modes
@cases(BATCHES)
async def test_a_batch_is_stored_whole_or_not_at_all(
    world: World, operation: Operation, mode: Mode
) -> None:
    await failing_at_every_command(world, operation, mode)


@modes
@cases(SINGLE)
async def test_a_clients_id_is_there_with_its_job_or_free(
    world: World, operation: Operation, mode: Mode
) -> None:
    await failing_at_every_command(world, operation, mode)


@modes
@cases(UNIQUE)
async def test_a_unique_job_is_one_or_none(world: World, operation: Operation, mode: Mode) -> None:
    await failing_at_every_command(world, operation, mode)


@modes
@cases(REPLACE)
async def test_one_lives_when_a_unique_job_is_replaced(
    world: World, operation: Operation, mode: Mode
) -> None:
    await failing_at_every_command(world, operation, mode)
