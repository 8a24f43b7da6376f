"""Leaders that die, or hear nothing, at any command of a firing; and who changes cron jobs."""

from __future__ import annotations

import pytest

from tests.crash.crons import Burst, ByHand, Change, Firing, Refusing, ReleasingHeldRun
from tests.crash.harness import Operation, World, failing_at_every_command
from tests.support.failing_process import MODES, Mode

OPERATIONS: dict[str, Operation] = {
    "allow": Firing("allow"),
    "skip": Firing("skip"),
    "cancel_previous": Firing("cancel_previous"),
    "enqueue": Firing("enqueue"),
    "refused": Refusing(claimed=False),
    "refused when claimed": Refusing(claimed=True),
    "many at once": Burst(),
    "letting go": ReleasingHeldRun(),
    "by hand": ByHand(),
    "register": Change("register"),
    "drop": Change("drop"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
async def test_an_occurrence_is_one_job_whichever_process_dies(
    world: World, operation: Operation, mode: Mode
) -> None:
    await failing_at_every_command(world, operation, mode)
