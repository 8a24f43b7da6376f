"""Whoever handles a token of a rate limit's key dies, or hears nothing, at any command."""

from __future__ import annotations

import pytest

from tests.crash.harness import Operation, World, failing_at_every_command
from tests.crash.limits import LostFetch, Release, Requeue, Reservation, Withdrawal
from tests.support.failing_process import MODES, Mode

OPERATIONS: dict[str, Operation] = {
    "reservation": Reservation(),
    "release": Release(),
    "requeue": Requeue(),
    "lost fetch": LostFetch(),
    "withdrawal": Withdrawal(),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
async def test_no_token_leaks_and_none_is_given_twice(
    world: World, operation: Operation, mode: Mode
) -> None:
    await failing_at_every_command(world, operation, mode)
