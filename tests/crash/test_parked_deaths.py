"""A process dies, or gets no replies, at any command of a fetch that names job types."""

from __future__ import annotations

import pytest

from tests.crash.harness import Operation, World, failing_at_every_command
from tests.crash.parked import ParkingFetch, TypedFetch
from tests.support.failing_process import MODES, Mode

OPERATIONS: dict[str, Operation] = {"take": TypedFetch(), "park": ParkingFetch()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
async def test_no_job_is_lost(world: World, operation: Operation, mode: Mode) -> None:
    await failing_at_every_command(world, operation, mode)
