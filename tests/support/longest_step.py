"""How long a task has used the event loop without a break."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class LongestStep(trio.abc.Instrument):
    """Measures the longest step of any task, in seconds of CPU time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.seconds = max(self.seconds, time.thread_time() - self._began)


@contextmanager
def measured_steps() -> Iterator[LongestStep]:
    """Measure the steps of all tasks of this event loop.

    No garbage is collected meanwhile. After thousands of tests in one process, that takes a second.
    """
    gc.disable()
    longest = LongestStep()
    trio.lowlevel.add_instrument(longest)
    try:
        yield longest
    finally:
        trio.lowlevel.remove_instrument(longest)
        gc.enable()
