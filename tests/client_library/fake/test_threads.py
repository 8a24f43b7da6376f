"""A blocking client of the fake server waits in a thread with an event loop of its own."""

from __future__ import annotations

import time
from functools import partial
from threading import Thread

import anyio
import pytest

from ojs_client.testing.changes import Changes

LIMIT_S = 60


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_change_wakes_a_task_of_another_thread(backend: str) -> None:
    changes = Changes()
    waiting = Thread(target=partial(anyio.run, changes.wait, backend=backend), daemon=True)
    waiting.start()
    while not changes._waiting:
        time.sleep(0.01)
    time.sleep(0.1)  # the event loop sleeps until another thread wakes it
    changes.notify()
    waiting.join(LIMIT_S)
    assert not waiting.is_alive()
    changes.notify()  # no event loop waits any more
