"""Processes that advance a workflow and die, or lose a reply, at any command."""

from __future__ import annotations

import pytest

from ojs_cluster.store.features.workflows import advance
from tests.crash.harness import Operation, World, failing_at_every_command
from tests.crash.workflows import (
    Ack,
    Callbacks,
    Cancellation,
    Creation,
    LastNack,
    LastStep,
    LostLease,
    Removal,
    StepCancelled,
)
from tests.support.failing_process import MODES, Mode

OPERATIONS: dict[str, Operation] = {
    "creation of a chain": Creation("chain"),
    "creation of a group": Creation("group"),
    "ack of a step": Ack(),
    "ack of the last step": LastStep(),
    "last nack": LastNack(),
    "lost lease": LostLease(),
    "cancelled step": StepCancelled(),
    "callbacks of a batch": Callbacks(),
    "cancellation": Cancellation(),
    "removal of a malformed workflow": Removal(),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
async def test_a_workflow_advances_as_without_a_death(
    world: World, operation: Operation, mode: Mode
) -> None:
    await failing_at_every_command(world, operation, mode)


@pytest.mark.parametrize("mode", MODES)
async def test_a_start_in_portions_goes_on_after_a_death(
    world: World, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "_CHUNK", 1)
    await failing_at_every_command(world, Creation("group"), mode)
