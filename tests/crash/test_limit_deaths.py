"""A process dies, or gets no replies, at any command while it handles a rate limit token."""

from __future__ import annotations

import pytest

from tests.crash.harness import Operation, World, failing_at_every_command
from tests.crash.limits import Cancellation, LostFetch, Release, Requeue, Reservation
from tests.support.failing_process import MODES, Mode

OPERATIONS: dict[str, Operation] = {
    "reservation": Reservation(),
    "release": Release(),
    "requeue": Requeue(),
    "lost fetch": LostFetch(),
    "cancellation": Cancellation(),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
async def test_no_token_leaks_or_is_granted_twice(
    world: World, operation: Operation, mode: Mode
) -> None:
    await failing_at_every_command(world, operation, mode)
