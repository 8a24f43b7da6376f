"""Schedulers and requests that die, or get no reply, at any command of an outbox delivery."""

from __future__ import annotations

import pytest

from tests.crash.harness import Operation, World, failing_at_every_command
from tests.crash.outboxes import Comeback, NewQueue, Retirement, Waiting
from tests.support.failing_process import MODES, Mode

OPERATIONS: dict[str, Operation] = {
    "entries that wait for a shard": Waiting(),
    "first job of a queue": NewQueue("job"),
    "first job of a queue while the registry is away": NewQueue("job", registry_away=True),
    "pause of a new queue": NewQueue("pause"),
    "limits of a new queue": NewQueue("limit"),
    "retirement": Retirement(),
    "retirement of a queue with partitions": Retirement(3),
    "removal of a name that is in use again": Comeback(),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
async def test_what_is_owed_is_carried_out_whoever_dies(
    world: World, operation: Operation, mode: Mode
) -> None:
    await failing_at_every_command(world, operation, mode)
