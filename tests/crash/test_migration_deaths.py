"""The leader that migrates the data dies at every command; the next one completes the migration."""

from __future__ import annotations

import pytest

from tests.crash.harness import World, failing_at_every_command
from tests.crash.migrations import Renaming
from tests.support.failing_process import MODES, Mode


@pytest.mark.parametrize("mode", MODES)
async def test_a_migration_survives_its_leader(world: World, mode: Mode) -> None:
    await failing_at_every_command(world, Renaming(), mode)
