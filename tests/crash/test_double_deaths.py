"""A process that recovers after a death dies as well, at any command."""

from __future__ import annotations

import pytest

from tests.crash.crons import Firing
from tests.crash.enqueues import Batch, Unique
from tests.crash.harness import Operation, World, failing_twice_at_every_command
from tests.crash.retries import Retry
from tests.crash.workflows import Callbacks, Cancellation, Creation
from tests.support.failing_process import Mode

OPERATIONS: dict[str, Operation] = {
    "batch": Batch("plain"),
    "replacement": Unique("replace", "elsewhere"),
    "creation": Creation("group"),
    "callbacks": Callbacks(),
    "cancellation": Cancellation(),
    "cron": Firing("cancel_previous"),
    "retry": Retry("unlocking"),
}
both = pytest.mark.parametrize("mode", ["killed", "applied"])
each = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())


@both
@each
async def test_recovery_may_die_too(world: World, operation: Operation, mode: Mode) -> None:
    await failing_twice_at_every_command(world, operation, mode)


@pytest.mark.soak
@both
@each
async def test_recovery_may_die_after_any_death(
    world: World, operation: Operation, mode: Mode
) -> None:
    await failing_twice_at_every_command(world, operation, mode, every=True)
