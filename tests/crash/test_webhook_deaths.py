"""Leaders that die, or get no reply, at any command of a webhook's delivery."""

from __future__ import annotations

import pytest

from ojs_scheduler.loops import webhooks
from tests.crash.harness import World, failing_at_every_command
from tests.crash.webhooks import Delivering
from tests.support.failing_process import MODES, Mode


@pytest.mark.parametrize("mode", MODES)
async def test_every_event_reaches_its_webhook_whoever_dies(
    world: World, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_FAILURE_PAUSE_S", 0.0)
    await failing_at_every_command(world, Delivering(), mode)
