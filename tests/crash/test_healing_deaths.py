"""Janitors and operators that die, or hear nothing, at any command of what mends a fault."""

from __future__ import annotations

import pytest

from tests.crash.harness import Operation, World, failing_at_every_command
from tests.crash.healing import MalformedRemoval, Reconciliation, References
from tests.support.failing_process import MODES, Mode

OPERATIONS: dict[str, Operation] = {
    "lost alias": References("alias"),
    "lost lock": References("lock"),
    "lost alias and lock": References("both"),
    "lost removal of an alias": References("removal"),
    "lost record of a step": Reconciliation("record"),
    "lost job of a step": Reconciliation("job"),
    "malformed job with an id of a shard before": MalformedRemoval(-1),
    "malformed job with an id of a shard after": MalformedRemoval(1),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
async def test_a_repair_is_repeated_whichever_process_dies(
    world: World, operation: Operation, mode: Mode
) -> None:
    await failing_at_every_command(world, operation, mode)
